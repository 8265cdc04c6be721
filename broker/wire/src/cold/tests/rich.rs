//! Responses with every field set to something that is not its default, those of old versions included. Only what no
//! advertised version has is left out.

use bytes::Bytes;

use crate::cold::messages::*;
use crate::cold::topic_id;

pub(super) trait Rich {
    fn rich() -> Self;
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

impl Rich for ListOffsetsResponse {
    fn rich() -> ListOffsetsResponse {
        ListOffsetsResponse::default().with_throttle_time_ms(2).with_topics(vec![
            list_offsets_response::ListOffsetsTopicResponse::default()
                .with_name(TopicName(text("name")))
                .with_partitions(vec![
                    list_offsets_response::ListOffsetsPartitionResponse::default()
                        .with_partition_index(4)
                        .with_error_code(6)
                        .with_timestamp(8)
                        .with_offset(10)
                        .with_leader_epoch(12),
                ]),
        ])
    }
}

impl Rich for MetadataResponse {
    fn rich() -> MetadataResponse {
        MetadataResponse::default()
            .with_throttle_time_ms(14)
            .with_brokers(vec![
                metadata_response::MetadataResponseBroker::default()
                    .with_node_id(BrokerId(16))
                    .with_host(text("host"))
                    .with_port(18)
                    .with_rack(Some(text("rack"))),
            ])
            .with_cluster_id(Some(text("cluster_id")))
            .with_controller_id(BrokerId(20))
            .with_topics(vec![
                metadata_response::MetadataResponseTopic::default()
                    .with_error_code(22)
                    .with_name(Some(TopicName(text("name"))))
                    .with_topic_id(topic_id([7; 16]))
                    .with_is_internal(true)
                    .with_partitions(vec![
                        metadata_response::MetadataResponsePartition::default()
                            .with_error_code(24)
                            .with_partition_index(26)
                            .with_leader_id(BrokerId(28))
                            .with_leader_epoch(30)
                            .with_replica_nodes(vec![BrokerId(32)])
                            .with_isr_nodes(vec![BrokerId(34)])
                            .with_offline_replicas(vec![BrokerId(36)]),
                    ])
                    .with_topic_authorized_operations(38),
            ])
            .with_cluster_authorized_operations(40)
            .with_error_code(42)
    }
}

impl Rich for OffsetCommitResponse {
    fn rich() -> OffsetCommitResponse {
        OffsetCommitResponse::default().with_throttle_time_ms(44).with_topics(vec![
            offset_commit_response::OffsetCommitResponseTopic::default()
                .with_name(TopicName(text("name")))
                .with_partitions(vec![
                    offset_commit_response::OffsetCommitResponsePartition::default()
                        .with_partition_index(46)
                        .with_error_code(48),
                ]),
        ])
    }
}

impl Rich for OffsetFetchResponse {
    fn rich() -> OffsetFetchResponse {
        OffsetFetchResponse::default()
            .with_throttle_time_ms(50)
            .with_topics(vec![
                offset_fetch_response::OffsetFetchResponseTopic::default()
                    .with_name(TopicName(text("name")))
                    .with_partitions(vec![
                        offset_fetch_response::OffsetFetchResponsePartition::default()
                            .with_partition_index(52)
                            .with_committed_offset(54)
                            .with_committed_leader_epoch(56)
                            .with_metadata(Some(text("metadata")))
                            .with_error_code(58),
                    ]),
            ])
            .with_error_code(60)
            .with_groups(vec![
                offset_fetch_response::OffsetFetchResponseGroup::default()
                    .with_group_id(GroupId(text("group_id")))
                    .with_topics(vec![
                        offset_fetch_response::OffsetFetchResponseTopics::default()
                            .with_name(TopicName(text("name")))
                            .with_partitions(vec![
                                offset_fetch_response::OffsetFetchResponsePartitions::default()
                                    .with_partition_index(62)
                                    .with_committed_offset(64)
                                    .with_committed_leader_epoch(66)
                                    .with_metadata(Some(text("metadata")))
                                    .with_error_code(68),
                            ]),
                    ])
                    .with_error_code(70),
            ])
    }
}

impl Rich for FindCoordinatorResponse {
    fn rich() -> FindCoordinatorResponse {
        FindCoordinatorResponse::default()
            .with_throttle_time_ms(72)
            .with_error_code(74)
            .with_error_message(Some(text("error_message")))
            .with_node_id(BrokerId(76))
            .with_host(text("host"))
            .with_port(78)
            .with_coordinators(vec![
                find_coordinator_response::Coordinator::default()
                    .with_key(text("key"))
                    .with_node_id(BrokerId(80))
                    .with_host(text("host"))
                    .with_port(82)
                    .with_error_code(84)
                    .with_error_message(Some(text("error_message"))),
            ])
    }
}

impl Rich for JoinGroupResponse {
    fn rich() -> JoinGroupResponse {
        JoinGroupResponse::default()
            .with_throttle_time_ms(86)
            .with_error_code(88)
            .with_generation_id(90)
            .with_protocol_type(Some(text("protocol_type")))
            .with_protocol_name(Some(text("protocol_name")))
            .with_leader(text("leader"))
            .with_skip_assignment(true)
            .with_member_id(text("member_id"))
            .with_members(vec![
                join_group_response::JoinGroupResponseMember::default()
                    .with_member_id(text("member_id"))
                    .with_group_instance_id(Some(text("group_instance_id")))
                    .with_metadata(Bytes::from_static(b"metadata")),
            ])
    }
}

impl Rich for HeartbeatResponse {
    fn rich() -> HeartbeatResponse {
        HeartbeatResponse::default().with_throttle_time_ms(2).with_error_code(4)
    }
}

impl Rich for LeaveGroupResponse {
    fn rich() -> LeaveGroupResponse {
        LeaveGroupResponse::default().with_throttle_time_ms(6).with_error_code(8).with_members(
            vec![
                leave_group_response::MemberResponse::default()
                    .with_member_id(text("member_id"))
                    .with_group_instance_id(Some(text("group_instance_id")))
                    .with_error_code(10),
            ],
        )
    }
}

impl Rich for SyncGroupResponse {
    fn rich() -> SyncGroupResponse {
        SyncGroupResponse::default()
            .with_throttle_time_ms(12)
            .with_error_code(14)
            .with_protocol_type(Some(text("protocol_type")))
            .with_protocol_name(Some(text("protocol_name")))
            .with_assignment(Bytes::from_static(b"assignment"))
    }
}

impl Rich for DescribeGroupsResponse {
    fn rich() -> DescribeGroupsResponse {
        DescribeGroupsResponse::default().with_throttle_time_ms(16).with_groups(vec![
            describe_groups_response::DescribedGroup::default()
                .with_error_code(18)
                .with_error_message(Some(text("error_message")))
                .with_group_id(GroupId(text("group_id")))
                .with_group_state(text("group_state"))
                .with_protocol_type(text("protocol_type"))
                .with_protocol_data(text("protocol_data"))
                .with_members(vec![
                    describe_groups_response::DescribedGroupMember::default()
                        .with_member_id(text("member_id"))
                        .with_group_instance_id(Some(text("group_instance_id")))
                        .with_client_id(text("client_id"))
                        .with_client_host(text("client_host"))
                        .with_member_metadata(Bytes::from_static(b"member_metadata"))
                        .with_member_assignment(Bytes::from_static(b"member_assignment")),
                ])
                .with_authorized_operations(20),
        ])
    }
}

impl Rich for ListGroupsResponse {
    fn rich() -> ListGroupsResponse {
        ListGroupsResponse::default().with_throttle_time_ms(22).with_error_code(24).with_groups(
            vec![
                list_groups_response::ListedGroup::default()
                    .with_group_id(GroupId(text("group_id")))
                    .with_protocol_type(text("protocol_type"))
                    .with_group_state(text("group_state"))
                    .with_group_type(text("group_type")),
            ],
        )
    }
}

impl Rich for ApiVersionsResponse {
    fn rich() -> ApiVersionsResponse {
        ApiVersionsResponse::default()
            .with_error_code(26)
            .with_api_keys(vec![
                api_versions_response::ApiVersion::default()
                    .with_api_key(28)
                    .with_min_version(30)
                    .with_max_version(32),
            ])
            .with_throttle_time_ms(34)
            .with_supported_features(vec![
                api_versions_response::SupportedFeatureKey::default()
                    .with_name(text("name"))
                    .with_min_version(36)
                    .with_max_version(38),
            ])
            .with_finalized_features_epoch(40)
            .with_finalized_features(vec![
                api_versions_response::FinalizedFeatureKey::default()
                    .with_name(text("name"))
                    .with_max_version_level(42)
                    .with_min_version_level(44),
            ])
            .with_zk_migration_ready(true)
    }
}

impl Rich for CreateTopicsResponse {
    fn rich() -> CreateTopicsResponse {
        CreateTopicsResponse::default().with_throttle_time_ms(46).with_topics(vec![
            create_topics_response::CreatableTopicResult::default()
                .with_name(TopicName(text("name")))
                .with_topic_id(topic_id([7; 16]))
                .with_error_code(48)
                .with_error_message(Some(text("error_message")))
                .with_topic_config_error_code(50)
                .with_num_partitions(52)
                .with_replication_factor(54)
                .with_configs(Some(vec![
                    create_topics_response::CreatableTopicConfigs::default()
                        .with_name(text("name"))
                        .with_value(Some(text("value")))
                        .with_read_only(true)
                        .with_config_source(56)
                        .with_is_sensitive(true),
                ])),
        ])
    }
}

impl Rich for DeleteTopicsResponse {
    fn rich() -> DeleteTopicsResponse {
        DeleteTopicsResponse::default().with_throttle_time_ms(58).with_responses(vec![
            delete_topics_response::DeletableTopicResult::default()
                .with_name(Some(TopicName(text("name"))))
                .with_topic_id(topic_id([7; 16]))
                .with_error_code(60)
                .with_error_message(Some(text("error_message"))),
        ])
    }
}

impl Rich for DeleteRecordsResponse {
    fn rich() -> DeleteRecordsResponse {
        DeleteRecordsResponse::default().with_throttle_time_ms(62).with_topics(vec![
            delete_records_response::DeleteRecordsTopicResult::default()
                .with_name(TopicName(text("name")))
                .with_partitions(vec![
                    delete_records_response::DeleteRecordsPartitionResult::default()
                        .with_partition_index(64)
                        .with_low_watermark(66)
                        .with_error_code(68),
                ]),
        ])
    }
}

impl Rich for InitProducerIdResponse {
    fn rich() -> InitProducerIdResponse {
        InitProducerIdResponse::default()
            .with_throttle_time_ms(70)
            .with_error_code(72)
            .with_producer_id(ProducerId(74))
            .with_producer_epoch(76)
            .with_ongoing_txn_producer_id(ProducerId(78))
            .with_ongoing_txn_producer_epoch(80)
    }
}

impl Rich for OffsetForLeaderEpochResponse {
    fn rich() -> OffsetForLeaderEpochResponse {
        OffsetForLeaderEpochResponse::default().with_throttle_time_ms(82).with_topics(vec![
            offset_for_leader_epoch_response::OffsetForLeaderTopicResult::default()
                .with_topic(TopicName(text("topic")))
                .with_partitions(vec![
                    offset_for_leader_epoch_response::EpochEndOffset::default()
                        .with_error_code(84)
                        .with_partition(86)
                        .with_leader_epoch(88)
                        .with_end_offset(90),
                ]),
        ])
    }
}

impl Rich for DescribeAclsResponse {
    fn rich() -> DescribeAclsResponse {
        DescribeAclsResponse::default()
            .with_throttle_time_ms(2)
            .with_error_code(4)
            .with_error_message(Some(text("error_message")))
            .with_resources(vec![
                describe_acls_response::DescribeAclsResource::default()
                    .with_resource_type(6)
                    .with_resource_name(text("resource_name"))
                    .with_pattern_type(8)
                    .with_acls(vec![
                        describe_acls_response::AclDescription::default()
                            .with_principal(text("principal"))
                            .with_host(text("host"))
                            .with_operation(10)
                            .with_permission_type(12),
                    ]),
            ])
    }
}

impl Rich for DescribeConfigsResponse {
    fn rich() -> DescribeConfigsResponse {
        DescribeConfigsResponse::default().with_throttle_time_ms(14).with_results(vec![
            describe_configs_response::DescribeConfigsResult::default()
                .with_error_code(16)
                .with_error_message(Some(text("error_message")))
                .with_resource_type(18)
                .with_resource_name(text("resource_name"))
                .with_configs(vec![
                    describe_configs_response::DescribeConfigsResourceResult::default()
                        .with_name(text("name"))
                        .with_value(Some(text("value")))
                        .with_read_only(true)
                        .with_config_source(20)
                        .with_is_sensitive(true)
                        .with_synonyms(vec![
                            describe_configs_response::DescribeConfigsSynonym::default()
                                .with_name(text("name"))
                                .with_value(Some(text("value")))
                                .with_source(22),
                        ])
                        .with_config_type(24)
                        .with_documentation(Some(text("documentation"))),
                ]),
        ])
    }
}

impl Rich for AlterConfigsResponse {
    fn rich() -> AlterConfigsResponse {
        AlterConfigsResponse::default().with_throttle_time_ms(26).with_responses(vec![
            alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(28)
                .with_error_message(Some(text("error_message")))
                .with_resource_type(30)
                .with_resource_name(text("resource_name")),
        ])
    }
}

impl Rich for DescribeLogDirsResponse {
    fn rich() -> DescribeLogDirsResponse {
        DescribeLogDirsResponse::default()
            .with_throttle_time_ms(32)
            .with_error_code(34)
            .with_results(vec![
                describe_log_dirs_response::DescribeLogDirsResult::default()
                    .with_error_code(36)
                    .with_log_dir(text("log_dir"))
                    .with_topics(vec![
                        describe_log_dirs_response::DescribeLogDirsTopic::default()
                            .with_name(TopicName(text("name")))
                            .with_partitions(vec![
                                describe_log_dirs_response::DescribeLogDirsPartition::default()
                                    .with_partition_index(38)
                                    .with_partition_size(40)
                                    .with_offset_lag(42)
                                    .with_is_future_key(true),
                            ]),
                    ])
                    .with_total_bytes(44)
                    .with_usable_bytes(46),
            ])
    }
}

impl Rich for CreatePartitionsResponse {
    fn rich() -> CreatePartitionsResponse {
        CreatePartitionsResponse::default().with_throttle_time_ms(48).with_results(vec![
            create_partitions_response::CreatePartitionsTopicResult::default()
                .with_name(TopicName(text("name")))
                .with_error_code(50)
                .with_error_message(Some(text("error_message"))),
        ])
    }
}

impl Rich for DeleteGroupsResponse {
    fn rich() -> DeleteGroupsResponse {
        DeleteGroupsResponse::default().with_throttle_time_ms(52).with_results(vec![
            delete_groups_response::DeletableGroupResult::default()
                .with_group_id(GroupId(text("group_id")))
                .with_error_code(54),
        ])
    }
}

impl Rich for IncrementalAlterConfigsResponse {
    fn rich() -> IncrementalAlterConfigsResponse {
        IncrementalAlterConfigsResponse::default().with_throttle_time_ms(56).with_responses(vec![
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(58)
                .with_error_message(Some(text("error_message")))
                .with_resource_type(60)
                .with_resource_name(text("resource_name")),
        ])
    }
}

impl Rich for OffsetDeleteResponse {
    fn rich() -> OffsetDeleteResponse {
        OffsetDeleteResponse::default().with_error_code(62).with_throttle_time_ms(64).with_topics(
            vec![
                offset_delete_response::OffsetDeleteResponseTopic::default()
                    .with_name(TopicName(text("name")))
                    .with_partitions(vec![
                        offset_delete_response::OffsetDeleteResponsePartition::default()
                            .with_partition_index(66)
                            .with_error_code(68),
                    ]),
            ],
        )
    }
}

impl Rich for DescribeClusterResponse {
    fn rich() -> DescribeClusterResponse {
        DescribeClusterResponse::default()
            .with_throttle_time_ms(70)
            .with_error_code(72)
            .with_error_message(Some(text("error_message")))
            .with_endpoint_type(74)
            .with_cluster_id(text("cluster_id"))
            .with_controller_id(BrokerId(76))
            .with_brokers(vec![
                describe_cluster_response::DescribeClusterBroker::default()
                    .with_broker_id(BrokerId(78))
                    .with_host(text("host"))
                    .with_port(80)
                    .with_rack(Some(text("rack")))
                    .with_is_fenced(true),
            ])
            .with_cluster_authorized_operations(82)
    }
}
