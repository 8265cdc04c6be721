//! Records out of batches: one answer of the broker, taken apart as its records are handed out.
//!
//! A batch is unpacked when its first record is wanted: what waits stays as small as it came.

use std::sync::Arc;

use bytes::Bytes;
use millrace_model::batch::{self, BatchHeader, InvalidBatch};
use millrace_model::record;

use crate::{Error, Header, ReceivedRecord, TopicPartition};

/// The most that one compressed batch may unpack to.
const UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Records of one partition that came in one answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) key: Arc<TopicPartition>,
    topic: Arc<str>,
    /// Whole batches, of which none is open.
    batches: Bytes,
    open: Option<(BatchHeader, record::Records)>,
    /// The offset behind the last of the records.
    pub(super) next_offset: i64,
    /// What the records took of the credit.
    pub(super) credit_bytes: i64,
}

impl Answer {
    pub(super) fn new(
        key: Arc<TopicPartition>,
        topic: Arc<str>,
        batches: Bytes,
        next_offset: i64,
        credit_bytes: i64,
    ) -> Self {
        Self { key, topic, batches, open: None, next_offset, credit_bytes }
    }

    /// The next record at or behind `from`.
    ///
    /// # Errors
    /// What came is no sound batch.
    pub(super) fn next(&mut self, from: i64) -> Result<Option<ReceivedRecord>, Error> {
        loop {
            let Some((header, records)) = &mut self.open else {
                if self.batches.is_empty() {
                    return Ok(None);
                }
                self.open = self.open_one(from)?;
                continue;
            };
            let header = *header;
            match records.next() {
                None => self.open = None,
                Some(Err(error)) => return Err(self.damaged(from, &error)),
                Some(Ok(record)) => {
                    let offset = offset_of(&header, record.offset_delta);
                    if offset >= from && !header.attributes.is_control() {
                        return Ok(Some(self.received(&header, offset, record)));
                    }
                }
            }
        }
    }

    /// Opens the first batch, unless all of it lies below `from`.
    fn open_one(&mut self, from: i64) -> Result<Option<(BatchHeader, record::Records)>, Error> {
        let header =
            BatchHeader::parse(&self.batches).map_err(|error| self.damaged(from, &error))?;
        let (size, available) = (header.size_bytes as usize, self.batches.len());
        if size > available {
            let error = InvalidBatch::Truncated { claimed: header.size_bytes, available };
            return Err(self.damaged(from, &error));
        }
        let batch = self.batches.split_to(size);
        if !batch::crc_matches(&header, &batch) {
            return Err(self.damaged(from, &"its CRC does not match"));
        }
        if offset_of(&header, header.last_offset_delta) < from {
            return Ok(None);
        }
        let records = record::records(&header, &batch, UNPACKED_BYTES_MAX);
        Ok(Some((header, records.map_err(|error| self.damaged(from, &error))?)))
    }

    fn received(
        &self,
        header: &BatchHeader,
        offset: i64,
        record: record::Record,
    ) -> ReceivedRecord {
        let timestamp_ms = if header.attributes.is_log_append_time() {
            header.max_timestamp
        } else {
            header.base_timestamp.wrapping_add(record.timestamp_delta)
        };
        ReceivedRecord {
            topic: Arc::clone(&self.topic),
            partition: self.key.partition,
            offset,
            timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(header_of).collect(),
        }
    }

    fn damaged(&self, offset: i64, reason: &dyn std::fmt::Display) -> Error {
        let TopicPartition { topic, partition } = TopicPartition::clone(&self.key);
        Error::Damaged { topic, partition, offset, reason: reason.to_string() }
    }
}

fn offset_of(header: &BatchHeader, delta: i32) -> i64 {
    header.base_offset.0.saturating_add(i64::from(delta))
}

fn header_of(header: record::Header) -> Header {
    Header { key: String::from_utf8_lossy(&header.key).into_owned(), value: header.value }
}

#[cfg(test)]
mod tests {
    use millrace_model::compression::Codec;
    use millrace_model::record::{BatchBuilder, NewRecord};

    use super::*;

    fn batch(base: i64, codec: Codec, values: &[&str]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        for value in values {
            builder.push(NewRecord {
                timestamp: 5,
                key: Some(b"k"),
                value: Some(value.as_bytes()),
                headers: &[(b"h", Some(b"v"))],
            });
        }
        let mut bytes = builder.build().to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes
    }

    fn answer(batches: Vec<u8>) -> Answer {
        Answer::new(Arc::new(TopicPartition::new("t", 3)), "t".into(), batches.into(), 99, 1)
    }

    #[test]
    fn records_below_the_offset_asked_for_are_skipped() {
        for codec in Codec::ALL {
            let batches = [
                batch(8, codec, &["x", "y"]),
                batch(10, codec, &["a", "b"]),
                batch(12, codec, &["c"]),
            ];
            let mut answer = answer(batches.concat());
            let first = answer.next(11).unwrap().unwrap();
            assert_eq!((first.partition, first.offset, first.timestamp_ms), (3, 11, 5));
            assert_eq!(first.value.as_deref(), Some(&b"b"[..]));
            assert_eq!(first.headers, [Header { key: "h".to_owned(), value: Some("v".into()) }]);
            assert_eq!(answer.next(12).unwrap().unwrap().offset, 12);
            assert_eq!(answer.next(13), Ok(None));
        }
    }

    #[test]
    fn damage_is_an_error_and_not_a_record() {
        let good = batch(0, Codec::None, &["a"]);
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bytes in [
            flipped,
            good[..good.len() - 1].to_vec(),
            good[..20].to_vec(),
            vec![0; 80],
            vec![0xff; 80],
        ] {
            assert!(matches!(answer(bytes).next(0), Err(Error::Damaged { .. })));
        }
    }
}
