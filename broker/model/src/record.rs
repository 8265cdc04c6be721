//! Records inside a batch: read them without copying, build a batch of them.
//!
//! ```text
//! length            varint   bytes that follow
//! attributes        i8       0
//! timestamp delta   varlong  from the batch's base timestamp
//! offset delta      varint   from the batch's base offset
//! key               varint length (-1: null), bytes
//! value             varint length (-1: null), bytes
//! headers           varint count; each: varint key length, key; varint value length (-1: null), value
//! ```
//! Varints are zig-zag coded, as in Kafka's `DefaultRecord`. Header keys may repeat and need not be UTF-8: nothing here
//! interprets them.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::batch::{Attributes, BatchHeader, CRC_START, HEADER_BYTES, LENGTH_OVERHEAD, MAGIC};
use crate::checksum::crc32c;
use crate::compression::{self, Codec, DecompressError};
use crate::ids::{ProducerEpoch, ProducerId};
use crate::offset::{LeaderEpoch, Offset};

/// One record; slices of the batch that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset_delta: i32,
    pub timestamp_delta: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// The headers of one record, in order: checked when the record was read, sliced when they are looked at. So a record of
/// nothing but headers costs no memory beyond its own bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Invariant: exactly `count` well-formed headers.
    bytes: Bytes,
    count: usize,
}

impl Headers {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl IntoIterator for Headers {
    type Item = Header;
    type IntoIter = HeaderIter;

    fn into_iter(self) -> HeaderIter {
        HeaderIter(self)
    }
}

impl IntoIterator for &Headers {
    type Item = Header;
    type IntoIter = HeaderIter;

    fn into_iter(self) -> HeaderIter {
        HeaderIter(self.clone())
    }
}

/// Iterates over the headers of a record.
#[derive(Clone, Debug)]
pub struct HeaderIter(Headers);

impl Iterator for HeaderIter {
    type Item = Header;

    fn next(&mut self) -> Option<Header> {
        let Headers { bytes, count } = &mut self.0;
        *count = count.checked_sub(1)?;
        let mut cursor = Cursor { bytes, at: 0, index: 0 };
        let checked = "the headers were checked when the record was read";
        let (key, value) = cursor.header().expect(checked);
        let at = cursor.at;
        let header = Header { key: bytes.slice(key), value: value.map(|it| bytes.slice(it)) };
        bytes.advance(at);
        Some(header)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.count, Some(self.0.count))
    }
}

impl ExactSizeIterator for HeaderIter {}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// Why the records of a batch cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecords {
    #[error("record {index} ends before its fields do")]
    Truncated { index: usize },
    #[error("record {index} has a varint longer than its type")]
    Varint { index: usize },
    #[error("record {index} claims a length of {length}")]
    Length { index: usize, length: i64 },
    #[error("record {index} claims {count} headers")]
    HeaderCount { index: usize, count: i64 },
    #[error("record {index} is {left} bytes longer than its fields")]
    Surplus { index: usize, left: usize },
    #[error("{left} bytes follow the last of {count} records")]
    Trailing { count: i32, left: usize },
    #[error("codec {codec} is unknown")]
    Codec { codec: u8 },
    #[error(transparent)]
    Compression(#[from] DecompressError),
}

/// The records of a batch, in order. `batch` is the whole batch, its CRC already checked by whoever cares.
///
/// # Errors
/// When the batch is compressed and cannot be unpacked within `bytes_max`.
pub fn records(
    header: &BatchHeader,
    batch: &Bytes,
    bytes_max: usize,
) -> Result<Records, InvalidRecords> {
    let body = batch.slice(HEADER_BYTES.min(batch.len())..);
    let number = header.attributes.codec();
    let codec = Codec::from_number(number).ok_or(InvalidRecords::Codec { codec: number })?;
    let body = match codec {
        Codec::None => body,
        codec => compression::decompress(codec, &body, bytes_max)?.into(),
    };
    Ok(Records { body, index: 0, count: header.record_count })
}

/// Iterates over the records of one batch. After an error it ends.
#[derive(Clone, Debug)]
pub struct Records {
    body: Bytes,
    index: usize,
    count: i32,
}

impl Iterator for Records {
    type Item = Result<Record, InvalidRecords>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index as i64 >= i64::from(self.count) {
            let left = self.body.len();
            self.body.clear();
            return (left > 0).then_some(Err(InvalidRecords::Trailing { count: self.count, left }));
        }
        let read = self.read_one();
        self.index += 1;
        if read.is_err() {
            self.body.clear();
            self.count = 0;
        }
        Some(read)
    }
}

impl Records {
    fn read_one(&mut self) -> Result<Record, InvalidRecords> {
        let index = self.index;
        let mut outer = Cursor { bytes: &self.body, at: 0, index };
        let length = outer.length()?.ok_or(InvalidRecords::Length { index, length: -1 })?;
        let start = outer.at;
        let record = self.body.slice(start..start + length);
        self.body = self.body.slice(start + length..);
        let mut cursor = Cursor { bytes: &record, at: 0, index };
        cursor.take(1)?; // attributes: unused
        let timestamp_delta = cursor.varlong()?;
        let offset_delta = cursor.varint()?;
        let key = cursor.field()?;
        let value = cursor.field()?;
        let (count, at) = cursor.headers()?;
        let left = record.len() - cursor.at;
        if left > 0 {
            return Err(InvalidRecords::Surplus { index, left });
        }
        let (key, value) = (key.map(|it| record.slice(it)), value.map(|it| record.slice(it)));
        let headers = Headers { bytes: record.slice(at..), count };
        Ok(Record { offset_delta, timestamp_delta, key, value, headers })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    index: usize,
}

impl Cursor<'_> {
    fn take(&mut self, count: usize) -> Result<(), InvalidRecords> {
        if self.bytes.len() - self.at < count {
            return Err(InvalidRecords::Truncated { index: self.index });
        }
        self.at += count;
        Ok(())
    }

    fn varlong(&mut self) -> Result<i64, InvalidRecords> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte =
                *self.bytes.get(self.at).ok_or(InvalidRecords::Truncated { index: self.index })?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(InvalidRecords::Varint { index: self.index })
    }

    fn varint(&mut self) -> Result<i32, InvalidRecords> {
        let index = self.index;
        i32::try_from(self.varlong()?).map_err(|_| InvalidRecords::Varint { index })
    }

    /// A length that the bytes left can back; `None` for -1.
    fn length(&mut self) -> Result<Option<usize>, InvalidRecords> {
        let (index, length) = (self.index, self.varlong()?);
        if length == -1 {
            return Ok(None);
        }
        let length_claimed =
            usize::try_from(length).map_err(|_| InvalidRecords::Length { index, length })?;
        if length_claimed > self.bytes.len() - self.at {
            return Err(InvalidRecords::Truncated { index });
        }
        Ok(Some(length_claimed))
    }

    /// Where a key or a value lies; `None` for null.
    fn field(&mut self) -> Result<Option<Range<usize>>, InvalidRecords> {
        let Some(length) = self.length()? else { return Ok(None) };
        let start = self.at;
        self.take(length)?;
        Ok(Some(start..self.at))
    }

    /// Walks over the headers: how many there are and where the first begins.
    fn headers(&mut self) -> Result<(usize, usize), InvalidRecords> {
        let (index, claimed) = (self.index, self.varlong()?);
        let refused = InvalidRecords::HeaderCount { index, count: claimed };
        let count = usize::try_from(claimed).map_err(|_| refused)?;
        let at = self.at;
        for _ in 0..count {
            self.header()?;
        }
        Ok((count, at))
    }

    fn header(&mut self) -> Result<(Range<usize>, Option<Range<usize>>), InvalidRecords> {
        let index = self.index;
        let key = self.field()?.ok_or(InvalidRecords::Length { index, length: -1 })?;
        Ok((key, self.field()?))
    }
}

/// Why a batch's records are refused where a topic wants each looked at. `index` is the record's place in its batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedRecords {
    #[error(transparent)]
    Invalid(#[from] InvalidRecords),
    #[error("record {index} has no key, which a compacted topic requires")]
    NoKey { index: usize },
    #[error("record {index} has offset delta {delta}")]
    OffsetDelta { index: usize, delta: i32 },
    #[error("the batch says its greatest timestamp is {claimed}, its records say {found}")]
    MaxTimestamp { claimed: i64, found: i64 },
    #[error("{found} records are in a batch that claims {claimed}")]
    Count { claimed: i32, found: usize },
}

/// Checks every record of a batch: keys where they are required, offsets, count, greatest timestamp.
///
/// # Errors
/// The first rule that a record breaks.
pub fn validate_records(
    header: &BatchHeader,
    batch: &Bytes,
    keys_required: bool,
    bytes_max: usize,
) -> Result<(), RefusedRecords> {
    let mut found = 0;
    let mut max_timestamp = i64::MIN;
    for (index, record) in records(header, batch, bytes_max)?.enumerate() {
        let record = record?;
        if record.offset_delta as i64 != index as i64 {
            return Err(RefusedRecords::OffsetDelta { index, delta: record.offset_delta });
        }
        if keys_required && record.key.is_none() {
            return Err(RefusedRecords::NoKey { index });
        }
        max_timestamp =
            max_timestamp.max(header.base_timestamp.wrapping_add(record.timestamp_delta));
        found = index + 1;
    }
    if found as i64 != i64::from(header.record_count) {
        return Err(RefusedRecords::Count { claimed: header.record_count, found });
    }
    if max_timestamp != header.max_timestamp {
        let claimed = header.max_timestamp;
        return Err(RefusedRecords::MaxTimestamp { claimed, found: max_timestamp });
    }
    Ok(())
}

/// The same records in another codec: every header field but codec, size and CRC stays.
///
/// # Errors
/// When the batch cannot be unpacked within `bytes_max`.
pub fn recompress(
    header: &BatchHeader,
    batch: &Bytes,
    codec: Codec,
    bytes_max: usize,
) -> Result<Bytes, InvalidRecords> {
    let number = header.attributes.codec();
    let current = Codec::from_number(number).ok_or(InvalidRecords::Codec { codec: number })?;
    let body = batch.slice(HEADER_BYTES.min(batch.len())..);
    let plain = compression::decompress(current, &body, bytes_max)?;
    let packed = compression::compress(codec, &plain);
    let attributes = Attributes(header.attributes.0 & !0x7 | i16::from(codec.number()));
    let size_bytes = (HEADER_BYTES + packed.len()) as u32;
    Ok(assemble(&BatchHeader { attributes, size_bytes, ..*header }, &packed))
}

/// A record to be put into a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a [u8], Option<&'a [u8]>)],
}

/// Builds one batch, as a client would send it: base offset 0, leader epoch -1, CRC right.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    producer: Option<(ProducerId, ProducerEpoch, i32)>,
    /// Room for the header, then the records: an uncompressed batch is built where it stays.
    batch: BytesMut,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new(Codec::None)
    }
}

impl BatchBuilder {
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            producer: None,
            batch: BytesMut::new(),
            count: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Room for so many bytes, header included, before the first copy.
    #[must_use]
    pub fn with_capacity(mut self, bytes: usize) -> Self {
        self.batch.reserve(bytes);
        self
    }

    /// Makes the batch idempotent: its first record has this sequence number.
    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer = Some((id, epoch, base_sequence));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch before compression.
    pub fn size_bytes(&self) -> usize {
        self.batch.len().max(HEADER_BYTES)
    }

    /// Adds a record behind the others.
    pub fn push(&mut self, record: NewRecord<'_>) -> &mut Self {
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
            self.batch.put_bytes(0, HEADER_BYTES);
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        let timestamp_delta = record.timestamp.wrapping_sub(self.base_timestamp);
        let offset_delta = i64::from(self.count);
        let header_count = record.headers.len() as i64;
        let headers: usize =
            record.headers.iter().map(|(key, value)| field(Some(key)) + field(*value)).sum();
        let size = 1 // attributes
            + varlong(timestamp_delta)
            + varlong(offset_delta)
            + field(record.key)
            + field(record.value)
            + varlong(header_count)
            + headers;
        let out = &mut self.batch;
        out.reserve(VARLONG_BYTES_MAX + size);
        put_varlong(out, size as i64);
        out.put_u8(0);
        put_varlong(out, timestamp_delta);
        put_varlong(out, offset_delta);
        put_bytes(out, record.key);
        put_bytes(out, record.value);
        put_varlong(out, header_count);
        for (key, value) in record.headers {
            put_bytes(out, Some(key));
            put_bytes(out, *value);
        }
        self.count += 1;
        self
    }

    /// The batch; there is nothing left in the builder.
    ///
    /// # Panics
    /// When no record was pushed: a batch without records is not legal from a client.
    pub fn build(&mut self) -> Bytes {
        assert!(self.count > 0, "a batch has at least one record");
        let mut batch = std::mem::take(&mut self.batch);
        if self.codec != Codec::None {
            let packed = compression::compress(self.codec, &batch[HEADER_BYTES..]);
            batch = BytesMut::with_capacity(HEADER_BYTES + packed.len());
            batch.put_bytes(0, HEADER_BYTES);
            batch.put_slice(&packed);
        }
        let (id, epoch, sequence) =
            self.producer.unwrap_or((ProducerId::NONE, ProducerEpoch(-1), -1));
        let header = BatchHeader {
            base_offset: Offset::ZERO,
            size_bytes: batch.len() as u32,
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: Attributes(self.codec.number().into()),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: id,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: self.count,
        };
        self.count = 0;
        put_header(&header, &mut batch);
        batch.freeze()
    }
}

/// Header and records as one batch.
fn assemble(header: &BatchHeader, body: &[u8]) -> Bytes {
    let mut batch = BytesMut::with_capacity(HEADER_BYTES + body.len());
    batch.put_bytes(0, HEADER_BYTES);
    batch.put_slice(body);
    put_header(header, &mut batch);
    batch.freeze()
}

/// Writes the header into the room in front of the records, with the CRC of all.
fn put_header(header: &BatchHeader, batch: &mut [u8]) {
    let mut out = &mut batch[..HEADER_BYTES];
    out.put_i64(header.base_offset.0);
    out.put_u32(header.size_bytes - LENGTH_OVERHEAD as u32);
    out.put_i32(header.leader_epoch.0);
    out.put_i8(MAGIC);
    out.put_u32(0); // the CRC, below
    out.put_i16(header.attributes.0);
    out.put_i32(header.last_offset_delta);
    out.put_i64(header.base_timestamp);
    out.put_i64(header.max_timestamp);
    out.put_i64(header.producer_id.0);
    out.put_i16(header.producer_epoch.0);
    out.put_i32(header.base_sequence);
    out.put_i32(header.record_count);
    let crc = crc32c(&batch[CRC_START..]);
    batch[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
}

/// No varlong is longer.
const VARLONG_BYTES_MAX: usize = 10;

/// How long a varlong is.
fn varlong(value: i64) -> usize {
    let rest = zigzag(value);
    (u64::BITS - (rest | 1).leading_zeros()).div_ceil(7) as usize
}

/// How long a key or a value is, with its length.
fn field(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(varlong(-1), |bytes| varlong(bytes.len() as i64) + bytes.len())
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varlong(out, bytes.len() as i64);
            out.put_slice(bytes);
        }
        None => put_varlong(out, -1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{self, crc_matches};

    const BYTES_MAX: usize = 1 << 20;

    type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn build(codec: Codec, records: &[Owned]) -> Bytes {
        let mut builder = BatchBuilder::new(codec).producer(ProducerId(7), ProducerEpoch(1), 5);
        for (timestamp, key, value, headers) in records {
            let headers: Vec<_> = headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
            builder.push(NewRecord {
                timestamp: *timestamp,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &headers,
            });
        }
        builder.build()
    }

    fn read(batch: &Bytes) -> Result<Vec<Owned>, InvalidRecords> {
        let header = BatchHeader::parse(batch).expect("a header");
        records(&header, batch, BYTES_MAX)?
            .map(|record| {
                let record = record?;
                let headers = record.headers.into_iter();
                Ok((
                    header.base_timestamp.wrapping_add(record.timestamp_delta),
                    record.key.map(Into::into),
                    record.value.map(Into::into),
                    headers.map(|it| (it.key.into(), it.value.map(Into::into))).collect(),
                ))
            })
            .collect()
    }

    fn any_record() -> impl Strategy<Value = Owned> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        let header = (bytes(), prop::option::of(bytes()));
        (
            0..2_000_000_000_000_i64,
            prop::option::of(bytes()),
            prop::option::of(bytes()),
            prop::collection::vec(header, 0..4),
        )
    }

    proptest! {
        #[test]
        fn what_is_built_is_valid_and_reads_back(
            input in prop::collection::vec(any_record(), 1..20),
            codec in 0_u8..5,
        ) {
            let codec = Codec::from_number(codec).unwrap();
            let built = build(codec, &input);
            let header = batch::validate(&built, u32::MAX).unwrap();
            prop_assert!(crc_matches(&header, &built));
            prop_assert_eq!(header.record_count as usize, input.len());
            prop_assert_eq!(header.max_timestamp, input.iter().map(|it| it.0).max().unwrap());
            prop_assert_eq!((header.producer_id.0, header.base_sequence), (7, 5));
            prop_assert_eq!(read(&built).unwrap(), input);
        }

        #[test]
        fn damaged_records_end_in_an_error_or_records(
            input in prop::collection::vec(any_record(), 1..5),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            codec in 0_u8..5,
        ) {
            let mut bytes = build(Codec::from_number(codec).unwrap(), &input).to_vec();
            let header = BatchHeader::parse(&bytes).unwrap();
            for (at, mask) in flips {
                let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
                bytes[at] ^= mask;
            }
            let bytes = Bytes::from(bytes);
            if let Ok(records) = records(&header, &bytes, BYTES_MAX) {
                for record in records.flatten() {
                    let claimed = record.headers.len();
                    prop_assert_eq!(record.headers.into_iter().count(), claimed);
                }
            }
            let _ = validate_records(&header, &bytes, true, BYTES_MAX);
            let _ = recompress(&header, &bytes, Codec::Lz4, BYTES_MAX);
        }

        #[test]
        fn hostile_bodies_end_in_an_error_or_records(
            body in prop::collection::vec(any::<u8>(), 0..200),
            count in any::<i32>(),
            codec in 0_u8..8,
        ) {
            let plain = build(Codec::None, &[(0, None, None, Vec::new())]);
            let mut header = BatchHeader::parse(&plain).unwrap();
            header.record_count = count;
            header.attributes = Attributes(codec.into());
            let mut batch = plain[..HEADER_BYTES].to_vec();
            batch.extend_from_slice(&body);
            if let Ok(records) = records(&header, &batch.into(), BYTES_MAX) {
                prop_assert!(records.take(1000).count() <= 1000);
            }
        }
    }

    #[test]
    fn repeated_and_odd_header_keys_survive() {
        let headers =
            vec![(b"a".to_vec(), None), (b"a".to_vec(), Some(vec![])), (vec![0xff], Some(vec![1]))];
        let input = vec![(5, Some(vec![]), None, headers)];
        assert_eq!(read(&build(Codec::None, &input)).unwrap(), input);
    }

    #[test]
    fn recompressing_keeps_all_but_the_codec() {
        let input = vec![(5, Some(vec![1]), Some(vec![2; 500]), Vec::new()); 3];
        let plain = build(Codec::None, &input);
        let header = BatchHeader::parse(&plain).unwrap();
        for codec in Codec::ALL {
            let packed = recompress(&header, &plain, codec, BYTES_MAX).unwrap();
            let after = batch::validate(&packed, u32::MAX).unwrap();
            assert_eq!(after.attributes.codec(), codec.number());
            assert_eq!(after.producer_id, header.producer_id);
            assert_eq!(read(&packed).unwrap(), input);
            let back = recompress(&after, &packed, Codec::None, BYTES_MAX).unwrap();
            assert_eq!(back, plain);
        }
    }

    #[test]
    fn strict_validation_finds_what_headers_hide() {
        let input = vec![(5, Some(vec![1]), None, Vec::new()), (9, None, None, Vec::new())];
        let built = build(Codec::Lz4, &input);
        let header = BatchHeader::parse(&built).unwrap();
        let check = |header: &BatchHeader, keys| validate_records(header, &built, keys, BYTES_MAX);
        assert_eq!(check(&header, false), Ok(()));
        assert_eq!(check(&header, true), Err(RefusedRecords::NoKey { index: 1 }));
        let lie = BatchHeader { max_timestamp: 10, ..header };
        let refused = Err(RefusedRecords::MaxTimestamp { claimed: 10, found: 9 });
        assert_eq!(check(&lie, false), refused);
        let lie = BatchHeader { record_count: 1, ..header };
        assert!(check(&lie, false).is_err());
    }

    #[test]
    fn a_claimed_count_beyond_the_bytes_is_refused() {
        let built = build(Codec::None, &[(0, None, Some(vec![1]), Vec::new())]);
        let mut header = BatchHeader::parse(&built).unwrap();
        header.record_count = i32::MAX;
        let all: Vec<_> = records(&header, &built, BYTES_MAX).unwrap().collect();
        assert_eq!(all.len(), 2);
        assert!(matches!(all[1], Err(InvalidRecords::Truncated { index: 1 })));
    }

    #[test]
    fn a_record_of_headers_alone_is_not_blown_up() {
        let headers: Vec<(&[u8], Option<&[u8]>)> = vec![(b"", None); 100_000];
        let mut builder = BatchBuilder::default();
        let batch = builder.push(NewRecord { headers: &headers, ..NewRecord::default() }).build();
        let header = BatchHeader::parse(&batch).unwrap();
        let record = records(&header, &batch, BYTES_MAX).unwrap().next().unwrap().unwrap();
        assert_eq!((record.headers.len(), record.headers.is_empty()), (100_000, false));
        assert_eq!((&record.headers).into_iter().len(), 100_000);
        assert!(record.headers.into_iter().all(|it| it.key.is_empty() && it.value.is_none()));
    }

    #[test]
    fn what_kafkas_java_client_writes_reads_back() {
        // Built by `MemoryRecords.withIdempotentRecords` of kafka-clients 4.3.1, one batch for each codec.
        let header =
            |key: &str, value: Option<&[u8]>| (key.as_bytes().to_vec(), value.map(Into::into));
        let headers = vec![header("a", None), header("a", Some(&[1])), header("é", Some(&[]))];
        let expected: Vec<Owned> = vec![
            (1000, Some(b"key".to_vec()), Some(b"value".to_vec()), headers),
            (900, None, None, Vec::new()),
            (1500, Some(Vec::new()), Some(b"value".repeat(6)), Vec::new()),
        ];
        for (codec, line) in Codec::ALL.into_iter().zip(include_str!("record/java.txt").lines()) {
            let (name, hex) = line.split_once(' ').unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let batch: Bytes = (0..hex.len()).step_by(2).map(byte).collect();
            let header = batch::validate(&batch, u32::MAX).unwrap();
            assert_eq!((header.attributes.codec(), name), (codec.number(), codec.name()));
            assert_eq!((header.producer_id.0, header.base_sequence), (7, 5));
            assert_eq!(read(&batch).unwrap(), expected, "{name}");
            assert_eq!(validate_records(&header, &batch, false, BYTES_MAX), Ok(()), "{name}");
            if codec == Codec::None {
                assert_eq!(build(codec, &expected).slice(16..), batch.slice(16..), "{name}");
            }
        }
    }
}
