//! Requests: the schema says what the crate says, and no length can lie.

use bytes::Bytes;
use kafka_protocol::protocol::{Decodable, Encodable};
use proptest::prelude::*;

use super::counting::cost_of;
use super::sample::{Sampler, Style};
use crate::cold::messages::*;
use crate::cold::schema::{Form, Watch, check, request};
use crate::cold::shape::cold_apis;
use crate::cold::{Request, decode_request};
use crate::primitive::{DecodeError, HEAP_BYTES_FLOOR, HEAP_BYTES_MAX, HEAP_FACTOR};
use crate::{ApiKey, ApiRow, TABLE};

const SMALL: Style = Style { outer: 3, inner: 3, text: 9, tags: 2, at_most: true };
const FULL: Style = Style { outer: 2, inner: 2, text: 5, tags: 1, at_most: false };

fn body(row: &ApiRow, version: i16, style: Style, seed: u64) -> Vec<u8> {
    let fields = request(row.key).unwrap();
    Sampler { version, flexible: row.is_flexible(version), style, seed }.body(fields)
}

/// Every cold API at every version.
fn every_version(mut visit: impl FnMut(&'static ApiRow, i16)) {
    for row in TABLE.iter().filter(|row| request(row.key).is_some()) {
        (row.min..=row.max).for_each(|version| visit(row, version));
    }
}

/// The crate's own view, without our guard.
fn decode_then_encode<R: Decodable + Encodable>(version: i16, mut body: Bytes) -> Vec<u8> {
    let message = R::decode(&mut body, version).unwrap();
    assert!(body.is_empty(), "{} bytes left", body.len());
    let mut again = bytes::BytesMut::new();
    message.encode(&mut again, version).unwrap();
    assert_eq!(message.compute_size(version).unwrap(), again.len());
    again.to_vec()
}

macro_rules! by_api {
    ($($api:ident $request:ident $([$lift:ident])? $response:ident $([$lower:ident])?;)+) => {
        fn crate_round_trip(api: ApiKey, version: i16, body: Bytes) -> Vec<u8> {
            match api {
                $(ApiKey::$api => decode_then_encode::<$request>(version, body),)+
                ApiKey::Produce | ApiKey::Fetch => unreachable!("not cold"),
            }
        }

        /// The guarded decoder, whatever it decodes to.
        fn decode(api: ApiKey, version: i16, body: Bytes) -> Result<(), DecodeError> {
            match api {
                $(ApiKey::$api => decode_request::<$request>(version, body).map(|_| ()),)+
                ApiKey::Produce | ApiKey::Fetch => unreachable!("not cold"),
            }
        }

        /// Keys of requests and of the responses that belong to them.
        const PAIRS: &[(ApiKey, ApiKey)] = &[
            $((<$request as Request>::API,
               <<$request as Request>::Response as crate::cold::Response>::API),)+
        ];
    };
}

cold_apis!(by_api);

#[test]
fn every_cold_row_has_its_messages() {
    let cold: Vec<(ApiKey, ApiKey)> = TABLE
        .iter()
        .filter(|row| !matches!(row.key, ApiKey::Produce | ApiKey::Fetch))
        .map(|row| (row.key, row.key))
        .collect();
    let mut pairs = PAIRS.to_vec();
    pairs.sort();
    assert_eq!(pairs, cold);
}

proptest! {
    /// A schema and the crate cannot differ in a field, a version or an order without this noticing.
    #[test]
    fn schemas_and_the_crate_agree(seed in any::<u64>()) {
        every_version(|row, version| {
            let body = Bytes::from(body(row, version, SMALL, seed));
            let again = crate_round_trip(row.key, version, body.clone());
            assert_eq!(again, body, "{} {version}", row.name);
            decode(row.key, version, body).unwrap();
        });
    }

    #[test]
    fn hostile_bodies_are_bounded(seed in any::<u64>(), damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        every_version(|row, version| {
            let mut body = body(row, version, SMALL, seed);
            for &(at, byte) in &damage {
                let at = usize::from(at) % body.len().max(1);
                if let Some(hit) = body.get_mut(at) {
                    *hit = byte;
                }
            }
            let _ = bounded(row, version, body);
        });
    }

    #[test]
    fn random_bodies_are_bounded(body in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..80)) {
        every_version(|row, version| {
            let _ = bounded(row, version, body.clone());
        });
    }
}

/// Decodes, and holds the decoder to what it may allocate.
fn bounded(row: &ApiRow, version: i16, body: Vec<u8>) -> Result<(), DecodeError> {
    const ERROR_TEXT_BYTES: usize = 4096;
    let size = body.len();
    let body = Bytes::from(body);
    let (result, cost) = cost_of(|| decode(row.key, version, body));
    let limit = (HEAP_FACTOR * size + HEAP_BYTES_FLOOR).min(HEAP_BYTES_MAX) + ERROR_TEXT_BYTES;
    assert!(cost.bytes <= limit, "{} {version}: {cost:?} for {size} bytes", row.name);
    result
}

#[derive(Default)]
struct Lengths(Vec<(usize, Form)>);

impl Watch for Lengths {
    fn length(&mut self, at: usize, form: Form) {
        self.0.push((at, form));
    }
}

/// Every length replaced by a lie, one after the other: all are refused, and cost nothing.
#[test]
fn no_length_can_lie() {
    let mut lies = 0;
    every_version(|row, version| {
        let honest = body(row, version, FULL, 1);
        let mut lengths = Lengths::default();
        let fields = request(row.key).unwrap();
        check(fields, version, row.is_flexible(version), &honest, &mut lengths).unwrap();
        for (at, form) in lengths.0 {
            for lie in lies_of(form) {
                let body = with_lie(&honest, at, form, lie);
                let refused = bounded(row, version, body);
                assert!(refused.is_err(), "{} {version}: {form:?} at {at} as {lie:?}", row.name);
                lies += 1;
            }
        }
    });
    assert!(lies > 1000, "only {lies} lies were told");
}

fn lies_of(form: Form) -> &'static [&'static [u8]] {
    match form {
        Form::Short => &[b"\x7f\xff", b"\xff\xfe", b"\x80\x00"],
        Form::Long => &[b"\x7f\xff\xff\xff", b"\xff\xff\xff\xfe", b"\x80\0\0\0", b"\0\x01\0\0"],
        Form::Varint => &[
            b"\xff\xff\xff\xff\x0f",
            b"\xff\xff\xff\xff\x07",
            b"\x80\x80\x80\x80\x08",
            b"\xff\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x80\x80\x04",
        ],
    }
}

fn with_lie(honest: &[u8], at: usize, form: Form, lie: &[u8]) -> Vec<u8> {
    let rest = &honest[at..];
    let told = match form {
        Form::Short => 2,
        Form::Long => 4,
        Form::Varint => 1 + rest.iter().take_while(|&&byte| byte >= 0x80).count(),
    };
    [&honest[..at], lie, &rest[told..]].concat()
}

/// Elements that are as small as can be, as many as fit: what they cost once decoded is bounded too.
#[test]
fn many_small_elements_stay_within_the_budget() {
    const ELEMENTS: usize = 6_000;
    let mut refused = 0;
    every_version(|row, version| {
        for tags in [0, 1] {
            for text in [0, 1] {
                for (outer, inner) in [(ELEMENTS, 0), (2, ELEMENTS)] {
                    let style = Style { outer, inner, text, tags, at_most: false };
                    let small = Style { outer: 2, inner: 0, text, tags, at_most: false };
                    bounded(row, version, body(row, version, small, 1)).unwrap();
                    if depth(row.key) > 2 && inner > 0 {
                        continue;
                    }
                    refused +=
                        usize::from(bounded(row, version, body(row, version, style, 1)).is_err());
                }
            }
        }
    });
    assert!(refused > 0);
}

/// Arrays within arrays.
fn depth(api: ApiKey) -> usize {
    use crate::cold::schema::Kind;
    fn of(kind: Kind) -> usize {
        match kind {
            Kind::Array(element) => 1 + of(*element),
            Kind::Lifted(kind, _) => of(*kind),
            Kind::Struct(fields) => fields.iter().map(|field| of(field.kind)).max().unwrap_or(0),
            _ => 0,
        }
    }
    request(api).unwrap().iter().map(|field| of(field.kind)).max().unwrap_or(0)
}

/// Names of ordinary length are never refused for what they cost.
#[test]
fn large_honest_requests_pass() {
    const TOPICS: usize = 6_000;
    let style = Style { outer: TOPICS, inner: 1, text: 8, tags: 0, at_most: false };
    every_version(|row, version| bounded(row, version, body(row, version, style, 1)).unwrap());
}

#[test]
fn trailing_bytes_are_ignored() {
    let decoded: HeartbeatRequest =
        decode_request(0, Bytes::from_static(b"\0\x01g\0\0\0\x07\0\x01mxyz")).unwrap();
    assert_eq!((decoded.group_id.as_str(), decoded.generation_id), ("g", 7));
}

#[test]
fn a_null_where_a_value_is_due_is_refused() {
    let null_group = Bytes::from_static(b"\xff\xff\0\0\0\x07\0\x01m");
    assert!(matches!(
        decode_request::<HeartbeatRequest>(0, null_group),
        Err(DecodeError::Malformed { .. })
    ));
}

#[test]
fn old_requests_are_lifted_to_the_newest_shape() {
    let group = b"\0\x01g\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x05";
    let fetch: OffsetFetchRequest = decode_request(1, Bytes::from_static(group)).unwrap();
    let topics = fetch.groups[0].topics.as_ref().unwrap();
    assert_eq!((fetch.groups.len(), fetch.groups[0].group_id.as_str()), (1, "g"));
    assert_eq!((topics[0].name.as_str(), &topics[0].partition_indexes[..]), ("t", &[5][..]));

    let all = b"\0\x01g\xff\xff\xff\xff";
    let fetch: OffsetFetchRequest = decode_request(2, Bytes::from_static(all)).unwrap();
    assert_eq!(fetch.groups[0].topics, None);

    let key = Bytes::from_static(b"\0\x01k");
    let find: FindCoordinatorRequest = decode_request(0, key).unwrap();
    assert_eq!(find.coordinator_keys, ["k"].map(StrBytes::from_static_str));

    let leave: LeaveGroupRequest =
        decode_request(0, Bytes::from_static(b"\0\x01g\0\x01m")).unwrap();
    assert_eq!((leave.members.len(), leave.members[0].member_id.as_str()), (1, "m"));
    assert_eq!(leave.members[0].group_instance_id, None);

    let names = b"\0\0\0\x01\0\x01t\0\0\0\x09";
    let delete: DeleteTopicsRequest = decode_request(1, Bytes::from_static(names)).unwrap();
    assert_eq!(delete.topics[0].name.as_ref().unwrap().as_str(), "t");

    let everything = b"\0\0\0\0";
    let metadata: MetadataRequest = decode_request(0, Bytes::from_static(everything)).unwrap();
    assert_eq!(metadata.topics, None);
    let metadata: MetadataRequest = decode_request(1, Bytes::from_static(everything)).unwrap();
    assert_eq!(metadata.topics, Some(Vec::new()));
}
