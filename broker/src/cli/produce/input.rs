//! Where records come from: a thread that reads files or standard input and cuts them into records.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use millrace_client::{Header, Record};
use tokio::sync::mpsc;

use super::InputFormat;
use crate::cli::failure::Failure;
use crate::cli::record;

/// Chunks that may be read ahead.
const CHUNKS_MAX: usize = 16;
/// A chunk is handed over at this many records or bytes, or when no more is there just now.
const CHUNK_RECORDS_MAX: usize = 500;
const CHUNK_BYTES_MAX: u64 = 256 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// What to read, and what every record gets.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) files: Vec<PathBuf>,
    pub(super) format: InputFormat,
    pub(super) separator: Option<String>,
    pub(super) key: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) partition: Option<i32>,
}

/// Some records, and how many bytes of input they were.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) records: Vec<Record>,
    pub(super) read_bytes: u64,
}

/// Chunks as they are read.
#[derive(Debug)]
pub(super) struct Input {
    chunks: mpsc::Receiver<Result<Chunk, Failure>>,
}

impl Input {
    /// Starts to read. The thread ends with its input, or when nobody listens; at the end of the process it may still
    /// wait for somebody who types.
    pub(super) fn start(source: Source) -> Self {
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        std::thread::spawn(move || {
            let mut reader = Reader { source, sender: &sender, chunk: Chunk::default() };
            if let Err(Stopped::Failed(failure)) = reader.all() {
                // What was read before it counts, wherever the chunk ends.
                let _ = reader.hand_over();
                let _ = sender.blocking_send(Err(failure));
            }
        });
        Self { chunks }
    }

    /// `None` at the end of the input.
    pub(super) async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        self.chunks.recv().await
    }
}

/// Why reading ends early.
enum Stopped {
    Failed(Failure),
    /// Nobody wants more.
    Unwanted,
}

struct Reader<'a> {
    source: Source,
    sender: &'a mpsc::Sender<Result<Chunk, Failure>>,
    chunk: Chunk,
}

impl Reader<'_> {
    fn all(&mut self) -> Result<(), Stopped> {
        let files = std::mem::take(&mut self.source.files);
        if files.is_empty() {
            return self.file(Path::new("-"));
        }
        files.iter().try_for_each(|path| self.file(path))
    }

    fn file(&mut self, path: &Path) -> Result<(), Stopped> {
        let name = path.display();
        if path.as_os_str() == "-" {
            return self.stream(io::stdin().lock(), "standard input");
        }
        let file = File::open(path)
            .map_err(|error| failed(format_args!("cannot read {name}: {error}")))?;
        self.stream(file, &name.to_string())
    }

    fn stream(&mut self, stream: impl Read, name: &str) -> Result<(), Stopped> {
        let mut reader = BufReader::with_capacity(READ_BYTES, stream);
        let unreadable = |error| failed(format_args!("cannot read {name}: {error}"));
        if self.source.format == InputFormat::Whole {
            let mut whole = Vec::new();
            reader.read_to_end(&mut whole).map_err(unreadable)?;
            let read_bytes = whole.len() as u64;
            let record = self.record(&whole).map_err(failed)?;
            self.add(record, read_bytes)?;
            return self.hand_over();
        }
        let mut line = Vec::new();
        let mut number = 0_u64;
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(unreadable)?;
            if read == 0 {
                return self.hand_over();
            }
            number += 1;
            let record = self.record(ended(&line));
            let record =
                record.map_err(|reason| failed(format_args!("{name}, line {number}: {reason}")))?;
            self.add(record, read as u64)?;
            if reader.buffer().is_empty() {
                self.hand_over()?;
            }
        }
    }

    /// Makes a record of a line or a file.
    fn record(&self, text: &[u8]) -> Result<Record, String> {
        let Source { separator, key, headers, partition, .. } = &self.source;
        let mut record = match (self.source.format, separator) {
            (InputFormat::Json, _) => record::from_json(text).map_err(|error| error.to_string())?,
            (_, Some(separator)) => {
                let (key, value) = split(text, separator.as_bytes())
                    .ok_or_else(|| format!("there is no {separator:?} between key and value"))?;
                Record::new(Bytes::copy_from_slice(value)).with_key(Bytes::copy_from_slice(key))
            }
            (_, None) => Record::new(Bytes::copy_from_slice(text)),
        };
        if record.key.is_none() {
            record.key = key.as_ref().map(|key| Bytes::from(key.clone()));
        }
        for (key, value) in headers {
            let value = Some(Bytes::from(value.clone()));
            record.headers.push(Header { key: key.clone(), value });
        }
        Ok(match partition {
            Some(partition) => record.with_partition(*partition),
            None => record,
        })
    }

    fn add(&mut self, record: Record, read_bytes: u64) -> Result<(), Stopped> {
        self.chunk.records.push(record);
        self.chunk.read_bytes += read_bytes;
        let is_full = self.chunk.records.len() >= CHUNK_RECORDS_MAX
            || self.chunk.read_bytes >= CHUNK_BYTES_MAX;
        if is_full { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.records.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(chunk)).map_err(|_| Stopped::Unwanted)
    }
}

fn failed(message: impl std::fmt::Display) -> Stopped {
    Stopped::Failed(Failure::new(message))
}

/// A line without its end, which may be that of Windows.
fn ended(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What stands before and behind the first separator.
fn split<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text.windows(separator.len()).position(|window| window == separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_split() {
        for (line, text) in
            [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("\n", ""), ("a\rb\n", "a\rb")]
        {
            assert_eq!(ended(line.as_bytes()), text.as_bytes(), "{line:?}");
        }
        assert_eq!(split(b"k::v::w", b"::"), Some((&b"k"[..], &b"v::w"[..])));
        assert_eq!(split(b":v", b":"), Some((&b""[..], &b"v"[..])));
        assert_eq!(split(b"kv", b":"), None);
    }
}
