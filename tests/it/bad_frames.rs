//! Real request frames of every API at every version, and what can go wrong with their bytes.

use bytes::Bytes;
use kafka_protocol::messages as k;
use kafka_protocol::protocol::Request;
use millrace_tests::ask::{
    Fetch, list_offsets_request, new_topic, produce_request, text, topic_name,
};
use millrace_tests::kafka::{frame, framed, try_frame};
use millrace_tests::random::Random;
use millrace_tests::records::batch;
use millrace_wire::ApiKey;

/// Every frame of [`real`] has this one.
pub(crate) const CORRELATION: i32 = 0x0102_0304;

/// A request that a client could send, and that comes back at once: with something in each of its arrays where the
/// version has them.
pub(crate) fn real(api: ApiKey, version: i16, topic: &str) -> Bytes {
    let group = || k::GroupId(text("mutants"));
    let name = || topic_name(topic);
    match api {
        ApiKey::Produce => {
            fit(version, &produce_request(-1, topic, &[(0, batch(&["real"])), (1, batch(&["x"]))]))
        }
        ApiKey::Fetch => fit(version, &Fetch::at(0, 0).request(version, topic, [7; 16])),
        ApiKey::ListOffsets => fit(version, &list_offsets_request(topic, 0, -1)),
        ApiKey::Metadata => {
            use k::metadata_request::MetadataRequestTopic as Topic;
            let topic = Topic::default().with_name(Some(name()));
            fit(version, &k::MetadataRequest::default().with_topics(Some(vec![topic])))
        }
        ApiKey::OffsetCommit => {
            let offsets = [((topic.to_owned(), 0), 1)].into();
            fit(version, &millrace_tests::group::commit_request("mutants", &offsets))
        }
        ApiKey::OffsetFetch if version < 8 => {
            use k::offset_fetch_request::OffsetFetchRequestTopic as Topic;
            let topic = Topic::default().with_name(name()).with_partition_indexes(vec![0, 1]);
            let request = k::OffsetFetchRequest::default().with_group_id(group());
            fit(version, &request.with_topics(Some(vec![topic])))
        }
        ApiKey::OffsetFetch => {
            use k::offset_fetch_request::{
                OffsetFetchRequestGroup as Group, OffsetFetchRequestTopics as Topic,
            };
            let topic = Topic::default().with_name(name()).with_partition_indexes(vec![0, 1]);
            let group = Group::default().with_group_id(group()).with_topics(Some(vec![topic]));
            fit(version, &k::OffsetFetchRequest::default().with_groups(vec![group]))
        }
        ApiKey::FindCoordinator => {
            let request = k::FindCoordinatorRequest::default();
            let request = if version >= 4 {
                request.with_coordinator_keys(vec![text("mutants")])
            } else {
                request.with_key(text("mutants"))
            };
            fit(version, &request)
        }
        ApiKey::JoinGroup => {
            use k::join_group_request::JoinGroupRequestProtocol as Protocol;
            let protocol = Protocol::default().with_name(text("range"));
            let request = k::JoinGroupRequest::default()
                .with_group_id(group())
                .with_session_timeout_ms(1)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            fit(version, &request)
        }
        ApiKey::Heartbeat => fit(version, &k::HeartbeatRequest::default().with_group_id(group())),
        ApiKey::LeaveGroup if version < 3 => {
            fit(version, &k::LeaveGroupRequest::default().with_group_id(group()))
        }
        ApiKey::LeaveGroup => {
            use k::leave_group_request::MemberIdentity as Member;
            let member = Member::default().with_member_id(text("nobody"));
            let request = k::LeaveGroupRequest::default().with_group_id(group());
            fit(version, &request.with_members(vec![member]))
        }
        ApiKey::SyncGroup => {
            use k::sync_group_request::SyncGroupRequestAssignment as Assignment;
            let assignment = Assignment::default().with_member_id(text("nobody"));
            let request = k::SyncGroupRequest::default().with_group_id(group());
            fit(version, &request.with_assignments(vec![assignment]))
        }
        ApiKey::DescribeGroups => {
            fit(version, &k::DescribeGroupsRequest::default().with_groups(vec![group()]))
        }
        ApiKey::ListGroups => {
            let request = k::ListGroupsRequest::default();
            let request = if version >= 4 {
                request.with_states_filter(vec![text("Stable")])
            } else {
                request
            };
            fit(version, &request)
        }
        ApiKey::ApiVersions if version >= 3 => fit(
            version,
            &k::ApiVersionsRequest::default()
                .with_client_software_name(text("tests"))
                .with_client_software_version(text("1")),
        ),
        ApiKey::ApiVersions => fit(version, &k::ApiVersionsRequest::default()),
        ApiKey::CreateTopics => {
            let topic = new_topic(topic, 1, &[("retention.ms", "1000")]);
            let request = k::CreateTopicsRequest::default().with_validate_only(true);
            fit(version, &request.with_topics(vec![topic]))
        }
        ApiKey::DeleteTopics if version >= 6 => {
            use k::delete_topics_request::DeleteTopicState as Topic;
            let topic = Topic::default().with_name(Some(topic_name("not there")));
            fit(version, &k::DeleteTopicsRequest::default().with_topics(vec![topic]))
        }
        ApiKey::DeleteTopics => {
            let names = vec![topic_name("not there")];
            fit(version, &k::DeleteTopicsRequest::default().with_topic_names(names))
        }
        ApiKey::DeleteRecords => {
            use k::delete_records_request::{
                DeleteRecordsPartition as Partition, DeleteRecordsTopic as Topic,
            };
            let partition = Partition::default().with_offset(0);
            let topic = Topic::default().with_name(name()).with_partitions(vec![partition]);
            fit(version, &k::DeleteRecordsRequest::default().with_topics(vec![topic]))
        }
        ApiKey::InitProducerId => fit(version, &k::InitProducerIdRequest::default()),
        ApiKey::OffsetForLeaderEpoch => {
            use k::offset_for_leader_epoch_request::{
                OffsetForLeaderPartition as Partition, OffsetForLeaderTopic as Topic,
            };
            let partition = Partition::default().with_current_leader_epoch(-1);
            let topic = Topic::default().with_topic(name()).with_partitions(vec![partition]);
            fit(version, &k::OffsetForLeaderEpochRequest::default().with_topics(vec![topic]))
        }
        ApiKey::DescribeAcls => fit(version, &k::DescribeAclsRequest::default()),
        ApiKey::DescribeConfigs => {
            use k::describe_configs_request::DescribeConfigsResource as Resource;
            let resource = Resource::default()
                .with_resource_type(2)
                .with_resource_name(text(topic))
                .with_configuration_keys(Some(vec![text("retention.ms")]));
            fit(version, &k::DescribeConfigsRequest::default().with_resources(vec![resource]))
        }
        ApiKey::AlterConfigs => {
            use k::alter_configs_request::{
                AlterConfigsResource as Resource, AlterableConfig as Config,
            };
            let config = Config::default().with_name(text("retention.ms"));
            let config = config.with_value(Some(text("1000000000")));
            let resource = Resource::default()
                .with_resource_type(2)
                .with_resource_name(text(topic))
                .with_configs(vec![config]);
            let request = k::AlterConfigsRequest::default().with_validate_only(true);
            fit(version, &request.with_resources(vec![resource]))
        }
        ApiKey::DescribeLogDirs => {
            use k::describe_log_dirs_request::DescribableLogDirTopic as Topic;
            let topic = Topic::default().with_topic(name()).with_partitions(vec![0]);
            fit(version, &k::DescribeLogDirsRequest::default().with_topics(Some(vec![topic])))
        }
        ApiKey::CreatePartitions => {
            use k::create_partitions_request::{
                CreatePartitionsAssignment as Assignment, CreatePartitionsTopic as Topic,
            };
            let assignment = Assignment::default().with_broker_ids(vec![k::BrokerId(1)]);
            let topic = Topic::default()
                .with_name(name())
                .with_count(2)
                .with_assignments(Some(vec![assignment]));
            let request = k::CreatePartitionsRequest::default().with_validate_only(true);
            fit(version, &request.with_topics(vec![topic]))
        }
        ApiKey::DeleteGroups => {
            fit(version, &k::DeleteGroupsRequest::default().with_groups_names(vec![group()]))
        }
        ApiKey::IncrementalAlterConfigs => {
            use k::incremental_alter_configs_request::{
                AlterConfigsResource as Resource, AlterableConfig as Config,
            };
            let config = Config::default().with_name(text("cleanup.policy"));
            let config = config.with_config_operation(2).with_value(Some(text("compact")));
            let resource = Resource::default()
                .with_resource_type(2)
                .with_resource_name(text(topic))
                .with_configs(vec![config]);
            let request = k::IncrementalAlterConfigsRequest::default().with_validate_only(true);
            fit(version, &request.with_resources(vec![resource]))
        }
        ApiKey::OffsetDelete => {
            use k::offset_delete_request::{
                OffsetDeleteRequestPartition as Partition, OffsetDeleteRequestTopic as Topic,
            };
            let partitions = vec![Partition::default()];
            let topic = Topic::default().with_name(name()).with_partitions(partitions);
            let request = k::OffsetDeleteRequest::default().with_group_id(group());
            fit(version, &request.with_topics(vec![topic]))
        }
        ApiKey::DescribeCluster => fit(version, &k::DescribeClusterRequest::default()),
    }
}

/// The frame, or that of an empty request where the version lacks a field.
fn fit<R: Request + Default>(version: i16, request: &R) -> Bytes {
    let full = try_frame(version, CORRELATION, request);
    full.unwrap_or_else(|| frame(version, CORRELATION, &R::default()))
}

/// The frame with one thing wrong behind its key, version and correlation id; its length is right again.
pub(crate) fn mutate(frame: &Bytes, random: &mut Random) -> Bytes {
    const FIXED_BYTES: usize = 8;
    const LENGTHS: [&[u8]; 12] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x80, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0, 0xff, 0xff, 0xff],
        &[0x7f, 0xff],
        &[0x80, 0],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
        &[0xff, 0xff, 0x7f],
        &[0],
    ];
    let mut body = frame[4..].to_vec();
    let at = FIXED_BYTES + random.below((body.len() - FIXED_BYTES).max(1));
    match random.below(4) {
        0 | 1 => {
            let lie = *random.pick(&LENGTHS);
            let end = (at + lie.len()).min(body.len());
            body.splice(at..end, lie.iter().copied());
        }
        2 => body.truncate(at),
        _ => {
            let lie = *random.pick(&LENGTHS);
            body.splice(at..at, lie.iter().copied());
        }
    }
    framed(&body)
}
