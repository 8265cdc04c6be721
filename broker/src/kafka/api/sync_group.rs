//! SyncGroup, key 14, versions 0-5.
//!
//! Behaviour: the coordinator's. Version notes: 3 brings static members; 5 names protocol type and protocol, which
//! must be given and agree (KIP-559): absent ones are INCONSISTENT_GROUP_PROTOCOL.

use millrace_kernel::group::{self, Generation, GroupCommand, GroupReply, MemberId};
use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::{SyncGroupRequest, SyncGroupResponse};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::{instance, text};
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    version: i16,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    let refused = |code: i16| SyncGroupResponse::default().with_error_code(code);
    let names_missing = request.protocol_type.is_none() || request.protocol_name.is_none();
    if version >= 5 && names_missing {
        return refused(ErrorCode::InconsistentGroupProtocol.code());
    }
    let group = GroupId::new(&request.group_id);
    let sync = group::Sync {
        group: group.clone(),
        generation: Generation(request.generation_id),
        member: MemberId::new(&request.member_id),
        instance: instance(request.group_instance_id.as_ref()),
        protocol_type: request.protocol_type.map(|it| it.as_str().into()),
        protocol: request.protocol_name.map(|it| it.as_str().into()),
        assignments: request
            .assignments
            .into_iter()
            .map(|it| (MemberId::new(&it.member_id), it.assignment))
            .collect(),
    };
    match groups::call(hall, &group, GroupCommand::Sync(sync)).await {
        Ok(GroupReply::Sync(Ok(synced))) => SyncGroupResponse::default()
            .with_protocol_type(synced.protocol_type.map(|it| text(&it)))
            .with_protocol_name(synced.protocol.map(|it| text(&it)))
            .with_assignment(synced.assignment),
        Ok(GroupReply::Sync(Err(error))) => refused(errors::group_number(error)),
        Ok(other) => unreachable!("a sync was answered with {other:?}"),
        Err(error) => refused(errors::number(&error)),
    }
}
