//! The cluster picture as a [`Decider`]: commands of clients and brokers become records, records become the
//! [`image::Image`].
//!
//! Each subject has its file, which decides and applies: topics, partitions, brokers, configs. This file puts them
//! together. Never here: who may ask (the shell), where records are kept and when they count
//! ([`crate::controller`], the only caller of this decider outside tests).

pub mod brokers;
pub mod configs;
pub mod image;
pub mod partitions;
pub mod record;
pub mod topics;

use millrace_model::env::Env;
use millrace_model::ids::{NodeId, ProducerId, TopicId};
use millrace_model::limits::PRODUCER_ID_BLOCK;

use crate::machine::{Decider, Decision};
use brokers::{RegisterBroker, RegisterBrokerRefused};
use configs::{AlterConfigRefused, AlterConfigs, ConfigRules};
use image::Image;
use partitions::{CreatePartitionsRefused, NewPartitions};
use record::Record;
use topics::{CreateTopicRefused, CreatedTopic, DeleteTopicRefused, DeletedTopic, NewTopic};

/// What anyone may ask of the cluster. Lists are answered item by item, in their order.
#[derive(Clone, Debug)]
pub enum Command {
    /// Gives the cluster its id; asking again with the same one changes nothing.
    InitCluster {
        cluster_id: String,
    },
    RegisterBroker(RegisterBroker),
    CreateTopics {
        topics: Vec<NewTopic>,
        /// Answer as if, change nothing.
        validate_only: bool,
    },
    DeleteTopics {
        topics: Vec<TopicRef>,
    },
    CreatePartitions {
        topics: Vec<NewPartitions>,
        validate_only: bool,
    },
    AlterConfigs {
        resources: Vec<AlterConfigs>,
        validate_only: bool,
    },
    /// A block of producer ids that nobody else will ever get.
    AllocateProducerIds,
}

/// A topic as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

/// The answer to a [`Command`], of the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    ClusterInitialised,
    BrokerRegistered { epoch: i64 },
    TopicsCreated(Vec<Result<CreatedTopic, CreateTopicRefused>>),
    TopicsDeleted(Vec<Result<DeletedTopic, DeleteTopicRefused>>),
    PartitionsCreated(Vec<Result<(), CreatePartitionsRefused>>),
    ConfigsAltered(Vec<Result<(), AlterConfigRefused>>),
    ProducerIds { first: ProducerId, count: i64 },
}

/// Why a command as a whole was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataRefused {
    #[error("this is cluster {ours}, not {theirs}")]
    OtherCluster { ours: String, theirs: String },
    #[error(transparent)]
    RegisterBroker(#[from] RegisterBrokerRefused),
    #[error("all producer ids are handed out")]
    ProducerIdsExhausted,
    /// Ask the leader, if it is known; nothing was changed here.
    #[error("this node does not lead the metadata log")]
    NotLeader { leader: Option<NodeId> },
    /// Leadership was lost with the command in flight; it may or may not count.
    #[error("leadership of the metadata log was lost before the change was committed")]
    LeadershipLost,
}

/// What the decider needs to know beside the image.
#[derive(Clone, Debug)]
pub struct MetadataSettings {
    /// For topics that do not say (`num.partitions`).
    pub partitions_default: i32,
    /// For topics that do not say (`default.replication.factor`).
    pub replication_factor_default: i16,
    pub config_rules: ConfigRules,
}

/// The decider.
#[derive(Clone, Debug)]
pub struct Metadata {
    image: Image,
    settings: MetadataSettings,
}

impl Metadata {
    pub(crate) fn new(settings: MetadataSettings) -> Self {
        Self { image: Image::default(), settings }
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// An entry of the log has been applied wholly.
    pub(crate) fn set_index(&mut self, index: u64) {
        self.image.index = index;
    }
}

impl Decider for Metadata {
    type Command = Command;
    type Record = Record;
    type Reply = Reply;
    type Error = MetadataRefused;

    fn decide(
        &self,
        env: &mut Env,
        command: Command,
    ) -> Result<Decision<Record, Reply>, MetadataRefused> {
        let (image, settings) = (&self.image, &self.settings);
        let mut records = Vec::new();
        let (reply, validate_only) = match command {
            Command::InitCluster { cluster_id } => {
                records.extend(decide_init(image, cluster_id)?);
                (Reply::ClusterInitialised, false)
            }
            Command::RegisterBroker(it) => {
                let epoch = brokers::decide_register(image, it, &mut records)?;
                (Reply::BrokerRegistered { epoch }, false)
            }
            Command::CreateTopics { topics, validate_only } => {
                let results = topics::decide_create(image, settings, env, &topics, &mut records);
                (Reply::TopicsCreated(results), validate_only)
            }
            Command::DeleteTopics { topics } => {
                let results = topics::decide_delete(image, &topics, &mut records);
                (Reply::TopicsDeleted(results), false)
            }
            Command::CreatePartitions { topics, validate_only } => {
                let results = partitions::decide_create(image, env, &topics, &mut records);
                (Reply::PartitionsCreated(results), validate_only)
            }
            Command::AlterConfigs { resources, validate_only } => {
                let rules = &settings.config_rules;
                let results = configs::decide_alter(image, rules, &resources, &mut records);
                (Reply::ConfigsAltered(results), validate_only)
            }
            Command::AllocateProducerIds => (decide_producer_ids(image, &mut records)?, false),
        };
        if validate_only {
            records.clear();
        }
        Ok(Decision { records, reply })
    }

    fn apply(&mut self, record: &Record) {
        let image = &mut self.image;
        match record {
            Record::SnapshotStart => {
                *image = Image { index: image.index, ..Image::default() };
            }
            Record::Cluster { cluster_id } => image.cluster_id = Some(cluster_id.clone()),
            Record::Broker(broker) => brokers::apply_broker(image, broker),
            Record::Topic { id, name } => topics::apply_topic(image, *id, name),
            Record::RemoveTopic { id } => topics::apply_remove(image, *id),
            Record::Partition { topic, index, partition } => {
                partitions::apply_partition(image, *topic, *index, partition);
            }
            Record::Config { resource, key, value } => {
                configs::apply_config(image, resource, key, value.as_deref());
            }
            Record::ProducerIds { next } => image.producer_id_next = *next,
        }
    }

    fn snapshot(&self) -> Vec<Record> {
        let image = &self.image;
        let mut records = vec![Record::SnapshotStart];
        records
            .extend(image.cluster_id.iter().map(|it| Record::Cluster { cluster_id: it.clone() }));
        if image.producer_id_next > 0 {
            records.push(Record::ProducerIds { next: image.producer_id_next });
        }
        records.extend(image.brokers.values().cloned().map(Record::Broker));
        configs::snapshot_brokers(image, &mut records);
        for topic in image.topics.values() {
            topics::snapshot_topic(topic, &mut records);
        }
        records
    }
}

fn decide_init(image: &Image, cluster_id: String) -> Result<Option<Record>, MetadataRefused> {
    match &image.cluster_id {
        None => Ok(Some(Record::Cluster { cluster_id })),
        Some(ours) if *ours == cluster_id => Ok(None),
        Some(ours) => Err(MetadataRefused::OtherCluster { ours: ours.clone(), theirs: cluster_id }),
    }
}

fn decide_producer_ids(image: &Image, records: &mut Vec<Record>) -> Result<Reply, MetadataRefused> {
    let first = image.producer_id_next;
    let next = first.checked_add(PRODUCER_ID_BLOCK).ok_or(MetadataRefused::ProducerIdsExhausted)?;
    records.push(Record::ProducerIds { next });
    Ok(Reply::ProducerIds { first: ProducerId(first), count: PRODUCER_ID_BLOCK })
}

#[cfg(test)]
mod tests;
