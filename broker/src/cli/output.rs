//! What commands print: tables for people, JSON for programs, colours on a terminal only. The only place that writes to
//! standard output and standard error directly.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment};
use serde::Serialize;

use crate::cli::failure::{Document, Failure};

/// For whom a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Tables and sentences, for people
    #[default]
    Table,
    /// JSON, for programs; the shapes are in docs/cli.md
    Json,
}

/// The flag that says so, at every command that prints documents.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(skip)]
pub(super) struct Choice {
    /// table for people (the default), json for programs
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        hide_possible_values = true,
        global = true
    )]
    pub(super) output: Option<Format>,
}

impl Choice {
    pub(super) fn format(self) -> Format {
        self.output.unwrap_or_default()
    }
}

impl Format {
    /// Prints a document: as JSON, or as what `text` makes of it.
    pub(super) fn show<T: Serialize>(self, document: &T, text: impl FnOnce(&T) -> String) {
        match self {
            Self::Json => print(json(document)),
            Self::Table => print(text(document)),
        }
    }

    /// Tells why the command failed.
    pub(super) fn complain(self, failure: &Failure) {
        match self {
            Self::Json => warn(json(&Document { error: failure })),
            Self::Table => complain(failure),
        }
    }
}

/// One line of JSON.
pub(super) fn json(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string(document).expect("our documents have text keys only");
    text.push('\n');
    text
}

/// Prints what was asked for. A reader that went away (`| head`) is no error.
pub(super) fn print(text: impl Display) {
    let _ = write!(io::stdout(), "{text}");
    let _ = io::stdout().flush();
}

/// Tells a person why a command does not do what was asked. Where nothing can be written, the exit code must do.
pub(super) fn complain(error: impl Display) {
    let label = if colours(&io::stderr()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    let _ = writeln!(io::stderr(), "{label} {error}");
}

/// Tells what is wrong with the command line, as clap puts it. What std says of numbers is not for people.
pub(super) fn misuse(error: &clap::Error) {
    let text = error.render();
    let text = if colours(&io::stderr()) { text.ansi().to_string() } else { text.to_string() };
    let text = text
        .replace("invalid digit found in string", "it is no whole number")
        .replace("cannot parse integer from empty string", "it is no whole number")
        .replace("number too large to fit in target type", "it is too large");
    warn(text);
}

/// Says something beside the answer, where it does not mix with it.
pub(super) fn warn(text: impl Display) {
    let _ = write!(io::stderr(), "{text}");
}

/// May escape sequences be written there? <https://no-color.org> is honoured.
fn colours(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_screen(stream) && !set("NO_COLOR")
}

/// Is it a terminal that can be written over?
pub(super) fn is_screen(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How a word stands out on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Bold,
    Green,
    Yellow,
    Red,
}

/// A text of standard output, styled where colours may be.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    let code = match style {
        Style::Bold => "1",
        Style::Green => "32",
        Style::Yellow => "33",
        Style::Red => "1;31",
    };
    if colours(&io::stdout()) { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

/// A table for people: a line of headings, no borders, so that `awk` and `grep` read it too.
#[derive(Debug)]
pub(super) struct Table {
    inner: comfy_table::Table,
    numbers: Vec<usize>,
}

impl Table {
    /// `numbers` are the columns that are aligned to the right.
    pub(super) fn new(headings: &[&str], numbers: &[usize]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(NOTHING);
        let mut table = Self { inner, numbers: numbers.to_vec() };
        let cells = table.cells(headings.iter().map(|it| (*it).to_owned()));
        table.inner.set_header(cells);
        table
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = self.cells(cells);
        self.inner.add_row(cells);
    }

    fn cells(&self, texts: impl IntoIterator<Item = String>) -> Vec<Cell> {
        let aligned = |(column, text): (usize, String)| {
            let is_number = self.numbers.contains(&column);
            let side = if is_number { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new_owned(text).set_alignment(side)
        };
        texts.into_iter().enumerate().map(aligned).collect()
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.inner.lines().enumerate() {
            // The preset pads with one blank on either side.
            let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
            match index {
                0 => writeln!(f, "{}", styled(Style::Bold, line))?,
                _ => writeln!(f, "{line}")?,
            }
        }
        Ok(())
    }
}

/// What stands where there is nothing to say.
pub(super) const NOTHING_THERE: &str = "-";

/// A value, or [`NOTHING_THERE`].
pub(super) fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| NOTHING_THERE.to_owned(), |value| value.to_string())
}

/// `1 record`, `2 records`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Bytes as people read them: `1.5 MiB`.
pub(super) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0);
    format!("{value:.digits$} {}", units[unit])
}

/// A time span as people read it: `350ms`, `12s`, `3m20s`, `5h07m`, `2d03h`.
pub(super) fn span_ms(ms: i64) -> String {
    let seconds = ms / 1000;
    match seconds {
        _ if ms < 1000 => format!("{ms}ms"),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_for_people() {
        for (count, text) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1536.0, "1.5 KiB"),
            (3.0 * 1024.0 * 1024.0, "3.0 MiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (59_999, "59s"),
            (200_000, "3m20s"),
            (18_420_000, "5h07m"),
            (183_600_000, "2d03h"),
        ] {
            assert_eq!(span_ms(ms), text);
        }
    }

    #[test]
    fn a_table_has_headings_and_no_trailing_blanks() {
        let mut table = Table::new(&["NAME", "COUNT"], &[1]);
        table.row(["orders".to_owned(), "3".to_owned()]);
        table.row(["x".to_owned(), "12345".to_owned()]);
        assert_eq!(table.to_string(), "NAME    COUNT\norders      3\nx       12345\n");
    }
}
