//! Kafka's error codes: number, name, whether a client may try again, and a default message. Which of our errors
//! becomes which code is decided at the door, not here.

macro_rules! error_codes {
    ($($variant:ident = $code:literal, $name:literal, $retriable:literal, $message:literal;)+) => {
        /// What went wrong, as a client understands it. Numbers are Kafka's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ErrorCode {
            $($variant = $code,)+
        }

        impl ErrorCode {
            /// Every code, in the order of Kafka's table.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)+];

            /// The code of this number; none if Kafka 4.3 has none.
            pub fn from_code(code: i16) -> Option<ErrorCode> {
                match code {
                    $($code => Some(ErrorCode::$variant),)+
                    _ => None,
                }
            }

            /// Kafka's name, for logs and metrics.
            pub fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $name,)+
                }
            }

            /// Whether clients try again by themselves.
            pub fn is_retriable(self) -> bool {
                match self {
                    $(ErrorCode::$variant => $retriable,)+
                }
            }

            /// What to tell a person when there is nothing more precise to say.
            pub fn message(self) -> &'static str {
                match self {
                    $(ErrorCode::$variant => $message,)+
                }
            }
        }
    };
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    pub fn is_error(self) -> bool {
        self != ErrorCode::None
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

error_codes! {
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", false, "unexpected error in the broker";
    None = 0, "NONE", false, "no error";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", false, "offset is outside of what the partition holds";
    CorruptMessage = 2, "CORRUPT_MESSAGE", true, "records are damaged, malformed, or lack a key that a compacted topic needs";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", true, "topic or partition is not hosted here";
    InvalidFetchSize = 4, "INVALID_FETCH_SIZE", false, "fetch size is invalid";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", true, "partition has no leader at the moment";
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", true, "broker is not the leader, or not a replica, of this partition";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", true, "request timed out";
    BrokerNotAvailable = 8, "BROKER_NOT_AVAILABLE", false, "broker is not available";
    ReplicaNotAvailable = 9, "REPLICA_NOT_AVAILABLE", true, "replica is not available";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", false, "record batch is larger than the topic allows";
    StaleControllerEpoch = 11, "STALE_CONTROLLER_EPOCH", false, "controller has moved to another broker";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", false, "offset metadata is too long";
    NetworkException = 13, "NETWORK_EXCEPTION", true, "connection broke before a response came";
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", true, "group coordinator is still loading";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", true, "group coordinator is not available";
    NotCoordinator = 16, "NOT_COORDINATOR", true, "broker does not coordinate this group";
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION", false, "topic name or topic operation is invalid";
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", false, "record batches are larger than a segment";
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS", true, "fewer replicas are in sync than the topic requires";
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", true, "records were written, but to fewer replicas than required";
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", false, "acks must be 0, 1 or -1";
    IllegalGeneration = 22, "ILLEGAL_GENERATION", false, "generation of the group is another one";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", false, "group protocols are not compatible";
    InvalidGroupId = 24, "INVALID_GROUP_ID", false, "group id is invalid";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", false, "member is not known to the group";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", false, "session timeout is outside the allowed range";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", false, "group is rebalancing";
    InvalidCommitOffsetSize = 28, "INVALID_COMMIT_OFFSET_SIZE", false, "committed offset data is too large";
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED", false, "not authorised for this topic";
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED", false, "not authorised for this group";
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED", false, "not authorised for the cluster";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", false, "timestamp is outside the allowed range";
    UnsupportedSaslMechanism = 33, "UNSUPPORTED_SASL_MECHANISM", false, "SASL mechanism is not supported";
    IllegalSaslState = 34, "ILLEGAL_SASL_STATE", false, "request is not valid in this SASL state";
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", false, "API version is not supported";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", false, "topic already exists";
    InvalidPartitions = 37, "INVALID_PARTITIONS", false, "partition count is invalid";
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", false, "replication factor is below 1 or above the number of brokers";
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", false, "replica assignment is invalid";
    InvalidConfig = 40, "INVALID_CONFIG", false, "configuration is invalid";
    NotController = 41, "NOT_CONTROLLER", true, "broker is not the controller";
    InvalidRequest = 42, "INVALID_REQUEST", false, "request is malformed or contradicts itself";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", false, "message format does not support the request";
    PolicyViolation = 44, "POLICY_VIOLATION", false, "request violates a policy";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", false, "sequence number is out of order";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", false, "sequence number was seen before";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", false, "producer epoch is older than the current one";
    InvalidTxnState = 48, "INVALID_TXN_STATE", false, "transaction is not in a state for this operation";
    InvalidProducerIdMapping = 49, "INVALID_PRODUCER_ID_MAPPING", false, "producer id does not belong to this transactional id";
    InvalidTransactionTimeout = 50, "INVALID_TRANSACTION_TIMEOUT", false, "transaction timeout is above the allowed maximum";
    ConcurrentTransactions = 51, "CONCURRENT_TRANSACTIONS", true, "another operation on this transaction is in progress";
    TransactionCoordinatorFenced = 52, "TRANSACTION_COORDINATOR_FENCED", false, "transaction coordinator has been replaced";
    TransactionalIdAuthorizationFailed = 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", false, "not authorised for this transactional id";
    SecurityDisabled = 54, "SECURITY_DISABLED", false, "security features are disabled";
    OperationNotAttempted = 55, "OPERATION_NOT_ATTEMPTED", false, "operation was not attempted";
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR", true, "disk error in the log";
    LogDirNotFound = 57, "LOG_DIR_NOT_FOUND", false, "log directory is not known";
    SaslAuthenticationFailed = 58, "SASL_AUTHENTICATION_FAILED", false, "SASL authentication failed";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", false, "producer id is not known to the partition";
    ReassignmentInProgress = 60, "REASSIGNMENT_IN_PROGRESS", false, "partition reassignment is in progress";
    DelegationTokenAuthDisabled = 61, "DELEGATION_TOKEN_AUTH_DISABLED", false, "delegation tokens are disabled";
    DelegationTokenNotFound = 62, "DELEGATION_TOKEN_NOT_FOUND", false, "delegation token is not known";
    DelegationTokenOwnerMismatch = 63, "DELEGATION_TOKEN_OWNER_MISMATCH", false, "principal does not own the delegation token";
    DelegationTokenRequestNotAllowed = 64, "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", false, "delegation token requests are not allowed on this connection";
    DelegationTokenAuthorizationFailed = 65, "DELEGATION_TOKEN_AUTHORIZATION_FAILED", false, "not authorised for this delegation token";
    DelegationTokenExpired = 66, "DELEGATION_TOKEN_EXPIRED", false, "delegation token has expired";
    InvalidPrincipalType = 67, "INVALID_PRINCIPAL_TYPE", false, "principal type is not supported";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", false, "group is not empty";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", false, "group does not exist";
    FetchSessionIdNotFound = 70, "FETCH_SESSION_ID_NOT_FOUND", true, "fetch session does not exist";
    InvalidFetchSessionEpoch = 71, "INVALID_FETCH_SESSION_EPOCH", true, "fetch session epoch is invalid";
    ListenerNotFound = 72, "LISTENER_NOT_FOUND", true, "leader has no listener of this name";
    TopicDeletionDisabled = 73, "TOPIC_DELETION_DISABLED", false, "topic deletion is disabled";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", true, "leader epoch is older than the current one";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", true, "leader epoch is newer than any known here";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", false, "compression type is not supported";
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH", false, "broker epoch is stale";
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", true, "offset is not available until the new leader has caught up";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", false, "a member id is required to join";
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", true, "preferred leader is not available";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", false, "group is full";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", false, "another member took over this group instance id";
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", true, "no eligible leader is available";
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED", true, "leader election is not needed";
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS", false, "no partition reassignment is in progress";
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC", false, "group is subscribed to the topic";
    InvalidRecord = 87, "INVALID_RECORD", false, "record failed validation";
    UnstableOffsetCommit = 88, "UNSTABLE_OFFSET_COMMIT", true, "offset is part of an unfinished transaction";
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", true, "throttling quota is exceeded";
    ProducerFenced = 90, "PRODUCER_FENCED", false, "a newer producer took over this transactional id";
    ResourceNotFound = 91, "RESOURCE_NOT_FOUND", false, "resource does not exist";
    DuplicateResource = 92, "DUPLICATE_RESOURCE", false, "resource is named twice";
    UnacceptableCredential = 93, "UNACCEPTABLE_CREDENTIAL", false, "credential is not acceptable";
    InconsistentVoterSet = 94, "INCONSISTENT_VOTER_SET", false, "voter sets do not agree";
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION", false, "feature update version is invalid";
    FeatureUpdateFailed = 96, "FEATURE_UPDATE_FAILED", false, "features could not be updated";
    PrincipalDeserializationFailure = 97, "PRINCIPAL_DESERIALIZATION_FAILURE", false, "principal could not be deserialised";
    SnapshotNotFound = 98, "SNAPSHOT_NOT_FOUND", false, "snapshot does not exist";
    PositionOutOfRange = 99, "POSITION_OUT_OF_RANGE", false, "position is outside the snapshot";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", true, "topic id is not hosted here";
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION", false, "broker id is taken";
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED", false, "broker id is not registered";
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID", true, "topic id differs from that of the log";
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID", false, "cluster id differs";
    TransactionalIdNotFound = 105, "TRANSACTIONAL_ID_NOT_FOUND", false, "transactional id does not exist";
    FetchSessionTopicIdError = 106, "FETCH_SESSION_TOPIC_ID_ERROR", true, "fetch session mixes topic names and topic ids";
    IneligibleReplica = 107, "INELIGIBLE_REPLICA", false, "replica may not join the in-sync set";
    NewLeaderElected = 108, "NEW_LEADER_ELECTED", false, "a new leader was elected";
    OffsetMovedToTieredStorage = 109, "OFFSET_MOVED_TO_TIERED_STORAGE", false, "offset has moved to tiered storage";
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH", false, "member epoch is fenced";
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID", false, "group instance id is still in use";
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR", false, "assignor is not supported by the group";
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH", false, "member epoch is stale";
    MismatchedEndpointType = 114, "MISMATCHED_ENDPOINT_TYPE", false, "endpoint is of another type";
    UnsupportedEndpointType = 115, "UNSUPPORTED_ENDPOINT_TYPE", false, "endpoint type is not supported";
    UnknownControllerId = 116, "UNKNOWN_CONTROLLER_ID", false, "controller id is not known";
    UnknownSubscriptionId = 117, "UNKNOWN_SUBSCRIPTION_ID", false, "telemetry subscription is not known";
    TelemetryTooLarge = 118, "TELEMETRY_TOO_LARGE", false, "telemetry is too large";
    InvalidRegistration = 119, "INVALID_REGISTRATION", false, "broker registration is invalid";
    TransactionAbortable = 120, "TRANSACTION_ABORTABLE", false, "transaction must be aborted";
    InvalidRecordState = 121, "INVALID_RECORD_STATE", false, "record state does not allow this acknowledgement";
    ShareSessionNotFound = 122, "SHARE_SESSION_NOT_FOUND", true, "share session does not exist";
    InvalidShareSessionEpoch = 123, "INVALID_SHARE_SESSION_EPOCH", true, "share session epoch is invalid";
    FencedStateEpoch = 124, "FENCED_STATE_EPOCH", false, "share group state epoch is fenced";
    InvalidVoterKey = 125, "INVALID_VOTER_KEY", false, "voter key does not match";
    DuplicateVoter = 126, "DUPLICATE_VOTER", false, "voter is in the set already";
    VoterNotFound = 127, "VOTER_NOT_FOUND", false, "voter is not in the set";
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION", false, "regular expression is invalid";
    RebootstrapRequired = 129, "REBOOTSTRAP_REQUIRED", false, "client metadata is stale, bootstrap again";
    StreamsInvalidTopology = 130, "STREAMS_INVALID_TOPOLOGY", false, "streams topology is invalid";
    StreamsInvalidTopologyEpoch = 131, "STREAMS_INVALID_TOPOLOGY_EPOCH", false, "streams topology epoch is invalid";
    StreamsTopologyFenced = 132, "STREAMS_TOPOLOGY_FENCED", false, "streams topology epoch is outdated";
    ShareSessionLimitReached = 133, "SHARE_SESSION_LIMIT_REACHED", true, "too many share sessions";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_number_and_none_is_missing() {
        let codes: Vec<i16> = ErrorCode::ALL.iter().map(|error| error.code()).collect();
        assert_eq!(codes, (-1..=133).collect::<Vec<i16>>());
        for &error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(error.code()), Some(error));
        }
        assert_eq!(ErrorCode::from_code(134), None);
    }

    #[test]
    fn clients_retry_what_passes_and_give_up_on_the_rest() {
        let check = |error: ErrorCode, name, retriable| {
            assert_eq!((error.name(), error.is_retriable()), (name, retriable));
        };
        check(ErrorCode::NotLeaderOrFollower, "NOT_LEADER_OR_FOLLOWER", true);
        check(ErrorCode::KafkaStorageError, "KAFKA_STORAGE_ERROR", true);
        check(ErrorCode::UnknownServerError, "UNKNOWN_SERVER_ERROR", false);
        check(ErrorCode::OutOfOrderSequenceNumber, "OUT_OF_ORDER_SEQUENCE_NUMBER", false);
        check(ErrorCode::MessageTooLarge, "MESSAGE_TOO_LARGE", false);
    }
}
