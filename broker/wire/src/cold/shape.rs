//! Which message belongs to which API, and the differences between versions that a handler should not have to know:
//! requests are lifted to the newest shape, responses lowered to the version that was asked for.
//!
//! A handler therefore reads and fills `groups` of OffsetFetch, `coordinators` of FindCoordinator, `members` of
//! LeaveGroup and `topics` of DeleteTopics, whatever the version. Fields that a version lacks may be set: they are
//! cleared here, or left out by the codec.

use super::messages::delete_topics_request::DeleteTopicState;
use super::messages::leave_group_request::MemberIdentity;
use super::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use super::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
};
use super::messages::*;
use super::{Request, Response};
use crate::ApiKey;

/// Calls a macro with every cold API: key, request and response, with what lifts and lowers them in brackets.
macro_rules! cold_apis {
    ($then:ident) => {
        $then! {
            ListOffsets ListOffsetsRequest ListOffsetsResponse[lower_list_offsets];
            Metadata MetadataRequest[lift_metadata] MetadataResponse[lower_metadata];
            OffsetCommit OffsetCommitRequest OffsetCommitResponse;
            OffsetFetch OffsetFetchRequest[lift_offset_fetch] OffsetFetchResponse[lower_offset_fetch];
            FindCoordinator FindCoordinatorRequest[lift_find_coordinator]
                FindCoordinatorResponse[lower_find_coordinator];
            JoinGroup JoinGroupRequest[lift_join_group] JoinGroupResponse[lower_join_group];
            Heartbeat HeartbeatRequest HeartbeatResponse;
            LeaveGroup LeaveGroupRequest[lift_leave_group] LeaveGroupResponse[lower_leave_group];
            SyncGroup SyncGroupRequest SyncGroupResponse;
            DescribeGroups DescribeGroupsRequest DescribeGroupsResponse[lower_describe_groups];
            ListGroups ListGroupsRequest ListGroupsResponse;
            ApiVersions ApiVersionsRequest ApiVersionsResponse[lower_api_versions];
            CreateTopics CreateTopicsRequest CreateTopicsResponse;
            DeleteTopics DeleteTopicsRequest[lift_delete_topics]
                DeleteTopicsResponse[lower_delete_topics];
            DeleteRecords DeleteRecordsRequest DeleteRecordsResponse;
            InitProducerId InitProducerIdRequest InitProducerIdResponse[lower_init_producer_id];
            OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse;
            DescribeAcls DescribeAclsRequest DescribeAclsResponse;
            DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse;
            AlterConfigs AlterConfigsRequest AlterConfigsResponse;
            DescribeLogDirs DescribeLogDirsRequest DescribeLogDirsResponse;
            CreatePartitions CreatePartitionsRequest CreatePartitionsResponse;
            DeleteGroups DeleteGroupsRequest DeleteGroupsResponse;
            IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse;
            OffsetDelete OffsetDeleteRequest OffsetDeleteResponse;
            DescribeCluster DescribeClusterRequest DescribeClusterResponse[lower_describe_cluster];
        }
    };
}

macro_rules! implement {
    ($($api:ident $request:ident $([$lift:ident])? $response:ident $([$lower:ident])?;)+) => {
        $(
            impl Request for $request {
                const API: ApiKey = ApiKey::$api;
                type Response = $response;
                $(fn lift(&mut self, version: i16) {
                    $lift(self, version);
                })?
            }

            impl Response for $response {
                const API: ApiKey = ApiKey::$api;
                $(fn lower(&mut self, version: i16) {
                    $lower(self, version);
                })?
            }
        )+
    };
}

cold_apis!(implement);
#[cfg(test)]
pub(super) use cold_apis;

/// The mask of a question that was not asked.
const NO_OPERATIONS: i32 = i32::MIN;

/// Version 0 has no null: there an empty list asks for all topics.
fn lift_metadata(request: &mut MetadataRequest, version: i16) {
    if version == 0 && request.topics.as_ref().is_some_and(Vec::is_empty) {
        request.topics = None;
    }
}

fn lower_metadata(response: &mut MetadataResponse, version: i16) {
    if !(8..=10).contains(&version) {
        response.cluster_authorized_operations = NO_OPERATIONS;
    }
    for topic in &mut response.topics {
        if version < 8 {
            topic.topic_authorized_operations = NO_OPERATIONS;
        }
        if version < 12 {
            topic.name.get_or_insert_default();
        }
    }
}

fn lower_list_offsets(response: &mut ListOffsetsResponse, version: i16) {
    if version < 4 {
        for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.leader_epoch = -1;
        }
    }
}

/// Before version 8 a request was about one group.
fn lift_offset_fetch(request: &mut OffsetFetchRequest, version: i16) {
    if version >= 8 {
        return;
    }
    let topics = request.topics.take().map(|topics| {
        let lifted = topics.into_iter().map(|topic| {
            OffsetFetchRequestTopics::default()
                .with_name(topic.name)
                .with_partition_indexes(topic.partition_indexes)
        });
        lifted.collect()
    });
    let group_id = std::mem::take(&mut request.group_id);
    request.groups =
        vec![OffsetFetchRequestGroup::default().with_group_id(group_id).with_topics(topics)];
}

fn lower_offset_fetch(response: &mut OffsetFetchResponse, version: i16) {
    if version >= 8 {
        response.topics.clear();
        response.error_code = 0;
    } else if let Some(group) = std::mem::take(&mut response.groups).pop() {
        response.error_code = group.error_code;
        response.topics = lowered_topics(group, version);
    }
}

/// Before version 2 there is no error of the whole group: every partition carries it.
fn lowered_topics(group: OffsetFetchResponseGroup, version: i16) -> Vec<OffsetFetchResponseTopic> {
    let error_of_all = if version < 2 { group.error_code } else { 0 };
    let lowered = |partition: OffsetFetchResponsePartitions| {
        let error = if error_of_all == 0 { partition.error_code } else { error_of_all };
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_committed_offset(partition.committed_offset)
            .with_committed_leader_epoch(partition.committed_leader_epoch)
            .with_metadata(partition.metadata)
            .with_error_code(error)
    };
    let topics = group.topics.into_iter().map(|topic| {
        OffsetFetchResponseTopic::default()
            .with_name(topic.name)
            .with_partitions(topic.partitions.into_iter().map(lowered).collect())
    });
    topics.collect()
}

/// Before version 4 a request had one key.
fn lift_find_coordinator(request: &mut FindCoordinatorRequest, version: i16) {
    if version < 4 {
        request.coordinator_keys = vec![std::mem::take(&mut request.key)];
    }
}

fn lower_find_coordinator(response: &mut FindCoordinatorResponse, version: i16) {
    if version >= 4 {
        let throttle_time_ms = response.throttle_time_ms;
        let coordinators = std::mem::take(&mut response.coordinators);
        *response = FindCoordinatorResponse::default()
            .with_throttle_time_ms(throttle_time_ms)
            .with_coordinators(coordinators);
    } else if let Some(coordinator) = std::mem::take(&mut response.coordinators).pop() {
        response.error_code = coordinator.error_code;
        response.error_message = coordinator.error_message;
        response.node_id = coordinator.node_id;
        response.host = coordinator.host;
        response.port = coordinator.port;
    }
}

/// Version 0 has one timeout for both purposes.
fn lift_join_group(request: &mut JoinGroupRequest, version: i16) {
    if version == 0 {
        request.rebalance_timeout_ms = request.session_timeout_ms;
    }
}

fn lower_join_group(response: &mut JoinGroupResponse, version: i16) {
    if version < 9 {
        response.skip_assignment = false;
    }
    if version < 7 {
        response.protocol_name.get_or_insert_default();
    }
}

/// Before version 3 a request was about one member.
fn lift_leave_group(request: &mut LeaveGroupRequest, version: i16) {
    if version < 3 {
        let member_id = std::mem::take(&mut request.member_id);
        request.members =
            vec![MemberIdentity::default().with_member_id(member_id).with_group_instance_id(None)];
    }
}

/// Before version 3 the error of the one member is the error of all.
fn lower_leave_group(response: &mut LeaveGroupResponse, version: i16) {
    if version < 3 {
        let member = std::mem::take(&mut response.members).pop();
        if let Some(member) = member.filter(|_| response.error_code == 0) {
            response.error_code = member.error_code;
        }
    }
}

fn lower_describe_groups(response: &mut DescribeGroupsResponse, version: i16) {
    for group in &mut response.groups {
        if version < 6 {
            group.error_message = None;
        }
        if version < 3 {
            group.authorized_operations = NO_OPERATIONS;
        }
    }
}

/// Clients below version 4 refuse a feature that may be absent, minimum 0 (KAFKA-17011).
fn lower_api_versions(response: &mut ApiVersionsResponse, version: i16) {
    if version < 4 {
        response.supported_features.retain(|feature| feature.min_version > 0);
    }
}

/// Before version 6 topics came by name only.
fn lift_delete_topics(request: &mut DeleteTopicsRequest, version: i16) {
    if version < 6 {
        let names = std::mem::take(&mut request.topic_names).into_iter();
        request.topics =
            names.map(|name| DeleteTopicState::default().with_name(Some(name))).collect();
    }
}

fn lower_delete_topics(response: &mut DeleteTopicsResponse, version: i16) {
    if version < 6 {
        for topic in &mut response.responses {
            topic.name.get_or_insert_default();
        }
    }
}

fn lower_init_producer_id(response: &mut InitProducerIdResponse, version: i16) {
    if version < 6 {
        response.ongoing_txn_producer_id = ProducerId(-1);
        response.ongoing_txn_producer_epoch = -1;
    }
}

fn lower_describe_cluster(response: &mut DescribeClusterResponse, version: i16) {
    const BROKERS: i8 = 1;
    if version < 1 {
        response.endpoint_type = BROKERS;
    }
    if version < 2 {
        response.brokers.iter_mut().for_each(|broker| broker.is_fenced = false);
    }
}
