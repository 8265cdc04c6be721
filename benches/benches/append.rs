//! What appending to a log costs, without and with making it durable, on the real disk.
//!
//! Data goes to the temporary directory and is gone afterwards.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a bench tells its figures")]

use bytes::Bytes;
use millrace_benches::batch::Batch;
use millrace_benches::micro::measure;
use millrace_model::batch::BatchHeader;
use millrace_model::compression::Codec;
use millrace_model::env::WallMs;
use millrace_model::ids::TopicId;
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_storage::disk::Disk;
use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::{AppendBatch, Log, LogConfig};

/// Bytes that one line may write.
const BYTES_MAX: u64 = 1 << 30;

fn main() {
    for (name, records, bytes) in
        [("100 B", 1, 100), ("1 KB", 1, 1_000), ("64 KB", 64, 1_000), ("1 MB", 1_000, 1_000)]
    {
        let batch = Batch::encode(records, bytes, Codec::None).bytes;
        for together in [1, 64] {
            if batch.len() * together < 8 << 20 {
                line(&format!("append {together} x {name}"), &batch, together, false);
            }
        }
        line(&format!("append {name}, sync"), &batch, 1, true);
    }
}

fn line(name: &str, batch: &Bytes, together: usize, sync: bool) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = RealDisk::new(directory.path()).expect("a disk");
    let path = directory.path().join("t-0");
    let config = LogConfig { segment_bytes: 256 << 20, ..LogConfig::default() };
    let mut log = Log::create(disk.clone(), &path, TopicId([1; 16]), config).expect("a log");
    let header = BatchHeader::parse(batch).expect("a batch");
    let bytes = batch.len() * together;
    let text = measure(name, bytes, BYTES_MAX / bytes as u64, || {
        append(&mut log, &header, batch, together);
        let ticket = log.take_unsynced().expect("something was written");
        if sync {
            disk.sync_set(&ticket.files().collect::<Vec<_>>()).expect("a sync");
            log.mark_durable(ticket.end());
        }
    });
    println!("{text}");
}

fn append(log: &mut Log<RealDisk>, header: &BatchHeader, bytes: &Bytes, together: usize) {
    let mut base = log.end();
    let batches: Vec<AppendBatch<'_>> = (0..together)
        .map(|_| {
            let batch = AppendBatch { header, bytes, base, epoch: LeaderEpoch(0) };
            base = Offset(base.0 + i64::from(header.record_count));
            batch
        })
        .collect();
    log.append(&batches, WallMs(header.base_timestamp)).expect("an append");
}
