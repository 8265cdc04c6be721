//! Produce, versions 3 to 11, by hand: the request is taken apart without copying a record, the answer is one buffer
//! whose size is known before it is filled. What the records are worth is the model's business, not ours.
//!
//! ```text
//! request   transactional_id nullable string | acks i16 | timeout_ms i32
//!           topics [ name string | partitions [ index i32 | records nullable bytes ] ]
//! response  topics [ name string
//!                    partitions [ index i32 | error_code i16 | base_offset i64 | log_append_time_ms i64
//!                                 5+: log_start_offset i64
//!                                 8+: record_errors [ batch_index i32 | message nullable string ]
//!                                     error_message nullable string
//!                                 10+: tag 0 current_leader { leader_id i32 | leader_epoch i32 } ] ]
//!           throttle_time_ms i32 | 10+: tag 0 node_endpoints [ node_id i32 | host string | port i32 | rack nullable ]
//! ```
//! Version 9 and above are flexible: compact lengths, and every struct ends with tagged fields.

use bytes::{Bytes, BytesMut};

use crate::error_code::ErrorCode;
use crate::few::Few;
use crate::frame::PREFIX_BYTES;
use crate::header::{put_response_header, response_header_bytes};
use crate::primitive::{DecodeError, Element, EncodeError, Reader, Sink, Size, Text};
use crate::{ApiKey, ApiRow};

/// What a client wants appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub transactional_id: Option<Text>,
    /// 0 no answer at all, 1 the leader, -1 all in sync. Anything else is INVALID_REQUIRED_ACKS.
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Few<Topic>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: Text,
    pub partitions: Few<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub index: i32,
    /// The record batches, sharing the frame. Nothing in them has been looked at.
    pub records: Option<Bytes>,
}

/// The answer, whatever the version: [`encode`] leaves out what a version lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub topics: Few<TopicResponse>,
    pub throttle_time_ms: i32,
    /// Where the leaders named in `current_leader` are reached. Version 10+.
    pub node_endpoints: Vec<NodeEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicResponse {
    pub name: Text,
    pub partitions: Few<PartitionResponse>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResponse {
    pub index: i32,
    pub error_code: ErrorCode,
    /// -1 if nothing was appended.
    pub base_offset: i64,
    /// -1 unless the topic stamps its own time.
    pub log_append_time_ms: i64,
    /// -1 if unknown. Version 5+.
    pub log_start_offset: i64,
    /// Version 8+.
    pub record_errors: Vec<RecordError>,
    /// Version 8+.
    pub error_message: Option<Text>,
    /// For NOT_LEADER_OR_FOLLOWER: who leads instead (KIP-951). Version 10+.
    pub current_leader: Option<CurrentLeader>,
}

impl PartitionResponse {
    /// An answer that appended nothing.
    pub fn refused(index: i32, error_code: ErrorCode) -> PartitionResponse {
        PartitionResponse {
            index,
            error_code,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

/// One record that made its batch be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The position of the record in its batch.
    pub batch_index: i32,
    pub message: Option<Text>,
}

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLeader {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

/// How a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: Text,
    pub port: i32,
    pub rack: Option<Text>,
}

const LOG_START_FROM: i16 = 5;
const RECORD_ERRORS_FROM: i16 = 8;
const LEADER_FROM: i16 = 10;

fn checked_row(version: i16) -> Option<&'static ApiRow> {
    Some(ApiKey::Produce.row()).filter(|row| row.accepts(version))
}

/// Takes a request body apart.
///
/// # Errors
/// Whatever is not a Produce body of this version. Fields after the last known one are ignored, as Kafka does.
pub fn decode(version: i16, body: &Bytes) -> Result<Request, DecodeError> {
    let row = checked_row(version).ok_or(DecodeError::Version { api: "Produce", version })?;
    let flexible = row.is_flexible(version);
    let mut reader = Reader::new(body);
    let transactional_id = reader.string(body, flexible)?;
    let acks = reader.i16()?;
    let timeout_ms = reader.i32()?;
    let at = reader.at();
    let count = reader.count(flexible, TOPIC)?.ok_or(DecodeError::Null { at })?;
    let topics = Few::try_fill(count, || decode_topic(&mut reader, body, flexible))?;
    reader.skip_tags(flexible)?;
    Ok(Request { transactional_id, acks, timeout_ms, topics })
}

const TOPIC: Element = Element { wire_bytes_min: 3, heap_bytes: size_of::<Topic>() };
const PARTITION: Element = Element { wire_bytes_min: 6, heap_bytes: size_of::<Partition>() };

fn decode_topic(
    reader: &mut Reader<'_>,
    body: &Bytes,
    flexible: bool,
) -> Result<Topic, DecodeError> {
    let name = reader.text(body, flexible)?;
    let at = reader.at();
    let count = reader.count(flexible, PARTITION)?.ok_or(DecodeError::Null { at })?;
    let partitions = Few::try_fill(count, || {
        let index = reader.i32()?;
        let records = reader.byte_string(flexible)?.map(|raw| body.slice_ref(raw));
        reader.skip_tags(flexible)?;
        Ok(Partition { index, records })
    })?;
    reader.skip_tags(flexible)?;
    Ok(Topic { name, partitions })
}

/// Appends the whole answer to `out`: length, header, body. `out` grows once, by exactly what is written.
///
/// # Errors
/// A version that is not spoken, an answer above 2 GiB. `out` is untouched then.
pub fn encode(
    version: i16,
    correlation_id: i32,
    response: &Response,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let row = checked_row(version).ok_or(EncodeError::Version { api: "Produce", version })?;
    let flexible = row.is_flexible(version);
    let mut body = Size::default();
    put_response(&mut body, version, flexible, response);
    let size = response_header_bytes(ApiKey::Produce, version) + body.0;
    let Ok(prefix) = i32::try_from(size) else {
        return Err(EncodeError::TooLarge { size: size as u64 });
    };
    out.reserve(PREFIX_BYTES + size);
    out.i32(prefix);
    put_response_header(out, ApiKey::Produce, version, correlation_id);
    put_response(out, version, flexible, response);
    Ok(())
}

fn put_response(out: &mut impl Sink, version: i16, flexible: bool, response: &Response) {
    out.length(flexible, Some(response.topics.len()));
    for topic in &response.topics {
        out.string(flexible, Some(&topic.name));
        out.length(flexible, Some(topic.partitions.len()));
        for partition in &topic.partitions {
            put_partition(out, version, flexible, partition);
        }
        out.no_tags(flexible);
    }
    out.i32(response.throttle_time_ms);
    if version >= LEADER_FROM {
        put_endpoints_tag(out, &response.node_endpoints);
    } else {
        out.no_tags(flexible);
    }
}

fn put_partition(out: &mut impl Sink, version: i16, flexible: bool, partition: &PartitionResponse) {
    out.i32(partition.index);
    out.i16(partition.error_code.code());
    out.i64(partition.base_offset);
    out.i64(partition.log_append_time_ms);
    if version >= LOG_START_FROM {
        out.i64(partition.log_start_offset);
    }
    if version >= RECORD_ERRORS_FROM {
        out.length(flexible, Some(partition.record_errors.len()));
        for error in &partition.record_errors {
            out.i32(error.batch_index);
            out.string(flexible, error.message.as_deref());
            out.no_tags(flexible);
        }
        out.string(flexible, partition.error_message.as_deref());
    }
    match partition.current_leader {
        Some(leader) if version >= LEADER_FROM => {
            out.varint(1);
            put_leader_tag(out, 0, leader);
        }
        _ => out.no_tags(flexible),
    }
}

/// One tagged field that holds a [`CurrentLeader`].
pub(crate) fn put_leader_tag(out: &mut impl Sink, tag: u32, leader: CurrentLeader) {
    const SIZE: u32 = 9;
    out.varint(tag);
    out.varint(SIZE);
    out.i32(leader.leader_id);
    out.i32(leader.leader_epoch);
    out.no_tags(true);
}

/// The tagged fields at the end of an answer: tag 0, the endpoints, if there are any.
pub(crate) fn put_endpoints_tag(out: &mut impl Sink, endpoints: &[NodeEndpoint]) {
    if endpoints.is_empty() {
        return out.no_tags(true);
    }
    let mut size = Size::default();
    put_endpoints(&mut size, endpoints);
    out.varint(1);
    out.varint(0);
    out.varint(size.0 as u32);
    put_endpoints(out, endpoints);
}

fn put_endpoints(out: &mut impl Sink, endpoints: &[NodeEndpoint]) {
    out.length(true, Some(endpoints.len()));
    for endpoint in endpoints {
        out.i32(endpoint.node_id);
        out.string(true, Some(&endpoint.host));
        out.i32(endpoint.port);
        out.string(true, endpoint.rack.as_deref());
        out.no_tags(true);
    }
}
