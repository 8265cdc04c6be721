//! Producers against a model that remembers everything, and the rules one by one.

use std::collections::BTreeMap;

use millrace_model::batch::Attributes;
use millrace_model::env::{MonoMs, WallMs};
use millrace_model::offset::LeaderEpoch;
use proptest::prelude::*;

use super::*;

const DAY_MS: i64 = 86_400_000;

fn at(ms: u64) -> Now {
    Now { wall: WallMs(1_700_000_000_000 + ms as i64), mono: MonoMs(ms) }
}

fn batch(producer: i64, epoch: i16, sequence: i32, count: i32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        size_bytes: 100,
        leader_epoch: LeaderEpoch(0),
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: count - 1,
        base_timestamp: 0,
        max_timestamp: 0,
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
        record_count: count,
    }
}

/// Producers with a log behind them.
struct Run {
    producers: Producers,
    log: Vec<BatchHeader>,
    end: Offset,
    now: u64,
}

impl Run {
    fn new() -> Self {
        Self { producers: Producers::new(DAY_MS), log: Vec::new(), end: Offset(0), now: 0 }
    }

    fn send(&mut self, header: BatchHeader) -> String {
        let admitted = self.producers.admit(&header, self.end, 7, at(self.now));
        match admitted {
            Ok(Admitted::New) => {
                self.producers.commit();
                let base = self.end;
                self.log.push(BatchHeader { base_offset: base, ..header });
                self.end = base.plus(i64::from(header.record_count));
                format!("new {base}")
            }
            Ok(Admitted::Duplicate(known)) => format!("duplicate {}", known.base_offset()),
            Err(SequenceError::OutOfOrder { expected, .. }) => format!("gap, expected {expected}"),
            Err(SequenceError::Duplicate { expected, .. }) => format!("old, expected {expected}"),
            Err(SequenceError::Fenced { current, .. }) => format!("fenced by {}", current.0),
        }
    }

    fn check(&mut self, cases: &[(i64, i16, i32, i32, &str)]) {
        for (producer, epoch, sequence, count, expected) in cases {
            let actual = self.send(batch(*producer, *epoch, *sequence, *count));
            let case = format!("producer {producer} epoch {epoch} {sequence}+{count}");
            assert_eq!(actual, *expected, "{case}");
        }
    }
}

#[test]
fn the_window_holds_five_batches() {
    let mut run = Run::new();
    run.check(&[
        (1, 0, 0, 10, "new 0"),
        (1, 0, 10, 1, "new 10"),
        (1, 0, 11, 2, "new 11"),
        (1, 0, 13, 1, "new 13"),
        (1, 0, 14, 1, "new 14"),
        (1, 0, 0, 10, "duplicate 0"),
        (1, 0, 15, 1, "new 15"),
        (1, 0, 0, 10, "old, expected 16"),
        (1, 0, 10, 1, "duplicate 10"),
        (1, 0, 15, 1, "duplicate 15"),
        // Overlaps and holes are neither duplicates nor next.
        (1, 0, 11, 3, "gap, expected 16"),
        (1, 0, 11, 1, "gap, expected 16"),
        (1, 0, 15, 2, "gap, expected 16"),
        (1, 0, 17, 1, "gap, expected 16"),
        (2, 0, 0, 1, "new 16"),
        (1, 0, 16, 1, "new 17"),
    ]);
}

#[test]
fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
    let mut run = Run::new();
    run.check(&[
        (1, 3, 0, 5, "new 0"),
        (1, 2, 5, 1, "fenced by 3"),
        (1, 4, 5, 1, "gap, expected 0"),
        (1, 4, 0, 2, "new 5"),
        (1, 3, 5, 1, "fenced by 4"),
        (1, 4, 0, 2, "duplicate 5"),
        (1, 4, 2, 1, "new 7"),
        (1, 4, 1, 1, "gap, expected 3"),
    ]);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut run = Run::new();
    run.check(&[
        (1, 0, i32::MAX - 4, 3, "new 0"),
        (1, 0, i32::MAX - 1, 4, "new 3"),
        (1, 0, 2, 1, "new 7"),
        (1, 0, i32::MAX - 1, 4, "duplicate 3"),
        // Nothing was appended before: this is no duplicate.
        (1, 0, i32::MAX - 10, 6, "gap, expected 3"),
        (1, 0, 0, 1, "gap, expected 3"),
        (1, 0, 3, 1, "new 8"),
        (1, 0, 4, 1, "new 9"),
        (1, 0, 5, 1, "new 10"),
        (1, 0, i32::MAX - 4, 3, "old, expected 6"),
    ]);
    // A snapshot's batch begins before the wrap as well.
    let mut other = Run::new();
    other.check(&[(1, 0, i32::MAX - 1, 4, "new 0")]);
    let snapshot = other.producers.snapshot(at(0));
    assert!(other.producers.restore(&snapshot, other.end, at(0)));
    other.check(&[(1, 0, i32::MAX - 1, 4, "duplicate 0"), (1, 0, 2, 1, "new 4")]);
}

/// Idle producers broke elsewhere when their state had expired and the next sequence was asked to be 0.
#[test]
fn of_an_unknown_producer_any_sequence_is_accepted() {
    let mut run = Run::new();
    run.check(&[(1, 5, 77, 1, "new 0"), (1, 5, 78, 1, "new 1")]);
    run.now = DAY_MS as u64;
    run.check(&[(1, 2, 500, 1, "new 2"), (1, 2, 77, 1, "gap, expected 501")]);
    run.now = 2 * DAY_MS as u64 + 1;
    assert_eq!(run.producers.expire(at(run.now)), 1);
    assert!(run.producers.is_empty());
}

#[test]
fn a_refused_first_batch_must_come_first_again() {
    let mut run = Run::new();
    run.producers.expect_again(&batch(1, 0, 0, 5), at(0));
    run.producers.expect_again(&batch(1, 0, 5, 5), at(0));
    run.check(&[
        (1, 0, 5, 5, "gap, expected 0"),
        (1, 0, 0, 5, "new 0"),
        (1, 0, 5, 5, "new 5"),
        (1, 0, 0, 5, "duplicate 0"),
    ]);
}

#[test]
fn a_failed_group_leaves_no_trace() {
    let mut run = Run::new();
    run.check(&[(1, 0, 0, 5, "new 0"), (2, 0, 0, 1, "new 5")]);
    let before = run.producers.snapshot(at(0));
    for header in [batch(1, 0, 5, 1), batch(1, 0, 6, 1), batch(3, 0, 0, 1), batch(2, 1, 0, 1)] {
        assert_eq!(run.producers.admit(&header, run.end, 0, at(0)), Ok(Admitted::New));
    }
    run.producers.revert();
    assert_eq!(run.producers.snapshot(at(0)), before);
    run.check(&[
        (1, 0, 6, 1, "gap, expected 5"),
        (1, 0, 0, 5, "duplicate 0"),
        (1, 0, 5, 1, "new 6"),
        (2, 0, 1, 1, "new 7"),
    ]);
}

#[test]
fn the_count_of_producers_is_bounded() {
    let mut producers = Producers::new(DAY_MS);
    for id in 0..=PARTITION_PRODUCERS_MAX as i64 {
        let now = at(id as u64);
        let admitted = producers.admit(&batch(id, 0, 0, 1), Offset(id), 0, now);
        assert_eq!(admitted, Ok(Admitted::New));
        producers.commit();
    }
    assert!(producers.by_id.len() < PARTITION_PRODUCERS_MAX);
    assert!(producers.by_id.contains_key(&ProducerId(PARTITION_PRODUCERS_MAX as i64)));
    assert!(!producers.by_id.contains_key(&ProducerId(0)));
}

#[test]
fn a_snapshot_keeps_when_a_producer_was_seen() {
    let mut run = Run::new();
    run.now = 1_000;
    run.check(&[(1, 0, 0, 1, "new 0")]);
    let snapshot = run.producers.snapshot(at(5_000));
    assert_eq!(snapshot[0].timestamp, at(1_000).wall.0);
    // Another process: its monotonic clock begins again.
    let mut restored = Producers::new(DAY_MS);
    let later = Now { wall: at(DAY_MS as u64).wall, mono: MonoMs(3) };
    assert!(restored.restore(&snapshot, run.end, later));
    assert_eq!(restored.snapshot(later), snapshot);
    let expiry = Now { wall: later.wall, mono: MonoMs(3 + 1_000) };
    assert_eq!(restored.expire(expiry), 1);
}

/// A snapshot of batches that a crash took, while others came to stand at their offsets, made a broker answer for a
/// batch that it did not have.
#[test]
fn a_snapshot_that_the_log_contradicts_is_refused() {
    let mut lost = Run::new();
    lost.check(&[(1, 0, 0, 1, "new 0"), (1, 0, 1, 1, "new 1"), (2, 0, 0, 1, "new 2")]);
    let snapshot = lost.producers.snapshot(at(0));
    let restore = |batches: &[BatchHeader]| {
        let mut run = Run::new();
        batches.iter().for_each(|header| drop(run.send(*header)));
        let mut producers = Producers::new(DAY_MS);
        run.log.iter().for_each(|header| producers.replay(header, at(0)));
        producers.restore(&snapshot, Offset(0), at(0))
    };
    assert!(restore(&[batch(1, 0, 0, 1), batch(1, 0, 1, 1), batch(2, 0, 0, 1)]));
    assert!(!restore(&[batch(1, 0, 0, 1), batch(2, 0, 0, 1), batch(1, 0, 1, 1)]));
    assert!(!restore(&[batch(1, 0, 0, 1), batch(1, 0, 1, 1), batch(3, 0, 0, 1)]));
    assert!(!restore(&[batch(1, 0, 0, 1), batch(1, 0, 1, 1), batch(2, 1, 0, 1)]));
}

/// The rules in their simplest words, over all that was ever written.
#[derive(Default)]
struct Model {
    batches: BTreeMap<ProducerId, Vec<BatchHeader>>,
}

impl Model {
    fn judge(&self, header: &BatchHeader) -> String {
        let all = self.batches.get(&header.producer_id).map_or(&[][..], Vec::as_slice);
        let Some(last) = all.last() else { return "new".into() };
        if header.producer_epoch < last.producer_epoch {
            return "fenced".into();
        }
        if header.producer_epoch > last.producer_epoch {
            return if header.base_sequence == 0 { "new" } else { "gap" }.into();
        }
        let in_epoch = || all.iter().filter(|b| b.producer_epoch == last.producer_epoch);
        let window: Vec<_> = in_epoch().rev().take(PRODUCER_BATCHES_RETAINED).collect();
        let in_epoch = in_epoch().count();
        let same = |b: &&&BatchHeader| {
            b.base_sequence == header.base_sequence && b.record_count == header.record_count
        };
        if let Some(known) = window.iter().find(same) {
            return format!("duplicate {}", known.base_offset);
        }
        let next = last.base_sequence + last.record_count;
        let oldest = window.last().expect("the last batch is in it").base_sequence;
        match header.base_sequence {
            first if first == next => "new".into(),
            first if first + header.record_count <= oldest && in_epoch > window.len() => {
                "old".into()
            }
            _ => "gap".into(),
        }
    }
}

fn sends() -> impl Strategy<Value = Vec<BatchHeader>> {
    let one = (1..4i64, 0..3i16, 0..24i32, 1..4i32)
        .prop_map(|(producer, epoch, sequence, count)| batch(producer, epoch, sequence, count));
    // Mostly next ones and retries: a walk over sequences with jumps.
    let walk = (1..4i64, 1..4i32, 0..8i32);
    proptest::collection::vec(
        prop_oneof![
            one,
            walk.prop_map(|(p, n, jump)| {
                // Marked by a negative sequence: resolved against the state when sent.
                batch(p, 0, -1 - jump, n)
            })
        ],
        0..80,
    )
}

proptest! {
    #[test]
    fn producers_follow_the_model(sends in sends(), cut in 0usize..80, window in 0usize..10) {
        let mut run = Run::new();
        let mut model = Model::default();
        for header in sends {
            let header = resolve(header, &model);
            let expected = model.judge(&header);
            let actual = run.send(header);
            prop_assert!(actual.starts_with(&expected), "{header:?}: {actual}, not {expected}");
            if expected == "new" {
                let written = *run.log.last().unwrap();
                model.batches.entry(header.producer_id).or_default().push(written);
            }
        }
        // Whatever snapshot and tail it is rebuilt from, the last batches are the same.
        let cut = cut.min(run.log.len());
        let mut first = Producers::new(DAY_MS);
        run.log[..cut].iter().for_each(|header| first.replay(header, at(0)));
        let mut rebuilt = Producers::new(DAY_MS);
        run.log[cut.saturating_sub(window)..cut].iter().for_each(|h| rebuilt.replay(h, at(0)));
        let from = cut.saturating_sub(window);
        let from = run.log.get(from).map_or(run.end, |header| header.base_offset);
        prop_assert!(rebuilt.restore(&first.snapshot(at(0)), from, at(0)));
        run.log[cut..].iter().for_each(|header| rebuilt.replay(header, at(0)));
        prop_assert_eq!(rebuilt.snapshot(at(0)), run.producers.snapshot(at(0)));
        // And replayed from the start, nothing differs at all.
        let mut replayed = Producers::new(DAY_MS);
        run.log.iter().for_each(|header| replayed.replay(header, at(0)));
        for (id, producer) in &replayed.by_id {
            let live = &run.producers.by_id[id];
            let place = |p: &Producer| {
                let offsets: Vec<_> = p.window().iter().map(|b| (b.last_offset, b.base_sequence)).collect();
                (p.epoch, p.next_sequence, offsets)
            };
            prop_assert_eq!(place(producer), place(live));
        }
    }
}

fn resolve(header: BatchHeader, model: &Model) -> BatchHeader {
    if header.base_sequence >= 0 {
        return header;
    }
    let back = (-1 - header.base_sequence) as usize;
    let all = model.batches.get(&header.producer_id).map_or(&[][..], Vec::as_slice);
    let Some(last) = all.last() else { return BatchHeader { base_sequence: 0, ..header } };
    let known = all.len().checked_sub(back).and_then(|at| all.get(at));
    match known {
        // A retry, exactly as it was.
        Some(known) => BatchHeader { base_offset: Offset(0), ..*known },
        None => BatchHeader {
            producer_epoch: last.producer_epoch,
            base_sequence: last.base_sequence + last.record_count,
            ..header
        },
    }
}
