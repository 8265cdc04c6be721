//! Logs: for people on a terminal, one JSON object a line elsewhere, always on standard error.
//!
//! Standard output belongs to what a command prints. A panic is logged here too, so that no bug is told in a form that
//! a log collector cannot read.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::util::TryInitError;

use crate::config::{Config, LogFormat};

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error(
        "tracing.filter = {filter:?}: {error}; write a level such as info, or levels by module"
    )]
    Filter { filter: String, error: tracing_subscriber::filter::ParseError },
    #[error("this process logs already: {0}")]
    Twice(#[from] TryInitError),
}

/// Begins logging for the whole process; to be called once, before anything worth telling happens.
///
/// # Errors
/// The filter does not read, or it was called before.
pub(crate) fn init(config: &Config) -> Result<(), TelemetryError> {
    use tracing_subscriber::util::SubscriberInitExt;

    let filter = EnvFilter::try_new(&config.tracing_filter)
        .map_err(|error| TelemetryError::Filter { filter: config.tracing_filter.clone(), error })?;
    let is_terminal = std::io::stderr().is_terminal();
    let for_people = match config.tracing_format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    // A line that cannot be written (the disk under the log file is full) is lost. To tell of it there would panic.
    let builder =
        fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    if for_people {
        builder.with_ansi(is_terminal).with_target(false).finish().try_init()?;
    } else {
        builder.json().flatten_event(true).with_current_span(true).finish().try_init()?;
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
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
