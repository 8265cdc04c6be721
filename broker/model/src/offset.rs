//! Positions in a partition. Index, count and bytes are three kinds of number and do not mix.

use std::fmt;

/// Offset of a record in its partition, dense from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub i64);

impl Offset {
    pub const ZERO: Self = Self(0);

    /// The offset `count` records later.
    ///
    /// # Panics
    /// When the sum passes `i64::MAX`: no log gets that far.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0.checked_add(count).expect("offsets do not overflow in a log's lifetime"))
    }

    /// How many records lie in `[earlier, self)`; negative when `earlier` is the later one.
    pub fn since(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Leadership period of a partition; rises with each election (KIP-101).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

impl LeaderEpoch {
    /// "Unknown" on the wire.
    pub const NONE: Self = Self(-1);
}

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an epoch ends: the answer to `OffsetForLeaderEpoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end: Offset,
}

/// Half-open range of offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    pub start: Offset,
    pub end: Offset,
}
