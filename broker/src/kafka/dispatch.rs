//! From a request's key and version to its handler. What a version means is the table's and the handlers' business.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use millrace_wire::header::Peeked;
use millrace_wire::{ApiKey, ApiRow, cold, lookup};
use tracing::Span;

use crate::context::RequestContext;
use crate::kafka::api;
use crate::kafka::pipeline::Reply;
use crate::service::Hall;
use crate::trace::KafkaRequest;

/// A request that this broker speaks, its body not yet decoded.
pub(crate) struct Request {
    row: &'static ApiRow,
    peeked: Peeked,
}

impl Request {
    pub(crate) fn api(&self) -> ApiKey {
        self.row.key
    }

    pub(crate) fn version(&self) -> i16 {
        self.peeked.api_version
    }

    pub(crate) fn correlation_id(&self) -> i32 {
        self.peeked.correlation_id
    }

    pub(crate) fn client_id(&self) -> Cow<'_, str> {
        self.peeked.client_id_lossy()
    }

    /// Its span, from now on; disabled unless somebody listens.
    pub(crate) fn span(&self, context: &RequestContext) -> Span {
        let (version, correlation_id) = (self.version(), self.correlation_id());
        KafkaRequest { api: self.row.name, version, correlation_id }.span(context)
    }

    pub(crate) fn into_body(self) -> Result<Bytes, String> {
        let (api, version) = (self.row.name, self.peeked.api_version);
        self.peeked
            .into_body(self.row)
            .map_err(|error| format!("{api} v{version}: request header: {error}"))
    }
}

/// Admits requests whose key and version the table has; `Err` says why the connection closes, as Kafka closes it.
/// ApiVersions passes at any version: its handler answers an unknown one (KIP-511).
pub(crate) fn admit(peeked: Peeked) -> Result<Request, String> {
    let version = peeked.api_version;
    let Some(row) = lookup(peeked.api_key) else {
        return Err(format!("api key {} (version {version}) is not supported", peeked.api_key));
    };
    if !row.accepts(version) && row.key != ApiKey::ApiVersions {
        let (min, max) = (row.min, row.max);
        return Err(format!("{} version {version} is not within {min}..={max}", row.name));
    }
    Ok(Request { row, peeked })
}

/// Runs one request that is not a Produce.
pub(crate) async fn handle(hall: Arc<Hall>, context: RequestContext, request: Request) -> Reply {
    let (row, version, correlation) = (request.row, request.version(), request.correlation_id());
    if row.key == ApiKey::ApiVersions {
        return api::api_versions::handle(request);
    }
    let body = match request.into_body() {
        Ok(body) => body,
        Err(reason) => return Reply::Close(reason.into()),
    };
    if row.key == ApiKey::Fetch {
        return Box::pin(api::fetch::handle(&hall, version, correlation, body)).await;
    }
    macro_rules! cold {
        ($handler:path) => {{
            match cold::decode_request(version, body) {
                Ok(decoded) => {
                    let response = Box::pin($handler(&hall, &context, version, decoded)).await;
                    api::reply(row, version, correlation, response)
                }
                Err(error) => {
                    let api = row.name;
                    Reply::Close(format!("{api} v{version} is malformed: {error}").into())
                }
            }
        }};
    }
    match row.key {
        ApiKey::ListOffsets => cold!(api::list_offsets::handle),
        ApiKey::Metadata => cold!(api::metadata::handle),
        ApiKey::OffsetCommit => cold!(api::offset_commit::handle),
        ApiKey::OffsetFetch => cold!(api::offset_fetch::handle),
        ApiKey::FindCoordinator => cold!(api::find_coordinator::handle),
        ApiKey::JoinGroup => cold!(api::join_group::handle),
        ApiKey::Heartbeat => cold!(api::heartbeat::handle),
        ApiKey::LeaveGroup => cold!(api::leave_group::handle),
        ApiKey::SyncGroup => cold!(api::sync_group::handle),
        ApiKey::DescribeGroups => cold!(api::describe_groups::handle),
        ApiKey::ListGroups => cold!(api::list_groups::handle),
        ApiKey::CreateTopics => cold!(api::create_topics::handle),
        ApiKey::DeleteTopics => cold!(api::delete_topics::handle),
        ApiKey::DeleteRecords => cold!(api::delete_records::handle),
        ApiKey::InitProducerId => cold!(api::init_producer_id::handle),
        ApiKey::OffsetForLeaderEpoch => cold!(api::offset_for_leader_epoch::handle),
        ApiKey::DescribeAcls => cold!(api::describe_acls::handle),
        ApiKey::DescribeConfigs => cold!(api::describe_configs::handle),
        ApiKey::AlterConfigs => cold!(api::alter_configs::handle),
        ApiKey::DescribeLogDirs => cold!(api::describe_log_dirs::handle),
        ApiKey::CreatePartitions => cold!(api::create_partitions::handle),
        ApiKey::DeleteGroups => cold!(api::delete_groups::handle),
        ApiKey::IncrementalAlterConfigs => cold!(api::incremental_alter_configs::handle),
        ApiKey::OffsetDelete => cold!(api::offset_delete::handle),
        ApiKey::DescribeCluster => cold!(api::describe_cluster::handle),
        ApiKey::Produce | ApiKey::Fetch | ApiKey::ApiVersions => {
            unreachable!("these have their own roads")
        }
    }
}
