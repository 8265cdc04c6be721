//! What can go wrong in the cellar, one enum per operation. Every fault names its file and, where it has one, its place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_model::offset::Offset;
use rustix::io::Errno;

/// A fault of the disk: which file, doing what, why. Cheap to clone, so that every later call can answer the first one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{action} {}: {cause}", path.display())]
pub struct Fault {
    pub action: &'static str,
    pub path: Arc<Path>,
    /// What the operating system said, if it was asked.
    pub code: Option<i32>,
    pub cause: Arc<str>,
}

impl Fault {
    pub fn new(action: &'static str, path: &Path, error: &io::Error) -> Self {
        Self {
            action,
            path: path.into(),
            code: error.raw_os_error(),
            cause: error.to_string().into(),
        }
    }

    /// No space left, or a quota: may pass.
    pub fn is_full(&self) -> bool {
        self.is_any(&[Errno::NOSPC, Errno::DQUOT])
    }

    /// Too many descriptors, or no memory: may pass.
    pub fn is_resources(&self) -> bool {
        self.is_any(&[Errno::MFILE, Errno::NFILE, Errno::NOMEM])
    }

    /// The file is gone.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_any(&[Errno::NOENT])
    }

    fn is_any(&self, errors: &[Errno]) -> bool {
        self.code.is_some_and(|code| errors.iter().any(|error| error.raw_os_error() == code))
    }

    /// For `map_err`.
    pub(crate) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(action, path, &error)
    }
}

/// Why an append was refused. Nothing of it is in the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// No space: the log stays usable, a later append may succeed.
    #[error("disk full: {0}")]
    Full(Fault),
    /// Out of descriptors or memory: nothing is damaged, a later append may succeed.
    #[error("out of resources: {0}")]
    Resources(Fault),
    #[error("batch of {size} bytes does not fit a segment of {segment_bytes} bytes")]
    TooLarge { size: u32, segment_bytes: u32 },
    /// The log refuses all work until it is reopened.
    #[error("log failed: {0}")]
    Failed(Fault),
}

/// Why a read gave nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange { offset: Offset, start: Offset, end: Offset },
    #[error("{damage}")]
    Damaged { damage: Damage },
    #[error(transparent)]
    Io(#[from] Fault),
}

impl ReadError {
    /// The same as a fault, for where damage and I/O errors end alike.
    pub fn into_fault(self) -> Fault {
        match self {
            Self::Io(fault) => fault,
            Self::Damaged { damage } => {
                Fault::new("read", &damage.path, &io::Error::other(damage.to_string()))
            }
            Self::OutOfRange { .. } => {
                Fault::new("read", Path::new("log"), &io::Error::other(self.to_string()))
            }
        }
    }
}

/// Bytes in the log that cannot be what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub path: PathBuf,
    pub position: u64,
    /// The offset that should stand there.
    pub offset: Offset,
    pub cause: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, position, offset, cause } = self;
        write!(f, "{} is damaged at byte {position}, offset {offset}: {cause}", path.display())
    }
}

/// Why a log does not open. Nothing was cut or removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// Bytes that were durable are gone or wrong: repair from a replica or a backup.
    #[error("{0}")]
    Damaged(Damage),
    #[error("{path} is on another file system than the data directory: its syncs would not reach it", path = .0.display())]
    OtherFileSystem(PathBuf),
    #[error(transparent)]
    Io(#[from] Fault),
}

/// Why a log could not be closed cleanly: no clean marker may be written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CloseError {
    #[error("log failed: {0}")]
    Failed(Fault),
    #[error("log end {end} is not durable, only {durable} is")]
    NotDurable { end: Offset, durable: Offset },
    #[error(transparent)]
    Io(#[from] Fault),
}

/// Why a log was not cut.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TruncateError {
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange { offset: Offset, start: Offset, end: Offset },
    #[error("log failed: {0}")]
    Failed(Fault),
    #[error(transparent)]
    Read(#[from] ReadError),
}
