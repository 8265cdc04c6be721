//! ListGroups, key 16, versions 0-5.
//!
//! Behaviour: all groups of all coordinators here. Version notes: 4 filters by state and answers it (KIP-518); 5 by
//! type (KIP-848): every group here is `classic`, an unknown type matches nothing.

use std::collections::BTreeSet;

use millrace_kernel::group::{GroupCommand, GroupReply, GroupState, ListFilter};
use millrace_wire::cold::messages::list_groups_response::ListedGroup;
use millrace_wire::cold::messages::{
    GroupId as WireGroupId, ListGroupsRequest, ListGroupsResponse,
};

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::kafka::errors;
use crate::service::{Hall, groups};

const CLASSIC: &str = "classic";

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let wants_classic = request.types_filter.is_empty()
        || request.types_filter.iter().any(|it| it.eq_ignore_ascii_case(CLASSIC));
    if !wants_classic {
        return ListGroupsResponse::default();
    }
    let states = (!request.states_filter.is_empty()).then(|| {
        let known = request.states_filter.iter().filter_map(|it| GroupState::parse(it));
        known.collect::<BTreeSet<_>>()
    });
    let command = || GroupCommand::List(ListFilter { states: states.clone() });
    let mut groups = Vec::new();
    for reply in groups::call_all(hall, command).await {
        match reply {
            Ok(GroupReply::List(Ok(listed))) => groups.extend(listed),
            Ok(GroupReply::List(Err(error))) => {
                return ListGroupsResponse::default().with_error_code(errors::group_number(error));
            }
            Ok(other) => unreachable!("a list was answered with {other:?}"),
            Err(error) => {
                return ListGroupsResponse::default().with_error_code(errors::number(&error));
            }
        }
    }
    let groups = groups.into_iter().map(|it| {
        ListedGroup::default()
            .with_group_id(WireGroupId(text(it.group.as_str())))
            .with_protocol_type(text(&it.protocol_type))
            .with_group_state(text(it.state.as_str()))
            .with_group_type(text(CLASSIC))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}
