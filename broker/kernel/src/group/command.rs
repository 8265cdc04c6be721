//! What doors ask of a group coordinator and what it answers, in no protocol's words. Pure data.
//!
//! [`GroupError`]'s variants map one to one onto Kafka's error codes; the doors translate. Texts and blobs are copied
//! before they are kept, so a command may borrow from a large frame.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use millrace_model::ids::{GroupId, PartitionIndex, TopicId, TopicName};
use millrace_model::offset::LeaderEpoch;

use super::record::Committed;

/// A member of a group: made by the coordinator, `<client id>-<uuid>` or `<instance>-<uuid>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberId(Arc<str>);

impl MemberId {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// "Unknown": what a client sends before it has an id.
    pub fn none() -> Self {
        Self::new("")
    }

    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for MemberId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A static member's lasting name (`group.instance.id`, KIP-345).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often a group has completed a rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub i32);

impl Generation {
    /// What a client outside any generation sends.
    pub const NONE: Self = Self(-1);
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a group stands; `as_str` is what Kafka's tools expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    /// No group of ours is ever dead; doors show it for one that does not exist.
    Dead,
}

impl GroupState {
    pub const ALL: [Self; 5] = [
        Self::Empty,
        Self::PreparingRebalance,
        Self::CompletingRebalance,
        Self::Stable,
        Self::Dead,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }

    /// Reads a filter as Kafka does, without regard to case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One way of assigning partitions that a member knows, with what it tells the leader. The coordinator never reads the
/// metadata but for the topics of protocol type `consumer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: Arc<str>,
    pub metadata: Bytes,
}

/// A request to the coordinator of one group; [`GroupCommand::List`] and [`GroupCommand::ForgetTopic`] concern all
/// groups of a shard.
#[derive(Clone, Debug)]
pub enum GroupCommand {
    Join(Join),
    Sync(Sync),
    Heartbeat(Heartbeat),
    Leave(Leave),
    CommitOffsets(CommitOffsets),
    FetchOffsets(FetchOffsets),
    Describe {
        group: GroupId,
    },
    List(ListFilter),
    DeleteGroup {
        group: GroupId,
    },
    DeleteOffsets(DeleteOffsets),
    /// The topic is gone: so are all offsets committed for it.
    ForgetTopic {
        topic: TopicName,
    },
}

#[derive(Clone, Debug)]
pub struct Join {
    pub group: GroupId,
    /// [`MemberId::none`] on the first join.
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub client_id: Arc<str>,
    /// As Kafka shows it: `/127.0.0.1`.
    pub client_host: Arc<str>,
    pub protocol_type: Arc<str>,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    pub session_timeout_ms: i32,
    /// The session timeout for clients that know no other (`JoinGroup` 0).
    pub rebalance_timeout_ms: i32,
    /// A first join gets its id and must come back with it (KIP-394; `JoinGroup` 4 and later).
    pub require_known_member_id: bool,
    /// The client understands [`Joined::skip_assignment`] (KIP-814; `JoinGroup` 9 and later).
    pub may_skip_assignment: bool,
    /// The member lost its connection and nothing else: a stable generation goes on with it, also when it leads.
    pub resumes: bool,
}

#[derive(Clone, Debug)]
pub struct Sync {
    pub group: GroupId,
    pub generation: Generation,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    /// Checked when given (`SyncGroup` 5 and later).
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    /// From the leader; ignored from others.
    pub assignments: Vec<(MemberId, Bytes)>,
}

#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub group: GroupId,
    pub generation: Generation,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
}

#[derive(Clone, Debug)]
pub struct Leave {
    pub group: GroupId,
    pub members: Vec<Leaver>,
}

/// Who leaves: a member by its id, or an instance alone (what tools send).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaver {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
}

#[derive(Clone, Debug)]
pub struct CommitOffsets {
    pub group: GroupId,
    /// [`Generation::NONE`] with no member: a consumer that manages its own partitions, or a tool.
    pub generation: Generation,
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    /// A retention of the client's own (`OffsetCommit` 2 to 4).
    pub retention_ms: Option<i64>,
    pub topics: Vec<PerTopic<Vec<CommitOffset>>>,
}

/// Something about one topic, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerTopic<P> {
    pub topic: TopicName,
    pub partitions: P,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    pub partition: PartitionIndex,
    pub offset: i64,
    pub leader_epoch: LeaderEpoch,
    /// Kept and returned as it is; Kafka's null is the empty text.
    pub metadata: Box<str>,
    /// [`TopicId::ZERO`] when the client named the topic only.
    pub topic_id: TopicId,
}

#[derive(Clone, Debug)]
pub struct FetchOffsets {
    pub group: GroupId,
    /// `None`: all that the group has.
    pub topics: Option<Vec<PerTopic<Vec<PartitionIndex>>>>,
}

/// Which groups to list; `None` lists every state.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    pub states: Option<BTreeSet<GroupState>>,
}

#[derive(Clone, Debug)]
pub struct DeleteOffsets {
    pub group: GroupId,
    pub topics: Vec<PerTopic<Vec<PartitionIndex>>>,
}

/// The answer to a [`GroupCommand`], variant for variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupReply {
    Join(Result<Joined, JoinRefused>),
    Sync(Result<Synced, GroupError>),
    Heartbeat(Result<(), GroupError>),
    Leave(Result<Vec<Left>, GroupError>),
    CommitOffsets(Result<Vec<PerTopic<PartitionResults>>, GroupError>),
    FetchOffsets(Result<Vec<PerTopic<Vec<FetchedOffset>>>, GroupError>),
    Describe(Result<GroupDescription, GroupError>),
    List(Result<Vec<ListedGroup>, GroupError>),
    DeleteGroup(Result<(), GroupError>),
    DeleteOffsets(Result<Vec<PerTopic<PartitionResults>>, GroupError>),
    ForgetTopic(Result<(), GroupError>),
}

/// What became of each partition named in a request.
pub type PartitionResults = Vec<(PartitionIndex, Result<(), GroupError>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub member: MemberId,
    pub generation: Generation,
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    pub leader: MemberId,
    /// The leader keeps the assignment that stands (KIP-814).
    pub skip_assignment: bool,
    /// Everyone with metadata for the leader, nobody for others.
    pub members: Vec<JoinedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub metadata: Bytes,
}

/// A join that failed; with [`GroupError::MemberIdRequired`] the id to come back with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    pub error: GroupError,
    pub member: MemberId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<Arc<str>>,
    pub protocol: Option<Arc<str>>,
    /// Empty when the leader named no assignment for the member.
    pub assignment: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub leaver: Leaver,
    pub result: Result<(), GroupError>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    pub partition: PartitionIndex,
    /// `None`: nothing is committed, which is no error.
    pub committed: Option<Committed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    pub state: GroupState,
    pub protocol_type: Arc<str>,
    /// Empty unless stable.
    pub protocol: Arc<str>,
    pub members: Vec<MemberDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    /// Empty unless the group is stable.
    pub metadata: Bytes,
    pub assignment: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub group: GroupId,
    pub protocol_type: Arc<str>,
    pub state: GroupState,
}

/// Why a group command is refused, each with Kafka's code of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("offset metadata is longer than offset.metadata.max.bytes")]
    OffsetMetadataTooLarge,
    #[error("the coordinator is loading")]
    CoordinatorLoadInProgress,
    #[error("the coordinator cannot take the command now")]
    CoordinatorNotAvailable,
    #[error("this broker is not the group's coordinator")]
    NotCoordinator,
    #[error("the generation is not the group's")]
    IllegalGeneration,
    #[error("the member's protocols do not agree with the group's")]
    InconsistentGroupProtocol,
    #[error("the group id is illegal")]
    InvalidGroupId,
    #[error("the member is unknown")]
    UnknownMemberId,
    #[error(
        "the session timeout is outside group.min.session.timeout.ms and group.max.session.timeout.ms"
    )]
    InvalidSessionTimeout,
    #[error("the group rebalances, the member must rejoin")]
    RebalanceInProgress,
    #[error("the group would keep too many offsets")]
    InvalidCommitOffsetSize,
    #[error("a text or count in the command is too large")]
    InvalidRequest,
    #[error("the group is not empty")]
    NonEmptyGroup,
    /// For an offset commit below version 9 and a describe below version 6 Kafka has older words: see the doors.
    #[error("the group does not exist")]
    GroupIdNotFound,
    #[error("the member must join again with the id it was given")]
    MemberIdRequired,
    #[error("the group has group.max.size members")]
    GroupMaxSizeReached,
    #[error("another took over the member or its instance id")]
    FencedInstanceId,
    #[error("the group is subscribed to the topic")]
    GroupSubscribedToTopic,
    /// What Kafka answers when the group's record is larger than a log takes.
    #[error("the group's record is too large")]
    UnknownServerError,
}

impl GroupCommand {
    /// The group that the command concerns; `None`: all of the shard.
    pub fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Join(Join { group, .. })
            | Self::Sync(Sync { group, .. })
            | Self::Heartbeat(Heartbeat { group, .. })
            | Self::Leave(Leave { group, .. })
            | Self::CommitOffsets(CommitOffsets { group, .. })
            | Self::FetchOffsets(FetchOffsets { group, .. })
            | Self::DeleteOffsets(DeleteOffsets { group, .. })
            | Self::Describe { group }
            | Self::DeleteGroup { group } => Some(group),
            Self::List(_) | Self::ForgetTopic { .. } => None,
        }
    }

    /// The answer that refuses the whole command.
    pub fn refused(&self, error: GroupError) -> GroupReply {
        match self {
            Self::Join(join) => {
                GroupReply::Join(Err(JoinRefused { error, member: join.member.clone() }))
            }
            Self::Sync(_) => GroupReply::Sync(Err(error)),
            Self::Heartbeat(_) => GroupReply::Heartbeat(Err(error)),
            Self::Leave(_) => GroupReply::Leave(Err(error)),
            Self::CommitOffsets(_) => GroupReply::CommitOffsets(Err(error)),
            Self::FetchOffsets(_) => GroupReply::FetchOffsets(Err(error)),
            Self::Describe { .. } => GroupReply::Describe(Err(error)),
            Self::List(_) => GroupReply::List(Err(error)),
            Self::DeleteGroup { .. } => GroupReply::DeleteGroup(Err(error)),
            Self::DeleteOffsets(_) => GroupReply::DeleteOffsets(Err(error)),
            Self::ForgetTopic { .. } => GroupReply::ForgetTopic(Err(error)),
        }
    }
}

impl GroupReply {
    /// The same kind of answer, refusing: for a reply whose records did not become durable.
    #[must_use]
    pub fn into_refused(self, error: GroupError) -> Self {
        match self {
            Self::Join(result) => {
                let member = match result {
                    Ok(joined) => joined.member,
                    Err(refused) => refused.member,
                };
                Self::Join(Err(JoinRefused { error, member }))
            }
            Self::Sync(_) => Self::Sync(Err(error)),
            Self::Heartbeat(_) => Self::Heartbeat(Err(error)),
            Self::Leave(_) => Self::Leave(Err(error)),
            Self::CommitOffsets(_) => Self::CommitOffsets(Err(error)),
            Self::FetchOffsets(_) => Self::FetchOffsets(Err(error)),
            Self::Describe(_) => Self::Describe(Err(error)),
            Self::List(_) => Self::List(Err(error)),
            Self::DeleteGroup(_) => Self::DeleteGroup(Err(error)),
            Self::DeleteOffsets(_) => Self::DeleteOffsets(Err(error)),
            Self::ForgetTopic(_) => Self::ForgetTopic(Err(error)),
        }
    }
}
