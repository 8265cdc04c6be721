//! Length-prefixed frames: cutting them out of what a connection has received.
//!
//! ```text
//! 0 size   i32, big-endian: bytes that follow
//! 4 bytes  a request header and body, or a response header and body
//! ```
//! No header is read here. The connection's read loop is the only caller; how far its buffer may grow is its business.

use bytes::{Bytes, BytesMut};

/// Bytes of the length prefix.
pub const PREFIX_BYTES: usize = 4;

/// What a buffer holds at its front.
#[derive(Debug, PartialEq, Eq)]
pub enum Split {
    /// A whole frame, without its prefix, cut off the buffer.
    Frame(Bytes),
    /// The buffer is untouched; at least this many more bytes have to come.
    Incomplete { needed: usize },
}

/// A prefix that no sane client sends: the connection cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame size {size} is negative")]
    Negative { size: i32 },
    #[error("frame size {size} is above the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
}

/// Cuts the first frame off `buffer`, without copying.
///
/// # Errors
/// A size that is negative or above `size_bytes_max`. This is seen as soon as the prefix is there, before any of the
/// frame: a TLS hello on a plain port reads as 369 MB.
pub fn split(buffer: &mut BytesMut, size_bytes_max: usize) -> Result<Split, FrameError> {
    let Some(size) = peek_size(buffer, size_bytes_max)? else {
        return Ok(Split::Incomplete { needed: PREFIX_BYTES - buffer.len() });
    };
    let whole = PREFIX_BYTES + size;
    if buffer.len() < whole {
        return Ok(Split::Incomplete { needed: whole - buffer.len() });
    }
    let mut frame = buffer.split_to(whole).freeze();
    Ok(Split::Frame(frame.split_off(PREFIX_BYTES)))
}

/// The size that the prefix at the front of `received` claims; none if the prefix is not all there.
///
/// # Errors
/// As [`split`].
pub fn peek_size(received: &[u8], size_bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = received.first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let size = i32::from_be_bytes(*prefix);
    let Ok(bytes) = usize::try_from(size) else {
        return Err(FrameError::Negative { size });
    };
    if bytes > size_bytes_max {
        return Err(FrameError::TooLarge { size: bytes, limit: size_bytes_max });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1000;

    fn check(input: &[u8], expected: Result<Split, FrameError>, left: &[u8]) {
        let mut buffer = BytesMut::from(input);
        assert_eq!(split(&mut buffer, LIMIT), expected, "{input:?}");
        assert_eq!(&buffer[..], left, "{input:?}");
    }

    #[test]
    fn a_frame_is_cut_once_it_is_whole() {
        check(b"", Ok(Split::Incomplete { needed: 4 }), b"");
        check(b"\0\0\0", Ok(Split::Incomplete { needed: 1 }), b"\0\0\0");
        check(b"\0\0\0\x02", Ok(Split::Incomplete { needed: 2 }), b"\0\0\0\x02");
        check(b"\0\0\0\x02a", Ok(Split::Incomplete { needed: 1 }), b"\0\0\0\x02a");
        check(b"\0\0\0\x02ab", Ok(Split::Frame(Bytes::from_static(b"ab"))), b"");
        check(b"\0\0\0\x02abcd", Ok(Split::Frame(Bytes::from_static(b"ab"))), b"cd");
        check(b"\0\0\0\0x", Ok(Split::Frame(Bytes::new())), b"x");
    }

    #[test]
    fn a_hostile_size_is_refused_before_the_frame_arrives() {
        for size in [-1, -2, i32::MIN] {
            let prefix = size.to_be_bytes();
            check(&prefix, Err(FrameError::Negative { size }), &prefix);
        }
        let tls = b"\x16\x03\x01\x00";
        check(tls, Err(FrameError::TooLarge { size: 369_295_616, limit: LIMIT }), tls);
        let above = 1001_u32.to_be_bytes();
        check(&above, Err(FrameError::TooLarge { size: 1001, limit: LIMIT }), &above);
        let at = 1000_u32.to_be_bytes();
        check(&at, Ok(Split::Incomplete { needed: 1000 }), &at);
    }

    proptest! {
        /// However a stream is chopped into reads, the same frames come out.
        #[test]
        fn frames_do_not_depend_on_the_reads(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
            read in 1_usize..70,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
                stream.extend_from_slice(frame);
            }
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in stream.chunks(read) {
                buffer.extend_from_slice(part);
                while let Split::Frame(frame) = split(&mut buffer, LIMIT).unwrap() {
                    seen.push(frame.to_vec());
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buffer.is_empty());
        }
    }
}
