//! Records as applications see them, and places in the log: what is sent, what is received, where to begin.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use millrace_proto::v1;
use tracing::field::{Empty, display};

use crate::TraceParent;

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
    /// None is a tombstone: where a topic is compacted it deletes the key.
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// Default: the one that the key belongs to; without a key one that the producer stays with for a while.
    pub partition: Option<i32>,
    /// Milliseconds since the Unix epoch. Default: this machine's clock when the record is sent.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A record without key and headers.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A record without a value: where a topic is compacted it deletes the key.
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
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
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
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
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the Unix epoch: the sender's time, or the broker's where the topic says so.
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// Header names that are no UTF-8 arrive with replacement characters.
    pub headers: Vec<Header>,
}

impl ReceivedRecord {
    /// The value of the last header of this name.
    pub fn header(&self, key: &str) -> Option<&Bytes> {
        self.headers.iter().rfind(|it| it.key == key)?.value.as_ref()
    }

    /// The trace that this record belongs to, if its sender said so by the header `traceparent`.
    pub fn traceparent(&self) -> Option<TraceParent> {
        std::str::from_utf8(self.header(crate::trace::HEADER)?).ok()?.parse().ok()
    }

    /// A span for the work on this record, which names its place and its trace: `work.instrument(record.span())`.
    pub fn span(&self) -> tracing::Span {
        let Self { topic, partition, offset, .. } = self;
        let span = tracing::info_span!("consume", %topic, partition, offset, traceparent = Empty);
        if let Some(parent) = self.traceparent() {
            span.record("traceparent", display(parent));
        }
        span
    }

    /// Where the record stands.
    pub fn position(&self) -> Position {
        Position { partition: self.partition, offset: self.offset }
    }
}

/// Where a record stands in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub partition: i32,
    /// -1 where the broker has forgotten it: of a record that it had written long before it was sent again.
    pub offset: i64,
}

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: String,
    /// From 0.
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    pub(crate) fn to_proto(&self) -> v1::TopicPartition {
        v1::TopicPartition { topic: self.topic.clone(), partition: self.partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl From<v1::TopicPartition> for TopicPartition {
    fn from(it: v1::TopicPartition) -> Self {
        Self::new(it.topic, it.partition)
    }
}

/// Where to begin, or what to look for, in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartAt {
    /// The oldest record that is still there.
    Earliest,
    /// Behind the newest record: only what comes from now on.
    Latest,
    /// This offset. The log's end is legal: it waits for the next record.
    Offset(i64),
    /// The first record at or after this time, in milliseconds since the Unix epoch; the end when there is none.
    TimestampMs(i64),
}

impl StartAt {
    pub(crate) fn to_proto(self) -> v1::Position {
        use v1::position::At;
        let at = match self {
            Self::Earliest => At::Edge(v1::Edge::Earliest.into()),
            Self::Latest => At::Edge(v1::Edge::Latest.into()),
            Self::Offset(offset) => At::Offset(offset),
            Self::TimestampMs(timestamp_ms) => At::TimestampMs(timestamp_ms),
        };
        v1::Position { at: Some(at) }
    }
}

/// An offset to be committed: the next record that a group wants of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    pub topic: String,
    pub partition: i32,
    /// The offset behind the last record that is done with.
    pub offset: i64,
    /// Kept by the broker and returned as it is.
    pub metadata: String,
}

impl CommitOffset {
    pub fn new(topic: impl Into<String>, partition: i32, offset: i64) -> Self {
        Self { topic: topic.into(), partition, offset, metadata: String::new() }
    }

    /// This record, and all before it in its partition, are done with.
    pub fn after(record: &ReceivedRecord) -> Self {
        Self::new(&*record.topic, record.partition, record.offset + 1)
    }

    pub(crate) fn to_proto(&self) -> v1::CommittedOffset {
        v1::CommittedOffset {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            metadata: self.metadata.clone(),
        }
    }
}
