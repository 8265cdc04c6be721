//! Fetch, versions 4 to 17, by hand. The request is decoded in one pass; the answer becomes a list of chunks, header
//! bytes between record payloads that the caller supplies and this file never reads, so that records go from the log to
//! the socket without a copy.
//!
//! ```text
//! request   replica_id i32 (-14) | max_wait_ms i32 | min_bytes i32 | max_bytes i32 | isolation_level i8
//!           7+: session_id i32 | session_epoch i32
//!           topics [ topic string (-12) or id uuid (13+)
//!                    partitions [ index i32 | 9+: current_leader_epoch i32 | fetch_offset i64
//!                                 12+: last_fetched_epoch i32 | 5+: log_start_offset i64 | max_bytes i32
//!                                 17+: tag 0 replica_directory_id uuid ] ]
//!           7+: forgotten [ topic string (-12) or id uuid (13+) | partitions [ i32 ] ]
//!           11+: rack_id string
//!           12+: tag 0 cluster_id nullable string | 15+: tag 1 replica_state { id i32 | epoch i64 }
//! response  throttle_time_ms i32 | 7+: error_code i16 | session_id i32
//!           topics [ topic string (-12) or id uuid (13+)
//!                    partitions [ index i32 | error_code i16 | high_watermark i64 | last_stable_offset i64
//!                                 5+: log_start_offset i64 | aborted nullable [ producer_id i64 | first_offset i64 ]
//!                                 11+: preferred_read_replica i32 | records nullable bytes
//!                                 12+: tag 0 diverging_epoch { epoch i32 | end_offset i64 }
//!                                      tag 1 current_leader { leader_id i32 | leader_epoch i32 } ] ]
//!           16+: tag 0 node_endpoints, as in Produce
//! ```
//! Version 12 and above are flexible: compact lengths, and every struct ends with tagged fields.

use bytes::{Bytes, BytesMut};

use crate::error_code::ErrorCode;
use crate::few::Few;
use crate::frame::PREFIX_BYTES;
use crate::header::{put_response_header, response_header_bytes};
use crate::primitive::{DecodeError, Element, EncodeError, Reader, Sink, Size, Text, Uuid};
use crate::produce::{CurrentLeader, NodeEndpoint, put_endpoints_tag, put_leader_tag};
use crate::{ApiKey, ApiRow};

/// What a consumer, or a follower, wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// -1 for a consumer. Above version 14 taken from the replica state.
    pub replica_id: i32,
    pub replica_epoch: i64,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    /// 0 read uncommitted, 1 read committed.
    pub isolation_level: i8,
    /// 0 before version 7: no session.
    pub session_id: i32,
    /// -1 before version 7: a full fetch outside any session.
    pub session_epoch: i32,
    pub topics: Few<Topic>,
    pub forgotten: Few<Forgotten>,
    pub rack_id: Text,
    pub cluster_id: Option<Text>,
}

/// How a request names a topic: the version decides, and the answer has to echo the same kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicRef {
    /// Up to version 12.
    Name(Text),
    /// From version 13 on.
    Id(Uuid),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub topic: TopicRef,
    pub partitions: Few<Partition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    pub index: i32,
    /// -1 if the client knows none.
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    /// -1 but for followers.
    pub last_fetched_epoch: i32,
    /// -1 but for followers.
    pub log_start_offset: i64,
    pub max_bytes: i32,
}

/// Partitions that leave a fetch session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub topic: TopicRef,
    pub partitions: Few<i32>,
}

const LOG_START_FROM: i16 = 5;
const SESSION_FROM: i16 = 7;
const LEADER_EPOCH_FROM: i16 = 9;
const RACK_FROM: i16 = 11;
const FLEXIBLE_FROM: i16 = 12;
const TOPIC_ID_FROM: i16 = 13;
const REPLICA_STATE_FROM: i16 = 15;
const ENDPOINTS_FROM: i16 = 16;

fn checked_row(version: i16) -> Option<&'static ApiRow> {
    Some(ApiKey::Fetch.row()).filter(|row| row.accepts(version))
}

/// Takes a request body apart.
///
/// # Errors
/// Whatever is not a Fetch body of this version. Fields after the last known one are ignored, as Kafka does.
pub fn decode(version: i16, body: &Bytes) -> Result<Request, DecodeError> {
    checked_row(version).ok_or(DecodeError::Version { api: "Fetch", version })?;
    let mut reader = Reader::new(body);
    let mut decoder = Decoder { version, flexible: version >= FLEXIBLE_FROM, body };
    decoder.request(&mut reader)
}

struct Decoder<'a> {
    version: i16,
    flexible: bool,
    body: &'a Bytes,
}

const TOPIC: Element = Element { wire_bytes_min: 3, heap_bytes: size_of::<Topic>() };
const PARTITION: Element = Element { wire_bytes_min: 16, heap_bytes: size_of::<Partition>() };
const FORGOTTEN: Element = Element { wire_bytes_min: 3, heap_bytes: size_of::<Forgotten>() };
const INDEX: Element = Element { wire_bytes_min: 4, heap_bytes: size_of::<i32>() };

impl Decoder<'_> {
    fn request(&mut self, reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
        let replica_id = if self.version < REPLICA_STATE_FROM { reader.i32()? } else { -1 };
        let mut request = Request {
            replica_id,
            replica_epoch: -1,
            max_wait_ms: reader.i32()?,
            min_bytes: reader.i32()?,
            max_bytes: reader.i32()?,
            isolation_level: reader.i8()?,
            session_id: if self.version >= SESSION_FROM { reader.i32()? } else { 0 },
            session_epoch: if self.version >= SESSION_FROM { reader.i32()? } else { -1 },
            topics: self.list(reader, TOPIC, Self::topic)?,
            forgotten: Few::new(),
            rack_id: Text::default(),
            cluster_id: None,
        };
        if self.version >= SESSION_FROM {
            request.forgotten = self.list(reader, FORGOTTEN, Self::forgotten)?;
        }
        if self.version >= RACK_FROM {
            request.rack_id = reader.text(self.body, self.flexible)?;
        }
        self.tags(reader, &mut request)?;
        Ok(request)
    }

    fn list<T>(
        &mut self,
        reader: &mut Reader<'_>,
        element: Element,
        mut read: impl FnMut(&mut Self, &mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<Few<T>, DecodeError> {
        let at = reader.at();
        let count = reader.count(self.flexible, element)?.ok_or(DecodeError::Null { at })?;
        Few::try_fill(count, || read(self, reader))
    }

    fn topic_ref(&mut self, reader: &mut Reader<'_>) -> Result<TopicRef, DecodeError> {
        if self.version >= TOPIC_ID_FROM {
            reader.uuid().map(TopicRef::Id)
        } else {
            reader.text(self.body, self.flexible).map(TopicRef::Name)
        }
    }

    fn topic(&mut self, reader: &mut Reader<'_>) -> Result<Topic, DecodeError> {
        let topic = self.topic_ref(reader)?;
        let partitions = self.list(reader, PARTITION, Self::partition)?;
        reader.skip_tags(self.flexible)?;
        Ok(Topic { topic, partitions })
    }

    fn partition(&mut self, reader: &mut Reader<'_>) -> Result<Partition, DecodeError> {
        let version = self.version;
        let partition = Partition {
            index: reader.i32()?,
            current_leader_epoch: if version >= LEADER_EPOCH_FROM { reader.i32()? } else { -1 },
            fetch_offset: reader.i64()?,
            last_fetched_epoch: if version >= FLEXIBLE_FROM { reader.i32()? } else { -1 },
            log_start_offset: if version >= LOG_START_FROM { reader.i64()? } else { -1 },
            max_bytes: reader.i32()?,
        };
        reader.skip_tags(self.flexible)?;
        Ok(partition)
    }

    fn forgotten(&mut self, reader: &mut Reader<'_>) -> Result<Forgotten, DecodeError> {
        let topic = self.topic_ref(reader)?;
        let partitions = self.list(reader, INDEX, |_, reader| reader.i32())?;
        reader.skip_tags(self.flexible)?;
        Ok(Forgotten { topic, partitions })
    }

    fn tags(&mut self, reader: &mut Reader<'_>, request: &mut Request) -> Result<(), DecodeError> {
        const CLUSTER_ID: u32 = 0;
        const REPLICA_STATE: u32 = 1;
        for _ in 0..reader.tag_count(self.flexible)? {
            let at = reader.at();
            let (tag, mut field) = reader.tag()?;
            match tag {
                CLUSTER_ID => request.cluster_id = field.string(self.body, true)?,
                REPLICA_STATE if self.version >= REPLICA_STATE_FROM => {
                    request.replica_id = field.i32()?;
                    request.replica_epoch = field.i64()?;
                    field.skip_tags(true)?;
                }
                _ => continue,
            }
            if field.left() > 0 {
                return Err(DecodeError::TagSize { at, tag });
            }
        }
        Ok(())
    }
}

/// Records on their way out. Only their length is asked for here.
pub trait Payload {
    /// Invariant: the same at every call, and exactly what will be sent.
    fn len_bytes(&self) -> u64;
}

impl Payload for Bytes {
    fn len_bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// The answer, whatever the version: [`encode`] leaves out what a version lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<P> {
    pub throttle_time_ms: i32,
    /// Of the session. Version 7+.
    pub error_code: ErrorCode,
    /// 0 for no session. Version 7+.
    pub session_id: i32,
    pub topics: Few<TopicResponse<P>>,
    /// Where the leaders named in `current_leader` are reached. Version 16+.
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl<P> Default for Response<P> {
    fn default() -> Response<P> {
        Response {
            throttle_time_ms: 0,
            error_code: ErrorCode::None,
            session_id: 0,
            topics: Few::new(),
            node_endpoints: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicResponse<P> {
    /// As in the request.
    pub topic: TopicRef,
    pub partitions: Few<PartitionResponse<P>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResponse<P> {
    pub index: i32,
    pub error_code: ErrorCode,
    /// -1 if unknown.
    pub high_watermark: i64,
    /// -1 if unknown.
    pub last_stable_offset: i64,
    /// -1 if unknown. Version 5+.
    pub log_start_offset: i64,
    /// None for read uncommitted. Ordered by first offset.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// -1 for the leader itself. Version 11+.
    pub preferred_read_replica: i32,
    /// For followers. Version 12+.
    pub diverging_epoch: Option<DivergingEpoch>,
    /// For NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH: who leads instead. Version 12+.
    pub current_leader: Option<CurrentLeader>,
    /// Pieces that together are whole batches; none at all is an empty, not a null, record set.
    pub records: Few<P>,
}

impl<P> PartitionResponse<P> {
    /// An answer without records and without marks.
    pub fn refused(index: i32, error_code: ErrorCode) -> PartitionResponse<P> {
        PartitionResponse {
            index,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted_transactions: None,
            preferred_read_replica: -1,
            diverging_epoch: None,
            current_leader: None,
            records: Few::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

/// The largest epoch and end that leader and follower may have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DivergingEpoch {
    pub epoch: i32,
    pub end_offset: i64,
}

/// A whole answer, to be sent piece after piece.
#[derive(Debug)]
pub struct Encoded<P> {
    /// All pieces together, the length prefix included.
    pub size_bytes: usize,
    pub chunks: Vec<Chunk<P>>,
}

/// A piece of an answer.
#[derive(Debug)]
pub enum Chunk<P> {
    /// Length, header, fields: everything but records.
    Fields(Bytes),
    Records(P),
}

/// Turns the answer into chunks. All field bytes come from one allocation of exactly their size.
///
/// # Errors
/// A version that is not spoken, a topic named by id where the version wants a name or the other way round, an answer
/// above 2 GiB.
pub fn encode<P: Payload>(
    version: i16,
    correlation_id: i32,
    mut response: Response<P>,
) -> Result<Encoded<P>, EncodeError> {
    checked_row(version).ok_or(EncodeError::Version { api: "Fetch", version })?;
    let by_id = version >= TOPIC_ID_FROM;
    if response.topics.iter().any(|topic| matches!(topic.topic, TopicRef::Id(_)) != by_id) {
        return Err(EncodeError::TopicRef { version });
    }
    let encoder = Encoder { version, flexible: version >= FLEXIBLE_FROM };
    let mut measure = Measure::default();
    encoder.response(&mut measure, &mut response);
    let fields = response_header_bytes(ApiKey::Fetch, version) + measure.fields.0;
    let size = measure.records_bytes.saturating_add(fields as u64);
    let prefix = i32::try_from(size).map_err(|_| EncodeError::TooLarge { size })?;

    let mut out = Pieces {
        fields: BytesMut::with_capacity(PREFIX_BYTES + fields),
        chunks: Vec::with_capacity(measure.chunks + 1),
    };
    out.fields.i32(prefix);
    put_response_header(&mut out.fields, ApiKey::Fetch, version, correlation_id);
    encoder.response(&mut out, &mut response);
    out.cut();
    Ok(Encoded { size_bytes: PREFIX_BYTES + prefix as usize, chunks: out.chunks })
}

/// Where an answer goes: fields in order, and records between them.
trait Out<P>: Sink {
    /// Takes the pieces of one record set. Their total length has been written as a field.
    fn records(&mut self, records: &mut Few<P>);
}

#[derive(Default)]
struct Measure {
    fields: Size,
    records_bytes: u64,
    chunks: usize,
}

impl Sink for Measure {
    fn put(&mut self, bytes: &[u8]) {
        self.fields.put(bytes);
    }
}

impl<P: Payload> Out<P> for Measure {
    fn records(&mut self, records: &mut Few<P>) {
        self.records_bytes = self.records_bytes.saturating_add(len_bytes(records));
        self.chunks += records.len() + 1;
    }
}

struct Pieces<P> {
    fields: BytesMut,
    chunks: Vec<Chunk<P>>,
}

impl<P> Pieces<P> {
    fn cut(&mut self) {
        if !self.fields.is_empty() {
            self.chunks.push(Chunk::Fields(self.fields.split().freeze()));
        }
    }
}

impl<P> Sink for Pieces<P> {
    fn put(&mut self, bytes: &[u8]) {
        self.fields.put(bytes);
    }
}

impl<P: Payload> Out<P> for Pieces<P> {
    fn records(&mut self, records: &mut Few<P>) {
        if len_bytes(records) == 0 {
            return;
        }
        self.cut();
        let records = std::mem::take(records).into_iter();
        self.chunks.extend(records.filter(|piece| piece.len_bytes() > 0).map(Chunk::Records));
    }
}

fn len_bytes<P: Payload>(records: &Few<P>) -> u64 {
    records.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.len_bytes()))
}

struct Encoder {
    version: i16,
    flexible: bool,
}

impl Encoder {
    fn response<P: Payload>(&self, out: &mut impl Out<P>, response: &mut Response<P>) {
        out.i32(response.throttle_time_ms);
        if self.version >= SESSION_FROM {
            out.i16(response.error_code.code());
            out.i32(response.session_id);
        }
        out.length(self.flexible, Some(response.topics.len()));
        for topic in &mut response.topics {
            match &topic.topic {
                TopicRef::Name(name) => out.string(self.flexible, Some(name)),
                TopicRef::Id(id) => out.put(id),
            }
            out.length(self.flexible, Some(topic.partitions.len()));
            for partition in &mut topic.partitions {
                self.partition(out, partition);
            }
            out.no_tags(self.flexible);
        }
        if self.version >= ENDPOINTS_FROM {
            put_endpoints_tag(out, &response.node_endpoints);
        } else {
            out.no_tags(self.flexible);
        }
    }

    fn partition<P: Payload>(&self, out: &mut impl Out<P>, partition: &mut PartitionResponse<P>) {
        out.i32(partition.index);
        out.i16(partition.error_code.code());
        out.i64(partition.high_watermark);
        out.i64(partition.last_stable_offset);
        if self.version >= LOG_START_FROM {
            out.i64(partition.log_start_offset);
        }
        self.aborted(out, partition.aborted_transactions.as_deref());
        if self.version >= RACK_FROM {
            out.i32(partition.preferred_read_replica);
        }
        // A length above 2 GiB is cut here, and refused because of the total.
        let records_bytes = len_bytes(&partition.records).min(i32::MAX as u64);
        out.length(self.flexible, Some(records_bytes as usize));
        out.records(&mut partition.records);
        if self.flexible {
            self.partition_tags(out, partition);
        }
    }

    fn aborted(&self, out: &mut impl Sink, aborted: Option<&[AbortedTransaction]>) {
        out.length(self.flexible, aborted.map(<[_]>::len));
        for transaction in aborted.unwrap_or_default() {
            out.i64(transaction.producer_id);
            out.i64(transaction.first_offset);
            out.no_tags(self.flexible);
        }
    }

    fn partition_tags<P>(&self, out: &mut impl Sink, partition: &PartitionResponse<P>) {
        const DIVERGING_EPOCH: u32 = 0;
        const DIVERGING_EPOCH_BYTES: u32 = 13;
        const CURRENT_LEADER: u32 = 1;
        let diverging = partition.diverging_epoch;
        let leader = partition.current_leader;
        out.varint(u32::from(diverging.is_some()) + u32::from(leader.is_some()));
        if let Some(diverging) = diverging {
            out.varint(DIVERGING_EPOCH);
            out.varint(DIVERGING_EPOCH_BYTES);
            out.i32(diverging.epoch);
            out.i64(diverging.end_offset);
            out.no_tags(true);
        }
        if let Some(leader) = leader {
            put_leader_tag(out, CURRENT_LEADER, leader);
        }
    }
}
