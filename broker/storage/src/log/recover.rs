//! Opening a log: trust what a clean close recorded, else walk the batches from the last recorded position.
//!
//! The rule above all others: nothing below the recorded durable end is ever cut or removed because it looks wrong. It
//! makes the log refuse to open, and repair is somebody's decision. Only a tail beyond that end may be cut, and what is
//! cut is kept beside it unless it is nothing but zeros. An index is never evidence.
//!
//! Recovery may itself be interrupted at any step and started again: it only ever removes what it would remove again.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millrace_model::batch::{self, BatchHeader, HEADER_BYTES};
use millrace_model::env::WallMs;
use millrace_model::ids::TopicId;
use millrace_model::offset::{LeaderEpoch, Offset, OffsetRange};
use tracing::{info, warn};

use super::{Doomed, EPOCHS_FILE, Log, LogConfig, PartitionState};
use crate::checkpoint::{read_optional, read_topic_id, write_file, write_topic_id};
use crate::disk::{DirEntry, Disk, File, OpenMode, read_full, write_all};
use crate::epochs::EpochTable;
use crate::error::{Damage, Fault, OpenError, ReadError};
use crate::segment::{Extent, Place, Segment, Site, Writer, file_path};

/// How much of what is on disk may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The data directory was closed cleanly and this was recorded then: believed if the lengths agree.
    Clean(PartitionState),
    /// Everything below `next_offset` was durable; what follows must be looked at.
    Recorded(PartitionState),
    /// Only offsets are known (Kafka's checkpoint files): everything below `recovery_point` was durable.
    Offsets { log_start: Offset, recovery_point: Offset },
    /// Nothing is known: every batch is looked at, and whatever does not fit is a torn tail.
    Nothing,
}

/// What opening found.
pub struct Recovered<D: Disk> {
    /// Bytes that were read and checked; 0 when all was as recorded.
    pub scanned_bytes: u64,
    pub torn: Option<Torn>,
    /// Offsets between the recorded log start and the first segment: retention that went on after the record, lost files,
    /// or first segments of a log that never became durable.
    pub missing: Option<OffsetRange>,
    /// Segments below the log start, to be unlinked.
    pub doomed: Vec<Doomed<D>>,
}

/// A tail that was cut off: bytes beyond the recorded durable end that are no batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where the log now ends.
    pub end: Offset,
    pub bytes: u64,
    /// The cut bytes; `None` when they were all zero.
    pub kept: Option<PathBuf>,
    /// Valid batches that stood beyond the cut. More than none means: possibly damage and no torn tail.
    pub survivors: u64,
}

/// The first bytes of a torn tail are kept, up to this many.
const TORN_BYTES_MAX: u64 = 16 << 20;
const WINDOW_BYTES: usize = 1 << 20;

impl<D: Disk> Log<D> {
    /// Opens what an earlier process left in `dir`.
    ///
    /// The log may come back with bytes above its durable end: sync its ticket (or the file system) and mark it durable
    /// before serving them.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was cut or removed then.
    pub fn open(
        disk: D,
        dir: &Path,
        config: LogConfig,
        trust: Trust,
        now: WallMs,
    ) -> Result<(Self, Recovered<D>), OpenError> {
        match disk.reaches(dir) {
            Ok(true) => {}
            Ok(false) => return Err(OpenError::OtherFileSystem(dir.to_owned())),
            Err(error) => return Err(Fault::new("look at", dir, &error).into()),
        }
        let files = Files::list(&disk, dir)?;
        let (topic_id, trust) = whose(&disk, dir, trust)?;
        let opening = Opening { disk, dir: dir.into(), topic_id, config, now };
        match trust {
            // Nothing stands beyond what was durable when it was recorded, cleanly closed or not.
            Trust::Clean(state) | Trust::Recorded(state) if files.agree_with(&state) => {
                return opening.trusting(files, state, matches!(trust, Trust::Clean(_)));
            }
            Trust::Clean(_) => {
                warn!(dir = %dir.display(), "files differ from what a clean close recorded");
            }
            _ => {}
        }
        opening.recovering(files, trust)
    }
}

/// The topic that `dir` belongs to, and what of `trust` concerns it: a record about another topic of that name does not.
fn whose<D: Disk>(disk: &D, dir: &Path, trust: Trust) -> Result<(TopicId, Trust), Fault> {
    let recorded = match trust {
        Trust::Clean(state) | Trust::Recorded(state) => Some(state.topic_id),
        Trust::Offsets { .. } | Trust::Nothing => None,
    };
    match (read_topic_id(disk, dir)?, recorded) {
        (Some(found), Some(recorded)) if found != recorded => Ok((found, Trust::Nothing)),
        (Some(found), _) => Ok((found, trust)),
        (None, Some(recorded)) => {
            warn!(dir = %dir.display(), "lost partition.metadata is written again");
            write_topic_id(disk, dir, recorded)?;
            Ok((recorded, trust))
        }
        (None, None) => Ok((TopicId::ZERO, trust)),
    }
}

/// What a partition directory holds.
struct Files {
    /// Base and length of every `.log`, by base.
    logs: Vec<(Offset, u64)>,
    snapshots: Vec<Offset>,
    others: Vec<(Offset, String)>,
    /// Files that were never finished.
    leftovers: Vec<String>,
}

impl Files {
    fn list<D: Disk>(disk: &D, dir: &Path) -> Result<Self, Fault> {
        let mut files = Self {
            logs: Vec::new(),
            snapshots: Vec::new(),
            others: Vec::new(),
            leftovers: Vec::new(),
        };
        for DirEntry { name, is_dir, len } in disk.list(dir).map_err(Fault::of("list", dir))? {
            if is_dir {
                continue;
            }
            match parse_name(&name) {
                Some((base, "log")) => files.logs.push((base, len)),
                Some((offset, "snapshot")) => files.snapshots.push(offset),
                Some((base, "index" | "timeindex")) => files.others.push((base, name)),
                _ if name.ends_with(".tmp") => files.leftovers.push(name),
                _ => {}
            }
        }
        files.logs.sort_unstable();
        files.snapshots.sort_unstable();
        Ok(files)
    }

    /// Is the newest batch where a clean close left it?
    fn agree_with(&self, state: &PartitionState) -> bool {
        let logs = match self.logs.as_slice() {
            // An empty newest segment only carries the end.
            [before @ .., _, (base, 0)] if *base == state.next_offset => before.len() + 1,
            all => all.len(),
        };
        match (self.logs[..logs].last(), state.segment_base) {
            (None, None) => state.next_offset == Offset::ZERO,
            (Some((base, len)), Some(recorded)) => *base == recorded && *len == state.position,
            _ => false,
        }
    }
}

fn parse_name(name: &str) -> Option<(Offset, &str)> {
    let (digits, extension) = name.split_at_checked(20)?;
    let extension = extension.strip_prefix('.')?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((Offset(digits.parse().ok()?), extension))
}

struct Opening<D: Disk> {
    disk: D,
    dir: Arc<Path>,
    topic_id: TopicId,
    config: LogConfig,
    now: WallMs,
}

impl<D: Disk> Opening<D> {
    /// The files are as they were recorded: nothing is read but names, lengths and epochs.
    fn trusting(
        self,
        files: Files,
        state: PartitionState,
        finished: bool,
    ) -> Result<(Log<D>, Recovered<D>), OpenError> {
        let last = files.logs.len().saturating_sub(1);
        let segment = |(i, (base, len)): (usize, &(Offset, u64))| {
            let sealed = i < last;
            let extent = Extent { finished, ..Extent::whole(*len, sealed) };
            Arc::new(Segment::existing(&self.site(), *base, extent))
        };
        let segments: Vec<_> = files.logs.iter().enumerate().map(segment).collect();
        self.remove_leftovers(&files, &segments, state.next_offset);
        let PartitionState { log_start, next_offset: end, epoch, .. } = state;
        let ends = Ends { log_start, durable: end, end, epoch };
        let snapshots = files.snapshots.into_iter().filter(|offset| *offset <= end).collect();
        let result = self.assemble(segments, snapshots, &ends, &[])?;
        Ok((
            result.log,
            Recovered {
                scanned_bytes: 0,
                torn: None,
                missing: result.missing,
                doomed: result.doomed,
            },
        ))
    }

    /// After anything else: every batch from the recorded position on is checked.
    fn recovering(self, files: Files, trust: Trust) -> Result<(Log<D>, Recovered<D>), OpenError> {
        let anchor = self.anchor(&files, trust)?;
        let mut walk = Walk::new(&self, anchor.epoch);
        for (base, len) in &files.logs[..anchor.first] {
            let extent = Extent::whole(*len, true);
            walk.segments.push(Arc::new(Segment::existing(&self.site(), *base, extent)));
        }
        walk.run(&files.logs[anchor.first..], anchor.from)?;
        let end = walk.end.offset;
        if end < anchor.durable {
            return Err(OpenError::Damaged(walk.damage(anchor.durable)));
        }
        let torn = walk.cut_tail(&files.logs)?;
        self.remove_leftovers(&files, &walk.segments, end);
        let snapshots = files.snapshots.into_iter().filter(|offset| *offset <= end).collect();
        let Walk { segments, scanned, epochs, epoch, .. } = walk;
        let Anchor { log_start, durable, .. } = anchor;
        let ends = Ends { log_start, durable: durable.min(end), end, epoch };
        let unsynced = segments[anchor.first.min(segments.len())..].to_vec();
        let mut result = self.assemble(segments, snapshots, &ends, &epochs)?;
        for segment in &unsynced {
            segment.file()?;
        }
        result.log.unsynced = unsynced;
        let Assembled { log, missing, doomed } = result;
        info!(dir = %self.dir.display(), bytes = scanned, offset = end.0, "log recovered");
        Ok((log, Recovered { scanned_bytes: scanned, torn, missing, doomed }))
    }

    fn site(&self) -> Site<'_, D> {
        Site { disk: &self.disk, dir: &self.dir, config: &self.config, now: self.now }
    }

    /// Where the walk begins, and what it must reach.
    fn anchor(&self, files: &Files, trust: Trust) -> Result<Anchor, OpenError> {
        let begin = |first: usize| Place {
            position: 0,
            offset: files.logs.get(first).map_or(Offset::ZERO, |it| it.0),
        };
        let mut anchor = Anchor {
            log_start: Offset::ZERO,
            durable: Offset::ZERO,
            epoch: LeaderEpoch::NONE,
            first: 0,
            from: begin(0),
        };
        match trust {
            Trust::Nothing => {}
            Trust::Offsets { log_start, recovery_point } => {
                anchor.log_start = log_start;
                anchor.durable = recovery_point;
                anchor.first = files
                    .logs
                    .partition_point(|(base, _)| *base <= recovery_point)
                    .saturating_sub(1);
                anchor.from = begin(anchor.first);
            }
            Trust::Clean(state) | Trust::Recorded(state) => {
                anchor.log_start = state.log_start;
                anchor.durable = state.next_offset;
                let Some(base) = state.segment_base else { return Ok(anchor) };
                anchor.epoch = state.epoch;
                let found = files.logs.binary_search_by_key(&base, |(base, _)| *base);
                let damage = |cause| {
                    let (path, position) = (file_path(&self.dir, base, "log"), state.position);
                    OpenError::Damaged(Damage { path, position, offset: state.next_offset, cause })
                };
                match found {
                    Ok(i) if files.logs[i].1 < state.position => {
                        let cause = format!("only {} bytes are left", files.logs[i].1);
                        return Err(damage(cause));
                    }
                    Ok(first) => {
                        anchor.first = first;
                        anchor.from = Place { position: state.position, offset: state.next_offset };
                    }
                    // Retention went on after the state was recorded; what is left begins behind it.
                    Err(0) if !files.logs.is_empty() => {}
                    Err(_) => return Err(damage("the file is missing".into())),
                }
            }
        }
        if files.logs.is_empty() && anchor.durable > Offset::ZERO {
            let path = self.dir.to_path_buf();
            let cause = "no segment is left".into();
            return Err(OpenError::Damaged(Damage {
                path,
                position: 0,
                offset: anchor.durable,
                cause,
            }));
        }
        Ok(anchor)
    }

    fn assemble(
        &self,
        segments: Vec<Arc<Segment<D>>>,
        snapshots: Vec<Offset>,
        ends: &Ends,
        found: &[(LeaderEpoch, Offset)],
    ) -> Result<Assembled<D>, OpenError> {
        let first = segments.first().map_or(Offset::ZERO, |segment| segment.base());
        let (epochs, changed) = self.epochs(&segments, ends, found)?;
        let mut log =
            Log::assemble(self.disk.clone(), &self.dir, self.config.clone(), segments, epochs);
        log.topic_id = self.topic_id;
        log.snapshots = snapshots;
        let start = ends.log_start.max(first).min(ends.end);
        log.shared.start.store(start.0, Ordering::Release);
        log.shared.durable.store(ends.durable.0, Ordering::Release);
        log.shared.end.store(ends.end.0, Ordering::Release);
        let doomed = log.drop_below(start);
        if changed {
            let file = log.epochs_file();
            file.write()?;
        }
        let missing =
            (ends.log_start < first).then_some(OffsetRange { start: ends.log_start, end: first });
        if let Some(OffsetRange { start, end }) = missing {
            warn!(dir = %self.dir.display(), from = start.0, to = end.0, "oldest segments are gone");
        }
        Ok(Assembled { log, missing, doomed })
    }

    /// The epoch table: from its file with what the walk found, or else from all batches. The file may be older than the
    /// batches, or newer, if the power went between the two.
    fn epochs(
        &self,
        segments: &[Arc<Segment<D>>],
        ends: &Ends,
        found: &[(LeaderEpoch, Offset)],
    ) -> Result<(EpochTable, bool), OpenError> {
        let path = self.dir.join(EPOCHS_FILE);
        let read = read_optional(&self.disk, &path)?.as_deref().and_then(EpochTable::decode);
        let mut table = read.clone().unwrap_or_default();
        table.truncate_to(ends.end.plus(1));
        for (epoch, start) in found {
            table.assign(*epoch, *start);
        }
        let last = table.epoch_at(Offset(ends.end.0 - 1)).unwrap_or(LeaderEpoch::NONE);
        if last != ends.epoch {
            warn!(path = %path.display(), "epochs do not fit the log: taken from the batches");
            let known = table.latest().map_or(ends.epoch, |latest| latest.epoch.max(ends.epoch));
            table = epochs_of(segments);
            // What was known of later epochs stays known, be there batches of them or not.
            if known > LeaderEpoch::NONE {
                table.assign(known, ends.end);
            }
        }
        let changed = read.unwrap_or_default() != table;
        Ok((table, changed))
    }

    /// Indexes without a log, snapshots from beyond the end, files that were never finished.
    fn remove_leftovers(&self, files: &Files, segments: &[Arc<Segment<D>>], end: Offset) {
        let orphans = files
            .others
            .iter()
            .filter(|(base, _)| segments.binary_search_by_key(base, |it| it.base()).is_err())
            .map(|(_, name)| self.dir.join(name));
        let ahead = files.snapshots.iter().filter(|offset| **offset > end);
        let ahead = ahead.map(|offset| file_path(&self.dir, *offset, "snapshot"));
        let leftovers = files.leftovers.iter().map(|name| self.dir.join(name));
        for path in orphans.chain(ahead).chain(leftovers) {
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(path = %path.display(), %error, "left-over file is not removed");
                }
                _ => {}
            }
        }
    }
}

struct Anchor {
    log_start: Offset,
    /// The walk must reach this offset, else the log is damaged.
    durable: Offset,
    /// Epoch of the last batch before `from`.
    epoch: LeaderEpoch,
    /// Index of the segment that the walk begins in.
    first: usize,
    from: Place,
}

struct Ends {
    log_start: Offset,
    durable: Offset,
    end: Offset,
    /// Of the last batch.
    epoch: LeaderEpoch,
}

struct Assembled<D: Disk> {
    log: Log<D>,
    missing: Option<OffsetRange>,
    doomed: Vec<Doomed<D>>,
}

/// Reads every header: for a lost epoch file only.
fn epochs_of<D: Disk>(segments: &[Arc<Segment<D>>]) -> EpochTable {
    let mut table = EpochTable::default();
    for segment in segments {
        let first = Place { position: 0, offset: segment.base() };
        let walked = segment.walk(first, segment.published(), |place, header| {
            table.assign(header.leader_epoch, place.offset);
            false
        });
        if let Err(error) = walked {
            warn!(%error, "epochs are known up to the damage");
            break;
        }
    }
    table
}

/// The walk over batches that nobody vouches for.
struct Walk<'a, D: Disk> {
    opening: &'a Opening<D>,
    segments: Vec<Arc<Segment<D>>>,
    /// Where each epoch was first seen.
    epochs: Vec<(LeaderEpoch, Offset)>,
    epoch: LeaderEpoch,
    /// Where the walk stopped, in the last of `segments`.
    end: Place,
    cause: Option<String>,
    scanned: u64,
}

impl<'a, D: Disk> Walk<'a, D> {
    fn new(opening: &'a Opening<D>, epoch: LeaderEpoch) -> Self {
        let end = Place { position: 0, offset: Offset::ZERO };
        let (segments, epochs) = (Vec::new(), Vec::new());
        Self { opening, segments, epochs, epoch, end, cause: None, scanned: 0 }
    }

    fn run(&mut self, logs: &[(Offset, u64)], from: Place) -> Result<(), OpenError> {
        self.end = from;
        for (i, (base, len)) in logs.iter().enumerate() {
            if i > 0 {
                if *base != self.end.offset {
                    self.cause = Some(format!("the next segment begins at offset {base}"));
                    return Ok(());
                }
                self.end.position = 0;
            }
            self.segment(*base, *len)?;
            if self.cause.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Walks one segment from `self.end` on.
    fn segment(&mut self, base: Offset, len: u64) -> Result<(), OpenError> {
        if let Some(before) = self.segments.last() {
            before.mark_sealed();
        }
        let from = self.end;
        let extent = Extent { good: from.position, len, sealed: false, finished: false };
        let segment = Arc::new(Segment::existing(&self.opening.site(), base, extent));
        self.segments.push(Arc::clone(&segment));
        segment.reset_index(from).map_err(ReadError::into_fault)?;
        let mut writer = Writer::resume(&segment).map_err(ReadError::into_fault)?;
        let path = segment.path("log");
        let mut window = Window::new(segment.file()?, &path, len);
        while self.end.position < len {
            let header = match self.check(&mut window)? {
                Ok(header) => header,
                Err(cause) => {
                    self.cause = Some(cause);
                    break;
                }
            };
            if header.leader_epoch > self.epoch {
                self.epoch = header.leader_epoch;
                self.epochs.push((header.leader_epoch, header.base_offset));
            }
            writer.commit(header.base_offset, &header);
            self.end = Place { position: writer.cursor.position, offset: header.next_offset() };
        }
        self.scanned += self.end.position - from.position;
        write_again(segment.file()?, &mut window, from.position..self.end.position)?;
        writer.finish();
        writer.publish(self.end.offset, self.opening.now);
        Ok(())
    }

    /// Is there a good batch at the walk's end?
    fn check(
        &self,
        window: &mut Window<'_, D::File>,
    ) -> Result<Result<BatchHeader, String>, Fault> {
        let (at, left) = (self.end.position, window.len - self.end.position);
        if left < HEADER_BYTES as u64 {
            return Ok(Err(format!("{left} bytes are left for a batch header")));
        }
        let header = match BatchHeader::parse(window.get(at, HEADER_BYTES)?) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let BatchHeader { size_bytes, base_offset, leader_epoch, last_offset_delta, .. } = header;
        let cause = if u64::from(size_bytes) > left {
            format!("batch of {size_bytes} bytes has {left} left")
        } else if base_offset != self.end.offset {
            format!("base offset is {base_offset}")
        } else if leader_epoch < self.epoch {
            format!("epoch {leader_epoch} follows {}", self.epoch)
        } else if last_offset_delta < 0 {
            format!("last offset delta is {last_offset_delta}")
        } else if !batch::crc_matches(&header, window.get(at, size_bytes as usize)?) {
            "CRC does not match".into()
        } else {
            return Ok(Ok(header));
        };
        Ok(Err(cause))
    }

    fn damage(&self, durable: Offset) -> Damage {
        let segment = self.segments.last();
        let path = segment.map_or(self.opening.dir.to_path_buf(), |it| it.path("log"));
        let cause = self.cause.clone().unwrap_or_else(|| "the file ends".into());
        let cause = format!("{cause}, but everything below {durable} was durable");
        Damage { path, position: self.end.position, offset: self.end.offset, cause }
    }

    /// Removes what lies behind the walk's end, keeping it elsewhere unless it is all zero.
    fn cut_tail(&self, logs: &[(Offset, u64)]) -> Result<Option<Torn>, OpenError> {
        let Some(segment) = self.segments.last() else { return Ok(None) };
        let (_, len) = logs[self.segments.len() - 1];
        let later = &logs[self.segments.len()..];
        let bytes = len - self.end.position + later.iter().map(|(_, len)| len).sum::<u64>();
        if bytes == 0 && later.is_empty() {
            return Ok(None);
        }
        let tail = Tail::read(segment.file()?, &segment.path("log"), self.end, len)?;
        let mut torn = Torn { end: self.end.offset, bytes, kept: None, survivors: tail.survivors };
        if !tail.zero {
            let path = self.torn_path(segment.base());
            write_file(&self.opening.disk, &path, &tail.bytes)?;
            torn.kept = Some(path);
        }
        // Newest first: what an interruption leaves is then still a run of segments without a gap of our making.
        for (base, len) in later.iter().rev() {
            self.put_aside(*base, *len, &mut torn)?;
        }
        let path = segment.path("log");
        let file = segment.file()?;
        file.truncate(self.end.position).map_err(Fault::of("cut", &path))?;
        file.sync().map_err(Fault::of("sync", &path))?;
        let dir = &self.opening.dir;
        self.opening.disk.sync_dir(dir).map_err(Fault::of("sync", dir))?;
        warn!(path = %path.display(), offset = torn.end.0, bytes, survivors = torn.survivors,
            cause = self.cause.as_deref().unwrap_or("end of file"), "torn tail cut");
        Ok(Some(torn))
    }

    /// A whole segment behind the cut: kept under another name.
    fn put_aside(&self, base: Offset, len: u64, torn: &mut Torn) -> Result<(), Fault> {
        let Opening { disk, dir, .. } = self.opening;
        let path = file_path(dir, base, "log");
        if len == 0 {
            return disk.remove(&path).map_err(Fault::of("remove", &path));
        }
        let file = disk.open(&path, OpenMode::Read).map_err(Fault::of("open", &path))?;
        torn.survivors +=
            Tail::read(&file, &path, Place { position: 0, offset: base }, len)?.survivors;
        let aside = self.torn_path(base);
        disk.rename(&path, &aside).map_err(Fault::of("rename", &path))?;
        torn.kept.get_or_insert(aside);
        Ok(())
    }

    fn torn_path(&self, base: Offset) -> PathBuf {
        file_path(&self.opening.dir, base, &format!("torn-{}", self.opening.now.0))
    }
}

/// Writes bytes over themselves. A sync that failed in the last process left pages that the cache shows and calls clean,
/// though the disk never got them: unless they are made dirty again, the next sync succeeds without them, and lies.
fn write_again<F: File>(
    file: &F,
    window: &mut Window<'_, F>,
    range: Range<u64>,
) -> Result<(), Fault> {
    let mut at = range.start;
    while at < range.end {
        let count = (range.end - at).min(WINDOW_BYTES as u64);
        let path = window.path;
        let bytes = window.get(at, count as usize)?;
        write_all(file, &mut [IoSlice::new(bytes)], at).map_err(Fault::of("write", path))?;
        at += count;
    }
    Ok(())
}

/// Bytes of a file, read in large steps. Recovery does not touch maps: a bad page would be a signal, not an error.
struct Window<'a, F> {
    file: &'a F,
    path: &'a Path,
    len: u64,
    held: Range<u64>,
    bytes: Vec<u8>,
}

impl<'a, F: File> Window<'a, F> {
    fn new(file: &'a F, path: &'a Path, len: u64) -> Self {
        Self { file, path, len, held: 0..0, bytes: Vec::new() }
    }

    /// `count` bytes at `at`, which the file has.
    fn get(&mut self, at: u64, count: usize) -> Result<&[u8], Fault> {
        if at < self.held.start || at + count as u64 > self.held.end {
            let take = (self.len - at).min(count.max(WINDOW_BYTES) as u64) as usize;
            self.bytes.resize(take, 0);
            let read = read_full(self.file, &mut self.bytes, at).and_then(|read| {
                if read < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
            });
            let read = read.map_err(Fault::of("read", self.path))?;
            self.held = at..at + read as u64;
        }
        let from = (at - self.held.start) as usize;
        Ok(&self.bytes[from..from + count])
    }
}

/// The bytes behind the last good batch.
struct Tail {
    zero: bool,
    /// At most [`TORN_BYTES_MAX`] of them.
    bytes: Vec<u8>,
    survivors: u64,
}

impl Tail {
    fn read<F: File>(file: &F, path: &Path, from: Place, len: u64) -> Result<Self, Fault> {
        let take = (len - from.position).min(TORN_BYTES_MAX) as usize;
        let mut window = Window::new(file, path, len);
        let bytes = window.get(from.position, take)?.to_vec();
        let mut zero = bytes.iter().all(|byte| *byte == 0);
        let mut at = from.position + take as u64;
        while zero && at < len {
            let count = (len - at).min(WINDOW_BYTES as u64) as usize;
            zero = window.get(at, count)?.iter().all(|byte| *byte == 0);
            at += count as u64;
        }
        let survivors = if zero { 0 } else { survivors(&bytes, from.offset) };
        Ok(Self { zero, bytes, survivors })
    }
}

/// How many whole, checksummed batches of this log stand somewhere in `bytes`.
fn survivors(bytes: &[u8], expected: Offset) -> u64 {
    let plausible = expected.0..expected.0.saturating_add(i64::from(i32::MAX));
    let (mut at, mut found) = (0, 0);
    while at + HEADER_BYTES <= bytes.len() {
        let rest = &bytes[at..];
        let size = BatchHeader::parse(rest)
            .ok()
            .filter(|header| plausible.contains(&header.base_offset.0))
            .filter(|header| batch::crc_matches(header, rest))
            .map_or(0, |header| header.size_bytes as usize);
        found += u64::from(size > 0);
        at += size.max(1);
    }
    found
}
