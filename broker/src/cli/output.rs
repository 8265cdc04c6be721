//! What commands print: the only place that writes to standard output and standard error directly.

use std::fmt::Display;
use std::io::Write;

/// Prints what was asked for. A reader that went away (`| head`) is no error.
pub(super) fn print(text: impl Display) {
    let _ = write!(std::io::stdout(), "{text}");
    let _ = std::io::stdout().flush();
}

/// Tells a person why a command does not do what was asked. Where nothing can be written, the exit code must do.
pub(super) fn complain(error: impl Display) {
    let _ = writeln!(std::io::stderr(), "error: {error}");
}
