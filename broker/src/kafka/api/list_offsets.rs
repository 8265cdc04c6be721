//! ListOffsets, key 2, versions 1-10.
//!
//! Behaviour: no record at or after a time is offset -1 without error. The isolation level changes nothing: no
//! transaction is ever open, so the last stable offset is the high watermark.
//! Version notes: timestamp -3 (greatest timestamp) from 7 on (KIP-734), -4 (earliest local, here the earliest) from 8,
//! -5 (latest tiered, here none) from 9; an unknown special is UNSUPPORTED_VERSION.

use millrace_model::offset::LeaderEpoch;
use millrace_wire::cold::messages::list_offsets_request::ListOffsetsPartition;
use millrace_wire::cold::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use millrace_wire::cold::messages::{ListOffsetsRequest, ListOffsetsResponse};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::errors;
use crate::service::Hall;
use crate::service::offsets::{self, Spec};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    version: i16,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for asked in topic.partitions {
            partitions.push(find(hall, version, &topic.name, &asked).await);
        }
        topics.push(
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

async fn find(
    hall: &Hall,
    version: i16,
    topic: &str,
    asked: &ListOffsetsPartition,
) -> ListOffsetsPartitionResponse {
    let nothing = ListOffsetsPartitionResponse::default()
        .with_partition_index(asked.partition_index)
        .with_timestamp(-1)
        .with_offset(-1)
        .with_leader_epoch(-1);
    let Some(spec) = spec(version, asked.timestamp) else {
        return nothing.with_error_code(ErrorCode::UnsupportedVersion.code());
    };
    let partition = match hall.registry.leader(topic, asked.partition_index) {
        Ok((_, partition)) => partition,
        Err(error) => return nothing.with_error_code(errors::number(&error)),
    };
    let epoch = asked.current_leader_epoch;
    let epoch = (epoch >= 0).then_some(LeaderEpoch(epoch));
    match offsets::find(&partition, spec, epoch).await {
        Ok(Some(found)) => nothing
            .with_timestamp(found.timestamp)
            .with_offset(found.offset.0)
            .with_leader_epoch(found.leader_epoch.0),
        Ok(None) => nothing,
        Err(error) => nothing.with_error_code(errors::number(&error)),
    }
}

fn spec(version: i16, timestamp: i64) -> Option<Spec> {
    match timestamp {
        0.. => Some(Spec::AtOrAfter(timestamp)),
        -1 => Some(Spec::Latest),
        -2 => Some(Spec::Earliest),
        -3 if version >= 7 => Some(Spec::MaxTimestamp),
        -4 if version >= 8 => Some(Spec::Earliest),
        -5 if version >= 9 => Some(Spec::Tiered),
        _ => None,
    }
}
