//! The log of one partition: append, make durable, cut at either end, forget what is old.
//!
//! One owner holds the [`Log`]; any number of [`LogReader`]s see what it published. The owner's path is a write into
//! the page cache and a few stores: nothing here syncs, unlinks or waits on it. What must be synced leaves as a
//! [`SyncTicket`], what must be unlinked as [`Doomed`], small files as [`PendingFile`]: the shell carries them to
//! threads that may block.
//!
//! Three ends, never confused: the *published end* (readers stop there), the *durable end* (everything below is on
//! stable storage here) and the high watermark, which the kernel keeps.

mod cut;
mod reader;
mod recover;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use millrace_model::batch::{self, BatchHeader, STAMP_BYTES};
use millrace_model::env::WallMs;
use millrace_model::ids::TopicId;
use millrace_model::offset::{EpochEnd, LeaderEpoch, Offset};
use tracing::warn;

pub use cut::Doomed;
pub use reader::{FileRange, Headers, LogReader, ReadOut, TimedOffset};
pub use recover::{Recovered, Torn, Trust};

use crate::checkpoint::{PARTITION_METADATA, PendingFile, read_optional, write_topic_id};
use crate::disk::{Disk, File, write_all};
use crate::epochs::EpochTable;
use crate::error::{AppendError, CloseError, Fault, ReadError};
use crate::latch::Latch;
use crate::segment::{Segment, Site, Writer, file_path};
use crate::snapshot::{self, ProducerEntry};

/// Settings of one log. Durations in milliseconds, -1 for "never", as in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment ends before it would grow beyond this (`segment.bytes`).
    pub segment_bytes: u32,
    /// A segment ends when its first record is this much older than the next (`segment.ms`).
    pub segment_ms: i64,
    /// About one index entry per this many bytes of log (`index.interval.bytes`).
    pub index_interval_bytes: u32,
    /// A segment ends when one of its indexes would outgrow this (`segment.index.bytes`).
    pub index_bytes_max: u32,
    /// Segments whose newest record is older may go (`retention.ms`).
    pub retention_ms: i64,
    /// Oldest segments may go while the rest is at least this large (`retention.bytes`).
    pub retention_bytes: i64,
    /// Timestamps further in the future count as this far (`message.timestamp.after.max.ms`).
    pub timestamp_after_max_ms: i64,
    /// Write-back is asked to begin each time this much was appended; 0 leaves it to the next sync.
    pub writeback_bytes: u32,
}

impl Default for LogConfig {
    /// Kafka's defaults for a durable topic.
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            index_interval_bytes: 4096,
            index_bytes_max: 10 << 20,
            retention_ms: 7 * 24 * 3_600_000,
            retention_bytes: -1,
            timestamp_after_max_ms: 3_600_000,
            writeback_bytes: 0,
        }
    }
}

/// One batch to be appended: validated bytes and the place that the kernel gave it.
#[derive(Clone, Copy, Debug)]
pub struct AppendBatch<'a> {
    pub header: &'a BatchHeader,
    /// Exactly the batch. Its first 16 bytes are replaced on the way to disk, not here.
    pub bytes: &'a Bytes,
    pub base: Offset,
    pub epoch: LeaderEpoch,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The published end.
    pub end: Offset,
    /// Base of the newest segment if one was begun: time for a producer snapshot.
    pub rolled: Option<Offset>,
}

/// The exact state of a log up to its durable end: where recovery begins after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Whose log it is.
    pub topic_id: TopicId,
    pub log_start: Offset,
    /// The segment that `position` counts in; `None` while the partition has none.
    pub segment_base: Option<Offset>,
    pub position: u64,
    /// The durable end.
    pub next_offset: Offset,
    /// Epoch of the last batch below it.
    pub epoch: LeaderEpoch,
    pub high_watermark: Offset,
    pub snapshot_offset: Option<Offset>,
}

/// A state with the small file that must be durable before the state is recorded.
#[must_use = "the epochs must be written before the state is"]
#[derive(Debug)]
pub struct Checkpoint<D: Disk> {
    pub state: PartitionState,
    pub epochs: Option<PendingFile<D>>,
}

/// The log of one partition, in its owner's hands.
pub struct Log<D: Disk> {
    shared: Arc<Shared<D>>,
    topic_id: TopicId,
    config: LogConfig,
    latch: Latch,
    /// `None` until the first append: nothing is opened for a partition that only exists.
    writer: Option<Writer<D>>,
    /// Bytes behind the published end may be left from an append that failed.
    cut_first: bool,
    /// A truncation lowered the end, the files still hold more.
    cut_pending: bool,
    /// Segments written since the last ticket, oldest first.
    unsynced: Vec<Arc<Segment<D>>>,
    written_back: u64,
    epoch: LeaderEpoch,
    epochs_changed: bool,
    /// Offsets of producer snapshots on disk, rising.
    snapshots: Vec<Offset>,
}

/// What owner and readers share.
struct Shared<D: Disk> {
    disk: D,
    dir: Arc<Path>,
    start: AtomicI64,
    /// The published end. Invariant: stored with Release after the segment's own published position.
    end: AtomicI64,
    durable: AtomicI64,
    size: AtomicU64,
    /// Oldest first. Guards the list alone: held to find or change segments, never during I/O on their bytes.
    segments: RwLock<Vec<Arc<Segment<D>>>>,
    epochs: RwLock<EpochTable>,
}

impl<D: Disk> Log<D> {
    /// A new partition: its directory and `partition.metadata`, nothing else. Durable with the first sync of the file
    /// system (the first append's, or `sync_all` after many were created). Goes on with an interrupted creation.
    ///
    /// # Errors
    /// When the directory cannot be made, or holds anything else: somebody's log is never written over.
    pub fn create(
        disk: D,
        dir: &Path,
        topic_id: TopicId,
        config: LogConfig,
    ) -> Result<Self, Fault> {
        match disk.create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let entries = disk.list(dir).map_err(Fault::of("list", dir))?;
                if entries.iter().any(|entry| entry.name != PARTITION_METADATA) {
                    return Err(Fault::new("create", dir, &error));
                }
            }
            Err(error) => return Err(Fault::new("create", dir, &error)),
        }
        write_topic_id(&disk, dir, topic_id)?;
        let log = Self::assemble(disk, dir, config, Vec::new(), EpochTable::default());
        Ok(Self { topic_id, ..log })
    }

    /// A log over these segments; start and all three ends stand at the first one's base.
    fn assemble(
        disk: D,
        dir: &Path,
        config: LogConfig,
        segments: Vec<Arc<Segment<D>>>,
        epochs: EpochTable,
    ) -> Self {
        let start = segments.first().map_or(0, |first| first.base().0);
        let size = segments.iter().map(|segment| segment.published()).sum();
        let shared = Shared {
            disk,
            dir: dir.into(),
            start: AtomicI64::new(start),
            end: AtomicI64::new(start),
            durable: AtomicI64::new(start),
            size: AtomicU64::new(size),
            segments: RwLock::new(segments),
            epochs: RwLock::new(epochs),
        };
        Self {
            topic_id: TopicId::ZERO,
            config,
            latch: Latch::default(),
            writer: None,
            cut_first: false,
            cut_pending: false,
            unsynced: Vec::new(),
            written_back: 0,
            epoch: shared.latest_epoch(),
            epochs_changed: false,
            snapshots: Vec::new(),
            shared: Arc::new(shared),
        }
    }

    /// The first offset that may be read.
    pub fn start(&self) -> Offset {
        self.shared.start()
    }

    /// The offset that the next record gets.
    pub fn end(&self) -> Offset {
        self.shared.end()
    }

    /// All below is on stable storage.
    pub fn durable_end(&self) -> Offset {
        self.shared.durable()
    }

    pub fn size_bytes(&self) -> u64 {
        self.shared.size.load(Ordering::Relaxed)
    }

    /// The topic that this is a partition of; zero when `partition.metadata` is lost.
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Takes effect with the next append; a segment keeps the size it was made for as its upper bound.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// A view for readers; cheap to make and to clone.
    pub fn reader(&self) -> LogReader<D> {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// The failure that stopped this log, if one did.
    pub fn failure(&self) -> Option<&Fault> {
        self.latch.failure()
    }

    /// Stops the log for good: every later call answers the first failure until it is reopened. For a sync that
    /// failed, a poisoned map, a bug.
    pub fn fail(&mut self, fault: Fault) {
        self.latch.fail(fault);
    }

    /// Appends batches that follow each other and the log's end, with one write per segment that they fall into.
    ///
    /// Readers see all of them or, after an error, none.
    ///
    /// # Errors
    /// [`AppendError`]; only `Full`, `Resources` and `TooLarge` leave the log usable.
    ///
    /// # Panics
    /// When the offsets leave a gap, the epoch is older than the log's, or `bytes` is not exactly the batch: bugs of the
    /// caller.
    pub fn append(
        &mut self,
        batches: &[AppendBatch<'_>],
        now: WallMs,
    ) -> Result<Appended, AppendError> {
        self.latch.check().map_err(AppendError::Failed)?;
        assert!(!self.cut_pending, "a truncation is finished before the next append");
        let end = self.check_batches(batches)?;
        self.cut_back()?;
        let mut writer = self.take_writer(now)?;
        let fit = self.fit(&writer, batches, now);
        let result = if fit == batches.len() {
            write(&mut writer, batches)
                .map(|()| self.commit(&mut writer, batches, now))
                .map(|()| None)
        } else {
            self.append_rolling(&mut writer, fit, batches, now)
        };
        self.writer = Some(writer);
        match result {
            Ok(rolled) => {
                self.shared.end.store(end.0, Ordering::Release);
                Ok(Appended { end, rolled })
            }
            Err(fault) => Err(self.append_failed(fault)),
        }
    }

    /// The end of the log once `batches` are in it.
    fn check_batches(&self, batches: &[AppendBatch<'_>]) -> Result<Offset, AppendError> {
        let segment_bytes = self.config.segment_bytes;
        let mut end = self.end();
        for AppendBatch { header, bytes, base, epoch } in batches {
            assert_eq!(*base, end, "batches follow each other and the log's end");
            assert!(*epoch >= self.epoch, "epochs do not fall: recovery takes it for a torn tail");
            assert_eq!(header.size_bytes as usize, bytes.len(), "exactly one batch");
            if header.size_bytes > segment_bytes {
                return Err(AppendError::TooLarge { size: header.size_bytes, segment_bytes });
            }
            end = base.plus(i64::from(header.last_offset_delta) + 1);
        }
        Ok(end)
    }

    /// How many of `batches`, from the front, the writer's segment takes.
    fn fit(&self, writer: &Writer<D>, batches: &[AppendBatch<'_>], now: WallMs) -> usize {
        let mut cursor = writer.cursor;
        let fits = |batch: &&AppendBatch<'_>| {
            let due = writer.is_due(&cursor, batch.base, batch.header, &self.config, now);
            writer.advance(&mut cursor, batch.base, batch.header);
            !due
        };
        batches.iter().take_while(fits).count()
    }

    /// As `append`, but from batch `fit` on the batches go to new segments. Those join the log when all is written.
    fn append_rolling(
        &mut self,
        writer: &mut Writer<D>,
        fit: usize,
        batches: &[AppendBatch<'_>],
        now: WallMs,
    ) -> Result<Option<Offset>, Fault> {
        let (here, mut rest) = batches.split_at(fit);
        write(writer, here)?;
        let mut begun: Vec<(Writer<D>, &[AppendBatch<'_>])> = Vec::new();
        while let Some(first) = rest.first() {
            let next = self.begin_segment(first.base, now).and_then(|mut next| {
                let fit = self.fit(&next, rest, now);
                write(&mut next, &rest[..fit]).map(|()| (next, fit))
            });
            match next {
                Ok((next, fit)) => {
                    let (there, after) = rest.split_at(fit);
                    begun.push((next, there));
                    rest = after;
                }
                Err(fault) => {
                    self.forget_segment(first.base);
                    for (begun, _) in begun {
                        self.forget_segment(begun.segment.base());
                    }
                    return Err(fault);
                }
            }
        }
        self.commit(writer, here, now);
        for (next, there) in begun {
            self.adopt(writer, next);
            self.commit(writer, there, now);
        }
        Ok(Some(writer.segment.base()))
    }

    fn begin_segment(&mut self, base: Offset, now: WallMs) -> Result<Writer<D>, Fault> {
        let (disk, dir) = (&self.shared.disk, &self.shared.dir);
        let segment = Segment::create(&Site { disk, dir, config: &self.config, now }, base);
        segment.map(Writer::create).inspect_err(|_| self.forget_segment(base))
    }

    /// Removes the file of a segment that never joined the log. One that cannot be removed stops the log: batches that
    /// went to an older segment would reach beyond its base, and the next open could not tell which counts.
    fn forget_segment(&mut self, base: Offset) {
        let path = file_path(&self.shared.dir, base, "log");
        if let Err(error) = self.shared.disk.remove(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.latch.fail(Fault::new("remove", &path, &error));
        }
    }

    /// `next` becomes the segment that grows; the former one is sealed.
    fn adopt(&mut self, writer: &mut Writer<D>, next: Writer<D>) {
        std::mem::replace(writer, next).seal();
        self.shared.push_segment(&writer.segment);
        self.written_back = 0;
    }

    /// Batches that were written become part of the log; readers see them once the end is stored.
    fn commit(&mut self, writer: &mut Writer<D>, batches: &[AppendBatch<'_>], now: WallMs) {
        let Some(last) = batches.last() else { return };
        let before = writer.cursor.position;
        for batch in batches {
            writer.commit(batch.base, batch.header);
            if batch.epoch > self.epoch {
                self.assign_epoch(batch.epoch, batch.base);
            }
        }
        writer.publish(last.base.plus(i64::from(last.header.last_offset_delta) + 1), now);
        self.shared.size.fetch_add(writer.cursor.position - before, Ordering::Relaxed);
        if !self.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, &writer.segment)) {
            self.unsynced.push(Arc::clone(&writer.segment));
        }
        self.write_back(writer);
    }

    /// Keeps the kernel from collecting more dirty pages than it writes without blocking us.
    fn write_back(&mut self, writer: &Writer<D>) {
        let (from, to) = (self.written_back, writer.cursor.position);
        if self.config.writeback_bytes == 0 || to - from < u64::from(self.config.writeback_bytes) {
            return;
        }
        self.written_back = to;
        if let Some(file) = writer.segment.open_file()
            && let Err(error) = file.start_writeback(from..to)
        {
            // Only a hint: a real failure shows at the sync.
            warn!(dir = %self.shared.dir.display(), %error, "write-back does not begin");
        }
    }

    fn read_failed(&mut self, error: ReadError) -> AppendError {
        self.append_failed(error.into_fault())
    }

    fn append_failed(&mut self, fault: Fault) -> AppendError {
        if let Err(first) = self.latch.check() {
            return AppendError::Failed(first);
        }
        if !fault.is_full() && !fault.is_resources() {
            return AppendError::Failed(self.latch.fail(fault));
        }
        self.cut_first = true;
        match self.cut_back() {
            Err(error) => error,
            Ok(()) if fault.is_full() => AppendError::Full(fault),
            Ok(()) => AppendError::Resources(fault),
        }
    }

    /// Removes what a failed append left behind the published end.
    fn cut_back(&mut self) -> Result<(), AppendError> {
        if !self.cut_first {
            return Ok(());
        }
        if let Some(writer) = &self.writer {
            let segment = &writer.segment;
            let path = segment.path("log");
            let cut = segment.file().and_then(|file| {
                file.truncate(segment.published()).map_err(Fault::of("cut", &path))
            });
            if let Err(fault) = cut {
                return Err(AppendError::Failed(self.latch.fail(fault)));
            }
        }
        self.cut_first = false;
        Ok(())
    }

    /// The writer on the newest segment, opened or begun if need be.
    fn take_writer(&mut self, now: WallMs) -> Result<Writer<D>, AppendError> {
        let writer = match self.writer.take() {
            Some(writer) => Ok(writer),
            None => match self.shared.last_segment() {
                Some(last) => Writer::resume(&last).map_err(ReadError::into_fault),
                None => self.begin_segment(self.end(), now).inspect(|writer| {
                    self.shared.push_segment(&writer.segment);
                }),
            },
        };
        let writer = writer.map_err(|fault| self.append_failed(fault))?;
        if writer.segment.poisoned() {
            let path = writer.segment.path("log");
            let error = io::Error::other("a page did not load");
            return Err(AppendError::Failed(self.latch.fail(Fault::new("map", &path, &error))));
        }
        Ok(writer)
    }

    // ---- Durability ----

    /// What was written since the last ticket, to be synced elsewhere; `None` when nothing was.
    pub fn take_unsynced(&mut self) -> Option<SyncTicket<D>> {
        if self.unsynced.is_empty() || self.latch.failure().is_some() {
            return None;
        }
        Some(SyncTicket { segments: std::mem::take(&mut self.unsynced), end: self.end() })
    }

    /// Everything below `end` is on stable storage: its ticket was synced without an error.
    ///
    /// # Panics
    /// When `end` was never published.
    pub fn mark_durable(&mut self, end: Offset) {
        assert!(end <= self.end(), "only published bytes can be durable");
        self.shared.durable.fetch_max(end.0, Ordering::AcqRel);
    }

    /// The state up to the durable end, to be recorded once `epochs` has been written.
    ///
    /// # Errors
    /// When the position of the durable end cannot be read.
    pub fn checkpoint(&mut self, high_watermark: Offset) -> Result<Checkpoint<D>, ReadError> {
        let next_offset = self.durable_end();
        // The segment that the last durable batch is in: an empty one behind it may not outlive a crash.
        let last = self.shared.segment_of(Offset(next_offset.0 - 1));
        let place = match last.or_else(|| self.shared.segment_of(next_offset)) {
            None => None,
            Some((segment, _)) => {
                Some((segment.base(), segment.locate(next_offset, segment.published())?.position))
            }
        };
        let state = PartitionState {
            topic_id: self.topic_id,
            log_start: self.start(),
            segment_base: place.map(|(base, _)| base),
            position: place.map_or(0, |(_, position)| position),
            next_offset,
            epoch: self.shared.epoch_before(next_offset),
            high_watermark: high_watermark.min(next_offset),
            snapshot_offset: self.snapshots.last().copied(),
        };
        // Without a record an epoch starts where the next process starts it too: nothing to write down yet.
        let is_due = self.epochs_changed && self.shared.last_segment().is_some();
        let epochs = is_due.then(|| self.epochs_file());
        self.epochs_changed &= !is_due;
        Ok(Checkpoint { state, epochs })
    }

    /// Ends the log's use by this process: indexes and epochs go to their files. The state may be recorded, and a
    /// clean marker written, once the file system has been synced.
    ///
    /// # Errors
    /// [`CloseError`] when the log failed or its end is not durable.
    pub fn close(mut self, high_watermark: Offset) -> Result<PartitionState, CloseError> {
        self.latch.check().map_err(CloseError::Failed)?;
        let (end, durable) = (self.end(), self.durable_end());
        if end != durable {
            return Err(CloseError::NotDurable { end, durable });
        }
        if let Some(mut writer) = self.writer.take() {
            writer.finish();
            writer.give_back();
        }
        let Checkpoint { state, epochs } =
            self.checkpoint(high_watermark).map_err(ReadError::into_fault)?;
        epochs.map_or(Ok(()), PendingFile::write)?;
        Ok(state)
    }

    // ---- Epochs ----

    /// Notes that `epoch` begins at the log's end; an append of a later epoch does so by itself.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        if epoch > self.epoch {
            self.assign_epoch(epoch, self.end());
        }
    }

    fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.epoch = epoch;
        self.shared.write_epochs(|epochs| epochs.assign(epoch, start));
        self.epochs_changed = true;
    }

    /// The latest epoch, [`LeaderEpoch::NONE`] before the first.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    fn epochs_file(&self) -> PendingFile<D> {
        let bytes = self.shared.epochs.read().expect("no holder of this lock panics").encode();
        let path = self.shared.dir.join(EPOCHS_FILE);
        PendingFile::new(self.shared.disk.clone(), path, bytes)
    }

    // ---- Producer snapshots ----

    /// A snapshot of the producers as of `offset`, to be written elsewhere and then confirmed by `snapshot_stored`.
    pub fn snapshot(&self, offset: Offset, producers: &[ProducerEntry]) -> PendingFile<D> {
        let path = file_path(&self.shared.dir, offset, "snapshot");
        PendingFile::new(self.shared.disk.clone(), path, snapshot::encode(producers))
    }

    /// The snapshot at `offset` is durable; all but the last two may go.
    pub fn snapshot_stored(&mut self, offset: Offset) {
        if let Err(at) = self.snapshots.binary_search(&offset) {
            self.snapshots.insert(at, offset);
        }
        while self.snapshots.len() > SNAPSHOTS_KEPT {
            let path = file_path(&self.shared.dir, self.snapshots.remove(0), "snapshot");
            if let Err(error) = self.shared.disk.remove(&path) {
                warn!(path = %path.display(), %error, "old snapshot is not removed");
            }
        }
    }

    /// Offsets of the snapshots on disk, rising.
    pub fn snapshots(&self) -> &[Offset] {
        &self.snapshots
    }

    /// The latest readable snapshot at or below `offset`. A damaged one is passed over: producers can be replayed.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn latest_snapshot(
        &self,
        offset: Offset,
    ) -> Result<Option<(Offset, Vec<ProducerEntry>)>, Fault> {
        for at in self.snapshots.iter().rev().filter(|at| **at <= offset) {
            let path = file_path(&self.shared.dir, *at, "snapshot");
            match read_optional(&self.shared.disk, &path)?.as_deref().and_then(snapshot::decode) {
                Some(producers) => return Ok(Some((*at, producers))),
                None => {
                    warn!(path = %path.display(), "producer snapshot is damaged and passed over")
                }
            }
        }
        Ok(None)
    }
}

const EPOCHS_FILE: &str = "leader-epoch-checkpoint";
const SNAPSHOTS_KEPT: usize = 2;
/// Up to this many batches a write needs no allocation.
const STACK_BATCHES: usize = 8;

/// Writes batches behind the writer's cursor, stamped with their offsets and epochs on the way.
fn write<D: Disk>(writer: &mut Writer<D>, batches: &[AppendBatch<'_>]) -> Result<(), Fault> {
    writer.reserve(batches.iter().map(|batch| u64::from(batch.header.size_bytes)).sum());
    let at = writer.cursor.position;
    let file = writer.segment.file()?;
    let stamp = |batch: &AppendBatch<'_>| batch::stamp(batch.header, batch.base, batch.epoch);
    let result = if batches.len() <= STACK_BATCHES {
        let mut stamps = [[0; STAMP_BYTES]; STACK_BATCHES];
        for (slot, batch) in stamps.iter_mut().zip(batches) {
            *slot = stamp(batch);
        }
        let mut slices = [IoSlice::new(&[]); 2 * STACK_BATCHES];
        for ((pair, stamp), batch) in slices.chunks_exact_mut(2).zip(&stamps).zip(batches) {
            pair[0] = IoSlice::new(stamp);
            pair[1] = IoSlice::new(&batch.bytes[STAMP_BYTES..]);
        }
        write_all(file, &mut slices[..2 * batches.len()], at)
    } else {
        let stamps: Vec<_> = batches.iter().map(stamp).collect();
        let mut slices: Vec<_> = stamps
            .iter()
            .zip(batches)
            .flat_map(|(stamp, batch)| {
                [IoSlice::new(stamp), IoSlice::new(&batch.bytes[STAMP_BYTES..])]
            })
            .collect();
        write_all(file, &mut slices, at)
    };
    result.map_err(|error| Fault::new("write", &writer.segment.path("log"), &error))
}

/// Files to be synced, and the end that is durable once they are.
#[must_use = "unsynced bytes are not durable"]
pub struct SyncTicket<D: Disk> {
    segments: Vec<Arc<Segment<D>>>,
    end: Offset,
}

impl<D: Disk> SyncTicket<D> {
    pub fn end(&self) -> Offset {
        self.end
    }

    /// What [`Disk::sync_set`] is to make durable.
    pub fn files(&self) -> impl Iterator<Item = &D::File> {
        self.segments.iter().filter_map(|segment| segment.open_file())
    }
}

impl<D: Disk> Shared<D> {
    fn start(&self) -> Offset {
        Offset(self.start.load(Ordering::Acquire))
    }

    fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    fn durable(&self) -> Offset {
        Offset(self.durable.load(Ordering::Acquire))
    }

    fn push_segment(&self, segment: &Arc<Segment<D>>) {
        self.segments.write().expect("no holder of this lock panics").push(Arc::clone(segment));
    }

    fn last_segment(&self) -> Option<Arc<Segment<D>>> {
        self.segments.read().expect("no holder of this lock panics").last().cloned()
    }

    /// The segment that `offset` is in, or would be, and the base of the one after it.
    fn segment_of(&self, offset: Offset) -> Option<(Arc<Segment<D>>, Option<Offset>)> {
        let segments = self.segments.read().expect("no holder of this lock panics");
        let after = segments.partition_point(|segment| segment.base() <= offset);
        let segment = Arc::clone(segments.get(after.checked_sub(1)?)?);
        Some((segment, segments.get(after).map(|next| next.base())))
    }

    /// The segments that have offsets of `start..end`.
    fn segments_in(&self, start: Offset, end: Offset) -> Vec<Arc<Segment<D>>> {
        let segments = self.segments.read().expect("no holder of this lock panics");
        let first = segments.partition_point(|segment| segment.base() <= start).saturating_sub(1);
        let in_range = segments.iter().skip(first).take_while(|segment| segment.base() < end);
        in_range.cloned().collect()
    }

    fn write_epochs(&self, change: impl FnOnce(&mut EpochTable) -> bool) -> bool {
        change(&mut self.epochs.write().expect("no holder of this lock panics"))
    }

    /// The epoch of the batch that ends at `end`.
    fn epoch_before(&self, end: Offset) -> LeaderEpoch {
        let epochs = self.epochs.read().expect("no holder of this lock panics");
        epochs.epoch_at(Offset(end.0 - 1)).unwrap_or(LeaderEpoch::NONE)
    }

    fn latest_epoch(&self) -> LeaderEpoch {
        let epochs = self.epochs.read().expect("no holder of this lock panics");
        epochs.latest().map_or(LeaderEpoch::NONE, |latest| latest.epoch)
    }

    fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.epochs.read().expect("no holder of this lock panics").end_of(epoch, self.end())
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;
