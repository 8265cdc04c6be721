//! The gRPC door's records, by the generated clients, against a broker process: produce and consume, alone. What is
//! written is looked at through the Kafka door too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_model::compression::Codec;
use millrace_model::partitioner::partition_for_key;
use millrace_model::record::{BatchBuilder, NewRecord};
use millrace_proto::v1::consume_request::Request;
use millrace_proto::v1::consume_response::Response;
use millrace_proto::v1::consume_service_client::ConsumeServiceClient;
use millrace_proto::v1::position::At;
use millrace_proto::v1::produce_request::Payload;
use millrace_proto::v1::produce_service_client::ProduceServiceClient;
use millrace_proto::v1::produce_stream_response::Result as Outcome;
use millrace_proto::v1::start::Source;
use millrace_proto::v1::{
    AssignedPartitions, Assignment, ConsumeRequest, ConsumeResponse, Edge, FetchedRecords, Format,
    Header, InitProducerRequest, Partitions, Position, ProduceRequest, ProduceResponse,
    ProduceStreamResponse, Record, Records, Seek, Sequence, Start, StartPartition, StartedAt,
    StreamCommit, TopicPartition,
};
use millrace_tests::ask::{LATEST, fresh};
use millrace_tests::kafka::Connection;
use millrace_tests::process::BrokerProcess;
use millrace_tests::records::{batch, batches, now_ms, packed, sequenced, timed, values};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::broker::broker;

/// Longer than anything here takes on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What a client takes in one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A connection to the broker's gRPC door.
pub(crate) async fn connect(broker: &BrokerProcess) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", broker.grpc)).unwrap();
    endpoint.connect().await.unwrap()
}

pub(crate) fn producer(channel: &Channel) -> ProduceServiceClient<Channel> {
    ProduceServiceClient::new(channel.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The call or stream was refused with this code and Kafka's name of the error.
#[track_caller]
pub(crate) fn check_refusal(status: &Status, code: Code, reason: &str) {
    assert_eq!(status.code(), code, "{status}");
    let info = status.get_details_error_info().expect("every refusal has an ErrorInfo");
    assert_eq!(info.reason, reason, "{status}");
}

/// A `Consume` stream with both of its ends.
pub(crate) struct Consumer {
    requests: Option<mpsc::Sender<ConsumeRequest>>,
    answers: Streaming<ConsumeResponse>,
}

impl Consumer {
    pub(crate) async fn start(channel: &Channel, start: Start) -> Self {
        let (requests, sent) = mpsc::channel(64);
        let request = Some(Request::Start(start));
        requests.send(ConsumeRequest { request }).await.unwrap();
        let mut client =
            ConsumeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answers = client.consume(ReceiverStream::new(sent)).await.unwrap().into_inner();
        Self { requests: Some(requests), answers }
    }

    /// Reads these partitions, each from its position.
    pub(crate) async fn of(channel: &Channel, partitions: &[(&str, i32, At)]) -> Self {
        let mut consumer = Self::start(channel, start_at(partitions)).await;
        let assigned = consumer.assigned().await;
        assert_eq!(assigned.partitions.len(), partitions.len());
        consumer
    }

    pub(crate) async fn send(&self, request: Request) {
        let requests = self.requests.as_ref().expect("requests may still be sent");
        requests.send(ConsumeRequest { request: Some(request) }).await.unwrap();
    }

    /// Says that no further request comes.
    pub(crate) fn finish_sending(&mut self) {
        self.requests = None;
    }

    /// The next answer, `None` at the stream's end.
    pub(crate) async fn try_next(&mut self) -> Result<Option<Response>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let next = next.expect("an answer or an error comes in time")?;
        Ok(next.map(|it| it.response.expect("every answer says something")))
    }

    pub(crate) async fn next(&mut self) -> Response {
        self.try_next().await.unwrap().expect("the stream goes on")
    }

    pub(crate) async fn refused(&mut self) -> Status {
        loop {
            match self.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ends well"),
                Err(status) => return status,
            }
        }
    }

    pub(crate) async fn assigned(&mut self) -> Assignment {
        match self.next().await {
            Response::Assigned(assigned) => assigned,
            other => panic!("{other:?} instead of an assignment"),
        }
    }

    pub(crate) async fn fetched(&mut self) -> FetchedRecords {
        match self.next().await {
            Response::Records(records) => records,
            other => panic!("{other:?} instead of records"),
        }
    }

    /// Offset and value of the next `count` records, and no more than come with them.
    async fn values(&mut self, count: usize) -> Vec<(i64, String)> {
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(self.fetched().await.records.iter().map(numbered));
        }
        found
    }

    async fn seek(&self, topic: &str, partition: i32, at: At) {
        let position = Some(Position { at: Some(at) });
        let topic = topic.to_owned();
        self.send(Request::Seek(Seek { topic, partition, position })).await;
    }

    async fn sought(&mut self) -> StartedAt {
        loop {
            match self.next().await {
                Response::Sought(sought) => return sought,
                Response::Records(_) => {}
                other => panic!("{other:?} instead of the answer to a seek"),
            }
        }
    }
}

fn numbered(record: &Record) -> (i64, String) {
    (record.offset, text(record.value.as_deref().unwrap_or_default()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) const EARLIEST: At = At::Edge(Edge::Earliest as i32);
const LATEST_EDGE: At = At::Edge(Edge::Latest as i32);

pub(crate) fn start_at(partitions: &[(&str, i32, At)]) -> Start {
    let partitions = partitions.iter().map(|&(topic, partition, at)| StartPartition {
        topic: topic.to_owned(),
        partition,
        position: Some(Position { at: Some(at) }),
    });
    let partitions = AssignedPartitions { partitions: partitions.collect() };
    Start { source: Some(Source::Partitions(partitions)), ..Start::default() }
}

pub(crate) fn record(value: &str) -> Record {
    Record { value: Some(value.to_owned().into()), ..Record::default() }
}

fn one(topic: &str, partition: Option<i32>, record: Record) -> ProduceRequest {
    let payload = Some(Payload::Record(record));
    ProduceRequest { topic: topic.to_owned(), partition, payload, ..ProduceRequest::default() }
}

fn some(topic: &str, partition: Option<i32>, values: &[&str]) -> ProduceRequest {
    let records = Records { records: values.iter().map(|it| record(it)).collect() };
    let payload = Some(Payload::Records(records));
    ProduceRequest { topic: topic.to_owned(), partition, payload, ..ProduceRequest::default() }
}

fn encoded(topic: &str, partition: i32, batch: Bytes) -> ProduceRequest {
    let (partition, payload) = (Some(partition), Some(Payload::Batch(batch)));
    ProduceRequest { topic: topic.to_owned(), partition, payload, ..ProduceRequest::default() }
}

async fn produce(channel: &Channel, request: ProduceRequest) -> Result<ProduceResponse, Status> {
    let mut producer = producer(channel);
    let written = tokio::time::timeout(PATIENCE, producer.produce(request)).await;
    Ok(written.expect("an answer comes in time")?.into_inner())
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_sent() {
    let broker = broker(&["num.partitions=4"]);
    let channel = connect(&broker).await;
    let header = |value: Option<&'static str>| Header {
        key: "trace".into(),
        value: value.map(|it| Bytes::from_static(it.as_bytes())),
    };
    let sent = Record {
        key: Some("key".into()),
        value: Some("value".into()),
        headers: vec![header(Some("1")), header(Some("2")), header(None)],
        timestamp_ms: Some(1_700_000_000_000),
        offset: 99,
    };
    let partition = partition_for_key(b"key", 4);
    let written = produce(&channel, one("events", None, sent.clone())).await.unwrap();
    assert_eq!(written, ProduceResponse { partition, base_offset: 0, log_append_time_ms: None });

    let mut consumer = Consumer::of(&channel, &[("events", partition, EARLIEST)]).await;
    let fetched = consumer.fetched().await;
    assert_eq!((fetched.topic.as_str(), fetched.partition), ("events", partition));
    assert_eq!((fetched.next_offset, fetched.high_watermark), (1, 1));
    assert_eq!(fetched.records, [Record { offset: 0, ..sent }]);

    // The stream waits for what is not there yet. Null is not empty, in keys as in values.
    let empty = Record { key: Some(Bytes::new()), timestamp_ms: Some(5), ..Record::default() };
    let request = one("events", Some(partition), empty.clone());
    let (written, fetched) = tokio::join!(produce(&channel, request), consumer.fetched());
    assert_eq!(written.unwrap().base_offset, 1);
    assert_eq!(fetched.records, [Record { offset: 1, ..empty }]);
    let before = now_ms();
    produce(&channel, one("events", Some(partition), record(""))).await.unwrap();
    let stamped = &consumer.fetched().await.records[0];
    assert_eq!((&stamped.key, &stamped.value), (&None, &Some(Bytes::new())));
    assert!((before..=now_ms()).contains(&stamped.timestamp_ms.unwrap()));
}

#[tokio::test]
async fn records_without_a_key_stay_together_and_then_move_on() {
    let broker = broker(&["num.partitions=3"]);
    let channel = connect(&broker).await;
    let send = async |value: &str| {
        produce(&channel, one("spread", None, record(value))).await.unwrap().partition
    };
    let began = Instant::now();
    let stayed = [send("a").await, send("b").await, send("c").await];
    // A partition is left after a while, too.
    if began.elapsed() < Duration::from_millis(500) {
        assert!(stayed.iter().all(|it| *it == stayed[0]), "{stayed:?}");
    }
    // Each of these is more than a partition's share.
    let large = "x".repeat(70_000);
    let mut moved = [send(&large).await, send(&large).await, send(&large).await];
    moved.sort_unstable();
    assert_eq!(moved, [0, 1, 2]);
}

#[tokio::test]
async fn both_doors_write_and_read_the_same_bytes() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let mut kafka = Connection::open(broker.kafka);
    let topic = fresh("doors");
    kafka.create_topic(&topic, 1, &[]);
    kafka.produce(&topic, 0, &packed(Codec::Zstd, &["by kafka", "as well"])).unwrap();
    produce(&channel, some(&topic, Some(0), &["by grpc", "twice"])).await.unwrap();
    let header: &[(&[u8], Option<&[u8]>)] = &[(b"h", Some(b"v"))];
    let record =
        NewRecord { key: Some(b"k"), value: Some(b"encoded"), headers: header, timestamp: 7 };
    let own = BatchBuilder::new(Codec::Lz4).push(record).build();
    produce(&channel, encoded(&topic, 0, own)).await.unwrap();

    let stored = kafka.read(&topic, 0, 0);
    let expected: Vec<_> =
        [(0, "by kafka"), (1, "as well"), (2, "by grpc"), (3, "twice"), (4, "encoded")]
            .map(|(at, value)| (at, value.to_owned()))
            .into();
    assert_eq!(values(stored.clone()), expected);

    let mut consumer = Consumer::of(&channel, &[(&topic, 0, EARLIEST)]).await;
    assert_eq!(consumer.values(5).await, expected);

    let format = Format::Batches.into();
    let start = Start { format, ..start_at(&[(&topic, 0, At::Offset(1))]) };
    let mut consumer = Consumer::start(&channel, start).await;
    consumer.assigned().await;
    let fetched = consumer.fetched().await;
    assert_eq!(fetched.batches, stored, "whole batches, from the one that holds the offset");
    assert_eq!((fetched.next_offset, fetched.credit_bytes), (5, stored.len() as i64));
    assert!(fetched.records.is_empty());
}

#[tokio::test]
async fn every_codec_and_a_log_append_time_are_read() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let mut kafka = Connection::open(broker.kafka);
    let topic = fresh("codecs");
    kafka.create_topic(&topic, 1, &[("message.timestamp.type", "LogAppendTime")]);
    let before = now_ms();
    for codec in Codec::ALL {
        let request = encoded(&topic, 0, packed(codec, &[codec.name(), "more"]));
        let written = produce(&channel, request).await.unwrap();
        assert!(written.log_append_time_ms.unwrap() >= before);
    }
    let mut consumer = Consumer::of(&channel, &[(&topic, 0, At::Offset(1))]).await;
    let mut records = Vec::new();
    while records.len() < 9 {
        records.extend(consumer.fetched().await.records);
    }
    assert!(records.iter().all(|it| (before..=now_ms()).contains(&it.timestamp_ms.unwrap())));
    let names = records.iter().map(numbered).skip(1).step_by(2).map(|(_, name)| name);
    assert!(names.eq(Codec::ALL.iter().skip(1).map(|it| it.name())));
}

#[tokio::test]
async fn retries_across_a_kill_are_written_once() {
    let mut broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("once");
    let given = producer(&channel).init_producer(InitProducerRequest {}).await.unwrap();
    let (id, epoch) = (given.get_ref().producer_id, given.get_ref().producer_epoch);
    let other = producer(&channel).init_producer(InitProducerRequest {}).await.unwrap();
    assert_ne!(other.get_ref().producer_id, id);
    let numbered = |base_sequence: i32, values: &[&str]| ProduceRequest {
        sequence: Some(Sequence { producer_id: id, producer_epoch: epoch, base_sequence }),
        ..some(&topic, Some(0), values)
    };
    let requests = [numbered(0, &["a", "b"]), numbered(2, &["c"]), numbered(3, &["d", "e"])];
    let mut written = Vec::new();
    for request in &requests {
        written.push(produce(&channel, request.clone()).await.unwrap().base_offset);
    }
    assert_eq!(written, [0, 2, 3]);
    broker.kill();
    broker.launch();
    let channel = connect(&broker).await;
    for (request, offset) in requests.into_iter().zip(written) {
        assert_eq!(produce(&channel, request).await.unwrap().base_offset, offset);
    }
    // A batch that a client builds is of the same producer.
    let batch = sequenced((id, epoch as i16), 5, &["f"]);
    for _ in 0..2 {
        let written = produce(&channel, encoded(&topic, 0, batch.clone())).await.unwrap();
        assert_eq!(written.base_offset, 5);
    }
    let gap = produce(&channel, numbered(9, &["x"])).await.unwrap_err();
    check_refusal(&gap, Code::FailedPrecondition, "OUT_OF_ORDER_SEQUENCE_NUMBER");
    let stored = Connection::open(broker.kafka).read_all(&topic, 0);
    let stored: Vec<_> = stored.into_iter().map(|(_, value)| value).collect();
    assert_eq!(stored, ["a", "b", "c", "d", "e", "f"]);
}

/// Sends all of it on one stream and collects all answers.
async fn stream(channel: &Channel, requests: Vec<ProduceRequest>) -> Vec<ProduceStreamResponse> {
    let requests = tokio_stream::iter(requests);
    let answers = producer(channel).produce_stream(requests).await.unwrap();
    let mut answers = answers.into_inner();
    let mut found = Vec::new();
    while let Some(answer) =
        tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time").unwrap()
    {
        found.push(answer);
    }
    found
}

#[tokio::test]
async fn a_stream_answers_each_request_in_the_order_of_its_partition() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("stream");
    Connection::open(broker.kafka).create_topic(&topic, 3, &[]);
    let requests = (0..3_000_u64).map(|id| {
        // Among them some that cannot be written: they end nothing.
        let request = match id % 100 {
            50 => one(&topic, Some(7), record("nowhere")),
            51 => ProduceRequest { topic: topic.clone(), ..ProduceRequest::default() },
            52 => encoded(&topic, 0, Bytes::from_static(b"damaged")),
            _ => one(&topic, Some((id % 3) as i32), record(&id.to_string())),
        };
        ProduceRequest { request_id: id, ..request }
    });
    let answers = stream(&channel, requests.collect()).await;
    assert_eq!(answers.len(), 3_000);
    let mut written: BTreeMap<i32, Vec<(i64, String)>> = BTreeMap::new();
    let mut last = BTreeMap::new();
    for ProduceStreamResponse { request_id, result } in answers {
        match result.unwrap() {
            Outcome::Written(it) => {
                assert!(last.insert(it.partition, request_id) < Some(request_id));
                let places = written.entry(it.partition).or_default();
                places.push((it.base_offset, request_id.to_string()));
            }
            Outcome::Refused(status) => {
                let expected = match request_id % 100 {
                    50 => (Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION"),
                    51 => (Code::InvalidArgument, "INVALID_REQUEST"),
                    52 => (Code::InvalidArgument, "INVALID_RECORD"),
                    _ => panic!("request {request_id} was refused: {status:?}"),
                };
                assert_eq!((Code::from(status.code), status.reason.as_str()), expected);
                assert!(!status.message.is_empty());
            }
        }
    }
    let mut kafka = Connection::open(broker.kafka);
    for partition in 0..3 {
        assert_eq!(kafka.read_all(&topic, partition), written[&partition]);
    }
}

#[tokio::test]
async fn a_stream_creates_topics_and_takes_more_bytes_than_it_holds() {
    let broker = broker(&["queued.max.request.bytes=16777216"]);
    let channel = connect(&broker).await;
    let topic = fresh("large");
    let value = "x".repeat(512 * 1024);
    let requests = (0..100).map(|_| one(&topic, Some(0), record(&value)));
    let answers = stream(&channel, requests.collect()).await;
    let offsets = answers.into_iter().map(|it| match it.result {
        Some(Outcome::Written(written)) => written.base_offset,
        other => panic!("{other:?}"),
    });
    assert!(offsets.eq(0..100));
    assert_eq!(broker.metric("millrace_request_held_bytes"), Some(0.0));
}

#[tokio::test]
async fn a_stream_that_came_to_its_limit_goes_on_with_its_answers() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("limit");
    Connection::open(broker.kafka).create_topic(&topic, 1, &[]);
    let (requests, sent) = mpsc::channel(64);
    let answers = producer(&channel).produce_stream(ReceiverStream::new(sent)).await.unwrap();
    let mut answers = answers.into_inner();
    let value = "x".repeat(1_000_000);
    // Each round is just more than a stream may have under way; nothing else comes until all of it is answered, often
    // all at once.
    for _ in 0..20 {
        for _ in 0..17 {
            requests.send(one(&topic, Some(0), record(&value))).await.unwrap();
        }
        for _ in 0..17 {
            let answer = tokio::time::timeout(PATIENCE, answers.message()).await;
            let answer = answer.expect("it is answered in time").unwrap().unwrap();
            assert!(matches!(answer.result, Some(Outcome::Written(_))), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn who_takes_no_answers_keeps_nothing_from_others() {
    let broker = broker(&["queued.max.request.bytes=16777216"]);
    let channel = connect(&broker).await;
    let topic = fresh("deaf");
    Connection::open(broker.kafka).create_topic(&topic, 1, &[]);
    // More than the budget, on a connection of its own, whose answers nobody reads.
    let deaf = Endpoint::from_shared(format!("http://{}", broker.grpc)).unwrap();
    let deaf = deaf.initial_stream_window_size(100).connect().await.unwrap();
    let value = "x".repeat(64 * 1024);
    let requests = (0..1_000).map(|_| one(&topic, Some(0), record(&value)));
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let unread = producer(&deaf).produce_stream(requests).await.unwrap();
    for _ in 0..100 {
        produce(&channel, one(&topic, Some(0), record(&value))).await.unwrap();
    }
    let written = Connection::open(broker.kafka).offset(&topic, 0, LATEST);
    assert!(written < 1_000, "{written}: it is read no further than its answers are taken");
    drop(unread);
}

#[tokio::test]
async fn refusals_are_typed() {
    let closed = broker(&["auto.create.topics.enable=false"]);
    let channel = connect(&closed).await;
    let missing = produce(&channel, one("missing", None, record("x"))).await.unwrap_err();
    check_refusal(&missing, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");

    let broker = broker(&[]);
    let channel = connect(&broker).await;
    produce(&channel, one("topic", None, record("x"))).await.unwrap();
    let sequence = |producer_id, producer_epoch, base_sequence| {
        Some(Sequence { producer_id, producer_epoch, base_sequence })
    };
    let good = one("topic", Some(0), record("x"));
    let damaged = |bytes: &'static [u8]| encoded("topic", 0, Bytes::from_static(bytes));
    let (invalid, request) = (Code::InvalidArgument, "INVALID_REQUEST");
    for (asked, code, reason) in [
        (one("topic", Some(9), record("x")), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION"),
        (one("topic", Some(-1), record("x")), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION"),
        (one("no/name", None, record("x")), invalid, "INVALID_TOPIC_EXCEPTION"),
        (
            one("__consumer_offsets", Some(0), record("x")),
            Code::FailedPrecondition,
            "INVALID_TOPIC_EXCEPTION",
        ),
        (ProduceRequest { payload: None, ..good.clone() }, invalid, request),
        (some("topic", Some(0), &[]), invalid, "INVALID_RECORD"),
        (
            ProduceRequest { partition: None, ..encoded("topic", 0, batch(&["x"])) },
            invalid,
            request,
        ),
        (
            ProduceRequest { sequence: sequence(1, 0, 0), ..encoded("topic", 0, batch(&["x"])) },
            invalid,
            request,
        ),
        (
            ProduceRequest { partition: None, sequence: sequence(1, 0, 0), ..good.clone() },
            invalid,
            request,
        ),
        (ProduceRequest { sequence: sequence(-1, 0, 0), ..good.clone() }, invalid, request),
        (ProduceRequest { sequence: sequence(1, 40_000, 0), ..good.clone() }, invalid, request),
        (ProduceRequest { sequence: sequence(1, 0, -1), ..good }, invalid, request),
        (damaged(b""), invalid, "INVALID_RECORD"),
        (damaged(b"short"), invalid, "INVALID_RECORD"),
        (damaged(&[0; 100]), invalid, "CORRUPT_MESSAGE"),
        (
            encoded("topic", 0, [batch(&["x"]), batch(&["y"])].concat().into()),
            invalid,
            "INVALID_RECORD",
        ),
    ] {
        let status = produce(&channel, asked.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{asked:?}: {status}");
        check_refusal(&status, code, reason);
    }
    let kafka_order = Connection::open(broker.kafka).read_all("topic", 0);
    assert_eq!(kafka_order.len(), 1, "nothing of it was written");
}

#[tokio::test]
async fn a_start_that_cannot_be_is_refused() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    produce(&channel, one("topic", None, record("x"))).await.unwrap();
    let good = || start_at(&[("topic", 0, EARLIEST)]);
    let (invalid, request) = (Code::InvalidArgument, "INVALID_REQUEST");
    let nowhere = StartPartition { topic: "topic".into(), partition: 0, position: None };
    let nowhere = AssignedPartitions { partitions: vec![nowhere] };
    for (start, code, reason) in [
        (Start::default(), invalid, request),
        (start_at(&[]), invalid, request),
        (start_at(&[("topic", 0, EARLIEST), ("topic", 0, LATEST_EDGE)]), invalid, request),
        (start_at(&[("topic", 0, At::Edge(0))]), invalid, request),
        (start_at(&[("topic", 0, At::Edge(7))]), invalid, request),
        (Start { source: Some(Source::Partitions(nowhere)), ..good() }, invalid, request),
        (Start { answer_bytes_max: -1, ..good() }, invalid, request),
        (Start { initial_credit_bytes: Some(-1), ..good() }, invalid, request),
        (Start { format: 9, ..good() }, invalid, request),
        (start_at(&[("missing", 0, EARLIEST)]), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION"),
        (start_at(&[("topic", 1, EARLIEST)]), Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION"),
        (start_at(&[("topic", 0, At::Offset(2))]), Code::OutOfRange, "OFFSET_OUT_OF_RANGE"),
        (start_at(&[("topic", 0, At::Offset(-1))]), Code::OutOfRange, "OFFSET_OUT_OF_RANGE"),
    ] {
        let mut consumer = Consumer::start(&channel, start.clone()).await;
        let status = consumer.refused().await;
        assert_eq!(status.code(), code, "{start:?}: {status}");
        check_refusal(&status, code, reason);
    }
    for wrong in [
        Request::Start(good()),
        Request::CreditBytes(0),
        Request::Commit(StreamCommit::default()),
        Request::Seek(Seek::default()),
    ] {
        let mut consumer = Consumer::of(&channel, &[("topic", 0, EARLIEST)]).await;
        consumer.send(wrong).await;
        check_refusal(&consumer.refused().await, invalid, request);
    }
    // The first request is the start.
    let first = ConsumeRequest { request: Some(Request::CreditBytes(1)) };
    let mut client = ConsumeServiceClient::new(channel.clone());
    let answers = client.consume(tokio_stream::iter([first])).await.unwrap();
    check_refusal(&answers.into_inner().message().await.unwrap_err(), invalid, request);
}

#[tokio::test]
async fn a_stream_begins_at_an_offset_a_time_or_an_end() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("positions");
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic(&topic, 1, &[]);
    let now = now_ms();
    kafka.produce(&topic, 0, &timed(Codec::Lz4, &[now - 3_000, now - 2_000, now - 1_000])).unwrap();
    for (at, offset) in [
        (EARLIEST, 0),
        (LATEST_EDGE, 3),
        (At::Offset(2), 2),
        (At::Offset(3), 3),
        (At::TimestampMs(0), 0),
        (At::TimestampMs(now - 2_500), 1),
        (At::TimestampMs(now - 1_000), 2),
        (At::TimestampMs(now), 3),
    ] {
        let mut consumer = Consumer::start(&channel, start_at(&[(&topic, 0, at)])).await;
        let expected = StartedAt { topic: topic.clone(), partition: 0, offset };
        assert_eq!(consumer.assigned().await.partitions, [expected], "{at:?}");
        if offset < 3 {
            assert_eq!(consumer.values(1).await[0].0, offset, "{at:?}");
        }
    }
}

#[tokio::test]
async fn credit_bounds_what_is_sent() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("credit");
    let value = "x".repeat(1_000);
    for _ in 0..20 {
        produce(&channel, some(&topic, Some(0), &[value.as_str(); 5])).await.unwrap();
    }
    for format in [Format::Records, Format::Batches] {
        let start = Start {
            initial_credit_bytes: Some(10_000),
            format: format.into(),
            ..start_at(&[(&topic, 0, EARLIEST)])
        };
        let mut consumer = Consumer::start(&channel, start).await;
        consumer.assigned().await;
        let mut left = 10_000;
        let mut next = 0;
        while left > 0 {
            let fetched = consumer.fetched().await;
            assert!(fetched.credit_bytes > 1_000 && fetched.next_offset > next);
            (left, next) = (left - fetched.credit_bytes, fetched.next_offset);
        }
        // Of a single batch more, at most.
        assert!((-6_000..=0).contains(&left) && (10..=20).contains(&next), "{left} {next}");
        // The answer to a seek comes without records before it: there is no credit for any.
        consumer.seek(&topic, 0, At::Offset(90)).await;
        assert!(matches!(consumer.next().await, Response::Sought(it) if it.offset == 90));
        consumer.send(Request::CreditBytes(1 - left)).await;
        let fetched = consumer.fetched().await;
        assert!(fetched.next_offset > 90 && fetched.next_offset <= 95);
        // Nobody can give more: that is the end.
        consumer.finish_sending();
        assert!(consumer.try_next().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn answers_are_as_large_as_asked_for() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("answers");
    // One batch that unpacks to much more than an answer may hold.
    let value = "x".repeat(10_000);
    let batch = packed(Codec::Zstd, &vec![value.as_str(); 500]);
    produce(&channel, encoded(&topic, 0, batch)).await.unwrap();
    let start = Start { answer_bytes_max: 50_000, ..start_at(&[(&topic, 0, EARLIEST)]) };
    let mut consumer = Consumer::start(&channel, start).await;
    consumer.assigned().await;
    let mut next = 0;
    while next < 500 {
        let fetched = consumer.fetched().await;
        assert!(
            fetched.credit_bytes <= 50_000 && fetched.records.len() >= 4,
            "{}",
            fetched.next_offset
        );
        for record in &fetched.records {
            assert_eq!((record.offset, record.value.as_ref().unwrap().len()), (next, 10_000));
            next += 1;
        }
        assert_eq!(fetched.next_offset, next);
    }
    // A single record larger than that comes all the same.
    let start = Start { answer_bytes_max: 1, ..start_at(&[(&topic, 0, At::Offset(499))]) };
    let mut consumer = Consumer::start(&channel, start).await;
    consumer.assigned().await;
    assert_eq!(consumer.fetched().await.records.len(), 1);
}

#[tokio::test]
async fn partitions_are_paused_resumed_and_sought() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("seek");
    Connection::open(broker.kafka).create_topic(&topic, 2, &[]);
    let write = |partition, value: &str| one(&topic, Some(partition), record(value));
    for value in ["a", "b", "c"] {
        produce(&channel, write(1, value)).await.unwrap();
    }
    let mut consumer =
        Consumer::of(&channel, &[(&topic, 0, EARLIEST), (&topic, 1, LATEST_EDGE)]).await;
    let first = TopicPartition { topic: topic.clone(), partition: 0 };
    // One that the stream does not read is passed over.
    let stranger = TopicPartition { topic: "stranger".into(), partition: 0 };
    let paused = Partitions { partitions: vec![first, stranger] };
    consumer.send(Request::Pause(paused.clone())).await;
    consumer.seek(&topic, 1, At::Offset(1)).await;
    let sought = StartedAt { topic: topic.clone(), partition: 1, offset: 1 };
    assert_eq!(consumer.sought().await, sought);

    produce(&channel, write(0, "paused")).await.unwrap();
    produce(&channel, write(1, "d")).await.unwrap();
    let expected = [(1, "b"), (2, "c"), (3, "d")].map(|(at, it)| (at, it.to_owned()));
    assert_eq!(consumer.values(3).await, expected);

    consumer.send(Request::Resume(paused)).await;
    let fetched = consumer.fetched().await;
    assert_eq!((fetched.partition, numbered(&fetched.records[0]).1.as_str()), (0, "paused"));

    for (at, offset) in [(EARLIEST, 0), (LATEST_EDGE, 4), (At::Offset(2), 2)] {
        consumer.seek(&topic, 1, at).await;
        assert_eq!(consumer.sought().await.offset, offset);
    }
    consumer.seek(&topic, 7, EARLIEST).await;
    check_refusal(&consumer.refused().await, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
}

#[tokio::test]
async fn a_busy_partition_does_not_starve_another() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("fair");
    Connection::open(broker.kafka).create_topic(&topic, 3, &[]);
    let value = "x".repeat(10_000);
    for _ in 0..20 {
        produce(&channel, some(&topic, Some(0), &[value.as_str(); 5])).await.unwrap();
    }
    for partition in [1, 2] {
        produce(&channel, one(&topic, Some(partition), record("little"))).await.unwrap();
    }
    let all: Vec<_> = (0..3).map(|it| (topic.as_str(), it, EARLIEST)).collect();
    let start = Start { answer_bytes_max: 10_000, ..start_at(&all) };
    let mut consumer = Consumer::start(&channel, start).await;
    consumer.assigned().await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(consumer.fetched().await.partition);
    }
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2]);
}

#[tokio::test]
async fn slow_consumers_do_not_make_the_broker_grow() {
    const STREAMS: usize = 20;
    const MIB: u64 = 1 << 20;
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("slow");
    let value = "x".repeat(1000);
    let batch = batch(&vec![value.as_str(); 1_000]);
    for _ in 0..48 {
        produce(&channel, encoded(&topic, 0, batch.clone())).await.unwrap();
    }
    let before = broker.anonymous_bytes();
    let mut slow = Vec::new();
    for _ in 0..STREAMS {
        let channel = connect(&broker).await;
        let mut consumer = Consumer::of(&channel, &[(&topic, 0, EARLIEST)]).await;
        consumer.fetched().await;
        slow.push(consumer);
    }
    // Meanwhile another reads all there is.
    let mut quick = Consumer::of(&channel, &[(&topic, 0, EARLIEST)]).await;
    while quick.fetched().await.next_offset < 48_000 {}
    let grown = broker.anonymous_bytes().saturating_sub(before);
    assert!(grown < STREAMS as u64 * 8 * MIB, "grown by {grown} bytes");
    // And they are where they were.
    for consumer in &mut slow {
        let mut next = 0;
        while next < 5_000 {
            next = consumer.fetched().await.next_offset;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut broker = broker(&[]);
    let channel = connect(&broker).await;
    let values: Vec<_> = (0..1_000).map(|i| format!("record {i}")).collect();
    for some_values in values.chunks(100) {
        let some_values: Vec<_> = some_values.iter().map(String::as_str).collect();
        produce(&channel, some("survivors", Some(0), &some_values)).await.unwrap();
    }
    let mut cut = Consumer::of(&channel, &[("survivors", 0, At::Offset(1_000))]).await;
    broker.kill();
    cut.refused().await;
    broker.launch();
    // From the middle of a batch.
    let channel = connect(&broker).await;
    let mut consumer = Consumer::of(&channel, &[("survivors", 0, At::Offset(150))]).await;
    let found = consumer.values(850).await;
    assert!(found.iter().map(|(at, _)| *at).eq(150..1_000));
    assert!(found.into_iter().map(|(_, value)| value).eq(values.into_iter().skip(150)));
}

#[tokio::test]
async fn a_deleted_topic_ends_its_streams() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("deleted");
    produce(&channel, one(&topic, Some(0), record("x"))).await.unwrap();
    let mut consumer = Consumer::of(&channel, &[(&topic, 0, LATEST_EDGE)]).await;
    let mut kafka = Connection::open(broker.kafka);
    let request = kafka_protocol::messages::DeleteTopicsRequest::default()
        .with_topic_names(vec![millrace_tests::ask::topic_name(&topic)])
        .with_timeout_ms(30_000);
    assert_eq!(kafka.ask(5, &request).responses[0].error_code, 0);
    check_refusal(&consumer.refused().await, Code::NotFound, "UNKNOWN_TOPIC_OR_PARTITION");
}

#[tokio::test]
async fn a_stopping_broker_ends_streams_and_exits_well() {
    let mut broker = broker(&[]);
    let channel = connect(&broker).await;
    produce(&channel, one("stopping", Some(0), record("x"))).await.unwrap();
    let mut consumer = Consumer::of(&channel, &[("stopping", 0, LATEST_EDGE)]).await;
    let waiting = tokio::spawn(async move { consumer.refused().await });
    let (requests, sent) = mpsc::channel(8);
    requests.send(one("stopping", Some(0), record("y"))).await.unwrap();
    let answers = producer(&channel).produce_stream(ReceiverStream::new(sent)).await.unwrap();
    let mut answers = answers.into_inner();
    assert!(matches!(
        answers.message().await.unwrap().unwrap().result,
        Some(Outcome::Written(it)) if it.base_offset == 1
    ));
    let code = tokio::task::spawn_blocking(move || broker.stop()).await.unwrap();
    assert_eq!(code, Some(0));
    check_refusal(&waiting.await.unwrap(), Code::Unavailable, "NOT_CONTROLLER");
    check_refusal(&answers.message().await.unwrap_err(), Code::Unavailable, "NOT_CONTROLLER");
    drop(requests);
}

#[tokio::test]
async fn offsets_are_the_same_through_either_door() {
    let broker = broker(&[]);
    let channel = connect(&broker).await;
    let topic = fresh("offsets");
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic(&topic, 1, &[]);
    for round in 0..3 {
        assert_eq!(kafka.produce(&topic, 0, &batch(&["k"])), Ok(2 * round));
        let written = produce(&channel, one(&topic, Some(0), record("g"))).await.unwrap();
        assert_eq!(written.base_offset, 2 * round + 1);
    }
    assert_eq!(kafka.offset(&topic, 0, LATEST), 6);
    let stored = batches(kafka.read(&topic, 0, 0));
    assert!(stored.iter().map(|it| it.header.base_offset.0).eq(0..6));
}
