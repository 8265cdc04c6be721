//! A broker's life as a process: how it starts, stops, dies, comes back, and what it refuses to start with.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use kafka_protocol::messages::ProduceRequest;
use millrace_tests::ask::{FETCH, Fetch, PRODUCE, fresh, produce_request, produced};
use millrace_tests::group::Member;
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, Ended, http_get, run_to_end};
use millrace_tests::records::batch;
use rustix::process::Signal;

use crate::broker::{BINARY, broker, prepared};

/// Kafka's name for it.
const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
/// What the log says of a partition whose batches had to be looked at one by one.
const RECOVERED: &str = "log recovered";

/// Some topics with three records in each partition.
fn fill(broker: &BrokerProcess) -> Vec<String> {
    let mut client = Connection::open(broker.kafka);
    let topics: Vec<String> = (0..5).map(|at| fresh(&format!("life-{at}"))).collect();
    for topic in &topics {
        client.create_topic(topic, 3, &[]);
        for partition in 0..3 {
            client.produce(topic, partition, &batch(&["a", "b"])).expect("it is appended");
            client.produce(topic, partition, &batch(&["c"])).expect("it is appended");
        }
    }
    topics
}

/// Everything that [`fill`] wrote is there, and more can be written.
fn check_filled(broker: &BrokerProcess, topics: &[String]) {
    let mut client = Connection::open(broker.kafka);
    let expected = [(0, "a"), (1, "b"), (2, "c")].map(|(at, value)| (at, value.to_owned()));
    for topic in topics {
        for partition in 0..3 {
            assert_eq!(client.read_all(topic, partition), expected, "{topic}-{partition}");
        }
        assert_eq!(client.produce(topic, 0, &batch(&["d"])), Ok(3));
    }
}

#[test]
fn sigterm_ends_with_0_and_the_next_start_has_nothing_to_recover() {
    let mut broker = broker(&[]);
    let topics = fill(&broker);
    let marker = broker.data_dir().join(CLEAN_MARKER);
    assert!(!marker.exists(), "it is not clean while it runs");
    assert_eq!(broker.stop(), Some(0));
    assert!(marker.exists(), "it says that it was closed");
    broker.launch();
    assert!(!marker.exists(), "what was said is no longer so");
    check_filled(&broker, &topics);
    let log = broker.log();
    let recovered = |line: &&str| line.contains(RECOVERED) && line.contains("life-");
    assert_eq!(log.lines().find(recovered), None, "no partition was looked at");
    assert!(!log.contains("\"WARN\""), "nothing to warn of:\n{log}");
}

#[test]
fn sigint_ends_with_0_too() {
    let mut broker = broker(&[]);
    broker.signal(Signal::INT);
    assert_eq!(broker.wait().code(), Some(0));
}

#[test]
fn a_hard_kill_leaves_everything_acknowledged() {
    let mut broker = broker(&[]);
    let topics = fill(&broker);
    broker.kill();
    assert!(!broker.data_dir().join(CLEAN_MARKER).exists());
    broker.launch();
    check_filled(&broker, &topics);
    assert!(broker.log().contains(RECOVERED), "what is not clean is looked at");
}

#[test]
fn a_start_that_was_killed_is_no_clean_start() {
    let mut broker = broker(&[]);
    let topics = fill(&broker);
    assert_eq!(broker.stop(), Some(0));
    // The marker goes before the broker is ready: dying right after must not leave it behind.
    broker.launch();
    broker.kill();
    assert!(!broker.data_dir().join(CLEAN_MARKER).exists());
    broker.launch();
    check_filled(&broker, &topics);
}

#[test]
fn stopping_waits_for_no_long_poll_and_no_join() {
    let mut broker = broker(&[]);
    let topic = fresh("polled");
    let mut poller = Connection::open(broker.kafka);
    poller.create_topic(&topic, 1, &[]);
    let fetch = Fetch { max_wait_ms: 60_000, ..Fetch::at(0, 0) };
    poller.send(FETCH, &fetch.request(FETCH, &topic, [0; 16]));
    let group = fresh("group");
    let mut leader = Member::open(broker.kafka, &group).unwrap();
    leader.enter(&[(topic, 1)]).unwrap();
    // Another one's join waits for the leader, who will not come.
    let mut joining = Member::open(broker.kafka, &group).unwrap();
    joining.rebalance_timeout_ms = 60_000;
    joining.id = joining.join().map(|it| it.member_id.to_string()).unwrap_or_default();
    let started = Instant::now();
    assert_eq!(broker.stop(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn what_was_acknowledged_while_it_stopped_is_there() {
    let mut broker = broker(&[]);
    let topic = fresh("draining");
    let mut client = Connection::open(broker.kafka);
    client.create_topic(&topic, 1, &[]);
    let request = produce_request(-1, &topic, &[(0, batch(&["x"]))]);
    let mut sent = Vec::new();
    for _ in 0..50 {
        sent.push(client.send(PRODUCE, &request));
    }
    broker.signal(Signal::TERM);
    let mut acknowledged = 0;
    for correlation in sent {
        let Ok(answer) = client.answer::<ProduceRequest>(PRODUCE, correlation) else { break };
        assert_eq!(produced(answer)[0].error_code, 0);
        acknowledged += 1;
    }
    assert_eq!(broker.wait().code(), Some(0));
    broker.launch();
    let found = Connection::open(broker.kafka).read_all(&topic, 0).len();
    assert!(found >= acknowledged, "{found} of {acknowledged}");
}

#[test]
fn probes_say_that_it_lives_and_is_ready() {
    let mut broker = broker(&[]);
    for path in ["/healthz", "/readyz"] {
        let answer = http_get(broker.http, path);
        assert_eq!(answer, Some((200, "ready\n".to_owned())), "{path}");
    }
    assert_eq!(http_get(broker.http, "/no-such-page").map(|it| it.0), Some(404));
    assert_eq!(broker.metric("millrace_topics"), Some(0.0));
    broker.kill();
    assert_eq!(http_get(broker.http, "/healthz"), None);
}

/// Ends with `code` and says all of `words` on standard error; nothing goes to standard output.
fn refuses(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} in {}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
}

#[test]
fn a_second_process_on_the_directory_is_refused() {
    let first = broker(&[]);
    let topics = fill(&first);
    let mut second = prepared(&[]);
    second.data_dir = Some(first.data_dir());
    let path = first.data_dir().display().to_string();
    refuses(&run_to_end(second.command()), 1, &["in use by another process", &path]);
    check_filled(&first, &topics);
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let mut broker = broker(&[]);
    let topics = fill(&broker);
    assert_eq!(broker.stop(), Some(0));
    let mut other = prepared(&["node.id=7"]);
    other.data_dir = Some(broker.data_dir());
    refuses(&run_to_end(other.command()), 1, &["belongs to node 1", "this is node 7"]);
    broker.launch();
    check_filled(&broker, &topics);
}

#[test]
fn a_directory_with_something_else_in_it_is_refused() {
    let broker = prepared(&[]);
    std::fs::create_dir(broker.data_dir()).unwrap();
    std::fs::write(broker.data_dir().join("thesis.txt"), "irreplaceable").unwrap();
    refuses(&run_to_end(broker.command()), 1, &["is no data directory", "thesis.txt"]);
    let text = std::fs::read_to_string(broker.data_dir().join("thesis.txt")).unwrap();
    assert_eq!(text, "irreplaceable");
}

#[test]
fn a_taken_port_is_refused_before_any_file_is_touched() {
    let broker = prepared(&[]);
    for address in [broker.kafka, broker.grpc, broker.http] {
        let taken = TcpListener::bind(address).unwrap();
        let ended = run_to_end(broker.command());
        refuses(&ended, 1, &["cannot listen on", &address.to_string()]);
        assert!(!broker.data_dir().join("meta.properties").exists());
        drop(taken);
    }
}

#[test]
fn unknown_settings_are_refused_with_a_suggestion() {
    for (setting, words) in [
        ("num.partitons=3", ["num.partitons", "num.partitions"]),
        ("log.retention.hour=3", ["log.retention.hour", "log.retention.hours"]),
        ("auto.create.topic.enable=true", ["--set", "auto.create.topics.enable"]),
    ] {
        refuses(&run_to_end(prepared(&[setting]).command()), 2, &words);
    }
}

#[test]
fn settings_that_cannot_be_are_refused_all_at_once() {
    let broker = prepared(&["num.partitions=0", "auto.create.topics.enable=maybe", "node.id=x"]);
    let words = ["num.partitions", "auto.create.topics.enable", "true or false", "node.id"];
    refuses(&run_to_end(broker.command()), 2, &words);
    assert!(!broker.data_dir().exists());
}

#[test]
fn listeners_beyond_this_machine_are_refused() {
    for host in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9092"] {
        let mut command = std::process::Command::new(BINARY);
        command.args(["serve", "--kafka-listen", host, "--data-dir", "/nonexistent/millrace"]);
        refuses(&run_to_end(command), 2, &["--insecure-public-listeners", "listeners"]);
    }
}

#[test]
fn a_command_line_that_is_none_ends_with_2() {
    let mut command = std::process::Command::new(BINARY);
    command.args(["serve", "--no-such-flag"]);
    refuses(&run_to_end(command), 2, &["--no-such-flag"]);
}

#[test]
fn the_environment_is_weaker_than_a_flag() {
    let mut broker = prepared(&["num.partitions=5"]);
    let mut command = broker.command();
    command.env("MILLRACE_NUM_PARTITIONS", "3").env("MILLRACE_AUTO_CREATE_TOPICS_ENABLE", "true");
    broker.launch_as(command);
    let mut client = Connection::open(broker.kafka);
    let created = client.try_create_topic(millrace_tests::ask::new_topic(&fresh("env"), -1, &[]));
    assert_eq!((created.error_code, created.num_partitions), (0, 5));
}
