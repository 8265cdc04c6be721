//! Records as lines of JSON: what `consume` writes and `produce` reads.
//!
//! `{"topic","partition","offset","timestamp_ms","timestamp","key","value","headers":[{"key","value"}]}`. Key and
//! values are text where they are UTF-8, `{"base64":"..."}` where they are not, null where they are null. Read back,
//! `key`, `value`, `headers` and `timestamp_ms` count; place and name in the old log do not. A value may also be any
//! other JSON, which is sent as its text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use millrace_client::{Header, ReceivedRecord, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::at::time_text;

/// A record that was read.
#[derive(Debug, Serialize)]
struct Written<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    timestamp: String,
    key: Value,
    value: Value,
    headers: Vec<WrittenHeader<'a>>,
}

#[derive(Debug, Serialize)]
struct WrittenHeader<'a> {
    key: &'a str,
    value: Value,
}

/// A record to send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    #[serde(default)]
    key: Value,
    #[serde(default)]
    value: Value,
    #[serde(default)]
    headers: Vec<GivenHeader>,
    timestamp_ms: Option<i64>,
    #[serde(default, rename = "timestamp")]
    _timestamp: Value,
    #[serde(default, rename = "topic")]
    _topic: Value,
    #[serde(default, rename = "partition")]
    _partition: Value,
    #[serde(default, rename = "offset")]
    _offset: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenHeader {
    key: String,
    #[serde(default)]
    value: Value,
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoRecord {
    #[error("it is no record in JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its base64 is damaged: {0}")]
    Base64(#[from] base64::DecodeError),
}

/// A record as one line of JSON, without the line's end.
pub(super) fn to_json(record: &ReceivedRecord) -> String {
    let header = |it: &'_ Header| (it.key.clone(), value_of(it.value.as_ref()));
    let headers: Vec<_> = record.headers.iter().map(header).collect();
    let written = Written {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        timestamp: time_text(record.timestamp_ms),
        key: value_of(record.key.as_ref()),
        value: value_of(record.value.as_ref()),
        headers: headers
            .iter()
            .map(|(key, value)| WrittenHeader { key, value: value.clone() })
            .collect(),
    };
    serde_json::to_string(&written).expect("all keys are text")
}

fn value_of(bytes: Option<&Bytes>) -> Value {
    match bytes.map(|bytes| (std::str::from_utf8(bytes), bytes)) {
        None => Value::Null,
        Some((Ok(text), _)) => Value::from(text),
        Some((Err(_), bytes)) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// Reads a line of JSON.
///
/// # Errors
/// It is no record.
pub(super) fn from_json(line: &[u8]) -> Result<Record, NoRecord> {
    let given: Given = serde_json::from_slice(line)?;
    let header = |it: GivenHeader| bytes_of(it.value).map(|value| Header { key: it.key, value });
    Ok(Record {
        key: bytes_of(given.key)?,
        value: bytes_of(given.value)?,
        headers: given.headers.into_iter().map(header).collect::<Result<_, _>>()?,
        timestamp_ms: given.timestamp_ms,
        ..Record::default()
    })
}

fn bytes_of(value: Value) -> Result<Option<Bytes>, NoRecord> {
    Ok(match value {
        Value::Null => None,
        Value::String(text) => Some(Bytes::from(text)),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("base64") => {
            let text = fields["base64"].as_str().unwrap_or_default();
            Some(Bytes::from(STANDARD.decode(text)?))
        }
        other => Some(Bytes::from(other.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
        let record = from_json(line.as_bytes()).unwrap();
        assert_eq!(record.key.as_deref(), key, "{line}");
        assert_eq!(record.value.as_deref(), value, "{line}");
    }

    #[test]
    fn lines_become_records() {
        check(r#"{"value":"v"}"#, None, Some(b"v"));
        check(r#"{"key":"k","value":null}"#, Some(b"k"), None);
        check(r#"{"key":{"base64":"AP8="},"value":""}"#, Some(&[0, 255]), Some(b""));
        check(r#"{"value":{"a":1}}"#, None, Some(br#"{"a":1}"#));
        check(r#"{"value":7,"offset":3,"topic":"t","partition":1}"#, None, Some(b"7"));
        let line = br#"{"value":"v","timestamp_ms":5,"headers":[{"key":"h","value":"x"}]}"#;
        let record = from_json(line).unwrap();
        assert_eq!(record.timestamp_ms, Some(5));
        assert_eq!(record.headers, [Header { key: "h".to_owned(), value: Some("x".into()) }]);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in ["", "v", "[]", r#"{"vlaue":"v"}"#, r#"{"value":{"base64":"*"}}"#] {
            assert!(from_json(line.as_bytes()).is_err(), "{line}");
        }
    }
}
