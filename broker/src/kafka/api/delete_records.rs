//! DeleteRecords, key 21, versions 0-2.
//!
//! Behaviour: the log start moves up to the offset (-1: the high watermark) and is durable before the reply; segments
//! wholly below it go. An offset above the high watermark is OFFSET_OUT_OF_RANGE.

use millrace_model::offset::Offset;
use millrace_wire::cold::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use millrace_wire::cold::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use crate::context::RequestContext;
use crate::error::BrokerError;
use crate::kafka::errors;
use crate::service::{Hall, offsets};

/// "All that may be read."
const TO_HIGH_WATERMARK: i64 = -1;

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in topic.partitions {
            let result = delete(hall, &topic.name, asked.partition_index, asked.offset).await;
            let answer =
                DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            partitions.push(match result {
                Ok(start) => answer.with_low_watermark(start.0),
                Err(error) => answer.with_low_watermark(-1).with_error_code(errors::number(&error)),
            });
        }
        topics.push(
            DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions),
        );
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

async fn delete(
    hall: &Hall,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Offset, BrokerError> {
    let (topic, partition) = hall.registry.leader(topic, partition)?;
    let before = (offset != TO_HIGH_WATERMARK).then_some(Offset(offset));
    offsets::delete_records(&topic, &partition, before).await
}
