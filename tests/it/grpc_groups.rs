//! Consumer groups at the gRPC door, by the generated clients, against a broker process: alone among themselves and mixed
//! with members at the Kafka door.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::{
    CreatePartitionsRequest, DeleteRecordsRequest, DescribeGroupsRequest, GroupId,
};
use millrace_client::{Client, Event, Rebalance};
use millrace_proto::v1::consume_request::Request;
use millrace_proto::v1::consume_response::Response;
use millrace_proto::v1::consume_service_client::ConsumeServiceClient;
use millrace_proto::v1::start::Source;
use millrace_proto::v1::{
    Assignment, CommitRequest, CommitResult, CommittedOffset, GroupMember, Position, Released,
    Revoked, Start, StreamCommit, StreamCommitted,
};
use millrace_tests::ask::{fresh, text, topic_name};
use millrace_tests::group::{Member, Offsets, REBALANCE_IN_PROGRESS, commit_request, committed};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, until};
use millrace_tests::records::batch;
use tonic::{Code, Status};

use crate::broker::broker;
use crate::grpc::{Consumer, EARLIEST, PATIENCE, check_refusal, connect};

/// A session that no test outlasts: whoever waits for its end fails.
const LONG: Duration = Duration::from_secs(300);

/// A group of one topic, and how to look at both through the Kafka door.
struct Scene {
    broker: BrokerProcess,
    kafka: Connection,
    group: String,
    topic: String,
}

impl Scene {
    fn new(partitions: i32) -> Self {
        let broker = broker(&["group.min.session.timeout.ms=100"]);
        let mut kafka = Connection::open(broker.kafka);
        let (group, topic) = (fresh("group"), fresh("topic"));
        kafka.create_topic(&topic, partitions, &[]);
        Self { broker, kafka, group, topic }
    }

    fn member(&self) -> GroupMember {
        GroupMember {
            group: self.group.clone(),
            topics: vec![self.topic.clone()],
            reset: Some(Position { at: Some(EARLIEST) }),
            session_timeout_ms: 300_000,
            rebalance_timeout_ms: 30_000,
            ..GroupMember::default()
        }
    }

    async fn join(&self, member: GroupMember) -> Consumer {
        Consumer::start(&connect(&self.broker).await, start(member)).await
    }

    /// One record, whose value is its partition.
    fn write(&mut self, partition: i32) {
        self.kafka.produce(&self.topic, partition, &batch(&[&partition.to_string()])).unwrap();
    }

    fn committed(&mut self) -> BTreeMap<i32, i64> {
        let committed = committed(&mut self.kafka, &self.group).unwrap();
        committed.into_iter().map(|((_, partition), offset)| (partition, offset)).collect()
    }

    fn commit(&mut self, partition: i32, offset: i64) {
        let offsets: Offsets = [((self.topic.clone(), partition), offset)].into();
        let answer = self.kafka.ask(9, &commit_request(&self.group, &offsets));
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    }

    /// The same member after its stream broke.
    fn member_again(&self, before: &Assignment) -> GroupMember {
        GroupMember { member_id: Some(before.member_id.clone()), ..self.member() }
    }

    /// The ids of the group's members, as tools see them.
    fn members(&mut self) -> BTreeSet<String> {
        let request =
            DescribeGroupsRequest::default().with_groups(vec![GroupId(text(&self.group))]);
        let described = self.kafka.ask(5, &request).groups.remove(0);
        described.members.iter().map(|it| it.member_id.to_string()).collect()
    }

    fn grow(&mut self, partitions: i32) {
        let grown = CreatePartitionsTopic::default()
            .with_name(topic_name(&self.topic))
            .with_count(partitions)
            .with_assignments(None);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![grown]).with_timeout_ms(30_000);
        assert_eq!(self.kafka.ask(3, &request).results[0].error_code, 0);
    }

    /// A member at the Kafka door that wants the same topic.
    fn kafka_member(&self) -> Member {
        let mut member = Member::open(self.broker.kafka, &self.group).unwrap();
        member.topics = vec![self.topic.clone()];
        member
    }

    fn offsets(&self, offsets: &[(i32, i64)]) -> Vec<CommittedOffset> {
        let offset = |&(partition, offset): &(i32, i64)| CommittedOffset {
            topic: self.topic.clone(),
            partition,
            offset,
            metadata: "kept".into(),
        };
        offsets.iter().map(offset).collect()
    }
}

fn start(member: GroupMember) -> Start {
    Start { source: Some(Source::Group(member)), ..Start::default() }
}

/// Partition and offset of each part of an assignment.
fn parts(assigned: &Assignment) -> Vec<(i32, i64)> {
    assigned.partitions.iter().map(|it| (it.partition, it.offset)).collect()
}

fn revoked_parts(revoked: &Revoked) -> Vec<i32> {
    revoked.partitions.iter().map(|it| it.partition).collect()
}

/// What a group's member does beside reading.
impl Consumer {
    /// The next answer that brings no records.
    async fn notice(&mut self) -> Response {
        loop {
            match self.next().await {
                Response::Records(_) => {}
                notice => return notice,
            }
        }
    }

    async fn revoked(&mut self) -> Revoked {
        match self.notice().await {
            Response::Revoked(revoked) => revoked,
            other => panic!("{other:?} instead of a revocation"),
        }
    }

    async fn release(&self) {
        self.send(Request::Released(Released {})).await;
    }

    /// Lets go of whatever is revoked until it is given `count` partitions.
    async fn settle(&mut self, count: usize) -> Assignment {
        loop {
            match self.notice().await {
                Response::Assigned(assigned) if assigned.partitions.len() == count => {
                    return assigned;
                }
                Response::Assigned(_) => {}
                Response::Revoked(revoked) if revoked.lost => {}
                Response::Revoked(_) => self.release().await,
                other => panic!("{other:?} in a rebalance"),
            }
        }
    }

    async fn commit(&mut self, offsets: Vec<CommittedOffset>) -> Vec<CommitResult> {
        self.send(Request::Commit(StreamCommit { offsets, request_id: 7 })).await;
        match self.notice().await {
            Response::Committed(StreamCommitted { request_id: 7, results }) => results,
            other => panic!("{other:?} instead of the answer to a commit"),
        }
    }

    /// Partitions of the next `count` records.
    async fn heard(&mut self, count: usize) -> Vec<i32> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let fetched = self.fetched().await;
            heard.extend(fetched.records.iter().map(|_| fetched.partition));
        }
        heard.sort_unstable();
        heard
    }
}

fn statuses(results: &[CommitResult]) -> Vec<(i32, &str)> {
    let status = |it: &CommitResult| it.status.clone().unwrap();
    assert!(results.iter().all(|it| (status(it).code == 0) == status(it).reason.is_empty()));
    results.iter().map(|it| (it.partition, it.status.as_ref().unwrap().reason.as_str())).collect()
}

#[tokio::test]
async fn members_share_the_partitions_and_take_over_from_one_another() {
    let mut scene = Scene::new(4);
    let mut first = scene.join(scene.member()).await;
    let assigned = first.assigned().await;
    assert_eq!(parts(&assigned), [(0, 0), (1, 0), (2, 0), (3, 0)]);
    assert_eq!(assigned.protocol, "range");
    assert!(assigned.member_id.starts_with("grpc-"));
    (0..4).for_each(|partition| scene.write(partition));
    assert_eq!(first.heard(4).await, [0, 1, 2, 3]);

    // The second waits until the first has let go, which may commit before.
    let mut second = scene.join(scene.member()).await;
    let revoked = first.revoked().await;
    assert_eq!((revoked_parts(&revoked), revoked.lost), (vec![0, 1, 2, 3], false));
    let results = first.commit(scene.offsets(&[(0, 1), (1, 1), (2, 1), (3, 1)])).await;
    assert_eq!(statuses(&results), [(0, ""), (1, ""), (2, ""), (3, "")]);
    first.release().await;
    let (mine, others) = tokio::join!(first.assigned(), second.assigned());
    assert_eq!(mine.generation, others.generation);
    let mut all = [parts(&mine), parts(&others)].concat();
    assert_eq!((mine.partitions.len(), others.partitions.len()), (2, 2));
    all.sort_unstable();
    assert_eq!(all, [(0, 1), (1, 1), (2, 1), (3, 1)], "each goes on where the first stopped");
    (0..4).for_each(|partition| scene.write(partition));
    let (heard, others_heard) = tokio::join!(first.heard(2), second.heard(2));
    let of = |assigned: &Assignment| parts(assigned).iter().map(|it| it.0).collect::<Vec<_>>();
    assert_eq!((heard, others_heard), (of(&mine), of(&others)));

    // One goes away; the other has everything again.
    drop(first);
    assert_eq!(revoked_parts(&second.revoked().await).len(), 2);
    second.release().await;
    assert_eq!(parts(&second.assigned().await), [(0, 1), (1, 1), (2, 1), (3, 1)]);
}

#[tokio::test]
async fn committed_offsets_are_those_of_the_other_door() {
    let mut scene = Scene::new(3);
    for _ in 0..5 {
        (0..3).for_each(|partition| scene.write(partition));
    }
    scene.commit(0, 4);
    scene.commit(1, 5);
    let mut consumer = scene.join(scene.member()).await;
    let assigned = consumer.assigned().await;
    assert_eq!(parts(&assigned), [(0, 4), (1, 5), (2, 0)]);
    assert_eq!(consumer.heard(6).await, [0, 2, 2, 2, 2, 2]);

    let mut asked = scene.offsets(&[(0, 5), (2, 3), (2, -1), (9, 1)]);
    asked.push(CommittedOffset { topic: "missing".into(), ..CommittedOffset::default() });
    asked.push(CommittedOffset { metadata: "x".repeat(5_000), ..asked[0].clone() });
    let results = consumer.commit(asked).await;
    let expected = [
        (0, ""),
        (2, ""),
        (2, "INVALID_REQUEST"),
        (9, "UNKNOWN_TOPIC_OR_PARTITION"),
        (0, "UNKNOWN_TOPIC_OR_PARTITION"),
        (0, "OFFSET_METADATA_TOO_LARGE"),
    ];
    assert_eq!(statuses(&results), expected, "each for itself");
    assert_eq!(scene.committed(), [(0, 5), (1, 5), (2, 3)].into());
}

#[tokio::test]
async fn commits_beside_the_stream_are_a_members_or_an_empty_groups() {
    let mut scene = Scene::new(1);
    let channel = connect(&scene.broker).await;
    let commit = async |request: CommitRequest| -> Result<Vec<CommitResult>, Status> {
        let answer = ConsumeServiceClient::new(channel.clone()).commit(request).await?;
        Ok(answer.into_inner().results)
    };
    let stranger = CommitRequest {
        group: scene.group.clone(),
        offsets: scene.offsets(&[(0, 1), (5, 1)]),
        ..CommitRequest::default()
    };
    let results = commit(stranger.clone()).await.unwrap();
    assert_eq!(statuses(&results), [(0, ""), (5, "UNKNOWN_TOPIC_OR_PARTITION")]);
    assert_eq!(scene.committed(), [(0, 1)].into());

    let mut consumer = scene.join(scene.member()).await;
    let assigned = consumer.assigned().await;
    let refused = commit(stranger.clone()).await.unwrap_err();
    check_refusal(&refused, Code::FailedPrecondition, "UNKNOWN_MEMBER_ID");
    let member = CommitRequest {
        offsets: scene.offsets(&[(0, 0)]),
        member_id: Some(assigned.member_id),
        generation: Some(assigned.generation),
        ..stranger.clone()
    };
    assert_eq!(statuses(&commit(member.clone()).await.unwrap()), [(0, "")]);
    assert_eq!(scene.committed(), [(0, 0)].into());
    let early = CommitRequest { generation: Some(assigned.generation + 1), ..member };
    let refused = commit(early).await.unwrap_err();
    check_refusal(&refused, Code::FailedPrecondition, "ILLEGAL_GENERATION");
    let nobody = CommitRequest { group: String::new(), ..stranger };
    check_refusal(&commit(nobody).await.unwrap_err(), Code::InvalidArgument, "INVALID_GROUP_ID");
}

#[tokio::test]
async fn a_kafka_member_joins_a_group_that_grpc_leads() {
    let mut scene = Scene::new(4);
    let mut ours = scene.join(scene.member()).await;
    assert_eq!(ours.assigned().await.partitions.len(), 4);
    let mut theirs = scene.kafka_member();
    // Its own word on topics does not count: it does not lead.
    let entering = tokio::task::spawn_blocking(move || {
        let mine = theirs.enter(&[]).unwrap();
        (theirs, mine)
    });
    assert_eq!(revoked_parts(&ours.revoked().await), [0, 1, 2, 3]);
    ours.release().await;
    let mine = ours.assigned().await;
    let (mut theirs, their_parts) = entering.await.unwrap();
    assert_eq!(mine.generation, theirs.generation);
    let mut all: Vec<_> = parts(&mine).iter().map(|it| it.0).collect();
    assert_eq!(all.len(), 2);
    all.extend(&their_parts[&scene.topic]);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);

    // Both commit, and both doors see both.
    let my_first = parts(&mine)[0].0;
    let their_first = their_parts[&scene.topic][0];
    assert_eq!(statuses(&ours.commit(scene.offsets(&[(my_first, 11)])).await), [(my_first, "")]);
    let offsets: Offsets = [((scene.topic.clone(), their_first), 12)].into();
    let (mut theirs, code) = tokio::task::spawn_blocking(move || {
        let code = theirs.commit(&offsets).unwrap();
        (theirs, code)
    })
    .await
    .unwrap();
    assert_eq!(code, 0);
    assert_eq!(scene.committed(), [(my_first, 11), (their_first, 12)].into());

    // The member at the other door leaves, ours takes over.
    assert_eq!(theirs.leave().unwrap(), 0);
    assert_eq!(ours.settle(4).await.partitions.len(), 4);
}

#[tokio::test]
async fn a_grpc_member_joins_a_group_that_kafka_leads() {
    let scene = Scene::new(4);
    let topics = [(scene.topic.clone(), 4)];
    let mut theirs = scene.kafka_member();
    assert_eq!(theirs.enter(&topics).unwrap()[&scene.topic], [0, 1, 2, 3]);
    let mut ours = scene.join(scene.member()).await;
    let entering = tokio::task::spawn_blocking(move || {
        beat_until(&mut theirs, REBALANCE_IN_PROGRESS);
        let mine = theirs.enter(&topics).unwrap();
        (theirs, mine, topics)
    });
    let mine = ours.assigned().await;
    let (mut theirs, their_parts, topics) = entering.await.unwrap();
    let mut all: Vec<_> = parts(&mine).iter().map(|it| it.0).collect();
    assert_eq!(all.len(), 2);
    all.extend(&their_parts[&scene.topic]);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);

    // Tools see both in one group.
    let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(&scene.group))]);
    let described = Connection::open(scene.broker.kafka).ask(5, &request).groups.remove(0);
    assert_eq!(described.group_state.as_str(), "Stable");
    let clients: BTreeSet<_> = described
        .members
        .iter()
        .map(|it| (it.client_id.to_string(), it.client_host.to_string()))
        .collect();
    let here = |client: &str| (client.to_owned(), "/127.0.0.1".to_owned());
    assert_eq!(clients, [here("grpc"), here("millrace-tests")].into());

    drop(ours);
    let all = tokio::task::spawn_blocking(move || {
        beat_until(&mut theirs, REBALANCE_IN_PROGRESS);
        theirs.enter(&topics).unwrap()
    });
    assert_eq!(all.await.unwrap()[&scene.topic], [0, 1, 2, 3]);
}

/// Beats until the coordinator answers `code`.
fn beat_until(member: &mut Member, code: i16) {
    let heard = until(PATIENCE, || (member.heartbeat().unwrap() == code).then_some(()));
    heard.expect("the coordinator says so in time");
}

#[tokio::test]
async fn members_that_do_not_agree_are_refused() {
    let scene = Scene::new(2);
    let mut theirs = scene.kafka_member();
    theirs.enter(&[(scene.topic.clone(), 2)]).unwrap();
    let roundrobin = GroupMember { protocols: vec!["roundrobin".into()], ..scene.member() };
    let mut ours = scene.join(roundrobin).await;
    let refused = ours.refused().await;
    check_refusal(&refused, Code::FailedPrecondition, "INCONSISTENT_GROUP_PROTOCOL");
}

#[tokio::test]
async fn the_group_deals_out_as_its_members_prefer() {
    let scene = Scene::new(3);
    let other = fresh("other");
    Connection::open(scene.broker.kafka).create_topic(&other, 3, &[]);
    let member = || GroupMember {
        topics: vec![other.clone(), scene.topic.clone()],
        protocols: vec!["roundrobin".into(), "range".into()],
        client_id: "dealer".into(),
        ..scene.member()
    };
    let mut first = scene.join(member()).await;
    let assigned = first.assigned().await;
    assert_eq!((assigned.protocol.as_str(), assigned.partitions.len()), ("roundrobin", 6));
    assert!(assigned.member_id.starts_with("dealer-"));
    let mut second = scene.join(member()).await;
    // By range one would have four of them.
    let (first, second) = tokio::join!(first.settle(3), second.settle(3));
    assert_eq!((first.protocol, second.protocol), ("roundrobin".into(), "roundrobin".into()));
}

#[tokio::test]
async fn a_start_without_sense_is_refused() {
    let scene = Scene::new(1);
    let invalid = Code::InvalidArgument;
    for (member, reason) in [
        (GroupMember { group: String::new(), ..scene.member() }, "INVALID_GROUP_ID"),
        (GroupMember { topics: vec![], ..scene.member() }, "INVALID_REQUEST"),
        (GroupMember { topics: vec!["a/b".into()], ..scene.member() }, "INVALID_TOPIC_EXCEPTION"),
        (GroupMember { protocols: vec!["sticky".into()], ..scene.member() }, "INVALID_REQUEST"),
        (GroupMember { session_timeout_ms: -1, ..scene.member() }, "INVALID_REQUEST"),
        (GroupMember { session_timeout_ms: 99, ..scene.member() }, "INVALID_SESSION_TIMEOUT"),
        (GroupMember { rebalance_timeout_ms: -1, ..scene.member() }, "INVALID_REQUEST"),
        (GroupMember { reset: Some(Position { at: None }), ..scene.member() }, "INVALID_REQUEST"),
    ] {
        check_refusal(&scene.join(member).await.refused().await, invalid, reason);
    }
}

#[tokio::test]
async fn who_does_not_let_go_loses_its_partitions() {
    let scene = Scene::new(2);
    let hasty = || GroupMember { rebalance_timeout_ms: 700, ..scene.member() };
    let mut deaf = scene.join(hasty()).await;
    let before = deaf.assigned().await;
    let mut heir = scene.join(hasty()).await;
    assert!(!deaf.revoked().await.lost);
    // It does not answer; the group goes on without it.
    let lost = deaf.revoked().await;
    assert_eq!((revoked_parts(&lost), lost.lost), (vec![0, 1], true));
    heir.assigned().await;
    // What it had cannot be committed any more.
    let commit = CommitRequest {
        group: scene.group.clone(),
        offsets: scene.offsets(&[(0, 1)]),
        member_id: Some(before.member_id),
        generation: Some(before.generation),
    };
    let channel = connect(&scene.broker).await;
    let refused = ConsumeServiceClient::new(channel).commit(commit).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    // It came back by itself, and they share.
    let (deaf, heir) = tokio::join!(deaf.settle(1), heir.settle(1));
    assert_ne!(parts(&deaf), parts(&heir));
}

#[tokio::test]
async fn who_only_listens_releases_by_itself() {
    let mut scene = Scene::new(2);
    let mut listener = scene.join(scene.member()).await;
    listener.finish_sending();
    assert_eq!(listener.assigned().await.partitions.len(), 2);
    let mut second = scene.join(scene.member()).await;
    assert_eq!(second.assigned().await.partitions.len(), 1);
    assert_eq!(revoked_parts(&listener.revoked().await), [0, 1]);
    assert_eq!(listener.assigned().await.partitions.len(), 1);
    (0..2).for_each(|partition| scene.write(partition));
    let (heard, others) = tokio::join!(listener.heard(1), second.heard(1));
    assert_ne!(heard, others);
}

#[tokio::test]
async fn a_static_member_comes_back_to_its_place() {
    let scene = Scene::new(2);
    let named = |name: &str| GroupMember {
        instance_id: Some(name.to_owned()),
        session_timeout_ms: 60_000,
        ..scene.member()
    };
    let mut first = scene.join(named("one")).await;
    first.assigned().await;
    let mut second = scene.join(named("two")).await;
    let (mine, others) = tokio::join!(first.settle(1), second.settle(1));
    assert!(mine.member_id.starts_with("one-") && others.member_id.starts_with("two-"));

    drop(second);
    let mut again = scene.join(named("two")).await;
    let back = again.assigned().await;
    assert_eq!((parts(&back), back.generation), (parts(&others), others.generation));
    assert_ne!(back.member_id, others.member_id);
    // The first heard nothing of it: its commit is still of this generation.
    let (partition, _) = parts(&mine)[0];
    assert_eq!(statuses(&first.commit(scene.offsets(&[(partition, 0)])).await), [(partition, "")]);

    // Who takes the name while it is in use puts its holder out.
    let mut thief = scene.join(named("two")).await;
    assert_eq!(parts(&thief.assigned().await), parts(&back));
    check_refusal(&again.refused().await, Code::FailedPrecondition, "FENCED_INSTANCE_ID");
}

#[tokio::test]
async fn a_member_begins_where_it_was_told_to() {
    let mut scene = Scene::new(1);
    (0..10).for_each(|_| scene.write(0));
    let strict = GroupMember { reset: None, ..scene.member() };
    let refused = scene.join(strict.clone()).await.refused().await;
    check_refusal(&refused, Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    scene.commit(0, 2);
    assert_eq!(parts(&scene.join(strict.clone()).await.assigned().await), [(0, 2)]);

    // What was committed is deleted.
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(6);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(&scene.topic))
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    assert_eq!(scene.kafka.ask(2, &request).topics[0].partitions[0].error_code, 0);
    let refused = scene.join(strict).await.refused().await;
    check_refusal(&refused, Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
    let mut lenient = scene.join(scene.member()).await;
    assert_eq!(parts(&lenient.assigned().await), [(0, 6)]);
    assert_eq!(lenient.fetched().await.records[0].offset, 6);
}

#[tokio::test]
async fn a_topic_that_comes_or_grows_is_dealt_out() {
    let mut scene = Scene::new(1);
    let later = fresh("later");
    let member = GroupMember { topics: vec![scene.topic.clone(), later.clone()], ..scene.member() };
    let mut consumer = scene.join(member).await;
    assert_eq!(consumer.assigned().await.partitions.len(), 1);
    scene.kafka.create_topic(&later, 2, &[]);
    assert_eq!(revoked_parts(&consumer.revoked().await), [0]);
    consumer.release().await;
    assert_eq!(consumer.assigned().await.partitions.len(), 3);

    scene.grow(4);
    assert_eq!(consumer.settle(6).await.partitions.len(), 6);
}

#[tokio::test]
async fn a_group_goes_on_after_a_kill() {
    let mut scene = Scene::new(2);
    let short = GroupMember { session_timeout_ms: 1_000, ..scene.member() };
    let mut consumer = scene.join(short.clone()).await;
    consumer.assigned().await;
    (0..2).for_each(|partition| scene.write(partition));
    assert_eq!(consumer.heard(2).await, [0, 1]);
    assert_eq!(statuses(&consumer.commit(scene.offsets(&[(0, 1)])).await), [(0, "")]);
    scene.broker.kill();
    consumer.refused().await;
    scene.broker.launch();
    scene.kafka = Connection::open(scene.broker.kafka);
    // The old membership lives until its session is over.
    let mut again = scene.join(short).await;
    let assigned = again.settle(2).await;
    assert_eq!(parts(&assigned), [(0, 1), (1, 0)]);
    assert_eq!(again.heard(1).await, [1]);
}

/// What the members of a group that use the Rust client have seen, each by its number.
#[derive(Debug, Default)]
struct Seen {
    records: BTreeMap<usize, BTreeSet<(i32, i64)>>,
    changes: Vec<(usize, Rebalance)>,
}

impl Seen {
    /// Who has partitions, of those that have so many records each.
    fn readers(&self, partitions: i32, records: i64) -> Option<BTreeMap<i32, usize>> {
        let of_all = |(&member, seen): (&usize, &BTreeSet<(i32, i64)>)| {
            let whole = move |&it: &i32| seen.contains(&(it, records - 1));
            (0..partitions).filter(whole).map(move |it| (it, member)).collect::<Vec<_>>()
        };
        let readers: BTreeMap<_, _> = self.records.iter().flat_map(of_all).collect();
        (readers.len() == partitions as usize).then_some(readers)
    }
}

/// Reads for ever.
async fn watch(scene: &Scene, number: usize, seen: &Arc<Mutex<Seen>>) {
    let client = Client::connect(format!("http://{}", scene.broker.grpc)).await.unwrap();
    let consumer = client.consumer().group(&scene.group).topics([&scene.topic]);
    let consumer = consumer.session_timeout(LONG).commit_interval(Duration::from_millis(20));
    let (mut consumer, seen) = (consumer.build().await.unwrap(), Arc::clone(seen));
    tokio::spawn(async move {
        loop {
            let event = consumer.next_event().await.unwrap().unwrap();
            let mut seen = seen.lock().unwrap();
            match event {
                Event::Record(it) => {
                    seen.records.entry(number).or_default().insert((it.partition, it.offset));
                }
                Event::Rebalance(change) => seen.changes.push((number, change)),
                other => panic!("{other:?} is news"),
            }
        }
    });
}

/// Asks what was seen until it is enough.
async fn wait_for<T>(seen: &Mutex<Seen>, mut ask: impl FnMut(&Seen) -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask(&seen.lock().unwrap()) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("{:?}", seen.lock().unwrap()))
}

/// A broker that was killed knew its members; the clients' new streams joined beside them, and nobody had anything before
/// the old ones' sessions were over.
#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_after_a_kill_as_if_nothing_had_been() {
    let mut scene = Scene::new(4);
    let seen = Arc::default();
    watch(&scene, 1, &seen).await;
    watch(&scene, 2, &seen).await;
    let shared = |seen: &Seen| {
        let last = |member: usize| {
            let mut of = seen.changes.iter().rev().filter(|(number, _)| *number == member);
            of.next().map(|(_, change)| change.clone())
        };
        let has_two = |change: Option<Rebalance>| matches!(change, Some(Rebalance::Assigned(it)) if it.len() == 2);
        (has_two(last(1)) && has_two(last(2))).then_some(())
    };
    wait_for(&seen, shared).await;
    (0..4).for_each(|partition| scene.write(partition));
    let before = wait_for(&seen, |it| it.readers(4, 1)).await;
    let members = scene.members();
    assert_eq!(members.len(), 2);
    seen.lock().unwrap().changes.clear();

    for records in [2, 3] {
        scene.broker.kill();
        scene.broker.launch();
        scene.kafka = Connection::open(scene.broker.kafka);
        (0..4).for_each(|partition| scene.write(partition));
        assert_eq!(wait_for(&seen, |it| it.readers(4, records)).await, before);
        assert_eq!(scene.members(), members);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.changes, [], "nobody had to let go of anything");
    let all: BTreeSet<_> = seen.records.values().flatten().copied().collect();
    assert_eq!(all.len(), 4 * 3, "nothing was lost: {all:?}");
}

#[tokio::test]
async fn who_comes_back_waits_for_nobody() {
    let mut scene = Scene::new(4);
    let mut leader = scene.join(scene.member()).await;
    leader.assigned().await;
    let mut other = scene.join(scene.member()).await;
    let (leads, follows) = tokio::join!(leader.settle(2), other.settle(2));
    scene.broker.kill();
    scene.broker.launch();
    scene.kafka = Connection::open(scene.broker.kafka);
    // The one comes back before the other, who may never.
    let mut back = Vec::new();
    for before in [follows, leads] {
        let mut member = scene.join(scene.member_again(&before)).await;
        assert_eq!(member.assigned().await, before);
        back.push((member, before));
    }
    (0..4).for_each(|partition| scene.write(partition));
    for (mut member, before) in back {
        let of: Vec<_> = parts(&before).iter().map(|it| it.0).collect();
        assert_eq!(member.heard(2).await, of);
    }
}

#[tokio::test]
async fn a_stream_that_was_followed_by_another_takes_nothing_along() {
    let mut scene = Scene::new(2);
    let mut old = scene.join(scene.member()).await;
    let before = old.assigned().await;
    // On a connection of its own, as after a break that the broker has not noticed.
    let mut new = scene.join(scene.member_again(&before)).await;
    assert_eq!(new.assigned().await, before);
    check_refusal(&old.refused().await, Code::FailedPrecondition, "FENCED_INSTANCE_ID");
    drop(old);
    assert_eq!(scene.members(), [before.member_id.clone()].into());
    (0..2).for_each(|partition| scene.write(partition));
    assert_eq!(new.heard(2).await, [0, 1]);
    assert_eq!(statuses(&new.commit(scene.offsets(&[(0, 1)])).await), [(0, "")]);

    // The newer stream's end is the member's.
    drop(new);
    let gone = async {
        while !scene.members().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it leaves");
}

#[tokio::test]
async fn streams_that_follow_one_another_leave_nobody_behind() {
    let mut scene = Scene::new(2);
    let mut consumer = scene.join(scene.member()).await;
    let mut before = consumer.assigned().await;
    // Each ends just when the next begins: it leaves, or is taken over. Whoever stayed in the group beside the last one
    // would be waited for.
    for _ in 0..20 {
        let (old, new) = (consumer, scene.member_again(&before));
        let ending = tokio::spawn(async move { drop(old) });
        consumer = scene.join(new).await;
        before = consumer.settle(2).await;
        ending.await.unwrap();
    }
    assert_eq!(scene.members(), [before.member_id].into());
}

#[tokio::test]
async fn a_member_that_the_group_does_not_know_is_a_new_one() {
    let mut scene = Scene::new(2);
    let stranger = |id: &str| GroupMember { member_id: Some(id.to_owned()), ..scene.member() };
    for id in ["", "grpc-00000000-0000-0000-0000-000000000000"] {
        let mut new = scene.join(stranger(id)).await;
        let assigned = new.settle(2).await;
        assert!(assigned.member_id.len() > "grpc-".len() && assigned.member_id != id);
    }
    // Nor is one that has left, or that another group knows.
    let mut first = scene.join(scene.member()).await;
    let left = first.settle(2).await;
    drop(first);
    let mut again = scene.join(scene.member_again(&left)).await;
    assert_eq!(again.settle(2).await.partitions.len(), 2);
    scene.group = fresh("group");
    let mut elsewhere = scene.join(scene.member_again(&left)).await;
    assert_ne!(elsewhere.settle(2).await.member_id, left.member_id);
}

#[tokio::test]
async fn a_leader_that_comes_back_deals_out_what_has_grown() {
    let mut scene = Scene::new(2);
    let mut consumer = scene.join(scene.member()).await;
    let before = consumer.assigned().await;
    scene.broker.kill();
    scene.broker.launch();
    scene.kafka = Connection::open(scene.broker.kafka);
    // While it is away, and once it is back.
    scene.grow(3);
    let mut again = scene.join(scene.member_again(&before)).await;
    assert_eq!(again.assigned().await, before);
    assert_eq!(again.settle(3).await.partitions.len(), 3);
    scene.grow(5);
    assert_eq!(again.settle(5).await.partitions.len(), 5);
}

#[tokio::test]
async fn a_stopping_broker_lets_its_members_leave() {
    let mut scene = Scene::new(2);
    // A member that had stayed would be waited for longer than this test waits.
    let member = GroupMember { rebalance_timeout_ms: 300_000, ..scene.member() };
    let mut consumer = scene.join(member).await;
    consumer.assigned().await;
    let waiting = tokio::spawn(async move { consumer.refused().await });
    let mut broker = scene.broker;
    let (code, mut broker) =
        tokio::task::spawn_blocking(move || (broker.stop(), broker)).await.unwrap();
    assert_eq!(code, Some(0));
    check_refusal(&waiting.await.unwrap(), Code::Unavailable, "NOT_CONTROLLER");
    broker.launch();
    scene.broker = broker;
    // Nobody is in the way.
    let mut again = scene.join(scene.member()).await;
    assert_eq!(again.assigned().await.partitions.len(), 2);
}

/// Where one of many members stands.
#[derive(Clone, Debug, Default)]
struct Standing {
    generation: i32,
    partitions: Vec<i32>,
    /// Partitions of what it heard in this generation.
    heard: BTreeSet<i32>,
}

/// Lets go of what is revoked, for ever, and tells where the member stands.
async fn follow(mut member: Consumer, standings: Arc<Mutex<Vec<Standing>>>, place: usize) {
    loop {
        let answer = member.next().await;
        if let Response::Revoked(revoked) = &answer
            && !revoked.lost
        {
            member.release().await;
        }
        let mut standings = standings.lock().unwrap();
        match answer {
            Response::Assigned(assigned) => {
                standings[place] = Standing {
                    generation: assigned.generation,
                    partitions: parts(&assigned).into_iter().map(|it| it.0).collect(),
                    heard: BTreeSet::new(),
                }
            }
            Response::Records(fetched) => {
                standings[place].heard.insert(fetched.partition);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn many_members_each_have_their_part() {
    const MEMBERS: usize = 8;
    let mut scene = Scene::new(MEMBERS as i32);
    (0..8).for_each(|partition| scene.write(partition));
    let channel = connect(&scene.broker).await;
    let standings = Arc::new(Mutex::new(vec![Standing::default(); MEMBERS]));
    for place in 0..MEMBERS {
        let member = Consumer::start(&channel, start(scene.member())).await;
        tokio::spawn(follow(member, Arc::clone(&standings), place));
    }
    let together = || {
        let standings = standings.lock().unwrap();
        let is_same = standings.iter().all(|it| it.generation == standings[0].generation);
        let heard =
            |it: &Standing| it.partitions.len() == 1 && it.heard.contains(&it.partitions[0]);
        let all: BTreeSet<_> = standings.iter().flat_map(|it| &it.partitions).collect();
        is_same && standings.iter().all(heard) && all.len() == MEMBERS
    };
    let come = async {
        while !together() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let come = tokio::time::timeout(PATIENCE, come).await;
    assert!(come.is_ok(), "{:?}", standings.lock().unwrap());
}
