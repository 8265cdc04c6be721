//! How far a group is: what it has committed in each partition, how many records it lacks there, and how old the first
//! of them is. Looked at from inside the broker: no consumer is asked.

use std::collections::BTreeMap;

use millrace_kernel::group::{GroupDescription, MemberId};
use millrace_model::batch::BatchHeader;
use millrace_model::consumer_protocol::Assignment;
use millrace_model::env::WallMs;
use millrace_model::ids::{GroupId, PartitionIndex, TopicName};
use millrace_model::limits::BATCH_UNPACKED_BYTES_MAX;
use millrace_model::offset::Offset;
use millrace_model::record;
use tracing::debug;

use crate::error::BrokerError;
use crate::partition::handle::PartitionHandle;
use crate::partition::reader;
use crate::service::Hall;
use crate::service::groups::{self, GroupFailed};

/// The type of groups whose members' assignments can be read.
const CONSUMER: &str = "consumer";

/// A group and how far it is.
#[derive(Clone, Debug)]
pub(crate) struct GroupLag {
    pub(crate) description: GroupDescription,
    /// Those that it has committed an offset for or that a member reads, in order.
    pub(crate) partitions: Vec<PartitionLag>,
}

/// How far a group is in one partition.
#[derive(Clone, Debug)]
pub(crate) struct PartitionLag {
    pub(crate) topic: TopicName,
    pub(crate) partition: PartitionIndex,
    pub(crate) progress: Progress,
    /// `None`: the partition is not here, or cannot be read.
    pub(crate) log: Option<LogLag>,
}

/// What is known of a group in one partition without looking at the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The next record that it wants, as it was committed.
    pub(crate) committed: Option<i64>,
    pub(crate) metadata: Box<str>,
    /// Who reads it now.
    pub(crate) member: Option<MemberId>,
}

/// What the log has beyond that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogLag {
    pub(crate) start: Offset,
    pub(crate) high_watermark: Offset,
    /// Records that are there and not committed.
    pub(crate) records: i64,
    /// Age of the first of them, by its timestamp; 0 when there is none or it has no timestamp.
    pub(crate) age_ms: i64,
}

/// How far `group` is.
///
/// # Errors
/// There is no such group, or nobody who knows.
pub(crate) async fn of_group(hall: &Hall, group: &GroupId) -> Result<GroupLag, GroupFailed> {
    let description = groups::describe(hall, group).await?;
    let mut progress: BTreeMap<(TopicName, PartitionIndex), Progress> = BTreeMap::new();
    for topic in groups::committed(hall, group).await? {
        for fetched in topic.partitions {
            let Some(committed) = fetched.committed else { continue };
            let entry = progress.entry((topic.topic.clone(), fetched.partition)).or_default();
            entry.committed = Some(committed.offset);
            entry.metadata = committed.metadata;
        }
    }
    for (member, partition) in assigned(&description) {
        progress.entry(partition).or_default().member = Some(member);
    }
    let partitions = progress.into_iter().map(|((topic, partition), progress)| {
        let handle = hall.registry.leader(topic.as_str(), partition.0).ok().map(|(_, it)| it);
        (PartitionLag { topic, partition, progress, log: None }, handle)
    });
    let partitions = partitions.collect();
    let now = hall.clock.now().wall;
    // Finding a record's timestamp may read the disk and unpack a batch: not on a network worker.
    let partitions = tokio::task::spawn_blocking(move || with_logs(partitions, now))
        .await
        .map_err(|_| BrokerError::Storage { reason: "the look-up stopped".into() })?;
    Ok(GroupLag { description, partitions })
}

/// What each member reads, as its leader has handed it out; what is no assignment assigns nothing.
fn assigned(
    description: &GroupDescription,
) -> impl Iterator<Item = (MemberId, (TopicName, PartitionIndex))> {
    let members = description.members.iter().filter(|_| &*description.protocol_type == CONSUMER);
    members.flat_map(|member| {
        let id = member.member.clone();
        assignment(&member.assignment).into_iter().map(move |it| (id.clone(), it))
    })
}

/// The partitions in a member's assignment, whose bytes are the business of its group's members alone.
pub(crate) fn assignment(bytes: &[u8]) -> Vec<(TopicName, PartitionIndex)> {
    let Ok(assignment) = Assignment::decode(bytes) else { return Vec::new() };
    let topics = assignment.topics.into_iter();
    let partitions = topics.filter_map(|(topic, partitions)| {
        let topic = TopicName::parse(&topic).ok()?;
        Some(partitions.into_iter().map(move |it| (topic.clone(), PartitionIndex(it))))
    });
    partitions.flatten().collect()
}

fn with_logs(
    partitions: Vec<(PartitionLag, Option<PartitionHandle>)>,
    now: WallMs,
) -> Vec<PartitionLag> {
    let with_log = |(lag, handle): (PartitionLag, Option<PartitionHandle>)| {
        let log = handle.and_then(|handle| {
            let looked = look(&handle, lag.progress.committed, now);
            if let Err(error) = &looked {
                debug!(topic = %lag.topic, partition = lag.partition.0, %error, "lag not known");
            }
            looked.ok()
        });
        PartitionLag { log, ..lag }
    };
    partitions.into_iter().map(with_log).collect()
}

/// The log may lose its oldest records while one of them is looked for: then it is looked at again.
fn look(
    partition: &PartitionHandle,
    committed: Option<i64>,
    now: WallMs,
) -> Result<LogLag, BrokerError> {
    const ATTEMPTS: usize = 3;
    for _ in 1..ATTEMPTS {
        match look_once(partition, committed, now) {
            Err(BrokerError::OffsetOutOfRange { .. }) => {}
            looked => return looked,
        }
    }
    look_once(partition, committed, now)
}

fn look_once(
    partition: &PartitionHandle,
    committed: Option<i64>,
    now: WallMs,
) -> Result<LogLag, BrokerError> {
    let marks = partition.marks();
    let start = marks.log_start();
    let high_watermark = marks.high_watermark().max(start);
    // A commit is taken as it comes: it may lie outside the log.
    let next = committed.map_or(start, |it| Offset(it).clamp(start, high_watermark));
    let records = high_watermark.0 - next.0;
    let timestamp = if records > 0 { timestamp_at(partition, next, high_watermark)? } else { None };
    let age_ms = timestamp.map_or(0, |it| now.0.saturating_sub(it).max(0));
    Ok(LogLag { start, high_watermark, records, age_ms })
}

/// The timestamp of the first record at or behind `offset`.
fn timestamp_at(
    partition: &PartitionHandle,
    offset: Offset,
    upto: Offset,
) -> Result<Option<i64>, BrokerError> {
    let read = partition.reader().read(offset, upto, 0, true);
    let ranges = read.map_err(|error| reader::read_error(error, upto))?.ranges;
    let Some(range) = ranges.into_iter().next() else { return Ok(None) };
    let storage = |reason: String| BrokerError::Storage { reason: reason.into() };
    let bytes = range.bytes().map_err(|fault| storage(fault.to_string()))?;
    let header = BatchHeader::parse(&bytes).map_err(|error| storage(error.to_string()))?;
    let timestamp = if header.attributes.is_log_append_time() {
        header.max_timestamp
    } else {
        // A batch that does not unpack is as old as its first record.
        timestamp_in(&header, &bytes, offset).unwrap_or(header.base_timestamp)
    };
    if range.poisoned() {
        return Err(storage("a page of the segment did not load".into()));
    }
    Ok((timestamp >= 0).then_some(timestamp))
}

fn timestamp_in(header: &BatchHeader, batch: &bytes::Bytes, offset: Offset) -> Option<i64> {
    let records = record::records(header, batch, BATCH_UNPACKED_BYTES_MAX).ok()?;
    let mut records = records.map_while(Result::ok);
    let found = records.find(|it| header.base_offset.0 + i64::from(it.offset_delta) >= offset.0)?;
    Some(header.base_timestamp.saturating_add(found.timestamp_delta))
}

#[cfg(test)]
mod tests {
    use millrace_model::compression::Codec;
    use millrace_model::record::{BatchBuilder, NewRecord};

    use super::*;

    #[test]
    fn a_record_within_a_batch_has_its_own_timestamp() {
        for codec in [Codec::None, Codec::Lz4] {
            let mut builder = BatchBuilder::new(codec);
            for timestamp in [5_000, 3_000, 9_000] {
                builder.push(NewRecord { timestamp, ..NewRecord::default() });
            }
            let mut batch = builder.build().to_vec();
            batch[..8].copy_from_slice(&70_i64.to_be_bytes());
            let header = BatchHeader::parse(&batch).unwrap();
            let batch = batch.into();
            let at = |offset| timestamp_in(&header, &batch, Offset(offset));
            assert_eq!([at(70), at(71), at(72)], [Some(5_000), Some(3_000), Some(9_000)]);
            assert_eq!(at(73), None);
        }
    }
}
