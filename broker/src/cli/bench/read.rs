//! The reading half of `bench`: a topic from its start to its end.

use std::time::Duration;

use clap::Args;
use millrace_client::{Client, Error, Record, StartAt};
use tokio::time::Instant;

use super::{Report, Target, Topic, produce};
use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;

/// How long a record may wait for company while the topic is filled.
const LINGER: Duration = Duration::from_millis(5);

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace bench consume --records 1000000\n  \
                  millrace bench consume --topic orders --connections 4")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
    /// Records that the topic is filled with, if it is made for this run
    #[arg(short, long, value_name = "COUNT", default_value_t = 500_000)]
    records: u64,
}

/// Fills the topic if it is ours, and reads it.
///
/// # Errors
/// What cannot be written or read.
pub(super) async fn run(
    session: &Session,
    topic: &Topic,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let failed = session.failed(format_args!("consume from topic {}", topic.name));
    if topic.is_ours {
        fill(session, topic, arguments).await.map_err(&failed)?;
    }
    let found = session.admin().describe_topic(&topic.name).await.map_err(&failed)?;
    let partitions: Vec<Part> = found
        .partitions
        .iter()
        .map(|it| Part { partition: it.partition, start: it.log_start, end: it.high_watermark })
        .filter(|it| it.start < it.end)
        .collect();
    let connections = usize::from(arguments.target.connections);
    let mut shares = vec![Vec::new(); connections];
    for (index, part) in partitions.into_iter().enumerate() {
        shares[index % connections].push(part);
    }
    let mut readers = Vec::new();
    for share in shares.into_iter().filter(|share| !share.is_empty()) {
        let client = connect::connect(&session.broker).await.map_err(&failed)?;
        readers.push(read(client, &topic.name, share));
    }
    let started = Instant::now();
    let mut sum = Read::default();
    for read in futures_util::future::join_all(readers).await {
        let read = read.map_err(&failed)?;
        sum.records += read.records;
        sum.bytes += read.bytes;
    }
    Ok(report(topic, arguments, sum, started.elapsed().as_secs_f64()))
}

fn report(topic: &Topic, arguments: &Arguments, sum: Read, seconds: f64) -> Report {
    let per_second = |count: u64| count as f64 / seconds.max(f64::MIN_POSITIVE);
    let record_bytes = sum.bytes.checked_div(sum.records).unwrap_or(0);
    Report {
        work: "consume",
        pace: None,
        rate_asked: None,
        topic: topic.name.clone(),
        partitions: topic.partitions,
        connections: arguments.target.connections,
        record_bytes: u32::try_from(record_bytes).unwrap_or(u32::MAX),
        seconds,
        records: sum.records,
        records_per_second: per_second(sum.records),
        mb_per_second: per_second(sum.bytes) / 1e6,
        latency_ms: None,
    }
}

async fn fill(session: &Session, topic: &Topic, arguments: &Arguments) -> Result<(), Error> {
    let producer = session.client.producer().compression(arguments.target.compression.into());
    let producer = producer.linger(LINGER).build().await?;
    let value = produce::value(arguments.target.record_bytes as usize);
    for index in 0..arguments.records {
        let partition = (index % topic.partitions as u64) as i32;
        // The flush below hears of every failure, so the single deliveries may go.
        drop(
            producer
                .send(&topic.name, Record::new(value.clone()).with_partition(partition))
                .await?,
        );
    }
    producer.flush().await
}

/// One partition, and what of it is read.
#[derive(Clone, Copy, Debug)]
struct Part {
    partition: i32,
    start: i64,
    end: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Read {
    records: u64,
    bytes: u64,
}

async fn read(client: Client, topic: &str, parts: Vec<Part>) -> Result<Read, Error> {
    let starts = parts.iter().map(|it| (topic, it.partition, StartAt::Offset(it.start)));
    let mut consumer = client.consumer().partitions(starts).build().await?;
    let mut open = parts;
    let mut read = Read::default();
    while !open.is_empty() {
        let Some(record) = consumer.next().await? else { break };
        read.records += 1;
        read.bytes += record.value.as_ref().map_or(0, |value| value.len() as u64);
        open.retain(|it| it.partition != record.partition || record.offset + 1 < it.end);
    }
    Ok(read)
}
