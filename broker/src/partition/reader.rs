//! Reads of one partition, without its owner: marks say what may be seen, the log reader finds the bytes.

use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_storage::disk::real::RealDisk;
use millrace_storage::error::ReadError;
use millrace_storage::log::FileRange;

use crate::error::BrokerError;
use crate::partition::handle::PartitionHandle;

/// What a fetch found in one partition.
#[derive(Clone)]
pub(crate) struct Collected {
    pub(crate) high_watermark: Offset,
    pub(crate) log_start: Offset,
    /// Offsets from the one that was asked for to the end of what was found.
    pub(crate) offsets: u64,
    ranges: Vec<FileRange<RealDisk>>,
}

impl Collected {
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(FileRange::len).sum()
    }

    pub(crate) fn ranges(&self) -> &[FileRange<RealDisk>] {
        &self.ranges
    }

    pub(crate) fn into_ranges(self) -> Vec<FileRange<RealDisk>> {
        self.ranges
    }
}

/// Whole batches from `offset` on, below the high watermark.
///
/// # Errors
/// A wrong leader epoch, an offset outside the log, or a log that cannot be read.
pub(crate) fn collect(
    partition: &PartitionHandle,
    offset: Offset,
    current_leader_epoch: Option<LeaderEpoch>,
    max_bytes: u64,
    at_least_one: bool,
) -> Result<Collected, BrokerError> {
    check_epoch(partition, current_leader_epoch)?;
    let marks = partition.marks();
    let high_watermark = marks.high_watermark();
    let log_start = marks.log_start();
    if offset < log_start || offset > marks.log_end() {
        return Err(BrokerError::OffsetOutOfRange {
            offset,
            start: log_start,
            end: high_watermark,
        });
    }
    // Between the high watermark and the log end there is nothing to see yet, which is no error.
    if offset >= high_watermark {
        return Ok(Collected { high_watermark, log_start, offsets: 0, ranges: Vec::new() });
    }
    let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX);
    let read = partition
        .reader()
        .read(offset, high_watermark, max_bytes, at_least_one)
        .map_err(|error| read_error(error, high_watermark))?;
    let offsets = u64::try_from(read.next.0 - offset.0).unwrap_or(0);
    Ok(Collected { high_watermark, log_start, offsets, ranges: read.ranges })
}

/// Refuses a client whose picture of the leadership is older or newer than ours (KIP-320).
///
/// # Errors
/// Fenced or unknown leader epoch.
pub(crate) fn check_epoch(
    partition: &PartitionHandle,
    asked: Option<LeaderEpoch>,
) -> Result<(), BrokerError> {
    let current = partition.marks().leader_epoch();
    match asked {
        Some(asked) if asked < current => Err(BrokerError::FencedLeaderEpoch { asked, current }),
        Some(asked) if asked > current => Err(BrokerError::UnknownLeaderEpoch { asked, current }),
        _ => Ok(()),
    }
}

pub(crate) fn read_error(error: ReadError, end: Offset) -> BrokerError {
    match error {
        ReadError::OutOfRange { offset, start, .. } => {
            BrokerError::OffsetOutOfRange { offset, start, end }
        }
        other => BrokerError::Storage { reason: other.to_string().into() },
    }
}
