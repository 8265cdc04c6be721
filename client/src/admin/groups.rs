//! Consumer groups: who is in them, how far they are, and moving that.

use millrace_proto::v1;

use crate::admin::{Admin, item};
use crate::{CommitOffset, Error, StartAt, TopicPartition};

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupSummary {
    pub group: String,
    /// Empty, PreparingRebalance, CompletingRebalance, Stable.
    pub state: String,
    pub protocol_type: String,
}

/// A group with its members and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    pub group: GroupSummary,
    /// How it assigns, once it is stable.
    pub protocol: String,
    /// The broker that coordinates it.
    pub coordinator: i32,
    pub members: Vec<MemberDescription>,
    pub partitions: Vec<PartitionLag>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberDescription {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub assignment: Vec<TopicPartition>,
}

/// How far a group is in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionLag {
    pub topic: String,
    pub partition: i32,
    /// None: nothing is committed.
    pub committed: Option<i64>,
    pub metadata: String,
    /// -1, as are the next three, where the broker cannot look into the partition: its topic is deleted, for example.
    pub log_start: i64,
    pub high_watermark: i64,
    /// Records between the committed offset, or the start, and the high watermark; -1: not known.
    pub lag: i64,
    /// Age in milliseconds of the first record that is not committed; 0 without lag; -1: not known.
    pub lag_ms: i64,
    /// Who reads it now.
    pub member_id: Option<String>,
}

/// A committed offset that was, or would be, moved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResetOffset {
    pub partition: i32,
    /// None: nothing was committed.
    pub before: Option<i64>,
    pub after: Result<i64, Error>,
}

/// What became of one partition of a request with several.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemResult {
    pub partition: TopicPartition,
    pub result: Result<(), Error>,
}

impl Admin {
    /// The groups in one of these states, by name; without states all.
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub async fn list_groups(&self, states: &[String]) -> Result<Vec<GroupSummary>, Error> {
        let answer = self.client.ask(|| async move {
            let request = v1::ListGroupsRequest { states: states.to_vec() };
            Ok(self.door().list_groups(self.client.request(request)).await?.into_inner())
        });
        Ok(answer.await?.groups.into_iter().map(GroupSummary::from).collect())
    }

    /// A group with members, committed offsets and lag.
    ///
    /// # Errors
    /// There is no such group.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, Error> {
        let answer = self.client.ask(|| async move {
            let request = v1::DescribeGroupRequest { group: group.to_owned() };
            Ok(self.door().describe_group(self.client.request(request)).await?.into_inner())
        });
        let answer = answer.await?;
        Ok(GroupDescription {
            group: answer.group.ok_or_else(|| Error::missing("the group"))?.into(),
            protocol: answer.protocol,
            coordinator: answer.coordinator,
            members: answer.members.into_iter().map(MemberDescription::from).collect(),
            partitions: answer.partitions.into_iter().map(PartitionLag::from).collect(),
        })
    }

    /// Deletes a group without members, and what it committed.
    ///
    /// # Errors
    /// There is no such group, or it has members.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        let request = v1::DeleteGroupRequest { group: group.to_owned() };
        self.door().delete_group(self.client.request(request)).await?;
        Ok(())
    }

    /// Sets what a group without members has committed for these partitions of a topic, none: for all. An offset outside
    /// the log becomes its nearest end. A dry run only says what would be committed.
    ///
    /// # Errors
    /// The group has members, or there is no such topic. A partition that cannot is an error of its own.
    pub async fn reset_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[i32],
        to: StartAt,
        dry_run: bool,
    ) -> Result<Vec<ResetOffset>, Error> {
        let request = v1::ResetOffsetsRequest {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
            position: Some(to.to_proto()),
            dry_run,
        };
        let answer = self.door().reset_offsets(self.client.request(request)).await?.into_inner();
        let moved = |it: v1::ResetOffset| ResetOffset {
            partition: it.partition,
            before: it.before,
            after: item(it.status, it.after),
        };
        Ok(answer.offsets.into_iter().map(moved).collect())
    }

    /// Forgets what a group has committed for these partitions.
    ///
    /// # Errors
    /// There is no such group. A partition that members read is an error of its own.
    pub async fn delete_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<ItemResult>, Error> {
        let partitions = partitions.iter().map(TopicPartition::to_proto).collect();
        let request = v1::DeleteOffsetsRequest { group: group.to_owned(), partitions };
        let answer = self.door().delete_offsets(self.client.request(request)).await?.into_inner();
        let forgotten = |it: v1::CommitForgotten| ItemResult {
            partition: TopicPartition::new(it.topic, it.partition),
            result: Error::of_item(it.status),
        };
        Ok(answer.partitions.into_iter().map(forgotten).collect())
    }

    /// Commits offsets for a group that has no members: for those who read on their own and keep their place with the
    /// broker. Members commit by [`Consumer::commit`](crate::Consumer::commit).
    ///
    /// # Errors
    /// The group has members. A partition that cannot is an error of its own.
    pub async fn commit_offsets(
        &self,
        group: &str,
        offsets: &[CommitOffset],
    ) -> Result<Vec<ItemResult>, Error> {
        let request = v1::CommitRequest {
            group: group.to_owned(),
            offsets: offsets.iter().map(CommitOffset::to_proto).collect(),
            member_id: None,
            generation: None,
        };
        let mut door = self.client.consume_door();
        let answer = door.commit(self.client.request(request)).await?.into_inner();
        Ok(answer.results.into_iter().map(ItemResult::from).collect())
    }
}

impl From<v1::CommitResult> for ItemResult {
    fn from(it: v1::CommitResult) -> Self {
        Self {
            partition: TopicPartition::new(it.topic, it.partition),
            result: Error::of_item(it.status),
        }
    }
}

impl From<v1::GroupSummary> for GroupSummary {
    fn from(it: v1::GroupSummary) -> Self {
        Self { group: it.group, state: it.state, protocol_type: it.protocol_type }
    }
}

impl From<v1::MemberDescription> for MemberDescription {
    fn from(it: v1::MemberDescription) -> Self {
        Self {
            member_id: it.member_id,
            instance_id: it.instance_id,
            client_id: it.client_id,
            client_host: it.client_host,
            assignment: it.assignment.into_iter().map(TopicPartition::from).collect(),
        }
    }
}

impl From<v1::PartitionLag> for PartitionLag {
    fn from(it: v1::PartitionLag) -> Self {
        Self {
            topic: it.topic,
            partition: it.partition,
            committed: it.committed,
            metadata: it.metadata,
            log_start: it.log_start,
            high_watermark: it.high_watermark,
            lag: it.lag,
            lag_ms: it.lag_ms,
            member_id: Some(it.member_id).filter(|id| !id.is_empty()),
        }
    }
}
