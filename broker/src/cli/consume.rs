//! `millrace consume`: records as values, JSON or by a pattern, from partitions or as a member of a group.
//!
//! Without `--follow` it ends where the logs ended when it began. A group's offsets are committed once the records
//! are printed: who is interrupted sees some of them again, and misses none.

mod format;

use std::collections::BTreeMap;
use std::io::{BufWriter, IsTerminal, Stdout, Write, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use millrace_client::{Consumer, Error, Rebalance, ReceivedRecord, StartAt, TopicPartition};
use tokio::time::{Instant, sleep_until};

use crate::cli::at::{self, At};
use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::output::{Format, warn};
use crate::cli::stop::Stop;

use format::Pattern;

/// How often a group's offsets are committed while records come.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often a member without `--follow` looks whether it has read everything.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a broker that went away is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last commit and the farewell to the group may take.
const FAREWELL: Duration = Duration::from_secs(10);

/// Read records of topics.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --follow it ends where the topic ends now. In a pattern stand %t topic, %p partition,\n\
                  %o offset, %k key, %v value, %T timestamp in milliseconds, %h headers, %% a percent sign,\n\
                  \\n and \\t.\n\n\
                  Examples:\n  \
                  millrace consume orders                                  all that is there\n  \
                  millrace consume orders --from -10                       the last ten of each partition\n  \
                  millrace consume orders --follow --from latest           only what comes from now on\n  \
                  millrace consume orders --from -15m --until -5m -o json  ten minutes, as JSON\n  \
                  millrace consume orders --partition 0 --from 42 --limit 1\n  \
                  millrace consume orders --group billing --follow         as a member of a group\n  \
                  millrace consume orders --format '%T %p/%o %k=%v\\n'"
)]
pub(super) struct Arguments {
    /// One topic, or several
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// values, json, or a pattern with %
    #[arg(short = 'F', long, default_value = "values")]
    format: Pattern,
    /// Where to begin: earliest, latest, an offset (42), records before the end (-10), a time (2026-01-02T03:04:05Z), so
    /// long ago (-15m). In a group: where it has committed nothing [default: earliest]
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    from: Option<At>,
    /// Where to end, in the same words; the record there is not read
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, conflicts_with = "group")]
    until: Option<At>,
    /// Only these partitions [default: all]
    #[arg(short, long, value_delimiter = ',', conflicts_with = "group")]
    partition: Vec<i32>,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Read as a member of this group, and commit what was printed
    #[arg(short, long)]
    group: Option<String>,
    /// Wait for new records until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

/// Runs the command. With `--output json`, or `--format json`, each record is one line: see [`crate::cli::record`].
///
/// # Errors
/// No such topic or partition, an offset that is gone, or a group that cannot be joined.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let mut printer = Printer::new(session, &arguments);
    if printer.is_done() {
        return Ok(());
    }
    match arguments.group.clone() {
        Some(group) => as_member(session, &arguments, &group, &mut printer).await,
        None => alone(session, &arguments, &mut printer).await,
    }
}

/// Reads partitions from a place to a place.
async fn alone(
    session: &Session,
    arguments: &Arguments,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if arguments.follow && arguments.until.is_some_and(|at| !matches!(at, At::Offset(_))) {
        return Err(Failure::usage(
            "--follow waits for what comes, --until a place that is there now",
        )
        .with_help("with --follow, --until takes an offset; without it any place"));
    }
    let mut span = Span::find(session, arguments).await?;
    if span.is_read() {
        match arguments.from {
            Some(At::Latest) => warn("nothing comes after the end yet; --follow waits for it\n"),
            // Silence puzzles people; programs know what it means.
            _ if stderr().is_terminal() => warn("no records there; --follow waits for some\n"),
            _ => {}
        }
        return Ok(());
    }
    let starts = span
        .open
        .iter()
        .map(|(at, open)| (at.topic.to_string(), at.partition, StartAt::Offset(open.next)));
    let consumer = session.client.consumer().partitions(starts).patience(PATIENCE).build().await;
    let mut consumer = consumer.map_err(failed(session, arguments))?;
    while !span.is_read() && !printer.is_done() {
        let Some(record) = printer.next(&mut consumer).await else { break };
        let record = record.map_err(failed(session, arguments))?;
        if span.takes(&record) && !printer.print(&record) {
            break;
        }
    }
    printer.flush();
    Ok(())
}

fn failed(session: &Session, arguments: &Arguments) -> Box<dyn Fn(Error) -> Failure> {
    session.failed(format_args!("consume from {}", arguments.topics.join(", ")))
}

/// What is to be read of each partition.
#[derive(Debug)]
struct Span {
    open: BTreeMap<TopicPartition, Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    next: i64,
    /// Records from here on are not wanted; `None`: all are.
    end: Option<i64>,
}

impl Span {
    async fn find(session: &Session, arguments: &Arguments) -> Result<Self, Failure> {
        let from = arguments.from.unwrap_or(At::Earliest);
        let mut open = BTreeMap::new();
        for topic in &arguments.topics {
            let partitions = &arguments.partition;
            let starts = start_offsets(session, topic, partitions, from).await?;
            let ends = end_offsets(session, topic, arguments).await?;
            for (partition, next) in starts {
                let end = ends.as_ref().map(|ends| ends.get(&partition).copied().unwrap_or(next));
                open.insert(TopicPartition::new(topic.as_str(), partition), Open { next, end });
            }
        }
        open.retain(|_, it| it.end.is_none_or(|end| it.next < end));
        Ok(Self { open })
    }

    /// Is everything read that is wanted?
    fn is_read(&self) -> bool {
        self.open.is_empty()
    }

    /// Is this record wanted? Moves on behind it.
    fn takes(&mut self, record: &ReceivedRecord) -> bool {
        let at = TopicPartition::new(&*record.topic, record.partition);
        let Some(open) = self.open.get_mut(&at) else { return false };
        let is_wanted = open.end.is_none_or(|end| record.offset < end);
        if open.end.is_some_and(|end| record.offset + 1 >= end) {
            self.open.remove(&at);
        }
        is_wanted
    }
}

/// An offset that was asked for by number must be there; other places move to the log's nearest end.
async fn start_offsets(
    session: &Session,
    topic: &str,
    partitions: &[i32],
    from: At,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let found = from.find(session, topic, partitions).await?;
    if let At::Offset(offset) = from
        && let Some((partition, nearest)) = found.iter().find(|(_, at)| **at != offset)
    {
        let side = if *nearest > offset { "begins" } else { "ends" };
        return Err(Failure::new(format_args!(
            "offset {offset} is not in {topic}-{partition}, which {side} at {nearest}"
        ))
        .with_help(format_args!(
            "`millrace offsets {topic}` shows where each partition begins and ends"
        )));
    }
    Ok(found)
}

/// Where to stop: at `--until`, and without `--follow` where the log ends now. `None`: nowhere.
async fn end_offsets(
    session: &Session,
    topic: &str,
    arguments: &Arguments,
) -> Result<Option<BTreeMap<i32, i64>>, Failure> {
    let (partitions, follow) = (&arguments.partition, arguments.follow);
    let mut ends = match (arguments.until, follow) {
        (None, true) => return Ok(None),
        (Some(At::Offset(offset)), true) => {
            let partitions = at::offsets(session, topic, partitions, StartAt::Latest).await?;
            return Ok(Some(partitions.into_keys().map(|at| (at, offset)).collect()));
        }
        (until, _) => until.unwrap_or(At::Latest).find(session, topic, partitions).await?,
    };
    if let Some(At::Offset(offset)) = arguments.until {
        ends.values_mut().for_each(|end| *end = offset.min(*end));
    }
    Ok(Some(ends))
}

/// Reads what the group assigns, and commits what was printed.
async fn as_member(
    session: &Session,
    arguments: &Arguments,
    group: &str,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let reset = arguments.from.unwrap_or(At::Earliest).start().ok_or_else(|| {
        Failure::usage("--from counts from the end, which a group cannot").with_help(
            "give earliest, latest or a time; or move the group by `millrace group reset-offsets`",
        )
    })?;
    let shared_out = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&shared_out);
    let consumer = session.client.consumer().group(group).topics(&arguments.topics);
    let consumer = consumer.reset(reset).auto_commit(false).patience(PATIENCE);
    let consumer = consumer.on_rebalance(move |change| {
        let is_assigned = matches!(change, Rebalance::Assigned(_));
        seen.store(is_assigned, Ordering::Relaxed);
    });
    let mut consumer = consumer.build().await.map_err(failed(session, arguments))?;
    let member = Member { session, arguments, shared_out };
    let ended = member.read_and_commit(&mut consumer, printer).await;
    printer.flush();
    let farewell = tokio::time::timeout(FAREWELL, async {
        // What was printed counts, also when reading ended badly.
        let committed = consumer.commit().await;
        consumer.close().await.and(committed)
    });
    let farewell = farewell.await.unwrap_or(Ok(()));
    ended?;
    farewell.map_err(failed(session, arguments))
}

/// A member of a group at work.
struct Member<'a> {
    session: &'a Session,
    arguments: &'a Arguments,
    /// Has the group shared out its partitions, and does it not just do so again?
    shared_out: Arc<AtomicBool>,
}

impl Member<'_> {
    async fn read_and_commit(
        &self,
        consumer: &mut Consumer,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        let failed = failed(self.session, self.arguments);
        let mut commit_at = Instant::now() + COMMIT_INTERVAL;
        let mut look_at = Instant::now() + LOOK_INTERVAL;
        while !printer.is_done() {
            let record = tokio::select! {
                biased;
                record = printer.next(consumer) => Some(record),
                () = sleep_until(look_at), if !self.arguments.follow => None,
            };
            let Some(record) = record else {
                if self.has_read_all(consumer).await? {
                    return Ok(());
                }
                look_at = Instant::now() + LOOK_INTERVAL;
                continue;
            };
            let Some(record) = record else { return Ok(()) };
            if !printer.print(&record.map_err(&failed)?) {
                return Ok(());
            }
            look_at = Instant::now() + LOOK_INTERVAL;
            if Instant::now() >= commit_at {
                printer.flush();
                consumer.commit().await.map_err(&failed)?;
                commit_at = Instant::now() + COMMIT_INTERVAL;
            }
        }
        Ok(())
    }

    /// Is there nothing to read in what the group gave this member? It may have given it nothing.
    async fn has_read_all(&self, consumer: &Consumer) -> Result<bool, Failure> {
        if !self.shared_out.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let assigned = consumer.assignment();
        for topic in &self.arguments.topics {
            let mine: Vec<_> = assigned.iter().filter(|it| *it.topic == **topic).collect();
            let partitions: Vec<i32> = mine.iter().map(|it| it.partition).collect();
            if partitions.is_empty() {
                continue;
            }
            let ends = at::offsets(self.session, topic, &partitions, StartAt::Latest).await?;
            let is_behind = |it: &&TopicPartition| {
                let end = ends.get(&it.partition).copied().unwrap_or(0);
                consumer.position(it).is_none_or(|position| position < end)
            };
            if mine.iter().any(is_behind) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Prints records, counts them, and hears when it is to end.
struct Printer {
    pattern: Pattern,
    out: BufWriter<Stdout>,
    left: Option<u64>,
    stop: Stop,
}

impl Printer {
    fn new(session: &Session, arguments: &Arguments) -> Self {
        let pattern = match session.output {
            Format::Json => Pattern::Json,
            Format::Table => arguments.format.clone(),
        };
        Self { pattern, out: BufWriter::new(stdout()), left: arguments.limit, stop: Stop::listen() }
    }

    /// Were as many records printed as were asked for?
    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// The next record; what was printed is shown before it waits. `None` at the end or when asked to end.
    async fn next(&mut self, consumer: &mut Consumer) -> Option<Result<ReceivedRecord, Error>> {
        let next = consumer.next();
        tokio::pin!(next);
        let ready = tokio::select! {
            biased;
            record = &mut next => Some(record),
            () = std::future::ready(()) => None,
        };
        if let Some(record) = ready {
            return record.transpose();
        }
        self.flush();
        tokio::select! {
            record = next => record.transpose(),
            () = self.stop.asked() => None,
        }
    }

    /// False when nobody reads any more.
    fn print(&mut self, record: &ReceivedRecord) -> bool {
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.pattern.write(record, &mut self.out).is_ok()
    }

    /// Shows what was printed. When nobody reads any more, nothing is left to do.
    fn flush(&mut self) {
        if self.out.flush().is_err() {
            self.left = Some(0);
        }
    }
}
