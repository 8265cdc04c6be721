//! What can go wrong, what kind of thing it is, and whether trying again helps.
//!
//! The broker's answers are translated here and nowhere else: codes of gRPC, with the details of google.rpc, which carry
//! Kafka's name of the error.

use std::fmt;
use std::time::Duration;

use millrace_proto::v1::ItemStatus;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text cannot be the address of a broker.
    #[error("{address:?} is no address; write one like http://127.0.0.1:9095")]
    Address { address: String },
    /// Nothing answers there.
    #[error("nothing answers at {address}: {reason}")]
    Connect { address: String, reason: String },
    /// The connection broke. What was under way may have been done or not.
    #[error("the connection broke: {reason}")]
    Lost { reason: String },
    /// The broker's answer.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer in time, `last` is what went wrong meanwhile. What was asked may have been done or not.
    #[error("no answer within {} ms{}", waited.as_millis(), after(last))]
    Timeout { waited: Duration, last: String },
    /// A record that no producer can take.
    #[error("a record of {bytes} bytes is larger than {bytes_max}, which is all that fits")]
    TooLarge { bytes: usize, bytes_max: usize },
    /// What came from the broker is no sound record batch.
    #[error("damaged batch in {topic}-{partition} at offset {offset}: {reason}")]
    Damaged { topic: String, partition: i32, offset: i64, reason: String },
    /// What came from the broker does not follow the contract.
    #[error("the broker's answer makes no sense: {reason}")]
    Nonsense { reason: String },
    /// The call does not fit the state of the thing it was made on.
    #[error("{reason}")]
    Misuse { reason: String },
    /// The producer or the consumer was closed.
    #[error("it is closed")]
    Closed,
}

fn after(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!("; the last try: {last}") }
}

/// What the broker would not do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    pub kind: ErrorKind,
    /// Kafka's name of the error, e.g. `UNKNOWN_TOPIC_OR_PARTITION`; empty where there is none.
    pub reason: String,
    pub message: String,
    /// How long the broker asks to be left alone before the same is tried again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.message.as_str(), self.reason.as_str()) {
            ("", "") => write!(f, "refused: {:?}", self.kind),
            ("", reason) => f.write_str(reason),
            (message, "") => f.write_str(message),
            (message, reason) => write!(f, "{message} ({reason})"),
        }
    }
}

/// What kind of thing went wrong: enough to decide what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The topic, partition or group does not exist.
    NotFound,
    AlreadyExists,
    /// The same request fails the same way, whenever it is made.
    InvalidArgument,
    /// Things are not in the state that the request needs: a group with members, a topic that is internal.
    FailedPrecondition,
    /// The offset is not in the log.
    OutOfRange,
    /// The broker cannot, just now, or cannot be reached.
    Unavailable,
    /// A limit is reached.
    ResourceExhausted,
    /// Nobody knows whether it was done.
    Timeout,
    /// The broker may, but not for this caller.
    PermissionDenied,
    /// The broker does not know how.
    Unimplemented,
    /// Bytes are not what they should be.
    Damaged,
    /// The caller's own doing: an address that is none, a thing that is closed.
    Misuse,
    /// A bug in the broker.
    Internal,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => ErrorKind::Unavailable,
            Self::Refused(refusal) => refusal.kind,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::TooLarge { .. } => ErrorKind::InvalidArgument,
            Self::Damaged { .. } | Self::Nonsense { .. } => ErrorKind::Damaged,
            Self::Address { .. } | Self::Misuse { .. } | Self::Closed => ErrorKind::Misuse,
        }
    }

    /// May the same succeed later? It may also have succeeded already: a lost connection and a deadline leave that open.
    pub fn is_retriable(&self) -> bool {
        use ErrorKind::{ResourceExhausted, Timeout, Unavailable};
        matches!(self.kind(), Unavailable | ResourceExhausted | Timeout)
    }

    /// Kafka's name of the error, as the broker gave it, e.g. `UNKNOWN_TOPIC_OR_PARTITION`.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) if !refusal.reason.is_empty() => Some(&refusal.reason),
            _ => None,
        }
    }

    /// How long the broker asks to be left alone before the same is tried again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// What became of one item of a request with several.
    pub(crate) fn of_item(status: Option<ItemStatus>) -> Result<(), Self> {
        match status {
            None => Ok(()),
            Some(status) if status.code == 0 => Ok(()),
            Some(ItemStatus { code, message, reason }) => {
                let kind = kind_of(Code::from_i32(code));
                Err(Self::Refused(Refusal { kind, reason, message, retry_after: None }))
            }
        }
    }

    pub(crate) fn misuse(reason: impl Into<String>) -> Self {
        Self::Misuse { reason: reason.into() }
    }

    /// The contract promises this part of an answer.
    pub(crate) fn missing(part: &str) -> Self {
        Self::Nonsense { reason: format!("{part} is missing") }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side, of what happened to the connection.
        let made_here = std::error::Error::source(&status).is_some();
        match status.code() {
            Code::Unknown => Self::Lost { reason: root(&status) },
            Code::Cancelled if ran_out_of_time(&status) => {
                let kind = ErrorKind::Timeout;
                let message = status.message().to_owned();
                Self::Refused(Refusal { kind, reason: String::new(), message, retry_after: None })
            }
            _ if made_here => Self::Lost { reason: root(&status) },
            code => Self::Refused(Refusal {
                kind: kind_of(code),
                reason: status.get_details_error_info().map(|it| it.reason).unwrap_or_default(),
                message: status.message().to_owned(),
                retry_after: status.get_details_retry_info().and_then(|it| it.retry_delay),
            }),
        }
    }
}

/// Was it this side that gave up waiting? A connection that closes cancels calls too.
fn ran_out_of_time(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::Unavailable | Code::Aborted | Code::Unknown => ErrorKind::Unavailable,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::DeadlineExceeded | Code::Cancelled => ErrorKind::Timeout,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::DataLoss => ErrorKind::Damaged,
        Code::Internal | Code::Ok => ErrorKind::Internal,
    }
}

/// What lies at the bottom of a chain of errors; the upper ones only say "transport error".
pub(crate) fn root(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn what_may_pass_is_retriable_and_what_is_wrong_is_not() {
        for (code, kind, retriable) in [
            (Code::Unavailable, ErrorKind::Unavailable, true),
            (Code::ResourceExhausted, ErrorKind::ResourceExhausted, true),
            (Code::DeadlineExceeded, ErrorKind::Timeout, true),
            (Code::Unknown, ErrorKind::Unavailable, true),
            (Code::NotFound, ErrorKind::NotFound, false),
            (Code::InvalidArgument, ErrorKind::InvalidArgument, false),
            (Code::OutOfRange, ErrorKind::OutOfRange, false),
            (Code::FailedPrecondition, ErrorKind::FailedPrecondition, false),
            (Code::Internal, ErrorKind::Internal, false),
        ] {
            let error = Error::from(Status::new(code, "why"));
            assert_eq!((error.kind(), error.is_retriable()), (kind, retriable), "{code:?}");
        }
    }

    #[test]
    fn kafkas_name_of_an_error_comes_from_its_details() {
        let mut details = ErrorDetails::new();
        details.set_error_info("NOT_ENOUGH_REPLICAS", "millrace", []);
        details.set_retry_info(Some(Duration::from_millis(250)));
        let status = Status::with_error_details(Code::Unavailable, "one of two", details);
        let error = Error::from(status);
        assert_eq!(error.reason(), Some("NOT_ENOUGH_REPLICAS"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert_eq!(error.to_string(), "one of two (NOT_ENOUGH_REPLICAS)");
    }

    #[test]
    fn items_are_judged_as_calls_are() {
        assert_eq!(Error::of_item(None), Ok(()));
        assert_eq!(Error::of_item(Some(ItemStatus::default())), Ok(()));
        let refused = ItemStatus {
            code: Code::NotFound as i32,
            message: "no such topic".to_owned(),
            reason: "UNKNOWN_TOPIC_OR_PARTITION".to_owned(),
        };
        let error = Error::of_item(Some(refused)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.reason(), Some("UNKNOWN_TOPIC_OR_PARTITION"));
    }
}
