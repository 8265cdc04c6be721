//! The goals and whether they are met: one row for each thing that is compared.

use crate::compare::cases::Results;
use crate::compare::process_goals::{MemoryReport, StartReport};
use crate::report::{BrokerReport, Report};

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    pub goal: &'static str,
    pub what: String,
    pub unit: &'static str,
    pub ours: Option<f64>,
    /// What it is held against; a goal that is a bare figure has none.
    pub against: &'static str,
    pub theirs: Option<f64>,
    pub wanted: Wanted,
}

/// What the goal asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// Of our figure divided by theirs.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// Of our figure.
    AtMost(f64),
    /// Shown for comparison.
    Nothing,
}

impl Row {
    pub fn ratio(&self) -> Option<f64> {
        let theirs = self.theirs.filter(|it| *it > 0.0)?;
        Some(self.ours? / theirs)
    }

    /// `None` when a figure is missing or nothing is asked.
    pub fn is_met(&self) -> Option<bool> {
        match self.wanted {
            Wanted::RatioAtLeast(least) => self.ratio().map(|it| it >= least),
            Wanted::RatioAtMost(most) => self.ratio().map(|it| it <= most),
            Wanted::AtMost(most) => self.ours.map(|it| it <= most),
            Wanted::Nothing => None,
        }
    }
}

/// What was found out about the processes of both brokers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessResults {
    pub ours: (StartReport, MemoryReport),
    pub theirs: (StartReport, MemoryReport),
}

type Figure = fn(&Report) -> f64;

const MB: (&str, Figure) = ("MB/s", |it| it.mb_per_second);
const RECORDS: (&str, Figure) = ("records/s", |it| it.records_per_second);
const REQUESTS: (&str, Figure) = ("requests/s", |it| it.requests_per_second);
const P50: (&str, Figure) = ("p50 ms", |it| it.latency.p50_ms);
const P99: (&str, Figure) = ("p99 ms", |it| it.latency.p99_ms);
const P999: (&str, Figure) = ("p99.9 ms", |it| it.latency.p999_ms);
const COST: (&str, Figure) = ("CPU s/GB", |it| {
    it.broker.as_ref().map_or(0.0, |broker: &BrokerReport| broker.cpu_seconds_per_gb)
});

/// Every row that the throughput runs give.
pub fn rows(results: &Results) -> Vec<Row> {
    use Wanted::{AtMost, Nothing, RatioAtLeast, RatioAtMost};
    const KAFKA: &str = "Kafka, not synced";
    const SYNCED: &str = "Kafka, flush.messages=1";
    const DISK: &str = "disk: append, one syncfs";
    let same = |goal, case, figure, ours, theirs, against, wanted| {
        row(results, goal, (case, ours), (case, theirs), figure, against, wanted)
    };
    let (durable, relaxed) = ("millrace durable", "millrace relaxed");
    let (kafka_door, door, client) =
        ("millrace Kafka door", "millrace gRPC door", "millrace Rust client");
    const KAFKA_DOOR: &str = "our Kafka door";
    const DOOR: &str = "our gRPC door";
    vec![
        same("F1", "64k", MB, durable, "kafka", KAFKA, RatioAtLeast(1.2)),
        same("F1", "64k", MB, durable, "disk", DISK, RatioAtLeast(0.8)),
        same("F1", "1m", MB, durable, "kafka", KAFKA, RatioAtLeast(1.2)),
        same("F1", "1m", MB, durable, "disk", DISK, Nothing),
        same("F1", "64k", MB, durable, "kafka synced", SYNCED, Nothing),
        same("F1", "1m", MB, durable, "kafka synced", SYNCED, Nothing),
        same("F2", "64k", MB, relaxed, "kafka", KAFKA, RatioAtLeast(2.0)),
        same("F2", "1m", MB, relaxed, "kafka", KAFKA, RatioAtLeast(2.0)),
        same("F2", "100b", RECORDS, relaxed, "kafka", KAFKA, RatioAtLeast(2.0)),
        same("F2", "100b", RECORDS, durable, "kafka", KAFKA, Nothing),
        same("F3", "one-6", REQUESTS, durable, "kafka", KAFKA, RatioAtLeast(2.0)),
        same("F3", "one-32", REQUESTS, durable, "kafka", KAFKA, RatioAtLeast(2.0)),
        same("F3", "one-6", REQUESTS, relaxed, "kafka", KAFKA, RatioAtLeast(5.0)),
        same("F3", "one-32", REQUESTS, relaxed, "kafka", KAFKA, RatioAtLeast(5.0)),
        same("F3", "one-6", REQUESTS, durable, "kafka synced", SYNCED, Nothing),
        same("F3", "one-32", REQUESTS, durable, "kafka synced", SYNCED, Nothing),
        same("F4", "open", P50, durable, "disk", "disk: 4 KiB, fdatasync", RatioAtMost(2.0)),
        same("F4", "open", P99, durable, "kafka", KAFKA, RatioAtMost(1.0)),
        same("F4", "open", P999, durable, "kafka", KAFKA, AtMost(3.0)),
        same("F4", "open", P99, durable, "kafka synced", SYNCED, Nothing),
        same("F5", "fetch-6", MB, "millrace", "kafka", "Kafka", RatioAtLeast(1.0)),
        same("F5", "fetch-1", MB, "millrace", "kafka", "Kafka", RatioAtLeast(1.0)),
        same("F6", "doors-64k", MB, door, kafka_door, KAFKA_DOOR, RatioAtLeast(0.8)),
        same("F6", "doors-1m", MB, door, kafka_door, KAFKA_DOOR, RatioAtLeast(0.8)),
        same("F6", "doors-one-6", REQUESTS, door, kafka_door, KAFKA_DOOR, RatioAtLeast(0.8)),
        same("F6", "doors-one-32", REQUESTS, door, kafka_door, KAFKA_DOOR, RatioAtLeast(0.8)),
        same("F6", "doors-fetch", MB, door, kafka_door, KAFKA_DOOR, RatioAtLeast(0.8)),
        same("F6", "doors-turn", P50, door, kafka_door, KAFKA_DOOR, Nothing),
        same("F6", "doors-64k", MB, client, door, DOOR, Nothing),
        same("F6", "doors-fetch", MB, client, door, DOOR, Nothing),
        same("F6", "doors-turn", P50, client, door, DOOR, Nothing),
        same(
            "F7",
            "random",
            MB,
            "millrace 1,000 at random",
            "millrace one partition",
            "itself on one",
            RatioAtLeast(0.5),
        ),
        same(
            "F7",
            "random",
            MB,
            "millrace 1,000 at random",
            "kafka 1,000 at random",
            KAFKA,
            Nothing,
        ),
        same("F10", "64k", COST, durable, "kafka", KAFKA, RatioAtMost(0.45)),
        same("F10", "64k", COST, relaxed, "kafka", KAFKA, RatioAtMost(0.45)),
        same("F10", "1m", COST, durable, "kafka", KAFKA, RatioAtMost(0.45)),
        same("F10", "1m", COST, relaxed, "kafka", KAFKA, RatioAtMost(0.45)),
        same("F10", "fetch-6", COST, "millrace", "kafka", "Kafka", RatioAtMost(1.0)),
        same("F10", "fetch-1", COST, "millrace", "kafka", "Kafka", RatioAtMost(1.0)),
    ]
}

fn row(
    results: &Results,
    goal: &'static str,
    ours: (&str, &str),
    theirs: (&str, &str),
    (unit, figure): (&'static str, Figure),
    against: &'static str,
    wanted: Wanted,
) -> Row {
    let case = crate::compare::cases::CASES.iter().find(|it| it.name == ours.0);
    let what =
        format!("{}: {}", case.map_or("", |it| it.what), ours.1.trim_start_matches("millrace "));
    let [ours, theirs] =
        [ours, theirs].map(|(case, variant)| results.median(case, variant).map(|it| figure(&it)));
    Row { goal, what, unit, ours, against, theirs, wanted }
}

/// Rows about start and memory.
pub fn process_rows(results: &ProcessResults, partitions: u32, log_bytes: u64) -> Vec<Row> {
    const KIB: f64 = 1024.0;
    const MIB: f64 = 1024.0 * KIB;
    let row = |goal, what: String, unit, ours, theirs, wanted| Row {
        goal,
        what,
        unit,
        ours,
        against: "Kafka",
        theirs,
        wanted,
    };
    let ((starts, memory), (their_starts, their_memory)) = (results.ours, results.theirs);
    let start = |what: String, figure: fn(&StartReport) -> Option<f64>, most: f64| {
        let (ours, theirs) = (figure(&starts), figure(&their_starts));
        row("F8", format!("start to first ack, {what}"), "s", ours, theirs, Wanted::AtMost(most))
    };
    let hold = |what: &str, unit, figure: fn(&MemoryReport) -> Option<f64>, scale: f64, wanted| {
        let scaled = |memory: &MemoryReport| figure(memory).map(|it| it / scale);
        let (ours, theirs) = (scaled(&memory), scaled(&their_memory));
        row("F9", format!("anonymous memory, {what}"), unit, ours, theirs, wanted)
    };
    let big = format!("{:.1} GB of log killed under load", log_bytes as f64 / 1e9);
    let many = format!("{partitions} partitions");
    vec![
        start("empty".into(), |it| it.empty, 0.05),
        start(many.clone(), |it| it.many_partitions, 2.0),
        start(format!("{many}, killed"), |it| it.many_partitions_killed, 5.0),
        start(big, |it| it.big_log_killed, 5.0),
        hold("idle", "MiB", |it| it.idle, MIB, Wanted::AtMost(32.0)),
        hold("each partition", "KiB", |it| it.per_partition, KIB, Wanted::AtMost(6.0)),
        hold(
            "each partition with a record",
            "KiB",
            |it| it.per_written_partition,
            KIB,
            Wanted::AtMost(6.0),
        ),
        hold("each idle connection", "KiB", |it| it.per_connection, KIB, Wanted::AtMost(16.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::cases::CASES;

    #[test]
    fn every_row_names_variants_that_are_run() {
        let mut results = Results::default();
        for case in CASES {
            for variant in case.variants {
                let report = Report { mb_per_second: 2.0, ..Report::default() };
                results.runs.insert((case.name, variant.name), vec![report]);
            }
        }
        for row in rows(&results) {
            assert!(row.ours.is_some() && row.theirs.is_some(), "{} {}", row.goal, row.what);
            assert!(!row.what.starts_with(':'), "{}", row.what);
        }
    }

    #[test]
    fn a_goal_is_met_by_its_ratio_or_its_figure() {
        let row = |ours, theirs, wanted| Row {
            goal: "F1",
            what: String::new(),
            unit: "",
            ours,
            against: "",
            theirs,
            wanted,
        };
        assert_eq!(row(Some(3.0), Some(2.0), Wanted::RatioAtLeast(1.5)).is_met(), Some(true));
        assert_eq!(row(Some(3.0), Some(2.0), Wanted::RatioAtMost(1.4)).is_met(), Some(false));
        assert_eq!(row(Some(3.0), None, Wanted::AtMost(3.0)).is_met(), Some(true));
        assert_eq!(row(None, Some(2.0), Wanted::RatioAtLeast(1.0)).is_met(), None);
        assert_eq!(row(Some(1.0), Some(0.0), Wanted::RatioAtLeast(1.0)).is_met(), None);
    }
}
