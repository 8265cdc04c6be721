//! The gRPC door's administration, by the generated client, against a broker process. What it does is looked at through
//! the Kafka door.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use kafka_protocol::messages::DescribeClusterRequest as KafkaDescribeCluster;
use millrace_model::compression::Codec;
use millrace_model::consumer_protocol::Subscription;
use millrace_model::ids::TopicId;
use millrace_proto::v1::admin_service_client::AdminServiceClient;
use millrace_proto::v1::describe_config_request::Resource;
use millrace_proto::v1::position::At;
use millrace_proto::v1::{
    AddPartitionsRequest, AlterConfigRequest, ConfigDescription, ConfigEntry, CreateTopicRequest,
    DeleteBefore, DeleteGroupRequest, DeleteOffsetsRequest, DeleteRecordsRequest,
    DeleteTopicRequest, DescribeClusterRequest, DescribeConfigRequest, DescribeGroupRequest,
    DescribeTopicRequest, Edge, ItemStatus, ListGroupsRequest, ListOffsetsRequest,
    ListTopicsRequest, ListTopicsResponse, PartitionLag, Position, ResetOffsetsRequest,
    ResetOffsetsResponse, TopicPartition, TopicSummary, WatchLagRequest, WatchTopicsRequest,
};
use millrace_tests::ask::{EARLIEST, LATEST};
use millrace_tests::group::{self, JOIN_GROUP, Member, Offsets, committed};
use millrace_tests::kafka::Connection;
use millrace_tests::process::BrokerProcess;
use millrace_tests::records::{batch, now_ms, timed};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};
use tonic_types::StatusExt;

const BROKER: &str = env!("CARGO_BIN_EXE_millrace-broker");
/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;

type Admin = AdminServiceClient<Channel>;

/// A broker with both doors open.
async fn start(settings: &[&str]) -> (BrokerProcess, Admin, Connection) {
    let broker = BrokerProcess::start(BROKER, settings);
    let endpoint = Endpoint::from_shared(format!("http://{}", broker.grpc)).unwrap();
    let admin = AdminServiceClient::new(endpoint.connect().await.unwrap());
    let kafka = Connection::open(broker.kafka);
    (broker, admin, kafka)
}

/// The call failed, and says so in gRPC's code and Kafka's name.
#[track_caller]
fn refused<T: Debug>(answer: Result<Response<T>, Status>, code: Code, reason: &str) {
    check_refusal(&answer.unwrap_err(), code, reason);
}

#[track_caller]
fn check_refusal(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status}");
    let info = status.get_details_error_info().expect("every refusal has an ErrorInfo");
    assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "millrace"), "{status}");
    assert!(info.metadata.contains_key("kafka_code"));
    let may_retry = matches!(code, Code::Unavailable | Code::ResourceExhausted);
    assert_eq!(status.get_details_retry_info().is_some(), may_retry, "{status}");
}

#[track_caller]
fn item_refused(status: Option<&ItemStatus>, code: Code, reason: &str) {
    let status = status.unwrap();
    assert_eq!((status.code, status.reason.as_str()), (code as i32, reason), "{status:?}");
    assert!(!status.message.is_empty());
}

#[track_caller]
fn item_succeeded(status: Option<&ItemStatus>) {
    assert_eq!(status, Some(&ItemStatus::default()));
}

fn entry(name: &str, value: Option<&str>) -> ConfigEntry {
    ConfigEntry { name: name.into(), value: value.map(Into::into) }
}

fn new_topic(name: &str, partitions: i32) -> CreateTopicRequest {
    CreateTopicRequest { name: name.into(), partitions, ..CreateTopicRequest::default() }
}

fn at(at: At) -> Option<Position> {
    Some(Position { at: Some(at) })
}

fn edge(edge: Edge) -> Option<Position> {
    at(At::Edge(edge.into()))
}

fn offsets<const N: usize>(topic: &str, offsets: [(i32, i64); N]) -> Offsets {
    offsets.into_iter().map(|(partition, offset)| ((topic.to_owned(), partition), offset)).collect()
}

fn names(list: &ListTopicsResponse) -> Vec<&str> {
    list.topics.iter().map(|it| it.name.as_str()).collect()
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    next.expect("an answer or an error comes in time").map(|it| it.expect("the stream goes on"))
}

#[tokio::test]
async fn a_topic_created_here_is_there_for_kafka() {
    let (broker, mut admin, mut kafka) = start(&["num.partitions=2"]).await;
    let request = CreateTopicRequest {
        configs: vec![entry("retention.ms", Some("60000"))],
        replication_factor: 1,
        ..new_topic("orders", 3)
    };
    let created = admin.create_topic(request.clone()).await.unwrap().into_inner().topic.unwrap();
    let TopicSummary { name, id, partitions, replication_factor, internal } = created;
    assert_eq!((name.as_str(), partitions, replication_factor, internal), ("orders", 3, 1, false));
    assert_eq!(kafka.produce("orders", 2, &batch(&["x", "y"])), Ok(0));

    let described = DescribeTopicRequest { name: "orders".into() };
    let described = admin.describe_topic(described).await.unwrap().into_inner();
    assert_eq!(described.topic.as_ref().unwrap().id, id);
    assert_eq!(described.configs, [entry("retention.ms", Some("60000"))]);
    assert_eq!(described.partitions.len(), 3);
    let last = &described.partitions[2];
    assert_eq!((last.partition, last.log_start, last.high_watermark), (2, 0, 2));
    assert_eq!(last.replicas, [last.leader]);
    assert_eq!(last.in_sync_replicas, [last.leader]);
    assert!(last.size_bytes > 0);

    // And what Kafka creates is there for us, under the id that Kafka's tools show.
    let kafka_id = kafka.create_topic("by-kafka", 1, &[]);
    let listed = admin.list_topics(ListTopicsRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&listed), ["by-kafka", "orders"]);
    assert_eq!(listed.topics[0].id, TopicId(kafka_id).to_string());

    let defaults = admin.create_topic(new_topic("defaults", 0)).await.unwrap().into_inner();
    assert_eq!(defaults.topic.unwrap().partitions, 2);
    let only = CreateTopicRequest { validate_only: true, ..new_topic("never", 5) };
    let would_be = admin.create_topic(only).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((would_be.partitions, would_be.id.as_str()), (5, ""));
    assert_eq!(kafka.list_offset("never", 0, LATEST).error_code, UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(broker.metric("millrace_grpc_requests_total"), Some(5.0));
}

#[tokio::test]
async fn a_topic_that_cannot_be_is_refused() {
    let (_broker, mut admin, _kafka) = start(&[]).await;
    admin.create_topic(new_topic("there", 1)).await.unwrap();
    let invalid = Code::InvalidArgument;
    let again = admin.create_topic(new_topic("there", 1)).await;
    refused(again, Code::AlreadyExists, "TOPIC_ALREADY_EXISTS");
    for name in ["", "no/name", ".", "x\u{e4}", &"x".repeat(100_000)] {
        let answer = admin.create_topic(new_topic(name, 1)).await;
        refused(answer, invalid, "INVALID_TOPIC_EXCEPTION");
    }
    for partitions in [-1, -7] {
        let answer = admin.create_topic(new_topic("new", partitions)).await;
        refused(answer, invalid, "INVALID_PARTITIONS");
    }
    let mut with = async |request: CreateTopicRequest, code, reason| {
        refused(admin.create_topic(request).await, code, reason);
    };
    let factor = |factor| CreateTopicRequest { replication_factor: factor, ..new_topic("new", 1) };
    with(factor(2), invalid, "INVALID_REPLICATION_FACTOR").await;
    with(factor(-1), invalid, "INVALID_REPLICATION_FACTOR").await;
    with(factor(1 << 20), invalid, "INVALID_REQUEST").await;
    let config = |name, value| CreateTopicRequest {
        configs: vec![entry(name, value)],
        ..new_topic("new", 1)
    };
    with(config("no.such.setting", Some("1")), invalid, "INVALID_CONFIG").await;
    with(config("retention.ms", Some("soon")), invalid, "INVALID_CONFIG").await;
    let listed = admin.list_topics(ListTopicsRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&listed), ["there"]);
}

#[tokio::test]
async fn topics_grow_and_go() {
    let (_broker, mut admin, mut kafka) = start(&[]).await;
    kafka.create_topic("grows", 2, &[]);
    let grow = |partitions, validate_only| AddPartitionsRequest {
        topic: "grows".into(),
        partitions,
        validate_only,
    };
    admin.add_partitions(grow(4, true)).await.unwrap();
    assert_eq!(kafka.produce("grows", 3, &batch(&["x"])), Err(UNKNOWN_TOPIC_OR_PARTITION));
    admin.add_partitions(grow(4, false)).await.unwrap();
    assert_eq!(kafka.produce("grows", 3, &batch(&["x"])), Ok(0));
    let fewer = admin.add_partitions(grow(3, false)).await;
    refused(fewer, Code::InvalidArgument, "INVALID_PARTITIONS");
    let nowhere = AddPartitionsRequest { topic: "nowhere".into(), ..grow(3, false) };
    let nowhere = admin.add_partitions(nowhere).await;
    refused(nowhere, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");

    let named = |name: &str| DeleteTopicRequest { name: name.into() };
    admin.delete_topic(named("grows")).await.unwrap();
    assert_eq!(kafka.list_offset("grows", 0, LATEST).error_code, UNKNOWN_TOPIC_OR_PARTITION);
    let gone = admin.delete_topic(named("grows")).await;
    refused(gone, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    let gone = admin.describe_topic(DescribeTopicRequest { name: "grows".into() }).await;
    refused(gone, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");

    // The broker's own topic is shown to those who ask for it, and stays.
    committed(&mut kafka, "somebody").unwrap();
    let all = ListTopicsRequest { include_internal: true };
    let all = admin.list_topics(all).await.unwrap().into_inner();
    assert_eq!(names(&all), ["__consumer_offsets"]);
    assert!(all.topics[0].internal);
    let internal = admin.delete_topic(named("__consumer_offsets")).await;
    refused(internal, Code::FailedPrecondition, "INVALID_TOPIC_EXCEPTION");
    let (_broker, mut admin, mut kafka) = start(&["delete.topic.enable=false"]).await;
    kafka.create_topic("stays", 1, &[]);
    let disabled = admin.delete_topic(named("stays")).await;
    refused(disabled, Code::FailedPrecondition, "TOPIC_DELETION_DISABLED");
}

#[tokio::test]
async fn offsets_are_found_by_place_and_time() {
    let (_broker, mut admin, mut kafka) = start(&[]).await;
    kafka.create_topic("timed", 2, &[]);
    kafka.produce("timed", 0, &timed(Codec::Lz4, &[1000, 2000, 3000])).unwrap();
    let mut ask = async |partitions: &[i32], position| {
        let (topic, partitions) = ("timed".into(), partitions.to_vec());
        let request = ListOffsetsRequest { topic, partitions, position };
        admin.list_offsets(request).await.map(|it| it.into_inner().offsets)
    };
    let mut found = async |position, offset, timestamp_ms| {
        let answer = ask(&[0], position).await.unwrap();
        assert_eq!(answer.len(), 1);
        item_succeeded(answer[0].status.as_ref());
        assert_eq!((answer[0].offset, answer[0].timestamp_ms), (offset, timestamp_ms));
    };
    found(edge(Edge::Earliest), 0, None).await;
    found(edge(Edge::Latest), 3, None).await;
    found(at(At::Offset(3)), 3, None).await;
    found(at(At::TimestampMs(1500)), 1, Some(2000)).await;
    found(at(At::TimestampMs(0)), 0, Some(1000)).await;
    found(at(At::TimestampMs(3001)), 3, None).await;

    let all = ask(&[], edge(Edge::Latest)).await.unwrap();
    assert_eq!(
        all.iter().map(|it| (it.partition, it.offset)).collect::<Vec<_>>(),
        [(0, 3), (1, 0)]
    );
    let mixed = ask(&[0, 7], at(At::Offset(4))).await.unwrap();
    item_refused(mixed[0].status.as_ref(), Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    item_refused(mixed[1].status.as_ref(), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    assert_eq!((mixed[0].offset, mixed[1].offset), (-1, -1));
    for nonsense in [None, Some(Position { at: None }), edge(Edge::Unspecified), at(At::Edge(9))] {
        let status = ask(&[0], nonsense).await.unwrap_err();
        check_refusal(&status, Code::InvalidArgument, "INVALID_REQUEST");
        let field = &status.get_details_bad_request().unwrap().field_violations[0].field;
        assert!(field.starts_with("position"), "{field}");
    }
    let status = ask(&[0], at(At::TimestampMs(-1))).await.unwrap_err();
    check_refusal(&status, Code::InvalidArgument, "INVALID_REQUEST");
    let position = edge(Edge::Latest);
    let nowhere = ListOffsetsRequest { topic: "nowhere".into(), partitions: vec![], position };
    let nowhere = admin.list_offsets(nowhere).await;
    refused(nowhere, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
}

#[tokio::test]
async fn deleted_records_are_gone_for_kafka_too() {
    let (_broker, mut admin, mut kafka) = start(&[]).await;
    kafka.create_topic("trimmed", 2, &[]);
    for partition in 0..2 {
        for value in ["a", "b", "c"] {
            kafka.produce("trimmed", partition, &batch(&[value])).unwrap();
        }
    }
    let mut delete = async |topic: &str, before: &[(i32, i64)]| {
        let before = before.iter();
        let partitions = before.map(|&(partition, before)| DeleteBefore { partition, before });
        let request =
            DeleteRecordsRequest { topic: topic.into(), partitions: partitions.collect() };
        admin.delete_records(request).await
    };
    let deleted = delete("trimmed", &[(0, 2), (1, -1)]).await.unwrap().into_inner().partitions;
    assert_eq!(deleted.iter().map(|it| it.log_start).collect::<Vec<_>>(), [2, 3]);
    deleted.iter().for_each(|it| item_succeeded(it.status.as_ref()));
    assert_eq!(kafka.read_all("trimmed", 0), [(2, "c".to_owned())]);
    assert_eq!(kafka.offset("trimmed", 1, EARLIEST), 3);

    let refusals = delete("trimmed", &[(0, 4), (0, -2), (2, 0)]).await.unwrap().into_inner();
    let refusals = refusals.partitions;
    item_refused(refusals[0].status.as_ref(), Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    item_refused(refusals[1].status.as_ref(), Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    item_refused(refusals[2].status.as_ref(), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    let nowhere = delete("nowhere", &[(0, 0)]).await;
    refused(nowhere, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    committed(&mut kafka, "somebody").unwrap();
    let internal = delete("__consumer_offsets", &[(0, 0)]).await.unwrap().into_inner().partitions;
    item_refused(internal[0].status.as_ref(), Code::FailedPrecondition, "INVALID_TOPIC_EXCEPTION");
}

#[tokio::test]
async fn a_group_is_described_with_its_members_and_lag() {
    let (broker, mut admin, mut kafka) = start(&["group.initial.rebalance.delay.ms=0"]).await;
    kafka.create_topic("lagging", 3, &[]);
    let long_ago = now_ms() - 10_000;
    let packed = timed(Codec::Zstd, &[long_ago - 5_000, long_ago, long_ago + 5_000]);
    for partition in 0..3 {
        kafka.produce("lagging", partition, &packed).unwrap();
    }
    let mut member = Member::open(broker.kafka, "readers").unwrap();
    member.enter(&[("lagging".to_owned(), 2)]).unwrap();
    assert_eq!(member.commit(&offsets("lagging", [(0, 1), (2, 3)])).unwrap(), 0);

    let describe = DescribeGroupRequest { group: "readers".into() };
    let described = admin.describe_group(describe.clone()).await.unwrap().into_inner();
    let group = described.group.unwrap();
    assert_eq!((group.state.as_str(), group.protocol_type.as_str()), ("Stable", "consumer"));
    assert_eq!(described.protocol, "range");
    assert_eq!(described.members.len(), 1);
    let shown = &described.members[0];
    assert_eq!((&shown.member_id, shown.client_host.as_str()), (&member.id, "/127.0.0.1"));
    assert_eq!(shown.client_id, "millrace-tests");
    let partition = |partition| TopicPartition { topic: "lagging".into(), partition };
    assert_eq!(shown.assignment, [partition(0), partition(1)]);

    // Committed and read, read only, committed only.
    let lags = by_partition(described.partitions);
    let seen = |it: &PartitionLag| (it.committed, it.lag, it.member_id.clone());
    assert_eq!(seen(&lags[&0]), (Some(1), 2, member.id.clone()));
    assert_eq!(seen(&lags[&1]), (None, 3, member.id.clone()));
    assert_eq!(seen(&lags[&2]), (Some(3), 0, String::new()));
    assert_eq!((lags[&0].log_start, lags[&0].high_watermark), (0, 3));
    // The age is that of the very record, inside a packed batch.
    let age = 10_000..10_000 + PATIENCE.as_millis() as i64;
    assert!(age.contains(&lags[&0].lag_ms), "{:?}", lags[&0]);
    assert!(age.contains(&(lags[&1].lag_ms - 5_000)), "{:?}", lags[&1]);
    assert_eq!(lags[&2].lag_ms, 0);

    // What is deleted is no lag.
    let partitions = vec![DeleteBefore { partition: 0, before: 2 }];
    let trim = DeleteRecordsRequest { topic: "lagging".into(), partitions };
    admin.delete_records(trim).await.unwrap();
    let described = admin.describe_group(describe).await.unwrap().into_inner();
    assert_eq!(seen(&by_partition(described.partitions)[&0]), (Some(1), 1, member.id.clone()));

    let nobody = admin.describe_group(DescribeGroupRequest { group: "nobody".into() }).await;
    refused(nobody, Code::NotFound, "GROUP_ID_NOT_FOUND");
}

fn by_partition(lags: Vec<PartitionLag>) -> BTreeMap<i32, PartitionLag> {
    lags.into_iter().map(|it| (it.partition, it)).collect()
}

#[tokio::test]
async fn groups_are_listed_by_state_and_deleted_when_empty() {
    let (broker, mut admin, mut kafka) = start(&["group.initial.rebalance.delay.ms=0"]).await;
    kafka.create_topic("topic", 1, &[]);
    let mut member = Member::open(broker.kafka, "busy").unwrap();
    member.enter(&[("topic".to_owned(), 1)]).unwrap();
    let commit = group::commit_request("idle", &offsets("topic", [(0, 0)]));
    kafka.ask(group::OFFSET_COMMIT, &commit);

    let mut list = async |states: &[&str]| {
        let states = states.iter().map(|&it| it.to_owned()).collect();
        let listed = admin.list_groups(ListGroupsRequest { states }).await?.into_inner().groups;
        Ok::<_, Status>(listed.into_iter().map(|it| (it.group, it.state)).collect::<Vec<_>>())
    };
    let busy = ("busy".to_owned(), "Stable".to_owned());
    let idle = ("idle".to_owned(), "Empty".to_owned());
    assert_eq!(list(&[]).await.unwrap(), [busy.clone(), idle.clone()]);
    assert_eq!(list(&["Stable"]).await.unwrap(), [busy]);
    assert_eq!(list(&["Empty", "PreparingRebalance"]).await.unwrap(), [idle]);
    let nonsense = list(&["Asleep"]).await.unwrap_err();
    check_refusal(&nonsense, Code::InvalidArgument, "INVALID_REQUEST");

    let delete = |group: &str| DeleteGroupRequest { group: group.into() };
    let busy = admin.delete_group(delete("busy")).await;
    refused(busy, Code::FailedPrecondition, "NON_EMPTY_GROUP");
    member.leave().unwrap();
    admin.delete_group(delete("busy")).await.unwrap();
    admin.delete_group(delete("idle")).await.unwrap();
    refused(admin.delete_group(delete("idle")).await, Code::NotFound, "GROUP_ID_NOT_FOUND");
    assert_eq!(committed(&mut kafka, "idle").unwrap(), Offsets::new());
}

#[tokio::test]
async fn offsets_are_reset_while_nobody_reads() {
    let (broker, mut admin, mut kafka) = start(&["group.initial.rebalance.delay.ms=0"]).await;
    kafka.create_topic("topic", 2, &[]);
    kafka.produce("topic", 0, &timed(Codec::None, &[1000, 2000, 3000])).unwrap();
    let mut reset = async |partitions: &[i32], position, dry_run| {
        let (group, topic) = ("readers".into(), "topic".into());
        let partitions = partitions.to_vec();
        let request = ResetOffsetsRequest { group, topic, partitions, position, dry_run };
        admin.reset_offsets(request).await
    };
    let after = |it: Response<ResetOffsetsResponse>| -> Vec<_> {
        let offsets = it.into_inner().offsets;
        offsets.iter().for_each(|it| item_succeeded(it.status.as_ref()));
        offsets.into_iter().map(|it| (it.partition, it.before, it.after)).collect()
    };
    // The group comes into being by it, as with Kafka's tool.
    let answer = reset(&[], edge(Edge::Latest), false).await.unwrap();
    assert_eq!(after(answer), [(0, None, 3), (1, None, 0)]);
    assert_eq!(committed(&mut kafka, "readers").unwrap(), offsets("topic", [(0, 3), (1, 0)]));
    let answer = reset(&[0], at(At::TimestampMs(1500)), true).await.unwrap();
    assert_eq!(after(answer), [(0, Some(3), 1)]);
    assert_eq!(committed(&mut kafka, "readers").unwrap(), offsets("topic", [(0, 3), (1, 0)]));
    let answer = reset(&[0, 0], at(At::TimestampMs(1500)), false).await.unwrap();
    assert_eq!(after(answer), [(0, Some(3), 1)]);
    // Outside the log is at its nearest end.
    assert_eq!(after(reset(&[0], at(At::Offset(99)), false).await.unwrap()), [(0, Some(1), 3)]);
    assert_eq!(after(reset(&[0], at(At::Offset(-5)), false).await.unwrap()), [(0, Some(3), 0)]);
    let some = reset(&[5, 1], edge(Edge::Latest), false).await.unwrap().into_inner().offsets;
    item_succeeded(some[0].status.as_ref());
    item_refused(some[1].status.as_ref(), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    refused(reset(&[], None, false).await, Code::InvalidArgument, "INVALID_REQUEST");

    let mut member = Member::open(broker.kafka, "readers").unwrap();
    member.enter(&[("topic".to_owned(), 2)]).unwrap();
    for dry_run in [false, true] {
        let busy = reset(&[], edge(Edge::Latest), dry_run).await;
        refused(busy, Code::FailedPrecondition, "NON_EMPTY_GROUP");
    }
    member.leave().unwrap();
    reset(&[], edge(Edge::Earliest), false).await.unwrap();
    let nowhere = ResetOffsetsRequest { topic: "nowhere".into(), ..ResetOffsetsRequest::default() };
    let nowhere = admin.reset_offsets(nowhere).await;
    refused(nowhere, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
}

#[tokio::test]
async fn committed_offsets_are_forgotten_unless_somebody_reads_the_topic() {
    let (broker, mut admin, mut kafka) = start(&["group.initial.rebalance.delay.ms=0"]).await;
    for topic in ["read", "left"] {
        kafka.create_topic(topic, 2, &[]);
    }
    let mut all = offsets("read", [(0, 0)]);
    all.extend(offsets("left", [(0, 0), (1, 0)]));
    kafka.ask(group::OFFSET_COMMIT, &group::commit_request("readers", &all));
    let mut member = Member::open(broker.kafka, "readers").unwrap();
    subscribe(&mut member, "read");

    let partition = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
    let partitions = vec![partition("read", 0), partition("left", 1), partition("nowhere", 0)];
    let request = DeleteOffsetsRequest { group: "readers".into(), partitions };
    let answer = admin.delete_offsets(request).await.unwrap().into_inner().partitions;
    let subscribed = "GROUP_SUBSCRIBED_TO_TOPIC";
    item_refused(answer[0].status.as_ref(), Code::FailedPrecondition, subscribed);
    item_succeeded(answer[1].status.as_ref());
    item_refused(answer[2].status.as_ref(), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    assert_eq!((answer[1].topic.as_str(), answer[1].partition), ("left", 1));
    all.remove(&("left".to_owned(), 1));
    assert_eq!(committed(&mut kafka, "readers").unwrap(), all);
    let partitions = vec![partition("left", 0)];
    let nobody = DeleteOffsetsRequest { group: "nobody".into(), partitions };
    let nobody = admin.delete_offsets(nobody).await;
    refused(nobody, Code::NotFound, "GROUP_ID_NOT_FOUND");
}

/// Joins a group as its only member, with a subscription that the coordinator can read.
fn subscribe(member: &mut Member, topic: &str) {
    let metadata = Subscription::to(vec![topic.to_owned()]).encode(0);
    for _ in 0..2 {
        let mut request = member.join_request();
        request.protocols[0].metadata = metadata.clone();
        let answer = member.connection.ask(JOIN_GROUP, &request);
        member.id = answer.member_id.to_string();
        member.generation = answer.generation_id;
    }
    let mine = BTreeMap::from([(topic.to_owned(), vec![0])]);
    member.sync(&[(member.id.clone(), mine)]).unwrap().unwrap();
}

#[tokio::test]
async fn settings_are_shown_and_changed() {
    let (_broker, mut admin, mut kafka) = start(&["log.retention.ms=5000"]).await;
    kafka.create_topic("topic", 1, &[]);
    let topic = Some(Resource::Topic("topic".into()));
    let of_topic = DescribeConfigRequest { resource: topic.clone(), names: Vec::new() };
    let all = by_name(admin.describe_config(of_topic.clone()).await.unwrap().into_inner().configs);
    let retention = &all["retention.ms"];
    assert_eq!(retention.value.as_deref(), Some("5000"));
    assert_eq!(
        (retention.source.as_str(), retention.r#type.as_str()),
        ("STATIC_BROKER_CONFIG", "LONG")
    );
    assert!(!retention.read_only && !retention.documentation.is_empty());
    assert_eq!(all["max.message.bytes"].source, "DEFAULT_CONFIG");

    let alter = |configs: Vec<ConfigEntry>| AlterConfigRequest {
        topic: "topic".into(),
        configs,
        validate_only: false,
    };
    let small = vec![entry("max.message.bytes", Some("100"))];
    let only = AlterConfigRequest { validate_only: true, ..alter(small.clone()) };
    admin.alter_config(only).await.unwrap();
    let large = batch(&["x".repeat(500).as_str()]);
    assert_eq!(kafka.produce("topic", 0, &large), Ok(0));
    admin.alter_config(alter(small)).await.unwrap();
    assert_eq!(kafka.produce("topic", 0, &large), Err(MESSAGE_TOO_LARGE));
    let names = vec!["max.message.bytes".to_owned()];
    let one = DescribeConfigRequest { resource: topic, names };
    let shown = admin.describe_config(one).await.unwrap().into_inner().configs;
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].value.as_deref(), Some("100"));
    assert_eq!(shown[0].source, "DYNAMIC_TOPIC_CONFIG");
    admin.alter_config(alter(vec![entry("max.message.bytes", None)])).await.unwrap();
    assert_eq!(kafka.produce("topic", 0, &large), Ok(1));

    // All or none.
    let half = alter(vec![entry("retention.ms", Some("1")), entry("no.such.setting", Some("1"))]);
    refused(admin.alter_config(half).await, Code::InvalidArgument, "INVALID_CONFIG");
    let still = by_name(admin.describe_config(of_topic).await.unwrap().into_inner().configs);
    assert_eq!(still["retention.ms"].value.as_deref(), Some("5000"));
    let nowhere = AlterConfigRequest { topic: "nowhere".into(), ..alter(Vec::new()) };
    let nowhere = admin.alter_config(nowhere).await;
    refused(nowhere, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");

    let mut describe = async |resource| {
        admin.describe_config(DescribeConfigRequest { resource, names: Vec::new() }).await
    };
    let broker = describe(Some(Resource::Broker(true))).await.unwrap().into_inner().configs;
    let broker = by_name(broker);
    assert_eq!(broker["log.retention.ms"].source, "STATIC_BROKER_CONFIG");
    assert!(broker["num.partitions"].read_only);
    let nowhere = describe(Some(Resource::Topic("nowhere".into()))).await;
    refused(nowhere, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
    refused(describe(None).await, Code::InvalidArgument, "INVALID_REQUEST");
}

fn by_name(configs: Vec<ConfigDescription>) -> BTreeMap<String, ConfigDescription> {
    configs.into_iter().map(|it| (it.name.clone(), it)).collect()
}

#[tokio::test]
async fn the_cluster_is_the_one_that_kafka_clients_see() {
    let (broker, mut admin, mut kafka) = start(&[]).await;
    let cluster = admin.describe_cluster(DescribeClusterRequest {}).await.unwrap().into_inner();
    let request = KafkaDescribeCluster::default().with_endpoint_type(1);
    let theirs = kafka.ask(1, &request);
    assert_eq!(cluster.cluster_id, theirs.cluster_id.as_str());
    assert_eq!(cluster.controller, theirs.controller_id.0);
    assert_eq!(cluster.brokers.len(), 1);
    assert_eq!(cluster.brokers[0].id, theirs.brokers[0].broker_id.0);
    assert_eq!(cluster.brokers[0].kafka_address, broker.kafka.to_string());
    assert_eq!(cluster.brokers[0].version, env!("CARGO_PKG_VERSION"));

    let (_broker, mut admin, _) =
        start(&["advertised.listeners=PLAINTEXT://queue.example:9099"]).await;
    let cluster = admin.describe_cluster(DescribeClusterRequest {}).await.unwrap().into_inner();
    assert_eq!(cluster.brokers[0].kafka_address, "queue.example:9099");
}

#[tokio::test]
async fn watched_topics_come_anew_with_each_change() {
    let (_broker, mut admin, mut kafka) = start(&[]).await;
    kafka.create_topic("first", 1, &[]);
    let mut watched = admin.watch_topics(WatchTopicsRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&next(&mut watched).await.unwrap()), ["first"]);

    kafka.create_topic("second", 1, &[]);
    assert_eq!(names(&next(&mut watched).await.unwrap()), ["first", "second"]);
    let topic = "second".to_owned();
    let grow = AddPartitionsRequest { topic: topic.clone(), partitions: 2, validate_only: false };
    admin.add_partitions(grow).await.unwrap();
    assert_eq!(next(&mut watched).await.unwrap().topics[1].partitions, 2);
    let configs = vec![entry("retention.ms", Some("1000"))];
    let alter = AlterConfigRequest { topic: topic.clone(), configs, validate_only: false };
    admin.alter_config(alter).await.unwrap();
    assert_eq!(names(&next(&mut watched).await.unwrap()), ["first", "second"]);

    // What the broker creates for itself is no news for those who do not look at it.
    let everything = WatchTopicsRequest { include_internal: true };
    let mut everything = admin.watch_topics(everything).await.unwrap().into_inner();
    assert_eq!(names(&next(&mut everything).await.unwrap()), ["first", "second"]);
    committed(&mut kafka, "somebody").unwrap();
    let all = next(&mut everything).await.unwrap();
    assert_eq!(names(&all), ["__consumer_offsets", "first", "second"]);
    let before = all.topics[2].id.clone();
    admin.delete_topic(DeleteTopicRequest { name: topic.clone() }).await.unwrap();
    assert_eq!(names(&next(&mut watched).await.unwrap()), ["first"]);

    // Created again it is another one.
    admin.create_topic(new_topic(&topic, 1)).await.unwrap();
    let again = next(&mut watched).await.unwrap();
    assert_eq!(names(&again), ["first", "second"]);
    assert_ne!(again.topics[1].id, before);
}

#[tokio::test]
async fn watched_lag_follows_the_log_and_the_commits() {
    let (_broker, mut admin, mut kafka) = start(&[]).await;
    kafka.create_topic("topic", 1, &[]);
    let commit = |offset| group::commit_request("readers", &offsets("topic", [(0, offset)]));
    kafka.ask(group::OFFSET_COMMIT, &commit(0));
    let watch = |group: &str, interval_ms| WatchLagRequest { group: group.into(), interval_ms };
    let mut watched = admin.watch_lag(watch("readers", 100)).await.unwrap().into_inner();
    let first = next(&mut watched).await.unwrap();
    assert_eq!((first.state.as_str(), first.partitions[0].lag), ("Empty", 0));
    kafka.produce("topic", 0, &batch(&["a", "b", "c"])).unwrap();
    wait_for_lag(&mut watched, 3).await;
    kafka.ask(group::OFFSET_COMMIT, &commit(2));
    wait_for_lag(&mut watched, 1).await;

    admin.delete_group(DeleteGroupRequest { group: "readers".into() }).await.unwrap();
    let ended = loop {
        if let Err(status) = next(&mut watched).await {
            break status;
        }
    };
    check_refusal(&ended, Code::NotFound, "GROUP_ID_NOT_FOUND");
    for interval_ms in [1, 99, -1] {
        let answer = admin.watch_lag(watch("readers", interval_ms)).await;
        refused(answer, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let nobody = admin.watch_lag(watch("nobody", 0)).await;
    refused(nobody, Code::NotFound, "GROUP_ID_NOT_FOUND");
}

async fn wait_for_lag(watched: &mut Streaming<millrace_proto::v1::WatchLagResponse>, lag: i64) {
    while next(watched).await.unwrap().partitions[0].lag != lag {}
}

#[tokio::test]
async fn a_stopping_broker_tells_its_watchers() {
    let (mut broker, mut admin, mut kafka) = start(&[]).await;
    kafka.create_topic("topic", 1, &[]);
    let commit = group::commit_request("readers", &offsets("topic", [(0, 0)]));
    kafka.ask(group::OFFSET_COMMIT, &commit);
    let mut topics = admin.watch_topics(WatchTopicsRequest::default()).await.unwrap().into_inner();
    next(&mut topics).await.unwrap();
    let lag = WatchLagRequest { group: "readers".into(), interval_ms: 1_000_000 };
    let mut lag = admin.watch_lag(lag).await.unwrap().into_inner();
    next(&mut lag).await.unwrap();
    let stopped = tokio::task::spawn_blocking(move || broker.stop());
    let ends = [next(&mut topics).await.unwrap_err(), next(&mut lag).await.unwrap_err()];
    for end in ends {
        check_refusal(&end, Code::Unavailable, "NOT_CONTROLLER");
    }
    assert_eq!(stopped.await.unwrap(), Some(0));
}
