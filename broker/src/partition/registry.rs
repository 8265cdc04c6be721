//! Who lives here: every topic of the image with its partitions' handles, found by name or by id.
//!
//! Only the controller's thread changes it, in the order of the metadata log; everyone else looks things up. Data is
//! never deleted because metadata does not mention it: a directory without a topic is left alone, and said so.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use millrace_kernel::metadata::image::{self, Delta, Image};
use millrace_model::ids::{PartitionIndex, TopicId, TopicName, TopicPartition};
use millrace_model::topic_config::{self, TopicConfig};
use millrace_storage::disk::Space;

use crate::config::Config;
use crate::error::BrokerError;
use crate::metrics::Metrics;
use crate::partition::actor;
use crate::partition::clock::Clock;
use crate::partition::flusher::DirtyQueue;
use crate::partition::handle::{Message, PartitionHandle};
use crate::partition::housekeeper::{Chore, Chores};
use crate::partition::opener::{Opener, Wanted};
use crate::partition::timer::Timer;

/// One topic with its partitions on this broker; replaced whole when it changes.
pub(crate) struct Topic {
    id: TopicId,
    name: TopicName,
    config: Arc<TopicConfig>,
    /// By index; `None` where opening failed, for example on damage.
    partitions: Vec<Option<PartitionHandle>>,
}

impl Topic {
    pub(crate) fn id(&self) -> TopicId {
        self.id
    }

    pub(crate) fn name(&self) -> &TopicName {
        &self.name
    }

    pub(crate) fn config(&self) -> &TopicConfig {
        &self.config
    }

    pub(crate) fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// # Errors
    /// There is no such partition, or it could not be opened.
    pub(crate) fn partition(&self, index: i32) -> Result<&PartitionHandle, BrokerError> {
        let unknown = || BrokerError::UnknownTopicOrPartition {
            topic: self.name.to_string(),
            partition: index,
        };
        let at = usize::try_from(index).map_err(|_| unknown())?;
        let slot = self.partitions.get(at).ok_or_else(unknown)?;
        slot.as_ref().ok_or_else(|| BrokerError::Storage {
            reason: "this partition could not be opened; the broker's log says why".into(),
        })
    }

    /// Those that could be opened, in order.
    pub(crate) fn open_partitions(&self) -> impl Iterator<Item = &PartitionHandle> {
        self.partitions.iter().flatten()
    }
}

/// What every partition's owner reaches.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) dirty: DirtyQueue,
    pub(crate) timer: Arc<Timer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) chores: Chores,
}

/// The topics of this broker.
pub(crate) struct Registry {
    /// Guards the two maps; held for a look-up, or while the controller's thread swaps topics in and out.
    topics: RwLock<Topics>,
    opener: Opener,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Topics {
    by_name: HashMap<TopicName, Arc<Topic>>,
    by_id: HashMap<TopicId, Arc<Topic>>,
}

impl Topics {
    fn insert(&mut self, topic: Arc<Topic>) {
        self.by_id.insert(topic.id, Arc::clone(&topic));
        self.by_name.insert(topic.name.clone(), topic);
    }

    fn remove(&mut self, id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.by_id.remove(&id)?;
        // The name may already belong to the topic's successor.
        if self.by_name.get(&topic.name).is_some_and(|current| current.id == id) {
            self.by_name.remove(&topic.name);
        }
        Some(topic)
    }
}

impl Registry {
    pub(crate) fn new(opener: Opener, shared: Arc<Shared>) -> Self {
        Self { topics: RwLock::default(), opener, shared }
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.read().by_name.get(name).cloned()
    }

    pub(crate) fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.read().by_id.get(&id).cloned()
    }

    /// All topics, in order of their names.
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        let mut topics: Vec<_> = self.read().by_name.values().cloned().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// The partition, if this broker leads it.
    ///
    /// # Errors
    /// Unknown topic or partition.
    pub(crate) fn leader(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<(Arc<Topic>, PartitionHandle), BrokerError> {
        let found = self.topic(topic).ok_or_else(|| BrokerError::unknown_topic(topic))?;
        let handle = found.partition(partition)?.clone();
        Ok((found, handle))
    }

    /// As [`Self::leader`], for a topic named by its id.
    ///
    /// # Errors
    /// Unknown id, or unknown partition.
    pub(crate) fn leader_by_id(
        &self,
        id: TopicId,
        partition: i32,
    ) -> Result<(Arc<Topic>, PartitionHandle), BrokerError> {
        let topic = self.topic_by_id(id).ok_or(BrokerError::UnknownTopicId { id })?;
        let handle = topic.partition(partition)?.clone();
        Ok((topic, handle))
    }

    /// Removes what interrupted deletions left.
    pub(crate) fn remove_leftovers(&self, leftovers: &[PathBuf]) {
        for leftover in leftovers {
            self.shared.chores.push(Chore::RemoveDirectory(leftover.clone()));
        }
    }

    /// Has everything that was written synced, also what a relaxed topic may keep back.
    pub(crate) fn sync_all(&self) {
        self.partitions().into_iter().for_each(|partition| self.shared.dirty.push(partition));
    }

    pub(crate) fn disk_failed(&self) -> bool {
        self.shared.dirty.failed()
    }

    /// The file system that the data lies on.
    pub(crate) fn space(&self) -> std::io::Result<Space> {
        self.opener.space()
    }

    /// Every partition that is open here.
    pub(crate) fn partitions(&self) -> Vec<PartitionHandle> {
        let topics = self.read();
        topics.by_id.values().flat_map(|topic| topic.open_partitions().cloned()).collect()
    }

    /// Makes this broker's partitions what the image says. Called by the controller's thread alone.
    pub(crate) fn reconcile(&self, image: &Image, delta: &Delta) {
        for topic in &delta.deleted {
            let removed = self.write().remove(topic.id);
            if let Some(removed) = removed {
                self.forget_offsets(&removed.name);
                let partitions: Vec<_> = removed.open_partitions().cloned().collect();
                self.opener.delete(&partitions, &self.shared);
            }
        }
        self.open_all(image, &delta.created);
        for change in &delta.changed {
            self.change(image, &change.topic, change.configs_changed);
        }
        if delta.broker_configs_changed {
            image.topics().for_each(|topic| self.change(image, topic, true));
        }
        let partitions = image.topics().map(|topic| topic.partitions.len()).sum();
        self.shared.metrics.hosted(image.topic_count(), partitions);
    }

    /// Opens new topics; several partitions at a time, because most of the time goes to the disk.
    fn open_all(&self, image: &Image, topics: &[Arc<image::Topic>]) {
        let configs: Vec<_> = topics.iter().map(|topic| self.config_of(image, topic)).collect();
        let wanted = topics.iter().zip(&configs);
        let wanted = wanted.flat_map(|(topic, config)| wanted_of(topic, config, 0));
        let mut opened = self.opener.open_all(wanted.collect(), &self.shared).into_iter();
        for (topic, config) in topics.iter().zip(configs) {
            let partitions = opened.by_ref().take(topic.partitions.len()).map(Result::ok).collect();
            let (id, name) = (topic.id, topic.name.clone());
            self.write().insert(Arc::new(Topic { id, name, config, partitions }));
        }
    }

    fn change(&self, image: &Image, topic: &Arc<image::Topic>, configs_changed: bool) {
        let Some(current) = self.topic_by_id(topic.id) else { return };
        let config = self.config_of(image, topic);
        let missing = wanted_of(topic, &config, current.partitions.len());
        let opened = self.opener.open_all(missing.collect(), &self.shared);
        let mut partitions = current.partitions.clone();
        partitions.extend(opened.into_iter().map(Result::ok));
        let (id, name) = (topic.id, topic.name.clone());
        let changed = Topic { id, name, config: Arc::clone(&config), partitions };
        self.write().insert(Arc::new(changed));
        if configs_changed {
            let settings = actor::settings(&config, &self.shared.config, topic.name.is_internal());
            for partition in current.open_partitions() {
                partition.post(Message::Configure(Box::new(settings.clone())));
            }
        }
    }

    /// The topic's own overrides, over what was changed while brokers run, over this broker's settings.
    fn config_of(&self, image: &Image, topic: &image::Topic) -> Arc<TopicConfig> {
        let config = &self.shared.config;
        let dynamic = topic_config::ROWS.iter().filter_map(|row| {
            Some((row.name, image.broker_config(config.node_id, row.broker_name?)?))
        });
        let own = topic.configs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Arc::new(config.topic_defaults.with_overrides(dynamic).with_overrides(own))
    }

    /// Committed offsets of a deleted topic go too.
    fn forget_offsets(&self, topic: &TopicName) {
        let Some(coordinators) = self.topic(TopicName::CONSUMER_OFFSETS) else { return };
        for coordinator in coordinators.open_partitions() {
            crate::service::groups::forget_topic(coordinator, topic.clone());
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Topics> {
        self.topics.read().expect("no holder of this lock panics")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Topics> {
        self.topics.write().expect("no holder of this lock panics")
    }
}

/// What is needed to open a topic's partitions from index `from` on.
fn wanted_of<'a>(
    topic: &'a image::Topic,
    config: &'a Arc<TopicConfig>,
    from: usize,
) -> impl Iterator<Item = Wanted> + 'a {
    topic.partitions.iter().enumerate().skip(from).map(move |(index, partition)| {
        let index = i32::try_from(index).expect("the controller bounds partition counts");
        Wanted {
            id: TopicPartition::new(topic.name.clone(), PartitionIndex(index)),
            topic_id: topic.id,
            config: Arc::clone(config),
            epoch: partition.leader_epoch,
        }
    })
}

/// A directory of the data directory that no topic owns.
pub(crate) fn stray_directories(found: &[TopicPartition], image: &Image) -> Vec<PathBuf> {
    let stray = |it: &&TopicPartition| {
        let topic = image.topic(it.topic.as_str());
        it.topic.as_str() != TopicName::CLUSTER_METADATA
            && topic.is_none_or(|topic| topic.partition(it.partition).is_none())
    };
    found.iter().filter(stray).map(|it| PathBuf::from(it.to_string())).collect()
}
