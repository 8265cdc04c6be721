//! Produce: check batches, hand each to the owner of its partition, collect what they answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Moment};

use bytes::Bytes;
use millrace_kernel::partition::{Acks, Append, AppendRefused, Appended};
use millrace_model::batch::{self, BatchHeader};
use millrace_model::record;
use millrace_model::topic_config::TopicConfig;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Span;

use crate::error::BrokerError;
use crate::metrics::{Metrics, Stage, Traffic};
use crate::partition::actor::Token;
use crate::partition::handle::{Message, PartitionHandle, Posted};
use crate::service::Hall;
use crate::trace::Stages;

/// Records for some partitions, from any door.
pub(crate) struct Request {
    /// An error refuses every part: the request asked for what does not exist.
    pub(crate) acks: Result<Acks, BrokerError>,
    pub(crate) timeout_ms: u64,
    pub(crate) parts: Vec<Part>,
    /// zstd may be stored only for clients that can read it back (Produce version 7, KIP-110).
    pub(crate) zstd_allowed: bool,
}

/// One batch for one partition.
pub(crate) struct Part {
    /// The topic as the request names it, which need not be a legal name.
    pub(crate) topic: Bytes,
    pub(crate) partition: i32,
    /// Exactly one record batch; `None` where the client sent null.
    pub(crate) records: Option<Bytes>,
}

/// What became of one part.
pub(crate) type PartResult = Result<Appended, BrokerError>;

/// A produce request whose parts are on their way: done when each has its result.
pub(crate) struct Pending {
    /// Guards the results; held to store or read one.
    results: Mutex<Results>,
    missing: AtomicUsize,
    /// Told when the last result arrives.
    done: Arc<Notify>,
    timed_out: AtomicBool,
    started: Moment,
    deadline: Instant,
    timeout_ms: u64,
    metrics: Arc<Metrics>,
    /// While it is traced.
    stages: Option<Box<Stages>>,
}

struct Results {
    by_part: Vec<Option<PartResult>>,
    /// When the last of them was known.
    known: Moment,
}

impl Pending {
    pub(crate) fn is_done(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0 || self.timed_out.load(Ordering::Acquire)
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Answers what is missing with a timeout from now on.
    pub(crate) fn time_out(&self) {
        self.timed_out.store(true, Ordering::Release);
    }

    /// The results, one for each part in request order; to be taken once, when done.
    pub(crate) fn take_results(&self) -> impl Iterator<Item = PartResult> + use<> {
        let mut results = self.results.lock().expect("no holder panics");
        let results = std::mem::take(&mut results.by_part);
        let timeout = BrokerError::Timeout { timeout_ms: self.timeout_ms };
        results.into_iter().map(move |result| result.unwrap_or_else(|| Err(timeout.clone())))
    }

    /// The reply is encoded: counts how long it waited for that. Tells how long the whole request took.
    pub(crate) fn answered(&self) -> Duration {
        let now = Moment::now();
        let known = (self.missing.load(Ordering::Acquire) == 0).then(|| self.known());
        if let Some(known) = known {
            let waited = now.saturating_duration_since(known);
            self.metrics.produce_stage(Stage::Respond, waited, 1);
        }
        if let Some(stages) = &self.stages {
            stages.answered(known, now);
        }
        now - self.started
    }

    /// How long it took until the last result was certain.
    pub(crate) fn certain_after(&self) -> Duration {
        self.known() - self.started
    }

    fn known(&self) -> Moment {
        self.results.lock().expect("no holder panics").known
    }

    fn complete(&self, slot: usize, result: PartResult, known: Moment) {
        if result.is_err() {
            self.metrics.produce_refused();
            self.stages.iter().for_each(|stages| stages.refused());
        }
        {
            let mut results = self.results.lock().expect("no holder panics");
            results.known = results.known.max(known);
            if let Some(place) = results.by_part.get_mut(slot) {
                *place = Some(result);
            }
        }
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }
}

/// A partition's duty to answer one part. Dropped unanswered (a bug stopped the owner), it answers with an error.
pub(crate) struct Ticket {
    pending: Option<Arc<Pending>>,
    slot: usize,
    /// What is acknowledged with it.
    records: u64,
    bytes: u64,
}

impl Ticket {
    /// The partition's owner has it now. While the request is traced, the owner is to say when it is written, too.
    pub(crate) fn taken(&self, now: Moment) -> Option<Traced> {
        let pending = self.pending.as_ref()?;
        let waited = now.saturating_duration_since(pending.started);
        pending.metrics.produce_stage(Stage::Queue, waited, 1);
        pending.stages.as_ref()?.taken(now);
        Some(Traced(Arc::clone(pending)))
    }

    /// The result, which is certain since `known`.
    pub(crate) fn answer(
        mut self,
        result: Result<Appended, AppendRefused>,
        known: Moment,
        traffic: &Traffic,
    ) {
        if let Some(pending) = self.pending.take() {
            if result.is_ok() {
                pending.metrics.produced(self.records, self.bytes);
                traffic.produced(self.records, self.bytes);
            }
            pending.complete(self.slot, result.map_err(BrokerError::from), known);
        }
    }
}

/// A part of a request that is traced.
pub(crate) struct Traced(Arc<Pending>);

impl Traced {
    /// Its batch is in the log.
    pub(crate) fn written(self, now: Moment) {
        self.0.stages.iter().for_each(|stages| stages.written(now));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pending) = self.pending.take() {
            let reason = "the partition stopped on an internal error".into();
            let known = pending.started;
            pending.complete(self.slot, Err(BrokerError::Storage { reason }), known);
        }
    }
}

/// Starts one of the many produce requests of a stream, which is the current span, as [`start_in`] does.
pub(crate) fn start(
    hall: &Hall,
    request: Request,
    done: &Arc<Notify>,
    posted: &mut Posted,
) -> Arc<Pending> {
    let now = Instant::now();
    let stages = Stages::of_one_in_current(now.into_std());
    let timing = Timing { now, stages };
    launch(hall, request, timing, done, posted)
}

/// Starts a produce request, traced in `span`: every part is checked and left for its owner in `posted`, in request
/// order. `done` is told when the last result is there.
pub(crate) fn start_in(
    span: &Span,
    hall: &Hall,
    request: Request,
    done: &Arc<Notify>,
    posted: &mut Posted,
) -> Arc<Pending> {
    let now = Instant::now();
    let timing = Timing { now, stages: Stages::of(span, now.into_std()) };
    launch(hall, request, timing, done, posted)
}

/// When a request began, and what is told of that.
struct Timing {
    now: Instant,
    stages: Option<Box<Stages>>,
}

fn launch(
    hall: &Hall,
    request: Request,
    Timing { now, stages }: Timing,
    done: &Arc<Notify>,
    posted: &mut Posted,
) -> Arc<Pending> {
    let count = request.parts.len();
    let started = now.into_std();
    let by_part = (0..count).map(|_| None).collect();
    let pending = Arc::new(Pending {
        results: Mutex::new(Results { by_part, known: started }),
        missing: AtomicUsize::new(count),
        done: Arc::clone(done),
        timed_out: AtomicBool::new(false),
        started,
        deadline: now + Duration::from_millis(request.timeout_ms),
        timeout_ms: request.timeout_ms,
        metrics: Arc::clone(&hall.metrics),
        stages,
    });
    for (slot, part) in request.parts.into_iter().enumerate() {
        let mut ticket = Ticket { pending: Some(Arc::clone(&pending)), slot, records: 0, bytes: 0 };
        let admitted = request.acks.clone().and_then(|acks| {
            let (partition, header, bytes) = admit(hall, part, request.zstd_allowed)?;
            Ok((partition, header, bytes, acks))
        });
        match admitted {
            Ok((partition, header, bytes, acks)) => {
                ticket.records = u64::from(header.record_count.unsigned_abs());
                ticket.bytes = u64::from(header.size_bytes);
                let token = Token::Produce(ticket);
                let append = Append { header, bytes, acks, token };
                posted.leave(partition, Message::Append(append));
            }
            Err(error) => ticket.refuse(error),
        }
    }
    pending
}

impl Ticket {
    fn refuse(mut self, error: BrokerError) {
        if let Some(pending) = self.pending.take() {
            let known = pending.started;
            pending.complete(self.slot, Err(error), known);
        }
    }
}

/// A whole produce request for callers that wait for it.
pub(crate) async fn produce(hall: &Hall, request: Request) -> Vec<PartResult> {
    let done = Arc::new(Notify::new());
    let now = Instant::now();
    let timing = Timing { now, stages: Stages::of_current(now.into_std()) };
    let pending = launch(hall, request, timing, &done, &mut Posted::default());
    while !pending.is_done() {
        if tokio::time::timeout_at(pending.deadline(), done.notified()).await.is_err() {
            pending.time_out();
        }
    }
    let results = pending.take_results().collect();
    pending.answered();
    results
}

/// Everything that can be said of a batch without its partition's state.
fn admit(
    hall: &Hall,
    part: Part,
    zstd_allowed: bool,
) -> Result<(PartitionHandle, BatchHeader, Bytes), BrokerError> {
    let name = String::from_utf8_lossy(&part.topic);
    let (topic, partition) = hall.registry.leader(&name, part.partition)?;
    if topic.name().is_internal() {
        return Err(BrokerError::InternalTopic { topic: topic.name().to_string() });
    }
    let bytes = part.records.filter(|it| !it.is_empty()).ok_or(BrokerError::NoRecords)?;
    let header = batch::validate(&bytes, topic.config().max_message_bytes)?;
    if header.attributes.codec() == ZSTD && !zstd_allowed {
        return Err(BrokerError::ZstdNeedsNewerClient);
    }
    if header.attributes.is_transactional() {
        return Err(BrokerError::TransactionsUnsupported);
    }
    let (header, bytes) = look_inside(topic.config(), header, bytes)?;
    Ok((partition, header, bytes))
}

/// What only some topics want: every record checked, or another codec.
fn look_inside(
    topic: &TopicConfig,
    header: BatchHeader,
    bytes: Bytes,
) -> Result<(BatchHeader, Bytes), BrokerError> {
    if topic.checks_records() {
        record::validate_records(&header, &bytes, topic.cleanup_compact, UNPACKED_BYTES_MAX)
            .map_err(|error| BrokerError::InvalidRecord(error.to_string()))?;
    }
    match topic.compression {
        Some(codec) if codec.number() != header.attributes.codec() => {
            let bytes = record::recompress(&header, &bytes, codec, UNPACKED_BYTES_MAX)
                .map_err(|error| BrokerError::InvalidRecord(error.to_string()))?;
            let header = BatchHeader::parse(&bytes).map_err(batch::InvalidBatch::from)?;
            Ok((header, bytes))
        }
        _ => Ok((header, bytes)),
    }
}

/// A batch that unpacks to more than this is refused where its records must be looked at.
const UNPACKED_BYTES_MAX: usize = 16 << 20;
const ZSTD: u8 = 4;
