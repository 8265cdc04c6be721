//! What commands print: the only place that writes to standard output and standard error directly.

#![expect(clippy::print_stderr, reason = "printing is what this is for")]

use std::fmt::Display;
use std::io::Write;

/// Prints what was asked for. A reader that went away (`| head`) is no error.
pub(super) fn print(text: impl Display) {
    let _ = write!(std::io::stdout(), "{text}");
    let _ = std::io::stdout().flush();
}

/// Tells a person why a command does not do what was asked.
pub(super) fn complain(error: impl Display) {
    eprintln!("error: {error}");
}
