//! Brings partitions to life and lays them to rest: directories, recovery, removal. Blocks on the disk, so only the
//! controller's thread and the housekeeper come here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use millrace_kernel::group::GroupSettings;
use millrace_kernel::partition::Partition;
use millrace_kernel::shard::{LoadError, Shard};
use millrace_model::env::Env;
use millrace_model::ids::{TopicId, TopicName, TopicPartition};
use millrace_model::offset::LeaderEpoch;
use millrace_model::topic_config::TopicConfig;
use millrace_storage::checkpoint::read_topic_id;
use millrace_storage::data_dir::DataDir;
use millrace_storage::disk::real::RealDisk;
use millrace_storage::disk::{Disk, Space};
use millrace_storage::error::{Fault, OpenError, ReadError};
use millrace_storage::log::{Log, Recovered};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::partition::actor::{self, Owner};
use crate::partition::clock;
use crate::partition::handle::{Message, PartitionHandle};
use crate::partition::housekeeper::Chore;
use crate::partition::registry::Shared;

/// Threads that open partitions side by side at start.
const OPENERS: usize = 2;

/// What is needed to open one partition.
pub(crate) struct Wanted {
    pub(crate) id: TopicPartition,
    pub(crate) topic_id: TopicId,
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) epoch: LeaderEpoch,
}

/// Why one partition could not be opened. It stays closed: every request for it gets a storage error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error(transparent)]
    Disk(#[from] Fault),
    #[error("producer state cannot be rebuilt: {0}")]
    Producers(#[from] ReadError),
    #[error("group state cannot be rebuilt: {0}")]
    Groups(#[from] LoadError),
}

/// The way to the data directory's partitions.
pub(crate) struct Opener {
    disk: RealDisk,
    data_dir: Arc<DataDir<RealDisk>>,
}

impl Opener {
    pub(crate) fn new(disk: RealDisk, data_dir: Arc<DataDir<RealDisk>>) -> Self {
        Self { disk, data_dir }
    }

    pub(crate) fn space(&self) -> std::io::Result<Space> {
        self.disk.space()
    }

    /// Opens all of `wanted`, in that order in the result. What is found above the recorded durable end is made durable
    /// before anything of it is served: one sync for all.
    pub(crate) fn open_all(
        &self,
        wanted: Vec<Wanted>,
        shared: &Arc<Shared>,
    ) -> Vec<Result<PartitionHandle, NotOpened>> {
        let next = AtomicUsize::new(0);
        let slots: Vec<Mutex<Option<Result<PartitionHandle, NotOpened>>>> =
            wanted.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            while let Some((wanted, slot)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                wanted.get(index).zip(slots.get(index))
            } {
                let opened = self.open(wanted, shared);
                if let Err(cause) = &opened {
                    error!(partition = %wanted.id, error = %cause, "this partition stays closed");
                }
                *slot.lock().expect("no holder panics") = Some(opened);
            }
        };
        if wanted.len() < 2 * OPENERS {
            work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..OPENERS {
                    scope.spawn(work);
                }
            });
        }
        let opened = slots.into_iter().map(|slot| {
            slot.into_inner().expect("no holder panics").expect("every index was worked off")
        });
        let opened: Vec<_> = opened.collect();
        self.settle(&opened);
        opened
    }

    /// After a crash a log may end above its durable end: what the page cache shows was never synced, but readers may
    /// have seen it. One sync covers all of them, before anything is served, so that no end ever falls.
    fn settle(&self, opened: &[Result<PartitionHandle, NotOpened>]) {
        let unsynced = opened.iter().flatten();
        let unsynced = unsynced.filter(|it| it.marks().durable_end() < it.marks().log_end());
        let tickets: Vec<_> =
            unsynced.filter_map(|it| it.take_unsynced().map(|ticket| (it, ticket.end()))).collect();
        if tickets.is_empty() {
            return;
        }
        let synced = self.disk.sync_all();
        if let Err(cause) = &synced {
            error!(error = %cause, "what recovery found cannot be made durable");
        }
        for (partition, end) in tickets {
            partition.post(match &synced {
                Ok(()) => Message::Synced { end },
                Err(cause) => Message::SyncFailed { reason: cause.to_string().into() },
            });
        }
    }

    fn open(&self, wanted: &Wanted, shared: &Arc<Shared>) -> Result<PartitionHandle, NotOpened> {
        let dir = self.data_dir.partition_dir(&wanted.id);
        let config = &shared.config;
        let is_coordinator = wanted.id.topic.as_str() == TopicName::CONSUMER_OFFSETS;
        let settings = actor::settings(&wanted.config, config, is_coordinator);
        let now = shared.clock.now();
        let log = if self.is_ours(&wanted.id, &dir, wanted.topic_id)? {
            let trust = self.data_dir.trust(&wanted.id);
            let (log, recovered) =
                Log::open(self.disk.clone(), &dir, settings.log.clone(), trust, now.wall)?;
            tell(&wanted.id, recovered, shared);
            log
        } else {
            Log::create(self.disk.clone(), &dir, wanted.topic_id, settings.log.clone())?
        };
        let owner = if is_coordinator {
            let partition = Partition::open(log, settings, wanted.epoch, now)?;
            let mut env = Env { now, rng: clock::fresh_prng() };
            let shard = Shard::open(partition, group_settings(config), &mut env)?;
            Owner::coordinator(shard, shared.clock, clock::fresh_prng())
        } else {
            let partition = Partition::open(log, settings, wanted.epoch, now)?;
            Owner::data(partition, shared.clock, clock::fresh_prng())
        };
        Ok(PartitionHandle::new(wanted.id.clone(), wanted.topic_id, owner, Arc::clone(shared)))
    }

    /// Does the directory exist and belong to this topic? One of another topic, left over by an interrupted deletion,
    /// is moved aside: nothing is deleted because metadata does not mention it.
    fn is_ours(&self, id: &TopicPartition, dir: &Path, topic_id: TopicId) -> Result<bool, Fault> {
        let exists = self.disk.exists(dir).map_err(|error| Fault::new("look at", dir, &error))?;
        if !exists {
            return Ok(false);
        }
        match read_topic_id(&self.disk, dir)? {
            Some(found) if found == topic_id => Ok(true),
            // Its own file is lost or garbled; opening the log writes it anew.
            None if self.data_dir.recorded_topic_id(id) == Some(topic_id) => Ok(true),
            // An interrupted creation: the directory is there, its file is not.
            None if self.disk.list(dir).is_ok_and(|entries| entries.is_empty()) => Ok(false),
            found => {
                let aside = suffixed(dir, &found.unwrap_or_default(), "stray");
                warn!(directory = %dir.display(), moved_to = %aside.display(),
                    "this directory belongs to another topic; it is moved aside");
                self.disk.rename(dir, &aside).map_err(|error| Fault::new("rename", dir, &error))?;
                Ok(false)
            }
        }
    }

    /// Takes a deleted topic's partitions out of service and removes their files.
    pub(crate) fn delete(&self, partitions: &[PartitionHandle], shared: &Shared) {
        for partition in partitions {
            let closed = partition.with_owner(|owner| owner.close(partition));
            if let Some(Err(cause)) = closed {
                info!(partition = %partition.id(), error = %cause, "deleted before it was durable");
            }
            let dir = self.data_dir.partition_dir(partition.id());
            let doomed = suffixed(&dir, &partition.topic_id(), "delete");
            match self.disk.rename(&dir, &doomed) {
                Ok(()) => shared.chores.push(Chore::RemoveDirectory(doomed)),
                Err(cause) => warn!(directory = %dir.display(), error = %cause, "not removed"),
            }
        }
        // They are closed, so they set no further deadline.
        shared.timer.forget(partitions);
    }
}

/// Kafka's names for directories on their way out: `topic-0.<id>-delete`.
fn suffixed(dir: &Path, topic_id: &TopicId, suffix: &str) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".{topic_id}-{suffix}"));
    name.into()
}

fn tell(partition: &TopicPartition, recovered: Recovered<RealDisk>, shared: &Shared) {
    if let Some(torn) = &recovered.torn {
        warn!(%partition, offset = %torn.end, bytes = torn.bytes, survivors = torn.survivors,
            "an unfinished write at the log's end was cut");
    }
    if let Some(missing) = recovered.missing {
        warn!(%partition, start = %missing.start, end = %missing.end, "records are missing before the log's first segment");
    }
    if !recovered.doomed.is_empty() {
        shared.chores.push(Chore::Unlink(recovered.doomed));
    }
}

fn group_settings(config: &Config) -> GroupSettings {
    let millis = |duration: std::time::Duration| duration.as_millis();
    let int = |duration| i32::try_from(millis(duration)).unwrap_or(i32::MAX);
    GroupSettings {
        initial_rebalance_delay_ms: millis(config.group_initial_rebalance_delay) as u64,
        session_timeout_ms_min: int(config.group_session_timeout_min),
        session_timeout_ms_max: int(config.group_session_timeout_max),
        group_size_max: config.group_size_max,
        offset_metadata_max: config.offset_metadata_bytes_max,
        offsets_retention_ms: i64::try_from(millis(config.offsets_retention)).unwrap_or(i64::MAX),
        offsets_retention_check_interval_ms: millis(config.offsets_retention_check_interval) as u64,
        ..GroupSettings::default()
    }
}
