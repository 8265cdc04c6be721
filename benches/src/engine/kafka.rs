//! The Kafka door: one thread, nonblocking connections over epoll, requests from a template.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::book::Book;
use super::connection::{Connection, Kept, Shared, Waiting};
use super::{BACKLOG_MAX, Mark, Pace, Partitions, Plan, Tally, Work};
use crate::batch::Noise;
use crate::clock::{self, Nanos};
use crate::error::LoadError;
use crate::protocol::{Fetched, Produced, Template};

const SCRATCH_BYTES: usize = 4 << 20;
const TIMER: u64 = u64::MAX;
const EVENTS: usize = 256;

/// Runs a plan through the Kafka door.
pub(super) fn run(plan: &Plan, mark: &mut dyn FnMut(Mark)) -> Result<Tally, LoadError> {
    let mut engine = Engine::connect(plan)?;
    let mut events = Vec::with_capacity(EVENTS);
    engine.start()?;
    loop {
        let now = clock::now();
        engine.desk.book.turn(now, mark);
        engine.send_due(now)?;
        if engine.is_done(now)? {
            return Ok(engine.desk.book.tally);
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
    book: Book<'a>,
    template: Template,
    noise: Noise,
    correlation: i32,
    /// Open loop: how many were due so far.
    due: u64,
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
        self.desk.book.start(clock::now());
        (0..self.connections.len()).try_for_each(|index| self.top_up(index))
    }

    fn is_done(&self, now: Nanos) -> Result<bool, LoadError> {
        let open = self.connections.iter().any(|it| !it.waiting.is_empty());
        self.desk.book.is_done(open, now)
    }

    /// Open loop: hands over what is due, and sets the timer for what is next. What was due inside the window is sent
    /// even when its end has passed: leaving it out would hide a stall.
    fn send_due(&mut self, now: Nanos) -> Result<(), LoadError> {
        let Some(schedule) = self.desk.book.schedule() else { return Ok(()) };
        loop {
            let Some(due) = schedule.due(self.desk.due) else { return Ok(()) };
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
        self.desk.book.until_turn(now).clamp(1_000, 100_000_000)
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
            while self.connections[index].waiting.len() < in_flight && self.desk.book.may_send() {
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
        let noise = Noise(0x2545_f491_4f6c_dd1d);
        Self { plan, book: Book::new(plan), template, noise, correlation: 0, due: 0 }
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
        let done = self.book.batches(batches);
        self.book.count(waiting.since, now, if error == 0 { Ok(done) } else { Err(error) });
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
            self.book.count(waiting.since, now, Ok(self.book.batches(1)));
        }
    }
}
