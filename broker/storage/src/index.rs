//! The offset and the time index of one segment: where to begin to look. Never evidence about the log: what an entry
//! says is checked against the batch that it points to, and a bad file is rebuilt from the log.
//!
//! ```text
//! <base>.index       8 B an entry: last offset of a batch - base u32, position of that batch u32
//! <base>.timeindex  12 B an entry: greatest timestamp so far i64, last offset of the batch that has it - base u32
//! ```
//! Kafka's formats, big-endian, sparse: about one entry per `index.interval.bytes` of log. Offsets, positions and
//! timestamps strictly rise within a file (a first relative offset of 0 is legal, a later one ends Kafka's reading).
//! New entries collect in memory and go to the file a block at a time; look-ups see both.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::OnceLock;

use tracing::warn;

use crate::disk::{Disk, File, Map, OpenMode, read_full, write_all};

pub(crate) const OFFSET_ENTRY_BYTES: usize = 8;
pub(crate) const TIME_ENTRY_BYTES: usize = 12;
/// Entries wait in memory until they fill this much.
pub(crate) const PENDING_BYTES: usize = 4096;
/// Look-ups try the newest entries first: most readers are near the end, and older pages may be cold.
const WARM_BYTES: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    /// Last offset of the batch at `position`, relative to the segment's base.
    pub(crate) relative: u32,
    pub(crate) position: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp: i64,
    /// Last offset of the batch that has `timestamp`, relative to the segment's base.
    pub(crate) relative: u32,
}

impl OffsetEntry {
    fn encode(self) -> [u8; OFFSET_ENTRY_BYTES] {
        (u64::from(self.relative) << 32 | u64::from(self.position)).to_be_bytes()
    }

    fn decode(bytes: [u8; OFFSET_ENTRY_BYTES]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self { relative: (both >> 32) as u32, position: both as u32 }
    }
}

impl TimeEntry {
    fn encode(self) -> [u8; TIME_ENTRY_BYTES] {
        let mut out = [0; TIME_ENTRY_BYTES];
        out[..8].copy_from_slice(&self.timestamp.to_be_bytes());
        out[8..].copy_from_slice(&self.relative.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: [u8; TIME_ENTRY_BYTES]) -> Self {
        let (time, relative) = bytes.split_at(8);
        Self {
            timestamp: i64::from_be_bytes(time.try_into().expect("split at 8")),
            relative: u32::from_be_bytes(relative.try_into().expect("12 - 8 = 4")),
        }
    }
}

/// Both indexes of one segment.
#[derive(Debug)]
pub(crate) struct Indexes<M> {
    offsets: Table<M, OFFSET_ENTRY_BYTES>,
    times: Table<M, TIME_ENTRY_BYTES>,
}

/// The two files, and how far each may grow.
pub(crate) struct Files<'a, D> {
    pub(crate) disk: &'a D,
    pub(crate) index: &'a Path,
    pub(crate) timeindex: &'a Path,
    pub(crate) bytes_max: u64,
}

impl<M: Map> Indexes<M> {
    pub(crate) fn new() -> Self {
        Self { offsets: Table::new(), times: Table::new() }
    }

    /// Takes over files of an earlier process; `None` when one is missing or has no whole number of entries.
    pub(crate) fn load<D>(files: &Files<'_, D>) -> io::Result<Option<Self>>
    where
        D: Disk<File: File<Map = M>>,
    {
        let Some(offsets) = Table::load(files.disk, files.index)? else { return Ok(None) };
        let Some(times) = Table::load(files.disk, files.timeindex)? else { return Ok(None) };
        let it = Self { offsets, times };
        it.prepare(files)?;
        Ok(Some(it))
    }

    /// Do all entries rise as they must?
    pub(crate) fn rises(&self) -> bool {
        let offsets = (0..self.offsets.count()).map(|i| OffsetEntry::decode(self.offsets.get(i)));
        let times = (0..self.times.count()).map(|i| TimeEntry::decode(self.times.get(i)));
        offsets.is_sorted_by(|a, b| a.relative < b.relative && a.position < b.position)
            && times.is_sorted_by(|a, b| a.timestamp < b.timestamp && a.relative < b.relative)
    }

    /// Makes the entries in the files readable; call before every look-up.
    pub(crate) fn prepare<D>(&self, files: &Files<'_, D>) -> io::Result<()>
    where
        D: Disk<File: File<Map = M>>,
    {
        self.offsets.prepare(files.disk, files.index, files.bytes_max)?;
        self.times.prepare(files.disk, files.timeindex, files.bytes_max)
    }

    pub(crate) fn is_prepared(&self) -> bool {
        self.offsets.is_prepared() && self.times.is_prepared()
    }

    pub(crate) fn offset_count(&self) -> u32 {
        self.offsets.count()
    }

    pub(crate) fn time_count(&self) -> u32 {
        self.times.count()
    }

    /// The last entry at or below `relative`.
    pub(crate) fn floor_offset(&self, relative: u32) -> Option<OffsetEntry> {
        let after = self.offsets.partition_point(|e| OffsetEntry::decode(e).relative <= relative);
        Some(OffsetEntry::decode(self.offsets.get(after.checked_sub(1)?)))
    }

    /// The last entry whose batch begins at or below `position`.
    pub(crate) fn floor_position(&self, position: u32) -> Option<OffsetEntry> {
        let after = self.offsets.partition_point(|e| OffsetEntry::decode(e).position <= position);
        Some(OffsetEntry::decode(self.offsets.get(after.checked_sub(1)?)))
    }

    /// The last entry with a smaller timestamp: everything up to its batch's end is older than `timestamp`.
    pub(crate) fn before_timestamp(&self, timestamp: i64) -> Option<TimeEntry> {
        let after = self.times.partition_point(|e| TimeEntry::decode(e).timestamp < timestamp);
        Some(TimeEntry::decode(self.times.get(after.checked_sub(1)?)))
    }

    /// The last entry of a batch that ends below `relative`.
    pub(crate) fn time_below(&self, relative: u32) -> Option<TimeEntry> {
        let after = self.times.partition_point(|e| TimeEntry::decode(e).relative < relative);
        Some(TimeEntry::decode(self.times.get(after.checked_sub(1)?)))
    }

    pub(crate) fn last_time(&self) -> Option<TimeEntry> {
        Some(TimeEntry::decode(self.times.get(self.times.count().checked_sub(1)?)))
    }

    pub(crate) fn push_offset(&mut self, entry: OffsetEntry) {
        self.offsets.pending.extend(entry.encode());
    }

    pub(crate) fn push_time(&mut self, entry: TimeEntry) {
        self.times.pending.extend(entry.encode());
    }

    pub(crate) fn wants_flush(&self) -> bool {
        self.offsets.pending.len() >= PENDING_BYTES
    }

    /// Writes what waits in memory behind what the files hold; not durable, for both can be rebuilt.
    pub(crate) fn flush<D: Disk>(&mut self, files: &Files<'_, D>) -> io::Result<()> {
        // The offset index first: Kafka's tools take a time index without one for damage.
        self.offsets.flush(files.disk, files.index)?;
        self.times.flush(files.disk, files.timeindex)
    }

    /// Drops all entries of batches that end at or after `relative`.
    pub(crate) fn truncate<D: Disk>(
        &mut self,
        files: &Files<'_, D>,
        relative: u32,
    ) -> io::Result<()> {
        let offsets = self.offsets.partition_point(|e| OffsetEntry::decode(e).relative < relative);
        let times = self.times.partition_point(|e| TimeEntry::decode(e).relative < relative);
        self.offsets.truncate(files.disk, files.index, offsets)?;
        self.times.truncate(files.disk, files.timeindex, times)
    }
}

/// Entries of `N` bytes: first those in the file, then those in memory.
#[derive(Debug)]
struct Table<M, const N: usize> {
    /// Bytes in the file, a multiple of `N`.
    flushed: u64,
    pending: Vec<u8>,
    /// The bytes in the file, from the first look-up on. Covers `flushed` whenever it is there.
    source: OnceLock<Source<M>>,
}

#[derive(Debug)]
enum Source<M> {
    Map(M),
    /// The file could not be mapped: a copy of its bytes.
    Memory(Vec<u8>),
}

impl<M: Map, const N: usize> Table<M, N> {
    fn new() -> Self {
        Self { flushed: 0, pending: Vec::new(), source: OnceLock::new() }
    }

    fn load<D: Disk>(disk: &D, path: &Path) -> io::Result<Option<Self>> {
        let file = match disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let flushed = file.len()?;
        let whole = flushed % N as u64 == 0;
        Ok(whole.then_some(Self { flushed, pending: Vec::new(), source: OnceLock::new() }))
    }

    fn is_prepared(&self) -> bool {
        self.flushed == 0 || self.source.get().is_some()
    }

    fn prepare<D>(&self, disk: &D, path: &Path, bytes_max: u64) -> io::Result<()>
    where
        D: Disk<File: File<Map = M>>,
    {
        if self.is_prepared() {
            return Ok(());
        }
        let file = disk.open(path, OpenMode::Read)?;
        let source = match file.map(self.flushed.max(bytes_max)) {
            Ok(map) => Source::Map(map),
            Err(error) => {
                warn!(path = %path.display(), %error, "index is not mapped but read");
                let mut bytes = vec![0; self.flushed as usize];
                read_full(&file, &mut bytes, 0)?;
                Source::Memory(bytes)
            }
        };
        self.source.get_or_init(|| source);
        Ok(())
    }

    fn count(&self) -> u32 {
        ((self.flushed as usize + self.pending.len()) / N) as u32
    }

    fn get(&self, index: u32) -> [u8; N] {
        let at = index as usize * N;
        let mut entry = [0; N];
        match at.checked_sub(self.flushed as usize) {
            Some(at) => entry.copy_from_slice(&self.pending[at..at + N]),
            None => match self.source.get().expect("look-ups prepare first") {
                Source::Map(map) => map.copy(at as u64, &mut entry),
                Source::Memory(bytes) => entry.copy_from_slice(&bytes[at..at + N]),
            },
        }
        entry
    }

    /// How many entries from the front satisfy `below`, which does not hold again once it fails.
    fn partition_point(&self, below: impl Fn([u8; N]) -> bool) -> u32 {
        let (mut low, mut high) = (0, self.count());
        let warm = high.saturating_sub((WARM_BYTES / N) as u32);
        if warm > 0 {
            if below(self.get(warm)) {
                low = warm + 1;
            } else {
                high = warm;
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            if below(self.get(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn flush<D: Disk>(&mut self, disk: &D, path: &Path) -> io::Result<()> {
        if self.pending.is_empty() && self.flushed > 0 {
            return Ok(());
        }
        let file = disk.open(path, OpenMode::OpenOrCreate)?;
        write_all(&file, &mut [IoSlice::new(&self.pending)], self.flushed)?;
        self.flushed += self.pending.len() as u64;
        if let Some(Source::Memory(bytes)) = self.source.get_mut() {
            bytes.extend_from_slice(&self.pending);
        }
        self.pending.clear();
        Ok(())
    }

    fn truncate<D: Disk>(&mut self, disk: &D, path: &Path, count: u32) -> io::Result<()> {
        let keep = u64::from(count) * N as u64;
        if let Some(pending) = keep.checked_sub(self.flushed) {
            self.pending.truncate(pending as usize);
            return Ok(());
        }
        self.pending.clear();
        self.flushed = keep;
        if let Some(Source::Memory(bytes)) = self.source.get_mut() {
            bytes.truncate(keep as usize);
        }
        disk.open(path, OpenMode::ReadWrite)?.truncate(keep)
    }
}
