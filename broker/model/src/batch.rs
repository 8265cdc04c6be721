//! Record batch v2 as bytes: view, validate, stamp. Records inside are `record.rs`'s business.
//!
//! ```text
//!  0 base_offset      i64   stamped by the broker, outside the CRC
//!  8 length           i32   bytes that follow this field
//! 12 leader_epoch     i32   stamped by the broker, outside the CRC
//! 16 magic            i8    2
//! 17 crc              u32   CRC-32C of bytes 21..
//! 21 attributes       i16   0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//! 23 last_offset_delta i32
//! 27 base_timestamp   i64
//! 35 max_timestamp    i64
//! 43 producer_id      i64
//! 51 producer_epoch   i16
//! 53 base_sequence    i32
//! 57 record_count     i32
//! 61 records, compressed as attributes say
//! ```
//! Big-endian throughout. Persisted and on the wire: never reuse.

use crate::checksum::crc32c;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::offset::{LeaderEpoch, Offset};

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes before and with the length field: what a batch's length does not count.
pub const LENGTH_OVERHEAD: usize = 12;
/// Where the bytes under the CRC begin.
pub const CRC_START: usize = 21;
/// The only magic ever written.
pub const MAGIC: i8 = 2;
/// Bytes that stamping replaces: base offset, length (unchanged), leader epoch.
pub const STAMP_BYTES: usize = 16;

/// The header of one batch, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Size of the whole batch: `length + 12`.
    pub size_bytes: u32,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: Attributes,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub record_count: i32,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const TIMESTAMP_TYPE: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;

    /// Codec number as on the wire: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd; 5 to 7 are no codec.
    pub fn codec(self) -> u8 {
        (self.0 & 0x7) as u8
    }

    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::TIMESTAMP_TYPE != 0
    }

    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    #[must_use]
    pub fn with_log_append_time(self) -> Self {
        Self(self.0 | Self::TIMESTAMP_TYPE)
    }
}

/// Why bytes are no batch header. Structure only: the CRC is [`crc_matches`]'s business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    #[error("{available} bytes are fewer than a batch header's {HEADER_BYTES}")]
    Short { available: usize },
    #[error("batch length {length} is below the smallest legal {}", HEADER_BYTES - LENGTH_OVERHEAD)]
    Length { length: i32 },
    #[error("batch magic is {magic}, only {MAGIC} is supported")]
    Magic { magic: i8 },
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`; the batch may be longer than `bytes`.
    ///
    /// # Errors
    /// [`InvalidHeader`] when the structure is impossible. CRC, counts and offsets are not checked here.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidHeader> {
        let Some(h) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(InvalidHeader::Short { available: bytes.len() });
        };
        let length = i32::from_be_bytes(field(h, 8));
        if length < (HEADER_BYTES - LENGTH_OVERHEAD) as i32 {
            return Err(InvalidHeader::Length { length });
        }
        let magic = i8::from_be_bytes(field(h, 16));
        if magic != MAGIC {
            return Err(InvalidHeader::Magic { magic });
        }
        Ok(Self {
            base_offset: Offset(i64::from_be_bytes(field(h, 0))),
            size_bytes: length as u32 + LENGTH_OVERHEAD as u32,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(h, 12))),
            crc: u32::from_be_bytes(field(h, 17)),
            attributes: Attributes(i16::from_be_bytes(field(h, 21))),
            last_offset_delta: i32::from_be_bytes(field(h, 23)),
            base_timestamp: i64::from_be_bytes(field(h, 27)),
            max_timestamp: i64::from_be_bytes(field(h, 35)),
            producer_id: ProducerId(i64::from_be_bytes(field(h, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(h, 51))),
            base_sequence: i32::from_be_bytes(field(h, 53)),
            record_count: i32::from_be_bytes(field(h, 57)),
        })
    }

    /// Offset of the batch's last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// Offset that follows the batch.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Sequence number of the last record; wraps from `i32::MAX` to 0 (Kafka's `DefaultRecordBatch.incrementSequence`).
    pub fn last_sequence(&self) -> i32 {
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence + count` in the space `0..=i32::MAX`, both non-negative.
pub fn increment_sequence(sequence: i32, count: i32) -> i32 {
    if sequence > i32::MAX - count { count - (i32::MAX - sequence) - 1 } else { sequence + count }
}

/// Does the CRC in `header` match the body? `batch` is exactly one whole batch.
pub fn crc_matches(header: &BatchHeader, batch: &[u8]) -> bool {
    batch.get(CRC_START..header.size_bytes as usize).is_some_and(|body| crc32c(body) == header.crc)
}

/// Why a client's batch is refused. The door translates; the variants follow Kafka's `LogValidator` and
/// `UnifiedLog.analyzeAndValidateRecords`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBatch {
    #[error(transparent)]
    Header(#[from] InvalidHeader),
    #[error("batch claims {claimed} bytes but {available} were sent")]
    Truncated { claimed: u32, available: usize },
    #[error("more than one batch for one partition in one request")]
    Multiple,
    #[error("batch of {size} bytes is larger than max.message.bytes {max}")]
    TooLarge { size: u32, max: u32 },
    #[error("stored CRC {stored:#010x} differs from computed {computed:#010x}")]
    Crc { stored: u32, computed: u32 },
    #[error("record count {count} does not fit last offset delta {delta}")]
    Count { count: i32, delta: i32 },
    #[error("codec {codec} is unknown")]
    Codec { codec: u8 },
    #[error("clients may not write control batches")]
    Control,
    #[error("base offset {base} of a client's batch must be 0")]
    BaseOffset { base: Offset },
    #[error("idempotent batch has base sequence {sequence}")]
    Sequence { sequence: i32 },
}

/// Checks one client batch wholly, short of its records: exactly one batch, magic, size, CRC, counts, flags.
///
/// `max_bytes` is the topic's `max.message.bytes`.
///
/// # Errors
/// The first rule that the bytes break, structure before size before CRC.
pub fn validate(bytes: &[u8], max_bytes: u32) -> Result<BatchHeader, InvalidBatch> {
    let header = BatchHeader::parse(bytes)?;
    let size = header.size_bytes as usize;
    if size > bytes.len() {
        return Err(InvalidBatch::Truncated { claimed: header.size_bytes, available: bytes.len() });
    }
    if size < bytes.len() {
        return Err(InvalidBatch::Multiple);
    }
    if header.size_bytes > max_bytes {
        return Err(InvalidBatch::TooLarge { size: header.size_bytes, max: max_bytes });
    }
    let computed = crc32c(&bytes[CRC_START..]);
    if computed != header.crc {
        return Err(InvalidBatch::Crc { stored: header.crc, computed });
    }
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        let (count, delta) = (header.record_count, header.last_offset_delta);
        return Err(InvalidBatch::Count { count, delta });
    }
    if header.attributes.codec() > 4 {
        return Err(InvalidBatch::Codec { codec: header.attributes.codec() });
    }
    if header.attributes.is_control() {
        return Err(InvalidBatch::Control);
    }
    if header.base_offset != Offset::ZERO {
        return Err(InvalidBatch::BaseOffset { base: header.base_offset });
    }
    if header.producer_id.0 >= 0 && header.base_sequence < 0 {
        return Err(InvalidBatch::Sequence { sequence: header.base_sequence });
    }
    Ok(header)
}

/// The first 16 bytes of a batch with its place in the log: base offset and leader epoch, both outside the CRC.
pub fn stamp(header: &BatchHeader, base: Offset, epoch: LeaderEpoch) -> [u8; STAMP_BYTES] {
    let mut out = [0; STAMP_BYTES];
    out[..8].copy_from_slice(&base.0.to_be_bytes());
    out[8..12].copy_from_slice(&(header.size_bytes - LENGTH_OVERHEAD as u32).to_be_bytes());
    out[12..].copy_from_slice(&epoch.0.to_be_bytes());
    out
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header[at..].first_chunk().expect("every field lies inside the header")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compression::Codec;
    use crate::record::{BatchBuilder, NewRecord};

    fn batch(records: i32) -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.push(NewRecord { value: Some(b"value"), ..NewRecord::default() });
        }
        builder.build().to_vec()
    }

    /// The batch with bytes replaced and its CRC made right again.
    fn forged(records: i32, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut batch = batch(records);
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c(&batch[CRC_START..]);
        batch[17..CRC_START].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    #[test]
    fn each_rule_of_a_client_batch_refuses_what_breaks_it() {
        let check = |bytes: &[u8]| validate(bytes, u32::MAX).unwrap_err();
        assert!(validate(&batch(3), u32::MAX).is_ok());
        assert_eq!(check(&[]), InvalidHeader::Short { available: 0 }.into());
        assert_eq!(check(&forged(1, 8, &[0; 4])), InvalidHeader::Length { length: 0 }.into());
        assert_eq!(check(&forged(1, 8, &[255; 4])), InvalidHeader::Length { length: -1 }.into());
        assert_eq!(check(&forged(1, 16, &[1])), InvalidHeader::Magic { magic: 1 }.into());
        let short = batch(1);
        let (claimed, available) = (short.len() as u32, short.len() - 1);
        assert_eq!(check(&short[..available]), InvalidBatch::Truncated { claimed, available });
        assert_eq!(check(&[batch(1), batch(1)].concat()), InvalidBatch::Multiple);
        assert_eq!(check(&[batch(1), vec![0]].concat()), InvalidBatch::Multiple);
        let size = short.len() as u32;
        let too_large = InvalidBatch::TooLarge { size, max: size - 1 };
        assert_eq!(validate(&short, size - 1), Err(too_large));
        assert!(validate(&short, size).is_ok());
        for (count, delta) in [(0, -1), (-1, -2), (2, 0), (1, 1), (i32::MIN, i32::MAX)] {
            let mut counted = forged(1, 57, &i32::to_be_bytes(count));
            counted[23..27].copy_from_slice(&i32::to_be_bytes(delta));
            let crc = crc32c(&counted[CRC_START..]);
            counted[17..CRC_START].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(check(&counted), InvalidBatch::Count { count, delta });
        }
        assert_eq!(check(&forged(1, 21, &[0, 5])), InvalidBatch::Codec { codec: 5 });
        assert_eq!(check(&forged(1, 21, &[0, 0x20])), InvalidBatch::Control);
        assert_eq!(check(&forged(1, 7, &[9])), InvalidBatch::BaseOffset { base: Offset(9) });
        assert_eq!(check(&forged(1, 43, &[0; 8])), InvalidBatch::Sequence { sequence: -1 });
    }

    #[test]
    fn a_stamp_moves_a_batch_and_keeps_its_crc() {
        let mut batch = batch(3);
        let header = BatchHeader::parse(&batch).unwrap();
        batch[..STAMP_BYTES].copy_from_slice(&stamp(&header, Offset(40), LeaderEpoch(7)));
        let stamped = BatchHeader::parse(&batch).unwrap();
        assert!(crc_matches(&stamped, &batch));
        assert_eq!((stamped.base_offset, stamped.leader_epoch), (Offset(40), LeaderEpoch(7)));
        assert_eq!((stamped.last_offset(), stamped.next_offset()), (Offset(42), Offset(43)));
        assert_eq!(stamped.size_bytes as usize, batch.len());
    }

    #[test]
    fn sequences_wrap_to_zero() {
        for (sequence, count, expected) in [
            (0, 0, 0),
            (5, 3, 8),
            (i32::MAX, 0, i32::MAX),
            (i32::MAX, 1, 0),
            (i32::MAX - 1, 3, 1),
            (i32::MAX, i32::MAX, i32::MAX - 1),
        ] {
            assert_eq!(increment_sequence(sequence, count), expected, "{sequence} + {count}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(validate(&bytes, u32::MAX).is_err());
        }

        #[test]
        fn no_flipped_bit_under_the_crc_passes(bit in (CRC_START * 8)..((HEADER_BYTES + 5) * 8)) {
            let mut bytes = batch(1);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let refused = validate(&bytes, u32::MAX);
            prop_assert!(matches!(refused, Err(InvalidBatch::Crc { .. })), "{refused:?}");
        }

        #[test]
        fn a_header_reads_whatever_its_fields_hold(
            mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES..100),
        ) {
            bytes[16] = MAGIC.cast_unsigned();
            match BatchHeader::parse(&bytes) {
                Ok(header) => {
                    prop_assert!(header.size_bytes as usize >= HEADER_BYTES);
                    let _ = crc_matches(&header, &bytes);
                    let stamped = stamp(&header, header.base_offset, header.leader_epoch);
                    prop_assert_eq!(&stamped[..], &bytes[..STAMP_BYTES]);
                }
                Err(error) => {
                    prop_assert!(matches!(error, InvalidHeader::Length { .. }), "{error}");
                }
            }
        }
    }
}
