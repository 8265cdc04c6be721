//! Every metric is declared here: its name with unit, its labels, its help. Rooms call the verbs, `ops` prints the page.
//!
//! Counters are plain atomics and every label is a closed set, so counting takes no lock, no look-up and no
//! allocation, and no client can grow the page. `Metrics::render` is the list of what there is; the kernel returns
//! counts and never comes here.

mod page;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_storage::disk::SyncKind;
use millrace_wire::TABLE;

use page::{Kind, Page};

/// The counts of one node.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    started_unix: f64,
    /// By row of the table of APIs; the last place counts what has no row.
    kafka_requests: Vec<Counter>,
    kafka_received_bytes: Counter,
    kafka_sent_bytes: Counter,
    kafka_connections: Gauge,
    kafka_connections_opened: Counter,
    kafka_connections_refused: Counter,
    grpc_requests: [Counter; GrpcCall::ALL.len()],
    produced_records: Counter,
    produced_bytes: Counter,
    produce_refused: Counter,
    fetched_bytes: Counter,
    syncs_fdatasync: Counter,
    syncs_syncfs: Counter,
    sync_seconds: Histogram<{ SYNC_SECONDS.len() }>,
    sync_files: Histogram<{ SYNC_FILES.len() }>,
    topics: Gauge,
    partitions: Gauge,
    partitions_stopped: Gauge,
    panics: Counter,
    request_bytes_held: Gauge,
}

/// Declares the calls, each counted under its method's name.
macro_rules! grpc_calls {
    ($($call:ident),+ $(,)?) => {
        /// The calls of the gRPC door.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum GrpcCall {
            $($call,)+
        }

        impl GrpcCall {
            const ALL: &[Self] = &[$(Self::$call,)+];

            fn name(self) -> &'static str {
                match self {
                    $(Self::$call => stringify!($call),)+
                }
            }
        }
    };
}

grpc_calls! {
    InitProducer,
    Produce,
    ProduceStream,
    Consume,
    Commit,
    CreateTopic,
    ListTopics,
    DescribeTopic,
    DeleteTopic,
    AddPartitions,
    ListOffsets,
    DeleteRecords,
    ListGroups,
    DescribeGroup,
    DeleteGroup,
    ResetOffsets,
    DeleteOffsets,
    DescribeConfig,
    AlterConfig,
    DescribeCluster,
    WatchTopics,
    WatchLag,
}

/// Upper bounds of the sync time's buckets: from a fast NVMe to a disk that is about to fail.
const SYNC_SECONDS: [f64; 15] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];
/// Upper bounds of the group size's buckets.
const SYNC_FILES: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0];

impl Metrics {
    pub(crate) fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_unix: unix.as_secs_f64(),
            kafka_requests: (0..=TABLE.len()).map(|_| Counter::default()).collect(),
            kafka_received_bytes: Counter::default(),
            kafka_sent_bytes: Counter::default(),
            kafka_connections: Gauge::default(),
            kafka_connections_opened: Counter::default(),
            kafka_connections_refused: Counter::default(),
            grpc_requests: [const { Counter(AtomicU64::new(0)) }; GrpcCall::ALL.len()],
            produced_records: Counter::default(),
            produced_bytes: Counter::default(),
            produce_refused: Counter::default(),
            fetched_bytes: Counter::default(),
            syncs_fdatasync: Counter::default(),
            syncs_syncfs: Counter::default(),
            sync_seconds: Histogram::new(SYNC_SECONDS),
            sync_files: Histogram::new(SYNC_FILES),
            topics: Gauge::default(),
            partitions: Gauge::default(),
            partitions_stopped: Gauge::default(),
            panics: Counter::default(),
            request_bytes_held: Gauge::default(),
        }
    }

    /// A Kafka request arrived, known or not.
    pub(crate) fn request(&self, api_key: i16) {
        let row = TABLE.iter().position(|row| row.key.code() == api_key).unwrap_or(TABLE.len());
        self.kafka_requests[row].add(1);
    }

    /// Bytes came in by the Kafka door.
    pub(crate) fn received(&self, bytes: usize) {
        self.kafka_received_bytes.add(bytes as u64);
    }

    /// Bytes left by the Kafka door.
    pub(crate) fn sent(&self, bytes: u64) {
        self.kafka_sent_bytes.add(bytes);
    }

    pub(crate) fn connection_opened(&self) {
        self.kafka_connections_opened.add(1);
        self.kafka_connections.add(1);
    }

    pub(crate) fn connection_closed(&self) {
        self.kafka_connections.add(-1);
    }

    /// A connection beyond a limit was closed at once.
    pub(crate) fn connection_refused(&self) {
        self.kafka_connections_refused.add(1);
    }

    pub(crate) fn grpc_request(&self, call: GrpcCall) {
        self.grpc_requests[call as usize].add(1);
    }

    /// A batch was written to a log.
    pub(crate) fn produced(&self, records: u64, bytes: u64) {
        self.produced_records.add(records);
        self.produced_bytes.add(bytes);
    }

    /// A batch was answered with an error.
    pub(crate) fn produce_refused(&self) {
        self.produce_refused.add(1);
    }

    /// Record bytes were handed to a consumer.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched_bytes.add(bytes);
    }

    /// A group of files was made durable.
    pub(crate) fn synced(&self, kind: SyncKind, files: usize, elapsed: Duration) {
        match kind {
            SyncKind::Nothing => return,
            SyncKind::Files => self.syncs_fdatasync.add(files as u64),
            SyncKind::FileSystem => self.syncs_syncfs.add(1),
        }
        self.sync_seconds.observe(elapsed.as_secs_f64());
        self.sync_files.observe(files as f64);
    }

    /// How many topics and partitions live here, by the latest metadata.
    pub(crate) fn hosted(&self, topics: usize, partitions: usize) {
        self.topics.set(topics as i64);
        self.partitions.set(partitions as i64);
    }

    /// A partition stopped for good: a bug or a bad disk.
    pub(crate) fn partition_stopped(&self) {
        self.partitions_stopped.add(1);
    }

    /// A task or an owner ended by a bug.
    pub(crate) fn panicked(&self) {
        self.panics.add(1);
    }

    /// Bytes of large requests now held; negative when given back.
    pub(crate) fn request_bytes_held(&self, change: i64) {
        self.request_bytes_held.add(change);
    }

    /// The page in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let mut page = Page::default();
        self.render_doors(&mut page);
        self.render_log(&mut page);
        self.render_process(&mut page);
        page.finish()
    }

    fn render_doors(&self, page: &mut Page) {
        page.metric("millrace_kafka_requests_total", Kind::Counter, "Kafka requests, by API.");
        let names = TABLE.iter().map(|row| row.name).chain(["unknown"]);
        for (name, count) in names.zip(&self.kafka_requests) {
            page.labelled("api", name, count.value() as f64);
        }
        page.counter(
            "millrace_kafka_received_bytes_total",
            "Bytes read from Kafka connections.",
            &self.kafka_received_bytes,
        );
        page.counter(
            "millrace_kafka_sent_bytes_total",
            "Bytes written to Kafka connections.",
            &self.kafka_sent_bytes,
        );
        page.gauge(
            "millrace_kafka_connections",
            "Kafka connections now open.",
            &self.kafka_connections,
        );
        page.counter(
            "millrace_kafka_connections_opened_total",
            "Kafka connections accepted.",
            &self.kafka_connections_opened,
        );
        page.counter(
            "millrace_kafka_connections_refused_total",
            "Kafka connections closed at once because a limit was reached.",
            &self.kafka_connections_refused,
        );
        page.metric("millrace_grpc_requests_total", Kind::Counter, "gRPC calls, by method.");
        for &call in GrpcCall::ALL {
            page.labelled("method", call.name(), self.grpc_requests[call as usize].value() as f64);
        }
        page.gauge(
            "millrace_request_held_bytes",
            "Bytes of large requests now held; queued.max.request.bytes is the limit.",
            &self.request_bytes_held,
        );
    }

    fn render_log(&self, page: &mut Page) {
        page.counter(
            "millrace_produced_records_total",
            "Records written to logs.",
            &self.produced_records,
        );
        page.counter(
            "millrace_produced_bytes_total",
            "Bytes of record batches written to logs.",
            &self.produced_bytes,
        );
        page.counter(
            "millrace_produce_refused_total",
            "Batches answered with an error.",
            &self.produce_refused,
        );
        page.counter(
            "millrace_fetched_bytes_total",
            "Bytes of record batches handed to consumers.",
            &self.fetched_bytes,
        );
        page.metric("millrace_syncs_total", Kind::Counter, "Syncs of the data directory, by call.");
        page.labelled("kind", "fdatasync", self.syncs_fdatasync.value() as f64);
        page.labelled("kind", "syncfs", self.syncs_syncfs.value() as f64);
        page.histogram(
            "millrace_sync_seconds",
            "Time to make one group of writes durable.",
            &self.sync_seconds,
        );
        page.histogram("millrace_sync_files", "Files made durable together.", &self.sync_files);
        page.gauge("millrace_topics", "Topics, internal ones included.", &self.topics);
        page.gauge("millrace_partitions", "Partitions that live here.", &self.partitions);
        page.gauge(
            "millrace_partitions_stopped",
            "Partitions that refuse work until the broker restarts.",
            &self.partitions_stopped,
        );
        page.counter(
            "millrace_panics_total",
            "Bugs caught at the border of a task or a partition.",
            &self.panics,
        );
    }

    fn render_process(&self, page: &mut Page) {
        page.metric("millrace_build_info", Kind::Gauge, "The version that runs.");
        page.labelled("version", env!("CARGO_PKG_VERSION"), 1.0);
        page.metric("millrace_uptime_seconds", Kind::Gauge, "Seconds since the start.");
        page.value(self.started.elapsed().as_secs_f64());
        page.metric(
            "process_start_time_seconds",
            Kind::Gauge,
            "When the process started, since the Unix epoch.",
        );
        page.value(self.started_unix);
        if let Some(memory) = ProcessMemory::read() {
            page.metric(
                "process_resident_memory_bytes",
                Kind::Gauge,
                "Resident memory, pages of mapped segments included.",
            );
            page.value((memory.anonymous + memory.file) as f64);
            page.metric(
                "millrace_resident_memory_bytes",
                Kind::Gauge,
                "Resident memory by what backs it: the heap, or mapped files, which the system can take back.",
            );
            page.labelled("backing", "anonymous", memory.anonymous as f64);
            page.labelled("backing", "file", memory.file as f64);
        }
    }
}

/// A number that rises.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that moves.
#[derive(Debug, Default)]
struct Gauge(AtomicI64);

impl Gauge {
    fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Observations sorted into fixed buckets.
#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// Observations at most as large as the bound of the same place and larger than the one before.
    buckets: [AtomicU64; N],
    beyond: AtomicU64,
    /// In millionths, so that it stays an integer.
    sum_micro: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        let buckets = std::array::from_fn(|_| AtomicU64::new(0));
        Self { bounds, buckets, beyond: AtomicU64::new(0), sum_micro: AtomicU64::new(0) }
    }

    fn observe(&self, value: f64) {
        let place = self.bounds.iter().position(|bound| value <= *bound);
        let bucket = place.map_or(&self.beyond, |place| &self.buckets[place]);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum_micro.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }
}

/// Resident memory in bytes, as Linux tells it.
struct ProcessMemory {
    anonymous: u64,
    file: u64,
}

impl ProcessMemory {
    /// `None` where there is no `/proc`.
    fn read() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let kilobytes = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line[name.len()..].trim().trim_end_matches(" kB").parse().ok()
        };
        Some(Self { anonymous: kilobytes("RssAnon:")? * 1024, file: kilobytes("RssFile:")? * 1024 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_under_their_names() {
        let metrics = Metrics::new();
        metrics.request(0);
        metrics.request(0);
        metrics.request(9999);
        metrics.grpc_request(GrpcCall::Consume);
        metrics.produced(3, 200);
        metrics.synced(SyncKind::Files, 2, Duration::from_micros(150));
        metrics.synced(SyncKind::FileSystem, 9, Duration::from_secs(60));
        metrics.synced(SyncKind::Nothing, 0, Duration::ZERO);
        metrics.connection_opened();
        metrics.connection_opened();
        metrics.connection_closed();
        let page = metrics.render();
        for line in [
            "millrace_kafka_requests_total{api=\"Produce\"} 2",
            "millrace_kafka_requests_total{api=\"unknown\"} 1",
            "millrace_grpc_requests_total{method=\"Consume\"} 1",
            "millrace_produced_records_total 3",
            "millrace_syncs_total{kind=\"fdatasync\"} 2",
            "millrace_syncs_total{kind=\"syncfs\"} 1",
            "millrace_sync_seconds_bucket{le=\"0.0001\"} 0",
            "millrace_sync_seconds_bucket{le=\"0.0002\"} 1",
            "millrace_sync_seconds_bucket{le=\"30\"} 1",
            "millrace_sync_seconds_bucket{le=\"+Inf\"} 2",
            "millrace_sync_seconds_count 2",
            "millrace_sync_seconds_sum 60.00015",
            "millrace_kafka_connections 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn every_metric_has_help_and_type_once_and_a_unit_where_it_counts() {
        let page = Metrics::new().render();
        let declared = |what: &str| -> Vec<String> {
            let lines = page.lines().filter_map(|line| line.strip_prefix(what));
            lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
        };
        let (help, types) = (declared("# HELP "), declared("# TYPE "));
        assert_eq!(help, types);
        let mut unique = help.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), help.len());
        for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
            let (name, kind) = line["# TYPE ".len()..].split_once(' ').unwrap();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        }
    }
}
