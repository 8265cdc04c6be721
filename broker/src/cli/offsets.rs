//! `millrace offsets`: where each partition begins and ends, and how far groups are, summed.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use crate::cli::at::At;
use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::group;
use crate::cli::output::{NOTHING_THERE, Table, or_dash, span_ms};

/// Where partitions begin and end, and how far a group is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace offsets orders                          start, end, records of each partition\n  \
                  millrace offsets orders --group billing          and how far the group is\n  \
                  millrace offsets --group billing                 every topic that it reads\n  \
                  millrace offsets orders --at 2026-01-02T03:04Z   the offset at a time\n  \
                  millrace offsets orders --group billing -o json | jq .lag")]
pub(super) struct Arguments {
    /// [default: what the group has committed for]
    #[arg(value_name = "TOPIC", required_unless_present = "group")]
    topics: Vec<String>,
    /// With this group's commits and lag
    #[arg(short, long)]
    group: Option<String>,
    /// With the offset at this place: a time, -10, -2h
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    at: Option<At>,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

/// `{"group":name|null,"records","lag","lag_ms","partitions":[{"topic","partition","start","end","records","committed",
/// "lag","lag_ms","member_id","at"}]}`. Above the partitions, `records` and `lag` are sums and `lag_ms` is the largest;
/// what was not asked for is null.
#[derive(Debug, Serialize)]
struct Document {
    group: Option<String>,
    records: i64,
    lag: Option<i64>,
    lag_ms: Option<i64>,
    partitions: Vec<Row>,
}

#[derive(Debug, Default, Serialize)]
struct Row {
    topic: String,
    partition: i32,
    start: i64,
    end: i64,
    records: i64,
    committed: Option<i64>,
    lag: Option<i64>,
    lag_ms: Option<i64>,
    member_id: Option<String>,
    at: Option<i64>,
}

/// Runs the command.
///
/// # Errors
/// No such topic or group.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { topics, group, at, .. } = arguments;
    let mut rows = match &group {
        Some(group) => of_group(session, group, &topics).await?,
        None => BTreeMap::new(),
    };
    for topic in &topics {
        for row in of_topic(session, topic).await? {
            rows.entry((topic.clone(), row.partition)).or_insert(row);
        }
    }
    if let Some(at) = at {
        add_places(session, at, &mut rows).await?;
    }
    let partitions: Vec<Row> = rows.into_values().collect();
    let document = Document {
        records: partitions.iter().map(|it| it.records).sum(),
        lag: group
            .as_ref()
            .map(|_| partitions.iter().filter_map(|it| it.lag).map(|it| it.max(0)).sum()),
        lag_ms: group
            .as_ref()
            .map(|_| partitions.iter().filter_map(|it| it.lag_ms).max().unwrap_or(0)),
        group,
        partitions,
    };
    session.output.show(&document, |document| table(document, at.is_some()));
    Ok(())
}

type Rows = BTreeMap<(String, i32), Row>;

async fn of_topic(session: &Session, topic: &str) -> Result<Vec<Row>, Failure> {
    let found = session.admin().describe_topic(topic).await;
    let found = found.map_err(session.failed(format_args!("read offsets of topic {topic}")))?;
    let row = |it: millrace_client::PartitionDescription| Row {
        topic: topic.to_owned(),
        partition: it.partition,
        start: it.log_start,
        end: it.high_watermark,
        records: it.high_watermark - it.log_start,
        ..Row::default()
    };
    Ok(found.partitions.into_iter().map(row).collect())
}

async fn of_group(session: &Session, group: &str, topics: &[String]) -> Result<Rows, Failure> {
    let found = group::ask(session, group).await?;
    let wanted = |topic: &String| topics.is_empty() || topics.contains(topic);
    let lags = found.partitions.into_iter().map(group::Lag::from).filter(|it| wanted(&it.topic));
    let row = |it: group::Lag| Row {
        topic: it.topic,
        partition: it.partition,
        start: it.start,
        end: it.end,
        records: it.end - it.start,
        committed: it.committed,
        lag: Some(it.lag),
        lag_ms: Some(it.lag_ms),
        member_id: it.member_id,
        at: None,
    };
    Ok(lags.map(row).map(|row| ((row.topic.clone(), row.partition), row)).collect())
}

async fn add_places(session: &Session, at: At, rows: &mut Rows) -> Result<(), Failure> {
    let mut topics: Vec<String> = rows.keys().map(|(topic, _)| topic.clone()).collect();
    topics.dedup();
    for topic in topics {
        for (partition, offset) in at.find(session, &topic, &[]).await? {
            if let Some(row) = rows.get_mut(&(topic.clone(), partition)) {
                row.at = Some(offset);
            }
        }
    }
    Ok(())
}

fn table(document: &Document, with_place: bool) -> String {
    let mut headings = vec!["TOPIC", "PARTITION", "START", "END", "RECORDS"];
    let with_group = document.group.is_some();
    if with_group {
        headings.extend(["COMMITTED", "LAG", "BEHIND"]);
    }
    headings.extend(with_place.then_some("AT"));
    let mut table = Table::new(&headings, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for row in &document.partitions {
        let mut cells = vec![
            row.topic.clone(),
            row.partition.to_string(),
            row.start.to_string(),
            row.end.to_string(),
            row.records.to_string(),
        ];
        if with_group {
            let behind = row.lag_ms.map(span_ms);
            cells.extend([or_dash(row.committed), or_dash(row.lag), or_dash(behind)]);
        }
        cells.extend(with_place.then(|| or_dash(row.at)));
        table.row(cells);
    }
    let nothing = || NOTHING_THERE.to_owned();
    let mut sums = vec!["total".to_owned(), nothing(), nothing(), nothing()];
    sums.push(document.records.to_string());
    if with_group {
        let behind = document.lag_ms.map(span_ms);
        sums.extend([nothing(), or_dash(document.lag), or_dash(behind)]);
    }
    sums.extend(with_place.then(nothing));
    table.row(sums);
    table.to_string()
}
