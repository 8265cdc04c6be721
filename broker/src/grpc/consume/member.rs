//! A client's place in a consumer group, which the broker holds on its behalf: the classic protocol's member as a state
//! machine over the coordinator's commands.
//!
//! ```text
//!   Joining --> Syncing --> Positioning --> Stable --> Releasing --> Joining ...
//!      ^           |             |             |           |
//!      +-----------+--- rebalanced or lost ----+-----------+
//! ```
//! One command at a time is under way; between commands a timer runs (the next heartbeat, or another attempt). What the
//! stream must know comes out as an [`Event`]. The stream (`super::stream`) decides nothing about groups, and this
//! knows nothing of records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use millrace_kernel::group::{
    FetchOffsets, FetchedOffset, Generation, GroupCommand, GroupDescription, GroupError,
    GroupReply, GroupState, Heartbeat, InstanceId, Join, JoinRefused, Joined, Leave, Leaver,
    MemberId, PerTopic, Protocol, Sync, Synced,
};
use millrace_model::consumer_protocol::{
    Assignment, Assignor, Partitions, Subscriber, Subscription,
};
use millrace_model::ids::{GroupId, PartitionIndex, TopicName};
use millrace_proto::v1::GroupMember;
use tokio::time::Instant;
use tonic::Status;

use crate::error::BrokerError;
use crate::grpc::consume::commit::Committer;
use crate::grpc::consume::holders::{Hold, Holders};
use crate::grpc::errors;
use crate::service::{Hall, groups};

/// What all members of consumer groups say they are.
const PROTOCOL_TYPE: &str = "consumer";
/// The oldest version says all that an eager member has to say, and everyone reads it.
const PROTOCOL_VERSION: i16 = 0;
const SESSION_TIMEOUT_MS_DEFAULT: i32 = 45_000;
const REBALANCE_TIMEOUT_MS_DEFAULT: i32 = 60_000;
const CLIENT_ID_DEFAULT: &str = "grpc";
/// Topics of one member.
const TOPICS_MAX: usize = 1_000;
/// Heartbeats cost a function call here; often, so that a rebalance does not wait for us.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// of the session timeout, if that is shorter.
const HEARTBEATS_PER_SESSION: u32 = 4;
/// Between two attempts at a coordinator that cannot answer,
const RETRY: Duration = Duration::from_millis(200);
/// and how long they go on before the stream ends.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(30);
/// How long leaving may take; whom it takes longer is gone with its session.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

/// Who the member is, for as long as its stream lives.
pub(super) struct Identity {
    group: GroupId,
    instance: Option<InstanceId>,
    /// Of the stream before this one; none for a static member, whom its name brings back.
    member_before: MemberId,
    client_id: Arc<str>,
    client_host: Arc<str>,
    topics: Vec<String>,
    protocols: Vec<Assignor>,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
}

impl Identity {
    /// # Errors
    /// A field that cannot be as it is.
    pub(super) fn parse(asked: GroupMember, client_host: &str) -> Result<Self, Status> {
        if asked.group.is_empty() {
            return Err(errors::group_status(GroupError::InvalidGroupId));
        }
        let topics: BTreeSet<String> = asked.topics.into_iter().collect();
        if topics.is_empty() || topics.len() > TOPICS_MAX {
            return Err(errors::invalid("topics", &format!("1 to {TOPICS_MAX} are legal")));
        }
        for topic in &topics {
            TopicName::parse(topic).map_err(|it| errors::status(&BrokerError::InvalidTopic(it)))?;
        }
        let timeout = |field: &str, asked: i32, default: i32| match asked {
            0 => Ok(default),
            1.. => Ok(asked),
            _ => Err(errors::invalid(field, "it is negative")),
        };
        let member_before = asked.member_id.filter(|_| asked.instance_id.is_none());
        let client_id = Some(asked.client_id).filter(|id| !id.is_empty());
        Ok(Self {
            group: GroupId::new(&asked.group),
            instance: asked.instance_id.as_deref().map(InstanceId::new),
            member_before: MemberId::new(member_before.as_deref().unwrap_or_default()),
            client_id: client_id.as_deref().unwrap_or(CLIENT_ID_DEFAULT).into(),
            client_host: client_host.into(),
            topics: topics.into_iter().collect(),
            protocols: protocols(&asked.protocols)?,
            session_timeout_ms: timeout(
                "session_timeout_ms",
                asked.session_timeout_ms,
                SESSION_TIMEOUT_MS_DEFAULT,
            )?,
            rebalance_timeout_ms: timeout(
                "rebalance_timeout_ms",
                asked.rebalance_timeout_ms,
                REBALANCE_TIMEOUT_MS_DEFAULT,
            )?,
        })
    }

    fn heartbeat_interval(&self) -> Duration {
        let session = Duration::from_millis(self.session_timeout_ms.unsigned_abs().into());
        (session / HEARTBEATS_PER_SESSION).min(HEARTBEAT)
    }
}

fn protocols(names: &[String]) -> Result<Vec<Assignor>, Status> {
    if names.is_empty() {
        return Ok(Assignor::ALL.to_vec());
    }
    let mut protocols = Vec::new();
    for name in names {
        let unknown = || errors::invalid("protocols", "only range and roundrobin are known");
        let assignor = Assignor::from_name(name).ok_or_else(unknown)?;
        if !protocols.contains(&assignor) {
            protocols.push(assignor);
        }
    }
    Ok(protocols)
}

/// What the stream must know.
pub(super) enum Event {
    /// These partitions are the member's, each with what the group has committed for it.
    Assigned(Vec<Assigned>),
    /// The group rebalances: let go of everything, then call [`Membership::release`].
    Revoked,
    /// The member was put out; it joins anew by itself.
    Lost,
    /// There is no way on.
    Failed(Status),
}

/// One partition of an assignment.
pub(super) struct Assigned {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) committed: Option<i64>,
}

type Reply = Result<GroupReply, BrokerError>;
type Call = BoxFuture<'static, Reply>;

#[derive(Debug)]
enum Phase {
    Joining,
    Syncing,
    /// Asks what is committed for this assignment.
    Positioning(Partitions),
    Stable,
    /// Waits for the client to let go, the heart still beating.
    Releasing {
        until: Instant,
    },
}

/// One member, from its first join until it leaves.
pub(super) struct Membership {
    hall: Arc<Hall>,
    holders: Arc<Holders>,
    identity: Identity,
    /// On the member that this is; none before the coordinator has said which.
    hold: Option<Hold>,
    generation: Generation,
    protocol: String,
    phase: Phase,
    leads: bool,
    /// What the assignment rests on: how many partitions each topic had that some member wants, 0 for those that did not
    /// exist. When that changes, the group must rebalance. The leader asks for it once all have their part: it may have
    /// come back to an assignment of before.
    basis: Option<BTreeMap<String, i32>>,
    /// The command that is under way.
    call: Option<Call>,
    /// When to do something if no command is under way.
    wake_at: Instant,
    /// Since when the coordinator cannot answer.
    failing_since: Option<Instant>,
}

impl Membership {
    /// A member that joins as soon as [`Self::next`] is asked.
    pub(super) fn new(hall: Arc<Hall>, holders: Arc<Holders>, identity: Identity) -> Self {
        let mut membership = Self {
            hall,
            holders,
            identity,
            hold: None,
            generation: Generation::NONE,
            protocol: String::new(),
            phase: Phase::Joining,
            leads: false,
            basis: None,
            call: None,
            wake_at: Instant::now(),
            failing_since: None,
        };
        membership.hold(membership.identity.member_before.clone());
        membership
    }

    pub(super) fn member_id(&self) -> &str {
        self.hold.as_ref().map_or("", |hold| hold.member().as_str())
    }

    pub(super) fn generation(&self) -> i32 {
        self.generation.0
    }

    /// How the group assigns.
    pub(super) fn protocol(&self) -> &str {
        &self.protocol
    }

    /// Who commits, when this member does.
    pub(super) fn committer(&self) -> Committer {
        Committer {
            group: self.identity.group.clone(),
            member: self.member(),
            generation: self.generation,
            instance: self.identity.instance.clone(),
        }
    }

    fn member(&self) -> MemberId {
        self.hold.as_ref().map_or_else(MemberId::none, |hold| hold.member().clone())
    }

    /// From now on this stream is that member, and no other stream is.
    fn hold(&mut self, member: MemberId) {
        if self.member() != member {
            self.hold = None;
            if !member.is_none() {
                self.hold = self.holders.take(&self.identity.group, &member);
            }
        }
    }

    /// Works for the membership until there is something to tell. May be dropped and asked again at any time.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let event = tokio::select! {
                biased;
                () = taken(&self.hold) => {
                    Some(Event::Failed(errors::group_status(GroupError::FencedInstanceId)))
                }
                reply = reply_or_wake(&mut self.call, self.wake_at) => {
                    self.call = None;
                    match reply {
                        Some(reply) => self.handle_reply(reply),
                        None => self.handle_wake(),
                    }
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// The client has let go of what was revoked. Means nothing when nothing was.
    pub(super) fn release(&mut self) {
        if matches!(self.phase, Phase::Releasing { .. }) {
            self.join();
        }
    }

    fn releasing(&self) -> Phase {
        let timeout_ms = self.identity.rebalance_timeout_ms.unsigned_abs();
        Phase::Releasing { until: Instant::now() + Duration::from_millis(timeout_ms.into()) }
    }

    /// Gives the place back, but for one that another stream has taken over, and for a static member's, which is kept for
    /// its return.
    pub(super) async fn leave(mut self) {
        self.call = None;
        let hold = self.hold.take().filter(|_| self.identity.instance.is_none());
        let Some(hold) = hold.filter(Hold::begin_to_leave) else { return };
        let group = self.identity.group.clone();
        let leaver = Leaver { member: hold.member().clone(), instance: None };
        let leave = Leave { group: group.clone(), members: vec![leaver] };
        let left = groups::call(&self.hall, &group, GroupCommand::Leave(leave));
        let _ = tokio::time::timeout(LEAVE_PATIENCE, left).await;
    }

    fn handle_wake(&mut self) -> Option<Event> {
        match &self.phase {
            Phase::Joining | Phase::Syncing => self.join(),
            Phase::Positioning(partitions) => {
                let topics = named(partitions);
                self.fetch_offsets(topics);
            }
            Phase::Stable if self.leads && self.basis.is_none() => {
                let group = self.identity.group.clone();
                self.call(GroupCommand::Describe { group });
            }
            Phase::Stable if self.must_rebalance() => {
                self.phase = self.releasing();
                return Some(Event::Revoked);
            }
            Phase::Releasing { until } if *until <= Instant::now() => {
                self.join();
                return Some(Event::Lost);
            }
            Phase::Stable | Phase::Releasing { .. } => self.beat(),
        }
        None
    }

    fn handle_reply(&mut self, reply: Reply) -> Option<Event> {
        let handled = match reply {
            Ok(GroupReply::Join(Ok(joined))) => self.handle_joined(joined),
            Ok(GroupReply::Join(Err(refused))) => self.handle_join_refused(refused),
            Ok(GroupReply::Sync(Ok(synced))) => self.handle_synced(&synced),
            Ok(GroupReply::FetchOffsets(Ok(found))) => self.handle_offsets(found),
            Ok(GroupReply::Heartbeat(Ok(()))) => self.handle_beaten(),
            Ok(GroupReply::Describe(Ok(group))) => self.handle_described(&group),
            // A group that is gone knows no member.
            Ok(GroupReply::Describe(Err(_))) => self.handle_refused(GroupError::UnknownMemberId),
            Ok(GroupReply::Sync(Err(error)) | GroupReply::Heartbeat(Err(error))) => {
                self.handle_refused(error)
            }
            Ok(GroupReply::FetchOffsets(Err(error))) => Err(Trouble::of(error)),
            Ok(other) => unreachable!("a member never asks what {other:?} answers"),
            Err(error) => Err(Trouble::Passing(errors::status(&error))),
        };
        match handled {
            Ok(event) => {
                self.failing_since = None;
                event
            }
            Err(Trouble::Passing(status)) => self.try_again(status),
            Err(Trouble::Lasting(status)) => Some(Event::Failed(status)),
        }
    }

    fn try_again(&mut self, status: Status) -> Option<Event> {
        let now = Instant::now();
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) > COORDINATOR_PATIENCE {
            return Some(Event::Failed(status));
        }
        self.wake_at = now + RETRY;
        None
    }

    fn join(&mut self) {
        let subscription = Subscription::to(self.identity.topics.clone());
        let metadata = subscription.encode(PROTOCOL_VERSION);
        let protocol =
            |it: &Assignor| Protocol { name: it.name().into(), metadata: metadata.clone() };
        let join = Join {
            group: self.identity.group.clone(),
            member: self.member(),
            instance: self.identity.instance.clone(),
            client_id: Arc::clone(&self.identity.client_id),
            client_host: Arc::clone(&self.identity.client_host),
            protocol_type: PROTOCOL_TYPE.into(),
            protocols: self.identity.protocols.iter().map(protocol).collect(),
            session_timeout_ms: self.identity.session_timeout_ms,
            rebalance_timeout_ms: self.identity.rebalance_timeout_ms,
            require_known_member_id: true,
            may_skip_assignment: true,
            // Whoever knows no generation has lost no more than a connection, if anything.
            resumes: self.generation == Generation::NONE,
        };
        self.phase = Phase::Joining;
        (self.leads, self.basis) = (false, None);
        self.call(GroupCommand::Join(join));
    }

    fn handle_join_refused(&mut self, refused: JoinRefused) -> Result<Option<Event>, Trouble> {
        match refused.error {
            GroupError::MemberIdRequired => self.hold(refused.member),
            GroupError::UnknownMemberId => self.hold(MemberId::none()),
            GroupError::RebalanceInProgress => {}
            error => return Err(Trouble::of(error)),
        }
        self.join();
        Ok(None)
    }

    fn handle_joined(&mut self, joined: Joined) -> Result<Option<Event>, Trouble> {
        let protocol = joined.protocol.as_deref().unwrap_or_default();
        let assignor = Assignor::from_name(protocol)
            .ok_or_else(|| Trouble::of(GroupError::InconsistentGroupProtocol))?;
        self.hold(joined.member.clone());
        self.generation = joined.generation;
        self.protocol = protocol.to_owned();
        self.leads = joined.leader == joined.member;
        let assigns = self.leads && !joined.skip_assignment;
        let sync = Sync {
            group: self.identity.group.clone(),
            generation: self.generation,
            member: self.member(),
            instance: self.identity.instance.clone(),
            protocol_type: Some(PROTOCOL_TYPE.into()),
            protocol: joined.protocol.clone(),
            assignments: if assigns { self.assign(assignor, &joined) } else { Vec::new() },
        };
        self.phase = Phase::Syncing;
        self.call(GroupCommand::Sync(sync));
        Ok(None)
    }

    /// The leader's work: everyone's partitions, also those of members at the other door.
    fn assign(&self, assignor: Assignor, joined: &Joined) -> Vec<(MemberId, bytes::Bytes)> {
        let topics: Vec<_> = joined.members.iter().map(|it| wanted(&it.metadata)).collect();
        let with_count = |topic: &String| (topic.clone(), self.partition_count(topic));
        let counts: BTreeMap<_, _> = topics.iter().flatten().map(with_count).collect();
        let subscribers: Vec<_> = joined
            .members
            .iter()
            .zip(&topics)
            .map(|(member, topics)| Subscriber {
                member: member.member.as_str(),
                instance: member.instance.as_ref().map(InstanceId::as_str),
                topics,
            })
            .collect();
        let assigned = assignor.assign(&subscribers, &counts);
        let encode = |topics| Assignment { topics, user_data: None }.encode(PROTOCOL_VERSION);
        let members = joined.members.iter().map(|it| it.member.clone());
        members.zip(assigned.into_iter().map(encode)).collect()
    }

    fn partition_count(&self, topic: &str) -> i32 {
        let count = self.hall.registry.topic(topic).map_or(0, |it| it.partition_count());
        i32::try_from(count).expect("the controller bounds partition counts")
    }

    /// A topic came, grew or went: the leader must assign again.
    fn must_rebalance(&self) -> bool {
        let Some(basis) = &self.basis else { return false };
        basis.iter().any(|(topic, count)| self.partition_count(topic) != *count)
    }

    fn handle_synced(&mut self, synced: &Synced) -> Result<Option<Event>, Trouble> {
        let assignment = Assignment::decode(&synced.assignment)
            .map_err(|_| Trouble::of(GroupError::InconsistentGroupProtocol))?;
        let topics = named(&assignment.topics);
        self.phase = Phase::Positioning(assignment.topics);
        self.fetch_offsets(topics);
        Ok(None)
    }

    fn fetch_offsets(&mut self, topics: Vec<PerTopic<Vec<PartitionIndex>>>) {
        let group = self.identity.group.clone();
        self.call(GroupCommand::FetchOffsets(FetchOffsets { group, topics: Some(topics) }));
    }

    fn handle_offsets(
        &mut self,
        found: Vec<PerTopic<Vec<FetchedOffset>>>,
    ) -> Result<Option<Event>, Trouble> {
        self.phase = Phase::Stable;
        self.wake_at = Instant::now() + self.identity.heartbeat_interval();
        let assigned = found.into_iter().flat_map(|PerTopic { topic, partitions }| {
            partitions.into_iter().map(move |it| Assigned {
                topic: topic.to_string(),
                partition: it.partition.0,
                committed: it.committed.map(|it| it.offset),
            })
        });
        Ok(Some(Event::Assigned(assigned.collect())))
    }

    fn beat(&mut self) {
        let beat = Heartbeat {
            group: self.identity.group.clone(),
            generation: self.generation,
            member: self.member(),
            instance: self.identity.instance.clone(),
        };
        self.call(GroupCommand::Heartbeat(beat));
    }

    fn handle_beaten(&mut self) -> Result<Option<Event>, Trouble> {
        self.wake_at = Instant::now() + self.identity.heartbeat_interval();
        Ok(None)
    }

    /// Everyone's topics and partitions, as long as the group is at rest; if not, a heartbeat tells.
    fn handle_described(&mut self, group: &GroupDescription) -> Result<Option<Event>, Trouble> {
        self.wake_at = Instant::now();
        if group.state != GroupState::Stable {
            self.beat();
            return Ok(None);
        }
        let mut counts = BTreeMap::new();
        for member in &group.members {
            wanted(&member.metadata).into_iter().for_each(|topic| {
                counts.entry(topic).or_default();
            });
            let assigned = Assignment::decode(&member.assignment);
            for (topic, partitions) in assigned.into_iter().flat_map(|it| it.topics) {
                let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
                *counts.entry(topic).or_default() += count;
            }
        }
        self.basis = Some(counts);
        Ok(None)
    }

    /// A heartbeat or a sync says that the generation is over, or this member's part in it.
    fn handle_refused(&mut self, error: GroupError) -> Result<Option<Event>, Trouble> {
        let was_stable = matches!(self.phase, Phase::Stable);
        let has_partitions = was_stable || matches!(self.phase, Phase::Releasing { .. });
        match error {
            GroupError::RebalanceInProgress if has_partitions => {
                self.wake_at = Instant::now() + self.identity.heartbeat_interval();
                if was_stable {
                    self.phase = self.releasing();
                }
                return Ok(was_stable.then_some(Event::Revoked));
            }
            GroupError::RebalanceInProgress | GroupError::IllegalGeneration => {}
            GroupError::UnknownMemberId => self.hold(MemberId::none()),
            error => return Err(Trouble::of(error)),
        }
        self.join();
        Ok(has_partitions.then_some(Event::Lost))
    }

    fn call(&mut self, command: GroupCommand) {
        let (hall, group) = (Arc::clone(&self.hall), self.identity.group.clone());
        self.call = Some(Box::pin(async move { groups::call(&hall, &group, command).await }));
    }
}

/// Waits until another stream has the member.
async fn taken(hold: &Option<Hold>) {
    match hold {
        Some(hold) => hold.taken().await,
        None => std::future::pending().await,
    }
}

/// What answers the command under way; without one `None`, when it is time.
async fn reply_or_wake(call: &mut Option<Call>, wake_at: Instant) -> Option<Reply> {
    match call {
        Some(call) => Some(call.await),
        None => {
            tokio::time::sleep_until(wake_at).await;
            None
        }
    }
}

/// Why a command did not do what it should.
enum Trouble {
    /// The coordinator is about to come back.
    Passing(Status),
    Lasting(Status),
}

impl Trouble {
    fn of(error: GroupError) -> Self {
        let status = errors::group_status(error);
        match error {
            GroupError::CoordinatorLoadInProgress
            | GroupError::CoordinatorNotAvailable
            | GroupError::NotCoordinator => Self::Passing(status),
            _ => Self::Lasting(status),
        }
    }
}

/// Topics that a member wants, by its own words; none if they are no words.
fn wanted(metadata: &[u8]) -> Vec<String> {
    Subscription::decode(metadata).map_or_else(|_| Vec::new(), |it| it.topics)
}

/// Partitions by topic as the coordinator wants them; an illegal name is no topic's.
fn named(partitions: &Partitions) -> Vec<PerTopic<Vec<PartitionIndex>>> {
    let named = partitions.iter().filter_map(|(topic, indexes)| {
        let topic = TopicName::parse(topic).ok()?;
        Some(PerTopic { topic, partitions: indexes.iter().copied().map(PartitionIndex).collect() })
    });
    named.collect()
}
