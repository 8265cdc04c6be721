//! What a leader does: judge batches, give them offsets, write them, and move the high watermark.
//!
//! Called by `partition.rs` alone. A batch is judged in log order against everything judged before it, written or
//! about to be; so if a write fails, every verdict of its group falls with it, and the producers are as they were.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};
use millrace_model::batch::{BatchHeader, CRC_START};
use millrace_model::checksum::crc32c;
use millrace_model::env::{MonoMs, Now, WallMs};
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_model::topic_config::Durability;
use millrace_storage::disk::Disk;
use millrace_storage::error::AppendError;
use millrace_storage::log::AppendBatch;

use super::pending::Pending;
use super::producers::{Admitted, SequenceError};
use super::{Acks, Append, Health, Output, Partition, Timestamps};

/// Relaxed topics: bytes written since the last sync at which the next one is due.
const RELAXED_FLUSH_BYTES: u64 = 64 << 20;

/// Only this broker holds the partition.
const INSYNC_REPLICAS: i32 = 1;

/// A batch is in the log, as safe as the topic promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// Set where the topic's records carry the broker's time.
    pub log_append_time: Option<WallMs>,
    pub log_start: Offset,
}

/// Why a batch is not in the log, or will never be safe there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// Retriable, on whoever leads next: this partition acknowledges nothing until it is reopened.
    #[error("partition failed: {reason}")]
    Failed { reason: Arc<str> },
    /// Retriable: nothing of the batch is in the log.
    #[error("append failed: {reason}")]
    Storage { reason: Arc<str> },
    /// Retriable: there is, or will soon be, no space.
    #[error("the disk is full")]
    DiskFull,
    #[error("{insync} replicas are in sync, {min} are required")]
    NotEnoughReplicas { insync: i32, min: i32 },
    #[error("timestamp {timestamp} is outside {earliest} to {latest}")]
    Timestamp { timestamp: i64, earliest: i64, latest: i64 },
    #[error("a client's batch carries the broker's timestamp type")]
    TimestampType,
    #[error("batch of {size} bytes does not fit a segment of {segment_bytes}")]
    TooLarge { size: u32, segment_bytes: u32 },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

/// The leader's part of a partition's state.
#[derive(Debug)]
pub(super) struct Leader<T> {
    pending: Pending<Parked<T>>,
    /// The group being written; kept for its allocation.
    group: Vec<Staged<T>>,
    /// Verdicts that speak of the group or of what was before it, each with the offset that must be safe first.
    verdicts: Vec<(Offset, Parked<T>)>,
    /// The driver was told that there are bytes to sync.
    dirty: bool,
    unsynced_bytes: u64,
    /// Relaxed topics: when the next sync is due.
    flush_deadline: Option<MonoMs>,
}

#[derive(Debug)]
struct Parked<T> {
    token: T,
    result: Result<(Offset, Option<WallMs>), SequenceError>,
}

#[derive(Debug)]
struct Staged<T> {
    header: BatchHeader,
    bytes: Bytes,
    base: Offset,
    log_append_time: Option<WallMs>,
    acks: Acks,
    token: T,
}

/// What becomes of one batch before the group is written.
enum Verdict {
    Write,
    Wait { until: Offset, result: Result<(Offset, Option<WallMs>), SequenceError> },
}

impl<T> Leader<T> {
    pub(super) fn new() -> Self {
        Self {
            pending: Pending::new(),
            group: Vec::new(),
            verdicts: Vec::new(),
            dirty: false,
            unsynced_bytes: 0,
            flush_deadline: None,
        }
    }

    /// The log has bytes that nobody has synced yet.
    pub(super) fn unsynced(now: MonoMs) -> Self {
        Self { unsynced_bytes: 1, flush_deadline: Some(now), ..Self::new() }
    }

    pub(super) fn flush_deadline(&self) -> Option<MonoMs> {
        self.flush_deadline
    }

    /// The driver takes what is unsynced.
    pub(super) fn handle_ticket(&mut self) {
        self.dirty = false;
        self.unsynced_bytes = 0;
        self.flush_deadline = None;
    }
}

impl<D: Disk, T> Partition<D, T> {
    pub(super) fn handle_append(
        &mut self,
        now: Now,
        appends: &mut Vec<Append<T>>,
        out: &mut Vec<Output<D, T>>,
    ) {
        let mut end = self.log.end();
        for mut append in appends.drain(..) {
            match self.judge(now, end, &mut append) {
                Ok(Verdict::Write) => {
                    let Append { header, bytes, acks, token } = append;
                    let log_append_time = self.settings.timestamps.append_time(now);
                    let base = end;
                    end = base.plus(i64::from(header.last_offset_delta) + 1);
                    let staged = Staged { header, bytes, base, log_append_time, acks, token };
                    self.leader.group.push(staged);
                }
                Ok(Verdict::Wait { until, result }) => {
                    let parked = Parked { token: append.token, result };
                    self.leader.verdicts.push((until, parked));
                }
                Err(refused) => {
                    if append.header.producer_id.0 >= 0 {
                        self.producers.expect_again(&append.header, now);
                    }
                    out.push(Output::Reply { token: append.token, result: Err(refused) });
                }
            }
        }
        self.write_group(now, out);
        self.settle_verdicts();
        self.advance(out);
    }

    /// Decides about one batch, were it written at `end`.
    fn judge(
        &mut self,
        now: Now,
        end: Offset,
        append: &mut Append<T>,
    ) -> Result<Verdict, AppendRefused> {
        self.check_health()?;
        self.check_replicas(append.acks)?;
        let segment_bytes = self.settings.log.segment_bytes;
        if append.header.size_bytes > segment_bytes {
            let size = append.header.size_bytes;
            return Err(AppendRefused::TooLarge { size, segment_bytes });
        }
        self.settings.timestamps.check(&append.header, now)?;
        if append.header.producer_id.0 >= 0 {
            let stored = self.settings.timestamps.append_time(now);
            let timestamp = stored.map_or(append.header.max_timestamp, |time| time.0);
            match self.producers.admit(&append.header, end, timestamp, now) {
                Ok(Admitted::New) => {}
                Ok(Admitted::Duplicate(known)) => {
                    let time = stored.map(|_| WallMs(known.timestamp));
                    let result = Ok((known.base_offset(), time));
                    return Ok(Verdict::Wait { until: known.last_offset.plus(1), result });
                }
                // What it says of the producer must be as safe as what the producer wrote.
                Err(error) => return Ok(Verdict::Wait { until: end, result: Err(error) }),
            }
        }
        if let Some(time) = self.settings.timestamps.append_time(now) {
            with_append_time(append, time);
        }
        Ok(Verdict::Write)
    }

    fn check_health(&self) -> Result<(), AppendRefused> {
        match &self.health {
            Health::Good => Ok(()),
            Health::Full => Err(AppendRefused::DiskFull),
            Health::Failed(reason) => Err(AppendRefused::Failed { reason: Arc::clone(reason) }),
        }
    }

    fn check_replicas(&self, acks: Acks) -> Result<(), AppendRefused> {
        let (insync, min) = (INSYNC_REPLICAS, self.settings.insync_replicas_min);
        match acks {
            Acks::All if insync < min => Err(AppendRefused::NotEnoughReplicas { insync, min }),
            _ => Ok(()),
        }
    }

    /// Writes the group, whole or not at all.
    fn write_group(&mut self, now: Now, out: &mut Vec<Output<D, T>>) {
        if self.leader.group.is_empty() {
            return;
        }
        let mut group = std::mem::take(&mut self.leader.group);
        let epoch = self.epoch;
        let written = match group.as_slice() {
            [one] => self.log.append(&[one.batch(epoch)], now.wall),
            many => {
                let batches: Vec<_> = many.iter().map(|staged| staged.batch(epoch)).collect();
                self.log.append(&batches, now.wall)
            }
        };
        match written {
            Ok(done) => {
                let bytes = group.iter().map(|staged| u64::from(staged.header.size_bytes)).sum();
                self.producers.commit();
                self.park_group(&mut group, out);
                self.marks.log_end.store(done.end.0, Ordering::Release);
                self.note_unsynced(bytes, now, out);
                self.note_snapshot_due(bytes, done.rolled.is_some(), now, out);
            }
            Err(error) => self.group_failed(&mut group, error, now, out),
        }
        self.leader.group = group;
    }

    fn park_group(&mut self, group: &mut Vec<Staged<T>>, out: &mut Vec<Output<D, T>>) {
        let log_start = self.marks.log_start();
        for staged in group.drain(..) {
            let Staged { header, base, log_append_time, acks, token, .. } = staged;
            if acks == Acks::None {
                let done = Appended { base_offset: base, log_append_time, log_start };
                out.push(Output::Reply { token, result: Ok(done) });
                continue;
            }
            let end = base.plus(i64::from(header.last_offset_delta) + 1);
            let parked = Parked { token, result: Ok((base, log_append_time)) };
            self.leader.pending.park(end, parked);
        }
    }

    /// Nothing of the group is in the log: it is as if none of its batches had come, but for their replies.
    fn group_failed(
        &mut self,
        group: &mut Vec<Staged<T>>,
        error: AppendError,
        now: Now,
        out: &mut Vec<Output<D, T>>,
    ) {
        self.producers.revert();
        let refused = match error {
            AppendError::Full(_) => AppendRefused::DiskFull,
            AppendError::TooLarge { size, segment_bytes } => {
                AppendRefused::TooLarge { size, segment_bytes }
            }
            AppendError::Resources(fault) => {
                AppendRefused::Storage { reason: fault.to_string().into() }
            }
            AppendError::Failed(ref fault) => {
                AppendRefused::Failed { reason: fault.to_string().into() }
            }
        };
        for staged in group.drain(..) {
            if staged.header.producer_id.0 >= 0 {
                self.producers.expect_again(&staged.header, now);
            }
            out.push(Output::Reply { token: staged.token, result: Err(refused.clone()) });
        }
        // They were judged against the group. All are retried, and judged again.
        for (_, parked) in self.leader.verdicts.drain(..) {
            out.push(Output::Reply { token: parked.token, result: Err(refused.clone()) });
        }
        match refused {
            AppendRefused::DiskFull => self.disk_full(now, out),
            AppendRefused::Failed { reason } => self.fail(reason, out),
            _ => {}
        }
    }

    fn settle_verdicts(&mut self) {
        for (until, parked) in self.leader.verdicts.drain(..) {
            self.leader.pending.park(until, parked);
        }
    }

    /// Tells the driver that there is something to sync: at once on a durable topic, by and by on a relaxed one.
    fn note_unsynced(&mut self, bytes: u64, now: Now, out: &mut Vec<Output<D, T>>) {
        self.leader.unsynced_bytes += bytes;
        let due = match self.settings.durability {
            Durability::Durable => true,
            Durability::Relaxed => {
                let deadline = now.mono.plus(self.settings.relaxed_flush_ms);
                self.leader.flush_deadline.get_or_insert(deadline);
                self.leader.unsynced_bytes >= RELAXED_FLUSH_BYTES
            }
        };
        if due {
            self.announce_dirty(out);
        }
    }

    pub(super) fn announce_dirty(&mut self, out: &mut Vec<Output<D, T>>) {
        self.leader.flush_deadline = None;
        if !self.leader.dirty && self.leader.unsynced_bytes > 0 {
            self.leader.dirty = true;
            out.push(Output::Dirty);
        }
    }

    /// Moves the high watermark to what is safe now, and answers those who waited for it.
    pub(super) fn advance(&mut self, out: &mut Vec<Output<D, T>>) {
        let safe = match self.settings.durability {
            Durability::Durable => self.log.durable_end(),
            Durability::Relaxed => self.log.end(),
        };
        let marks = &self.marks;
        if safe > marks.high_watermark() && !self.is_failed() {
            marks.high_watermark.store(safe.0, Ordering::Release);
            out.push(Output::HighWatermark(safe));
        }
        let log_start = marks.log_start();
        for Parked { token, result } in self.leader.pending.release(marks.high_watermark()) {
            let result = match result {
                Ok((base_offset, log_append_time)) => {
                    Ok(Appended { base_offset, log_append_time, log_start })
                }
                Err(error) => Err(AppendRefused::Sequence(error)),
            };
            out.push(Output::Reply { token, result });
        }
    }

    /// None of the replies that wait will ever be true. After a bug some may wait where a group was left half-way.
    pub(super) fn fail_waiting(&mut self, reason: &Arc<str>, out: &mut Vec<Output<D, T>>) {
        let Leader { pending, group, verdicts, .. } = &mut self.leader;
        let waiting = pending.fail().chain(verdicts.drain(..).map(|(_, parked)| parked));
        let tokens = waiting.map(|parked| parked.token).chain(group.drain(..).map(|it| it.token));
        for token in tokens {
            let result = Err(AppendRefused::Failed { reason: Arc::clone(reason) });
            out.push(Output::Reply { token, result });
        }
    }
}

impl<T> Staged<T> {
    fn batch(&self, epoch: LeaderEpoch) -> AppendBatch<'_> {
        AppendBatch { header: &self.header, bytes: &self.bytes, base: self.base, epoch }
    }
}

impl Timestamps {
    fn append_time(&self, now: Now) -> Option<WallMs> {
        match self {
            Self::LogAppendTime => Some(now.wall),
            Self::CreateTime { .. } => None,
        }
    }

    /// Looks at the header alone, whose timestamps are the first record's and the greatest.
    fn check(&self, header: &BatchHeader, now: Now) -> Result<(), AppendRefused> {
        if header.attributes.is_log_append_time() {
            return Err(AppendRefused::TimestampType);
        }
        let Self::CreateTime { before_max_ms, after_max_ms } = self else { return Ok(()) };
        let earliest = now.wall.0.saturating_sub(*before_max_ms);
        let latest = now.wall.0.saturating_add(*after_max_ms);
        for timestamp in [header.base_timestamp, header.max_timestamp] {
            if timestamp != NO_TIMESTAMP && !(earliest..=latest).contains(&timestamp) {
                return Err(AppendRefused::Timestamp { timestamp, earliest, latest });
            }
        }
        Ok(())
    }
}

/// Gives a batch the broker's time. Its records stay as they are: readers take the batch's time for theirs.
fn with_append_time<T>(append: &mut Append<T>, time: WallMs) {
    let header = &mut append.header;
    header.attributes = header.attributes.with_log_append_time();
    header.max_timestamp = time.0;
    let mut bytes = BytesMut::with_capacity(append.bytes.len());
    bytes.put_slice(&append.bytes);
    bytes[ATTRIBUTES].copy_from_slice(&header.attributes.0.to_be_bytes());
    bytes[MAX_TIMESTAMP].copy_from_slice(&time.0.to_be_bytes());
    header.crc = crc32c(&bytes[CRC_START..]);
    bytes[CRC].copy_from_slice(&header.crc.to_be_bytes());
    append.bytes = bytes.freeze();
}

/// What clients write where they give no timestamp.
const NO_TIMESTAMP: i64 = -1;

// Places in a batch header; `millrace_model::batch` has the drawing.
const CRC: std::ops::Range<usize> = 17..21;
const ATTRIBUTES: std::ops::Range<usize> = 21..23;
const MAX_TIMESTAMP: std::ops::Range<usize> = 35..43;
