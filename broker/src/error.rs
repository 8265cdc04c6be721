//! The vocabulary of refusal: what the hall says when it does not do what was asked. Every door translates it once.

pub(crate) mod codes;

use std::sync::Arc;

use millrace_model::batch::InvalidBatch;
use millrace_model::ids::{InvalidTopicName, NodeId, TopicId};
use millrace_model::offset::{LeaderEpoch, Offset};

/// Why an operation was refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("{}", missing(topic, *partition))]
    UnknownTopicOrPartition { topic: String, partition: i32 },
    #[error("no topic has the id {id}")]
    UnknownTopicId { id: TopicId },
    #[error("topic id {id} belongs to another topic")]
    InconsistentTopicId { id: TopicId },
    #[error("broker {node} does not lead this partition")]
    NotLeader { node: NodeId },
    #[error(transparent)]
    InvalidBatch(#[from] InvalidBatch),
    #[error("the records field is empty")]
    NoRecords,
    #[error("zstd needs Produce version 7 or later")]
    ZstdNeedsNewerClient,
    #[error("transactions are not supported")]
    TransactionsUnsupported,
    #[error("acks {acks} is none of -1, 0, 1")]
    InvalidRequiredAcks { acks: i16 },
    #[error("topic {topic} is internal: clients may read it, not write it")]
    InternalTopic { topic: String },
    #[error("{0}")]
    InvalidRecord(String),
    #[error("{0}")]
    InvalidTimestamp(String),
    #[error("{0}")]
    OutOfOrderSequence(String),
    #[error("{0}")]
    DuplicateSequence(String),
    #[error("{0}")]
    InvalidProducerEpoch(String),
    #[error("{0}")]
    UnknownProducerId(String),
    #[error("{0}")]
    NotEnoughReplicas(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("storage refuses: {reason}")]
    Storage { reason: Arc<str> },
    #[error("not stored within {timeout_ms} ms; it may still be")]
    Timeout { timeout_ms: u64 },
    #[error("offset {offset} is outside {start}..{end}")]
    OffsetOutOfRange { offset: Offset, start: Offset, end: Offset },
    #[error("the client's leader epoch {asked} is older than {current}")]
    FencedLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error("the client's leader epoch {asked} is newer than {current}")]
    UnknownLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error(transparent)]
    InvalidTopic(#[from] InvalidTopicName),
    #[error("{0}")]
    InvalidTopicUse(String),
    #[error("topic {topic} already exists")]
    TopicExists { topic: String },
    #[error("{0}")]
    InvalidPartitions(String),
    #[error("{0}")]
    InvalidReplicationFactor(String),
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    #[error("{0}")]
    InvalidConfig(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{0}")]
    PolicyViolation(String),
    #[error("topic deletion is disabled by delete.topic.enable")]
    TopicDeletionDisabled,
    #[error("the broker is not ready: {reason}")]
    CoordinatorNotAvailable { reason: &'static str },
    #[error("the group's state is still being loaded")]
    CoordinatorLoading,
    #[error("the broker is shutting down")]
    ShuttingDown,
    #[error("the broker is at its limit {limit}; try again")]
    Overloaded { limit: &'static str },
}

/// In place of a partition: not even the topic is there.
const WHOLE_TOPIC: i32 = i32::MIN;

impl BrokerError {
    /// There is no such topic.
    pub(crate) fn unknown_topic(topic: &str) -> Self {
        Self::UnknownTopicOrPartition { topic: topic.to_owned(), partition: WHOLE_TOPIC }
    }
}

fn missing(topic: &str, partition: i32) -> String {
    match partition {
        WHOLE_TOPIC => format!("topic {topic} does not exist on this broker"),
        _ => format!("topic {topic} or its partition {partition} does not exist on this broker"),
    }
}
