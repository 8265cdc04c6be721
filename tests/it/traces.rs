//! Spans of requests, as a collector gets them: what they say, whose trace they are part of, and that none is lost when
//! the broker stops.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use millrace_proto::v1::produce_request::Payload;
use millrace_proto::v1::{DescribeTopicRequest, ListTopicsRequest, ProduceRequest, Record};
use millrace_tests::kafka::Connection;
use millrace_tests::process::BrokerProcess;
use millrace_tests::records::batch;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::grpc::{connect, producer};
use crate::metrics::admin;

const BROKER: &str = env!("CARGO_BIN_EXE_millrace-broker");

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    got: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    /// Listens on a free port of loopback; returns the setting that sends spans there.
    async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(self.clone());
        let server = Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        format!("tracing.otlp.endpoint=http://{address}")
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let resources = got.iter().flat_map(|it| &it.resource_spans);
        resources.flat_map(|it| &it.scope_spans).flat_map(|it| it.spans.clone()).collect()
    }

    /// The spans right below `parent`, as they began.
    fn children(&self, parent: &Span) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|it| it.parent_span_id == parent.span_id);
        spans.sort_by_key(|it| (it.start_time_unix_nano, it.end_time_unix_nano));
        spans
    }

    /// `parent` went through just these stages, one after the other.
    #[track_caller]
    fn check_stages(&self, parent: &Span, names: &[&str]) {
        // The clocks of a span and of its stages are read apart.
        const CLOCKS_APART_NANOS: u64 = 1_000_000;
        let stages = self.children(parent);
        assert_eq!(stages.iter().map(|it| &it.name).collect::<Vec<_>>(), names, "{stages:?}");
        let mut from = parent.start_time_unix_nano - CLOCKS_APART_NANOS;
        for stage in &stages {
            assert_eq!(stage.trace_id, parent.trace_id, "{stage:?}");
            assert_eq!(stage.kind, SpanKind::Internal as i32, "{stage:?}");
            assert!(from <= stage.start_time_unix_nano, "{stages:?}");
            assert!(stage.start_time_unix_nano <= stage.end_time_unix_nano, "{stages:?}");
            from = stage.end_time_unix_nano;
        }
        assert!(from <= parent.end_time_unix_nano + CLOCKS_APART_NANOS, "{parent:?} {stages:?}");
        for pair in stages.windows(2) {
            let gap = pair[0].end_time_unix_nano.abs_diff(pair[1].start_time_unix_nano);
            assert_eq!(gap, 0, "nothing is left out between stages: {pair:?}");
        }
    }

    #[track_caller]
    fn span(&self, name: &str) -> Span {
        let found: Vec<_> = self.spans().into_iter().filter(|it| it.name == name).collect();
        assert_eq!(found.len(), 1, "{name}: {:?}", self.spans());
        found[0].clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.got.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{key} is {other:?}"),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_one_span_in_its_clients_trace() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";
    let collector = Collector::default();
    let setting = collector.listen().await;
    let mut broker = BrokerProcess::start(BROKER, &[&setting]);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("traced", 1, &[]);
    kafka.produce("traced", 0, &batch(&["a"])).unwrap();
    kafka.read("traced", 0, 0);
    let mut admin = admin(&broker).await;
    let mut call = Request::new(ListTopicsRequest::default());
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    call.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    admin.list_topics(call).await.unwrap();
    let missing = DescribeTopicRequest { name: "missing".into() };
    admin.describe_topic(missing).await.unwrap_err();
    // What is not yet sent leaves when the broker stops.
    assert_eq!(tokio::task::spawn_blocking(move || broker.stop()).await.unwrap(), Some(0));

    let produce = collector.span("Produce");
    assert_eq!(produce.kind, SpanKind::Server as i32);
    assert!(produce.parent_span_id.is_empty());
    let of_produce = |key| attribute(&produce.attributes, key);
    assert_eq!(of_produce("rpc.system").as_deref(), Some("kafka"));
    assert_eq!(of_produce("version").as_deref(), Some("11"));
    assert!(of_produce("client_id").is_some() && of_produce("correlation_id").is_some());
    let certain_us: u64 = of_produce("certain_us").unwrap().parse().unwrap();
    let whole_us = (produce.end_time_unix_nano - produce.start_time_unix_nano) / 1_000;
    assert!(certain_us > 0 && certain_us <= whole_us + 1, "{certain_us} of {whole_us}");
    collector.span("Fetch");
    collector.span("CreateTopics");

    let list = collector.span("millrace.v1.AdminService/ListTopics");
    assert_eq!(hex(&list.trace_id), TRACE);
    assert_eq!(hex(&list.parent_span_id), PARENT);
    let of_list = |key| attribute(&list.attributes, key);
    assert_eq!(of_list("rpc.method").as_deref(), Some("ListTopics"));
    assert_eq!(of_list("rpc.grpc.status_code").as_deref(), Some("0"));
    assert!(of_list("peer").unwrap().starts_with("127.0.0.1:"));
    let describe = collector.span("millrace.v1.AdminService/DescribeTopic");
    assert_eq!(attribute(&describe.attributes, "rpc.grpc.status_code").as_deref(), Some("5"));
    let status = describe.status.unwrap_or_default();
    assert_eq!(status.code(), StatusCode::Unset, "what a client did wrong is no error of ours");

    let got = collector.got.lock().unwrap();
    let resource = got[0].resource_spans[0].resource.as_ref().unwrap();
    let of_resource = |key| attribute(&resource.attributes, key);
    assert_eq!(of_resource("service.name").as_deref(), Some("millrace"));
    assert_eq!(of_resource("service.instance.id").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_produce_request_shows_its_stages_through_either_door() {
    let collector = Collector::default();
    let setting = collector.listen().await;
    let mut broker = BrokerProcess::start(BROKER, &[&setting]);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("durable", 2, &[]);
    kafka.create_topic("relaxed", 1, &[("durability", "relaxed")]);
    let in_topic = |topic: &str, partition| ProduceRequest {
        topic: topic.to_owned(),
        partition: Some(partition),
        payload: Some(Payload::Record(Record { value: Some("a".into()), ..Record::default() })),
        ..ProduceRequest::default()
    };
    let mut producer = producer(&connect(&broker).await);
    kafka.produce("durable", 0, &batch(&["a"])).unwrap();
    producer.produce(in_topic("relaxed", 0)).await.unwrap();
    producer.produce(in_topic("relaxed", 9)).await.unwrap_err();
    producer.produce(ProduceRequest::default()).await.unwrap_err();
    let three = [in_topic("durable", 1), in_topic("relaxed", 0), in_topic("durable", 7)];
    let answers = producer.produce_stream(tokio_stream::iter(three)).await.unwrap();
    assert_eq!(answers.into_inner().collect::<Vec<_>>().await.len(), 3);
    assert_eq!(tokio::task::spawn_blocking(move || broker.stop()).await.unwrap(), Some(0));

    const DURABLE: [&str; 4] = ["queue", "append", "sync", "respond"];
    const RELAXED: [&str; 3] = ["queue", "append", "respond"];
    collector.check_stages(&collector.span("Produce"), &DURABLE);
    let calls = collector.spans().into_iter();
    let mut calls: Vec<_> =
        calls.filter(|it| it.name == "millrace.v1.ProduceService/Produce").collect();
    calls.sort_by_key(|it| it.start_time_unix_nano);
    let [written, refused, senseless] = &calls[..] else { panic!("{calls:?}") };
    collector.check_stages(written, &RELAXED);
    collector.check_stages(refused, &["respond"]);
    collector.check_stages(senseless, &[]);
    let stream = collector.span("millrace.v1.ProduceService/ProduceStream");
    let requests = collector.children(&stream);
    let refused = |it: &Span| attribute(&it.attributes, "refused");
    let refused: Vec<_> = requests.iter().map(refused).collect();
    assert_eq!(refused, [None, None, Some("1".to_owned())], "{requests:?}");
    for (request, names) in requests.iter().zip([&DURABLE[..], &RELAXED, &["respond"]]) {
        assert_eq!(request.name, "request");
        assert_eq!(request.trace_id, stream.trace_id);
        collector.check_stages(request, names);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_is_not_sent_unless_the_client_asks() {
    let collector = Collector::default();
    let setting = collector.listen().await;
    let settings = [setting.as_str(), "tracing.otlp.sample.ratio=0"];
    let mut broker = BrokerProcess::start(BROKER, &settings);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("traced", 1, &[]);
    kafka.produce("traced", 0, &batch(&["a"])).unwrap();
    let mut admin = admin(&broker).await;
    for flags in ["00", "01"] {
        let mut call = Request::new(ListTopicsRequest::default());
        let traceparent =
            format!("00-0af7651916cd43dd8448eb211c8031{flags}-b7ad6b7169203331-{flags}");
        call.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        admin.list_topics(call).await.unwrap();
    }
    assert_eq!(tokio::task::spawn_blocking(move || broker.stop()).await.unwrap(), Some(0));
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(hex(&spans[0].trace_id), "0af7651916cd43dd8448eb211c803101");
}

#[test]
fn a_collector_that_is_away_costs_no_request() {
    // Nobody listens on the port of a socket that was closed.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setting = format!("tracing.otlp.endpoint=http://{free}");
    let mut broker = BrokerProcess::start(BROKER, &[&setting]);
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("untraced", 1, &[]);
    for _ in 0..10 {
        kafka.produce("untraced", 0, &batch(&["a"])).unwrap();
    }
    assert_eq!(broker.stop(), Some(0));
    assert!(broker.log().contains("ExportError") || broker.log().contains("not sent"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
