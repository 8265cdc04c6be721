//! `ProduceService`: batches and records in, their offsets out once they are as safe as the topic promises.
//!
//! One request, or a stream of them ([`stream`]): both find topic and partition, build the batch and take its bytes from
//! the node's budget here, then walk through the hall. Nothing is decided here but the partition of records that name
//! none, which is a client's business in the other door.

mod sticky;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use millrace_kernel::partition::{Acks, Appended};
use millrace_model::compression::Codec;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_model::partitioner;
use millrace_model::record::{BatchBuilder, NewRecord};
use millrace_proto::v1::produce_request::Payload;
use millrace_proto::v1::produce_service_server::ProduceService;
use millrace_proto::v1::{
    InitProducerRequest, InitProducerResponse, ProduceRequest, ProduceResponse,
    ProduceStreamResponse, Record, Sequence,
};
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::error::BrokerError;
use crate::grpc::errors;
use crate::grpc::produce::sticky::Sticky;
use crate::metrics::GrpcCall;
use crate::partition::registry::Topic;
use crate::service::produce::{self, Part};
use crate::service::{Hall, HeldBytes, producers, topics};
use crate::shutdown::Shutdown;

/// How long records may take to be on stable storage before their request is answered with a timeout.
const TIMEOUT_MS: u64 = 30_000;

/// The service.
pub(super) struct ProduceDoor {
    desk: Arc<Desk>,
    shutdown: Shutdown,
}

impl ProduceDoor {
    pub(super) fn new(hall: Arc<Hall>, shutdown: Shutdown) -> Self {
        Self { desk: Arc::new(Desk { hall, sticky: Sticky::default() }), shutdown }
    }
}

/// Where requests become batches for partitions.
struct Desk {
    hall: Arc<Hall>,
    sticky: Sticky,
}

/// A batch on its way to its partition.
struct Prepared {
    request: produce::Request,
    partition: i32,
    held: HeldBytes,
}

impl Desk {
    /// As [`Self::prepare`], unless it would have to wait: then the request comes back.
    fn prepare_now(
        &self,
        request: ProduceRequest,
    ) -> Result<Result<Prepared, BrokerError>, Box<ProduceRequest>> {
        let Some(payload) = &request.payload else { return Ok(Err(no_payload())) };
        let Some(topic) = self.hall.registry.topic(&request.topic) else {
            return Err(Box::new(request));
        };
        match self.hall.try_reserve_bytes(size(payload)) {
            Some(held) => Ok(self.address(&topic, request, held)),
            None => Err(Box::new(request)),
        }
    }

    /// Finds out where a request's records go, builds their batch, and waits for room in the node's budget.
    async fn prepare(&self, request: ProduceRequest) -> Result<Prepared, BrokerError> {
        let bytes = size(request.payload.as_ref().ok_or_else(no_payload)?);
        let topic = self.topic(&request.topic).await?;
        let held = self.hall.reserve_bytes(bytes).await;
        self.address(&topic, request, held)
    }

    fn address(
        &self,
        topic: &Topic,
        request: ProduceRequest,
        held: HeldBytes,
    ) -> Result<Prepared, BrokerError> {
        let ProduceRequest { topic: name, partition, sequence, payload, .. } = request;
        let (partition, batch) = match payload.ok_or_else(no_payload)? {
            Payload::Batch(_) if sequence.is_some() => {
                return Err(invalid("sequence", "a batch carries its own"));
            }
            Payload::Batch(batch) => {
                (partition.ok_or_else(|| invalid("partition", "a batch needs it"))?, batch)
            }
            Payload::Record(record) => self.build(topic, partition, sequence, &[record])?,
            Payload::Records(it) => self.build(topic, partition, sequence, &it.records)?,
        };
        let request = produce::Request {
            acks: Ok(Acks::All),
            timeout_ms: TIMEOUT_MS,
            parts: vec![Part { topic: Bytes::from(name), partition, records: Some(batch) }],
            zstd_allowed: true,
        };
        Ok(Prepared { request, partition, held })
    }

    /// The topic by name; created if it is missing and the settings allow it, as the Kafka door does.
    async fn topic(&self, name: &str) -> Result<Arc<Topic>, BrokerError> {
        if let Some(topic) = self.hall.registry.topic(name) {
            return Ok(topic);
        }
        if self.hall.config.auto_create_topics {
            let refused = topics::auto_create(&self.hall, vec![name.to_owned()]).await;
            if let Some((_, refused)) = refused.into_iter().next() {
                return Err(refused);
            }
        }
        self.hall.registry.topic(name).ok_or_else(|| BrokerError::unknown_topic(name))
    }

    /// Some records as one batch, and its partition.
    fn build(
        &self,
        topic: &Topic,
        partition: Option<i32>,
        sequence: Option<Sequence>,
        records: &[Record],
    ) -> Result<(i32, Bytes), BrokerError> {
        let first = records.first().ok_or(BrokerError::NoRecords)?;
        let now = self.hall.clock.now();
        let mut builder = BatchBuilder::new(Codec::None);
        if let Some(sequence) = sequence {
            if partition.is_none() {
                return Err(invalid("partition", "a sequence is one partition's"));
            }
            builder = sequenced(builder, sequence)?;
        }
        records.iter().for_each(|record| push(&mut builder, record, now.wall.0));
        let batch = builder.build();
        let count = i32::try_from(topic.partition_count()).expect("partition counts are bounded");
        let partition = partition.unwrap_or_else(|| match &first.key {
            Some(key) => partitioner::partition_for_key(key, count.max(1)),
            None => self.sticky.choose(topic.id(), count, batch.len(), now.mono),
        });
        Ok((partition, batch))
    }

    async fn write(&self, request: ProduceRequest) -> Result<ProduceResponse, BrokerError> {
        let Prepared { request, partition, held } = self.prepare(request).await?;
        let result = produce::produce(&self.hall, request).await.pop();
        drop(held);
        Ok(written(partition, &result.expect("one part has one result")?))
    }
}

/// What a request takes of the node's budget.
fn size(payload: &Payload) -> usize {
    match payload {
        Payload::Batch(batch) => batch.len(),
        Payload::Record(record) => record.encoded_len(),
        Payload::Records(records) => records.encoded_len(),
    }
}

fn no_payload() -> BrokerError {
    invalid("payload", "it is missing")
}

fn sequenced(builder: BatchBuilder, sequence: Sequence) -> Result<BatchBuilder, BrokerError> {
    let Sequence { producer_id, producer_epoch, base_sequence } = sequence;
    let epoch = i16::try_from(producer_epoch).ok().filter(|epoch| *epoch >= 0);
    match epoch {
        Some(epoch) if producer_id >= 0 && base_sequence >= 0 => {
            Ok(builder.producer(ProducerId(producer_id), ProducerEpoch(epoch), base_sequence))
        }
        _ => Err(invalid("sequence", "id, epoch and sequence are those of InitProducer, from 0")),
    }
}

fn push(builder: &mut BatchBuilder, record: &Record, now_ms: i64) {
    let headers: Vec<_> =
        record.headers.iter().map(|it| (it.key.as_bytes(), it.value.as_deref())).collect();
    builder.push(NewRecord {
        timestamp: record.timestamp_ms.unwrap_or(now_ms),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    });
}

fn written(partition: i32, appended: &Appended) -> ProduceResponse {
    ProduceResponse {
        partition,
        base_offset: appended.base_offset.0,
        log_append_time_ms: appended.log_append_time.map(|time| time.0),
    }
}

fn invalid(field: &str, reason: &str) -> BrokerError {
    BrokerError::InvalidRequest(format!("{field}: {reason}"))
}

#[tonic::async_trait]
impl ProduceService for ProduceDoor {
    type ProduceStreamStream = ReceiverStream<Result<ProduceStreamResponse, Status>>;

    async fn init_producer(
        &self,
        _: Request<InitProducerRequest>,
    ) -> Result<Response<InitProducerResponse>, Status> {
        let hall = &self.desk.hall;
        hall.metrics.grpc_request(GrpcCall::InitProducer);
        let given = async { producers::init(hall, None).await.map_err(|it| errors::status(&it)) };
        let (id, epoch) = errors::guarded(hall, given).await?;
        let (producer_id, producer_epoch) = (id.0, epoch.0.into());
        Ok(Response::new(InitProducerResponse { producer_id, producer_epoch }))
    }

    async fn produce(
        &self,
        request: Request<ProduceRequest>,
    ) -> Result<Response<ProduceResponse>, Status> {
        let hall = &self.desk.hall;
        hall.metrics.grpc_request(GrpcCall::Produce);
        let written = async {
            self.desk.write(request.into_inner()).await.map_err(|error| errors::status(&error))
        };
        Ok(Response::new(errors::guarded(hall, written).await?))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        self.desk.hall.metrics.grpc_request(GrpcCall::ProduceStream);
        let requests = request.into_inner();
        let answers = stream::serve(Arc::clone(&self.desk), requests, self.shutdown.clone());
        Ok(Response::new(answers))
    }
}
