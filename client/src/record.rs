//! Records as applications see them: one to send, one received.

use bytes::Bytes;

/// A name and a value beside a record. Names may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub key: String,
    pub value: Option<Bytes>,
}

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Records of one key keep their order: they share a partition. Default: none.
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch. Default: the broker's clock for one record, the client's for a batch.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record without key and headers.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    #[must_use]
    pub fn with_header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: Some(value.into()) });
        self
    }

    #[must_use]
    pub fn with_timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// A record that was read, with its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRecord {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch: the sender's time, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// Header names that are no UTF-8 arrive with replacement characters.
    pub headers: Vec<Header>,
}
