//! One segment: a run of batches in one `.log` file with its indexes, shared by the owner and its readers.
//!
//! The owner writes through a [`Writer`] and publishes how far readers may look; readers only ever touch published
//! bytes. A segment's identity never changes: what would change it (cutting, unmapping) makes a new `Segment` for the
//! same file and lets the old one die with its readers. When to roll is decided here, who rolls is `log.rs`.

mod writer;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use bytes::Bytes;
use millrace_model::batch::{BatchHeader, HEADER_BYTES};
use millrace_model::env::WallMs;
use millrace_model::offset::Offset;
use tracing::warn;

use crate::disk::{Disk, File, Map, OpenMode, read_full};
use crate::error::{Damage, Fault, ReadError};
use crate::index::{Files, Indexes, OffsetEntry, TIME_ENTRY_BYTES, TimeEntry};
use crate::log::LogConfig;
pub(crate) use writer::Writer;
use writer::{Cursor, Entries};

pub(crate) type MapOf<D> = <<D as Disk>::File as File>::Map;

/// Remembered batch boundaries per segment that is being read or written; a power of two.
const BOUNDARIES: usize = 32;
/// A segment without a single offset entry is at most this long, or its index is suspect.
const UNINDEXED_BYTES_MAX: u64 = 4 << 20;
const NEWEST_UNKNOWN: i64 = i64::MIN;
/// What was appended behind bytes while they still count as recent.
const RECENT_BYTES_MAX: u64 = 64 << 20;

pub(crate) struct Segment<D: Disk> {
    disk: D,
    dir: Arc<Path>,
    base: Offset,
    /// Length of the map: no byte of this segment ever stands at or beyond it.
    capacity: u64,
    index_bytes_max: u32,
    index_interval_bytes: u32,
    /// Bytes that readers may see. Invariant: stored with Release after they were written; they never change again.
    published: AtomicU64,
    sealed: AtomicBool,
    /// Where this process began to write: what stands before may be cold.
    written_from: u64,
    /// Wall clock, in milliseconds, of the last append, or of the opening.
    written_at: AtomicI64,
    /// Did a clean close bring the indexes up to date, and make everything durable?
    finished: bool,
    /// Greatest timestamp of a segment that does not grow now, -1 when it has none.
    newest: AtomicI64,
    /// Read since `released` last asked?
    used: AtomicBool,
    /// Is it known that a sealed segment's last batch ends where the next segment begins?
    tail_known: AtomicBool,
    file: OnceLock<D::File>,
    /// `None` inside: the file cannot be mapped and is read instead.
    map: OnceLock<Option<MapOf<D>>>,
    /// Of a sealed segment: all its bytes, sliced again and again without an allocation.
    whole: OnceLock<Bytes>,
    index: RwLock<IndexState<MapOf<D>>>,
    /// Where known batches begin: relative offset << 32 | position. All zero is the segment's first batch.
    boundaries: OnceLock<Box<[AtomicU64; BOUNDARIES]>>,
}

enum IndexState<M> {
    /// Files of an earlier process, not looked at yet.
    Unopened,
    Ready(Indexes<M>),
}

/// The begin of a batch: where it stands and its first offset. Also used for the end of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) offset: Offset,
}

/// What all segments of one log have in common.
pub(crate) struct Site<'a, D> {
    pub(crate) disk: &'a D,
    pub(crate) dir: &'a Arc<Path>,
    pub(crate) config: &'a LogConfig,
    pub(crate) now: WallMs,
}

/// What of a file counts.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// Bytes known to be good batches.
    pub(crate) good: u64,
    /// Length of the file.
    pub(crate) len: u64,
    pub(crate) sealed: bool,
    /// A clean close brought the indexes up to date and made everything durable.
    pub(crate) finished: bool,
}

impl Extent {
    pub(crate) fn whole(len: u64, sealed: bool) -> Self {
        Self { good: len, len, sealed, finished: false }
    }
}

impl<D: Disk> Segment<D> {
    /// A segment without a batch; its file is created now.
    pub(crate) fn create(site: &Site<'_, D>, base: Offset) -> Result<Self, Fault> {
        let mut it = Self::new(site, base, u64::from(site.config.segment_bytes));
        it.tail_known = AtomicBool::new(true);
        let path = it.path("log");
        let create = || {
            let file = it.disk.open(&path, OpenMode::OpenOrCreate)?;
            if file.len()? > 0 {
                // Left over from an append that failed after it had rolled: never published.
                file.truncate(0)?;
            }
            Ok(file)
        };
        let file = create().map_err(Fault::of("create", &path))?;
        it.file.get_or_init(|| file);
        *it.index.write().expect("no holder of this lock panics") =
            IndexState::Ready(Indexes::new());
        Ok(it)
    }

    /// A segment that an earlier process left. Nothing is opened before it is used.
    pub(crate) fn existing(site: &Site<'_, D>, base: Offset, extent: Extent) -> Self {
        let Extent { good, len, sealed, finished } = extent;
        let grows = u64::from(site.config.segment_bytes);
        let mut it = Self::new(site, base, if sealed { len } else { len.max(grows) });
        it.written_from = good;
        it.finished = finished;
        it.publish(good);
        it.sealed.store(sealed, Ordering::Release);
        it
    }

    fn new(site: &Site<'_, D>, base: Offset, capacity: u64) -> Self {
        Self {
            disk: site.disk.clone(),
            dir: Arc::clone(site.dir),
            base,
            capacity,
            index_bytes_max: site.config.index_bytes_max,
            index_interval_bytes: site.config.index_interval_bytes,
            published: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            written_from: 0,
            written_at: AtomicI64::new(site.now.0),
            finished: false,
            newest: AtomicI64::new(NEWEST_UNKNOWN),
            used: AtomicBool::new(true),
            tail_known: AtomicBool::new(false),
            file: OnceLock::new(),
            map: OnceLock::new(),
            whole: OnceLock::new(),
            index: RwLock::new(IndexState::Unopened),
            boundaries: OnceLock::new(),
        }
    }

    /// The same sealed segment with nothing opened, if it is open and was not read since the last call.
    pub(crate) fn released(&self, site: &Site<'_, D>) -> Option<Self> {
        let open = self.file.get().is_some()
            || matches!(
                &*self.index.read().expect("no holder of this lock panics"),
                IndexState::Ready(_)
            );
        if !open || !self.is_sealed() || self.used.swap(false, Ordering::Relaxed) || self.poisoned()
        {
            return None;
        }
        self.flush_index();
        let mut it = Self::existing(site, self.base, Extent::whole(self.published(), true));
        it.written_at = AtomicI64::new(self.written_at().0);
        it.tail_known = AtomicBool::new(self.tail_known.load(Ordering::Acquire));
        it.newest = AtomicI64::new(self.newest.load(Ordering::Relaxed));
        it.used = AtomicBool::new(false);
        Some(it)
    }

    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    pub(crate) fn publish(&self, position: u64) {
        self.published.store(position, Ordering::Release);
    }

    pub(crate) fn written_at(&self) -> WallMs {
        WallMs(self.written_at.load(Ordering::Relaxed))
    }

    /// Was `range` written by this process, and lately? Then it is in memory, short of a starving machine.
    pub(crate) fn is_recent(&self, range: &Range<u64>) -> bool {
        range.start >= self.written_from
            && !self.is_sealed()
            && self.published() - range.start <= RECENT_BYTES_MAX
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// The segment grows no more: another one follows it.
    pub(crate) fn mark_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    pub(crate) fn path(&self, extension: &str) -> PathBuf {
        file_path(&self.dir, self.base, extension)
    }

    pub(crate) fn file(&self) -> Result<&D::File, Fault> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let path = self.path("log");
        let file = self.disk.open(&path, OpenMode::ReadWrite).map_err(Fault::of("open", &path))?;
        if !self.finished {
            // What the last process did to the directory may not be durable, and this file's name be lost with it.
            file.doubt_entry();
        }
        Ok(self.file.get_or_init(|| file))
    }

    /// The file if it is open: it is whenever anything was written to it by this process.
    pub(crate) fn open_file(&self) -> Option<&D::File> {
        self.file.get()
    }

    fn map(&self) -> Result<Option<&MapOf<D>>, Fault> {
        if let Some(map) = self.map.get() {
            return Ok(map.as_ref());
        }
        let map = match self.file()?.map(self.capacity) {
            Ok(map) => Some(map),
            Err(error) => {
                let path = self.path("log");
                warn!(path = %path.display(), %error, "segment is not mapped but read");
                None
            }
        };
        Ok(self.map.get_or_init(|| map).as_ref())
    }

    pub(crate) fn poisoned(&self) -> bool {
        matches!(self.map.get(), Some(Some(map)) if map.poisoned())
    }

    /// Bytes of the log; `range` is published.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Result<Bytes, Fault> {
        let Some(map) = self.map()? else {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            self.read(range.start, &mut bytes)?;
            return Ok(bytes.into());
        };
        if !self.is_sealed() {
            return Ok(map.slice(range));
        }
        let whole = self.whole.get_or_init(|| map.slice(0..self.published()));
        Ok(whole.slice(range.start as usize..range.end as usize))
    }

    pub(crate) fn resident(&self, range: Range<u64>) -> bool {
        matches!(self.map(), Ok(Some(map)) if map.resident(range))
    }

    pub(crate) fn populate(&self, range: Range<u64>) -> Result<(), Fault> {
        match self.map()? {
            Some(map) => {
                map.populate(range).map_err(|error| Fault::new("read", &self.path("log"), &error))
            }
            None => Ok(()),
        }
    }

    /// Fills `buf` from published bytes.
    fn copy(&self, position: u64, buf: &mut [u8]) -> Result<(), Fault> {
        match self.map()? {
            Some(map) => map.copy(position, buf),
            None => self.read(position, buf)?,
        }
        Ok(())
    }

    fn read(&self, position: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let read = read_full(self.file()?, buf, position);
        read.and_then(|read| {
            if read == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })
        .map_err(|error| Fault::new("read", &self.path("log"), &error))
    }

    // ---- Walking from batch to batch ----

    /// The header of the batch at `position`, if the bytes up to `published` can hold it.
    fn header_at(
        &self,
        position: u64,
        published: u64,
    ) -> Result<Result<BatchHeader, String>, Fault> {
        let left = published - position;
        if left < HEADER_BYTES as u64 {
            return Ok(Err(format!("{left} bytes are left for a batch header")));
        }
        let mut bytes = [0; HEADER_BYTES];
        self.copy(position, &mut bytes)?;
        if self.poisoned() {
            return Err(Fault::of("read", &self.path("log"))(io::Error::other(
                "page did not load",
            )));
        }
        Ok(match BatchHeader::parse(&bytes) {
            Err(error) => Err(error.to_string()),
            Ok(header) if u64::from(header.size_bytes) > left => {
                Err(format!("batch of {} bytes has {left} left", header.size_bytes))
            }
            Ok(header) if header.last_offset_delta < 0 => {
                Err(format!("last offset delta is {}", header.last_offset_delta))
            }
            Ok(header) => Ok(header),
        })
    }

    /// The header of the batch that begins at `place`.
    pub(crate) fn header(&self, place: Place, published: u64) -> Result<BatchHeader, ReadError> {
        match self.header_at(place.position, published)? {
            Ok(header) if header.base_offset == place.offset => Ok(header),
            Ok(header) => Err(self.damage(place, format!("base offset is {}", header.base_offset))),
            Err(cause) => Err(self.damage(place, cause)),
        }
    }

    fn damage(&self, place: Place, cause: String) -> ReadError {
        let (position, offset) = (place.position, place.offset);
        ReadError::Damaged { damage: Damage { path: self.path("log"), position, offset, cause } }
    }

    /// Walks from batch to batch until `stop` says so or the published end is reached; the answer is where it stopped.
    pub(crate) fn walk(
        &self,
        mut place: Place,
        published: u64,
        mut stop: impl FnMut(Place, &BatchHeader) -> bool,
    ) -> Result<Place, ReadError> {
        while place.position < published {
            let header = self.header(place, published)?;
            if stop(place, &header) {
                break;
            }
            let position = place.position + u64::from(header.size_bytes);
            place = Place { position, offset: header.next_offset() };
        }
        Ok(place)
    }

    fn first(&self) -> Place {
        Place { position: 0, offset: self.base }
    }

    /// The begin of the batch that contains `offset`, or the end when it follows the last one.
    pub(crate) fn locate(&self, offset: Offset, published: u64) -> Result<Place, ReadError> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        let relative = self.relative(offset);
        if let Some(position) = self.boundary(relative) {
            return Ok(Place { position, offset });
        }
        let from = self.near(published, |index| index.floor_offset(relative))?;
        self.walk(from, published, |_, header| header.last_offset() >= offset)
    }

    /// The end of the last batch that ends at or below `limit`, searched from `from`, a batch below it.
    pub(crate) fn locate_end(
        &self,
        from: Place,
        limit: u64,
        published: u64,
    ) -> Result<Place, ReadError> {
        let near = self
            .near(published, |index| index.floor_position(limit.min(u64::from(u32::MAX)) as u32))?;
        let from = if near.position > from.position { near } else { from };
        self.walk(from, published, |place, header| {
            place.position + u64::from(header.size_bytes) > limit
        })
    }

    /// Where an index entry leads if the batch there is the one that it names, else the first batch.
    fn near(
        &self,
        published: u64,
        look_up: impl Fn(&Indexes<MapOf<D>>) -> Option<OffsetEntry>,
    ) -> Result<Place, ReadError> {
        for _ in 0..2 {
            let Some(entry) = self.with_index(&look_up)? else { return Ok(self.first()) };
            if let Some(place) = self.indexed_batch(entry, published)? {
                return Ok(place);
            }
            if !self.is_sealed() {
                break; // the owner adds to it: it is not rebuilt under its hands
            }
            self.forget_index();
        }
        Ok(self.first())
    }

    /// A batch before which every record is older than `timestamp`.
    pub(crate) fn before_timestamp(
        &self,
        timestamp: i64,
        published: u64,
    ) -> Result<Place, ReadError> {
        match self.with_index(|index| index.before_timestamp(timestamp))? {
            None => Ok(self.first()),
            Some(entry) => self.near(published, |index| index.floor_offset(entry.relative)),
        }
    }

    /// The end of a sealed segment that is followed by one at `next`. Batches must reach exactly that far.
    pub(crate) fn sealed_end(&self, next: Offset, published: u64) -> Result<Place, ReadError> {
        let end = Place { position: published, offset: next };
        if !self.tail_known.load(Ordering::Acquire) {
            let reached = self.locate_end(self.first(), published, published)?;
            if reached.offset != next {
                return Err(
                    self.damage(reached, format!("the next segment begins at offset {next}"))
                );
            }
            self.tail_known.store(true, Ordering::Release);
        }
        Ok(end)
    }

    /// The greatest timestamp of the batches that end below `upto`, and the place of the first batch that has it.
    pub(crate) fn max_timestamp(
        &self,
        upto: Offset,
        published: u64,
    ) -> Result<Option<(i64, Place)>, ReadError> {
        let relative = u32::try_from(upto.since(self.base)).unwrap_or(u32::MAX);
        let indexed = self.with_index(|index| index.time_below(relative))?;
        let mut max = None;
        if let Some(TimeEntry { timestamp, relative }) = indexed {
            max = Some((timestamp, self.locate(self.base.plus(i64::from(relative)), published)?));
        }
        // The time index speaks for all batches up to the offset index's last entry, not for those behind it.
        let last = relative.saturating_sub(1);
        let from = self.near(published, |index| index.floor_offset(last))?;
        self.walk(from, published, |place, header| {
            let visible = header.next_offset() <= upto;
            if visible && max.is_none_or(|(timestamp, _)| header.max_timestamp > timestamp) {
                max = Some((header.max_timestamp, place));
            }
            !visible
        })?;
        Ok(max.filter(|(timestamp, _)| *timestamp >= 0))
    }

    fn relative(&self, offset: Offset) -> u32 {
        u32::try_from(offset.since(self.base)).expect("the offset belongs to this segment")
    }

    // ---- Remembered boundaries ----

    fn boundary(&self, relative: u32) -> Option<u64> {
        if relative == 0 {
            return Some(0);
        }
        let known = self.boundaries.get()?[slot(relative)].load(Ordering::Relaxed);
        (known >> 32 == u64::from(relative)).then_some(known & u64::from(u32::MAX))
    }

    /// Notes that a batch begins, or will begin, at `place`.
    pub(crate) fn remember(&self, place: Place) {
        let relative = self.relative(place.offset);
        let boundaries =
            self.boundaries.get_or_init(|| Box::new([const { AtomicU64::new(0) }; BOUNDARIES]));
        boundaries[slot(relative)]
            .store(u64::from(relative) << 32 | place.position, Ordering::Relaxed);
    }

    // ---- Indexes ----

    /// Runs `look_up` on the indexes, opening or rebuilding them first if need be.
    fn with_index<R>(&self, look_up: impl Fn(&Indexes<MapOf<D>>) -> R) -> Result<R, ReadError> {
        let (index, timeindex) = (OnceLock::new(), OnceLock::new());
        loop {
            let state = self.index.read().expect("no holder of this lock panics");
            if let IndexState::Ready(indexes) = &*state {
                if !indexes.is_prepared() {
                    let files = self.files(
                        index.get_or_init(|| self.path("index")),
                        timeindex.get_or_init(|| self.path("timeindex")),
                    );
                    indexes.prepare(&files).map_err(Fault::of("open", files.index))?;
                }
                return Ok(look_up(indexes));
            }
            drop(state);
            self.open_index()?;
        }
    }

    fn files<'a>(&'a self, index: &'a Path, timeindex: &'a Path) -> Files<'a, D> {
        Files { disk: &self.disk, index, timeindex, bytes_max: u64::from(self.index_bytes_max) }
    }

    /// Takes over the index files of an earlier process, or rebuilds them.
    pub(crate) fn open_index(&self) -> Result<(), ReadError> {
        let mut state = self.index.write().expect("no holder of this lock panics");
        if let IndexState::Unopened = *state {
            *state = IndexState::Ready(self.load_index(u32::MAX)?);
        }
        Ok(())
    }

    /// Leaves only entries of batches before `from`, after which others will be added.
    pub(crate) fn reset_index(&self, from: Place) -> Result<(), ReadError> {
        let mut state = self.index.write().expect("no holder of this lock panics");
        *state = IndexState::Ready(if from.position > 0 {
            self.load_index(self.relative(from.offset))?
        } else {
            self.discard_index()?;
            Indexes::new()
        });
        Ok(())
    }

    /// The indexes in the files, without entries from `relative` on, if they agree with the log; else new ones.
    fn load_index(&self, relative: u32) -> Result<Indexes<MapOf<D>>, ReadError> {
        let (index, timeindex) = (self.path("index"), self.path("timeindex"));
        let files = self.files(&index, &timeindex);
        let loaded = Indexes::load(&files).map_err(Fault::of("open", &index))?;
        if let Some(mut indexes) = loaded
            && indexes.rises()
        {
            indexes.truncate(&files, relative).map_err(Fault::of("cut", &index))?;
            if self.index_fits(&indexes)? {
                return Ok(indexes);
            }
        }
        self.rebuild_index(&files)
    }

    /// Do the last entries name batches that are there? An index is never evidence, and a lost tail of it must neither
    /// hide a record from a look-up by time nor age a segment.
    fn index_fits(&self, indexes: &Indexes<MapOf<D>>) -> Result<bool, ReadError> {
        let published = self.published();
        let place = |entry: Option<OffsetEntry>| match entry {
            Some(entry) => self.indexed_batch(entry, published),
            None => Ok(Some(self.first())),
        };
        let last = indexes.floor_offset(u32::MAX);
        if last.is_none() && published > UNINDEXED_BYTES_MAX || place(last)?.is_none() {
            return Ok(false);
        }
        let Some(TimeEntry { timestamp, relative }) = indexes.last_time() else {
            return Ok(published == 0);
        };
        let Some(from) = place(indexes.floor_offset(relative))? else { return Ok(false) };
        let mut fits = false;
        let walked = self.walk(from, published, |_, header| {
            let last = header.last_offset().since(self.base);
            fits = last == i64::from(relative) && header.max_timestamp == timestamp;
            last >= i64::from(relative)
        });
        match walked {
            Ok(_) => Ok(fits),
            Err(ReadError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where an index entry leads, if the batch there is the one that it names.
    fn indexed_batch(&self, entry: OffsetEntry, published: u64) -> Result<Option<Place>, Fault> {
        let (position, last) = (u64::from(entry.position), self.base.0 + i64::from(entry.relative));
        if position >= published {
            return Ok(None);
        }
        let header = self.header_at(position, published)?;
        let named = header.ok().filter(|header| {
            header.base_offset >= self.base
                && header.base_offset.0.checked_add(i64::from(header.last_offset_delta))
                    == Some(last)
        });
        Ok(named.map(|header| Place { position, offset: header.base_offset }))
    }

    /// The next look-up rebuilds the index.
    fn forget_index(&self) {
        let path = self.path("index");
        warn!(path = %path.display(), "index does not fit its log and is rebuilt");
        let mut state = self.index.write().expect("no holder of this lock panics");
        if let Err(error) = self.discard_index() {
            warn!(%error, "bad index is not removed");
        }
        *state = IndexState::Unopened;
    }

    /// Makes both indexes anew from the batches in the log, in memory and, if the disk lets us, in the files.
    fn rebuild_index(&self, files: &Files<'_, D>) -> Result<Indexes<MapOf<D>>, ReadError> {
        let mut indexes = Indexes::new();
        let mut cursor = Cursor::default();
        let end = self.walk(self.first(), self.published(), |_, header| {
            let relative = self.relative(header.last_offset());
            cursor.advance(relative, header, self.index_interval_bytes).push(&mut indexes);
            false
        });
        if let Err(ReadError::Damaged { damage }) = &end {
            warn!(%damage, "index reaches only to the damage");
        }
        if let Some(entry) = cursor.seal() {
            indexes.push_time(entry);
        }
        self.discard_index()?;
        flush_or_keep(&mut indexes, files);
        Ok(indexes)
    }

    /// Removes the files from the directory, after making durable what was done to it before. What is mapped or open
    /// stays readable.
    pub(crate) fn unlink(&self) -> Result<(), Fault> {
        self.disk.sync_dir(&self.dir).map_err(Fault::of("sync", &self.dir))?;
        self.remove_if_there(&self.path("log"))?;
        self.discard_index()
    }

    /// Removes both index files; they come back from the log when they are needed.
    pub(crate) fn discard_index(&self) -> Result<(), Fault> {
        self.remove_if_there(&self.path("index"))?;
        self.remove_if_there(&self.path("timeindex"))
    }

    fn remove_if_there(&self, path: &Path) -> Result<(), Fault> {
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Fault::new("remove", path, &error))
            }
            _ => Ok(()),
        }
    }

    /// Opens what readers may still need, before the file loses its name.
    pub(crate) fn pin(&self) -> Result<(), Fault> {
        self.map().map(drop)
    }

    /// The greatest timestamp in a sealed segment, and the last offset of the batch that has it.
    pub(crate) fn last_time(&self) -> Result<Option<(i64, Offset)>, ReadError> {
        let entry = self.with_index(Indexes::last_time)?;
        Ok(entry.map(|it| (it.timestamp, self.base.plus(i64::from(it.relative)))))
    }

    /// The greatest timestamp, for retention: never too low, and without opening what is idle.
    pub(crate) fn newest(&self, end: Offset) -> Result<Option<i64>, ReadError> {
        let is_open = matches!(
            &*self.index.read().expect("no holder of this lock panics"),
            IndexState::Ready(_)
        );
        if is_open && !self.is_sealed() {
            return Ok(self.max_timestamp(end, self.published())?.map(|(timestamp, _)| timestamp));
        }
        if !self.is_sealed() && !self.finished {
            // Its time index may lack the end, and only looking at the batches would tell.
            return Ok(Some(self.written_at().0));
        }
        let known = self.newest.load(Ordering::Relaxed);
        if known != NEWEST_UNKNOWN {
            return Ok((known >= 0).then_some(known));
        }
        let newest = match self.peek_newest().map_err(Fault::of("read", &self.path("timeindex")))? {
            Some(newest) => newest,
            None => self.last_time()?.map_or(-1, |(timestamp, _)| timestamp),
        };
        self.newest.store(newest, Ordering::Relaxed);
        Ok((newest >= 0).then_some(newest))
    }

    /// The last timestamp in the time index file, if that looks like one.
    fn peek_newest(&self) -> io::Result<Option<i64>> {
        let file = match self.disk.open(&self.path("timeindex"), OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (len, mut entry) = (file.len()?, [0; TIME_ENTRY_BYTES]);
        if len == 0 || len % TIME_ENTRY_BYTES as u64 != 0 {
            return Ok(None);
        }
        let read = read_full(&file, &mut entry, len - TIME_ENTRY_BYTES as u64)?;
        let timestamp = TimeEntry::decode(entry).timestamp;
        Ok((read == TIME_ENTRY_BYTES && timestamp > 0).then_some(timestamp))
    }

    /// Adds entries; the owner's business.
    fn push_entries(&self, entries: Entries) {
        self.change_index(|indexes| {
            entries.push(indexes);
            indexes.wants_flush()
        });
    }

    /// Brings both files up to date, for a segment that gets no more entries for a while.
    pub(crate) fn flush_index(&self) {
        self.change_index(|_| true);
    }

    /// Changes the indexes and flushes them when `change` says so. What does not reach the files stays in memory.
    fn change_index(&self, change: impl FnOnce(&mut Indexes<MapOf<D>>) -> bool) {
        let mut state = self.index.write().expect("no holder of this lock panics");
        let IndexState::Ready(indexes) = &mut *state else { return };
        if change(indexes) {
            let (index, timeindex) = (self.path("index"), self.path("timeindex"));
            flush_or_keep(indexes, &self.files(&index, &timeindex));
        }
    }
}

/// An index can be rebuilt, so a disk that refuses it is no reason to fail the log.
fn flush_or_keep<D: Disk>(indexes: &mut Indexes<MapOf<D>>, files: &Files<'_, D>) {
    if let Err(error) = indexes.flush(files) {
        warn!(path = %files.index.display(), %error, "index entries stay in memory");
    }
}

fn slot(relative: u32) -> usize {
    (relative.wrapping_mul(0x9e37_79b1) >> (32 - BOUNDARIES.trailing_zeros())) as usize
}

/// `<dir>/<20-digit base>.<extension>`.
pub(crate) fn file_path(dir: &Path, base: Offset, extension: &str) -> PathBuf {
    dir.join(format!("{base:020}.{extension}"))
}
