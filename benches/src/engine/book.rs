//! When a run's window begins and ends, and what counts inside it.

use std::cell::RefCell;

use super::{DRAIN, Mark, Pace, Plan, Tally};
use crate::clock::{self, Nanos};
use crate::error::LoadError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Window,
    Drain,
}

/// The moments of an open loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    begin: Nanos,
    end: Nanos,
    per_second: f64,
}

impl Schedule {
    /// When the request of this number is due; `None` behind the window.
    pub(super) fn due(&self, number: u64) -> Option<Nanos> {
        let due = self.begin + (number as f64 * 1e9 / self.per_second) as u64;
        (due < self.end).then_some(due)
    }
}

/// What an answer stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) records: u64,
    pub(super) payload_bytes: u64,
}

/// The clock and the counts of one run.
#[derive(Debug)]
pub(super) struct Book<'a> {
    plan: &'a Plan,
    pub(super) tally: Tally,
    phase: Phase,
    started: Nanos,
    window: (Nanos, Nanos),
    cpu_before: Nanos,
    moved_bytes: u64,
}

impl<'a> Book<'a> {
    pub(super) fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            tally: Tally::default(),
            phase: Phase::WarmUp,
            started: 0,
            window: (0, 0),
            cpu_before: 0,
            moved_bytes: 0,
        }
    }

    pub(super) fn start(&mut self, now: Nanos) {
        let begin = now + self.plan.warm_up.as_nanos() as u64;
        self.started = now;
        self.window = (begin, begin + self.plan.measure.as_nanos() as u64);
    }

    /// Goes on to the next phase when it is time.
    pub(super) fn turn(&mut self, now: Nanos, mark: &mut dyn FnMut(Mark)) {
        let next = self.phase_at(now);
        if next == self.phase {
            return;
        }
        if self.phase == Phase::WarmUp {
            self.begin(now);
            mark(Mark::Begin);
        }
        if next == Phase::Drain {
            self.end(now);
            mark(Mark::End);
        }
        self.phase = next;
    }

    fn phase_at(&self, now: Nanos) -> Phase {
        let spent =
            |share: u64| self.plan.bytes_max.is_some_and(|max| self.moved_bytes >= max / share);
        match self.phase {
            Phase::WarmUp if now >= self.window.0 || spent(4) => Phase::Window,
            Phase::Window if now >= self.window.1 || spent(1) => Phase::Drain,
            phase => phase,
        }
    }

    fn begin(&mut self, now: Nanos) {
        if matches!(self.plan.pace, Pace::Closed { .. }) {
            self.window = (now, now + self.plan.measure.as_nanos() as u64);
        }
        self.cpu_before = clock::cpu();
    }

    fn end(&mut self, now: Nanos) {
        if matches!(self.plan.pace, Pace::Closed { .. }) {
            self.window.1 = now;
        }
        self.tally.seconds = clock::seconds(self.window.1 - self.window.0);
        self.tally.generator_cpu = clock::cpu() - self.cpu_before;
    }

    /// How long nothing turns by itself.
    pub(super) fn until_turn(&self, now: Nanos) -> Nanos {
        let (begin, end) = self.window;
        let turn = if self.phase == Phase::WarmUp { begin } else { end };
        turn.saturating_sub(now)
    }

    pub(super) fn may_send(&self) -> bool {
        self.phase != Phase::Drain
    }

    /// Is the run over, `open` saying that answers are outstanding?
    ///
    /// # Errors
    /// When they stay out.
    pub(super) fn is_done(&self, open: bool, now: Nanos) -> Result<bool, LoadError> {
        if self.phase != Phase::Drain {
            return Ok(false);
        }
        if open && now > self.window.1 + DRAIN.as_nanos() as u64 {
            return Err(LoadError::Timeout("an answer to every request"));
        }
        Ok(!open)
    }

    /// Open loop: what is due when.
    pub(super) fn schedule(&self) -> Option<Schedule> {
        match self.plan.pace {
            Pace::Open { per_second } => {
                Some(Schedule { begin: self.started, end: self.window.1, per_second })
            }
            Pace::Closed { .. } => None,
        }
    }

    /// What so many batches are.
    pub(super) fn batches(&self, count: u64) -> Done {
        let batch = &self.plan.batch;
        Done {
            records: count * u64::from(batch.records),
            payload_bytes: count * batch.payload_bytes,
        }
    }

    /// Counts an answer: what was done, or an error's code.
    pub(super) fn count(&mut self, since: Nanos, now: Nanos, outcome: Result<Done, i16>) {
        self.moved_bytes += outcome.map_or(0, |done| done.payload_bytes);
        let inside = match self.plan.pace {
            Pace::Closed { .. } => self.phase == Phase::Window,
            Pace::Open { .. } => (self.window.0..self.window.1).contains(&since),
        };
        if !inside {
            return;
        }
        match outcome {
            Ok(done) => {
                self.tally.requests += 1;
                self.tally.records += done.records;
                self.tally.payload_bytes += done.payload_bytes;
                self.tally.latency.record(now.saturating_sub(since));
            }
            Err(code) => {
                self.tally.errors += 1;
                self.tally.error_code.get_or_insert(code);
            }
        }
    }
}

/// A book that the tasks of one thread write into.
pub(super) struct SharedBook<'a> {
    pub(super) plan: &'a Plan,
    pub(super) book: RefCell<Book<'a>>,
    mark: RefCell<&'a mut dyn FnMut(Mark)>,
}

impl<'a> SharedBook<'a> {
    pub(super) fn new(plan: &'a Plan, mark: &'a mut dyn FnMut(Mark)) -> Self {
        Self { plan, book: RefCell::new(Book::new(plan)), mark: RefCell::new(mark) }
    }

    /// Goes on to the next phase when it is time; what time it is.
    pub(super) fn turn(&self) -> Nanos {
        let now = clock::now();
        self.book.borrow_mut().turn(now, &mut **self.mark.borrow_mut());
        now
    }

    pub(super) fn into_tally(self) -> Tally {
        self.book.into_inner().tally
    }
}
