//! LeaveGroup, key 13, versions 0-5.
//!
//! Behaviour: the coordinator's. Version notes: 0-2 name one member, whose error is the reply's; 3 names several, each
//! with its own error, by member id or by instance id alone (KIP-345, what tools send).

use millrace_kernel::group::{self, GroupCommand, GroupReply, Leaver, MemberId};
use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::leave_group_response::MemberResponse;
use millrace_wire::cold::messages::{LeaveGroupRequest, LeaveGroupResponse};

use crate::context::RequestContext;
use crate::kafka::api::{instance, text};
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let group = GroupId::new(&request.group_id);
    let leavers = request.members.iter().map(|it| Leaver {
        member: MemberId::new(&it.member_id),
        instance: instance(it.group_instance_id.as_ref()),
    });
    let refused = |code: i16| LeaveGroupResponse::default().with_error_code(code);
    let leave = group::Leave { group: group.clone(), members: leavers.collect() };
    let left = match groups::call(hall, &group, GroupCommand::Leave(leave)).await {
        Ok(GroupReply::Leave(Ok(left))) => left,
        Ok(GroupReply::Leave(Err(error))) => return refused(errors::group_number(error)),
        Ok(other) => unreachable!("a leave was answered with {other:?}"),
        Err(error) => return refused(errors::number(&error)),
    };
    let number = |result: Result<(), _>| result.err().map_or(0, errors::group_number);
    let members = left.into_iter().map(|it| {
        MemberResponse::default()
            .with_member_id(text(it.leaver.member.as_str()))
            .with_group_instance_id(it.leaver.instance.map(|instance| text(instance.as_str())))
            .with_error_code(number(it.result))
    });
    LeaveGroupResponse::default().with_members(members.collect())
}
