//! The one task of a producer: it owns the lanes and the stream, and nobody else touches them.
//!
//! It waits for records, answers, the end of a pause; each is applied, and then what may go is sent.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use millrace_model::env::Prng;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_proto::v1::produce_stream_response::Result as Answer;
use millrace_proto::v1::{InitProducerRequest, ProduceStreamResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::producer::Settings;
use crate::producer::batch::{Identity, Outgoing};
use crate::producer::lane::Lane;
use crate::producer::ledger::Ledger;
use crate::producer::link::{Link, LinkEvent, Sent};
use crate::retry::{Backoff, luck};
use crate::{Client, Error};

/// Messages taken at once before what they bring is sent.
const MESSAGES_MAX: usize = 256;
/// How often is looked for records that wait for too long.
const SWEEP: Duration = Duration::from_millis(100);

/// What the driver is asked to do.
#[derive(Debug)]
pub(super) enum Message {
    Record {
        topic: Arc<str>,
        target: Target,
        outgoing: Outgoing,
    },
    /// Somebody waits for room: nothing lingers.
    Hurry,
    Flush {
        done: oneshot::Sender<Result<(), Error>>,
    },
    Close {
        done: oneshot::Sender<Result<(), Error>>,
    },
}

/// Which partition a record goes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Partition(i32),
    /// Any of so many.
    AnyOf(i32),
}

/// Asks the broker for a new id.
pub(super) async fn identify(client: Client) -> Result<Identity, Error> {
    let request = client.request(InitProducerRequest {});
    let answer = client.produce_door().init_producer(request).await?.into_inner();
    let epoch = i16::try_from(answer.producer_epoch);
    let epoch = epoch.map_err(|_| Error::Nonsense { reason: "a producer's epoch".to_owned() })?;
    Ok(Identity { id: ProducerId(answer.producer_id), epoch: ProducerEpoch(epoch) })
}

type Identifying = Pin<Box<dyn Future<Output = Result<Identity, Error>> + Send>>;

/// A producer's state.
pub(super) struct Driver {
    client: Client,
    settings: Settings,
    inbox: mpsc::Receiver<Message>,
    /// What came out of it, until it is applied.
    taken: Vec<Message>,
    /// Nothing more comes.
    is_closed: bool,
    lanes: Vec<Lane>,
    index: HashMap<(Arc<str>, i32), usize>,
    favourites: HashMap<Arc<str>, Favourite>,
    /// Lanes that may have something to send, each once.
    ready: VecDeque<usize>,
    is_ready: Vec<bool>,
    /// When lanes are to be looked at again.
    alarms: BTreeSet<(Instant, usize)>,
    /// The lane of each request under way.
    under_way: HashMap<u64, usize>,
    next_request: u64,
    link: Link,
    backoff: Backoff,
    /// Why the stream is not up.
    broken: Option<Error>,
    identity: Identity,
    identifying: Option<Identifying>,
    ledger: Ledger,
    flushes: VecDeque<(u64, oneshot::Sender<Result<(), Error>>)>,
    sweep_at: Instant,
    luck: Prng,
}

/// The partition that a topic's records without key and partition go to for a while.
struct Favourite {
    partition: i32,
    /// What it got since it was chosen.
    bytes: usize,
}

/// What a driver waits for.
enum Event {
    /// `taken` has them.
    Messages,
    Closed,
    Link(LinkEvent),
    Identified(Result<Identity, Error>),
    Alarm,
}

impl Driver {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        identity: Identity,
        inbox: mpsc::Receiver<Message>,
    ) -> Self {
        Self {
            backoff: client.backoff(),
            client,
            settings,
            inbox,
            taken: Vec::with_capacity(MESSAGES_MAX),
            is_closed: false,
            lanes: Vec::new(),
            index: HashMap::new(),
            favourites: HashMap::new(),
            ready: VecDeque::new(),
            is_ready: Vec::new(),
            alarms: BTreeSet::new(),
            under_way: HashMap::new(),
            next_request: 0,
            link: Link::Down,
            broken: None,
            identity,
            identifying: None,
            ledger: Ledger::default(),
            flushes: VecDeque::new(),
            sweep_at: Instant::now(),
            luck: luck(),
        }
    }

    /// Runs until all producers are gone, or one was closed, and everything is answered.
    pub(super) async fn run(mut self) {
        loop {
            self.advance();
            if self.is_closed && self.ledger.is_empty() {
                return;
            }
            let event = self.event().await;
            self.apply(event);
        }
    }

    async fn event(&mut self) -> Event {
        let alarm = self.alarm();
        tokio::select! {
            count = self.inbox.recv_many(&mut self.taken, MESSAGES_MAX), if !self.is_closed => {
                if count == 0 { Event::Closed } else { Event::Messages }
            }
            event = self.link.event() => Event::Link(event),
            identity = outcome(&mut self.identifying) => Event::Identified(identity),
            () = tokio::time::sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {
                Event::Alarm
            }
        }
    }

    /// When there is something to do though nothing happens.
    fn alarm(&self) -> Option<Instant> {
        let lane = self.alarms.first().map(|(at, _)| *at);
        let sweep = (!self.ledger.is_empty()).then_some(self.sweep_at);
        lane.into_iter().chain(sweep).min()
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Messages => self.handle_messages(),
            Event::Closed => self.close(),
            Event::Link(event) => self.handle_link(event),
            Event::Identified(identity) => {
                self.identifying = None;
                self.handle_identity(identity);
            }
            // `advance` looks at the clock.
            Event::Alarm => {}
        }
    }

    // ---- Messages ----

    fn handle_messages(&mut self) {
        let now = Instant::now();
        let mut taken = std::mem::take(&mut self.taken);
        taken.drain(..).for_each(|message| self.handle(message, now));
        self.taken = taken;
    }

    fn handle(&mut self, message: Message, now: Instant) {
        match message {
            Message::Record { topic, target, outgoing } => self.take(topic, target, outgoing, now),
            Message::Hurry => self.seal_all(),
            Message::Flush { done } => self.flush(done),
            Message::Close { done } => {
                self.flush(done);
                self.close();
            }
        }
    }

    fn take(&mut self, topic: Arc<str>, target: Target, outgoing: Outgoing, now: Instant) {
        let partition = match target {
            Target::Partition(partition) => partition,
            Target::AnyOf(count) => self.favourite(&topic, count, outgoing.bytes),
        };
        let lane = self.lane(topic, partition);
        let due = self.lanes[lane].push(outgoing, now, &self.settings, &mut self.ledger);
        if due > now {
            self.alarms.insert((due, lane));
        }
        self.make_ready(lane);
    }

    /// Stays with one partition for a batch's worth of bytes, so that batches fill; then luck chooses another (KIP-794).
    fn favourite(&mut self, topic: &Arc<str>, count: i32, bytes: usize) -> i32 {
        let batch_bytes = self.settings.batch_bytes;
        match self.favourites.get_mut(topic) {
            Some(it) if it.bytes < batch_bytes && it.partition < count => {
                it.bytes += bytes;
                it.partition
            }
            _ => {
                let partition = self.luck.below(count.max(1) as u64) as i32;
                self.favourites.insert(Arc::clone(topic), Favourite { partition, bytes });
                partition
            }
        }
    }

    fn lane(&mut self, topic: Arc<str>, partition: i32) -> usize {
        let Self { lanes, index, is_ready, identity, client, .. } = self;
        *index.entry((Arc::clone(&topic), partition)).or_insert_with(|| {
            lanes.push(Lane::new(topic, partition, Some(*identity), client.backoff()));
            is_ready.push(false);
            lanes.len() - 1
        })
    }

    fn flush(&mut self, done: oneshot::Sender<Result<(), Error>>) {
        self.seal_all();
        self.flushes.push_back((self.ledger.flush(), done));
    }

    fn seal_all(&mut self) {
        for lane in 0..self.lanes.len() {
            self.lanes[lane].seal();
            self.make_ready(lane);
        }
    }

    /// Nothing more is taken; what was taken is still sent.
    fn close(&mut self) {
        self.inbox.close();
        self.is_closed = true;
        self.seal_all();
    }

    // ---- The stream ----

    fn handle_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Rested => self.link = Link::Down,
            LinkEvent::Opened(Ok(up)) => {
                debug!("produce stream opened");
                (self.link, self.broken) = (Link::Up(Box::new(up)), None);
                self.all_ready();
            }
            LinkEvent::Opened(Err(error)) => self.rest(error),
            LinkEvent::Answered(answer) => self.handle_answer(answer),
            LinkEvent::HasRoom => {}
            LinkEvent::Lost(error) => {
                for lane in &mut self.lanes {
                    lane.lost();
                }
                self.under_way.clear();
                self.rest(error);
            }
        }
    }

    fn rest(&mut self, error: Error) {
        let pause = self.backoff.pause().max(error.retry_after().unwrap_or_default());
        if self.ledger.is_empty() {
            debug!(%error, "produce stream ended");
        } else {
            warn!(%error, pause_ms = pause.as_millis() as u64, "produce stream broke, opened again");
        }
        self.broken = Some(error);
        self.link = Link::Resting(Instant::now() + pause);
    }

    fn handle_answer(&mut self, answer: ProduceStreamResponse) {
        let ProduceStreamResponse { request_id, result } = answer;
        let Some(at) = self.under_way.remove(&request_id) else { return };
        self.backoff.reset();
        let (lane, ledger) = (&mut self.lanes[at], &mut self.ledger);
        match result {
            Some(Answer::Written(it)) => lane.written(request_id, it.base_offset, ledger),
            Some(Answer::Refused(status)) => {
                let error = Error::of_item(Some(status)).err();
                let error = error.unwrap_or_else(|| Error::missing("the reason of a refusal"));
                lane.refused(request_id, error, Instant::now(), ledger);
            }
            None => {
                let error = Error::missing("the result of a write");
                lane.refused(request_id, error, Instant::now(), ledger);
            }
        }
        self.make_ready(at);
    }

    fn handle_identity(&mut self, identity: Result<Identity, Error>) {
        match identity {
            Ok(identity) => {
                self.identity = identity;
                for lane in &mut self.lanes {
                    lane.identify(identity);
                }
                self.all_ready();
            }
            Err(error) => {
                warn!(%error, "no producer id from the broker, asked again");
                self.broken = Some(error);
                self.identify_later();
            }
        }
    }

    // ---- Sending ----

    /// Does all that can be done now.
    fn advance(&mut self) {
        let now = Instant::now();
        self.ring(now);
        self.sweep(now);
        if matches!(self.link, Link::Down) && !self.ledger.is_empty() {
            self.link = Link::open(self.client.clone());
        }
        self.send(now);
        self.finish_flushes();
    }

    fn ring(&mut self, now: Instant) {
        while let Some((at, lane)) = self.alarms.first().copied()
            && at <= now
        {
            self.alarms.pop_first();
            self.make_ready(lane);
        }
    }

    fn sweep(&mut self, now: Instant) {
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP;
        let timeout = self.settings.delivery_timeout;
        for lane in &mut self.lanes {
            lane.expire(now, timeout, self.broken.as_ref(), &mut self.ledger);
        }
    }

    fn send(&mut self, now: Instant) {
        while let Some(at) = self.ready.front().copied() {
            let (lane, request_id) = (&mut self.lanes[at], self.next_request);
            match self.link.send(|| lane.next(now, request_id)) {
                Sent::NoRoom => return,
                Sent::One => {
                    self.next_request += 1;
                    self.under_way.insert(request_id, at);
                    // Lanes take turns.
                    self.ready.rotate_left(1);
                }
                Sent::Nothing => {
                    self.ready.pop_front();
                    self.is_ready[at] = false;
                    self.look_again(at, now);
                }
            }
        }
    }

    /// What a lane that sends nothing waits for, unless it is an answer.
    fn look_again(&mut self, at: usize, now: Instant) {
        let lane = &self.lanes[at];
        if let Some(until) = lane.rest_until().filter(|until| *until > now) {
            self.alarms.insert((until, at));
        }
        if lane.needs_identity() && self.identifying.is_none() {
            self.identifying = Some(Box::pin(identify(self.client.clone())));
        }
    }

    fn identify_later(&mut self) {
        let (pause, client) = (self.backoff.pause(), self.client.clone());
        self.identifying = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            identify(client).await
        }));
    }

    fn finish_flushes(&mut self) {
        while let Some((epoch, _)) = self.flushes.front()
            && self.ledger.is_done(*epoch)
        {
            let (epoch, done) = self.flushes.pop_front().expect("it was just seen");
            // Whoever waited may have gone.
            let _ = done.send(self.ledger.verdict(epoch));
        }
    }

    fn make_ready(&mut self, lane: usize) {
        if !std::mem::replace(&mut self.is_ready[lane], true) {
            self.ready.push_back(lane);
        }
    }

    fn all_ready(&mut self) {
        for lane in 0..self.lanes.len() {
            self.make_ready(lane);
        }
    }
}

/// The outcome of what is under way, if anything is.
async fn outcome(identifying: &mut Option<Identifying>) -> Result<Identity, Error> {
    match identifying {
        Some(identifying) => identifying.await,
        None => std::future::pending().await,
    }
}
