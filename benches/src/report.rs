//! One run's figures, as text and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::engine::{self, Plan, Tally};
use crate::error::LoadError;
use crate::histogram::Latency;
use crate::watch::{Look, Observer, Watch};

/// What a run gave. Throughput counts bytes of values; MB are 10^6 bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub seconds: f64,
    pub requests: u64,
    pub records: u64,
    pub payload_bytes: u64,
    pub errors: u64,
    pub error_code: Option<i16>,
    pub records_per_second: f64,
    pub requests_per_second: f64,
    pub mb_per_second: f64,
    pub latency: Latency,
    /// Share of one CPU that this generator used.
    pub generator_cpu_share: f64,
    /// Share of one CPU that neither broker nor generator used: the kernel's threads, other processes.
    pub others_cpu_share: Option<f64>,
    pub broker: Option<BrokerReport>,
    /// Calls of fdatasync or syncfs, where the broker counts them.
    pub syncs: Option<u64>,
}

/// The broker's share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BrokerReport {
    pub cpu_seconds: f64,
    pub cpu_seconds_per_gb: f64,
    pub anonymous_bytes: u64,
    pub file_bytes: u64,
}

/// Runs a plan and looks at the broker meanwhile.
///
/// # Errors
/// As [`engine::run`], or when requests were answered with errors.
pub fn measure(plan: &Plan, watch: Watch) -> Result<Report, LoadError> {
    let observer = Observer::start(watch);
    let tally = engine::run(plan, &mut |mark| observer.mark(mark))?;
    let looks = observer.finish();
    let report = Report::new(&tally, looks);
    match report.error_code {
        Some(code) => Err(LoadError::Refused { request: "a measured request", code }),
        None => Ok(report),
    }
}

impl Report {
    fn new(tally: &Tally, looks: Option<(Look, Look)>) -> Self {
        let seconds = tally.seconds.max(1e-9);
        let generator_seconds = clock::seconds(tally.generator_cpu);
        let gb = (tally.payload_bytes as f64 / 1e9).max(1e-9);
        let broker = looks.and_then(|(before, after)| {
            let cpu_seconds = after.cpu_seconds? - before.cpu_seconds?;
            let memory = after.memory?;
            Some(BrokerReport {
                cpu_seconds,
                cpu_seconds_per_gb: cpu_seconds / gb,
                anonymous_bytes: memory.anonymous_bytes,
                file_bytes: memory.file_bytes,
            })
        });
        let others_cpu_share = looks.zip(broker.as_ref()).map(|((before, after), broker)| {
            let busy = after.machine_seconds - before.machine_seconds;
            ((busy - broker.cpu_seconds - generator_seconds) / seconds).max(0.0)
        });
        Self {
            seconds: tally.seconds,
            requests: tally.requests,
            records: tally.records,
            payload_bytes: tally.payload_bytes,
            errors: tally.errors,
            error_code: tally.error_code,
            records_per_second: tally.records as f64 / seconds,
            requests_per_second: tally.requests as f64 / seconds,
            mb_per_second: tally.payload_bytes as f64 / 1e6 / seconds,
            latency: tally.latency.summary(),
            generator_cpu_share: generator_seconds / seconds,
            others_cpu_share,
            broker,
            syncs: looks.and_then(|(before, after)| Some(after.syncs? - before.syncs?)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = &self.latency;
        writeln!(
            f,
            "{:.1} MB/s  {:.0} records/s  {:.0} requests/s  in {:.1} s",
            self.mb_per_second, self.records_per_second, self.requests_per_second, self.seconds
        )?;
        writeln!(
            f,
            "latency ms: p50 {:.3}  p90 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}",
            latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms
        )?;
        write!(f, "generator: {:.0} % of a CPU", self.generator_cpu_share * 100.0)?;
        if let Some(others) = self.others_cpu_share {
            write!(f, "; kernel threads and others: {:.0} %", others * 100.0)?;
        }
        if let Some(broker) = &self.broker {
            write!(
                f,
                "\nbroker: {:.2} CPU s ({:.3} a GB), memory anonymous {:.1} MiB, file {:.1} MiB",
                broker.cpu_seconds,
                broker.cpu_seconds_per_gb,
                mib(broker.anonymous_bytes),
                mib(broker.file_bytes)
            )?;
        }
        match self.syncs {
            Some(syncs) => {
                write!(f, "\nsyncs: {syncs}, {:.0} a second", syncs as f64 / self.seconds.max(1e-9))
            }
            None => Ok(()),
        }
    }
}

/// Bytes as people read memory.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
