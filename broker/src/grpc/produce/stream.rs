//! `ProduceStream`: many requests in flight, answered in the order in which they came.
//!
//! One task per stream. It reads as far ahead as the limits below and the node's byte budget allow, hands what arrived
//! together to the partitions together, and answers each request once its records are safe; while the oldest is not,
//! younger ones wait, so answers of one partition are in order. A client that does not take its answers stops being
//! read; the budget's bytes are given back as soon as records are safe, taken or not.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::future::BoxFuture;
use millrace_proto::v1::produce_stream_response::Result as Outcome;
use millrace_proto::v1::{ProduceRequest, ProduceStreamResponse};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::error::BrokerError;
use crate::grpc::errors;
use crate::grpc::produce::{Desk, Prepared, TIMEOUT_MS, written};
use crate::metrics::GrpcCall;
use crate::partition::handle::Posted;
use crate::service::produce::{self, Pending};
use crate::service::{Hall, HeldBytes};
use crate::shutdown::Shutdown;

/// Requests of one stream that are not answered yet,
const IN_FLIGHT_MAX: usize = 1024;
/// and their bytes; with at least one request read, the stream is not read beyond.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// Requests taken before others have their turn.
const TAKEN_AT_ONCE_MAX: usize = 64;
/// Answers that wait for the client.
const ANSWERS_MAX: usize = 64;

type Answer = Result<ProduceStreamResponse, Status>;

/// Starts the task of one stream.
pub(super) fn serve(
    desk: Arc<Desk>,
    requests: Streaming<ProduceRequest>,
    shutdown: Shutdown,
) -> ReceiverStream<Answer> {
    let (answers, taken) = mpsc::channel(ANSWERS_MAX);
    let exchange = Exchange {
        desk: Arc::clone(&desk),
        requests,
        answers: answers.clone(),
        in_flight: VecDeque::new(),
        in_flight_bytes: 0,
        preparing: None,
        room: None,
        done: Arc::new(Notify::new()),
        end: None,
    };
    let serving = async move {
        // The status goes behind every answer, and waits for the client as they do.
        if let Err(status) = errors::guarded(&desk.hall, exchange.run(shutdown)).await {
            let _ = answers.send(Err(status)).await;
        }
    };
    tokio::spawn(serving.in_current_span());
    ReceiverStream::new(taken)
}

struct Exchange {
    desk: Arc<Desk>,
    requests: Streaming<ProduceRequest>,
    answers: mpsc::Sender<Answer>,
    /// In the order of their requests.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// A request that waits for its topic to be created, or for the node's budget; none is read meanwhile.
    preparing: Option<BoxFuture<'static, Readied>>,
    /// While an answer waits for the client to take others.
    room: Option<BoxFuture<'static, ()>>,
    /// Told when one of `in_flight` may be done.
    done: Arc<Notify>,
    /// No further request comes, and why.
    end: Option<Result<(), Status>>,
}

/// A request that is read, and what became of it so far.
struct Readied {
    request_id: u64,
    prepared: Result<Prepared, BrokerError>,
}

/// A request that is not answered yet.
struct InFlight {
    request_id: u64,
    bytes: usize,
    state: State,
}

/// The client takes no more answers.
struct Closed;

/// How far the requests that have arrived are read.
enum Reading {
    /// All of them: the next one wakes the task.
    Waiting,
    /// Not further for now, because of a limit, or one that must be prepared first.
    Paused,
    /// Others have their turn; there may be more.
    More,
}

enum State {
    Refused(BrokerError),
    Written {
        partition: i32,
        pending: Arc<Pending>,
        /// Given back once the records are safe.
        held: Option<HeldBytes>,
    },
}

impl Exchange {
    /// Serves until the last request is answered, or the client is gone.
    async fn run(mut self, shutdown: Shutdown) -> Result<(), Status> {
        let (answers, done) = (self.answers.clone(), Arc::clone(&self.done));
        // Made once and asked again and again: their places in the queues that wake them are kept.
        let mut gone = pin!(answers.closed());
        let mut stopping = pin!(shutdown.requested());
        let mut told = pin!(done.notified());
        let mut alarm = pin!(tokio::time::sleep(Duration::from_millis(TIMEOUT_MS)));
        poll_fn(|context| {
            loop {
                if gone.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Ok(()));
                }
                // Before looking at what is done: what is done afterwards wakes this task again.
                while told.as_mut().poll(context).is_ready() {
                    told.set(done.notified());
                }
                if self.end.is_none() && stopping.as_mut().poll(context).is_ready() {
                    self.end = Some(Err(errors::status(&BrokerError::ShuttingDown)));
                }
                self.poll_preparing(context);
                let reading = self.poll_arrived(context);
                self.poll_alarm(alarm.as_mut(), context);
                if self.answer_done().is_err() {
                    return Poll::Ready(Ok(()));
                }
                if self.is_over() {
                    return Poll::Ready(self.end.take().unwrap_or(Ok(())));
                }
                match reading {
                    Reading::More => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    // The answers made room: nothing would wake this task for requests that nobody asked for.
                    Reading::Paused if self.may_read() => {}
                    Reading::Paused | Reading::Waiting => {
                        if self.poll_room(context).is_pending() {
                            return Poll::Pending;
                        }
                    }
                }
            }
        })
        .await
    }

    fn is_over(&self) -> bool {
        self.end.is_some() && self.preparing.is_none() && self.in_flight.is_empty()
    }

    fn may_read(&self) -> bool {
        self.end.is_none()
            && self.preparing.is_none()
            && self.in_flight.len() < IN_FLIGHT_MAX
            && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
    }

    /// Takes what is here, so that partitions get it as one.
    fn poll_arrived(&mut self, context: &mut Context<'_>) -> Reading {
        let mut posted = Posted::default();
        for _ in 0..TAKEN_AT_ONCE_MAX {
            if !self.may_read() {
                return Reading::Paused;
            }
            match Pin::new(&mut self.requests).poll_next(context) {
                Poll::Pending => return Reading::Waiting,
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(status)),
                Poll::Ready(Some(Ok(request))) => self.take(request, context, &mut posted),
            }
        }
        Reading::More
    }

    fn take(&mut self, request: ProduceRequest, context: &mut Context<'_>, posted: &mut Posted) {
        let request_id = request.request_id;
        match self.desk.prepare_now(request) {
            Ok(prepared) => self.start(Readied { request_id, prepared }, posted),
            Err(request) => {
                let desk = Arc::clone(&self.desk);
                self.preparing = Some(Box::pin(async move {
                    Readied { request_id, prepared: desk.prepare(*request).await }
                }));
                self.poll_preparing(context);
            }
        }
    }

    fn poll_preparing(&mut self, context: &mut Context<'_>) {
        if let Some(preparing) = &mut self.preparing
            && let Poll::Ready(readied) = preparing.as_mut().poll(context)
        {
            self.preparing = None;
            self.start(readied, &mut Posted::default());
        }
    }

    /// Times out what is too late. The alarm is set anew only when it rings, far less often than requests come: none that
    /// comes later has an earlier deadline.
    fn poll_alarm(&self, mut alarm: Pin<&mut Sleep>, context: &mut Context<'_>) {
        while alarm.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let is_late = |it: &&InFlight| it.deadline().is_some_and(|deadline| deadline <= now);
            self.in_flight.iter().filter(is_late).for_each(InFlight::time_out);
            let mut deadlines = self.in_flight.iter().filter_map(InFlight::deadline);
            let next = deadlines.find(|deadline| *deadline > now);
            alarm.as_mut().reset(next.unwrap_or(now + Duration::from_millis(TIMEOUT_MS)));
        }
    }

    /// Waits for room where an answer waits for it.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.in_flight.front().is_some_and(InFlight::is_done) {
            return Poll::Pending;
        }
        let room = self.room.get_or_insert_with(|| {
            let answers = self.answers.clone();
            Box::pin(async move { drop(answers.reserve_owned().await) })
        });
        let room = room.as_mut().poll(context);
        if room.is_ready() {
            self.room = None;
        }
        room
    }

    /// Hands a request's batch to its partition.
    fn start(&mut self, readied: Readied, posted: &mut Posted) {
        let Readied { request_id, prepared } = readied;
        let in_flight = match prepared {
            Ok(Prepared { request, partition, held }) => {
                let pending = produce::start(&self.desk.hall, request, &self.done, posted);
                let bytes = held.bytes();
                let state = State::Written { partition, pending, held: Some(held) };
                InFlight { request_id, bytes, state }
            }
            Err(error) => InFlight { request_id, bytes: 0, state: State::Refused(error) },
        };
        self.in_flight_bytes += in_flight.bytes;
        self.in_flight.push_back(in_flight);
    }

    /// Answers the oldest requests as far as they are done and there is room; fails when nobody takes answers any more.
    fn answer_done(&mut self) -> Result<(), Closed> {
        while self.in_flight.front().is_some_and(InFlight::is_done) {
            if self.answers.capacity() == 0 {
                self.give_back_bytes();
                return if self.answers.is_closed() { Err(Closed) } else { Ok(()) };
            }
            let permit = self.answers.try_reserve().map_err(|_| Closed)?;
            let head = self.in_flight.pop_front().expect("it was looked at above");
            self.in_flight_bytes -= head.bytes;
            permit.send(Ok(head.answer(&self.desk.hall)));
        }
        Ok(())
    }

    /// A client that takes its time keeps nothing from others.
    fn give_back_bytes(&mut self) {
        for in_flight in &mut self.in_flight {
            if let State::Written { pending, held, .. } = &mut in_flight.state
                && pending.is_done()
            {
                *held = None;
            }
        }
    }
}

impl InFlight {
    fn is_done(&self) -> bool {
        match &self.state {
            State::Refused(_) => true,
            State::Written { pending, .. } => pending.is_done(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Refused(_) => None,
            State::Written { pending, .. } => Some(pending.deadline()),
        }
    }

    fn time_out(&self) {
        if let State::Written { pending, .. } = &self.state {
            pending.time_out();
        }
    }

    fn answer(self, hall: &Hall) -> ProduceStreamResponse {
        let refused = |error| Outcome::Refused(errors::item(&error));
        let result = match self.state {
            State::Refused(error) => refused(error),
            State::Written { partition, pending, .. } => {
                let result = pending.take_results().next().expect("one part has one result");
                hall.metrics.grpc_answered(GrpcCall::ProduceStream, pending.answered());
                result.map_or_else(refused, |it| Outcome::Written(written(partition, &it)))
            }
        };
        ProduceStreamResponse { request_id: self.request_id, result: Some(result) }
    }
}
