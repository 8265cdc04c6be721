//! The generator against a broker of three lines, which knows what it answered.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use millrace_model::compression::Codec;

use super::*;
use crate::batch::Batch;
use crate::protocol::Frame;
use crate::topic::RunTopic;

/// Answers every request by `answer`, which gets its correlation id and what follows it.
fn broker(answer: fn(i32, &[u8]) -> Vec<u8>) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, counter) = (stream.unwrap(), Arc::clone(&counter));
            std::thread::spawn(move || serve(stream, answer, &counter));
        }
    });
    (address, asked)
}

fn serve(mut stream: TcpStream, answer: fn(i32, &[u8]) -> Vec<u8>, asked: &AtomicU64) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; i32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request).unwrap();
        asked.fetch_add(1, Ordering::Relaxed);
        let correlation = i32::from_be_bytes(request[4..8].try_into().unwrap());
        if stream.write_all(&answer(correlation, &request[8..])).is_err() {
            return;
        }
    }
}

/// A frame that has an answer's header: the correlation id alone.
fn answer_frame(correlation: i32) -> Frame {
    let mut frame = Frame::answer();
    frame.i32(correlation);
    frame
}

fn produced(correlation: i32, error: i16) -> Vec<u8> {
    let mut frame = answer_frame(correlation);
    frame.i32(1).string("t").i32(1).i32(0).i16(error).i64(0).i64(-1).i64(0).i32(0);
    frame.finish(0)
}

/// One batch of 2 records and 200 bytes at whatever offset is asked, in a log of 6 records.
fn fetched(correlation: i32, request: &[u8]) -> Vec<u8> {
    let offset = &request[request.len() - 26..request.len() - 18];
    let mut frame = answer_frame(correlation);
    frame.i32(0).i16(0).i32(0).i32(1).string("t").i32(1);
    frame.i32(0).i16(0).i64(6).i64(6).i64(0).i32(-1).i32(-1).i32(BATCH_BYTES as i32);
    let mut bytes = frame.finish(BATCH_BYTES);
    bytes.extend_from_slice(offset);
    bytes.resize(bytes.len() + BATCH_BYTES - offset.len(), 0);
    bytes
}

const BATCH_BYTES: usize = 100_000;

fn plan(broker: SocketAddr, pace: Pace) -> Plan {
    Plan {
        broker,
        door: Door::Kafka,
        topic: "t".into(),
        work: Work::Produce { acks: -1, partitions: Partitions::Random(3) },
        batch: Batch::encode(2, 100, Codec::None),
        connections: 3,
        pace,
        warm_up: Duration::ZERO,
        measure: Duration::from_secs(60),
        bytes_max: Some(100_000),
    }
}

#[test]
fn a_closed_loop_counts_what_was_answered_and_stops_at_its_bytes() {
    let (address, asked) = broker(|correlation, _| produced(correlation, 0));
    let mut marks = Vec::new();
    let plan = plan(address, Pace::Closed { in_flight: 4 });
    let tally = run(&plan, &mut |mark| marks.push(mark)).unwrap();
    assert_eq!(marks, [Mark::Begin, Mark::End]);
    assert_eq!(tally.records, tally.requests * 2);
    assert_eq!(tally.payload_bytes, tally.requests * 200);
    assert_eq!(tally.latency.count(), tally.requests);
    let asked = asked.load(Ordering::Relaxed);
    // 500 requests are 100,000 bytes; those in flight then are answered but not counted.
    assert!(tally.requests <= asked && asked <= 500 + 2 * 12, "{} of {asked}", tally.requests);
    assert!(tally.requests > 300, "{} of {asked}", tally.requests);
}

#[test]
fn an_open_loop_sends_at_its_rate_and_counts_every_request_due() {
    let (address, asked) = broker(|correlation, _| produced(correlation, 0));
    let mut plan = plan(address, Pace::Open { per_second: 500.0 });
    (plan.measure, plan.bytes_max) = (Duration::from_millis(400), None);
    let tally = run(&plan, &mut |_| ()).unwrap();
    assert_eq!(tally.requests, asked.load(Ordering::Relaxed));
    assert_eq!((tally.requests, tally.seconds), (200, 0.4));
}

#[test]
fn an_error_is_no_work_done() {
    let (address, _) = broker(|correlation, _| produced(correlation, 6));
    let mut plan = plan(address, Pace::Closed { in_flight: 1 });
    plan.measure = Duration::from_millis(50);
    let tally = run(&plan, &mut |_| ()).unwrap();
    assert_eq!((tally.requests, tally.error_code), (0, Some(6)));
    assert!(tally.errors > 0);
}

#[test]
fn a_fetch_reads_on_and_begins_again_at_the_end() {
    for copy in [false, true] {
        let (address, asked) = broker(fetched);
        let mut plan = plan(address, Pace::Closed { in_flight: 1 });
        plan.work = Work::Fetch { partitions: 3, fetch_bytes: 1 << 20, copy };
        plan.batch.bytes = Bytes::from(vec![0; BATCH_BYTES]);
        plan.bytes_max = Some(20_000);
        let tally = run(&plan, &mut |_| ()).unwrap();
        assert!(tally.requests > 50 && tally.requests <= asked.load(Ordering::Relaxed));
        assert_eq!(tally.records, tally.requests * 2);
    }
}

#[test]
fn without_answers_a_request_is_done_when_it_is_sent() {
    let (address, asked) = broker(|_, _| Vec::new());
    let mut plan = plan(address, Pace::Closed { in_flight: 2 });
    plan.work = Work::Produce { acks: 0, partitions: Partitions::PerConnection(1) };
    let tally = run(&plan, &mut |_| ()).unwrap();
    assert!(tally.requests > 300 && asked.load(Ordering::Relaxed) <= 500 + 12);
}

#[test]
fn a_connection_that_closes_ends_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = plan(listener.local_addr().unwrap(), Pace::Closed { in_flight: 1 });
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            drop(stream)
        }
    });
    assert!(run(&closing, &mut |_| ()).is_err());
}

/// The other doors do the same work, on a broker of our own.
fn through(doors: fn(&millrace::testing::TestBroker) -> Door) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let started = runtime.block_on(millrace::testing::TestBroker::start()).unwrap();
    let mut topic = RunTopic::create(started.kafka(), 3, &[]).unwrap();
    let base =
        Plan { door: doors(&started), topic: topic.name.clone(), ..plan(started.kafka(), CLOSED) };
    let mut marks = Vec::new();
    let partitions = Partitions::PerConnection(3);
    let write = Plan { work: Work::Produce { acks: -1, partitions }, ..base.clone() };
    let tally = run(&write, &mut |mark| marks.push(mark)).unwrap();
    assert_eq!((marks.as_slice(), tally.errors), (&[Mark::Begin, Mark::End][..], 0));
    // As many as asked for, up to what is in flight at the window's ends.
    let counted = tally.payload_bytes;
    assert!((90_000..110_000).contains(&counted), "{counted}");
    assert_eq!(tally.payload_bytes, tally.records * 100);

    topic.fill(started.kafka(), 3, &base.batch, 30_000).unwrap();
    let work = Work::Fetch { partitions: 3, fetch_bytes: 1 << 20, copy: true };
    // More than there is: each partition is read again and again.
    let read = Plan { work, bytes_max: Some(2_000_000), ..base };
    let tally = run(&read, &mut |_| ()).unwrap();
    let counted = tally.payload_bytes;
    assert!((1_900_000..2_100_000).contains(&counted), "{counted}");
    assert_eq!(tally.payload_bytes, tally.records * 100);
    topic.delete().unwrap();
    runtime.block_on(started.stop());
}

const CLOSED: Pace = Pace::Closed { in_flight: 4 };

fn grpc_address(broker: &millrace::testing::TestBroker) -> SocketAddr {
    broker.grpc_url().trim_start_matches("http://").parse().unwrap()
}

#[test]
fn the_grpc_door_is_driven() {
    through(|broker| Door::Grpc(grpc_address(broker)));
}

#[test]
fn the_rust_client_is_driven() {
    through(|broker| Door::Client(grpc_address(broker)));
}

#[test]
fn an_open_loop_through_the_grpc_door_sends_what_is_due() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let started = runtime.block_on(millrace::testing::TestBroker::start()).unwrap();
    let topic = RunTopic::create(started.kafka(), 3, &[]).unwrap();
    let open = Plan {
        door: Door::Grpc(grpc_address(&started)),
        topic: topic.name.clone(),
        measure: Duration::from_millis(400),
        bytes_max: None,
        ..plan(started.kafka(), Pace::Open { per_second: 500.0 })
    };
    let tally = run(&open, &mut |_| ()).unwrap();
    assert_eq!((tally.requests, tally.errors, tally.seconds), (200, 0, 0.4));
    topic.delete().unwrap();
    runtime.block_on(started.stop());
}
