//! Reading: one partition as a stream of records, unpacked from the batches that the broker sends.

use std::collections::VecDeque;

use bytes::Bytes;
use millrace_model::batch::{self, BatchHeader};
use millrace_model::record;
use millrace_proto::v1::{ConsumeRequest, ConsumeResponse};
use tonic::Streaming;

use crate::{Client, Error, Header, ReceivedRecord};

/// The most that one compressed batch may unpack to.
const UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

impl Client {
    /// Reads one partition from `offset` on, and goes on as records arrive, until the stream is dropped.
    ///
    /// # Errors
    /// The topic or the partition does not exist, or the broker cannot be asked.
    pub async fn consume(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Records, Error> {
        let request = ConsumeRequest { topic: topic.to_owned(), partition, offset };
        let answers = self.consume.clone().consume(request).await?.into_inner();
        Ok(Records { answers, unpacked: Unpacked::new(partition, offset), end_seen: 0 })
    }
}

/// The records of one partition, in order. The broker sends no faster than they are taken.
#[derive(Debug)]
pub struct Records {
    answers: Streaming<ConsumeResponse>,
    unpacked: Unpacked,
    end_seen: i64,
}

impl Records {
    /// Waits for the next record. `None` when the broker ends the stream, which it does only with an error.
    ///
    /// # Errors
    /// The stream broke; go on with a new one from the offset behind the last record.
    pub async fn next(&mut self) -> Result<Option<ReceivedRecord>, Error> {
        loop {
            if let Some(record) = self.unpacked.records.pop_front() {
                return Ok(Some(record));
            }
            let Some(answer) = self.answers.message().await? else { return Ok(None) };
            self.end_seen = answer.high_watermark;
            self.unpacked.add(answer.batches)?;
        }
    }

    /// How many records the partition held beyond those received, when the broker last said so.
    pub fn lag(&self) -> i64 {
        let waiting = self.unpacked.records.len() as i64;
        (self.end_seen - self.unpacked.next).max(0) + waiting
    }
}

/// Records taken out of batches and not yet handed on.
#[derive(Debug)]
struct Unpacked {
    partition: i32,
    /// The offset behind the last record taken out; smaller ones are skipped.
    next: i64,
    records: VecDeque<ReceivedRecord>,
}

impl Unpacked {
    fn new(partition: i32, offset: i64) -> Self {
        Self { partition, next: offset, records: VecDeque::new() }
    }

    fn add(&mut self, mut batches: Bytes) -> Result<(), Error> {
        while !batches.is_empty() {
            let header = BatchHeader::parse(&batches).map_err(|error| self.damaged(&error))?;
            let size = header.size_bytes as usize;
            if size > batches.len() {
                let claimed = header.size_bytes;
                let error = batch::InvalidBatch::Truncated { claimed, available: batches.len() };
                return Err(self.damaged(&error));
            }
            self.add_one(&header, &batches.split_to(size))?;
        }
        Ok(())
    }

    fn add_one(&mut self, header: &BatchHeader, batch: &Bytes) -> Result<(), Error> {
        if !batch::crc_matches(header, batch) {
            return Err(self.damaged(&"its CRC does not match"));
        }
        let is_append_time = header.attributes.is_log_append_time();
        let records = record::records(header, batch, UNPACKED_BYTES_MAX);
        for record in records.map_err(|error| self.damaged(&error))? {
            let record = record.map_err(|error| self.damaged(&error))?;
            let offset = header.base_offset.0.saturating_add(i64::from(record.offset_delta));
            if offset < self.next || header.attributes.is_control() {
                continue;
            }
            let sent_ms = header.base_timestamp.wrapping_add(record.timestamp_delta);
            self.records.push_back(ReceivedRecord {
                partition: self.partition,
                offset,
                timestamp_ms: if is_append_time { header.max_timestamp } else { sent_ms },
                key: record.key,
                value: record.value,
                headers: record.headers.into_iter().map(header_of).collect(),
            });
        }
        let last = header.base_offset.0.saturating_add(i64::from(header.last_offset_delta));
        self.next = self.next.max(last.saturating_add(1));
        Ok(())
    }

    fn damaged(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Damaged { offset: self.next, message: error.to_string() }
    }
}

fn header_of(header: record::Header) -> Header {
    Header { key: String::from_utf8_lossy(&header.key).into_owned(), value: header.value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;
    use crate::producer::encoded;

    fn batch(base: i64, values: &[&'static str]) -> Vec<u8> {
        let record = |value: &&'static str| {
            Record::new(*value).with_key("k").with_header("h", "v").with_timestamp_ms(5)
        };
        let mut bytes = encoded(&values.iter().map(record).collect::<Vec<_>>()).to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes
    }

    #[test]
    fn records_below_the_offset_asked_for_are_skipped() {
        let mut unpacked = Unpacked::new(3, 11);
        let bytes = [batch(10, &["a", "b"]), batch(12, &["c"])].concat();
        unpacked.add(bytes.into()).unwrap();
        let found: Vec<_> =
            unpacked.records.iter().map(|it| (it.offset, it.value.clone().unwrap())).collect();
        assert_eq!(found, [(11, Bytes::from("b")), (12, Bytes::from("c"))]);
        assert_eq!(unpacked.next, 13);
        let first = &unpacked.records[0];
        assert_eq!((first.partition, first.timestamp_ms), (3, 5));
        assert_eq!(first.headers, [Header { key: "h".to_owned(), value: Some("v".into()) }]);
    }

    #[test]
    fn damage_is_an_error_and_not_a_record() {
        let good = batch(0, &["a"]);
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bytes in [
            flipped,
            good[..good.len() - 1].to_vec(),
            good[..20].to_vec(),
            vec![0; 80],
            vec![0xff; 80],
        ] {
            let mut unpacked = Unpacked::new(0, 0);
            assert!(matches!(unpacked.add(bytes.into()), Err(Error::Damaged { .. })));
            assert!(unpacked.records.is_empty());
        }
    }
}
