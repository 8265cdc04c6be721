//! The gRPC door over bare HTTP/2: batches that were encoded once go out as they are, so that the broker is measured and
//! not a client's encoder.
//!
//! One thread. A connection has one stream: `ProduceStream` with so many requests in flight, or `Consume` of one
//! partition as batches, from its start again whenever it comes to its end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::buf::Chain;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::try_join_all;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use millrace_proto::v1::consume_request::Request as Ask;
use millrace_proto::v1::position::At;
use millrace_proto::v1::produce_stream_response::Result as Outcome;
use millrace_proto::v1::start::Source;
use millrace_proto::v1::{
    AssignedPartitions, ConsumeRequest, Format, Position, ProduceRequest, ProduceStreamResponse,
    Seek, Start, StartPartition,
};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::book::{Schedule, SharedBook};
use super::{BACKLOG_MAX, Mark, Pace, Partitions, Plan, Tally, Work};
use crate::batch::Noise;
use crate::clock::{self, Nanos};
use crate::error::LoadError;

/// Unread bytes of a stream and of its connection; what comes is read at once.
const WINDOW_BYTES: u32 = 16 << 20;
/// The largest frame that is taken; the Rust client takes the same.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// How often is looked whether the run is over.
const TURN_MAX: Duration = Duration::from_millis(100);
/// In front of every message: a flag for compression, and the length.
const PREFIX_BYTES: usize = 5;
const PRODUCE: &str = "/millrace.v1.ProduceService/ProduceStream";
const CONSUME: &str = "/millrace.v1.ConsumeService/Consume";
/// The field `ProduceRequest.batch`, which is written by hand behind the others.
const BATCH_FIELD: u32 = 3;

/// A message's beginning, and the batch behind it.
type Sent = Chain<Bytes, Bytes>;

/// Runs a plan through the gRPC door.
pub(super) fn run(
    plan: &Plan,
    address: SocketAddr,
    mark: &mut dyn FnMut(Mark),
) -> Result<Tally, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(LoadError::io("starting a runtime"))?;
    let run = SharedBook::new(plan, mark);
    runtime.block_on(drive(&run, address))?;
    Ok(run.into_tally())
}

/// Opens a stream a connection, and serves them all until the run is over.
async fn drive(run: &SharedBook<'_>, address: SocketAddr) -> Result<(), LoadError> {
    let mut streams = Vec::new();
    for index in 0..run.plan.connections {
        streams.push(Stream::open(run, index, address).await?);
    }
    run.book.borrow_mut().start(clock::now());
    if let Some(schedule) = run.book.borrow().schedule() {
        let told = tell_due(schedule, streams.len());
        streams.iter_mut().zip(told).for_each(|(stream, told)| stream.due = Some(told));
    }
    try_join_all(streams.into_iter().map(Stream::drive)).await.map(drop)
}

/// One connection and its stream.
struct Stream<'r, 'a> {
    run: &'r SharedBook<'a>,
    requests: SendStream<Sent>,
    answers: Messages,
    /// Open loop: when a request is due.
    due: Option<mpsc::UnboundedReceiver<Nanos>>,
    /// Since when, in the order of the requests; a stream that is consumed waits for its next answer.
    waiting: VecDeque<(u64, Nanos)>,
    next_request: u64,
    noise: Noise,
    partition: i32,
    /// Consume: where the next answer begins.
    offset: i64,
}

impl<'r, 'a> Stream<'r, 'a> {
    async fn open(
        run: &'r SharedBook<'a>,
        index: usize,
        address: SocketAddr,
    ) -> Result<Self, LoadError> {
        let mut door = connect(address).await?;
        let (path, partitions) = match run.plan.work {
            Work::Produce { partitions: Partitions::PerConnection(count), .. }
            | Work::Produce { partitions: Partitions::Random(count), .. } => (PRODUCE, count),
            Work::Fetch { partitions, .. } => (CONSUME, partitions),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("its parts are right");
        let (answer, requests) = door.send_request(request, false).map_err(broken)?;
        let answers =
            Messages { body: None, opening: Some(answer), read: Pieces::default(), length: None };
        let noise = Noise(0x2545_f491_4f6c_dd1d ^ ((index as u64) << 32));
        let partition = (index as u32 % partitions) as i32;
        Ok(Self {
            run,
            requests,
            answers,
            due: None,
            waiting: VecDeque::new(),
            next_request: 0,
            noise,
            partition,
            offset: 0,
        })
    }

    /// Asks and reads answers until the run is over.
    async fn drive(mut self) -> Result<(), LoadError> {
        if let Work::Fetch { fetch_bytes, .. } = self.run.plan.work {
            self.ask(Ask::Start(self.start(fetch_bytes)))?;
        }
        loop {
            let now = self.run.turn();
            self.top_up(now)?;
            let is_open = !self.waiting.is_empty() || self.due.is_some();
            if self.run.book.borrow().is_done(is_open, now)? {
                return Ok(());
            }
            let turn = Duration::from_nanos(self.run.book.borrow().until_turn(now));
            tokio::select! {
                here = self.answers.arrival() => here?,
                due = next(&mut self.due) => match due {
                    Some(due) => self.produce(due)?,
                    None => self.due = None,
                },
                () = tokio::time::sleep(turn.min(TURN_MAX)) => {}
            }
            self.take_answers()?;
        }
    }

    /// Closed loop: as many requests in flight as there shall be.
    fn top_up(&mut self, now: Nanos) -> Result<(), LoadError> {
        if let (Work::Produce { .. }, Pace::Closed { in_flight }) =
            (self.run.plan.work, self.run.plan.pace)
        {
            while self.waiting.len() < in_flight && self.run.book.borrow().may_send() {
                self.produce(now)?;
            }
        }
        Ok(())
    }

    fn produce(&mut self, since: Nanos) -> Result<(), LoadError> {
        let plan = self.run.plan;
        let partition = match plan.work {
            Work::Produce { partitions: Partitions::Random(count), .. } => {
                ((self.noise.number() >> 16) as u32 % count) as i32
            }
            _ => self.partition,
        };
        let head = produce_head(&plan.topic, partition, self.next_request, plan.batch.bytes.len());
        let message = head.chain(plan.batch.bytes.clone());
        self.requests.send_data(message, false).map_err(broken)?;
        self.waiting.push_back((self.next_request, since));
        self.next_request += 1;
        if self.waiting.len() > BACKLOG_MAX {
            return Err(LoadError::Timeout("the asked rate"));
        }
        Ok(())
    }

    fn ask(&mut self, ask: Ask) -> Result<(), LoadError> {
        let message = ConsumeRequest { request: Some(ask) }.encode_to_vec();
        let head = prefix(message.len(), 0).freeze();
        self.requests.send_data(head.chain(Bytes::from(message)), false).map_err(broken)?;
        self.waiting.clear();
        self.waiting.push_back((0, clock::now()));
        Ok(())
    }

    fn start(&self, fetch_bytes: u32) -> Start {
        let topic = self.run.plan.topic.clone();
        let position = Some(Position { at: Some(At::Offset(0)) });
        let partitions = vec![StartPartition { topic, partition: self.partition, position }];
        Start {
            source: Some(Source::Partitions(AssignedPartitions { partitions })),
            initial_credit_bytes: None,
            answer_bytes_max: fetch_bytes as i32,
            format: Format::Batches.into(),
        }
    }

    /// Counts the answers that are here.
    fn take_answers(&mut self) -> Result<(), LoadError> {
        if matches!(self.run.plan.work, Work::Fetch { .. }) {
            while let Some(answer) = self.answers.take::<Consumed>()? {
                answer.records.map_or(Ok(()), |records| self.fetched(&records))?;
            }
        } else {
            while let Some(answer) = self.answers.take::<ProduceStreamResponse>()? {
                self.answered(answer)?;
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: ProduceStreamResponse) -> Result<(), LoadError> {
        let waiting = self.waiting.pop_front();
        let (request, since) =
            waiting.ok_or(LoadError::Malformed("an answer that nobody asked for"))?;
        if request != answer.request_id {
            return Err(LoadError::Malformed("answers out of order"));
        }
        let outcome = match answer.result.ok_or_else(unreadable)? {
            Outcome::Written(_) => Ok(self.run.book.borrow().batches(1)),
            Outcome::Refused(status) => Err(status.code as i16),
        };
        self.run.book.borrow_mut().count(since, clock::now(), outcome);
        Ok(())
    }

    fn fetched(&mut self, records: &Place) -> Result<(), LoadError> {
        let batch = &self.run.plan.batch;
        let batches = records.bytes as u64 / batch.bytes.len() as u64;
        self.offset += (batches * u64::from(batch.records)) as i64;
        if batches == 0 || self.offset != records.next_offset {
            return Err(LoadError::Malformed("other batches than those asked for"));
        }
        let now = clock::now();
        let Some((_, since)) = self.waiting.pop_front() else { return Ok(()) };
        let done = self.run.book.borrow().batches(batches);
        self.run.book.borrow_mut().count(since, now, Ok(done));
        if !self.run.book.borrow().may_send() {
            return Ok(());
        }
        self.waiting.push_back((0, now));
        if records.next_offset < records.high_watermark {
            return Ok(());
        }
        self.offset = 0;
        let topic = self.run.plan.topic.clone();
        let position = Some(Position { at: Some(At::Offset(0)) });
        self.ask(Ask::Seek(Seek { topic, partition: self.partition, position }))
    }
}

async fn next(due: &mut Option<mpsc::UnboundedReceiver<Nanos>>) -> Option<Nanos> {
    match due {
        Some(due) => due.recv().await,
        None => std::future::pending().await,
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Sent>, LoadError> {
    let io = LoadError::io("connecting to the broker");
    let stream = TcpStream::connect(address).await.map_err(&io)?;
    stream.set_nodelay(true).map_err(&io)?;
    let (door, connection) = h2::client::Builder::new()
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(stream)
        .await
        .map_err(broken)?;
    // Its end shows as an error of its stream.
    tokio::spawn(connection);
    door.ready().await.map_err(broken)
}

/// The flag, the length of a message of `length + more` bytes, and room for `length` of them.
fn prefix(length: usize, more: usize) -> BytesMut {
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + length);
    head.put_u8(0);
    head.put_u32((length + more) as u32);
    head
}

/// All of a `ProduceRequest` but its batch.
fn produce_head(topic: &str, partition: i32, request_id: u64, batch_bytes: usize) -> Bytes {
    let partition = Some(partition);
    let request =
        ProduceRequest { topic: topic.to_owned(), partition, request_id, ..Default::default() };
    let mut message = BytesMut::with_capacity(request.encoded_len() + 2 * PREFIX_BYTES);
    request.encode(&mut message).expect("a buffer that grows");
    encode_key(BATCH_FIELD, WireType::LengthDelimited, &mut message);
    encode_varint(batch_bytes as u64, &mut message);
    let mut head = prefix(message.len(), batch_bytes);
    head.put(message);
    head.freeze()
}

/// Cuts what a stream receives into messages, without putting their pieces together.
struct Messages {
    opening: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    read: Pieces,
    /// Of the message whose prefix was taken off.
    length: Option<usize>,
}

impl Messages {
    /// Waits until a message is here; may be dropped while it waits.
    async fn arrival(&mut self) -> Result<(), LoadError> {
        while !self.is_here()? {
            if let Some(opening) = &mut self.opening {
                self.body = Some(opening.await.map_err(broken)?.into_body());
                self.opening = None;
            }
            let body = self.body.as_mut().expect("it was opened above");
            let data = body.data().await.ok_or(LoadError::Malformed("the stream ended"))?;
            let data = data.map_err(broken)?;
            body.flow_control().release_capacity(data.len()).map_err(broken)?;
            self.read.push(data);
        }
        Ok(())
    }

    fn is_here(&mut self) -> Result<bool, LoadError> {
        if self.length.is_none() && self.read.remaining() >= PREFIX_BYTES {
            if self.read.get_u8() != 0 {
                return Err(unreadable());
            }
            self.length = Some(self.read.get_u32() as usize);
        }
        Ok(self.length.is_some_and(|length| self.read.remaining() >= length))
    }

    /// One that is here already.
    fn take<M: Message + Default>(&mut self) -> Result<Option<M>, LoadError> {
        if !self.is_here()? {
            return Ok(None);
        }
        let length = self.length.take().unwrap_or_default();
        M::decode((&mut self.read).take(length)).map(Some).map_err(|_| unreadable())
    }
}

/// Bytes as they came, read as one.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            let taken = count.min(piece.len());
            piece.advance(taken);
            count -= taken;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
    }
}

/// A `ConsumeResponse` of which the batches themselves are passed over: bytes that nobody copies cost the generator little.
#[derive(Clone, PartialEq, Message)]
struct Consumed {
    #[prost(message, optional, tag = "1")]
    records: Option<Place>,
}

/// The rest of its `FetchedRecords`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Place {
    #[prost(int64, tag = "5")]
    next_offset: i64,
    #[prost(int64, tag = "6")]
    high_watermark: i64,
    #[prost(int64, tag = "7")]
    bytes: i64,
}

/// Tells each of `count` connections when a request of it is due, to some microseconds, which the runtime's timers do not;
/// ends when they are gone, or nothing is due any more.
fn tell_due(schedule: Schedule, count: usize) -> Vec<mpsc::UnboundedReceiver<Nanos>> {
    let (tellers, told): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    std::thread::spawn(move || {
        for (number, teller) in (0..).zip(tellers.iter().cycle()) {
            let Some(due) = schedule.due(number) else { return };
            std::thread::sleep(Duration::from_nanos(due.saturating_sub(clock::now())));
            if teller.send(due).is_err() {
                return;
            }
        }
    });
    told
}

fn broken(error: h2::Error) -> LoadError {
    LoadError::Io { doing: "speaking HTTP/2", source: std::io::Error::other(error) }
}

fn unreadable() -> LoadError {
    LoadError::Malformed("a message of the gRPC door")
}
