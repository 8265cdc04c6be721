//! What deciding about an append costs beside writing it: the log alone, then the partition around it, with and without
//! a producer's sequence to check. In memory, so that no disk hides it.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench tells its figures")]

use std::path::Path;

use bytes::Bytes;
use millrace_benches::micro::measure;
use millrace_kernel::partition::{
    Acks, Append, Event, Output, Partition, PartitionSettings, Timestamps,
};
use millrace_model::batch::BatchHeader;
use millrace_model::compression::Codec;
use millrace_model::env::{Env, MonoMs, Now, Prng, WallMs};
use millrace_model::ids::{ProducerEpoch, ProducerId, TopicId};
use millrace_model::offset::LeaderEpoch;
use millrace_model::record::{BatchBuilder, NewRecord};
use millrace_model::topic_config::Durability;
use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::{AppendBatch, Log, LogConfig};

const NOW: Now = Now { wall: WallMs(1_700_000_000_000), mono: MonoMs(1) };
const CALLS: u64 = 1_000_000;

fn main() {
    let shared_memory = Path::new("/dev/shm");
    let above = if shared_memory.is_dir() { shared_memory } else { Path::new("/tmp") };
    let directory = tempfile::tempdir_in(above).expect("a temporary directory");
    log_alone(&directory.path().join("log-0"), directory.path());
    for (name, idempotent, durability) in [
        ("partition, relaxed", false, Durability::Relaxed),
        ("partition, durable, synced each time", false, Durability::Durable),
        ("partition, relaxed, idempotent producer", true, Durability::Relaxed),
    ] {
        let path = directory.path().join(format!("t{}-0", name.len()));
        partition(name, &path, directory.path(), idempotent, durability);
    }
}

fn log_alone(path: &Path, root: &Path) {
    let mut log = create(path, root);
    let bytes = &batch(None);
    let header = &BatchHeader::parse(bytes).expect("a batch");
    let line = measure("log alone, 100 B", 0, CALLS, || {
        let batch = AppendBatch { header, bytes, base: log.end(), epoch: LeaderEpoch(0) };
        log.append(&[batch], NOW.wall).expect("an append");
        drop(log.take_unsynced());
    });
    println!("{line}");
}

fn partition(name: &str, path: &Path, root: &Path, idempotent: bool, durability: Durability) {
    let log = create(path, root);
    let settings = settings(durability);
    let mut partition: Partition<RealDisk, ()> =
        Partition::open(log, settings, LeaderEpoch(0), NOW).expect("a partition");
    let mut env = Env { now: NOW, rng: Prng::new(1) };
    let (mut out, mut appends, mut sequence) = (Vec::new(), Vec::new(), 0);
    let plain = batch(None);
    let line = measure(&format!("{name}, 100 B"), 0, CALLS, || {
        let bytes = if idempotent { batch(Some(sequence)) } else { plain.clone() };
        sequence += 1;
        let header = BatchHeader::parse(&bytes).expect("a batch");
        appends.push(Append { header, bytes, acks: Acks::All, token: () });
        partition.append(&mut env, &mut appends, &mut out);
        if let Some(ticket) = partition.take_unsynced() {
            partition.handle(&mut env, Event::Synced { end: ticket.end() }, &mut out);
        }
        let replies = out.drain(..).filter(|it| matches!(it, Output::Reply { result: Ok(_), .. }));
        assert_eq!(replies.count(), 1);
    });
    println!("{line}");
}

fn create(path: &Path, root: &Path) -> Log<RealDisk> {
    let disk = RealDisk::new(root).expect("a disk");
    Log::create(disk, path, TopicId([1; 16]), LogConfig::default()).expect("a log")
}

fn settings(durability: Durability) -> PartitionSettings {
    PartitionSettings {
        durability,
        timestamps: Timestamps::CreateTime { before_max_ms: i64::MAX, after_max_ms: i64::MAX },
        insync_replicas_min: 1,
        producer_expiration_ms: 86_400_000,
        maintenance_interval_ms: 300_000,
        relaxed_flush_ms: 1_000,
        log: LogConfig::default(),
    }
}

/// One record of 100 bytes. Building it is in the figure of the idempotent producer.
fn batch(sequence: Option<i32>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    if let Some(sequence) = sequence {
        builder = builder.producer(ProducerId(1), ProducerEpoch(0), sequence);
    }
    let value = Some(&[7_u8; 100][..]);
    builder.push(NewRecord { timestamp: NOW.wall.0, value, ..NewRecord::default() });
    builder.build()
}
