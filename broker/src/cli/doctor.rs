//! `millrace doctor`: looks at the broker, at this machine and at the settings, and says what to change.
//!
//! What it cannot see (a broker on another machine keeps its disk and its limits to itself) it says it did not check.

mod machine;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use millrace_client::{Client, ConfigDescription, ConfigResource};
use serde::Serialize;

use crate::cli::Exit;
use crate::cli::at::now_ms;
use crate::cli::connect::{self, Address};
use crate::cli::failure::Failure;
use crate::cli::ops::{self, Samples};
use crate::cli::output::{Style, Table, bytes, styled};

use machine::{Disk, Limits};

/// Clocks further apart than this make times in logs, retention and `--from -15m` wrong.
const CLOCK_OFF_MS_MAX: i64 = 5_000;
/// Descriptors that a broker should be allowed: sockets and segments share them.
const OPEN_FILES_MIN: u64 = 20_000;
/// Every open partition takes up to three maps, see docs/operations.md; the rest is for everything else.
const MAPS_PER_PARTITION: u64 = 3;
const MAPS_SPARE: u64 = 5_000;
/// What a data directory has and others have not: a relative path may lead elsewhere from here than from the broker.
const IDENTITY: &str = "meta.properties";
/// Free space below which a disk is nearly, or as good as, full.
const FREE_SHARE_WARN: f64 = 0.15;
const FREE_BYTES_BAD: u64 = 1 << 30;

/// Check limits, disk, clock, settings and connection; says what to change.
#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 1 when something is bad, with 3 when no broker answers; what is only worth a look ends with 0.\n\n\
                  Examples:\n  \
                  millrace doctor\n  \
                  millrace doctor --data-dir /var/lib/millrace   before the first start\n  \
                  millrace doctor -o json | jq '.checks[] | select(.verdict != \"good\")'"
)]
pub(super) struct Arguments {
    /// Where the data lies, or will [default: where the broker says, if it runs on this machine]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where probes and metrics answer [env: MILLRACE_OPS] [default: the broker's host, port 9644]
    #[arg(long, value_name = "URL")]
    ops: Option<String>,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

/// `{"broker":url,"checks":[{"check","verdict":"good"|"look"|"bad"|"unknown","found","advice":text|null}]}`.
#[derive(Debug, Serialize)]
struct Report {
    broker: String,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    advice: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// Works, and may hurt one day.
    Look,
    Bad,
    /// Could not be seen from here.
    Unknown,
}

impl Report {
    fn add(&mut self, check: &'static str, verdict: Verdict, found: impl ToString) {
        self.checks.push(Check { check, verdict, found: found.to_string(), advice: None });
    }

    fn add_with_advice(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        found: impl ToString,
        advice: impl ToString,
    ) {
        let (found, advice) = (found.to_string(), Some(advice.to_string()));
        self.checks.push(Check { check, verdict, found, advice });
    }

    fn has(&self, verdict: Verdict) -> bool {
        self.checks.iter().any(|it| it.verdict == verdict)
    }
}

/// Runs the command.
///
/// # Errors
/// No such context. What is bad is no error of the command: the exit says it.
pub(super) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let broker = arguments.connection.address()?;
    let mut report = Report { broker: broker.url.clone(), checks: Vec::new() };
    let client = connection(&mut report, &broker).await;
    let ops = broker.ops(arguments.ops.as_deref());
    let samples = ops_port(&mut report, &ops).await;
    if let Some(samples) = &samples {
        inside(&mut report, samples);
    }
    let settings = match &client {
        Some(client) => settings(&mut report, client).await,
        None => Vec::new(),
    };
    if broker.is_here() {
        limits(&mut report, samples.as_ref());
    } else {
        report.add(
            "limits",
            Verdict::Unknown,
            "the broker is on another machine: run doctor there",
        );
    }
    disk(&mut report, data_dir(&arguments, &broker, &settings).as_deref());
    arguments.connection.output().show(&report, text);
    Ok(exit(&report, client.is_some()))
}

fn exit(report: &Report, is_connected: bool) -> Exit {
    match (is_connected, report.has(Verdict::Bad)) {
        (false, _) => Exit::Unreachable,
        (true, true) => Exit::Failed,
        (true, false) => Exit::Done,
    }
}

async fn connection(report: &mut Report, broker: &Address) -> Option<Client> {
    let check = "connection";
    let started = Instant::now();
    let client = match connect::connect(broker).await {
        Ok(client) => client,
        Err(error) => {
            let failure = Failure::of_client("connect", broker, &error);
            let advice = failure.help.unwrap_or_default();
            report.add_with_advice(check, Verdict::Bad, failure.message, advice);
            return None;
        }
    };
    match client.admin().describe_cluster().await {
        Ok(cluster) => {
            let elapsed = started.elapsed().as_secs_f64() * 1000.0;
            let url = &broker.url;
            report.add(check, Verdict::Good, format_args!("{url} answers in {elapsed:.1} ms"));
            let ours = env!("CARGO_PKG_VERSION");
            for it in cluster.brokers.iter().filter(|it| it.version != ours) {
                report.add_with_advice(
                    "version",
                    Verdict::Look,
                    format_args!("broker {} is {}, this tool is {ours}", it.id, it.version),
                    "use the same version of both",
                );
            }
        }
        Err(error) => {
            let failure = Failure::of_client("ask", broker, &error);
            report.add_with_advice(
                check,
                Verdict::Bad,
                failure.message,
                "is it the gRPC port (9095), not Kafka's (9092)? the broker's log may say more",
            );
            return None;
        }
    }
    Some(client)
}

/// Asks the ops port for the broker's health, its clock and its metrics.
async fn ops_port(report: &mut Report, ops: &str) -> Option<Samples> {
    let health = match ops::get(ops, "/healthz").await {
        Ok(health) => health,
        Err(error) => {
            report.add_with_advice(
                "health",
                Verdict::Unknown,
                format_args!("the ops port {ops} does not answer: {error}"),
                "name it by --ops URL; the broker's setting is http.listen",
            );
            return None;
        }
    };
    match health.status {
        200 => {
            report.add("health", Verdict::Good, format_args!("{ops} says {}", health.body.trim()))
        }
        status => report.add_with_advice(
            "health",
            Verdict::Bad,
            format_args!("{ops} answers {status}: {}", health.body.trim()),
            "look into the broker's log, mend what it names, restart the broker",
        ),
    }
    clock(report, health.date.as_deref());
    let page = ops::get(ops, "/metrics").await.ok()?;
    Some(Samples::read(&page.body))
}

fn clock(report: &mut Report, date: Option<&str>) {
    let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(theirs) = theirs else {
        return report.add("clock", Verdict::Unknown, "the ops port does not tell its time");
    };
    // The header has whole seconds.
    let off_ms = now_ms() - theirs.timestamp().as_millisecond() - 500;
    let off = off_ms as f64 / 1000.0;
    if off_ms.abs() <= CLOCK_OFF_MS_MAX {
        report.add("clock", Verdict::Good, "the broker's clock and this one agree");
    } else {
        report.add_with_advice(
            "clock",
            Verdict::Bad,
            format_args!("the broker's clock and this one differ by {:.0} s", off.abs()),
            "let both keep time by NTP: timestamps, retention and --from -15m depend on it",
        );
    }
}

/// What the broker counts that should be nought.
fn inside(report: &mut Report, samples: &Samples) {
    let stopped = samples.value("millrace_partitions_stopped").unwrap_or(0.0);
    let panics = samples.value("millrace_panics_total").unwrap_or(0.0);
    if stopped > 0.0 {
        report.add_with_advice(
            "partitions",
            Verdict::Bad,
            format_args!("{stopped} partitions take no more work"),
            "look into the broker's log and at the disk, then restart the broker",
        );
    }
    if panics > 0.0 {
        report.add_with_advice(
            "bugs",
            Verdict::Bad,
            format_args!("{panics} bugs were caught"),
            "report what the broker's log says of them",
        );
    }
}

/// Settings that are a choice worth knowing of.
async fn settings(report: &mut Report, client: &Client) -> Vec<ConfigDescription> {
    let settings = match client.admin().describe_config(ConfigResource::Broker, &[]).await {
        Ok(settings) => settings,
        Err(error) => {
            report.add("settings", Verdict::Unknown, error);
            return Vec::new();
        }
    };
    let value = |name: &str| {
        settings
            .iter()
            .find(|it| it.name == name)
            .and_then(|it| it.value.clone())
            .unwrap_or_default()
    };
    match value("durability").as_str() {
        "relaxed" => report.add_with_advice(
            "durability",
            Verdict::Look,
            "topics are relaxed by default: an acknowledged record may be lost with the machine",
            "durability=durable, unless that is what you want",
        ),
        _ => report.add(
            "durability",
            Verdict::Good,
            "records are on stable storage when acknowledged",
        ),
    }
    retention(report, &value);
    if value("insecure.public.listeners") == "true" {
        report.add_with_advice(
            "listeners",
            Verdict::Look,
            "insecure.public.listeners is on: whoever reaches the ports reads and deletes everything",
            "close the ports to all but your own network, or listen on 127.0.0.1",
        );
    }
    settings
}

fn retention(report: &mut Report, value: &impl Fn(&str) -> String) {
    let in_ms = |name: &str, unit_ms: i64| {
        let count: i64 = value(name).parse().ok()?;
        Some(if count < 0 { -1 } else { count.saturating_mul(unit_ms) })
    };
    let ms = in_ms("log.retention.ms", 1)
        .or_else(|| in_ms("log.retention.minutes", 60_000))
        .or_else(|| in_ms("log.retention.hours", 3_600_000));
    let bytes_max: i64 = value("log.retention.bytes").parse().unwrap_or(-1);
    let size = match bytes_max {
        ..0 => "however many they are".to_owned(),
        limit => format!("at most {} of each partition", bytes(limit as f64)),
    };
    match ms {
        Some(-1) if bytes_max < 0 => report.add_with_advice(
            "retention",
            Verdict::Look,
            "records are kept for ever, and the disk is finite",
            "set log.retention.hours or log.retention.bytes, or retention.ms of each topic",
        ),
        Some(-1) => report.add(
            "retention",
            Verdict::Good,
            format_args!("records are kept for ever, {size}"),
        ),
        Some(ms) => {
            let hours = ms as f64 / 3_600_000.0;
            report.add(
                "retention",
                Verdict::Good,
                format_args!("records are kept for {hours:.0} h, {size}"),
            );
        }
        None => report.add("retention", Verdict::Unknown, "the broker does not tell"),
    }
}

fn limits(report: &mut Report, samples: Option<&Samples>) {
    let partitions = samples.and_then(|it| it.value("millrace_partitions")).unwrap_or(0.0) as u64;
    let limits = Limits::read();
    let found = format!("a broker started here may open {} files", limits.open_files);
    let wanted = OPEN_FILES_MIN.max(partitions.saturating_mul(2));
    if limits.open_files >= wanted {
        report.add("open files", Verdict::Good, found);
    } else {
        let advice = format!(
            "raise the hard limit to {wanted}: ulimit -Hn, or LimitNOFILE= of its systemd unit"
        );
        report.add_with_advice("open files", Verdict::Look, found, advice);
    }
    let Some(maps) = limits.maps else {
        return report.add("memory maps", Verdict::Unknown, "vm.max_map_count cannot be read");
    };
    let wanted = partitions.saturating_mul(MAPS_PER_PARTITION) + MAPS_SPARE;
    let found =
        format!("a process may have {maps} maps; {partitions} partitions want up to {wanted}");
    if maps >= wanted {
        report.add("memory maps", Verdict::Good, found);
    } else {
        let advice = format!("sysctl vm.max_map_count={wanted}");
        report.add_with_advice("memory maps", Verdict::Bad, found, advice);
    }
}

/// The directory to look at: as given, else the broker's if it is on this machine and its path leads somewhere.
fn data_dir(
    arguments: &Arguments,
    broker: &Address,
    settings: &[ConfigDescription],
) -> Option<PathBuf> {
    if arguments.data_dir.is_some() {
        return arguments.data_dir.clone();
    }
    let value = |name: &str| {
        let found = settings.iter().find(|it| it.name == name)?.value.clone()?;
        Some(found).filter(|value| !value.is_empty()).map(PathBuf::from)
    };
    let path = value("log.dirs").or_else(|| value("log.dir"))?;
    let is_found = path.is_absolute() || path.join(IDENTITY).is_file();
    (broker.is_here() && is_found).then_some(path)
}

fn disk(report: &mut Report, path: Option<&Path>) {
    let Some(path) = path else {
        return report.add_with_advice(
            "disk",
            Verdict::Unknown,
            "it is not known from here where the data lies",
            "name it by --data-dir, on the broker's machine",
        );
    };
    let disk = match Disk::of(path) {
        Ok(disk) => disk,
        Err(error) => {
            let found = format!("{} cannot be looked at: {error}", path.display());
            return report.add("disk", Verdict::Unknown, found);
        }
    };
    file_system(report, path, &disk);
    let share = disk.free_bytes as f64 / disk.total_bytes.max(1) as f64;
    let found = format!(
        "{} of {} are free ({:.0} %)",
        bytes(disk.free_bytes as f64),
        bytes(disk.total_bytes as f64),
        share * 100.0
    );
    let advice = "lower retention.ms or retention.bytes of large topics (`millrace top` shows them), or give it more disk";
    match disk.free_bytes {
        ..FREE_BYTES_BAD => report.add_with_advice("free space", Verdict::Bad, found, advice),
        _ if share < FREE_SHARE_WARN => {
            report.add_with_advice("free space", Verdict::Look, found, advice);
        }
        _ => report.add("free space", Verdict::Good, found),
    }
}

fn file_system(report: &mut Report, path: &Path, disk: &Disk) {
    let found = format!("{} is on {}", path.display(), disk.kind.name());
    match disk.kind.objection() {
        None => report.add("file system", Verdict::Good, found),
        Some(objection) => report.add_with_advice(
            "file system",
            Verdict::Look,
            format_args!("{found}: {objection}"),
            "keep the data on ext4 or XFS of a local disk, best on a file system of its own",
        ),
    }
}

fn text(report: &Report) -> String {
    let mut table = Table::new(&["", "CHECK", "FOUND"], &[]);
    for check in &report.checks {
        let mark = match check.verdict {
            Verdict::Good => "ok",
            Verdict::Look => "look",
            Verdict::Bad => "BAD",
            Verdict::Unknown => "?",
        };
        table.row([mark.to_owned(), check.check.to_owned(), check.found.clone()]);
    }
    let mut text = table.to_string();
    for check in &report.checks {
        if let Some(advice) = &check.advice {
            text.push_str(&format!("\n{}: {advice}", check.check));
        }
    }
    if report.checks.iter().any(|it| it.advice.is_some()) {
        text.push('\n');
    }
    let (style, verdict) = match (report.has(Verdict::Bad), report.has(Verdict::Look)) {
        (true, _) => (Style::Red, "something is bad"),
        (false, true) => (Style::Yellow, "it works; some things are worth a look"),
        (false, false) => (Style::Green, "nothing to change"),
    };
    text + &format!("\n{}\n", styled(style, verdict))
}
