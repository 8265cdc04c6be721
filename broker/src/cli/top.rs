//! `millrace top`: what the broker does just now, by topic and by group; again and again on a terminal.
//!
//! Rates are differences between two looks: counters of the metrics page for the whole broker, ends of logs for topics,
//! committed offsets for groups.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, stream};
use millrace_client::{GroupDescription, TopicDescription};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::ops::{self, Samples};
use crate::cli::output::{Format, Style, Table, bytes, or_dash, span_ms, styled};
use crate::cli::stop::Stop;

/// Questions to the broker at once.
const QUESTIONS_MAX: usize = 16;

/// Show throughput, lag and connections, live.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace top                        live, Ctrl-C ends\n  \
                  millrace top --interval 5 --rows 50\n  \
                  millrace top --count 1 -o json      one look of two seconds, for programs")]
pub(super) struct Arguments {
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 2.0, value_parser = interval)]
    interval: f64,
    /// End after so many looks [default: never on a terminal, else 1]
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Topics and groups that are shown, the busiest first
    #[arg(long, default_value_t = 20)]
    rows: usize,
    /// Where probes and metrics answer [env: MILLRACE_OPS] [default: the broker's host, port 9644]
    #[arg(long, value_name = "URL")]
    ops: Option<String>,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

/// Shorter looks would mostly measure themselves.
fn interval(text: &str) -> Result<f64, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "it is no number")?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("it must be from 0.1 to 3600") }
}

/// One look; with `--count`, one line each: `{"broker":{..}|null,"topics":[{"topic","partitions","records_per_second",
/// "bytes_per_second","read_records_per_second","records","size_bytes"}],"groups":[{"group","state","members","records_per_second","lag",
/// "lag_ms"}]}`. `broker` has `uptime_seconds`, `kafka_connections`, `grpc_connections`, `requests_per_second`,
/// `produced_records_per_second`, `produced_bytes_per_second`, `fetched_bytes_per_second`, `syncs_per_second`,
/// `sync_ms_mean` (null without a sync) and `memory_bytes`, and is null where the ops port does not answer;
/// so is `read_records_per_second` where the metrics page does not have the topic.
#[derive(Debug, Serialize)]
struct Look {
    broker: Option<Broker>,
    topics: Vec<Topic>,
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Broker {
    uptime_seconds: f64,
    kafka_connections: f64,
    grpc_connections: f64,
    requests_per_second: f64,
    produced_records_per_second: f64,
    produced_bytes_per_second: f64,
    fetched_bytes_per_second: f64,
    syncs_per_second: f64,
    sync_ms_mean: Option<f64>,
    memory_bytes: f64,
}

#[derive(Debug, Serialize)]
struct Topic {
    topic: String,
    partitions: usize,
    records_per_second: f64,
    bytes_per_second: f64,
    read_records_per_second: Option<f64>,
    records: i64,
    size_bytes: i64,
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    state: String,
    members: usize,
    records_per_second: f64,
    lag: i64,
    lag_ms: i64,
}

/// Runs the command.
///
/// # Errors
/// The broker does not answer.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let is_live = stdout().is_terminal() && session.output == Format::Table;
    let mut left = arguments.count.or(if is_live { None } else { Some(1) });
    let ops = session.broker.ops(arguments.ops.as_deref());
    let interval = Duration::from_secs_f64(arguments.interval);
    let mut before = Moment::look(session, &ops).await?;
    let mut stop = Stop::listen();
    while left != Some(0) {
        tokio::select! {
            () = sleep_until(before.at + interval) => {}
            () = stop.asked() => return Ok(()),
        }
        let now = Moment::look(session, &ops).await?;
        let look = now.since(&before);
        session.output.show(&look, |look| {
            let text = text(look, &session.broker.url, arguments.rows);
            if is_live { over_the_last(&text) } else { text }
        });
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

/// What the broker says at one moment.
#[derive(Debug)]
struct Moment {
    at: Instant,
    samples: Option<Samples>,
    topics: Vec<TopicDescription>,
    groups: Vec<GroupDescription>,
}

impl Moment {
    async fn look(session: &Session, ops: &str) -> Result<Self, Failure> {
        let at = Instant::now();
        let page = ops::get(ops, "/metrics").await.ok().filter(|page| page.status == 200);
        let admin = session.admin();
        let topics = admin.list_topics(false).await.map_err(session.failed("list topics"))?;
        let groups = admin.list_groups(&[]).await.map_err(session.failed("list groups"))?;
        // What is deleted between the list and the question is not there: no error.
        let topics = stream::iter(topics).map(|topic| {
            let admin = admin.clone();
            async move { admin.describe_topic(&topic.name).await.ok() }
        });
        let groups = stream::iter(groups).map(|group| {
            let admin = admin.clone();
            async move { admin.describe_group(&group.group).await.ok() }
        });
        Ok(Self {
            at,
            samples: page.map(|page| Samples::read(&page.body)),
            topics: topics.buffered(QUESTIONS_MAX).filter_map(std::future::ready).collect().await,
            groups: groups.buffered(QUESTIONS_MAX).filter_map(std::future::ready).collect().await,
        })
    }

    /// What happened between two moments.
    fn since(&self, before: &Self) -> Look {
        let seconds = (self.at - before.at).as_secs_f64();
        let broker = self
            .samples
            .as_ref()
            .map(|now| Broker::between(before.samples.as_ref().unwrap_or(now), now, seconds));
        let ends: BTreeMap<&str, Ends> =
            before.topics.iter().map(|it| (it.topic.name.as_str(), Ends::of(it))).collect();
        let mut topics: Vec<Topic> = self
            .topics
            .iter()
            .map(|it| Topic {
                read_records_per_second: self.read_since(before, &it.topic.name, seconds),
                ..Topic::since(ends.get(it.topic.name.as_str()), it, seconds)
            })
            .collect();
        let committed: BTreeMap<&str, i64> =
            before.groups.iter().map(|it| (it.group.group.as_str(), committed(it))).collect();
        let mut groups: Vec<Group> = self
            .groups
            .iter()
            .map(|it| Group::since(committed.get(it.group.group.as_str()), it, seconds))
            .collect();
        topics.sort_by(|a, b| {
            b.records_per_second
                .total_cmp(&a.records_per_second)
                .then_with(|| a.topic.cmp(&b.topic))
        });
        groups.sort_by(|a, b| b.lag.cmp(&a.lag).then_with(|| a.group.cmp(&b.group)));
        Look { broker, topics, groups }
    }

    /// Records of a topic that were handed out, by either door.
    fn read_since(&self, before: &Self, topic: &str, seconds: f64) -> Option<f64> {
        let value = |moment: &Self| {
            moment.samples.as_ref()?.topic_value("millrace_topic_fetched_records_total", topic)
        };
        Some((value(self)? - value(before).unwrap_or(0.0)).max(0.0) / seconds)
    }
}

impl Broker {
    fn between(before: &Samples, now: &Samples, seconds: f64) -> Self {
        let value = |name: &str| now.value(name).unwrap_or(0.0);
        // A restart sets counters back: nothing is known of that look.
        let risen = |name: &str| (value(name) - before.value(name).unwrap_or(0.0)).max(0.0);
        let rate = |name: &str| risen(name) / seconds;
        let syncs = risen("millrace_sync_seconds_count");
        let sync_ms = risen("millrace_sync_seconds_sum") * 1000.0 / syncs;
        Self {
            uptime_seconds: value("millrace_uptime_seconds"),
            kafka_connections: value("millrace_kafka_connections"),
            grpc_connections: value("millrace_grpc_connections"),
            requests_per_second: rate("millrace_kafka_requests_total")
                + rate("millrace_grpc_requests_total"),
            produced_records_per_second: rate("millrace_produced_records_total"),
            produced_bytes_per_second: rate("millrace_produced_bytes_total"),
            fetched_bytes_per_second: rate("millrace_fetched_bytes_total"),
            syncs_per_second: syncs / seconds,
            sync_ms_mean: (syncs > 0.0).then_some(sync_ms),
            memory_bytes: value("process_resident_memory_bytes"),
        }
    }
}

/// Sums over a topic's partitions.
#[derive(Clone, Copy, Debug)]
struct Ends {
    end: i64,
    records: i64,
    size_bytes: i64,
}

impl Ends {
    fn of(topic: &TopicDescription) -> Self {
        let sum = |of: fn(&millrace_client::PartitionDescription) -> i64| {
            topic.partitions.iter().map(of).sum::<i64>()
        };
        Self {
            end: sum(|it| it.high_watermark),
            records: sum(|it| it.high_watermark - it.log_start),
            size_bytes: sum(|it| it.size_bytes),
        }
    }
}

impl Topic {
    fn since(before: Option<&Ends>, now: &TopicDescription, seconds: f64) -> Self {
        let ends = Ends::of(now);
        let before = before.unwrap_or(&ends);
        let rate = |now: i64, before: i64| (now - before).max(0) as f64 / seconds;
        Self {
            topic: now.topic.name.clone(),
            partitions: now.partitions.len(),
            records_per_second: rate(ends.end, before.end),
            bytes_per_second: rate(ends.size_bytes, before.size_bytes),
            read_records_per_second: None,
            records: ends.records,
            size_bytes: ends.size_bytes,
        }
    }
}

fn committed(group: &GroupDescription) -> i64 {
    group.partitions.iter().filter_map(|it| it.committed).sum()
}

impl Group {
    fn since(before: Option<&i64>, now: &GroupDescription, seconds: f64) -> Self {
        let at = committed(now);
        Self {
            group: now.group.group.clone(),
            state: now.group.state.clone(),
            members: now.members.len(),
            records_per_second: (at - before.unwrap_or(&at)).max(0) as f64 / seconds,
            lag: now.partitions.iter().map(|it| it.lag).sum(),
            lag_ms: now.partitions.iter().map(|it| it.lag_ms).max().unwrap_or(0),
        }
    }
}

/// Writes over what stands on the screen, line by line, so that nothing flickers.
fn over_the_last(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

fn text(look: &Look, url: &str, rows: usize) -> String {
    let mut text = broker_text(look.broker.as_ref(), url);
    if look.topics.is_empty() {
        text.push_str("\nno topics\n");
    } else {
        text.push_str(&format!("\n{}", topics_table(&look.topics, rows)));
    }
    if look.groups.is_empty() {
        text.push_str("\nno groups\n");
    } else {
        text.push_str(&format!("\n{}", groups_table(&look.groups, rows)));
    }
    text
}

fn broker_text(broker: Option<&Broker>, url: &str) -> String {
    let title = styled(Style::Bold, format_args!("millrace at {url}"));
    let Some(it) = broker else {
        return format!("{title}\nits ops port does not answer: name it by --ops URL\n");
    };
    let sync = it.sync_ms_mean.map_or(String::new(), |ms| format!(" of {ms:.1} ms"));
    format!(
        "{title}  up {}  memory {}\n\
         in {:.0} records/s, {}/s  out {}/s  {:.0} requests/s  {:.0} syncs/s{sync}  \
         connections: {:.0} Kafka, {:.0} gRPC\n",
        span_ms((it.uptime_seconds * 1000.0) as i64),
        bytes(it.memory_bytes),
        it.produced_records_per_second,
        bytes(it.produced_bytes_per_second),
        bytes(it.fetched_bytes_per_second),
        it.requests_per_second,
        it.syncs_per_second,
        it.kafka_connections,
        it.grpc_connections,
    )
}

fn topics_table(topics: &[Topic], rows: usize) -> String {
    let headings =
        ["TOPIC", "PARTITIONS", "IN RECORDS/S", "IN BYTES/S", "OUT RECORDS/S", "RECORDS", "SIZE"];
    let mut table = Table::new(&headings, &[1, 2, 3, 4, 5, 6]);
    for it in topics.iter().take(rows) {
        table.row([
            it.topic.clone(),
            it.partitions.to_string(),
            format!("{:.0}", it.records_per_second),
            bytes(it.bytes_per_second),
            or_dash(it.read_records_per_second.map(|rate| format!("{rate:.0}"))),
            it.records.to_string(),
            bytes(it.size_bytes as f64),
        ]);
    }
    table.to_string() + &more(topics.len(), rows)
}

fn groups_table(groups: &[Group], rows: usize) -> String {
    let headings = ["GROUP", "STATE", "MEMBERS", "RECORDS/S", "LAG", "BEHIND"];
    let mut table = Table::new(&headings, &[2, 3, 4, 5]);
    for it in groups.iter().take(rows) {
        table.row([
            it.group.clone(),
            it.state.clone(),
            it.members.to_string(),
            format!("{:.0}", it.records_per_second),
            it.lag.to_string(),
            span_ms(it.lag_ms),
        ]);
    }
    table.to_string() + &more(groups.len(), rows)
}

fn more(count: usize, rows: usize) -> String {
    match count.saturating_sub(rows) {
        0 => String::new(),
        more => format!("and {more} more: --rows\n"),
    }
}
