//! The writing half of `bench`: closed and open loop.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use millrace_client::{Delivery, Error, Producer, Record};
use tokio::time::{Instant, sleep_until};

use super::{Latencies, Report, Target, Topic};
use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace bench produce --seconds 30\n  \
                  millrace bench produce --in-flight 1 --linger-ms 0    how long one record takes\n  \
                  millrace bench produce --rate 20000 --connections 4   latency at a fixed rate")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) target: Target,
    /// Closed loop: records that wait for acknowledgement, over all connections
    #[arg(
        long,
        value_name = "RECORDS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    in_flight: u32,
    /// Open loop instead: records a second over all connections; latency counts from when a record was due
    #[arg(long, value_name = "RECORDS", value_parser = rate)]
    rate: Option<f64>,
    /// How long a record may wait for company in a batch
    #[arg(long, value_name = "MS", default_value_t = 5)]
    linger_ms: u64,
    /// Most bytes of a batch [default: the client's]
    #[arg(long, value_name = "BYTES")]
    batch_bytes: Option<usize>,
    /// Seconds that are dropped first
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    warm_up: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0, value_parser = some_seconds)]
    seconds: f64,
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate: f64 = text.parse().map_err(|_| "it is no number")?;
    if (0.1..=1e8).contains(&rate) { Ok(rate) } else { Err("it must be from 0.1 to 100000000") }
}

fn seconds(text: &str) -> Result<f64, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number")?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("it must be from 0 to 86400")
    }
}

/// No time measures nothing.
fn some_seconds(text: &str) -> Result<f64, &'static str> {
    let seconds = seconds(text)?;
    if seconds >= 0.1 { Ok(seconds) } else { Err("it must be from 0.1 to 86400") }
}

/// Runs the loops and sums them.
///
/// # Errors
/// A record that is refused or lost.
pub(super) async fn run(
    session: &Session,
    topic: &Topic,
    arguments: &Arguments,
) -> Result<Report, Failure> {
    let failed = session.failed(format_args!("produce to topic {}", topic.name));
    let connections = arguments.target.connections;
    let mut producers = Vec::new();
    for _ in 0..connections {
        let client = connect::connect(&session.broker).await.map_err(&failed)?;
        let mut producer = client
            .producer()
            .compression(arguments.target.compression.into())
            .linger(Duration::from_millis(arguments.linger_ms));
        if let Some(bytes) = arguments.batch_bytes {
            producer = producer.batch_bytes(bytes);
        }
        producers.push(producer.build().await.map_err(&failed)?);
    }
    let span = Span::from_now(arguments);
    let value = value(arguments.target.record_bytes as usize);
    let loops = producers.into_iter().enumerate().map(|(index, producer)| {
        let work = Loop { producer, topic: topic.name.clone(), value: value.clone(), span };
        work.run(arguments, index, usize::from(connections))
    });
    let mut sum = Counted::new();
    for counted in futures_util::future::join_all(loops).await {
        let counted = counted.map_err(&failed)?;
        sum.records += counted.records;
        sum.latencies.add(&counted.latencies);
    }
    Ok(report(topic, arguments, &sum, (span.end - span.begin).as_secs_f64()))
}

fn report(topic: &Topic, arguments: &Arguments, sum: &Counted, seconds: f64) -> Report {
    let records_per_second = sum.records as f64 / seconds.max(f64::MIN_POSITIVE);
    Report {
        work: "produce",
        pace: Some(if arguments.rate.is_some() { "open" } else { "closed" }),
        rate_asked: arguments.rate,
        topic: topic.name.clone(),
        partitions: topic.partitions,
        connections: arguments.target.connections,
        record_bytes: arguments.target.record_bytes,
        seconds,
        records: sum.records,
        records_per_second,
        mb_per_second: records_per_second * f64::from(arguments.target.record_bytes) / 1e6,
        latency_ms: sum.latencies.summary(),
    }
}

/// A value that compresses about as far as JSON does: letters at random, of sixteen.
pub(super) fn value(length: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'a' + (state >> 60) as u8
    };
    std::iter::repeat_with(letter).take(length).collect()
}

/// When records count.
#[derive(Clone, Copy, Debug)]
struct Span {
    begin: Instant,
    end: Instant,
}

impl Span {
    fn from_now(arguments: &Arguments) -> Self {
        let begin = Instant::now() + Duration::from_secs_f64(arguments.warm_up);
        Self { begin, end: begin + Duration::from_secs_f64(arguments.seconds) }
    }
}

/// What was acknowledged within the span.
#[derive(Debug)]
struct Counted {
    records: u64,
    latencies: Latencies,
}

impl Counted {
    fn new() -> Self {
        Self { records: 0, latencies: Latencies::new() }
    }

    fn acknowledged(&mut self, since: Instant, span: Span) {
        let now = Instant::now();
        if (span.begin..span.end).contains(&now) {
            self.records += 1;
            self.latencies.record(now - since);
        }
    }
}

/// One connection at work.
struct Loop {
    producer: Producer,
    topic: String,
    value: Bytes,
    span: Span,
}

impl Loop {
    async fn run(
        self,
        arguments: &Arguments,
        index: usize,
        count: usize,
    ) -> Result<Counted, Error> {
        match arguments.rate {
            Some(rate) => self.open(rate / count as f64).await,
            None => {
                let all = arguments.in_flight as usize;
                let share = all / count + usize::from(index < all % count);
                self.closed(share.max(1)).await
            }
        }
    }

    async fn closed(self, in_flight: usize) -> Result<Counted, Error> {
        let mut counted = Counted::new();
        let mut waiting = FuturesUnordered::new();
        while Instant::now() < self.span.end {
            while waiting.len() < in_flight {
                let since = Instant::now();
                waiting.push(timed(self.send().await?, since));
            }
            if let Some(since) = waiting.next().await {
                counted.acknowledged(since?, self.span);
            }
        }
        drain(waiting).await?;
        Ok(counted)
    }

    async fn open(self, rate: f64) -> Result<Counted, Error> {
        let mut counted = Counted::new();
        let mut waiting = FuturesUnordered::new();
        let begin = Instant::now();
        let due = |sent: u64| begin + Duration::from_secs_f64(sent as f64 / rate);
        let mut sent = 0;
        while Instant::now() < self.span.end {
            tokio::select! {
                biased;
                Some(since) = waiting.next() => counted.acknowledged(since?, self.span),
                () = sleep_until(due(sent)) => {
                    waiting.push(timed(self.send().await?, due(sent)));
                    sent += 1;
                }
            }
        }
        drain(waiting).await?;
        Ok(counted)
    }

    /// Returns once the producer's buffer has taken the record.
    async fn send(&self) -> Result<Delivery, Error> {
        self.producer.send(&self.topic, Record::new(self.value.clone())).await
    }
}

/// When the record was sent, or was due, once it is acknowledged.
async fn timed(delivery: Delivery, since: Instant) -> Result<Instant, Error> {
    delivery.await.map(|_| since)
}

async fn drain(
    mut waiting: FuturesUnordered<impl Future<Output = Result<Instant, Error>>>,
) -> Result<(), Error> {
    while let Some(since) = waiting.next().await {
        since?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_long_as_asked_and_varied() {
        let value = value(1000);
        assert_eq!(value.len(), 1000);
        for letter in b'a'..=b'p' {
            assert!(value.contains(&letter), "{letter} is missing");
        }
    }
}
