//! Partitions: on whom they lie, who leads them, and more of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_model::env::Env;
use millrace_model::ids::{NodeId, PartitionIndex, TopicId};
use millrace_model::limits::PARTITIONS_PER_REQUEST_MAX;
use millrace_model::offset::LeaderEpoch;

use super::image::{Image, Partition};
use super::record::Record;
use super::topics::topic_mut;

/// A topic that shall have more partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartitions {
    pub topic: String,
    /// How many there shall be in all.
    pub count: i32,
    /// Brokers for each new one; `None`: the controller places them.
    pub assignments: Option<Vec<Vec<NodeId>>>,
}

/// Why a topic did not grow. Each stands for one Kafka error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreatePartitionsRefused {
    #[error("there is no topic '{name}'")]
    UnknownTopic { name: String },
    #[error("topic '{name}' is named twice in one request")]
    Repeated { name: String },
    #[error("{asked} is not more than the number of partitions that the topic has, {current}")]
    NotMore { current: usize, asked: i32 },
    #[error("a request may create {PARTITIONS_PER_REQUEST_MAX} partitions, not {count} and more")]
    TooManyPartitions { count: usize },
    #[error("{assigned} assignments do not fit {added} new partitions")]
    AssignmentCount { assigned: usize, added: usize },
    #[error(transparent)]
    InvalidAssignment(#[from] InvalidAssignment),
}

/// Why a list of brokers cannot hold a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAssignment {
    #[error("no partition is assigned")]
    NoPartition,
    #[error("partition {partition} is assigned to no broker")]
    Empty { partition: usize },
    #[error("partition {partition} is assigned twice to broker {broker}")]
    Twice { partition: usize, broker: NodeId },
    #[error("partition {partition} is assigned to broker {broker}, which is not registered")]
    UnknownBroker { partition: usize, broker: NodeId },
    #[error("partition {partition} is assigned to {count} brokers, others to {expected}")]
    Uneven { partition: usize, count: usize, expected: usize },
}

/// Checks manual assignments. `factor` is the replication factor to match; `None`: that of the first.
pub(super) fn check_assignments(
    image: &Image,
    assignments: &[Vec<NodeId>],
    factor: Option<usize>,
) -> Result<(), InvalidAssignment> {
    let first = assignments.first().ok_or(InvalidAssignment::NoPartition)?;
    let expected = factor.unwrap_or(first.len());
    for (partition, replicas) in assignments.iter().enumerate() {
        if replicas.is_empty() {
            return Err(InvalidAssignment::Empty { partition });
        }
        let mut seen = BTreeSet::new();
        for broker in replicas {
            if !seen.insert(broker) {
                return Err(InvalidAssignment::Twice { partition, broker: *broker });
            }
            if !image.brokers.contains_key(broker) {
                return Err(InvalidAssignment::UnknownBroker { partition, broker: *broker });
            }
        }
        if replicas.len() != expected {
            let count = replicas.len();
            return Err(InvalidAssignment::Uneven { partition, count, expected });
        }
    }
    Ok(())
}

/// Spreads partitions over the brokers, round robin from a random start.
///
/// NOTE: simpler than it should be: racks are not looked at. It matters once there are several brokers.
pub(super) struct Placement {
    brokers: Vec<NodeId>,
    start: usize,
}

impl Placement {
    /// # Panics
    /// When no broker is registered: callers check the replication factor first.
    pub(super) fn new(image: &Image, env: &mut Env) -> Self {
        let brokers: Vec<NodeId> = image.brokers.keys().copied().collect();
        let start = env.rng.below(brokers.len() as u64) as usize;
        Self { brokers, start }
    }

    pub(super) fn next(&mut self, replicas: usize) -> Vec<NodeId> {
        let count = self.brokers.len();
        let start = self.start;
        self.start = (start + 1) % count;
        (0..replicas).map(|i| self.brokers[(start + i) % count]).collect()
    }
}

/// A partition's first record: its first replica leads, all are in sync, there is nothing yet.
pub(super) fn new_partition(
    topic: TopicId,
    index: PartitionIndex,
    replicas: Vec<NodeId>,
) -> Record {
    let partition = Partition {
        leader: replicas.first().copied(),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        isr: replicas.clone(),
        replicas,
    };
    Record::Partition { topic, index, partition }
}

pub(super) fn decide_create(
    image: &Image,
    env: &mut Env,
    topics: &[NewPartitions],
    records: &mut Vec<Record>,
) -> Vec<Result<(), CreatePartitionsRefused>> {
    let mut named = BTreeSet::new();
    let mut total = 0;
    let mut decide = |it: &NewPartitions| {
        if !named.insert(it.topic.clone()) {
            return Err(CreatePartitionsRefused::Repeated { name: it.topic.clone() });
        }
        let more = decide_more(image, env, it, total)?;
        total += more.len();
        records.extend(more);
        Ok(())
    };
    topics.iter().map(&mut decide).collect()
}

fn decide_more(
    image: &Image,
    env: &mut Env,
    it: &NewPartitions,
    total: usize,
) -> Result<Vec<Record>, CreatePartitionsRefused> {
    let unknown = || CreatePartitionsRefused::UnknownTopic { name: it.topic.clone() };
    let topic = image.topic(&it.topic).ok_or_else(unknown)?;
    let current = topic.partitions.len();
    let added = usize::try_from(it.count).ok().filter(|count| *count > current);
    let not_more = CreatePartitionsRefused::NotMore { current, asked: it.count };
    let added = added.ok_or(not_more)? - current;
    if total + added > PARTITIONS_PER_REQUEST_MAX {
        return Err(CreatePartitionsRefused::TooManyPartitions { count: total + added });
    }
    let factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let assignments = match &it.assignments {
        Some(assignments) => {
            let assigned = assignments.len();
            if assigned != added {
                return Err(CreatePartitionsRefused::AssignmentCount { assigned, added });
            }
            check_assignments(image, assignments, Some(factor))?;
            assignments.clone()
        }
        None => {
            let mut placement = Placement::new(image, env);
            (0..added).map(|_| placement.next(factor)).collect()
        }
    };
    let indexes = (current..)
        .map(|index| PartitionIndex(i32::try_from(index).expect("the count asked for is an i32")));
    let records = indexes.zip(assignments);
    Ok(records.map(|(index, replicas)| new_partition(topic.id, index, replicas)).collect())
}

pub(super) fn apply_partition(
    image: &mut Image,
    topic: TopicId,
    index: PartitionIndex,
    partition: &Partition,
) {
    let partitions = &mut topic_mut(image, topic).partitions;
    let at = usize::try_from(index.0).expect("partition indexes are not negative");
    assert!(at <= partitions.len(), "partition {index} comes before its predecessor");
    match partitions.get_mut(at) {
        Some(slot) => *slot = Arc::new(partition.clone()),
        None => partitions.push(Arc::new(partition.clone())),
    }
}
