//! DeleteTopics, key 20, versions 1-6.
//!
//! Behaviour: each topic is answered for itself; data goes with it. Version notes: 5 says why in words; 6 names topics
//! by id as well (KIP-516): exactly one of name and id, else INVALID_REQUEST.

use millrace_kernel::metadata::TopicRef;
use millrace_model::ids::TopicId;
use millrace_wire::cold::messages::delete_topics_response::DeletableTopicResult;
use millrace_wire::cold::messages::{
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName as WireTopicName,
};
use millrace_wire::cold::{topic_id, topic_id_bytes};

use crate::context::RequestContext;
use crate::error::BrokerError;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, topics};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let asked = request.topics.into_iter();
    let asked: Vec<_> = asked.map(|it| (it.name, TopicId(topic_id_bytes(it.topic_id)))).collect();
    let refs: Vec<_> = asked.iter().map(|(name, id)| reference(name.as_ref(), *id)).collect();
    let known = refs.iter().filter_map(|it| it.as_ref().ok().cloned()).collect();
    let mut deleted = match topics::delete(hall, known).await {
        Ok(results) => results.into_iter(),
        Err(error) => vec![Err(error); asked.len()].into_iter(),
    };
    let responses = asked.into_iter().zip(refs).map(|((name, id), reference)| {
        let result =
            reference.and_then(|_| deleted.next().unwrap_or(Err(BrokerError::ShuttingDown)));
        match result {
            Ok(deleted) => DeletableTopicResult::default()
                .with_error_message(None)
                .with_name(Some(WireTopicName(text(deleted.name.as_str()))))
                .with_topic_id(topic_id(deleted.id.0)),
            Err(error) => DeletableTopicResult::default()
                .with_name(name)
                .with_topic_id(topic_id(id.0))
                .with_error_code(errors::number(&error))
                .with_error_message(Some(text(&error.to_string()))),
        }
    });
    DeleteTopicsResponse::default().with_responses(responses.collect())
}

fn reference(name: Option<&WireTopicName>, id: TopicId) -> Result<TopicRef, BrokerError> {
    match (name, id) {
        (Some(name), TopicId::ZERO) => Ok(TopicRef::Name(name.to_string())),
        (None, id) if id != TopicId::ZERO => Ok(TopicRef::Id(id)),
        _ => {
            Err(BrokerError::InvalidRequest("name a topic by its name or its id, not both".into()))
        }
    }
}
