//! DescribeGroups, key 15, versions 0-6.
//!
//! Behaviour: a group that does not exist is described as Dead without error below version 6, and with
//! GROUP_ID_NOT_FOUND from 6 on (KIP-1043). Authorized operations are "not asked" (`i32::MIN`): there is no authorizer.

use millrace_kernel::group::{GroupCommand, GroupDescription, GroupError, GroupReply, GroupState};
use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::describe_groups_response::{
    DescribedGroup, DescribedGroupMember,
};
use millrace_wire::cold::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use crate::context::RequestContext;
use crate::kafka::api::{AUTHORIZED_OPERATIONS_OMITTED, text};
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    version: i16,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut described = Vec::new();
    for id in request.groups {
        let group = GroupId::new(&id);
        let command = GroupCommand::Describe { group: group.clone() };
        let answer = match groups::call(hall, &group, command).await {
            Ok(GroupReply::Describe(Ok(description))) => describe(description),
            Ok(GroupReply::Describe(Err(error))) => refused(version, error),
            Ok(other) => unreachable!("a describe was answered with {other:?}"),
            Err(error) => DescribedGroup::default()
                .with_error_message(None)
                .with_error_code(errors::number(&error)),
        };
        described.push(
            answer.with_group_id(id).with_authorized_operations(AUTHORIZED_OPERATIONS_OMITTED),
        );
    }
    DescribeGroupsResponse::default().with_groups(described)
}

fn refused(version: i16, error: GroupError) -> DescribedGroup {
    let dead = DescribedGroup::default()
        .with_error_message(None)
        .with_group_state(text(GroupState::Dead.as_str()));
    match error {
        GroupError::GroupIdNotFound if version < 6 => dead,
        GroupError::GroupIdNotFound => dead
            .with_error_code(errors::group_number(error))
            .with_error_message(Some(text(&error.to_string()))),
        other => DescribedGroup::default()
            .with_error_message(None)
            .with_error_code(errors::group_number(other)),
    }
}

fn describe(description: GroupDescription) -> DescribedGroup {
    let members = description.members.into_iter().map(|it| {
        DescribedGroupMember::default()
            .with_member_id(text(it.member.as_str()))
            .with_group_instance_id(it.instance.map(|instance| text(instance.as_str())))
            .with_client_id(text(&it.client_id))
            .with_client_host(text(&it.client_host))
            .with_member_metadata(it.metadata)
            .with_member_assignment(it.assignment)
    });
    DescribedGroup::default()
        .with_error_message(None)
        .with_group_state(text(description.state.as_str()))
        .with_protocol_type(text(&description.protocol_type))
        .with_protocol_data(text(&description.protocol))
        .with_members(members.collect())
}
