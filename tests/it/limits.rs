//! Limits and what happens at them: refused is one client, or slowed, never the broker.

use std::fs;
use std::time::Duration;

use kafka_protocol::messages::{ApiVersionsRequest, ProduceRequest};
use millrace_tests::ask::{LATEST, PRODUCE, fresh, produce_request, produced};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, until};
use millrace_tests::records::batch;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::broker::broker;

const PATIENCE: Duration = Duration::from_secs(60);

/// Does this connection answer? It does not when the broker closed it.
fn answers(connection: &mut Connection) -> bool {
    connection.try_ask(0, &ApiVersionsRequest::default()).is_ok()
}

#[test]
fn connections_above_the_limit_are_closed_and_come_back_later() {
    let broker = broker(&["max.connections.per.ip=10"]);
    let mut admitted: Vec<_> = (0..10).map(|_| Connection::open(broker.kafka)).collect();
    assert!(admitted.iter_mut().all(answers));
    assert!(!answers(&mut Connection::open(broker.kafka)), "the eleventh");
    assert!(admitted.iter_mut().all(answers), "the others are still there");
    admitted.truncate(5);
    let back = until(PATIENCE, || answers(&mut Connection::open(broker.kafka)).then_some(()));
    assert!(back.is_some());
}

#[test]
fn idle_connections_are_closed() {
    let broker = broker(&["connections.max.idle.ms=300"]);
    let mut silent = Connection::open(broker.kafka);
    let mut quiet = Connection::open(broker.kafka);
    assert!(answers(&mut quiet));
    assert!(silent.is_closed(), "one that never asked");
    assert!(quiet.is_closed(), "one that asked once");
}

#[test]
fn idle_connections_cost_next_to_nothing() {
    const CONNECTIONS: u64 = 2_000;
    const EACH_BYTES: u64 = 16 * 1024;
    let broker = broker(&["max.connections.per.ip=5000"]);
    let before = broker.anonymous_bytes();
    let idle: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut connection = Connection::open(broker.kafka);
            assert!(answers(&mut connection));
            connection
        })
        .collect();
    let grown = broker.anonymous_bytes().saturating_sub(before);
    assert!(grown < CONNECTIONS * EACH_BYTES, "{} bytes each", grown / CONNECTIONS);
    drop(idle);
}

/// A producer that is faster than the disk is slowed by its socket: what it has in flight is bounded.
#[test]
fn what_one_producer_has_in_flight_is_bounded() {
    const REQUESTS: usize = 200;
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("in-flight");
    client.create_topic(&topic, 1, &[]);
    let before = broker.anonymous_bytes();
    let request = produce_request(-1, &topic, &[(0, batch(&[&"x".repeat(900_000)]))]);
    let mut most = 0;
    let mut sent = Vec::new();
    for _ in 0..REQUESTS {
        sent.push(client.send(PRODUCE, &request));
        most = most.max(broker.anonymous_bytes().saturating_sub(before));
    }
    for correlation in sent {
        let answer = client.answer::<ProduceRequest>(PRODUCE, correlation).unwrap();
        assert_eq!(produced(answer)[0].error_code, 0);
        most = most.max(broker.anonymous_bytes().saturating_sub(before));
    }
    assert!(most < 100 << 20, "{most} bytes more for 180 MB");
    assert_eq!(client.offset(&topic, 0, LATEST), REQUESTS as i64);
}

/// What producers want to send at once may be many times what the broker may hold: they wait, and none for ever.
#[test]
fn producers_that_share_too_little_memory_all_come_through() {
    const PRODUCERS: usize = 8;
    const REQUESTS: usize = 12;
    let broker = broker(&["queued.max.request.bytes=1048576", "socket.request.max.bytes=1048576"]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("crowded");
    client.create_topic(&topic, PRODUCERS as i32, &[]);
    std::thread::scope(|scope| {
        for partition in 0..PRODUCERS as i32 {
            let (topic, broker) = (&topic, &broker);
            scope.spawn(move || {
                let mut client = Connection::open(broker.kafka);
                client.set_patience(PATIENCE / 2);
                let parts = [(partition, batch(&[&"x".repeat(300_000)]))];
                let request = produce_request(-1, topic, &parts);
                let sent: Vec<_> = (0..REQUESTS).map(|_| client.send(PRODUCE, &request)).collect();
                for correlation in sent {
                    let answer = client.answer::<ProduceRequest>(PRODUCE, correlation).unwrap();
                    assert_eq!(produced(answer)[0].error_code, 0);
                }
            });
        }
    });
    for partition in 0..PRODUCERS as i32 {
        assert_eq!(client.offset(&topic, partition, LATEST), REQUESTS as i64);
    }
}

/// The descriptors that the broker may have.
fn set_descriptors(broker: &BrokerProcess, limit: u64) {
    let pid = Pid::from_raw(broker.pid().expect("it runs") as i32).expect("not 0");
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    prlimit(Some(pid), Resource::Nofile, limit).expect("a limit can be lowered");
}

/// Out of descriptors the broker lets new clients wait; it neither ends nor forgets those it has.
#[test]
fn without_descriptors_new_clients_wait_and_old_ones_are_served() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("descriptors");
    client.create_topic(&topic, 1, &[]);
    client.produce(&topic, 0, &batch(&["a"])).unwrap();
    let pid = broker.pid().unwrap();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    set_descriptors(&broker, open + 5);
    let mut flood: Vec<_> = (0..50).map(|_| Connection::open(broker.kafka)).collect();
    flood.iter().for_each(|it| it.set_patience(Duration::from_millis(20)));
    assert!(flood.iter_mut().any(|it| !answers(it)), "the limit is felt");
    for at in 1..20 {
        assert_eq!(client.produce(&topic, 0, &batch(&["b"])), Ok(at), "those who are there go on");
    }
    drop(flood);
    let mut late = Connection::open(broker.kafka);
    assert!(answers(&mut late), "and there is room again");
}
