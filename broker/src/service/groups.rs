//! Consumer groups: find the partition of `__consumer_offsets` that coordinates a group, and ask its owner.

use std::time::Duration;

use millrace_kernel::group::{
    FetchOffsets, FetchedOffset, GroupCommand, GroupDescription, GroupError, GroupReply, PerTopic,
};
use millrace_model::ids::{GroupId, TopicName};
use millrace_model::partitioner;
use tokio::sync::oneshot;

use crate::error::BrokerError;
use crate::partition::handle::{Message, PartitionHandle};
use crate::service::{Hall, topics};

/// The longest that a coordinator may take: a join waits for the slowest member's rebalance timeout, which a client
/// chooses; beyond this the request is answered with a retriable error.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(60 * 60);

/// A command on its way to a coordinator.
pub(crate) struct Call {
    pub(crate) command: GroupCommand,
    pub(crate) reply: Reply,
}

/// A coordinator's duty to answer.
pub(crate) struct Reply(oneshot::Sender<Result<GroupReply, BrokerError>>);

impl Reply {
    pub(crate) fn send(self, reply: Result<GroupReply, BrokerError>) {
        // The client may have gone; then nobody wants the answer.
        let _ = self.0.send(reply);
    }
}

/// Why something about a group was not told or done.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum GroupFailed {
    #[error(transparent)]
    Refused(#[from] GroupError),
    #[error(transparent)]
    Unreachable(#[from] BrokerError),
}

/// Asks the coordinator of `group`.
///
/// # Errors
/// No coordinator is ready, or it stopped.
pub(crate) async fn call(
    hall: &Hall,
    group: &GroupId,
    command: GroupCommand,
) -> Result<GroupReply, BrokerError> {
    let coordinator = coordinator(hall, group).await?;
    ask(&coordinator, command).await
}

/// A group as its coordinator sees it.
///
/// # Errors
/// There is no such group, or nobody who knows.
pub(crate) async fn describe(
    hall: &Hall,
    group: &GroupId,
) -> Result<GroupDescription, GroupFailed> {
    let command = GroupCommand::Describe { group: group.clone() };
    match call(hall, group, command).await? {
        GroupReply::Describe(description) => Ok(description?),
        other => unreachable!("a describe was answered with {other:?}"),
    }
}

/// All that a group has committed; nothing for a group that does not exist.
///
/// # Errors
/// The coordinator refuses, or there is none.
pub(crate) async fn committed(
    hall: &Hall,
    group: &GroupId,
) -> Result<Vec<PerTopic<Vec<FetchedOffset>>>, GroupFailed> {
    let fetch = FetchOffsets { group: group.clone(), topics: None };
    match call(hall, group, GroupCommand::FetchOffsets(fetch)).await? {
        GroupReply::FetchOffsets(found) => Ok(found?),
        other => unreachable!("an offset fetch was answered with {other:?}"),
    }
}

/// Asks every coordinator of this broker: for listings.
pub(crate) async fn call_all(
    hall: &Hall,
    command: impl Fn() -> GroupCommand,
) -> Vec<Result<GroupReply, BrokerError>> {
    let Some(topic) = hall.registry.topic(TopicName::CONSUMER_OFFSETS) else { return Vec::new() };
    let mut replies = Vec::with_capacity(topic.partition_count());
    for coordinator in topic.open_partitions() {
        replies.push(ask(coordinator, command()).await);
    }
    replies
}

/// The partition that coordinates `group`: Java's string hash over the partition count, because tools compute it too.
pub(crate) async fn coordinator(
    hall: &Hall,
    group: &GroupId,
) -> Result<PartitionHandle, BrokerError> {
    let topic = topics::ensure_consumer_offsets(hall).await?;
    let count = i32::try_from(topic.partition_count()).expect("the controller bounds counts");
    let index = partitioner::coordinator_partition(group.as_str(), count);
    let not_open =
        |_| BrokerError::CoordinatorNotAvailable { reason: "the group's partition is not open" };
    topic.partition(index).cloned().map_err(not_open)
}

async fn ask(
    coordinator: &PartitionHandle,
    command: GroupCommand,
) -> Result<GroupReply, BrokerError> {
    let (reply, answer) = oneshot::channel();
    coordinator.post(Message::Group(Box::new(Call { command, reply: Reply(reply) })));
    match tokio::time::timeout(REPLY_WAIT_MAX, answer).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(_)) | Err(_) => {
            Err(BrokerError::CoordinatorNotAvailable { reason: "the coordinator stopped" })
        }
    }
}

/// Tells a coordinator that a topic is gone; nobody waits for its answer.
pub(crate) fn forget_topic(coordinator: &PartitionHandle, topic: TopicName) {
    let (reply, _) = oneshot::channel();
    let command = GroupCommand::ForgetTopic { topic };
    coordinator.post(Message::Group(Box::new(Call { command, reply: Reply(reply) })));
}
