//! The ops port: `/healthz`, `/readyz`, `/metrics` over HTTP/1.1. Bounded in connections and in patience, because
//! probes come from anywhere. What is on the metrics page is for `node` to say: this door reaches no topic and no group.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tracing::warn;

use crate::ops::health::Health;
use crate::shutdown::Shutdown;

/// Connections at once; a further one waits to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A connection that sends nothing for this long is closed.
const READ_STALL: Duration = Duration::from_secs(30);
/// How long accepting pauses when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Makes the metrics page.
pub(crate) type MetricsPage =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// What the pages are made of.
#[derive(Clone)]
struct Ops {
    health: Health,
    metrics: MetricsPage,
}

/// Answers until shutdown, then until the last request under way is answered.
pub(crate) async fn serve(
    listener: TcpListener,
    health: Health,
    metrics: MetricsPage,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let listener = Bounded { listener, places, read_stall: READ_STALL };
    answer(listener, Ops { health, metrics }, shutdown).await;
}

async fn answer(listener: Bounded, ops: Ops, shutdown: Shutdown) {
    let router = Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ops);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.requested().await });
    if let Err(error) = served.await {
        warn!(%error, "the ops port stopped");
    }
}

async fn index() -> &'static str {
    "Millrace\n\n/healthz  200 while the broker lives\n/readyz   200 while it takes work\n/metrics  Prometheus text\n"
}

async fn healthz(State(ops): State<Ops>) -> Response {
    let state = ops.health.state();
    probe(state.is_alive(), &state.to_string())
}

async fn readyz(State(ops): State<Ops>) -> Response {
    let state = ops.health.state();
    probe(state.is_ready(), &state.to_string())
}

fn probe(is_well: bool, state: &str) -> Response {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{state}\n")).into_response()
}

async fn metrics(State(ops): State<Ops>) -> Response {
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, (ops.metrics)().await).into_response()
}

/// A listener that hands out so many connections and no more.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    read_stall: Duration,
}

impl axum::serve::Listener for Bounded {
    type Io = Impatient;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Impatient, SocketAddr) {
        let place = Arc::clone(&self.places);
        let place = place.acquire_owned().await.expect("the places are never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    return (Impatient::new(stream, self.read_stall, place), peer);
                }
                Err(error) => {
                    warn!(%error, "accept failed on the ops port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its client is silent for too long, and then gives its place back.
struct Impatient {
    stream: TcpStream,
    read_stall: Duration,
    patience: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Impatient {
    fn new(stream: TcpStream, read_stall: Duration, place: OwnedSemaphorePermit) -> Self {
        let patience = Box::pin(tokio::time::sleep(read_stall));
        Self { stream, read_stall, patience, _place: place }
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            let until = Instant::now() + self.read_stall;
            self.patience.as_mut().reset(until);
            return read;
        }
        match self.patience.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::shutdown;

    fn page() -> MetricsPage {
        Arc::new(|| Box::pin(async { "a_metric 1\n".to_owned() }))
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_follow_the_nodes_life() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::starting();
        let (trigger, shutdown) = shutdown::channel();
        let server = tokio::spawn(serve(listener, health.clone(), page(), shutdown));

        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        health.ready();
        let ready = ask(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
        health.failed("sync failed");
        let failed = ask(address, "/healthz").await;
        assert!(failed.starts_with("HTTP/1.1 503") && failed.ends_with("failed: sync failed\n"));
        let metrics = ask(address, "/metrics").await;
        assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("a_metric 1\n"));
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        trigger.request();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let places = Arc::new(Semaphore::new(1));
        let listener = Bounded { listener, places, read_stall: Duration::from_millis(1) };
        let ops = Ops { health: Health::starting(), metrics: page() };
        let (_trigger, shutdown) = shutdown::channel();
        let server = tokio::spawn(answer(listener, ops, shutdown));
        // The second one is accepted only when the first has lost its place.
        for _ in 0..2 {
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut answer = Vec::new();
            let _ = silent.read_to_end(&mut answer).await;
            assert!(answer.is_empty());
        }
        server.abort();
    }
}
