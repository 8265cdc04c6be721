//! What the gRPC door offers beside its own services, and what it holds its clients to: reflection, health, deadlines,
//! limits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::SendRequest;
use millrace_proto::v1::admin_service_client::AdminServiceClient;
use millrace_proto::v1::{CreateTopicRequest, ListTopicsRequest, WatchTopicsRequest};
use millrace_tests::kafka::Connection;
use millrace_tests::process::BrokerProcess;
use prost::Message;
use protox::prost_reflect::prost_types::FileDescriptorProto;
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, Request};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_types::StatusExt;

const BROKER: &str = env!("CARGO_BIN_EXE_millrace-broker");
/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVICES: [&str; 3] =
    ["millrace.v1.AdminService", "millrace.v1.ConsumeService", "millrace.v1.ProduceService"];

async fn channel(broker: &BrokerProcess) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", broker.grpc)).unwrap();
    endpoint.connect().await.unwrap()
}

#[tokio::test]
async fn reflection_tells_of_every_service_in_both_versions() {
    use v1::server_reflection_client::ServerReflectionClient;
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;

    let broker = BrokerProcess::start(BROKER, &[]);
    let mut reflection = ServerReflectionClient::new(channel(&broker).await);
    let mut ask = async |message| {
        let message_request = Some(message);
        let request = v1::ServerReflectionRequest { host: String::new(), message_request };
        let asked = reflection.server_reflection_info(tokio_stream::once(request)).await;
        let answer = asked.unwrap().into_inner().message().await.unwrap().unwrap();
        answer.message_response.unwrap()
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
    let mut listed: Vec<_> = listed.service.into_iter().map(|it| it.name).collect();
    listed.sort();
    let mut expected = SERVICES.to_vec();
    expected.extend(["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]);
    expected.sort_unstable();
    assert_eq!(listed, expected);

    let found = ask(MessageRequest::FileContainingSymbol(SERVICES[0].into())).await;
    let MessageResponse::FileDescriptorResponse(found) = found else { panic!("{found:?}") };
    // What a person reads in a tool is there too.
    let file = String::from_utf8_lossy(&found.file_descriptor_proto[0]).into_owned();
    assert!(file.contains("WatchLag") && file.contains("Deletes a topic and its records."));

    // What refusals carry, with all that those files import.
    for detail in ["google.rpc.ErrorInfo", "google.rpc.RetryInfo", "google.rpc.BadRequest"] {
        let found = ask(MessageRequest::FileContainingSymbol(detail.into())).await;
        let MessageResponse::FileDescriptorResponse(found) = found else { panic!("{found:?}") };
        let file = FileDescriptorProto::decode(&found.file_descriptor_proto[0][..]).unwrap();
        assert_eq!(file.package(), "google.rpc");
        for import in file.dependency {
            let found = ask(MessageRequest::FileByFilename(import)).await;
            assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{found:?}");
        }
    }

    let mut older =
        v1alpha::server_reflection_client::ServerReflectionClient::new(channel(&broker).await);
    let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request =
        v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let asked = older.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = asked.into_inner().message().await.unwrap().unwrap();
    let answer = format!("{answer:?}");
    SERVICES.iter().for_each(|service| assert!(answer.contains(service), "{answer}"));
}

#[tokio::test]
async fn each_service_says_whether_it_serves() {
    let mut broker = BrokerProcess::start(BROKER, &[]);
    let mut health = HealthClient::new(channel(&broker).await);
    let of = |service: &str| HealthCheckRequest { service: service.into() };
    for service in SERVICES.into_iter().chain([""]) {
        let answer = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = health.check(of("millrace.v1.NoService")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    // Who watches learns of the end, and does not keep the broker from it.
    let mut watched = health.watch(of("")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let stopped = tokio::task::spawn_blocking(move || broker.stop());
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watched.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(stopped.await.unwrap(), Some(0));
}

/// One HTTP/2 connection without gRPC's client, which would keep deadlines itself.
async fn plain(broker: &BrokerProcess) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(broker.grpc).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        // Ends with the test.
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

/// Begins a call of `AdminService`; without a message the broker waits for it.
async fn call(
    client: &mut SendRequest<Bytes>,
    method: &str,
    timeout: &str,
    message: Option<Bytes>,
) -> (HeaderMap, RecvStream) {
    let request = Request::post(format!("http://broker/{}/{method}", SERVICES[0]))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    if let Some(message) = message {
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.put(message);
        body.send_data(framed.freeze(), true).unwrap();
    }
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").unwrap();
    let (head, body) = answer.into_parts();
    (head.headers, body)
}

/// The end of a call: its status and the messages before it.
async fn end(headers: HeaderMap, mut body: RecvStream) -> (Status, Vec<Bytes>) {
    if let Some(status) = Status::from_header_map(&headers) {
        return (status, Vec::new());
    }
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            bytes.put(data);
        }
        (bytes.freeze(), body.trailers().await.unwrap().unwrap())
    };
    let (mut bytes, trailers) = tokio::time::timeout(PATIENCE, read).await.expect("an end in time");
    let mut messages = Vec::new();
    while bytes.has_remaining() {
        assert_eq!(bytes.get_u8(), 0, "nothing is compressed");
        let length = bytes.get_u32() as usize;
        messages.push(bytes.split_to(length));
    }
    (Status::from_header_map(&trailers).unwrap(), messages)
}

fn check_deadline(status: &Status) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "REQUEST_TIMED_OUT");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut client = plain(&broker).await;
    // A call that waits: its message never comes.
    let begun = std::time::Instant::now();
    let (headers, body) = call(&mut client, "ListTopics", "200m", None).await;
    check_deadline(&end(headers, body).await.0);
    assert!(begun.elapsed() >= Duration::from_millis(199));
    // A stream that goes on: what came before the deadline is whole.
    let message = || Some(WatchTopicsRequest::default().encode_to_vec().into());
    let (headers, body) = call(&mut client, "WatchTopics", "200m", message()).await;
    let (status, messages) = end(headers, body).await;
    check_deadline(&status);
    assert_eq!(messages.len(), 1);
    // A call that is done in time is not touched.
    let message = Some(ListTopicsRequest::default().encode_to_vec().into());
    let (headers, body) = call(&mut client, "ListTopics", "1M", message).await;
    let (status, messages) = end(headers, body).await;
    assert_eq!((status.code(), messages.len()), (Code::Ok, 1));
}

#[tokio::test]
async fn a_deadline_is_never_called_a_cancellation() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let client = plain(&broker).await;
    let calls = (0..60).map(|index| {
        let mut client = client.clone();
        tokio::spawn(async move {
            // Some wait for their message, some stream; some are over before they begin.
            let timeout = format!("{}m", index % 20);
            let message = WatchTopicsRequest::default().encode_to_vec().into();
            let message = (index % 2 == 0).then_some(message);
            let (headers, body) = call(&mut client, "WatchTopics", &timeout, message).await;
            end(headers, body).await.0
        })
    });
    for call in calls.collect::<Vec<_>>() {
        check_deadline(&call.await.unwrap());
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_harms_nobody() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let mut admin = AdminServiceClient::new(channel(&broker).await);
    let name = "x".repeat(5 << 20);
    let request = CreateTopicRequest { name, ..CreateTopicRequest::default() };
    let refused = admin.create_topic(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    admin.list_topics(ListTopicsRequest::default()).await.unwrap();
    Connection::open(broker.kafka).create_topic("still-here", 1, &[]);
}
