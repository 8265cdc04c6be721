//! Which partitions a stream reads, where it stands in each, and whose turn it is. Does no I/O and knows no protocol but
//! the names in its answers.

use millrace_model::ids::TopicId;
use millrace_model::offset::Offset;
use millrace_proto::v1::{StartedAt, TopicPartition};

use crate::partition::handle::PartitionHandle;

/// One partition that a stream reads.
#[derive(Clone)]
pub(super) struct Cursor {
    pub(super) handle: PartitionHandle,
    /// The next record that the client wants. Moves when an answer is sent, not before.
    pub(super) next: Offset,
    pub(super) paused: bool,
}

impl Cursor {
    pub(super) fn new(handle: PartitionHandle, next: Offset) -> Self {
        Self { handle, next, paused: false }
    }

    pub(super) fn topic(&self) -> &str {
        self.handle.id().topic.as_str()
    }

    pub(super) fn partition(&self) -> i32 {
        self.handle.id().partition.0
    }

    /// A topic created again under the same name is another topic, with other offsets.
    pub(super) fn topic_id(&self) -> TopicId {
        self.handle.topic_id()
    }

    pub(super) fn started_at(&self) -> StartedAt {
        let (topic, partition) = (self.topic().to_owned(), self.partition());
        StartedAt { topic, partition, offset: self.next.0 }
    }

    /// Is there something to read, or to complain about?
    fn is_ready(&self) -> bool {
        let marks = self.handle.marks();
        self.next < marks.high_watermark()
            || self.next < marks.log_start()
            || self.next > marks.log_end()
    }
}

/// The partitions of one stream.
#[derive(Default)]
pub(super) struct Cursors {
    cursors: Vec<Cursor>,
    /// Who is looked at first.
    turn: usize,
}

/// A cursor's place; good until the cursors change.
pub(super) type Slot = usize;

impl Cursors {
    pub(super) fn set(&mut self, cursors: Vec<Cursor>) {
        *self = Self { cursors, turn: 0 };
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        self.cursors.remove(slot);
        self.turn = 0;
    }

    /// Is any not paused?
    pub(super) fn any_wanted(&self) -> bool {
        self.cursors.iter().any(|cursor| !cursor.paused)
    }

    pub(super) fn get(&self, slot: Slot) -> &Cursor {
        &self.cursors[slot]
    }

    pub(super) fn find(&mut self, topic: &str, partition: i32) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|it| it.partition() == partition && it.topic() == topic)
    }

    /// The client goes on at `next`, and it is the turn of the others.
    pub(super) fn advance(&mut self, slot: Slot, next: Offset) {
        self.cursors[slot].next = next;
        self.turn = slot + 1;
    }

    pub(super) fn seek(&mut self, slot: Slot, next: Offset) {
        self.cursors[slot].next = next;
    }

    /// What to read now: the first in turn that has something, or all that are wanted, to wait for.
    pub(super) fn wanted(&self) -> Vec<(Slot, Cursor)> {
        let (later, sooner) = self.cursors.split_at(self.turn.min(self.cursors.len()));
        let first = later.len();
        let in_turn = sooner.iter().enumerate().map(|(at, cursor)| (first + at, cursor));
        let in_turn = in_turn.chain(later.iter().enumerate());
        let mut wanted = in_turn.filter(|(_, cursor)| !cursor.paused);
        match wanted.clone().find(|(_, cursor)| cursor.is_ready()) {
            Some((slot, cursor)) => vec![(slot, cursor.clone())],
            None => wanted.by_ref().map(|(slot, cursor)| (slot, cursor.clone())).collect(),
        }
    }

    pub(super) fn started_at(&self) -> Vec<StartedAt> {
        self.cursors.iter().map(Cursor::started_at).collect()
    }

    pub(super) fn names(&self) -> Vec<TopicPartition> {
        let name = |it: &Cursor| TopicPartition {
            topic: it.topic().to_owned(),
            partition: it.partition(),
        };
        self.cursors.iter().map(name).collect()
    }
}
