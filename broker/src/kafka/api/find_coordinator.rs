//! FindCoordinator, key 10, versions 0-6.
//!
//! Behaviour: this broker coordinates every group; the offsets topic is created on the first question
//! (`KafkaApis.getCoordinator`). Transactional ids are answered COORDINATOR_NOT_AVAILABLE: there is no such
//! coordinator. Version notes: 4 asks for several keys (KIP-699); 6 adds share groups, which do not exist here.

use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::find_coordinator_response::Coordinator;
use millrace_wire::cold::messages::{
    BrokerId, FindCoordinatorRequest, FindCoordinatorResponse, StrBytes,
};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, cluster, groups};

const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;

pub(crate) async fn handle(
    hall: &Hall,
    context: &RequestContext,
    _: i16,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let mut coordinators = Vec::new();
    for key in request.coordinator_keys {
        coordinators.push(find(hall, context, request.key_type, key).await);
    }
    FindCoordinatorResponse::default().with_coordinators(coordinators)
}

async fn find(hall: &Hall, context: &RequestContext, key_type: i8, key: StrBytes) -> Coordinator {
    let refused = |code: ErrorCode, message: &str| {
        Coordinator::default()
            .with_key(key.clone())
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(code.code())
            .with_error_message(Some(text(message)))
    };
    match key_type {
        KEY_TYPE_GROUP => {}
        KEY_TYPE_TRANSACTION => {
            let message = "transactions are not supported by this broker";
            return refused(ErrorCode::CoordinatorNotAvailable, message);
        }
        _ => return refused(ErrorCode::InvalidRequest, "unknown coordinator key type"),
    }
    if let Err(error) = groups::coordinator(hall, &GroupId::new(&key)).await {
        return refused(errors::code(&error), &error.to_string());
    }
    let me = cluster::this_broker(hall, context);
    Coordinator::default()
        .with_error_message(None)
        .with_key(key)
        .with_node_id(BrokerId(me.id.0))
        .with_host(text(&me.host))
        .with_port(i32::from(me.port))
}
