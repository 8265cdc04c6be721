//! Segments come and go under readers: what a reader gets is always right, and what is gone is given back.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use millrace_tests::ask::{EARLIEST, Fetch, LATEST, fresh};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, until};
use millrace_tests::random::{Random, seed};
use millrace_tests::records::{batch, values};

use crate::broker::broker;

const PATIENCE: Duration = Duration::from_secs(60);
const OFFSET_OUT_OF_RANGE: i16 = 1;
const BATCHES: i64 = 300;
const VALUE_BYTES: usize = 100_000;
const SEGMENT_BYTES: u64 = 1 << 20;
const RETENTION_BYTES: u64 = 3 << 20;

/// The value at an offset: told apart by its front.
fn value(offset: i64) -> String {
    format!("{offset:08}{}", "x".repeat(VALUE_BYTES))
}

/// Reads at offsets that chance chooses, until told to stop: every answer is either right or truly out of range.
fn hammer(broker: &BrokerProcess, topic: &str, mut random: Random, is_over: &AtomicBool) -> u64 {
    let mut client = Connection::open(broker.kafka);
    let mut reads = 0;
    while !is_over.load(Ordering::Relaxed) {
        let start = client.offset(topic, 0, EARLIEST);
        let end = client.offset(topic, 0, LATEST);
        let offset = start + random.below((end - start) as usize + 1) as i64;
        let fetch = Fetch { max_bytes: 250_000, ..Fetch::at(0, offset) };
        let answer = client.fetch(topic, &fetch).remove(0);
        if answer.error_code == OFFSET_OUT_OF_RANGE {
            let now = client.offset(topic, 0, EARLIEST);
            assert!(offset < now, "{offset} is not below {now}");
            continue;
        }
        assert_eq!(answer.error_code, 0);
        let found = values(answer.records.unwrap_or_default());
        assert!(offset == end || !found.is_empty(), "nothing at {offset} of {start}..{end}");
        for (at, (found_at, found)) in (offset..).zip(found) {
            assert_eq!((found_at, &found[..8]), (at, &format!("{at:08}")[..]));
            assert_eq!(found.len(), VALUE_BYTES + 8);
        }
        reads += 1;
    }
    reads
}

#[test]
fn readers_see_the_right_records_while_segments_come_and_go() {
    let seed = seed(0x0707_a7e5);
    let broker = broker(&["log.retention.check.interval.ms=50"]);
    let topic = fresh("rotating");
    let mut client = Connection::open(broker.kafka);
    let (segment, retention) = (SEGMENT_BYTES.to_string(), RETENTION_BYTES.to_string());
    let configs = [
        ("segment.bytes", segment.as_str()),
        ("retention.bytes", &retention),
        ("file.delete.delay.ms", "0"),
    ];
    client.create_topic(&topic, 1, &configs);
    let is_over = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|it| {
                let random = Random::new(seed + it);
                let (broker, topic, is_over) = (&broker, &topic, &is_over);
                scope.spawn(move || hammer(broker, topic, random, is_over))
            })
            .collect();
        for offset in 0..BATCHES {
            assert_eq!(client.produce(&topic, 0, &batch(&[&value(offset)])), Ok(offset));
        }
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().map(|it| it.join().expect("no reader panics")).sum::<u64>()
    });
    assert!(reads > 20, "{reads} reads, seed {seed}");
    gives_back(&broker, &topic);
}

/// What is beyond retention is neither on the disk, nor open, nor mapped.
fn gives_back(broker: &BrokerProcess, topic: &str) {
    let pid = broker.pid().expect("it runs");
    let directory = broker.data_dir().join(format!("{topic}-0"));
    let on_disk = || {
        let files = fs::read_dir(&directory).expect("the partition's directory");
        files.flatten().filter_map(|it| Some(it.metadata().ok()?.len())).sum::<u64>()
    };
    // Retention takes whole segments; index files are made in their full size.
    let bound = RETENTION_BYTES + 2 * SEGMENT_BYTES + (32 << 20);
    assert!(until(PATIENCE, || (on_disk() < bound).then_some(())).is_some(), "{}", on_disk());
    let deleted = || {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the broker runs");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the broker runs");
        let open = open.flatten().filter_map(|it| fs::read_link(it.path()).ok());
        let open: Vec<String> = open.map(|it| it.display().to_string()).collect();
        let lines = maps.lines().map(str::to_owned).chain(open);
        lines.filter(|it| it.contains(topic) && it.contains("(deleted)")).collect::<Vec<_>>()
    };
    let released = until(PATIENCE, || deleted().is_empty().then_some(()));
    assert!(released.is_some(), "still held: {:?}", deleted());
}
