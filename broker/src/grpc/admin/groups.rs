//! Groups: list, describe with lag, delete, and their committed offsets.

use std::collections::{BTreeMap, BTreeSet};

use millrace_kernel::group::{
    GroupCommand, GroupReply, GroupState, ListFilter, ListedGroup, MemberDescription as Member,
    PerTopic,
};
use millrace_model::ids::{GroupId, PartitionIndex, TopicName};
use millrace_proto::v1::{
    CommitForgotten, DeleteGroupRequest, DeleteGroupResponse, DeleteOffsetsRequest,
    DeleteOffsetsResponse, DescribeGroupRequest, DescribeGroupResponse, GroupSummary, ItemStatus,
    ListGroupsRequest, ListGroupsResponse, MemberDescription, PartitionLag, ResetOffset,
    ResetOffsetsRequest, ResetOffsetsResponse, TopicPartition,
};
use tonic::Status;

use crate::error::BrokerError;
use crate::grpc::admin::offsets::{partitions, place, topic};
use crate::grpc::errors;
use crate::service::Hall;
use crate::service::group_offsets::{self, Moved, Reset};
use crate::service::groups::{self, GroupFailed};
use crate::service::lag;

/// Of a log that cannot be looked into.
const UNKNOWN: i64 = -1;

pub(super) async fn list(
    hall: &Hall,
    request: ListGroupsRequest,
) -> Result<ListGroupsResponse, Status> {
    let states = states(&request.states)?;
    let command = || GroupCommand::List(ListFilter { states: states.clone() });
    let mut found = Vec::new();
    for reply in groups::call_all(hall, command).await {
        match reply.map_err(|error| errors::status(&error))? {
            GroupReply::List(listed) => found.extend(listed.map_err(errors::group_status)?),
            other => unreachable!("a list was answered with {other:?}"),
        }
    }
    found.sort_by(|a: &ListedGroup, b| a.group.cmp(&b.group));
    let groups = found.into_iter().map(|it| GroupSummary {
        group: it.group.as_str().to_owned(),
        state: it.state.as_str().to_owned(),
        protocol_type: it.protocol_type.to_string(),
    });
    Ok(ListGroupsResponse { groups: groups.collect() })
}

fn states(names: &[String]) -> Result<Option<BTreeSet<GroupState>>, Status> {
    let parse = |name: &String| {
        let unknown = || errors::invalid("states", &format!("no group is ever {name:?}"));
        GroupState::parse(name).ok_or_else(unknown)
    };
    let states: BTreeSet<_> = names.iter().map(parse).collect::<Result<_, _>>()?;
    Ok((!states.is_empty()).then_some(states))
}

pub(super) async fn describe(
    hall: &Hall,
    request: DescribeGroupRequest,
) -> Result<DescribeGroupResponse, Status> {
    let group = GroupId::new(&request.group);
    let lag::GroupLag { description, partitions } = of_group(hall, &group).await?;
    Ok(DescribeGroupResponse {
        group: Some(GroupSummary {
            group: request.group,
            state: description.state.as_str().to_owned(),
            protocol_type: description.protocol_type.to_string(),
        }),
        protocol: description.protocol.to_string(),
        coordinator: hall.config.node_id.0,
        members: description.members.iter().map(member).collect(),
        partitions: partitions.into_iter().map(partition_lag).collect(),
    })
}

/// A group with its lag.
pub(super) async fn of_group(hall: &Hall, group: &GroupId) -> Result<lag::GroupLag, Status> {
    lag::of_group(hall, group).await.map_err(|failed| errors::group_failed(&failed))
}

fn member(member: &Member) -> MemberDescription {
    let assignment = lag::assignment(&member.assignment).into_iter();
    let assignment =
        assignment.map(|(topic, it)| TopicPartition { topic: topic.to_string(), partition: it.0 });
    MemberDescription {
        member_id: member.member.to_string(),
        instance_id: member.instance.as_ref().map(ToString::to_string),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        assignment: assignment.collect(),
    }
}

/// How far a group is in one partition, as the contract says it.
pub(super) fn partition_lag(it: lag::PartitionLag) -> PartitionLag {
    let log = it.log;
    PartitionLag {
        topic: it.topic.to_string(),
        partition: it.partition.0,
        committed: it.progress.committed,
        metadata: it.progress.metadata.into(),
        log_start: log.map_or(UNKNOWN, |log| log.start.0),
        high_watermark: log.map_or(UNKNOWN, |log| log.high_watermark.0),
        lag: log.map_or(UNKNOWN, |log| log.records),
        lag_ms: log.map_or(UNKNOWN, |log| log.age_ms),
        member_id: it.progress.member.map(|it| it.to_string()).unwrap_or_default(),
    }
}

pub(super) async fn delete(
    hall: &Hall,
    request: DeleteGroupRequest,
) -> Result<DeleteGroupResponse, Status> {
    let group = GroupId::new(&request.group);
    let command = GroupCommand::DeleteGroup { group: group.clone() };
    match groups::call(hall, &group, command).await.map_err(|error| errors::status(&error))? {
        GroupReply::DeleteGroup(deleted) => deleted.map_err(errors::group_status)?,
        other => unreachable!("a delete was answered with {other:?}"),
    }
    Ok(DeleteGroupResponse {})
}

pub(super) async fn reset_offsets(
    hall: &Hall,
    request: ResetOffsetsRequest,
) -> Result<ResetOffsetsResponse, Status> {
    let topic = topic(hall, &request.topic)?;
    let place = place(request.position.as_ref())?;
    let mut wanted = partitions(&topic, request.partitions);
    wanted.sort_unstable();
    wanted.dedup();
    let group = GroupId::new(&request.group);
    let reset = Reset { group, topic, partitions: wanted, place, dry_run: request.dry_run };
    let moved = group_offsets::reset(hall, &reset).await;
    let moved = moved.map_err(|failed| errors::group_failed(&failed))?;
    let offsets = reset.partitions.iter().zip(moved).map(|(&partition, moved)| match moved {
        Ok(Moved { before, after }) => {
            ResetOffset { partition, before, after: after.0, status: Some(errors::success()) }
        }
        Err(failed) => {
            ResetOffset { partition, before: None, after: UNKNOWN, status: Some(item(&failed)) }
        }
    });
    Ok(ResetOffsetsResponse { offsets: offsets.collect() })
}

fn item(failed: &GroupFailed) -> ItemStatus {
    match failed {
        GroupFailed::Refused(error) => errors::group_item(*error),
        GroupFailed::Unreachable(error) => errors::item(error),
    }
}

pub(super) async fn delete_offsets(
    hall: &Hall,
    request: DeleteOffsetsRequest,
) -> Result<DeleteOffsetsResponse, Status> {
    let mut known: BTreeMap<TopicName, Vec<PartitionIndex>> = BTreeMap::new();
    for it in &request.partitions {
        if let Ok((topic, _)) = hall.registry.leader(&it.topic, it.partition) {
            known.entry(topic.name().clone()).or_default().push(PartitionIndex(it.partition));
        }
    }
    let topics = known.into_iter().map(|(topic, partitions)| PerTopic { topic, partitions });
    let group = GroupId::new(&request.group);
    let results = group_offsets::delete(hall, &group, topics.collect()).await;
    let mut statuses = BTreeMap::new();
    for PerTopic { topic, partitions } in results.map_err(|it| errors::group_failed(&it))? {
        for (partition, result) in partitions {
            let status = result.err().map_or_else(errors::success, errors::group_item);
            statuses.insert((topic.to_string(), partition.0), status);
        }
    }
    let partitions = request.partitions.into_iter().map(|TopicPartition { topic, partition }| {
        let known = statuses.get(&(topic.clone(), partition)).cloned();
        let unknown = || {
            let topic = topic.clone();
            errors::item(&BrokerError::UnknownTopicOrPartition { topic, partition })
        };
        let status = Some(known.unwrap_or_else(unknown));
        CommitForgotten { topic, partition, status }
    });
    Ok(DeleteOffsetsResponse { partitions: partitions.collect() })
}
