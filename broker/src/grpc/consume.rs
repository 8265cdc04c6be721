//! `ConsumeService`: records as they arrive, alone or as a member of a consumer group; and commits.
//!
//! The service only starts things. [`stream`] is the task of one stream: it reads ([`read`]) from where its client stands
//! ([`cursors`]) whenever the client can take an answer. [`member`] holds the client's place in its group, [`holders`]
//! knows which stream is which member's, and [`commit`] translates commits, in a stream or beside it.

mod commit;
mod cursors;
mod holders;
mod member;
mod read;
mod stream;

use std::sync::Arc;

use millrace_kernel::group::{Generation, GroupError, MemberId};
use millrace_model::ids::GroupId;
use millrace_model::offset::Offset;
use millrace_proto::v1::consume_service_server::ConsumeService;
use millrace_proto::v1::position::At;
use millrace_proto::v1::{CommitRequest, CommitResponse, ConsumeRequest, Edge, Position};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::consume::commit::Committer;
use crate::grpc::consume::holders::Holders;
use crate::grpc::errors;
use crate::metrics::GrpcCall;
use crate::service::Hall;
use crate::service::offsets::Place;
use crate::shutdown::Shutdown;

/// The service.
pub(super) struct ConsumeDoor {
    hall: Arc<Hall>,
    holders: Arc<Holders>,
    shutdown: Shutdown,
}

impl ConsumeDoor {
    pub(super) fn new(hall: Arc<Hall>, shutdown: Shutdown) -> Self {
        Self { hall, holders: Arc::default(), shutdown }
    }

    async fn commit_now(&self, request: CommitRequest) -> Result<CommitResponse, Status> {
        if request.group.is_empty() {
            return Err(errors::group_status(GroupError::InvalidGroupId));
        }
        let by = Committer {
            group: GroupId::new(&request.group),
            member: MemberId::new(request.member_id.as_deref().unwrap_or_default()),
            generation: request.generation.map_or(Generation::NONE, Generation),
            instance: None,
        };
        let results = commit::commit(&self.hall, by, request.offsets).await;
        Ok(CommitResponse { results: results.map_err(|it| errors::group_failed(&it))? })
    }
}

#[tonic::async_trait]
impl ConsumeService for ConsumeDoor {
    type ConsumeStream = ReceiverStream<stream::Answer>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        self.hall.metrics.grpc_request(GrpcCall::Consume);
        // As Kafka shows hosts in group descriptions.
        let host = request.remote_addr().map(|it| format!("/{}", it.ip().to_canonical()));
        let (hall, holders) = (Arc::clone(&self.hall), Arc::clone(&self.holders));
        let (requests, host) = (request.into_inner(), host.unwrap_or_default());
        let answers = stream::serve(hall, holders, requests, host, self.shutdown.clone());
        Ok(Response::new(answers))
    }

    async fn commit(
        &self,
        request: Request<CommitRequest>,
    ) -> Result<Response<CommitResponse>, Status> {
        self.hall.metrics.grpc_request(GrpcCall::Commit);
        let committed = self.commit_now(request.into_inner());
        Ok(Response::new(errors::guarded(&self.hall, committed).await?))
    }
}

/// A position as the hall knows places.
fn place(position: &Position) -> Result<Place, Status> {
    let unknown = || errors::invalid("position", "it says nothing");
    match position.at.ok_or_else(unknown)? {
        At::Offset(offset) => Ok(Place::At(Offset(offset))),
        At::TimestampMs(time) => Ok(Place::Since(time)),
        At::Edge(edge) => match Edge::try_from(edge) {
            Ok(Edge::Earliest) => Ok(Place::Start),
            Ok(Edge::Latest) => Ok(Place::End),
            Ok(Edge::Unspecified) | Err(_) => Err(unknown()),
        },
    }
}
