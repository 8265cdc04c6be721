//! Requests that every test makes, and their answers, in few words.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest,
    ProduceRequest, ProduceResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use millrace_wire::cold::{topic_id, topic_id_bytes};

use crate::kafka::Connection;
use crate::process::{judges_another, until};

/// The versions that the shortcuts speak; [`FETCH`] is the newest that names topics.
pub const CREATE_TOPICS: i16 = 7;
pub const PRODUCE: i16 = 11;
pub const FETCH: i16 = 12;
pub const LIST_OFFSETS: i16 = 8;
pub const INIT_PRODUCER_ID: i16 = 4;

/// The first Fetch that names topics by id.
const FETCH_BY_ID: i16 = 13;

/// The id of a topic.
pub type TopicId = [u8; 16];

/// Text as the protocol crate wants it.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name as the protocol crate wants it.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A name that no other test of this run has, and no earlier run either.
pub fn fresh(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{:x}-{}-{count}", crate::records::now_ms(), std::process::id())
}

/// A topic to create.
pub fn new_topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let config = |&(name, value): &(&str, &str)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.iter().map(config).collect())
}

/// One batch for each of some partitions of one topic.
pub fn produce_request(acks: i16, topic: &str, parts: &[(i32, Bytes)]) -> ProduceRequest {
    let part = |(index, records): &(i32, Bytes)| {
        PartitionProduceData::default().with_index(*index).with_records(Some(records.clone()))
    };
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(parts.iter().map(part).collect());
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// The answers of a produce request, in order.
pub fn produced(response: ProduceResponse) -> Vec<PartitionProduceResponse> {
    response.responses.into_iter().flat_map(|topic| topic.partition_responses).collect()
}

/// A fetch request for one topic, of the limits that a test wants.
#[derive(Clone, Debug)]
pub struct Fetch {
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// Partition, offset, greatest number of bytes.
    pub parts: Vec<(i32, i64, i32)>,
    pub leader_epoch: i32,
}

impl Fetch {
    /// One partition from `offset`, of whatever size, without waiting.
    pub fn at(partition: i32, offset: i64) -> Self {
        Self {
            max_wait_ms: 0,
            min_bytes: 1,
            max_bytes: i32::MAX,
            parts: vec![(partition, offset, i32::MAX)],
            leader_epoch: -1,
        }
    }

    /// The request of `version`, which names the topic by name or by id.
    pub fn request(&self, version: i16, name: &str, id: TopicId) -> FetchRequest {
        let part = |&(partition, offset, max_bytes): &(i32, i64, i32)| {
            let part = FetchPartition::default()
                .with_partition(partition)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(max_bytes);
            if version >= 9 { part.with_current_leader_epoch(self.leader_epoch) } else { part }
        };
        let topic = FetchTopic::default().with_partitions(self.parts.iter().map(part).collect());
        let topic = if version >= FETCH_BY_ID {
            topic.with_topic_id(topic_id(id))
        } else {
            topic.with_topic(topic_name(name))
        };
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(self.max_wait_ms)
            .with_min_bytes(self.min_bytes)
            .with_max_bytes(self.max_bytes)
            .with_topics(vec![topic]);
        if version >= 7 { request.with_session_epoch(-1) } else { request }
    }
}

/// Latest, earliest and greatest timestamp, as times to ask for.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;
pub const MAX_TIMESTAMP: i64 = -3;

/// One offset asked for.
pub fn list_offsets_request(topic: &str, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_current_leader_epoch(-1)
        .with_timestamp(timestamp);
    let topic =
        ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

/// What tests ask most. Each panics when the connection breaks; answers with error codes are returned.
impl Connection {
    /// Creates a topic that must come into being.
    ///
    /// # Panics
    /// When it does not.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> TopicId {
        let created = self.try_create_topic(new_topic(name, partitions, configs));
        assert_eq!(created.error_code, 0, "{name}: {:?}", created.error_message);
        if judges_another() {
            // Ours serves a topic as soon as it says that it is there; others take a moment.
            let ready = |this: &mut Self| {
                (0..partitions).all(|it| this.list_offset(name, it, EARLIEST).error_code == 0)
            };
            until(Duration::from_secs(30), || ready(self).then_some(())).expect("it comes up");
        }
        topic_id_bytes(created.topic_id)
    }

    /// The answer for one topic.
    ///
    /// # Panics
    /// When there is not exactly one.
    pub fn try_create_topic(&mut self, topic: CreatableTopic) -> CreatableTopicResult {
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let mut topics = self.ask(CREATE_TOPICS, &request).topics;
        assert_eq!(topics.len(), 1);
        topics.remove(0)
    }

    /// Appends one batch with acks=all: its base offset, or the error code.
    ///
    /// # Errors
    /// The code that the partition answers.
    ///
    /// # Panics
    /// When there is not exactly one answer.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &Bytes) -> Result<i64, i16> {
        let answer = self.produce_fully(topic, partition, batch);
        if answer.error_code == 0 { Ok(answer.base_offset) } else { Err(answer.error_code) }
    }

    /// Appends one batch with acks=all: the whole answer.
    ///
    /// # Panics
    /// When there is not exactly one answer.
    pub fn produce_fully(
        &mut self,
        topic: &str,
        partition: i32,
        batch: &Bytes,
    ) -> PartitionProduceResponse {
        let request = produce_request(-1, topic, &[(partition, batch.clone())]);
        let mut answers = produced(self.ask(PRODUCE, &request));
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Fetches from one topic by name: the partitions' answers, in order.
    ///
    /// # Panics
    /// When the whole request is refused.
    pub fn fetch(&mut self, topic: &str, fetch: &Fetch) -> Vec<PartitionData> {
        let response = self.ask(FETCH, &fetch.request(FETCH, topic, TopicId::default()));
        assert_eq!(response.error_code, 0);
        response.responses.into_iter().flat_map(|topic| topic.partitions).collect()
    }

    /// What one partition has from `offset` on, without waiting: the record bytes.
    ///
    /// # Panics
    /// When the partition answers with an error.
    pub fn read(&mut self, topic: &str, partition: i32, offset: i64) -> Bytes {
        let mut answers = self.fetch(topic, &Fetch::at(partition, offset));
        assert_eq!(answers.len(), 1);
        let answer = answers.remove(0);
        assert_eq!(answer.error_code, 0, "{topic}-{partition} at {offset}");
        answer.records.unwrap_or_default()
    }

    /// Offset and value of every record of one partition, from its start.
    ///
    /// # Panics
    /// When an answer has an error.
    pub fn read_all(&mut self, topic: &str, partition: i32) -> Vec<(i64, String)> {
        let mut at = self.offset(topic, partition, EARLIEST);
        let mut found = Vec::new();
        loop {
            let read = crate::records::values(self.read(topic, partition, at));
            let Some((last, _)) = read.last() else { return found };
            at = last + 1;
            found.extend(read);
        }
    }

    /// The answer of one partition to a question for an offset.
    ///
    /// # Panics
    /// When there is not exactly one.
    pub fn list_offset(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let request = list_offsets_request(topic, partition, timestamp);
        let mut topics = self.ask(LIST_OFFSETS, &request).topics;
        assert_eq!(topics.len(), 1);
        let mut partitions = topics.remove(0).partitions;
        assert_eq!(partitions.len(), 1);
        partitions.remove(0)
    }

    /// An offset that there must be an answer for.
    ///
    /// # Panics
    /// When the answer is an error.
    pub fn offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> i64 {
        let answer = self.list_offset(topic, partition, timestamp);
        assert_eq!(answer.error_code, 0, "{topic}-{partition}");
        answer.offset
    }

    /// A new idempotent producer: its id and epoch.
    ///
    /// # Panics
    /// When the broker gives none.
    pub fn init_producer(&mut self) -> (i64, i16) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = self.ask(INIT_PRODUCER_ID, &request);
        assert_eq!(answer.error_code, 0);
        (answer.producer_id.0, answer.producer_epoch)
    }
}
