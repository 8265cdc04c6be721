//! Topics, their partitions, offsets and records.

use millrace_proto::v1;

use crate::admin::{Admin, item};
use crate::{Error, StartAt};

/// A topic to be created.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "it does nothing before `create_topic`"]
pub struct NewTopic {
    request: v1::CreateTopicRequest,
}

impl NewTopic {
    /// A topic with the broker's default number of partitions, replicas and settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self { request: v1::CreateTopicRequest { name: name.into(), ..Default::default() } }
    }

    /// Default: the broker's `num.partitions`. More share the work among more consumers; fewer keep more records in one
    /// order. They can be added, never taken away, and keys then move.
    pub fn partitions(mut self, count: i32) -> Self {
        self.request.partitions = count;
        self
    }

    /// Default: the broker's.
    pub fn replication_factor(mut self, count: i32) -> Self {
        self.request.replication_factor = count;
        self
    }

    /// A setting by Kafka's name, e.g. `retention.ms`. Default: the broker's.
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), Some(value.into()));
        self.request.configs.push(v1::ConfigEntry { name, value });
        self
    }

    /// Only say whether it could be created.
    pub fn validate_only(mut self) -> Self {
        self.request.validate_only = true;
        self
    }
}

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSummary {
    pub name: String,
    /// Another one when the topic is deleted and created again.
    pub id: String,
    pub partitions: i32,
    pub replication_factor: i32,
    /// Kept by the broker for itself.
    pub internal: bool,
}

/// A topic with its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    pub topic: TopicSummary,
    pub partitions: Vec<PartitionDescription>,
    /// Settings that differ from the defaults: name and value.
    pub configs: Vec<(String, String)>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionDescription {
    pub partition: i32,
    /// -1: it has none just now.
    pub leader: i32,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync_replicas: Vec<i32>,
    /// The oldest record that is there. -1, as are the next two, where the broker cannot look into the partition.
    pub log_start: i64,
    /// Records below it may be read; -1: not known.
    pub high_watermark: i64,
    /// Bytes on disk; -1: not known.
    pub size_bytes: i64,
}

/// What was found at a position of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundOffset {
    pub partition: i32,
    pub offset: Result<i64, Error>,
    /// Of the record there, when the position was a time and one was found.
    pub timestamp_ms: Option<i64>,
}

/// Where a partition begins after records were deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeletedBefore {
    pub partition: i32,
    pub log_start: Result<i64, Error>,
}

impl Admin {
    /// Creates a topic, durable when answered.
    ///
    /// # Errors
    /// It exists, its name is illegal, a setting cannot be.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<TopicSummary, Error> {
        let request = self.client.request(topic.request);
        let answer = self.door().create_topic(request).await?.into_inner();
        answer.topic.map(TopicSummary::from).ok_or_else(|| Error::missing("the topic"))
    }

    /// All topics, by name, on request also those that the broker keeps for itself.
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub async fn list_topics(&self, include_internal: bool) -> Result<Vec<TopicSummary>, Error> {
        let answer = self.client.ask(|| async move {
            let request = self.client.request(v1::ListTopicsRequest { include_internal });
            Ok(self.door().list_topics(request).await?.into_inner())
        });
        Ok(summaries(answer.await?))
    }

    /// One topic with its partitions, offsets, sizes and settings.
    ///
    /// # Errors
    /// There is no such topic.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        let answer = self.client.ask(|| async move {
            let request = v1::DescribeTopicRequest { name: name.to_owned() };
            Ok(self.door().describe_topic(self.client.request(request)).await?.into_inner())
        });
        let answer = answer.await?;
        let setting = |it: v1::ConfigEntry| (it.name, it.value.unwrap_or_default());
        Ok(TopicDescription {
            topic: answer.topic.ok_or_else(|| Error::missing("the topic"))?.into(),
            partitions: answer.partitions.into_iter().map(PartitionDescription::from).collect(),
            configs: answer.configs.into_iter().map(setting).collect(),
        })
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// There is no such topic, or it is the broker's own.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest { name: name.to_owned() };
        self.door().delete_topic(self.client.request(request)).await?;
        Ok(())
    }

    /// Raises the number of partitions to `total`. Keys may then belong to other partitions than before.
    ///
    /// # Errors
    /// There is no such topic, or it has as many already.
    pub async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), Error> {
        self.grow(topic, total, false).await
    }

    /// Says whether [`Self::add_partitions`] would succeed.
    ///
    /// # Errors
    /// As it would.
    pub async fn validate_partitions(&self, topic: &str, total: i32) -> Result<(), Error> {
        self.grow(topic, total, true).await
    }

    async fn grow(&self, topic: &str, partitions: i32, validate_only: bool) -> Result<(), Error> {
        let request =
            v1::AddPartitionsRequest { topic: topic.to_owned(), partitions, validate_only };
        self.door().add_partitions(self.client.request(request)).await?;
        Ok(())
    }

    /// The offset at a position of each of these partitions; none: of all.
    ///
    /// # Errors
    /// There is no such topic. A partition that does not exist is an error of its own.
    pub async fn offsets(
        &self,
        topic: &str,
        partitions: &[i32],
        at: StartAt,
    ) -> Result<Vec<FoundOffset>, Error> {
        let answer = self.client.ask(|| async move {
            let request = v1::ListOffsetsRequest {
                topic: topic.to_owned(),
                partitions: partitions.to_vec(),
                position: Some(at.to_proto()),
            };
            Ok(self.door().list_offsets(self.client.request(request)).await?.into_inner())
        });
        let found = |it: v1::FoundOffset| FoundOffset {
            partition: it.partition,
            offset: item(it.status, it.offset),
            timestamp_ms: it.timestamp_ms,
        };
        Ok(answer.await?.offsets.into_iter().map(found).collect())
    }

    /// Moves the start of partitions up, each given with the offset below which records go, -1 for all that are safe to
    /// read. They are gone for good.
    ///
    /// # Errors
    /// There is no such topic. A partition that cannot is an error of its own.
    pub async fn delete_records(
        &self,
        topic: &str,
        partitions: &[(i32, i64)],
    ) -> Result<Vec<DeletedBefore>, Error> {
        let pair = |(partition, before): &(i32, i64)| v1::DeleteBefore {
            partition: *partition,
            before: *before,
        };
        let partitions = partitions.iter().map(pair).collect();
        let request = v1::DeleteRecordsRequest { topic: topic.to_owned(), partitions };
        let answer = self.door().delete_records(self.client.request(request)).await?.into_inner();
        let deleted = |it: v1::DeletedBefore| DeletedBefore {
            partition: it.partition,
            log_start: item(it.status, it.log_start),
        };
        Ok(answer.partitions.into_iter().map(deleted).collect())
    }
}

pub(super) fn summaries(answer: v1::ListTopicsResponse) -> Vec<TopicSummary> {
    answer.topics.into_iter().map(TopicSummary::from).collect()
}

impl From<v1::TopicSummary> for TopicSummary {
    fn from(it: v1::TopicSummary) -> Self {
        Self {
            name: it.name,
            id: it.id,
            partitions: it.partitions,
            replication_factor: it.replication_factor,
            internal: it.internal,
        }
    }
}

impl From<v1::PartitionDescription> for PartitionDescription {
    fn from(it: v1::PartitionDescription) -> Self {
        Self {
            partition: it.partition,
            leader: it.leader,
            leader_epoch: it.leader_epoch,
            replicas: it.replicas,
            in_sync_replicas: it.in_sync_replicas,
            log_start: it.log_start,
            high_watermark: it.high_watermark,
            size_bytes: it.size_bytes,
        }
    }
}
