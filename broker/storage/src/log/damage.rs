//! Damaged and torn files: what is cut, what is refused, what is rebuilt. On SimDisk, without faults of its own.

use std::path::{Path, PathBuf};

use millrace_model::checksum::crc32c;
use millrace_model::env::Prng;

use super::tests::{append, batch, read_all, small_segments, stamped};
use super::*;
use crate::disk::DirEntry;
use crate::disk::sim::SimDisk;
use crate::error::OpenError;

const NOW: WallMs = WallMs(1_800_000_000_000);
const DIR: &str = "/t-0";

struct Fixture {
    disk: SimDisk,
    config: LogConfig,
    /// All batches as they stand in the log.
    batches: Vec<Vec<u8>>,
    state: PartitionState,
}

impl Fixture {
    /// A log of these batches, closed cleanly.
    fn new(config: LogConfig, batches: &[Bytes]) -> Self {
        let disk = SimDisk::new(1);
        let mut log =
            Log::create(disk.clone(), Path::new(DIR), TopicId([9; 16]), config.clone()).unwrap();
        let mut stands = Vec::new();
        for batch in batches {
            stands.push(stamped(batch, log.end().0));
            append(&mut log, std::slice::from_ref(batch)).unwrap();
        }
        log.snapshot(log.end(), &[]).write().unwrap();
        log.snapshot_stored(log.end());
        log.mark_durable(log.end());
        let state = log.close(Offset(0)).unwrap();
        Self { disk, config, batches: stands, state }
    }

    /// `state` as if only this many batches had been durable when it was recorded. All lie in the first segment.
    fn recorded_after(&self, batches: usize) -> PartitionState {
        let bytes: usize = self.batches[..batches].iter().map(Vec::len).sum();
        let next = self
            .batches
            .get(batches)
            .map_or(self.state.next_offset, |next| BatchHeader::parse(next).unwrap().base_offset);
        PartitionState { position: bytes as u64, next_offset: next, ..self.state }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(DIR).join(name)
    }

    fn first(&self) -> PathBuf {
        self.path("00000000000000000000.log")
    }

    fn open(&self, trust: Trust) -> Result<(Log<SimDisk>, Recovered<SimDisk>), OpenError> {
        Log::open(self.disk.clone(), Path::new(DIR), self.config.clone(), trust, NOW)
    }

    /// Opens a copy of the disk's files in which the first segment holds `bytes`.
    fn open_with(
        &self,
        bytes: Vec<u8>,
        trust: Trust,
    ) -> Result<(Log<SimDisk>, Recovered<SimDisk>), OpenError> {
        self.disk.damage(&self.first(), bytes);
        self.open(trust)
    }

    fn names(&self) -> Vec<DirEntry> {
        self.disk.list(Path::new(DIR)).unwrap()
    }
}

fn some(count: usize) -> Vec<Bytes> {
    (0..count).map(|i| batch(1 + i as i32 % 3, 40 + 10 * i, i as i64, i as u8)).collect()
}

#[test]
fn a_torn_tail_is_cut_to_the_last_whole_batch_wherever_it_tore() {
    let whole = Fixture::new(LogConfig::default(), &some(4));
    let bytes = whole.batches.concat();
    let state = whole.recorded_after(2);
    let third = whole.batches[2].len();
    for cut in state.position as usize..bytes.len() {
        let kept = if cut < state.position as usize + third { 2 } else { 3 };
        let expected = whole.batches[..kept].concat();
        let (log, recovered) =
            whole.open_with(bytes[..cut].to_vec(), Trust::Recorded(state)).unwrap();
        assert_eq!(read_all(&log.reader()), expected, "cut at {cut}");
        assert_eq!(whole.disk.contents(&whole.first()).unwrap(), expected, "cut at {cut}");
        match recovered.torn {
            None => assert_eq!(cut, expected.len()),
            Some(torn) => {
                assert_eq!((torn.bytes, torn.survivors), ((cut - expected.len()) as u64, 0));
                let tail = &bytes[expected.len()..cut];
                match torn.kept {
                    Some(path) => assert_eq!(whole.disk.contents(&path).unwrap(), tail),
                    None => assert!(tail.iter().all(|byte| *byte == 0)),
                }
            }
        }
    }
}

#[test]
fn what_was_durable_is_never_cut() {
    let whole = Fixture::new(LogConfig::default(), &some(4));
    let bytes = whole.batches.concat();
    for cut in 0..bytes.len() {
        let cut_bytes = bytes[..cut].to_vec();
        for trust in [
            Trust::Clean(whole.state),
            Trust::Recorded(whole.state),
            Trust::Offsets { log_start: Offset(0), recovery_point: whole.state.next_offset },
        ] {
            let opened = whole.open_with(cut_bytes.clone(), trust);
            assert!(matches!(opened, Err(OpenError::Damaged(_))), "{trust:?} cut at {cut}");
            assert_eq!(whole.disk.contents(&whole.first()).unwrap(), cut_bytes);
        }
    }
    let zeros = vec![0; bytes.len()];
    let recovery_point = Trust::Offsets { log_start: Offset(0), recovery_point: Offset(1) };
    assert!(matches!(whole.open_with(zeros, recovery_point), Err(OpenError::Damaged(_))));
}

#[test]
fn tails_of_zeros_noise_and_stale_batches_are_no_data() {
    let whole = Fixture::new(LogConfig::default(), &some(3));
    let bytes = whole.batches.concat();
    let mut prng = Prng::new(5);
    let noise: Vec<u8> = (0..5_000).map(|_| prng.next_u64() as u8).collect();
    let mut halves = vec![0; 3_000];
    halves.extend_from_slice(&whole.batches[1]);
    let tails = [
        (vec![0; 10], true, 0),
        (vec![0; 3 << 20], true, 0),
        (vec![0xff; 5_000], false, 0),
        (noise, false, 0),
        (whole.batches[1].clone(), false, 0),
        (halves, false, 0),
        ([vec![0; 100], stamped(&some(1)[0], 6)].concat(), false, 1),
    ];
    for (tail, zero, survivors) in tails {
        let damaged = [bytes.clone(), tail.clone()].concat();
        let (log, recovered) = whole.open_with(damaged, Trust::Recorded(whole.state)).unwrap();
        assert_eq!(read_all(&log.reader()), bytes);
        let torn = recovered.torn.unwrap();
        assert_eq!((torn.kept.is_none(), torn.survivors), (zero, survivors));
        assert_eq!(whole.disk.contents(&whole.first()).unwrap(), bytes);
        if let Some(path) = torn.kept {
            assert_eq!(whole.disk.contents(&path).unwrap(), tail);
        }
    }
}

/// redpanda #4113: a batch whose CRC happened to be 0 was taken for preallocated space, and with it all that followed.
#[test]
fn a_batch_with_crc_zero_at_offset_zero_is_a_batch() {
    let zero_crc = with_crc_zero(batch(1, 64, 0, 0).to_vec());
    assert_eq!(BatchHeader::parse(&zero_crc).unwrap().crc, 0);
    let whole = Fixture::new(LogConfig::default(), &[zero_crc, batch(2, 30, 1, 1)]);
    let (log, recovered) = whole.open(Trust::Nothing).unwrap();
    assert_eq!((log.end(), recovered.torn), (Offset(3), None));
    assert_eq!(read_all(&log.reader()), whole.batches.concat());
}

/// Chooses the last four bytes so that the CRC becomes 0: it is linear in them.
fn with_crc_zero(mut bytes: Vec<u8>) -> Bytes {
    let at = bytes.len() - 4;
    bytes[at..].fill(0);
    let crc_with = |bytes: &mut Vec<u8>, tail: u32| {
        bytes[at..].copy_from_slice(&tail.to_be_bytes());
        crc32c(&bytes[batch::CRC_START..])
    };
    let zero = crc_with(&mut bytes, 0);
    let mut rows: Vec<(u32, u32)> =
        (0..32).map(|bit| (crc_with(&mut bytes, 1 << bit) ^ zero, 1 << bit)).collect();
    let (mut target, mut tail) = (zero, 0);
    for bit in 0..32 {
        let pivot = rows.iter().position(|(crc, _)| crc >> bit & 1 == 1).unwrap();
        let (crc, tails) = rows.swap_remove(pivot);
        for row in rows.iter_mut().filter(|(other, _)| other >> bit & 1 == 1) {
            *row = (row.0 ^ crc, row.1 ^ tails);
        }
        if target >> bit & 1 == 1 {
            (target, tail) = (target ^ crc, tail ^ tails);
        }
    }
    assert_eq!(crc_with(&mut bytes, tail), 0);
    bytes[17..21].fill(0);
    bytes.into()
}

#[test]
fn no_flipped_bit_below_the_durable_end_goes_unseen_or_is_cut() {
    let whole = Fixture::new(LogConfig::default(), &some(3));
    let bytes = whole.batches.concat();
    let last = bytes.len() - whole.batches[2].len();
    let trust = Trust::Offsets { log_start: Offset(0), recovery_point: whole.state.next_offset };
    let mut unseen = Vec::new();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 0x80 >> (bit % 8);
        match whole.open_with(flipped.clone(), trust) {
            Err(OpenError::Damaged(_)) => {}
            Err(error) => panic!("bit {bit}: {error}"),
            Ok(_) => unseen.push(bit),
        }
        assert_eq!(whole.disk.contents(&whole.first()).unwrap(), flipped, "bit {bit}");
    }
    // Epochs lie outside the CRC. Raised ones show in the next batch, lowered ones against the one before: only the very
    // last and the very first escape.
    let escapes = |bit: &usize| {
        let epoch = |batch: usize| (batch + 12) * 8..(batch + 16) * 8;
        epoch(0).contains(bit) || epoch(last).contains(bit)
    };
    assert!(unseen.iter().all(escapes), "{unseen:?}");
}

#[test]
fn swapped_segments_are_noticed_by_readers_and_by_recovery() {
    let batches: Vec<_> = (0..9).map(|i| batch(1, 239, i, i as u8)).collect();
    let whole = Fixture::new(small_segments(), &batches);
    let (first, second) = (whole.first(), whole.path("00000000000000000003.log"));
    let (a, b) = (whole.disk.contents(&first).unwrap(), whole.disk.contents(&second).unwrap());
    whole.disk.damage(&first, b);
    whole.disk.damage(&second, a);
    let (log, _) = whole.open(Trust::Clean(whole.state)).unwrap();
    for offset in 0..6 {
        let read = log.reader().read(Offset(offset), Offset(9), 10_000, true);
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "offset {offset}");
    }
    assert!(log.reader().read(Offset(6), Offset(9), 10_000, true).is_ok());
    let trust = Trust::Offsets { log_start: Offset(0), recovery_point: Offset(1) };
    assert!(matches!(whole.open(trust), Err(OpenError::Damaged(_))));
}

#[test]
fn a_missing_segment_is_noticed() {
    let batches: Vec<_> = (0..9).map(|i| batch(1, 239, i, i as u8)).collect();
    let whole = Fixture::new(small_segments(), &batches);
    whole.disk.remove(&whole.path("00000000000000000003.log")).unwrap();
    let (log, _) = whole.open(Trust::Clean(whole.state)).unwrap();
    for offset in 0..6 {
        let read = log.reader().read(Offset(offset), Offset(9), 10_000, true);
        assert!(matches!(read, Err(ReadError::Damaged { .. })), "offset {offset}");
    }
    whole.disk.remove(&whole.path("00000000000000000006.log")).unwrap();
    for trust in [Trust::Clean(whole.state), Trust::Recorded(whole.state)] {
        assert!(matches!(whole.open(trust), Err(OpenError::Damaged(_))));
    }
    whole.disk.remove(&whole.first()).unwrap();
    assert!(matches!(whole.open(Trust::Recorded(whole.state)), Err(OpenError::Damaged(_))));
}

#[test]
fn files_beside_the_log_are_rebuilt_or_ignored() {
    let batches: Vec<_> = (0..40).map(|i| batch(2, 100, i, i as u8)).collect();
    type Harm = fn(Vec<u8>) -> Option<Vec<u8>>;
    let harms: [Harm; 7] = [
        |_| None,
        |_| Some(Vec::new()),
        |bytes| Some(vec![0; bytes.len()]),
        |bytes| Some(bytes[..bytes.len().saturating_sub(3)].to_vec()),
        |bytes| Some(vec![0xff; bytes.len()]),
        |bytes| Some(bytes.into_iter().rev().collect()),
        |bytes| Some([bytes, vec![1; 24]].concat()),
    ];
    let names: Vec<_> = Fixture::new(small_segments(), &batches)
        .names()
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| !name.ends_with(".log"))
        .collect();
    assert!(names.len() > 15, "{names:?}");
    for name in &names {
        for (i, harm) in harms.into_iter().enumerate() {
            for clean in [true, false] {
                let whole = Fixture::new(small_segments(), &batches);
                let path = whole.path(name);
                match harm(whole.disk.contents(&path).unwrap()) {
                    Some(bytes) => whole.disk.damage(&path, bytes),
                    None => whole.disk.remove(&path).unwrap(),
                }
                let state = whole.state;
                let trust = if clean { Trust::Clean(state) } else { Trust::Recorded(state) };
                let (mut log, recovered) =
                    whole.open(trust).unwrap_or_else(|error| panic!("{name} {i}: {error}"));
                assert_eq!(recovered.torn, None, "{name} {i}");
                let reader = log.reader();
                for offset in 0..80 {
                    let read = reader.read(Offset(offset), Offset(80), 1, true).unwrap();
                    let expected = &whole.batches[offset as usize / 2];
                    assert_eq!(read.ranges[0].bytes().unwrap(), expected, "{name} {i} {offset}");
                    let found = reader.offset_for_timestamp(offset / 2, Offset(80)).unwrap();
                    assert_eq!(
                        found.unwrap().offset,
                        Offset(offset / 2 * 2),
                        "{name} {i} {offset}"
                    );
                }
                assert_eq!(log.topic_id(), TopicId([9; 16]), "{name} {i}");
                assert!(log.latest_snapshot(Offset(80)).is_ok());
                log.mark_durable(log.end());
                append(&mut log, &batches[..3]).unwrap();
                assert_eq!(log.epoch(), LeaderEpoch(3), "{name} {i}");
            }
        }
    }
}

#[test]
fn a_file_system_that_syncs_do_not_reach_is_refused() {
    let whole = Fixture::new(LogConfig::default(), &some(1));
    whole.disk.mount_elsewhere(Path::new(DIR));
    assert!(matches!(whole.open(Trust::Nothing), Err(OpenError::OtherFileSystem(_))));
}

#[test]
fn offsets_far_apart_never_share_a_segment() {
    let disk = SimDisk::new(1);
    let config = LogConfig { segment_bytes: i32::MAX as u32, ..LogConfig::default() };
    let mut log = Log::create(disk, Path::new(DIR), TopicId([9; 16]), config).unwrap();
    let wide = |seed| batch(i32::MAX, 20, i64::MAX, seed);
    for seed in 0..3 {
        let appended = append(&mut log, &[wide(seed)]).unwrap();
        assert_eq!(appended.rolled.is_some(), seed > 0);
    }
    let next = i64::from(i32::MAX) * 2;
    let read = log.reader().read(Offset(next + 5), log.end(), 100, true).unwrap();
    assert_eq!(read.ranges[0].bytes().unwrap(), stamped(&wide(2), next));
}

#[test]
fn absurd_timestamps_and_clocks_do_no_harm() {
    let disk = SimDisk::new(1);
    let config = LogConfig { index_interval_bytes: 0, retention_ms: 1_000, ..LogConfig::default() };
    let mut log = Log::create(disk, Path::new(DIR), TopicId([9; 16]), config).unwrap();
    let times = [i64::MAX, 0, -1, i64::MIN, 5, i64::MAX, i64::MAX - 1];
    for now in [NOW, WallMs(i64::MIN), WallMs(i64::MAX), WallMs(0)] {
        for (i, timestamp) in times.into_iter().enumerate() {
            let bytes = batch(1, 30, timestamp, i as u8);
            let header = BatchHeader::parse(&bytes).unwrap();
            let epoch = LeaderEpoch(3);
            let batch = AppendBatch { header: &header, bytes: &bytes, base: log.end(), epoch };
            log.append(&[batch], now).unwrap();
            let _ = log.retention(log.end(), now).unwrap();
            log.reader().offset_for_timestamp(timestamp, log.end()).unwrap();
            log.reader().max_timestamp(log.end()).unwrap();
        }
    }
    assert_eq!(log.end(), Offset(28));
}

#[test]
fn a_batch_larger_than_a_segment_is_refused_and_one_that_just_fits_is_not() {
    let disk = SimDisk::new(1);
    let mut log = Log::create(disk, Path::new(DIR), TopicId([9; 16]), small_segments()).unwrap();
    append(&mut log, &[batch(1, 10, 0, 0)]).unwrap();
    append(&mut log, &[batch(1, 1000 - 61, 0, 0)]).unwrap();
    let refused = append(&mut log, &[batch(1, 10, 0, 0), batch(1, 1001 - 61, 0, 0)]);
    assert!(matches!(refused, Err(AppendError::TooLarge { size: 1001, .. })));
    assert_eq!(log.end(), Offset(2));
}

#[test]
fn a_page_that_does_not_load_stops_reads_and_appends() {
    let whole = Fixture::new(LogConfig::default(), &some(3));
    let (mut log, _) = whole.open(Trust::Clean(whole.state)).unwrap();
    append(&mut log, &some(1)).unwrap();
    let held = log.reader().read(Offset(0), log.end(), 10_000, true).unwrap();
    whole.disk.poison(&whole.first());
    assert!(held.ranges[0].poisoned() && held.ranges[0].populate().is_err());
    assert!(log.reader().read(Offset(0), log.end(), 10_000, true).is_err());
    assert!(matches!(append(&mut log, &some(1)), Err(AppendError::Failed(_))));
    assert!(log.failure().is_some() && log.take_unsynced().is_none());
}
