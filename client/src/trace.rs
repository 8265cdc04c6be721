//! W3C trace context in a record's header: which trace a record belongs to, carried from who writes to who reads.
//!
//! No tracing system is needed or known here: a hook says what the current span is, see
//! [`ClientBuilder::traceparent`](crate::ClientBuilder::traceparent).

use std::fmt;
use std::str::FromStr;

use crate::retry::luck;
use crate::{Error, Record};

/// The header's name, in records as in HTTP.
pub(crate) const HEADER: &str = "traceparent";

/// A place in a trace, as `traceparent` of the W3C trace context carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    const SAMPLED: u8 = 1;

    /// `None` for the ids that the standard forbids: zeros.
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        let flags = if sampled { Self::SAMPLED } else { 0 };
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// The root of a new, sampled trace.
    pub fn root() -> Self {
        let mut luck = luck();
        let trace_id = u128::from(luck.next_u64()) << 64 | u128::from(luck.next_u64() | 1);
        Self { trace_id, span_id: luck.next_u64() | 1, flags: Self::SAMPLED }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: luck().next_u64() | 1, ..self }
    }

    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    pub fn span_id(self) -> u64 {
        self.span_id
    }

    pub fn is_sampled(self) -> bool {
        self.flags & Self::SAMPLED != 0
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceParent {
    type Err = Error;

    /// Reads version 00, and of later versions what they share with it.
    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).ok_or_else(|| Error::misuse(format!("{text:?} is no traceparent")))
    }
}

fn parse(text: &str) -> Option<TraceParent> {
    let hex = |field: &str| field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut fields = text.split('-');
    let version = fields.next().filter(|it| it.len() == 2 && hex(it) && *it != "ff")?;
    let trace_id = fields.next().filter(|it| it.len() == 32 && hex(it))?;
    let span_id = fields.next().filter(|it| it.len() == 16 && hex(it))?;
    let flags = fields.next().filter(|it| it.len() == 2 && hex(it))?;
    if version == "00" && fields.next().is_some() {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
    let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
    Some(TraceParent { trace_id, span_id, flags: u8::from_str_radix(flags, 16).ok()? })
}

/// Puts the record into the trace, unless it is in one already.
pub(crate) fn mark(record: &mut Record, current: TraceParent) {
    if record.headers.iter().all(|it| it.key != HEADER) {
        let value = current.child().to_string();
        record.headers.push(crate::Header { key: HEADER.to_owned(), value: Some(value.into()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_example_is_read_and_written() {
        let parent: TraceParent = TEXT.parse().unwrap();
        assert_eq!(parent.to_string(), TEXT);
        assert_eq!(parent.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(parent.is_sampled());
        let child = parent.child();
        assert_eq!(child.trace_id(), parent.trace_id());
        assert_ne!(child.span_id(), parent.span_id());
        let root = TraceParent::root();
        assert_eq!(root.to_string().parse(), Ok(root));
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(text.parse::<TraceParent>().is_err(), "{text}");
        }
        let later = format!("cc{}-what-comes", &TEXT[2..]);
        assert_eq!(later.parse::<TraceParent>().unwrap().to_string(), TEXT);
    }

    #[test]
    fn a_record_that_is_in_a_trace_stays_in_it() {
        let current = TraceParent::root();
        let mut record = Record::new("v");
        mark(&mut record, current);
        let header = record.headers[0].value.clone().unwrap();
        let found: TraceParent = std::str::from_utf8(&header).unwrap().parse().unwrap();
        assert_eq!(found.trace_id(), current.trace_id());
        mark(&mut record, TraceParent::root());
        assert_eq!(record.headers.len(), 1);
    }
}
