//! Accepts Kafka clients: limits on how many, back-off when descriptors run out, one task each.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::kafka::connection;
use crate::net::ACCEPT_PAUSE;
use crate::service::Hall;
use crate::shutdown::Shutdown;

/// Accepts until shutdown, then waits for the connections to drain.
pub(crate) async fn run(listener: TcpListener, hall: Arc<Hall>, shutdown: Shutdown) {
    size_buffers(&listener, &hall.config);
    let mut connections = JoinSet::new();
    let admitted = Arc::new(Admitted::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = shutdown.requested() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or memory: let some connections end. Never a reason to stop listening.
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = admitted.admit(peer, &hall) else {
            hall.metrics.connection_refused();
            continue; // dropping the stream closes it
        };
        let local = match stream.set_nodelay(true).and_then(|()| stream.local_addr()) {
            Ok(local) => local,
            Err(error) => {
                info!(%peer, %error, "connection lost at accept");
                continue;
            }
        };
        let (hall, shutdown) = (Arc::clone(&hall), shutdown.clone());
        connections.spawn(async move {
            hall.metrics.connection_opened();
            let served = connection::serve(stream, peer, local, Arc::clone(&hall), shutdown);
            if std::panic::AssertUnwindSafe(served).catch_unwind().await.is_err() {
                hall.metrics.panicked();
                error!(%peer, "a bug ended this connection; the broker goes on");
            }
            hall.metrics.connection_closed();
            drop(place);
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Connections inherit the sizes from the socket that accepts them.
fn size_buffers(listener: &TcpListener, config: &Config) {
    let send =
        config.socket_send_buffer_bytes.map(|bytes| set_socket_send_buffer_size(listener, bytes));
    let receive = config
        .socket_receive_buffer_bytes
        .map(|bytes| set_socket_recv_buffer_size(listener, bytes));
    for error in send.into_iter().chain(receive).filter_map(Result::err) {
        warn!(%error, "the system chooses the size of socket buffers");
    }
}

/// Who is connected, by address.
#[derive(Default)]
struct Admitted {
    /// Guards the counts.
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Admitted {
    fn admit(self: &Arc<Self>, peer: SocketAddr, hall: &Hall) -> Option<Place> {
        let mut counts = self.counts.lock().expect("no holder panics");
        let address = peer.ip().to_canonical();
        let mine = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.all >= hall.config.max_connections {
            warn!(%peer, limit = "max.connections", "connection refused");
            return None;
        }
        if mine >= hall.config.max_connections_per_ip {
            warn!(%peer, limit = "max.connections.per.ip", "connection refused");
            return None;
        }
        counts.all += 1;
        counts.by_address.insert(address, mine + 1);
        Some(Place { admitted: Arc::clone(self), address })
    }
}

/// One connection's place under the limits; given back on drop.
struct Place {
    admitted: Arc<Admitted>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admitted.counts.lock().expect("no holder panics");
        counts.all -= 1;
        match counts.by_address.get_mut(&self.address) {
            Some(1) | None => {
                counts.by_address.remove(&self.address);
            }
            Some(count) => *count -= 1,
        }
    }
}
