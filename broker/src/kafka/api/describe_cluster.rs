//! DescribeCluster, key 60, versions 0-2.
//!
//! Behaviour: every broker is unfenced. Version notes: 1 distinguishes brokers from controllers (KIP-919): the
//! controller has no listener of its own here, so asking for it is UNSUPPORTED_ENDPOINT_TYPE.

use millrace_wire::cold::messages::describe_cluster_response::DescribeClusterBroker;
use millrace_wire::cold::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::{AUTHORIZED_OPERATIONS_OMITTED, text};
use crate::service::{Hall, cluster};

const ENDPOINT_BROKERS: i8 = 1;

pub(crate) async fn handle(
    hall: &Hall,
    context: &RequestContext,
    version: i16,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if version >= 1 && request.endpoint_type != ENDPOINT_BROKERS {
        return DescribeClusterResponse::default()
            .with_error_code(ErrorCode::UnsupportedEndpointType.code())
            .with_error_message(Some(text("only brokers can be described here")))
            .with_endpoint_type(request.endpoint_type);
    }
    let brokers = cluster::brokers(hall, context).into_iter().map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(BrokerId(broker.id.0))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.as_deref().map(text))
    });
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(ENDPOINT_BROKERS)
        .with_cluster_id(cluster::image(hall).cluster_id().map(text).unwrap_or_default())
        .with_controller_id(BrokerId(hall.config.node_id.0))
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(AUTHORIZED_OPERATIONS_OMITTED)
}
