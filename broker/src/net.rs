//! How connections come in: as many as there are places, whatever becomes of the others. For doors whose connections are
//! served by somebody else's code; the Kafka door, which refuses where these wait, has a loop of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tracing::warn;

/// How long accepting pauses when the process has no descriptor or memory left.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener that hands out so many connections and no more.
pub(crate) struct Entrance {
    listener: TcpListener,
    places: Arc<Semaphore>,
    read_stall: Option<Duration>,
}

impl Entrance {
    /// A further connection waits to be accepted.
    pub(crate) fn new(listener: TcpListener, connections_max: usize) -> Self {
        let places = Arc::new(Semaphore::new(connections_max));
        Self { listener, places, read_stall: None }
    }

    /// Ends connections whose client sends nothing for so long.
    pub(crate) fn read_stall(self, read_stall: Duration) -> Self {
        Self { read_stall: Some(read_stall), ..self }
    }

    /// The next connection, once there is a place for it. What goes wrong meanwhile is logged and passes.
    pub(crate) async fn accept(&self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the places are never closed");
        loop {
            match self.accept_stream().await {
                Ok((stream, peer)) => {
                    return (Connection::new(stream, self.read_stall, place), peer);
                }
                Err(error) => {
                    // Out of descriptors, or the client went away: never a reason to stop listening.
                    let address = self.local_addr().map(|it| it.to_string()).unwrap_or_default();
                    warn!(%error, address, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    async fn accept_stream(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }
}

/// A connection that keeps its place, and whatever else it is given, until it ends.
pub(crate) struct Connection<H = ()> {
    stream: TcpStream,
    patience: Option<Patience>,
    held: H,
    _place: OwnedSemaphorePermit,
}

/// How long a client may still be silent.
struct Patience {
    read_stall: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: TcpStream, read_stall: Option<Duration>, place: OwnedSemaphorePermit) -> Self {
        let patience = read_stall.map(|read_stall| Patience {
            read_stall,
            sleep: Box::pin(tokio::time::sleep(read_stall)),
        });
        Self { stream, patience, held: (), _place: place }
    }

    /// Keeps `held`, too.
    pub(crate) fn holding<H>(self, held: H) -> Connection<H> {
        let Self { stream, patience, held: (), _place } = self;
        Connection { stream, patience, held, _place }
    }
}

impl<H> Connection<H> {
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl<H: Unpin> AsyncRead for Connection<H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(Patience { read_stall, sleep }) = &mut self.patience else { return read };
        if read.is_ready() {
            sleep.as_mut().reset(Instant::now() + *read_stall);
            return read;
        }
        sleep.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<H: Unpin> AsyncWrite for Connection<H> {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let entrance = Entrance::new(listener, 1).read_stall(Duration::from_millis(1));
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let (connection, _) = entrance.accept().await;
        let mut connection = connection.holding(Arc::new(()));
        let held = Arc::downgrade(&connection.held);
        let silent = connection.read_u8().await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        // With the only place taken the second connection waits.
        assert_eq!(entrance.places.available_permits(), 0);
        drop(connection);
        assert!(held.upgrade().is_none());
        entrance.accept().await;
    }
}
