//! One command that measures Millrace beside Apache Kafka and writes the table of goals.
//!
//! Both brokers run at once and are loaded in turn; what needs a process of its own comes afterwards.

#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to people"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use millrace_benches::compare::broker::{Broker, Peer, Places};
use millrace_benches::compare::cases::{CASES, Case, Effort, Results, Stage};
use millrace_benches::compare::goals::{self, ProcessResults, Row};
use millrace_benches::compare::process_goals::{self, Size};
use millrace_benches::compare::table;
use millrace_benches::error::LoadError;
use millrace_benches::machine;
use millrace_benches::report::Report;

/// A run writes 4 GB at most; of what was deleted some may not be free again yet.
const SPACE_MIN: u64 = 20_000_000_000;

/// Measures Millrace beside Apache Kafka, in turn, in one run
#[derive(Debug, Parser)]
#[command(name = "compare", version)]
struct Arguments {
    /// Goals to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Who takes part
    #[arg(long, value_enum, default_value = "both")]
    peers: Peers,
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Seconds of each run that are measured
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Seconds of each run that are dropped
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds of load before the first run, so that the JVM has compiled what it will
    #[arg(long, default_value_t = 60.0)]
    jvm_warm_up: f64,
    /// Partitions for the goals that speak of many
    #[arg(long, default_value_t = 10_000)]
    many_partitions: u32,
    /// Idle connections
    #[arg(long, default_value_t = 2_000)]
    idle_connections: usize,
    /// Bytes in the log that is opened after a kill
    #[arg(long, default_value_t = 4_000_000_000)]
    log_bytes: u64,
    #[arg(long, default_value = "target/release/millrace")]
    millrace: PathBuf,
    /// A script that understands `start PORT` and `stop PORT`
    #[arg(long, env = "KAFKA_SH", default_value = "../shared/peers/kafka.sh")]
    kafka_script: PathBuf,
    /// Where that script keeps everything [default: kafka-4.3.1 in the temporary directory]
    #[arg(long, env = "KAFKA_HOME")]
    kafka_home: Option<PathBuf>,
    #[arg(long, default_value_t = 29_392)]
    kafka_port: u16,
    /// Where Millrace's data goes: on the same file system as Kafka's [default: in the temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A page whose table is replaced, e.g. benches/README.md
    #[arg(long)]
    readme: Option<PathBuf>,
    /// Every run, for programs
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peers {
    Both,
    Millrace,
    Kafka,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), LoadError> {
    let places = arguments.places();
    fs::create_dir_all(&places.directory).map_err(LoadError::io("making the directory"))?;
    let free = machine::free_bytes(&places.directory);
    if free < SPACE_MIN {
        return Err(LoadError::Misuse(format!(
            "{} has {} GB free; {} GB are needed, for a disk that is nearly full is slow",
            places.directory.display(),
            free / 1_000_000_000,
            SPACE_MIN / 1_000_000_000
        )));
    }
    let results = throughput(arguments, &places)?;
    let processes = processes(arguments, &places)?;
    let _ = fs::remove_dir_all(&places.directory);

    let mut rows = goals::rows(&results);
    rows.extend(goals::process_rows(&processes, arguments.many_partitions, arguments.log_bytes));
    rows.retain(|row| arguments.wants(row.goal) && (row.ours.is_some() || row.theirs.is_some()));
    rows.sort_by_key(|row| row.goal[1..].parse::<u32>().unwrap_or(0));
    let text = page(arguments, &places, &rows, &results);
    println!("{text}");
    if let Some(path) = &arguments.json {
        write_json(path, &results)?;
    }
    arguments.readme.as_deref().map_or(Ok(()), |path| put_into_readme(path, &text))
}

fn throughput(arguments: &Arguments, places: &Places) -> Result<Results, LoadError> {
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| case.goals.iter().any(|goal| arguments.wants(goal))).collect();
    let mut results = Results::default();
    if cases.is_empty() {
        return Ok(results);
    }
    let mut brokers = Vec::new();
    for peer in arguments.taking_part() {
        brokers.push(Broker::start_empty(places, peer)?);
    }
    let stage =
        Stage { brokers: &brokers, directory: &places.directory, effort: arguments.effort() };
    for broker in &brokers {
        let seconds = match broker.peer {
            Peer::Kafka => arguments.jvm_warm_up,
            Peer::Millrace => arguments.jvm_warm_up.min(6.0),
        };
        eprintln!("{}: {seconds} s of warm-up", broker.peer.name());
        stage.warm(broker, Duration::from_secs_f64(seconds))?;
    }
    for case in cases {
        stage.run(case, &mut results, &mut |line| eprintln!("{line}"));
    }
    Ok(results)
}

fn processes(arguments: &Arguments, places: &Places) -> Result<ProcessResults, LoadError> {
    let size = Size {
        repetitions: arguments.repetitions,
        partitions: arguments.many_partitions,
        connections: arguments.idle_connections,
        log_bytes: arguments.log_bytes,
    };
    let mut results = ProcessResults::default();
    for peer in arguments.taking_part() {
        let into = if peer == Peer::Millrace { &mut results.ours } else { &mut results.theirs };
        if arguments.wants("F8") {
            into.0 = process_goals::starts(places, peer, &size, &mut |line| eprintln!("{line}"));
        }
        if arguments.wants("F9") {
            match process_goals::memory(places, peer, &size) {
                Ok(report) => {
                    eprintln!("{}: {report:?}", peer.name());
                    into.1 = report;
                }
                Err(error) => eprintln!("{}: memory: failed: {error}", peer.name()),
            }
        }
    }
    Ok(results)
}

fn page(arguments: &Arguments, places: &Places, rows: &[Row], results: &Results) -> String {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut text = format!(
        "Measured {} at commit {} on {}. Peer: Apache Kafka {}, default settings, 1 GiB heap, {}. Medians of {} runs \
         of {} s each, the brokers in turn, the first {} s of each run dropped.\n\nCommand: `target/release/compare {}`\n\n",
        said_by("date", &["-u", "+%Y-%m-%d"]),
        said_by("git", &["rev-parse", "--short", "HEAD"]),
        machine::facts(&places.directory),
        std::env::var("KAFKA_VERSION").unwrap_or_else(|_| "4.3.1".into()),
        java(),
        arguments.repetitions,
        arguments.seconds,
        arguments.warm_up,
        words.join(" "),
    );
    text += &table::goals(rows);
    text += "\n### Every run\n\n";
    text += &table::details(results);
    if !results.failures.is_empty() {
        text += "\nFailed runs:\n\n";
        results.failures.iter().for_each(|line| text += &format!("- {line}\n"));
    }
    text
}

fn write_json(path: &Path, results: &Results) -> Result<(), LoadError> {
    let named: BTreeMap<String, &Vec<Report>> = results
        .runs
        .iter()
        .map(|((case, variant), runs)| (format!("{case}: {variant}"), runs))
        .collect();
    let text = serde_json::to_string_pretty(&named)
        .map_err(|error| LoadError::Misuse(format!("the figures are no JSON: {error}")))?;
    fs::write(path, text).map_err(LoadError::io("writing the figures"))
}

fn put_into_readme(path: &Path, text: &str) -> Result<(), LoadError> {
    let page = fs::read_to_string(path).map_err(LoadError::io("reading the page"))?;
    let page = table::put_into(&page, text)
        .ok_or_else(|| LoadError::Misuse("the page has no marks for a table".into()))?;
    fs::write(path, page).map_err(LoadError::io("writing the page"))
}

/// The first line that a command prints.
fn said_by(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output();
    let said = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    said.unwrap_or_else(|_| "unknown".into())
}

fn java() -> String {
    let output = Command::new("java").arg("-version").output();
    let said =
        output.map(|it| String::from_utf8_lossy(&it.stderr).into_owned()).unwrap_or_default();
    said.lines().next().unwrap_or("unknown Java").replace('"', "")
}

impl Arguments {
    fn wants(&self, goal: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|it| it.eq_ignore_ascii_case(goal))
    }

    fn taking_part(&self) -> Vec<Peer> {
        match self.peers {
            Peers::Both => vec![Peer::Millrace, Peer::Kafka],
            Peers::Millrace => vec![Peer::Millrace],
            Peers::Kafka => vec![Peer::Kafka],
        }
    }

    fn effort(&self) -> Effort {
        Effort {
            repetitions: self.repetitions,
            warm_up: Duration::from_secs_f64(self.warm_up),
            measure: Duration::from_secs_f64(self.seconds),
        }
    }

    fn places(&self) -> Places {
        let temporary = std::env::temp_dir();
        let kafka_home = self.kafka_home.clone().unwrap_or_else(|| temporary.join("kafka-4.3.1"));
        let above = self.dir.clone().unwrap_or(temporary);
        let directory = above.join(format!("compare-{}", std::process::id()));
        Places {
            millrace: self.millrace.clone(),
            kafka_script: self.kafka_script.clone(),
            kafka_home,
            kafka_port: self.kafka_port,
            directory,
        }
    }
}
