//! One partition as a consumer sees it: what is handed out, what has come, and where the stream goes on.

use std::sync::Arc;

use crate::StartAt;

/// How far a consumer is in a partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    /// The offset behind the last record that was handed out.
    pub(super) next: i64,
    /// Where the stream goes on: behind what has come, or where it was sent.
    pub(super) wire: StartAt,
    /// The group has committed so much, as far as this consumer knows; or it began here.
    floor: i64,
    /// What was last asked to be committed.
    asked: Option<i64>,
    pub(super) high_watermark: Option<i64>,
    /// Answers are of an older place, until so many seeks are answered.
    pub(super) seeks: u32,
    pub(super) is_paused: bool,
    /// Something came while it was paused and was not kept: going on takes a seek.
    pub(super) has_dropped: bool,
    /// The group takes it away: nothing more is handed out.
    pub(super) is_revoked: bool,
}

/// What becomes of a partition when the broker says where its stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resumed {
    /// What has come stays, and what comes follows it.
    GoesOn,
    /// What has come stays; the stream has to be sent to where it was.
    SeekTo(StartAt),
    /// What has come is of no use: all begins anew where the broker says.
    Anew,
}

impl Partition {
    pub(super) fn new(topic: Arc<str>, offset: i64) -> Self {
        Self {
            topic,
            next: offset,
            wire: StartAt::Offset(offset),
            floor: offset,
            asked: None,
            high_watermark: None,
            seeks: 0,
            is_paused: false,
            has_dropped: false,
            is_revoked: false,
        }
    }

    /// Are answers that come now of the place where it reads?
    pub(super) fn takes(&self) -> bool {
        self.seeks == 0 && !self.is_paused && !self.is_revoked
    }

    /// All begins anew at this offset.
    pub(super) fn begin(&mut self, offset: i64) {
        (self.next, self.wire, self.floor) = (offset, StartAt::Offset(offset), offset);
        (self.seeks, self.has_dropped, self.asked) = (0, false, None);
    }

    /// It is sent elsewhere; what has come is of no use.
    pub(super) fn seek(&mut self, to: StartAt) {
        self.seeks += 1;
        self.wire = to;
        self.has_dropped = false;
        if let StartAt::Offset(offset) = to {
            self.next = offset;
        }
    }

    /// A seek was answered. Whoever seeks to an end or a time learns the offset now.
    pub(super) fn sought(&mut self, offset: i64) {
        self.seeks = self.seeks.saturating_sub(1);
        if self.seeks == 0 && self.wire != StartAt::Offset(offset) {
            (self.next, self.wire) = (offset, StartAt::Offset(offset));
        }
    }

    /// What has come and is not handed out was let go.
    pub(super) fn dropped(&mut self) {
        self.has_dropped = true;
        self.wire = StartAt::Offset(self.next);
    }

    /// What is done with, if it is not committed yet.
    pub(super) fn to_commit(&self) -> Option<i64> {
        let committed = self.asked.unwrap_or(self.floor);
        (self.is_placed() && self.next != committed).then_some(self.next)
    }

    /// Is there anything that is handed out and not known to be committed?
    pub(super) fn is_uncommitted(&self) -> bool {
        self.is_placed() && self.next != self.floor
    }

    /// Is it known where it reads? Whoever seeks to an end or a time learns that later.
    fn is_placed(&self) -> bool {
        matches!(self.wire, StartAt::Offset(_))
    }

    /// Nobody will answer the commits that are under way.
    pub(super) fn commits_lost(&mut self) {
        self.asked = None;
    }

    pub(super) fn commit_asked(&mut self, offset: i64) {
        self.asked = Some(offset);
    }

    /// A commit was answered.
    pub(super) fn committed(&mut self, offset: i64, is_done: bool) {
        if is_done {
            self.floor = offset;
        } else if self.asked == Some(offset) {
            self.asked = None;
        }
    }

    /// The stream was opened again, and the broker says that it begins here: where it was asked to, or where the group
    /// stands.
    ///
    /// Between what is known to be committed and what has come, nobody else was at work: this consumer's own commits lie
    /// there. Elsewhere others were, or somebody has moved the group: the broker's word counts.
    pub(super) fn resumed(&mut self, offset: i64) -> Resumed {
        let StartAt::Offset(wire) = self.wire else {
            self.seeks = 1;
            return Resumed::SeekTo(self.wire);
        };
        if self.seeks == 0 && offset == wire {
            return Resumed::GoesOn;
        }
        if self.seeks > 0 || (self.floor..=wire).contains(&offset) {
            self.seeks = 1;
            return Resumed::SeekTo(self.wire);
        }
        self.begin(offset);
        Resumed::Anew
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: i64, handed_out: i64, come: i64) -> Partition {
        let mut partition = Partition::new("t".into(), from);
        partition.next = handed_out;
        partition.wire = StartAt::Offset(come);
        partition
    }

    #[test]
    fn a_stream_goes_on_where_it_was_unless_others_were_at_work() {
        let check = |offset: i64, expected: Resumed, next: i64| {
            let mut partition = read(10, 15, 20);
            assert_eq!(partition.resumed(offset), expected, "{offset}");
            assert_eq!(partition.next, next, "{offset}");
        };
        check(20, Resumed::GoesOn, 15);
        check(10, Resumed::SeekTo(StartAt::Offset(20)), 15);
        check(15, Resumed::SeekTo(StartAt::Offset(20)), 15);
        check(9, Resumed::Anew, 9);
        check(21, Resumed::Anew, 21);
    }

    #[test]
    fn a_seek_that_was_not_answered_is_made_again() {
        let mut partition = read(10, 15, 20);
        partition.seek(StartAt::Earliest);
        assert_eq!(partition.resumed(10), Resumed::SeekTo(StartAt::Earliest));
        partition.sought(3);
        assert_eq!((partition.next, partition.takes()), (3, true));
    }

    #[test]
    fn what_is_committed_is_not_committed_again() {
        let mut partition = read(10, 10, 20);
        assert_eq!(partition.to_commit(), None);
        partition.next = 12;
        assert_eq!(partition.to_commit(), Some(12));
        partition.commit_asked(12);
        assert_eq!(partition.to_commit(), None);
        partition.committed(12, false);
        assert_eq!(partition.to_commit(), Some(12));
        partition.commit_asked(12);
        partition.committed(12, true);
        assert_eq!(partition.to_commit(), None);
    }
}
