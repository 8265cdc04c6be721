//! The load generator's command line: one run, its figures as text or JSON.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to people"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use millrace_benches::batch::Batch;
use millrace_benches::engine::{Door, Pace, Partitions, Plan, Work};
use millrace_benches::error::LoadError;
use millrace_benches::raw::{RawPlan, RawReport, SyncCall};
use millrace_benches::report::{self, mib};
use millrace_benches::topic::RunTopic;
use millrace_benches::watch::Watch;
use millrace_benches::{idle, machine, raw};
use millrace_model::compression::Codec;
use serde::Serialize;

/// Loads any broker that speaks the Kafka protocol, or Millrace through its gRPC door, with next to no cost of its own
#[derive(Debug, Parser)]
#[command(name = "load", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print figures as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write batches
    Produce(Produce),
    /// Read what lies in the page cache: fill a topic, read it again and again
    Fetch(Fetch),
    /// Open connections that do nothing, and see what they cost
    Idle(Idle),
    /// The disk without a broker: append to files, make them durable, again
    Raw(Raw),
}

#[derive(Debug, Args)]
struct Common {
    /// The broker's Kafka address
    #[arg(long, default_value = "127.0.0.1:9092")]
    broker: SocketAddr,
    /// The broker's gRPC address: load this door instead; the topic is still made through the other
    #[arg(long, value_name = "HOST:PORT")]
    grpc: Option<SocketAddr>,
    /// Use the Rust client instead of bare HTTP/2
    #[arg(long, requires = "grpc")]
    client: bool,
    /// An existing topic, which stays; without it one is made and deleted
    #[arg(long)]
    topic: Option<String>,
    /// Setting of the topic that is made, e.g. durability=relaxed; may be repeated
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,
    #[arg(long, default_value_t = 6)]
    connections: usize,
    /// Partitions; connection i uses partition i modulo this [default: one a connection]
    #[arg(long)]
    partitions: Option<u32>,
    /// Records in a batch
    #[arg(long, default_value_t = 64)]
    records: u32,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1_000)]
    record_bytes: usize,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = codec)]
    codec: Codec,
    /// Seconds that are dropped first
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The broker's process, for CPU time and memory
    #[arg(long)]
    pid: Option<u32>,
    /// Where the broker answers GET /metrics, for the count of syncs
    #[arg(long)]
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
struct Produce {
    #[command(flatten)]
    common: Common,
    /// Closed loop: requests in flight on each connection
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// Open loop: requests a second over all connections; latency counts from when a request was due
    #[arg(long)]
    rate: Option<f64>,
    /// -1 all, 1 the leader, 0 no answer
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    acks: i16,
    /// Write to partitions at random
    #[arg(long)]
    random: bool,
    /// Stop after so many bytes of values, so that a run cannot fill the disk
    #[arg(long, default_value_t = 8_000_000_000)]
    bytes_max: u64,
}

#[derive(Debug, Args)]
struct Fetch {
    #[command(flatten)]
    common: Common,
    /// Most bytes of one answer
    #[arg(long, default_value_t = 1 << 20)]
    fetch_bytes: u32,
    /// Bytes of values that the topic is filled with
    #[arg(long, default_value_t = 1_000_000_000)]
    fill: u64,
    /// Copy what arrives into memory, as a client would; else the kernel drops it
    #[arg(long)]
    copy: bool,
}

#[derive(Debug, Args)]
struct Idle {
    #[arg(long, default_value = "127.0.0.1:9092")]
    broker: SocketAddr,
    #[arg(long, default_value_t = 1_000)]
    connections: usize,
    /// Seconds to wait before looking
    #[arg(long, default_value_t = 3.0)]
    hold: f64,
    /// The broker's process
    #[arg(long)]
    pid: u32,
}

#[derive(Debug, Args)]
struct Raw {
    /// Where the files come and go
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    #[arg(long, default_value_t = 1)]
    files: usize,
    /// Appended to each file before each sync
    #[arg(long, default_value_t = 4_096)]
    bytes: usize,
    #[arg(long, value_enum, default_value = "auto")]
    sync: SyncCall,
    /// Write over the same bytes again and again
    #[arg(long)]
    overwrite: bool,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 2_000_000_000)]
    bytes_max: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Produce(produce) => run_produce(produce, arguments.json),
        Command::Fetch(fetch) => run_fetch(fetch, arguments.json),
        Command::Idle(idle) => run_idle(idle, arguments.json),
        Command::Raw(raw) => run_raw(raw, arguments.json),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_produce(produce: &Produce, json: bool) -> Result<(), LoadError> {
    let common = &produce.common;
    let count = common.partition_count();
    let partitions =
        if produce.random { Partitions::Random(count) } else { Partitions::PerConnection(count) };
    let pace = match produce.rate {
        Some(per_second) => Pace::Open { per_second },
        None => Pace::Closed { in_flight: produce.in_flight },
    };
    let work = Work::Produce { acks: produce.acks, partitions };
    let mut made = common.make_topic()?;
    let mut plan = common.plan(made.as_ref(), work, pace);
    plan.bytes_max = Some(produce.bytes_max);
    if let (Some(topic), true) = (&mut made, produce.random) {
        topic.touch(count, &plan.batch)?;
    }
    let report = report::measure(&plan, common.watch());
    made.map_or(Ok(()), RunTopic::delete)?;
    print(&report?, json)
}

fn run_fetch(fetch: &Fetch, json: bool) -> Result<(), LoadError> {
    let common = &fetch.common;
    let partitions = common.partition_count();
    let (fetch_bytes, copy) = (fetch.fetch_bytes, fetch.copy);
    let work = Work::Fetch { partitions, fetch_bytes, copy };
    let mut made = common.make_topic()?;
    let plan = common.plan(made.as_ref(), work, Pace::Closed { in_flight: 1 });
    if let Some(topic) = &mut made {
        topic.fill(common.broker, partitions, &plan.batch, fetch.fill)?;
        machine::settle();
    }
    let report = report::measure(&plan, common.watch());
    made.map_or(Ok(()), RunTopic::delete)?;
    print(&report?, json)
}

fn run_idle(arguments: &Idle, json: bool) -> Result<(), LoadError> {
    let hold = Duration::from_secs_f64(arguments.hold);
    let report = idle::run(arguments.broker, arguments.connections, hold, arguments.pid)?;
    if json {
        return print_json(&report);
    }
    println!(
        "{} connections: anonymous memory {:.1} -> {:.1} MiB, {:.1} KiB each",
        report.connections,
        mib(report.anonymous_before),
        mib(report.anonymous_with),
        report.anonymous_per_connection / 1024.0
    );
    Ok(())
}

fn run_raw(arguments: &Raw, json: bool) -> Result<(), LoadError> {
    let report: RawReport = raw::run(&RawPlan {
        directory: arguments.dir.clone(),
        files: arguments.files,
        bytes: arguments.bytes,
        sync: arguments.sync,
        overwrite: arguments.overwrite,
        measure: Duration::from_secs_f64(arguments.seconds),
        total_bytes_max: arguments.bytes_max,
    })?;
    if json {
        return print_json(&report);
    }
    println!(
        "{:.1} MB/s  {:.0} groups/s\ngroup ms: p50 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}\n\
         sync ms:  p50 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
        report.mb_per_second,
        report.groups_per_second,
        report.group.p50_ms,
        report.group.p99_ms,
        report.group.p999_ms,
        report.group.max_ms,
        report.sync.p50_ms,
        report.sync.p99_ms,
        report.sync.p999_ms,
        report.sync.max_ms
    );
    Ok(())
}

impl Common {
    fn partition_count(&self) -> u32 {
        self.partitions.unwrap_or(self.connections as u32).max(1)
    }

    fn make_topic(&self) -> Result<Option<RunTopic>, LoadError> {
        if self.topic.is_some() {
            return Ok(None);
        }
        RunTopic::create(self.broker, self.partition_count(), &self.configs).map(Some)
    }

    fn plan(&self, made: Option<&RunTopic>, work: Work, pace: Pace) -> Plan {
        let given = self.topic.clone().unwrap_or_default();
        Plan {
            broker: self.broker,
            door: self.door(),
            topic: made.map_or(given, |it| it.name.clone()),
            work,
            batch: Batch::encode(self.records.max(1), self.record_bytes, self.codec),
            connections: self.connections,
            pace,
            warm_up: Duration::from_secs_f64(self.warm_up),
            measure: Duration::from_secs_f64(self.seconds),
            bytes_max: None,
        }
    }

    fn door(&self) -> Door {
        match self.grpc {
            None => Door::Kafka,
            Some(address) if self.client => Door::Client(address),
            Some(address) => Door::Grpc(address),
        }
    }

    fn watch(&self) -> Watch {
        Watch { pid: self.pid, metrics: self.metrics }
    }
}

fn print(report: &report::Report, json: bool) -> Result<(), LoadError> {
    if json {
        return print_json(report);
    }
    println!("{report}");
    Ok(())
}

fn print_json(report: &impl Serialize) -> Result<(), LoadError> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| LoadError::Misuse(format!("the figures are no JSON: {error}")))?;
    println!("{text}");
    Ok(())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn codec(text: &str) -> Result<Codec, String> {
    let found = Codec::ALL.into_iter().find(|codec| codec.name() == text);
    found.ok_or_else(|| "it must be none, gzip, snappy, lz4 or zstd".to_owned())
}
