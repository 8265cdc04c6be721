//! Group commit: one thread makes dirty files durable and tells their owners. Blocks on the disk so that nobody else does.
//!
//! There is no timer and no delay: the next group is what became dirty while the last one was being synced, so its
//! size follows the device. One dirty file is fdatasynced, two or more take one `syncfs` (the disk decides). A failed
//! sync is never retried: the kernel has already marked the failed pages clean, so a second sync would lie.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use millrace_storage::disk::{Disk, real::RealDisk};
use tracing::error;

use crate::metrics::Metrics;
use crate::partition::handle::{Message, PartitionHandle};

/// What owners hold to announce that their partition has written bytes.
#[derive(Clone)]
pub(crate) struct DirtyQueue(Arc<Shared>);

struct Shared {
    /// Guards the list of dirty partitions and nothing else; held for a push or a swap.
    queue: Mutex<Queue>,
    ready: Condvar,
    failed: AtomicBool,
}

struct Queue {
    dirty: Vec<PartitionHandle>,
    stopping: bool,
}

impl DirtyQueue {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::new(Queue { dirty: Vec::new(), stopping: false }),
            ready: Condvar::new(),
            failed: AtomicBool::new(false),
        }))
    }

    /// Asks for a sync of what `partition` has written so far.
    pub(crate) fn push(&self, partition: PartitionHandle) {
        let mut queue = self.0.queue.lock().expect("no holder of this lock panics");
        queue.dirty.push(partition);
        if queue.dirty.len() == 1 {
            self.0.ready.notify_one();
        }
    }

    /// Has a sync of this data directory failed? Then it accepts nothing until the broker restarts.
    pub(crate) fn failed(&self) -> bool {
        self.0.failed.load(Ordering::Acquire)
    }

    fn stop(&self) {
        self.0.queue.lock().expect("no holder of this lock panics").stopping = true;
        self.0.ready.notify_one();
    }

    /// Waits for dirty partitions; `None` once stopped and drained.
    fn take(&self, spare: Vec<PartitionHandle>) -> Option<Vec<PartitionHandle>> {
        let mut queue = self.0.queue.lock().expect("no holder of this lock panics");
        while queue.dirty.is_empty() {
            if queue.stopping {
                return None;
            }
            queue = self.0.ready.wait(queue).expect("no holder of this lock panics");
        }
        Some(std::mem::replace(&mut queue.dirty, spare))
    }
}

/// The thread of one data directory.
pub(crate) struct Flusher {
    queue: DirtyQueue,
    thread: JoinHandle<()>,
}

impl Flusher {
    pub(crate) fn start(
        disk: RealDisk,
        queue: DirtyQueue,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let run = Run { disk, queue: queue.clone(), metrics };
        let thread = std::thread::Builder::new().name("flusher".into()).spawn(move || run.run())?;
        Ok(Self { queue, thread })
    }

    /// Syncs what is still dirty, then ends the thread.
    pub(crate) fn stop(self) {
        self.queue.stop();
        if self.thread.join().is_err() {
            error!(
                "the flusher thread panicked; what it had not acknowledged stays unacknowledged"
            );
        }
    }
}

struct Run {
    disk: RealDisk,
    queue: DirtyQueue,
    metrics: Arc<Metrics>,
}

impl Run {
    fn run(self) {
        let mut spare = Vec::new();
        while let Some(mut group) = self.queue.take(std::mem::take(&mut spare)) {
            self.sync(&mut group);
            group.clear();
            spare = group;
        }
    }

    fn sync(&self, group: &mut Vec<PartitionHandle>) {
        let tickets: Vec<_> = group
            .drain(..)
            .filter_map(|partition| partition.take_unsynced().map(|ticket| (partition, ticket)))
            .collect();
        if self.queue.failed() {
            return fail(tickets, "an earlier sync of this data directory failed");
        }
        let files: Vec<_> = tickets.iter().flat_map(|(_, ticket)| ticket.files()).collect();
        let started = Instant::now();
        match self.disk.sync_set(&files) {
            Ok(kind) => {
                self.metrics.synced(kind, files.len(), started.elapsed());
                drop(files);
                for (partition, ticket) in tickets {
                    partition.post(Message::Synced { end: ticket.end() });
                }
            }
            Err(cause) => {
                self.queue.0.failed.store(true, Ordering::Release);
                error!(error = %cause, files = files.len(),
                    "sync failed: this data directory accepts no more writes; restart the broker once the disk is sound");
                drop(files);
                fail(tickets, &format!("sync failed: {cause}"));
            }
        }
    }
}

fn fail<T>(tickets: Vec<(PartitionHandle, T)>, reason: &str) {
    let reason: Arc<str> = reason.into();
    for (partition, _) in tickets {
        partition.post(Message::SyncFailed { reason: Arc::clone(&reason) });
    }
}
