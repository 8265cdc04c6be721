//! A group coordinator on an internal partition: logs its records, parks its replies, keeps its replay short.
//!
//! A [`Shard`] owns one partition of `__consumer_offsets` and the groups that hash to it. Commands go to the
//! coordinator (`group.rs`); its records are appended and applied; a reply leaves once everything recorded about its
//! group is durable. When records cannot be appended the coordinator is thrown away and rebuilt by replay. So that
//! replay stays bounded, live state is appended again when the log has outgrown it, and what lies before is trimmed.
//! Decides nothing about groups, touches no disk but through the partition. Driven by an actor of the shell or by the
//! simulator, like the partition itself: what is not a reply to a command is passed through ([`ShardOutput::Partition`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use millrace_model::batch::{BatchHeader, InvalidHeader, crc_matches};
use millrace_model::compression::Codec;
use millrace_model::env::{Env, MonoMs};
use millrace_model::ids::GroupId;
use millrace_model::offset::Offset;
use millrace_model::record::{BatchBuilder, InvalidRecords, NewRecord, records};
use millrace_storage::disk::Disk;
use millrace_storage::error::{Fault, ReadError};
use millrace_storage::log::{Checkpoint, FileRange, LogReader, SyncTicket};
use tracing::{error, info, warn};

use crate::group::record::{Decoded, Record, RecordError, decode};
use crate::group::{
    Effects, GROUP_RECORD_BYTES_MAX, GroupCommand, GroupError, GroupReply, GroupSettings, Groups,
    LiveCursor,
};
use crate::partition::{Acks, Append, AppendRefused, Event, Marks, Output, Partition};

/// Replies that wait for their records; beyond it commands are refused (retriable).
pub const PARKED_REPLIES_MAX: usize = 100_000;
/// A log this small is not worth shortening.
pub const REPLAY_BYTES_MIN: u64 = 16 << 20;
/// How much longer than the live state the log may get: so much is written again per byte that was appended.
pub const REPLAY_FACTOR: u64 = 4;
/// Live state appended again in one event.
const REWRITE_BYTES: usize = 256 << 10;
/// Records of one event go into batches of about this size.
const BATCH_BYTES: usize = 1 << 20;
/// Deadlines handled in one event; the driver is asked back at once for the rest.
const DEADLINES_PER_EVENT: usize = 256;
/// Bytes read at a time in replay.
const READ_BYTES: u32 = 4 << 20;
/// An uncompressed batch is as long as it is: unpacking has nothing to bound.
const UNPACKED_BYTES_MAX: usize = 2 * GROUP_RECORD_BYTES_MAX;

/// What the shard's partition gives back with the outcome of the shard's own appends and trims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardToken(Purpose);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Records,
    Trim,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum ShardEvent<T> {
    /// `token` comes back with the reply, which may take as long as a rebalance does.
    Command {
        command: GroupCommand,
        token: T,
    },
    /// What happens to its partition: synced, failed, configured, in a new epoch, ... Appends are the shard's own.
    Partition(Event<ShardToken>),
    Configure(GroupSettings),
    /// A deadline passed, or may have.
    Tick,
}

/// What the driver has to carry out.
#[derive(Debug)]
pub enum ShardOutput<D: Disk, T> {
    Reply {
        token: T,
        reply: GroupReply,
    },
    /// As for any partition; never a reply.
    Partition(Output<D, ShardToken>),
}

/// Why a shard's log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Disk(#[from] Fault),
    #[error("batch at offset {at}: {error}")]
    Header { at: Offset, error: InvalidHeader },
    #[error("batch at offset {at} is torn or its checksum is wrong")]
    Damaged { at: Offset },
    #[error("batch at offset {at}: {error}")]
    Records { at: Offset, error: InvalidRecords },
    #[error("record at offset {at}: {error}")]
    Record { at: Offset, error: RecordError },
    #[error("record at offset {at} has no key")]
    NoKey { at: Offset },
}

/// The groups of one internal partition. `T` is the driver's token for a command.
pub struct Shard<D: Disk, T> {
    partition: Partition<D, ShardToken>,
    marks: Arc<Marks>,
    groups: Groups<T>,
    settings: GroupSettings,
    /// Replies by the end of the log that must be durable first, in the order of their making.
    parked: BTreeMap<(Offset, u64), (T, GroupReply)>,
    parked_count: u64,
    /// Groups with records that are not durable, each with the end of its last one.
    unsafe_groups: BTreeMap<GroupId, Offset>,
    /// The log's end when it was replayed: what the replayed state reveals may not be durable yet.
    replayed_end: Offset,
    /// Bytes that a replay would read.
    replay_bytes: u64,
    /// About as many bytes as live state took when it was last counted.
    live_bytes: u64,
    rewrite: Option<Rewrite>,
    limits: Limits,
    is_failed: bool,
    appends: Vec<Append<ShardToken>>,
    outputs: Vec<Output<D, ShardToken>>,
    refused: Option<AppendRefused>,
}

/// When live state is written again; tests make it happen early.
#[derive(Clone, Copy, Debug)]
struct Limits {
    replay_bytes_min: u64,
    rewrite_bytes: usize,
}

/// Live state being appended again. Every key that lives at the end of it has a record behind `start`: it was written
/// again, or it changed meanwhile.
#[derive(Debug)]
struct Rewrite {
    start: Offset,
    /// What a replay would have read when it began.
    bytes_before: u64,
    bytes: u64,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Copying(Option<LiveCursor>),
    /// All is appended; when it is durable the log may begin at `start`.
    Syncing {
        end: Offset,
    },
    Trimming,
}

impl<D: Disk, T> Shard<D, T> {
    /// Takes an internal partition into service: replays its log from start to end.
    ///
    /// The partition's settings must not let anything but the shard remove records: no retention, no compaction, and
    /// segments larger than the largest record.
    ///
    /// # Errors
    /// [`LoadError`] when the log is not what a coordinator wrote.
    pub fn open(
        partition: Partition<D, ShardToken>,
        settings: GroupSettings,
        env: &mut Env,
    ) -> Result<Self, LoadError> {
        let settings = bounded(settings, &partition);
        let mut groups = Groups::new(settings.clone(), env.now.mono);
        let marks = partition.marks();
        let replay_bytes = replay(&partition.reader(), &mut groups)?;
        let live_bytes = groups.live_bytes();
        groups.restore(env);
        Ok(Self {
            replayed_end: marks.log_end(),
            marks,
            partition,
            groups,
            settings,
            parked: BTreeMap::new(),
            parked_count: 0,
            unsafe_groups: BTreeMap::new(),
            replay_bytes,
            live_bytes,
            rewrite: None,
            limits: Limits { replay_bytes_min: REPLAY_BYTES_MIN, rewrite_bytes: REWRITE_BYTES },
            is_failed: false,
            appends: Vec::new(),
            outputs: Vec::new(),
            refused: None,
        })
    }

    /// The only way this shard's state changes.
    pub fn handle(
        &mut self,
        env: &mut Env,
        event: ShardEvent<T>,
        out: &mut Vec<ShardOutput<D, T>>,
    ) {
        match event {
            ShardEvent::Command { command, token } => self.handle_command(env, command, token, out),
            ShardEvent::Partition(event) => {
                self.partition.handle(env, event, &mut self.outputs);
                self.absorb(out);
            }
            ShardEvent::Configure(settings) => {
                self.settings = bounded(settings, &self.partition);
                self.groups.configure(self.settings.clone());
            }
            ShardEvent::Tick => {
                self.partition.handle(env, Event::Tick, &mut self.outputs);
                self.absorb(out);
            }
        }
        self.handle_deadlines(env, out);
        self.rewrite_live_state(env, out);
    }

    /// When the next [`ShardEvent::Tick`] is due.
    pub fn next_deadline(&self) -> Option<MonoMs> {
        let groups = if self.may_append() { self.groups.next_deadline() } else { None };
        // Live state is written again chunk by chunk, as fast as the driver comes back.
        let rewrite = self.is_copying().then_some(MonoMs(0));
        self.partition.next_deadline().into_iter().chain(groups).chain(rewrite).min()
    }

    /// Answers all that waits, so that the partition can be closed.
    pub fn stop(&mut self, out: &mut Vec<ShardOutput<D, T>>) {
        self.refuse_all(GroupError::CoordinatorNotAvailable, out);
        self.is_failed = true;
    }

    pub fn into_partition(self) -> Partition<D, ShardToken> {
        self.partition
    }

    pub fn partition(&self) -> &Partition<D, ShardToken> {
        &self.partition
    }

    /// See [`Partition::take_unsynced`].
    pub fn take_unsynced(&mut self) -> Option<SyncTicket<D>> {
        self.partition.take_unsynced()
    }

    /// See [`Partition::release_idle`].
    pub fn release_idle(&mut self) {
        self.partition.release_idle();
    }

    /// See [`Partition::checkpoint`].
    ///
    /// # Errors
    /// When the place of the durable end cannot be read.
    pub fn checkpoint(&mut self) -> Result<Checkpoint<D>, ReadError> {
        self.partition.checkpoint()
    }

    /// Stops the shard for good, as [`Partition::fail`] does.
    pub fn fail(&mut self, reason: Arc<str>, out: &mut Vec<ShardOutput<D, T>>) {
        self.partition.fail(reason, &mut self.outputs);
        self.absorb(out);
    }

    fn handle_command(
        &mut self,
        env: &mut Env,
        command: GroupCommand,
        token: T,
        out: &mut Vec<ShardOutput<D, T>>,
    ) {
        let refusal = if self.is_failed {
            Some(GroupError::NotCoordinator)
        } else if self.parked.len() >= PARKED_REPLIES_MAX
            || (needs_log(&command) && !self.may_append())
        {
            Some(GroupError::CoordinatorNotAvailable)
        } else {
            None
        };
        if let Some(error) = refusal {
            return out.push(ShardOutput::Reply { token, reply: command.refused(error) });
        }
        let group = command.group().cloned();
        let effects = self.groups.handle(env, command, token);
        self.settle(env, group.as_ref(), effects, out);
    }

    /// Deadlines wait while the disk is full: what they lead to could not be recorded.
    fn handle_deadlines(&mut self, env: &mut Env, out: &mut Vec<ShardOutput<D, T>>) {
        for _ in 0..DEADLINES_PER_EVENT {
            if !self.may_append() {
                return;
            }
            let Some((group, effects)) = self.groups.expire_next(env) else { return };
            self.settle(env, group.as_ref(), effects, out);
        }
    }

    /// Logs the records, makes them true, lets the replies go when they may.
    fn settle(
        &mut self,
        env: &mut Env,
        group: Option<&GroupId>,
        effects: Effects<T>,
        out: &mut Vec<ShardOutput<D, T>>,
    ) {
        let Effects { records, replies, only_records } = effects;
        if !records.is_empty() {
            let before = self.marks.log_end();
            if let Err(refused) = self.append(env, &records, out) {
                let error = refusal(&refused);
                warn!(%refused, "group records are not logged");
                for (token, reply) in replies {
                    let reply = reply.into_refused(error);
                    out.push(ShardOutput::Reply { token, reply });
                }
                if !(only_records && self.marks.log_end() == before) {
                    self.rebuild(env, error, out);
                }
                return;
            }
            let end = self.marks.log_end();
            for record in records {
                self.unsafe_groups.insert(record.group().clone(), end);
                self.groups.apply(record);
            }
        }
        let until = self.safe_after(group);
        for (token, reply) in replies {
            self.answer(until, token, reply, out);
        }
    }

    /// The end of what must be durable before anything is said about the group, or about all of them.
    fn safe_after(&self, group: Option<&GroupId>) -> Offset {
        let last = match group {
            Some(group) => self.unsafe_groups.get(group),
            None => self.unsafe_groups.values().max(),
        };
        last.map_or(self.replayed_end, |end| self.replayed_end.max(*end))
    }

    fn answer(
        &mut self,
        until: Offset,
        token: T,
        reply: GroupReply,
        out: &mut Vec<ShardOutput<D, T>>,
    ) {
        if until <= self.marks.high_watermark() {
            return out.push(ShardOutput::Reply { token, reply });
        }
        self.parked.insert((until, self.parked_count), (token, reply));
        self.parked_count += 1;
    }

    fn release(&mut self, safe: Offset, out: &mut Vec<ShardOutput<D, T>>) {
        while let Some(first) = self.parked.first_entry().filter(|first| first.key().0 <= safe) {
            let (token, reply) = first.remove();
            out.push(ShardOutput::Reply { token, reply });
        }
        self.unsafe_groups.retain(|_, end| *end > safe);
    }

    /// Appends records as one write. On success they are in the log, which does not make them durable.
    fn append(
        &mut self,
        env: &mut Env,
        records: &[Record],
        out: &mut Vec<ShardOutput<D, T>>,
    ) -> Result<(), AppendRefused> {
        let timestamp = env.now.wall.0;
        let mut builder = BatchBuilder::new(Codec::None);
        let mut bytes = 0;
        for record in records {
            if !builder.is_empty() && builder.size_bytes() + record.size_estimate() > BATCH_BYTES {
                bytes += self.stage(&mut builder);
                builder = BatchBuilder::new(Codec::None);
            }
            let (key, value) = (record.encode_key(), record.encode_value());
            let (key, value) = (Some(key.as_slice()), value.as_deref());
            builder.push(NewRecord { timestamp, key, value, headers: &[] });
        }
        bytes += self.stage(&mut builder);
        self.partition.append(env, &mut self.appends, &mut self.outputs);
        self.absorb(out);
        match self.refused.take() {
            Some(refused) => Err(refused),
            None => {
                self.replay_bytes += bytes;
                Ok(())
            }
        }
    }

    fn stage(&mut self, builder: &mut BatchBuilder) -> u64 {
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).expect("a built batch has a header");
        // The outcome of the write is wanted now; the shard itself waits for durability.
        let token = ShardToken(Purpose::Records);
        self.appends.push(Append { header, bytes, acks: Acks::None, token });
        u64::from(header.size_bytes)
    }

    /// Sorts what the partition said: its replies are for the shard, the rest is for the driver.
    fn absorb(&mut self, out: &mut Vec<ShardOutput<D, T>>) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Reply { result, .. } => {
                    if let Err(refused) = result {
                        self.refused = Some(refused);
                    }
                    continue;
                }
                Output::Deleted { result, .. } => {
                    self.trimmed(result.is_ok());
                    continue;
                }
                Output::HighWatermark(safe) => self.release(safe, out),
                Output::Failed { .. } => {
                    self.is_failed = true;
                    self.rewrite = None;
                    self.refuse_all(GroupError::NotCoordinator, out);
                }
                _ => {}
            }
            out.push(ShardOutput::Partition(output));
        }
        self.outputs = outputs;
    }

    /// Replaces the coordinator, which ran ahead of the log, by what the log says. Whoever waits in it is refused.
    fn rebuild(&mut self, env: &mut Env, error: GroupError, out: &mut Vec<ShardOutput<D, T>>) {
        for (token, reply) in self.groups.abandon(error) {
            out.push(ShardOutput::Reply { token, reply });
        }
        if self.is_failed {
            return;
        }
        self.groups = Groups::new(self.settings.clone(), env.now.mono);
        match replay(&self.partition.reader(), &mut self.groups) {
            Ok(replay_bytes) => {
                self.groups.restore(env);
                self.replay_bytes = replay_bytes;
                self.rewrite = None; // it copied from the coordinator that is gone
            }
            Err(error) => self.fail(error.to_string().into(), out),
        }
    }

    fn refuse_all(&mut self, error: GroupError, out: &mut Vec<ShardOutput<D, T>>) {
        for (token, reply) in self.groups.abandon(error) {
            out.push(ShardOutput::Reply { token, reply });
        }
        for (token, reply) in std::mem::take(&mut self.parked).into_values() {
            out.push(ShardOutput::Reply { token, reply: reply.into_refused(error) });
        }
    }

    fn may_append(&self) -> bool {
        !self.is_failed && !self.partition.is_full()
    }

    fn is_copying(&self) -> bool {
        let copying = |it: &Rewrite| matches!(it.progress, Progress::Copying(_));
        self.may_append() && self.rewrite.as_ref().is_some_and(copying)
    }

    /// One step towards a short log, if it has become long.
    fn rewrite_live_state(&mut self, env: &mut Env, out: &mut Vec<ShardOutput<D, T>>) {
        if !self.may_append() {
            return;
        }
        let worth = self.limits.replay_bytes_min.max(REPLAY_FACTOR * self.live_bytes);
        let Some(rewrite) = &mut self.rewrite else {
            if self.replay_bytes > worth {
                let (start, bytes_before) = (self.marks.log_end(), self.replay_bytes);
                let progress = Progress::Copying(None);
                self.rewrite = Some(Rewrite { start, bytes_before, bytes: 0, progress });
            }
            return;
        };
        match &rewrite.progress {
            Progress::Copying(cursor) => {
                let (records, next) =
                    self.groups.live_records(cursor.as_ref(), self.limits.rewrite_bytes);
                self.copy(env, &records, next, out);
            }
            Progress::Syncing { end } if *end <= self.marks.high_watermark() => {
                rewrite.progress = Progress::Trimming;
                let before = Some(rewrite.start);
                let event = Event::DeleteRecords { before, token: ShardToken(Purpose::Trim) };
                self.partition.handle(env, event, &mut self.outputs);
                self.absorb(out);
            }
            Progress::Syncing { .. } | Progress::Trimming => {}
        }
    }

    fn copy(
        &mut self,
        env: &mut Env,
        records: &[Record],
        next: Option<LiveCursor>,
        out: &mut Vec<ShardOutput<D, T>>,
    ) {
        let before = self.replay_bytes;
        if !records.is_empty()
            && let Err(refused) = self.append(env, records, out)
        {
            warn!(%refused, "live group state is not written again");
            // Not before the log has grown by as much again.
            self.live_bytes = self.replay_bytes / REPLAY_FACTOR + self.limits.replay_bytes_min;
            self.rewrite = None;
            return;
        }
        let end = self.marks.log_end();
        let copied = self.replay_bytes - before;
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.bytes += copied;
            rewrite.progress = match next {
                Some(cursor) => Progress::Copying(Some(cursor)),
                None => Progress::Syncing { end },
            };
        }
    }

    fn trimmed(&mut self, done: bool) {
        let Some(rewrite) = self.rewrite.take() else { return };
        if done {
            self.replay_bytes -= rewrite.bytes_before;
            self.live_bytes = rewrite.bytes;
            info!(start = %rewrite.start, bytes = rewrite.bytes, "live group state is written again");
        } else {
            error!(start = %rewrite.start, "the group log is not trimmed");
        }
    }
}

/// Would this command be answered by a record, now or later?
fn needs_log(command: &GroupCommand) -> bool {
    match command {
        GroupCommand::Join(_)
        | GroupCommand::Sync(_)
        | GroupCommand::Leave(_)
        | GroupCommand::CommitOffsets(_)
        | GroupCommand::DeleteGroup { .. }
        | GroupCommand::DeleteOffsets(_)
        | GroupCommand::ForgetTopic { .. } => true,
        GroupCommand::Heartbeat(_)
        | GroupCommand::FetchOffsets(_)
        | GroupCommand::Describe { .. }
        | GroupCommand::List(_) => false,
    }
}

/// Kafka's answer where an append failed (`appendGroupMetadataErrorToResponseError`).
fn refusal(refused: &AppendRefused) -> GroupError {
    match refused {
        AppendRefused::Failed { .. } => GroupError::NotCoordinator,
        AppendRefused::Storage { .. }
        | AppendRefused::DiskFull
        | AppendRefused::NotEnoughReplicas { .. } => GroupError::CoordinatorNotAvailable,
        AppendRefused::TooLarge { .. }
        | AppendRefused::Timestamp { .. }
        | AppendRefused::TimestampType
        | AppendRefused::Sequence(_) => GroupError::UnknownServerError,
    }
}

/// A group's record never outgrows a segment.
fn bounded<D: Disk>(
    settings: GroupSettings,
    partition: &Partition<D, ShardToken>,
) -> GroupSettings {
    let segment = partition.settings().log.segment_bytes as usize;
    let record_bytes_max = settings.record_bytes_max.min(segment / 2);
    GroupSettings { record_bytes_max, ..settings }
}

/// Applies the whole log; returns how many bytes that was.
fn replay<D: Disk, T>(reader: &LogReader<D>, groups: &mut Groups<T>) -> Result<u64, LoadError> {
    let (mut at, end) = (reader.start(), reader.end());
    let mut bytes = 0;
    let mut foreign = 0u64;
    while at < end {
        let read = reader.read(at, end, READ_BYTES, true)?;
        for range in &read.ranges {
            foreign += replay_range(range, groups)?;
        }
        bytes += read.bytes;
        assert!(read.next > at, "a read below the end moves on");
        at = read.next;
    }
    if foreign > 0 {
        warn!(records = foreign, "records of unknown group types are passed over");
    }
    Ok(bytes)
}

/// Returns how many records belong to group types that are not built.
fn replay_range<D: Disk, T>(
    range: &FileRange<D>,
    groups: &mut Groups<T>,
) -> Result<u64, LoadError> {
    let mut rest = range.bytes()?;
    let mut foreign = 0;
    let mut at = Offset::ZERO;
    while !rest.is_empty() {
        let header = BatchHeader::parse(&rest).map_err(|error| LoadError::Header { at, error })?;
        at = header.base_offset;
        if !crc_matches(&header, &rest) || range.poisoned() {
            return Err(LoadError::Damaged { at });
        }
        let batch = rest.split_to(header.size_bytes as usize);
        at = header.next_offset();
        if !header.attributes.is_control() {
            foreign += replay_batch(&header, &batch, groups)?;
        }
    }
    Ok(foreign)
}

fn replay_batch<T>(
    header: &BatchHeader,
    batch: &Bytes,
    groups: &mut Groups<T>,
) -> Result<u64, LoadError> {
    let at = header.base_offset;
    let mut foreign = 0;
    let of_batch = |error| LoadError::Records { at, error };
    for record in records(header, batch, UNPACKED_BYTES_MAX).map_err(of_batch)? {
        let record = record.map_err(of_batch)?;
        let at = at.plus(i64::from(record.offset_delta));
        let key = record.key.ok_or(LoadError::NoKey { at })?;
        let decoded = decode(&key, record.value.as_deref());
        match decoded.map_err(|error| LoadError::Record { at, error })? {
            Decoded::Known(record) => groups.apply(record),
            Decoded::Foreign { .. } => foreign += 1,
        }
    }
    Ok(foreign)
}

#[cfg(test)]
mod tests;
