//! The settings file: `key = value` lines, so that a `server.properties` of Kafka's reads as it is.
//!
//! The subset of Java's properties that people write: `#` and `!` begin a comment line, `=`, `:` or blanks part key
//! from value, a backslash at a line's end continues it, and `\x` stands for `x`. Meaning is not known here: which
//! keys exist is the table's business. `config` is the only caller.

/// One setting as written, with the line that it began on (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) value: String,
}

/// A line that is no setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no `key = value`: {text:?}")]
pub struct SyntaxError {
    pub line: usize,
    pub text: String,
}

/// Reads all settings of a file, in order.
///
/// # Errors
/// [`SyntaxError`] for the first line without a separator or without a key.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut entries = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, first)) = lines.next() {
        let mut logical = first.trim().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while continues(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim());
        }
        entries.push(entry(index + 1, &logical)?);
    }
    Ok(entries)
}

/// Does the line end with an odd number of backslashes, so that the last one is not itself escaped?
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

fn entry(line: usize, logical: &str) -> Result<Entry, SyntaxError> {
    let no_setting = || SyntaxError { line, text: logical.to_owned() };
    let key_end =
        logical.find(['=', ':', ' ', '\t']).filter(|end| *end > 0).ok_or_else(no_setting)?;
    let (key, rest) = logical.split_at(key_end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim();
    Ok(Entry { line, key: unescape(key), value: unescape(value) })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(usize, &str, &str)]) {
        let found = parse(text).unwrap();
        let found: Vec<_> =
            found.iter().map(|e| (e.line, e.key.as_str(), e.value.as_str())).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn files_of_kafka_are_read() {
        check("", &[]);
        check("# a\n! b\n\n  \n", &[]);
        check("num.partitions=4", &[(1, "num.partitions", "4")]);
        check(" a = b c \r\nd: e\n", &[(1, "a", "b c"), (2, "d", "e")]);
        check("listeners=PLAINTEXT://:9092", &[(1, "listeners", "PLAINTEXT://:9092")]);
        check("a=one,\\\n  two\nb=3", &[(1, "a", "one,two"), (3, "b", "3")]);
        check("dir=C\\\\\nb=1", &[(1, "dir", "C\\"), (2, "b", "1")]);
        check("empty=", &[(1, "empty", "")]);
        check("key value", &[(1, "key", "value")]);
        check("last=x\\", &[(1, "last", "x")]);
        check("listeners PLAINTEXT://:1", &[(1, "listeners", "PLAINTEXT://:1")]);
    }

    #[test]
    fn a_line_without_a_key_is_named() {
        for text in ["ok=1\n=2", "ok=1\nword"] {
            assert_eq!(parse(text).unwrap_err().line, 2, "{text:?}");
        }
    }
}
