//! Consumer groups over real sockets: members come together, share and part; what they commit outlives the broker.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use kafka_protocol::messages as k;
use millrace_tests::ask::{fresh, text, topic_name};
use millrace_tests::group::{
    Assignment, HEARTBEAT, ILLEGAL_GENERATION, JOIN_GROUP, MEMBER_ID_REQUIRED, Member,
    OFFSET_COMMIT, OFFSET_FETCH, Offsets, REBALANCE_IN_PROGRESS, UNKNOWN_MEMBER_ID, commit_request,
    committed,
};
use millrace_tests::kafka::Connection;
use millrace_tests::process::until;

use crate::broker::broker;

const OFFSET_METADATA_TOO_LARGE: i16 = 12;
const INVALID_GROUP_ID: i16 = 24;
const INVALID_SESSION_TIMEOUT: i16 = 26;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;
const FENCED_INSTANCE_ID: i16 = 82;

const PATIENCE: Duration = Duration::from_secs(60);

/// Partitions of one topic in an assignment.
fn parts(assignment: &Assignment, topic: &str) -> Vec<i32> {
    assignment.get(topic).cloned().unwrap_or_default()
}

/// Beats until the coordinator answers `code`.
fn beat_until(member: &mut Member, code: i16) {
    let heard = until(PATIENCE, || (member.heartbeat().expect("an answer") == code).then_some(()));
    assert!(heard.is_some(), "{} never hears {code}", member.id);
}

#[test]
fn members_share_the_partitions_and_take_over_from_one_another() {
    let broker = broker(&["group.min.session.timeout.ms=100"]);
    let topic = fresh("shared");
    Connection::open(broker.kafka).create_topic(&topic, 4, &[]);
    let topics = [(topic.clone(), 4)];
    let group = fresh("group");
    let mut first = Member::open(broker.kafka, &group).unwrap();
    assert_eq!(parts(&first.enter(&topics).unwrap(), &topic), [0, 1, 2, 3]);

    // The second waits in its join until the first comes back.
    let mut second = Member::open(broker.kafka, &group).unwrap();
    let shares = thread::scope(|scope| {
        let other = scope.spawn(|| parts(&second.enter(&topics).unwrap(), &topic));
        beat_until(&mut first, REBALANCE_IN_PROGRESS);
        let mine = parts(&first.enter(&topics).unwrap(), &topic);
        [mine, other.join().unwrap()]
    });
    assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(shares.concat().into_iter().collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(first.generation, second.generation);
    assert_eq!((first.heartbeat().unwrap(), second.heartbeat().unwrap()), (0, 0));

    // One leaves, the other hears of it and has everything again.
    assert_eq!(second.leave().unwrap(), 0);
    beat_until(&mut first, REBALANCE_IN_PROGRESS);
    assert_eq!(parts(&first.enter(&topics).unwrap(), &topic), [0, 1, 2, 3]);
    assert_eq!(second.heartbeat().unwrap(), UNKNOWN_MEMBER_ID);
}

#[test]
fn a_silent_member_loses_its_place() {
    let broker = broker(&["group.min.session.timeout.ms=100"]);
    let topic = fresh("silent");
    Connection::open(broker.kafka).create_topic(&topic, 2, &[]);
    let topics = [(topic.clone(), 2)];
    let group = fresh("group");
    let mut dead = Member::open(broker.kafka, &group).unwrap();
    dead.session_timeout_ms = 300;
    dead.enter(&topics).unwrap();
    let mut heir = Member::open(broker.kafka, &group).unwrap();
    assert_eq!(parts(&heir.enter(&topics).unwrap(), &topic), [0, 1]);
    assert_eq!(dead.heartbeat().unwrap(), UNKNOWN_MEMBER_ID);
    let offsets: Offsets = [((topic, 0), 5)].into();
    assert_eq!(dead.commit(&offsets).unwrap(), UNKNOWN_MEMBER_ID);
}

#[test]
fn a_member_without_an_id_is_given_one_first() {
    let broker = broker(&[]);
    let group = fresh("group");
    let mut member = Member::open(broker.kafka, &group).unwrap();
    let request = member.join_request();
    for version in 4..=9 {
        let answer = member.connection.ask(version, &request);
        assert_eq!(answer.error_code, MEMBER_ID_REQUIRED, "v{version}");
        assert!(answer.member_id.starts_with("millrace-tests-"), "v{version}: a client's own id");
    }
    for version in 0..=3 {
        let mut old = Member::open(broker.kafka, &fresh("old")).unwrap();
        let mut request = old.join_request();
        if version < 1 {
            request.rebalance_timeout_ms = -1;
        }
        let answer = old.connection.ask(version, &request);
        assert_eq!((answer.error_code, answer.generation_id), (0, 1), "v{version}");
        assert_eq!(answer.leader, answer.member_id, "v{version}");
    }
}

#[test]
fn a_static_member_comes_back_to_its_place() {
    let broker = broker(&[]);
    let group = fresh("group");
    let topic = fresh("static");
    Connection::open(broker.kafka).create_topic(&topic, 1, &[]);
    let mut first = Member::open(broker.kafka, &group).unwrap();
    let request = first.join_request().with_group_instance_id(Some(text("place")));
    let joined = first.connection.ask(JOIN_GROUP, &request);
    assert_eq!(joined.error_code, 0, "no id is asked for");
    assert!(joined.member_id.starts_with("place-"), "{}", joined.member_id);
    first.id = joined.member_id.to_string();
    first.generation = joined.generation_id;
    let mine = Assignment::from([(topic.clone(), vec![0])]);
    assert_eq!(first.sync(&[(first.id.clone(), mine)]).unwrap().unwrap()[&topic], [0]);

    let mut again = Member::open(broker.kafka, &group).unwrap();
    let back = again.connection.ask(JOIN_GROUP, &request);
    assert_eq!((back.error_code, back.generation_id), (0, joined.generation_id), "no rebalance");
    assert!(back.skip_assignment, "its leader keeps the assignment (KIP-814)");
    assert_ne!(back.member_id, joined.member_id);
    let beat = |connection: &mut Connection, id: &str| {
        let request = k::HeartbeatRequest::default()
            .with_group_id(k::GroupId(text(&group)))
            .with_generation_id(joined.generation_id)
            .with_member_id(text(id))
            .with_group_instance_id(Some(text("place")));
        connection.ask(HEARTBEAT, &request).error_code
    };
    assert_eq!(beat(&mut first.connection, &joined.member_id), FENCED_INSTANCE_ID);
    assert_eq!(beat(&mut again.connection, &back.member_id), 0);
}

#[test]
fn what_is_no_member_is_refused() {
    let broker = broker(&[]);
    let group = fresh("group");
    let mut member = Member::open(broker.kafka, &group).unwrap();
    let good = member.join_request();
    let mut code =
        |request: k::JoinGroupRequest| member.connection.ask(JOIN_GROUP, &request).error_code;
    assert_eq!(code(good.clone().with_group_id(k::GroupId(text("")))), INVALID_GROUP_ID);
    assert_eq!(code(good.clone().with_session_timeout_ms(5)), INVALID_SESSION_TIMEOUT);
    assert_eq!(code(good.clone().with_session_timeout_ms(i32::MAX)), INVALID_SESSION_TIMEOUT);
    assert_eq!(code(good.clone().with_session_timeout_ms(-1)), INVALID_SESSION_TIMEOUT);
    assert_eq!(code(good.clone().with_member_id(text("stranger"))), UNKNOWN_MEMBER_ID);
    assert_eq!(code(good.with_protocols(vec![])), 23, "INCONSISTENT_GROUP_PROTOCOL");
}

#[test]
fn commits_of_every_version_survive_a_kill() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("committed");
    client.create_topic(&topic, 20, &[]);
    let group = fresh("group");
    let mut expected = Offsets::new();
    for version in 2..=9 {
        let at = ((topic.clone(), i32::from(version)), 100 + i64::from(version));
        let answer = client.ask(version, &commit_request(&group, &[at.clone()].into()));
        assert_eq!(answer.topics[0].partitions[0].error_code, 0, "OffsetCommit v{version}");
        expected.extend([at]);
    }
    for _ in ["before a kill", "after it", "after another"] {
        assert_eq!(committed(&mut client, &group).unwrap(), expected);
        for version in 1..=7 {
            use k::offset_fetch_request::OffsetFetchRequestTopic as Topic;
            let topic = Topic::default()
                .with_name(topic_name(&topic))
                .with_partition_indexes((0..10).collect());
            let request = k::OffsetFetchRequest::default()
                .with_group_id(k::GroupId(text(&group)))
                .with_topics(Some(vec![topic]));
            let answer = client.ask(version, &request);
            for it in &answer.topics[0].partitions {
                let at = (topic_of(&expected), it.partition_index);
                let offset = expected.get(&at).copied().unwrap_or(-1);
                assert_eq!((it.error_code, it.committed_offset), (0, offset), "v{version}");
            }
        }
        broker.kill();
        broker.launch();
        client = Connection::open(broker.kafka);
    }
}

fn topic_of(offsets: &Offsets) -> String {
    offsets.keys().next().expect("something is committed").0.clone()
}

#[test]
fn a_commit_keeps_its_metadata_and_epoch() {
    let mut broker = broker(&["offset.metadata.max.bytes=100"]);
    let mut client = Connection::open(broker.kafka);
    let (topic, group) = (fresh("metadata"), fresh("group"));
    client.create_topic(&topic, 3, &[]);
    let commit = |client: &mut Connection, partition, metadata: Option<&str>| {
        let mut request = commit_request(&group, &[((topic.clone(), partition), 7)].into());
        let it = &mut request.topics[0].partitions[0];
        it.committed_metadata = metadata.map(text);
        it.committed_leader_epoch = 5;
        client.ask(OFFSET_COMMIT, &request).topics[0].partitions[0].error_code
    };
    let long = "m".repeat(100);
    assert_eq!(commit(&mut client, 0, Some(&long)), 0);
    assert_eq!(commit(&mut client, 1, None), 0);
    let longer = "m".repeat(101);
    assert_eq!(commit(&mut client, 0, Some(&longer)), OFFSET_METADATA_TOO_LARGE);
    assert_eq!(commit(&mut client, 9, Some("")), UNKNOWN_TOPIC_OR_PARTITION);
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    let wanted = k::offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(k::GroupId(text(&group)))
        .with_member_epoch(-1)
        .with_topics(None);
    let request = k::OffsetFetchRequest::default().with_groups(vec![wanted]);
    let answer = client.ask(OFFSET_FETCH, &request);
    let found: Vec<_> = answer.groups[0].topics[0]
        .partitions
        .iter()
        .map(|it| {
            let metadata = it.metadata.as_ref().map(ToString::to_string);
            (it.partition_index, it.committed_leader_epoch, metadata.unwrap_or_default())
        })
        .collect();
    assert_eq!(found, [(0, 5, long), (1, 5, String::new())]);
}

#[test]
fn members_commit_only_in_their_generation() {
    let broker = broker(&[]);
    let (topic, group) = (fresh("generation"), fresh("group"));
    let mut client = Connection::open(broker.kafka);
    client.create_topic(&topic, 1, &[]);
    let mut member = Member::open(broker.kafka, &group).unwrap();
    member.enter(&[(topic.clone(), 1)]).unwrap();
    let offsets: Offsets = [((topic.clone(), 0), 3)].into();
    assert_eq!(member.commit(&offsets).unwrap(), 0);
    member.generation -= 1;
    assert_eq!(member.commit(&offsets).unwrap(), ILLEGAL_GENERATION);
    member.generation += 2;
    assert_eq!(member.commit(&offsets).unwrap(), ILLEGAL_GENERATION);
    // A tool that resets offsets is refused while members live.
    let answer = client.ask(OFFSET_COMMIT, &commit_request(&group, &[((topic, 0), 0)].into()));
    assert_eq!(answer.topics[0].partitions[0].error_code, UNKNOWN_MEMBER_ID);
    assert_eq!(committed(&mut client, &group).unwrap(), offsets);
}

/// State and number of members.
fn describe(client: &mut Connection, group: &str) -> (i16, String, usize) {
    let request = k::DescribeGroupsRequest::default().with_groups(vec![k::GroupId(text(group))]);
    let answer = client.ask(6, &request).groups.remove(0);
    for member in &answer.members {
        assert_eq!(member.client_id.as_str(), "millrace-tests");
        assert_eq!(member.client_host.as_str(), "/127.0.0.1");
    }
    (answer.error_code, answer.group_state.to_string(), answer.members.len())
}

fn delete_group(client: &mut Connection, group: &str) -> i16 {
    let names = vec![k::GroupId(text(group))];
    let request = k::DeleteGroupsRequest::default().with_groups_names(names);
    client.ask(2, &request).results[0].error_code
}

#[test]
fn an_empty_group_is_reset_and_deleted() {
    let mut broker = broker(&[]);
    let (topic, group) = (fresh("reset"), fresh("group"));
    let mut client = Connection::open(broker.kafka);
    client.create_topic(&topic, 2, &[]);
    assert_eq!(describe(&mut client, &group).0, GROUP_ID_NOT_FOUND);
    let mut member = Member::open(broker.kafka, &group).unwrap();
    member.enter(&[(topic.clone(), 2)]).unwrap();
    assert_eq!(describe(&mut client, &group), (0, "Stable".to_owned(), 1));
    let offsets: Offsets = [((topic.clone(), 0), 3), ((topic.clone(), 1), 4)].into();
    assert_eq!(member.commit(&offsets).unwrap(), 0);
    assert_eq!(delete_group(&mut client, &group), NON_EMPTY_GROUP);
    assert_eq!(member.leave().unwrap(), 0);
    assert_eq!(describe(&mut client, &group), (0, "Empty".to_owned(), 0));

    let reset: Offsets = [((topic.clone(), 0), 0)].into();
    let answer = client.ask(OFFSET_COMMIT, &commit_request(&group, &reset));
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
    assert_eq!(delete_offset(&mut client, &group, &topic, 1), (0, 0));
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(committed(&mut client, &group).unwrap(), reset);
    assert_eq!(describe(&mut client, &group), (0, "Empty".to_owned(), 0));

    assert_eq!(delete_group(&mut client, &group), 0);
    assert_eq!(delete_group(&mut client, &group), GROUP_ID_NOT_FOUND);
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(committed(&mut client, &group).unwrap(), Offsets::new());
    assert_eq!(describe(&mut client, &group).0, GROUP_ID_NOT_FOUND);
}

/// The group's code and the partition's.
fn delete_offset(client: &mut Connection, group: &str, topic: &str, partition: i32) -> (i16, i16) {
    use k::offset_delete_request::{
        OffsetDeleteRequestPartition as Partition, OffsetDeleteRequestTopic as Topic,
    };
    let partition = Partition::default().with_partition_index(partition);
    let topic = Topic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = k::OffsetDeleteRequest::default()
        .with_group_id(k::GroupId(text(group)))
        .with_topics(vec![topic]);
    let answer = client.ask(0, &request);
    let code = answer.topics.first().map_or(0, |it| it.partitions[0].error_code);
    (answer.error_code, code)
}

#[test]
fn groups_are_listed_with_state_and_type() {
    let broker = broker(&[]);
    let (topic, stable, empty) = (fresh("listed"), fresh("stable"), fresh("empty"));
    let mut client = Connection::open(broker.kafka);
    client.create_topic(&topic, 1, &[]);
    client.ask(OFFSET_COMMIT, &commit_request(&empty, &[((topic.clone(), 0), 1)].into()));
    let mut member = Member::open(broker.kafka, &stable).unwrap();
    member.enter(&[(topic, 1)]).unwrap();
    let mut list = |version, states: &[&str], types: &[&str]| {
        let request = k::ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|it| text(it)).collect())
            .with_types_filter(types.iter().map(|it| text(it)).collect());
        let answer = client.ask(version, &request);
        assert_eq!(answer.error_code, 0);
        let mine = |it: &k::list_groups_response::ListedGroup| {
            [&stable, &empty].contains(&&it.group_id.to_string())
        };
        let mut found: Vec<_> = answer
            .groups
            .iter()
            .filter(|it| mine(it))
            .map(|it| (it.group_id.to_string(), it.group_state.to_string()))
            .collect();
        found.sort();
        found
    };
    let (e, s) = ((empty.clone(), "Empty".to_owned()), (stable.clone(), "Stable".to_owned()));
    for version in 0..=3 {
        let names: Vec<_> = list(version, &[], &[]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [empty.clone(), stable.clone()], "v{version}");
    }
    assert_eq!(list(4, &[], &[]), [e.clone(), s.clone()]);
    assert_eq!(list(4, &["Stable"], &[]), std::slice::from_ref(&s));
    assert_eq!(list(5, &["empty"], &["Classic"]), std::slice::from_ref(&e));
    assert_eq!(list(5, &[], &["consumer"]), []);
}

#[test]
fn members_go_on_in_their_generation_after_a_kill() {
    let mut broker = broker(&[]);
    let (topic, group) = (fresh("survivor"), fresh("group"));
    Connection::open(broker.kafka).create_topic(&topic, 1, &[]);
    let mut member = Member::open(broker.kafka, &group).unwrap();
    member.enter(&[(topic.clone(), 1)]).unwrap();
    broker.kill();
    broker.launch();
    member.connection = Connection::open(broker.kafka);
    assert_eq!(member.heartbeat().unwrap(), 0);
    assert_eq!(member.commit(&[((topic, 0), 3)].into()).unwrap(), 0);
}

#[test]
fn coordinators_are_found_by_every_version() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let port = i32::from(broker.kafka.port());
    for version in 0..=6 {
        let request = k::FindCoordinatorRequest::default();
        let found = if version >= 4 {
            let request = request.with_coordinator_keys(vec![text("a"), text("b")]);
            let answer = client.ask(version, &request);
            assert_eq!(answer.coordinators.len(), 2, "v{version}");
            let it = &answer.coordinators[1];
            assert_eq!(it.key.as_str(), "b");
            (it.error_code, it.node_id.0, it.host.to_string(), it.port)
        } else {
            let it = client.ask(version, &request.with_key(text("a")));
            (it.error_code, it.node_id.0, it.host.to_string(), it.port)
        };
        assert_eq!(found, (0, 1, "127.0.0.1".to_owned(), port), "v{version}");
    }
}
