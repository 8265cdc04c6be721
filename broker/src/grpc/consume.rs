//! `ConsumeService`: one partition as a stream of batches.
//!
//! The stream is pulled: the next fetch begins when the transport has room for its answer, so a slow consumer holds
//! one answer here and no more.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use millrace_model::batch::BatchHeader;
use millrace_model::ids::TopicId;
use millrace_model::offset::Offset;
use millrace_proto::v1::consume_service_server::ConsumeService;
use millrace_proto::v1::{ConsumeRequest, ConsumeResponse};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::error::BrokerError;
use crate::grpc::errors;
use crate::metrics::GrpcCall;
use crate::service::Hall;
use crate::service::fetch::{self, Part};
use crate::shutdown::Shutdown;

/// Records in one answer, unless one batch is larger.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// How long one fetch waits for records before it looks whether the topic is still there.
const WAIT: Duration = Duration::from_secs(5);

/// The service.
pub(super) struct ConsumeDoor {
    hall: Arc<Hall>,
    shutdown: Shutdown,
}

impl ConsumeDoor {
    pub(super) fn new(hall: Arc<Hall>, shutdown: Shutdown) -> Self {
        Self { hall, shutdown }
    }
}

#[tonic::async_trait]
impl ConsumeService for ConsumeDoor {
    type ConsumeStream = Pin<Box<dyn Stream<Item = Result<ConsumeResponse, Status>> + Send>>;

    async fn consume(
        &self,
        request: Request<ConsumeRequest>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        self.hall.metrics.grpc_request(GrpcCall::Consume);
        let ConsumeRequest { topic, partition, offset } = request.into_inner();
        let (found, _) =
            self.hall.registry.leader(&topic, partition).map_err(|e| errors::status(&e))?;
        let cursor = Cursor {
            hall: Arc::clone(&self.hall),
            shutdown: self.shutdown.clone(),
            topic,
            topic_id: found.id(),
            partition,
            next: Offset(offset),
        };
        // An error ends the stream: the state that would go on is given up.
        let answers = stream::unfold(Some(cursor), |cursor| async {
            let mut cursor = cursor?;
            let hall = Arc::clone(&cursor.hall);
            match errors::guarded(&hall, cursor.advance()).await {
                Ok(answer) => Some((Ok(answer), Some(cursor))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Where one consumer stands.
struct Cursor {
    hall: Arc<Hall>,
    shutdown: Shutdown,
    topic: String,
    /// A topic created again under the same name is another topic, with other offsets.
    topic_id: TopicId,
    partition: i32,
    next: Offset,
}

impl Cursor {
    /// Waits for the next records and steps over them.
    async fn advance(&mut self) -> Result<ConsumeResponse, Status> {
        loop {
            let request = self.request()?;
            let answers = tokio::select! {
                answers = fetch::fetch(&self.hall, &request) => answers,
                () = self.shutdown.requested() => {
                    return Err(errors::status(&BrokerError::ShuttingDown));
                }
            };
            let answer = answers.into_iter().next().expect("one part has one answer");
            let collected = answer.map_err(|error| errors::status(&error))?;
            let high_watermark = collected.high_watermark.0;
            // Ranges of several segments come in several answers: the next fetch goes on behind the first.
            let Some(range) = collected.into_ranges().into_iter().next() else { continue };
            let batches = range.bytes().map_err(|fault| {
                errors::status(&BrokerError::Storage { reason: fault.to_string().into() })
            })?;
            if range.poisoned() {
                let reason = "a page of the segment did not load".into();
                return Err(errors::status(&BrokerError::Storage { reason }));
            }
            self.next = next_offset(&batches).unwrap_or(self.next);
            return Ok(ConsumeResponse { batches, next_offset: self.next.0, high_watermark });
        }
    }

    fn request(&self) -> Result<fetch::Request, Status> {
        let found = self.hall.registry.leader(&self.topic, self.partition);
        let (topic, partition) = found.map_err(|error| errors::status(&error))?;
        if topic.id() != self.topic_id {
            return Err(errors::status(&BrokerError::UnknownTopicId { id: self.topic_id }));
        }
        let part = Part {
            partition: Ok(partition),
            offset: self.next,
            max_bytes: ANSWER_BYTES_MAX,
            current_leader_epoch: None,
        };
        let max_wait = WAIT;
        Ok(fetch::Request {
            max_wait,
            min_bytes: 1,
            max_bytes: ANSWER_BYTES_MAX,
            parts: vec![part],
        })
    }
}

/// The offset behind the last of several whole batches.
fn next_offset(mut batches: &[u8]) -> Option<Offset> {
    let mut next = None;
    while let Ok(header) = BatchHeader::parse(batches) {
        next = Some(header.next_offset());
        batches = batches.get(header.size_bytes as usize..).unwrap_or_default();
    }
    next
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millrace_model::record::{BatchBuilder, NewRecord};

    use super::*;

    fn batch(base: i64, count: usize) -> Bytes {
        let mut builder = BatchBuilder::default();
        for _ in 0..count {
            builder.push(NewRecord::default());
        }
        let mut bytes = builder.build().to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn the_next_offset_follows_the_last_batch() {
        assert_eq!(next_offset(&[]), None);
        assert_eq!(next_offset(&batch(7, 3)), Some(Offset(10)));
        let two = [batch(7, 3), batch(10, 1)].concat();
        assert_eq!(next_offset(&two), Some(Offset(11)));
    }
}
