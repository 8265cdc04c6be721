//! Spans of requests: one for each, from the door to the reply, within the trace of whoever asks (W3C `traceparent`).
//!
//! They are told at debug level under one target to whoever listens: the exporter (`ops::telemetry`), or the log, whose
//! lines carry them where `tracing.filter` says `millrace::request=debug`. Below the span of a produce request the
//! exporter gets one for each stage, see [`Stages`]. While nobody listens, a request pays for one look at a flag. No
//! record's contents or key is ever in a span.

use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::field::{self, Empty};
use tracing::{Span, debug_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::context::RequestContext;
use crate::metrics::Stage;

/// The target of all spans of requests, and of nothing else.
pub(crate) const TARGET: &str = "millrace::request";

/// What sends spans that are known only when they are over, if any are sent.
static EXPORTED: OnceLock<SdkTracer> = OnceLock::new();

/// From now on stages are sent, too; for `ops::telemetry`.
pub(crate) fn export_by(tracer: SdkTracer) {
    // The first stays: a process has one exporter.
    let _ = EXPORTED.set(tracer);
}

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
pub(crate) fn produced(span: &Span, certain: Duration, refused: usize) {
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

/// How far a produce request has come: noted only while its trace is sampled, told once it is answered.
///
/// Its stages follow each other. Of a request with several batches each lasts until the last batch is through.
pub(crate) struct Stages {
    tracer: &'static SdkTracer,
    /// The span that the stages are parts of.
    whole: Context,
    /// That span is told here: it is one request among many within a call.
    is_own: bool,
    started: Instant,
    /// When that was for people. One pair of clocks, so that no stage overlaps another.
    started_wall: SystemTime,
    /// Guards two times; held to store or read one.
    reached: Mutex<Reached>,
}

#[derive(Clone, Copy, Default)]
struct Reached {
    taken: Option<Instant>,
    written: Option<Instant>,
}

impl Stages {
    /// Of the request whose span this is; `None` unless it is sampled.
    pub(crate) fn of(span: &Span, started: Instant) -> Option<Box<Self>> {
        let tracer = EXPORTED.get()?;
        let whole = span.context();
        let is_sampled = whole.span().span_context().is_sampled();
        is_sampled.then(|| {
            let started_wall = SystemTime::now() - started.elapsed();
            let reached = Mutex::default();
            Box::new(Self { tracer, whole, is_own: false, started, started_wall, reached })
        })
    }

    /// Of the request that is being served here.
    pub(crate) fn of_current(started: Instant) -> Option<Box<Self>> {
        EXPORTED.get()?;
        Self::of(&Span::current(), started)
    }

    /// Of one request among the many that the call served here brings: it has a span of its own in the call's.
    pub(crate) fn of_one_in_current(started: Instant) -> Option<Box<Self>> {
        let mut stages = Self::of_current(started)?;
        let request = stages.tracer.span_builder("request").with_start_time(stages.started_wall);
        let request = request.start_with_context(stages.tracer, &stages.whole);
        stages.whole = stages.whole.with_span(request);
        stages.is_own = true;
        Some(stages)
    }

    /// A batch is its partition's owner's.
    pub(crate) fn taken(&self, now: Instant) {
        let mut reached = self.reached.lock().expect("no holder panics");
        reached.taken = reached.taken.max(Some(now));
    }

    /// A batch is written to its log.
    pub(crate) fn written(&self, now: Instant) {
        let mut reached = self.reached.lock().expect("no holder panics");
        reached.written = reached.written.max(Some(now));
    }

    /// A batch is refused.
    pub(crate) fn refused(&self) {
        if self.is_own {
            self.whole.span().set_attribute(KeyValue::new("refused", 1));
        }
    }

    /// The reply is encoded. Every result is certain since `known`; `None` when some were not waited for.
    pub(crate) fn answered(&self, known: Option<Instant>, now: Instant) {
        let Reached { taken, written } = *self.reached.lock().expect("no holder panics");
        let mut from = self.started;
        if taken.is_some() || known.is_none() {
            from = self.tell(Stage::Queue, from, taken.unwrap_or(now));
        }
        if let Some(written) = written {
            from = self.tell(Stage::Append, from, written);
            let safe = known.unwrap_or(now);
            // On a relaxed topic what is written is as safe as promised.
            if safe > from {
                from = self.tell(Stage::Sync, from, safe);
            }
        }
        if let Some(known) = known {
            self.tell(Stage::Respond, from.max(known), now);
        }
        if self.is_own {
            self.whole.span().end_with_timestamp(self.wall(now));
        }
    }

    /// Tells of a stage and returns when it was over, which is when the next began.
    fn tell(&self, stage: Stage, from: Instant, until: Instant) -> Instant {
        let until = until.max(from);
        let span = self.tracer.span_builder(stage.name()).with_start_time(self.wall(from));
        span.start_with_context(self.tracer, &self.whole).end_with_timestamp(self.wall(until));
        until
    }

    fn wall(&self, at: Instant) -> SystemTime {
        self.started_wall + at.saturating_duration_since(self.started)
    }
}
