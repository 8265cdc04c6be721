//! Topics: create, list, describe, delete, grow.

use std::sync::Arc;

use millrace_kernel::metadata::TopicRef;
use millrace_kernel::metadata::image::{self, Image};
use millrace_kernel::metadata::partitions::NewPartitions;
use millrace_kernel::metadata::topics::{NewTopic, TopicShape};
use millrace_model::ids::NodeId;
use millrace_proto::v1::{
    AddPartitionsRequest, AddPartitionsResponse, ConfigEntry, CreateTopicRequest,
    CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest,
    DescribeTopicResponse, ListTopicsRequest, ListTopicsResponse, PartitionDescription,
    TopicSummary,
};
use tonic::Status;

use crate::error::BrokerError;
use crate::grpc::errors;
use crate::partition::registry::Topic;
use crate::service::{Hall, cluster, topics};

/// Of a partition that cannot be looked into.
const UNKNOWN: i64 = -1;

pub(super) async fn create(
    hall: &Hall,
    request: CreateTopicRequest,
) -> Result<CreateTopicResponse, Status> {
    let factor = i16::try_from(request.replication_factor)
        .map_err(|_| errors::invalid("replication_factor", "it is too large"))?;
    let shape = TopicShape::Counts {
        partitions: (request.partitions != 0).then_some(request.partitions),
        replication_factor: (factor != 0).then_some(factor),
    };
    let configs = request.configs.into_iter().map(|it| (it.name, it.value)).collect();
    let topic = NewTopic { name: request.name, shape, configs };
    let created = one(topics::create(hall, vec![topic], request.validate_only).await)?;
    let topic = TopicSummary {
        // The id of a topic that will not be is nobody's.
        id: if request.validate_only { String::new() } else { created.id.to_string() },
        internal: created.name.is_internal(),
        name: created.name.to_string(),
        partitions: created.partition_count,
        replication_factor: i32::from(created.replication_factor),
    };
    Ok(CreateTopicResponse { topic: Some(topic) })
}

pub(super) async fn list(
    hall: &Hall,
    request: ListTopicsRequest,
) -> Result<ListTopicsResponse, Status> {
    Ok(summaries(&cluster::image(hall), request.include_internal))
}

/// All topics, by name.
pub(super) fn summaries(image: &Image, include_internal: bool) -> ListTopicsResponse {
    let shown = image.topics().filter(|topic| include_internal || !topic.name.is_internal());
    ListTopicsResponse { topics: shown.map(|topic| summary(topic)).collect() }
}

fn summary(topic: &image::Topic) -> TopicSummary {
    let replicas = topic.partitions.first().map_or(0, |it| it.replicas.len());
    TopicSummary {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: count(topic.partitions.len()),
        replication_factor: count(replicas),
        internal: topic.name.is_internal(),
    }
}

pub(super) async fn describe(
    hall: &Hall,
    request: DescribeTopicRequest,
) -> Result<DescribeTopicResponse, Status> {
    let image = cluster::image(hall);
    let topic = image.topic(&request.name).ok_or_else(|| unknown(&request.name))?;
    let hosted = hall.registry.topic_by_id(topic.id);
    let partitions = topic.partitions.iter().enumerate();
    let partitions = partitions.map(|(index, it)| partition(hosted.as_ref(), count(index), it));
    let overrides = topic.configs.iter();
    let configs =
        overrides.map(|(name, it)| ConfigEntry { name: name.clone(), value: Some(it.clone()) });
    Ok(DescribeTopicResponse {
        topic: Some(summary(topic)),
        partitions: partitions.collect(),
        configs: configs.collect(),
    })
}

fn partition(
    hosted: Option<&Arc<Topic>>,
    index: i32,
    partition: &image::Partition,
) -> PartitionDescription {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|it| it.0).collect();
    let handle = hosted.and_then(|topic| topic.partition(index).ok());
    PartitionDescription {
        partition: index,
        leader: partition.leader.map_or(-1, |it| it.0),
        leader_epoch: partition.leader_epoch.0,
        replicas: ids(&partition.replicas),
        in_sync_replicas: ids(&partition.isr),
        log_start: handle.map_or(UNKNOWN, |it| it.marks().log_start().0),
        high_watermark: handle.map_or(UNKNOWN, |it| it.marks().high_watermark().0),
        size_bytes: handle.map_or(UNKNOWN, |it| i64::try_from(it.size_bytes()).unwrap_or(i64::MAX)),
    }
}

pub(super) async fn delete(
    hall: &Hall,
    request: DeleteTopicRequest,
) -> Result<DeleteTopicResponse, Status> {
    one(topics::delete(hall, vec![TopicRef::Name(request.name)]).await)?;
    Ok(DeleteTopicResponse {})
}

pub(super) async fn add_partitions(
    hall: &Hall,
    request: AddPartitionsRequest,
) -> Result<AddPartitionsResponse, Status> {
    let AddPartitionsRequest { topic, partitions, validate_only } = request;
    let wanted = NewPartitions { topic, count: partitions, assignments: None };
    one(topics::grow(hall, vec![wanted], validate_only).await)?;
    Ok(AddPartitionsResponse {})
}

/// The result for the only item of a request.
pub(super) fn one<T>(
    results: Result<Vec<Result<T, BrokerError>>, BrokerError>,
) -> Result<T, Status> {
    let result = results.and_then(|mut results| {
        results.pop().expect("the hall answers each item of a request it takes")
    });
    result.map_err(|error| errors::status(&error))
}

/// There is no such topic.
pub(super) fn unknown(topic: &str) -> Status {
    errors::status(&BrokerError::unknown_topic(topic))
}

fn count(count: usize) -> i32 {
    i32::try_from(count).expect("the controller bounds counts")
}
