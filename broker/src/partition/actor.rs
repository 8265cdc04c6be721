//! The owner's loop: messages in, the kernel's decisions, outputs carried out. No logic of its own.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use millrace_kernel::partition::{
    self, Append, Event, Marks, Output, Partition, PartitionSettings,
};
use millrace_kernel::shard::{Shard, ShardEvent, ShardOutput, ShardToken};
use millrace_model::env::{Env, Prng};
use millrace_model::offset::Offset;
use millrace_storage::disk::real::RealDisk;
use millrace_storage::error::{CloseError, ReadError};
use millrace_storage::log::{Checkpoint, LogReader, PartitionState, SyncTicket};
use tokio::sync::oneshot;
use tracing::error;

use crate::error::BrokerError;
use crate::metrics::Stage;
use crate::partition::clock::Clock;
use crate::partition::handle::{Message, PartitionHandle};
use crate::partition::housekeeper::Chore;
use crate::service::groups;
use crate::service::produce::{Ticket, Traced};

/// Messages worked off before the owner lets go, so that nobody holds a worker for long.
const MESSAGES_PER_RUN_MAX: usize = 1024;

type DeleteReply = oneshot::Sender<Result<Offset, BrokerError>>;

/// Who waits for what a partition does.
pub(crate) enum Token {
    Produce(Ticket),
    DeleteRecords(DeleteReply),
}

/// A partition in its owner's hands.
pub(crate) struct Owner {
    role: Role,
    env: Env,
    clock: Clock,
    /// Since when what this run answers is certain.
    known: Instant,
    /// Writes that are not yet on stable storage.
    unsynced: VecDeque<Written>,
    inbox: Vec<Message>,
    appends: Vec<Append<Token>>,
    /// Those of `appends` that are traced.
    traced: Vec<Traced>,
    outputs: Vec<Output<RealDisk, Token>>,
    shard_outputs: Vec<ShardOutput<RealDisk, groups::Reply>>,
}

/// One write to the log, timed.
struct Written {
    end: Offset,
    at: Instant,
    batches: u64,
}

/// What kind of partition it is.
enum Role {
    Data(Box<Partition<RealDisk, Token>>),
    /// A partition of `__consumer_offsets` with its coordinator.
    Coordinator(Box<Shard<RealDisk, groups::Reply>>),
    /// Closed; only messages that came too late arrive.
    Closed,
}

impl Owner {
    pub(super) fn data(partition: Partition<RealDisk, Token>, clock: Clock, rng: Prng) -> Self {
        Self::new(Role::Data(Box::new(partition)), clock, rng)
    }

    pub(super) fn coordinator(
        shard: Shard<RealDisk, groups::Reply>,
        clock: Clock,
        rng: Prng,
    ) -> Self {
        Self::new(Role::Coordinator(Box::new(shard)), clock, rng)
    }

    fn new(role: Role, clock: Clock, rng: Prng) -> Self {
        Self {
            role,
            env: Env { now: clock.now(), rng },
            clock,
            known: Instant::now(),
            unsynced: VecDeque::new(),
            inbox: Vec::new(),
            appends: Vec::new(),
            traced: Vec::new(),
            outputs: Vec::new(),
            shard_outputs: Vec::new(),
        }
    }

    pub(super) fn marks(&self) -> Arc<Marks> {
        match &self.role {
            Role::Data(partition) => partition.marks(),
            Role::Coordinator(shard) => shard.partition().marks(),
            Role::Closed => unreachable!("handles are made of open partitions"),
        }
    }

    pub(super) fn reader(&self) -> LogReader<RealDisk> {
        match &self.role {
            Role::Data(partition) => partition.reader(),
            Role::Coordinator(shard) => shard.partition().reader(),
            Role::Closed => unreachable!("handles are made of open partitions"),
        }
    }

    pub(super) fn take_unsynced(&mut self) -> Option<SyncTicket<RealDisk>> {
        match &mut self.role {
            Role::Data(partition) => partition.take_unsynced(),
            Role::Coordinator(shard) => shard.take_unsynced(),
            Role::Closed => None,
        }
    }

    /// Lets go of what nobody has used lately.
    pub(super) fn release_idle(&mut self) {
        match &mut self.role {
            Role::Data(partition) => partition.release_idle(),
            Role::Coordinator(shard) => shard.release_idle(),
            Role::Closed => {}
        }
    }

    /// The exact durable state; `None` when there is none to record.
    pub(super) fn checkpoint(&mut self) -> Option<Result<Checkpoint<RealDisk>, ReadError>> {
        match &mut self.role {
            Role::Data(partition) => Some(partition.checkpoint()),
            Role::Coordinator(shard) => Some(shard.checkpoint()),
            Role::Closed => None,
        }
    }

    /// Answers who still waits and ends this process's use of the partition. Blocks on the disk.
    pub(super) fn close(
        &mut self,
        handle: &PartitionHandle,
    ) -> Option<Result<PartitionState, CloseError>> {
        let now = self.clock.now();
        handle.marks_moved();
        match std::mem::replace(&mut self.role, Role::Closed) {
            Role::Data(partition) => Some(partition.close(now)),
            Role::Coordinator(mut shard) => {
                shard.stop(&mut self.shard_outputs);
                self.perform(handle);
                Some(shard.into_partition().close(now))
            }
            Role::Closed => None,
        }
    }

    /// A bug stopped an earlier run: nothing is acknowledged any more.
    pub(super) fn poison(&mut self) {
        let reason: Arc<str> =
            "an internal error stopped this partition; restart the broker".into();
        match &mut self.role {
            Role::Data(partition) => partition.fail(reason, &mut self.outputs),
            Role::Coordinator(shard) => shard.fail(reason, &mut self.shard_outputs),
            Role::Closed => {}
        }
    }

    /// Works off what is in `inbox`, up to a bound, and carries out what follows.
    pub(super) fn run(&mut self, handle: &PartitionHandle, inbox: &Mutex<Vec<Message>>) {
        {
            let mut inbox = inbox.lock().expect("no holder of the inbox panics");
            if inbox.len() <= MESSAGES_PER_RUN_MAX {
                std::mem::swap(&mut *inbox, &mut self.inbox);
            } else {
                self.inbox.extend(inbox.drain(..MESSAGES_PER_RUN_MAX));
            }
        }
        self.known = Instant::now();
        self.env.now = self.clock.at(self.known);
        let mut messages = std::mem::take(&mut self.inbox);
        for message in messages.drain(..) {
            self.accept(handle, message);
        }
        self.inbox = messages;
        self.append_together(handle);
        self.time_syncs(handle);
        self.perform(handle);
        self.arm_timer(handle);
    }

    /// Adjacent appends are collected; anything else first makes one event of them.
    fn accept(&mut self, handle: &PartitionHandle, message: Message) {
        if let Message::Append(append) = message {
            self.appends.push(append);
            return;
        }
        self.append_together(handle);
        match &mut self.role {
            Role::Data(partition) => {
                if let Some(event) = to_event(message) {
                    partition.handle(&mut self.env, event, &mut self.outputs);
                }
            }
            Role::Coordinator(shard) => {
                if let Some(event) = to_shard_event(message) {
                    shard.handle(&mut self.env, event, &mut self.shard_outputs);
                }
            }
            // Tokens answer for themselves when they are dropped.
            Role::Closed => drop(message),
        }
    }

    fn append_together(&mut self, handle: &PartitionHandle) {
        if self.appends.is_empty() {
            return;
        }
        match &mut self.role {
            Role::Data(partition) => {
                let batches = self.appends.len() as u64;
                for append in &self.appends {
                    if let Token::Produce(ticket) = &append.token {
                        self.traced.extend(ticket.taken(self.known));
                    }
                }
                partition.append(&mut self.env, &mut self.appends, &mut self.outputs);
                self.time_append(handle, batches);
            }
            // The hall refuses clients' records for internal topics; tokens answer for themselves.
            Role::Coordinator(_) | Role::Closed => self.appends.clear(),
        }
    }

    /// Appends are timed from the run's beginning: nearly always they are all that it has.
    fn time_append(&mut self, handle: &PartitionHandle, batches: u64) {
        let now = Instant::now();
        handle.shared().metrics.produce_stage(Stage::Append, now - self.known, batches);
        self.traced.drain(..).for_each(|traced| traced.written(now));
        let end = handle.marks().log_end();
        if handle.marks().high_watermark() == end {
            // A relaxed topic: what is written is certain.
            self.known = now;
        } else if self.unsynced.back().is_none_or(|last| last.end < end) {
            self.unsynced.push_back(Written { end, at: now, batches });
        }
    }

    /// Counts how long what became safe in this run had waited for it.
    fn time_syncs(&mut self, handle: &PartitionHandle) {
        let safe = handle.marks().high_watermark();
        while let Some(written) = self.unsynced.pop_front_if(|it| it.end <= safe) {
            let waited = self.known.saturating_duration_since(written.at);
            handle.shared().metrics.produce_stage(Stage::Sync, waited, written.batches);
        }
    }

    fn perform(&mut self, handle: &PartitionHandle) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Reply { token: Token::Produce(ticket), result } => {
                    ticket.answer(result, self.known, handle.traffic());
                }
                Output::Deleted { token: Token::DeleteRecords(reply), result } => {
                    // Whoever asked may have gone.
                    let _ = reply.send(result.map_err(BrokerError::from));
                }
                Output::Reply { .. } | Output::Deleted { .. } => {
                    unreachable!("tokens come back with the outcome of their own event")
                }
                other => perform_common(handle, other),
            }
        }
        self.outputs = outputs;
        let mut outputs = std::mem::take(&mut self.shard_outputs);
        for output in outputs.drain(..) {
            match output {
                ShardOutput::Reply { token, reply } => token.send(Ok(reply)),
                ShardOutput::Partition(output) => perform_common(handle, output),
            }
        }
        self.shard_outputs = outputs;
    }

    fn arm_timer(&self, handle: &PartitionHandle) {
        let deadline = match &self.role {
            Role::Data(partition) => partition.next_deadline(),
            Role::Coordinator(shard) => shard.next_deadline(),
            Role::Closed => None,
        };
        let Some(deadline) = deadline else { return };
        let armed = &handle.inner().armed;
        if deadline.0 < armed.load(Ordering::Acquire) {
            armed.store(deadline.0, Ordering::Release);
            handle.shared().timer.set(deadline, handle.clone());
        }
    }
}

/// What every kind of partition may ask of the shell.
fn perform_common<T>(handle: &PartitionHandle, output: Output<RealDisk, T>) {
    let shared = handle.shared();
    match output {
        Output::Dirty => shared.dirty.push(handle.clone()),
        Output::HighWatermark(_) => handle.marks_moved(),
        Output::LogStart { start, save } => {
            handle.marks_moved();
            if save {
                shared.chores.push(Chore::SaveLogStart { partition: handle.clone(), start });
            }
        }
        Output::Doomed(doomed) => shared.chores.push(Chore::Unlink(doomed)),
        Output::Snapshot { offset, file } => {
            shared.chores.push(Chore::Snapshot { partition: handle.clone(), offset, file });
        }
        Output::Full => {
            error!(partition = %handle.id(), "the disk is full: produce is refused until there is space");
            shared.chores.push(Chore::LookAtSpace);
        }
        Output::Failed { reason } => {
            error!(partition = %handle.id(), %reason,
                "this partition acknowledges nothing more until the broker restarts");
            shared.metrics.partition_stopped();
            handle.marks_moved();
        }
        Output::Reply { .. } | Output::Deleted { .. } => {
            unreachable!("replies are performed by their role")
        }
    }
}

fn to_event(message: Message) -> Option<Event<Token>> {
    match message {
        Message::Append(append) => Some(Event::Append(vec![append])),
        Message::DeleteRecords { before, reply } => {
            Some(Event::DeleteRecords { before: Some(before), token: Token::DeleteRecords(reply) })
        }
        // Only the partitions of the offsets topic coordinate groups; dropping the call answers it.
        Message::Group(_) => None,
        other => to_common_event(other),
    }
}

fn to_shard_event(message: Message) -> Option<ShardEvent<groups::Reply>> {
    match message {
        Message::Group(call) => {
            let groups::Call { command, reply } = *call;
            Some(ShardEvent::Command { command, token: reply })
        }
        Message::Tick => Some(ShardEvent::Tick),
        // Clients do not delete records of internal topics; dropping the reply answers it.
        Message::Append(_) | Message::DeleteRecords { .. } => None,
        other => to_common_event::<ShardToken>(other).map(ShardEvent::Partition),
    }
}

fn to_common_event<T>(message: Message) -> Option<Event<T>> {
    match message {
        Message::Synced { end } => Some(Event::Synced { end }),
        Message::SyncFailed { reason } => Some(Event::SyncFailed { reason }),
        Message::LogStartSaved { start } => Some(Event::LogStartSaved { start }),
        Message::SnapshotStored { offset } => Some(Event::SnapshotStored { offset }),
        Message::Configure(settings) => Some(Event::Configure(*settings)),
        Message::Space { writable } => Some(Event::Space { writable }),
        Message::Tick => Some(Event::Tick),
        Message::Append(_) | Message::DeleteRecords { .. } | Message::Group(_) => None,
    }
}

impl From<partition::AppendRefused> for BrokerError {
    fn from(refused: partition::AppendRefused) -> Self {
        use partition::AppendRefused as Refused;
        use partition::SequenceError as Sequence;
        let message = refused.to_string();
        match refused {
            Refused::Failed { .. } | Refused::Storage { .. } | Refused::DiskFull => {
                Self::Storage { reason: message.into() }
            }
            Refused::NotEnoughReplicas { .. } => Self::NotEnoughReplicas(message),
            Refused::Timestamp { .. } => Self::InvalidTimestamp(message),
            Refused::TimestampType => Self::InvalidRecord(message),
            Refused::TooLarge { .. } => Self::TooLarge(message),
            Refused::Sequence(Sequence::OutOfOrder { .. }) => Self::OutOfOrderSequence(message),
            Refused::Sequence(Sequence::Duplicate { .. }) => Self::DuplicateSequence(message),
            Refused::Sequence(Sequence::Fenced { .. }) => Self::InvalidProducerEpoch(message),
        }
    }
}

impl From<partition::DeleteRefused> for BrokerError {
    fn from(refused: partition::DeleteRefused) -> Self {
        match refused {
            partition::DeleteRefused::OutOfRange { before, high_watermark } => {
                Self::OffsetOutOfRange { offset: before, start: Offset::ZERO, end: high_watermark }
            }
            partition::DeleteRefused::Failed { reason } => Self::Storage { reason },
        }
    }
}

/// What the kernel needs to know of a topic and of this broker.
pub(super) fn settings(
    topic: &millrace_model::topic_config::TopicConfig,
    config: &crate::config::Config,
    is_internal: bool,
) -> PartitionSettings {
    use millrace_kernel::partition::{Durability, Timestamps};
    use millrace_model::topic_config::TimestampType;
    use millrace_storage::log::LogConfig;
    let durability = if topic.is_durable() { Durability::Durable } else { Durability::Relaxed };
    let timestamps = match topic.timestamp_type {
        TimestampType::LogAppendTime => Timestamps::LogAppendTime,
        TimestampType::CreateTime => Timestamps::CreateTime {
            before_max_ms: topic.timestamp_before_max_ms,
            after_max_ms: topic.timestamp_after_max_ms,
        },
    };
    // What is compacted is never deleted by age or size; nor is what only its own coordinator may trim.
    let deletes = topic.cleanup_delete && !is_internal;
    PartitionSettings {
        durability,
        timestamps,
        insync_replicas_min: topic.min_insync_replicas,
        producer_expiration_ms: millis(config.producer_id_expiration),
        maintenance_interval_ms: config.retention_check_interval.as_millis() as u64,
        relaxed_flush_ms: RELAXED_FLUSH_MS_MAX.min(topic.flush_ms.max(1).unsigned_abs()),
        log: LogConfig {
            segment_bytes: topic.segment_bytes,
            segment_ms: topic.segment_ms,
            index_interval_bytes: topic.index_interval_bytes,
            index_bytes_max: topic.segment_index_bytes,
            retention_ms: if deletes { topic.retention_ms } else { -1 },
            retention_bytes: if deletes { topic.retention_bytes } else { -1 },
            timestamp_after_max_ms: topic.timestamp_after_max_ms,
            writeback_bytes: if topic.is_durable() { 0 } else { RELAXED_WRITEBACK_BYTES },
        },
    }
}

/// Relaxed topics are on stable storage at most this long after the acknowledgement.
const RELAXED_FLUSH_MS_MAX: u64 = 1_000;
/// Relaxed topics ask for write-back each time so much was appended, so that appends never have to wait for it.
const RELAXED_WRITEBACK_BYTES: u32 = 8 << 20;

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
