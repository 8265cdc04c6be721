//! The few Kafka requests that the generator sends, written by hand at versions without tagged fields, which Apache
//! Kafka 4 and Millrace both accept: Produce 7, Fetch 11, ListOffsets 5, Metadata 8, CreateTopics 4, DeleteTopics 3,
//! ApiVersions 0.
//!
//! Produce and Fetch requests are templates in which only the correlation id, the partition and the offset change.
//! Bytes only: sockets are `admin.rs`'s and `engine.rs`'s business.

use crate::error::LoadError;

/// No head of a request is longer: template plus topic name.
pub const HEAD_BYTES_MAX: usize = 192;
/// No topic name of ours is longer.
pub const TOPIC_BYTES_MAX: usize = 48;

const CLIENT_ID: &str = "load";
const CORRELATION_AT: usize = 8;

/// Appends Kafka's primitive types to a frame; `finish` puts its length in front.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// A request with its header, correlation id 0.
    pub fn request(api_key: i16, version: i16) -> Self {
        let mut frame = Self(vec![0; 4]);
        frame.i16(api_key).i16(version).i32(0).string(CLIENT_ID);
        frame
    }

    /// Without a header.
    #[cfg(test)]
    pub(crate) fn answer() -> Self {
        Self(vec![0; 4])
    }

    pub fn i8(&mut self, value: i8) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i16(&mut self, value: i16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn string(&mut self, value: &str) -> &mut Self {
        self.i16(value.len() as i16).raw(value.as_bytes())
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The frame, told to be followed by `body_bytes` that are sent behind it.
    pub fn finish(mut self, body_bytes: usize) -> Vec<u8> {
        let length = (self.0.len() - 4 + body_bytes) as i32;
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// A request that is sent many times with little changes.
#[derive(Clone, Debug)]
pub struct Template {
    head: [u8; HEAD_BYTES_MAX],
    len: usize,
    partition_at: usize,
    offset_at: Option<usize>,
}

/// One request of a template; its first [`Template::len`] bytes count.
pub type Head = [u8; HEAD_BYTES_MAX];

impl Template {
    /// Produce 7 of one batch of `batch_bytes` to one partition.
    pub fn produce(topic: &str, acks: i16, batch_bytes: usize) -> Self {
        let mut frame = Frame::request(0, 7);
        frame.i16(-1).i16(acks).i32(30_000).i32(1).string(topic).i32(1);
        let partition_at = frame.0.len();
        frame.i32(0).i32(batch_bytes as i32);
        Self::new(&frame.finish(batch_bytes), partition_at, None)
    }

    /// Fetch 11 of up to `fetch_bytes` from one partition, outside of any fetch session.
    pub fn fetch(topic: &str, fetch_bytes: i32) -> Self {
        let mut frame = Frame::request(1, 11);
        frame.i32(-1).i32(500).i32(1).i32(fetch_bytes).i8(0).i32(0).i32(-1);
        frame.i32(1).string(topic).i32(1);
        let partition_at = frame.0.len();
        frame.i32(0).i32(-1);
        let offset_at = frame.0.len();
        frame.i64(0).i64(-1).i32(fetch_bytes).i32(0).string("");
        Self::new(&frame.finish(0), partition_at, Some(offset_at))
    }

    fn new(bytes: &[u8], partition_at: usize, offset_at: Option<usize>) -> Self {
        let mut head = [0; HEAD_BYTES_MAX];
        head[..bytes.len()].copy_from_slice(bytes);
        Self { head, len: bytes.len(), partition_at, offset_at }
    }

    /// How many bytes of a head go onto the wire.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a request has a header.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One request. `offset` is for Fetch only.
    pub fn head(&self, correlation: i32, partition: u32, offset: i64) -> Head {
        let mut head = self.head;
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(CORRELATION_AT, &correlation.to_be_bytes());
        put(self.partition_at, &(partition as i32).to_be_bytes());
        if let Some(at) = self.offset_at {
            put(at, &offset.to_be_bytes());
        }
        head
    }
}

/// Takes Kafka's primitive types off the front of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a>(pub &'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], LoadError> {
        let (front, rest) =
            self.0.split_at_checked(count).ok_or(LoadError::Malformed("too short"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let front = self.take(N)?;
        front.try_into().map_err(|_| LoadError::Malformed("too short"))
    }

    pub fn skip(&mut self, count: usize) -> Result<(), LoadError> {
        self.take(count).map(drop)
    }

    pub fn i8(&mut self) -> Result<i8, LoadError> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, LoadError> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, LoadError> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, LoadError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A length of -1 is null and taken as empty.
    pub fn string(&mut self) -> Result<&'a [u8], LoadError> {
        let length = self.i16()?.max(0);
        self.take(length as usize)
    }

    /// The length of an array; null is taken as empty.
    pub fn count(&mut self) -> Result<usize, LoadError> {
        Ok(self.i32()?.max(0) as usize)
    }

    fn one(&mut self) -> Result<(), LoadError> {
        if self.count()? == 1 { Ok(()) } else { Err(LoadError::Malformed("not one entry")) }
    }
}

/// What an answer to Produce 7 of one partition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub correlation: i32,
    pub error: i16,
    pub base_offset: i64,
}

impl Produced {
    /// # Errors
    /// When `frame`, without its length, is no such answer.
    pub fn read(frame: &[u8]) -> Result<Self, LoadError> {
        let mut answer = Answer(frame);
        let correlation = answer.i32()?;
        answer.one()?;
        answer.string()?;
        answer.one()?;
        answer.i32()?;
        Ok(Self { correlation, error: answer.i16()?, base_offset: answer.i64()? })
    }
}

/// What the head of an answer to Fetch 11 of one partition says; the records follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub correlation: i32,
    pub error: i16,
    pub high_watermark: i64,
    pub records_bytes: u32,
    /// Of the first batch, when there is one.
    pub base_offset: Option<i64>,
}

impl Fetched {
    /// # Errors
    /// When `head`, the first bytes of a frame without its length, is no such answer.
    pub fn read(head: &[u8]) -> Result<Self, LoadError> {
        let mut answer = Answer(head);
        let correlation = answer.i32()?;
        answer.i32()?;
        let error = answer.i16()?;
        answer.i32()?;
        if error != 0 {
            return Ok(Self {
                correlation,
                error,
                high_watermark: -1,
                records_bytes: 0,
                base_offset: None,
            });
        }
        answer.one()?;
        answer.string()?;
        answer.one()?;
        answer.i32()?;
        let error = answer.i16()?;
        let high_watermark = answer.i64()?;
        answer.skip(16)?;
        let aborted = answer.count()?;
        answer.skip(aborted.saturating_mul(16))?;
        answer.i32()?;
        let records_bytes = answer.i32()?.max(0) as u32;
        let base_offset = if records_bytes >= 8 { Some(answer.i64()?) } else { None };
        Ok(Self { correlation, error, high_watermark, records_bytes, base_offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_carries_its_own_length_correlation_partition_and_offset() {
        let template = Template::produce("t", -1, 1_000);
        let head = template.head(7, 3, 0);
        let mut answer = Answer(&head[..template.len()]);
        assert_eq!(answer.i32().unwrap() as usize, template.len() - 4 + 1_000);
        assert_eq!((answer.i16().unwrap(), answer.i16().unwrap()), (0, 7));
        assert_eq!(answer.i32().unwrap(), 7);
        assert_eq!(answer.string().unwrap(), b"load");
        assert_eq!((answer.i16().unwrap(), answer.i16().unwrap()), (-1, -1));
        assert_eq!((answer.i32().unwrap(), answer.i32().unwrap()), (30_000, 1));
        assert_eq!(answer.string().unwrap(), b"t");
        assert_eq!((answer.i32().unwrap(), answer.i32().unwrap()), (1, 3));
        assert_eq!(answer.i32().unwrap(), 1_000);
        assert!(answer.0.is_empty());

        let template = Template::fetch("t", 1 << 20);
        let head = template.head(1, 2, 99);
        let at = template.offset_at.unwrap();
        assert_eq!(head[at..at + 8], 99_i64.to_be_bytes());
    }

    #[test]
    fn the_longest_topic_fits_into_a_head() {
        let topic = "x".repeat(TOPIC_BYTES_MAX);
        assert!(Template::produce(&topic, 1, 1).len() <= HEAD_BYTES_MAX);
        assert!(Template::fetch(&topic, 1).len() <= HEAD_BYTES_MAX);
    }

    #[test]
    fn answers_are_read_and_short_ones_refused() {
        let mut frame = Frame(Vec::new());
        frame.i32(5).i32(1).string("t").i32(1).i32(0).i16(6).i64(-1).i64(-1).i64(-1).i32(0);
        let produced = Produced::read(&frame.0).unwrap();
        assert_eq!(produced, Produced { correlation: 5, error: 6, base_offset: -1 });
        assert!(Produced::read(&frame.0[..20]).is_err());

        let mut frame = Frame(Vec::new());
        frame.i32(5).i32(0).i16(0).i32(0).i32(1).string("t").i32(1);
        frame.i32(0).i16(0).i64(10).i64(10).i64(0).i32(-1).i32(-1).i32(61).i64(4);
        let fetched = Fetched::read(&frame.0).unwrap();
        assert_eq!((fetched.high_watermark, fetched.records_bytes), (10, 61));
        assert_eq!((fetched.error, fetched.base_offset), (0, Some(4)));
        assert!(Fetched::read(&frame.0[..40]).is_err());
    }
}
