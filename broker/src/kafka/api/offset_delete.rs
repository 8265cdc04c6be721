//! OffsetDelete, key 47, version 0.
//!
//! Behaviour: the coordinator's (KIP-496): GROUP_SUBSCRIBED_TO_TOPIC for a topic that a live member reads; a topic or
//! partition that does not exist is UNKNOWN_TOPIC_OR_PARTITION for itself alone.

use std::collections::BTreeMap;

use millrace_kernel::group::{DeleteOffsets, GroupCommand, GroupReply, PerTopic};
use millrace_model::ids::{GroupId, PartitionIndex};
use millrace_wire::cold::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use millrace_wire::cold::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let group = GroupId::new(&request.group_id);
    let exists = |topic: &str, partition| hall.registry.leader(topic, partition).is_ok();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let Some(found) = hall.registry.topic(&topic.name) else { continue };
        let asked = topic.partitions.iter().map(|it| it.partition_index);
        let partitions = asked.filter(|it| exists(&topic.name, *it)).map(PartitionIndex).collect();
        topics.push(PerTopic { topic: found.name().clone(), partitions });
    }
    let refused = |code: i16| OffsetDeleteResponse::default().with_error_code(code);
    let command = GroupCommand::DeleteOffsets(DeleteOffsets { group: group.clone(), topics });
    let results = match groups::call(hall, &group, command).await {
        Ok(GroupReply::DeleteOffsets(Ok(results))) => results,
        Ok(GroupReply::DeleteOffsets(Err(error))) => return refused(errors::group_number(error)),
        Ok(other) => unreachable!("an offset delete was answered with {other:?}"),
        Err(error) => return refused(errors::number(&error)),
    };
    let mut codes = BTreeMap::new();
    for PerTopic { topic, partitions } in results {
        for (partition, result) in partitions {
            let code = result.err().map_or(0, errors::group_number);
            codes.insert((topic.to_string(), partition.0), code);
        }
    }
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|it| {
            let index = it.partition_index;
            let code = codes.get(&(topic.name.to_string(), index)).copied();
            OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code.unwrap_or(ErrorCode::UnknownTopicOrPartition.code()))
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
