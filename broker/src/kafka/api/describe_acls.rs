//! DescribeAcls, key 29, versions 1-3.
//!
//! Behaviour: SECURITY_DISABLED: there is no authorizer (`AclApis.handleDescribeAcls`). Tools probe this and go on.

use millrace_wire::cold::messages::{DescribeAclsRequest, DescribeAclsResponse};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::service::Hall;

pub(crate) async fn handle(
    _: &Hall,
    _: &RequestContext,
    _: i16,
    _: DescribeAclsRequest,
) -> DescribeAclsResponse {
    DescribeAclsResponse::default()
        .with_error_code(ErrorCode::SecurityDisabled.code())
        .with_error_message(Some(text("No Authorizer is configured on the broker")))
}
