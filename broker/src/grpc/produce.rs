//! `ProduceService`: one batch or one record in, its offset out once it is as safe as the topic promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use millrace_kernel::partition::Acks;
use millrace_model::compression::Codec;
use millrace_model::partitioner;
use millrace_model::record::{BatchBuilder, NewRecord};
use millrace_proto::v1::produce_request::Payload;
use millrace_proto::v1::produce_service_server::ProduceService;
use millrace_proto::v1::{ProduceRequest, ProduceResponse, Record};
use tonic::{Request, Response, Status};

use crate::error::BrokerError;
use crate::grpc::errors;
use crate::metrics::GrpcCall;
use crate::partition::registry::Topic;
use crate::service::produce::{self, Part};
use crate::service::{Hall, topics};

/// How long a produce without a deadline of its own may take.
const TIMEOUT_MS: u64 = 30_000;

/// The service.
pub(super) struct ProduceDoor {
    hall: Arc<Hall>,
    /// Spreads records without a key over a topic's partitions.
    turn: AtomicUsize,
}

impl ProduceDoor {
    pub(super) fn new(hall: Arc<Hall>) -> Self {
        Self { hall, turn: AtomicUsize::new(0) }
    }

    async fn write(&self, request: ProduceRequest) -> Result<ProduceResponse, Status> {
        let payload = request.payload.ok_or_else(|| errors::invalid("payload", "it is missing"))?;
        let topic = self.topic(&request.topic).await?;
        let partition = match (request.partition, &payload) {
            (Some(partition), _) => partition,
            (None, Payload::Record(record)) => self.choose(&topic, record),
            (None, Payload::Batch(_)) => {
                return Err(errors::invalid("partition", "a batch needs it"));
            }
        };
        let records = match payload {
            Payload::Batch(batch) => batch,
            Payload::Record(record) => batch_of_one(&record, self.hall.clock.now().wall.0),
        };
        let appended = self.append(&topic, partition, records).await?;
        Ok(ProduceResponse {
            partition,
            base_offset: appended.base_offset.0,
            log_append_time_ms: appended.log_append_time.map(|time| time.0),
        })
    }

    /// The topic by name; created if it is missing and the settings allow it, as the Kafka door does.
    async fn topic(&self, name: &str) -> Result<Arc<Topic>, Status> {
        if let Some(topic) = self.hall.registry.topic(name) {
            return Ok(topic);
        }
        if self.hall.config.auto_create_topics {
            let refused = topics::auto_create(&self.hall, vec![name.to_owned()]).await;
            if let Some((_, refused)) = refused.first() {
                return Err(errors::status(refused));
            }
        }
        self.hall.registry.topic(name).ok_or_else(|| {
            errors::status(&BrokerError::UnknownTopicOrPartition {
                topic: name.to_owned(),
                partition: 0,
            })
        })
    }

    fn choose(&self, topic: &Topic, record: &Record) -> i32 {
        let count = i32::try_from(topic.partition_count()).expect("partition counts are bounded");
        match &record.key {
            Some(key) => partitioner::partition_for_key(key, count.max(1)),
            None => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                (turn % topic.partition_count().max(1)) as i32
            }
        }
    }

    async fn append(
        &self,
        topic: &Topic,
        partition: i32,
        records: Bytes,
    ) -> Result<millrace_kernel::partition::Appended, Status> {
        let _held = self.hall.reserve_bytes(records.len()).await;
        let part = Part {
            topic: Bytes::copy_from_slice(topic.name().as_str().as_bytes()),
            partition,
            records: Some(records),
        };
        let request = produce::Request {
            acks: Ok(Acks::All),
            timeout_ms: TIMEOUT_MS,
            parts: vec![part],
            zstd_allowed: true,
        };
        let result = produce::produce(&self.hall, request).await.pop();
        result.expect("one part has one result").map_err(|error| errors::status(&error))
    }
}

/// The record as a batch of its own.
fn batch_of_one(record: &Record, now_ms: i64) -> Bytes {
    let headers: Vec<_> =
        record.headers.iter().map(|it| (it.key.as_bytes(), it.value.as_deref())).collect();
    let record = NewRecord {
        timestamp: record.timestamp_ms.unwrap_or(now_ms),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    };
    BatchBuilder::new(Codec::None).push(record).build()
}

#[tonic::async_trait]
impl ProduceService for ProduceDoor {
    async fn produce(
        &self,
        request: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        self.hall.metrics.grpc_request(GrpcCall::Produce);
        let written = errors::guarded(&self.hall, self.write(request.into_inner())).await?;
        Ok(Response::new(written))
    }
}
