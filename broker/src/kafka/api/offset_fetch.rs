//! OffsetFetch, key 9, versions 1-9.
//!
//! Behaviour: an unknown group or partition is offset -1 without error (`GroupMetadataManager.fetchOffsets`).
//! `require_stable` changes nothing: no transaction ever has a pending commit here.
//! Version notes: null topics mean all from 2 on; 2 brings the error of the whole; 5 the leader epoch; 8 several groups
//! (KIP-709).

use millrace_kernel::group::{FetchOffsets, FetchedOffset, GroupCommand, GroupReply, PerTopic};
use millrace_model::ids::{GroupId, PartitionIndex, TopicName};
use millrace_wire::cold::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use millrace_wire::cold::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use millrace_wire::cold::messages::{
    OffsetFetchRequest, OffsetFetchResponse, TopicName as WireTopicName,
};

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let mut groups = Vec::new();
    for group in request.groups {
        groups.push(one_group(hall, group).await);
    }
    OffsetFetchResponse::default().with_groups(groups)
}

async fn one_group(hall: &Hall, asked: OffsetFetchRequestGroup) -> OffsetFetchResponseGroup {
    let group = GroupId::new(&asked.group_id);
    let answer = OffsetFetchResponseGroup::default().with_group_id(asked.group_id);
    let topics = asked.topics.as_deref().map(legal_topics);
    let command = GroupCommand::FetchOffsets(FetchOffsets { group: group.clone(), topics });
    let code = match groups::call(hall, &group, command).await {
        Ok(GroupReply::FetchOffsets(Ok(found))) => {
            let mut topics: Vec<_> = found.into_iter().map(answered).collect();
            topics.extend(illegal_topics(asked.topics.unwrap_or_default()));
            return answer.with_topics(topics);
        }
        Ok(GroupReply::FetchOffsets(Err(error))) => errors::group_number(error),
        Ok(other) => unreachable!("an offset fetch was answered with {other:?}"),
        Err(error) => errors::number(&error),
    };
    // Version 1 has no error of the whole: its partitions must be there to carry it.
    let topics = asked.topics.unwrap_or_default().into_iter().map(nothing).collect();
    answer.with_error_code(code).with_topics(topics)
}

fn legal_topics(asked: &[OffsetFetchRequestTopics]) -> Vec<PerTopic<Vec<PartitionIndex>>> {
    let legal = asked.iter().filter_map(|it| {
        let topic = TopicName::parse(&it.name).ok()?;
        let partitions = it.partition_indexes.iter().copied().map(PartitionIndex).collect();
        Some(PerTopic { topic, partitions })
    });
    legal.collect()
}

/// An illegal name cannot have offsets, which is no error.
fn illegal_topics(
    asked: Vec<OffsetFetchRequestTopics>,
) -> impl Iterator<Item = OffsetFetchResponseTopics> {
    asked.into_iter().filter(|it| TopicName::parse(&it.name).is_err()).map(nothing)
}

fn nothing(asked: OffsetFetchRequestTopics) -> OffsetFetchResponseTopics {
    let none = |partition| FetchedOffset { partition: PartitionIndex(partition), committed: None };
    let partitions = asked.partition_indexes.into_iter().map(none).map(partition).collect();
    OffsetFetchResponseTopics::default().with_name(asked.name).with_partitions(partitions)
}

fn answered(found: PerTopic<Vec<FetchedOffset>>) -> OffsetFetchResponseTopics {
    OffsetFetchResponseTopics::default()
        .with_name(WireTopicName(text(found.topic.as_str())))
        .with_partitions(found.partitions.into_iter().map(partition).collect())
}

fn partition(fetched: FetchedOffset) -> OffsetFetchResponsePartitions {
    let answer = OffsetFetchResponsePartitions::default()
        .with_partition_index(fetched.partition.0)
        .with_committed_offset(-1)
        .with_committed_leader_epoch(-1)
        .with_metadata(Some(text("")));
    match fetched.committed {
        Some(it) => answer
            .with_committed_offset(it.offset)
            .with_committed_leader_epoch(it.leader_epoch.0)
            .with_metadata(Some(text(&it.metadata))),
        None => answer,
    }
}
