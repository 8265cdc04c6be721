//! Cutting the log at either end: deletion, retention and truncation. Decides nothing that the caller did not ask for.
//!
//! Readers never notice beyond the marks: a segment that leaves the log, or is replaced by its own prefix, lives on
//! with whoever holds ranges of it. Files are unlinked elsewhere, by [`Doomed::unlink`].

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_model::env::WallMs;
use millrace_model::offset::Offset;

use super::{Checkpoint, Log};
use crate::checkpoint::with_suffix;
use crate::disk::{Disk, File, OpenMode, write_all};
use crate::error::{AppendError, Fault, ReadError, TruncateError};
use crate::retention::{self, Candidate};
use crate::segment::{Extent, Segment, Site, file_path};

impl<D: Disk> Log<D> {
    /// The log begins at `start` from now on (DeleteRecords); segments wholly below it leave the log. A start inside a
    /// segment outlives a crash only once the state is recorded.
    pub fn trim_before(&mut self, start: Offset) -> Vec<Doomed<D>> {
        let start = start.min(self.end());
        if start <= self.start() {
            return Vec::new();
        }
        self.shared.start.store(start.0, Ordering::Release);
        self.epochs_changed |= self.shared.write_epochs(|epochs| epochs.trim_before(start));
        self.drop_below(start)
    }

    /// Takes segments off the log that are too old or too many, none of which reaches beyond `limit`, the high
    /// watermark. When all there is has aged, an empty segment is begun first: its name keeps the log's end.
    ///
    /// # Errors
    /// When an index cannot be read, or the empty segment not be created.
    pub fn retention(&mut self, limit: Offset, now: WallMs) -> Result<Vec<Doomed<D>>, AppendError> {
        self.latch.check().map_err(AppendError::Failed)?;
        if self.config.retention_ms < 0 && self.config.retention_bytes < 0 {
            return Ok(Vec::new());
        }
        let segments = self.shared.segments.read().expect("no holder of this lock panics").clone();
        if segments.last().is_none_or(|last| segments.len() == 1 && last.published() == 0) {
            return Ok(Vec::new());
        }
        let candidates = self.candidates(&segments).map_err(|error| self.read_failed(error))?;
        let count = retention::expendable(&candidates, &self.config, limit, now);
        let Some(last) = count.checked_sub(1) else { return Ok(Vec::new()) };
        if count == segments.len() {
            let mut writer = self.take_writer(now)?;
            if writer.cursor.position > 0 {
                match self.begin_segment(self.end(), now) {
                    Ok(next) => self.adopt(&mut writer, next),
                    Err(fault) => {
                        self.writer = Some(writer);
                        return Err(self.append_failed(fault));
                    }
                }
                self.unsynced.push(Arc::clone(&writer.segment));
            }
            self.writer = Some(writer);
        }
        Ok(self.trim_before(candidates[last].end))
    }

    fn candidates(&self, segments: &[Arc<Segment<D>>]) -> Result<Vec<Candidate>, ReadError> {
        let ends = segments.iter().skip(1).map(|next| next.base()).chain([self.end()]);
        let candidate = |(segment, end): (&Arc<Segment<D>>, Offset)| {
            let newest = segment.newest(end)?;
            let (bytes, written) = (segment.published(), segment.written_at());
            Ok(Candidate { bytes, end, newest, written })
        };
        segments.iter().zip(ends).map(candidate).collect()
    }

    /// Lets go of descriptors and maps of sealed segments that nobody has read since the last call. They are opened
    /// again when they are needed. Never of one that may still be dirty: a sync through a newer descriptor might miss
    /// an error.
    pub fn release_idle(&mut self) {
        let durable = self.durable_end();
        let site = Site {
            disk: &self.shared.disk,
            dir: &self.shared.dir,
            config: &self.config,
            now: WallMs::default(),
        };
        let mut segments = self.shared.segments.write().expect("no holder of this lock panics");
        for i in 1..segments.len() {
            if segments[i].base() > durable {
                break;
            }
            if let Some(idle) = segments[i - 1].released(&site) {
                segments[i - 1] = Arc::new(idle);
            }
        }
    }

    /// Takes segments off the list that lie wholly below `start`; the newest one always stays, for its name carries
    /// the log's end.
    pub(super) fn drop_below(&mut self, start: Offset) -> Vec<Doomed<D>> {
        let mut segments = self.shared.segments.write().expect("no holder of this lock panics");
        let keep = segments.partition_point(|segment| segment.base() <= start).saturating_sub(1);
        let doomed: Vec<_> = segments.drain(..keep).map(|segment| Doomed { segment }).collect();
        drop(segments);
        let bytes = doomed.iter().map(|doomed| doomed.segment.published()).sum();
        self.shared.size.fetch_sub(bytes, Ordering::Relaxed);
        doomed
    }

    /// Takes everything from `end` on out of the log, for readers at once; a batch that `end` lies inside goes whole.
    /// The files follow with `finish_truncation`, which must come before the next append, and after the returned state
    /// has been recorded: trust goes before bytes do.
    ///
    /// # Errors
    /// [`TruncateError`]; the log is as before.
    pub fn truncate_to(
        &mut self,
        end: Offset,
        high_watermark: Offset,
    ) -> Result<Checkpoint<D>, TruncateError> {
        self.latch.check().map_err(TruncateError::Failed)?;
        if end < self.start() || end > self.end() {
            let (offset, start, end) = (end, self.start(), self.end());
            return Err(TruncateError::OutOfRange { offset, start, end });
        }
        if end < self.end()
            && let Some((segment, _)) = self.shared.segment_of(end)
        {
            let place = segment.locate(end, segment.published())?;
            self.shared.end.store(place.offset.0, Ordering::Release);
            self.shared.durable.fetch_min(place.offset.0, Ordering::AcqRel);
            // A start inside the batch goes with it.
            self.shared.start.fetch_min(place.offset.0, Ordering::AcqRel);
            self.epochs_changed |=
                self.shared.write_epochs(|epochs| epochs.truncate_to(place.offset));
            self.epoch = self.shared.latest_epoch();
            self.cut_pending = true;
        }
        Ok(self.checkpoint(high_watermark)?)
    }

    /// Brings the files down to the end that `truncate_to` set. What is left of the segment that was cut is sealed;
    /// appends go to a new one, so that published bytes never change.
    ///
    /// # Errors
    /// Any failure stops the log; recovery finds it whole up to some point at or beyond the end.
    pub fn finish_truncation(&mut self, now: WallMs) -> Result<(), TruncateError> {
        self.latch.check().map_err(TruncateError::Failed)?;
        if !self.cut_pending {
            return Ok(());
        }
        self.cut_files(now).map_err(|fault| TruncateError::Failed(self.latch.fail(fault)))
    }

    fn cut_files(&mut self, now: WallMs) -> Result<(), Fault> {
        let end = self.end();
        self.writer = None;
        let segments = self.shared.segments.read().expect("no holder of this lock panics").clone();
        // One always stays, be it empty: its name carries the end.
        let kept = segments.partition_point(|segment| segment.base() < end).max(1);
        for segment in segments[kept..].iter().rev() {
            segment.pin()?;
            segment.unlink()?;
        }
        self.unsynced.retain(|segment| segment.base() < end);
        let last = self.cut_segment(&segments[kept - 1], end, now)?;
        let mut left = segments[..kept - 1].to_vec();
        left.push(Arc::clone(&last));
        if last.base() < end {
            let next = self.begin_segment(end, now)?;
            left.push(Arc::clone(&next.segment));
            self.unsynced.push(Arc::clone(&next.segment));
            self.writer = Some(next);
        }
        self.written_back = 0;
        let size = left.iter().map(|segment| segment.published()).sum();
        self.shared.size.store(size, Ordering::Relaxed);
        *self.shared.segments.write().expect("no holder of this lock panics") = left;
        self.remove_snapshots_beyond(end)?;
        self.cut_pending = false;
        Ok(())
    }

    /// What replaces the newest kept segment: its prefix up to `end`.
    fn cut_segment(
        &mut self,
        segment: &Arc<Segment<D>>,
        end: Offset,
        now: WallMs,
    ) -> Result<Arc<Segment<D>>, Fault> {
        let place = segment.locate(end, segment.published()).map_err(ReadError::into_fault)?;
        if place.position == segment.published() {
            segment.mark_sealed();
            return Ok(Arc::clone(segment));
        }
        segment.pin()?;
        segment.discard_index()?;
        self.copy_prefix(segment, place.position)?;
        // What is kept of it may still have been unsynced; the copy is not.
        self.unsynced.retain(|other| !Arc::ptr_eq(other, segment));
        let (disk, dir) = (&self.shared.disk, &self.shared.dir);
        let site = Site { disk, dir, config: &self.config, now };
        let extent = Extent::whole(place.position, place.position > 0);
        Ok(Arc::new(Segment::existing(&site, segment.base(), extent)))
    }

    /// A durable copy of a segment's first bytes takes its place.
    ///
    /// NOTE: simpler than it might be: a segment that nobody reads could be cut in place. Truncation is rare.
    fn copy_prefix(&self, segment: &Segment<D>, len: u64) -> Result<(), Fault> {
        const STEP_BYTES: u64 = 1 << 20;
        let disk = &self.shared.disk;
        let path = segment.path("log");
        let temporary = with_suffix(&path, ".tmp");
        let copy = || {
            let file = disk.open(&temporary, OpenMode::OpenOrCreate)?;
            file.truncate(0)?;
            let mut at = 0;
            while at < len {
                let to = len.min(at + STEP_BYTES);
                let bytes =
                    segment.bytes(at..to).map_err(|fault| io::Error::other(fault.to_string()))?;
                write_all(&file, &mut [IoSlice::new(&bytes)], at)?;
                at = to;
            }
            file.sync()
        };
        copy().map_err(Fault::of("write", &temporary))?;
        disk.rename(&temporary, &path).map_err(Fault::of("rename to", &path))?;
        disk.sync_dir(&self.shared.dir).map_err(Fault::of("sync", &self.shared.dir))
    }

    fn remove_snapshots_beyond(&mut self, end: Offset) -> Result<(), Fault> {
        while self.snapshots.last().is_some_and(|last| *last > end) {
            let last = self.snapshots.pop().expect("there is a last one");
            let path = file_path(&self.shared.dir, last, "snapshot");
            match self.shared.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Fault::new("remove", &path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A segment that is no longer part of the log. Readers that hold ranges of it go on reading.
#[must_use = "its files stay until they are unlinked"]
pub struct Doomed<D: Disk> {
    segment: Arc<Segment<D>>,
}

impl<D: Disk> Doomed<D> {
    pub fn bytes(&self) -> u64 {
        self.segment.published()
    }

    /// Removes the files. Whatever was done to the directory before becomes durable first: so a crash never leaves a log
    /// without a segment, nor one with a hole as long as segments go in the order in which they were handed out. May
    /// block for long; for threads that may. Dropping the last reader unmaps.
    ///
    /// # Errors
    /// When the disk fails; unlinking may be tried again after the log was reopened.
    pub fn unlink(self) -> Result<(), Fault> {
        self.segment.unlink()
    }
}
