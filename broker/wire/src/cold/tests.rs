//! The crate is the oracle here: it reads what we write and writes what we read.

mod counting;
mod hot;
mod requests;
mod responses;
mod rich;
mod sample;

use bytes::{Buf, Bytes};
use kafka_protocol::protocol::Decodable;

use super::messages::*;
use super::*;

#[test]
fn api_versions_shows_the_table() {
    let mut frame = encode_response(3, 7, api_versions()).unwrap().freeze();
    assert_eq!(frame.get_i32() as usize, frame.len());
    assert_eq!(frame.get_i32(), 7);
    let response = ApiVersionsResponse::decode(&mut frame, 3).unwrap();
    assert_eq!(response.api_keys.len(), TABLE.len());
    let produce = &response.api_keys[0];
    assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 11));
}

#[test]
fn an_api_versions_request_from_the_future_is_answered_in_version_0() {
    let frame = api_versions_unsupported(7);
    assert_eq!(&frame[..], b"\0\0\0\x10\0\0\0\x07\0\x23\0\0\0\x01\0\x12\0\0\0\x04");
}

#[test]
fn a_version_that_is_not_spoken_is_refused() {
    for version in [-1, 5, i16::MAX, i16::MIN] {
        let refused = decode_request::<ApiVersionsRequest>(version, Bytes::new()).unwrap_err();
        assert_eq!(refused, DecodeError::Version { api: "ApiVersions", version });
        let refused = encode_response(version, 0, ApiVersionsResponse::default()).unwrap_err();
        assert_eq!(refused, EncodeError::Version { api: "ApiVersions", version });
    }
}
