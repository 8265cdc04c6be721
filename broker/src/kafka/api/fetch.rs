//! Fetch, key 1, versions 4-17.
//!
//! Behaviour: always a full fetch: session id 0 is answered, so every client sends whole requests (KIP-227 makes
//! sessions optional). Consumers see records below the high watermark, which on a durable topic is what is on stable
//! storage; no transaction is ever open, so the last stable offset is the same. Whole batches from the one that holds
//! the fetch offset; the first comes however large it is (KIP-74).
//! Version notes: 13 names topics by id (KIP-516); an unknown id is UNKNOWN_TOPIC_ID for each of its partitions.

use std::time::Duration;

use bytes::Bytes;
use millrace_model::ids::TopicId;
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::FileRange;
use millrace_wire::error_code::ErrorCode;
use millrace_wire::fetch::{
    self as wire, Chunk, PartitionResponse, Payload, TopicRef, TopicResponse,
};
use millrace_wire::few::Few;

use crate::error::BrokerError;
use crate::kafka::errors;
use crate::kafka::pipeline::{Reply, ReplyPiece};
use crate::partition::handle::PartitionHandle;
use crate::partition::reader::Collected;
use crate::service::Hall;
use crate::service::fetch::{self, Part, Request};

/// The longest that a fetch may wait for bytes (`fetch.max.wait.ms` is the client's to choose, this is ours to bound).
const WAIT_MAX: Duration = Duration::from_secs(300);
/// A session id that no session has: this broker gives out none.
const NO_SESSION: i32 = 0;

pub(crate) async fn handle(hall: &Hall, version: i16, correlation_id: i32, body: Bytes) -> Reply {
    let request = match wire::decode(version, &body) {
        Ok(request) => request,
        Err(error) => {
            return Reply::Close(format!("Fetch v{version} is malformed: {error}").into());
        }
    };
    drop(body);
    let response = match session_error(&request) {
        Some(error_code) => wire::Response { error_code, ..wire::Response::default() },
        None => answer(hall, request).await,
    };
    match wire::encode(version, correlation_id, response) {
        Ok(encoded) => Reply::Pieces(encoded.chunks.into_iter().map(piece).collect()),
        Err(error) => Reply::Close(format!("the fetch reply cannot be encoded: {error}").into()),
    }
}

/// A client that goes on with a session must be told that it is gone (`FetchSessionHandler`).
fn session_error(request: &wire::Request) -> Option<ErrorCode> {
    let is_incremental = request.session_epoch > 0 && request.session_id != NO_SESSION;
    is_incremental.then_some(ErrorCode::FetchSessionIdNotFound)
}

fn piece(chunk: Chunk<Range>) -> ReplyPiece {
    match chunk {
        Chunk::Fields(bytes) => ReplyPiece::Bytes(bytes),
        Chunk::Records(Range(range)) => ReplyPiece::File(range),
    }
}

/// A range of a segment as a payload of the answer.
struct Range(FileRange<RealDisk>);

impl Payload for Range {
    fn len_bytes(&self) -> u64 {
        self.0.len()
    }
}

async fn answer(hall: &Hall, request: wire::Request) -> wire::Response<Range> {
    let mut parts = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        for partition in &topic.partitions {
            parts.push(Part {
                partition: find(hall, &topic.topic, partition.index),
                offset: Offset(partition.fetch_offset),
                max_bytes: u64::try_from(partition.max_bytes).unwrap_or(0),
                current_leader_epoch: epoch(partition.current_leader_epoch),
            });
        }
    }
    let max_bytes =
        u64::try_from(request.max_bytes).unwrap_or(0).min(hall.config.fetch_max_bytes as u64);
    let wanted = Request {
        max_wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0))
            .min(WAIT_MAX),
        // More than a reply may hold can never come together.
        min_bytes: u64::try_from(request.min_bytes).unwrap_or(0).min(max_bytes),
        max_bytes,
        parts,
    };
    let mut answers = fetch::fetch(hall, &wanted).await.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().zip(&mut answers);
        let partitions = partitions.map(|(asked, answer)| partition(asked.index, answer)).collect();
        TopicResponse { topic: topic.topic, partitions }
    });
    wire::Response { topics: topics.collect(), ..wire::Response::default() }
}

fn find(hall: &Hall, topic: &TopicRef, partition: i32) -> Result<PartitionHandle, BrokerError> {
    match topic {
        TopicRef::Name(name) => hall.registry.leader(name.as_str(), partition).map(|(_, it)| it),
        TopicRef::Id(id) => hall.registry.leader_by_id(TopicId(*id), partition).map(|(_, it)| it),
    }
}

/// -1 is "the client does not say".
fn epoch(epoch: i32) -> Option<LeaderEpoch> {
    (epoch >= 0).then_some(LeaderEpoch(epoch))
}

fn partition(index: i32, answer: Result<Collected, BrokerError>) -> PartitionResponse<Range> {
    match answer {
        Ok(collected) => PartitionResponse {
            high_watermark: collected.high_watermark.0,
            last_stable_offset: collected.high_watermark.0,
            log_start_offset: collected.log_start.0,
            records: collected.into_ranges().into_iter().map(Range).collect::<Few<_>>(),
            ..PartitionResponse::refused(index, ErrorCode::None)
        },
        Err(error) => PartitionResponse::refused(index, errors::code(&error)),
    }
}
