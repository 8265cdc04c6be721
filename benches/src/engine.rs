//! The generator: one thread, nonblocking connections over epoll, requests from a template.
//!
//! Closed loop keeps a number of requests in flight on each connection and counts from when one was handed over. Open
//! loop sends at a rate whatever the broker does and counts from when a request was *due*, so a stall shows in every
//! request that it delays. The first seconds are dropped. The caller is told when the measured window begins and ends,
//! and looks at the broker then (`watch.rs`).

mod connection;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::batch::{Batch, Noise};
use crate::clock::{self, Nanos};
use crate::error::LoadError;
use crate::histogram::Histogram;
use crate::protocol::{Fetched, Produced, TOPIC_BYTES_MAX, Template};
use connection::{Connection, Kept, Shared, Waiting};

/// How long answers may be outstanding after the window.
const DRAIN: Duration = Duration::from_secs(60);
/// An open loop that is so far behind will not recover.
const BACKLOG_MAX: usize = 1_000_000;
const SCRATCH_BYTES: usize = 4 << 20;
const TIMER: u64 = u64::MAX;
const EVENTS: usize = 256;

/// What one run does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub broker: SocketAddr,
    pub topic: String,
    pub work: Work,
    pub batch: Batch,
    pub connections: usize,
    pub pace: Pace,
    pub warm_up: Duration,
    pub measure: Duration,
    /// The window ends when so many bytes of values were sent or read, a quarter of them before it begins.
    pub bytes_max: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Work {
    Produce {
        acks: i16,
        partitions: Partitions,
    },
    /// Connection i reads partition i from its start, again and again; one request in flight.
    Fetch {
        partitions: u32,
        fetch_bytes: u32,
        /// Copy what arrives into memory instead of letting the kernel drop it.
        copy: bool,
    },
}

/// Which partition a batch goes to.
#[derive(Clone, Copy, Debug)]
pub enum Partitions {
    /// Connection i writes to partition i modulo this.
    PerConnection(u32),
    /// Any of so many.
    Random(u32),
}

#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many requests in flight on each connection.
    Closed { in_flight: usize },
    /// So many requests a second over all connections.
    Open { per_second: f64 },
}

/// A turning point of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin,
    End,
}

/// What was counted inside the window.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub seconds: f64,
    pub requests: u64,
    pub records: u64,
    pub payload_bytes: u64,
    pub errors: u64,
    pub error_code: Option<i16>,
    pub latency: Histogram,
    /// CPU time of this process in the window.
    pub generator_cpu: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Window,
    Drain,
}

/// Runs a plan; `mark` is called at the window's begin and end, and must return at once.
///
/// # Errors
/// When a connection breaks, an answer cannot be read, or answers stay out.
pub fn run(plan: &Plan, mark: &mut dyn FnMut(Mark)) -> Result<Tally, LoadError> {
    if plan.topic.len() > TOPIC_BYTES_MAX || plan.connections == 0 {
        return Err(LoadError::Misuse("no connection, or the topic's name is too long".into()));
    }
    let mut engine = Engine::connect(plan)?;
    let mut events = Vec::with_capacity(EVENTS);
    engine.start()?;
    loop {
        let now = clock::now();
        engine.turn(now, mark);
        engine.send_due(now)?;
        if engine.is_done(now)? {
            return Ok(engine.desk.tally);
        }
        events.clear();
        let timeout = clock::timespec(engine.wait_at_most(now));
        match epoll::wait(
            &engine.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(LoadError::os("waiting for the broker")(errno)),
        }
        for index in std::mem::take(&mut engine.again) {
            engine.top_up(index)?;
        }
        for event in &events {
            if event.data.u64() != TIMER {
                engine.serve(event.data.u64() as usize, event.flags)?;
            }
        }
    }
}

struct Engine<'a> {
    epoll: OwnedFd,
    timer: OwnedFd,
    connections: Vec<Connection>,
    shared: Shared,
    desk: Desk<'a>,
    answered: Vec<Kept>,
    /// Connections whose turn ended before their socket was full: without answers nothing else bounds a turn.
    again: Vec<usize>,
}

/// What is decided about requests and answers; sockets stay outside.
struct Desk<'a> {
    plan: &'a Plan,
    template: Template,
    phase: Phase,
    started: Nanos,
    window: (Nanos, Nanos),
    cpu_before: Nanos,
    tally: Tally,
    noise: Noise,
    correlation: i32,
    /// Open loop: how many were due so far.
    due: u64,
    moved_bytes: u64,
}

impl<'a> Engine<'a> {
    fn connect(plan: &'a Plan) -> Result<Self, LoadError> {
        let os = LoadError::os("setting up epoll");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(&os)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).map_err(&os)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge).map_err(&os)?;
        let mut connections = Vec::with_capacity(plan.connections);
        for index in 0..plan.connections {
            let connection = Connection::open(plan.broker)?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &connection.stream, data, edge | epoll::EventFlags::OUT)
                .map_err(&os)?;
            connections.push(connection);
        }
        let desk = Desk::new(plan);
        let (body, copy) = match plan.work {
            Work::Produce { .. } => (plan.batch.bytes.clone(), false),
            Work::Fetch { copy, .. } => (Bytes::new(), copy),
        };
        let scratch = vec![0; SCRATCH_BYTES];
        let shared = Shared { head_bytes: desk.template.len(), body, copy, scratch };
        let (answered, again) = (Vec::new(), Vec::new());
        Ok(Self { epoll, timer, connections, shared, desk, answered, again })
    }

    fn start(&mut self) -> Result<(), LoadError> {
        self.desk.start(clock::now());
        (0..self.connections.len()).try_for_each(|index| self.top_up(index))
    }

    fn turn(&mut self, now: Nanos, mark: &mut dyn FnMut(Mark)) {
        let next = self.desk.phase_at(now);
        if next == self.desk.phase {
            return;
        }
        if self.desk.phase == Phase::WarmUp {
            self.desk.begin(now);
            mark(Mark::Begin);
        }
        if next == Phase::Drain {
            self.desk.end(now);
            mark(Mark::End);
        }
        self.desk.phase = next;
    }

    fn is_done(&self, now: Nanos) -> Result<bool, LoadError> {
        if self.desk.phase != Phase::Drain {
            return Ok(false);
        }
        let open = self.connections.iter().any(|it| !it.waiting.is_empty());
        if open && now > self.desk.window.1 + DRAIN.as_nanos() as u64 {
            return Err(LoadError::Timeout("an answer to every request"));
        }
        Ok(!open)
    }

    /// Open loop: hands over what is due, and sets the timer for what is next. What was due inside the window is sent
    /// even when its end has passed: leaving it out would hide a stall.
    fn send_due(&mut self, now: Nanos) -> Result<(), LoadError> {
        let Pace::Open { per_second } = self.desk.plan.pace else { return Ok(()) };
        loop {
            let due = self.desk.started + (self.desk.due as f64 * 1e9 / per_second) as u64;
            if due >= self.desk.window.1 {
                return Ok(());
            }
            if due > now {
                let it_value = clock::timespec(due);
                let it_interval = clock::timespec(0);
                let value = Itimerspec { it_interval, it_value };
                timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value)
                    .map_err(LoadError::os("setting the timer"))?;
                return Ok(());
            }
            let index = (self.desk.due % self.connections.len() as u64) as usize;
            self.desk.due += 1;
            self.submit(index, due);
            self.flush(index)?;
            if self.connections[index].waiting.len() > BACKLOG_MAX {
                return Err(LoadError::Timeout("the asked rate"));
            }
        }
    }

    fn wait_at_most(&self, now: Nanos) -> Nanos {
        if !self.again.is_empty() {
            return 0;
        }
        let (begin, end) = self.desk.window;
        let turn = if self.desk.phase == Phase::WarmUp { begin } else { end };
        turn.saturating_sub(now).clamp(1_000, 100_000_000)
    }

    /// A socket has something to read, or room again.
    fn serve(&mut self, index: usize, flags: epoll::EventFlags) -> Result<(), LoadError> {
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            let connection = &mut self.connections[index];
            connection.receive(&mut self.shared, &mut self.answered)?;
            if !self.answered.is_empty() {
                let now = clock::now();
                for answer in self.answered.drain(..) {
                    self.desk.answered(connection, answer.bytes(), now)?;
                }
            }
        }
        self.top_up(index)
    }

    /// Closed loop: as many requests in flight as there shall be. Sends in any case.
    fn top_up(&mut self, index: usize) -> Result<(), LoadError> {
        if let Pace::Closed { in_flight } = self.desk.plan.pace {
            let in_flight = if self.desk.is_fetch() { 1 } else { in_flight };
            let now = clock::now();
            while self.connections[index].waiting.len() < in_flight && self.desk.may_send() {
                self.submit(index, now);
            }
        }
        self.flush(index)
    }

    fn submit(&mut self, index: usize, since: Nanos) {
        let connection = &mut self.connections[index];
        self.desk.correlation = self.desk.correlation.wrapping_add(1);
        let partition = self.desk.partition(index);
        let head = self.desk.template.head(self.desk.correlation, partition, connection.offset);
        connection.submit(head, Waiting { correlation: self.desk.correlation, since });
    }

    fn flush(&mut self, index: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[index];
        if connection.queued() == 0 {
            return Ok(());
        }
        let left = connection.flush(&self.shared)?;
        if left > 0 && self.desk.is_unanswered() {
            let now = clock::now();
            for _ in 0..left {
                self.desk.sent_unanswered(connection, now);
            }
            self.again.push(index);
        }
        Ok(())
    }
}

impl<'a> Desk<'a> {
    fn new(plan: &'a Plan) -> Self {
        let template = match plan.work {
            Work::Produce { acks, .. } => {
                Template::produce(&plan.topic, acks, plan.batch.bytes.len())
            }
            Work::Fetch { fetch_bytes, .. } => Template::fetch(&plan.topic, fetch_bytes as i32),
        };
        Self {
            plan,
            template,
            phase: Phase::WarmUp,
            started: 0,
            window: (0, 0),
            cpu_before: 0,
            tally: Tally::default(),
            noise: Noise(0x2545_f491_4f6c_dd1d),
            correlation: 0,
            due: 0,
            moved_bytes: 0,
        }
    }

    fn start(&mut self, now: Nanos) {
        let begin = now + self.plan.warm_up.as_nanos() as u64;
        self.started = now;
        self.window = (begin, begin + self.plan.measure.as_nanos() as u64);
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

    fn may_send(&self) -> bool {
        self.phase != Phase::Drain
    }

    fn is_fetch(&self) -> bool {
        matches!(self.plan.work, Work::Fetch { .. })
    }

    fn is_unanswered(&self) -> bool {
        matches!(self.plan.work, Work::Produce { acks: 0, .. })
    }

    fn partition(&mut self, connection: usize) -> u32 {
        match self.plan.work {
            Work::Produce { partitions: Partitions::Random(count), .. } => {
                (self.noise.number() >> 16) as u32 % count
            }
            Work::Produce { partitions: Partitions::PerConnection(count), .. }
            | Work::Fetch { partitions: count, .. } => connection as u32 % count,
        }
    }

    fn answered(
        &mut self,
        connection: &mut Connection,
        answer: &[u8],
        now: Nanos,
    ) -> Result<(), LoadError> {
        let waiting = connection.waiting.pop_front();
        let waiting = waiting.ok_or(LoadError::Malformed("an answer that nobody asked for"))?;
        let (correlation, error, batches) = if self.is_fetch() {
            let fetched = Fetched::read(answer)?;
            (fetched.correlation, fetched.error, self.batches_fetched(connection, &fetched)?)
        } else {
            let produced = Produced::read(answer)?;
            (produced.correlation, produced.error, 1)
        };
        if correlation != waiting.correlation {
            return Err(LoadError::Malformed("answers out of order"));
        }
        self.count(waiting.since, now, if error == 0 { Ok(batches) } else { Err(error) });
        Ok(())
    }

    /// Whole batches in an answer; moves the connection on, and back to the start at the end of the log.
    fn batches_fetched(
        &self,
        connection: &mut Connection,
        fetched: &Fetched,
    ) -> Result<u64, LoadError> {
        if fetched.error != 0 {
            return Ok(0);
        }
        if fetched.base_offset.is_some_and(|base| base != connection.offset) {
            return Err(LoadError::Malformed("another batch than the one asked for"));
        }
        let batches = u64::from(fetched.records_bytes) / self.plan.batch.bytes.len() as u64;
        if batches == 0 {
            return Err(LoadError::Malformed("no whole batch"));
        }
        connection.offset += (batches * u64::from(self.plan.batch.records)) as i64;
        if connection.offset >= fetched.high_watermark {
            connection.offset = 0;
        }
        Ok(batches)
    }

    fn sent_unanswered(&mut self, connection: &mut Connection, now: Nanos) {
        if let Some(waiting) = connection.waiting.pop_front() {
            self.count(waiting.since, now, Ok(1));
        }
    }

    fn count(&mut self, since: Nanos, now: Nanos, outcome: Result<u64, i16>) {
        let batches = outcome.unwrap_or(0);
        let payload_bytes = batches * self.plan.batch.payload_bytes;
        self.moved_bytes += payload_bytes;
        let inside = match self.plan.pace {
            Pace::Closed { .. } => self.phase == Phase::Window,
            Pace::Open { .. } => (self.window.0..self.window.1).contains(&since),
        };
        if !inside {
            return;
        }
        if let Err(code) = outcome {
            self.tally.errors += 1;
            self.tally.error_code.get_or_insert(code);
            return;
        }
        self.tally.requests += 1;
        self.tally.records += batches * u64::from(self.plan.batch.records);
        self.tally.payload_bytes += payload_bytes;
        self.tally.latency.record(now.saturating_sub(since));
    }
}

#[cfg(test)]
mod tests;
