//! The seam between the log and the file system: what storage may ask of a disk, and nothing more.
//!
//! Two disks exist: [`real::RealDisk`] and [`sim::SimDisk`], which loses power and fails on command. All file access of
//! storage goes through these traits, so whatever is tested against the second holds for the first. No policy lives
//! here: what to sync when is the log's and the flusher's business; only the choice between fdatasync and syncfs for
//! one group is the disk's, because it depends on the file system.

pub mod mmap;
pub mod real;
pub mod sim;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

/// A place for files. Cheap to clone; all clones are the same disk.
pub trait Disk: Clone + Send + Sync + 'static {
    type File: File;
    /// Held for as long as a directory is ours.
    type Lock: Send + Sync + 'static;

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Self::File>;
    /// Entries of a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals inside `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes everything on the file system durable: bytes, lengths and directory entries.
    ///
    /// # Errors
    /// Any failed write-back since the last call. The pages concerned are lost: never retry.
    fn sync_all(&self) -> io::Result<()>;
    /// Makes the bytes of these files, and their directory entries where those are new, durable in the cheapest way.
    ///
    /// # Errors
    /// As [`Disk::sync_all`]: after an error nothing may be acknowledged, and a second call proves nothing.
    fn sync_set(&self, files: &[&Self::File]) -> io::Result<SyncKind>;
    fn space(&self) -> io::Result<Space>;
    /// Is `path` on the file system that [`Disk::sync_all`] reaches?
    fn reaches(&self, path: &Path) -> io::Result<bool>;
    /// Takes the advisory lock of a file, created if missing.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Self::Lock>;
}

/// An open file. Positions are explicit, so one handle serves any number of threads.
pub trait File: Send + Sync + 'static {
    type Map: Map;

    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Writes a prefix of `bufs` at `at` and says how long it was.
    fn write_at(&self, bufs: &[IoSlice<'_>], at: u64) -> io::Result<usize>;
    /// Reads a prefix of what `buf` asks for; 0 is the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Makes bytes and length durable (fdatasync); not the directory entry.
    fn sync(&self) -> io::Result<()>;
    /// Asks for write-back of a range to begin; promises nothing.
    fn start_writeback(&self, range: Range<u64>) -> io::Result<()>;
    /// Asks for blocks for a range beyond the end, without making the file longer; promises nothing.
    fn reserve(&self, range: Range<u64>) -> io::Result<()>;
    /// Sets the length; also gives back what was reserved beyond it.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Maps the first `len` bytes for reading. `len` may lie beyond the end: those bytes appear as the file grows.
    fn map(&self, len: u64) -> io::Result<Self::Map>;
    /// Takes back the belief that this file's directory entry is durable: its next `sync_set` covers the entry.
    fn doubt_entry(&self);
}

/// A read-only, shared view of a file. Cheap to clone.
///
/// Callers stay below what has been written: bytes beyond the end of the file are not there.
pub trait Map: Clone + Send + Sync + 'static {
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The bytes of `range` without a copy. They must never change or be cut while the result lives.
    fn slice(&self, range: Range<u64>) -> Bytes;
    /// Copies `buf.len()` bytes from `at`.
    fn copy(&self, at: u64, buf: &mut [u8]);
    /// Would touching `range` stay free of disk reads? Best effort.
    fn resident(&self, range: Range<u64>) -> bool;
    /// Reads `range` into memory, blocking; a bad medium shows as an error here and not as a signal later.
    fn populate(&self, range: Range<u64>) -> io::Result<()>;
    /// Has a page of this map failed to load? Then nothing read from it since counts.
    fn poisoned(&self) -> bool;
    /// Are there slices or clones beside this one?
    fn shared(&self) -> bool;
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    Read,
    ReadWrite,
    /// Read and write; the file must not exist.
    Create,
    /// Read and write; created when missing.
    OpenOrCreate,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    pub len: u64,
}

/// How a group of files was made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// There was nothing to do.
    Nothing,
    /// One fdatasync per file.
    Files,
    /// One syncfs for the whole file system.
    FileSystem,
}

/// Bytes of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub free: u64,
    pub total: u64,
}

/// Writes all of `bufs` at `at`, continuing after interruptions and short writes.
///
/// # Errors
/// The first error that is no interruption; some bytes may have been written.
pub(crate) fn write_all<F: File>(
    file: &F,
    mut bufs: &mut [IoSlice<'_>],
    mut at: u64,
) -> io::Result<()> {
    IoSlice::advance_slices(&mut bufs, 0);
    while !bufs.is_empty() {
        let count = bufs.len().min(millrace_model::limits::IOVECS_MAX);
        match file.write_at(&bufs[..count], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut bufs, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `buf` is full or the file ends; the count tells which.
pub(crate) fn read_full<F: File>(file: &F, buf: &mut [u8], mut at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], at) {
            Ok(0) => break,
            Ok(read) => {
                done += read;
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The whole of a small file.
pub(crate) fn read_file<D: Disk>(disk: &D, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = read_full(&file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
