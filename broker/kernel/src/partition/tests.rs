//! Scripts for a partition (`testdata/partition.txt`): events, and the outputs that they must cause.

mod history;

use std::path::{Path, PathBuf};

use millrace_model::env::{Prng, WallMs};
use millrace_model::ids::{ProducerEpoch, ProducerId, TopicId};
use millrace_model::record::{BatchBuilder, NewRecord, records};
use millrace_storage::disk::real::RealDisk;
use millrace_storage::disk::sim::{self, SimDisk};
use millrace_storage::error::OpenError;
use millrace_storage::log::Trust;

use super::*;

const WALL: i64 = 1_700_000_000_000;

fn settings() -> PartitionSettings {
    PartitionSettings {
        durability: Durability::Durable,
        timestamps: Timestamps::CreateTime { before_max_ms: i64::MAX, after_max_ms: 3_600_000 },
        insync_replicas_min: 1,
        producer_expiration_ms: 86_400_000,
        maintenance_interval_ms: 300_000,
        relaxed_flush_ms: 1_000,
        log: LogConfig::default(),
    }
}

/// A partition with everything around it that a driver would be.
struct Driver<D: Disk> {
    disk: D,
    dir: PathBuf,
    partition: Option<Partition<D, u32>>,
    env: Env,
    settings: PartitionSettings,
    epoch: LeaderEpoch,
    tokens: u32,
    tickets: Vec<SyncTicket<D>>,
    snapshots: Vec<(Offset, PendingFile<D>)>,
    out: Vec<Output<D, u32>>,
}

impl<D: Disk> Driver<D> {
    fn new(disk: D, dir: PathBuf) -> Self {
        let log = Log::create(disk.clone(), &dir, TopicId([1; 16]), settings().log).unwrap();
        let mut driver = Self {
            disk,
            dir,
            partition: None,
            env: Env { now: Now { wall: WallMs(WALL), mono: MonoMs(1_000) }, rng: Prng::new(1) },
            settings: settings(),
            epoch: LeaderEpoch(0),
            tokens: 0,
            tickets: Vec::new(),
            snapshots: Vec::new(),
            out: Vec::new(),
        };
        driver.take_into_service(log);
        driver
    }

    fn take_into_service(&mut self, log: Log<D>) {
        let now = self.env.now;
        let partition = Partition::open(log, self.settings.clone(), self.epoch, now).unwrap();
        self.partition = Some(partition);
    }

    fn partition(&mut self) -> &mut Partition<D, u32> {
        self.partition.as_mut().unwrap()
    }

    fn handle(&mut self, event: Event<u32>) {
        let partition = self.partition.as_mut().unwrap();
        partition.handle(&mut self.env, event, &mut self.out);
    }

    fn token(&mut self) -> u32 {
        self.tokens += 1;
        self.tokens
    }

    fn append(&mut self, batches: &[&str]) {
        let appends = batches.iter().map(|words| {
            let token = self.token();
            batch(words, self.env.now.wall.0, token)
        });
        let appends = appends.collect();
        self.handle(Event::Append(appends));
    }

    fn take_ticket(&mut self) {
        let ticket = self.partition().take_unsynced();
        self.tickets.extend(ticket);
    }

    fn sync(&mut self) {
        self.take_ticket();
        for ticket in std::mem::take(&mut self.tickets) {
            let files: Vec<_> = ticket.files().collect();
            self.disk.sync_set(&files).unwrap();
            self.handle(Event::Synced { end: ticket.end() });
        }
    }

    fn store_snapshots(&mut self) {
        for (offset, file) in std::mem::take(&mut self.snapshots) {
            file.write().unwrap();
            self.handle(Event::SnapshotStored { offset });
        }
    }

    fn reopen(&mut self, trust: Trust) {
        assert!(self.try_reopen(trust), "the log opens");
    }

    fn try_reopen(&mut self, trust: Trust) -> bool {
        self.partition = None;
        self.tickets.clear();
        self.snapshots.clear();
        self.env.now.mono = MonoMs(0);
        let (disk, dir) = (self.disk.clone(), self.dir.clone());
        let config = self.settings.log.clone();
        let log = match Log::open(disk, &dir, config, trust, self.env.now.wall) {
            Ok((log, _)) => log,
            Err(OpenError::Io(_)) => return false,
            Err(error) => panic!("{trust:?}: {error}"),
        };
        match Partition::open(log, self.settings.clone(), self.epoch, self.env.now) {
            Ok(partition) => self.partition = Some(partition),
            Err(ReadError::Io(_)) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn close(&mut self) -> PartitionState {
        self.partition.take().unwrap().close(self.env.now).unwrap()
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["append", ..] => {
                let batches: Vec<&str> = line["append".len()..].split(';').collect();
                self.append(&batches);
            }
            ["sync"] => self.sync(),
            ["ticket"] => self.take_ticket(),
            ["tick", ms] => {
                let ms: u64 = ms.parse().unwrap();
                self.env.now.mono.0 += ms;
                self.env.now.wall.0 += ms as i64;
                self.handle(Event::Tick);
            }
            ["sync-failed", reason] => self.handle(Event::SyncFailed { reason: reason.into() }),
            ["space", writable] => self.handle(Event::Space { writable: writable == "yes" }),
            ["epoch", epoch] => {
                self.epoch = LeaderEpoch(epoch.parse().unwrap());
                self.handle(Event::NewEpoch(self.epoch));
            }
            ["delete", before] => {
                let before = before.parse().ok().map(Offset);
                let token = self.token();
                self.handle(Event::DeleteRecords { before, token });
            }
            ["saved", start] => {
                self.handle(Event::LogStartSaved { start: Offset(start.parse().unwrap()) });
            }
            ["store"] => self.store_snapshots(),
            ["close-and-open"] => {
                let state = self.close();
                self.reopen(Trust::Clean(state));
            }
            ["crash"] => self.reopen(Trust::Nothing),
            ["set", ..] => {
                words[1..].iter().for_each(|word| set(&mut self.settings, word));
                self.handle(Event::Configure(self.settings.clone()));
            }
            _ => panic!("unknown line {line:?}"),
        }
    }

    /// What came out since the last call, as text; files are kept for later.
    fn trace(&mut self) -> String {
        let mut trace = String::new();
        for output in std::mem::take(&mut self.out) {
            let line = match output {
                Output::Reply { token, result: Ok(done) } => {
                    let time =
                        done.log_append_time.map_or(String::new(), |t| format!(" at {}", t.0));
                    format!("reply {token}: offset {}{time}", done.base_offset)
                }
                Output::Reply { token, result: Err(error) } => format!("reply {token}: {error}"),
                Output::Deleted { token, result: Ok(start) } => {
                    format!("reply {token}: low watermark {start}")
                }
                Output::Deleted { token, result: Err(error) } => format!("reply {token}: {error}"),
                Output::Snapshot { offset, file } => {
                    self.snapshots.push((offset, file));
                    format!("snapshot at {offset}")
                }
                Output::Doomed(doomed) => {
                    let count = doomed.len();
                    doomed.into_iter().for_each(|it| it.unlink().unwrap());
                    format!("{count} files go")
                }
                Output::HighWatermark(offset) => format!("high watermark {offset}"),
                Output::LogStart { start, save: true } => format!("log start {start}, to be saved"),
                Output::LogStart { start, save: false } => format!("log start {start}"),
                Output::Dirty => "dirty".to_owned(),
                Output::Full => "full".to_owned(),
                Output::Failed { reason } => format!("failed: {reason}"),
            };
            trace.push_str("  ");
            trace.push_str(&line);
            trace.push('\n');
        }
        trace
    }

    fn describe(&mut self) -> String {
        let mono = self.env.now.mono.0;
        let partition = self.partition();
        let marks = partition.marks();
        let deadline = partition.next_deadline().map(|at| at.0 - mono);
        let (start, durable) = (marks.log_start(), marks.durable_end());
        let (high_watermark, end) = (marks.high_watermark(), marks.log_end());
        assert_eq!(partition.reader().end(), end);
        assert_eq!(partition.reader().start(), start);
        format!(
            "  start {start} durable {durable} watermark {high_watermark} end {end} epoch {} tick in {deadline:?}\n",
            marks.leader_epoch()
        )
    }
}

fn set(settings: &mut PartitionSettings, word: &str) {
    let (key, value) = word.split_once('=').unwrap();
    let number = || value.parse::<i64>().unwrap();
    match (key, value) {
        ("durability", "relaxed") => settings.durability = Durability::Relaxed,
        ("durability", "durable") => settings.durability = Durability::Durable,
        ("time", "append") => settings.timestamps = Timestamps::LogAppendTime,
        ("before", _) => {
            let (before_max_ms, after_max_ms) = (number(), 3_600_000);
            settings.timestamps = Timestamps::CreateTime { before_max_ms, after_max_ms };
        }
        ("min-insync", _) => settings.insync_replicas_min = number() as i32,
        ("expiration", _) => settings.producer_expiration_ms = number(),
        ("segment", _) => settings.log.segment_bytes = number() as u32,
        ("retention-bytes", _) => settings.log.retention_bytes = number(),
        ("retention-ms", _) => settings.log.retention_ms = number(),
        _ => panic!("unknown setting {word}"),
    }
}

/// `n=3 p=1 e=0 s=5 acks=-1 t=0 size=100`: records, producer, epoch, sequence, acks, time before now, bytes of a value.
fn batch(words: &str, now: i64, token: u32) -> Append<u32> {
    let named = |key: &str| {
        let mut words = words.split_whitespace().filter_map(|word| word.split_once('='));
        words.find(|(name, _)| *name == key).map(|(_, value)| value.parse::<i64>().unwrap())
    };
    let mut builder = BatchBuilder::default();
    if let Some(id) = named("p") {
        let epoch = ProducerEpoch(named("e").unwrap_or(0) as i16);
        builder = builder.producer(ProducerId(id), epoch, named("s").unwrap_or(0) as i32);
    }
    let value = vec![b'v'; named("size").unwrap_or(10) as usize];
    for _ in 0..named("n").unwrap_or(1) {
        let timestamp = now - named("t").unwrap_or(0);
        builder.push(NewRecord { timestamp, key: None, value: Some(&value), headers: &[] });
    }
    let bytes = builder.build();
    let header = millrace_model::batch::validate(&bytes, u32::MAX).unwrap();
    let acks = match named("acks") {
        Some(0) => Acks::None,
        Some(1) => Acks::Leader,
        _ => Acks::All,
    };
    Append { header, bytes, acks, token }
}

fn simulated() -> Driver<SimDisk> {
    let disk = SimDisk::new(1);
    let driver = Driver::new(disk.clone(), PathBuf::from("/topic-0"));
    disk.sync_all().unwrap();
    driver
}

const SCRIPT: &str = include_str!("../../testdata/partition.txt");

fn trace_script<D: Disk>(make: impl Fn() -> Driver<D>) -> String {
    let mut trace = String::new();
    let mut driver = make();
    for line in SCRIPT.lines().filter(|line| !line.starts_with("  ")) {
        trace.push_str(line);
        trace.push('\n');
        if line.starts_with("== ") {
            driver = make();
        } else if line == "marks" {
            trace.push_str(&driver.describe());
        } else if !line.is_empty() && !line.starts_with('#') {
            driver.run(line);
            trace.push_str(&driver.trace());
        }
    }
    trace
}

#[test]
fn scripts_leave_the_expected_trace() {
    let actual = trace_script(simulated);
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/partition.txt");
        #[allow(clippy::disallowed_methods, reason = "expected traces are rewritten on demand")]
        std::fs::write(path, &actual).unwrap();
    } else {
        assert!(actual == SCRIPT, "the trace differs (UPDATE=1 rewrites it):\n{actual}");
    }
}

#[test]
fn scripts_leave_the_same_trace_on_the_real_disk() {
    let root = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(root.path()).unwrap();
    let count = std::cell::Cell::new(0);
    let trace = trace_script(|| {
        count.set(count.get() + 1);
        let dir: &Path = root.path();
        Driver::new(disk.clone(), dir.join(format!("topic-{}", count.get())))
    });
    assert_eq!(trace, SCRIPT);
}

#[test]
fn append_time_replaces_the_clients_and_the_checksum_follows() {
    let mut driver = simulated();
    driver.run("set time=append");
    driver.run("append n=3 t=5000");
    driver.run("sync");
    let read = driver.partition().reader().read(Offset(0), Offset(3), 1 << 20, true).unwrap();
    let bytes = read.ranges[0].bytes().unwrap();
    let header = BatchHeader::parse(&bytes).unwrap();
    assert!(millrace_model::batch::crc_matches(&header, &bytes));
    assert!(header.attributes.is_log_append_time());
    assert_eq!(header.max_timestamp, WALL);
    assert_eq!(header.base_timestamp, WALL - 5000);
    let count = records(&header, &bytes, 1 << 20).unwrap().count();
    assert_eq!(count, 3);
}

/// A write that fails takes all verdicts of its group with it, whatever it left in the file.
#[test]
fn a_failed_write_fails_the_batches_behind_it_and_nothing_else() {
    let refused = |tokens: &[u32], reason: &str| -> String {
        tokens.iter().map(|token| format!("  reply {token}: {reason}\n")).collect()
    };
    // Appends are refused until there is space. A producer whose first batch failed begins with it again.
    let full = "the disk is full";
    let expected = refused(&[3, 6, 7, 8, 4, 5], full)
        + "  full\n"
        + &refused(&[9, 10], full)
        + "  high watermark 5\n  reply 1: offset 0\n  reply 2: offset 1\n"
        + "  reply 11: producer 3 sent sequence 1 in epoch 0, 0 would follow\n"
        + "  reply 12: producer 1 sent sequence 2 in epoch 0, 1 would follow\n"
        + "  reply 13: offset 2\n  reply 14: offset 3\n  reply 15: offset 4\n";
    assert_eq!(run_failed_write(sim::Fault::Enospc).1, expected);
    // Out of descriptors, say: the next append may succeed.
    let (_, actual) = run_failed_write(sim::Fault::TooManyFiles);
    let reason = actual.lines().next().unwrap().split_once("append failed: ").unwrap().1;
    let expected = refused(&[3, 6, 7, 8, 4, 5], &format!("append failed: {reason}"))
        + "  high watermark 5\n  reply 1: offset 0\n  reply 2: offset 1\n"
        + "  reply 9: producer 3 sent sequence 1 in epoch 0, 0 would follow\n"
        + "  reply 10: producer 1 sent sequence 2 in epoch 0, 1 would follow\n"
        + "  reply 11: producer 3 sent sequence 1 in epoch 0, 0 would follow\n"
        + "  reply 12: producer 1 sent sequence 2 in epoch 0, 1 would follow\n"
        + "  reply 13: offset 2\n  reply 14: offset 3\n  reply 15: offset 4\n";
    assert_eq!(actual, expected);
    // Anything else: the partition is done.
    let (driver, actual) = run_failed_write(sim::Fault::Eio);
    let reason = driver.partition.as_ref().unwrap().failure().unwrap().to_string();
    let tokens = [3, 6, 7, 8, 4, 5, 1, 2];
    let expected = refused(&tokens, &format!("partition failed: {reason}"))
        + &format!("  failed: {reason}\n")
        + &refused(&[9, 10, 11, 12, 13, 14, 15], &format!("partition failed: {reason}"));
    assert_eq!(actual, expected);
    assert!(reason.contains("00000000000000000000.log"), "{reason}");
}

fn run_failed_write(fault: sim::Fault) -> (Driver<SimDisk>, String) {
    let mut driver = simulated();
    driver.run("append p=1 s=0; p=2 s=0");
    driver.trace();
    // The write begins, then fails.
    let disk = driver.disk.clone();
    disk.fault_at(disk.operations() + 1, sim::Fault::Short);
    disk.fault_at(disk.operations() + 2, fault);
    // Next ones, a retry of one that is not written, a retry of one that is, a new producer, none at all.
    driver.run("append p=1 s=1; p=1 s=1; p=2 s=0; p=3 s=0; p=3 s=1 acks=0; n=2");
    let mut trace = driver.trace();
    assert_eq!(disk.faults_hit(), 2);
    driver.run("append p=3 s=1; p=1 s=2");
    driver.run("space yes");
    driver.run("append p=3 s=1; p=1 s=2; p=1 s=1; p=1 s=2; p=3 s=0");
    driver.run("sync");
    trace += &driver.trace();
    (driver, trace)
}
