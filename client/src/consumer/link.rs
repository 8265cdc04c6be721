//! The consumer's stream to the broker: one session of it, opened by a start request.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use millrace_proto::v1::consume_request::Request;
use millrace_proto::v1::consume_response::Response;
use millrace_proto::v1::{ConsumeRequest, ConsumeResponse};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use crate::{Client, Error};

/// Where the stream stands.
pub(super) enum Link {
    /// It broke; then it is opened again.
    Resting(Pin<Box<Sleep>>),
    Opening(Pin<Box<dyn Future<Output = Result<Up, Error>> + Send>>),
    Up(Box<Up>),
    /// It was left.
    Gone,
}

/// An open stream.
pub(super) struct Up {
    /// Not bounded by count: a few answers to what the broker sends, which credit bounds, and what the application asks
    /// for, which it would not get sooner by waiting.
    requests: mpsc::UnboundedSender<ConsumeRequest>,
    answers: Streaming<ConsumeResponse>,
}

impl Up {
    /// A request to a stream that has ended goes nowhere: its answers tell.
    pub(super) fn send(&self, request: Request) {
        let _ = self.requests.send(ConsumeRequest { request: Some(request) });
    }

    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Option<Response>, Status>>> {
        let answer = self.answers.poll_next_unpin(context);
        answer.map(|answer| answer.map(|answer| answer.map(|it| it.response)))
    }

    /// Waits for the answer to this commit. Then it is dropped, which ends the stream and a member's place.
    pub(super) async fn leave_after(mut self, commit: u64) {
        while let Ok(Some(answer)) = self.answers.message().await {
            if matches!(answer.response, Some(Response::Committed(it)) if it.request_id == commit) {
                return;
            }
        }
    }
}

/// Opens a stream; the first request is its start.
pub(super) async fn open(client: Client, start: Request) -> Result<Up, Error> {
    let (requests, outgoing) = mpsc::unbounded_channel();
    requests.send(ConsumeRequest { request: Some(start) }).expect("the receiver is here");
    let mut door = client.consume_door();
    let opened = door.consume(UnboundedReceiverStream::new(outgoing));
    let waited = client.call_timeout();
    let opened = tokio::time::timeout(waited, opened).await;
    let answers = opened.map_err(|_| Error::Timeout { waited, last: String::new() })??.into_inner();
    Ok(Up { requests, answers })
}
