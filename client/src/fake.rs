//! A broker in memory, for this crate's tests: logs that know producers as a real broker does, a group of one member, and
//! faults on order. In front of it stands a proxy whose connections can be cut.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use millrace_model::batch::{self, BatchHeader};
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_model::record;
use millrace_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use millrace_proto::v1::consume_request::Request as Asked;
use millrace_proto::v1::consume_response::Response as Told;
use millrace_proto::v1::consume_service_server::{ConsumeService, ConsumeServiceServer};
use millrace_proto::v1::position::At;
use millrace_proto::v1::produce_request::Payload;
use millrace_proto::v1::produce_service_server::{ProduceService, ProduceServiceServer};
use millrace_proto::v1::produce_stream_response::Result as Answer;
use millrace_proto::v1::start::Source;
use millrace_proto::v1::*;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

/// As many as a broker remembers of each producer.
const REMEMBERED: usize = 5;
/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of the next request to write.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    None,
    /// The connection breaks before it is written.
    CutBefore,
    /// The connection breaks once it is written, before that is said.
    CutAfter,
    Refuse(Code, &'static str),
    /// It is written, and the answer says that nobody knows.
    Doubt,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<String, Vec<Log>>,
    producers: i64,
    faults: VecDeque<Fault>,
    /// Requests to write that came.
    writes: usize,
    committed: BTreeMap<(String, i32), i64>,
    /// What consumers did, in order.
    journal: Vec<String>,
    /// Members of the group that there have been.
    members: usize,
    sessions: Vec<mpsc::UnboundedSender<Order>>,
    auto_create: bool,
    /// Nothing is written before the test says so.
    is_held: bool,
}

/// What a test has a consumer's stream do.
#[derive(Clone, Debug)]
enum Order {
    Revoke { lost: bool },
    Assign,
    Reset,
    End(Code, &'static str),
}

#[derive(Default)]
struct Log {
    batches: Vec<Bytes>,
    end: i64,
    producers: HashMap<i64, VecDeque<(i32, i32, i64)>>,
}

impl Log {
    fn append(&mut self, bytes: &Bytes) -> Result<i64, (Code, &'static str)> {
        let header = batch::validate(bytes, 1 << 20)
            .map_err(|_| (Code::InvalidArgument, "CORRUPT_MESSAGE"))?;
        let known = self.producers.entry(header.producer_id.0).or_default();
        let (first, last) = (header.base_sequence, header.last_sequence());
        if let Some((_, _, base)) = known.iter().find(|it| (it.0, it.1) == (first, last)) {
            return Ok(*base);
        }
        if let Some((_, before, _)) = known.back()
            && batch::increment_sequence(*before, 1) != first
        {
            return Err((Code::FailedPrecondition, "OUT_OF_ORDER_SEQUENCE_NUMBER"));
        }
        known.push_back((first, last, self.end));
        if known.len() > REMEMBERED {
            known.pop_front();
        }
        let stamp = batch::stamp(&header, Offset(self.end), LeaderEpoch(0));
        let mut stamped = bytes.to_vec();
        stamped[..batch::STAMP_BYTES].copy_from_slice(&stamp);
        self.batches.push(stamped.into());
        let base = self.end;
        self.end += i64::from(header.record_count);
        Ok(base)
    }

    /// The first batch with a record at or behind this offset.
    fn at(&self, offset: i64) -> Option<&Bytes> {
        self.batches.iter().find(|it| BatchHeader::parse(it).unwrap().last_offset().0 >= offset)
    }
}

/// The broker, until it is dropped.
pub(crate) struct Fake {
    pub(crate) address: String,
    doors: Doors,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Clone)]
struct Doors {
    state: Arc<Mutex<State>>,
    /// Counts changes: consumers look again.
    changes: Arc<watch::Sender<u64>>,
    /// Counts cuts: connections end. Odd: and none is taken.
    cuts: Arc<watch::Sender<u64>>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let doors = Doors {
            state: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
            cuts: Arc::new(watch::Sender::new(0)),
        };
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to, address) = (inner.local_addr().unwrap(), outer.local_addr().unwrap());
        let served = Server::builder()
            .add_service(ProduceServiceServer::new(doors.clone()))
            .add_service(ConsumeServiceServer::new(doors.clone()))
            .add_service(AdminServiceServer::new(doors.clone()))
            .serve_with_incoming(TcpListenerStream::new(inner));
        let serve = tokio::spawn(async { served.await.unwrap() });
        let proxy = tokio::spawn(proxy(outer, to, doors.cuts.subscribe()));
        Self { address: format!("http://{address}"), doors, tasks: vec![serve, proxy] }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.doors.state.lock().unwrap()
    }

    pub(crate) fn topic(&self, name: &str, partitions: usize) {
        let logs = (0..partitions).map(|_| Log::default()).collect();
        self.state().topics.insert(name.to_owned(), logs);
    }

    pub(crate) fn auto_create(&self) {
        self.state().auto_create = true;
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults.extend(faults);
    }

    /// Breaks all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        self.doors.cuts.send_modify(|it| *it += 2);
    }

    /// Breaks all connections and takes none, until it is up again.
    pub(crate) fn down(&self) {
        self.doors.cuts.send_modify(|it| *it += 1);
    }

    pub(crate) fn up(&self) {
        self.doors.cuts.send_modify(|it| *it += 1);
    }

    /// Writes wait until they are released.
    pub(crate) fn hold(&self, is_held: bool) {
        self.state().is_held = is_held;
        self.doors.changed();
    }

    /// The broker forgets what producers have written.
    pub(crate) fn forget_producers(&self) {
        let mut state = self.state();
        for log in state.topics.values_mut().flatten() {
            for known in log.producers.values_mut() {
                // Somebody whose last number was another.
                *known = VecDeque::from([(1_000_000, 1_000_000, 0)]);
            }
        }
    }

    pub(crate) fn writes(&self) -> usize {
        self.state().writes
    }

    pub(crate) fn revoke(&self, lost: bool) {
        self.order(&Order::Revoke { lost });
    }

    pub(crate) fn assign(&self) {
        self.order(&Order::Assign);
    }

    /// A partition loses all its records, as after a crash on a topic with relaxed durability.
    pub(crate) fn truncate(&self, topic: &str, partition: usize) {
        self.state().topics.get_mut(topic).unwrap()[partition] = Log::default();
    }

    /// Streams go on at the start of their partitions, of their own accord.
    pub(crate) fn reset(&self) {
        self.order(&Order::Reset);
    }

    pub(crate) fn end_consumers(&self, code: Code, reason: &'static str) {
        self.order(&Order::End(code, reason));
    }

    fn order(&self, order: &Order) {
        self.state().sessions.retain(|it| it.send(order.clone()).is_ok());
    }

    pub(crate) fn committed(&self, topic: &str, partition: i32) -> Option<i64> {
        self.state().committed.get(&(topic.to_owned(), partition)).copied()
    }

    pub(crate) fn journal(&self) -> Vec<String> {
        self.state().journal.clone()
    }

    /// The values in a partition, in order.
    pub(crate) fn values(&self, topic: &str, partition: usize) -> Vec<String> {
        let mut values = Vec::new();
        for batch in &self.state().topics[topic][partition].batches {
            let header = BatchHeader::parse(batch).unwrap();
            for record in record::records(&header, batch, 1 << 20).unwrap() {
                let value = record.unwrap().value.unwrap_or_default();
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
        values
    }

    /// Waits until something is true of the broker.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let mut changes = self.doors.changes.subscribe();
        let waited = async {
            while !is_so(self) {
                changes.changed().await.unwrap();
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok(), "in vain: {what}");
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn proxy(listener: TcpListener, to: SocketAddr, mut cuts: watch::Receiver<u64>) {
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        if *cuts.borrow_and_update() % 2 == 1 {
            continue;
        }
        let mut cut = cuts.clone();
        tokio::spawn(async move {
            let mut far = TcpStream::connect(to).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                _ = cut.changed() => {}
            }
        });
    }
}

impl Doors {
    fn changed(&self) {
        self.changes.send_modify(|it| *it += 1);
    }

    fn note(&self, text: String) {
        self.state.lock().unwrap().journal.push(text);
        self.changed();
    }

    /// The answer to a write; none when the connection breaks instead.
    async fn write(&self, request: ProduceRequest) -> Option<Answer> {
        self.state.lock().unwrap().writes += 1;
        self.changed();
        let mut changes = self.changes.subscribe();
        while self.state.lock().unwrap().is_held {
            changes.changed().await.unwrap();
        }
        let (fault, result) = self.append(&request);
        self.changed();
        let refuse = |code: Code, reason: &str| {
            let (message, reason) = ("as ordered".to_owned(), reason.to_owned());
            Some(Answer::Refused(ItemStatus { code: code as i32, message, reason }))
        };
        match (fault, result) {
            (Fault::CutBefore | Fault::CutAfter, _) => {
                self.cuts.send_modify(|it| *it += 2);
                None
            }
            (Fault::Doubt, Ok(_)) => refuse(Code::DeadlineExceeded, "REQUEST_TIMED_OUT"),
            (_, Err((code, reason))) => refuse(code, reason),
            (_, Ok(base_offset)) => Some(Answer::Written(ProduceResponse {
                partition: request.partition.unwrap(),
                base_offset,
                log_append_time_ms: None,
            })),
        }
    }

    fn append(&self, request: &ProduceRequest) -> (Fault, Result<i64, (Code, &'static str)>) {
        let mut state = self.state.lock().unwrap();
        let fault = state.faults.pop_front().unwrap_or(Fault::None);
        let Some(Payload::Batch(bytes)) = &request.payload else {
            panic!("the client sends batches")
        };
        let result = match fault {
            Fault::CutBefore => Ok(-1),
            Fault::Refuse(code, reason) => Err((code, reason)),
            _ => {
                let logs = state.topics.get_mut(&request.topic);
                let log = logs.and_then(|logs| logs.get_mut(request.partition? as usize));
                match log {
                    Some(log) => log.append(bytes),
                    None => Err((Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION")),
                }
            }
        };
        (fault, result)
    }

    fn new_member(&self) -> String {
        let mut state = self.state.lock().unwrap();
        state.members += 1;
        format!("m{}", state.members)
    }

    fn summary(&self, name: &str) -> Result<TopicSummary, Status> {
        let state = self.state.lock().unwrap();
        let logs = state.topics.get(name).ok_or_else(|| Status::not_found("no such topic"))?;
        let partitions = logs.len() as i32;
        Ok(TopicSummary { name: name.to_owned(), partitions, ..Default::default() })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ProduceService for Doors {
    async fn init_producer(
        &self,
        _: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        state.producers += 1;
        Ok(Response::new(InitProducerResponse { producer_id: state.producers, producer_epoch: 0 }))
    }

    async fn produce(
        &self,
        _: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ProduceStreamStream = Answers<ProduceStreamResponse>;

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let (doors, mut requests) = (self.clone(), request.into_inner());
        let (answers, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let request_id = request.request_id;
                let Some(result) = doors.write(request).await else { return };
                let answer = ProduceStreamResponse { request_id, result: Some(result) };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One consumer's stream.
struct Session {
    doors: Doors,
    requests: Streaming<ConsumeRequest>,
    answers: mpsc::Sender<Result<ConsumeResponse, Status>>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Topics of a group's member, and its id.
    topics: Option<Vec<String>>,
    member_id: String,
    places: BTreeMap<(String, i32), (i64, bool)>,
    credit_bytes: i64,
}

impl Session {
    async fn run(mut self) -> Option<()> {
        let first = self.requests.message().await.ok()??;
        let Some(Asked::Start(start)) = first.request else { panic!("a stream begins with start") };
        self.credit_bytes = start.initial_credit_bytes.unwrap();
        self.doors.note(format!("start with {}", self.credit_bytes));
        match start.source.unwrap() {
            Source::Partitions(assigned) => {
                for it in assigned.partitions {
                    let offset = self.find(&it.topic, it.partition, it.position.unwrap())?;
                    self.places.insert((it.topic, it.partition), (offset, false));
                }
                self.tell_assigned().await?;
            }
            Source::Group(member) => {
                self.topics = Some(member.topics);
                self.member_id = member.member_id.unwrap_or_else(|| self.doors.new_member());
                self.doors.note(format!("member {}", self.member_id));
                self.assign().await?;
            }
        }
        let mut changes = self.doors.changes.subscribe();
        let mut ended = false;
        loop {
            self.send_records().await?;
            tokio::select! {
                () = self.answers.closed() => return None,
                // Whoever asks nothing more may still listen.
                request = self.requests.message(), if !ended => match request.ok()? {
                    Some(request) => self.handle(request.request?).await?,
                    None => ended = true,
                },
                order = self.orders.recv() => self.obey(order?).await?,
                changed = changes.changed() => changed.ok()?,
            }
        }
    }

    async fn tell(&self, response: Told) -> Option<()> {
        self.answers.send(Ok(ConsumeResponse { response: Some(response) })).await.ok()
    }

    fn find(&self, topic: &str, partition: i32, position: Position) -> Option<i64> {
        let state = self.doors.state.lock().unwrap();
        let Some(log) = state.topics.get(topic).and_then(|it| it.get(partition as usize)) else {
            drop(state);
            let _ = self.answers.try_send(Err(Status::not_found("no such topic")));
            return None;
        };
        Some(match position.at.unwrap() {
            At::Offset(offset) => offset,
            At::Edge(edge) if edge == Edge::Latest as i32 => log.end,
            _ => 0,
        })
    }

    async fn assign(&mut self) -> Option<()> {
        {
            let state = self.doors.state.lock().unwrap();
            for topic in self.topics.as_ref()? {
                for partition in 0..state.topics[topic].len() as i32 {
                    let key = (topic.clone(), partition);
                    let offset = state.committed.get(&key).copied().unwrap_or(0);
                    self.places.insert(key, (offset, false));
                }
            }
        }
        self.tell_assigned().await
    }

    async fn tell_assigned(&self) -> Option<()> {
        let place = |((topic, partition), (offset, _)): (&(String, i32), &(i64, bool))| StartedAt {
            topic: topic.clone(),
            partition: *partition,
            offset: *offset,
        };
        let partitions = self.places.iter().map(place).collect();
        let member_id = self.member_id.clone();
        self.tell(Told::Assigned(Assignment { partitions, member_id, ..Default::default() })).await
    }

    async fn send_records(&mut self) -> Option<()> {
        loop {
            let mut answer = None;
            for ((topic, partition), (next, is_paused)) in &mut self.places {
                let state = self.doors.state.lock().unwrap();
                let log = &state.topics[topic][*partition as usize];
                let Some(batch) = log.at(*next).filter(|_| !*is_paused && self.credit_bytes > 0)
                else {
                    continue;
                };
                *next = BatchHeader::parse(batch).unwrap().next_offset().0;
                self.credit_bytes -= batch.len() as i64;
                answer = Some(FetchedRecords {
                    topic: topic.clone(),
                    partition: *partition,
                    batches: batch.clone(),
                    records: Vec::new(),
                    next_offset: *next,
                    high_watermark: log.end,
                    credit_bytes: batch.len() as i64,
                });
                break;
            }
            let Some(answer) = answer else { return Some(()) };
            self.tell(Told::Records(answer)).await?;
        }
    }

    async fn handle(&mut self, request: Asked) -> Option<()> {
        match request {
            Asked::Start(_) => panic!("a stream starts once"),
            Asked::CreditBytes(bytes) => self.credit_bytes += bytes,
            Asked::Pause(it) => self.set_paused(it, true),
            Asked::Resume(it) => self.set_paused(it, false),
            Asked::Released(_) => self.doors.note("released".to_owned()),
            Asked::Seek(it) => {
                let offset = self.find(&it.topic, it.partition, it.position.unwrap())?;
                self.doors.note(format!("seek {}-{} to {offset}", it.topic, it.partition));
                let place = self.places.get_mut(&(it.topic.clone(), it.partition)).unwrap();
                place.0 = offset;
                let (topic, partition) = (it.topic, it.partition);
                self.tell(Told::Sought(StartedAt { topic, partition, offset })).await?;
            }
            Asked::Commit(commit) => {
                let results = commit.offsets.into_iter().map(|it| self.commit(it)).collect();
                let request_id = commit.request_id;
                self.tell(Told::Committed(StreamCommitted { request_id, results })).await?;
            }
        }
        Some(())
    }

    fn set_paused(&mut self, partitions: Partitions, is_paused: bool) {
        for it in partitions.partitions {
            self.places.get_mut(&(it.topic, it.partition)).unwrap().1 = is_paused;
        }
    }

    fn commit(&self, it: CommittedOffset) -> CommitResult {
        let key = (it.topic.clone(), it.partition);
        self.doors.state.lock().unwrap().committed.insert(key, it.offset);
        self.doors.note(format!("commit {}-{} at {}", it.topic, it.partition, it.offset));
        CommitResult { topic: it.topic, partition: it.partition, status: None }
    }

    async fn obey(&mut self, order: Order) -> Option<()> {
        match order {
            Order::Assign => self.assign().await,
            Order::Reset => {
                self.places.values_mut().for_each(|place| place.0 = 0);
                Some(())
            }
            Order::Revoke { lost } => {
                let places = std::mem::take(&mut self.places).into_keys();
                let key = |(topic, partition)| TopicPartition { topic, partition };
                let partitions = places.map(key).collect();
                self.tell(Told::Revoked(Revoked { partitions, lost })).await
            }
            Order::End(code, reason) => {
                let mut details = ErrorDetails::new();
                details.set_error_info(reason, "millrace", []);
                let status = Status::with_error_details(code, "as ordered", details);
                let _ = self.answers.send(Err(status)).await;
                None
            }
        }
    }
}

#[tonic::async_trait]
impl ConsumeService for Doors {
    type ConsumeStream = Answers<ConsumeResponse>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (answers, receiver) = mpsc::channel(16);
        let (order, orders) = mpsc::unbounded_channel();
        self.state.lock().unwrap().sessions.push(order);
        let session = Session {
            doors: self.clone(),
            requests: request.into_inner(),
            answers,
            orders,
            topics: None,
            member_id: String::new(),
            places: BTreeMap::new(),
            credit_bytes: 0,
        };
        let doors = self.clone();
        tokio::spawn(async move {
            session.run().await;
            doors.note("gone".to_owned());
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// The calls given in full, and those that no test of this crate makes.
macro_rules! admin {
    ({ $($given:tt)* } $($name:ident($asked:ty) -> $told:ty;)*) => {
        #[tonic::async_trait]
        impl AdminService for Doors {
            $($given)*
            $(async fn $name(&self, _: Request<$asked>) -> Result<Response<$told>, Status> {
                Err(Status::unimplemented(""))
            })*
        }
    };
}

admin! {
    {
        type WatchTopicsStream = Answers<ListTopicsResponse>;
        type WatchLagStream = Answers<WatchLagResponse>;

        async fn describe_topic(
            &self,
            request: Request<DescribeTopicRequest>,
        ) -> Result<Response<DescribeTopicResponse>, Status> {
            let topic = Some(self.summary(&request.into_inner().name)?);
            Ok(Response::new(DescribeTopicResponse { topic, ..Default::default() }))
        }

        async fn create_topic(
            &self,
            request: Request<CreateTopicRequest>,
        ) -> Result<Response<CreateTopicResponse>, Status> {
            let name = request.into_inner().name;
            let logs = (0..3).map(|_| Log::default()).collect();
            self.state.lock().unwrap().topics.insert(name.clone(), logs);
            Ok(Response::new(CreateTopicResponse { topic: Some(self.summary(&name)?) }))
        }

        async fn describe_config(
            &self,
            request: Request<DescribeConfigRequest>,
        ) -> Result<Response<DescribeConfigResponse>, Status> {
            let name = request.into_inner().names.remove(0);
            let value = Some(self.state.lock().unwrap().auto_create.to_string());
            let configs = vec![ConfigDescription { name, value, ..Default::default() }];
            Ok(Response::new(DescribeConfigResponse { configs }))
        }
    }
    list_topics(ListTopicsRequest) -> ListTopicsResponse;
    delete_topic(DeleteTopicRequest) -> DeleteTopicResponse;
    add_partitions(AddPartitionsRequest) -> AddPartitionsResponse;
    list_offsets(ListOffsetsRequest) -> ListOffsetsResponse;
    delete_records(DeleteRecordsRequest) -> DeleteRecordsResponse;
    list_groups(ListGroupsRequest) -> ListGroupsResponse;
    describe_group(DescribeGroupRequest) -> DescribeGroupResponse;
    delete_group(DeleteGroupRequest) -> DeleteGroupResponse;
    reset_offsets(ResetOffsetsRequest) -> ResetOffsetsResponse;
    delete_offsets(DeleteOffsetsRequest) -> DeleteOffsetsResponse;
    alter_config(AlterConfigRequest) -> AlterConfigResponse;
    describe_cluster(DescribeClusterRequest) -> DescribeClusterResponse;
    watch_topics(WatchTopicsRequest) -> Answers<ListTopicsResponse>;
    watch_lag(WatchLagRequest) -> Answers<WatchLagResponse>;
}
