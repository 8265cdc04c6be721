//! Commits of offsets, in a stream and beside it: each offset is answered for itself.

use std::collections::BTreeMap;

use millrace_kernel::group::{
    CommitOffset, CommitOffsets, Generation, GroupCommand, GroupReply, InstanceId, MemberId,
    PerTopic,
};
use millrace_model::ids::{GroupId, PartitionIndex, TopicId, TopicName};
use millrace_model::offset::LeaderEpoch;
use millrace_proto::v1::{CommitResult, CommittedOffset};

use crate::error::BrokerError;
use crate::grpc::errors;
use crate::service::Hall;
use crate::service::groups::{self, GroupFailed};

/// Who commits.
pub(super) struct Committer {
    pub(super) group: GroupId,
    /// [`MemberId::none`] for those who are no member.
    pub(super) member: MemberId,
    pub(super) generation: Generation,
    pub(super) instance: Option<InstanceId>,
}

/// Commits what can be committed; one result for each offset, in order.
///
/// # Errors
/// The coordinator takes nothing from this committer, or there is none.
pub(super) async fn commit(
    hall: &Hall,
    by: Committer,
    offsets: Vec<CommittedOffset>,
) -> Result<Vec<CommitResult>, GroupFailed> {
    let mut topics: BTreeMap<TopicName, Vec<CommitOffset>> = BTreeMap::new();
    let mut admitted = Vec::with_capacity(offsets.len());
    for offset in &offsets {
        admitted.push(admit(hall, offset).map(|(topic, offset)| {
            topics.entry(topic.clone()).or_default().push(offset);
            topic
        }));
    }
    let topics = topics.into_iter().map(|(topic, partitions)| PerTopic { topic, partitions });
    let group = by.group.clone();
    let command = CommitOffsets {
        group: by.group,
        generation: by.generation,
        member: by.member,
        instance: by.instance,
        retention_ms: None,
        topics: topics.collect(),
    };
    let results = match groups::call(hall, &group, GroupCommand::CommitOffsets(command)).await? {
        GroupReply::CommitOffsets(results) => results?,
        other => unreachable!("a commit was answered with {other:?}"),
    };
    // The coordinator answers in the order of each topic's offsets.
    let mut results: BTreeMap<TopicName, std::vec::IntoIter<_>> =
        results.into_iter().map(|it| (it.topic, it.partitions.into_iter())).collect();
    let results = offsets.into_iter().zip(admitted).map(|(offset, admitted)| {
        let status = match admitted {
            Err(error) => errors::item(&error),
            Ok(topic) => match results.get_mut(&topic).and_then(Iterator::next) {
                Some((_, Err(error))) => errors::group_item(error),
                Some((_, Ok(()))) | None => errors::success(),
            },
        };
        CommitResult { topic: offset.topic, partition: offset.partition, status: Some(status) }
    });
    Ok(results.collect())
}

/// The results when nothing was taken.
pub(super) fn all_refused(
    offsets: Vec<CommittedOffset>,
    failed: &GroupFailed,
) -> Vec<CommitResult> {
    let status = match failed {
        GroupFailed::Refused(error) => errors::group_item(*error),
        GroupFailed::Unreachable(error) => errors::item(error),
    };
    let refused = |offset: CommittedOffset| CommitResult {
        topic: offset.topic,
        partition: offset.partition,
        status: Some(status.clone()),
    };
    offsets.into_iter().map(refused).collect()
}

fn admit(hall: &Hall, offset: &CommittedOffset) -> Result<(TopicName, CommitOffset), BrokerError> {
    let (topic, _) = hall.registry.leader(&offset.topic, offset.partition)?;
    if offset.offset < 0 {
        return Err(BrokerError::InvalidRequest(format!("offset {} is negative", offset.offset)));
    }
    let commit = CommitOffset {
        partition: PartitionIndex(offset.partition),
        offset: offset.offset,
        leader_epoch: LeaderEpoch::NONE,
        metadata: offset.metadata.as_str().into(),
        topic_id: TopicId::ZERO,
    };
    Ok((topic.name().clone(), commit))
}
