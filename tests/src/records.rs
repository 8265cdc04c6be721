//! Record batches as a client builds and reads them.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millrace_model::batch::{BatchHeader, CRC_START};
use millrace_model::checksum::crc32c;
use millrace_model::compression::Codec;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_model::record::{self, BatchBuilder, NewRecord, Record};

/// What a test unpacks at most.
const UNPACKED_BYTES_MAX: usize = 64 << 20;

/// Milliseconds since the Unix epoch.
///
/// # Panics
/// When the clock stands before it.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the epoch is past");
    now.as_millis() as i64
}

/// One uncompressed batch of `values`, without keys, of now.
pub fn batch(values: &[&str]) -> Bytes {
    fill(BatchBuilder::new(Codec::None), now_ms(), values)
}

/// One record, `value`, in a batch packed by `codec`.
pub fn packed(codec: Codec, values: &[&str]) -> Bytes {
    fill(BatchBuilder::new(codec), now_ms(), values)
}

/// One batch whose records have these timestamps.
pub fn timed(codec: Codec, timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for &timestamp in timestamps {
        builder.push(NewRecord { timestamp, value: Some(b"timed"), ..NewRecord::default() });
    }
    builder.build()
}

/// One batch of an idempotent producer.
pub fn sequenced(producer: (i64, i16), sequence: i32, values: &[&str]) -> Bytes {
    let (id, epoch) = (ProducerId(producer.0), ProducerEpoch(producer.1));
    fill(BatchBuilder::new(Codec::None).producer(id, epoch, sequence), now_ms(), values)
}

fn fill(mut builder: BatchBuilder, timestamp: i64, values: &[&str]) -> Bytes {
    for value in values {
        builder.push(NewRecord {
            timestamp,
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        });
    }
    builder.build()
}

/// The batch with `bytes` put at `at`, and a right CRC again.
pub fn forged(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&batch[CRC_START..]);
    batch[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

/// One batch as it came back.
#[derive(Clone, Debug)]
pub struct ReadBatch {
    pub header: BatchHeader,
    pub bytes: Bytes,
}

impl ReadBatch {
    /// Offset and record, in order.
    ///
    /// # Panics
    /// When the records do not read.
    pub fn records(&self) -> Vec<(i64, Record)> {
        let records = record::records(&self.header, &self.bytes, UNPACKED_BYTES_MAX)
            .expect("the batch unpacks");
        let records = records.map(|it| it.expect("the records are well-formed"));
        let base = self.header.base_offset.0;
        records.map(|it| (base + i64::from(it.offset_delta), it)).collect()
    }
}

/// Whole batches, one after the other, each with a right CRC.
///
/// # Panics
/// When the bytes are anything else.
pub fn batches(mut bytes: Bytes) -> Vec<ReadBatch> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let header = BatchHeader::parse(&bytes).expect("a batch header");
        assert!(header.size_bytes as usize <= bytes.len(), "the last batch is cut");
        let bytes = bytes.split_to(header.size_bytes as usize);
        assert!(millrace_model::batch::crc_matches(&header, &bytes), "a batch has a wrong CRC");
        found.push(ReadBatch { header, bytes });
    }
    found
}

/// Offset and value of every record in `bytes`, values as text.
pub fn values(bytes: Bytes) -> Vec<(i64, String)> {
    let value = |record: Record| {
        String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
    };
    let batches = batches(bytes);
    batches.iter().flat_map(ReadBatch::records).map(|(at, it)| (at, value(it))).collect()
}
