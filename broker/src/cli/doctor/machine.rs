//! This machine, as far as a broker cares: limits of a process, the file system below a path.

use std::io;
use std::path::Path;

use rustix::fs::{statfs, statvfs};
use rustix::process::{Resource, getrlimit};

/// What a process that is started from here may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The broker raises its soft limit to the hard one by itself.
    pub(super) open_files: u64,
    pub(super) maps: Option<u64>,
}

impl Limits {
    pub(super) fn read() -> Self {
        let maps = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
        Self {
            open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
            maps: maps.and_then(|text| text.trim().parse().ok()),
        }
    }
}

/// The file system below a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) kind: Kind,
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
}

impl Disk {
    /// Looks at the file system of `path`, or of what will hold it.
    ///
    /// # Errors
    /// Nothing of the path is there, or it may not be seen.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let there = path.ancestors().find(|it| it.exists()).unwrap_or(Path::new("/"));
        let sizes = statvfs(there)?;
        Ok(Self {
            kind: Kind(statfs(there)?.f_type as u64),
            free_bytes: sizes.f_bavail.saturating_mul(sizes.f_frsize),
            total_bytes: sizes.f_blocks.saturating_mul(sizes.f_frsize),
        })
    }
}

/// The kind of a file system, by Linux' magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind(u64);

/// Numbers of `statfs(2)`, names, and what speaks against keeping a log there.
const KINDS: &[(u64, &str, Option<&str>)] = &[
    (0xEF53, "ext4", None),
    (0x5846_5342, "XFS", None),
    (0x9123_683E, "btrfs", Some("copy on write makes appends and syncs slower")),
    (0x2FC1_2FC1, "ZFS", Some("copy on write makes appends and syncs slower")),
    (0xF2F5_2010, "F2FS", None),
    (0x0102_1994, "tmpfs", Some("it is memory: a restart of the machine loses everything")),
    (0x8584_58F6, "ramfs", Some("it is memory: a restart of the machine loses everything")),
    (0x794C_7630, "overlayfs", Some("it is the layer of a container, gone with it")),
    (0x6969, "NFS", Some("locks, syncs and memory maps are not to be trusted over a network")),
    (0xFE53_4D42, "SMB", Some("locks, syncs and memory maps are not to be trusted over a network")),
    (0x6573_5546, "FUSE", Some("whether a sync reaches the disk is up to its program")),
];

impl Kind {
    pub(super) fn name(self) -> String {
        match KINDS.iter().find(|it| it.0 == self.0) {
            Some((_, name, _)) => (*name).to_owned(),
            None => format!("a file system of type {:#x}", self.0),
        }
    }

    /// What speaks against it.
    pub(super) fn objection(self) -> Option<&'static str> {
        match KINDS.iter().find(|it| it.0 == self.0) {
            Some((_, _, objection)) => *objection,
            None => Some("it is not known how it keeps what is synced"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_still_to_be_made_is_looked_at() {
        let disk = Disk::of(Path::new("/proc/../tmp/no-such-directory-at-all/data")).unwrap();
        assert!(disk.total_bytes > 0);
    }

    #[test]
    fn kinds_have_names_and_objections() {
        assert_eq!(Kind(0xEF53).objection(), None);
        assert!(Kind(0x0102_1994).objection().is_some());
        assert_eq!(Kind(1).name(), "a file system of type 0x1");
        assert!(Kind(1).objection().is_some());
    }

    #[test]
    fn limits_are_there() {
        assert!(Limits::read().open_files > 0);
    }
}
