//! Metadata, key 3, versions 0-13.
//!
//! Behaviour: a missing topic is created with the broker's defaults when client and broker both allow it
//! (`auto.create.topics.enable`), and the answer already has it. Authorized operations are "not asked" (`i32::MIN`).
//! Version notes: in 0 an empty list means all topics, from 1 on null does; 4 lets the client forbid auto-creation;
//! 10 adds topic ids, 12 asks by them (KIP-516).

use millrace_kernel::metadata::image::{Image, Partition, Topic};
use millrace_model::ids::{TopicId, TopicName};
use millrace_wire::cold::messages::metadata_request::MetadataRequestTopic;
use millrace_wire::cold::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use millrace_wire::cold::messages::{
    BrokerId, MetadataRequest, MetadataResponse, TopicName as WireTopicName,
};
use millrace_wire::cold::{topic_id, topic_id_bytes};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::{AUTHORIZED_OPERATIONS_OMITTED, text};
use crate::kafka::errors;
use crate::service::{Hall, cluster, topics};

pub(crate) async fn handle(
    hall: &Hall,
    context: &RequestContext,
    version: i16,
    request: MetadataRequest,
) -> MetadataResponse {
    let topics = match request.topics {
        None => all(&cluster::image(hall)),
        Some(asked) => {
            let may_create = version < 4 || request.allow_auto_topic_creation;
            some(hall, version, asked, may_create && hall.config.auto_create_topics).await
        }
    };
    let image = cluster::image(hall);
    let brokers = cluster::brokers(hall, context).into_iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.as_deref().map(text))
    });
    MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(image.cluster_id().map(text))
        .with_controller_id(BrokerId(hall.config.node_id.0))
        .with_topics(topics)
        .with_cluster_authorized_operations(AUTHORIZED_OPERATIONS_OMITTED)
}

fn all(image: &Image) -> Vec<MetadataResponseTopic> {
    image.topics().map(|topic| describe(topic)).collect()
}

async fn some(
    hall: &Hall,
    version: i16,
    asked: Vec<MetadataRequestTopic>,
    may_create: bool,
) -> Vec<MetadataResponseTopic> {
    let mut refused = Vec::new();
    if may_create {
        let names = asked.iter().filter_map(|it| it.name.as_ref()).map(|it| it.as_str().to_owned());
        refused = topics::auto_create(hall, names.collect()).await;
    }
    let image = cluster::image(hall);
    let answer = |it: MetadataRequestTopic| match it.name {
        Some(name) => match image.topic(&name) {
            Some(topic) => describe(topic),
            None => {
                let why = refused.iter().find(|(refused, _)| *refused == *name.as_str());
                let code = match why {
                    Some((_, error)) => errors::code(error),
                    None if TopicName::parse(&name).is_err() => ErrorCode::InvalidTopicException,
                    None => ErrorCode::UnknownTopicOrPartition,
                };
                missing(code).with_name(Some(name))
            }
        },
        None if version < 12 => missing(ErrorCode::InvalidRequest),
        None => match image.topic_by_id(TopicId(topic_id_bytes(it.topic_id))) {
            Some(topic) => describe(topic),
            None => missing(ErrorCode::UnknownTopicId).with_topic_id(it.topic_id),
        },
    };
    asked.into_iter().map(answer).collect()
}

fn missing(code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(code.code())
        .with_topic_authorized_operations(AUTHORIZED_OPERATIONS_OMITTED)
}

fn describe(topic: &Topic) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate();
    let partitions = partitions.map(|(index, it)| describe_partition(index as i32, it)).collect();
    MetadataResponseTopic::default()
        .with_name(Some(WireTopicName(text(topic.name.as_str()))))
        .with_topic_id(topic_id(topic.id.0))
        .with_is_internal(topic.name.is_internal())
        .with_partitions(partitions)
        .with_topic_authorized_operations(AUTHORIZED_OPERATIONS_OMITTED)
}

fn describe_partition(index: i32, partition: &Partition) -> MetadataResponsePartition {
    let ids =
        |nodes: &[millrace_model::ids::NodeId]| nodes.iter().map(|it| BrokerId(it.0)).collect();
    let code =
        if partition.leader.is_some() { ErrorCode::None } else { ErrorCode::LeaderNotAvailable };
    MetadataResponsePartition::default()
        .with_error_code(code.code())
        .with_partition_index(index)
        .with_leader_id(BrokerId(partition.leader.map_or(-1, |it| it.0)))
        .with_leader_epoch(partition.leader_epoch.0)
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.isr))
}
