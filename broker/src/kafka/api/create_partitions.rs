//! CreatePartitions, key 37, versions 0-3.
//!
//! Behaviour: each topic is answered for itself, in the order of the request.

use millrace_kernel::metadata::partitions::NewPartitions;
use millrace_model::ids::NodeId;
use millrace_wire::cold::messages::create_partitions_response::CreatePartitionsTopicResult;
use millrace_wire::cold::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, topics};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let wanted = request.topics.iter().map(|topic| NewPartitions {
        topic: topic.name.to_string(),
        count: topic.count,
        assignments: topic.assignments.as_ref().map(|assignments| {
            let nodes = assignments.iter();
            nodes.map(|it| it.broker_ids.iter().map(|id| NodeId(id.0)).collect()).collect()
        }),
    });
    let results = match topics::grow(hall, wanted.collect(), request.validate_only).await {
        Ok(results) => results,
        Err(error) => vec![Err(error); request.topics.len()],
    };
    let results = request.topics.into_iter().zip(results).map(|(topic, result)| {
        let answer =
            CreatePartitionsTopicResult::default().with_name(topic.name).with_error_message(None);
        match result {
            Ok(()) => answer,
            Err(error) => answer
                .with_error_code(errors::number(&error))
                .with_error_message(Some(text(&error.to_string()))),
        }
    });
    CreatePartitionsResponse::default().with_results(results.collect())
}
