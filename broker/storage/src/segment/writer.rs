//! The owner's hand on the segment that grows: how far it is written, what its indexes get, when it is full.
//!
//! Nothing here writes batches; `log.rs` does, and commits them here when the bytes are in the file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_model::batch::BatchHeader;
use millrace_model::env::WallMs;
use millrace_model::offset::Offset;
use tracing::warn;

use super::{Place, Segment};
use crate::disk::{Disk, File, Map};
use crate::error::ReadError;
use crate::index::{Indexes, OFFSET_ENTRY_BYTES, OffsetEntry, TIME_ENTRY_BYTES, TimeEntry};
use crate::log::LogConfig;

/// A segment that will be at least this long has its blocks reserved.
const RESERVE_FROM_BYTES: u64 = 1 << 20;
/// What is reserved ahead is at most this part of the segment, so that many middling segments waste little.
const RESERVE_SHARE: u64 = 4;
const RESERVE_BYTES_MAX: u64 = 8 << 20;

/// The owner's hand on the segment that grows.
pub(crate) struct Writer<D: Disk> {
    pub(crate) segment: Arc<Segment<D>>,
    pub(crate) cursor: Cursor,
    /// Blocks were asked for up to here.
    reserved: u64,
    /// When the segment was created, or opened: the age of segments whose records have no timestamp counts from here.
    created: WallMs,
}

impl<D: Disk> Writer<D> {
    pub(crate) fn create(segment: Segment<D>) -> Self {
        let created = segment.written_at();
        Self { segment: Arc::new(segment), cursor: Cursor::default(), reserved: 0, created }
    }

    /// Goes on with a segment that an earlier process began.
    pub(crate) fn resume(segment: &Arc<Segment<D>>) -> Result<Self, ReadError> {
        segment.file()?;
        segment.open_index()?;
        let mut cursor = segment.with_index(|index| Cursor {
            offset_entries: index.offset_count(),
            time_entries: index.time_count(),
            last_time: index.last_time(),
            max_time: index.last_time(),
            ..Cursor::default()
        })?;
        let published = segment.published();
        cursor.position = published;
        if published > 0 {
            let first = segment.header(segment.first(), published)?;
            cursor.first_timestamp = first.max_timestamp;
            // Batches behind the last offset entry may be newer than the time index says.
            let from = segment.near(published, |index| index.floor_offset(u32::MAX))?;
            cursor.unindexed = published - from.position;
            segment.walk(from, published, |_, header| {
                cursor.see(segment.relative(header.last_offset()), header);
                false
            })?;
        }
        let created = segment.written_at();
        // Whoever wrote here before may have reserved more and died.
        let reserved = if published < RESERVE_FROM_BYTES { 0 } else { published + 1 };
        Ok(Self { segment: Arc::clone(segment), cursor, reserved, created })
    }

    /// Has blocks ready for `bytes` more and for what will follow them: the file system then finds them in a write,
    /// and in the write-back, where it would have to look for each page's. Small segments do without.
    ///
    /// The length of the file stays what was written. A file system that cannot do this, or is full, is no error: the
    /// write will say so.
    pub(crate) fn reserve(&mut self, bytes: u64) {
        let end = self.cursor.position + bytes;
        if end < RESERVE_FROM_BYTES || end <= self.reserved {
            return;
        }
        let ahead = (end / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
        let until = (end + ahead).min(self.segment.capacity);
        let from = self.reserved.max(self.cursor.position);
        if from < until
            && let Some(file) = self.segment.open_file()
        {
            self.reserved = match file.reserve(from..until) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => u64::MAX,
                Ok(()) | Err(_) => until,
            };
        }
    }

    /// Must the batch go to a new segment, were the segment as long as `cursor` says?
    pub(crate) fn is_due(
        &self,
        cursor: &Cursor,
        base: Offset,
        header: &BatchHeader,
        config: &LogConfig,
        now: WallMs,
    ) -> bool {
        if cursor.position == 0 {
            return false;
        }
        let bytes = cursor.position + u64::from(header.size_bytes);
        let last = base.plus(i64::from(header.last_offset_delta));
        let waited = match (cursor.first_timestamp, header.max_timestamp) {
            (first, last) if first >= 0 && last >= 0 => last.saturating_sub(first),
            _ => now.0.saturating_sub(self.created.0),
        };
        let bytes_max = u64::from(config.segment_bytes).min(self.segment.capacity);
        let index_bytes_max = config.index_bytes_max as usize;
        bytes > bytes_max
            || last.since(self.segment.base) > i64::from(i32::MAX)
            || waited > config.segment_ms
            || cursor.offset_entries as usize >= index_bytes_max / OFFSET_ENTRY_BYTES
            || cursor.time_entries as usize >= index_bytes_max / TIME_ENTRY_BYTES
    }

    /// What the segment's state would be with this batch behind it.
    pub(crate) fn advance(
        &self,
        cursor: &mut Cursor,
        base: Offset,
        header: &BatchHeader,
    ) -> Entries {
        let interval = self.segment.index_interval_bytes;
        let last = base.plus(i64::from(header.last_offset_delta));
        cursor.advance(self.segment.relative(last), header, interval)
    }

    /// Batches that were written behind the cursor become part of the segment; readers see them once it is published.
    pub(crate) fn commit(&mut self, base: Offset, header: &BatchHeader) {
        let mut cursor = self.cursor;
        let entries = self.advance(&mut cursor, base, header);
        self.cursor = cursor;
        if !entries.is_empty() {
            self.segment.push_entries(entries);
        }
    }

    /// Lets readers see everything committed; `end` is the offset that follows.
    pub(crate) fn publish(&self, end: Offset, now: WallMs) {
        self.segment.written_at.store(now.0, Ordering::Relaxed);
        self.segment.remember(Place { position: self.cursor.position, offset: end });
        self.segment.publish(self.cursor.position);
    }

    /// Nothing more is coming, for good or for this process: the time index gets its last entry, both files their rest.
    pub(crate) fn finish(&mut self) {
        if let Some(time) = self.cursor.seal() {
            self.segment.push_entries(Entries { offset: None, time: Some(time) });
        }
        self.segment.flush_index();
    }

    /// Gives back what was reserved and not used. Everything in the file is committed.
    pub(crate) fn give_back(&mut self) {
        if self.reserved <= self.cursor.position || self.reserved == u64::MAX {
            return;
        }
        self.reserved = 0;
        if let Some(file) = self.segment.open_file()
            && let Err(error) = file.truncate(self.cursor.position)
        {
            let path = self.segment.path("log");
            warn!(path = %path.display(), %error, "space reserved for the segment stays reserved");
        }
    }

    /// The segment grows no more.
    pub(crate) fn seal(mut self) {
        self.finish();
        self.give_back();
        self.segment.sealed.store(true, Ordering::Release);
    }
}

/// How far a segment has been written and what its indexes hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) position: u64,
    /// Bytes since the batch that the last offset entry names, that batch included.
    unindexed: u64,
    offset_entries: u32,
    time_entries: u32,
    /// Greatest timestamp of the first batch, -1 when it has none.
    first_timestamp: i64,
    /// Greatest timestamp so far.
    max_time: Option<TimeEntry>,
    /// What the time index ends with.
    last_time: Option<TimeEntry>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            position: 0,
            unindexed: 0,
            offset_entries: 0,
            time_entries: 0,
            first_timestamp: -1,
            max_time: None,
            last_time: None,
        }
    }
}

impl Cursor {
    /// Moves behind a batch whose last offset is `relative` and says what the indexes get for it.
    pub(crate) fn advance(
        &mut self,
        relative: u32,
        header: &BatchHeader,
        interval: u32,
    ) -> Entries {
        if self.position == 0 {
            self.first_timestamp = header.max_timestamp;
        }
        self.see(relative, header);
        let mut entries = Entries { offset: None, time: None };
        if self.unindexed > u64::from(interval) {
            let position = u32::try_from(self.position).expect("segments are shorter than 2 GiB");
            entries.offset = Some(OffsetEntry { relative, position });
            entries.time = self.seal();
            self.offset_entries += 1;
            self.unindexed = 0;
        }
        self.position += u64::from(header.size_bytes);
        self.unindexed += u64::from(header.size_bytes);
        entries
    }

    /// Takes the timestamp of a batch into account.
    fn see(&mut self, relative: u32, header: &BatchHeader) {
        let timestamp = header.max_timestamp;
        if timestamp > self.max_time.map_or(-1, |max| max.timestamp) {
            self.max_time = Some(TimeEntry { timestamp, relative });
        }
    }

    /// The time entry that brings the time index up to date, if there is one.
    pub(crate) fn seal(&mut self) -> Option<TimeEntry> {
        let max = self.max_time?;
        if self.last_time.is_some_and(|last| last.timestamp >= max.timestamp) {
            return None;
        }
        self.last_time = Some(max);
        self.time_entries += 1;
        Some(max)
    }
}

/// What one batch adds to the indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries {
    offset: Option<OffsetEntry>,
    time: Option<TimeEntry>,
}

impl Entries {
    fn is_empty(&self) -> bool {
        self.offset.is_none() && self.time.is_none()
    }

    pub(super) fn push<M: Map>(self, indexes: &mut Indexes<M>) {
        if let Some(entry) = self.offset {
            indexes.push_offset(entry);
        }
        if let Some(entry) = self.time {
            indexes.push_time(entry);
        }
    }
}
