//! LogReader: what everyone but the owner may do with a log. A cheap clone that sees published bytes only.
//!
//! A read answers with ranges of files, not with bytes: the caller checks whether they are in memory, then takes them
//! as zero-copy slices or sends them from the file. No lock is held while bytes are touched.

use std::sync::Arc;

use bytes::Bytes;
use millrace_model::batch::BatchHeader;
use millrace_model::offset::{EpochEnd, LeaderEpoch, Offset};
use millrace_model::record;

use super::Shared;
use crate::disk::Disk;
use crate::error::{Fault, ReadError};
use crate::segment::{Place, Segment};

/// A view of one partition's log.
pub struct LogReader<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for LogReader<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// Whole batches found by a read.
pub struct ReadOut<D: Disk> {
    /// In offset order, one range per segment touched; empty when there is nothing to see yet.
    pub ranges: Vec<FileRange<D>>,
    /// The offset to go on with.
    pub next: Offset,
    pub bytes: u64,
}

impl<D: Disk> LogReader<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }

    pub fn start(&self) -> Offset {
        self.shared.start()
    }

    pub fn end(&self) -> Offset {
        self.shared.end()
    }

    pub fn durable_end(&self) -> Offset {
        self.shared.durable()
    }

    pub fn size_bytes(&self) -> u64 {
        self.shared.size.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Where `epoch` ends, for `OffsetForLeaderEpoch`.
    pub fn epoch_end(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.shared.epoch_end(epoch)
    }

    /// The epoch that the record at `offset` was written in.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.shared.epochs.read().expect("no holder of this lock panics").epoch_at(offset)
    }

    /// Whole batches from the one that contains `from`, below `upto` (the mark that this reader may see) and together
    /// at most `bytes_max` long. With `at_least_one` the first batch comes even if it alone is longer (KIP-74).
    ///
    /// # Errors
    /// [`ReadError`]; `OutOfRange` when `from` is below the log's start or above its end.
    pub fn read(
        &self,
        from: Offset,
        upto: Offset,
        bytes_max: u32,
        at_least_one: bool,
    ) -> Result<ReadOut<D>, ReadError> {
        again_if_cut(|| self.read_once(from, upto, bytes_max, at_least_one))
    }

    fn read_once(
        &self,
        from: Offset,
        upto: Offset,
        bytes_max: u32,
        at_least_one: bool,
    ) -> Result<ReadOut<D>, ReadError> {
        let end = self.end();
        self.check(from, end)?;
        let upto = upto.min(end);
        let mut out = ReadOut { ranges: Vec::new(), next: from, bytes: 0 };
        while out.next < upto {
            let left = u64::from(bytes_max) - out.bytes;
            let Some((segment, after)) = self.shared.segment_of(out.next) else {
                // Trimmed since the check.
                return self.check(from, end).and(Err(self.out_of_range(from)));
            };
            let first = at_least_one && out.ranges.is_empty();
            let Some((range, next)) = read_segment(&segment, after, out.next, upto, left, first)?
            else {
                break;
            };
            out.bytes += range.len();
            out.ranges.push(range);
            out.next = next;
            if out.bytes >= u64::from(bytes_max) {
                break;
            }
        }
        Ok(out)
    }

    /// The headers of all batches from the one that contains `from`, up to `upto`.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn headers(&self, from: Offset, upto: Offset) -> Result<Headers<D>, ReadError> {
        let end = self.end();
        self.check(from, end)?;
        Ok(Headers { reader: self.clone(), segment: None, offset: from, upto: upto.min(end) })
    }

    /// The first record below `upto` whose timestamp is at least `timestamp`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn offset_for_timestamp(
        &self,
        timestamp: i64,
        upto: Offset,
    ) -> Result<Option<TimedOffset>, ReadError> {
        again_if_cut(|| self.find_timestamp(timestamp, upto))
    }

    fn find_timestamp(
        &self,
        timestamp: i64,
        upto: Offset,
    ) -> Result<Option<TimedOffset>, ReadError> {
        let (start, upto) = (self.start(), upto.min(self.end()));
        for segment in self.shared.segments_in(start, upto) {
            let newest = segment.last_time()?.map(|(newest, _)| newest);
            if segment.is_sealed() && newest.is_none_or(|newest| newest < timestamp) {
                continue;
            }
            let mut place = segment.before_timestamp(timestamp, segment.published())?;
            while let Some((header, at)) = next_since(&segment, place, timestamp, upto)? {
                if let Some(found) = first_since(&segment, &header, at, timestamp, start)? {
                    return Ok(Some(found));
                }
                let position = at.position + u64::from(header.size_bytes);
                place = Place { position, offset: header.next_offset() };
            }
        }
        Ok(None)
    }

    /// The record with the greatest timestamp below `upto`, the first of them if there are several (KIP-734).
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn max_timestamp(&self, upto: Offset) -> Result<Option<TimedOffset>, ReadError> {
        again_if_cut(|| self.find_max_timestamp(upto))
    }

    fn find_max_timestamp(&self, upto: Offset) -> Result<Option<TimedOffset>, ReadError> {
        let (start, upto) = (self.start(), upto.min(self.end()));
        let mut best: Option<(i64, Place, Arc<Segment<D>>)> = None;
        for segment in self.shared.segments_in(start, upto) {
            if let Some((timestamp, place)) = segment.max_timestamp(upto, segment.published())?
                && best.as_ref().is_none_or(|(most, ..)| timestamp > *most)
            {
                best = Some((timestamp, place, segment));
            }
        }
        let Some((timestamp, place, segment)) = best else { return Ok(None) };
        let header = segment.header(place, segment.published())?;
        first_since(&segment, &header, place, timestamp, start)
    }

    fn check(&self, from: Offset, end: Offset) -> Result<(), ReadError> {
        if from < self.start() || from > end { Err(self.out_of_range(from)) } else { Ok(()) }
    }

    fn out_of_range(&self, offset: Offset) -> ReadError {
        ReadError::OutOfRange { offset, start: self.start(), end: self.end() }
    }
}

/// A segment that a reader has found may leave the log, and its files the disk, before they are opened. Looking again
/// finds what took its place, or that the offset is gone.
fn again_if_cut<R>(mut read: impl FnMut() -> Result<R, ReadError>) -> Result<R, ReadError> {
    const ATTEMPTS: usize = 3;
    for _ in 1..ATTEMPTS {
        match read() {
            Err(ReadError::Io(fault)) if fault.is_missing() => {}
            result => return result,
        }
    }
    read()
}

/// A record found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOffset {
    pub offset: Offset,
    pub timestamp: i64,
    pub epoch: LeaderEpoch,
}

/// Unpacked, a batch may take this much while one record in it is looked for.
const UNPACKED_BYTES_MAX: usize = 256 << 20;

/// The first batch from `place` on that claims a record of at least `timestamp` and ends at or below `upto`.
fn next_since<D: Disk>(
    segment: &Segment<D>,
    place: Place,
    timestamp: i64,
    upto: Offset,
) -> Result<Option<(BatchHeader, Place)>, ReadError> {
    let mut found = None;
    segment.walk(place, segment.published(), |place, header| {
        let visible = header.next_offset() <= upto;
        if visible && header.max_timestamp >= timestamp {
            found = Some((*header, place));
        }
        !visible || found.is_some()
    })?;
    Ok(found)
}

/// The first record of a batch, at or above `start`, that has at least `timestamp`. A batch that cannot be unpacked
/// answers for its first record: clients learn of it when they read it.
fn first_since<D: Disk>(
    segment: &Segment<D>,
    header: &BatchHeader,
    place: Place,
    timestamp: i64,
    start: Offset,
) -> Result<Option<TimedOffset>, ReadError> {
    let epoch = header.leader_epoch;
    let found =
        |offset: Offset, timestamp| TimedOffset { offset: offset.max(start), timestamp, epoch };
    if header.attributes.is_log_append_time() {
        return Ok(Some(found(header.base_offset, header.max_timestamp)));
    }
    let bytes = segment.bytes(place.position..place.position + u64::from(header.size_bytes))?;
    let Ok(records) = record::records(header, &bytes, UNPACKED_BYTES_MAX) else {
        return Ok(Some(found(header.base_offset, header.base_timestamp)));
    };
    for record in records {
        let Ok(record) = record else {
            return Ok(Some(found(header.base_offset, header.base_timestamp)));
        };
        let offset = header.base_offset.plus(i64::from(record.offset_delta));
        let at = header.base_timestamp.saturating_add(record.timestamp_delta);
        if at >= timestamp && offset >= start {
            return Ok(Some(found(offset, at)));
        }
    }
    Ok(None)
}

/// What of `[from, upto)` this segment gives within `left` bytes, and the offset behind it.
fn read_segment<D: Disk>(
    segment: &Arc<Segment<D>>,
    after: Option<Offset>,
    from: Offset,
    upto: Offset,
    left: u64,
    at_least_one: bool,
) -> Result<Option<(FileRange<D>, Offset)>, ReadError> {
    let published = segment.published();
    let begin = segment.locate(from, published)?;
    // The header that the answer starts with is checked; those behind it are the client's business.
    let first = segment.header(begin, published)?;
    let visible = match after {
        Some(next) if next <= upto => segment.sealed_end(next, published)?,
        _ => segment.locate(upto, published)?,
    };
    let limit = begin.position + left;
    let mut end = if visible.position <= limit {
        visible
    } else {
        segment.locate_end(begin, limit, published)?
    };
    if end.position == begin.position {
        if !at_least_one || first.next_offset() > visible.offset {
            return Ok(None);
        }
        let position = begin.position + u64::from(first.size_bytes);
        end = Place { position, offset: first.next_offset() };
    }
    if after != Some(end.offset) {
        segment.remember(end);
    }
    let range = begin.position..end.position;
    Ok(Some((FileRange { segment: Arc::clone(segment), range }, end.offset)))
}

/// Consecutive batches in one file. Holding it keeps the file readable, even if the log forgets it.
pub struct FileRange<D: Disk> {
    segment: Arc<Segment<D>>,
    range: std::ops::Range<u64>,
}

impl<D: Disk> Clone for FileRange<D> {
    fn clone(&self) -> Self {
        Self { segment: Arc::clone(&self.segment), range: self.range.clone() }
    }
}

impl<D: Disk> FileRange<D> {
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes, without a copy while the file is mapped. Touching cold ones blocks: see [`FileRange::resident`].
    ///
    /// # Errors
    /// When the file cannot be opened or read.
    pub fn bytes(&self) -> Result<Bytes, Fault> {
        self.segment.bytes(self.range.clone())
    }

    /// The file and where in it the range begins, for sending without a copy.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn file(&self) -> Result<(&D::File, u64), Fault> {
        Ok((self.segment.file()?, self.range.start))
    }

    /// Are the bytes in memory, so that touching them does not block?
    pub fn resident(&self) -> bool {
        self.segment.resident(self.range.clone())
    }

    /// Were the bytes written by this process, lately? A cheap sign that they are resident.
    pub fn is_recent(&self) -> bool {
        self.segment.is_recent(&self.range)
    }

    /// Brings the bytes into memory. Blocks; for threads that may.
    ///
    /// # Errors
    /// When the medium does not give them.
    pub fn populate(&self) -> Result<(), Fault> {
        self.segment.populate(self.range.clone())
    }

    /// Did a page fail to load since the segment was mapped? To be asked after bytes were touched, before they leave.
    pub fn poisoned(&self) -> bool {
        self.segment.poisoned()
    }
}

/// Iterator over batch headers, in offset order.
pub struct Headers<D: Disk> {
    reader: LogReader<D>,
    segment: Option<(Arc<Segment<D>>, Place)>,
    offset: Offset,
    upto: Offset,
}

impl<D: Disk> Iterator for Headers<D> {
    type Item = Result<BatchHeader, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.upto {
            return None;
        }
        let next = self.step();
        if next.is_err() {
            self.offset = self.upto;
        }
        Some(next)
    }
}

impl<D: Disk> Headers<D> {
    fn step(&mut self) -> Result<BatchHeader, ReadError> {
        again_if_cut(|| self.step_once())
    }

    fn step_once(&mut self) -> Result<BatchHeader, ReadError> {
        if let Some((segment, place)) = &self.segment
            && place.position >= segment.published()
        {
            self.segment = None;
        }
        let (segment, place) = match self.segment.take() {
            Some(it) => it,
            None => {
                let Some((segment, _)) = self.reader.shared.segment_of(self.offset) else {
                    return Err(self.reader.out_of_range(self.offset));
                };
                let place = segment.locate(self.offset, segment.published())?;
                (segment, place)
            }
        };
        let header = segment.header(place, segment.published())?;
        self.offset = header.next_offset();
        let position = place.position + u64::from(header.size_bytes);
        self.segment = Some((segment, Place { position, offset: self.offset }));
        Ok(header)
    }
}
