//! What is run: cases, each the same work on several variants of broker and setting, alternating.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_model::compression::Codec;

use crate::batch::Batch;
use crate::compare::broker::{Broker, Peer};
use crate::engine::{Door, Pace, Partitions, Plan, Work};
use crate::error::LoadError;
use crate::histogram::Latency;
use crate::raw::{self, RawPlan, SyncCall};
use crate::report::{self, BrokerReport, Report};
use crate::topic::RunTopic;
use crate::{clock, machine};

/// Values that one run may write, so that no run meets the kernel's limit of dirty pages or fills the disk.
const RUN_BYTES_MAX: u64 = 4_000_000_000;
const RAW_BYTES_MAX: u64 = 2_000_000_000;
/// Memory that is made ready for a run that writes much: what it may write, and as much again for what is in the way.
const TOUCHED_BYTES: u64 = 2 * RUN_BYTES_MAX;
/// Enough to be no cache of a CPU, little enough to stay in memory beside all else.
const FETCH_FILL_BYTES: u64 = 1_000_000_000;
const FETCH_BYTES: u32 = 1 << 20;
const IN_FLIGHT: usize = 5;
/// Batches of records that wait in the client: twice what goes over the wire, so that batches fill.
const CLIENT_IN_FLIGHT: usize = 2 * IN_FLIGHT;
/// A deleted topic's data is gone after this, or is waited for no longer.
const DELETION_MAX: Duration = Duration::from_secs(30);
const LEFT_BYTES_MAX: u64 = 256 << 20;
const SETTLE_TOLD: Duration = Duration::from_secs(20);

/// The same work on several variants.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    /// Goals that need it.
    pub goals: &'static [&'static str],
    pub what: &'static str,
    pub load: Load,
    pub variants: &'static [Variant],
}

/// What the generator does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    pub records: u32,
    pub record_bytes: usize,
    pub connections: usize,
    pub kind: Kind,
}

impl Load {
    /// So much that the page cache takes memory that nobody used for long.
    fn writes_much(&self) -> bool {
        self.kind == Kind::Closed && self.records > 1
    }

    fn reads(&self) -> bool {
        matches!(self.kind, Kind::Fetch | Kind::FetchCopied)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Closed,
    Open {
        per_second: u32,
    },
    /// One request at a time.
    Turns,
    Fetch,
    /// The generator takes what it reads into memory, as a client does.
    FetchCopied,
}

/// Who does it, and how.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub name: &'static str,
    pub subject: Subject,
}

#[derive(Clone, Copy, Debug)]
pub enum Subject {
    Broker {
        peer: Peer,
        config: Option<(&'static str, &'static str)>,
        spread: Spread,
        through: Through,
    },
    /// The disk alone.
    Disk { files: usize, bytes: usize },
}

/// Which door of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Kafka,
    Grpc,
    /// The Rust client in front of the gRPC door.
    Client,
}

#[derive(Clone, Copy, Debug)]
pub enum Spread {
    OnePerConnection,
    All(u32),
    Random(u32),
}

const fn on(
    name: &'static str,
    peer: Peer,
    config: Option<(&'static str, &'static str)>,
    spread: Spread,
) -> Variant {
    Variant { name, subject: Subject::Broker { peer, config, spread, through: Through::Kafka } }
}

const fn door(name: &'static str, through: Through) -> Variant {
    let (peer, spread) = (Peer::Millrace, Spread::OnePerConnection);
    Variant { name, subject: Subject::Broker { peer, config: None, spread, through } }
}

const DURABLE: Variant = on("millrace durable", Peer::Millrace, None, Spread::OnePerConnection);
const RELAXED: Variant = on(
    "millrace relaxed",
    Peer::Millrace,
    Some(("durability", "relaxed")),
    Spread::OnePerConnection,
);
const KAFKA: Variant = on("kafka", Peer::Kafka, None, Spread::OnePerConnection);
const KAFKA_SYNCED: Variant =
    on("kafka synced", Peer::Kafka, Some(("flush.messages", "1")), Spread::OnePerConnection);
const KAFKA_DOOR: Variant = door("millrace Kafka door", Through::Kafka);
const GRPC_DOOR: Variant = door("millrace gRPC door", Through::Grpc);
const CLIENT: Variant = door("millrace Rust client", Through::Client);
const MILLRACE: Variant = on("millrace", Peer::Millrace, None, Spread::OnePerConnection);

const fn disk(files: usize, bytes: usize) -> Variant {
    Variant { name: "disk", subject: Subject::Disk { files, bytes } }
}

const fn produce(records: u32, record_bytes: usize, connections: usize) -> Load {
    Load { records, record_bytes, connections, kind: Kind::Closed }
}

/// All of them, in the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "64k",
        goals: &["F1", "F2", "F10"],
        what: "1,000 B x 64 a batch, 6 connections",
        load: produce(64, 1_000, 6),
        variants: &[DURABLE, KAFKA, RELAXED, KAFKA_SYNCED, disk(6, 64_000)],
    },
    Case {
        name: "1m",
        goals: &["F1", "F2", "F10"],
        what: "1,000 B x 1,000 a batch, 6 connections",
        load: produce(1_000, 1_000, 6),
        variants: &[DURABLE, KAFKA, RELAXED, KAFKA_SYNCED, disk(6, 1_000_000)],
    },
    Case {
        name: "100b",
        goals: &["F2"],
        what: "100 B x 640 a batch, 6 connections",
        load: produce(640, 100, 6),
        variants: &[RELAXED, KAFKA, DURABLE],
    },
    Case {
        name: "one-6",
        goals: &["F3"],
        what: "one 1,000 B record a request, 6 connections",
        load: produce(1, 1_000, 6),
        variants: &[DURABLE, KAFKA, RELAXED, KAFKA_SYNCED],
    },
    Case {
        name: "one-32",
        goals: &["F3"],
        what: "one 1,000 B record a request, 32 connections",
        load: produce(1, 1_000, 32),
        variants: &[DURABLE, KAFKA, RELAXED, KAFKA_SYNCED],
    },
    Case {
        name: "open",
        goals: &["F4"],
        what: "open loop, 2,000 records/s of 1,000 B, one a request, 6 connections",
        load: Load {
            records: 1,
            record_bytes: 1_000,
            connections: 6,
            kind: Kind::Open { per_second: 2_000 },
        },
        variants: &[DURABLE, KAFKA, disk(1, 4_096), KAFKA_SYNCED],
    },
    Case {
        name: "fetch-6",
        goals: &["F5", "F10"],
        what: "fetch from the page cache, 1,000 B x 64 a batch, 1 MiB a fetch, 6 connections",
        load: Load { records: 64, record_bytes: 1_000, connections: 6, kind: Kind::Fetch },
        variants: &[MILLRACE, KAFKA],
    },
    Case {
        name: "fetch-1",
        goals: &["F5", "F10"],
        what: "fetch from the page cache, 1,000 B x 64 a batch, 1 MiB a fetch, 1 connection",
        load: Load { records: 64, record_bytes: 1_000, connections: 1, kind: Kind::Fetch },
        variants: &[MILLRACE, KAFKA],
    },
    Case {
        name: "doors-64k",
        goals: &["F6"],
        what: "1,000 B x 64 a batch, 6 connections, durable",
        load: produce(64, 1_000, 6),
        variants: &[KAFKA_DOOR, GRPC_DOOR, CLIENT],
    },
    Case {
        name: "doors-1m",
        goals: &["F6"],
        what: "1,000 B x 1,000 a batch, 6 connections, durable",
        load: produce(1_000, 1_000, 6),
        variants: &[KAFKA_DOOR, GRPC_DOOR],
    },
    Case {
        name: "doors-one-6",
        goals: &["F6"],
        what: "one 1,000 B record a request, 6 connections, durable",
        load: produce(1, 1_000, 6),
        variants: &[KAFKA_DOOR, GRPC_DOOR],
    },
    Case {
        name: "doors-one-32",
        goals: &["F6"],
        what: "one 1,000 B record a request, 32 connections, durable",
        load: produce(1, 1_000, 32),
        variants: &[KAFKA_DOOR, GRPC_DOOR],
    },
    Case {
        name: "doors-turn",
        goals: &["F6"],
        what: "one 1,000 B record after the other, 1 connection, durable",
        load: Load { kind: Kind::Turns, ..produce(1, 1_000, 1) },
        variants: &[KAFKA_DOOR, GRPC_DOOR, CLIENT],
    },
    Case {
        name: "doors-fetch",
        goals: &["F6"],
        what: "fetch from the page cache into memory, 1,000 B x 64 a batch, 1 MiB a fetch, 6 connections",
        load: Load { records: 64, record_bytes: 1_000, connections: 6, kind: Kind::FetchCopied },
        variants: &[KAFKA_DOOR, GRPC_DOOR, CLIENT],
    },
    Case {
        name: "random",
        goals: &["F7"],
        what: "1,000 B x 64 a batch, 6 connections, all over one set of partitions",
        load: produce(64, 1_000, 6),
        variants: &[
            on("millrace one partition", Peer::Millrace, None, Spread::All(1)),
            on("kafka one partition", Peer::Kafka, None, Spread::All(1)),
            on("millrace 1,000 at random", Peer::Millrace, None, Spread::Random(1_000)),
            on("kafka 1,000 at random", Peer::Kafka, None, Spread::Random(1_000)),
        ],
    },
];

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub repetitions: usize,
    pub warm_up: Duration,
    pub measure: Duration,
}

/// Reports by case and variant, in the order of repetitions; and why others have none.
#[derive(Clone, Debug, Default)]
pub struct Results {
    pub runs: BTreeMap<(&'static str, &'static str), Vec<Report>>,
    pub failures: Vec<String>,
}

impl Results {
    /// The median of each figure on its own.
    pub fn median(&self, case: &str, variant: &str) -> Option<Report> {
        let runs = self.runs.iter().find(|((a, b), _)| *a == case && *b == variant)?.1;
        if runs.is_empty() { None } else { Some(median(runs)) }
    }
}

/// The brokers that run, and the disk beside them.
#[derive(Debug)]
pub struct Stage<'a> {
    pub brokers: &'a [Broker],
    pub directory: &'a std::path::Path,
    pub effort: Effort,
}

impl Stage<'_> {
    /// Runs a case: all variants in turn, as often as asked. `tell` gets a line a run.
    pub fn run(&self, case: &Case, results: &mut Results, tell: &mut dyn FnMut(&str)) {
        for repetition in 1..=self.effort.repetitions {
            for variant in case.variants {
                let begun = Instant::now();
                machine::settle();
                if begun.elapsed() > SETTLE_TOLD {
                    tell(&format!(
                        "the disk took {:.0} s to come to rest",
                        begun.elapsed().as_secs_f64()
                    ));
                }
                let outcome = self.run_variant(case, variant);
                let label = format!("{} {repetition}: {}", case.name, variant.name);
                match outcome {
                    None => {}
                    Some(Ok(report)) => {
                        tell(&format!("{label}: {}", brief(&report)));
                        results.runs.entry((case.name, variant.name)).or_default().push(report);
                    }
                    Some(Err(error)) => {
                        tell(&format!("{label}: failed: {error}"));
                        let complaints = self.brokers.iter().flat_map(Broker::complaints);
                        complaints.for_each(|line| tell(&line));
                        results.failures.push(format!("{label}: {error}"));
                    }
                }
            }
        }
    }

    /// `None` when that broker does not take part.
    fn run_variant(&self, case: &Case, variant: &Variant) -> Option<Result<Report, LoadError>> {
        match variant.subject {
            Subject::Disk { files, bytes } => {
                machine::wait_for_rest(None);
                machine::touch_memory(TOUCHED_BYTES);
                Some(self.run_disk(files, bytes))
            }
            Subject::Broker { peer, config, spread, through } => {
                let broker = self.brokers.iter().find(|it| it.peer == peer)?;
                Some(self.run_broker(broker, &case.load, config, spread, through))
            }
        }
    }

    fn run_disk(&self, files: usize, bytes: usize) -> Result<Report, LoadError> {
        let measured = raw::run(&RawPlan {
            directory: self.directory.to_owned(),
            files,
            bytes,
            sync: SyncCall::Auto,
            overwrite: false,
            measure: self.effort.measure,
            total_bytes_max: RAW_BYTES_MAX,
        })?;
        Ok(Report {
            mb_per_second: measured.mb_per_second,
            requests_per_second: measured.groups_per_second,
            latency: measured.sync,
            ..Report::default()
        })
    }

    /// Work of one kind for a while, whose figures nobody wants: a JVM must be warm before it is measured.
    ///
    /// # Errors
    /// As a run.
    pub fn warm(&self, broker: &Broker, time: Duration) -> Result<(), LoadError> {
        let loads = [
            produce(64, 1_000, 6),
            produce(1, 1_000, 6),
            Load { kind: Kind::Fetch, ..produce(64, 1_000, 6) },
        ];
        let until = Instant::now() + time;
        let slice = (time / loads.len() as u32).max(Duration::from_secs(1));
        for load in loads.iter().cycle() {
            if Instant::now() >= until {
                return Ok(());
            }
            let effort = Effort { measure: slice.min(Duration::from_secs(10)), ..self.effort };
            let stage = Stage { effort, ..*self };
            stage.run_broker(broker, load, None, Spread::OnePerConnection, Through::Kafka)?;
        }
        Ok(())
    }

    fn run_broker(
        &self,
        broker: &Broker,
        load: &Load,
        config: Option<(&str, &str)>,
        spread: Spread,
        through: Through,
    ) -> Result<Report, LoadError> {
        let configs: Vec<_> =
            config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let partitions = match spread {
            Spread::OnePerConnection => load.connections as u32,
            Spread::All(count) | Spread::Random(count) => count,
        };
        let mut topic = RunTopic::create(broker.address, partitions, &configs)?;
        let plan = self.plan(broker, &topic, load, spread, partitions, through)?;
        if load.reads() {
            topic.fill(broker.address, partitions, &plan.batch, FETCH_FILL_BYTES)?;
            machine::settle();
        }
        if let Spread::Random(partitions) = spread {
            topic.touch(partitions, &plan.batch)?;
        }
        machine::wait_for_rest(broker.pid());
        if load.writes_much() {
            machine::touch_memory(TOUCHED_BYTES);
        }
        let outcome = report::measure(&plan, broker.watch());
        topic.delete()?;
        wait_for_deletion(broker);
        outcome
    }

    fn plan(
        &self,
        broker: &Broker,
        topic: &RunTopic,
        load: &Load,
        spread: Spread,
        partitions: u32,
        through: Through,
    ) -> Result<Plan, LoadError> {
        let to = match spread {
            Spread::Random(count) => Partitions::Random(count),
            _ => Partitions::PerConnection(partitions),
        };
        let pace = match load.kind {
            Kind::Closed if through == Through::Client => {
                Pace::Closed { in_flight: CLIENT_IN_FLIGHT }
            }
            Kind::Closed => Pace::Closed { in_flight: IN_FLIGHT },
            Kind::Open { per_second } => Pace::Open { per_second: f64::from(per_second) },
            Kind::Turns | Kind::Fetch | Kind::FetchCopied => Pace::Closed { in_flight: 1 },
        };
        let (work, bytes_max) = if load.reads() {
            let copy = load.kind == Kind::FetchCopied;
            (Work::Fetch { partitions, fetch_bytes: FETCH_BYTES, copy }, None)
        } else {
            (Work::Produce { acks: -1, partitions: to }, Some(RUN_BYTES_MAX))
        };
        Ok(Plan {
            broker: broker.address,
            door: match through {
                Through::Kafka => Door::Kafka,
                Through::Grpc => Door::Grpc(broker.grpc()?),
                Through::Client => Door::Client(broker.grpc()?),
            },
            topic: topic.name.clone(),
            work,
            batch: Batch::encode(load.records, load.record_bytes, Codec::None),
            connections: load.connections,
            pace,
            warm_up: self.effort.warm_up,
            measure: self.effort.measure,
            bytes_max,
        })
    }
}

fn wait_for_deletion(broker: &Broker) {
    let deadline = clock::now() + DELETION_MAX.as_nanos() as u64;
    while machine::used_bytes(&broker.data) > LEFT_BYTES_MAX && clock::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn brief(report: &Report) -> String {
    let latency = &report.latency;
    let mut text = format!(
        "{:.0} MB/s, {:.0} requests/s, p50 {:.3} p99 {:.3} p99.9 {:.3} ms",
        report.mb_per_second,
        report.requests_per_second,
        latency.p50_ms,
        latency.p99_ms,
        latency.p999_ms
    );
    if let (Some(broker), Some(others)) = (&report.broker, report.others_cpu_share) {
        let [own, others] = [report.generator_cpu_share, others].map(|share| share * 100.0);
        let cost = broker.cpu_seconds_per_gb;
        text += &format!(", {cost:.2} CPU s/GB; generator {own:.0} %, others {others:.0} %");
    }
    text
}

fn median(runs: &[Report]) -> Report {
    let of = |figure: &dyn Fn(&Report) -> f64| median_of(runs.iter().map(figure));
    let maybe = |figure: &dyn Fn(&Report) -> Option<f64>| {
        let known: Vec<f64> = runs.iter().filter_map(figure).collect();
        (!known.is_empty()).then(|| median_of(known.into_iter()))
    };
    let broker = |figure: &dyn Fn(&BrokerReport) -> f64| {
        maybe(&|it: &Report| it.broker.as_ref().map(figure)).unwrap_or_default()
    };
    Report {
        seconds: of(&|it| it.seconds),
        requests: of(&|it| it.requests as f64) as u64,
        records: of(&|it| it.records as f64) as u64,
        payload_bytes: of(&|it| it.payload_bytes as f64) as u64,
        errors: 0,
        error_code: None,
        records_per_second: of(&|it| it.records_per_second),
        requests_per_second: of(&|it| it.requests_per_second),
        mb_per_second: of(&|it| it.mb_per_second),
        latency: Latency {
            mean_ms: of(&|it| it.latency.mean_ms),
            p50_ms: of(&|it| it.latency.p50_ms),
            p90_ms: of(&|it| it.latency.p90_ms),
            p99_ms: of(&|it| it.latency.p99_ms),
            p999_ms: of(&|it| it.latency.p999_ms),
            max_ms: of(&|it| it.latency.max_ms),
        },
        generator_cpu_share: of(&|it| it.generator_cpu_share),
        others_cpu_share: maybe(&|it| it.others_cpu_share),
        broker: runs.iter().any(|it| it.broker.is_some()).then(|| BrokerReport {
            cpu_seconds: broker(&|it| it.cpu_seconds),
            cpu_seconds_per_gb: broker(&|it| it.cpu_seconds_per_gb),
            anonymous_bytes: broker(&|it| it.anonymous_bytes as f64) as u64,
            file_bytes: broker(&|it| it.file_bytes as f64) as u64,
        }),
        syncs: maybe(&|it| it.syncs.map(|it| it as f64)).map(|it| it as u64),
    }
}

/// Of an even number, the mean of the middle two; 0 of none.
pub fn median_of(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median_of([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median_of([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median_of([].into_iter()), 0.0);
    }

    #[test]
    fn no_two_cases_or_variants_share_a_name() {
        let mut names: Vec<_> = CASES
            .iter()
            .flat_map(|case| case.variants.iter().map(|variant| (case.name, variant.name)))
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
