//! OffsetCommit, key 8, versions 2-9.
//!
//! Behaviour: a topic or partition that does not exist is UNKNOWN_TOPIC_OR_PARTITION for itself alone; the rest goes to
//! the coordinator and is durable before the reply. Version notes: 2-4 may carry a retention of the client's own; 6
//! the leader epoch; 7 static members; a group that is unknown is ILLEGAL_GENERATION below 9, GROUP_ID_NOT_FOUND from
//! 9 on (`GroupMetadataManager.validateOffsetCommit`).

use std::collections::BTreeMap;

use millrace_kernel::group::{
    self, CommitOffset, Generation, GroupCommand, GroupError, GroupReply, MemberId, PerTopic,
};
use millrace_model::ids::{GroupId, PartitionIndex, TopicId};
use millrace_model::offset::LeaderEpoch;
use millrace_wire::cold::messages::offset_commit_request::OffsetCommitRequestTopic;
use millrace_wire::cold::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use millrace_wire::cold::messages::{OffsetCommitRequest, OffsetCommitResponse};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::instance;
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    version: i16,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    let group = GroupId::new(&request.group_id);
    let known = known_topics(hall, &request.topics);
    let commit = group::CommitOffsets {
        group: group.clone(),
        generation: Generation(request.generation_id_or_member_epoch),
        member: MemberId::new(&request.member_id),
        instance: instance(request.group_instance_id.as_ref()),
        retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0),
        topics: known,
    };
    let (codes, whole) = match groups::call(hall, &group, GroupCommand::CommitOffsets(commit)).await
    {
        Ok(GroupReply::CommitOffsets(Ok(results))) => (by_partition(results), 0),
        Ok(GroupReply::CommitOffsets(Err(error))) => (BTreeMap::new(), whole_error(version, error)),
        Ok(other) => unreachable!("a commit was answered with {other:?}"),
        Err(error) => (BTreeMap::new(), errors::number(&error)),
    };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            let code = if exists(hall, &topic.name, index) {
                let own = codes.get(&(topic.name.to_string(), index)).copied();
                if whole != 0 { whole } else { own.unwrap_or(0) }
            } else {
                ErrorCode::UnknownTopicOrPartition.code()
            };
            OffsetCommitResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn exists(hall: &Hall, topic: &str, partition: i32) -> bool {
    hall.registry.leader(topic, partition).is_ok()
}

fn known_topics(
    hall: &Hall,
    topics: &[OffsetCommitRequestTopic],
) -> Vec<PerTopic<Vec<CommitOffset>>> {
    let mut known = Vec::new();
    for topic in topics {
        let Some(found) = hall.registry.topic(&topic.name) else { continue };
        let partitions = topic.partitions.iter();
        let partitions: Vec<_> = partitions
            .filter(|partition| exists(hall, &topic.name, partition.partition_index))
            .map(|partition| CommitOffset {
                partition: PartitionIndex(partition.partition_index),
                offset: partition.committed_offset,
                leader_epoch: LeaderEpoch(partition.committed_leader_epoch),
                metadata: partition.committed_metadata.as_deref().unwrap_or_default().into(),
                topic_id: TopicId::ZERO,
            })
            .collect();
        if !partitions.is_empty() {
            known.push(PerTopic { topic: found.name().clone(), partitions });
        }
    }
    known
}

fn by_partition(results: Vec<PerTopic<group::PartitionResults>>) -> BTreeMap<(String, i32), i16> {
    let mut codes = BTreeMap::new();
    for PerTopic { topic, partitions } in results {
        for (partition, result) in partitions {
            let code = result.err().map_or(0, errors::group_number);
            codes.insert((topic.to_string(), partition.0), code);
        }
    }
    codes
}

fn whole_error(version: i16, error: GroupError) -> i16 {
    match error {
        GroupError::GroupIdNotFound if version < 9 => ErrorCode::IllegalGeneration.code(),
        // What Kafka's clients of these APIs know (`CoordinatorUtils`, `OffsetCommitRequest.getErrorResponse`).
        other => errors::group_number(other),
    }
}
