//! Random histories: producers that retry, syncs that lag, restarts, power cuts, failing disks. Whatever happens, each
//! batch is in the log once, in its producer's order, at the offset that was acknowledged, and nobody sees what a
//! crash could still take.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

const PRODUCERS: usize = 3;
const IN_FLIGHT_MAX: usize = PRODUCER_BATCHES;
const PRODUCER_BATCHES: usize = millrace_model::limits::PRODUCER_BATCHES_RETAINED;

/// One batch of a producer: sequence and count of records.
type Batch = (i32, i32);

#[derive(Default)]
struct Client {
    next_sequence: i32,
    unacked: VecDeque<Batch>,
    acked: BTreeMap<i32, (i32, Offset)>,
}

#[derive(Clone, Debug)]
enum Step {
    /// New batches from some producers, in one event.
    Send(Vec<(usize, i32)>),
    /// A connection was lost: a producer sends again whatever is not acknowledged.
    Retry(usize),
    /// A producer sends its oldest batches again, although the answers are under way.
    Repeat(usize),
    Sync,
    TakeTicket,
    StoreSnapshots,
    Checkpoint,
    DeleteRecords(i64),
    Tick(u64),
    /// The disk is full, or no longer.
    Full(bool),
    /// One of the next operations on the disk fails so.
    Fault(sim::Fault, u64),
    CleanRestart,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let send = proptest::collection::vec((0..PRODUCERS, 1..4), 1..6).prop_map(Step::Send);
    let step = prop_oneof![
        8 => send,
        3 => (0..PRODUCERS).prop_map(Step::Retry),
        2 => (0..PRODUCERS).prop_map(Step::Repeat),
        4 => Just(Step::Sync),
        1 => Just(Step::TakeTicket),
        1 => Just(Step::StoreSnapshots),
        1 => Just(Step::Checkpoint),
        1 => (0..5i64).prop_map(Step::DeleteRecords),
        1 => (0..7_000u64).prop_map(Step::Tick),
        1 => any::<bool>().prop_map(Step::Full),
        2 => (faults(), 1..30u64).prop_map(|(fault, after)| Step::Fault(fault, after)),
        1 => Just(Step::CleanRestart),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 0..80)
}

fn faults() -> impl Strategy<Value = sim::Fault> {
    use sim::Fault::{Eio, Enospc, Interrupted, PowerCut, Short, TooManyFiles};
    proptest::sample::select(vec![Eio, Enospc, Interrupted, PowerCut, Short, TooManyFiles])
}

struct History {
    driver: Driver<SimDisk>,
    clients: Vec<Client>,
    /// What a token's reply speaks of; `None`: a deletion.
    sent: BTreeMap<u32, Option<(usize, Batch)>>,
    /// What the data directory knows of the partition.
    recorded: Trust,
    /// The partition failed: nothing but a crash helps.
    is_failed: bool,
}

impl History {
    fn new() -> Self {
        let mut driver = simulated();
        driver.settings.log.segment_bytes = 700;
        driver.settings.maintenance_interval_ms = 5_000;
        driver.handle(Event::Configure(driver.settings.clone()));
        let clients = (0..PRODUCERS).map(|_| Client::default()).collect();
        let (sent, recorded) = (BTreeMap::new(), Trust::Nothing);
        let mut history = Self { driver, clients, sent, recorded, is_failed: false };
        history.step(Step::Send(vec![(0, 1)]));
        history.step(Step::Checkpoint);
        history
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(batches) => {
                let mut new = Vec::new();
                for (who, count) in batches {
                    let client = &mut self.clients[who];
                    if client.unacked.len() < IN_FLIGHT_MAX {
                        let batch = (client.next_sequence, count);
                        client.next_sequence += count;
                        client.unacked.push_back(batch);
                        new.push((who, batch));
                    }
                }
                self.send(&new);
            }
            Step::Retry(who) => self.retry(who),
            Step::Repeat(who) => {
                let two: Vec<_> = self.clients[who].unacked.iter().take(2).copied().collect();
                self.send(&two.into_iter().map(|batch| (who, batch)).collect::<Vec<_>>());
            }
            Step::Sync => self.sync(),
            Step::TakeTicket => self.driver.take_ticket(),
            Step::StoreSnapshots => self.store_snapshots(),
            Step::Checkpoint => {
                self.sync();
                self.checkpoint();
            }
            Step::DeleteRecords(back) => self.delete_records(back),
            Step::Tick(ms) => self.driver.run(&format!("tick {ms}")),
            Step::Full(full) => {
                self.driver.disk.set_capacity(if full { 1 } else { 1 << 40 });
                self.driver.handle(Event::Space { writable: true });
            }
            Step::Fault(fault, after) => {
                let disk = &self.driver.disk;
                disk.fault_at(disk.operations() + after, fault);
            }
            Step::CleanRestart => self.restart(),
            Step::Crash => self.crash(),
        }
        self.collect();
        if self.is_failed {
            self.crash();
            self.collect();
        }
    }

    fn sync(&mut self) {
        self.driver.take_ticket();
        for ticket in std::mem::take(&mut self.driver.tickets) {
            let synced = self.driver.disk.sync_set(&ticket.files().collect::<Vec<_>>());
            self.driver.handle(match synced {
                Ok(_) => Event::Synced { end: ticket.end() },
                Err(error) => Event::SyncFailed { reason: error.to_string().into() },
            });
        }
    }

    fn store_snapshots(&mut self) {
        for (offset, file) in std::mem::take(&mut self.driver.snapshots) {
            if file.write().is_ok() {
                self.driver.handle(Event::SnapshotStored { offset });
            }
        }
    }

    /// A clean one, if the disk lets it be.
    fn restart(&mut self) {
        self.sync();
        self.collect();
        let closed = self.driver.partition.take().unwrap().close(self.driver.env.now);
        match closed.map(|state| (state, self.driver.disk.sync_all())) {
            Ok((state, Ok(()))) => {
                self.recorded = Trust::Recorded(state);
                if self.driver.try_reopen(Trust::Clean(state)) {
                    self.reconnect();
                } else {
                    self.crash();
                }
            }
            _ => self.crash(),
        }
    }

    /// The power goes and comes back.
    fn crash(&mut self) {
        self.is_failed = false;
        self.driver.disk = self.driver.disk.crash();
        self.driver.disk.set_capacity(1 << 40);
        self.driver.reopen(self.recorded);
        self.reconnect();
    }

    fn send(&mut self, batches: &[(usize, Batch)]) {
        let mut appends = Vec::new();
        for (who, (sequence, count)) in batches {
            let token = self.driver.token();
            self.sent.insert(token, Some((*who, (*sequence, *count))));
            let words = format!("p={who} s={sequence} n={count}");
            appends.push(batch(&words, self.driver.env.now.wall.0, token));
        }
        self.driver.handle(Event::Append(appends));
    }

    /// Producers whose connection is gone begin with what was not acknowledged: so no more than five of a producer's
    /// batches ever lie between the oldest unanswered one and the newest.
    fn reconnect(&mut self) {
        (0..PRODUCERS).for_each(|who| self.retry(who));
    }

    fn retry(&mut self, who: usize) {
        let unacked: Vec<_> = self.clients[who].unacked.iter().map(|it| (who, *it)).collect();
        self.send(&unacked);
    }

    fn checkpoint(&mut self) {
        let Ok(Checkpoint { state, epochs }) = self.driver.partition().checkpoint() else { return };
        if epochs.is_none_or(|file| file.write().is_ok()) {
            self.recorded = Trust::Recorded(state);
            self.driver.handle(Event::LogStartSaved { start: state.log_start });
        }
    }

    fn delete_records(&mut self, back: i64) {
        let before = self.driver.partition().marks().high_watermark().0 - back;
        let token = self.driver.token();
        self.sent.insert(token, None);
        self.driver.handle(Event::DeleteRecords { before: Some(Offset(before.max(0))), token });
    }

    /// Takes replies to their clients.
    fn collect(&mut self) {
        let marks = self.driver.partition().marks();
        for output in std::mem::take(&mut self.driver.out) {
            match output {
                Output::Reply { token, result } => {
                    let (who, batch) = self.sent.remove(&token).unwrap().unwrap();
                    self.reply(who, batch, result);
                }
                Output::Deleted { token, result } => {
                    assert_eq!(self.sent.remove(&token), Some(None));
                    if let (Ok(start), Trust::Recorded(state)) = (result, self.recorded) {
                        assert!(start <= state.log_start, "a log start is saved before it is told");
                    }
                }
                Output::Snapshot { offset, file } => self.driver.snapshots.push((offset, file)),
                Output::Doomed(doomed) => doomed.into_iter().for_each(|it| {
                    // What is not unlinked is found at the next start.
                    let _ = it.unlink();
                }),
                Output::Failed { .. } => self.is_failed = true,
                Output::HighWatermark(_) | Output::LogStart { .. } | Output::Dirty => {}
                Output::Full => {}
            }
        }
        assert!(marks.log_start() <= marks.high_watermark());
        assert!(marks.high_watermark() <= marks.durable_end());
        assert!(marks.durable_end() <= marks.log_end());
    }

    fn reply(&mut self, who: usize, batch: Batch, result: Result<Appended, AppendRefused>) {
        let client = &mut self.clients[who];
        let (sequence, count) = batch;
        match result {
            Ok(done) => {
                let known = client.acked.insert(sequence, (count, done.base_offset));
                assert!(known.is_none_or(|known| known == (count, done.base_offset)));
                client.unacked.retain(|other| *other != batch);
            }
            Err(
                AppendRefused::DiskFull
                | AppendRefused::Storage { .. }
                | AppendRefused::Failed { .. },
            ) => {}
            // One before it was refused: it is sent again behind that one. Or all are acknowledged by now, and this
            // was a needless repetition.
            Err(AppendRefused::Sequence(SequenceError::OutOfOrder { .. })) => {}
            Err(AppendRefused::Sequence(SequenceError::Duplicate { .. })) => {
                assert!(client.acked.contains_key(&sequence), "what was never answered is known");
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// In the end all is acknowledged, and the log has it so.
    fn finish(mut self) {
        self.crash();
        self.driver.handle(Event::Tick);
        self.sync();
        self.collect();
        for client in &self.clients {
            assert!(client.unacked.is_empty(), "{:?} are never acknowledged", client.unacked);
        }
        let reader = self.driver.partition().reader();
        let mut next = [None; PRODUCERS];
        let mut found = Vec::new();
        for header in reader.headers(reader.start(), reader.end()).unwrap() {
            let header = header.unwrap();
            let next = &mut next[header.producer_id.0 as usize];
            let expected = next.replace(header.base_sequence + header.record_count);
            assert!(
                expected.is_none_or(|it| it == header.base_sequence),
                "gap or double: {header:?}"
            );
            found.push((header.producer_id.0 as usize, header.base_sequence, header.base_offset));
        }
        let start = reader.start();
        let mut acked = Vec::new();
        for (who, client) in self.clients.iter().enumerate() {
            for (sequence, (count, offset)) in &client.acked {
                if offset.plus(i64::from(*count)) > start {
                    acked.push((who, *sequence, *offset));
                }
            }
        }
        acked.sort_unstable_by_key(|(_, _, offset)| *offset);
        assert_eq!(found, acked);
    }
}

proptest! {
        #[test]
    fn each_batch_is_in_the_log_once(steps in steps()) {
        let mut history = History::new();
        steps.into_iter().for_each(|step| history.step(step));
        history.finish();
    }
}
