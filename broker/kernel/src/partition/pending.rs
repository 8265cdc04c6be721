//! Replies parked until an offset is safe.
//!
//! A reply waits for the end of the batch that it speaks of; an error that reveals state waits for the end of that
//! state. Release is one pass over the front of a queue. Called by `leader.rs`; knows neither log nor producers.

use std::collections::VecDeque;

use millrace_model::offset::Offset;

/// Parked replies, ordered by the offset that each waits for; equal ones in the order they came.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    queue: VecDeque<(Offset, R)>,
}

impl<R> Pending<R> {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::new() }
    }

    /// Keeps `reply` until everything below `end` is safe.
    pub(crate) fn park(&mut self, end: Offset, reply: R) {
        if self.queue.back().is_none_or(|(back, _)| *back <= end) {
            self.queue.push_back((end, reply));
            return;
        }
        // A duplicate of a batch that is not the last: rare, and near the front.
        let at = self.queue.partition_point(|(other, _)| *other <= end);
        self.queue.insert(at, (end, reply));
    }

    /// Takes the replies that wait for nothing above `mark`.
    pub(crate) fn release(&mut self, mark: Offset) -> impl Iterator<Item = R> {
        let count = self.queue.partition_point(|(end, _)| *end <= mark);
        self.queue.drain(..count).map(|(_, reply)| reply)
    }

    /// Takes all: none of them will ever be safe.
    pub(crate) fn fail(&mut self) -> impl Iterator<Item = R> {
        self.queue.drain(..).map(|(_, reply)| reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_offset_order_and_no_earlier() {
        let mut pending = Pending::new();
        for (end, name) in [(10, "a"), (20, "b"), (30, "c"), (10, "a again"), (20, "b again")] {
            pending.park(Offset(end), name);
        }
        let mut take = |mark| pending.release(Offset(mark)).collect::<Vec<_>>();
        assert_eq!(take(9), [""; 0]);
        assert_eq!(take(10), ["a", "a again"]);
        assert_eq!(take(29), ["b", "b again"]);
        assert_eq!(pending.fail().collect::<Vec<_>>(), ["c"]);
    }
}
