//! `millrace produce`: records from lines, lines of JSON or whole files, of files or standard input.
//!
//! Reading blocks, so a thread of its own does it; the channel between is bounded, and so is what waits for
//! acknowledgement. A record counts once it is acknowledged.

mod input;

use std::collections::{BTreeMap, VecDeque};
use std::io::{IsTerminal, stderr, stdin};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use millrace_client::{Codec, Delivery, Error, Producer, Record};
use serde::Serialize;

use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::output::{counted, warn};
use crate::cli::pairs::{Assignment, assignment};
use crate::cli::stop::Stop;

use input::{Chunk, Input, Source};

/// Records that may wait for acknowledgement; the producer's own buffer bounds their bytes.
const UNACKNOWLEDGED_MAX: usize = 10_000;
/// How long a record may wait for company. A person who types does not notice, a file makes full batches.
const LINGER: Duration = Duration::from_millis(5);

/// Write records to a topic; each is acknowledged once it is on stable storage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  echo hello | millrace produce orders\n  \
                  millrace produce orders                                 type lines, Ctrl-D ends\n  \
                  millrace produce orders --key-separator : < pairs.txt   each line is KEY:VALUE\n  \
                  millrace produce orders --file a.txt --file b.txt --header source=import\n  \
                  millrace produce scans --input whole --key 17 --file scan.png\n  \
                  millrace consume orders -o json | millrace produce copy --input json\n\n\
                  A line of JSON is {\"key\":..,\"value\":..,\"headers\":[{\"key\":..,\"value\":..}],\"timestamp_ms\":..};\n\
                  each field may be left out, {\"base64\":\"..\"} stands for bytes that are no text.")]
pub(super) struct Arguments {
    /// It is created if it is missing and the broker's auto.create.topics.enable says so
    topic: String,
    /// What a record is in the input
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    input: InputFormat,
    /// Read this file, - is standard input; may be given many times [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The key of every record that brings none
    #[arg(short, long)]
    key: Option<String>,
    /// A line is KEY, this text, VALUE
    #[arg(long, value_name = "TEXT", conflicts_with = "key")]
    key_separator: Option<String>,
    /// A header of every record; may be given many times
    #[arg(short = 'H', long, value_name = "KEY=VALUE", value_parser = assignment)]
    header: Vec<Assignment>,
    /// Write to this partition [default: by key; without a key the broker shares them out]
    #[arg(short, long)]
    partition: Option<i32>,
    /// How batches are compressed
    #[arg(short = 'z', long, value_enum, value_name = "CODEC", default_value_t)]
    compression: Compression,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    /// Each line is a value
    #[default]
    Lines,
    /// Each line is a record in JSON
    Json,
    /// Each file is a value, whole
    Whole,
}

/// The codecs, as the command line names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// What was acknowledged: `{"topic","records","bytes","elapsed_ms","partitions":[{"partition","records","first_offset",
/// "last_offset"}]}`; `bytes` counts keys and values.
#[derive(Debug, Serialize)]
struct Summary {
    topic: String,
    records: u64,
    bytes: u64,
    elapsed_ms: u64,
    partitions: Vec<Written>,
}

#[derive(Debug, Serialize)]
struct Written {
    partition: i32,
    records: u64,
    first_offset: i64,
    last_offset: i64,
}

/// Runs the command.
///
/// # Errors
/// Input that is none, or a record that is refused; then says how many were acknowledged before.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let started = Instant::now();
    let bar = bar(&arguments);
    let mut input = Input::start(source(&arguments)?);
    let producer = session.client.producer().compression(arguments.compression.into());
    let producer = producer.linger(LINGER).build().await;
    let producer = producer.map_err(session.failed("start to produce"))?;
    let mut sending = Sending::new(session, producer, arguments.topic);
    let ended = sending.all(&mut input, &bar).await;
    bar.finish_and_clear();
    let (has_begun, acknowledged) = (sending.has_begun, sending.acknowledged);
    ended.map_err(|failure| if has_begun { failure.after(acknowledged) } else { failure })?;
    session.output.show(&sending.summary(started.elapsed()), text);
    Ok(())
}

fn source(arguments: &Arguments) -> Result<Source, Failure> {
    let headers = arguments.header.iter().map(|it| (it.key.clone(), it.value.clone())).collect();
    let separator = arguments.key_separator.clone();
    if separator.as_deref() == Some("") {
        return Err(Failure::usage("--key-separator is empty"));
    }
    if separator.is_some() && arguments.input != InputFormat::Lines {
        return Err(Failure::usage("--key-separator is for --input lines"));
    }
    Ok(Source {
        files: arguments.file.clone(),
        format: arguments.input,
        separator,
        key: arguments.key.clone(),
        headers,
        partition: arguments.partition,
    })
}

const BAR: &str = "{bar:30} {bytes} of {total_bytes}  {binary_bytes_per_sec}  {msg}  {eta} left";
const SPINNER: &str = "{spinner} {bytes}  {binary_bytes_per_sec}  {msg}";

/// A bar over the bytes of the files, a count where their size is not known, nothing where nobody looks.
fn bar(arguments: &Arguments) -> ProgressBar {
    let types = arguments.file.is_empty() && stdin().is_terminal();
    if types {
        warn("Each line is a record; Ctrl-D ends.\n");
    }
    if types || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let size =
        |path: &PathBuf| std::fs::metadata(path).ok().filter(|it| it.is_file()).map(|it| it.len());
    let sizes: Option<u64> = arguments.file.iter().map(size).sum();
    let (bar, template) = match sizes.filter(|bytes| *bytes > 0) {
        Some(bytes) => (ProgressBar::new(bytes), BAR),
        None => (ProgressBar::new_spinner(), SPINNER),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a test reads the templates"));
    bar
}

/// A producer at work: what is sent and not yet acknowledged, and what was.
struct Sending<'a> {
    session: &'a Session,
    producer: Producer,
    topic: String,
    /// Oldest first, each with its bytes.
    waiting: VecDeque<(Delivery, u64)>,
    /// A record was sent, or at least tried.
    has_begun: bool,
    acknowledged: u64,
    bytes: u64,
    partitions: BTreeMap<i32, Written>,
}

impl<'a> Sending<'a> {
    fn new(session: &'a Session, producer: Producer, topic: String) -> Self {
        let (waiting, partitions) = (VecDeque::new(), BTreeMap::new());
        let has_begun = false;
        Self { session, producer, topic, waiting, has_begun, acknowledged: 0, bytes: 0, partitions }
    }

    /// Sends all of the input, or what came until it was asked to end, and waits until it is safe.
    async fn all(&mut self, input: &mut Input, bar: &ProgressBar) -> Result<(), Failure> {
        let mut stop = Stop::listen();
        loop {
            let chunk = tokio::select! {
                chunk = input.next() => chunk,
                () = stop.asked() => None,
            };
            let Some(chunk) = chunk else { break };
            let Chunk { records, read_bytes } = match chunk {
                Ok(chunk) => chunk,
                Err(failure) => {
                    // What came before it is on its way: how much of that is safe must be said.
                    self.settle().await?;
                    return Err(failure);
                }
            };
            for record in records {
                self.send(record).await?;
            }
            bar.inc(read_bytes);
            bar.set_message(counted(self.acknowledged, "record"));
        }
        self.settle().await
    }

    /// Waits until all that was sent is safe.
    async fn settle(&mut self) -> Result<(), Failure> {
        while !self.waiting.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    async fn send(&mut self, record: Record) -> Result<(), Failure> {
        self.has_begun = true;
        while self.waiting.len() >= UNACKNOWLEDGED_MAX {
            self.settle_oldest().await?;
        }
        let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, |it| it.len() as u64);
        let bytes = length(&record.key) + length(&record.value);
        let delivery = self.producer.send(&self.topic, record).await.map_err(self.failed())?;
        self.waiting.push_back((delivery, bytes));
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), Failure> {
        let Some((delivery, bytes)) = self.waiting.pop_front() else { return Ok(()) };
        let position = delivery.await.map_err(self.failed())?;
        self.acknowledged += 1;
        self.bytes += bytes;
        let written = self.partitions.entry(position.partition).or_insert(Written {
            partition: position.partition,
            records: 0,
            first_offset: position.offset,
            last_offset: position.offset,
        });
        written.records += 1;
        written.first_offset = written.first_offset.min(position.offset);
        written.last_offset = written.last_offset.max(position.offset);
        Ok(())
    }

    fn failed(&self) -> Box<dyn Fn(Error) -> Failure> {
        self.session.failed(format_args!("produce to topic {}", self.topic))
    }

    fn summary(self, elapsed: Duration) -> Summary {
        Summary {
            topic: self.topic,
            records: self.acknowledged,
            bytes: self.bytes,
            elapsed_ms: elapsed.as_millis() as u64,
            partitions: self.partitions.into_values().collect(),
        }
    }
}

fn text(summary: &Summary) -> String {
    let mut text = format!("wrote {} to {}\n", counted(summary.records, "record"), summary.topic);
    for it in &summary.partitions {
        let offsets = match it.first_offset == it.last_offset {
            true => format!("offset {}", it.first_offset),
            false => format!("offsets {} to {}", it.first_offset, it.last_offset),
        };
        text.push_str(&format!("  partition {}: {offsets}\n", it.partition));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_can_be_shown() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn the_summary_names_partitions_and_offsets() {
        let written = |partition, records, first_offset, last_offset| Written {
            partition,
            records,
            first_offset,
            last_offset,
        };
        let partitions = vec![written(0, 1, 7, 7), written(3, 2, 0, 1)];
        let summary =
            Summary { topic: "t".to_owned(), records: 3, bytes: 9, elapsed_ms: 1, partitions };
        let expected =
            "wrote 3 records to t\n  partition 0: offset 7\n  partition 3: offsets 0 to 1\n";
        assert_eq!(text(&summary), expected);
    }
}
