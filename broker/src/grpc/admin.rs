//! `AdminService`: topics, offsets, groups, settings. Each method is counted, kept from harming others by a bug of its
//! own, and translated in the file of its subject.

mod configs;
mod groups;
mod offsets;
mod topics;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use millrace_proto::v1::admin_service_server::AdminService;
use millrace_proto::v1::{
    AddPartitionsRequest, AddPartitionsResponse, AlterConfigRequest, AlterConfigResponse,
    CreateTopicRequest, CreateTopicResponse, DeleteGroupRequest, DeleteGroupResponse,
    DeleteOffsetsRequest, DeleteOffsetsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeClusterRequest, DescribeClusterResponse,
    DescribeConfigRequest, DescribeConfigResponse, DescribeGroupRequest, DescribeGroupResponse,
    DescribeTopicRequest, DescribeTopicResponse, ListGroupsRequest, ListGroupsResponse,
    ListOffsetsRequest, ListOffsetsResponse, ListTopicsRequest, ListTopicsResponse,
    ResetOffsetsRequest, ResetOffsetsResponse, WatchLagRequest, WatchLagResponse,
    WatchTopicsRequest,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::grpc::errors;
use crate::metrics::GrpcCall;
use crate::service::Hall;
use crate::shutdown::Shutdown;

/// How long a call without a deadline of its own may take.
const CALL_TIME_MAX: Duration = Duration::from_secs(60);

/// The service.
pub(super) struct AdminDoor {
    hall: Arc<Hall>,
    shutdown: Shutdown,
}

impl AdminDoor {
    pub(super) fn new(hall: Arc<Hall>, shutdown: Shutdown) -> Self {
        Self { hall, shutdown }
    }

    async fn answer<T>(
        &self,
        call: GrpcCall,
        work: impl Future<Output = Result<T, Status>> + Send,
    ) -> Result<Response<T>, Status> {
        self.hall.metrics.grpc_request(call);
        let work = Box::pin(errors::guarded(&self.hall, work));
        let answer = tokio::time::timeout(CALL_TIME_MAX, work).await;
        answer.map_err(|_| errors::deadline_exceeded())?.map(Response::new)
    }
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AdminService for AdminDoor {
    async fn create_topic(
        &self,
        request: Request<CreateTopicRequest>,
    ) -> Result<Response<CreateTopicResponse>, Status> {
        let work = topics::create(&self.hall, request.into_inner());
        self.answer(GrpcCall::CreateTopic, work).await
    }

    async fn list_topics(
        &self,
        request: Request<ListTopicsRequest>,
    ) -> Result<Response<ListTopicsResponse>, Status> {
        let work = topics::list(&self.hall, request.into_inner());
        self.answer(GrpcCall::ListTopics, work).await
    }

    async fn describe_topic(
        &self,
        request: Request<DescribeTopicRequest>,
    ) -> Result<Response<DescribeTopicResponse>, Status> {
        let work = topics::describe(&self.hall, request.into_inner());
        self.answer(GrpcCall::DescribeTopic, work).await
    }

    async fn delete_topic(
        &self,
        request: Request<DeleteTopicRequest>,
    ) -> Result<Response<DeleteTopicResponse>, Status> {
        let work = topics::delete(&self.hall, request.into_inner());
        self.answer(GrpcCall::DeleteTopic, work).await
    }

    async fn add_partitions(
        &self,
        request: Request<AddPartitionsRequest>,
    ) -> Result<Response<AddPartitionsResponse>, Status> {
        let work = topics::add_partitions(&self.hall, request.into_inner());
        self.answer(GrpcCall::AddPartitions, work).await
    }

    async fn list_offsets(
        &self,
        request: Request<ListOffsetsRequest>,
    ) -> Result<Response<ListOffsetsResponse>, Status> {
        let work = offsets::list(&self.hall, request.into_inner());
        self.answer(GrpcCall::ListOffsets, work).await
    }

    async fn delete_records(
        &self,
        request: Request<DeleteRecordsRequest>,
    ) -> Result<Response<DeleteRecordsResponse>, Status> {
        let work = offsets::delete_records(&self.hall, request.into_inner());
        self.answer(GrpcCall::DeleteRecords, work).await
    }

    async fn list_groups(
        &self,
        request: Request<ListGroupsRequest>,
    ) -> Result<Response<ListGroupsResponse>, Status> {
        let work = groups::list(&self.hall, request.into_inner());
        self.answer(GrpcCall::ListGroups, work).await
    }

    async fn describe_group(
        &self,
        request: Request<DescribeGroupRequest>,
    ) -> Result<Response<DescribeGroupResponse>, Status> {
        let work = groups::describe(&self.hall, request.into_inner());
        self.answer(GrpcCall::DescribeGroup, work).await
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let work = groups::delete(&self.hall, request.into_inner());
        self.answer(GrpcCall::DeleteGroup, work).await
    }

    async fn reset_offsets(
        &self,
        request: Request<ResetOffsetsRequest>,
    ) -> Result<Response<ResetOffsetsResponse>, Status> {
        let work = groups::reset_offsets(&self.hall, request.into_inner());
        self.answer(GrpcCall::ResetOffsets, work).await
    }

    async fn delete_offsets(
        &self,
        request: Request<DeleteOffsetsRequest>,
    ) -> Result<Response<DeleteOffsetsResponse>, Status> {
        let work = groups::delete_offsets(&self.hall, request.into_inner());
        self.answer(GrpcCall::DeleteOffsets, work).await
    }

    async fn describe_config(
        &self,
        request: Request<DescribeConfigRequest>,
    ) -> Result<Response<DescribeConfigResponse>, Status> {
        let work = configs::describe(&self.hall, request.into_inner());
        self.answer(GrpcCall::DescribeConfig, work).await
    }

    async fn alter_config(
        &self,
        request: Request<AlterConfigRequest>,
    ) -> Result<Response<AlterConfigResponse>, Status> {
        let work = configs::alter(&self.hall, request.into_inner());
        self.answer(GrpcCall::AlterConfig, work).await
    }

    async fn describe_cluster(
        &self,
        request: Request<DescribeClusterRequest>,
    ) -> Result<Response<DescribeClusterResponse>, Status> {
        let came_by = request.local_addr().map(|it| it.ip());
        let work = async { Ok(configs::describe_cluster(&self.hall, came_by)) };
        self.answer(GrpcCall::DescribeCluster, work).await
    }

    type WatchTopicsStream = Answers<ListTopicsResponse>;

    async fn watch_topics(
        &self,
        request: Request<WatchTopicsRequest>,
    ) -> Result<Response<Self::WatchTopicsStream>, Status> {
        let (hall, shutdown) = (Arc::clone(&self.hall), self.shutdown.clone());
        let work = async { Ok(watch::topics(hall, shutdown, &request.into_inner())) };
        self.answer(GrpcCall::WatchTopics, work).await
    }

    type WatchLagStream = Answers<WatchLagResponse>;

    async fn watch_lag(
        &self,
        request: Request<WatchLagRequest>,
    ) -> Result<Response<Self::WatchLagStream>, Status> {
        let (hall, shutdown) = (Arc::clone(&self.hall), self.shutdown.clone());
        self.answer(GrpcCall::WatchLag, watch::lag(hall, shutdown, request.into_inner())).await
    }
}
