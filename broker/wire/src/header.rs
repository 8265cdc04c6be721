//! Request and response headers. A request is peeked at before anything of it is parsed, so that even an unknown API or
//! version can be answered or at least named in the log.
//!
//! ```text
//! request  0 api_key i16 | 2 api_version i16 | 4 correlation_id i32 | 8 client_id nullable string (i16 length)
//!          | v2, flexible versions: tagged fields        (the client id stays a non-compact string)
//! response 0 correlation_id i32 | v1, flexible versions: tagged fields
//! ```
//! `ApiVersions` is answered with response header v0 at every version: the client reads it before it knows the broker.

use std::borrow::Cow;

use bytes::{BufMut, Bytes};

use crate::primitive::{DecodeError, Reader};
use crate::{ApiKey, ApiRow};

/// The part of a request header that every version has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    /// As sent; need not be UTF-8. None if null, or if its length is nonsense (then [`Peeked::into_body`] says so).
    pub client_id: Option<Bytes>,
    frame: Bytes,
}

/// Bytes up to the client id.
const FIXED_BYTES: usize = 8;

/// Reads what every request begins with.
///
/// # Errors
/// Only if the frame is shorter than eight bytes. Keys, versions and client ids are not judged.
pub fn peek(frame: Bytes) -> Result<Peeked, DecodeError> {
    let mut reader = Reader::new(&frame);
    let api_key = reader.i16()?;
    let api_version = reader.i16()?;
    let correlation_id = reader.i32()?;
    let client_id = reader.string_bytes(false).ok().flatten().map(|raw| frame.slice_ref(raw));
    Ok(Peeked { api_key, api_version, correlation_id, client_id, frame })
}

impl Peeked {
    /// The client id for logs and metrics: what is not UTF-8 shows as replacement characters.
    pub fn client_id_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.client_id.as_deref().unwrap_or_default())
    }

    /// The rest of the header is checked and dropped; the message body remains.
    ///
    /// # Errors
    /// If the header is malformed: a client id longer than the frame, too many or too long tagged fields.
    pub fn into_body(self, row: &ApiRow) -> Result<Bytes, DecodeError> {
        let mut reader = Reader::new(&self.frame);
        reader.skip(FIXED_BYTES)?;
        reader.string_bytes(false)?;
        reader.skip_tags(row.is_flexible(self.api_version))?;
        let at = reader.at();
        Ok(self.frame.slice(at..))
    }
}

/// Bytes of the response header.
pub fn response_header_bytes(api: ApiKey, version: i16) -> usize {
    if has_tags(api, version) { 5 } else { 4 }
}

/// Writes the response header that belongs to `api` and `version`.
pub fn put_response_header(out: &mut impl BufMut, api: ApiKey, version: i16, correlation_id: i32) {
    out.put_i32(correlation_id);
    if has_tags(api, version) {
        out.put_u8(0);
    }
}

fn has_tags(api: ApiKey, version: i16) -> bool {
    api != ApiKey::ApiVersions && api.row().is_flexible(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(key: i16, version: i16, rest: &[u8]) -> Bytes {
        let mut frame = Vec::new();
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(77);
        frame.put_slice(rest);
        Bytes::from(frame)
    }

    #[test]
    fn a_plain_header_ends_after_the_client_id() {
        let peeked = peek(frame(3, 8, b"\0\x02idbody")).unwrap();
        assert_eq!((peeked.api_key, peeked.api_version, peeked.correlation_id), (3, 8, 77));
        assert_eq!(peeked.client_id_lossy(), "id");
        assert_eq!(peeked.into_body(ApiKey::Metadata.row()).unwrap(), "body");
    }

    #[test]
    fn a_flexible_header_ends_after_its_tags() {
        let plain = peek(frame(3, 9, b"\xff\xff\0body")).unwrap();
        assert_eq!(plain.client_id, None);
        assert_eq!(plain.into_body(ApiKey::Metadata.row()).unwrap(), "body");
        let tagged = peek(frame(3, 9, b"\0\x02id\x02\x00\x03abc\x05\x00body")).unwrap();
        assert_eq!(tagged.into_body(ApiKey::Metadata.row()).unwrap(), "body");
    }

    #[test]
    fn a_client_id_need_not_be_utf8() {
        let peeked = peek(frame(3, 1, b"\0\x02\xff\xfebody")).unwrap();
        assert_eq!(peeked.client_id_lossy(), "\u{fffd}\u{fffd}");
        assert_eq!(peeked.into_body(ApiKey::Metadata.row()).unwrap(), "body");
    }

    #[test]
    fn a_broken_client_id_leaves_key_and_correlation_readable() {
        for rest in [&b"\x7f\xffid"[..], b"\xff\xfeid", b"\0", b""] {
            let peeked = peek(frame(999, 99, rest)).unwrap();
            assert_eq!((peeked.api_key, peeked.api_version, peeked.correlation_id), (999, 99, 77));
            assert_eq!(peeked.client_id, None);
            assert!(peeked.into_body(ApiKey::Metadata.row()).is_err());
        }
    }

    #[test]
    fn a_frame_below_eight_bytes_is_refused() {
        for size in 0..8 {
            assert!(peek(Bytes::from(vec![0; size])).is_err());
        }
    }

    #[test]
    fn api_versions_is_answered_with_the_plain_header() {
        let check = |api, version, expected: &[u8]| {
            let mut out = Vec::new();
            put_response_header(&mut out, api, version, 7);
            assert_eq!(out, expected);
            assert_eq!(response_header_bytes(api, version), expected.len());
        };
        check(ApiKey::ApiVersions, 3, &[0, 0, 0, 7]);
        check(ApiKey::Metadata, 8, &[0, 0, 0, 7]);
        check(ApiKey::Metadata, 9, &[0, 0, 0, 7, 0]);
        check(ApiKey::OffsetDelete, 0, &[0, 0, 0, 7]);
        check(ApiKey::DescribeCluster, 0, &[0, 0, 0, 7, 0]);
    }

    proptest! {
        #[test]
        fn hostile_headers_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(peeked) = peek(Bytes::from(bytes)) {
                let _ = peeked.client_id_lossy();
                for row in crate::TABLE {
                    let _ = peeked.clone().into_body(row);
                }
            }
        }
    }
}
