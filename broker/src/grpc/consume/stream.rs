//! `Consume`: one task per stream, which does one thing at a time for its client.
//!
//! ```text
//!   requests -->  outbox (answers to them)  --+
//!   group    -->  outbox (assigned, revoked) -+--> room for one answer --> the client
//!   log      -->  one read, when there is room, credit and nothing in the outbox
//! ```
//! A read begins only when its answer can leave, and what it found counts as delivered only when it leaves: so whatever
//! changes in between (a seek, a pause, a rebalance), the read is dropped and nothing is lost. A slow client holds one
//! answer here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use millrace_model::offset::Offset;
use millrace_proto::v1::consume_request::Request;
use millrace_proto::v1::consume_response::Response;
use millrace_proto::v1::start::Source;
use millrace_proto::v1::{
    AssignedPartitions, Assignment, ConsumeRequest, ConsumeResponse, Format, Partitions, Revoked,
    Seek, Start, StartPartition, StreamCommit, StreamCommitted, TopicPartition,
};
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::error::BrokerError;
use crate::grpc::consume::cursors::{Cursor, Cursors, Slot};
use crate::grpc::consume::holders::Holders;
use crate::grpc::consume::member::{Assigned, Event, Identity, Membership};
use crate::grpc::consume::read::{self, Ask, Read, Rest};
use crate::grpc::consume::{commit, place};
use crate::grpc::errors;
use crate::partition::handle::PartitionHandle;
use crate::service::Hall;
use crate::service::offsets::{self, Place};
use crate::shutdown::Shutdown;

/// How long a stream may take to say what it wants.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Partitions that a stream may name.
const PARTITIONS_MAX: usize = 10_000;
/// Bytes of records in one answer unless the client says otherwise, and the most that it may say.
const ANSWER_BYTES_DEFAULT: usize = 1024 * 1024;
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Answers that wait for the client beside records; with so many, no further request is read.
const OUTBOX_MAX: usize = 64;
/// The rest of an unpacked batch is kept this long for a client that takes its time; then it is unpacked again.
const REST_KEPT: Duration = Duration::from_secs(1);

pub(super) type Answer = Result<ConsumeResponse, Status>;

/// Starts the task of one stream.
pub(super) fn serve(
    hall: Arc<Hall>,
    holders: Arc<Holders>,
    requests: Streaming<ConsumeRequest>,
    client_host: String,
    shutdown: Shutdown,
) -> ReceiverStream<Answer> {
    // One answer waits while the one before it leaves.
    let (answers, taken) = mpsc::channel(1);
    let stream = Stream {
        hall: Arc::clone(&hall),
        holders,
        requests,
        requests_ended: false,
        answers: answers.clone(),
        permit: None,
        outbox: VecDeque::new(),
        cursors: Cursors::default(),
        reading: None,
        rest: None,
        terms: Terms { credit: None, bytes_max: ANSWER_BYTES_DEFAULT, format: Format::Records },
        group: None,
        committing: None,
    };
    let serving = async move {
        let served = stream.run(client_host, shutdown);
        if let Err(status) = errors::guarded(&hall, served).await {
            let _ = answers.send(Err(status)).await;
        }
    };
    tokio::spawn(serving.in_current_span());
    ReceiverStream::new(taken)
}

struct Stream {
    hall: Arc<Hall>,
    holders: Arc<Holders>,
    requests: Streaming<ConsumeRequest>,
    requests_ended: bool,
    answers: mpsc::Sender<Answer>,
    /// Room for one answer.
    permit: Option<OwnedPermit<Answer>>,
    /// What must be said before any further records.
    outbox: VecDeque<Response>,
    cursors: Cursors,
    /// Invariant: runs only while there is a permit, and never over a change of `cursors`.
    reading: Option<BoxFuture<'static, Read>>,
    rest: Option<(Box<Rest>, Instant)>,
    terms: Terms,
    group: Option<Group>,
    /// One commit at a time; no request is read meanwhile.
    committing: Option<BoxFuture<'static, StreamCommitted>>,
}

/// What the client wants of every answer.
struct Terms {
    /// Bytes that it still takes; `None` for no limit.
    credit: Option<i64>,
    bytes_max: usize,
    format: Format,
}

/// A stream's group.
struct Group {
    membership: Membership,
    /// Where to begin where nothing is committed.
    reset: Option<Place>,
    /// Revoked, and not known to be released.
    releasing: Vec<TopicPartition>,
}

/// What happens next in a stream.
enum Turn {
    /// The client takes no more answers.
    Gone,
    Stopping,
    Room(OwnedPermit<Answer>),
    Member(Event),
    Committed(StreamCommitted),
    Request(Result<Option<ConsumeRequest>, Status>),
    Read(Read),
    RestIsOld,
}

impl Stream {
    async fn run(mut self, client_host: String, shutdown: Shutdown) -> Result<(), Status> {
        let ended = match self.begin(&client_host, &shutdown).await {
            Ok(()) => self.serve(&shutdown).await,
            Err(status) => Err(status),
        };
        if let Some(group) = self.group.take() {
            group.membership.leave().await;
        }
        ended
    }

    /// Waits for the first request, and does what it says.
    async fn begin(&mut self, client_host: &str, shutdown: &Shutdown) -> Result<(), Status> {
        let first = tokio::select! {
            first = tokio::time::timeout(START_PATIENCE, self.requests.message()) => first,
            () = shutdown.requested() => return Err(errors::status(&BrokerError::ShuttingDown)),
        };
        let missing = || errors::invalid("start", "it must be the first request");
        let first = first.map_err(|_| missing())??.ok_or_else(missing)?;
        let Some(Request::Start(start)) = first.request else { return Err(missing()) };
        self.terms = Terms::parse(&start)?;
        match start.source {
            Some(Source::Partitions(partitions)) => self.read_partitions(partitions).await,
            Some(Source::Group(member)) => {
                let reset = member.reset.as_ref().map(place).transpose()?;
                let identity = Identity::parse(member, client_host)?;
                let (hall, holders) = (Arc::clone(&self.hall), Arc::clone(&self.holders));
                let membership = Membership::new(hall, holders, identity);
                self.group = Some(Group { membership, reset, releasing: Vec::new() });
                Ok(())
            }
            None => Err(errors::invalid("source", "it is missing")),
        }
    }

    async fn read_partitions(&mut self, asked: AssignedPartitions) -> Result<(), Status> {
        let count = asked.partitions.len();
        if count == 0 || count > PARTITIONS_MAX {
            return Err(errors::invalid("partitions", &format!("1 to {PARTITIONS_MAX} are legal")));
        }
        let mut names: Vec<_> =
            asked.partitions.iter().map(|it| (&it.topic, it.partition)).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(errors::invalid("partitions", "one is named twice"));
        }
        let mut cursors = Vec::with_capacity(count);
        for StartPartition { topic, partition, position } in asked.partitions {
            let position = position.ok_or_else(|| errors::invalid("position", "it is missing"))?;
            let found = self.hall.registry.leader(&topic, partition);
            let (_, handle) = found.map_err(|it| errors::status(&it))?;
            let next = locate(&handle, place(&position)?).await?;
            cursors.push(Cursor::new(handle, next));
        }
        self.cursors.set(cursors);
        self.outbox.push_back(Response::Assigned(Assignment {
            partitions: self.cursors.started_at(),
            ..Assignment::default()
        }));
        Ok(())
    }

    async fn serve(&mut self, shutdown: &Shutdown) -> Result<(), Status> {
        loop {
            self.send_outbox();
            self.begin_to_read();
            if self.is_over() {
                return Ok(());
            }
            match self.next_turn(shutdown).await {
                Turn::Gone => return Ok(()),
                Turn::Stopping => return Err(errors::status(&BrokerError::ShuttingDown)),
                Turn::Room(permit) => self.permit = Some(permit),
                Turn::Member(event) => self.handle_event(event).await?,
                Turn::Committed(committed) => {
                    self.committing = None;
                    self.outbox.push_back(Response::Committed(committed));
                }
                Turn::Request(Ok(Some(request))) => self.handle_request(request).await?,
                Turn::Request(Ok(None)) => self.handle_end_of_requests(),
                Turn::Request(Err(status)) => return Err(status),
                Turn::Read(read) => {
                    self.reading = None;
                    self.handle_read(read).await?;
                }
                Turn::RestIsOld => self.rest = None,
            }
        }
    }

    async fn next_turn(&mut self, shutdown: &Shutdown) -> Turn {
        let wants_room = self.permit.is_none() && (!self.outbox.is_empty() || self.may_read());
        let takes_requests =
            !self.requests_ended && self.committing.is_none() && self.outbox.len() < OUTBOX_MAX;
        let keeps_rest = self.reading.is_none() && self.rest.is_some();
        let rest_until = self.rest.as_ref().map_or_else(Instant::now, |(_, until)| *until);
        let member = self.group.as_mut().map(|group| &mut group.membership);
        tokio::select! {
            biased;
            () = self.answers.closed() => Turn::Gone,
            () = shutdown.requested() => Turn::Stopping,
            event = next_event(member) => Turn::Member(event),
            committed = ready(&mut self.committing) => Turn::Committed(committed),
            request = self.requests.message(), if takes_requests => Turn::Request(request),
            permit = self.answers.clone().reserve_owned(), if wants_room => {
                permit.map_or(Turn::Gone, Turn::Room)
            }
            read = ready(&mut self.reading) => Turn::Read(read),
            () = tokio::time::sleep_until(rest_until), if keeps_rest => Turn::RestIsOld,
        }
    }

    fn send_outbox(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        // What was being read would come behind; it is read again then.
        self.reading = None;
        if let Some(permit) = self.permit.take() {
            let response = self.outbox.pop_front();
            permit.send(Ok(ConsumeResponse { response }));
        }
    }

    /// Is there anything to read for, but room?
    fn may_read(&self) -> bool {
        self.terms.has_credit() && self.cursors.any_wanted()
    }

    fn begin_to_read(&mut self) {
        let is_free = self.reading.is_none() && self.outbox.is_empty() && self.permit.is_some();
        if !is_free || !self.may_read() {
            return;
        }
        let ask = Ask {
            wanted: self.cursors.wanted(),
            bytes_max: self.terms.answer_bytes(),
            format: self.terms.format,
            rest: self.rest.take().map(|(rest, _)| rest),
        };
        self.reading = Some(Box::pin(read::read(Arc::clone(&self.hall), ask)));
    }

    /// Nothing can ever follow: credit is used up, and no request can bring more.
    fn is_over(&self) -> bool {
        self.requests_ended
            && !self.terms.has_credit()
            && self.outbox.is_empty()
            && self.committing.is_none()
    }

    async fn handle_read(&mut self, read: Read) -> Result<(), Status> {
        match read {
            Read::Nothing => Ok(()),
            Read::Records { slot, records, rest } => {
                let permit = self.permit.take().expect("a read begins only with a permit");
                self.terms.take_credit(records.credit_bytes);
                self.cursors.advance(slot, Offset(records.next_offset));
                self.rest = rest.map(|rest| (rest, Instant::now() + REST_KEPT));
                permit.send(Ok(ConsumeResponse { response: Some(Response::Records(records)) }));
                Ok(())
            }
            Read::Failed { slot, error } => self.handle_failed_read(slot, error).await,
        }
    }

    /// A member goes on where it can: elsewhere if its offset is gone, and without a topic that is.
    async fn handle_failed_read(&mut self, slot: Slot, error: BrokerError) -> Result<(), Status> {
        let Some(group) = &self.group else { return Err(errors::status(&error)) };
        match (&error, group.reset) {
            (BrokerError::OffsetOutOfRange { .. }, Some(reset)) => {
                let next = locate(&self.cursors.get(slot).handle, reset).await?;
                self.cursors.seek(slot, next);
                Ok(())
            }
            (BrokerError::UnknownTopicOrPartition { .. }, _) => {
                self.cursors.remove(slot);
                Ok(())
            }
            _ => Err(errors::status(&error)),
        }
    }

    async fn handle_event(&mut self, event: Event) -> Result<(), Status> {
        let Some(group) = &mut self.group else { return Ok(()) };
        match event {
            Event::Failed(status) => Err(status),
            Event::Assigned(partitions) => {
                group.releasing.clear();
                self.handle_assigned(partitions).await
            }
            Event::Revoked => {
                group.releasing = self.cursors.names();
                let partitions = group.releasing.clone();
                // Without partitions there is nothing to let go of, and without requests nobody to say so.
                if partitions.is_empty() || self.requests_ended {
                    group.membership.release();
                }
                self.let_go(Revoked { partitions, lost: false });
                Ok(())
            }
            Event::Lost => {
                let mut partitions = std::mem::take(&mut group.releasing);
                partitions.extend(self.cursors.names());
                self.let_go(Revoked { partitions, lost: true });
                Ok(())
            }
        }
    }

    async fn handle_assigned(&mut self, partitions: Vec<Assigned>) -> Result<(), Status> {
        let reset = self.group.as_ref().and_then(|group| group.reset);
        let mut cursors = Vec::with_capacity(partitions.len());
        for assigned in partitions {
            // The leader may know of a topic that is no longer there.
            let found = self.hall.registry.leader(&assigned.topic, assigned.partition);
            let Ok((_, handle)) = found else { continue };
            let marks = handle.marks();
            let is_there = |at: &Offset| *at >= marks.log_start() && *at <= marks.log_end();
            let next = match assigned.committed.map(Offset).filter(is_there) {
                Some(committed) => committed,
                None => without_committed(&handle, assigned.committed, reset).await?,
            };
            cursors.push(Cursor::new(handle, next));
        }
        self.set_cursors(cursors);
        let Some(Group { membership, .. }) = &self.group else { return Ok(()) };
        self.outbox.push_back(Response::Assigned(Assignment {
            partitions: self.cursors.started_at(),
            member_id: membership.member_id().to_owned(),
            generation: membership.generation(),
            protocol: membership.protocol().to_owned(),
        }));
        Ok(())
    }

    /// The stream reads nothing any more; says so if it did.
    fn let_go(&mut self, revoked: Revoked) {
        self.set_cursors(Vec::new());
        if !revoked.partitions.is_empty() {
            self.outbox.push_back(Response::Revoked(revoked));
        }
    }

    fn set_cursors(&mut self, cursors: Vec<Cursor>) {
        self.reading = None;
        self.rest = None;
        self.cursors.set(cursors);
    }

    async fn handle_request(&mut self, request: ConsumeRequest) -> Result<(), Status> {
        match request.request {
            Some(Request::CreditBytes(bytes)) => self.terms.add_credit(bytes),
            Some(Request::Commit(commit)) => self.begin_commit(commit),
            Some(Request::Pause(partitions)) => self.pause(&partitions, true),
            Some(Request::Resume(partitions)) => self.pause(&partitions, false),
            Some(Request::Seek(seek)) => self.seek(seek).await,
            Some(Request::Released(_)) => {
                if let Some(group) = &mut self.group {
                    group.releasing.clear();
                    group.membership.release();
                }
                Ok(())
            }
            Some(Request::Start(_)) => Err(errors::invalid("start", "the stream has begun")),
            None => Err(errors::invalid("request", "it is missing")),
        }
    }

    /// The client only listens from now on. What must be released is.
    fn handle_end_of_requests(&mut self) {
        self.requests_ended = true;
        if let Some(group) = &mut self.group {
            group.membership.release();
        }
    }

    fn begin_commit(&mut self, asked: StreamCommit) -> Result<(), Status> {
        let Some(group) = &self.group else {
            return Err(errors::invalid("commit", "the stream has no group"));
        };
        let (hall, by) = (Arc::clone(&self.hall), group.membership.committer());
        self.committing = Some(Box::pin(async move {
            let StreamCommit { offsets, request_id } = asked;
            let results = match commit::commit(&hall, by, offsets.clone()).await {
                Ok(results) => results,
                Err(failed) => commit::all_refused(offsets, &failed),
            };
            StreamCommitted { request_id, results }
        }));
        Ok(())
    }

    /// Partitions that the stream does not read, perhaps no longer, are passed over.
    fn pause(&mut self, partitions: &Partitions, paused: bool) -> Result<(), Status> {
        self.reading = None;
        for TopicPartition { topic, partition } in &partitions.partitions {
            if let Some(cursor) = self.cursors.find(topic, *partition) {
                cursor.paused = paused;
            }
        }
        Ok(())
    }

    async fn seek(&mut self, seek: Seek) -> Result<(), Status> {
        let Seek { topic, partition, position } = seek;
        let position = position.ok_or_else(|| errors::invalid("position", "it is missing"))?;
        let place = place(&position)?;
        self.reading = None;
        let Some(cursor) = self.cursors.find(&topic, partition) else {
            // A member may not know yet that it has lost the partition.
            let unread = BrokerError::UnknownTopicOrPartition { topic, partition };
            return if self.group.is_some() { Ok(()) } else { Err(errors::status(&unread)) };
        };
        cursor.next = locate(&cursor.handle, place).await?;
        self.outbox.push_back(Response::Sought(cursor.started_at()));
        Ok(())
    }
}

impl Terms {
    fn parse(start: &Start) -> Result<Self, Status> {
        let bytes_max = match usize::try_from(start.answer_bytes_max) {
            Ok(0) => ANSWER_BYTES_DEFAULT,
            Ok(bytes) => bytes.min(ANSWER_BYTES_MAX),
            Err(_) => return Err(errors::invalid("answer_bytes_max", "it is negative")),
        };
        let format = match Format::try_from(start.format) {
            Ok(Format::Unspecified | Format::Records) => Format::Records,
            Ok(Format::Batches) => Format::Batches,
            Err(_) => return Err(errors::invalid("format", "it is none of FORMAT_*")),
        };
        if start.initial_credit_bytes.is_some_and(|bytes| bytes < 0) {
            return Err(errors::invalid("initial_credit_bytes", "it is negative"));
        }
        Ok(Self { credit: start.initial_credit_bytes, bytes_max, format })
    }

    fn has_credit(&self) -> bool {
        self.credit.is_none_or(|bytes| bytes > 0)
    }

    /// How large the next answer may be.
    fn answer_bytes(&self) -> usize {
        let credit = self.credit.map(|bytes| usize::try_from(bytes).unwrap_or(0));
        credit.map_or(self.bytes_max, |bytes| bytes.min(self.bytes_max))
    }

    fn take_credit(&mut self, bytes: i64) {
        self.credit = self.credit.map(|credit| credit.saturating_sub(bytes));
    }

    fn add_credit(&mut self, bytes: i64) -> Result<(), Status> {
        if bytes <= 0 {
            return Err(errors::invalid("credit_bytes", "it is not positive"));
        }
        self.credit = self.credit.map(|credit| credit.saturating_add(bytes));
        Ok(())
    }
}

async fn locate(handle: &PartitionHandle, place: Place) -> Result<Offset, Status> {
    let located = offsets::locate(handle, place).await;
    Ok(located.map_err(|error| errors::status(&error))?.offset)
}

/// Where a member begins when nothing is committed, or nothing that is still there.
async fn without_committed(
    handle: &PartitionHandle,
    committed: Option<i64>,
    reset: Option<Place>,
) -> Result<Offset, Status> {
    match reset {
        Some(reset) => locate(handle, reset).await,
        None => {
            let offset = Offset(committed.unwrap_or(-1));
            let (start, end) = (handle.marks().log_start(), handle.marks().high_watermark());
            Err(errors::status(&BrokerError::OffsetOutOfRange { offset, start, end }))
        }
    }
}

async fn next_event(member: Option<&mut Membership>) -> Event {
    match member {
        Some(member) => member.next().await,
        None => std::future::pending().await,
    }
}

/// What comes of `work`; never, if there is none.
async fn ready<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
