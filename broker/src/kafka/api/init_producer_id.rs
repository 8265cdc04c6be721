//! InitProducerId, key 22, versions 0-5.
//!
//! Behaviour: idempotent producers get an id of their own. A transactional id is refused with
//! COORDINATOR_NOT_AVAILABLE: there is no transaction coordinator.
//! Version notes: 3 lets a producer keep its id with the next epoch (KIP-360).

use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_wire::cold::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProducerId as WireProducerId,
};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::errors;
use crate::service::{Hall, producers};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |code: i16| {
        InitProducerIdResponse::default()
            .with_error_code(code)
            .with_producer_id(WireProducerId(-1))
            .with_producer_epoch(-1)
    };
    if let Some(id) = &request.transactional_id {
        let code = if id.is_empty() {
            ErrorCode::InvalidRequest
        } else {
            ErrorCode::CoordinatorNotAvailable
        };
        return refused(code.code());
    }
    let (id, epoch) = (request.producer_id.0, request.producer_epoch);
    let known = version >= 3 && id >= 0 && epoch >= 0;
    let current = known.then_some((ProducerId(id), ProducerEpoch(epoch)));
    match producers::init(hall, current).await {
        Ok((id, epoch)) => InitProducerIdResponse::default()
            .with_producer_id(WireProducerId(id.0))
            .with_producer_epoch(epoch.0),
        Err(error) => refused(errors::number(&error)),
    }
}
