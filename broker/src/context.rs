//! Who asks: what every operation may know of its request beyond the request itself.

use std::net::SocketAddr;
use std::sync::Arc;

/// One client's identity on one connection.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    peer: SocketAddr,
    local: SocketAddr,
    client_id: Arc<str>,
}

impl RequestContext {
    pub(crate) fn kafka(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer, local, client_id: "".into() }
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Allocates only when the client changes its id between requests.
    pub(crate) fn set_client_id(&mut self, client_id: &str) {
        if &*self.client_id != client_id {
            self.client_id = client_id.into();
        }
    }

    /// The client's host as Kafka shows it in group descriptions: `/127.0.0.1`.
    pub(crate) fn client_host(&self) -> String {
        format!("/{}", self.peer.ip().to_canonical())
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address that the client reached us at.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }
}
