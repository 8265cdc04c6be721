//! Every API but Produce and Fetch, by the crate kafka-protocol. This is the only file that names it and the uuid crate
//! in its messages: the shell's API handlers take message types from [`messages`] and codecs from here, so that the
//! crate can be replaced in one place.
//!
//! The crate is bounded from outside: `cold/schema.rs` walks over each request before the crate sees it. And handlers
//! know one shape per message: `cold/shape.rs` lifts old requests to the shape of the newest version and lowers
//! responses to what the version has, where the crate alone would refuse to encode.

mod schema;
mod shape;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::error_code::ErrorCode;
use crate::frame::PREFIX_BYTES;
use crate::header::{put_response_header, response_header_bytes};
use crate::primitive::{DecodeError, EncodeError, Sink, Text, Uuid};
use crate::{ApiKey, ApiRow, TABLE};

/// The message types, under the names of Kafka's schemas. Structs inside a message are in its module.
pub mod messages {
    pub use kafka_protocol::messages::{BrokerId, GroupId, ProducerId, TopicName, TransactionalId};
    pub use kafka_protocol::protocol::StrBytes;

    macro_rules! messages {
        ($($module:ident::$message:ident,)+) => {
            $(pub use kafka_protocol::messages::{$module, $message};)+
        };
    }

    messages! {
        alter_configs_request::AlterConfigsRequest,
        alter_configs_response::AlterConfigsResponse,
        api_versions_request::ApiVersionsRequest,
        api_versions_response::ApiVersionsResponse,
        create_partitions_request::CreatePartitionsRequest,
        create_partitions_response::CreatePartitionsResponse,
        create_topics_request::CreateTopicsRequest,
        create_topics_response::CreateTopicsResponse,
        delete_groups_request::DeleteGroupsRequest,
        delete_groups_response::DeleteGroupsResponse,
        delete_records_request::DeleteRecordsRequest,
        delete_records_response::DeleteRecordsResponse,
        delete_topics_request::DeleteTopicsRequest,
        delete_topics_response::DeleteTopicsResponse,
        describe_acls_request::DescribeAclsRequest,
        describe_acls_response::DescribeAclsResponse,
        describe_cluster_request::DescribeClusterRequest,
        describe_cluster_response::DescribeClusterResponse,
        describe_configs_request::DescribeConfigsRequest,
        describe_configs_response::DescribeConfigsResponse,
        describe_groups_request::DescribeGroupsRequest,
        describe_groups_response::DescribeGroupsResponse,
        describe_log_dirs_request::DescribeLogDirsRequest,
        describe_log_dirs_response::DescribeLogDirsResponse,
        find_coordinator_request::FindCoordinatorRequest,
        find_coordinator_response::FindCoordinatorResponse,
        heartbeat_request::HeartbeatRequest,
        heartbeat_response::HeartbeatResponse,
        incremental_alter_configs_request::IncrementalAlterConfigsRequest,
        incremental_alter_configs_response::IncrementalAlterConfigsResponse,
        init_producer_id_request::InitProducerIdRequest,
        init_producer_id_response::InitProducerIdResponse,
        join_group_request::JoinGroupRequest,
        join_group_response::JoinGroupResponse,
        leave_group_request::LeaveGroupRequest,
        leave_group_response::LeaveGroupResponse,
        list_groups_request::ListGroupsRequest,
        list_groups_response::ListGroupsResponse,
        list_offsets_request::ListOffsetsRequest,
        list_offsets_response::ListOffsetsResponse,
        metadata_request::MetadataRequest,
        metadata_response::MetadataResponse,
        offset_commit_request::OffsetCommitRequest,
        offset_commit_response::OffsetCommitResponse,
        offset_delete_request::OffsetDeleteRequest,
        offset_delete_response::OffsetDeleteResponse,
        offset_fetch_request::OffsetFetchRequest,
        offset_fetch_response::OffsetFetchResponse,
        offset_for_leader_epoch_request::OffsetForLeaderEpochRequest,
        offset_for_leader_epoch_response::OffsetForLeaderEpochResponse,
        sync_group_request::SyncGroupRequest,
        sync_group_response::SyncGroupResponse,
    }
}

use messages::StrBytes;
use messages::api_versions_response::{ApiVersion, ApiVersionsResponse};

/// A request that [`decode_request`] reads.
pub trait Request: Decodable {
    const API: ApiKey;
    type Response: Response;

    /// Fields that only old versions have move to where newer versions keep them, so that a handler looks in one place.
    fn lift(&mut self, _version: i16) {}
}

/// A response that [`encode_response`] writes.
pub trait Response: Encodable {
    const API: ApiKey;

    /// What the version has no field for is moved to where it does, or cleared.
    fn lower(&mut self, _version: i16) {}
}

fn checked_row(api: ApiKey, version: i16) -> Option<&'static ApiRow> {
    Some(api.row()).filter(|row| row.accepts(version))
}

/// Reads a request body. Strings and bytes in it share `body`. The result has the shape of the newest version:
/// see [`Request::lift`].
///
/// # Errors
/// A version that is not spoken, whatever is not a body of this version, lengths that the bytes do not back, and
/// messages that would take far more memory than they have bytes. Fields after the last known one are ignored, as Kafka
/// does.
pub fn decode_request<R: Request>(version: i16, body: Bytes) -> Result<R, DecodeError> {
    let api = R::API;
    let refused = || DecodeError::Version { api: api.row().name, version };
    let row = checked_row(api, version).ok_or_else(refused)?;
    let fields = schema::request(api).ok_or_else(refused)?;
    schema::check(fields, version, row.is_flexible(version), &body, &mut ())?;
    let mut request = decode_unchecked::<R>(version, body)?;
    request.lift(version);
    Ok(request)
}

/// Invariant: `schema::check` has passed the body.
fn decode_unchecked<R: Request>(version: i16, mut body: Bytes) -> Result<R, DecodeError> {
    R::decode(&mut body, version)
        .map_err(|error| DecodeError::Malformed { reason: error.to_string() })
}

/// The whole answer: length, header, body. The response is lowered to its version first: see [`Response::lower`].
///
/// # Errors
/// A version that is not spoken, an answer above 2 GiB, a string above 32 KiB in a version that is not flexible.
pub fn encode_response<R: Response>(
    version: i16,
    correlation_id: i32,
    mut response: R,
) -> Result<BytesMut, EncodeError> {
    let api = R::API;
    checked_row(api, version)
        .ok_or_else(|| EncodeError::Version { api: api.row().name, version })?;
    response.lower(version);
    let body = response.compute_size(version).map_err(malformed)?;
    let size = response_header_bytes(api, version) + body;
    let Ok(prefix) = i32::try_from(size) else {
        return Err(EncodeError::TooLarge { size: size as u64 });
    };
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + size);
    out.i32(prefix);
    put_response_header(&mut out, api, version, correlation_id);
    response.encode(&mut out, version).map_err(malformed)?;
    Ok(out)
}

fn malformed(error: impl ToString) -> EncodeError {
    EncodeError::Malformed { reason: error.to_string() }
}

/// What `ApiVersions` answers: the rows of [`TABLE`].
pub fn api_versions() -> ApiVersionsResponse {
    ApiVersionsResponse::default().with_api_keys(TABLE.iter().map(shown).collect())
}

fn shown(row: &ApiRow) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(row.key.code())
        .with_min_version(row.min_shown)
        .with_max_version(row.max)
}

/// The whole answer to an `ApiVersions` request of a version from the future, whose body is not to be parsed: version 0,
/// UNSUPPORTED_VERSION, and the one row from which the client can choose a version to ask again with (KIP-511).
pub fn api_versions_unsupported(correlation_id: i32) -> BytesMut {
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![shown(ApiKey::ApiVersions.row())]);
    encode_response(0, correlation_id, response).expect("one row fits every version")
}

/// A topic id as the message types want it.
pub fn topic_id(id: Uuid) -> uuid::Uuid {
    uuid::Uuid::from_bytes(id)
}

/// The bytes of a topic id from a message.
pub fn topic_id_bytes(id: uuid::Uuid) -> Uuid {
    id.into_bytes()
}

impl From<StrBytes> for Text {
    fn from(text: StrBytes) -> Text {
        Text::try_from(text.into_bytes()).expect("both are UTF-8")
    }
}

impl From<Text> for StrBytes {
    fn from(text: Text) -> StrBytes {
        StrBytes::from_utf8(text.into_bytes()).expect("both are UTF-8")
    }
}

#[cfg(test)]
mod tests;
