//! A real disk whose writes to segments fail when told.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use millrace_storage::disk::real::{RealDisk, RealFile};
use millrace_storage::disk::{DirEntry, Disk, File, OpenMode, Space, SyncKind};

#[derive(Clone)]
pub(super) struct FaultyDisk {
    inner: RealDisk,
    /// The error number that every write to a segment answers; 0: none.
    fault: Arc<AtomicI32>,
}

pub(super) struct FaultyFile {
    inner: RealFile,
    fault: Arc<AtomicI32>,
}

pub(super) const ENOSPC: i32 = 28;
pub(super) const EDQUOT: i32 = 122;
pub(super) const EIO: i32 = 5;
pub(super) const EMFILE: i32 = 24;

impl FaultyDisk {
    pub(super) fn new(root: &Path) -> Self {
        let inner = RealDisk::new(root).unwrap();
        Self { inner, fault: Arc::new(AtomicI32::new(0)) }
    }

    pub(super) fn fail_writes(&self, error: i32) {
        self.fault.store(error, Ordering::Relaxed);
    }
}

impl Disk for FaultyDisk {
    type File = FaultyFile;
    type Lock = <RealDisk as Disk>::Lock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<FaultyFile> {
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let fault = if is_log { Arc::clone(&self.fault) } else { Arc::default() };
        Ok(FaultyFile { inner: self.inner.open(path, mode)?, fault })
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(dir)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all()
    }
    fn sync_set(&self, files: &[&FaultyFile]) -> io::Result<SyncKind> {
        self.inner.sync_set(&files.iter().map(|file| &file.inner).collect::<Vec<_>>())
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn reaches(&self, path: &Path) -> io::Result<bool> {
        self.inner.reaches(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Self::Lock> {
        self.inner.lock(path)
    }
}

impl File for FaultyFile {
    type Map = <RealFile as File>::Map;

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    /// A failing write leaves a few bytes behind, as a full disk does.
    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        match self.fault.load(Ordering::Relaxed) {
            0 => self.inner.write_at(bufs, at),
            error => {
                self.inner.write_at(&[IoSlice::new(&bufs[0][..7])], at)?;
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.inner.read_at(buf, at)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn start_writeback(&self, range: Range<u64>) -> io::Result<()> {
        self.inner.start_writeback(range)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }
    fn map(&self, len: u64) -> io::Result<Self::Map> {
        self.inner.map(len)
    }
    fn doubt_entry(&self) {
        self.inner.doubt_entry();
    }
}
