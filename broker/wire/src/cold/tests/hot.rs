//! Produce and Fetch, which are written by hand, against the crate: it must write the bytes that we read, and the bytes
//! that we write.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::messages::{
    fetch_request as their_fetch, fetch_response as their_fetched,
    produce_request as their_produce, produce_response as their_produced,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::counting::cost_of;
use crate::cold::messages::{BrokerId, ProducerId, TopicName, TransactionalId};
use crate::cold::{topic_id, topic_id_bytes};
use crate::error_code::ErrorCode;
use crate::few::Few;
use crate::frame::{self, Split};
use crate::primitive::{DecodeError, EncodeError, HEAP_BYTES_FLOOR, HEAP_FACTOR, Text};
use crate::{ApiKey, fetch, header, produce};

fn written(message: &impl Encodable, version: i16) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out, version).unwrap();
    out.freeze()
}

/// Length prefix and response header in front of a body.
fn framed(api: ApiKey, version: i16, correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_i32((header::response_header_bytes(api, version) + body.len()) as i32);
    header::put_response_header(&mut out, api, version, correlation_id);
    out.put_slice(body);
    out
}

fn text() -> impl Strategy<Value = Text> {
    "[a-z.é]{0,12}".prop_map(Text::from)
}

fn name(text: &Text) -> TopicName {
    TopicName(text.clone().into())
}

fn records() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn error_code() -> impl Strategy<Value = ErrorCode> {
    prop::sample::select(ErrorCode::ALL)
}

/// Mostly one, as in life.
fn few<T: Clone + std::fmt::Debug>(
    element: impl Strategy<Value = T>,
) -> impl Strategy<Value = Few<T>> {
    vec(element, 0..4).prop_map(Few::from)
}

fn uuid() -> impl Strategy<Value = [u8; 16]> {
    any::<[u8; 16]>()
}

prop_compose! {
    fn produce_request()(
        transactional_id in option::of(text()),
        acks in any::<i16>(),
        timeout_ms in any::<i32>(),
        topics in few(produce_topic()),
    ) -> produce::Request {
        produce::Request { transactional_id, acks, timeout_ms, topics }
    }
}

prop_compose! {
    fn produce_topic()(name in text(), partitions in few(produce_partition())) -> produce::Topic {
        produce::Topic { name, partitions }
    }
}

prop_compose! {
    fn produce_partition()(
        index in any::<i32>(),
        records in option::of(records()),
    ) -> produce::Partition {
        produce::Partition { index, records }
    }
}

fn their_produce_request(request: &produce::Request) -> theirs::ProduceRequest {
    let partition = |partition: &produce::Partition| {
        their_produce::PartitionProduceData::default()
            .with_index(partition.index)
            .with_records(partition.records.clone())
    };
    let topic = |topic: &produce::Topic| {
        their_produce::TopicProduceData::default()
            .with_name(name(&topic.name))
            .with_partition_data(topic.partitions.iter().map(partition).collect())
    };
    let id = request.transactional_id.clone();
    theirs::ProduceRequest::default()
        .with_transactional_id(id.map(|id| TransactionalId(id.into())))
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(request.topics.iter().map(topic).collect())
}

prop_compose! {
    fn leader()(leader_id in any::<i32>(), leader_epoch in any::<i32>()) -> produce::CurrentLeader {
        produce::CurrentLeader { leader_id, leader_epoch }
    }
}

prop_compose! {
    fn endpoint()(
        node_id in any::<i32>(),
        host in text(),
        port in any::<i32>(),
        rack in option::of(text()),
    ) -> produce::NodeEndpoint {
        produce::NodeEndpoint { node_id, host, port, rack }
    }
}

prop_compose! {
    fn produced_partition()(
        (index, error_code) in (any::<i32>(), error_code()),
        (base_offset, log_append_time_ms) in (any::<i64>(), any::<i64>()),
        log_start_offset in any::<i64>(),
        errors in vec((any::<i32>(), option::of(text())), 0..3),
        error_message in option::of(text()),
        current_leader in option::of(leader()),
    ) -> produce::PartitionResponse {
        let record_errors = errors
            .into_iter()
            .map(|(batch_index, message)| produce::RecordError { batch_index, message })
            .collect();
        produce::PartitionResponse {
            index, error_code, base_offset, log_append_time_ms, log_start_offset, record_errors,
            error_message, current_leader,
        }
    }
}

prop_compose! {
    fn produce_response()(
        topics in few((text(), few(produced_partition()))
            .prop_map(|(name, partitions)| produce::TopicResponse { name, partitions })),
        throttle_time_ms in any::<i32>(),
        node_endpoints in vec(endpoint(), 0..3),
    ) -> produce::Response {
        produce::Response { topics, throttle_time_ms, node_endpoints }
    }
}

/// What the crate would send, without what the version lacks.
fn their_produce_response(version: i16, response: &produce::Response) -> theirs::ProduceResponse {
    let partition = |partition: &produce::PartitionResponse| {
        let mut theirs = their_produced::PartitionProduceResponse::default()
            .with_index(partition.index)
            .with_error_code(partition.error_code.code())
            .with_base_offset(partition.base_offset)
            .with_log_append_time_ms(partition.log_append_time_ms)
            .with_log_start_offset(partition.log_start_offset)
            .with_error_message(None);
        if version >= 8 {
            let error = |error: &produce::RecordError| {
                their_produced::BatchIndexAndErrorMessage::default()
                    .with_batch_index(error.batch_index)
                    .with_batch_index_error_message(error.message.clone().map(StrBytes::from))
            };
            theirs.record_errors = partition.record_errors.iter().map(error).collect();
            theirs.error_message = partition.error_message.clone().map(StrBytes::from);
        }
        if let Some(leader) = partition.current_leader.filter(|_| version >= 10) {
            theirs.current_leader.leader_id = BrokerId(leader.leader_id);
            theirs.current_leader.leader_epoch = leader.leader_epoch;
        }
        theirs
    };
    let topic = |topic: &produce::TopicResponse| {
        their_produced::TopicProduceResponse::default()
            .with_name(name(&topic.name))
            .with_partition_responses(topic.partitions.iter().map(partition).collect())
    };
    let endpoint = |endpoint: &produce::NodeEndpoint| {
        their_produced::NodeEndpoint::default()
            .with_node_id(BrokerId(endpoint.node_id))
            .with_host(endpoint.host.clone().into())
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.clone().map(StrBytes::from))
    };
    let endpoints = response.node_endpoints.iter().filter(|_| version >= 10);
    theirs::ProduceResponse::default()
        .with_responses(response.topics.iter().map(topic).collect())
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_node_endpoints(endpoints.map(endpoint).collect())
}

fn produce_versions() -> std::ops::RangeInclusive<i16> {
    ApiKey::Produce.row().min..=ApiKey::Produce.row().max
}

fn fetch_versions() -> std::ops::RangeInclusive<i16> {
    ApiKey::Fetch.row().min..=ApiKey::Fetch.row().max
}

proptest! {
    #[test]
    fn produce_requests_decode_to_what_was_encoded(request in produce_request()) {
        for version in produce_versions() {
            let body = written(&their_produce_request(&request), version);
            prop_assert_eq!(&produce::decode(version, &body).unwrap(), &request);
        }
    }

    #[test]
    fn produce_responses_are_the_bytes_of_the_crate(
        response in produce_response(),
        correlation_id in any::<i32>(),
    ) {
        for version in produce_versions() {
            let mut out = BytesMut::from(&b"before"[..]);
            produce::encode(version, correlation_id, &response, &mut out).unwrap();
            let body = written(&their_produce_response(version, &response), version);
            let expected = framed(ApiKey::Produce, version, correlation_id, &body);
            prop_assert_eq!(&out[..6], b"before");
            prop_assert_eq!(&out[6..], &expected[..], "version {}", version);
        }
    }
}

prop_compose! {
    fn fetch_partition()(
        index in any::<i32>(),
        (current_leader_epoch, last_fetched_epoch) in (any::<i32>(), any::<i32>()),
        (fetch_offset, log_start_offset) in (any::<i64>(), any::<i64>()),
        max_bytes in any::<i32>(),
    ) -> fetch::Partition {
        fetch::Partition {
            index, current_leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset, max_bytes,
        }
    }
}

/// A topic by both its references; a version keeps one.
type BothRefs<T> = (Text, [u8; 16], T);

#[derive(Clone, Debug)]
struct FetchAsked {
    request: fetch::Request,
    topics: Vec<BothRefs<Few<fetch::Partition>>>,
    forgotten: Vec<BothRefs<Few<i32>>>,
}

prop_compose! {
    fn fetch_asked()(
        (replica_id, replica_epoch) in (any::<i32>(), any::<i64>()),
        (max_wait_ms, min_bytes, max_bytes) in (any::<i32>(), any::<i32>(), any::<i32>()),
        isolation_level in any::<i8>(),
        (session_id, session_epoch) in (any::<i32>(), any::<i32>()),
        topics in vec((text(), uuid(), few(fetch_partition())), 0..4),
        forgotten in vec((text(), uuid(), few(any::<i32>())), 0..4),
        rack_id in text(),
        cluster_id in option::of(text()),
    ) -> FetchAsked {
        let request = fetch::Request {
            replica_id, replica_epoch, max_wait_ms, min_bytes, max_bytes, isolation_level,
            session_id, session_epoch, topics: Few::new(), forgotten: Few::new(), rack_id, cluster_id,
        };
        FetchAsked { request, topics, forgotten }
    }
}

fn topic_ref(version: i16, name: &Text, id: [u8; 16]) -> fetch::TopicRef {
    if version >= 13 { fetch::TopicRef::Id(id) } else { fetch::TopicRef::Name(name.clone()) }
}

/// What a broker is to see of `asked` in this version.
fn expected_fetch(version: i16, asked: &FetchAsked) -> fetch::Request {
    let since = |from: i16| version >= from;
    let partition = |partition: &fetch::Partition| fetch::Partition {
        current_leader_epoch: if since(9) { partition.current_leader_epoch } else { -1 },
        last_fetched_epoch: if since(12) { partition.last_fetched_epoch } else { -1 },
        log_start_offset: if since(5) { partition.log_start_offset } else { -1 },
        ..*partition
    };
    let topics = asked.topics.iter().map(|(name, id, partitions)| fetch::Topic {
        topic: topic_ref(version, name, *id),
        partitions: partitions.iter().map(partition).collect(),
    });
    let forgotten = asked.forgotten.iter().filter(|_| since(7));
    let forgotten = forgotten.map(|(name, id, partitions)| fetch::Forgotten {
        topic: topic_ref(version, name, *id),
        partitions: partitions.clone(),
    });
    let request = asked.request.clone();
    fetch::Request {
        replica_epoch: if since(15) { request.replica_epoch } else { -1 },
        session_id: if since(7) { request.session_id } else { 0 },
        session_epoch: if since(7) { request.session_epoch } else { -1 },
        topics: topics.collect(),
        forgotten: forgotten.collect(),
        rack_id: if since(11) { request.rack_id } else { Text::default() },
        cluster_id: if since(12) { request.cluster_id } else { None },
        ..request
    }
}

fn their_fetch_request(version: i16, asked: &FetchAsked) -> theirs::FetchRequest {
    let since = |from: i16| version >= from;
    let partition = |partition: &fetch::Partition| {
        let mut theirs = their_fetch::FetchPartition::default()
            .with_partition(partition.index)
            .with_current_leader_epoch(partition.current_leader_epoch)
            .with_fetch_offset(partition.fetch_offset)
            .with_log_start_offset(partition.log_start_offset)
            .with_partition_max_bytes(partition.max_bytes);
        theirs.last_fetched_epoch = if since(12) { partition.last_fetched_epoch } else { -1 };
        if since(17) {
            theirs.replica_directory_id = topic_id([9; 16]);
        }
        theirs
    };
    let topics = asked.topics.iter().map(|(topic, id, partitions)| {
        their_fetch::FetchTopic::default()
            .with_topic(name(topic))
            .with_topic_id(topic_id(*id))
            .with_partitions(partitions.iter().map(partition).collect())
    });
    let forgotten = asked.forgotten.iter().filter(|_| since(7));
    let forgotten = forgotten.map(|(topic, id, partitions)| {
        their_fetch::ForgottenTopic::default()
            .with_topic(name(topic))
            .with_topic_id(topic_id(*id))
            .with_partitions(partitions.to_vec())
    });
    let request = &asked.request;
    let mut theirs = theirs::FetchRequest::default()
        .with_max_wait_ms(request.max_wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(request.isolation_level)
        .with_topics(topics.collect())
        .with_forgotten_topics_data(forgotten.collect());
    if since(7) {
        theirs.session_id = request.session_id;
        theirs.session_epoch = request.session_epoch;
    }
    if since(11) {
        theirs.rack_id = request.rack_id.clone().into();
    }
    if since(12) {
        theirs.cluster_id = request.cluster_id.clone().map(StrBytes::from);
    }
    if since(15) {
        theirs.replica_state.replica_id = BrokerId(request.replica_id);
        theirs.replica_state.replica_epoch = request.replica_epoch;
    } else {
        theirs.replica_id = BrokerId(request.replica_id);
    }
    theirs
}

prop_compose! {
    fn fetched_partition()(
        (index, error_code) in (any::<i32>(), error_code()),
        (high_watermark, last_stable_offset) in (any::<i64>(), any::<i64>()),
        log_start_offset in any::<i64>(),
        aborted in option::of(vec((any::<i64>(), any::<i64>()), 0..3)),
        preferred_read_replica in any::<i32>(),
        diverging in option::of((any::<i32>(), any::<i64>())),
        current_leader in option::of(leader()),
        records in few(records()),
    ) -> fetch::PartitionResponse<Bytes> {
        let transaction = |(producer_id, first_offset)| {
            fetch::AbortedTransaction { producer_id, first_offset }
        };
        fetch::PartitionResponse {
            index, error_code, high_watermark, last_stable_offset, log_start_offset,
            aborted_transactions: aborted
                .map(|aborted| aborted.into_iter().map(transaction).collect()),
            preferred_read_replica,
            diverging_epoch: diverging
                .map(|(epoch, end_offset)| fetch::DivergingEpoch { epoch, end_offset }),
            current_leader, records,
        }
    }
}

#[derive(Clone, Debug)]
struct Fetched {
    response: fetch::Response<Bytes>,
    topics: Vec<BothRefs<Few<fetch::PartitionResponse<Bytes>>>>,
}

prop_compose! {
    fn fetched()(
        throttle_time_ms in any::<i32>(),
        error_code in error_code(),
        session_id in any::<i32>(),
        topics in vec((text(), uuid(), few(fetched_partition())), 0..4),
        node_endpoints in vec(endpoint(), 0..3),
    ) -> Fetched {
        let response = fetch::Response {
            throttle_time_ms, error_code, session_id, topics: Few::new(), node_endpoints,
        };
        Fetched { response, topics }
    }
}

fn fetch_response(version: i16, fetched: &Fetched) -> fetch::Response<Bytes> {
    let topics = fetched.topics.iter().map(|(name, id, partitions)| fetch::TopicResponse {
        topic: topic_ref(version, name, *id),
        partitions: partitions.clone(),
    });
    fetch::Response { topics: topics.collect(), ..fetched.response.clone() }
}

/// What the crate would send, without what the version lacks.
fn their_fetch_response(version: i16, fetched: &Fetched) -> theirs::FetchResponse {
    let topics = fetched.topics.iter().map(|(topic, id, partitions)| {
        let partitions = partitions.iter().map(|partition| their_partition(version, partition));
        their_fetched::FetchableTopicResponse::default()
            .with_topic(name(topic))
            .with_topic_id(topic_id(*id))
            .with_partitions(partitions.collect())
    });
    let endpoint = |endpoint: &produce::NodeEndpoint| {
        their_fetched::NodeEndpoint::default()
            .with_node_id(BrokerId(endpoint.node_id))
            .with_host(endpoint.host.clone().into())
            .with_port(endpoint.port)
            .with_rack(endpoint.rack.clone().map(StrBytes::from))
    };
    let response = &fetched.response;
    let endpoints = response.node_endpoints.iter().filter(|_| version >= 16);
    theirs::FetchResponse::default()
        .with_throttle_time_ms(response.throttle_time_ms)
        .with_error_code(response.error_code.code())
        .with_session_id(if version >= 7 { response.session_id } else { 0 })
        .with_responses(topics.collect())
        .with_node_endpoints(endpoints.map(endpoint).collect())
}

fn their_partition(
    version: i16,
    partition: &fetch::PartitionResponse<Bytes>,
) -> their_fetched::PartitionData {
    let transaction = |transaction: &fetch::AbortedTransaction| {
        their_fetched::AbortedTransaction::default()
            .with_producer_id(ProducerId(transaction.producer_id))
            .with_first_offset(transaction.first_offset)
    };
    let aborted = partition.aborted_transactions.as_ref();
    let mut theirs = their_fetched::PartitionData::default()
        .with_partition_index(partition.index)
        .with_error_code(partition.error_code.code())
        .with_high_watermark(partition.high_watermark)
        .with_last_stable_offset(partition.last_stable_offset)
        .with_log_start_offset(partition.log_start_offset)
        .with_aborted_transactions(aborted.map(|list| list.iter().map(transaction).collect()))
        .with_records(Some(Bytes::from(partition.records.concat())));
    if version >= 11 {
        theirs.preferred_read_replica = BrokerId(partition.preferred_read_replica);
    }
    if let Some(diverging) = partition.diverging_epoch.filter(|_| version >= 12) {
        theirs.diverging_epoch.epoch = diverging.epoch;
        theirs.diverging_epoch.end_offset = diverging.end_offset;
    }
    if let Some(leader) = partition.current_leader.filter(|_| version >= 12) {
        theirs.current_leader.leader_id = BrokerId(leader.leader_id);
        theirs.current_leader.leader_epoch = leader.leader_epoch;
    }
    theirs
}

/// All chunks in one; records must come through as the very bytes that were put in.
fn joined(encoded: fetch::Encoded<Bytes>) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in &encoded.chunks {
        let (fetch::Chunk::Fields(bytes) | fetch::Chunk::Records(bytes)) = chunk;
        assert!(!bytes.is_empty(), "an empty chunk");
        out.extend_from_slice(bytes);
    }
    assert_eq!(encoded.size_bytes, out.len());
    out
}

proptest! {
    #[test]
    fn fetch_requests_decode_to_what_was_encoded(asked in fetch_asked()) {
        for version in fetch_versions() {
            let body = written(&their_fetch_request(version, &asked), version);
            let request = fetch::decode(version, &body).unwrap();
            prop_assert_eq!(&request, &expected_fetch(version, &asked), "version {}", version);
        }
    }

    #[test]
    fn fetch_responses_are_the_bytes_of_the_crate(
        fetched in fetched(),
        correlation_id in any::<i32>(),
    ) {
        for version in fetch_versions() {
            let response = fetch_response(version, &fetched);
            let out = joined(fetch::encode(version, correlation_id, response).unwrap());
            let body = written(&their_fetch_response(version, &fetched), version);
            let expected = framed(ApiKey::Fetch, version, correlation_id, &body);
            prop_assert_eq!(out, expected, "version {}", version);
        }
    }

    #[test]
    fn hostile_bytes_are_bounded(
        asked in fetch_asked(),
        request in produce_request(),
        damage in vec((any::<u16>(), prop_oneof![Just(0xff_u8), Just(0x7f), Just(0), any::<u8>()]), 1..6),
    ) {
        for version in fetch_versions() {
            let body = damaged(&written(&their_fetch_request(version, &asked), version), &damage);
            let _ = bounded(body, |body| fetch::decode(version, body).map(|_| ()));
        }
        for version in produce_versions() {
            let body = damaged(&written(&their_produce_request(&request), version), &damage);
            let _ = bounded(body, |body| produce::decode(version, body).map(|_| ()));
        }
    }

    #[test]
    fn random_bytes_are_bounded(body in vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 0..120)) {
        for version in fetch_versions() {
            let _ = bounded(body.clone(), |body| fetch::decode(version, body).map(|_| ()));
        }
        for version in produce_versions() {
            let _ = bounded(body.clone(), |body| produce::decode(version, body).map(|_| ()));
        }
    }
}

fn damaged(body: &[u8], damage: &[(u16, u8)]) -> Vec<u8> {
    let mut body = body.to_vec();
    for &(at, byte) in damage {
        let at = usize::from(at) % body.len();
        body[at] = byte;
    }
    body
}

fn bounded(
    body: Vec<u8>,
    decode: impl FnOnce(&Bytes) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    const SHARED_BYTES: usize = 64;
    let size = body.len();
    let body = Bytes::from(body);
    let (result, cost) = cost_of(|| decode(&body));
    assert!(
        cost.bytes <= HEAP_FACTOR * size + HEAP_BYTES_FLOOR + SHARED_BYTES,
        "{cost:?} for {size}"
    );
    result
}

/// Every run of four bytes, then every two, becomes the largest and a negative length; every byte a huge varint.
/// Lengths are among them, and whatever is hit, nothing is reserved by it.
#[test]
fn no_length_can_lie() {
    let partition = fetch::Partition {
        index: 0,
        current_leader_epoch: 0,
        fetch_offset: 0,
        last_fetched_epoch: 0,
        log_start_offset: 0,
        max_bytes: 0,
    };
    let two = Few::from(vec![partition, partition]);
    let asked = FetchAsked {
        request: expected_fetch(
            17,
            &FetchAsked {
                request: fetch::Request {
                    replica_id: 1,
                    replica_epoch: 1,
                    max_wait_ms: 1,
                    min_bytes: 1,
                    max_bytes: 1,
                    isolation_level: 0,
                    session_id: 1,
                    session_epoch: 1,
                    topics: Few::new(),
                    forgotten: Few::new(),
                    rack_id: Text::from("rack"),
                    cluster_id: Some(Text::from("c")),
                },
                topics: Vec::new(),
                forgotten: Vec::new(),
            },
        ),
        topics: vec![(Text::from("topic"), [1; 16], two)],
        forgotten: vec![(Text::from("gone"), [1; 16], Few::from(vec![1, 2]))],
    };
    let produced =
        |index| produce::Partition { index, records: Some(Bytes::from_static(b"batch")) };
    let topic = produce::Topic {
        name: Text::from("topic"),
        partitions: Few::from(vec![produced(1), produced(2)]),
    };
    let request = produce::Request {
        transactional_id: Some(Text::from("t")),
        acks: -1,
        timeout_ms: 1,
        topics: Few::one(topic),
    };
    for version in fetch_versions() {
        let body = written(&their_fetch_request(version, &asked), version);
        lie_everywhere(&body, |body| fetch::decode(version, body).map(|_| ()));
    }
    for version in produce_versions() {
        let body = written(&their_produce_request(&request), version);
        lie_everywhere(&body, |body| produce::decode(version, body).map(|_| ()));
    }
}

fn lie_everywhere(honest: &[u8], decode: impl Fn(&Bytes) -> Result<(), DecodeError>) {
    const LIES: [(&[u8], usize); 8] = [
        (b"\x7f\xff\xff\xff", 4),
        (b"\xff\xff\xff\xfe", 4),
        (b"\x80\0\0\0", 4),
        (b"\x7f\xff", 2),
        (b"\xff\xfe", 2),
        (b"\xff\xff\xff\xff\x0f", 1),
        (b"\xff\xff\xff\xff\x07", 1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 1),
    ];
    assert_eq!(bounded(honest.to_vec(), &decode), Ok(()));
    let mut refused = 0;
    for (lie, told) in LIES {
        for at in 0..=honest.len() - told {
            let body = [&honest[..at], lie, &honest[at + told..]].concat();
            refused += usize::from(bounded(body, &decode).is_err());
        }
    }
    assert!(refused > 0);
}

/// The common request: one topic, one partition. Nothing of it is copied and nothing is allocated.
#[test]
fn producing_to_one_partition_allocates_nothing() {
    let partition = produce::Partition { index: 3, records: Some(Bytes::from(vec![7; 1000])) };
    let topic = produce::Topic { name: Text::from("topic"), partitions: Few::one(partition) };
    let request = produce::Request {
        transactional_id: None,
        acks: -1,
        timeout_ms: 30_000,
        topics: Few::one(topic),
    };
    let mut buffer = BytesMut::new();
    let body = written(&their_produce_request(&request), 11);
    buffer.put_i32(8 + 2 + 1 + body.len() as i32);
    buffer.put_slice(b"\0\0\0\x0b\0\0\0\x07\xff\xff\0");
    buffer.put_slice(&body);
    // What the connection has received before: the buffer is shared already.
    let earlier = buffer.clone();
    let _shared = buffer.split_off(buffer.len());

    let ((decoded, frame), cost) = cost_of(|| {
        let Ok(Split::Frame(frame)) = frame::split(&mut buffer, 1 << 20) else {
            panic!("no frame in {earlier:?}");
        };
        let peeked = header::peek(frame.clone()).unwrap();
        let body = peeked.into_body(ApiKey::Produce.row()).unwrap();
        (produce::decode(11, &body).unwrap(), frame)
    });
    assert_eq!(decoded, request);
    assert_eq!(cost.calls, 0, "{cost:?}");
    let records = decoded.topics[0].partitions[0].records.as_ref().unwrap();
    assert!(frame.as_ptr_range().contains(&records.as_ptr()), "records were copied");
}

#[test]
fn a_fetch_answer_costs_one_buffer_and_one_list() {
    let partition = |index| fetch::PartitionResponse {
        records: Few::one(Bytes::from_static(&[7; 100])),
        ..fetch::PartitionResponse::refused(index, ErrorCode::None)
    };
    let topic = fetch::TopicResponse {
        topic: fetch::TopicRef::Id([1; 16]),
        partitions: (0..100).map(partition).collect(),
    };
    let response = fetch::Response { topics: Few::one(topic), ..fetch::Response::default() };
    let (encoded, cost) = cost_of(|| fetch::encode(17, 1, response).unwrap());
    assert_eq!(encoded.chunks.len(), 201);
    // The buffer, the list of chunks, and the count of the buffer's owners.
    assert_eq!(cost.calls, 3, "{cost:?}");
}

#[test]
fn a_topic_by_the_other_reference_is_a_bug_that_shows() {
    let response = |topic| fetch::Response::<Bytes> {
        topics: Few::one(fetch::TopicResponse { topic, partitions: Few::new() }),
        ..fetch::Response::default()
    };
    let by_name = fetch::encode(13, 1, response(fetch::TopicRef::Name(Text::from("t"))));
    assert_eq!(by_name.unwrap_err(), EncodeError::TopicRef { version: 13 });
    let by_id = fetch::encode(12, 1, response(fetch::TopicRef::Id([0; 16])));
    assert_eq!(by_id.unwrap_err(), EncodeError::TopicRef { version: 12 });
}

#[test]
fn an_answer_above_two_gigabytes_is_refused() {
    #[derive(Clone, Debug)]
    struct Huge;
    impl fetch::Payload for Huge {
        fn len_bytes(&self) -> u64 {
            u64::MAX / 2
        }
    }
    let partition = fetch::PartitionResponse {
        records: Few::from(vec![Huge, Huge, Huge]),
        ..fetch::PartitionResponse::refused(0, ErrorCode::None)
    };
    let topic = fetch::TopicResponse {
        topic: fetch::TopicRef::Id([1; 16]),
        partitions: Few::from(vec![partition.clone(), partition]),
    };
    let response = fetch::Response { topics: Few::one(topic), ..fetch::Response::default() };
    let refused = fetch::encode(17, 1, response).unwrap_err();
    assert_eq!(refused, EncodeError::TooLarge { size: u64::MAX });
}

#[test]
fn versions_that_are_not_spoken_are_refused() {
    for version in [-1, 0, 2, 12, i16::MAX] {
        let refused = DecodeError::Version { api: "Produce", version };
        assert_eq!(produce::decode(version, &Bytes::new()), Err(refused));
    }
    for version in [-1, 0, 3, 18, i16::MAX] {
        let refused = DecodeError::Version { api: "Fetch", version };
        assert_eq!(fetch::decode(version, &Bytes::new()), Err(refused));
    }
}

#[test]
fn topic_ids_keep_their_bytes() {
    assert_eq!(topic_id_bytes(topic_id([3; 16])), [3; 16]);
}
