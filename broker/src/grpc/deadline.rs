//! When a call must end: at its own deadline (`grpc-timeout`), and some streams when the broker stops.
//!
//! tonic has a timer for that header too, but it answers CANCELLED, and it leaves streams alone once they have begun.
//! Ours comes first. What a call was doing is given up: its future, or its stream, is dropped.

use std::future::{pending, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};

use crate::error::BrokerError;
use crate::grpc::{OURS, errors};
use crate::shutdown::Shutdown;

/// The header's name.
const TIMEOUT: &str = "grpc-timeout";
/// Digits of its value, by the protocol.
const TIMEOUT_DIGITS_MAX: usize = 8;
/// By how much we are ahead of tonic's timer, whose ticks these are.
const TICK: Duration = Duration::from_millis(1);
/// How long others may still say something then, for example that nothing is served any more.
const FAREWELL: Duration = Duration::from_millis(100);

/// A service whose calls end in time.
#[derive(Clone)]
pub(super) struct Punctual<S> {
    inner: S,
    shutdown: Shutdown,
}

impl<S> Punctual<S> {
    pub(super) fn new(inner: S, shutdown: Shutdown) -> Self {
        Self { inner, shutdown }
    }
}

impl<S> Service<Request<Body>> for Punctual<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let left = timeout(request.headers());
        if left.is_some_and(|left| left <= TICK) {
            return Box::pin(ready(Ok(errors::deadline_exceeded().into_http())));
        }
        let deadline = left.map(|left| Instant::now() + left.saturating_sub(TICK));
        // Our services end their streams themselves when the broker stops.
        let endless = !request.uri().path().starts_with(OURS);
        let stop = endless.then(|| self.shutdown.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = match deadline {
                None => answer.await,
                Some(deadline) => match tokio::time::timeout_at(deadline, answer).await {
                    Ok(response) => response,
                    Err(_) => return Ok(errors::deadline_exceeded().into_http()),
                },
            };
            if deadline.is_none() && stop.is_none() {
                return response;
            }
            response.map(|it| it.map(|body| Body::new(Until::new(body, end(deadline, stop)))))
        })
    }
}

/// Waits until a call must end; says why.
async fn end(deadline: Option<Instant>, stop: Option<Shutdown>) -> Status {
    let deadline = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => pending().await,
        }
    };
    let stopped = async {
        match stop {
            Some(shutdown) => shutdown.requested().await,
            None => pending().await,
        }
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = deadline => errors::deadline_exceeded(),
        () = stopped => errors::status(&BrokerError::ShuttingDown),
    }
}

/// An answer's body until `end`, whose status it then ends with.
struct Until {
    /// `None` once it has been cut off.
    body: Option<Body>,
    end: Pin<Box<dyn Future<Output = Status> + Send>>,
}

impl Until {
    fn new(body: Body, end: impl Future<Output = Status> + Send + 'static) -> Self {
        Self { body: Some(body), end: Box::pin(end) }
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        // The end is looked at with every frame: a stream that never waits has to end too.
        let frame = Pin::new(body).poll_frame(context);
        let is_last = match &frame {
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if is_last {
            return frame;
        }
        match self.end.as_mut().poll(context) {
            Poll::Ready(status) => {
                self.body = None;
                Poll::Ready(Some(trailers(&status)))
            }
            Poll::Pending => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers)?;
    Ok(Frame::trailers(headers))
}

/// The time that the client gives; a header that is not well-formed counts as none, as elsewhere.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > TIMEOUT_DIGITS_MAX || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 60 * 60)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        let check = |value: &str, expected| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, value.parse().unwrap());
            assert_eq!(timeout(&headers), expected, "{value:?}");
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("250m", Some(Duration::from_millis(250)));
        check("7u", Some(Duration::from_micros(7)));
        check("8n", Some(Duration::from_nanos(8)));
        check("0m", Some(Duration::ZERO));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "m", "5", "+5m", "-1S", "100000000m", "5 m", "1.5S", "5x"] {
            check(nonsense, None);
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
