//! `millrace top`: what the broker does just now, by topic and by group; again and again on a terminal.
//!
//! Rates are differences between two looks: counters of the metrics page for the whole broker, ends of logs for topics,
//! committed offsets for groups.
//!
//! NOTE: each look asks for every topic and group anew, though there are streams of changes. `WatchTopics` tells which
//! topics there are, not how they grow, so they would be asked for all the same; `WatchLag` would be one stream per group,
//! to be begun and ended as groups come and go, each with a rhythm of its own.

mod screen;

use std::collections::BTreeMap;
use std::io::stdout;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, stream};
use millrace_client::{GroupDescription, TopicDescription};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::ops::{self, Samples};
use crate::cli::output::{Format, Style, bytes, is_screen, or_dash, print, span_ms, styled};
use crate::cli::stop::Stop;
use crate::cli::top::screen::{Columns, Room, Screen, flow, shares};

/// Questions to the broker at once.
const QUESTIONS_MAX: usize = 16;
/// How long a terminal shows an old look without saying so.
const LOOK_PATIENCE: Duration = Duration::from_secs(3);
/// Topics and groups that are shown where no terminal ends sooner.
const ROWS: usize = 20;

/// Show throughput, lag and connections, live.
#[derive(Debug, Args)]
#[command(
    after_help = "IN/S and OUT/S are records a second, written and read through either door; what a narrow \
                  terminal has no room for is\nin the JSON.\n\nExamples:\n  \
                  millrace top                        live, Ctrl-C ends\n  \
                  millrace top --interval 5 --rows 50\n  \
                  millrace top --count 1 -o json      one look of two seconds, for programs"
)]
pub(super) struct Arguments {
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 2.0, value_parser = interval)]
    interval: f64,
    /// End after so many looks [default: never on a terminal, else 1]
    #[arg(short = 'n', long)]
    count: Option<u64>,
    /// Topics and groups that are shown, the busiest first [default: what fits the terminal, else 20]
    #[arg(long)]
    rows: Option<usize>,
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
/// The broker does not answer; once a terminal shows it working, that is told there, and it is asked again.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let mut stop = Stop::listen();
    let looking = watch(session, &arguments);
    tokio::select! {
        ended = looking => ended,
        () = stop.asked() => Ok(()),
    }
}

async fn watch(session: &Session, arguments: &Arguments) -> Result<(), Failure> {
    let is_on_terminal = is_screen(&stdout()) && session.output == Format::Table;
    let mut left = arguments.count.or(if is_on_terminal { None } else { Some(1) });
    let ops = session.broker.ops(arguments.ops.as_deref());
    let interval = Duration::from_secs_f64(arguments.interval);
    let mut before = Moment::look(session, &ops).await?;
    let mut live = (is_on_terminal && left != Some(1)).then(Live::begin);
    if let Some(live) = &live {
        live.wait(session, arguments.interval);
    }
    let mut next = before.at + interval;
    while left != Some(0) {
        sleep_until(next).await;
        next = Instant::now() + interval;
        left = left.map(|left| left - 1);
        let now = match &live {
            None => Moment::look(session, &ops).await?,
            Some(live) => match Moment::look_soon(session, &ops).await {
                Ok(now) => now,
                Err(failure) => {
                    live.excuse(&failure, arguments.interval);
                    continue;
                }
            },
        };
        let look = now.since(&before);
        match &mut live {
            Some(live) => live.show(&look, session, arguments.rows),
            None => session.output.show(&look, |look| {
                let columns = if is_on_terminal { Room::of_terminal().columns } else { usize::MAX };
                let room = Room { columns, ..Room::ENDLESS };
                text(look, &session.broker.url, arguments.rows.unwrap_or(ROWS), room)
            }),
        }
        before = now;
    }
    Ok(())
}

/// A terminal that shows one look after the other; the last one stays when it ends.
struct Live {
    /// Given back before the last look is left behind.
    screen: Option<Screen>,
    last: String,
}

impl Live {
    fn begin() -> Self {
        Self { screen: Some(Screen::take()), last: String::new() }
    }

    fn wait(&self, session: &Session, seconds: f64) {
        let title = styled(Style::Bold, title(&session.broker.url));
        self.write(&format!("{title}\nlooking for {seconds} s ... Ctrl-C ends\n"));
    }

    fn show(&mut self, look: &Look, session: &Session, rows: Option<usize>) {
        let url = &session.broker.url;
        self.last = text(look, url, rows.unwrap_or(usize::MAX), Room::of_terminal());
        self.write(&self.last);
    }

    /// Says why there is nothing new, above what was seen last.
    fn excuse(&self, failure: &Failure, seconds: f64) {
        let failed = styled(Style::Red, &failure.message);
        self.write(&format!("{failed}\nasked again in {seconds} s\n\n{}", self.last));
    }

    fn write(&self, text: &str) {
        self.screen.iter().for_each(|screen| screen.show(text));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.screen = None;
        print(&self.last);
    }
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

    /// The same, for somebody who sees an old look meanwhile.
    async fn look_soon(session: &Session, ops: &str) -> Result<Self, Failure> {
        let looked = tokio::time::timeout(LOOK_PATIENCE, Self::look(session, ops)).await;
        looked.unwrap_or_else(|_| {
            let (url, patience) = (&session.broker.url, LOOK_PATIENCE.as_secs());
            Err(Failure::new(format_args!("{url} has not answered for {patience} s")))
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
            // A partition that the broker cannot look into has -1 everywhere.
            let known = topic.partitions.iter().filter(|it| it.high_watermark >= 0);
            known.map(of).sum::<i64>()
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
            lag: now.partitions.iter().map(|it| it.lag.max(0)).sum(),
            lag_ms: now.partitions.iter().map(|it| it.lag_ms).max().unwrap_or(0),
        }
    }
}

fn text(look: &Look, url: &str, rows_max: usize, room: Room) -> String {
    let head = broker_text(look.broker.as_ref(), url, room.columns);
    // Each list has a blank line and a heading.
    let taken = head.lines().count() + 4 + 1;
    let shown = shares(room.lines.saturating_sub(taken), [look.topics.len(), look.groups.len()]);
    let [topics, groups] = shown.map(|shown| shown.min(rows_max));
    let topics = list("topics", &TOPICS, &look.topics, topics, room.columns, Topic::cells);
    let groups = list("groups", &GROUPS, &look.groups, groups, room.columns, Group::cells);
    format!("{head}\n{topics}\n{groups}")
}

fn title(url: &str) -> String {
    format!("millrace at {url}")
}

fn broker_text(broker: Option<&Broker>, url: &str, width: usize) -> String {
    let title = title(url);
    let Some(it) = broker else {
        let advice = ["its ops port does not answer:", "name it by --ops URL"].map(str::to_owned);
        return format!("{}\n{}", styled(Style::Bold, title), flow(&advice, width));
    };
    let sync = it.sync_ms_mean.map_or(String::new(), |ms| format!(" of {ms:.1} ms"));
    let process = [
        title.clone(),
        format!("up {}", span_ms((it.uptime_seconds * 1000.0) as i64)),
        format!("memory {}", bytes(it.memory_bytes)),
    ];
    let traffic = [
        format!(
            "in {:.0} records/s, {}/s",
            it.produced_records_per_second,
            bytes(it.produced_bytes_per_second)
        ),
        format!("out {}/s", bytes(it.fetched_bytes_per_second)),
    ];
    let work = [
        format!("{:.0} requests/s", it.requests_per_second),
        format!("{:.0} syncs/s{sync}", it.syncs_per_second),
        format!("connections: {:.0} Kafka, {:.0} gRPC", it.kafka_connections, it.grpc_connections),
    ];
    let text: String =
        [&process[..], &traffic, &work].into_iter().map(|facts| flow(facts, width)).collect();
    text.replacen(&title, &styled(Style::Bold, &title), 1)
}

const TOPICS: Columns = Columns {
    headings: &["TOPIC", "PARTITIONS", "IN/S", "IN BYTES/S", "OUT/S", "RECORDS", "SIZE"],
    numbers: &[1, 2, 3, 4, 5, 6],
    spare: &[1, 6, 3, 5, 4],
};

const GROUPS: Columns = Columns {
    headings: &["GROUP", "STATE", "MEMBERS", "RECORDS/S", "LAG", "BEHIND"],
    numbers: &[2, 3, 4, 5],
    spare: &[2, 3, 1],
};

impl Topic {
    fn cells(&self) -> Vec<String> {
        vec![
            self.topic.clone(),
            self.partitions.to_string(),
            format!("{:.0}", self.records_per_second),
            bytes(self.bytes_per_second),
            or_dash(self.read_records_per_second.map(|rate| format!("{rate:.0}"))),
            self.records.to_string(),
            bytes(self.size_bytes as f64),
        ]
    }
}

impl Group {
    fn cells(&self) -> Vec<String> {
        vec![
            self.group.clone(),
            self.state.clone(),
            self.members.to_string(),
            format!("{:.0}", self.records_per_second),
            self.lag.to_string(),
            span_ms(self.lag_ms),
        ]
    }
}

/// The first of some rows as a table, and how many there are beside them.
fn list<T>(
    what: &str,
    columns: &Columns,
    all: &[T],
    shown: usize,
    width: usize,
    cells: fn(&T) -> Vec<String>,
) -> String {
    if all.is_empty() {
        return format!("no {what}\n");
    }
    let rows: Vec<_> = all.iter().take(shown).map(cells).collect();
    let table = columns.table(&rows, width);
    match all.len().saturating_sub(shown) {
        0 => table,
        more => format!("{table}and {more} more {what}\n"),
    }
}
