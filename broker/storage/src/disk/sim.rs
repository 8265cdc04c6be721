//! A disk in memory that loses power, fills up and fails on command. Seeded: one seed, one story.
//!
//! Every file has a *live* image, which reads and maps show, and a *durable* one, which [`SimDisk::crash`] starts from.
//! What a crash keeps of the bytes written since their last sync is any subset of pages, in any order, and within a
//! page any subset of 512-byte sectors; the length may be ahead of the data, with zeros or garbage between. Creations,
//! renames and removals count after `sync_dir` or `sync_all`; before, any of them may or may not have happened.
//!
//! A failed sync behaves as ext4 and XFS do: the pages become clean, the live image keeps the new bytes, the next sync
//! succeeds without them, and every open file learns of the error once. Bytes under a live slice of a map must not
//! change or be cut: that panics, because it would be a broken promise to a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use millrace_model::env::Prng;
use rustix::io::Errno;

use super::{DirEntry, Disk, File, Map, OpenMode, Space, SyncKind};

const PAGE_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;

/// The simulated disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<World>>);

/// What happens instead of, or during, one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: this operation and all later ones fail until [`SimDisk::crash`].
    PowerCut,
    /// The operation fails with EIO; a sync loses what it should have made durable.
    Eio,
    /// The operation fails with ENOSPC, having done nothing.
    Enospc,
    /// A write or read does half of what it was asked for.
    Short,
    /// The operation fails with EINTR, having done nothing.
    Interrupted,
    /// The operation fails with EMFILE, having done nothing.
    TooManyFiles,
}

#[derive(Debug)]
struct World {
    rng: Prng,
    files: BTreeMap<FileId, FileNode>,
    dirs: BTreeMap<DirId, DirNode>,
    next_id: u64,
    /// Operations so far; the first is number 1.
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    faults_hit: u64,
    power: bool,
    capacity: u64,
    locks: BTreeSet<PathBuf>,
    elsewhere: BTreeSet<PathBuf>,
    /// Failed write-backs so far, and how many of them `sync_all` has reported.
    errors: u64,
    errors_reported: u64,
    syncs: u64,
}

type FileId = u64;
type DirId = u64;
const ROOT: DirId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(FileId),
    Dir(DirId),
}

#[derive(Debug, Default)]
struct FileNode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Pages written since their last sync.
    dirty: BTreeSet<u64>,
    length_dirty: bool,
    /// Failed syncs of this file so far.
    errors: u64,
    /// Live slices of maps, by an id of their own.
    slices: BTreeMap<u64, Range<u64>>,
    poisoned: bool,
}

#[derive(Debug, Default)]
struct DirNode {
    live: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    /// Changes since the last sync, oldest first.
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Set(String, Node),
    Unset(String),
    Rename(String, String),
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        let world = World { rng: Prng::new(seed), ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // A promise broken on another thread panicked there; the world itself is whole.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Operations since the disk was made; a fault may be set for any later number.
    pub fn operations(&self) -> u64 {
        self.world().operations
    }

    /// Makes operation number `operation` go wrong.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.world().faults.insert(operation, fault);
    }

    /// How many faults have struck. A test whose fault never did has tested nothing.
    pub fn faults_hit(&self) -> u64 {
        self.world().faults_hit
    }

    /// Successful syncs that had something to make durable.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// Bytes that all files together may take.
    pub fn set_capacity(&self, bytes: u64) {
        self.world().capacity = bytes;
    }

    /// Pretends that `path` lies on another file system.
    pub fn mount_elsewhere(&self, path: &Path) {
        self.world().elsewhere.insert(path.to_owned());
    }

    /// Makes the maps of a file fail, as a bad medium does.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn poison(&self, path: &Path) {
        self.world().file_at(path).expect("the file exists").poisoned = true;
    }

    /// The live bytes of a file, without counting as an operation.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.world().file_at(path)?.live.clone())
    }

    /// Replaces a file's bytes, live and durable: damage that no program did.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn damage(&self, path: &Path, bytes: Vec<u8>) {
        let mut world = self.world();
        let file = world.file_at(path).expect("the file exists");
        file.durable.clone_from(&bytes);
        file.live = bytes;
        file.dirty.clear();
        file.length_dirty = false;
    }

    /// The power comes back: a new disk with what survived. The old one stays dead.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut world = self.world();
        world.power = false;
        let mut rng = Prng::new(world.rng.next_u64());
        let files = world.files.iter().map(|(id, file)| (*id, file.survive(&mut rng))).collect();
        let dirs = world.dirs.iter().map(|(id, dir)| (*id, dir.survive(&mut rng))).collect();
        let (next_id, capacity) = (world.next_id, world.capacity);
        drop(world);
        let world = World { rng, files, dirs, next_id, capacity, ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }
}

impl Default for World {
    fn default() -> Self {
        Self {
            rng: Prng::new(0),
            files: BTreeMap::new(),
            dirs: BTreeMap::from([(ROOT, DirNode::default())]),
            next_id: 1,
            operations: 0,
            faults: BTreeMap::new(),
            faults_hit: 0,
            power: true,
            capacity: 1 << 40,
            locks: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            errors: 0,
            errors_reported: 0,
            syncs: 0,
        }
    }
}

impl World {
    /// Counts one operation and says what goes wrong with it, if the caller is to act on that.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        self.operations += 1;
        let fault = self.faults.remove(&self.operations);
        self.faults_hit += u64::from(fault.is_some());
        if fault == Some(Fault::PowerCut) {
            self.power = false;
        }
        if !self.power {
            return Err(Errno::IO.into());
        }
        match fault {
            Some(Fault::Enospc) => Err(Errno::NOSPC.into()),
            Some(Fault::Interrupted) => Err(Errno::INTR.into()),
            Some(Fault::TooManyFiles) => Err(Errno::MFILE.into()),
            fault => Ok(fault),
        }
    }

    /// As `begin`, for operations that just fail on EIO and cannot be short.
    fn begin_simple(&mut self) -> io::Result<()> {
        if self.begin()? == Some(Fault::Eio) { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The directory at `path`; every absolute or relative path begins at the one root.
    fn dir(&self, path: &Path) -> io::Result<DirId> {
        let mut at = ROOT;
        for name in names(path) {
            match self.dirs[&at].live.get(&name) {
                Some(Node::Dir(id)) => at = *id,
                Some(Node::File(_)) => return Err(Errno::NOTDIR.into()),
                None => return Err(Errno::NOENT.into()),
            }
        }
        Ok(at)
    }

    /// The directory that `path` is in, and its name there.
    fn parent(&self, path: &Path) -> io::Result<(DirId, String)> {
        let mut names = names(path);
        let name = names.pop().ok_or(Errno::INVAL)?;
        Ok((self.dir(&names.iter().collect::<PathBuf>())?, name))
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        let (dir, name) = self.parent(path)?;
        self.dirs[&dir].live.get(&name).copied().ok_or_else(|| Errno::NOENT.into())
    }

    fn file_at(&mut self, path: &Path) -> Option<&mut FileNode> {
        match self.node(path).ok()? {
            Node::File(id) => self.files.get_mut(&id),
            Node::Dir(_) => None,
        }
    }

    fn file(&mut self, id: FileId) -> &mut FileNode {
        self.files.get_mut(&id).expect("files outlive their names")
    }

    fn change(&mut self, dir: DirId, change: Change) {
        let dir = self.dirs.get_mut(&dir).expect("directories are never forgotten");
        change.apply(&mut dir.live);
        dir.pending.push(change);
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.live.len() as u64).sum()
    }

    /// Makes one file's bytes and length durable, or loses them.
    fn sync_file(&mut self, id: FileId, fails: bool) {
        let file = self.file(id);
        let had_work = !file.dirty.is_empty() || file.length_dirty;
        if fails {
            file.errors += 1;
            file.lose();
            self.errors += 1;
        } else {
            file.persist();
            self.syncs += u64::from(had_work);
        }
    }

    fn sync_all(&mut self, fails: bool) -> io::Result<()> {
        let dirty: Vec<_> = self
            .files
            .iter()
            .filter(|(_, file)| !file.dirty.is_empty() || file.length_dirty)
            .map(|(id, _)| *id)
            .collect();
        for id in dirty {
            self.sync_file(id, fails);
        }
        self.errors += u64::from(fails);
        if self.errors > self.errors_reported {
            self.errors_reported = self.errors;
            return Err(Errno::IO.into());
        }
        for dir in self.dirs.values_mut() {
            dir.persist();
        }
        Ok(())
    }
}

fn names(path: &Path) -> Vec<String> {
    let normal = path.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    normal.collect()
}

impl Change {
    /// Does nothing when what it builds on is not there.
    fn apply(&self, entries: &mut BTreeMap<String, Node>) {
        match self {
            Self::Set(name, node) => {
                entries.insert(name.clone(), *node);
            }
            Self::Unset(name) => {
                entries.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = entries.remove(from) {
                    entries.insert(to.clone(), node);
                }
            }
        }
    }
}

impl DirNode {
    fn persist(&mut self) {
        self.durable.clone_from(&self.live);
        self.pending.clear();
    }

    /// What is found after a power cut: each change since the last sync may have come through.
    fn survive(&self, rng: &mut Prng) -> Self {
        let mut entries = self.durable.clone();
        for change in &self.pending {
            if rng.below(2) == 0 {
                change.apply(&mut entries);
            }
        }
        Self { live: entries.clone(), durable: entries, pending: Vec::new() }
    }
}

impl FileNode {
    fn persist(&mut self) {
        if self.length_dirty {
            self.durable.resize(self.live.len(), 0);
            self.length_dirty = false;
        }
        for page in std::mem::take(&mut self.dirty) {
            let range = self.page(page, self.live.len());
            self.durable[range.clone()].copy_from_slice(&self.live[range]);
        }
    }

    /// A failed sync: what was dirty counts as clean and never reaches the durable image by itself.
    fn lose(&mut self) {
        self.dirty.clear();
        if self.length_dirty {
            self.durable.resize(self.live.len(), 0);
            self.length_dirty = false;
        }
    }

    fn page(&self, page: u64, len: usize) -> Range<usize> {
        let start = (page * PAGE_BYTES) as usize;
        start.min(len)..(start + PAGE_BYTES as usize).min(len)
    }

    fn write(&mut self, bytes: &[u8], at: u64) {
        let (at, end) = (at as usize, at as usize + bytes.len());
        for slice in self.slices.values() {
            let (from, to) = (at.max(slice.start as usize), end.min(slice.end as usize));
            let changed = from < to && self.live[from..to] != bytes[from - at..to - at];
            assert!(!changed, "bytes {from}..{to} change under a live slice");
        }
        if self.live.len() < end {
            self.live.resize(end, 0);
            self.length_dirty = true;
        }
        self.live[at..end].copy_from_slice(bytes);
        self.dirty.extend(at as u64 / PAGE_BYTES..(end as u64).div_ceil(PAGE_BYTES));
    }

    fn truncate(&mut self, len: u64) {
        let cut = self.slices.values().any(|slice| slice.end > len);
        assert!(!cut, "the file is cut to {len} under a live slice");
        self.live.resize(len as usize, 0);
        self.dirty.retain(|page| page * PAGE_BYTES < len);
        self.length_dirty = true;
    }

    /// What is found after a power cut.
    fn survive(&self, rng: &mut Prng) -> Self {
        let (old, new) = (self.durable.len(), self.live.len());
        let len = match rng.below(3) {
            _ if !self.length_dirty => new,
            0 => old,
            1 => new,
            _ => old.min(new) + rng.below(old.abs_diff(new) as u64 + 1) as usize,
        };
        let filler = [0, 0, 0xff, rng.next_u64() as u8][rng.below(4) as usize];
        let mut bytes = self.durable.clone();
        bytes.resize(len, filler);
        for page in &self.dirty {
            let range = self.page(*page, len.min(new));
            match rng.below(4) {
                0 => {}
                1 => self.keep_sectors(&mut bytes, range, rng),
                _ => bytes[range.clone()].copy_from_slice(&self.live[range]),
            }
        }
        Self { live: bytes.clone(), durable: bytes, ..Self::default() }
    }

    fn keep_sectors(&self, bytes: &mut [u8], page: Range<usize>, rng: &mut Prng) {
        for start in page.clone().step_by(SECTOR_BYTES) {
            let sector = start..(start + SECTOR_BYTES).min(page.end);
            if rng.below(2) == 0 {
                bytes[sector.clone()].copy_from_slice(&self.live[sector]);
            }
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimFile> {
        let mut world = self.world();
        world.begin_simple()?;
        let (dir, name) = world.parent(path)?;
        let found = world.dirs[&dir].live.get(&name).copied();
        let entry_new = matches!(mode, OpenMode::Create | OpenMode::OpenOrCreate);
        let id = match (found, mode) {
            (Some(Node::Dir(_)), _) => return Err(Errno::ISDIR.into()),
            (Some(Node::File(_)), OpenMode::Create) => return Err(Errno::EXIST.into()),
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(Errno::NOENT.into()),
            (None, OpenMode::Create | OpenMode::OpenOrCreate) => {
                let id = world.new_id();
                world.files.insert(id, FileNode::default());
                world.change(dir, Change::Set(name, Node::File(id)));
                id
            }
        };
        let seen = world.file(id).errors;
        drop(world);
        let (errors_seen, entry_new) = (AtomicU64::new(seen), AtomicU64::new(u64::from(entry_new)));
        Ok(SimFile { disk: self.clone(), id, errors_seen, entry_new })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut world = self.world();
        world.begin_simple()?;
        let dir = world.dir(dir)?;
        let entry = |(name, node): (&String, &Node)| {
            let (is_dir, len) = match node {
                Node::Dir(_) => (true, 0),
                Node::File(id) => (false, world.files[id].live.len() as u64),
            };
            DirEntry { name: name.clone(), is_dir, len }
        };
        Ok(world.dirs[&dir].live.iter().map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut world = self.world();
        world.begin_simple()?;
        Ok(names(path).is_empty() || world.node(path).is_ok())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.begin_simple()?;
        let (parent, name) = world.parent(path)?;
        if world.dirs[&parent].live.contains_key(&name) {
            return Err(Errno::EXIST.into());
        }
        let id = world.new_id();
        world.dirs.insert(id, DirNode::default());
        world.change(parent, Change::Set(name, Node::Dir(id)));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.begin_simple()?;
        let (dir, from) = world.parent(from)?;
        let (to_dir, to) = world.parent(to)?;
        assert_eq!(dir, to_dir, "files are only renamed within their directory");
        if !world.dirs[&dir].live.contains_key(&from) {
            return Err(Errno::NOENT.into());
        }
        world.change(dir, Change::Rename(from, to));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.begin_simple()?;
        let (dir, name) = world.parent(path)?;
        match world.dirs[&dir].live.get(&name) {
            Some(Node::File(_)) => {}
            Some(Node::Dir(_)) => return Err(Errno::ISDIR.into()),
            None => return Err(Errno::NOENT.into()),
        }
        world.change(dir, Change::Unset(name));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.begin_simple()?;
        let (parent, name) = world.parent(path)?;
        let dir = world.dir(path)?;
        if !world.dirs[&dir].live.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        world.change(parent, Change::Unset(name));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.begin_simple()?;
        let dir = world.dir(dir)?;
        world.dirs.get_mut(&dir).expect("it was just found").persist();
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut world = self.world();
        let fails = world.begin()? == Some(Fault::Eio);
        world.sync_all(fails)
    }

    fn sync_set(&self, files: &[&SimFile]) -> io::Result<SyncKind> {
        let entry_new = files.iter().any(|file| file.entry_new.load(Ordering::Relaxed) != 0);
        match files {
            [] => return Ok(SyncKind::Nothing),
            [file] if !entry_new => return file.sync().map(|()| SyncKind::Files),
            _ => self.sync_all()?,
        }
        files.iter().for_each(|file| file.entry_new.store(0, Ordering::Relaxed));
        Ok(SyncKind::FileSystem)
    }

    fn space(&self) -> io::Result<Space> {
        let mut world = self.world();
        world.begin_simple()?;
        let (total, used) = (world.capacity, world.used());
        Ok(Space { free: total.saturating_sub(used), total })
    }

    fn reaches(&self, path: &Path) -> io::Result<bool> {
        let mut world = self.world();
        world.begin_simple()?;
        world.dir(path)?;
        Ok(!world.elsewhere.contains(path))
    }

    fn lock(&self, path: &Path) -> io::Result<SimLock> {
        let mut world = self.world();
        world.begin_simple()?;
        if !world.locks.insert(path.to_owned()) {
            return Err(Errno::WOULDBLOCK.into());
        }
        drop(world);
        Ok(SimLock { disk: self.clone(), path: path.to_owned() })
    }
}

/// An open file of [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    id: FileId,
    /// Failed syncs of the file that this handle has reported.
    errors_seen: AtomicU64,
    /// 1 when the directory entry may not be durable.
    entry_new: AtomicU64,
}

impl File for SimFile {
    type Map = SimMap;

    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.world();
        world.begin_simple()?;
        Ok(world.file(self.id).live.len() as u64)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        let fault = world.begin()?;
        let mut bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        match fault {
            // A write that fails may have put some of its bytes there.
            Some(Fault::Eio) => {
                let some = world.rng.below(bytes.len() as u64 + 1) as usize;
                world.file(self.id).write(&bytes[..some], at);
                return Err(Errno::IO.into());
            }
            Some(Fault::Short) => bytes.truncate(bytes.len().div_ceil(2)),
            _ => {}
        }
        let free = world.capacity.saturating_sub(world.used());
        let len = world.file(self.id).live.len() as u64;
        let room = (len + free).saturating_sub(at);
        if room == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC.into());
        }
        bytes.truncate(room.min(bytes.len() as u64) as usize);
        world.file(self.id).write(&bytes, at);
        Ok(bytes.len())
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut world = self.disk.world();
        let fault = world.begin()?;
        if fault == Some(Fault::Eio) {
            return Err(Errno::IO.into());
        }
        let file = world.file(self.id);
        if file.poisoned {
            return Err(Errno::IO.into());
        }
        let from = file.live.get(at as usize..).unwrap_or_default();
        let mut count = from.len().min(buf.len());
        if fault == Some(Fault::Short) {
            count = count.div_ceil(2);
        }
        buf[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world();
        let fails = world.begin()? == Some(Fault::Eio);
        world.sync_file(self.id, fails);
        let errors = world.file(self.id).errors;
        if self.errors_seen.swap(errors, Ordering::Relaxed) == errors {
            Ok(())
        } else {
            Err(Errno::IO.into())
        }
    }

    fn start_writeback(&self, _: Range<u64>) -> io::Result<()> {
        self.disk.world().begin_simple()
    }

    fn reserve(&self, _: Range<u64>) -> io::Result<()> {
        self.disk.world().begin_simple()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world();
        world.begin_simple()?;
        world.file(self.id).truncate(len);
        Ok(())
    }

    fn map(&self, len: u64) -> io::Result<SimMap> {
        let mut world = self.disk.world();
        world.begin_simple()?;
        drop(world);
        Ok(SimMap { disk: self.disk.clone(), id: self.id, len, users: Arc::new(()) })
    }

    fn doubt_entry(&self) {
        self.entry_new.store(1, Ordering::Relaxed);
    }
}

/// A view of a file's live image.
#[derive(Clone, Debug)]
pub struct SimMap {
    disk: SimDisk,
    id: FileId,
    len: u64,
    /// Counts clones and slices.
    users: Arc<()>,
}

impl Map for SimMap {
    fn len(&self) -> u64 {
        self.len
    }

    fn slice(&self, range: Range<u64>) -> Bytes {
        assert!(range.end <= self.len, "{range:?} lies outside the map");
        let mut world = self.disk.world();
        let slice = world.new_id();
        let file = world.file(self.id);
        assert!(range.end <= file.live.len() as u64, "{range:?} lies behind the end: SIGBUS");
        let bytes = file.live[range.start as usize..range.end as usize].to_vec();
        file.slices.insert(slice, range);
        drop(world);
        Bytes::from_owner(SimSlice { bytes, slice, map: self.clone() })
    }

    fn copy(&self, at: u64, buf: &mut [u8]) {
        let end = at + buf.len() as u64;
        assert!(end <= self.len, "{at}..{end} lies outside the map");
        let mut world = self.disk.world();
        let file = world.file(self.id);
        assert!(end <= file.live.len() as u64, "{at}..{end} lies behind the end: SIGBUS");
        buf.copy_from_slice(&file.live[at as usize..end as usize]);
    }

    fn resident(&self, _: Range<u64>) -> bool {
        true
    }

    fn populate(&self, _: Range<u64>) -> io::Result<()> {
        if self.poisoned() { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn poisoned(&self) -> bool {
        self.disk.world().file(self.id).poisoned
    }

    fn shared(&self) -> bool {
        Arc::strong_count(&self.users) > 1
    }
}

struct SimSlice {
    bytes: Vec<u8>,
    slice: u64,
    map: SimMap,
}

impl AsRef<[u8]> for SimSlice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for SimSlice {
    fn drop(&mut self) {
        self.map.disk.world().file(self.map.id).slices.remove(&self.slice);
    }
}

/// A lock that is gone with its holder, or with the power.
#[derive(Debug)]
pub struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.world().locks.remove(&self.path);
    }
}

#[cfg(test)]
mod tests;
