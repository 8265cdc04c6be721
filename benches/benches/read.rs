//! What finding and handing out records costs: by offset, from a log in the page cache.
//! Nothing is copied, so there is no MB/s to tell.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench tells its figures")]

use std::hint::black_box;

use millrace_benches::batch::{Batch, Noise};
use millrace_benches::micro::measure;
use millrace_model::batch::BatchHeader;
use millrace_model::compression::Codec;
use millrace_model::env::WallMs;
use millrace_model::ids::TopicId;
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::{AppendBatch, Log, LogConfig, LogReader};

const FREELY: u64 = u64::MAX;
const LOG_BYTES: usize = 512 << 20;

fn main() {
    for (name, records) in [("1 KB", 1), ("64 KB", 64)] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = RealDisk::new(directory.path()).expect("a disk");
        let path = directory.path().join("t-0");
        let config = LogConfig { segment_bytes: 128 << 20, ..LogConfig::default() };
        let mut log = Log::create(disk, &path, TopicId([1; 16]), config).expect("a log");
        fill(&mut log, records);
        lines(name, &log.reader());
    }
}

fn fill(log: &mut Log<RealDisk>, records: u32) {
    let bytes = Batch::encode(records, 1_000, Codec::None).bytes;
    let header = &BatchHeader::parse(&bytes).expect("a batch");
    while log.size_bytes() < LOG_BYTES as u64 {
        let base = log.end();
        let at = |index: i64| Offset(base.0 + index * i64::from(header.record_count));
        let batches: Vec<_> = (0..64)
            .map(|index| AppendBatch {
                header,
                bytes: &bytes,
                base: at(index),
                epoch: LeaderEpoch(0),
            })
            .collect();
        log.append(&batches, WallMs(header.base_timestamp)).expect("an append");
    }
}

fn lines(name: &str, reader: &LogReader<RealDisk>) {
    let end = reader.end();
    let mut noise = Noise(7);
    let mut anywhere = move || Offset((noise.number() >> 1) as i64 % end.0);
    for bytes_max in [64_u32 << 10, 1 << 20] {
        let line = measure(
            &format!("{name} batches: {} KiB from anywhere", bytes_max >> 10),
            0,
            FREELY,
            || {
                let out = reader.read(anywhere(), end, bytes_max, true).expect("a read");
                out.ranges.iter().for_each(|range| drop(black_box(range.bytes())));
            },
        );
        println!("{line}");
    }
    let mut from = Offset(0);
    let line = measure(&format!("{name} batches: 1 MiB, one behind the other"), 0, FREELY, || {
        let out = reader.read(from, end, 1 << 20, true).expect("a read");
        out.ranges.iter().for_each(|range| drop(black_box(range.bytes())));
        from = if out.next >= end { Offset(0) } else { out.next };
    });
    println!("{line}");
    let line = measure(&format!("{name} batches: at the end"), 0, FREELY, || {
        drop(black_box(reader.read(end, end, 1 << 20, true)));
    });
    println!("{line}");
}
