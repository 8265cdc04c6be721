//! Offsets by position, and the deletion of records.

use std::sync::Arc;

use millrace_model::offset::Offset;
use millrace_proto::v1::position::At;
use millrace_proto::v1::{
    DeleteBefore, DeleteRecordsRequest, DeleteRecordsResponse, DeletedBefore, Edge, FoundOffset,
    ListOffsetsRequest, ListOffsetsResponse, Position,
};
use tonic::Status;

use crate::error::BrokerError;
use crate::grpc::admin::topics::unknown;
use crate::grpc::errors;
use crate::partition::registry::Topic;
use crate::service::Hall;
use crate::service::offsets::{self, Located, Place};

/// In place of an offset that is not known.
const NONE: i64 = -1;
/// "All that may be read."
const TO_HIGH_WATERMARK: i64 = -1;

pub(super) async fn list(
    hall: &Hall,
    request: ListOffsetsRequest,
) -> Result<ListOffsetsResponse, Status> {
    let topic = topic(hall, &request.topic)?;
    let place = place(request.position.as_ref())?;
    let mut found = Vec::new();
    for partition in partitions(&topic, request.partitions) {
        let located = locate(&topic, partition, place).await;
        found.push(match located {
            Ok(Located { offset, timestamp }) => FoundOffset {
                partition,
                offset: offset.0,
                timestamp_ms: timestamp,
                status: Some(errors::success()),
            },
            Err(error) => FoundOffset {
                partition,
                offset: NONE,
                timestamp_ms: None,
                status: Some(errors::item(&error)),
            },
        });
    }
    Ok(ListOffsetsResponse { offsets: found })
}

/// A place that must be within the log.
async fn locate(topic: &Topic, partition: i32, place: Place) -> Result<Located, BrokerError> {
    let partition = topic.partition(partition)?;
    let located = offsets::locate(partition, place).await?;
    let (start, end) = (partition.marks().log_start(), partition.marks().high_watermark());
    let offset = located.offset;
    if matches!(place, Place::At(_)) && !(start..=end).contains(&offset) {
        return Err(BrokerError::OffsetOutOfRange { offset, start, end });
    }
    Ok(located)
}

pub(super) async fn delete_records(
    hall: &Hall,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Status> {
    let topic = topic(hall, &request.topic)?;
    let mut partitions = Vec::with_capacity(request.partitions.len());
    for DeleteBefore { partition, before } in request.partitions {
        let before = (before != TO_HIGH_WATERMARK).then_some(Offset(before));
        let deleted = match topic.partition(partition) {
            Ok(handle) => offsets::delete_records(&topic, handle, before).await,
            Err(error) => Err(error),
        };
        partitions.push(match deleted {
            Ok(start) => {
                DeletedBefore { partition, log_start: start.0, status: Some(errors::success()) }
            }
            Err(error) => {
                DeletedBefore { partition, log_start: NONE, status: Some(errors::item(&error)) }
            }
        });
    }
    Ok(DeleteRecordsResponse { partitions })
}

/// The topic of this name.
pub(super) fn topic(hall: &Hall, name: &str) -> Result<Arc<Topic>, Status> {
    hall.registry.topic(name).ok_or_else(|| unknown(name))
}

/// Those that were asked for; none means all.
pub(super) fn partitions(topic: &Topic, asked: Vec<i32>) -> Vec<i32> {
    if !asked.is_empty() {
        return asked;
    }
    (0..i32::try_from(topic.partition_count()).expect("the controller bounds counts")).collect()
}

/// A position as the hall knows it.
pub(super) fn place(position: Option<&Position>) -> Result<Place, Status> {
    let at = position.and_then(|it| it.at.as_ref());
    match at.ok_or_else(|| errors::invalid("position", "it is missing"))? {
        At::Offset(offset) => Ok(Place::At(Offset(*offset))),
        At::TimestampMs(time) if *time < 0 => {
            Err(errors::invalid("position.timestamp_ms", "it is negative"))
        }
        At::TimestampMs(time) => Ok(Place::Since(*time)),
        At::Edge(edge) => match Edge::try_from(*edge) {
            Ok(Edge::Earliest) => Ok(Place::Start),
            Ok(Edge::Latest) => Ok(Place::End),
            Ok(Edge::Unspecified) | Err(_) => {
                Err(errors::invalid("position.edge", "it is neither EDGE_EARLIEST nor EDGE_LATEST"))
            }
        },
    }
}
