//! Topics: create, delete, grow, and create on first use. Decisions are the controller's; this is the way to it.

use std::sync::Arc;

use millrace_kernel::metadata::partitions::{CreatePartitionsRefused, NewPartitions};
use millrace_kernel::metadata::topics::{
    CreateTopicRefused, CreatedTopic, DeleteTopicRefused, DeletedTopic, NewTopic, TopicShape,
};
use millrace_kernel::metadata::{Command, Reply, TopicRef};
use millrace_model::ids::TopicName;

use crate::error::BrokerError;
use crate::partition::registry::Topic;
use crate::service::Hall;

/// Settings of the offsets topic that differ from a topic's defaults (`GroupCoordinatorConfig`).
const OFFSETS_TOPIC_CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("segment.bytes", "104857600"),
    ("durability", "durable"),
];

/// Creates topics, or says what would be; one result for each, in order.
///
/// # Errors
/// The controller cannot be asked.
pub(crate) async fn create(
    hall: &Hall,
    topics: Vec<NewTopic>,
    validate_only: bool,
) -> Result<Vec<Result<CreatedTopic, BrokerError>>, BrokerError> {
    let command = Command::CreateTopics { topics, validate_only };
    match hall.controller.ask(command).await? {
        Reply::TopicsCreated(results) => {
            Ok(results.into_iter().map(|it| it.map_err(BrokerError::from)).collect())
        }
        other => unreachable!("a creation was answered with {other:?}"),
    }
}

/// Deletes topics and their data; one result for each, in order.
///
/// # Errors
/// Deletion is disabled, or the controller cannot be asked.
pub(crate) async fn delete(
    hall: &Hall,
    topics: Vec<TopicRef>,
) -> Result<Vec<Result<DeletedTopic, BrokerError>>, BrokerError> {
    if !hall.config.delete_topic_enable {
        return Err(BrokerError::TopicDeletionDisabled);
    }
    match hall.controller.ask(Command::DeleteTopics { topics }).await? {
        Reply::TopicsDeleted(results) => {
            Ok(results.into_iter().map(|it| it.map_err(BrokerError::from)).collect())
        }
        other => unreachable!("a deletion was answered with {other:?}"),
    }
}

/// Adds partitions; one result for each topic, in order.
///
/// # Errors
/// The controller cannot be asked.
pub(crate) async fn grow(
    hall: &Hall,
    topics: Vec<NewPartitions>,
    validate_only: bool,
) -> Result<Vec<Result<(), BrokerError>>, BrokerError> {
    match hall.controller.ask(Command::CreatePartitions { topics, validate_only }).await? {
        Reply::PartitionsCreated(results) => {
            Ok(results.into_iter().map(|it| it.map_err(BrokerError::from)).collect())
        }
        other => unreachable!("a growth was answered with {other:?}"),
    }
}

/// Creates those of `names` that do not exist, with the broker's defaults, because a client asked for them.
/// Returns why a name could not become a topic.
pub(crate) async fn auto_create(hall: &Hall, names: Vec<String>) -> Vec<(String, BrokerError)> {
    let missing: Vec<String> =
        names.into_iter().filter(|name| hall.registry.topic(name).is_none()).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let topics = missing.iter().map(|name| new_with_defaults(name)).collect();
    let results = match create(hall, topics, false).await {
        Ok(results) => results,
        Err(error) => return missing.into_iter().map(|name| (name, error.clone())).collect(),
    };
    let refused = missing.into_iter().zip(results).filter_map(|(name, result)| match result {
        // Somebody else was faster, which is as good.
        Ok(_) | Err(BrokerError::TopicExists { .. }) => None,
        Err(error) => Some((name, error)),
    });
    refused.collect()
}

fn new_with_defaults(name: &str) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        shape: TopicShape::Counts { partitions: None, replication_factor: None },
        configs: Vec::new(),
    }
}

/// The topic of the groups' state; created by whoever needs it first.
///
/// # Errors
/// It cannot be created now.
pub(crate) async fn ensure_consumer_offsets(hall: &Hall) -> Result<Arc<Topic>, BrokerError> {
    if let Some(topic) = hall.registry.topic(TopicName::CONSUMER_OFFSETS) {
        return Ok(topic);
    }
    let configs =
        OFFSETS_TOPIC_CONFIGS.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
    let topic = NewTopic {
        name: TopicName::CONSUMER_OFFSETS.to_owned(),
        shape: TopicShape::Counts {
            partitions: Some(hall.config.offsets_topic_partitions),
            replication_factor: Some(1),
        },
        configs: configs.to_vec(),
    };
    for result in create(hall, vec![topic], false).await? {
        match result {
            Ok(_) | Err(BrokerError::TopicExists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    hall.registry.topic(TopicName::CONSUMER_OFFSETS).ok_or(BrokerError::CoordinatorNotAvailable {
        reason: "the offsets topic is being created",
    })
}

impl From<CreateTopicRefused> for BrokerError {
    fn from(refused: CreateTopicRefused) -> Self {
        let message = refused.to_string();
        match refused {
            CreateTopicRefused::InvalidName(invalid) => Self::InvalidTopic(invalid),
            CreateTopicRefused::Collision { .. } | CreateTopicRefused::Internal { .. } => {
                Self::InvalidTopicUse(message)
            }
            CreateTopicRefused::Exists { name } => Self::TopicExists { topic: name.to_string() },
            CreateTopicRefused::Repeated { .. } => Self::InvalidRequest(message),
            CreateTopicRefused::InvalidPartitions { .. } => Self::InvalidPartitions(message),
            CreateTopicRefused::TooManyPartitions { .. } => Self::PolicyViolation(message),
            CreateTopicRefused::InvalidReplicationFactor { .. } => {
                Self::InvalidReplicationFactor(message)
            }
            CreateTopicRefused::InvalidAssignment(_) => Self::InvalidReplicaAssignment(message),
            CreateTopicRefused::InvalidConfig(_) => Self::InvalidConfig(message),
        }
    }
}

impl From<DeleteTopicRefused> for BrokerError {
    fn from(refused: DeleteTopicRefused) -> Self {
        match refused {
            DeleteTopicRefused::UnknownName { name } => Self::unknown_topic(&name),
            DeleteTopicRefused::UnknownId { id } => Self::UnknownTopicId { id },
            DeleteTopicRefused::Internal { name } => {
                Self::InternalTopic { topic: name.to_string() }
            }
        }
    }
}

impl From<CreatePartitionsRefused> for BrokerError {
    fn from(refused: CreatePartitionsRefused) -> Self {
        let message = refused.to_string();
        match refused {
            CreatePartitionsRefused::UnknownTopic { name } => Self::unknown_topic(&name),
            CreatePartitionsRefused::Repeated { .. } => Self::InvalidRequest(message),
            CreatePartitionsRefused::NotMore { .. } => Self::InvalidPartitions(message),
            CreatePartitionsRefused::TooManyPartitions { .. } => Self::PolicyViolation(message),
            CreatePartitionsRefused::AssignmentCount { .. }
            | CreatePartitionsRefused::InvalidAssignment(_) => {
                Self::InvalidReplicaAssignment(message)
            }
        }
    }
}
