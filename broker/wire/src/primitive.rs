//! The words that messages are made of: integers, strings, bytes, arrays, tagged fields, in their plain and their
//! compact ("flexible") form. Reading is bounded: a length or count is compared with the bytes that are left before
//! anything is done with it. The other files of this crate call it; the shell sees [`Text`], [`Uuid`] and the errors.
//!
//! ```text
//! string   i16 length, -1 null          compact: unsigned varint length + 1, 0 null
//! bytes    i32 length, -1 null          compact: likewise
//! array    i32 count,  -1 null          compact: likewise
//! varint   7 bits a byte, low first, high bit: more follow; at most 5 bytes
//! tags     varint count, then per field: varint tag, varint size, bytes. Flexible structs end with them
//! ```

use std::fmt;
use std::ops::Deref;

use bytes::{BufMut, Bytes, BytesMut};

/// A topic id as on the wire; all zeros means none.
pub type Uuid = [u8; 16];

/// Tagged fields per struct. Kafka's own messages have at most four.
pub const TAGS_MAX: usize = 64;

/// What a message may cost on the heap: this many times its own size plus [`HEAP_BYTES_FLOOR`], and never more than
/// [`HEAP_BYTES_MAX`]. The factor admits every list of ids and names that is worth sending: the worst honest one, names
/// of one letter, costs 16 times its bytes.
pub const HEAP_FACTOR: usize = 16;
pub const HEAP_BYTES_FLOOR: usize = 64 << 10;
pub const HEAP_BYTES_MAX: usize = 64 << 20;

/// Why bytes are not a message. The connection that sent them cannot be trusted to be in step any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{needed} bytes needed at {at}, {left} left")]
    Truncated { at: usize, needed: usize, left: usize },
    #[error("length {length} at {at} is negative")]
    Negative { at: usize, length: i32 },
    #[error("count {count} at {at} exceeds what {left} bytes can hold")]
    Count { at: usize, count: usize, left: usize },
    #[error("null at {at} where a value is required")]
    Null { at: usize },
    #[error("varint at {at} does not fit 32 bits")]
    Varint { at: usize },
    #[error("{count} tagged fields at {at}")]
    Tags { at: usize, count: usize },
    #[error("string at {at} is not UTF-8")]
    NotUtf8 { at: usize },
    #[error("tagged field {tag} at {at} has another size than its value")]
    TagSize { at: usize, tag: u32 },
    #[error("message would take more than {limit} bytes of memory")]
    Heap { limit: usize },
    #[error("version {version} of {api} is not spoken here")]
    Version { api: &'static str, version: i16 },
    #[error("malformed message: {reason}")]
    Malformed { reason: String },
}

/// Why an answer cannot be put into bytes: a bug of the caller or an answer beyond what a frame can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("frame of {size} bytes does not fit its length field")]
    TooLarge { size: u64 },
    #[error("version {version} of {api} is not spoken here")]
    Version { api: &'static str, version: i16 },
    #[error("version {version} names topics by the other kind of reference")]
    TopicRef { version: i16 },
    #[error("answer does not fit its version: {reason}")]
    Malformed { reason: String },
}

/// A string that shares the frame it came in.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text(Bytes);

impl Text {
    pub const fn from_static(text: &'static str) -> Text {
        Text(Bytes::from_static(text.as_bytes()))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a Text is made from UTF-8 only")
    }

    /// The text as bytes, still sharing its frame.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl TryFrom<Bytes> for Text {
    type Error = std::str::Utf8Error;

    fn try_from(bytes: Bytes) -> Result<Text, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Text(bytes))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Bytes::from(text))
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads a message from its front. Slices are borrowed; `Bytes::slice_ref` turns them into shared ones.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    size: usize,
    heap_left: usize,
    heap_limit: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        let heap_limit = bytes
            .len()
            .saturating_mul(HEAP_FACTOR)
            .saturating_add(HEAP_BYTES_FLOOR)
            .min(HEAP_BYTES_MAX);
        Reader { bytes, size: bytes.len(), heap_left: heap_limit, heap_limit }
    }

    pub(crate) fn at(&self) -> usize {
        self.size - self.bytes.len()
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn take(&mut self, size: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(size) else {
            return Err(DecodeError::Truncated { at: self.at(), needed: size, left: self.left() });
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn skip(&mut self, size: usize) -> Result<(), DecodeError> {
        self.take(size).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated { at: self.at(), needed: N, left: self.left() });
        };
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.array()
    }

    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        let at = self.at();
        let mut value: u64 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| DecodeError::Varint { at });
            }
        }
        Err(DecodeError::Varint { at })
    }

    /// A string's bytes, unchecked; none if null.
    pub(crate) fn string_bytes(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, DecodeError> {
        let length = if flexible { self.compact()? } else { self.short_length()? };
        length.map(|length| self.take(length)).transpose()
    }

    /// A string, checked to be UTF-8 and sharing `source`, of which this reader reads.
    pub(crate) fn string(
        &mut self,
        source: &Bytes,
        flexible: bool,
    ) -> Result<Option<Text>, DecodeError> {
        let at = self.at();
        let raw = self.string_bytes(flexible)?;
        raw.map(|raw| Text::try_from(source.slice_ref(raw)))
            .transpose()
            .map_err(|_| DecodeError::NotUtf8 { at })
    }

    /// A string that must not be null.
    pub(crate) fn text(&mut self, source: &Bytes, flexible: bool) -> Result<Text, DecodeError> {
        let at = self.at();
        self.string(source, flexible)?.ok_or(DecodeError::Null { at })
    }

    pub(crate) fn byte_string(&mut self, flexible: bool) -> Result<Option<&'a [u8]>, DecodeError> {
        let length = if flexible { self.compact()? } else { self.long_length()? };
        length.map(|length| self.take(length)).transpose()
    }

    /// The count of an array, none if null. What the bytes left cannot back, or what would cost more memory than the
    /// message may take, is refused here.
    pub(crate) fn count(
        &mut self,
        flexible: bool,
        element: Element,
    ) -> Result<Option<usize>, DecodeError> {
        let at = self.at();
        let Some(count) = (if flexible { self.compact()? } else { self.long_length()? }) else {
            return Ok(None);
        };
        let left = self.left();
        if count > left / element.wire_bytes_min.max(1) {
            return Err(DecodeError::Count { at, count, left });
        }
        self.charge(count.saturating_mul(element.heap_bytes))?;
        Ok(Some(count))
    }

    /// Takes `bytes` off what this message may cost on the heap.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        let limit = self.heap_limit;
        self.heap_left = self.heap_left.checked_sub(bytes).ok_or(DecodeError::Heap { limit })?;
        Ok(())
    }

    /// The number of tagged fields that follow.
    pub(crate) fn tag_count(&mut self, flexible: bool) -> Result<usize, DecodeError> {
        if !flexible {
            return Ok(0);
        }
        let at = self.at();
        let count = self.varint()? as usize;
        if count > TAGS_MAX {
            return Err(DecodeError::Tags { at, count });
        }
        Ok(count)
    }

    /// One tagged field: its number, and a reader of exactly its bytes.
    pub(crate) fn tag(&mut self) -> Result<(u32, Reader<'a>), DecodeError> {
        let tag = self.varint()?;
        let size = self.varint()? as usize;
        let mut field = self.clone();
        self.skip(size)?;
        field.bytes = field.take(size)?;
        // Positions in errors stay those of the message.
        field.size = self.at();
        Ok((tag, field))
    }

    pub(crate) fn skip_tags(&mut self, flexible: bool) -> Result<(), DecodeError> {
        for _ in 0..self.tag_count(flexible)? {
            self.tag()?;
        }
        Ok(())
    }

    fn compact(&mut self) -> Result<Option<usize>, DecodeError> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    fn short_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let at = self.at();
        let length = self.i16()?;
        to_length(i32::from(length), at)
    }

    fn long_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let at = self.at();
        let length = self.i32()?;
        to_length(length, at)
    }
}

fn to_length(length: i32, at: usize) -> Result<Option<usize>, DecodeError> {
    match usize::try_from(length) {
        Ok(length) => Ok(Some(length)),
        Err(_) if length == -1 => Ok(None),
        Err(_) => Err(DecodeError::Negative { at, length }),
    }
}

/// What one element of an array takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    /// The fewest bytes that can encode one.
    pub(crate) wire_bytes_min: usize,
    /// The bytes that one occupies once decoded, without what it points to.
    pub(crate) heap_bytes: usize,
}

/// The longest string of a version that is not flexible.
const STRING_BYTES_MAX: usize = i16::MAX as usize;

fn cut(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(STRING_BYTES_MAX)).0
}

/// Where encoded words go: into a buffer, or into a mere sum. One function writes to both, so sizes computed up front
/// cannot differ from what is written.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn i16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    /// The length of an array or byte string; none is null.
    fn length(&mut self, flexible: bool, length: Option<usize>) {
        if flexible {
            self.varint(length.map_or(0, |length| length as u32 + 1));
        } else {
            self.i32(length.map_or(-1, |length| length as i32));
        }
    }

    /// A text beyond 32 KiB is cut: names never are that long, and of a message the beginning says enough.
    fn string(&mut self, flexible: bool, text: Option<&str>) {
        let text = text.map(cut);
        if flexible {
            self.varint(text.map_or(0, |text| text.len() as u32 + 1));
        } else {
            self.i16(text.map_or(-1, |text| text.len() as i16));
        }
        self.put(text.unwrap_or_default().as_bytes());
    }

    /// The empty set of tagged fields.
    fn no_tags(&mut self, flexible: bool) {
        if flexible {
            self.put(&[0]);
        }
    }
}

/// Counts what would be written.
#[derive(Default)]
pub(crate) struct Size(pub(crate) usize);

impl Sink for Size {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTE: Element = Element { wire_bytes_min: 1, heap_bytes: 1 };

    #[test]
    fn varints_beyond_32_bits_are_refused() {
        let check = |bytes: &[u8], expected| assert_eq!(Reader::new(bytes).varint(), expected);
        check(b"\xff\xff\xff\xff\x0f", Ok(u32::MAX));
        check(b"\xff\xff\xff\xff\x10", Err(DecodeError::Varint { at: 0 }));
        check(b"\xff\xff\xff\xff\xff\x01", Err(DecodeError::Varint { at: 0 }));
        check(b"\x80\x00", Ok(0));
        check(b"\x80", Err(DecodeError::Truncated { at: 1, needed: 1, left: 0 }));
    }

    #[test]
    fn a_count_is_held_against_the_bytes_and_the_memory_it_would_take() {
        let check = |bytes: &[u8], element, expected| {
            assert_eq!(Reader::new(bytes).count(false, element), expected);
        };
        check(b"\0\0\0\x02ab", BYTE, Ok(Some(2)));
        check(b"\xff\xff\xff\xff", BYTE, Ok(None));
        check(b"\0\0\0\x03ab", BYTE, Err(DecodeError::Count { at: 0, count: 3, left: 2 }));
        let wide = Element { wire_bytes_min: 2, heap_bytes: 1 };
        check(b"\0\0\0\x02abc", wide, Err(DecodeError::Count { at: 0, count: 2, left: 3 }));
        let nothing = Element { wire_bytes_min: 0, heap_bytes: 0 };
        check(b"\0\0\0\x03ab", nothing, Err(DecodeError::Count { at: 0, count: 3, left: 2 }));
        let heavy = Element { wire_bytes_min: 1, heap_bytes: HEAP_BYTES_FLOOR };
        let limit = 6 * HEAP_FACTOR + HEAP_BYTES_FLOOR;
        check(b"\0\0\0\x01ab", heavy, Ok(Some(1)));
        check(b"\0\0\0\x02ab", heavy, Err(DecodeError::Heap { limit }));
        check(b"\xff\xff\xff\xfe", BYTE, Err(DecodeError::Negative { at: 0, length: -2 }));
    }

    #[test]
    fn more_tagged_fields_than_anyone_needs_are_refused() {
        let tags = |count: u8| {
            let mut bytes = vec![count];
            (0..count).for_each(|tag| bytes.extend_from_slice(&[tag, 0]));
            Reader::new(&bytes).skip_tags(true)
        };
        assert_eq!(tags(64), Ok(()));
        assert_eq!(tags(65), Err(DecodeError::Tags { at: 0, count: 65 }));
        let cut_short = Reader::new(b"\x01\x00\x05ab").skip_tags(true);
        assert_eq!(cut_short, Err(DecodeError::Truncated { at: 3, needed: 5, left: 2 }));
    }

    #[test]
    fn a_tagged_field_is_read_in_its_own_bounds() {
        let mut reader = Reader::new(b"\x07\x02abrest");
        let (tag, mut field) = reader.tag().unwrap();
        assert_eq!((tag, field.take(2), field.left()), (7, Ok(&b"ab"[..]), 0));
        assert_eq!(field.i8(), Err(DecodeError::Truncated { at: 4, needed: 1, left: 0 }));
        assert_eq!(reader.take(4), Ok(&b"rest"[..]));
    }

    #[test]
    fn a_text_is_utf8() {
        let bytes = Bytes::from_static(b"\0\x02\xff\xfe");
        let read = Reader::new(&bytes).text(&bytes, false);
        assert_eq!(read, Err(DecodeError::NotUtf8 { at: 0 }));
        let null = Bytes::from_static(b"\xff\xff");
        assert_eq!(Reader::new(&null).string(&null, false), Ok(None));
        assert_eq!(Reader::new(&null).text(&null, false), Err(DecodeError::Null { at: 0 }));
    }

    #[test]
    fn a_text_too_long_for_its_length_field_is_cut_between_letters() {
        let long = "é".repeat(20_000);
        let mut out = BytesMut::new();
        out.string(false, Some(&long));
        assert_eq!(out.len(), 2 + 32_766);
        assert_eq!(out[..2], 32_766_i16.to_be_bytes());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            number in any::<u32>(),
            text in ".{0,200}",
            flexible in any::<bool>(),
            null in any::<bool>(),
        ) {
            let text = (!null).then(|| Text::from(text));
            let mut out = BytesMut::new();
            let mut size = Size::default();
            out.varint(number);
            size.varint(number);
            out.string(flexible, text.as_deref());
            size.string(flexible, text.as_deref());
            prop_assert_eq!(size.0, out.len());
            let bytes = out.freeze();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(number));
            prop_assert_eq!(reader.string(&bytes, flexible), Ok(text));
            prop_assert_eq!(reader.left(), 0);
        }
    }
}
