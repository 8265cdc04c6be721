//! JoinGroup, key 11, versions 0-9.
//!
//! Behaviour: the coordinator's (`kernel::group`); this file only translates.
//! Version notes: 4 makes a new member
//! come back with the id it was given (KIP-394); 5 brings static members (KIP-345); 7 answers the protocol type and
//! a null protocol name; 9 lets a returning static leader keep its assignment (KIP-814).

use millrace_kernel::group::{self, GroupCommand, GroupReply, JoinRefused, Joined, MemberId};
use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::join_group_response::JoinGroupResponseMember;
use millrace_wire::cold::messages::{JoinGroupRequest, JoinGroupResponse};

use crate::context::RequestContext;
use crate::kafka::api::{instance, text};
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    context: &RequestContext,
    version: i16,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let group = GroupId::new(&request.group_id);
    let member = MemberId::new(&request.member_id);
    let join = to_command(context, version, request);
    match groups::call(hall, &group, GroupCommand::Join(join)).await {
        Ok(GroupReply::Join(Ok(joined))) => accepted(joined),
        Ok(GroupReply::Join(Err(JoinRefused { error, member }))) => {
            refused(errors::group_number(error), &member)
        }
        Ok(other) => unreachable!("a join was answered with {other:?}"),
        Err(error) => refused(errors::number(&error), &member),
    }
}

fn to_command(context: &RequestContext, version: i16, request: JoinGroupRequest) -> group::Join {
    let protocols = request.protocols.into_iter().map(|protocol| group::Protocol {
        name: protocol.name.as_str().into(),
        metadata: protocol.metadata,
    });
    group::Join {
        group: GroupId::new(&request.group_id),
        member: MemberId::new(&request.member_id),
        instance: instance(request.group_instance_id.as_ref()),
        client_id: context.client_id().into(),
        client_host: context.client_host().into(),
        protocol_type: request.protocol_type.as_str().into(),
        protocols: protocols.collect(),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        require_known_member_id: version >= 4,
        may_skip_assignment: version >= 9,
        resumes: false,
    }
}

fn accepted(joined: Joined) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member.member.as_str()))
            .with_group_instance_id(member.instance.map(|it| text(it.as_str())))
            .with_metadata(member.metadata)
    });
    JoinGroupResponse::default()
        .with_generation_id(joined.generation.0)
        .with_protocol_type(joined.protocol_type.map(|it| text(&it)))
        .with_protocol_name(joined.protocol.map(|it| text(&it)))
        .with_leader(text(joined.leader.as_str()))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(text(joined.member.as_str()))
        .with_members(members.collect())
}

fn refused(code: i16, member: &MemberId) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(code)
        .with_generation_id(-1)
        .with_protocol_name(None)
        .with_member_id(text(member.as_str()))
}
