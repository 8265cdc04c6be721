//! The deadlines of all groups of a shard, each under a key, earliest first. Knows nothing of what they mean.

use std::collections::{BTreeMap, BTreeSet};

use millrace_model::env::MonoMs;
use millrace_model::ids::GroupId;

use super::command::MemberId;

/// What a deadline is for. One key has at most one deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey {
    pub(super) group: GroupId,
    pub(super) alarm: Alarm,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// The join phase ends, or its initial delay.
    Join,
    /// Members that have not synced are dropped.
    Sync,
    /// The member has not been heard of.
    Session(MemberId),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: BTreeMap<TimerKey, MonoMs>,
    /// Invariant: the same pairs as `deadlines`.
    queue: BTreeSet<(MonoMs, TimerKey)>,
}

impl Timers {
    /// Arms the key, in place of what it was armed for.
    pub(super) fn set(&mut self, key: TimerKey, at: MonoMs) {
        if let Some(before) = self.deadlines.insert(key.clone(), at) {
            self.queue.remove(&(before, key.clone()));
        }
        self.queue.insert((at, key));
    }

    pub(super) fn cancel(&mut self, key: TimerKey) {
        if let Some(at) = self.deadlines.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<MonoMs> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Disarms and returns the earliest key that is due.
    pub(super) fn pop_due(&mut self, now: MonoMs) -> Option<TimerKey> {
        let (at, _) = self.queue.first()?;
        if *at > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.deadlines.remove(&key);
        Some(key)
    }

    #[cfg(test)]
    pub(super) fn is_set(&self, key: &TimerKey) -> bool {
        self.deadlines.contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(member: &str) -> TimerKey {
        TimerKey { group: GroupId::new("g"), alarm: Alarm::Session(MemberId::new(member)) }
    }

    #[test]
    fn the_earliest_due_key_comes_first_and_once() {
        let mut timers = Timers::default();
        timers.set(key("a"), MonoMs(30));
        timers.set(key("b"), MonoMs(20));
        timers.set(key("a"), MonoMs(10)); // moved
        timers.set(key("c"), MonoMs(25));
        timers.cancel(key("c"));
        assert_eq!(timers.next_deadline(), Some(MonoMs(10)));
        assert_eq!(timers.pop_due(MonoMs(9)), None);
        assert_eq!(timers.pop_due(MonoMs(20)), Some(key("a")));
        assert_eq!(timers.pop_due(MonoMs(20)), Some(key("b")));
        assert_eq!(timers.pop_due(MonoMs(99)), None);
        assert_eq!(timers.next_deadline(), None);
    }
}
