//! What can go wrong, and whether trying again helps.

use tonic::{Code, Status};

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{address:?} is no address; write one like http://127.0.0.1:9095")]
    Address { address: String },
    #[error("nothing answers at {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("not found: {message}")]
    NotFound { message: String },
    /// The same request fails the same way.
    #[error("refused: {message}")]
    Refused { message: String },
    #[error("offset out of range: {message}")]
    OutOfRange { message: String },
    /// The broker cannot, just now, or the connection broke.
    #[error("unavailable: {message}")]
    Unavailable { message: String },
    /// Nobody knows whether it was done.
    #[error("no answer in time: {message}")]
    Timeout { message: String },
    /// What came from the broker is no sound record batch.
    #[error("damaged batch at offset {offset}: {message}")]
    Damaged { offset: i64, message: String },
    /// There is nothing to send.
    #[error("a batch has at least one record")]
    EmptyBatch,
}

impl Error {
    /// May the same request succeed later? After [`Error::Timeout`] and [`Error::Unavailable`] it may also have
    /// succeeded already.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Unavailable { .. } | Self::Timeout { .. })
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotFound { message },
            Code::OutOfRange => Self::OutOfRange { message },
            Code::DeadlineExceeded | Code::Cancelled => Self::Timeout { message },
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Aborted => {
                Self::Unavailable { message }
            }
            _ => Self::Refused { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_retriable_and_what_is_wrong_is_not() {
        for (code, retriable) in [
            (Code::Unavailable, true),
            (Code::ResourceExhausted, true),
            (Code::DeadlineExceeded, true),
            (Code::NotFound, false),
            (Code::InvalidArgument, false),
            (Code::OutOfRange, false),
            (Code::FailedPrecondition, false),
        ] {
            assert_eq!(Error::from(Status::new(code, "")).is_retriable(), retriable, "{code:?}");
        }
    }
}
