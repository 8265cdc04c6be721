//! CreateTopics, key 19, versions 2-7.
//!
//! Behaviour: each topic is answered for itself; the reply comes once this broker can serve the topic. -1 takes the
//! broker's default. Version notes: 5 answers counts and all effective configs (KIP-525); 7 the topic id.

use std::collections::BTreeMap;

use millrace_kernel::metadata::topics::{CreatedTopic, NewTopic, TopicShape};
use millrace_model::ids::NodeId;
use millrace_wire::cold::messages::create_topics_request::CreatableTopic;
use millrace_wire::cold::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use millrace_wire::cold::messages::{CreateTopicsRequest, CreateTopicsResponse};
use millrace_wire::cold::topic_id;

use crate::context::RequestContext;
use crate::error::BrokerError;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, configs, topics};

/// "The broker's default" for partitions and replication factor (KIP-464).
const DEFAULT: i32 = -1;

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let shapes: Vec<_> = request.topics.iter().map(shape).collect();
    let well_formed = request.topics.iter().zip(&shapes);
    let news = well_formed.filter_map(|(topic, shape)| {
        let shape = shape.as_ref().ok()?.clone();
        Some(NewTopic { name: topic.name.to_string(), shape, configs: given_configs(topic) })
    });
    let created = topics::create(hall, news.collect(), request.validate_only).await;
    let mut created = match created {
        Ok(results) => results.into_iter(),
        Err(error) => vec![Err(error); request.topics.len()].into_iter(),
    };
    let results = request.topics.into_iter().zip(shapes).map(|(topic, shape)| {
        let result = shape.and_then(|_| created.next().unwrap_or(Err(BrokerError::ShuttingDown)));
        let answer = match result {
            Ok(created) => accepted(hall, created),
            Err(error) => CreatableTopicResult::default()
                .with_error_code(errors::number(&error))
                .with_error_message(Some(text(&error.to_string())))
                .with_num_partitions(-1)
                .with_replication_factor(-1),
        };
        answer.with_name(topic.name)
    });
    CreateTopicsResponse::default().with_topics(results.collect())
}

fn given_configs(topic: &CreatableTopic) -> Vec<(String, Option<String>)> {
    let owned = |value: &millrace_wire::cold::messages::StrBytes| value.to_string();
    topic.configs.iter().map(|it| (it.name.to_string(), it.value.as_ref().map(owned))).collect()
}

/// Counts or a manual assignment, never both (`ReplicationControlManager.createTopic`).
fn shape(topic: &CreatableTopic) -> Result<TopicShape, BrokerError> {
    if topic.assignments.is_empty() {
        let partitions = (topic.num_partitions != DEFAULT).then_some(topic.num_partitions);
        let factor = topic.replication_factor;
        let replication_factor = (i32::from(factor) != DEFAULT).then_some(factor);
        return Ok(TopicShape::Counts { partitions, replication_factor });
    }
    if topic.num_partitions != DEFAULT || i32::from(topic.replication_factor) != DEFAULT {
        let message = "a manual assignment excludes partition count and replication factor";
        return Err(BrokerError::InvalidRequest(message.into()));
    }
    let by_index: BTreeMap<i32, Vec<NodeId>> = topic
        .assignments
        .iter()
        .map(|it| (it.partition_index, it.broker_ids.iter().map(|id| NodeId(id.0)).collect()))
        .collect();
    let dense = by_index.keys().copied().eq(0..topic.assignments.len() as i32);
    if !dense {
        let message = "the manual assignment must name each partition from 0 on exactly once";
        return Err(BrokerError::InvalidReplicaAssignment(message.into()));
    }
    Ok(TopicShape::Assigned(by_index.into_values().collect()))
}

fn accepted(hall: &Hall, created: CreatedTopic) -> CreatableTopicResult {
    let rows = configs::topic_rows(hall, &created.configs).into_iter().map(|row| {
        CreatableTopicConfigs::default()
            .with_name(text(row.name))
            .with_value(row.value.as_deref().map(text))
            .with_read_only(row.read_only)
            .with_config_source(row.source.number())
            .with_is_sensitive(false)
    });
    CreatableTopicResult::default()
        .with_error_message(None)
        .with_topic_id(topic_id(created.id.0))
        .with_num_partitions(created.partition_count)
        .with_replication_factor(created.replication_factor)
        .with_configs(Some(rows.collect()))
}
