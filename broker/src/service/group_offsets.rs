//! Looking after what a group has committed: set anew, or forgotten. What a running consumer commits by itself is not
//! here: doors ask its coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_kernel::group::{
    CommitOffset, CommitOffsets, DeleteOffsets, Generation, GroupCommand, GroupError, GroupReply,
    MemberId, PartitionResults, PerTopic,
};
use millrace_model::ids::{GroupId, PartitionIndex, TopicId, TopicName};
use millrace_model::offset::{LeaderEpoch, Offset};

use crate::error::BrokerError;
use crate::partition::registry::Topic;
use crate::service::Hall;
use crate::service::groups::{self, GroupFailed};
use crate::service::offsets::{self, Place};

/// A committed offset before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) before: Option<i64>,
    pub(crate) after: Offset,
}

/// What is to be set anew.
pub(crate) struct Reset {
    pub(crate) group: GroupId,
    pub(crate) topic: Arc<Topic>,
    pub(crate) partitions: Vec<i32>,
    pub(crate) place: Place,
    /// Only say what would be committed.
    pub(crate) dry_run: bool,
}

/// Sets what a group has committed in some partitions of a topic to a place, or to the log's nearest end where the
/// place is outside; one result for each partition, in order. A group that does not exist comes into being.
///
/// # Errors
/// The group has members: they would not notice.
pub(crate) async fn reset(
    hall: &Hall,
    reset: &Reset,
) -> Result<Vec<Result<Moved, GroupFailed>>, GroupFailed> {
    must_be_empty(hall, &reset.group).await?;
    let before = committed_in(hall, &reset.group, reset.topic.name()).await?;
    let mut moved = Vec::with_capacity(reset.partitions.len());
    for &partition in &reset.partitions {
        let after = nearest(&reset.topic, partition, reset.place).await;
        let before = before.get(&PartitionIndex(partition)).copied();
        moved.push(after.map(|after| Moved { before, after }).map_err(GroupFailed::from));
    }
    if reset.dry_run {
        return Ok(moved);
    }
    let results = commit(hall, reset, &moved).await?;
    let result = |partition: i32, moved: Result<Moved, GroupFailed>| {
        let refused = results.get(&PartitionIndex(partition)).and_then(|it| it.err());
        moved.and_then(|moved| refused.map_or(Ok(moved), |error| Err(error.into())))
    };
    Ok(reset.partitions.iter().zip(moved).map(|(&it, moved)| result(it, moved)).collect())
}

async fn must_be_empty(hall: &Hall, group: &GroupId) -> Result<(), GroupFailed> {
    match groups::describe(hall, group).await {
        Ok(description) if description.members.is_empty() => Ok(()),
        Ok(_) => Err(GroupError::NonEmptyGroup.into()),
        Err(GroupFailed::Refused(GroupError::GroupIdNotFound)) => Ok(()),
        Err(failed) => Err(failed),
    }
}

async fn committed_in(
    hall: &Hall,
    group: &GroupId,
    topic: &TopicName,
) -> Result<BTreeMap<PartitionIndex, i64>, GroupFailed> {
    let all = groups::committed(hall, group).await?.into_iter();
    let mine = all.filter(|it| it.topic == *topic).flat_map(|it| it.partitions);
    Ok(mine.filter_map(|it| Some((it.partition, it.committed?.offset))).collect())
}

async fn nearest(topic: &Topic, partition: i32, place: Place) -> Result<Offset, BrokerError> {
    let partition = topic.partition(partition)?;
    let located = offsets::locate(partition, place).await?;
    let start = partition.marks().log_start();
    Ok(located.offset.clamp(start, partition.marks().high_watermark().max(start)))
}

/// Commits as nobody in particular, which a coordinator allows while the group is empty.
async fn commit(
    hall: &Hall,
    reset: &Reset,
    moved: &[Result<Moved, GroupFailed>],
) -> Result<BTreeMap<PartitionIndex, Result<(), GroupError>>, GroupFailed> {
    let partitions: Vec<_> = reset
        .partitions
        .iter()
        .zip(moved)
        .filter_map(|(&partition, moved)| {
            Some(CommitOffset {
                partition: PartitionIndex(partition),
                offset: moved.as_ref().ok()?.after.0,
                leader_epoch: LeaderEpoch(-1),
                metadata: "".into(),
                topic_id: TopicId::ZERO,
            })
        })
        .collect();
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let commit = CommitOffsets {
        group: reset.group.clone(),
        generation: Generation::NONE,
        member: MemberId::none(),
        instance: None,
        retention_ms: None,
        topics: vec![PerTopic { topic: reset.topic.name().clone(), partitions }],
    };
    match groups::call(hall, &reset.group, GroupCommand::CommitOffsets(commit)).await? {
        GroupReply::CommitOffsets(Ok(results)) => {
            Ok(results.into_iter().flat_map(|it| it.partitions).collect())
        }
        // Somebody joined since we looked.
        GroupReply::CommitOffsets(Err(
            GroupError::UnknownMemberId | GroupError::IllegalGeneration,
        )) => Err(GroupError::NonEmptyGroup.into()),
        GroupReply::CommitOffsets(Err(error)) => Err(error.into()),
        other => unreachable!("a commit was answered with {other:?}"),
    }
}

/// Forgets what a group has committed; partitions that do not exist, and those that the answer lacks, are left out.
///
/// # Errors
/// There is no such group, or nobody who knows.
pub(crate) async fn delete(
    hall: &Hall,
    group: &GroupId,
    topics: Vec<PerTopic<Vec<PartitionIndex>>>,
) -> Result<Vec<PerTopic<PartitionResults>>, GroupFailed> {
    let command = GroupCommand::DeleteOffsets(DeleteOffsets { group: group.clone(), topics });
    match groups::call(hall, group, command).await? {
        GroupReply::DeleteOffsets(results) => Ok(results?),
        other => unreachable!("an offset delete was answered with {other:?}"),
    }
}
