//! Committed offsets of one group: what a commit, a deletion and time make of them, as records.
//!
//! Decides and keeps; whether the committer may commit is the group's business (`classic.rs`). A change becomes true
//! only when its record is applied.

use std::collections::BTreeMap;

use millrace_model::env::WallMs;
use millrace_model::ids::{GroupId, PartitionIndex, TopicName};

use super::GroupSettings;
use super::command::{
    CommitOffset, CommitOffsets, FetchedOffset, GroupError, PartitionResults, PerTopic,
};
use super::record::{Committed, Record, TEXT_BYTES_MAX};

#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// Invariant: no empty inner map.
    topics: BTreeMap<TopicName, BTreeMap<PartitionIndex, Committed>>,
    /// Invariant: the number of offsets in `topics`.
    count: usize,
}

/// From when a group's offsets age (Kafka's `OffsetExpirationCondition`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aging {
    /// All from the moment when the group became empty.
    Since(WallMs),
    /// Each from its commit.
    SinceCommit,
    /// Members hold them.
    Never,
}

impl Offsets {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn put(&mut self, topic: TopicName, partition: PartitionIndex, value: Committed) {
        if self.topics.entry(topic).or_default().insert(partition, value).is_none() {
            self.count += 1;
        }
    }

    pub(super) fn remove(&mut self, topic: &TopicName, partition: PartitionIndex) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        if partitions.remove(&partition).is_some() {
            self.count -= 1;
        }
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
    }

    fn get(&self, topic: &TopicName, partition: PartitionIndex) -> Option<&Committed> {
        self.topics.get(topic)?.get(&partition)
    }

    /// Offsets that follow `after` in the order of topic and partition.
    pub(super) fn iter_after<'a>(
        &'a self,
        after: Option<&'a (TopicName, PartitionIndex)>,
    ) -> impl Iterator<Item = (&'a TopicName, PartitionIndex, &'a Committed)> {
        let topics = match after {
            Some((topic, _)) => self.topics.range(topic.clone()..),
            None => self.topics.range::<TopicName, _>(..),
        };
        topics
            .flat_map(|(topic, of)| of.iter().map(move |(index, value)| (topic, *index, value)))
            .filter(move |(topic, index, _)| {
                after.is_none_or(|(after_topic, after_index)| {
                    *topic != after_topic || index > after_index
                })
            })
    }

    /// `None` asks for everything; an unknown partition is no error.
    pub(super) fn fetch(
        &self,
        topics: Option<Vec<PerTopic<Vec<PartitionIndex>>>>,
    ) -> Vec<PerTopic<Vec<FetchedOffset>>> {
        let Some(topics) = topics else { return self.fetch_all() };
        let of_topic = |PerTopic { topic, partitions }: PerTopic<Vec<_>>| {
            let one = |partition| FetchedOffset {
                partition,
                committed: self.get(&topic, partition).cloned(),
            };
            PerTopic { partitions: partitions.into_iter().map(one).collect(), topic }
        };
        topics.into_iter().map(of_topic).collect()
    }

    fn fetch_all(&self) -> Vec<PerTopic<Vec<FetchedOffset>>> {
        let one = |(index, value): (&PartitionIndex, &Committed)| FetchedOffset {
            partition: *index,
            committed: Some(value.clone()),
        };
        let of_topic = |(topic, of): (&TopicName, &BTreeMap<_, _>)| PerTopic {
            topic: topic.clone(),
            partitions: of.iter().map(one).collect(),
        };
        self.topics.iter().map(of_topic).collect()
    }

    /// The records of a commit, and what to answer for each partition.
    ///
    /// # Errors
    /// [`GroupError::InvalidCommitOffsetSize`] when the group would keep more than [`super::GROUP_OFFSETS_MAX`].
    pub(super) fn decide_commit(
        &self,
        settings: &GroupSettings,
        now: WallMs,
        commit: CommitOffsets,
    ) -> Result<(Vec<Record>, Vec<PerTopic<PartitionResults>>), GroupError> {
        let expires_at =
            commit.retention_ms.map(|retention| WallMs(now.0.saturating_add(retention)));
        let mut records = Vec::new();
        let mut results = Vec::with_capacity(commit.topics.len());
        let mut added = 0;
        for PerTopic { topic, partitions } in commit.topics {
            let mut of_topic = Vec::with_capacity(partitions.len());
            for CommitOffset { partition, offset, leader_epoch, metadata, topic_id } in partitions {
                // Kafka counts the characters of a Java text, UTF-16 units, whatever the setting's name says.
                let length = metadata.encode_utf16().count();
                if length > settings.offset_metadata_max || metadata.len() > TEXT_BYTES_MAX {
                    of_topic.push((partition, Err(GroupError::OffsetMetadataTooLarge)));
                    continue;
                }
                of_topic.push((partition, Ok(())));
                added += usize::from(self.get(&topic, partition).is_none());
                records.push(Record::Offset {
                    group: commit.group.clone(),
                    topic: topic.clone(),
                    partition,
                    value: Some(Committed {
                        offset,
                        leader_epoch,
                        metadata,
                        committed_at: now,
                        expires_at,
                        topic_id,
                    }),
                });
            }
            results.push(PerTopic { topic, partitions: of_topic });
        }
        if added > 0 && self.count + added > super::GROUP_OFFSETS_MAX {
            return Err(GroupError::InvalidCommitOffsetSize);
        }
        Ok((records, results))
    }

    /// Deletes what is there of the named partitions, but not of topics that members read.
    pub(super) fn decide_delete(
        &self,
        group: &GroupId,
        topics: Vec<PerTopic<Vec<PartitionIndex>>>,
        is_subscribed_to: impl Fn(&TopicName) -> bool,
    ) -> (Vec<Record>, Vec<PerTopic<PartitionResults>>) {
        let mut records = Vec::new();
        let of_topic = |PerTopic { topic, partitions }: PerTopic<Vec<_>>| {
            let subscribed = is_subscribed_to(&topic);
            let mut one = |partition| {
                if subscribed {
                    return (partition, Err(GroupError::GroupSubscribedToTopic));
                }
                if self.get(&topic, partition).is_some() {
                    records.push(deletion(group, &topic, partition));
                }
                (partition, Ok(()))
            };
            let partitions = partitions.into_iter().map(&mut one).collect();
            PerTopic { topic, partitions }
        };
        let results = topics.into_iter().map(of_topic).collect();
        (records, results)
    }

    pub(super) fn delete_all(&self, group: &GroupId) -> Vec<Record> {
        self.iter_after(None).map(|(topic, index, _)| deletion(group, topic, index)).collect()
    }

    pub(super) fn delete_topic(&self, group: &GroupId, topic: &TopicName) -> Vec<Record> {
        let of = self.topics.get(topic);
        of.into_iter().flatten().map(|(index, _)| deletion(group, topic, *index)).collect()
    }

    /// Deletes what is older than the retention, but not of topics that members read.
    pub(super) fn expire(
        &self,
        group: &GroupId,
        now: WallMs,
        retention_ms: i64,
        aging: Aging,
        is_subscribed_to: impl Fn(&TopicName) -> bool,
    ) -> Vec<Record> {
        let expired = |value: &Committed| match (aging, value.expires_at) {
            (Aging::Never, _) => false,
            (_, Some(at)) => now >= at,
            (Aging::Since(since), None) => now.0.saturating_sub(since.0) >= retention_ms,
            (Aging::SinceCommit, None) => {
                now.0.saturating_sub(value.committed_at.0) >= retention_ms
            }
        };
        let mut records = Vec::new();
        for (topic, of) in &self.topics {
            if aging != Aging::Never && !is_subscribed_to(topic) {
                let old = of.iter().filter(|(_, value)| expired(value));
                records.extend(old.map(|(index, _)| deletion(group, topic, *index)));
            }
        }
        records
    }

    /// Would these deletions leave nothing?
    pub(super) fn are_all(&self, deleted: &[Record]) -> bool {
        deleted.len() == self.count
    }
}

fn deletion(group: &GroupId, topic: &TopicName, partition: PartitionIndex) -> Record {
    Record::Offset { group: group.clone(), topic: topic.clone(), partition, value: None }
}
