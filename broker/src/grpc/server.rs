//! The gRPC listener: which services it offers, and how much it takes at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millrace_proto::v1::consume_service_server::ConsumeServiceServer;
use millrace_proto::v1::produce_service_server::ProduceServiceServer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

use crate::grpc::consume::ConsumeDoor;
use crate::grpc::produce::ProduceDoor;
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
/// A silent connection is asked for a sign of life this often, and closed without one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until shutdown, then until the calls under way are answered.
pub(crate) async fn run(listener: TcpListener, hall: Arc<Hall>, shutdown: Shutdown) {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ProduceServiceServer<ProduceDoor>>().await;
    health_reporter.set_serving::<ConsumeServiceServer<ConsumeDoor>>().await;
    let message_bytes_max = hall.config.socket_request_max_bytes;
    let produce = ProduceServiceServer::new(ProduceDoor::new(Arc::clone(&hall)))
        .max_decoding_message_size(message_bytes_max);
    let consume = ConsumeServiceServer::new(ConsumeDoor::new(hall, shutdown.clone()));
    let (accepted, incoming) = mpsc::channel(1);
    let served = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(CALLS_MAX)
        .initial_stream_window_size(CALL_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
        .add_service(health)
        .add_service(produce)
        .add_service(consume)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), shutdown.requested());
    let (served, ()) = tokio::join!(served, accept(listener, accepted, shutdown.clone()));
    if let Err(error) = served {
        warn!(%error, "the gRPC door stopped");
    }
}

/// Accepts until shutdown, as many connections as there are places.
async fn accept(
    listener: TcpListener,
    accepted: mpsc::Sender<io::Result<Placed>>,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("the places are never closed");
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(Placed { stream, _place: place })
        };
        let next = tokio::select! {
            next = next => next,
            () = shutdown.requested() => return,
        };
        match next {
            Ok(placed) => {
                if accepted.send(Ok(placed)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of descriptors, or the client went away: never a reason to stop listening.
                warn!(%error, "accept failed on the gRPC port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A connection that holds a place until it ends.
struct Placed {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Placed {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
