//! What everyone but the owner holds of a partition: a way to post messages, published marks, and a wait for them to move.
//!
//! One owner per partition is the rule; the owner is whoever holds the lock just then. A poster leaves its message in
//! the inbox and tries the lock once: if it gets it, it works the whole inbox off (its own message and everybody
//! else's, adjacent appends as one write); if not, the holder will see the message, because it looks into the inbox
//! again after letting go. So nobody waits for the lock, small appends combine under load, and an idle partition costs
//! no task. `broker/docs/decisions` says why this and not a task with a mailbox.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use millrace_kernel::partition::{Append, Marks, PartitionSettings};
use millrace_model::ids::{TopicId, TopicPartition};
use millrace_model::offset::{EpochEnd, LeaderEpoch, Offset};
use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::{LogReader, SyncTicket};
use tokio::sync::{Notify, oneshot};

use crate::error::BrokerError;
use crate::metrics::Traffic;
use crate::partition::actor::{Owner, Token};
use crate::partition::registry::Shared;

/// Everything that can be asked of, or told to, a partition's owner.
pub(crate) enum Message {
    Append(Append<Token>),
    /// All bytes below `end` are on stable storage.
    Synced {
        end: Offset,
    },
    SyncFailed {
        reason: Arc<str>,
    },
    DeleteRecords {
        before: Offset,
        reply: oneshot::Sender<Result<Offset, BrokerError>>,
    },
    /// The log start that the state file has now.
    LogStartSaved {
        start: Offset,
    },
    /// The producer snapshot at this offset is in place.
    SnapshotStored {
        offset: Offset,
    },
    Group(Box<crate::service::groups::Call>),
    /// The topic's settings are different.
    Configure(Box<PartitionSettings>),
    /// The disk has space again, or is about to have none.
    Space {
        writable: bool,
    },
    /// A deadline of the owner's passed.
    Tick,
}

/// A cheap reference to one partition of this broker.
#[derive(Clone)]
pub(crate) struct PartitionHandle(Arc<Inner>);

pub(super) struct Inner {
    pub(super) id: TopicPartition,
    pub(super) topic_id: TopicId,
    /// Messages that no owner has seen yet. Guards the vector only; held for a push or a swap.
    inbox: Mutex<Vec<Message>>,
    /// The partition itself. Held while messages are worked off and while a sync ticket is taken.
    owner: Mutex<Owner>,
    pub(super) marks: Arc<Marks>,
    reader: LogReader<RealDisk>,
    waiters: Waiters,
    traffic: Traffic,
    pub(super) shared: Arc<Shared>,
    /// The deadline that the timer keeps for this partition; `u64::MAX` is none.
    pub(super) armed: AtomicU64,
}

impl PartitionHandle {
    pub(super) fn new(
        id: TopicPartition,
        topic_id: TopicId,
        owner: Owner,
        shared: Arc<Shared>,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            topic_id,
            inbox: Mutex::new(Vec::new()),
            marks: owner.marks(),
            reader: owner.reader(),
            owner: Mutex::new(owner),
            waiters: Waiters::default(),
            traffic: Traffic::default(),
            shared,
            armed: AtomicU64::new(u64::MAX),
        }))
    }

    pub(crate) fn id(&self) -> &TopicPartition {
        &self.0.id
    }

    /// Are both the same partition of the same topic?
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn topic_id(&self) -> TopicId {
        self.0.topic_id
    }

    /// Log start, log end, durable end, high watermark, leader epoch: what readers may see.
    pub(crate) fn marks(&self) -> &Marks {
        &self.0.marks
    }

    pub(crate) fn reader(&self) -> &LogReader<RealDisk> {
        &self.0.reader
    }

    /// Hands `message` to the owner, which may be the caller before this returns. Never waits for another owner.
    pub(crate) fn post(&self, message: Message) {
        self.0.inbox.lock().expect("no holder of the inbox panics").push(message);
        self.work();
    }

    /// Leaves `message` for the owner without becoming it: [`Posted::work`] must follow.
    fn leave(&self, message: Message) {
        self.0.inbox.lock().expect("no holder of the inbox panics").push(message);
    }

    fn work(&self) {
        loop {
            let mut owner = match self.0.owner.try_lock() {
                Ok(owner) => owner,
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(poisoned)) => {
                    // A bug stopped an earlier owner. `Owner::run` refuses everything from now on.
                    let mut owner = poisoned.into_inner();
                    owner.poison();
                    self.0.owner.clear_poison();
                    owner
                }
            };
            owner.run(self, &self.0.inbox);
            drop(owner);
            if self.0.inbox.lock().expect("no holder of the inbox panics").is_empty() {
                return;
            }
        }
    }

    /// What has been written since the last ticket; the flusher's business.
    pub(super) fn take_unsynced(&self) -> Option<SyncTicket<RealDisk>> {
        self.with_owner(Owner::take_unsynced)
    }

    /// Runs `f` on the owner, waiting for the lock: for threads that may block, and only for them.
    pub(super) fn with_owner<R>(&self, f: impl FnOnce(&mut Owner) -> R) -> R {
        let result = {
            let mut owner = self.0.owner.lock().unwrap_or_else(|poisoned| {
                let mut owner = poisoned.into_inner();
                owner.poison();
                self.0.owner.clear_poison();
                owner
            });
            f(&mut owner)
        };
        // A message may have arrived while the lock was held.
        if !self.0.inbox.lock().expect("no holder of the inbox panics").is_empty() {
            self.work();
        }
        result
    }

    /// Asks to be notified once when a mark moves. Register first, then look at the marks, then wait.
    pub(crate) fn watch(&self, waiter: &Arc<Notify>) {
        self.0.waiters.add(waiter);
    }

    /// Takes a registration back; harmless when it has fired.
    pub(crate) fn unwatch(&self, waiter: &Arc<Notify>) {
        self.0.waiters.remove(waiter);
    }

    /// What went through, by the broker's count since it started.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    pub(super) fn marks_moved(&self) {
        self.0.waiters.wake();
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.0.reader.size_bytes()
    }

    /// Where `epoch`, or the latest one before it, ends.
    pub(crate) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.0.reader.epoch_end(epoch)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }
}

/// Messages left for some partitions and not yet worked off: appends that came together become one write.
#[derive(Default)]
pub(crate) struct Posted(Vec<PartitionHandle>);

impl Posted {
    /// Leaves `message` for the owner of `partition`.
    pub(crate) fn leave(&mut self, partition: PartitionHandle, message: Message) {
        partition.leave(message);
        if !self.0.iter().any(|known| known.is(&partition)) {
            self.0.push(partition);
        }
    }

    /// Hands everything that was left to its owners.
    pub(crate) fn work(&mut self) {
        self.0.drain(..).for_each(|partition| partition.work());
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.work();
    }
}

/// Those who wait for a mark to move: each is told once, then forgotten.
#[derive(Default)]
struct Waiters {
    any: AtomicBool,
    list: Mutex<Vec<Arc<Notify>>>,
}

impl Waiters {
    fn add(&self, waiter: &Arc<Notify>) {
        let mut list = self.list.lock().expect("no holder of this lock panics");
        list.push(Arc::clone(waiter));
        self.any.store(true, Ordering::SeqCst);
    }

    fn remove(&self, waiter: &Arc<Notify>) {
        let mut list = self.list.lock().expect("no holder of this lock panics");
        list.retain(|other| !Arc::ptr_eq(other, waiter));
        self.any.store(!list.is_empty(), Ordering::SeqCst);
    }

    fn wake(&self) {
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        let woken = {
            let mut list = self.list.lock().expect("no holder of this lock panics");
            self.any.store(false, Ordering::SeqCst);
            std::mem::take(&mut *list)
        };
        for waiter in woken {
            waiter.notify_one();
        }
    }
}
