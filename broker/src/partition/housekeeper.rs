//! Work that may block and is in no hurry: unlinking, small files, the state file, a look at free space. One thread.
//!
//! The state file says how far each log is durable, so that recovery after a crash reads little; it is written every
//! few seconds if anything changed, and at once when a log start must survive a crash.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_model::ids::TopicPartition;
use millrace_model::offset::Offset;
use millrace_storage::checkpoint::PendingFile;
use millrace_storage::data_dir::DataDir;
use millrace_storage::disk::Space;
use millrace_storage::disk::real::RealDisk;
use millrace_storage::error::Fault;
use millrace_storage::log::{Doomed, PartitionState};
use tracing::{error, info, warn};

use crate::controller::local::DurableState;
use crate::ops::health::Health;
use crate::partition::handle::{Message, PartitionHandle};
use crate::partition::registry::Registry;

/// How often the state file is brought up to date.
const STATE_INTERVAL: Duration = Duration::from_secs(10);
/// How often descriptors and maps that nobody uses are let go.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);
/// How often free space is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);
/// Produce is refused while less of the file system is free: a twentieth, but never more than this.
const RESERVE_BYTES_MAX: u64 = 512 << 20;

/// One piece of work.
pub(crate) enum Chore {
    Unlink(Vec<Doomed<RealDisk>>),
    /// A deleted partition's directory, already renamed out of the way.
    RemoveDirectory(PathBuf),
    /// Producer state to be kept beside the log.
    Snapshot {
        partition: PartitionHandle,
        offset: Offset,
        file: PendingFile<RealDisk>,
    },
    /// The log start must survive a crash before it is told.
    SaveLogStart {
        partition: PartitionHandle,
        start: Offset,
    },
    /// A write found the disk full.
    LookAtSpace,
}

/// Where owners leave their chores. A partition has a handful at a time, so the number of partitions bounds the queue.
#[derive(Clone, Default)]
pub(crate) struct Chores(Arc<Queue>);

#[derive(Default)]
struct Queue {
    /// Guards the queue; held for a push or a swap.
    pending: Mutex<Pending>,
    ready: Condvar,
}

#[derive(Default)]
struct Pending {
    chores: VecDeque<Chore>,
    stopping: bool,
}

impl Chores {
    pub(crate) fn push(&self, chore: Chore) {
        self.0.pending.lock().expect("no holder panics").chores.push_back(chore);
        self.0.ready.notify_one();
    }

    /// All that waits, or nothing after `patience`; `None` once stopped and empty.
    fn take(&self, patience: Duration) -> Option<VecDeque<Chore>> {
        let pending = self.0.pending.lock().expect("no holder panics");
        let idle = |pending: &mut Pending| pending.chores.is_empty() && !pending.stopping;
        let waited = self.0.ready.wait_timeout_while(pending, patience, idle);
        let (mut pending, _) = waited.expect("no holder panics");
        if pending.chores.is_empty() && pending.stopping {
            return None;
        }
        Some(std::mem::take(&mut pending.chores))
    }

    fn stop(&self) {
        self.0.pending.lock().expect("no holder panics").stopping = true;
        self.0.ready.notify_one();
    }
}

/// The thread.
pub(crate) struct Housekeeper {
    chores: Chores,
    thread: JoinHandle<Work>,
}

impl Housekeeper {
    pub(crate) fn start(
        chores: Chores,
        registry: Arc<Registry>,
        data_dir: Arc<DataDir<RealDisk>>,
        metadata: DurableState,
        health: Health,
    ) -> std::io::Result<Self> {
        let work = Work {
            registry,
            data_dir,
            metadata,
            health,
            recorded: Vec::new(),
            is_full: false,
            was_refused: false,
            state_due: Instant::now() + STATE_INTERVAL,
            space_due: Instant::now(),
            idle_due: Instant::now() + IDLE_INTERVAL,
        };
        let (queue, name) = (chores.clone(), "housekeeper".to_owned());
        let thread = std::thread::Builder::new().name(name).spawn(move || work.run(&queue))?;
        Ok(Self { chores, thread })
    }

    /// Ends the thread, closes every partition, and marks the directory clean if all of them closed cleanly.
    pub(crate) fn close(self) {
        self.chores.stop();
        match self.thread.join() {
            Ok(work) => work.close_all(&self.chores),
            Err(_) => error!("the housekeeper panicked; the next start recovers"),
        }
    }
}

struct Work {
    registry: Arc<Registry>,
    data_dir: Arc<DataDir<RealDisk>>,
    metadata: DurableState,
    health: Health,
    /// What the state file says.
    recorded: Vec<(TopicPartition, PartitionState)>,
    is_full: bool,
    /// Since the last look a partition's write was refused for want of space.
    was_refused: bool,
    state_due: Instant,
    space_due: Instant,
    idle_due: Instant,
}

impl Work {
    fn run(mut self, chores: &Chores) -> Self {
        while let Some(batch) = chores.take(SPACE_INTERVAL) {
            self.work_off(batch);
            let now = Instant::now();
            if now >= self.space_due {
                self.space_due = now + SPACE_INTERVAL;
                self.look_at_space();
            }
            if now >= self.state_due {
                self.state_due = now + STATE_INTERVAL;
                self.record_state();
            }
            if now >= self.idle_due {
                self.idle_due = now + IDLE_INTERVAL;
                let partitions = self.registry.partitions();
                partitions.iter().for_each(|it| it.with_owner(|owner| owner.release_idle()));
            }
            if self.registry.disk_failed() {
                self.health.failed("a sync of the data directory failed");
            }
        }
        self
    }

    fn work_off(&mut self, batch: VecDeque<Chore>) {
        let mut starts = Vec::new();
        for chore in batch {
            match chore {
                Chore::Unlink(doomed) => doomed.into_iter().for_each(unlink),
                Chore::RemoveDirectory(path) => {
                    if let Err(cause) = self.data_dir.remove_directory(&path) {
                        warn!(directory = %path.display(), error = %cause, "not removed");
                    }
                }
                Chore::Snapshot { partition, offset, file } => match file.write() {
                    Ok(()) => partition.post(Message::SnapshotStored { offset }),
                    Err(cause) => warn!(partition = %partition.id(), error = %cause,
                        "producer state is not written down; the next start reads more"),
                },
                Chore::SaveLogStart { partition, start } => starts.push((partition, start)),
                // Not at once: a partition that is refused again and again may try once per look.
                Chore::LookAtSpace => self.was_refused = true,
            }
        }
        if !starts.is_empty() && self.record_state() {
            for (partition, start) in starts {
                partition.post(Message::LogStartSaved { start });
            }
        }
    }

    /// Brings the state file up to date; false when it could not be written.
    fn record_state(&mut self) -> bool {
        let mut states = Vec::with_capacity(self.recorded.len());
        for partition in self.registry.partitions() {
            match partition.with_owner(|owner| owner.checkpoint()) {
                Some(Ok(checkpoint)) => {
                    if let Some(Err(cause)) = checkpoint.epochs.map(PendingFile::write) {
                        warn!(partition = %partition.id(), error = %cause, "epochs are not written");
                        continue;
                    }
                    states.push((partition.id().clone(), checkpoint.state));
                }
                Some(Err(cause)) => {
                    warn!(partition = %partition.id(), error = %cause, "its state cannot be recorded");
                }
                None => {}
            }
        }
        states.extend(self.metadata.get());
        if states == self.recorded {
            return true;
        }
        match self.data_dir.record(&states) {
            Ok(()) => {
                self.recorded = states;
                true
            }
            Err(cause) => {
                error!(error = %cause, "the state file cannot be written");
                false
            }
        }
    }

    /// Refuses produce before the disk is full, and lets it in again when there is space.
    fn look_at_space(&mut self) {
        let Ok(Space { free, total }) = self.registry.space() else { return };
        let reserve = (total / 20).min(RESERVE_BYTES_MAX);
        let is_full = free < reserve;
        if is_full != self.is_full {
            if is_full {
                error!(free, reserve, "the disk is nearly full: produce is refused, reads go on");
            } else {
                info!(free, "there is space again");
            }
        }
        let was_refused = std::mem::take(&mut self.was_refused);
        // Told again while it lasts, and after a refused write: partitions may have been opened, or filled up by
        // themselves, meanwhile, and a file system may refuse while it shows space (a quota, or somebody cleaned up).
        if is_full || is_full != self.is_full || was_refused {
            for partition in self.registry.partitions() {
                partition.post(Message::Space { writable: !is_full });
            }
        }
        self.is_full = is_full;
    }

    fn close_all(mut self, chores: &Chores) {
        let mut states = Vec::new();
        let mut clean = !self.registry.disk_failed();
        for partition in self.registry.partitions() {
            match partition.with_owner(|owner| owner.close(&partition)) {
                Some(Ok(state)) => states.push((partition.id().clone(), state)),
                Some(Err(cause)) => {
                    warn!(partition = %partition.id(), error = %cause, "not closed cleanly");
                    clean = false;
                }
                None => {}
            }
        }
        states.extend(self.metadata.get());
        if let Some(rest) = chores.take(Duration::ZERO) {
            self.work_off(rest);
        }
        let marked =
            if clean { self.data_dir.close(&states) } else { self.data_dir.record(&states) };
        if let Err(cause) = marked {
            warn!(error = %cause, "the data directory is not marked clean; the next start recovers");
        }
    }
}

fn unlink(doomed: Doomed<RealDisk>) {
    if let Err::<(), Fault>(cause) = doomed.unlink() {
        warn!(error = %cause, "a segment is not removed");
    }
}
