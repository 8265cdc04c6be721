//! Leader epochs of a partition: which epoch began where, and so where each ends (KIP-101).
//!
//! ```text
//! leader-epoch-checkpoint:  "0\n<n>\n" then n lines "<epoch> <start offset>\n"
//! ```
//! Kafka's format. The table follows the batches in the log, so a lost file is rebuilt from them.

use millrace_model::offset::{EpochEnd, LeaderEpoch, Offset};

/// Epochs with their start offsets, both strictly rising.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochTable(Vec<EpochStart>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start: Offset,
}

impl EpochTable {
    pub fn latest(&self) -> Option<EpochStart> {
        self.0.last().copied()
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.0
    }

    /// The epoch that `offset` was, or would be, written in.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.0.partition_point(|entry| entry.start <= offset);
        Some(self.0[after.checked_sub(1)?].epoch)
    }

    /// Where `epoch` ends, as `OffsetForLeaderEpoch` asks: the largest epoch at or below it, and the start of the next
    /// (or `log_end`). `None` when all known epochs are later, or `epoch` is later than all known.
    pub fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let latest = self.0.last()?;
        if epoch > latest.epoch {
            return None;
        }
        let after = self.0.partition_point(|entry| entry.epoch <= epoch);
        let found = self.0[after.checked_sub(1)?];
        Some(EpochEnd {
            epoch: found.epoch,
            end: self.0.get(after).map_or(log_end, |next| next.start),
        })
    }

    /// Notes that `epoch` begins at `start`; says whether that was news. A later epoch that begins at or before an
    /// earlier one replaces it: the earlier one wrote nothing.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if self.0.last().is_some_and(|last| last.epoch >= epoch) {
            return false;
        }
        while self.0.last().is_some_and(|last| last.start >= start) {
            self.0.pop();
        }
        self.0.push(EpochStart { epoch, start });
        true
    }

    /// Forgets epochs that begin at or after `end`.
    pub(crate) fn truncate_to(&mut self, end: Offset) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| entry.start < end);
        self.0.len() != before
    }

    /// Forgets epochs that end at or before `start`; the one that covers `start` now begins there.
    pub(crate) fn trim_before(&mut self, start: Offset) -> bool {
        let covered = self.0.partition_point(|entry| entry.start <= start);
        let Some(first) = covered.checked_sub(1) else { return false };
        if self.0[first].start == start && first == 0 {
            return false;
        }
        self.0.drain(..first);
        self.0[0].start = start;
        true
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        use std::fmt::Write;
        let mut text = format!("0\n{}\n", self.0.len());
        for EpochStart { epoch, start } in &self.0 {
            writeln!(text, "{epoch} {start}").expect("writing to a string succeeds");
        }
        text.into_bytes()
    }

    /// `None` for anything but a well-formed table.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut table = Self::default();
        for line in lines {
            let (epoch, start) = line.split_once(' ')?;
            let entry = EpochStart {
                epoch: LeaderEpoch(epoch.parse().ok().filter(|epoch| *epoch >= 0)?),
                start: Offset(start.parse().ok().filter(|start| *start >= 0)?),
            };
            if table
                .0
                .last()
                .is_some_and(|last| last.epoch >= entry.epoch || last.start >= entry.start)
            {
                return None;
            }
            table.0.push(entry);
        }
        (table.0.len() == count).then_some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(i32, i64)]) -> EpochTable {
        let mut table = EpochTable::default();
        for (epoch, start) in entries {
            table.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        table
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let table = table(&[(1, 0), (3, 10), (4, 25)]);
        let end =
            |epoch| table.end_of(LeaderEpoch(epoch), Offset(30)).map(|e| (e.epoch.0, e.end.0));
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some((1, 10)));
        assert_eq!(end(2), Some((1, 10)));
        assert_eq!(end(3), Some((3, 25)));
        assert_eq!(end(4), Some((4, 30)));
        assert_eq!(end(5), None);
        assert_eq!(table.epoch_at(Offset(9)), Some(LeaderEpoch(1)));
        assert_eq!(table.epoch_at(Offset(10)), Some(LeaderEpoch(3)));
    }

    #[test]
    fn an_epoch_that_wrote_nothing_is_replaced() {
        assert_eq!(table(&[(1, 0), (2, 10), (3, 10)]), table(&[(1, 0), (3, 10)]));
        assert_eq!(table(&[(2, 5), (1, 7)]), table(&[(2, 5)]));
    }

    #[test]
    fn cutting_either_end_keeps_the_rest() {
        let mut it = table(&[(1, 0), (3, 10), (4, 25)]);
        assert!(it.truncate_to(Offset(25)));
        assert_eq!(it, table(&[(1, 0), (3, 10)]));
        assert!(it.trim_before(Offset(12)));
        assert_eq!(it, table(&[(3, 12)]));
        assert!(!it.trim_before(Offset(12)));
    }

    #[test]
    fn the_file_survives_a_round_trip_and_nothing_else_is_one() {
        let it = table(&[(0, 0), (5, 17)]);
        assert_eq!(it.encode(), b"0\n2\n0 0\n5 17\n");
        assert_eq!(EpochTable::decode(&it.encode()), Some(it));
        for bad in [
            "",
            "1\n0\n",
            "0\n2\n0 0\n",
            "0\n1\n-1 0\n",
            "0\n2\n1 5\n0 6\n",
            "0\n1\nx y\n",
            "0\nx\n",
        ] {
            assert_eq!(EpochTable::decode(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
