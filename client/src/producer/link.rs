//! The producer's stream to the broker: opened when there is something to send, and again, after a pause, when it broke.

use std::pin::Pin;

use millrace_proto::v1::{ProduceRequest, ProduceStreamResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{Client, Error};

/// Requests that wait for the connection to take them.
const REQUESTS_MAX: usize = 16;

/// Where the stream stands.
pub(super) enum Link {
    /// Nobody needs it.
    Down,
    /// It broke; until then nothing is tried.
    Resting(Instant),
    Opening(Pin<Box<dyn Future<Output = Result<Up, Error>> + Send>>),
    Up(Box<Up>),
}

/// An open stream.
pub(super) struct Up {
    requests: mpsc::Sender<ProduceRequest>,
    answers: Streaming<ProduceStreamResponse>,
    /// The connection takes nothing more for now.
    is_full: bool,
}

/// What happens to a stream.
pub(super) enum LinkEvent {
    Rested,
    Opened(Result<Up, Error>),
    Answered(ProduceStreamResponse),
    Lost(Error),
    /// It takes requests again.
    HasRoom,
}

impl Link {
    pub(super) fn open(client: Client) -> Self {
        Self::Opening(Box::pin(open(client)))
    }

    /// Takes the request that `next` makes, if there is room for it and there is one.
    pub(super) fn send(&mut self, next: impl FnOnce() -> Option<ProduceRequest>) -> Sent {
        let Self::Up(up) = self else { return Sent::NoRoom };
        match up.requests.try_reserve() {
            Ok(place) => match next() {
                Some(request) => {
                    place.send(request);
                    Sent::One
                }
                None => Sent::Nothing,
            },
            // Of a stream that is closed the answers tell why.
            Err(_) => {
                up.is_full = true;
                Sent::NoRoom
            }
        }
    }

    /// Waits for what happens next. Whoever stops waiting loses nothing.
    pub(super) async fn event(&mut self) -> LinkEvent {
        match self {
            Self::Down => std::future::pending().await,
            Self::Resting(until) => {
                tokio::time::sleep_until(*until).await;
                LinkEvent::Rested
            }
            Self::Opening(opening) => LinkEvent::Opened(opening.await),
            Self::Up(up) => up.event().await,
        }
    }
}

/// What became of an offer to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    One,
    Nothing,
    NoRoom,
}

impl Up {
    async fn event(&mut self) -> LinkEvent {
        tokio::select! {
            answer = self.answers.message() => match answer {
                Ok(Some(answer)) => LinkEvent::Answered(answer),
                Ok(None) => LinkEvent::Lost(Error::Lost { reason: "the broker ended the stream".to_owned() }),
                Err(status) => LinkEvent::Lost(status.into()),
            },
            _ = self.requests.reserve(), if self.is_full && !self.requests.is_closed() => {
                self.is_full = false;
                LinkEvent::HasRoom
            }
        }
    }
}

async fn open(client: Client) -> Result<Up, Error> {
    let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
    let mut door = client.produce_door();
    let opened = door.produce_stream(ReceiverStream::new(outgoing));
    let waited = client.call_timeout();
    let opened = tokio::time::timeout(waited, opened).await;
    let answers = opened.map_err(|_| Error::Timeout { waited, last: String::new() })??.into_inner();
    Ok(Up { requests, answers, is_full: false })
}
