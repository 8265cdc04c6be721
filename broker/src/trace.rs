//! Spans of requests: one for each, from the door to the reply, within the trace of whoever asks (W3C `traceparent`).
//!
//! They are told at debug level under one target to whoever listens: the exporter (`ops::telemetry`), or the log, whose
//! lines carry them where `tracing.filter` says `millrace::request=debug`. While nobody listens, a request pays for one look at a flag. No
//! record's contents or key is ever in a span.

use std::net::SocketAddr;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::field::{self, Empty};
use tracing::{Span, debug_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::context::RequestContext;

/// The target of all spans of requests, and of nothing else.
pub(crate) const TARGET: &str = "millrace::request";

/// A request of the Kafka door, whose protocol has no place for a trace: each begins its own.
pub(crate) struct KafkaRequest {
    pub(crate) api: &'static str,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
}

impl KafkaRequest {
    pub(crate) fn span(&self, context: &RequestContext) -> Span {
        debug_span!(
            target: TARGET,
            parent: None,
            "request",
            otel.name = self.api,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system = "kafka",
            rpc.method = self.api,
            version = self.version,
            correlation_id = self.correlation_id,
            client_id = context.client_id(),
            peer = %context.peer(),
            certain_us = Empty,
            refused = Empty,
        )
    }
}

/// Notes on a produce request's span when its batches were as safe as their topics promise, counted from the decoded
/// request on, and how many were refused.
pub(crate) fn produced(span: &Span, certain: std::time::Duration, refused: usize) {
    span.record("certain_us", u64::try_from(certain.as_micros()).unwrap_or(u64::MAX));
    if refused > 0 {
        span.record("refused", refused);
        failed(span);
    }
}

/// A call of the gRPC door.
pub(crate) struct GrpcRequest<'a> {
    pub(crate) service: &'a str,
    pub(crate) method: &'a str,
    pub(crate) peer: Option<SocketAddr>,
    /// The metadata of these names.
    pub(crate) traceparent: Option<&'a str>,
    pub(crate) tracestate: Option<&'a str>,
}

impl GrpcRequest<'_> {
    pub(crate) fn span(&self) -> Span {
        let span = debug_span!(
            target: TARGET,
            parent: None,
            "request",
            otel.name = %format_args!("{}/{}", self.service, self.method),
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system = "grpc",
            rpc.service = self.service,
            rpc.method = self.method,
            rpc.grpc.status_code = Empty,
            peer = self.peer.map(field::display),
        );
        if !span.is_disabled() {
            self.join(&span);
        }
        span
    }

    fn join(&self, span: &Span) {
        let theirs = TraceContextPropagator::new().extract_with_context(&Context::new(), self);
        if theirs.span().span_context().is_valid() {
            // Without an exporter there is no trace to be part of.
            let _ = span.set_parent(theirs);
        }
    }
}

impl Extractor for GrpcRequest<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Notes how a call ended.
pub(crate) fn ended(span: &Span, status_code: i32, is_our_fault: bool) {
    span.record("rpc.grpc.status_code", status_code);
    if is_our_fault {
        failed(span);
    }
}

fn failed(span: &Span) {
    span.record("otel.status_code", "ERROR");
}
