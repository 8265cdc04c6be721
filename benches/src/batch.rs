//! Record batches, encoded once and sent again and again.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use millrace_model::compression::Codec;
use millrace_model::record::{BatchBuilder, NewRecord};

/// One batch as it goes over the wire, and what it counts for.
#[derive(Clone, Debug)]
pub struct Batch {
    pub bytes: Bytes,
    pub records: u32,
    /// Bytes of values: what throughput is counted in.
    pub payload_bytes: u64,
}

impl Batch {
    /// `records` values of `record_bytes` each, without keys. Uncompressed they are noise; for a codec they are text
    /// that repeats itself, or there would be nothing to compress.
    ///
    /// # Panics
    /// When `records` is 0.
    pub fn encode(records: u32, record_bytes: usize, codec: Codec) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let alphabet: u64 = if codec == Codec::None { 256 } else { 8 };
        let mut builder = BatchBuilder::new(codec);
        for _ in 0..records {
            let value: Vec<u8> = (0..record_bytes)
                .map(|_| (noise.number() >> 32) as u8 % alphabet.min(255) as u8)
                .collect();
            let timestamp = now.as_millis() as i64;
            builder.push(NewRecord { timestamp, value: Some(&value), ..NewRecord::default() });
        }
        let payload_bytes = u64::from(records) * record_bytes as u64;
        Self { bytes: builder.build(), records, payload_bytes }
    }
}

/// Cheap numbers without a pattern (xorshift64): contents, and partitions at random.
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
