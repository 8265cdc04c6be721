//! Settings of topics and of the broker, and the cluster as a whole.

use std::net::{IpAddr, SocketAddr};

use millrace_kernel::metadata::configs::{ConfigChange, ConfigEdit, ConfigOperation};
use millrace_model::topic_config::Kind;
use millrace_proto::v1::describe_config_request::Resource as Asked;
use millrace_proto::v1::{
    AlterConfigRequest, AlterConfigResponse, BrokerDescription, ConfigDescription, ConfigEntry,
    DescribeClusterResponse, DescribeConfigRequest, DescribeConfigResponse,
};
use tonic::Status;

use crate::context::RequestContext;
use crate::grpc::admin::topics::one;
use crate::grpc::errors;
use crate::service::Hall;
use crate::service::cluster::{self, BrokerAddress, KAFKA_LISTENER};
use crate::service::configs::{self, Resource, Row, Source};

pub(super) async fn describe(
    hall: &Hall,
    request: DescribeConfigRequest,
) -> Result<DescribeConfigResponse, Status> {
    let rows = match &request.resource {
        Some(Asked::Topic(name)) => configs::describe_topic(hall, name),
        Some(Asked::Broker(_)) => configs::describe_broker(hall, Some(hall.config.node_id)),
        None => return Err(errors::invalid("resource", "it is neither a topic nor the broker")),
    };
    let rows = rows.map_err(|error| errors::status(&error))?.into_iter();
    let names = &request.names;
    let wanted = rows.filter(|row| names.is_empty() || names.iter().any(|it| it == row.name));
    Ok(DescribeConfigResponse { configs: wanted.map(description).collect() })
}

fn description(row: Row) -> ConfigDescription {
    ConfigDescription {
        name: row.name.to_owned(),
        value: row.value,
        source: source(row.source).to_owned(),
        read_only: row.read_only,
        // No setting is a secret.
        sensitive: false,
        r#type: kind(row.kind).to_owned(),
        documentation: row.doc.to_owned(),
    }
}

/// Kafka's `ConfigEntry.ConfigSource`.
fn source(source: Source) -> &'static str {
    match source {
        Source::TopicOverride => "DYNAMIC_TOPIC_CONFIG",
        Source::DynamicBroker => "DYNAMIC_BROKER_CONFIG",
        Source::DynamicDefault => "DYNAMIC_DEFAULT_BROKER_CONFIG",
        Source::Broker => "STATIC_BROKER_CONFIG",
        Source::Default => "DEFAULT_CONFIG",
    }
}

/// Kafka's `ConfigEntry.ConfigType`.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Boolean => "BOOLEAN",
        Kind::String => "STRING",
        Kind::Int => "INT",
        Kind::Long => "LONG",
        Kind::Double => "DOUBLE",
        Kind::List => "LIST",
    }
}

pub(super) async fn alter(
    hall: &Hall,
    request: AlterConfigRequest,
) -> Result<AlterConfigResponse, Status> {
    let edit = ConfigEdit::Incremental(request.configs.into_iter().map(change).collect());
    let edits = vec![(Ok(Resource::Topic(request.topic)), edit)];
    one(Ok(configs::alter(hall, edits, request.validate_only).await))?;
    Ok(AlterConfigResponse {})
}

fn change(ConfigEntry { name, value }: ConfigEntry) -> ConfigChange {
    let operation = match value {
        Some(_) => ConfigOperation::Set,
        None => ConfigOperation::Delete,
    };
    ConfigChange { key: name, operation, value }
}

/// The cluster, for a client that reached us at `came_by`.
pub(super) fn describe_cluster(hall: &Hall, came_by: Option<IpAddr>) -> DescribeClusterResponse {
    let brokers = match kafka_door(hall, came_by) {
        Some(door) => cluster::brokers(hall, &RequestContext::kafka(door, door)),
        None => Vec::new(),
    };
    let me = hall.config.node_id;
    let describe = |BrokerAddress { id, host, port, .. }: BrokerAddress| BrokerDescription {
        id: id.0,
        kafka_address: if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        },
        version: if id == me { env!("CARGO_PKG_VERSION").to_owned() } else { String::new() },
    };
    DescribeClusterResponse {
        cluster_id: cluster::image(hall).cluster_id().unwrap_or_default().to_owned(),
        controller: me.0,
        brokers: brokers.into_iter().map(describe).collect(),
    }
}

/// Where this client would reach our Kafka door if nothing else is advertised: the same host, that door's port.
fn kafka_door(hall: &Hall, came_by: Option<IpAddr>) -> Option<SocketAddr> {
    let image = cluster::image(hall);
    let registered = image.broker(hall.config.node_id)?.endpoint(KAFKA_LISTENER)?;
    let host = match came_by {
        Some(ip) => ip,
        // An advertised name is no address, and `cluster` does not ask for one then.
        None => registered.host.parse().unwrap_or(IpAddr::from([127, 0, 0, 1])),
    };
    Some(SocketAddr::new(host, registered.port))
}
