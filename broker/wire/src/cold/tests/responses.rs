//! Responses: whatever a handler has filled in encodes at every version, and the crate reads it back.

use std::fmt::Debug;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::rich::Rich;
use crate::cold::messages::*;
use crate::cold::shape::cold_apis;
use crate::cold::{Response, encode_response};
use crate::header::response_header_bytes;

const CORRELATION: i32 = 0x0102_0304;

/// The answer as the client sees it, after frame and header have been checked.
fn received<R: Response + Decodable>(version: i16, response: R) -> R {
    let mut frame = encode_response(version, CORRELATION, response).unwrap().freeze();
    let name = R::API.row().name;
    assert_eq!(frame.get_i32() as usize, frame.len(), "{name} {version}");
    assert_eq!(frame.get_i32(), CORRELATION, "{name} {version}");
    if response_header_bytes(R::API, version) > 4 {
        assert_eq!(frame.get_u8(), 0, "{name} {version}");
    }
    let mut body = frame.clone();
    let response = R::decode(&mut body, version).unwrap();
    assert!(body.is_empty(), "{name} {version}");
    assert_eq!(written(version, &response), frame, "{name} {version}");
    response
}

fn written<R: Encodable>(version: i16, response: &R) -> Bytes {
    let mut out = BytesMut::new();
    response.encode(&mut out, version).unwrap();
    out.freeze()
}

fn rich_in_every_version<R: Response + Decodable + Rich + PartialEq + Debug>() {
    let row = R::API.row();
    for version in row.min..=row.max {
        let received = received(version, R::rich());
        if version == row.max {
            let mut expected = R::rich();
            expected.lower(version);
            assert_eq!(received, expected);
        }
    }
}

macro_rules! by_api {
    ($($api:ident $request:ident $([$lift:ident])? $response:ident $([$lower:ident])?;)+) => {
        #[test]
        fn every_response_encodes_at_every_version() {
            $(rich_in_every_version::<$response>();)+
        }

        #[test]
        fn every_empty_response_encodes_at_every_version() {
            $(for version in ApiRange::of::<$response>() {
                received(version, $response::default());
            })+
        }
    };
}

struct ApiRange;

impl ApiRange {
    fn of<R: Response>() -> std::ops::RangeInclusive<i16> {
        R::API.row().min..=R::API.row().max
    }
}

cold_apis!(by_api);

#[test]
fn offset_fetch_of_one_group_answers_in_the_old_place() {
    for version in 2..8 {
        let old = received(version, OffsetFetchResponse::rich());
        let new = &OffsetFetchResponse::rich().groups[0];
        assert_eq!(old.error_code, new.error_code);
        assert_eq!(old.topics.len(), 1);
        let (old, new) = (&old.topics[0].partitions[0], &new.topics[0].partitions[0]);
        assert_eq!(old.partition_index, new.partition_index);
        assert_eq!(old.committed_offset, new.committed_offset);
        assert_eq!(old.metadata, new.metadata);
        assert_eq!(old.error_code, new.error_code);
    }
}

#[test]
fn before_version_2_every_partition_carries_the_error_of_the_group() {
    let old = received(1, OffsetFetchResponse::rich());
    let group_error = OffsetFetchResponse::rich().groups[0].error_code;
    assert_eq!(old.topics[0].partitions[0].error_code, group_error);
}

#[test]
fn find_coordinator_of_one_key_answers_in_the_old_place() {
    let new = FindCoordinatorResponse::rich().coordinators.remove(0);
    for version in 0..4 {
        let old = received(version, FindCoordinatorResponse::rich());
        assert_eq!((old.node_id, old.port), (new.node_id, new.port));
        assert_eq!((&old.host, old.error_code), (&new.host, new.error_code));
    }
}

#[test]
fn leaving_alone_answers_with_the_error_of_the_member() {
    let mut response = LeaveGroupResponse::rich().with_error_code(0);
    response.members[0].error_code = 25;
    assert_eq!(received(2, response.clone()).error_code, 25);
    assert_eq!(received(3, response).error_code, 0);
}

#[test]
fn features_that_may_be_absent_are_hidden_from_old_clients() {
    let mut response = ApiVersionsResponse::rich();
    response.supported_features[0].min_version = 0;
    assert_eq!(received(3, response.clone()).supported_features.len(), 0);
    assert_eq!(received(4, response).supported_features.len(), 1);
}

#[test]
fn names_that_old_versions_require_are_never_null() {
    let metadata = MetadataResponse::default()
        .with_topics(vec![metadata_response::MetadataResponseTopic::default().with_name(None)]);
    assert_eq!(received(11, metadata.clone()).topics[0].name, Some(TopicName::default()));
    assert_eq!(received(12, metadata).topics[0].name, None);
    let joined = JoinGroupResponse::default().with_protocol_name(None);
    assert_eq!(received(6, joined.clone()).protocol_name, Some(StrBytes::default()));
    assert_eq!(received(7, joined).protocol_name, None);
}
