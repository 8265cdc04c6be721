//! The terminal that `millrace top` fills: how large it is, how it is taken and given back, what fits into it.

use std::io::stdout;

use rustix::termios::tcgetwinsize;

use crate::cli::output::{Table, print};

/// Where the terminal does not tell.
const COLUMNS: usize = 80;
const LINES: usize = 24;
/// The first column keeps so many letters, as long as another can go instead.
const NAME_MIN: usize = 24;
/// Between two columns.
const GAP: usize = 2;

/// Another screen, no cursor, long lines cut; and all of it undone.
const TAKE: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const GIVE_BACK: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

impl Room {
    /// Of a file or a pipe.
    pub(super) const ENDLESS: Self = Self { columns: usize::MAX, lines: usize::MAX };

    /// Of the terminal on standard output, as it is now.
    pub(super) fn of_terminal() -> Self {
        let size = tcgetwinsize(stdout()).ok();
        let (columns, lines) = size.map_or((0, 0), |it| (it.ws_col.into(), it.ws_row.into()));
        let or = |count: usize, default| if count == 0 { default } else { count };
        Self { columns: or(columns, COLUMNS), lines: or(lines, LINES) }
    }
}

/// The terminal while it is ours. What it showed before is there again when this is dropped.
pub(super) struct Screen(());

impl Screen {
    pub(super) fn take() -> Self {
        print(TAKE);
        Self(())
    }

    /// Writes over what stands there, line by line, so that nothing flickers; what is below the last line is not shown.
    pub(super) fn show(&self, text: &str) {
        // The cursor needs a line of its own, or the screen would move.
        let lines = text.lines().take(Room::of_terminal().lines.saturating_sub(1));
        // Each line is wiped before it is written: wiped afterwards, a full one would lose its last letter.
        let lines: String = lines.map(|line| format!("\x1b[K{line}\n")).collect();
        print(format_args!("\x1b[H{lines}\x1b[J"));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print(GIVE_BACK);
    }
}

/// A table's columns, the first of which are names.
pub(super) struct Columns {
    pub(super) headings: &'static [&'static str],
    /// Those that are aligned to the right.
    pub(super) numbers: &'static [usize],
    /// Those that can be done without, the least important first.
    pub(super) spare: &'static [usize],
}

impl Columns {
    /// A table that is no wider than `width`: columns go, then names are cut. So many letters of a number cannot go.
    pub(super) fn table(&self, rows: &[Vec<String>], width: usize) -> String {
        let wide = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.headings[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(wide).collect();
        let mut shown: Vec<usize> = (0..widths.len()).collect();
        let beside_names =
            |shown: &[usize]| shown[1..].iter().map(|&it| widths[it] + GAP).sum::<usize>();
        let mut spare = self.spare.iter();
        while beside_names(&shown).saturating_add(widths[0].min(NAME_MIN)) > width {
            let Some(gone) = spare.next() else { break };
            shown.retain(|column| column != gone);
        }
        let name_max = width.saturating_sub(beside_names(&shown)).max(1);
        let numbers: Vec<usize> =
            (0..shown.len()).filter(|&at| self.numbers.contains(&shown[at])).collect();
        let headings: Vec<&str> = shown.iter().map(|&it| self.headings[it]).collect();
        let mut table = Table::new(&headings, &numbers);
        for row in rows {
            table.row(shown.iter().map(|&it| match it {
                0 => cut(&row[0], name_max),
                _ => row[it].clone(),
            }));
        }
        table.to_string()
    }
}

/// The beginning of a text that is too long.
pub(super) fn cut(text: &str, letters_max: usize) -> String {
    if text.chars().count() <= letters_max {
        return text.to_owned();
    }
    text.chars().take(letters_max.saturating_sub(1)).chain(['…']).collect()
}

/// Pieces of text side by side, on as many lines as that takes.
pub(super) fn flow(pieces: &[String], width: usize) -> String {
    let mut text = String::new();
    let mut used = 0;
    for piece in pieces {
        let letters = piece.chars().count();
        if used > 0 && used + GAP + letters > width {
            text.push('\n');
            used = 0;
        } else if used > 0 {
            text.push_str("  ");
            used += GAP;
        }
        text.push_str(piece);
        used += letters;
    }
    text.push('\n');
    text
}

/// How many of two lists are shown in so many lines; a list that is not shown whole has a line that says so.
pub(super) fn shares(lines: usize, [first, second]: [usize; 2]) -> [usize; 2] {
    let fitting = |count: usize, lines: usize| {
        if count <= lines { count } else { lines.saturating_sub(1).max(1) }
    };
    // The second list has what the first leaves, and a third at least.
    let for_second = second.min(lines.saturating_sub(first).max(lines / 3));
    [fitting(first, lines.saturating_sub(for_second)), fitting(second, for_second)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns =
        Columns { headings: &["NAME", "SIZE", "RATE"], numbers: &[1, 2], spare: &[1, 2] };

    #[test]
    fn a_narrow_table_gives_up_columns_then_letters() {
        let name = "a-name-of-thirty-letters-or-so".to_owned();
        let rows = [vec![name.clone(), "17".to_owned(), "123".to_owned()]];
        let whole = COLUMNS.table(&rows, usize::MAX);
        assert!(whole.contains("SIZE") && whole.contains(&name) && whole.contains("RATE"));
        for width in [10, 20, 30, 36, 42] {
            let table = COLUMNS.table(&rows, width);
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
        }
        let table = COLUMNS.table(&rows, 33);
        assert_eq!(table, "NAME                         RATE\na-name-of-thirty-letters-o…   123\n");
    }

    #[test]
    fn two_lists_share_the_lines() {
        for (lines, counts, shown) in [
            (20, [5, 3], [5, 3]),
            (20, [30, 3], [16, 3]),
            (20, [3, 30], [3, 16]),
            (20, [30, 30], [13, 5]),
            (4, [30, 30], [2, 1]),
            (0, [30, 0], [1, 0]),
            (usize::MAX, [30, 40], [30, 40]),
        ] {
            assert_eq!(shares(lines, counts), shown, "{lines} {counts:?}");
        }
    }

    #[test]
    fn pieces_flow_over_lines() {
        let pieces = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(flow(&pieces, usize::MAX), "one  two  three\n");
        assert_eq!(flow(&pieces, 8), "one  two\nthree\n");
    }
}
