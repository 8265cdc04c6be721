//! The metrics page: what moves when something happens, and that it says of groups what the protocol says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{CreateTopicsRequest, DeleteTopicsRequest};
use millrace_model::compression::Codec;
use millrace_proto::v1::ListTopicsRequest;
use millrace_proto::v1::admin_service_client::AdminServiceClient;
use millrace_tests::ask::{CREATE_TOPICS, Fetch, LATEST, new_topic, topic_name};
use millrace_tests::group::{Member, OFFSET_COMMIT, Offsets, commit_request, committed};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, http_get};
use millrace_tests::records::{batch, now_ms, timed};
use tonic::transport::{Channel, Endpoint};

const BROKER: &str = env!("CARGO_BIN_EXE_millrace-broker");

const DELETE_TOPICS: i16 = 6;

/// A client of the gRPC door's administration.
pub(crate) async fn admin(broker: &BrokerProcess) -> AdminServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", broker.grpc)).unwrap();
    AdminServiceClient::new(endpoint.connect().await.unwrap())
}

/// The samples of one look at the page, by series as it is written there.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    fn of(broker: &BrokerProcess) -> Self {
        let (status, page) = http_get(broker.http, "/metrics").unwrap();
        assert_eq!(status, 200);
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let read = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        };
        Self(samples.map(read).collect())
    }

    /// 0 where there is none: it has not happened yet.
    fn value(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    fn has(&self, series: &str) -> bool {
        self.0.contains_key(series)
    }

    fn stage(&self, stage: &str) -> f64 {
        self.value(&format!("millrace_produce_stage_seconds_count{{stage=\"{stage}\"}}"))
    }
}

#[test]
fn a_produce_is_timed_stage_by_stage() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("durable", 1, &[("durability", "durable")]);
    kafka.create_topic("relaxed", 1, &[("durability", "relaxed")]);
    for _ in 0..3 {
        kafka.produce("durable", 0, &batch(&["a", "b"])).unwrap();
    }
    let page = Samples::of(&broker);
    for stage in ["queue", "append", "sync", "respond"] {
        assert_eq!(page.stage(stage), 3.0, "{stage}");
        let sum = format!("millrace_produce_stage_seconds_sum{{stage=\"{stage}\"}}");
        assert!(page.value(&sum) > 0.0, "{stage} takes time");
    }
    let whole = page.value("millrace_kafka_request_seconds_sum{api=\"Produce\"}");
    let stages: f64 = ["queue", "append", "sync", "respond"]
        .map(|it| page.value(&format!("millrace_produce_stage_seconds_sum{{stage=\"{it}\"}}")))
        .iter()
        .sum();
    assert!(stages <= whole * 1.01, "the stages are parts of the whole: {stages} of {whole}");
    assert!(page.value("millrace_sync_seconds_count") >= 3.0);
    assert!(page.value("millrace_sync_files_sum") >= 3.0);

    for _ in 0..2 {
        kafka.produce("relaxed", 0, &batch(&["a"])).unwrap();
    }
    let page = Samples::of(&broker);
    assert_eq!(page.stage("append"), 5.0);
    assert_eq!(page.stage("respond"), 5.0);
    assert_eq!(page.stage("sync"), 3.0, "nobody waits for a relaxed topic's sync");
}

#[test]
fn refused_batches_are_timed_and_counted_too() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut kafka = Connection::open(broker.kafka);
    assert!(kafka.produce("nowhere", 0, &batch(&["a"])).is_err());
    let page = Samples::of(&broker);
    assert_eq!(page.value("millrace_produce_refused_total"), 1.0);
    assert_eq!(page.value("millrace_kafka_request_seconds_count{api=\"Produce\"}"), 1.0);
    assert_eq!(page.stage("queue"), 0.0, "no partition ever had it");
}

#[tokio::test]
async fn requests_of_both_doors_are_timed_by_name() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("timed", 1, &[]);
    kafka.read("timed", 0, 0);
    let mut admin = admin(&broker).await;
    admin.list_topics(ListTopicsRequest::default()).await.unwrap();
    let page = Samples::of(&broker);
    for series in [
        "millrace_kafka_request_seconds_count{api=\"CreateTopics\"}",
        "millrace_kafka_request_seconds_count{api=\"Fetch\"}",
        "millrace_kafka_request_seconds_bucket{api=\"Fetch\",le=\"+Inf\"}",
        "millrace_grpc_request_seconds_count{method=\"ListTopics\"}",
        "millrace_grpc_requests_total{method=\"ListTopics\"}",
    ] {
        assert_eq!(page.value(series), 1.0, "{series}");
    }
    let never = "millrace_kafka_request_seconds_count{api=\"DeleteGroups\"}";
    assert!(!page.has(never), "what nobody asks takes no room");
}

#[test]
fn a_topics_traffic_is_counted_until_it_is_deleted() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("busy", 2, &[]);
    let batch = batch(&["a", "b", "c"]);
    kafka.produce("busy", 0, &batch).unwrap();
    kafka.produce("busy", 1, &batch).unwrap();
    let read = kafka.read("busy", 0, 0).len() as f64;
    // From within a batch: the batch comes whole, the records before the offset do not count.
    let within = kafka.fetch("busy", &Fetch::at(1, 2))[0].records.as_ref().unwrap().len() as f64;
    let page = Samples::of(&broker);
    let bytes = 2.0 * batch.len() as f64;
    for (series, value) in [
        ("millrace_topic_produced_records_total{topic=\"busy\"}", 6.0),
        ("millrace_topic_produced_bytes_total{topic=\"busy\"}", bytes),
        ("millrace_topic_fetched_records_total{topic=\"busy\"}", 4.0),
        ("millrace_topic_fetched_bytes_total{topic=\"busy\"}", read + within),
        ("millrace_topic_size_bytes{topic=\"busy\"}", bytes),
        ("kafka_topic_partitions{topic=\"busy\"}", 2.0),
        ("kafka_topic_partition_current_offset{topic=\"busy\",partition=\"1\"}", 3.0),
        ("kafka_topic_partition_oldest_offset{topic=\"busy\",partition=\"1\"}", 0.0),
    ] {
        assert!(page.has(series), "{series}");
        assert_eq!(page.value(series), value, "{series}");
    }
    let topic = DeleteTopicState::default().with_name(Some(topic_name("busy")));
    let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    assert_eq!(kafka.ask(DELETE_TOPICS, &request).responses[0].error_code, 0);
    let page = Samples::of(&broker);
    assert!(page.0.keys().all(|series| !series.contains("\"busy\"")));
}

#[test]
fn a_page_that_is_full_says_what_it_lacks() {
    const SHOWN_MAX: i32 = 1_000;
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut kafka = Connection::open(broker.kafka);
    let names: Vec<_> = (0..SHOWN_MAX + 3).map(|it| format!("topic-{it:04}")).collect();
    let topics = names.iter().map(|it| new_topic(it, 2, &[])).collect();
    let request = CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(60_000);
    let created = kafka.ask(CREATE_TOPICS, &request);
    assert!(created.topics.iter().all(|it| it.error_code == 0));
    let page = Samples::of(&broker);
    assert_eq!(page.value("millrace_metrics_left_out{what=\"topics\"}"), 3.0);
    assert_eq!(page.value("millrace_metrics_left_out{what=\"partitions\"}"), 6.0);
    assert!(page.has("kafka_topic_partitions{topic=\"topic-0999\"}"));
    assert!(page.0.keys().all(|series| !series.contains("topic-1000")));
    assert_eq!(page.value("millrace_topics"), f64::from(SHOWN_MAX + 3), "what is counted is");
}

#[test]
fn the_lag_of_a_group_is_what_offset_fetch_says() {
    const GROUP: &str = "bill\"ing";
    const SHOWN: &str = "bill\\\"ing";
    let settings = ["offsets.topic.num.partitions=4", "group.initial.rebalance.delay.ms=0"];
    let broker = BrokerProcess::start(BROKER, &settings);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("orders", 3, &[]);
    let minute_ago = now_ms() - 60_000;
    for partition in 0..3 {
        let times = [minute_ago - 60_000, minute_ago, minute_ago + 1_000, minute_ago + 2_000];
        kafka.produce("orders", partition, &timed(Codec::None, &times)).unwrap();
    }
    // Partition 2 stays without a committed offset.
    let offsets = Offsets::from([(("orders".to_owned(), 0), 1), (("orders".to_owned(), 1), 4)]);
    let answer = kafka.ask(OFFSET_COMMIT, &commit_request(GROUP, &offsets));
    assert!(answer.topics[0].partitions.iter().all(|it| it.error_code == 0));
    let found = committed(&mut kafka, GROUP).unwrap();
    assert_eq!(found, offsets);
    let page = Samples::of(&broker);
    let of = |name: &str, label: &str, partition: i32| {
        let series =
            format!("{name}{{{label}=\"{SHOWN}\",topic=\"orders\",partition=\"{partition}\"}}");
        assert!(page.has(&series), "{series}");
        page.value(&series)
    };
    let mut sum = 0.0;
    for ((topic, partition), offset) in found {
        let end = kafka.offset(&topic, partition, LATEST);
        let lag = (end - offset) as f64;
        sum += lag;
        let current = of("kafka_consumergroup_current_offset", "consumergroup", partition);
        assert_eq!(current, offset as f64);
        assert_eq!(of("kafka_consumergroup_lag", "consumergroup", partition), lag);
        assert_eq!(of("millrace_consumer_group_lag_records", "group", partition), lag);
    }
    let of_topic =
        |name: &str| page.value(&format!("{name}{{consumergroup=\"{SHOWN}\",topic=\"orders\"}}"));
    assert_eq!(sum, 3.0);
    assert_eq!(of_topic("kafka_consumergroup_lag_sum"), sum);
    assert_eq!(of_topic("kafka_consumergroup_current_offset_sum"), 5.0);
    let age = of("millrace_consumer_group_lag_seconds", "group", 0);
    assert!((60.0..=(now_ms() - minute_ago) as f64 / 1e3).contains(&age), "{age}");
    assert_eq!(of("millrace_consumer_group_lag_seconds", "group", 1), 0.0);
    let members = format!("kafka_consumergroup_members{{consumergroup=\"{SHOWN}\"}}");
    assert_eq!((page.has(&members), page.value(&members)), (true, 0.0));
    for what in ["topics", "partitions", "groups", "group_partitions"] {
        let series = format!("millrace_metrics_left_out{{what=\"{what}\"}}");
        assert_eq!((page.has(&series), page.value(&series)), (true, 0.0), "{what}");
    }
}

#[test]
fn a_member_shows_its_partitions_before_it_commits() {
    let settings = ["offsets.topic.num.partitions=4", "group.initial.rebalance.delay.ms=0"];
    let broker = BrokerProcess::start(BROKER, &settings);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("orders", 1, &[]);
    kafka.produce("orders", 0, &batch(&["a", "b"])).unwrap();
    let mut member = Member::open(broker.kafka, "fresh").unwrap();
    member.topics = vec!["orders".to_owned()];
    member.enter(&[("orders".to_owned(), 1)]).unwrap();
    let page = Samples::of(&broker);
    for (series, value) in [
        ("kafka_consumergroup_members{consumergroup=\"fresh\"}", 1.0),
        (
            "kafka_consumergroup_current_offset{consumergroup=\"fresh\",topic=\"orders\",partition=\"0\"}",
            -1.0,
        ),
        ("kafka_consumergroup_lag{consumergroup=\"fresh\",topic=\"orders\",partition=\"0\"}", -1.0),
        (
            "millrace_consumer_group_lag_records{group=\"fresh\",topic=\"orders\",partition=\"0\"}",
            2.0,
        ),
    ] {
        assert!(page.has(series), "{series}");
        assert_eq!(page.value(series), value, "{series}");
    }
    let offsets = Offsets::from([(("orders".to_owned(), 0), 2)]);
    assert_eq!(member.commit(&offsets).unwrap(), 0);
    let lag = "kafka_consumergroup_lag{consumergroup=\"fresh\",topic=\"orders\",partition=\"0\"}";
    let page = Samples::of(&broker);
    assert_eq!((page.has(lag), page.value(lag)), (true, 0.0));
}
