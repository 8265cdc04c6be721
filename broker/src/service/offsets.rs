//! Offsets: where a partition starts and ends, which offset a time or an epoch belongs to, and moving the start.

use millrace_model::offset::{EpochEnd, LeaderEpoch, Offset};
use tokio::sync::oneshot;

use crate::error::BrokerError;
use crate::partition::handle::{Message, PartitionHandle};
use crate::partition::reader;
use crate::partition::registry::Topic;

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spec {
    Earliest,
    /// The high watermark; on this broker the last stable offset too, for no transaction is ever open.
    Latest,
    /// The record with the greatest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record at or after this time, Unix milliseconds.
    AtOrAfter(i64),
    /// An offset that only tiered storage has (KIP-405, KIP-1005): nothing is tiered here.
    Tiered,
}

/// The answer: `None` where no record qualifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: Offset,
    /// -1 where the question was not about time.
    pub(crate) timestamp: i64,
    pub(crate) leader_epoch: LeaderEpoch,
}

/// Finds one offset.
///
/// # Errors
/// A wrong leader epoch, or a log that cannot be read.
pub(crate) async fn find(
    partition: &PartitionHandle,
    spec: Spec,
    current_leader_epoch: Option<LeaderEpoch>,
) -> Result<Option<Found>, BrokerError> {
    reader::check_epoch(partition, current_leader_epoch)?;
    let marks = partition.marks();
    let at = |offset| Found { offset, timestamp: -1, leader_epoch: marks.leader_epoch() };
    match spec {
        Spec::Earliest => Ok(Some(at(marks.log_start()))),
        Spec::Latest => Ok(Some(at(marks.high_watermark()))),
        Spec::Tiered => Ok(None),
        Spec::MaxTimestamp | Spec::AtOrAfter(_) => by_time(partition.clone(), spec).await,
    }
}

/// Time look-ups read a batch, perhaps from the disk, and unpack it: not on a network worker.
async fn by_time(partition: PartitionHandle, spec: Spec) -> Result<Option<Found>, BrokerError> {
    let look_up = move || {
        let upto = partition.marks().high_watermark();
        let found = match spec {
            Spec::AtOrAfter(timestamp) => partition.reader().offset_for_timestamp(timestamp, upto),
            _ => partition.reader().max_timestamp(upto),
        };
        found.map_err(|error| reader::read_error(error, upto))
    };
    let found = tokio::task::spawn_blocking(look_up)
        .await
        .map_err(|_| BrokerError::Storage { reason: "the look-up stopped".into() })??;
    Ok(found.map(|found| Found {
        offset: found.offset,
        timestamp: found.timestamp,
        leader_epoch: found.epoch,
    }))
}

/// Where `epoch`, or the latest one before it, ends (KIP-101, KIP-279).
///
/// # Errors
/// A wrong current leader epoch.
pub(crate) fn epoch_end(
    partition: &PartitionHandle,
    epoch: LeaderEpoch,
    current_leader_epoch: Option<LeaderEpoch>,
) -> Result<Option<EpochEnd>, BrokerError> {
    reader::check_epoch(partition, current_leader_epoch)?;
    Ok(partition.epoch_end(epoch))
}

/// A place in a log, as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Start,
    /// Behind the newest record that may be read.
    End,
    At(Offset),
    /// The first record at or after this time, Unix milliseconds; the end when there is none.
    Since(i64),
}

/// Where a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) offset: Offset,
    /// Of the record there, when a time was asked for and one was found.
    pub(crate) timestamp: Option<i64>,
}

/// Finds the offset of a place. [`Place::At`] is answered as it is, within the log or not.
///
/// # Errors
/// A log that cannot be read.
pub(crate) async fn locate(
    partition: &PartitionHandle,
    place: Place,
) -> Result<Located, BrokerError> {
    let at = |offset| Located { offset, timestamp: None };
    // Before the look-up: what is written meanwhile comes behind it.
    let end = partition.marks().high_watermark();
    match place {
        Place::Start => Ok(at(partition.marks().log_start())),
        Place::End => Ok(at(end)),
        Place::At(offset) => Ok(at(offset)),
        Place::Since(time) => {
            let found = find(partition, Spec::AtOrAfter(time), None).await?;
            Ok(found
                .map_or(at(end), |it| Located { offset: it.offset, timestamp: Some(it.timestamp) }))
        }
    }
}

/// Moves the log start up to `before`, or to the high watermark; answers the new log start once it is durable.
///
/// # Errors
/// An internal topic, an offset that is negative or above the high watermark, or storage that refuses.
pub(crate) async fn delete_records(
    topic: &Topic,
    partition: &PartitionHandle,
    before: Option<Offset>,
) -> Result<Offset, BrokerError> {
    if topic.name().is_internal() {
        return Err(BrokerError::InternalTopic { topic: topic.name().to_string() });
    }
    let end = partition.marks().high_watermark();
    let before = before.unwrap_or(end);
    if before.0 < 0 || before > end {
        let start = partition.marks().log_start();
        return Err(BrokerError::OffsetOutOfRange { offset: before, start, end });
    }
    let (reply, answer) = oneshot::channel();
    partition.post(Message::DeleteRecords { before, reply });
    answer.await.unwrap_or_else(|_| {
        Err(BrokerError::Storage { reason: "the partition stopped on an internal error".into() })
    })
}
