//! A partition: one log, and its leader's role over it. The Machine of the data path.
//!
//! Appends come in as events, already validated short of this partition's state; what leaves are replies, marks that
//! moved, and work for the shell's threads (files to sync, files to unlink). A reply leaves once what it says is as safe
//! as the topic promises: on a durable topic when the flusher reported its bytes synced, on a relaxed one when they
//! are written. Readers never come here: they hold the log's reader and the published [`Marks`].
//!
//! `leader.rs` judges batches, gives them offsets and moves the high watermark; `producers.rs` is idempotence;
//! `pending.rs` parks replies. Never here: clocks, threads, protocols. One owner drives a partition: an actor of the
//! shell, a [`crate::shard::Shard`], or the simulator.

mod leader;
mod pending;
mod producers;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use bytes::Bytes;
use millrace_model::batch::BatchHeader;
use millrace_model::env::{Env, MonoMs, Now};
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_storage::checkpoint::PendingFile;
use millrace_storage::disk::Disk;
use millrace_storage::error::{AppendError, CloseError, Fault, ReadError};
use millrace_storage::log::{
    Checkpoint, Doomed, Log, LogConfig, LogReader, PartitionState, SyncTicket,
};
use tracing::warn;

pub use leader::{AppendRefused, Appended};
pub use millrace_model::topic_config::Durability;
pub use producers::SequenceError;

use leader::Leader;
use producers::Producers;

/// How sure the client of a batch wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// It waits for nothing (0).
    None,
    /// As safe as the topic promises, on this broker (1).
    Leader,
    /// As safe as the topic promises, on every in-sync replica (-1).
    All,
}

/// One validated batch.
#[derive(Debug)]
pub struct Append<T> {
    pub header: BatchHeader,
    /// The whole batch; base offset and leader epoch are stamped as it is written.
    pub bytes: Bytes,
    pub acks: Acks,
    /// Comes back with the reply.
    pub token: T,
}

/// What happens to a partition.
#[derive(Debug)]
pub enum Event<T> {
    /// Batches that came together: one vectored write.
    Append(Vec<Append<T>>),
    /// Everything below `end` is on stable storage.
    Synced { end: Offset },
    /// A sync failed: what is not yet durable never will be.
    SyncFailed { reason: Arc<str> },
    /// The log shall begin at `before`; `None`: at the high watermark.
    DeleteRecords { before: Option<Offset>, token: T },
    /// The log start that [`Output::LogStart`] announced survives a crash.
    LogStartSaved { start: Offset },
    /// The file of [`Output::Snapshot`] is in place.
    SnapshotStored { offset: Offset },
    /// The topic's settings are different.
    Configure(PartitionSettings),
    /// This broker leads in a new epoch.
    NewEpoch(LeaderEpoch),
    /// The disk has space again, or will soon be out of it.
    Space { writable: bool },
    /// A deadline passed, or may have.
    Tick,
}

/// What the driver has to carry out.
pub enum Output<D: Disk, T> {
    Reply {
        token: T,
        result: Result<Appended, AppendRefused>,
    },
    /// Records before the low watermark are gone for good.
    Deleted {
        token: T,
        result: Result<Offset, DeleteRefused>,
    },
    /// There are bytes to sync: take a ticket and report [`Event::Synced`]. Comes once until the ticket is taken.
    Dirty,
    /// Consumers may read up to here.
    HighWatermark(Offset),
    /// The log begins here now. If `save`, make that survive a crash, then report [`Event::LogStartSaved`].
    LogStart {
        start: Offset,
        save: bool,
    },
    /// Segments nobody needs: unlink them off the owner's path.
    Doomed(Vec<Doomed<D>>),
    /// Producer state to be kept as a file beside the log: write it off the owner's path, then report
    /// [`Event::SnapshotStored`].
    Snapshot {
        offset: Offset,
        file: PendingFile<D>,
    },
    /// The disk is full: this partition refuses appends until [`Event::Space`] says otherwise.
    Full,
    /// This partition acknowledges nothing until it is reopened.
    Failed {
        reason: Arc<str>,
    },
}

impl<D: Disk, T: fmt::Debug> fmt::Debug for Output<D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply { token, result } => write!(f, "Reply({token:?}, {result:?})"),
            Self::Deleted { token, result } => write!(f, "Deleted({token:?}, {result:?})"),
            Self::Dirty => f.write_str("Dirty"),
            Self::HighWatermark(offset) => write!(f, "HighWatermark({offset})"),
            Self::LogStart { start, save } => write!(f, "LogStart({start}, save: {save})"),
            Self::Doomed(doomed) => write!(f, "Doomed({} files)", doomed.len()),
            Self::Snapshot { offset, .. } => write!(f, "Snapshot({offset})"),
            Self::Full => f.write_str("Full"),
            Self::Failed { reason } => write!(f, "Failed({reason})"),
        }
    }
}

/// Whose clock records carry, and how far a client's may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamps {
    CreateTime { before_max_ms: i64, after_max_ms: i64 },
    LogAppendTime,
}

/// What a partition needs to know of its topic and its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSettings {
    pub durability: Durability,
    pub timestamps: Timestamps,
    /// `min.insync.replicas`
    pub insync_replicas_min: i32,
    /// `producer.id.expiration.ms`
    pub producer_expiration_ms: i64,
    /// How often segments and producers are looked through for what is too old (`log.retention.check.interval.ms`).
    pub maintenance_interval_ms: u64,
    /// Relaxed topics: how long written bytes may stay unsynced (`flush.ms`, at most a second).
    pub relaxed_flush_ms: u64,
    pub log: LogConfig,
}

/// Why records stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteRefused {
    #[error("offset {before} is beyond the high watermark {high_watermark}")]
    OutOfRange { before: Offset, high_watermark: Offset },
    /// Retriable, on whoever leads next.
    #[error("partition failed: {reason}")]
    Failed { reason: Arc<str> },
}

/// How far readers may look: written by the owner with Release, loaded by anyone with Acquire.
///
/// Invariant: `log_start <= high_watermark <= log_end`, `durable_end <= log_end`; the high watermark never falls.
#[derive(Debug)]
pub struct Marks {
    log_start: AtomicI64,
    log_end: AtomicI64,
    durable_end: AtomicI64,
    high_watermark: AtomicI64,
    leader_epoch: AtomicI32,
}

impl Marks {
    pub fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    pub fn log_end(&self) -> Offset {
        Offset(self.log_end.load(Ordering::Acquire))
    }

    pub fn durable_end(&self) -> Offset {
        Offset(self.durable_end.load(Ordering::Acquire))
    }

    /// What consumers may see ends here.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.leader_epoch.load(Ordering::Acquire))
    }
}

/// One replica, led here. `T` is the driver's token for a reply.
pub struct Partition<D: Disk, T> {
    log: Log<D>,
    settings: PartitionSettings,
    epoch: LeaderEpoch,
    marks: Arc<Marks>,
    health: Health,
    leader: Leader<T>,
    producers: Producers,
    /// Bytes appended since the last producer snapshot.
    unsnapshotted_bytes: u64,
    deletions: Deletions<D, T>,
    /// When segments and producers are looked through next.
    maintenance_deadline: MonoMs,
}

#[derive(Debug)]
enum Health {
    Good,
    /// Appends are refused, everything else goes on.
    Full,
    /// Nothing is acknowledged any more.
    Failed(Arc<str>),
}

/// Log starts that moved but may not survive a crash yet.
struct Deletions<D: Disk, T> {
    /// Everything below is gone even after a crash.
    saved: Offset,
    /// Each with the start that must be saved first; rising.
    parked: Vec<(Offset, T)>,
    doomed: Vec<(Offset, Vec<Doomed<D>>)>,
}

/// A producer snapshot is due after so many bytes: replay from it must not outgrow what recovery may take.
const SNAPSHOT_BYTES: u64 = 64 << 20;

impl<D: Disk, T> Partition<D, T> {
    /// Takes a log into service, as the leader in `epoch`. Rebuilds the producers' state from the last snapshot and
    /// what the log has behind it. After a crash the log's end may not be durable yet: it is treated as bytes just
    /// written, to be synced at the first tick (which is due at once) or before; until then the high watermark stays
    /// at the durable end.
    ///
    /// # Errors
    /// When that tail cannot be read.
    pub fn open(
        mut log: Log<D>,
        settings: PartitionSettings,
        epoch: LeaderEpoch,
        now: Now,
    ) -> Result<Self, ReadError> {
        let producers = replay_producers(&log, settings.producer_expiration_ms, now)?;
        log.begin_epoch(epoch);
        // Retention may have gone beyond what was recorded as durable.
        let durable_end = log.durable_end().max(log.start());
        let marks = Marks {
            log_start: AtomicI64::new(log.start().0),
            log_end: AtomicI64::new(log.end().0),
            durable_end: AtomicI64::new(durable_end.0),
            high_watermark: AtomicI64::new(durable_end.0),
            leader_epoch: AtomicI32::new(epoch.0),
        };
        let deletions = Deletions { saved: log.start(), parked: Vec::new(), doomed: Vec::new() };
        let maintenance_deadline = now.mono.plus(settings.maintenance_interval_ms);
        let unsynced = log.durable_end() < log.end();
        let leader = if unsynced { Leader::unsynced(now.mono) } else { Leader::new() };
        Ok(Self {
            log,
            settings,
            epoch,
            marks: Arc::new(marks),
            health: Health::Good,
            leader,
            producers,
            unsnapshotted_bytes: 0,
            deletions,
            maintenance_deadline,
        })
    }

    /// The only way this partition's state changes.
    pub fn handle(&mut self, env: &mut Env, event: Event<T>, out: &mut Vec<Output<D, T>>) {
        let now = env.now;
        match event {
            Event::Append(mut appends) => self.handle_append(now, &mut appends, out),
            Event::Synced { end } => self.handle_synced(end, out),
            Event::SyncFailed { reason } => self.fail(reason, out),
            Event::DeleteRecords { before, token } => self.handle_delete(before, token, now, out),
            Event::LogStartSaved { start } => self.handle_saved(start, out),
            Event::SnapshotStored { offset } => self.log.snapshot_stored(offset),
            Event::Configure(settings) => self.handle_configure(settings, now, out),
            Event::NewEpoch(epoch) => self.handle_epoch(epoch),
            Event::Space { writable } => self.handle_space(writable),
            Event::Tick => self.handle_tick(now, out),
        }
    }

    /// [`Event::Append`] for drivers that keep their vector: it comes back empty.
    pub fn append(
        &mut self,
        env: &mut Env,
        appends: &mut Vec<Append<T>>,
        out: &mut Vec<Output<D, T>>,
    ) {
        self.handle_append(env.now, appends, out);
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<MonoMs> {
        if self.is_failed() {
            return None;
        }
        let idle = self.log.size_bytes() == 0 && self.producers.is_empty();
        let maintenance = (!idle).then_some(self.maintenance_deadline);
        self.leader.flush_deadline().into_iter().chain(maintenance).min()
    }

    /// What was written since the last ticket, for the flusher. Report [`Event::Synced`] with the ticket's end.
    pub fn take_unsynced(&mut self) -> Option<SyncTicket<D>> {
        self.leader.handle_ticket();
        self.log.take_unsynced()
    }

    /// Lets go of descriptors and maps that nobody has used since the last call.
    pub fn release_idle(&mut self) {
        self.log.release_idle();
    }

    pub fn reader(&self) -> LogReader<D> {
        self.log.reader()
    }

    pub fn marks(&self) -> Arc<Marks> {
        Arc::clone(&self.marks)
    }

    pub fn settings(&self) -> &PartitionSettings {
        &self.settings
    }

    pub fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    /// Why nothing is acknowledged any more.
    pub fn failure(&self) -> Option<&Arc<str>> {
        match &self.health {
            Health::Failed(reason) => Some(reason),
            Health::Good | Health::Full => None,
        }
    }

    /// Appends are refused until there is space.
    pub fn is_full(&self) -> bool {
        matches!(self.health, Health::Full)
    }

    /// Stops this partition for good: a sync or a write failed, or a bug showed. Waiters get a retriable error.
    pub fn fail(&mut self, reason: Arc<str>, out: &mut Vec<Output<D, T>>) {
        if self.is_failed() {
            return;
        }
        self.log.fail(Fault {
            action: "sync",
            path: self.log.dir().into(),
            code: None,
            cause: Arc::clone(&reason),
        });
        self.health = Health::Failed(Arc::clone(&reason));
        self.fail_waiting(&reason, out);
        for (_, token) in self.deletions.parked.drain(..) {
            let result = Err(DeleteRefused::Failed { reason: Arc::clone(&reason) });
            out.push(Output::Deleted { token, result });
        }
        out.push(Output::Failed { reason });
    }

    fn is_failed(&self) -> bool {
        matches!(self.health, Health::Failed(_))
    }

    fn handle_synced(&mut self, end: Offset, out: &mut Vec<Output<D, T>>) {
        if self.is_failed() {
            return;
        }
        self.log.mark_durable(end);
        self.marks.durable_end.fetch_max(self.log.durable_end().0, Ordering::Release);
        self.advance(out);
    }
}

impl<D: Disk, T> Partition<D, T> {
    fn handle_delete(
        &mut self,
        before: Option<Offset>,
        token: T,
        now: Now,
        out: &mut Vec<Output<D, T>>,
    ) {
        let high_watermark = self.marks.high_watermark();
        let before = before.unwrap_or(high_watermark);
        let refused = match &self.health {
            Health::Failed(reason) => Some(DeleteRefused::Failed { reason: Arc::clone(reason) }),
            _ if before > high_watermark => {
                Some(DeleteRefused::OutOfRange { before, high_watermark })
            }
            _ => None,
        };
        if let Some(refused) = refused {
            out.push(Output::Deleted { token, result: Err(refused) });
            return;
        }
        if before > self.marks.log_start() {
            let doomed = self.log.trim_before(before);
            self.marks.log_start.store(self.log.start().0, Ordering::Release);
            self.deletions.doomed.push((before, doomed));
            self.note_start_moved(now, out);
        }
        let start = self.marks.log_start();
        if start <= self.deletions.saved {
            out.push(Output::Deleted { token, result: Ok(start) });
            return;
        }
        self.deletions.parked.push((start, token));
        out.push(Output::LogStart { start, save: true });
    }

    fn handle_saved(&mut self, start: Offset, out: &mut Vec<Output<D, T>>) {
        let deletions = &mut self.deletions;
        deletions.saved = deletions.saved.max(start);
        let safe = deletions.parked.partition_point(|(start, _)| *start <= deletions.saved);
        for (start, token) in deletions.parked.drain(..safe) {
            out.push(Output::Deleted { token, result: Ok(start) });
        }
        let gone = deletions.doomed.partition_point(|(start, _)| *start <= deletions.saved);
        let doomed: Vec<_> = deletions.doomed.drain(..gone).flat_map(|(_, it)| it).collect();
        if !doomed.is_empty() {
            out.push(Output::Doomed(doomed));
        }
    }

    fn handle_configure(
        &mut self,
        settings: PartitionSettings,
        now: Now,
        out: &mut Vec<Output<D, T>>,
    ) {
        self.producers.set_expiration(settings.producer_expiration_ms);
        self.log.set_config(settings.log.clone());
        let maintenance = now.mono.plus(settings.maintenance_interval_ms);
        self.maintenance_deadline = self.maintenance_deadline.min(maintenance);
        self.settings = settings;
        if self.settings.durability == Durability::Durable {
            self.announce_dirty(out);
        }
        self.advance(out);
    }

    fn handle_epoch(&mut self, epoch: LeaderEpoch) {
        assert!(epoch >= self.epoch, "leader epoch {epoch} follows {}", self.epoch);
        self.epoch = epoch;
        self.log.begin_epoch(epoch);
        self.marks.leader_epoch.store(epoch.0, Ordering::Release);
    }

    fn handle_space(&mut self, writable: bool) {
        match (&self.health, writable) {
            (Health::Full, true) => self.health = Health::Good,
            (Health::Good, false) => self.health = Health::Full,
            _ => {}
        }
    }

    fn handle_tick(&mut self, now: Now, out: &mut Vec<Output<D, T>>) {
        if self.is_failed() {
            return;
        }
        if self.leader.flush_deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.announce_dirty(out);
        }
        if self.maintenance_deadline <= now.mono {
            self.maintenance_deadline = now.mono.plus(self.settings.maintenance_interval_ms);
            self.producers.expire(now);
            self.retain(now, out);
        }
    }

    /// The disk refused to take more: reads go on, appends are refused, what may go goes.
    fn disk_full(&mut self, now: Now, out: &mut Vec<Output<D, T>>) {
        self.health = Health::Full;
        out.push(Output::Full);
        self.retain(now, out);
    }

    fn retain(&mut self, now: Now, out: &mut Vec<Output<D, T>>) {
        let doomed = match self.log.retention(self.marks.high_watermark(), now.wall) {
            Ok(doomed) => doomed,
            Err(AppendError::Failed(fault)) => return self.fail(fault.to_string().into(), out),
            Err(error) => {
                warn!(dir = %self.log.dir().display(), %error, "retention waits for its next turn");
                return;
            }
        };
        if doomed.is_empty() {
            return;
        }
        let start = self.log.start();
        self.marks.log_start.store(start.0, Ordering::Release);
        self.note_start_moved(now, out);
        // Nothing to save: after a crash the segments are gone, or go again.
        out.push(Output::LogStart { start, save: false });
        out.push(Output::Doomed(doomed));
    }

    /// Producer state is written down now and then, so that the next start need not replay the whole log for it.
    fn note_snapshot_due(
        &mut self,
        bytes: u64,
        rolled: bool,
        now: Now,
        out: &mut Vec<Output<D, T>>,
    ) {
        self.unsnapshotted_bytes += bytes;
        if rolled || self.unsnapshotted_bytes >= SNAPSHOT_BYTES {
            self.snapshot(now, out);
        }
    }

    /// What the log no longer has, the next start cannot replay.
    fn note_start_moved(&mut self, now: Now, out: &mut Vec<Output<D, T>>) {
        if self.log.snapshots().last().is_none_or(|last| *last < self.log.start()) {
            self.snapshot(now, out);
        }
    }

    fn snapshot(&mut self, now: Now, out: &mut Vec<Output<D, T>>) {
        self.unsnapshotted_bytes = 0;
        let offset = self.log.end();
        let file = self.log.snapshot(offset, &self.producers.snapshot(now));
        out.push(Output::Snapshot { offset, file });
    }

    /// The exact durable state, for the data directory's state file.
    ///
    /// # Errors
    /// When the place of the durable end cannot be read.
    pub fn checkpoint(&mut self) -> Result<Checkpoint<D>, ReadError> {
        self.log.checkpoint(self.marks.high_watermark())
    }

    /// Ends this process's use of the partition. Everything must be synced, and reported so, before. Blocks on the
    /// disk: the last producer snapshot is written here.
    ///
    /// # Errors
    /// [`CloseError`]: no clean marker may be written.
    pub fn close(mut self, now: Now) -> Result<PartitionState, CloseError> {
        let end = self.log.end();
        if !self.is_failed() && self.log.snapshots().last() != Some(&end) && end > Offset::ZERO {
            self.log.snapshot(end, &self.producers.snapshot(now)).write()?;
            self.log.snapshot_stored(end);
        }
        self.log.close(self.marks.high_watermark())
    }
}

/// Records before a snapshot that are looked at again: a snapshot knows the last batch of each producer, retries may
/// concern the five last ones.
const WINDOW_RECORDS: i64 = 4_096;
/// Nobody retries a batch for longer: without a producer seen since then, the snapshot alone will do.
const RETRY_MS: i64 = 600_000;

/// What the log says of its producers, the shortest way: from the last snapshot that it does not contradict.
fn replay_producers<D: Disk>(
    log: &Log<D>,
    expiration_ms: i64,
    now: Now,
) -> Result<Producers, ReadError> {
    let (start, end) = (log.start(), log.end());
    let mut upto = end;
    while let Some((at, entries)) = log.latest_snapshot(upto)? {
        if at < start {
            // Between it and the log's start producers may have gone on: better to know nothing of them, and to
            // accept what comes, than to hold them to a sequence that is long past.
            break;
        }
        let recent = entries.iter().any(|entry| now.wall.0 - entry.timestamp < RETRY_MS);
        let window = if recent { start.max(Offset(at.0 - WINDOW_RECORDS)) } else { at };
        let mut producers = Producers::new(expiration_ms);
        replay(log, window, at, &mut producers, now)?;
        if producers.restore(&entries, window, now) {
            replay(log, at, end, &mut producers, now)?;
            return Ok(producers);
        }
        // Of a log whose tail was lost since. To believe it could mean to take a lost batch for a repeated one.
        warn!(dir = %log.dir().display(), offset = at.0, "the log contradicts a producer snapshot");
        upto = Offset(at.0 - 1);
    }
    let mut producers = Producers::new(expiration_ms);
    replay(log, start, end, &mut producers, now)?;
    Ok(producers)
}

fn replay<D: Disk>(
    log: &Log<D>,
    from: Offset,
    upto: Offset,
    producers: &mut Producers,
    now: Now,
) -> Result<(), ReadError> {
    for header in log.reader().headers(from, upto)? {
        producers.replay(&header?, now);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
