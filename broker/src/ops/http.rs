//! The ops port: `/healthz`, `/readyz`, `/metrics` over HTTP/1.1. Bounded in connections and in patience, because
//! probes come from anywhere. What is on the metrics page is for `node` to say: this door reaches no topic and no group.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::warn;

use crate::net::{Connection, Entrance};
use crate::ops::health::Health;
use crate::shutdown::Shutdown;

/// Connections at once; a further one waits to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A connection that sends nothing for this long is closed.
const READ_STALL: Duration = Duration::from_secs(30);

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
    let entrance = Entrance::new(listener, CONNECTIONS_MAX).read_stall(READ_STALL);
    answer(entrance, Ops { health, metrics }, shutdown).await;
}

async fn answer(entrance: Entrance, ops: Ops, shutdown: Shutdown) {
    let router = Router::new()
        .route("/", get(index))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ops);
    let served = axum::serve(entrance, router)
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

impl axum::serve::Listener for Entrance {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

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
        let entrance = Entrance::new(listener, 1).read_stall(Duration::from_millis(1));
        let ops = Ops { health: Health::starting(), metrics: page() };
        let (_trigger, shutdown) = shutdown::channel();
        let server = tokio::spawn(answer(entrance, ops, shutdown));
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
