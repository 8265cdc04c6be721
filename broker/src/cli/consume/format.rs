//! How a record is printed: its value, JSON, or a pattern such as `%t-%p %o %k=%v\n`.

use std::io::{self, Write};
use std::str::FromStr;

use millrace_client::ReceivedRecord;

use crate::cli::record::to_json;

/// What is printed for each record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// The value and a line's end.
    Values,
    /// One line of JSON.
    Json,
    Pieces(Vec<Piece>),
}

/// One piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Topic,
    Partition,
    Offset,
    Key,
    Value,
    TimestampMs,
    Headers,
}

/// What is wrong with a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPattern {
    #[error("%{0} means nothing: there are %t %p %o %k %v %T %h %%")]
    Percent(char),
    #[error(r"\{0} means nothing: there are \n \t \r \0 \\")]
    Escape(char),
    #[error("it ends in the middle of a piece")]
    Cut,
    #[error("it is neither values, json nor a pattern with %")]
    NoPattern,
}

impl FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Self, BadPattern> {
        match text {
            "values" | "value" => Ok(Self::Values),
            "json" => Ok(Self::Json),
            _ if !text.contains('%') => Err(BadPattern::NoPattern),
            _ => pieces(text).map(Self::Pieces),
        }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, BadPattern> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(escape(characters.next().ok_or(BadPattern::Cut)?)?),
            '%' => match characters.next().ok_or(BadPattern::Cut)? {
                '%' => plain.push('%'),
                letter => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(piece(letter)?);
                }
            },
            other => plain.push(other),
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn escape(letter: char) -> Result<char, BadPattern> {
    Ok(match letter {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        '0' => '\0',
        '\\' => '\\',
        other => return Err(BadPattern::Escape(other)),
    })
}

fn piece(letter: char) -> Result<Piece, BadPattern> {
    Ok(match letter {
        't' => Piece::Topic,
        'p' => Piece::Partition,
        'o' => Piece::Offset,
        'k' => Piece::Key,
        'v' | 's' => Piece::Value,
        'T' => Piece::TimestampMs,
        'h' => Piece::Headers,
        other => return Err(BadPattern::Percent(other)),
    })
}

impl Pattern {
    /// Prints one record. What is null is printed as nothing; JSON tells it apart.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub(super) fn write(&self, record: &ReceivedRecord, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Values => {
                out.write_all(record.value.as_deref().unwrap_or_default())?;
                out.write_all(b"\n")
            }
            Self::Json => writeln!(out, "{}", to_json(record)),
            Self::Pieces(pieces) => pieces.iter().try_for_each(|piece| piece.write(record, out)),
        }
    }
}

impl Piece {
    fn write(&self, record: &ReceivedRecord, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(text) => out.write_all(text.as_bytes()),
            Self::Topic => out.write_all(record.topic.as_bytes()),
            Self::Partition => write!(out, "{}", record.partition),
            Self::Offset => write!(out, "{}", record.offset),
            Self::Key => out.write_all(record.key.as_deref().unwrap_or_default()),
            Self::Value => out.write_all(record.value.as_deref().unwrap_or_default()),
            Self::TimestampMs => write!(out, "{}", record.timestamp_ms),
            Self::Headers => {
                for (index, header) in record.headers.iter().enumerate() {
                    let comma = if index > 0 { "," } else { "" };
                    write!(out, "{comma}{}=", header.key)?;
                    out.write_all(header.value.as_deref().unwrap_or_default())?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        assert_eq!("values".parse(), Ok(Pattern::Values));
        assert_eq!("json".parse(), Ok(Pattern::Json));
        let text = |text: &str| Piece::Text(text.to_owned());
        let pieces = vec![
            Piece::Topic,
            text("-"),
            Piece::Partition,
            text(" 100%\t"),
            Piece::Value,
            text("\n"),
        ];
        assert_eq!(r"%t-%p 100%%\t%v\n".parse(), Ok(Pattern::Pieces(pieces)));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, error) in [
            ("", BadPattern::NoPattern),
            ("yaml", BadPattern::NoPattern),
            ("%x", BadPattern::Percent('x')),
            ("%v%", BadPattern::Cut),
            (r"%v\", BadPattern::Cut),
            (r"%v\q", BadPattern::Escape('q')),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
    }
}
