//! Every metric is declared here: its name with unit, its labels, its help. Rooms call the verbs, `ops` prints the page.
//!
//! Counters are plain atomics and what is counted is labelled by closed sets only, so counting takes no lock, no
//! look-up and no allocation. What is told of topics and groups is looked up when the page is asked for and bounded
//! ([`Survey`]), so no client can grow the page without end. `Metrics::render` is the list of what there is; the
//! kernel returns counts and never comes here.

mod number;
mod page;
mod survey;

use std::ops::AddAssign;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_storage::disk::SyncKind;
use millrace_wire::{ApiKey, TABLE};

use number::{COUNTS, Counter, Gauge, Histogram, SECONDS, nanos};
use page::{Kind, Page};

pub(crate) use survey::{
    GroupFigures, GroupPartitionFigures, Lag, PartitionFigures, Survey, TopicFigures,
};

/// The counts of one node.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    started_unix: f64,
    /// By row of the table of APIs; the last place counts what has no row.
    kafka_requests: Vec<Counter>,
    /// By row of the same table.
    kafka_request_seconds: Vec<Histogram>,
    kafka_received_bytes: Counter,
    kafka_sent_bytes: Counter,
    kafka_connections: Gauge,
    kafka_connections_opened: Counter,
    kafka_connections_refused: Counter,
    grpc_connections: Gauge,
    grpc_requests: Vec<Counter>,
    grpc_request_seconds: Vec<Histogram>,
    produce_seconds: [Histogram; Stage::ALL.len()],
    produced_records: Counter,
    produced_bytes: Counter,
    produce_refused: Counter,
    fetched_bytes: Counter,
    syncs_fdatasync: Counter,
    syncs_syncfs: Counter,
    sync_seconds: Histogram,
    sync_files: Histogram,
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

            /// Does it go on for as long as its client likes?
            pub(crate) fn is_stream(self) -> bool {
                matches!(
                    self,
                    Self::ProduceStream | Self::Consume | Self::WatchTopics | Self::WatchLag
                )
            }

            /// The call of a method of ours.
            pub(crate) fn named(method: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|call| call.name() == method)
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

/// What a batch goes through on its way from the request to the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Decoded, until its partition's owner takes it.
    Queue,
    /// Taken, until it is written to the log.
    Append,
    /// Written, until it is on stable storage. Relaxed topics have none.
    Sync,
    /// All batches of a request as safe as promised, until its reply is encoded: earlier replies come first.
    Respond,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Queue, Self::Append, Self::Sync, Self::Respond];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Append => "append",
            Self::Sync => "sync",
            Self::Respond => "respond",
        }
    }
}

/// What went through one partition; kept by the partition, summed by topic on the page.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    produced_records: Counter,
    produced_bytes: Counter,
    fetched_records: Counter,
    fetched_bytes: Counter,
}

impl Traffic {
    pub(crate) fn produced(&self, records: u64, bytes: u64) {
        self.produced_records.add(records);
        self.produced_bytes.add(bytes);
    }

    pub(crate) fn fetched(&self, records: u64, bytes: u64) {
        self.fetched_records.add(records);
        self.fetched_bytes.add(bytes);
    }

    pub(crate) fn volume(&self) -> Volume {
        Volume {
            produced_records: self.produced_records.value(),
            produced_bytes: self.produced_bytes.value(),
            fetched_records: self.fetched_records.value(),
            fetched_bytes: self.fetched_bytes.value(),
        }
    }
}

/// [`Traffic`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    produced_records: u64,
    produced_bytes: u64,
    fetched_records: u64,
    fetched_bytes: u64,
}

impl AddAssign for Volume {
    fn add_assign(&mut self, more: Self) {
        self.produced_records += more.produced_records;
        self.produced_bytes += more.produced_bytes;
        self.fetched_records += more.fetched_records;
        self.fetched_bytes += more.fetched_bytes;
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_unix: unix.as_secs_f64(),
            kafka_requests: (0..=TABLE.len()).map(|_| Counter::default()).collect(),
            kafka_request_seconds: TABLE.iter().map(|_| Histogram::new(SECONDS)).collect(),
            kafka_received_bytes: Counter::default(),
            kafka_sent_bytes: Counter::default(),
            kafka_connections: Gauge::default(),
            kafka_connections_opened: Counter::default(),
            kafka_connections_refused: Counter::default(),
            grpc_connections: Gauge::default(),
            grpc_requests: GrpcCall::ALL.iter().map(|_| Counter::default()).collect(),
            grpc_request_seconds: GrpcCall::ALL.iter().map(|_| Histogram::new(SECONDS)).collect(),
            produce_seconds: Stage::ALL.map(|_| Histogram::new(SECONDS)),
            produced_records: Counter::default(),
            produced_bytes: Counter::default(),
            produce_refused: Counter::default(),
            fetched_bytes: Counter::default(),
            syncs_fdatasync: Counter::default(),
            syncs_syncfs: Counter::default(),
            sync_seconds: Histogram::new(SECONDS),
            sync_files: Histogram::new(COUNTS),
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

    /// A Kafka request was answered, so long after it was read.
    pub(crate) fn answered(&self, api: ApiKey, took: Duration) {
        if let Some(row) = TABLE.iter().position(|row| row.key == api) {
            self.kafka_request_seconds[row].observe_time(took);
        }
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

    /// So many more gRPC connections are open.
    pub(crate) fn grpc_connections(&self, change: i64) {
        self.grpc_connections.add(change);
    }

    /// A gRPC call, or one request of a stream of them, was answered.
    pub(crate) fn grpc_answered(&self, call: GrpcCall, took: Duration) {
        self.grpc_request_seconds[call as usize].observe_time(took);
    }

    /// So many batches went together through a stage of produce.
    pub(crate) fn produce_stage(&self, stage: Stage, took: Duration, batches: u64) {
        self.produce_seconds[stage as usize].observe_many(nanos(took), batches);
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
        self.sync_seconds.observe_time(elapsed);
        self.sync_files.observe(files as u64);
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

    /// The page in Prometheus' text format, with what was just seen of topics and groups.
    pub(crate) fn render(&self, survey: &Survey) -> String {
        let mut page = Page::default();
        self.render_doors(&mut page);
        self.render_produce(&mut page);
        self.render_log(&mut page);
        survey.render(&mut page);
        self.render_process(&mut page);
        page.finish()
    }

    fn render_doors(&self, page: &mut Page) {
        page.metric("millrace_kafka_requests_total", Kind::Counter, "Kafka requests, by API.");
        let names = TABLE.iter().map(|row| row.name).chain(["unknown"]);
        for (name, count) in names.zip(&self.kafka_requests) {
            page.sample(&[("api", &name)], count.value());
        }
        page.metric(
            "millrace_kafka_request_seconds",
            Kind::Histogram,
            "Time from a Kafka request read to its reply encoded, by API; a fetch includes its wait for records, a join that for other members.",
        );
        for (row, histogram) in TABLE.iter().zip(&self.kafka_request_seconds) {
            page.histogram_if_any(&[("api", &row.name)], histogram);
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
        page.gauge(
            "millrace_grpc_connections",
            "gRPC connections now open.",
            &self.grpc_connections,
        );
        page.metric("millrace_grpc_requests_total", Kind::Counter, "gRPC calls, by method.");
        for (call, count) in GrpcCall::ALL.iter().zip(&self.grpc_requests) {
            page.sample(&[("method", &call.name())], count.value());
        }
        page.metric(
            "millrace_grpc_request_seconds",
            Kind::Histogram,
            "Time from a gRPC call read to its answer, by method; of ProduceStream, of each request in it; other streams are not timed.",
        );
        for (call, histogram) in GrpcCall::ALL.iter().zip(&self.grpc_request_seconds) {
            page.histogram_if_any(&[("method", &call.name())], histogram);
        }
        page.gauge(
            "millrace_request_held_bytes",
            "Bytes of large requests now held; queued.max.request.bytes is the limit.",
            &self.request_bytes_held,
        );
    }

    fn render_produce(&self, page: &mut Page) {
        page.metric(
            "millrace_produce_stage_seconds",
            Kind::Histogram,
            "Where the time of a produce goes. Of each batch: queue (decoded, until the partition takes it), append, sync (written, until it is on stable storage; none on relaxed topics). Of each request: respond (all certain, until the reply is encoded).",
        );
        for (stage, histogram) in Stage::ALL.iter().zip(&self.produce_seconds) {
            page.histogram(&[("stage", &stage.name())], histogram);
        }
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
    }

    fn render_log(&self, page: &mut Page) {
        page.metric("millrace_syncs_total", Kind::Counter, "Syncs of the data directory, by call.");
        page.sample(&[("kind", &"fdatasync")], self.syncs_fdatasync.value());
        page.sample(&[("kind", &"syncfs")], self.syncs_syncfs.value());
        page.metric(
            "millrace_sync_seconds",
            Kind::Histogram,
            "Time to make one group of writes durable.",
        );
        page.histogram(&[], &self.sync_seconds);
        page.metric(
            "millrace_sync_files",
            Kind::Histogram,
            "Files made durable together, by one group of writes.",
        );
        page.histogram(&[], &self.sync_files);
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
        page.sample(&[("version", &env!("CARGO_PKG_VERSION"))], 1);
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
            page.value(memory.anonymous + memory.file);
            page.metric(
                "millrace_resident_memory_bytes",
                Kind::Gauge,
                "Resident memory by what backs it: the heap, or mapped files, which the system can take back.",
            );
            page.sample(&[("backing", &"anonymous")], memory.anonymous);
            page.sample(&[("backing", &"file")], memory.file);
        }
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
        metrics.answered(ApiKey::Produce, Duration::from_millis(3));
        metrics.grpc_answered(GrpcCall::Commit, Duration::from_micros(15));
        metrics.produce_stage(Stage::Append, Duration::from_micros(40), 7);
        let page = metrics.render(&Survey::default());
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
            "millrace_kafka_request_seconds_bucket{api=\"Produce\",le=\"0.002\"} 0",
            "millrace_kafka_request_seconds_bucket{api=\"Produce\",le=\"0.005\"} 1",
            "millrace_kafka_request_seconds_sum{api=\"Produce\"} 0.003",
            "millrace_grpc_request_seconds_count{method=\"Commit\"} 1",
            "millrace_produce_stage_seconds_bucket{stage=\"append\",le=\"0.00005\"} 7",
            "millrace_produce_stage_seconds_count{stage=\"sync\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
        }
        assert!(!page.contains("api=\"Fetch\",le="), "what was never timed has no buckets");
    }

    #[test]
    fn every_metric_has_help_and_type_once_and_a_unit_where_it_counts() {
        let page = Metrics::new().render(&Survey::default());
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
