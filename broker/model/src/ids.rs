//! Ids: newtypes that are legal once they exist. Parsing happens here, nowhere else.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A broker of this cluster (Kafka's `node.id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a topic for its whole life; a topic created again under the same name gets a new one (KIP-516).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// Kafka's `Uuid.ZERO_UUID`: "no id" on the wire, never a topic.
    pub const ZERO: Self = Self([0; 16]);

    /// Reads Kafka's text form: URL-safe base64 without padding.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

/// Why a text is no topic name (Kafka's `Topic.validate`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    #[error("topic name is empty")]
    Empty,
    #[error("topic name cannot be \".\" or \"..\"")]
    Dots,
    #[error("topic name has {length} bytes, at most {max} are legal", max = TopicName::LENGTH_MAX)]
    TooLong { length: usize },
    #[error(
        "topic name {name:?} has a character other than ASCII letters, digits, '.', '_' and '-'"
    )]
    IllegalCharacter { name: String },
}

/// A legal topic name: 1 to 249 of `[a-zA-Z0-9._-]`, neither "." nor "..". Safe as a part of a file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    pub const LENGTH_MAX: usize = 249;
    /// Where consumer groups keep their state.
    pub const CONSUMER_OFFSETS: &'static str = "__consumer_offsets";
    /// Where the cluster keeps its metadata; never visible to clients.
    pub const CLUSTER_METADATA: &'static str = "__cluster_metadata";

    /// # Errors
    /// [`InvalidTopicName`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidTopicName> {
        if text.is_empty() {
            return Err(InvalidTopicName::Empty);
        }
        if text == "." || text == ".." {
            return Err(InvalidTopicName::Dots);
        }
        if text.len() > Self::LENGTH_MAX {
            return Err(InvalidTopicName::TooLong { length: text.len() });
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !text.bytes().all(legal) {
            return Err(InvalidTopicName::IllegalCharacter { name: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Written by the broker itself: clients may read it, never produce to it.
    pub fn is_internal(&self) -> bool {
        matches!(self.as_str(), Self::CONSUMER_OFFSETS | "__transaction_state")
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

/// Position of a partition in its topic, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionIndex(pub i32);

impl fmt::Display for PartitionIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition by name; displays as Kafka's directory name `topic-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: TopicName,
    pub partition: PartitionIndex,
}

impl TopicPartition {
    pub fn new(topic: TopicName, partition: PartitionIndex) -> Self {
        Self { topic, partition }
    }

    /// Reads the directory form `topic-0`; the partition is what follows the last hyphen.
    pub fn parse(text: &str) -> Option<Self> {
        let (topic, partition) = text.rsplit_once('-')?;
        if partition.is_empty() || !partition.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            topic: TopicName::parse(topic).ok()?,
            partition: PartitionIndex(partition.parse().ok()?),
        })
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A consumer group's name. Kafka allows any text, the empty one included (only for old offset commits).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(Arc<str>);

impl GroupId {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for GroupId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An idempotent producer (KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl ProducerId {
    /// "No producer id": the batch is not idempotent.
    pub const NONE: Self = Self(-1);
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Generation of a producer id; a higher one fences the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(pub i16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafkas_rules() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert!(TopicName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", "a\0", &"x".repeat(250)] {
            assert!(TopicName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn topic_partition_survives_its_directory_name() {
        let it = TopicPartition::new(TopicName::parse("a-1-b").unwrap(), PartitionIndex(12));
        assert_eq!(TopicPartition::parse(&it.to_string()), Some(it));
        for bad in ["a", "a-", "-1", "a--1x", "a-+1", "a-99999999999"] {
            assert_eq!(TopicPartition::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn topic_id_text_is_kafkas() {
        let id = TopicId([0xff; 16]);
        assert_eq!(TopicId::parse(&id.to_string()), Some(id));
        assert_eq!(TopicId::parse("short"), None);
    }
}
