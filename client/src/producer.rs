//! Sending: one record, or several as one batch.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millrace_model::compression::Codec;
use millrace_model::record::{BatchBuilder, NewRecord};
use millrace_proto::v1::produce_request::Payload;
use millrace_proto::v1::{self, ProduceRequest};

use crate::{Client, Error, Record};

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub partition: i32,
    pub offset: i64,
}

impl Client {
    /// Sends one record and returns once it is on stable storage. The key chooses the partition; without one the
    /// broker does.
    ///
    /// # Errors
    /// It was not written, or ([`Error::is_retriable`]) perhaps it was.
    pub async fn produce(&self, topic: &str, record: Record) -> Result<Position, Error> {
        let headers = record.headers.into_iter();
        let record = v1::Record {
            key: record.key,
            value: record.value,
            headers: headers.map(|it| v1::Header { key: it.key, value: it.value }).collect(),
            timestamp_ms: record.timestamp_ms,
        };
        self.send(topic, None, Payload::Record(record)).await
    }

    /// Sends records as one batch to one partition, and returns the position of the first once all are on stable
    /// storage. All of them are written, or none.
    ///
    /// # Errors
    /// As [`Self::produce`], and [`Error::EmptyBatch`].
    pub async fn produce_batch(
        &self,
        topic: &str,
        partition: i32,
        records: &[Record],
    ) -> Result<Position, Error> {
        if records.is_empty() {
            return Err(Error::EmptyBatch);
        }
        self.produce_encoded(topic, partition, encode(records)).await
    }

    /// Sends one Kafka record batch (magic 2) as it is, for callers that build their own.
    ///
    /// # Errors
    /// As [`Self::produce`].
    pub async fn produce_encoded(
        &self,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> Result<Position, Error> {
        self.send(topic, Some(partition), Payload::Batch(batch)).await
    }

    async fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        payload: Payload,
    ) -> Result<Position, Error> {
        let request = ProduceRequest { topic: topic.to_owned(), partition, payload: Some(payload) };
        let answer = self.produce.clone().produce(request).await?.into_inner();
        Ok(Position { partition: answer.partition, offset: answer.base_offset })
    }
}

fn encode(records: &[Record]) -> Bytes {
    let now_ms =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    let mut builder = BatchBuilder::new(Codec::None);
    for record in records {
        let headers: Vec<_> =
            record.headers.iter().map(|it| (it.key.as_bytes(), it.value.as_deref())).collect();
        builder.push(NewRecord {
            timestamp: record.timestamp_ms.unwrap_or(now_ms),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
    }
    builder.build()
}

#[cfg(test)]
pub(crate) fn encoded(records: &[Record]) -> Bytes {
    encode(records)
}
