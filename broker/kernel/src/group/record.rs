//! The records of `__consumer_offsets`: Kafka's `OffsetCommitKey`/`Value` and `GroupMetadataKey`/`Value`, byte for byte.
//!
//! Reads every version that Kafka ever wrote, writes those that Kafka 4.3 reads back and older tools know: offsets in
//! version 3 (1 with an expire time, 4 with a topic id), groups in version 3. Decides nothing. Called by the
//! coordinator's shard when it appends, replays or re-appends.
//!
//! ```text
//! key    version i16   0, 1: offset of a partition   2: group   others belong to group types that are not built
//!        0, 1  group string, topic string, partition i32
//!        2     group string
//! value  version i16, then (absent value: the key is deleted)
//!   offset  0-3  offset i64, leader_epoch i32 (3), metadata string, commit_time i64, expire_time i64 (1)
//!           4    the same, compact, then tags: 0 topic_id uuid
//!   group   0-3  protocol_type string, generation i32, protocol string?, leader string?, state_time i64 (2+),
//!                members: count i32 of
//!                  member string, instance string? (3+), client_id string, client_host string,
//!                  rebalance_timeout i32 (1+), session_timeout i32, subscription bytes, assignment bytes
//!           4    the same, compact, each structure followed by tags
//! string: length i16 (-1: null) and UTF-8; bytes: length i32; compact: length + 1 as an unsigned varint, 0 is null
//! ```
//! Big-endian. Persisted, never reuse.

use std::sync::Arc;

use bytes::Bytes;
use millrace_model::env::WallMs;
use millrace_model::ids::{GroupId, PartitionIndex, TopicId, TopicName};
use millrace_model::offset::LeaderEpoch;

use super::command::{Generation, InstanceId, MemberId};

/// Longest text in a record: version 3 counts its bytes in an `i16`. Texts are held to it where they enter.
pub const TEXT_BYTES_MAX: usize = i16::MAX as usize;
/// Bytes of a UUID behind a hyphen: what the coordinator appends to a client's text to make a member id.
pub const MEMBER_ID_SUFFIX_BYTES: usize = 37;

/// One fact about a group, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A partition's committed offset; `None` deletes it.
    Offset { group: GroupId, topic: TopicName, partition: PartitionIndex, value: Option<Committed> },
    /// A group's last completed generation; `None` deletes the group.
    Group { group: GroupId, value: Option<GroupValue> },
}

/// A committed offset (Kafka's `OffsetCommitValue`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// As the client sent it: Kafka checks no range.
    pub offset: i64,
    pub leader_epoch: LeaderEpoch,
    pub metadata: Box<str>,
    pub committed_at: WallMs,
    /// Set when the client asked for a retention of its own (`OffsetCommit` 2 to 4).
    pub expires_at: Option<WallMs>,
    /// [`TopicId::ZERO`] when the committer named the topic only.
    pub topic_id: TopicId,
}

/// A group with its members and their assignment (Kafka's `GroupMetadataValue`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// Empty when the group never had a member.
    pub protocol_type: Arc<str>,
    pub generation: Generation,
    pub protocol: Option<Arc<str>>,
    pub leader: Option<MemberId>,
    /// When the group came into this state; old versions do not say.
    pub state_since: Option<WallMs>,
    pub members: Vec<MemberValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    /// -1 in version 0, which had none.
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// Why bytes are no record of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("record ends before its {field}")]
    Short { field: &'static str },
    #[error("{field} has the illegal length {length}")]
    Length { field: &'static str, length: i64 },
    #[error("{field} is no UTF-8")]
    Text { field: &'static str },
    #[error("{field} is null")]
    Null { field: &'static str },
    #[error("topic name {name:?} is illegal")]
    Topic { name: String },
    #[error("{what} has version {version}, at most {max} is known")]
    Version { what: &'static str, version: i16, max: i16 },
    #[error("{count} bytes follow the end of the record")]
    Trailing { count: usize },
}

/// What a key and a value say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    Known(Record),
    /// A key of a group type that is not built here, from a log that Kafka wrote.
    Foreign {
        key_version: i16,
    },
}

/// Reads one record of the internal topic.
///
/// # Errors
/// [`RecordError`] when the bytes break the format. A key version of another group type is [`Decoded::Foreign`].
pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Decoded, RecordError> {
    let mut key = Reader { rest: key };
    let record = match key.i16("key version")? {
        0 | 1 => {
            let group = GroupId::new(key.text("group")?);
            let topic = key.text("topic")?;
            let topic = TopicName::parse(topic)
                .map_err(|_| RecordError::Topic { name: topic.to_owned() })?;
            let partition = PartitionIndex(key.i32("partition")?);
            Record::Offset { group, topic, partition, value: value.map(decode_offset).transpose()? }
        }
        2 => Record::Group {
            group: GroupId::new(key.text("group")?),
            value: value.map(decode_group).transpose()?,
        },
        key_version => return Ok(Decoded::Foreign { key_version }),
    };
    key.end()?;
    Ok(Decoded::Known(record))
}

impl Record {
    pub fn group(&self) -> &GroupId {
        match self {
            Self::Offset { group, .. } | Self::Group { group, .. } => group,
        }
    }

    pub fn encode_key(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Offset { group, topic, partition, .. } => {
                out.i16(1);
                out.text(group.as_str());
                out.text(topic.as_str());
                out.i32(partition.0);
            }
            Self::Group { group, .. } => {
                out.i16(2);
                out.text(group.as_str());
            }
        }
        out.bytes
    }

    /// `None` for a deletion.
    pub fn encode_value(&self) -> Option<Vec<u8>> {
        match self {
            Self::Offset { value, .. } => {
                value.as_ref().map(|v| encode_offset(v, offset_version(v)))
            }
            Self::Group { value, .. } => value.as_ref().map(|v| encode_group(v, GROUP_VERSION)),
        }
    }

    /// Bytes of key and value together, near enough to decide on batch sizes before encoding.
    pub fn size_estimate(&self) -> usize {
        match self {
            Self::Offset { group, topic, value, .. } => {
                let value = value.as_ref().map_or(0, |v| v.metadata.len() + 50);
                group.as_str().len() + topic.as_str().len() + value + 10
            }
            Self::Group { group, value } => {
                group.as_str().len() + value.as_ref().map_or(0, GroupValue::size_estimate) + 4
            }
        }
    }
}

impl GroupValue {
    fn size_estimate(&self) -> usize {
        let member = |m: &MemberValue| {
            m.member.as_str().len()
                + m.instance.as_ref().map_or(0, |i| i.as_str().len())
                + m.client_id.len()
                + m.client_host.len()
                + m.subscription.len()
                + m.assignment.len()
                + 24
        };
        let texts = self.protocol_type.len() + self.protocol.as_ref().map_or(0, |p| p.len());
        let leader = self.leader.as_ref().map_or(0, |l| l.as_str().len());
        texts + leader + 24 + self.members.iter().map(member).sum::<usize>()
    }
}

const VERSION_MAX: i16 = 4;
const GROUP_VERSION: i16 = 3;

/// NOTE: Kafka 4.3 writes version 4 also without a topic id; 3 says the same and more tools read it.
fn offset_version(value: &Committed) -> i16 {
    match (value.expires_at, value.topic_id) {
        (Some(_), _) => 1,
        (None, TopicId::ZERO) => 3,
        (None, _) => 4,
    }
}

fn encode_offset(value: &Committed, version: i16) -> Vec<u8> {
    let mut out = Writer { compact: version >= 4, ..Writer::default() };
    out.i16(version);
    out.i64(value.offset);
    if version >= 3 {
        out.i32(value.leader_epoch.0);
    }
    out.text(&value.metadata);
    out.i64(value.committed_at.0);
    if version == 1 {
        out.i64(value.expires_at.map_or(-1, |at| at.0));
    }
    if version >= 4 {
        if value.topic_id == TopicId::ZERO {
            out.varint(0);
        } else {
            out.varint(1);
            out.varint(0);
            out.varint(value.topic_id.0.len() as u32);
            out.bytes.extend_from_slice(&value.topic_id.0);
        }
    }
    out.bytes
}

fn decode_offset(bytes: &[u8]) -> Result<Committed, RecordError> {
    let mut r = Reader { rest: bytes };
    let version = r.version("offset value")?;
    let compact = version >= 4;
    let offset = r.i64("offset")?;
    let leader_epoch =
        LeaderEpoch(if version >= 3 { r.i32("leader epoch")? } else { LeaderEpoch::NONE.0 });
    let metadata = r.text_of(compact, "metadata")?.into();
    let committed_at = WallMs(r.i64("commit time")?);
    let expires_at = if version == 1 { r.time("expire time")? } else { None };
    let mut topic_id = TopicId::ZERO;
    if compact {
        r.tags(|tag, body| {
            if let (0, Ok(id)) = (tag, body.try_into()) {
                topic_id = TopicId(id);
            }
        })?;
    }
    r.end()?;
    Ok(Committed { offset, leader_epoch, metadata, committed_at, expires_at, topic_id })
}

fn encode_group(value: &GroupValue, version: i16) -> Vec<u8> {
    let mut out = Writer { compact: version >= 4, ..Writer::default() };
    out.i16(version);
    out.text(&value.protocol_type);
    out.i32(value.generation.0);
    out.text_or_null(value.protocol.as_deref());
    out.text_or_null(value.leader.as_ref().map(MemberId::as_str));
    if version >= 2 {
        out.i64(value.state_since.map_or(-1, |at| at.0));
    }
    out.count(value.members.len());
    for member in &value.members {
        encode_member(&mut out, member, version);
    }
    out.no_tags();
    out.bytes
}

fn encode_member(out: &mut Writer, member: &MemberValue, version: i16) {
    out.text(member.member.as_str());
    if version >= 3 {
        out.text_or_null(member.instance.as_ref().map(InstanceId::as_str));
    }
    out.text(&member.client_id);
    out.text(&member.client_host);
    if version >= 1 {
        out.i32(member.rebalance_timeout_ms);
    }
    out.i32(member.session_timeout_ms);
    out.blob(&member.subscription);
    out.blob(&member.assignment);
    out.no_tags();
}

fn decode_group(bytes: &[u8]) -> Result<GroupValue, RecordError> {
    let mut r = Reader { rest: bytes };
    let version = r.version("group value")?;
    let compact = version >= 4;
    let protocol_type = r.text_of(compact, "protocol type")?.into();
    let generation = Generation(r.i32("generation")?);
    let protocol = r.text_or_null(compact, "protocol")?.map(Into::into);
    let leader = r.text_or_null(compact, "leader")?.map(MemberId::new);
    let state_since = if version >= 2 { r.time("state time")? } else { None };
    let count = r.count(compact, "members")?;
    let mut members = Vec::new(); // grows with the bytes that are there, not with the claimed count
    for _ in 0..count {
        members.push(decode_member(&mut r, version)?);
    }
    if compact {
        r.tags(|_, _| ())?;
    }
    r.end()?;
    Ok(GroupValue { protocol_type, generation, protocol, leader, state_since, members })
}

fn decode_member(r: &mut Reader<'_>, version: i16) -> Result<MemberValue, RecordError> {
    let compact = version >= 4;
    let member = MemberId::new(r.text_of(compact, "member")?);
    let instance = if version >= 3 { r.text_or_null(compact, "instance")? } else { None };
    let client_id = r.text_of(compact, "client id")?.into();
    let client_host = r.text_of(compact, "client host")?.into();
    let rebalance_timeout_ms = if version >= 1 { r.i32("rebalance timeout")? } else { -1 };
    let session_timeout_ms = r.i32("session timeout")?;
    let subscription = Bytes::copy_from_slice(r.blob(compact, "subscription")?);
    let assignment = Bytes::copy_from_slice(r.blob(compact, "assignment")?);
    if compact {
        r.tags(|_, _| ())?;
    }
    Ok(MemberValue {
        member,
        instance: instance.map(InstanceId::new),
        client_id,
        client_host,
        rebalance_timeout_ms,
        session_timeout_ms,
        subscription,
        assignment,
    })
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    compact: bool,
}

impl Writer {
    fn i16(&mut self, value: i16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn text(&mut self, text: &str) {
        self.text_or_null(Some(text));
    }

    fn text_or_null(&mut self, text: Option<&str>) {
        let length = text.map_or(-1, |t| {
            i16::try_from(t.len()).expect("texts are bounded by TEXT_BYTES_MAX where they enter")
        });
        if self.compact {
            self.varint((i32::from(length) + 1) as u32);
        } else {
            self.i16(length);
        }
        self.bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
    }

    fn blob(&mut self, blob: &[u8]) {
        self.count(blob.len());
        self.bytes.extend_from_slice(blob);
    }

    fn count(&mut self, count: usize) {
        let count =
            i32::try_from(count).expect("counts and blobs come from one frame, below 2 GiB");
        if self.compact {
            self.varint(count as u32 + 1);
        } else {
            self.i32(count);
        }
    }

    fn no_tags(&mut self) {
        if self.compact {
            self.varint(0);
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], RecordError> {
        let (head, rest) =
            self.rest.split_at_checked(length).ok_or(RecordError::Short { field })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(RecordError::Short { field })?;
        self.rest = rest;
        Ok(*head)
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, RecordError> {
        Ok(i16::from_be_bytes(self.array(field)?))
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    fn varint(&mut self, field: &'static str) -> Result<u32, RecordError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array(field)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let length = value as i64;
                return u32::try_from(value).map_err(|_| RecordError::Length { field, length });
            }
        }
        Err(RecordError::Length { field, length: value as i64 })
    }

    fn version(&mut self, what: &'static str) -> Result<i16, RecordError> {
        let version = self.i16("value version")?;
        if (0..=VERSION_MAX).contains(&version) {
            Ok(version)
        } else {
            Err(RecordError::Version { what, version, max: VERSION_MAX })
        }
    }

    /// A time, where -1 means none.
    fn time(&mut self, field: &'static str) -> Result<Option<WallMs>, RecordError> {
        let at = self.i64(field)?;
        Ok((at != -1).then_some(WallMs(at)))
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, RecordError> {
        self.text_of(false, field)
    }

    fn text_of(&mut self, compact: bool, field: &'static str) -> Result<&'a str, RecordError> {
        self.text_or_null(compact, field)?.ok_or(RecordError::Null { field })
    }

    fn text_or_null(
        &mut self,
        compact: bool,
        field: &'static str,
    ) -> Result<Option<&'a str>, RecordError> {
        let length =
            if compact { i64::from(self.varint(field)?) - 1 } else { i64::from(self.i16(field)?) };
        if length == -1 {
            return Ok(None);
        }
        // What could not be written again is refused here: the shard re-appends all that it keeps.
        let Some(length) = usize::try_from(length).ok().filter(|l| *l <= TEXT_BYTES_MAX) else {
            return Err(RecordError::Length { field, length });
        };
        let text = std::str::from_utf8(self.take(length, field)?);
        text.map(Some).map_err(|_| RecordError::Text { field })
    }

    fn blob(&mut self, compact: bool, field: &'static str) -> Result<&'a [u8], RecordError> {
        let length = self.count(compact, field)?;
        self.take(length, field)
    }

    fn count(&mut self, compact: bool, field: &'static str) -> Result<usize, RecordError> {
        let count =
            if compact { i64::from(self.varint(field)?) - 1 } else { i64::from(self.i32(field)?) };
        usize::try_from(count).map_err(|_| RecordError::Length { field, length: count })
    }

    fn tags(&mut self, mut each: impl FnMut(u32, &[u8])) -> Result<(), RecordError> {
        let count = self.varint("tags")?;
        for _ in 0..count {
            let tag = self.varint("tag")?;
            let length = self.varint("tag")?;
            each(tag, self.take(length as usize, "tag")?);
        }
        Ok(())
    }

    fn end(&self) -> Result<(), RecordError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(RecordError::Trailing { count }),
        }
    }
}

#[cfg(test)]
mod tests;
