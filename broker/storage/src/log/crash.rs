//! Crash tests: one partition's life on a disk that fails at a chosen operation, against a model of what was
//! acknowledged. Whatever happens, what was acknowledged is there afterwards, nothing else than what was appended is,
//! and the log opens.

use std::collections::BTreeMap;
use std::path::Path;

use millrace_model::env::Prng;
use millrace_model::ids::{NodeId, TopicPartition};

use super::tests::{batch, stamped};
use super::*;
use crate::data_dir::{DataDir, Identity};
use crate::disk::sim::{Fault as DiskFault, SimDisk};
use crate::error::OpenError;

const TOPIC: TopicId = TopicId([9; 16]);
const NOW: WallMs = WallMs(1_800_000_000_000);

#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many batches of so many payload bytes in one append.
    Append(usize, usize),
    Sync,
    Record,
    Snapshot,
    Epoch,
    /// Deletes records up to so many behind the start.
    Trim(i64),
    Retention,
    /// Retention that keeps nothing.
    Purge,
    Unlink,
    /// Truncates by so many records, and finishes it.
    Truncate(i64),
    Close,
}
use Step::*;

/// Rolls happen by size (segments of 4,000 bytes), within and between appends.
const LIFE: &[Step] = &[
    Append(1, 100),
    Sync,
    Append(3, 300),
    Append(2, 900),
    Sync,
    Record,
    Append(5, 700),
    Snapshot,
    Sync,
    Append(1, 3_000),
    Epoch,
    Append(1, 50),
    Record,
    Sync,
    Trim(6),
    Append(2, 1_500),
    Sync,
    Record,
    Unlink,
    Append(4, 1_200),
    Sync,
    Retention,
    Unlink,
    Append(1, 64),
    Snapshot,
    Truncate(5),
    Append(3, 900),
    Sync,
    Purge,
    Unlink,
    Append(2, 100),
    Truncate(1),
    Snapshot,
    Sync,
    Close,
];

/// What must be true of the disk.
#[derive(Clone, Debug, Default)]
struct Model {
    /// All that was ever handed to the log at an offset: bytes as they would stand there, and the next offset.
    attempts: BTreeMap<i64, Vec<(Vec<u8>, i64)>>,
    /// What the log said that it took, by offset.
    appended: BTreeMap<i64, Vec<u8>>,
    /// Everything below was acknowledged as durable.
    acked: i64,
    /// The log start may be anywhere in between.
    start_recorded: i64,
    start_asked: i64,
    counter: u8,
}

/// The disk, or the log, refused to go on.
#[derive(Debug)]
#[expect(dead_code, reason = "shown when a sound disk stops a life")]
struct Stopped(String);

fn stop(cause: impl std::fmt::Display) -> Stopped {
    Stopped(cause.to_string())
}

struct Life<'a> {
    disk: SimDisk,
    model: &'a mut Model,
    data_dir: DataDir<SimDisk>,
    log: Log<SimDisk>,
    doomed: Vec<Doomed<SimDisk>>,
    snapshot: Option<(Offset, PendingFile<SimDisk>)>,
    epoch: i32,
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 4_000,
        index_interval_bytes: 500,
        retention_bytes: 6_000,
        ..LogConfig::default()
    }
}

fn id() -> TopicPartition {
    TopicPartition::parse("t-0").unwrap()
}

impl<'a> Life<'a> {
    /// Starts a broker's storage: opens what is there, or begins it, and makes it durable before trusting it.
    fn begin(disk: &SimDisk, model: &'a mut Model) -> Result<Self, Stopped> {
        let root = Path::new("/");
        let fresh =
            Identity { cluster_id: "c".into(), node_id: NodeId(1), directory_id: "d".into() };
        let data_dir = DataDir::open(disk.clone(), root, fresh).map_err(stop)?;
        let dir = data_dir.partition_dir(&id());
        let exists = disk.exists(&dir).map_err(stop)?;
        let known = match exists {
            true => crate::checkpoint::read_topic_id(disk, &dir).map_err(stop)?,
            false => None,
        };
        let mut log = if known.is_none() && data_dir.recorded_topic_id(&id()).is_none() {
            assert_eq!(model.acked, 0, "an acknowledged partition has its metadata");
            if !disk.list(&dir).unwrap_or_default().is_empty() {
                let aside = dir.with_extension(format!("{}-stray", disk.operations()));
                disk.rename(&dir, &aside).map_err(stop)?;
            }
            Log::create(disk.clone(), &dir, TOPIC, config()).map_err(stop)?
        } else {
            let opened = Log::open(disk.clone(), &dir, config(), data_dir.trust(&id()), NOW);
            let (log, recovered) = match opened {
                Ok(opened) => opened,
                Err(OpenError::Damaged(damage)) => panic!("sound log is called damaged: {damage}"),
                Err(error) => return Err(stop(error)),
            };
            for doomed in recovered.doomed {
                doomed.unlink().map_err(stop)?;
            }
            log
        };
        model.check(&log)?;
        if log.durable_end() < log.end() {
            let ticket = log.take_unsynced().expect("bytes above the durable end are unsynced");
            let files: Vec<_> = ticket.files().collect();
            disk.sync_set(&files).map_err(stop)?;
            log.mark_durable(ticket.end());
        }
        model.adopt(&log)?;
        let epoch = log.epoch().0.max(0);
        let disk = disk.clone();
        Ok(Self { disk, model, data_dir, log, doomed: Vec::new(), snapshot: None, epoch })
    }

    fn run(mut self, steps: &[Step]) -> Result<(), Stopped> {
        for step in steps {
            if matches!(step, Close) {
                return self.close();
            }
            self.step(*step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), Stopped> {
        match step {
            Append(count, payload) => self.append(count, payload)?,
            Sync => self.sync()?,
            Record => self.record()?,
            Snapshot => {
                let (offset, file) = (self.log.end(), self.log.snapshot(self.log.end(), &[]));
                self.snapshot = Some((offset, file));
            }
            Epoch => {
                self.epoch += 1;
                self.log.begin_epoch(LeaderEpoch(self.epoch));
            }
            Trim(records) => {
                let start = Offset(self.log.start().0 + records).min(self.log.durable_end());
                self.model.start_asked = self.model.start_asked.max(start.0);
                self.doomed.extend(self.log.trim_before(start));
            }
            Retention => self.retention()?,
            Purge => {
                self.log.set_config(LogConfig { retention_bytes: 0, ..config() });
                self.retention()?;
                self.log.set_config(config());
            }
            Truncate(records) => self.truncate(records)?,
            Unlink => {
                for doomed in self.doomed.drain(..) {
                    doomed.unlink().map_err(stop)?;
                }
            }
            Close => unreachable!("closing ends a life"),
        }
        Ok(())
    }

    fn append(&mut self, count: usize, payload: usize) -> Result<(), Stopped> {
        let mut end = self.log.end().0;
        let (mut batches, mut headers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.model.counter = self.model.counter.wrapping_add(1);
            let bytes = batch(2, payload, NOW.0 + end, self.model.counter);
            headers.push(BatchHeader::parse(&bytes).unwrap());
            batches.push(bytes);
        }
        let mut list = Vec::new();
        for (header, bytes) in headers.iter().zip(&batches) {
            let mut stands = stamped(bytes, end);
            stands[12..16].copy_from_slice(&self.epoch.to_be_bytes());
            self.model.attempts.entry(end).or_default().push((stands, end + 2));
            let epoch = LeaderEpoch(self.epoch);
            list.push(AppendBatch { header, bytes, base: Offset(end), epoch });
            end += 2;
        }
        match self.log.append(&list, NOW) {
            Ok(appended) => assert_eq!(appended.end.0, end),
            Err(AppendError::Failed(fault)) => return Err(stop(fault)),
            Err(_) => return Ok(()),
        }
        for AppendBatch { base, .. } in list {
            let (stands, _) = self.model.attempts[&base.0].last().unwrap();
            self.model.appended.insert(base.0, stands.clone());
        }
        self.model.check(&self.log)
    }

    fn retention(&mut self) -> Result<(), Stopped> {
        match self.log.retention(self.log.durable_end(), NOW) {
            Ok(doomed) => {
                self.doomed.extend(doomed);
                self.model.start_asked = self.model.start_asked.max(self.log.start().0);
                Ok(())
            }
            Err(AppendError::Failed(fault)) => Err(stop(fault)),
            Err(_) => Ok(()),
        }
    }

    fn truncate(&mut self, records: i64) -> Result<(), Stopped> {
        let end = Offset(self.log.end().0 - records).max(self.log.start());
        let start = self.log.start();
        let held = if start < end { Some(read_one(&self.log.reader(), start)?.0) } else { None };
        let checkpoint = self.log.truncate_to(end, end).map_err(stop)?;
        let end = self.log.end().0;
        self.snapshot = None;
        self.model.acked = self.model.acked.min(end);
        self.model.appended.retain(|base, _| *base < end);
        self.write(checkpoint)?;
        self.log.finish_truncation(NOW).map_err(stop)?;
        if let Some(bytes) = held
            && start < self.log.end()
        {
            assert_eq!(read_one(&self.log.reader(), start)?.0, bytes);
        }
        self.model.check(&self.log)
    }

    fn sync(&mut self) -> Result<(), Stopped> {
        let Some(ticket) = self.log.take_unsynced() else { return Ok(()) };
        let files: Vec<_> = ticket.files().collect();
        if let Err(error) = self.disk.sync_set(&files) {
            self.log.fail(Fault::new("sync", Path::new("/"), &error));
            return Err(stop(error));
        }
        self.log.mark_durable(ticket.end());
        self.model.acked = ticket.end().0;
        Ok(())
    }

    fn record(&mut self) -> Result<(), Stopped> {
        if let Some((offset, file)) = self.snapshot.take() {
            file.write().map_err(stop)?;
            self.log.snapshot_stored(offset);
        }
        let checkpoint = self.log.checkpoint(self.log.durable_end()).map_err(stop)?;
        self.write(checkpoint)
    }

    fn write(&mut self, checkpoint: Checkpoint<SimDisk>) -> Result<(), Stopped> {
        if let Some(file) = checkpoint.epochs {
            file.write().map_err(stop)?;
        }
        self.data_dir.record(&[(id(), checkpoint.state)]).map_err(stop)?;
        self.model.start_recorded = checkpoint.state.log_start.0;
        Ok(())
    }

    fn close(mut self) -> Result<(), Stopped> {
        self.sync()?;
        let durable = self.log.durable_end();
        let state = self.log.close(durable).map_err(stop)?;
        self.data_dir.close(&[(id(), state)]).map_err(stop)
    }
}

impl Model {
    /// The log holds what was acknowledged, and nothing that was never appended.
    fn check(&self, log: &Log<SimDisk>) -> Result<(), Stopped> {
        let (start, end) = (log.start().0, log.end().0);
        assert!(end >= self.acked, "log ends at {end}, {} was acknowledged", self.acked);
        assert!(start >= self.start_recorded.min(end), "log start fell to {start}");
        // Of a log without a single record acknowledged and kept, the first segments may never have become durable.
        let empty = self.acked <= self.start_asked;
        assert!(empty || start <= self.start_asked, "log start rose to {start}");
        let reader = log.reader();
        let mut at = start;
        while at < end {
            let (bytes, read_next) = read_one(&reader, Offset(at))?;
            let header = BatchHeader::parse(&bytes).unwrap();
            let base = header.base_offset.0;
            let (next, known) = match self.appended.get(&base) {
                Some(bytes) if base < self.acked => (header.next_offset().0, vec![bytes]),
                _ => {
                    (header.next_offset().0, self.attempts[&base].iter().map(|it| &it.0).collect())
                }
            };
            assert!(known.contains(&&bytes), "foreign bytes at offset {base}");
            assert_eq!(read_next.0, next);
            at = next;
        }
        Ok(())
    }

    /// After a restart, what was found is what there is.
    fn adopt(&mut self, log: &Log<SimDisk>) -> Result<(), Stopped> {
        let reader = log.reader();
        let mut found = Vec::new();
        let mut at = log.start();
        while at < log.end() {
            let (bytes, next) = read_one(&reader, at)?;
            found.push((BatchHeader::parse(&bytes).unwrap().base_offset.0, bytes, next.0));
            at = next;
        }
        self.acked = log.end().0;
        self.start_asked = self.start_asked.max(log.start().0);
        // What was truncated, or never acknowledged, may come back until something is synced: attempts stay.
        for (base, bytes, next) in &found {
            self.attempts.entry(*base).or_default().push((bytes.clone(), *next));
        }
        self.appended = found.into_iter().map(|(base, bytes, _)| (base, bytes)).collect();
        Ok(())
    }
}

/// The batch that contains `at`. The disk may fail, the log may not be found wanting.
fn read_one(reader: &LogReader<SimDisk>, at: Offset) -> Result<(Vec<u8>, Offset), Stopped> {
    let read = match reader.read(at, reader.end(), 1, true) {
        Ok(read) => read,
        Err(ReadError::Io(fault)) => return Err(stop(fault)),
        Err(error) => panic!("{error}"),
    };
    let bytes = read.ranges[0].bytes().map_err(stop)?;
    Ok((bytes.to_vec(), read.next))
}

/// A whole life on a sound disk; how many operations it takes.
fn operations_of(steps: &[Step]) -> u64 {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    Life::begin(&disk, &mut model).unwrap().run(steps).unwrap();
    disk.operations()
}

fn live(disk: &SimDisk, model: &mut Model, steps: &[Step]) -> Result<(), Stopped> {
    Life::begin(disk, model)?.run(steps)
}

#[test]
fn a_life_on_a_sound_disk_loses_nothing() {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    for _ in 0..3 {
        live(&disk, &mut model, LIFE).unwrap();
        assert!(model.start_asked > 0 && disk.syncs() > 5);
    }
    let _ = live(&disk.crash(), &mut model, LIFE);
}

#[test]
fn power_lost_at_any_operation_loses_nothing_acknowledged() {
    let operations = operations_of(LIFE);
    for operation in 1..=operations {
        for seed in 0..3 {
            let disk = SimDisk::new(seed << 32 | operation);
            let mut model = Model::default();
            disk.fault_at(operation, DiskFault::PowerCut);
            let _ = live(&disk, &mut model, LIFE);
            assert_eq!(disk.faults_hit(), 1, "operation {operation} seed {seed}");
            live(&disk.crash(), &mut model, LIFE).expect("the disk is sound again");
        }
    }
}

#[test]
fn power_lost_during_recovery_again_and_again_loses_nothing_acknowledged() {
    let operations = operations_of(LIFE);
    for operation in (1..=operations).step_by(3) {
        let mut prng = Prng::new(operation);
        let mut disk = SimDisk::new(operation);
        let mut model = Model::default();
        disk.fault_at(operation, DiskFault::PowerCut);
        let _ = live(&disk, &mut model, LIFE);
        for _ in 0..6 {
            disk = disk.crash();
            disk.fault_at(1 + prng.below(60), DiskFault::PowerCut);
            let _ = live(&disk, &mut model, LIFE);
        }
        live(&disk.crash(), &mut model, LIFE).expect("the disk is sound again");
    }
}

#[test]
fn any_fault_at_any_operation_is_refused_and_loses_nothing_acknowledged() {
    let operations = operations_of(LIFE);
    let faults = [
        DiskFault::Eio,
        DiskFault::Enospc,
        DiskFault::Short,
        DiskFault::Interrupted,
        DiskFault::TooManyFiles,
    ];
    for operation in 1..=operations {
        for (i, fault) in faults.into_iter().enumerate() {
            let disk = SimDisk::new(operation << 8 | i as u64);
            let mut model = Model::default();
            disk.fault_at(operation, fault);
            let _ = live(&disk, &mut model, LIFE);
            // Once as after kill -9 (the page cache lives on), once as after a power cut.
            let _ = live(&disk, &mut model, LIFE);
            live(&disk.crash(), &mut model, LIFE).expect("the disk is sound again");
        }
    }
}

/// A life of random steps.
fn random_life(prng: &mut Prng) -> Vec<Step> {
    let step = |prng: &mut Prng| match prng.below(24) {
        0..8 => Append(1 + prng.below(6) as usize, prng.below(1_500) as usize),
        8..13 => Sync,
        13..15 => Record,
        15 => Snapshot,
        16 => Epoch,
        17 => Trim(prng.below(12) as i64),
        18 => Retention,
        19 => Purge,
        20..22 => Unlink,
        _ => Truncate(prng.below(20) as i64),
    };
    let mut life: Vec<_> = (0..5 + prng.below(40)).map(|_| step(prng)).collect();
    if prng.below(3) == 0 {
        life.push(Close);
    }
    life
}

#[test]
fn random_lives_on_a_failing_disk_lose_nothing_acknowledged() {
    for seed in 0..600 {
        let mut prng = Prng::new(seed);
        let mut disk = SimDisk::new(seed);
        let mut model = Model::default();
        for _ in 0..5 {
            let fault = match prng.below(8) {
                0 => DiskFault::Eio,
                1 => DiskFault::Enospc,
                2 => DiskFault::Short,
                3 => DiskFault::TooManyFiles,
                _ => DiskFault::PowerCut,
            };
            disk.fault_at(disk.operations() + 1 + prng.below(300), fault);
            let _ = live(&disk, &mut model, &random_life(&mut prng));
            if prng.below(4) > 0 {
                disk = disk.crash();
            }
        }
        let life = random_life(&mut prng);
        let last = live(&disk.crash(), &mut model, &life);
        assert!(last.is_ok(), "seed {seed}: {last:?} on a sound disk, {life:?}");
    }
}

#[test]
fn a_full_disk_keeps_what_is_acknowledged_and_serves_again_with_space() {
    for capacity in (500..30_000).step_by(731) {
        let disk = SimDisk::new(capacity);
        let mut model = Model::default();
        disk.set_capacity(capacity);
        let _ = live(&disk, &mut model, LIFE);
        disk.set_capacity(1 << 30);
        live(&disk, &mut model, LIFE).expect("there is space again");
        live(&disk.crash(), &mut model, LIFE).expect("there is space still");
    }
}

#[test]
fn a_sync_that_lied_to_the_last_process_does_not_fool_the_next() {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    let steps = [Append(1, 500), Sync, Record, Append(9, 3_000), Append(1, 100), Sync];
    let before = operations_of(&steps);
    disk.fault_at(before, DiskFault::Eio);
    assert!(live(&disk, &mut model, &steps).is_err());
    assert_eq!((disk.faults_hit(), model.acked), (1, 2));
    // The page cache still shows what the failed sync lost, as clean pages.
    let life = Life::begin(&disk, &mut model).unwrap();
    assert_eq!(life.log.durable_end(), Offset(22));
    drop(life);
    live(&disk.crash(), &mut model, &[]).unwrap();
}
