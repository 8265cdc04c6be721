//! The log on the real disk: what one process writes, it and the next one read.

use std::path::PathBuf;

use millrace_model::checksum::crc32c;
use millrace_model::env::WallMs;

use super::*;
use crate::disk::real::RealDisk;

const NOW: WallMs = WallMs(1_800_000_000_000);
const EPOCH: LeaderEpoch = LeaderEpoch(3);

/// A batch as a client sends it: base offset 0, `count` records that are `payload` bytes of noise.
pub(super) fn batch(count: i32, payload: usize, timestamp: i64, seed: u8) -> Bytes {
    let mut out = vec![0; batch::HEADER_BYTES + payload];
    let length = (out.len() - batch::LENGTH_OVERHEAD) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    out[16] = 2;
    out[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    out[27..35].copy_from_slice(&timestamp.to_be_bytes());
    out[35..43].copy_from_slice(&timestamp.to_be_bytes());
    out[43..57].fill(0xff);
    out[57..61].copy_from_slice(&count.to_be_bytes());
    for (i, byte) in out[batch::HEADER_BYTES..].iter_mut().enumerate() {
        *byte = (i as u8).wrapping_mul(31).wrapping_add(seed);
    }
    let crc = crc32c(&out[batch::CRC_START..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    out.into()
}

/// Appends `batches` in one call at the log's end.
pub(super) fn append<D: Disk>(
    log: &mut Log<D>,
    batches: &[Bytes],
) -> Result<Appended, AppendError> {
    let headers: Vec<_> = batches.iter().map(|b| BatchHeader::parse(b).unwrap()).collect();
    let mut base = log.end();
    let mut list = Vec::new();
    for (header, bytes) in headers.iter().zip(batches) {
        list.push(AppendBatch { header, bytes, base, epoch: EPOCH });
        base = base.plus(i64::from(header.record_count));
    }
    log.append(&list, NOW)
}

/// `batch` as it stands in the log.
pub(super) fn stamped(batch: &Bytes, base: i64) -> Vec<u8> {
    let header = BatchHeader::parse(batch).unwrap();
    let mut out = batch.to_vec();
    out[..16].copy_from_slice(&batch::stamp(&header, Offset(base), EPOCH));
    out
}

pub(super) fn read_all<D: Disk>(reader: &LogReader<D>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut from = reader.start();
    while from < reader.end() {
        let read = reader.read(from, reader.end(), 1 << 20, true).unwrap();
        for range in &read.ranges {
            out.extend(range.bytes().unwrap());
        }
        assert!(read.next > from);
        from = read.next;
    }
    out
}

struct Bench {
    _dir: tempfile::TempDir,
    disk: RealDisk,
    path: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path()).unwrap();
        Self { path: dir.path().join("t-0"), _dir: dir, disk }
    }

    fn create(&self, config: LogConfig) -> Log<RealDisk> {
        Log::create(self.disk.clone(), &self.path, TopicId([9; 16]), config).unwrap()
    }

    fn open(&self, config: LogConfig, trust: Trust) -> (Log<RealDisk>, Recovered<RealDisk>) {
        Log::open(self.disk.clone(), &self.path, config, trust, NOW).unwrap()
    }
}

fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 1000, index_interval_bytes: 200, ..LogConfig::default() }
}

#[test]
fn a_new_partition_is_a_directory_and_its_metadata() {
    let bench = Bench::new();
    let log = bench.create(LogConfig::default());
    let names: Vec<_> = bench.disk.list(&bench.path).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["partition.metadata"]);
    assert_eq!(
        crate::checkpoint::read_topic_id(&bench.disk, &bench.path).unwrap(),
        Some(TopicId([9; 16]))
    );
    assert_eq!((log.start(), log.end()), (Offset(0), Offset(0)));
    assert!(log.reader().read(Offset(0), Offset(0), 100, true).unwrap().ranges.is_empty());
}

#[test]
fn what_was_appended_is_read_back_with_its_offsets_and_epoch() {
    let bench = Bench::new();
    let mut log = bench.create(LogConfig::default());
    let batches = [batch(3, 50, 10, 1), batch(1, 7, 11, 2), batch(10, 100, 12, 3)];
    let appended = append(&mut log, &batches).unwrap();
    assert_eq!(appended, Appended { end: Offset(14), rolled: None });
    let expected =
        [stamped(&batches[0], 0), stamped(&batches[1], 3), stamped(&batches[2], 4)].concat();
    assert_eq!(read_all(&log.reader()), expected);
    assert_eq!(log.size_bytes(), expected.len() as u64);

    let reader = log.reader();
    let read = |from, upto, max| {
        let out = reader.read(Offset(from), Offset(upto), max, true).unwrap();
        (out.bytes, out.next.0)
    };
    assert_eq!(read(1, 14, 1), (111, 3), "the batch that contains the offset, whole");
    assert_eq!(read(3, 14, 68), (68, 4));
    assert_eq!(read(3, 14, 68 + 160), (68, 4));
    assert_eq!(read(3, 14, 68 + 161), (229, 14));
    assert_eq!(read(0, 4, 10_000), (179, 4), "not beyond the mark");
    assert_eq!(read(0, 3, 10_000), (111, 3));
    assert_eq!(read(5, 4, 10_000), (0, 5));
    assert_eq!(read(0, 2, 10_000), (0, 0), "no part of a batch");
    let none = reader.read(Offset(4), Offset(14), 10, false).unwrap();
    assert!(none.ranges.is_empty());
    assert!(matches!(
        reader.read(Offset(15), Offset(15), 10, true),
        Err(ReadError::OutOfRange { .. })
    ));
}

#[test]
fn more_batches_than_one_write_takes_are_appended_and_read() {
    let bench = Bench::new();
    let mut log = bench.create(LogConfig { index_interval_bytes: 500, ..LogConfig::default() });
    let batches: Vec<_> = (0..3000).map(|i| batch(2, 10 + i % 40, i as i64, i as u8)).collect();
    append(&mut log, &batches).unwrap();
    let expected: Vec<u8> =
        batches.iter().enumerate().flat_map(|(i, b)| stamped(b, 2 * i as i64)).collect();
    assert_eq!(read_all(&log.reader()), expected);
    let out = log.reader().read(Offset(0), log.end(), u32::MAX, true).unwrap();
    assert_eq!((out.bytes, out.next), (expected.len() as u64, Offset(6000)));
    for from in (0..6000).step_by(7) {
        let out = log.reader().read(Offset(from), log.end(), 1000, true).unwrap();
        let at = expected.len()
            - log.reader().read(Offset(from), log.end(), u32::MAX, true).unwrap().bytes as usize;
        assert_eq!(&out.ranges[0].bytes().unwrap()[..], &expected[at..at + out.bytes as usize]);
        assert!(out.bytes <= 1000);
    }
}

#[test]
fn segments_roll_by_size_within_one_append_and_reads_cross_them() {
    let bench = Bench::new();
    let mut log = bench.create(small_segments());
    let batches: Vec<_> = (0..20).map(|i| batch(1, 239, i, i as u8)).collect();
    let appended = append(&mut log, &batches).unwrap();
    assert_eq!(appended.rolled, Some(Offset(18)));
    let expected: Vec<u8> =
        batches.iter().enumerate().flat_map(|(i, b)| stamped(b, i as i64)).collect();
    assert_eq!(read_all(&log.reader()), expected);
    let ticket = log.take_unsynced().unwrap();
    assert_eq!((ticket.files().count(), ticket.end()), (7, Offset(20)));
    assert!(log.take_unsynced().is_none());
    let logs = bench.disk.list(&bench.path).unwrap();
    assert_eq!(logs.iter().filter(|e| e.name.ends_with(".log")).count(), 7);
}

#[test]
fn a_clean_close_is_believed_and_the_log_goes_on() {
    let bench = Bench::new();
    let mut log = bench.create(small_segments());
    let batches: Vec<_> = (0..9).map(|i| batch(2, 239, i, i as u8)).collect();
    append(&mut log, &batches[..5]).unwrap();
    assert!(log.close(Offset(10)).is_err(), "not durable yet");

    let (mut log, recovered) = bench.open(small_segments(), Trust::Nothing);
    assert_eq!((recovered.scanned_bytes, recovered.torn), (1500, None));
    let end = log.take_unsynced().unwrap().end();
    log.mark_durable(end);
    let state = log.close(Offset(10)).unwrap();
    assert_eq!(
        (state.next_offset, state.segment_base, state.position),
        (Offset(10), Some(Offset(6)), 600)
    );

    let (mut log, recovered) = bench.open(small_segments(), Trust::Clean(state));
    assert_eq!(recovered.scanned_bytes, 0);
    assert_eq!((log.durable_end(), log.epoch()), (Offset(10), EPOCH));
    append(&mut log, &batches[5..]).unwrap();
    let expected: Vec<u8> =
        batches.iter().enumerate().flat_map(|(i, b)| stamped(b, 2 * i as i64)).collect();
    assert_eq!(read_all(&log.reader()), expected);
}
