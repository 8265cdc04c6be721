//! OffsetForLeaderEpoch, key 23, versions 2-4.
//!
//! Behaviour: where the asked epoch, or the latest before it, ends (KIP-101, KIP-279); unknown is epoch and offset -1.

use millrace_model::offset::LeaderEpoch;
use millrace_wire::cold::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use millrace_wire::cold::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use millrace_wire::cold::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use crate::context::RequestContext;
use crate::kafka::errors;
use crate::service::{Hall, offsets};

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let ends = topic.partitions.iter().map(|asked| end(hall, &topic.topic, asked)).collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(ends)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn end(hall: &Hall, topic: &str, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let nothing = EpochEndOffset::default()
        .with_partition(asked.partition)
        .with_leader_epoch(-1)
        .with_end_offset(-1);
    let current = asked.current_leader_epoch;
    let current = (current >= 0).then_some(LeaderEpoch(current));
    let found = hall
        .registry
        .leader(topic, asked.partition)
        .and_then(|(_, it)| offsets::epoch_end(&it, LeaderEpoch(asked.leader_epoch), current));
    match found {
        Ok(Some(it)) => nothing.with_leader_epoch(it.epoch.0).with_end_offset(it.end.0),
        Ok(None) => nothing,
        Err(error) => nothing.with_error_code(errors::number(&error)),
    }
}
