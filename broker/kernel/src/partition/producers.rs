//! Idempotence: what this partition remembers of each producer, and what that says about its next batch (KIP-98).
//!
//! The state is a function of the log: [`Producers::replay`] rebuilds it from batch headers, a snapshot file only
//! shortens the way. Two things live in memory alone: when a producer was last seen (on the monotonic clock; a snapshot
//! carries it as wall time) and where a producer must begin again whose first batch was refused.
//!
//! Never here: offsets being assigned, bytes being written. Called by `leader.rs` for each batch in log order, and by
//! `partition.rs` when it opens, snapshots and ticks.

use std::collections::BTreeMap;

use millrace_model::batch::{BatchHeader, increment_sequence};
use millrace_model::env::Now;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_model::limits::{PARTITION_PRODUCERS_MAX, PRODUCER_BATCHES_RETAINED};
use millrace_model::offset::Offset;
use millrace_storage::snapshot::ProducerEntry;

/// A batch that does not follow from what is known of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// Something between is missing, or the batch overlaps what is known.
    #[error(
        "producer {producer} sent sequence {got} in epoch {epoch}, {expected} would follow",
        epoch = epoch.0
    )]
    OutOfOrder { producer: ProducerId, epoch: ProducerEpoch, expected: i32, got: i32 },
    /// Wholly behind the remembered batches: it was appended, where is forgotten.
    #[error("producer {producer} sent sequences {first} to {last} again, {expected} would follow")]
    Duplicate { producer: ProducerId, first: i32, last: i32, expected: i32 },
    /// A newer instance of the producer has written here.
    #[error(
        "producer {producer} wrote with epoch {current}, epoch {got} is fenced",
        current = current.0, got = got.0
    )]
    Fenced { producer: ProducerId, current: ProducerEpoch, got: ProducerEpoch },
}

/// A batch that was appended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Remembered {
    pub(crate) last_offset: Offset,
    pub(crate) timestamp: i64,
    pub(crate) base_sequence: i32,
    pub(crate) last_offset_delta: i32,
}

impl Remembered {
    pub(crate) fn base_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.last_offset_delta))
    }

    fn last_sequence(&self) -> i32 {
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It follows, and is remembered at the offset that it was offered.
    New,
    /// It is in the log already.
    Duplicate(Remembered),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    next_sequence: i32,
    /// Monotonic; signed, since a snapshot may date from before the clock's start.
    seen_ms: i64,
    /// The group that touched this entry last; see [`Producers::commit`].
    group: u64,
    batches: u8,
    /// Were batches of this epoch appended before those in the window?
    older: bool,
    /// Oldest first; `batches` of them count. Empty: only `epoch` and `next_sequence` are known.
    window: [Remembered; PRODUCER_BATCHES_RETAINED],
}

impl Producer {
    fn new(epoch: ProducerEpoch, next_sequence: i32, seen_ms: i64) -> Self {
        let window = [Remembered::default(); PRODUCER_BATCHES_RETAINED];
        Self { epoch, next_sequence, seen_ms, group: 0, batches: 0, older: false, window }
    }

    fn window(&self) -> &[Remembered] {
        &self.window[..usize::from(self.batches)]
    }

    fn push(&mut self, epoch: ProducerEpoch, batch: Remembered, seen_ms: i64) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.batches = 0;
            self.older = false;
        }
        if usize::from(self.batches) == PRODUCER_BATCHES_RETAINED {
            self.window.copy_within(1.., 0);
            self.batches -= 1;
            self.older = true;
        }
        self.window[usize::from(self.batches)] = batch;
        self.batches += 1;
        self.next_sequence = increment_sequence(batch.last_sequence(), 1);
        self.seen_ms = seen_ms;
    }

    fn ends_with(&self, entry: &ProducerEntry) -> bool {
        let last = self.window().last();
        self.epoch == entry.producer_epoch
            && last.is_some_and(|last| {
                (last.last_offset, last.last_sequence()) == (entry.last_offset, entry.last_sequence)
            })
    }

    fn check(&self, header: &BatchHeader) -> Result<Admitted, SequenceError> {
        let (producer, epoch) = (header.producer_id, header.producer_epoch);
        let got = header.base_sequence;
        if epoch < self.epoch {
            return Err(SequenceError::Fenced { producer, current: self.epoch, got: epoch });
        }
        if epoch > self.epoch {
            // Kafka's rule: a new epoch begins at 0 wherever an older one is known.
            return match got {
                0 => Ok(Admitted::New),
                _ => Err(SequenceError::OutOfOrder { producer, epoch, expected: 0, got }),
            };
        }
        let (first, last, expected) = (got, header.last_sequence(), self.next_sequence);
        let same = |b: &&Remembered| b.base_sequence == first && b.last_sequence() == last;
        if let Some(known) = self.window().iter().find(same) {
            return Ok(Admitted::Duplicate(*known));
        }
        if first == expected {
            return Ok(Admitted::New);
        }
        match self.window().first() {
            Some(oldest) if self.older && is_behind(last, oldest.base_sequence) => {
                Err(SequenceError::Duplicate { producer, first, last, expected })
            }
            _ => Err(SequenceError::OutOfOrder { producer, epoch, expected, got }),
        }
    }
}

/// Does `sequence` lie before `mark` in the wrapping space `0..=i32::MAX`? Half of the space is behind.
fn is_behind(sequence: i32, mark: i32) -> bool {
    let distance = (mark.wrapping_sub(sequence)) & i32::MAX;
    distance != 0 && distance < (1 << 30)
}

/// All producers of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    expiration_ms: i64,
    /// What entries were before the current group touched them; `None`: absent.
    before: Vec<(ProducerId, Option<Producer>)>,
    /// Invariant: above the `group` of every entry that the current group has not touched.
    group: u64,
}

impl Producers {
    pub(crate) fn new(expiration_ms: i64) -> Self {
        Self { by_id: BTreeMap::new(), expiration_ms, before: Vec::new(), group: 1 }
    }

    pub(crate) fn set_expiration(&mut self, expiration_ms: i64) {
        self.expiration_ms = expiration_ms;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Judges an idempotent batch; a new one is remembered as if written at `base`, until [`Self::revert`] says no.
    ///
    /// # Errors
    /// [`SequenceError`]: nothing has changed.
    pub(crate) fn admit(
        &mut self,
        header: &BatchHeader,
        base: Offset,
        timestamp: i64,
        now: Now,
    ) -> Result<Admitted, SequenceError> {
        let (group, expiration_ms, seen_ms) = (self.group, self.expiration_ms, mono(now));
        let batch = remember(header, base, timestamp);
        if let Some(producer) = self.by_id.get_mut(&header.producer_id) {
            let expired = seen_ms - producer.seen_ms >= expiration_ms;
            if !expired && let Admitted::Duplicate(known) = producer.check(header)? {
                return Ok(Admitted::Duplicate(known));
            }
            if producer.group != group {
                self.before.push((header.producer_id, Some(*producer)));
                producer.group = group;
            }
            if expired {
                (producer.batches, producer.older) = (0, false);
            }
            producer.push(header.producer_epoch, batch, seen_ms);
            return Ok(Admitted::New);
        }
        // Nothing is known: any sequence is accepted (its state may have expired).
        self.make_room();
        let mut producer = Producer::new(header.producer_epoch, 0, seen_ms);
        producer.push(header.producer_epoch, batch, seen_ms);
        producer.group = group;
        self.before.push((header.producer_id, None));
        self.by_id.insert(header.producer_id, producer);
        Ok(Admitted::New)
    }

    /// What the group admitted is in the log.
    pub(crate) fn commit(&mut self) {
        self.before.clear();
        self.group += 1;
    }

    /// What the group admitted did not reach the log: all is as before it.
    pub(crate) fn revert(&mut self) {
        while let Some((id, producer)) = self.before.pop() {
            match producer {
                Some(producer) => self.by_id.insert(id, producer),
                None => self.by_id.remove(&id),
            };
        }
        self.group += 1;
    }

    /// A batch was refused. If nothing is known of its producer, it must begin with this one: otherwise the batches in
    /// flight behind it would be taken for those of a producer that expired, and the refused one could never be sent
    /// again.
    pub(crate) fn expect_again(&mut self, header: &BatchHeader, now: Now) {
        if self.by_id.contains_key(&header.producer_id) {
            return;
        }
        self.make_room();
        let producer = Producer::new(header.producer_epoch, header.base_sequence, mono(now));
        self.by_id.insert(header.producer_id, producer);
    }

    /// A batch of the log, in log order.
    pub(crate) fn replay(&mut self, header: &BatchHeader, now: Now) {
        if header.producer_id.0 < 0 || header.attributes.is_control() {
            return;
        }
        let batch = remember(header, header.base_offset, header.max_timestamp);
        let seen_ms = mono(now);
        if !self.by_id.contains_key(&header.producer_id) {
            self.make_room();
        }
        self.by_id
            .entry(header.producer_id)
            .or_insert_with(|| Producer::new(header.producer_epoch, 0, seen_ms))
            .push(header.producer_epoch, batch, seen_ms);
    }

    /// Lays a snapshot over what was replayed of the log from `window` up to it. A snapshot knows one batch per
    /// producer, the log before it may know more: the longer memory stays. Says whether both tell the same story; if
    /// not, this state is of no use.
    #[must_use]
    pub(crate) fn restore(&mut self, snapshot: &[ProducerEntry], window: Offset, now: Now) -> bool {
        let mut replayed = std::mem::take(&mut self.by_id);
        for entry in snapshot {
            let seen_ms = mono(now) - (now.wall.0 - entry.timestamp).max(0);
            let mut producer = match replayed.remove(&entry.producer_id) {
                Some(producer) if producer.ends_with(entry) => producer,
                None if entry.last_offset < window && is_sane(entry) => {
                    let mut producer = Producer::new(entry.producer_epoch, 0, seen_ms);
                    producer.push(entry.producer_epoch, last_batch(entry), seen_ms);
                    producer
                }
                Some(_) | None => return false,
            };
            producer.seen_ms = seen_ms;
            producer.older = true;
            self.by_id.insert(entry.producer_id, producer);
        }
        // What only the log knows had expired when the snapshot was made.
        true
    }

    /// Forgets producers that were silent for the expiration time; returns how many.
    pub(crate) fn expire(&mut self, now: Now) -> usize {
        let (count, limit) = (self.by_id.len(), mono(now) - self.expiration_ms);
        self.by_id.retain(|_, producer| producer.seen_ms > limit);
        count - self.by_id.len()
    }

    /// The state in the form that files keep: the last batch of each producer.
    pub(crate) fn snapshot(&self, now: Now) -> Vec<ProducerEntry> {
        let entry = |(id, producer): (&ProducerId, &Producer)| {
            let last = producer.window().last()?;
            Some(ProducerEntry {
                producer_id: *id,
                producer_epoch: producer.epoch,
                last_sequence: last.last_sequence(),
                last_offset: last.last_offset,
                offset_delta: last.last_offset_delta,
                timestamp: now.wall.0 - (mono(now) - producer.seen_ms),
                coordinator_epoch: -1,
                transaction_first_offset: -1,
            })
        };
        self.by_id.iter().filter_map(entry).collect()
    }

    /// Keeps the count of producers bounded: the quarter that was silent longest expires early.
    fn make_room(&mut self) {
        if self.by_id.len() < PARTITION_PRODUCERS_MAX {
            return;
        }
        let mut seen: Vec<i64> = self.by_id.values().map(|p| p.seen_ms).collect();
        let quarter = seen.len() / 4;
        let (_, limit, _) = seen.select_nth_unstable(quarter);
        let (limit, group) = (*limit, self.group);
        let mut excess = quarter + 1;
        // The current group's entries stay: reverting it must find them.
        self.by_id.retain(|_, producer| {
            let keep = producer.seen_ms > limit || producer.group == group || excess == 0;
            excess -= usize::from(!keep);
            keep
        });
    }
}

fn mono(now: Now) -> i64 {
    i64::try_from(now.mono.0).unwrap_or(i64::MAX)
}

fn remember(header: &BatchHeader, base: Offset, timestamp: i64) -> Remembered {
    Remembered {
        last_offset: base.plus(i64::from(header.last_offset_delta)),
        timestamp,
        base_sequence: header.base_sequence,
        last_offset_delta: header.last_offset_delta,
    }
}

fn last_batch(entry: &ProducerEntry) -> Remembered {
    Remembered {
        last_offset: entry.last_offset,
        timestamp: entry.timestamp,
        // Sequences wrap from i32::MAX to 0.
        base_sequence: entry.last_sequence.wrapping_sub(entry.offset_delta) & i32::MAX,
        last_offset_delta: entry.offset_delta,
    }
}

/// A snapshot's checksum says that it is as written, not that a sane broker wrote it.
fn is_sane(entry: &ProducerEntry) -> bool {
    entry.producer_id.0 >= 0
        && entry.last_sequence >= 0
        && entry.offset_delta >= 0
        && entry.last_offset.0 >= i64::from(entry.offset_delta)
}

#[cfg(test)]
mod tests;
