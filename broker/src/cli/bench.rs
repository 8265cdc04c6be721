//! `millrace bench`: what a service with the client may expect of this broker: rates and latencies.
//!
//! Closed loop: as many records wait for acknowledgement as were asked for, and each that is acknowledged makes room for
//! the next. Open loop: records are due at a fixed rate whatever the broker does, and latency counts from when a record
//! was due, so that a pause is not hidden.

mod produce;
mod read;

use std::time::Duration;

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use millrace_client::NewTopic;
use serde::Serialize;

use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::output::counted;
use crate::cli::pairs::{Assignment, assignment};
use crate::cli::produce::Compression;
use crate::cli::stop::Stop;

/// Measure writing and reading through the client.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --topic one is made and deleted. It writes real data: give it a disk with room.\n\n\
                  Examples:\n  \
                  millrace bench produce                             as fast as it goes, 1000 records in flight\n  \
                  millrace bench produce --in-flight 1 --linger-ms 0 how long one record takes\n  \
                  millrace bench produce --rate 20000                latency at a fixed rate\n  \
                  millrace bench produce --compression zstd --record-bytes 200 --connections 4\n  \
                  millrace bench consume --records 1000000           how fast they are read\n  \
                  millrace bench produce --set durability=relaxed -o json"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write records; each counts once it is acknowledged
    Produce(produce::Arguments),
    /// Read a topic from its start to its end
    Consume(read::Arguments),
}

/// Which topic, and what is in it.
#[derive(Clone, Debug, Args)]
struct Target {
    /// An existing topic, which stays [default: one is made and deleted]
    #[arg(short, long)]
    topic: Option<String>,
    /// Partitions of the topic that is made
    #[arg(
        short,
        long,
        value_name = "COUNT",
        default_value_t = 6,
        value_parser = clap::value_parser!(i32).range(1..)
    )]
    partitions: i32,
    /// A setting of the topic that is made; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<Assignment>,
    /// Bytes of a value
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    record_bytes: u32,
    /// Connections, each with a producer or consumer of its own
    #[arg(
        short,
        long,
        value_name = "COUNT",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    connections: u16,
    /// How batches are compressed
    #[arg(short = 'z', long, value_enum, value_name = "CODEC", default_value_t)]
    compression: Compression,
}

/// `{"work":"produce"|"consume","pace":"closed"|"open"|null,"rate_asked":number|null,"topic","partitions",
/// "connections","record_bytes","seconds","records","records_per_second","mb_per_second","latency_ms":{"mean","p50",
/// "p90","p99","p999","max"}|null}`. Megabytes are 10^6 bytes of values; latency is null where nothing waits.
#[derive(Debug, Serialize)]
struct Report {
    work: &'static str,
    pace: Option<&'static str>,
    rate_asked: Option<f64>,
    topic: String,
    partitions: i32,
    connections: u16,
    record_bytes: u32,
    seconds: f64,
    records: u64,
    records_per_second: f64,
    mb_per_second: f64,
    latency_ms: Option<Latency>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Runs the command.
///
/// # Errors
/// The broker refuses, or a record gets lost on the way: a benchmark with errors is none.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let target = match &arguments.command {
        Command::Produce(arguments) => arguments.target.clone(),
        Command::Consume(arguments) => arguments.target.clone(),
    };
    let topic = Topic::prepare(session, &target).await?;
    let work = async {
        match &arguments.command {
            Command::Produce(arguments) => produce::run(session, &topic, arguments).await,
            Command::Consume(arguments) => read::run(session, &topic, arguments).await,
        }
    };
    let mut stop = Stop::listen();
    let report = tokio::select! {
        report = work => report,
        () = stop.asked() => Err(Failure::new("stopped before the end")),
    };
    let put_away = topic.put_away(session).await;
    let report = report?;
    session.output.show(&report, text);
    put_away
}

/// The topic of a run.
#[derive(Debug)]
struct Topic {
    name: String,
    partitions: i32,
    is_ours: bool,
}

impl Topic {
    async fn prepare(session: &Session, target: &Target) -> Result<Self, Failure> {
        let admin = session.admin();
        if let Some(name) = &target.topic {
            let found = admin.describe_topic(name).await;
            let found = found.map_err(session.failed(format_args!("use topic {name}")))?;
            let partitions = found.partitions.len() as i32;
            return Ok(Self { name: name.clone(), partitions, is_ours: false });
        }
        let name = format!("bench-{}-{}", std::process::id(), crate::cli::at::now_ms());
        let mut topic = NewTopic::new(&name).partitions(target.partitions);
        for Assignment { key, value } in &target.set {
            topic = topic.config(key, value);
        }
        let made = admin.create_topic(topic).await;
        made.map_err(session.failed(format_args!("create topic {name}")))?;
        Ok(Self { name, partitions: target.partitions, is_ours: true })
    }

    async fn put_away(self, session: &Session) -> Result<(), Failure> {
        if !self.is_ours {
            return Ok(());
        }
        let deleted = session.admin().delete_topic(&self.name).await;
        deleted.map_err(session.failed(format_args!("delete topic {}", self.name)))
    }
}

/// Latencies in microseconds, exact to three digits.
#[derive(Clone, Debug)]
struct Latencies {
    micros: Histogram<u64>,
}

impl Latencies {
    fn new() -> Self {
        Self { micros: Histogram::new(3).expect("three digits are legal") }
    }

    fn record(&mut self, elapsed: Duration) {
        // A histogram that grows by itself takes every value.
        let _ = self.micros.record(elapsed.as_micros().min(u128::from(u64::MAX)) as u64);
    }

    fn add(&mut self, other: &Self) {
        let _ = self.micros.add(&other.micros);
    }

    fn summary(&self) -> Option<Latency> {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let quantile = |quantile: f64| ms(self.micros.value_at_quantile(quantile));
        (!self.micros.is_empty()).then(|| Latency {
            mean: self.micros.mean() / 1000.0,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: ms(self.micros.max()),
        })
    }
}

fn text(report: &Report) -> String {
    let pace = match (report.pace, report.rate_asked) {
        (_, Some(rate)) => format!(", {rate:.0} records/s asked for"),
        (Some(pace), None) => format!(", {pace} loop"),
        (None, None) => String::new(),
    };
    let mut text = format!(
        "{} {} of {} bytes in {:.1} s{pace}\n{:.0} records/s  {:.1} MB/s\n",
        if report.work == "produce" { "wrote" } else { "read" },
        counted(report.records, "record"),
        report.record_bytes,
        report.seconds,
        report.records_per_second,
        report.mb_per_second,
    );
    if let Some(it) = report.latency_ms {
        text.push_str(&format!(
            "latency ms: mean {:.2}  p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2}\n",
            it.mean, it.p50, it.p90, it.p99, it.p999, it.max
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let mut latencies = Latencies::new();
        assert!(latencies.summary().is_none());
        (1..=1000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let found = latencies.summary().unwrap();
        assert!((found.p50 - 500.0).abs() < 1.0, "{found:?}");
        assert!((found.p999 - 999.0).abs() < 2.0, "{found:?}");
        assert!((found.max - 1000.0).abs() < 2.0, "{found:?}");
    }
}
