//! Around every call of ours: how long it took, and its span, which lasts until the answer's last byte.
//!
//! A unary call is timed until it is answered. A stream lasts as long as its client likes, so only the requests within a
//! `ProduceStream` are timed, by their service.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tracing::{Instrument, Span};

use crate::grpc::OURS;
use crate::metrics::{GrpcCall, Metrics};
use crate::trace::{self, GrpcRequest};

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// A service whose calls are timed and traced.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Observed<S> {
    pub(super) fn new(inner: S, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some((service, method)) = ours(request.uri().path()) else {
            return Box::pin(self.inner.call(request));
        };
        let started = Instant::now();
        let timed = GrpcCall::named(method).filter(|call| !call.is_stream());
        let span = span(&request, service, method);
        let metrics = Arc::clone(&self.metrics);
        let answer = self.inner.call(request).instrument(span.clone());
        Box::pin(async move {
            let response = answer.await?;
            if let Some(call) = timed {
                metrics.grpc_answered(call, started.elapsed());
            }
            if span.is_disabled() {
                return Ok(response);
            }
            note_status(&span, response.headers());
            Ok(response.map(|body| Body::new(Spanned { body, span })))
        })
    }
}

/// Service and method of a path of ours. Health and reflection are asked by machines all the time, and tell nothing.
fn ours(path: &str) -> Option<(&str, &str)> {
    path.starts_with(OURS).then(|| path[1..].split_once('/'))?
}

fn span(request: &Request<Body>, service: &str, method: &str) -> Span {
    let header = |name| request.headers().get(name).and_then(|it| it.to_str().ok());
    let connection = request.extensions().get::<TcpConnectInfo>();
    let request = GrpcRequest {
        service,
        method,
        peer: connection.and_then(TcpConnectInfo::remote_addr),
        traceparent: header(TRACEPARENT),
        tracestate: header(TRACESTATE),
    };
    request.span()
}

/// A refusal is in the headers, the end of anything else in the trailers.
fn note_status(span: &Span, headers: &HeaderMap) {
    if let Some(status) = Status::from_header_map(headers) {
        let is_our_fault = matches!(
            status.code(),
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        trace::ended(span, status.code() as i32, is_our_fault);
    }
}

/// An answer's body that keeps its call's span open.
struct Spanned {
    body: Body,
    span: Span,
}

impl HttpBody for Spanned {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, span } = &mut *self;
        let _entered = span.enter();
        let frame = Pin::new(body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            note_status(span, trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_ours_are_looked_at() {
        let call = ours("/millrace.v1.ProduceService/Produce");
        assert_eq!(call, Some(("millrace.v1.ProduceService", "Produce")));
        for other in ["/grpc.health.v1.Health/Check", "/millrace.v1.ProduceService", "/", ""] {
            assert_eq!(ours(other), None, "{other}");
        }
    }
}
