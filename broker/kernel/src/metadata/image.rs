//! The cluster picture: an immutable image that all rooms share, and what differs between two of them.
//!
//! Images are made by applying records ([`crate::metadata`]) and published behind an `Arc`; whoever holds one sees a
//! consistent cluster for as long as it likes. Nothing here decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_model::ids::{NodeId, PartitionIndex, TopicId, TopicName};
use millrace_model::offset::LeaderEpoch;

/// Where a broker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The door: `kafka`, `grpc`.
    pub listener: String,
    pub host: String,
    pub port: u16,
}

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: NodeId,
    /// Drawn anew at each start of the process.
    pub incarnation: [u8; 16],
    /// Rises with each registration.
    pub epoch: i64,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
}

impl Broker {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.listener == listener)
    }
}

/// Who holds a partition, and who leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub leader: Option<NodeId>,
    /// Invariant: never falls in the life of a topic id; rises with each change of leader.
    pub leader_epoch: LeaderEpoch,
    /// Invariant: rises with every change of this struct.
    pub partition_epoch: i32,
    /// First is preferred as leader.
    pub replicas: Vec<NodeId>,
    pub isr: Vec<NodeId>,
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub id: TopicId,
    pub name: TopicName,
    /// By index; shared, so that an image costs little where nothing changed.
    pub partitions: Vec<Arc<Partition>>,
    /// Overrides alone; what is absent has the broker's default.
    pub configs: BTreeMap<String, String>,
}

impl Topic {
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        let index = usize::try_from(index.0).ok()?;
        self.partitions.get(index).map(Arc::as_ref)
    }
}

/// What a config override belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    Topic(TopicName),
    /// One broker, or all of them (Kafka's empty name).
    Broker(Option<NodeId>),
}

/// The whole cluster at one index of the metadata log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub(super) index: u64,
    pub(super) cluster_id: Option<String>,
    pub(super) brokers: BTreeMap<NodeId, Broker>,
    pub(super) topics: BTreeMap<TopicName, Arc<Topic>>,
    pub(super) names: BTreeMap<TopicId, TopicName>,
    pub(super) broker_configs: BTreeMap<Option<NodeId>, BTreeMap<String, String>>,
    pub(super) producer_id_next: i64,
}

impl Image {
    /// Index of the last applied entry.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// `None` until the cluster is initialised.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    pub fn brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values()
    }

    pub fn broker(&self, id: NodeId) -> Option<&Broker> {
        self.brokers.get(&id)
    }

    /// In order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.names.get(&id).map(|name| {
            self.topics.get(name).expect("names and topics change together, in metadata::apply")
        })
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Overrides of one broker, or of all brokers.
    pub fn broker_configs(&self, broker: Option<NodeId>) -> impl Iterator<Item = (&str, &str)> {
        let overrides = self.broker_configs.get(&broker).into_iter().flatten();
        overrides.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The override that holds for `broker`: its own, else that of all brokers.
    pub fn broker_config(&self, broker: NodeId, key: &str) -> Option<&str> {
        let own = self.broker_configs.get(&Some(broker)).and_then(|it| it.get(key));
        own.or_else(|| self.broker_configs.get(&None)?.get(key)).map(String::as_str)
    }

    /// What became different from `older` to `self`.
    pub fn diff(&self, older: &Self) -> Delta {
        let mut delta = Delta {
            brokers_changed: self.brokers != older.brokers,
            broker_configs_changed: self.broker_configs != older.broker_configs,
            ..Delta::default()
        };
        for topic in older.topics.values().filter(|topic| !self.names.contains_key(&topic.id)) {
            delta.deleted.push(Arc::clone(topic));
        }
        for topic in self.topics.values() {
            match older.topic_by_id(topic.id) {
                None => delta.created.push(Arc::clone(topic)),
                Some(before) if Arc::ptr_eq(before, topic) || before == topic => {}
                Some(before) => delta.changed.push(TopicChange::between(before, topic)),
            }
        }
        delta
    }
}

/// What became different between two images. Topics count by id: one created again under its name is both deleted
/// and created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub created: Vec<Arc<Topic>>,
    pub deleted: Vec<Arc<Topic>>,
    pub changed: Vec<TopicChange>,
    pub brokers_changed: bool,
    pub broker_configs_changed: bool,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How one topic changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicChange {
    /// As it is now.
    pub topic: Arc<Topic>,
    pub configs_changed: bool,
    /// Partitions that are new, or whose [`Partition`] differs.
    pub partitions: Vec<PartitionIndex>,
}

impl TopicChange {
    fn between(before: &Topic, after: &Arc<Topic>) -> Self {
        let partitions = (0i32..).zip(&after.partitions).filter_map(|(index, partition)| {
            let index = PartitionIndex(index);
            (before.partition(index) != Some(&**partition)).then_some(index)
        });
        Self {
            topic: Arc::clone(after),
            configs_changed: before.configs != after.configs,
            partitions: partitions.collect(),
        }
    }
}
