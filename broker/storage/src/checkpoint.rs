//! Small files written whole: temporary file, sync, rename, sync of the directory. Either the old or the new content
//! survives a crash, never a mixture.
//!
//! [`PendingFile`] carries content from where it is known (the owner of a partition, who must not wait for a disk) to
//! a thread that may. Also Kafka's `partition.metadata`.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use millrace_model::ids::TopicId;

use crate::disk::{Disk, File, OpenMode, read_file, write_all};
use crate::error::Fault;

/// A small file that waits to be written.
#[must_use = "nothing is on disk before `write`"]
#[derive(Debug)]
pub struct PendingFile<D: Disk> {
    disk: D,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl<D: Disk> PendingFile<D> {
    pub(crate) fn new(disk: D, path: PathBuf, bytes: Vec<u8>) -> Self {
        Self { disk, path, bytes }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the content in place and makes it durable. Blocks on the disk.
    ///
    /// # Errors
    /// Any failure; the former content is then still there.
    pub fn write(self) -> Result<(), Fault> {
        write_file(&self.disk, &self.path, &self.bytes)
    }
}

/// Replaces the content of `path` durably.
pub(crate) fn write_file<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let temporary = with_suffix(path, ".tmp");
    write_temporary(disk, &temporary, bytes).map_err(Fault::of("write", &temporary))?;
    disk.rename(&temporary, path).map_err(Fault::of("rename to", path))?;
    let dir = path.parent().expect("our files lie in directories");
    disk.sync_dir(dir).map_err(Fault::of("sync", dir))
}

/// Replaces several files of one directory with two barriers: one before the renames, one behind them.
pub(crate) fn write_files<D: Disk>(
    disk: &D,
    dir: &Path,
    files: &[(&str, Vec<u8>)],
) -> Result<(), Fault> {
    let paths = files.iter().map(|(name, bytes)| (dir.join(name), bytes));
    let paths: Vec<_> =
        paths.map(|(path, bytes)| (with_suffix(&path, ".tmp"), path, bytes)).collect();
    for (temporary, _, bytes) in &paths {
        fill(disk, temporary, bytes).map_err(Fault::of("write", temporary))?;
    }
    disk.sync_all().map_err(Fault::of("sync", dir))?;
    for (temporary, path, _) in &paths {
        disk.rename(temporary, path).map_err(Fault::of("rename to", path))?;
    }
    disk.sync_dir(dir).map_err(Fault::of("sync", dir))
}

fn write_temporary<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fill(disk, path, bytes)?.sync()
}

fn fill<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> io::Result<D::File> {
    let file = disk.open(path, OpenMode::OpenOrCreate)?;
    if !file.is_empty()? {
        file.truncate(0)?;
    }
    write_all(&file, &mut [IoSlice::new(bytes)], 0)?;
    Ok(file)
}

/// `path` with `suffix` behind its name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The content of a small file, `None` when it does not exist.
pub(crate) fn read_optional<D: Disk>(disk: &D, path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    match read_file(disk, path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::new("read", path, &error)),
    }
}

pub(crate) const PARTITION_METADATA: &str = "partition.metadata";

/// The topic that the partition directory `dir` belongs to; `None` when the file is missing or not readable as one.
///
/// # Errors
/// When the disk fails.
pub fn read_topic_id<D: Disk>(disk: &D, dir: &Path) -> Result<Option<TopicId>, Fault> {
    let Some(bytes) = read_optional(disk, &dir.join(PARTITION_METADATA))? else { return Ok(None) };
    Ok(std::str::from_utf8(&bytes).ok().and_then(parse_partition_metadata))
}

/// Writes the topic's id into its partition directory, without a sync: the first sync of the file system carries it.
pub(crate) fn write_topic_id<D: Disk>(disk: &D, dir: &Path, id: TopicId) -> Result<(), Fault> {
    let path = dir.join(PARTITION_METADATA);
    let text = format!("version: 0\ntopic_id: {id}\n");
    fill(disk, &path, text.as_bytes()).map(drop).map_err(Fault::of("write", &path))
}

fn parse_partition_metadata(text: &str) -> Option<TopicId> {
    let mut lines = text.lines();
    let version = lines.next()?.strip_prefix("version: ")?;
    if version != "0" {
        return None;
    }
    TopicId::parse(lines.next()?.strip_prefix("topic_id: ")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_metadata_is_kafkas() {
        let id = TopicId([7; 16]);
        assert_eq!(parse_partition_metadata(&format!("version: 0\ntopic_id: {id}")), Some(id));
        for bad in ["", "version: 1\ntopic_id: x", "version: 0\n", "topic_id: x\nversion: 0"] {
            assert_eq!(parse_partition_metadata(bad), None, "{bad:?}");
        }
    }
}
