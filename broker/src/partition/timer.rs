//! One timer for all owners' deadlines: an idle partition costs no task, a waiting one costs an entry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millrace_model::env::MonoMs;
use tokio::sync::Notify;

use crate::partition::clock::Clock;
use crate::partition::handle::{Message, PartitionHandle};
use crate::shutdown::Shutdown;

/// Deadlines of partitions, each with the handle to wake.
#[derive(Default)]
pub(crate) struct Timer {
    /// Guards the entries; the number makes keys unique.
    entries: Mutex<Entries>,
    sooner: Notify,
}

#[derive(Default)]
struct Entries {
    by_deadline: BTreeMap<(MonoMs, u64), PartitionHandle>,
    next: u64,
}

impl Timer {
    /// Sends `partition` a tick at `deadline`.
    pub(super) fn set(&self, deadline: MonoMs, partition: PartitionHandle) {
        let mut entries = self.entries.lock().expect("no holder panics");
        let is_first =
            entries.by_deadline.first_key_value().is_none_or(|((first, _), _)| deadline < *first);
        let key = (deadline, entries.next);
        entries.next += 1;
        entries.by_deadline.insert(key, partition);
        if is_first {
            self.sooner.notify_one();
        }
    }

    /// Nobody ticks these any more, and nobody here keeps their files open.
    pub(super) fn forget(&self, partitions: &[PartitionHandle]) {
        let mut entries = self.entries.lock().expect("no holder panics");
        entries.by_deadline.retain(|_, waiting| !partitions.iter().any(|it| it.is(waiting)));
    }

    fn take_due(&self, now: MonoMs) -> (Vec<PartitionHandle>, Option<MonoMs>) {
        let mut entries = self.entries.lock().expect("no holder panics");
        let mut due = Vec::new();
        while let Some(entry) = entries.by_deadline.first_entry() {
            if entry.key().0 > now {
                break;
            }
            due.push(entry.remove());
        }
        (due, entries.by_deadline.first_key_value().map(|((first, _), _)| *first))
    }

    /// The task: until shutdown, ticks whoever is due.
    pub(crate) async fn run(self: Arc<Self>, clock: Clock, shutdown: Shutdown) {
        while !shutdown.is_requested() {
            let now = clock.now().mono;
            let (due, next) = self.take_due(now);
            for partition in due {
                partition.inner().armed.store(u64::MAX, std::sync::atomic::Ordering::Release);
                partition.post(Message::Tick);
            }
            let pause =
                next.map_or(IDLE, |next| Duration::from_millis(next.0.saturating_sub(now.0)));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.sooner.notified() => {}
                () = shutdown.requested() => {}
            }
        }
    }
}

/// With nothing to wait for, look again after this long.
const IDLE: Duration = Duration::from_secs(60);
