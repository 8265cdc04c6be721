//! Heartbeat, key 12, versions 0-4.
//!
//! Behaviour: the coordinator's. Version notes: 3 brings static members.

use millrace_kernel::group::{self, Generation, GroupCommand, GroupReply, MemberId};
use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::context::RequestContext;
use crate::kafka::api::instance;
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    let group = GroupId::new(&request.group_id);
    let heartbeat = group::Heartbeat {
        group: group.clone(),
        generation: Generation(request.generation_id),
        member: MemberId::new(&request.member_id),
        instance: instance(request.group_instance_id.as_ref()),
    };
    let code = match groups::call(hall, &group, GroupCommand::Heartbeat(heartbeat)).await {
        Ok(GroupReply::Heartbeat(Ok(()))) => 0,
        Ok(GroupReply::Heartbeat(Err(error))) => errors::group_number(error),
        Ok(other) => unreachable!("a heartbeat was answered with {other:?}"),
        Err(error) => errors::number(&error),
    };
    HeartbeatResponse::default().with_error_code(code)
}
