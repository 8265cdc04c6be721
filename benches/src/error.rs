//! Why a measurement gives no figure.

use std::io;

/// Why a measurement gives no figure.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("the broker's answer cannot be read: {0}")]
    Malformed(&'static str),
    #[error("{request} was refused with error code {code}")]
    Refused { request: &'static str, code: i16 },
    #[error("{0} did not come true in time")]
    Timeout(&'static str),
    #[error("{0}")]
    Misuse(String),
}

impl LoadError {
    /// For `map_err`: names what was being done.
    pub fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    /// The same for errors of system calls.
    pub fn os(doing: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |errno| Self::Io { doing, source: errno.into() }
    }
}
