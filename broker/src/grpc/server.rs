//! The gRPC listener: which services it offers, and how much it takes at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use millrace_proto::FILE_DESCRIPTOR_SET;
use millrace_proto::v1::admin_service_server::AdminServiceServer;
use millrace_proto::v1::consume_service_server::ConsumeServiceServer;
use millrace_proto::v1::produce_service_server::ProduceServiceServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::warn;

use crate::grpc::admin::AdminDoor;
use crate::grpc::consume::ConsumeDoor;
use crate::grpc::deadline::Punctual;
use crate::grpc::observe::Observed;
use crate::grpc::produce::ProduceDoor;
use crate::metrics::Metrics;
use crate::net::{Connection, Entrance};
use crate::service::Hall;
use crate::shutdown::Shutdown;

/// Connections at once; a further one waits to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// Calls that one connection may have open, streams included.
const STREAMS_MAX: u32 = 256;
/// Calls of one connection that are worked on at once; the others wait, their bytes unread.
const CALLS_MAX: usize = 32;
/// Unread bytes of one call, and of all calls of a connection.
const CALL_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What a client may send as one frame: large ones cost fewer system calls, here and there.
const FRAME_BYTES_MAX: u32 = 256 * 1024;
/// A silent connection is asked for a sign of life this often, and closed without one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);
/// The largest request of the administration; those that carry records may be as large as the Kafka door's.
const ADMIN_REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The services whose health can be asked for, and that of all of them.
const SERVICES: [&str; 4] = [
    ProduceServiceServer::<ProduceDoor>::NAME,
    ConsumeServiceServer::<ConsumeDoor>::NAME,
    AdminServiceServer::<AdminDoor>::NAME,
    "",
];
/// Serves until shutdown, then until the calls under way are answered.
pub(crate) async fn run(listener: TcpListener, hall: Arc<Hall>, shutdown: Shutdown) {
    let (reporter, health) = tonic_health::server::health_reporter();
    report(&reporter, ServingStatus::Serving).await;
    let routes = add_ours(Routes::new(health), &hall, &shutdown);
    let services = Punctual::new(add_reflection(routes).prepare(), shutdown.clone());
    let services = Observed::new(services, Arc::clone(&hall.metrics));
    let (accepted, incoming) = mpsc::channel(1);
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(CALLS_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .initial_stream_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
        .serve_with_incoming_shutdown(
            services,
            ReceiverStream::new(incoming),
            shutdown.requested(),
        );
    let farewell = async {
        shutdown.requested().await;
        report(&reporter, ServingStatus::NotServing).await;
    };
    let (served, (), ()) =
        tokio::join!(served, accept(listener, accepted, &hall.metrics, shutdown.clone()), farewell);
    if let Err(error) = served {
        warn!(%error, "the gRPC door stopped");
    }
}

async fn report(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

fn add_ours(routes: Routes, hall: &Arc<Hall>, shutdown: &Shutdown) -> Routes {
    let bytes_max = hall.config.socket_request_max_bytes;
    let produce = ProduceServiceServer::new(ProduceDoor::new(Arc::clone(hall), shutdown.clone()))
        .max_decoding_message_size(bytes_max);
    let consume = ConsumeServiceServer::new(ConsumeDoor::new(Arc::clone(hall), shutdown.clone()))
        .max_decoding_message_size(bytes_max);
    let admin = AdminServiceServer::new(AdminDoor::new(Arc::clone(hall), shutdown.clone()))
        .max_decoding_message_size(ADMIN_REQUEST_BYTES_MAX);
    routes.add_service(produce).add_service(consume).add_service(admin)
}

/// What tools such as grpcurl learn the contract from; the older ones among them speak v1alpha.
fn add_reflection(routes: Routes) -> Routes {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What refusals carry: without these a tool shows their details as bytes.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().expect("a test proves the descriptors current");
    let v1alpha = reflection().build_v1alpha().expect("a test proves the descriptors current");
    routes.add_service(v1).add_service(v1alpha)
}

/// Accepts until shutdown, as many connections as there are places.
async fn accept(
    listener: TcpListener,
    accepted: mpsc::Sender<io::Result<Connection<Counted>>>,
    metrics: &Arc<Metrics>,
    shutdown: Shutdown,
) {
    let entrance = Entrance::new(listener, CONNECTIONS_MAX);
    loop {
        let connection = tokio::select! {
            (connection, _) = entrance.accept() => connection,
            () = shutdown.requested() => return,
        };
        if accepted.send(Ok(connection.holding(Counted::new(metrics)))).await.is_err() {
            return;
        }
    }
}

/// A connection is counted while this lives.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.grpc_connections(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.grpc_connections(-1);
    }
}

impl Connected for Connection<Counted> {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream().connect_info()
    }
}
