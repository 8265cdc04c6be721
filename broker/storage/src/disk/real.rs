//! The real disk: std and rustix over Linux. Positioned vectored writes, fdatasync, syncfs, advisory locks.
//!
//! The descriptor that syncfs works through is opened with the disk, before any file is written, and kept: an error of
//! write-back is reported once per descriptor, and only to those that were open when it happened.

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::mmap::{self, RealMap};
use super::{DirEntry, Disk, File, OpenMode, Space, SyncKind};

/// Up to this many dirty files are synced one by one, more by one syncfs. Measured on ext4: the first thing to
/// measure again on another file system.
const FDATASYNC_FILES_MAX: usize = 1;

/// One call writes at most this much. The kernel backs a longer write with larger pieces of memory, which a virtual
/// machine has often given back to its host: then each page of them costs more than the copy into it.
const WRITE_BYTES_MAX: usize = 256 * 1024;
/// Buffers before the one that is cut at that bound.
const SPLIT_BUFFERS_MAX: usize = 16;

/// The file system that holds one data directory.
#[derive(Clone, Debug)]
pub struct RealDisk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Invariant: open since before the first write, so that syncfs reports every failed write-back.
    root_fd: fs::File,
    device: u64,
}

impl RealDisk {
    /// The disk under `root`, a directory that is created when missing.
    ///
    /// # Errors
    /// When `root` cannot be created or opened.
    pub fn new(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root_fd = fs::File::open(root)?;
        let device = root_fd.metadata()?.dev();
        Ok(Self(Arc::new(Inner { root: root.to_owned(), root_fd, device })))
    }

    pub fn root(&self) -> &Path {
        &self.0.root
    }
}

impl Disk for RealDisk {
    type File = RealFile;
    type Lock = RealLock;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<RealFile> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create_new(true);
            }
            OpenMode::OpenOrCreate => {
                options.write(true).create(true).truncate(false);
            }
        }
        let entry_new = matches!(mode, OpenMode::Create | OpenMode::OpenOrCreate);
        Ok(RealFile { file: options.open(path)?, entry_new: AtomicBool::new(entry_new) })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // An entry that vanished meanwhile (an unlink on another thread) is no entry.
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            entries.push(DirEntry { name, is_dir: metadata.is_dir(), len: metadata.len() });
        }
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0.root_fd)?)
    }

    fn sync_set(&self, files: &[&RealFile]) -> io::Result<SyncKind> {
        if files.is_empty() {
            return Ok(SyncKind::Nothing);
        }
        let entry_new = files.iter().any(|file| file.entry_new.load(Ordering::Acquire));
        if !entry_new && files.len() <= FDATASYNC_FILES_MAX {
            files.iter().try_for_each(|file| file.sync())?;
            return Ok(SyncKind::Files);
        }
        self.sync_all()?;
        for file in files {
            file.entry_new.store(false, Ordering::Release);
        }
        Ok(SyncKind::FileSystem)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.0.root_fd)?;
        Ok(Space { free: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
    }

    fn reaches(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::metadata(path)?.dev() == self.0.device)
    }

    fn lock(&self, path: &Path) -> io::Result<RealLock> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(RealLock { _file: file })
    }
}

/// An open file of [`RealDisk`]; as a descriptor it serves sendfile.
#[derive(Debug)]
pub struct RealFile {
    file: fs::File,
    /// May the directory entry still be lost with the power? Set at creation, cleared by a syncfs.
    entry_new: AtomicBool,
}

impl File for RealFile {
    type Map = RealMap;

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let mut left = WRITE_BYTES_MAX;
        let mut fit = 0;
        while fit < bufs.len() && bufs[fit].len() <= left {
            left -= bufs[fit].len();
            fit += 1;
        }
        // The first that does not fit is cut, unless many small ones stand before it.
        if fit == bufs.len() || fit > SPLIT_BUFFERS_MAX {
            return Ok(rustix::io::pwritev(&self.file, &bufs[..fit], at)?);
        }
        let mut part = [IoSlice::new(&[]); SPLIT_BUFFERS_MAX + 1];
        part[..fit].copy_from_slice(&bufs[..fit]);
        part[fit] = IoSlice::new(&bufs[fit][..left]);
        Ok(rustix::io::pwritev(&self.file, &part[..=fit], at)?)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_writeback(&self, range: Range<u64>) -> io::Result<()> {
        mmap::start_writeback(self.file.as_fd(), range)
    }

    fn reserve(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end - range.start;
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, range.start, len)?)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn map(&self, len: u64) -> io::Result<RealMap> {
        RealMap::new(&self.file, len)
    }

    fn doubt_entry(&self) {
        self.entry_new.store(true, Ordering::Release);
    }
}

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An exclusive advisory lock; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub struct RealLock {
    _file: fs::File,
}
