//! Topics: names, limits, birth and death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_model::env::Env;
use millrace_model::ids::{InvalidTopicName, NodeId, PartitionIndex, TopicId, TopicName};
use millrace_model::limits::PARTITIONS_PER_REQUEST_MAX;

use super::configs::AlterConfigRefused;
use super::image::{ConfigResource, Image, Topic};
use super::partitions::{InvalidAssignment, Placement, check_assignments, new_partition};
use super::record::Record;
use super::{MetadataSettings, TopicRef};

/// A topic to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    pub shape: TopicShape,
    /// Overrides; a missing value is refused.
    pub configs: Vec<(String, Option<String>)>,
}

/// How many partitions on whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicShape {
    /// The controller places them; `None`: the broker's default.
    Counts { partitions: Option<i32>, replication_factor: Option<i16> },
    /// One list of brokers per partition, from 0.
    Assigned(Vec<Vec<NodeId>>),
}

/// A topic that is (or, when only validated, would be).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub id: TopicId,
    pub name: TopicName,
    pub partition_count: i32,
    pub replication_factor: i16,
    /// The overrides it was given.
    pub configs: BTreeMap<String, String>,
}

/// Why a topic was not created. Each stands for one Kafka error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateTopicRefused {
    #[error(transparent)]
    InvalidName(#[from] InvalidTopicName),
    /// Metric names and files would mix '.' and '_'.
    #[error("topic '{name}' collides with existing topic: {existing}")]
    Collision { name: TopicName, existing: TopicName },
    #[error("creation of internal topic {name} is prohibited")]
    Internal { name: TopicName },
    #[error("topic '{name}' already exists")]
    Exists { name: TopicName },
    #[error("topic '{name}' is named twice in one request")]
    Repeated { name: TopicName },
    #[error("number of partitions must be larger than 0, or -1 for the default, not {count}")]
    InvalidPartitions { count: i32 },
    #[error("a request may create {PARTITIONS_PER_REQUEST_MAX} partitions, not {count} and more")]
    TooManyPartitions { count: usize },
    #[error(
        "replication factor must be larger than 0, or -1 for the default, and at most the \
         {brokers} brokers there are, not {factor}"
    )]
    InvalidReplicationFactor { factor: i16, brokers: usize },
    #[error(transparent)]
    InvalidAssignment(#[from] InvalidAssignment),
    #[error(transparent)]
    InvalidConfig(#[from] AlterConfigRefused),
}

/// A topic that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    pub id: TopicId,
    pub name: TopicName,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteTopicRefused {
    #[error("there is no topic '{name}'")]
    UnknownName { name: String },
    #[error("there is no topic with id {id}")]
    UnknownId { id: TopicId },
    #[error("topic '{name}' is the broker's own")]
    Internal { name: TopicName },
}

pub(super) fn decide_create(
    image: &Image,
    settings: &MetadataSettings,
    env: &mut Env,
    topics: &[NewTopic],
    records: &mut Vec<Record>,
) -> Vec<Result<CreatedTopic, CreateTopicRefused>> {
    let mut seen = BTreeSet::new();
    let repeated = topics.iter().map(|topic| topic.name.as_str()).filter(|it| !seen.insert(*it));
    let repeated = repeated.collect();
    let mut creation =
        Creation { image, settings, repeated, named: BTreeSet::new(), partitions: 0 };
    topics.iter().map(|topic| creation.decide(env, topic, records)).collect()
}

/// One request's topics, which must not collide with each other either.
struct Creation<'a> {
    image: &'a Image,
    settings: &'a MetadataSettings,
    /// Asked for more than once: none of them is created, for which one would be meant is unknown.
    repeated: BTreeSet<&'a str>,
    named: BTreeSet<TopicName>,
    partitions: usize,
}

impl Creation<'_> {
    fn decide(
        &mut self,
        env: &mut Env,
        new: &NewTopic,
        records: &mut Vec<Record>,
    ) -> Result<CreatedTopic, CreateTopicRefused> {
        let name = self.check_name(&new.name)?;
        let configs = self.settings.config_rules.check_new_topic(&new.configs)?;
        let assignments = self.place(env, &new.shape)?;
        self.named.insert(name.clone());
        self.partitions += assignments.len();

        let id = new_id(self.image, env);
        records.push(Record::Topic { id, name: name.clone() });
        for (index, replicas) in (0i32..).zip(&assignments) {
            records.push(new_partition(id, PartitionIndex(index), replicas.clone()));
        }
        for (key, value) in &configs {
            let resource = ConfigResource::Topic(name.clone());
            let (key, value) = (key.clone(), Some(value.clone()));
            records.push(Record::Config { resource, key, value });
        }
        Ok(CreatedTopic {
            id,
            name,
            partition_count: i32::try_from(assignments.len()).expect("checked against the limit"),
            replication_factor: assignments.first().map_or(0, |replicas| {
                i16::try_from(replicas.len()).expect("checked against the brokers")
            }),
            configs,
        })
    }

    fn check_name(&self, name: &str) -> Result<TopicName, CreateTopicRefused> {
        let name = TopicName::parse(name)?;
        if name.as_str() == TopicName::CLUSTER_METADATA {
            return Err(CreateTopicRefused::Internal { name });
        }
        if self.repeated.contains(name.as_str()) {
            return Err(CreateTopicRefused::Repeated { name });
        }
        if self.image.topic(name.as_str()).is_some() {
            return Err(CreateTopicRefused::Exists { name });
        }
        if name.as_str().contains(['.', '_']) {
            let others = self.image.topics.keys().chain(&self.named);
            if let Some(existing) = others.into_iter().find(|other| collide(&name, other)) {
                return Err(CreateTopicRefused::Collision { existing: existing.clone(), name });
            }
        }
        Ok(name)
    }

    fn place(
        &self,
        env: &mut Env,
        shape: &TopicShape,
    ) -> Result<Vec<Vec<NodeId>>, CreateTopicRefused> {
        match shape {
            TopicShape::Assigned(assignments) => {
                self.check_count(assignments.len())?;
                check_assignments(self.image, assignments, None)?;
                Ok(assignments.clone())
            }
            TopicShape::Counts { partitions, replication_factor } => {
                let count = partitions.unwrap_or(self.settings.partitions_default);
                let factor = replication_factor.unwrap_or(self.settings.replication_factor_default);
                let partitions = usize::try_from(count)
                    .ok()
                    .filter(|count| *count > 0)
                    .ok_or(CreateTopicRefused::InvalidPartitions { count })?;
                let brokers = self.image.brokers.len();
                let replicas = usize::try_from(factor)
                    .ok()
                    .filter(|factor| (1..=brokers).contains(factor))
                    .ok_or(CreateTopicRefused::InvalidReplicationFactor { factor, brokers })?;
                self.check_count(partitions)?;
                let mut placement = Placement::new(self.image, env);
                Ok((0..partitions).map(|_| placement.next(replicas)).collect())
            }
        }
    }

    fn check_count(&self, partitions: usize) -> Result<(), CreateTopicRefused> {
        let count = self.partitions.saturating_add(partitions);
        match count <= PARTITIONS_PER_REQUEST_MAX {
            true => Ok(()),
            false => Err(CreateTopicRefused::TooManyPartitions { count }),
        }
    }
}

fn new_id(image: &Image, env: &mut Env) -> TopicId {
    loop {
        let id = TopicId(env.rng.uuid());
        if id != TopicId::ZERO && !image.names.contains_key(&id) {
            return id;
        }
    }
}

fn collide(a: &TopicName, b: &TopicName) -> bool {
    let plain = |byte: u8| if byte == b'.' { b'_' } else { byte };
    a.as_str().len() == b.as_str().len()
        && a.as_str().bytes().map(plain).eq(b.as_str().bytes().map(plain))
}

pub(super) fn decide_delete(
    image: &Image,
    topics: &[TopicRef],
    records: &mut Vec<Record>,
) -> Vec<Result<DeletedTopic, DeleteTopicRefused>> {
    let mut gone = BTreeSet::new();
    let mut decide = |topic: &TopicRef| {
        let (found, unknown) = match topic {
            TopicRef::Name(name) => {
                (image.topic(name), DeleteTopicRefused::UnknownName { name: name.clone() })
            }
            TopicRef::Id(id) => (image.topic_by_id(*id), DeleteTopicRefused::UnknownId { id: *id }),
        };
        let topic = found.filter(|topic| !gone.contains(&topic.id)).ok_or(unknown)?;
        if topic.name.is_internal() {
            return Err(DeleteTopicRefused::Internal { name: topic.name.clone() });
        }
        gone.insert(topic.id);
        records.push(Record::RemoveTopic { id: topic.id });
        Ok(DeletedTopic { id: topic.id, name: topic.name.clone() })
    };
    topics.iter().map(&mut decide).collect()
}

pub(super) fn apply_topic(image: &mut Image, id: TopicId, name: &TopicName) {
    let configs = BTreeMap::new();
    let topic = Topic { id, name: name.clone(), partitions: Vec::new(), configs };
    let before = image.topics.insert(name.clone(), Arc::new(topic));
    assert!(before.is_none(), "topic {name} is created while it exists");
    image.names.insert(id, name.clone());
}

pub(super) fn apply_remove(image: &mut Image, id: TopicId) {
    let name = image.names.remove(&id).expect("only an existing topic is removed");
    image.topics.remove(&name);
}

/// The topic that a record speaks of, to be changed.
pub(super) fn topic_mut(image: &mut Image, id: TopicId) -> &mut Topic {
    let name = image.names.get(&id).expect("records speak of topics that exist");
    let topic = image.topics.get_mut(name).expect("names and topics change together");
    Arc::make_mut(topic)
}

pub(super) fn snapshot_topic(topic: &Topic, records: &mut Vec<Record>) {
    let Topic { id, name, partitions, configs } = topic;
    records.push(Record::Topic { id: *id, name: name.clone() });
    for (index, partition) in (0i32..).zip(partitions) {
        let (index, partition) = (PartitionIndex(index), Arc::unwrap_or_clone(partition.clone()));
        records.push(Record::Partition { topic: *id, index, partition });
    }
    for (key, value) in configs {
        let resource = ConfigResource::Topic(name.clone());
        let (key, value) = (key.clone(), Some(value.clone()));
        records.push(Record::Config { resource, key, value });
    }
}
