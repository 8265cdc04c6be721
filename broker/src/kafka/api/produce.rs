//! Produce, key 0, versions 3-11 (shown as 0-11: older librdkafka compresses only if it sees 0, KAFKA-18659).
//!
//! Behaviour: each partition is answered for itself. acks=0 gets no answer at all; an error then closes the connection,
//! as in Kafka. acks other than -1, 0, 1 is INVALID_REQUIRED_ACKS for every partition. A transactional batch is
//! INVALID_TXN_STATE: no transaction is ever open here.
//! Version notes: zstd is stored only from version 7 on (KIP-110); 8 explains refusals in words (KIP-467).

use std::cell::Cell;
use std::sync::Arc;

use bytes::BytesMut;
use millrace_kernel::partition::Acks;
use millrace_wire::ApiKey;
use millrace_wire::error_code::ErrorCode;
use millrace_wire::few::Few;
use millrace_wire::primitive::Text;
use millrace_wire::produce::{self as wire, PartitionResponse, Response, TopicResponse};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Span, warn};

use crate::error::BrokerError;
use crate::kafka::dispatch::Request;
use crate::kafka::errors;
use crate::metrics::Metrics;
use crate::partition::handle::Posted;
use crate::service::produce::{self, Part, PartResult, Pending};
use crate::service::{Hall, HeldBytes};
use crate::trace;

/// The first version whose clients can read zstd back.
const ZSTD_FROM: i16 = 7;
/// A produce request waits at least this long, whatever the client says: a sync takes what it takes.
const TIMEOUT_MS_MIN: i32 = 1_000;

/// A produce request on its way to the disk, and what is needed to answer it.
pub(crate) struct InFlight {
    version: i16,
    correlation_id: i32,
    wants_reply: bool,
    pending: Arc<Pending>,
    /// Names and partition indexes in request order; copied, so that the frame is free as soon as it is written.
    layout: Vec<(Text, Few<i32>)>,
    size_bytes: usize,
    span: Span,
    /// Keeps the request counted in the node's budget until it is answered.
    _budget: HeldBytes,
}

/// What the connection knows of a produce request beside its bytes.
pub(crate) struct Received {
    pub(crate) size_bytes: usize,
    pub(crate) budget: HeldBytes,
    pub(crate) span: Span,
}

/// Decodes a produce request and leaves every batch for its partition in `posted`. `Err` says why the connection closes.
pub(crate) fn begin(
    hall: &Hall,
    request: Request,
    Received { size_bytes, budget, span }: Received,
    signal: &Arc<Notify>,
    posted: &mut Posted,
) -> Result<InFlight, String> {
    let (version, correlation_id) = (request.version(), request.correlation_id());
    let body = request.into_body()?;
    let decoded = wire::decode(version, &body)
        .map_err(|error| format!("Produce v{version} is malformed: {error}"))?;
    let acks = match decoded.acks {
        0 => Ok(Acks::None),
        1 => Ok(Acks::Leader),
        -1 => Ok(Acks::All),
        acks => Err(BrokerError::InvalidRequiredAcks { acks }),
    };
    let mut layout = Vec::with_capacity(decoded.topics.len());
    let mut parts = Vec::with_capacity(decoded.topics.len());
    for topic in decoded.topics {
        let name = Text::from(topic.name.as_str());
        layout.push((name.clone(), topic.partitions.iter().map(|it| it.index).collect()));
        for partition in topic.partitions {
            let (topic, partition, records) = (name.clone(), partition.index, partition.records);
            parts.push(Part { topic: topic.into_bytes(), partition, records });
        }
    }
    let request = produce::Request {
        acks,
        timeout_ms: decoded.timeout_ms.max(TIMEOUT_MS_MIN).unsigned_abs().into(),
        parts,
        zstd_allowed: version >= ZSTD_FROM,
    };
    let wants_reply = decoded.acks != 0;
    let pending = produce::start_in(&span, hall, request, signal, posted);
    Ok(InFlight {
        version,
        correlation_id,
        wants_reply,
        pending,
        layout,
        size_bytes,
        span,
        _budget: budget,
    })
}

impl InFlight {
    pub(crate) fn is_done(&self) -> bool {
        self.pending.is_done()
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.pending.deadline()
    }

    pub(crate) fn time_out(&self) {
        self.pending.time_out();
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Encodes the reply behind `out`; `Err` when an unanswered request (acks=0) failed and the connection must say so
    /// by closing.
    pub(crate) fn respond(mut self, metrics: &Metrics, out: &mut BytesMut) -> Result<(), String> {
        let refused = Cell::new(0);
        let encoded = self.encode(&refused, out);
        metrics.answered(ApiKey::Produce, self.pending.answered());
        if !self.span.is_disabled() {
            trace::produced(&self.span, self.pending.certain_after(), refused.get());
        }
        encoded
    }

    fn encode(&mut self, refused: &Cell<usize>, out: &mut BytesMut) -> Result<(), String> {
        let results = self.pending.take_results();
        let mut results =
            results.inspect(|it| refused.set(refused.get() + usize::from(it.is_err())));
        if !self.wants_reply {
            return match results.find_map(Result::err) {
                Some(error) => Err(format!("a produce request with acks=0 failed: {error}")),
                None => Ok(()),
            };
        }
        let mut topics = Few::new();
        for (name, indexes) in std::mem::take(&mut self.layout) {
            let partitions = indexes.into_iter().zip(&mut results);
            let partitions = partitions.map(|(index, result)| partition(index, result)).collect();
            topics.push(TopicResponse { name, partitions });
        }
        let response = Response { topics, ..Response::default() };
        wire::encode(self.version, self.correlation_id, &response, out)
            .map_err(|error| format!("the reply cannot be encoded: {error}"))
    }
}

fn partition(index: i32, result: PartResult) -> PartitionResponse {
    match result {
        Ok(appended) => PartitionResponse {
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time.map_or(-1, |time| time.0),
            log_start_offset: appended.log_start.0,
            ..PartitionResponse::refused(index, ErrorCode::None)
        },
        Err(error) => {
            let code = errors::code(&error);
            if code == ErrorCode::KafkaStorageError {
                warn!(partition = index, %error, "produce refused");
            }
            let error_message = Some(Text::from(error.to_string()));
            PartitionResponse { error_message, ..PartitionResponse::refused(index, code) }
        }
    }
}
