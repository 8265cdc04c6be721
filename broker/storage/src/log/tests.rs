//! The log on the real disk: what one process writes, it and the next one read.

use std::path::PathBuf;

use millrace_model::checksum::crc32c;
use millrace_model::env::{Prng, WallMs};
use millrace_model::record::{BatchBuilder, NewRecord};

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

    /// Descriptors and maps of this process below the directory.
    fn open_files(&self) -> (usize, usize) {
        let dir = self.path.to_str().unwrap();
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        let ours = |path: PathBuf| path.to_string_lossy().starts_with(dir);
        let fds = fds.filter(|fd| std::fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(ours));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        (fds.count(), maps.lines().filter(|line| line.contains(dir)).count())
    }

    fn open(&self, config: LogConfig, trust: Trust) -> (Log<RealDisk>, Recovered<RealDisk>) {
        Log::open(self.disk.clone(), &self.path, config, trust, NOW).unwrap()
    }
}

pub(super) fn small_segments() -> LogConfig {
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

/// Length, and bytes of the file system, of the segment that begins at `base`.
fn file_size(bench: &Bench, base: i64) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(file_path(&bench.path, Offset(base), "log")).unwrap();
    (data.len(), data.blocks() * 512)
}

#[test]
fn a_growing_segment_has_blocks_ahead_and_a_finished_one_has_none() {
    const BATCH_BYTES: usize = 512 * 1024;
    const BLOCK_BYTES: u64 = 128 * 1024;
    let bench = Bench::new();
    let mut log =
        bench.create(LogConfig { segment_bytes: 5 * BATCH_BYTES as u32, ..LogConfig::default() });
    let one = batch(1, BATCH_BYTES - batch::HEADER_BYTES, 10, 1);
    append(&mut log, std::slice::from_ref(&one)).unwrap();
    let (len, used) = file_size(&bench, 0);
    assert!(len == one.len() as u64 && used <= len + BLOCK_BYTES, "small segments do without");

    for _ in 0..3 {
        append(&mut log, std::slice::from_ref(&one)).unwrap();
    }
    let (len, used) = file_size(&bench, 0);
    assert_eq!(len, 4 * one.len() as u64, "the length is what was written");
    assert!(used > len + BLOCK_BYTES, "{used} bytes for {len}");

    append(&mut log, &[one.clone(), one.clone(), one.clone(), one.clone()]).unwrap();
    let (len, used) = file_size(&bench, 0);
    assert_eq!(len, 5 * one.len() as u64);
    assert!(used <= len + BLOCK_BYTES, "sealed: {used} bytes for {len}");

    let (next, used) = file_size(&bench, 5);
    assert!(used > next + BLOCK_BYTES, "{used} bytes for {next}");
    let expected: Vec<_> = (0..8).flat_map(|base| stamped(&one, base)).collect();
    assert!(read_all(&log.reader()) == expected, "the bytes are as they were");
    let end = log.end();
    log.mark_durable(end);
    log.close(end).unwrap();
    let (len, used) = file_size(&bench, 5);
    assert!(len == next && used <= len + BLOCK_BYTES, "closed: {used} bytes for {len}");
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

fn records(timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::default();
    for timestamp in timestamps {
        builder.push(NewRecord {
            timestamp: *timestamp,
            value: Some(&[7; 60]),
            ..Default::default()
        });
    }
    builder.build()
}

#[test]
fn records_are_found_by_their_time() {
    let bench = Bench::new();
    let mut log = bench.create(small_segments());
    // One batch of 4 records each; time runs in odd steps, batch 7 jumps ahead.
    for i in 0..20i64 {
        let base = i * 100;
        let jump = if i == 7 { 5_000 } else { 0 };
        append(&mut log, &[records(&[base, base + 10, base + 5 + jump, base + 11])]).unwrap();
    }
    let reader = log.reader();
    let find = |timestamp, upto| {
        reader
            .offset_for_timestamp(timestamp, Offset(upto))
            .unwrap()
            .map(|it| (it.offset.0, it.timestamp))
    };
    assert_eq!(find(0, 80), Some((0, 0)));
    assert_eq!(find(1, 80), Some((1, 10)));
    assert_eq!(find(11, 80), Some((3, 11)));
    assert_eq!(find(12, 80), Some((4, 100)));
    assert_eq!(find(12, 4), None);
    assert_eq!(find(712, 80), Some((30, 5_705)));
    assert_eq!(find(5_705, 80), Some((30, 5_705)));
    assert_eq!(find(5_706, 80), None);
    assert_eq!(find(611, 28), Some((27, 611)));
    let max =
        |upto| reader.max_timestamp(Offset(upto)).unwrap().map(|it| (it.offset.0, it.timestamp));
    assert_eq!(max(80), Some((30, 5_705)));
    assert_eq!(max(31), Some((27, 611)), "the batch that jumps is not visible yet");
    assert_eq!(max(28), Some((27, 611)));
    assert_eq!(max(4), Some((3, 11)));
    assert_eq!(max(0), None);
}

#[test]
fn deleting_records_moves_the_start_and_lets_whole_segments_go() {
    let bench = Bench::new();
    let mut log = bench.create(small_segments());
    let batches: Vec<_> = (0..10).map(|i| batch(1, 239, i, i as u8)).collect();
    append(&mut log, &batches).unwrap();
    let held = log.reader().read(Offset(0), Offset(3), 10_000, true).unwrap();
    assert!(log.trim_before(Offset(2)).is_empty());
    assert_eq!((log.start(), log.size_bytes()), (Offset(2), 3000));
    let doomed = log.trim_before(Offset(7));
    assert_eq!((doomed.len(), log.size_bytes()), (2, 1200));
    doomed.into_iter().for_each(|it| it.unlink().unwrap());
    assert_eq!(log.start(), Offset(7));
    assert!(matches!(
        log.reader().read(Offset(6), Offset(10), 1, true),
        Err(ReadError::OutOfRange { .. })
    ));
    assert_eq!(
        read_all(&log.reader())[..],
        stamped(&batches[7], 7)[..]
            .iter()
            .chain(&stamped(&batches[8], 8))
            .chain(&stamped(&batches[9], 9))
            .copied()
            .collect::<Vec<_>>()
    );
    assert_eq!(
        held.ranges[0].bytes().unwrap(),
        [stamped(&batches[0], 0), stamped(&batches[1], 1), stamped(&batches[2], 2)].concat()
    );
    let doomed = log.trim_before(Offset(10));
    assert_eq!((doomed.len(), log.start(), log.end()), (1, Offset(10), Offset(10)));
    assert_eq!(append(&mut log, &batches[..1]).unwrap().end, Offset(11));
}

#[test]
fn when_everything_has_aged_an_empty_segment_keeps_the_end() {
    let bench = Bench::new();
    let config = LogConfig { retention_ms: 1000, ..small_segments() };
    let mut log = bench.create(config.clone());
    let batches: Vec<_> = (0..5).map(|i| batch(1, 239, NOW.0 - 10_000 + i, i as u8)).collect();
    append(&mut log, &batches).unwrap();
    assert!(
        log.retention(Offset(2), NOW).unwrap().is_empty(),
        "nothing lies wholly below the limit"
    );
    let doomed = log.retention(Offset(3), NOW).unwrap();
    assert_eq!((doomed.len(), log.start()), (1, Offset(3)));
    doomed.into_iter().for_each(|it| it.unlink().unwrap());
    let doomed = log.retention(Offset(5), NOW).unwrap();
    assert_eq!(
        (doomed.len(), log.start(), log.end(), log.size_bytes()),
        (1, Offset(5), Offset(5), 0)
    );
    doomed.into_iter().for_each(|it| it.unlink().unwrap());
    assert!(log.retention(Offset(5), NOW).unwrap().is_empty());
    drop(log);
    let (mut log, _) = bench.open(config, Trust::Nothing);
    assert_eq!((log.start(), log.end()), (Offset(5), Offset(5)));
    append(&mut log, &batches[..1]).unwrap();
    assert_eq!(read_all(&log.reader()), stamped(&batches[0], 5));
}

#[test]
fn segments_roll_by_time_and_by_a_full_index() {
    let bench = Bench::new();
    let mut log = bench.create(LogConfig { segment_ms: 100, ..LogConfig::default() });
    let rolled: Vec<_> = [1000, 1100, 1101, 1150, 1202]
        .map(|timestamp| append(&mut log, &[batch(1, 10, timestamp, 0)]).unwrap().rolled.is_some())
        .to_vec();
    assert_eq!(rolled, [false, false, true, false, true]);

    let bench = Bench::new();
    let config =
        LogConfig { index_bytes_max: 40, index_interval_bytes: 50, ..LogConfig::default() };
    let mut log = bench.create(config);
    let rolled: Vec<_> = (0..12)
        .map(|i| append(&mut log, &[batch(1, 10, i, 0)]).unwrap().rolled.is_some())
        .collect();
    assert_eq!(rolled.iter().filter(|it| **it).count(), 2, "{rolled:?}");
}

/// Readers on threads of their own, while the owner appends, rolls, deletes, truncates and unlinks.
#[test]
fn readers_never_see_anything_but_whole_batches_in_order() {
    let bench = Bench::new();
    let config =
        LogConfig { segment_bytes: 20_000, index_interval_bytes: 500, ..LogConfig::default() };
    let mut log = bench.create(config);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (reader, done) = (log.reader(), &done);
            scope.spawn(move || {
                let mut prng = Prng::new(seed);
                let mut batches = 0;
                while !done.load(Ordering::Relaxed) || batches == 0 {
                    batches += read_on(&reader, &mut prng);
                }
            });
        }
        let mut prng = Prng::new(9);
        for i in 0..3_000u64 {
            let group: Vec<_> = (0..1 + prng.below(4))
                .map(|_| {
                    batch(
                        1 + prng.below(3) as i32,
                        50 + prng.below(900) as usize,
                        i as i64,
                        i as u8,
                    )
                })
                .collect();
            append(&mut log, &group).unwrap();
            log.mark_durable(log.end());
            drop(log.take_unsynced());
            if i % 50 == 49 {
                let start = Offset(log.end().0 - 200);
                log.trim_before(start).into_iter().for_each(|it| it.unlink().unwrap());
            }
            if i % 300 == 299 {
                let end = Offset(log.end().0 - 30);
                let _ = log.truncate_to(end, end).unwrap();
                log.finish_truncation(NOW).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Reads on from somewhere until the end, or until the log was cut away in front; counts batches.
fn read_on(reader: &LogReader<RealDisk>, prng: &mut Prng) -> u32 {
    let (start, end) = (reader.start().0, reader.end().0);
    let mut at = Offset(start + prng.below((end - start).max(1) as u64) as i64);
    let mut batches = 0;
    while at < reader.end() {
        let read = match reader.read(at, reader.end(), 1 + prng.below(9_000) as u32, true) {
            Ok(read) => read,
            Err(ReadError::OutOfRange { .. }) => break,
            Err(error) => panic!("{error}"),
        };
        for bytes in read.ranges.iter().map(|range| range.bytes().unwrap()) {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let header = BatchHeader::parse(rest).unwrap();
                assert!(batch::crc_matches(&header, rest), "offset {at}");
                assert!(header.base_offset <= at && at < header.next_offset(), "offset {at}");
                at = header.next_offset();
                rest = &rest[header.size_bytes as usize..];
                batches += 1;
            }
        }
        if read.ranges.is_empty() {
            break;
        }
    }
    batches
}

#[test]
fn retention_of_an_idle_log_opens_nothing() {
    let bench = Bench::new();
    let config = LogConfig { retention_ms: 100_000, ..small_segments() };
    let mut log = bench.create(config.clone());
    let batches: Vec<_> = (0..10).map(|i| batch(1, 239, NOW.0 + 1000 * i, i as u8)).collect();
    append(&mut log, &batches).unwrap();
    log.mark_durable(log.end());
    let state = log.close(Offset(10)).unwrap();

    let (mut log, _) = bench.open(config.clone(), Trust::Clean(state));
    let age = |ms| WallMs(NOW.0 + 100_000 + ms);
    assert!(log.retention(Offset(10), age(2000)).unwrap().is_empty());
    assert_eq!(bench.open_files(), (0, 0));
    assert_eq!(log.retention(Offset(10), age(2001)).unwrap().len(), 1);
    assert_eq!(log.retention(Offset(10), age(8001)).unwrap().len(), 2);
    assert_eq!(bench.open_files(), (0, 0));
    drop(log);
    // Not known to be closed: its newest record may be newer than the time index says.
    let (mut log, _) = bench.open(config, Trust::Recorded(state));
    assert_eq!(log.retention(Offset(10), WallMs(NOW.0 + 100_000)).unwrap().len(), 0);
    assert_eq!(log.retention(Offset(10), age(8001)).unwrap().len(), 4);
}

#[test]
fn idle_segments_let_go_of_their_descriptors_and_are_read_all_the_same() {
    let bench = Bench::new();
    let mut log = bench.create(small_segments());
    let batches: Vec<_> = (0..30).map(|i| batch(1, 239, i, i as u8)).collect();
    append(&mut log, &batches).unwrap();
    let all = read_all(&log.reader());
    let held = log.reader().read(Offset(0), log.end(), 500, true).unwrap();
    log.release_idle();
    log.release_idle();
    assert_eq!(bench.open_files().0, 10, "dirty ones stay open");
    log.mark_durable(log.end());
    log.release_idle();
    log.release_idle();
    drop(log.take_unsynced());
    assert_eq!(bench.open_files().0, 2, "the one that grows, and the one that a reader holds");
    assert_eq!(held.ranges[0].bytes().unwrap(), all[..300]);
    assert_eq!(read_all(&log.reader()), all);
}

/// iggy #2686: sealed segments kept their buffers, descriptors and maps for ever.
#[test]
fn rotation_leaves_no_descriptor_or_map_behind() {
    let bench = Bench::new();
    let config = LogConfig { retention_bytes: 5_000, ..small_segments() };
    let mut log = bench.create(config);
    let mut most = (0, 0);
    for i in 0..2_000 {
        append(&mut log, &[batch(1, 239, i, i as u8), batch(1, 400, i, i as u8)]).unwrap();
        read_all(&log.reader());
        let ticket = log.take_unsynced().unwrap();
        log.mark_durable(ticket.end());
        log.retention(log.end(), NOW).unwrap().into_iter().for_each(|it| it.unlink().unwrap());
        if i % 100 == 50 {
            let (fds, maps) = bench.open_files();
            most = (most.0.max(fds), most.1.max(maps));
        }
    }
    assert!(most.0 <= 10 && most.1 <= 30, "descriptors, maps: {most:?}");
    assert!(log.size_bytes() < 7_000);
}
