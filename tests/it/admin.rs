//! Topics, partitions, records, configs and the cluster as an administrator sees and changes them, over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kafka_protocol::messages as k;
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use millrace_tests::ask::{
    CREATE_TOPICS, EARLIEST, Fetch, LATEST, TopicId, fresh, new_topic, text, topic_name,
};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, until};
use millrace_tests::records::batch;
use millrace_wire::cold::{topic_id, topic_id_bytes};

use crate::broker::broker;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const INVALID_TOPIC: i16 = 17;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const INVALID_PARTITIONS: i16 = 37;
const INVALID_REPLICATION_FACTOR: i16 = 38;
const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
const INVALID_CONFIG: i16 = 40;
const INVALID_REQUEST: i16 = 42;
const SECURITY_DISABLED: i16 = 54;
const UNKNOWN_TOPIC_ID: i16 = 100;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Partition count by topic, as Metadata tells it; the error code where there is one.
fn partitions(client: &mut Connection, topic: &str) -> Result<usize, i16> {
    use k::metadata_request::MetadataRequestTopic as Topic;
    let topic = Topic::default().with_name(Some(topic_name(topic)));
    let request = k::MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(false);
    let answer = client.ask(12, &request);
    match answer.topics[0].error_code {
        0 => Ok(answer.topics[0].partitions.len()),
        code => Err(code),
    }
}

fn delete_topic(client: &mut Connection, topic: &str) -> i16 {
    let request = k::DeleteTopicsRequest::default()
        .with_topic_names(vec![topic_name(topic)])
        .with_timeout_ms(30_000);
    client.ask(5, &request).responses[0].error_code
}

#[test]
fn every_version_of_create_and_delete_topics_works() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    for version in 2..=7 {
        let name = fresh("create");
        let request = k::CreateTopicsRequest::default()
            .with_topics(vec![new_topic(&name, 3, &[])])
            .with_timeout_ms(30_000);
        let answer = client.ask(version, &request);
        assert_eq!(answer.topics[0].error_code, 0, "CreateTopics v{version}");
        if version >= 5 {
            let it = &answer.topics[0];
            assert_eq!((it.num_partitions, it.replication_factor), (3, 1), "v{version}");
            let configs = it.configs.as_ref().unwrap();
            assert!(configs.iter().any(|it| it.name.as_str() == "retention.ms"), "v{version}");
        }
        assert_eq!(partitions(&mut client, &name), Ok(3), "v{version}");
    }
    for version in 1..=6 {
        let name = fresh("delete");
        client.create_topic(&name, 1, &[]);
        let request = k::DeleteTopicsRequest::default().with_timeout_ms(30_000);
        let request = if version >= 6 {
            use k::delete_topics_request::DeleteTopicState as Topic;
            request.with_topics(vec![Topic::default().with_name(Some(topic_name(&name)))])
        } else {
            request.with_topic_names(vec![topic_name(&name)])
        };
        let answer = client.ask(version, &request);
        assert_eq!(answer.responses[0].error_code, 0, "DeleteTopics v{version}");
        assert_eq!(partitions(&mut client, &name), Err(UNKNOWN_TOPIC_OR_PARTITION));
    }
}

#[test]
fn a_topic_that_is_made_again_is_another_topic() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("again");
    let mut seen: Vec<TopicId> = Vec::new();
    for round in 0..3 {
        let id = client.create_topic(&name, 1, &[]);
        assert_ne!(id, [0; 16]);
        assert!(!seen.contains(&id), "round {round}");
        assert_eq!(client.offset(&name, 0, LATEST), 0, "round {round}: nothing of before");
        client.produce(&name, 0, &batch(&["a", "b"])).unwrap();
        seen.push(id);
        if round == 1 {
            broker.kill();
            broker.launch();
            client = Connection::open(broker.kafka);
            assert_eq!(client.offset(&name, 0, LATEST), 2);
        }
        let old = client.ask(13, &Fetch::at(0, 0).request(13, &name, seen[0]));
        let code = old.responses[0].partitions[0].error_code;
        assert_eq!(code, if round == 0 { 0 } else { UNKNOWN_TOPIC_ID }, "round {round}");
        assert_eq!(delete_topic(&mut client, &name), 0);
        assert_eq!(client.produce(&name, 0, &batch(&["late"])), Err(UNKNOWN_TOPIC_OR_PARTITION));
    }
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(partitions(&mut client, &name), Err(UNKNOWN_TOPIC_OR_PARTITION), "it stays away");
}

/// What the broker still holds of files that are gone: as long as it does, the disk keeps their space.
fn held_though_deleted(broker: &BrokerProcess) -> Vec<String> {
    let process = PathBuf::from(format!("/proc/{}", broker.pid().expect("it runs")));
    let descriptors = fs::read_dir(process.join("fd")).expect("Linux").flatten();
    let links = descriptors.filter_map(|it| fs::read_link(it.path()).ok());
    let mut held: Vec<String> = links.map(|it| it.to_string_lossy().into_owned()).collect();
    let maps = fs::read_to_string(process.join("maps")).expect("Linux");
    held.extend(maps.lines().map(str::to_owned));
    let data = broker.data_dir().to_string_lossy().into_owned();
    held.retain(|it| it.contains(&data) && it.ends_with("(deleted)"));
    held
}

#[test]
fn a_deleted_topic_gives_its_space_back() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("space");
    client.create_topic(&name, 3, &[]);
    for partition in 0..3 {
        client.produce(&name, partition, &batch(&["a", "b"])).unwrap();
        assert_eq!(client.read_all(&name, partition).len(), 2);
    }
    assert_eq!(delete_topic(&mut client, &name), 0);
    let mut held = Vec::new();
    until(Duration::from_secs(30), || {
        held = held_though_deleted(&broker);
        held.is_empty().then_some(())
    });
    assert!(held.is_empty(), "still held: {held:#?}");
}

#[test]
fn topics_are_deleted_by_id() {
    use k::delete_topics_request::DeleteTopicState as Topic;
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("by-id");
    let id = client.create_topic(&name, 1, &[]);
    let ask = |client: &mut Connection, topic: Topic| {
        let request =
            k::DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        client.ask(6, &request).responses.remove(0)
    };
    let by_id = |id: TopicId| Topic::default().with_topic_id(topic_id(id));
    assert_eq!(ask(&mut client, by_id([9; 16])).error_code, UNKNOWN_TOPIC_ID);
    let deleted = ask(&mut client, by_id(id));
    assert_eq!(deleted.error_code, 0);
    assert_eq!(deleted.name, Some(topic_name(&name)));
    assert_eq!(topic_id_bytes(deleted.topic_id), id);
    assert_eq!(ask(&mut client, by_id(id)).error_code, UNKNOWN_TOPIC_ID);
}

#[test]
fn what_cannot_be_a_topic_is_refused_in_kafkas_words() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let exists = fresh("exists");
    client.create_topic(&exists, 1, &[]);
    let good = || fresh("good");
    let long = "x".repeat(250);
    let assigned = |ids: &[&[i32]]| {
        let assignment = |(index, ids): (usize, &&[i32])| {
            CreatableReplicaAssignment::default()
                .with_partition_index(index as i32)
                .with_broker_ids(ids.iter().map(|&it| k::BrokerId(it)).collect())
        };
        let mut topic = new_topic(&good(), -1, &[]);
        topic.replication_factor = -1;
        topic.assignments = ids.iter().enumerate().map(assignment).collect();
        topic
    };
    let mut replicas = new_topic(&good(), 1, &[]);
    replicas.replication_factor = 2;
    let mut no_replicas = new_topic(&good(), 1, &[]);
    no_replicas.replication_factor = 0;
    for (name, topic, expected) in [
        ("an existing name", new_topic(&exists, 1, &[]), TOPIC_ALREADY_EXISTS),
        ("no name", new_topic("", 1, &[]), INVALID_TOPIC),
        ("one dot", new_topic(".", 1, &[]), INVALID_TOPIC),
        ("two dots", new_topic("..", 1, &[]), INVALID_TOPIC),
        ("a path", new_topic("../../etc/passwd", 1, &[]), INVALID_TOPIC),
        ("a slash", new_topic("a/b", 1, &[]), INVALID_TOPIC),
        ("a space", new_topic("a b", 1, &[]), INVALID_TOPIC),
        ("a zero byte", new_topic("a\0b", 1, &[]), INVALID_TOPIC),
        ("not ASCII", new_topic("m\u{fc}hle", 1, &[]), INVALID_TOPIC),
        ("250 characters", new_topic(&long, 1, &[]), INVALID_TOPIC),
        ("no partitions", new_topic(&good(), 0, &[]), INVALID_PARTITIONS),
        ("-2 partitions", new_topic(&good(), -2, &[]), INVALID_PARTITIONS),
        ("more replicas than brokers", replicas, INVALID_REPLICATION_FACTOR),
        ("no replicas", no_replicas, INVALID_REPLICATION_FACTOR),
        ("an unknown config", new_topic(&good(), 1, &[("no.such", "1")]), INVALID_CONFIG),
        ("no number", new_topic(&good(), 1, &[("retention.ms", "soon")]), INVALID_CONFIG),
        ("a number too small", new_topic(&good(), 1, &[("segment.bytes", "1")]), INVALID_CONFIG),
        ("no policy", new_topic(&good(), 1, &[("cleanup.policy", "burn")]), INVALID_CONFIG),
        ("an unknown broker", assigned(&[&[77]]), INVALID_REPLICA_ASSIGNMENT),
        ("a broker twice", assigned(&[&[1, 1]]), INVALID_REPLICA_ASSIGNMENT),
        ("no broker", assigned(&[&[]]), INVALID_REPLICA_ASSIGNMENT),
    ] {
        let answer = client.try_create_topic(topic);
        assert_eq!(answer.error_code, expected, "{name}: {:?}", answer.error_message);
        assert!(answer.error_message.is_some(), "{name}");
    }
    assert_eq!(client.try_create_topic(assigned(&[&[1], &[1]])).error_code, 0);
    let longest = "y".repeat(249);
    assert_eq!(client.try_create_topic(new_topic(&longest, 1, &[])).error_code, 0);
    client.produce(&longest, 0, &batch(&["a"])).unwrap();
}

#[test]
fn each_topic_of_a_creation_is_answered_for_itself() {
    let broker = broker(&["num.partitions=4"]);
    let mut client = Connection::open(broker.kafka);
    let (good, default, twice) = (fresh("good"), fresh("default"), fresh("twice"));
    let mut by_default = new_topic(&default, -1, &[]);
    by_default.replication_factor = -1;
    let topics = vec![
        new_topic("bad name", 1, &[]),
        new_topic(&good, 2, &[]),
        by_default,
        new_topic(&twice, 1, &[]),
        new_topic(&twice, 1, &[]),
    ];
    let request = k::CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000);
    let answer = client.ask(CREATE_TOPICS, &request);
    let codes: BTreeMap<String, i16> =
        answer.topics.iter().map(|it| (it.name.to_string(), it.error_code)).collect();
    let expected = [
        ("bad name".to_owned(), INVALID_TOPIC),
        (good.clone(), 0),
        (default.clone(), 0),
        (twice.clone(), INVALID_REQUEST),
    ];
    assert_eq!(codes, expected.into());
    assert_eq!(partitions(&mut client, &good), Ok(2));
    assert_eq!(partitions(&mut client, &default), Ok(4));
    assert_eq!(partitions(&mut client, &twice), Err(UNKNOWN_TOPIC_OR_PARTITION));
}

#[test]
fn validation_alone_creates_nothing() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("only-validated");
    let request = k::CreateTopicsRequest::default()
        .with_topics(vec![new_topic(&name, 2, &[])])
        .with_validate_only(true);
    assert_eq!(client.ask(CREATE_TOPICS, &request).topics[0].error_code, 0);
    assert_eq!(partitions(&mut client, &name), Err(UNKNOWN_TOPIC_OR_PARTITION));
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    use k::create_partitions_request::CreatePartitionsTopic as Topic;
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("grows");
    client.create_topic(&name, 2, &[]);
    client.produce(&name, 1, &batch(&["old"])).unwrap();
    let grow = |client: &mut Connection, version, topic: &str, count| {
        let topic =
            Topic::default().with_name(topic_name(topic)).with_count(count).with_assignments(None);
        let request =
            k::CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let answer = client.ask(version, &request).results.remove(0);
        assert!(!answer.name.is_empty(), "the topic is named");
        answer.error_code
    };
    for version in 0..=3 {
        assert_eq!(grow(&mut client, version, &name, 3 + i32::from(version)), 0, "v{version}");
    }
    assert_eq!(partitions(&mut client, &name), Ok(6));
    client.produce(&name, 5, &batch(&["new"])).unwrap();
    for count in [6, 5, 1, 0, -1] {
        assert_eq!(grow(&mut client, 3, &name, count), INVALID_PARTITIONS, "{count}");
    }
    assert_eq!(grow(&mut client, 3, &fresh("nothing"), 3), UNKNOWN_TOPIC_OR_PARTITION);
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(partitions(&mut client, &name), Ok(6));
    assert_eq!(client.read_all(&name, 1), [(0, "old".to_owned())]);
    assert_eq!(client.read_all(&name, 5), [(0, "new".to_owned())]);
}

#[test]
fn deleted_records_stay_deleted_through_a_kill() {
    use k::delete_records_request::{
        DeleteRecordsPartition as Partition, DeleteRecordsTopic as Topic,
    };
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("records");
    client.create_topic(&name, 1, &[]);
    for _ in 0..5 {
        client.produce(&name, 0, &batch(&["a", "b"])).unwrap();
    }
    let delete = |client: &mut Connection, version, partition, before| {
        let partition = Partition::default().with_partition_index(partition).with_offset(before);
        let topic = Topic::default().with_name(topic_name(&name)).with_partitions(vec![partition]);
        let request =
            k::DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let answer = client.ask(version, &request);
        let it = &answer.topics[0].partitions[0];
        (it.error_code, it.low_watermark)
    };
    assert_eq!(delete(&mut client, 0, 0, 0), (0, 0));
    assert_eq!(delete(&mut client, 1, 0, 3), (0, 3));
    assert_eq!(delete(&mut client, 2, 0, 2), (0, 3), "the start never goes back");
    assert_eq!(delete(&mut client, 2, 0, 11).0, OFFSET_OUT_OF_RANGE);
    assert_eq!(delete(&mut client, 2, 0, -2).0, OFFSET_OUT_OF_RANGE);
    assert_eq!(delete(&mut client, 2, 7, 0).0, UNKNOWN_TOPIC_OR_PARTITION);
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(client.offset(&name, 0, EARLIEST), 3);
    assert_eq!(client.offset(&name, 0, LATEST), 10);
    assert_eq!(delete(&mut client, 2, 0, -1), (0, 10), "-1 is the end");
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(client.offset(&name, 0, EARLIEST), 10);
    assert_eq!(client.produce(&name, 0, &batch(&["next"])), Ok(10), "offsets go on");
    assert_eq!(client.read_all(&name, 0), [(10, "next".to_owned())]);
}

/// The configs of one resource by name, or the error code.
fn configs(
    client: &mut Connection,
    resource: (i8, &str),
    keys: Option<&[&str]>,
) -> Result<BTreeMap<String, DescribeConfigsResourceResult>, i16> {
    use k::describe_configs_request::DescribeConfigsResource as Resource;
    let resource = Resource::default()
        .with_resource_type(resource.0)
        .with_resource_name(text(resource.1))
        .with_configuration_keys(keys.map(|it| it.iter().map(|it| text(it)).collect()));
    let request = k::DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_synonyms(true);
    let result = client.ask(4, &request).results.remove(0);
    if result.error_code != 0 {
        return Err(result.error_code);
    }
    Ok(result.configs.into_iter().map(|it| (it.name.to_string(), it)).collect())
}

/// Value and source of one config.
fn config(client: &mut Connection, topic: &str, key: &str) -> (String, i8) {
    let found = configs(client, (TOPIC, topic), Some(&[key]));
    let found = found.expect("the topic is there").remove(key).expect("the key is there");
    (found.value.expect("a value that is no secret").to_string(), found.config_source)
}

const DYNAMIC_TOPIC: i8 = 1;
const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

#[test]
fn all_configs_of_a_topic_are_described_with_their_source() {
    let broker = broker(&["log.retention.hours=24"]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("described");
    client.create_topic(&name, 1, &[("cleanup.policy", "compact,delete")]);
    let all = configs(&mut client, (TOPIC, &name), None).unwrap();
    for key in [
        "cleanup.policy",
        "compression.type",
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "index.interval.bytes",
        "max.compaction.lag.ms",
        "max.message.bytes",
        "message.timestamp.type",
        "message.timestamp.before.max.ms",
        "message.timestamp.after.max.ms",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "min.insync.replicas",
        "preallocate",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    ] {
        assert!(all.contains_key(key), "{key}");
    }
    assert_eq!(
        config(&mut client, &name, "cleanup.policy"),
        ("compact,delete".into(), DYNAMIC_TOPIC)
    );
    assert_eq!(config(&mut client, &name, "retention.ms"), ("86400000".into(), STATIC_BROKER));
    assert_eq!(config(&mut client, &name, "segment.bytes"), ("1073741824".into(), DEFAULT));
    assert_eq!(configs(&mut client, (TOPIC, &name), Some(&[])).unwrap().len(), 0);
    let two = configs(&mut client, (TOPIC, &name), Some(&["flush.ms", "no.such"])).unwrap();
    assert_eq!(two.into_keys().collect::<Vec<_>>(), ["flush.ms"]);
    let missing = configs(&mut client, (TOPIC, &fresh("missing")), None);
    assert_eq!(missing.unwrap_err(), UNKNOWN_TOPIC_OR_PARTITION);
}

#[test]
fn a_brokers_configs_are_described() {
    let broker = broker(&["num.partitions=7"]);
    let mut client = Connection::open(broker.kafka);
    let all = configs(&mut client, (BROKER, "1"), None).unwrap();
    assert_eq!(all["num.partitions"].value, Some(text("7")));
    assert_eq!(all["num.partitions"].config_source, STATIC_BROKER);
    assert_eq!(all["auto.create.topics.enable"].config_source, DEFAULT);
    assert_eq!(configs(&mut client, (BROKER, "77"), None).unwrap_err(), INVALID_REQUEST);
}

/// Sets every config of a topic anew.
fn alter(client: &mut Connection, topic: &str, values: &[(&str, Option<&str>)]) -> i16 {
    use k::alter_configs_request::{AlterConfigsResource as Resource, AlterableConfig as Config};
    let config = |&(name, value): &(&str, Option<&str>)| {
        Config::default().with_name(text(name)).with_value(value.map(text))
    };
    let resource = Resource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(values.iter().map(config).collect());
    let request = k::AlterConfigsRequest::default().with_resources(vec![resource]);
    client.ask(2, &request).responses[0].error_code
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn increment(client: &mut Connection, topic: &str, changes: &[(&str, i8, Option<&str>)]) -> i16 {
    use k::incremental_alter_configs_request::{
        AlterConfigsResource as Resource, AlterableConfig as Config,
    };
    let config = |&(name, operation, value): &(&str, i8, Option<&str>)| {
        Config::default()
            .with_name(text(name))
            .with_config_operation(operation)
            .with_value(value.map(text))
    };
    let resource = Resource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configs(changes.iter().map(config).collect());
    let request = k::IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    client.ask(1, &request).responses[0].error_code
}

#[test]
fn altering_configs_replaces_all_of_them_for_good() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("altered");
    client.create_topic(&name, 1, &[("retention.ms", "1000000000")]);
    assert_eq!(alter(&mut client, &name, &[("max.message.bytes", Some("200"))]), 0);
    assert_eq!(alter(&mut client, &name, &[("max.message.bytes", Some("-7"))]), INVALID_CONFIG);
    assert_eq!(alter(&mut client, &name, &[("no.such", Some("1"))]), INVALID_CONFIG);
    assert_eq!(alter(&mut client, &fresh("missing"), &[]), UNKNOWN_TOPIC_OR_PARTITION);
    for _ in ["before a kill", "after it"] {
        assert_eq!(config(&mut client, &name, "retention.ms").1, DEFAULT);
        assert_eq!(config(&mut client, &name, "max.message.bytes"), ("200".into(), DYNAMIC_TOPIC));
        let large = batch(&[&"x".repeat(300)]);
        assert_eq!(client.produce(&name, 0, &large), Err(10), "and it is in force");
        broker.kill();
        broker.launch();
        client = Connection::open(broker.kafka);
    }
}

#[test]
fn incremental_changes_set_delete_append_and_subtract() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("incremental");
    client.create_topic(&name, 1, &[("retention.ms", "1000000000")]);
    let policy = "cleanup.policy";
    assert_eq!(increment(&mut client, &name, &[("segment.ms", SET, Some("60000"))]), 0);
    assert_eq!(increment(&mut client, &name, &[(policy, APPEND, Some("compact"))]), 0);
    assert_eq!(config(&mut client, &name, policy), ("delete,compact".into(), DYNAMIC_TOPIC));
    assert_eq!(increment(&mut client, &name, &[(policy, SUBTRACT, Some("delete"))]), 0);
    assert_eq!(increment(&mut client, &name, &[("retention.ms", DELETE, None)]), 0);
    for (name_, changes, expected) in [
        ("an unknown key", [("no.such", SET, Some("1"))], INVALID_CONFIG),
        ("a bad value", [("segment.ms", SET, Some("x"))], INVALID_CONFIG),
        ("append to no list", [("segment.ms", APPEND, Some("1"))], INVALID_CONFIG),
        ("an unknown operation", [("segment.ms", 9, Some("1"))], INVALID_REQUEST),
        ("a set of null", [("segment.ms", SET, None)], INVALID_REQUEST),
    ] {
        assert_eq!(increment(&mut client, &name, &changes), expected, "{name_}");
    }
    let twice = [("segment.ms", SET, Some("1")), ("segment.ms", SET, Some("2"))];
    assert_eq!(increment(&mut client, &name, &twice), INVALID_REQUEST, "a key twice");
    for _ in ["before a kill", "after it"] {
        assert_eq!(config(&mut client, &name, policy), ("compact".into(), DYNAMIC_TOPIC));
        assert_eq!(config(&mut client, &name, "segment.ms"), ("60000".into(), DYNAMIC_TOPIC));
        assert_eq!(config(&mut client, &name, "retention.ms").1, DEFAULT);
        broker.kill();
        broker.launch();
        client = Connection::open(broker.kafka);
    }
}

#[test]
fn log_dirs_show_what_partitions_hold() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let name = fresh("sizes");
    client.create_topic(&name, 2, &[]);
    let sent = batch(&[&"x".repeat(10_000)]);
    client.produce(&name, 1, &sent).unwrap();
    for version in 1..=4 {
        let answer = client.ask(version, &k::DescribeLogDirsRequest::default().with_topics(None));
        assert_eq!(answer.results.len(), 1, "v{version}");
        let dir = &answer.results[0];
        assert_eq!(dir.error_code, 0, "v{version}");
        assert!(!dir.log_dir.is_empty(), "v{version}");
        let topic = dir.topics.iter().find(|it| it.name.as_str() == name).unwrap();
        let mut sizes: Vec<_> =
            topic.partitions.iter().map(|it| (it.partition_index, it.partition_size)).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [(0, 0), (1, sent.len() as i64)], "v{version}");
        if version >= 4 {
            assert!(0 < dir.usable_bytes && dir.usable_bytes <= dir.total_bytes);
        }
    }
}

#[test]
fn the_cluster_is_described_alike_by_both_apis() {
    let mut broker = broker(&["broker.rack=cellar"]);
    let mut client = Connection::open(broker.kafka);
    let port = i32::from(broker.kafka.port());
    let mut ids = Vec::new();
    for version in [0, 1, 2, 2] {
        let request = k::DescribeClusterRequest::default();
        let answer = client.ask(version, &request);
        assert_eq!((answer.error_code, answer.controller_id.0), (0, 1), "v{version}");
        assert_eq!(answer.brokers.len(), 1);
        let it = &answer.brokers[0];
        assert_eq!((it.broker_id.0, it.host.as_str(), it.port), (1, "127.0.0.1", port));
        assert_eq!(it.rack, Some(text("cellar")));
        ids.push(answer.cluster_id.to_string());
        for version in 0..=13 {
            let answer = client.ask(
                version,
                &k::MetadataRequest::default().with_topics(if version == 0 {
                    Some(vec![])
                } else {
                    None
                }),
            );
            let it = &answer.brokers[0];
            assert_eq!((it.node_id.0, it.host.as_str(), it.port), (1, "127.0.0.1", port));
            if version >= 2 {
                ids.push(answer.cluster_id.unwrap().to_string());
            }
        }
        broker.kill();
        broker.launch();
        client = Connection::open(broker.kafka);
    }
    assert!(!ids[0].is_empty());
    assert!(ids.iter().all(|it| *it == ids[0]), "one cluster, over restarts too: {ids:?}");
}

#[test]
fn metadata_creates_topics_only_where_it_may() {
    use k::metadata_request::MetadataRequestTopic as Topic;
    let ask = |client: &mut Connection, version, name: &str, may| {
        let topic = Topic::default().with_name(Some(topic_name(name)));
        let request = k::MetadataRequest::default().with_topics(Some(vec![topic]));
        let request =
            if version >= 4 { request.with_allow_auto_topic_creation(may) } else { request };
        let answer = client.ask(version, &request);
        (answer.topics[0].error_code, answer.topics[0].partitions.len())
    };
    let open = broker(&["num.partitions=4"]);
    let mut client = Connection::open(open.kafka);
    for version in [0, 1, 4, 9, 12, 13] {
        let name = fresh("auto");
        if version >= 4 {
            let expected = (UNKNOWN_TOPIC_OR_PARTITION, 0);
            assert_eq!(ask(&mut client, version, &name, false), expected, "v{version}");
        }
        assert_eq!(ask(&mut client, version, &name, true), (0, 4), "v{version}");
        client.produce(&name, 3, &batch(&["a"])).unwrap();
    }
    assert_eq!(ask(&mut client, 12, "not legal!", true).0, INVALID_TOPIC);
    let closed = broker(&["auto.create.topics.enable=false"]);
    let mut client = Connection::open(closed.kafka);
    let expected = (UNKNOWN_TOPIC_OR_PARTITION, 0);
    assert_eq!(ask(&mut client, 12, &fresh("auto"), true), expected);
}

#[test]
fn acls_are_disabled_and_say_so() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    for version in 1..=3 {
        let request = k::DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_pattern_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        assert_eq!(client.ask(version, &request).error_code, SECURITY_DISABLED, "v{version}");
    }
}
