//! Kafka's code of each refusal, one table for both doors: the Kafka door answers its number, the gRPC door its name.

use millrace_kernel::group::GroupError;
use millrace_model::batch::{InvalidBatch, InvalidHeader};
pub(crate) use millrace_wire::error_code::ErrorCode;

use crate::error::BrokerError;

/// The code that Kafka 4.3.1 gives for `error`.
pub(crate) fn code(error: &BrokerError) -> ErrorCode {
    match error {
        BrokerError::UnknownTopicOrPartition { .. } => ErrorCode::UnknownTopicOrPartition,
        BrokerError::UnknownTopicId { .. } => ErrorCode::UnknownTopicId,
        BrokerError::InconsistentTopicId { .. } => ErrorCode::InconsistentTopicId,
        BrokerError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        BrokerError::InvalidBatch(invalid) => invalid_batch(invalid),
        BrokerError::NoRecords | BrokerError::InvalidRecord(_) => ErrorCode::InvalidRecord,
        BrokerError::ZstdNeedsNewerClient => ErrorCode::UnsupportedCompressionType,
        BrokerError::TransactionsUnsupported => ErrorCode::InvalidTxnState,
        BrokerError::InvalidRequiredAcks { .. } => ErrorCode::InvalidRequiredAcks,
        BrokerError::InternalTopic { .. }
        | BrokerError::InvalidTopic(_)
        | BrokerError::InvalidTopicUse(_) => ErrorCode::InvalidTopicException,
        BrokerError::InvalidTimestamp(_) => ErrorCode::InvalidTimestamp,
        BrokerError::OutOfOrderSequence(_) => ErrorCode::OutOfOrderSequenceNumber,
        BrokerError::DuplicateSequence(_) => ErrorCode::DuplicateSequenceNumber,
        BrokerError::InvalidProducerEpoch(_) => ErrorCode::InvalidProducerEpoch,
        BrokerError::UnknownProducerId(_) => ErrorCode::UnknownProducerId,
        BrokerError::NotEnoughReplicas(_) => ErrorCode::NotEnoughReplicas,
        BrokerError::TooLarge(_) => ErrorCode::MessageTooLarge,
        BrokerError::Storage { .. } => ErrorCode::KafkaStorageError,
        BrokerError::Timeout { .. } => ErrorCode::RequestTimedOut,
        BrokerError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        BrokerError::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
        BrokerError::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
        BrokerError::TopicExists { .. } => ErrorCode::TopicAlreadyExists,
        BrokerError::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        BrokerError::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        BrokerError::InvalidReplicaAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        BrokerError::InvalidConfig(_) => ErrorCode::InvalidConfig,
        BrokerError::InvalidRequest(_) => ErrorCode::InvalidRequest,
        BrokerError::PolicyViolation(_) => ErrorCode::PolicyViolation,
        BrokerError::TopicDeletionDisabled => ErrorCode::TopicDeletionDisabled,
        BrokerError::CoordinatorNotAvailable { .. } => ErrorCode::CoordinatorNotAvailable,
        BrokerError::CoordinatorLoading => ErrorCode::CoordinatorLoadInProgress,
        BrokerError::ShuttingDown => ErrorCode::NotController,
        BrokerError::Overloaded { .. } => ErrorCode::ThrottlingQuotaExceeded,
    }
}

fn invalid_batch(invalid: &InvalidBatch) -> ErrorCode {
    match invalid {
        InvalidBatch::Header(
            InvalidHeader::Short { .. } | InvalidHeader::Magic { magic: 0 | 1 },
        )
        | InvalidBatch::Truncated { .. } => ErrorCode::InvalidRecord,
        InvalidBatch::Header(InvalidHeader::Length { .. } | InvalidHeader::Magic { .. })
        | InvalidBatch::Crc { .. } => ErrorCode::CorruptMessage,
        InvalidBatch::TooLarge { .. } => ErrorCode::MessageTooLarge,
        InvalidBatch::Codec { .. } => ErrorCode::UnsupportedCompressionType,
        InvalidBatch::Multiple
        | InvalidBatch::Count { .. }
        | InvalidBatch::Control
        | InvalidBatch::BaseOffset { .. }
        | InvalidBatch::Sequence { .. } => ErrorCode::InvalidRecord,
    }
}

/// The code of a coordinator's refusal, for the newest version of each API; handlers map the older words.
pub(crate) fn group_code(error: GroupError) -> ErrorCode {
    match error {
        GroupError::OffsetMetadataTooLarge => ErrorCode::OffsetMetadataTooLarge,
        GroupError::CoordinatorLoadInProgress => ErrorCode::CoordinatorLoadInProgress,
        GroupError::CoordinatorNotAvailable => ErrorCode::CoordinatorNotAvailable,
        GroupError::NotCoordinator => ErrorCode::NotCoordinator,
        GroupError::IllegalGeneration => ErrorCode::IllegalGeneration,
        GroupError::InconsistentGroupProtocol => ErrorCode::InconsistentGroupProtocol,
        GroupError::InvalidGroupId => ErrorCode::InvalidGroupId,
        GroupError::UnknownMemberId => ErrorCode::UnknownMemberId,
        GroupError::InvalidSessionTimeout => ErrorCode::InvalidSessionTimeout,
        GroupError::RebalanceInProgress => ErrorCode::RebalanceInProgress,
        GroupError::InvalidCommitOffsetSize => ErrorCode::InvalidCommitOffsetSize,
        GroupError::InvalidRequest => ErrorCode::InvalidRequest,
        GroupError::NonEmptyGroup => ErrorCode::NonEmptyGroup,
        GroupError::GroupIdNotFound => ErrorCode::GroupIdNotFound,
        GroupError::MemberIdRequired => ErrorCode::MemberIdRequired,
        GroupError::GroupMaxSizeReached => ErrorCode::GroupMaxSizeReached,
        GroupError::FencedInstanceId => ErrorCode::FencedInstanceId,
        GroupError::GroupSubscribedToTopic => ErrorCode::GroupSubscribedToTopic,
        GroupError::UnknownServerError => ErrorCode::UnknownServerError,
    }
}
