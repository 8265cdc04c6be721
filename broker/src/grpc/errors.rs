//! What the hall refuses, in gRPC's words: one table, which also says whether to try again.
//!
//! `UNAVAILABLE` and `RESOURCE_EXHAUSTED` mean "send the same again"; every other code means that the same request
//! will fail the same way.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tonic::{Code, Status};
use tracing::error;

use crate::error::BrokerError;
use crate::service::Hall;

/// A field of a request that cannot be as it is.
pub(super) fn invalid(field: &str, reason: &str) -> Status {
    Status::invalid_argument(format!("{field}: {reason}"))
}

/// The answer to an operation that was refused.
pub(super) fn status(error: &BrokerError) -> Status {
    Status::new(code(error), error.to_string())
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
            Err(Status::internal("a bug in the broker ended this call"))
        }
    }
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
