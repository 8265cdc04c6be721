//! Logs and traces. Logs: for people on a terminal, one JSON object a line elsewhere, always on standard error. Traces:
//! a span for each request, to an OpenTelemetry collector if one is set.
//!
//! Standard output belongs to what a command prints. A panic is logged here too, so that no bug is told in a form that
//! a log collector cannot read.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing::{Subscriber, error, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::config::{Address, Config, LogFormat};
use crate::trace;

/// A collector that takes longer than this for one batch of spans does not get it.
const EXPORT_PATIENCE: Duration = Duration::from_secs(5);
/// What is not yet sent at shutdown may take this long.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error(
        "tracing.filter = {filter:?}: {error}; write a level such as info, or levels by module"
    )]
    Filter { filter: String, error: tracing_subscriber::filter::ParseError },
    #[error("spans cannot be sent to {endpoint} (tracing.otlp.endpoint): {error}")]
    Export { endpoint: Address, error: ExporterBuildError },
    #[error("this process logs already: {0}")]
    Twice(#[from] TryInitError),
}

/// Logging and tracing of this process, until it ends.
#[must_use = "spans that are not yet sent are lost without it"]
pub(crate) struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the spans that are still here. Blocks, for a few seconds at most; the runtime must still be there.
    pub(crate) fn stop(self) {
        if let Some(spans) = self.spans
            && let Err(error) = spans.shutdown_with_timeout(FLUSH_PATIENCE)
        {
            warn!(%error, "the last spans were not sent");
        }
    }
}

/// Begins logging for the whole process, and sending spans if that is set; to be called once, inside the runtime,
/// before anything worth telling happens.
///
/// # Errors
/// A setting does not read, or it was called before.
pub(crate) fn init(config: &Config) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&config.tracing_filter)
        .map_err(|error| TelemetryError::Filter { filter: config.tracing_filter.clone(), error })?;
    let spans = config.tracing_otlp_endpoint.as_ref().map(|endpoint| exporter(endpoint, config));
    let spans = spans.transpose()?;
    let exported = spans.as_ref().map(|spans| {
        // Spans of requests and nothing else: what sending them does must not be sent again.
        let requests = Targets::new().with_target(trace::TARGET, LevelFilter::DEBUG);
        let tracer = spans.tracer(env!("CARGO_PKG_NAME"));
        trace::export_by(tracer.clone());
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(requests)
    });
    registry()
        .with(log_lines(config.tracing_format).with_filter(filter))
        .with(exported)
        .try_init()?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { spans })
}

fn log_lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let is_terminal = std::io::stderr().is_terminal();
    let for_people = match format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    // A line that cannot be written (the disk under the log file is full) is lost. To tell of it there would panic.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    if for_people {
        lines.with_ansi(is_terminal).with_target(false).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).boxed()
    }
}

/// Sends spans in batches, from a thread of its own; beyond a bounded queue they are dropped, and that is logged.
fn exporter(endpoint: &Address, config: &Config) -> Result<SdkTracerProvider, TelemetryError> {
    let failed = |error| TelemetryError::Export { endpoint: endpoint.clone(), error };
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{endpoint}"))
        .with_timeout(EXPORT_PATIENCE)
        .build()
        .map_err(failed)?;
    let ratio = Sampler::TraceIdRatioBased(config.tracing_otlp_sample_ratio);
    let resource = Resource::builder()
        .with_service_name("millrace")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", config.node_id.to_string()))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(ratio)))
        .with_resource(resource)
        .build())
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message = info.payload_as_str().unwrap_or("a panic without a message");
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => backtrace.to_string(),
        _ => "set RUST_BACKTRACE=1".to_owned(),
    };
    error!(location, thread, error = message, backtrace, "a bug: the code panicked");
}
