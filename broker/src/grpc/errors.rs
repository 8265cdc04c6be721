//! What the hall refuses, in gRPC's words: one table, which also says whether to try again.
//!
//! `UNAVAILABLE` and `RESOURCE_EXHAUSTED` mean "send the same again"; every other code means that the same request
//! will fail the same way. Each status carries `google.rpc.ErrorInfo`, whose reason is Kafka's name of the error, and
//! where it makes sense `google.rpc.RetryInfo` or `google.rpc.BadRequest`.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use millrace_kernel::group::GroupError;
use millrace_proto::v1::ItemStatus;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tracing::error;

use crate::error::BrokerError;
use crate::error::codes::{self, ErrorCode};
use crate::service::Hall;
use crate::service::groups::GroupFailed;

/// Whose reasons these are, in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "millrace";
/// The reason's number in Kafka's table, among an `ErrorInfo`'s metadata.
const KAFKA_CODE: &str = "kafka_code";
/// What `google.rpc.RetryInfo` asks a client to wait at least.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A status travels in HTTP/2 headers, and a message may quote what the client sent.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A field of a request that cannot be as it is.
pub(super) fn invalid(field: &str, reason: &str) -> Status {
    let mut details = details(ErrorCode::InvalidRequest);
    details.add_bad_request_violation(field, reason);
    let message = format!("{field}: {reason}");
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// The answer to an operation that was refused.
pub(super) fn status(error: &BrokerError) -> Status {
    full_status(code(error), codes::code(error), error.to_string())
}

/// What became of one item that was refused.
pub(super) fn item(error: &BrokerError) -> ItemStatus {
    item_status(code(error), codes::code(error), error.to_string())
}

/// The answer to a command that a group's coordinator refused.
pub(super) fn group_status(error: GroupError) -> Status {
    full_status(group_code(error), codes::group_code(error), error.to_string())
}

/// What became of one item that a group's coordinator refused.
pub(super) fn group_item(error: GroupError) -> ItemStatus {
    item_status(group_code(error), codes::group_code(error), error.to_string())
}

/// The answer to a question about a group that got none.
pub(super) fn group_failed(failed: &GroupFailed) -> Status {
    match failed {
        GroupFailed::Refused(error) => group_status(*error),
        GroupFailed::Unreachable(error) => status(error),
    }
}

/// What became of one item that went well.
pub(super) fn success() -> ItemStatus {
    ItemStatus::default()
}

/// The answer to a call whose own deadline passed.
pub(super) fn deadline_exceeded() -> Status {
    let message = "the call's deadline has passed; what it asked for may still happen";
    full_status(Code::DeadlineExceeded, ErrorCode::RequestTimedOut, message.into())
}

/// Runs one call; a bug in it is counted and ends that call alone.
pub(super) async fn guarded<T>(
    hall: &Hall,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(result) => result,
        Err(_) => {
            hall.metrics.panicked();
            error!("a bug ended a gRPC call; the broker goes on");
            let message = "a bug in the broker ended this call".into();
            Err(full_status(Code::Internal, ErrorCode::UnknownServerError, message))
        }
    }
}

fn full_status(code: Code, kafka: ErrorCode, message: String) -> Status {
    let message = shortened(message);
    let mut details = details(kafka);
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, message, details)
}

fn details(kafka: ErrorCode) -> ErrorDetails {
    let metadata = HashMap::from([(KAFKA_CODE.to_owned(), kafka.code().to_string())]);
    ErrorDetails::with_error_info(kafka.name(), DOMAIN, metadata)
}

fn item_status(code: Code, kafka: ErrorCode, message: String) -> ItemStatus {
    ItemStatus { code: code as i32, message: shortened(message), reason: kafka.name().to_owned() }
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str("...");
    }
    message
}

fn code(error: &BrokerError) -> Code {
    match error {
        BrokerError::UnknownTopicOrPartition { .. } | BrokerError::UnknownTopicId { .. } => {
            Code::NotFound
        }
        BrokerError::InvalidBatch(_)
        | BrokerError::NoRecords
        | BrokerError::InvalidRequiredAcks { .. }
        | BrokerError::InvalidRecord(_)
        | BrokerError::InvalidTimestamp(_)
        | BrokerError::TooLarge(_)
        | BrokerError::InvalidTopic(_)
        | BrokerError::InvalidTopicUse(_)
        | BrokerError::InvalidPartitions(_)
        | BrokerError::InvalidReplicationFactor(_)
        | BrokerError::InvalidReplicaAssignment(_)
        | BrokerError::InvalidConfig(_)
        | BrokerError::InvalidRequest(_) => Code::InvalidArgument,
        BrokerError::InconsistentTopicId { .. }
        | BrokerError::ZstdNeedsNewerClient
        | BrokerError::InternalTopic { .. }
        | BrokerError::OutOfOrderSequence(_)
        | BrokerError::InvalidProducerEpoch(_)
        | BrokerError::UnknownProducerId(_)
        | BrokerError::FencedLeaderEpoch { .. }
        | BrokerError::PolicyViolation(_)
        | BrokerError::TopicDeletionDisabled => Code::FailedPrecondition,
        BrokerError::TransactionsUnsupported => Code::Unimplemented,
        BrokerError::DuplicateSequence(_) | BrokerError::TopicExists { .. } => Code::AlreadyExists,
        BrokerError::OffsetOutOfRange { .. } => Code::OutOfRange,
        BrokerError::Timeout { .. } => Code::DeadlineExceeded,
        BrokerError::Overloaded { .. } => Code::ResourceExhausted,
        BrokerError::NotLeader { .. }
        | BrokerError::NotEnoughReplicas(_)
        | BrokerError::Storage { .. }
        | BrokerError::UnknownLeaderEpoch { .. }
        | BrokerError::CoordinatorNotAvailable { .. }
        | BrokerError::CoordinatorLoading
        | BrokerError::ShuttingDown => Code::Unavailable,
    }
}

fn group_code(error: GroupError) -> Code {
    match error {
        GroupError::GroupIdNotFound => Code::NotFound,
        GroupError::OffsetMetadataTooLarge
        | GroupError::InvalidGroupId
        | GroupError::InvalidSessionTimeout
        | GroupError::InvalidCommitOffsetSize
        | GroupError::InvalidRequest => Code::InvalidArgument,
        // A full group is no reason to send the same again and again.
        GroupError::IllegalGeneration
        | GroupError::InconsistentGroupProtocol
        | GroupError::UnknownMemberId
        | GroupError::RebalanceInProgress
        | GroupError::NonEmptyGroup
        | GroupError::MemberIdRequired
        | GroupError::GroupMaxSizeReached
        | GroupError::FencedInstanceId
        | GroupError::GroupSubscribedToTopic => Code::FailedPrecondition,
        GroupError::CoordinatorLoadInProgress
        | GroupError::CoordinatorNotAvailable
        | GroupError::NotCoordinator => Code::Unavailable,
        GroupError::UnknownServerError => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_kafkas_name_and_number() {
        let missing = BrokerError::UnknownTopicOrPartition { topic: "orders".into(), partition: 3 };
        let refused = status(&missing);
        assert_eq!(refused.code(), Code::NotFound);
        let info = refused.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("UNKNOWN_TOPIC_OR_PARTITION", DOMAIN)
        );
        assert_eq!(info.metadata[KAFKA_CODE], "3");
        assert!(refused.get_details_retry_info().is_none());
        let item = item(&missing);
        assert_eq!((item.code, item.reason), (Code::NotFound as i32, info.reason));
        assert_eq!(item.message, refused.message());
    }

    #[test]
    fn what_may_be_sent_again_says_when() {
        for refused in [
            status(&BrokerError::ShuttingDown),
            status(&BrokerError::Overloaded { limit: "x" }),
            group_status(GroupError::CoordinatorLoadInProgress),
        ] {
            let retry = refused.get_details_retry_info().unwrap();
            assert_eq!(retry.retry_delay, Some(RETRY_AFTER), "{refused}");
        }
        let refused = group_status(GroupError::NonEmptyGroup);
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.get_details_retry_info().is_none());
    }

    #[test]
    fn a_message_that_quotes_much_is_cut() {
        let topic = "\u{e4}".repeat(MESSAGE_BYTES_MAX);
        let refused = status(&BrokerError::UnknownTopicOrPartition { topic, partition: 0 });
        assert!(refused.message().len() <= MESSAGE_BYTES_MAX + 3);
        assert!(refused.message().ends_with("..."), "{refused}");
    }

    #[test]
    fn a_field_that_cannot_be_is_named() {
        let refused = invalid("partition", "it is missing");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(
            refused.get_details_bad_request().unwrap().field_violations[0].field,
            "partition"
        );
        assert_eq!(refused.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
    }
}
