//! One partition as a producer sees it: what waits, what is under way, and the numbers that keep it from being written
//! twice.
//!
//! Up to [`IN_FLIGHT_MAX`] batches are under way at once; the broker answers them in order. When one comes back, because
//! the broker could not write it or the connection broke, nothing more is sent until the others have come back too or are
//! written; then all go again, in order. A batch that may have been written keeps its number however often it is sent, and
//! goes alone. A batch that surely was not gets a new number, of a new producer id, when the broker no longer takes the
//! old.
//!
//! No clock, no socket: the driver calls, and carries out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use millrace_model::batch::increment_sequence;
use millrace_proto::v1::ProduceRequest;
use millrace_proto::v1::produce_request::Payload;
use tokio::time::Instant;
use tracing::{debug, debug_span, warn};

use crate::producer::Settings;
use crate::producer::batch::{Batch, Identity, Number, Outgoing};
use crate::producer::ledger::Ledger;
use crate::retry::Backoff;
use crate::{Error, ErrorKind};

/// Batches of one partition under way: as many as the broker remembers the numbers of.
const IN_FLIGHT_MAX: usize = 5;

/// The broker does not expect this number: surely not written, by this try.
const SEQUENCE_REASONS: [&str; 4] = [
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "UNKNOWN_PRODUCER_ID",
    "INVALID_PRODUCER_EPOCH",
    "PRODUCER_FENCED",
];
/// Written long ago, and asked for again.
const DUPLICATE_REASON: &str = "DUPLICATE_SEQUENCE_NUMBER";

/// A partition's batches.
#[derive(Debug)]
pub(super) struct Lane {
    topic: Arc<str>,
    partition: i32,
    /// Who writes new batches; none: the lane waits for a new one.
    identity: Option<Identity>,
    next_sequence: i32,
    /// Of whom the broker knows a number in this partition.
    known: Option<Identity>,
    /// Takes records.
    open: Option<Batch>,
    /// What the last batch was as large as: the next will be about that.
    usual_bytes: usize,
    /// In order, to be sent. Those in front may have been sent before.
    waiting: VecDeque<Batch>,
    /// In order, as sent.
    in_flight: VecDeque<InFlight>,
    /// Batches not yet sent need a new identity, once nothing is under way.
    renew: bool,
    rest_until: Option<Instant>,
    backoff: Backoff,
    last_error: Option<Error>,
}

#[derive(Debug)]
struct InFlight {
    request_id: u64,
    batch: Batch,
    /// It was refused for now: it goes again with all behind it.
    is_back: bool,
}

impl Lane {
    pub(super) fn new(
        topic: Arc<str>,
        partition: i32,
        identity: Option<Identity>,
        backoff: Backoff,
    ) -> Self {
        Self {
            topic,
            partition,
            identity,
            next_sequence: 0,
            known: None,
            open: None,
            usual_bytes: 0,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            renew: false,
            rest_until: None,
            backoff,
            last_error: None,
        }
    }

    /// Takes a record. The answer: when its batch is due.
    pub(super) fn push(
        &mut self,
        outgoing: Outgoing,
        now: Instant,
        settings: &Settings,
        ledger: &mut Ledger,
    ) -> Instant {
        let is_full = |batch: &Batch| batch.size_bytes() + outgoing.bytes > settings.batch_bytes;
        if self.open.as_ref().is_some_and(is_full) {
            self.seal();
        }
        let open = self.open.get_or_insert_with(|| {
            Batch::new(settings.codec, self.usual_bytes, now, now + settings.linger, ledger.begun())
        });
        open.push(outgoing);
        if open.size_bytes() >= settings.batch_bytes {
            open.due = now;
        }
        open.due
    }

    /// The open batch takes no more records.
    pub(super) fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        self.usual_bytes = open.size_bytes();
        self.waiting.push_back(open);
    }

    /// The next batch to go, if one may go now.
    pub(super) fn next(&mut self, now: Instant, request_id: u64) -> Option<ProduceRequest> {
        let rests = self.rest_until.is_some_and(|until| until > now);
        if rests || self.is_halted() {
            return None;
        }
        if self.waiting.is_empty() && self.open.as_ref().is_some_and(|open| open.due <= now) {
            self.seal();
        }
        let number = self.number()?;
        let mut batch = self.waiting.pop_front().expect("a number is a waiting batch's");
        if batch.number.is_none() {
            self.next_sequence = increment_sequence(number.sequence, batch.count());
        }
        let bytes = batch.numbered(number);
        let (topic, partition, records) = (&*self.topic, self.partition, batch.count());
        if batch.span.is_none() {
            batch.span = debug_span!("produce", topic, partition, records, bytes = bytes.len());
        }
        debug!(parent: &batch.span, sequence = number.sequence, "sent");
        self.in_flight.push_back(InFlight { request_id, batch, is_back: false });
        Some(ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(partition),
            sequence: None,
            request_id,
            payload: Some(Payload::Batch(bytes)),
        })
    }

    /// The number of the batch that is next, if it may go behind those under way.
    fn number(&self) -> Option<Number> {
        let front = self.waiting.front()?;
        let number = match (front.number, self.identity) {
            (Some(number), _) => number,
            (None, Some(identity)) => Number { identity, sequence: self.next_sequence },
            (None, None) => return None,
        };
        (self.in_flight.is_empty() || self.may_follow(front, number.identity)).then_some(number)
    }

    /// May this batch go while others are under way?
    fn may_follow(&self, batch: &Batch, identity: Identity) -> bool {
        // The broker keeps the order of one identity's batches, once it knows one of them: as Kafka's, it takes any number
        // for the first. What may have been written goes alone, or the broker would forget its number over those behind.
        let is_alike = |it: &Batch| {
            !it.doubtful && it.number.is_some_and(|number| number.identity == identity)
        };
        self.known == Some(identity)
            && self.in_flight.len() < IN_FLIGHT_MAX
            && !batch.doubtful
            && self.in_flight.iter().all(|it| is_alike(&it.batch))
    }

    /// Does it wait until what is under way has come back?
    fn is_halted(&self) -> bool {
        self.renew || self.in_flight.iter().any(|it| it.is_back)
    }

    pub(super) fn needs_identity(&self) -> bool {
        self.identity.is_none() && self.waiting.front().is_some_and(|it| it.number.is_none())
    }

    /// Whose batches these are from now on.
    pub(super) fn identify(&mut self, identity: Identity) {
        if self.identity.is_none() {
            (self.identity, self.next_sequence) = (Some(identity), 0);
        }
    }

    pub(super) fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    /// A request was answered: its records are written.
    pub(super) fn written(&mut self, request_id: u64, base_offset: i64, ledger: &mut Ledger) {
        let Some(mut it) = self.take(request_id) else { return };
        self.backoff.reset();
        self.known = it.batch.number.map(|number| number.identity);
        if !it.batch.is_settled() {
            it.batch.acknowledge(self.partition, base_offset);
            ledger.answered(it.batch.epoch, None);
        }
        self.turn_back();
    }

    /// A request was answered: its records are not written, for now or for good.
    pub(super) fn refused(
        &mut self,
        request_id: u64,
        error: Error,
        now: Instant,
        ledger: &mut Ledger,
    ) {
        let Some(at) = self.in_flight.iter().position(|it| it.request_id == request_id) else {
            return;
        };
        let reason = error.reason().unwrap_or_default();
        if reason == DUPLICATE_REASON {
            return self.written(request_id, -1, ledger);
        }
        if SEQUENCE_REASONS.contains(&reason) {
            // Behind one that came back this is no wonder. Alone it means that the number will never do.
            self.renew |= !self.in_flight.range(..at).any(|it| it.is_back);
            let it = &mut self.in_flight[at];
            (it.is_back, it.batch.doubtful) = (true, false);
        } else if error.is_retriable() {
            let it = &mut self.in_flight[at];
            (it.is_back, it.batch.doubtful) = (true, true);
            self.rest(now, error.retry_after());
        } else {
            self.give_up(at, &error, ledger);
        }
        let (topic, partition) = (&*self.topic, self.partition);
        debug!(topic, partition, %error, "batch refused");
        self.last_error = Some(error);
        self.turn_back();
    }

    fn rest(&mut self, now: Instant, at_least: Option<Duration>) {
        let pause = self.backoff.pause().max(at_least.unwrap_or_default());
        self.rest_until = Some(now + pause);
    }

    /// A batch that will never be written: the numbers behind it do not follow any more.
    fn give_up(&mut self, at: usize, error: &Error, ledger: &mut Ledger) {
        let mut it = self.in_flight.remove(at).expect("it was found there");
        let number = it.batch.number.expect("what was sent has a number");
        let is_last =
            at == self.in_flight.len() && self.waiting.iter().all(|it| it.number.is_none());
        let is_unused = is_last && !it.batch.doubtful && surely_not_written(error.kind());
        if is_unused && self.identity == Some(number.identity) {
            self.next_sequence = number.sequence;
        } else {
            self.renew = true;
        }
        if !it.batch.is_settled() {
            it.batch.fail(error);
            ledger.answered(it.batch.epoch, Some(error.clone()));
        }
    }

    /// The connection is gone, and with it the answers to all that was under way.
    pub(super) fn lost(&mut self) {
        for it in &mut self.in_flight {
            it.batch.doubtful |= !it.is_back;
            it.is_back = true;
        }
        self.turn_back();
    }

    /// Once all that is under way has come back, it waits to go again, in order.
    fn turn_back(&mut self) {
        if !self.in_flight.iter().all(|it| it.is_back) {
            return;
        }
        while let Some(it) = self.in_flight.pop_back() {
            // What has its answer, after too long a time, is not sent again.
            if !it.batch.is_settled() {
                self.waiting.push_front(it.batch);
            }
        }
        if std::mem::take(&mut self.renew) {
            (self.identity, self.next_sequence) = (None, 0);
            for batch in &mut self.waiting {
                batch.number = batch.number.filter(|_| batch.doubtful);
            }
        }
    }

    /// Answers those who have waited too long. What is under way may still be written.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        timeout: Duration,
        broken: Option<&Error>,
        ledger: &mut Ledger,
    ) {
        let is_over = |batch: &Batch| !batch.is_settled() && now >= batch.born + timeout;
        let last = self.last_error.as_ref().or(broken).map(Error::to_string).unwrap_or_default();
        let error = Error::Timeout { waited: timeout, last };
        let (topic, partition) = (&*self.topic, self.partition);
        let under_way = self.in_flight.iter_mut().map(|it| &mut it.batch);
        for batch in under_way.chain(&mut self.waiting).chain(&mut self.open) {
            if is_over(batch) {
                warn!(topic, partition, records = batch.count(), %error, "batch given up");
                batch.fail(&error);
                ledger.answered(batch.epoch, Some(error.clone()));
            }
        }
        self.waiting.retain(|it| !it.is_settled());
        if self.open.as_ref().is_some_and(Batch::is_settled) {
            self.open = None;
        }
    }

    fn take(&mut self, request_id: u64) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|it| it.request_id == request_id)?;
        self.in_flight.remove(at)
    }
}

/// Is this said of batches only before they are written? Were their numbers given to others after all, the broker would
/// take those for the same batches sent again.
fn surely_not_written(kind: ErrorKind) -> bool {
    use ErrorKind::{InvalidArgument, NotFound, PermissionDenied, Unimplemented};
    matches!(kind, InvalidArgument | NotFound | PermissionDenied | Unimplemented)
}
