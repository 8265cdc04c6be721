//! The grammar of the Kafka protocol: which APIs and versions exist here, frames, headers, messages.
//!
//! Bytes in, values out, and back. Nothing here opens a socket, waits, or knows what a topic is; the Kafka door in the
//! shell is the only caller. Produce and Fetch are written by hand, everything else comes from a crate that only `cold`
//! names. Decoders never panic and never allocate by a count that the bytes do not back.

// The tests count allocations, and an allocator cannot be written without.
#![cfg_attr(not(test), forbid(unsafe_code))]
#![cfg_attr(test, deny(unsafe_code))]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod cold;
pub mod error_code;
pub mod fetch;
pub mod few;
pub mod frame;
pub mod header;
pub mod primitive;
pub mod produce;

/// The APIs that this broker speaks. Numbers are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum ApiKey {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    DescribeAcls = 29,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    DescribeLogDirs = 35,
    CreatePartitions = 37,
    DeleteGroups = 42,
    IncrementalAlterConfigs = 44,
    OffsetDelete = 47,
    DescribeCluster = 60,
}

impl ApiKey {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// The row of this key: every key has one.
    pub fn row(self) -> &'static ApiRow {
        lookup(self.code()).expect("every key has a row, a test says so")
    }
}

/// One API: what is accepted, what is advertised, how it is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRow {
    pub key: ApiKey,
    pub name: &'static str,
    /// The lowest version that is answered.
    pub min: i16,
    /// The highest version, answered and advertised.
    pub max: i16,
    /// The lowest version that `ApiVersions` shows. Below `min` for Produce alone: librdkafka before 2.11.1 stops
    /// compressing when version 0 is not in the range (KAFKA-18659).
    pub min_shown: i16,
    /// The first flexible version: compact lengths, tagged fields, request header v2. [`NEVER_FLEXIBLE`] if none.
    pub flexible_from: i16,
}

/// `flexible_from` of an API without flexible versions.
pub const NEVER_FLEXIBLE: i16 = i16::MAX;

impl ApiRow {
    pub fn accepts(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

const fn row(key: ApiKey, name: &'static str, min: i16, max: i16, flexible_from: i16) -> ApiRow {
    ApiRow { key, name, min, max, min_shown: min, flexible_from }
}

/// Every API, ordered by key: what `ApiVersions` answers, what dispatch looks up, what the tests walk.
///
/// The minimums are those of Kafka 4.1 and must not rise: clients in use send them without negotiating. A maximum rises
/// with its whole family (topic ids, transactions V2, the new group protocol), never alone.
pub const TABLE: &[ApiRow] = &[
    ApiRow { min_shown: 0, ..row(ApiKey::Produce, "Produce", 3, 11, 9) },
    row(ApiKey::Fetch, "Fetch", 4, 17, 12),
    row(ApiKey::ListOffsets, "ListOffsets", 1, 10, 6),
    row(ApiKey::Metadata, "Metadata", 0, 13, 9),
    row(ApiKey::OffsetCommit, "OffsetCommit", 2, 9, 8),
    row(ApiKey::OffsetFetch, "OffsetFetch", 1, 9, 6),
    row(ApiKey::FindCoordinator, "FindCoordinator", 0, 6, 3),
    row(ApiKey::JoinGroup, "JoinGroup", 0, 9, 6),
    row(ApiKey::Heartbeat, "Heartbeat", 0, 4, 4),
    row(ApiKey::LeaveGroup, "LeaveGroup", 0, 5, 4),
    row(ApiKey::SyncGroup, "SyncGroup", 0, 5, 4),
    row(ApiKey::DescribeGroups, "DescribeGroups", 0, 6, 5),
    row(ApiKey::ListGroups, "ListGroups", 0, 5, 3),
    row(ApiKey::ApiVersions, "ApiVersions", 0, 4, 3),
    row(ApiKey::CreateTopics, "CreateTopics", 2, 7, 5),
    row(ApiKey::DeleteTopics, "DeleteTopics", 1, 6, 4),
    row(ApiKey::DeleteRecords, "DeleteRecords", 0, 2, 2),
    row(ApiKey::InitProducerId, "InitProducerId", 0, 5, 2),
    row(ApiKey::OffsetForLeaderEpoch, "OffsetForLeaderEpoch", 2, 4, 4),
    row(ApiKey::DescribeAcls, "DescribeAcls", 1, 3, 2),
    row(ApiKey::DescribeConfigs, "DescribeConfigs", 1, 4, 4),
    row(ApiKey::AlterConfigs, "AlterConfigs", 0, 2, 2),
    row(ApiKey::DescribeLogDirs, "DescribeLogDirs", 1, 4, 2),
    row(ApiKey::CreatePartitions, "CreatePartitions", 0, 3, 2),
    row(ApiKey::DeleteGroups, "DeleteGroups", 0, 2, 2),
    row(ApiKey::IncrementalAlterConfigs, "IncrementalAlterConfigs", 0, 1, 1),
    row(ApiKey::OffsetDelete, "OffsetDelete", 0, 0, NEVER_FLEXIBLE),
    row(ApiKey::DescribeCluster, "DescribeCluster", 0, 2, 0),
];

/// The row of a key as it came from the wire; none for a key that is not spoken here.
pub fn lookup(key: i16) -> Option<&'static ApiRow> {
    let index = *INDEX.get(usize::try_from(key).ok()?)?;
    TABLE.get(usize::from(index))
}

const KEYS: usize = 61;
const ABSENT: u8 = u8::MAX;

/// Key to position in [`TABLE`].
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const INDEX: [u8; KEYS] = {
    let mut index = [ABSENT; KEYS];
    let mut at = 0;
    while at < TABLE.len() {
        index[TABLE[at].key as usize] = at as u8;
        at += 1;
    }
    index
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_ordered_by_key_and_every_row_is_found() {
        for pair in TABLE.windows(2) {
            assert!(pair[0].key < pair[1].key, "{} after {}", pair[1].name, pair[0].name);
        }
        for row in TABLE {
            assert_eq!(row.key.row(), row);
            assert!(row.min_shown <= row.min && row.min <= row.max, "{}", row.name);
        }
    }

    #[test]
    fn keys_that_are_not_spoken_have_no_row() {
        for key in [-1, 4, 7, 17, 24, 61, 92, i16::MAX, i16::MIN] {
            assert_eq!(lookup(key), None, "{key}");
        }
    }
}
