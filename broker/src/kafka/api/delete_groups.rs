//! DeleteGroups, key 42, versions 0-2.
//!
//! Behaviour: the coordinator's: NON_EMPTY_GROUP while members live, GROUP_ID_NOT_FOUND otherwise unknown.

use millrace_kernel::group::{GroupCommand, GroupReply};
use millrace_model::ids::GroupId;
use millrace_wire::cold::messages::delete_groups_response::DeletableGroupResult;
use millrace_wire::cold::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::context::RequestContext;
use crate::kafka::errors;
use crate::service::{Hall, groups};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::new();
    for id in request.groups_names {
        let group = GroupId::new(&id);
        let command = GroupCommand::DeleteGroup { group: group.clone() };
        let code = match groups::call(hall, &group, command).await {
            Ok(GroupReply::DeleteGroup(Ok(()))) => 0,
            Ok(GroupReply::DeleteGroup(Err(error))) => errors::group_number(error),
            Ok(other) => unreachable!("a delete was answered with {other:?}"),
            Err(error) => errors::number(&error),
        };
        results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code));
    }
    DeleteGroupsResponse::default().with_results(results)
}
