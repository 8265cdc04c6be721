//! One group under the classic protocol: join, sync, heartbeat, leave, and what happens when a member does none of it.
//!
//! Follows Kafka's `ClassicGroup` and `GroupMetadataManager` (KIP-62, 134, 345, 394, 814). The state here is volatile:
//! a record ([`GroupValue`]) leaves with every completed rebalance, and after a restart [`ClassicGroup::restore`] brings
//! the last one back with fresh session timers, so that members carry on without a rebalance. Never reads a clock,
//! never waits: timers are set in a [`Scene`] and come back as alarms. Only the coordinator (`group.rs`) calls it.
//!
//! ```text
//!            first member joins          all joined, or time is up            leader syncs
//!   Empty ------------------> PreparingRebalance ----------> CompletingRebalance ----------> Stable
//!     ^                         |        ^  ^                          |                       |
//!     +------ nobody left ------+        |  +-- join, leave, expiry ---+                       |
//!                                        +----------- join, leave, expiry ---------------------+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use millrace_model::env::{Now, Prng, WallMs};
use millrace_model::ids::GroupId;
use tracing::info;

use super::command::{
    Generation, GroupDescription, GroupError, GroupReply, GroupState, Heartbeat, InstanceId, Join,
    JoinRefused, Joined, JoinedMember, Leaver, Left, MemberDescription, MemberId, Protocol, Sync,
    Synced,
};
use super::record::{GroupValue, MemberValue, Record};
use super::timers::{Alarm, TimerKey, Timers};
use super::{Effects, GroupSettings, PENDING_MEMBERS_MAX};

/// A new member that cannot heartbeat yet waits at most this long for its first join to complete (Kafka's
/// `classicGroupNewMemberJoinTimeoutMs`): its client may be gone, and a parked join does not show that.
const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;

/// The protocol type whose metadata tells topics.
const CONSUMER: &str = "consumer";

/// What a group may touch while it handles one event.
pub(super) struct Scene<'a, T> {
    pub(super) now: Now,
    pub(super) rng: &'a mut Prng,
    pub(super) settings: &'a GroupSettings,
    pub(super) timers: &'a mut Timers,
    pub(super) effects: &'a mut Effects<T>,
}

impl<T> Scene<'_, T> {
    fn join(&mut self, token: T, result: Result<Joined, JoinRefused>) {
        self.effects.replies.push((token, GroupReply::Join(result)));
    }

    fn refuse_join(&mut self, token: T, error: GroupError, member: MemberId) {
        self.join(token, Err(JoinRefused { error, member }));
    }

    fn sync(&mut self, token: T, result: Result<Synced, GroupError>) {
        self.effects.replies.push((token, GroupReply::Sync(result)));
    }
}

#[derive(Debug)]
pub(super) struct ClassicGroup<T> {
    id: GroupId,
    state: GroupState,
    state_since: Option<WallMs>,
    generation: Generation,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    /// Invariant: a member whenever there are members.
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, Member<T>>,
    /// Invariant: exactly the members with an instance id.
    statics: BTreeMap<InstanceId, MemberId>,
    /// Ids given out and not yet used (KIP-394); each has a session timer.
    pending: BTreeSet<MemberId>,
    /// Members of this generation that have not synced.
    unsynced: BTreeSet<MemberId>,
    /// Members waiting for their join to be answered. Invariant: counts `members` with `joining`.
    joining_count: usize,
    /// How many members know each protocol.
    protocol_counts: BTreeMap<Arc<str>, usize>,
    /// Set while the first rebalance of an empty group gathers members.
    gathering: Option<Gathering>,
    /// Topics of the last generation's members; `None` when unknown.
    subscribed: Option<BTreeSet<Box<str>>>,
}

/// The initial delay of an empty group: it is renewed while members keep coming, up to the rebalance timeout.
#[derive(Debug)]
struct Gathering {
    delay_ms: u64,
    remaining_ms: u64,
    member_came: bool,
}

#[derive(Debug)]
struct Member<T> {
    instance: Option<InstanceId>,
    client_id: Arc<str>,
    client_host: Arc<str>,
    session_timeout_ms: i32,
    rebalance_timeout_ms: i32,
    protocols: Vec<Protocol>,
    assignment: Bytes,
    /// In its first join: it has no id to heartbeat with, so even a waiting one expires.
    is_new: bool,
    joining: Option<T>,
    syncing: Option<T>,
}

impl<T> Member<T> {
    fn metadata(&self, protocol: &str) -> Bytes {
        let of = self.protocols.iter().find(|p| &*p.name == protocol);
        of.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    fn waits(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }
}

impl<T> ClassicGroup<T> {
    pub(super) fn new(id: GroupId, now: WallMs) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            state_since: Some(now),
            generation: Generation(0),
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            joining_count: 0,
            protocol_counts: BTreeMap::new(),
            gathering: None,
            subscribed: None,
        }
    }

    /// Brings back what the record says: members with fresh sessions, a rebalance when they are too many by now.
    pub(super) fn restore(&mut self, scene: &mut Scene<'_, T>, value: &GroupValue) {
        self.generation = value.generation;
        self.protocol_type =
            (!value.protocol_type.is_empty()).then(|| Arc::clone(&value.protocol_type));
        self.protocol.clone_from(&value.protocol);
        self.state_since = value.state_since;
        let protocol = value.protocol.clone().unwrap_or_default();
        for member in &value.members {
            let instance = member.instance.as_ref();
            if self.members.contains_key(&member.member)
                || instance.is_some_and(|instance| self.statics.contains_key(instance))
            {
                continue; // no record of ours names one twice
            }
            let rebalance = member.rebalance_timeout_ms;
            self.insert(
                member.member.clone(),
                Member {
                    instance: member.instance.clone(),
                    client_id: Arc::clone(&member.client_id),
                    client_host: Arc::clone(&member.client_host),
                    session_timeout_ms: member.session_timeout_ms,
                    rebalance_timeout_ms: if rebalance == -1 {
                        member.session_timeout_ms
                    } else {
                        rebalance
                    },
                    protocols: vec![Protocol {
                        name: Arc::clone(&protocol),
                        metadata: member.subscription.clone(),
                    }],
                    assignment: member.assignment.clone(),
                    is_new: false,
                    joining: None,
                    syncing: None,
                },
            );
            self.arm_session(scene, &member.member);
        }
        let known = |leader: &&MemberId| self.members.contains_key(*leader);
        if let Some(leader) = value.leader.as_ref().filter(known) {
            self.leader = Some(leader.clone());
        }
        if !self.members.is_empty() {
            self.state = GroupState::Stable;
        }
        self.subscribed = self.subscribed_topics();
        if self.members.len() > scene.settings.group_size_max {
            self.prepare_rebalance(scene, "more members than group.max.size after a restart");
        }
    }

    pub(super) fn state(&self) -> GroupState {
        self.state
    }

    /// Nobody is in and nobody is about to come in.
    pub(super) fn is_deserted(&self) -> bool {
        self.state == GroupState::Empty && self.pending.is_empty()
    }

    pub(super) fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    pub(super) fn state_since(&self) -> Option<WallMs> {
        self.state_since
    }

    pub(super) fn is_consumer(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// Does it know which topics its members read?
    pub(super) fn knows_topics(&self) -> bool {
        self.subscribed.is_some()
    }

    /// A consumer group that does not know its topics counts as subscribed to all of them.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or(self.is_consumer(), |topics| topics.contains(topic))
    }

    pub(super) fn describe(&self) -> GroupDescription {
        let stable = self.state == GroupState::Stable;
        let protocol = self.protocol.clone().filter(|_| stable).unwrap_or_default();
        let member = |(id, m): (&MemberId, &Member<T>)| MemberDescription {
            member: id.clone(),
            instance: m.instance.clone(),
            client_id: Arc::clone(&m.client_id),
            client_host: Arc::clone(&m.client_host),
            metadata: if stable { m.metadata(&protocol) } else { Bytes::new() },
            assignment: m.assignment.clone(),
        };
        GroupDescription {
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: self.members.iter().map(member).collect(),
            protocol,
        }
    }

    /// `JoinGroup`: answered at once, or parked until the join phase completes.
    pub(super) fn join(&mut self, scene: &mut Scene<'_, T>, join: Join, token: T) {
        if !self.accepts(scene.settings, &join.member) {
            self.remove(scene, &join.member, GroupError::GroupMaxSizeReached);
            scene.refuse_join(token, GroupError::GroupMaxSizeReached, MemberId::none());
            self.complete_join_when_all_joined(scene);
        } else if !self.supports(&join) {
            scene.refuse_join(token, GroupError::InconsistentGroupProtocol, join.member);
        } else if join.member.is_none() {
            self.join_unknown(scene, join, token);
        } else if join.instance.is_none() && self.pending.contains(&join.member) {
            let member = join.member.clone();
            self.add_member(scene, member, join, token);
        } else {
            self.join_known(scene, join, token);
        }
    }

    fn accepts(&self, settings: &GroupSettings, member: &MemberId) -> bool {
        let known = self.members.get(member);
        match self.state {
            GroupState::Empty | GroupState::Dead => true,
            // Who waits counts: the last ones to rejoin are turned away when the limit was lowered.
            GroupState::PreparingRebalance => {
                known.is_some_and(|m| m.joining.is_some())
                    || self.joining_count < settings.group_size_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                known.is_some() || self.members.len() < settings.group_size_max
            }
        }
    }

    /// Does a protocol of the joiner's suit every member?
    fn supports(&self, join: &Join) -> bool {
        if self.state == GroupState::Empty {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        let known_to_all = |p: &Protocol| {
            self.protocol_counts.get(&p.name).copied().unwrap_or(0) == self.members.len()
        };
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join.protocols.iter().any(known_to_all)
    }

    fn join_unknown(&mut self, scene: &mut Scene<'_, T>, join: Join, token: T) {
        let prefix = join.instance.as_ref().map_or(&*join.client_id, InstanceId::as_str);
        let member = new_member_id(scene.rng, prefix);
        if let Some(instance) = &join.instance {
            return match self.statics.get(instance).cloned() {
                Some(old) => self.replace_static(scene, &old, member, join, token),
                None => self.add_member(scene, member, join, token),
            };
        }
        if !join.require_known_member_id {
            return self.add_member(scene, member, join, token);
        }
        if self.pending.len() >= PENDING_MEMBERS_MAX {
            return scene.refuse_join(token, GroupError::CoordinatorNotAvailable, join.member);
        }
        self.pending.insert(member.clone());
        let timeout = duration(join.session_timeout_ms);
        scene.timers.set(self.key(Alarm::Session(member.clone())), scene.now.mono.plus(timeout));
        scene.refuse_join(token, GroupError::MemberIdRequired, member);
    }

    fn join_known(&mut self, scene: &mut Scene<'_, T>, join: Join, token: T) {
        if let Err(error) = self.check_member(&join.member, join.instance.as_ref()) {
            return scene.refuse_join(token, error, join.member);
        }
        if self.state == GroupState::Stable && join.resumes && self.knows_metadata(&join) {
            return self.resume(scene, join, token);
        }
        let member = &self.members[&join.member];
        let same = member.protocols == join.protocols;
        let is_leader = self.leader.as_ref() == Some(&join.member);
        let reason = match self.state {
            GroupState::PreparingRebalance => "a member rejoins",
            // It lost the answer to its join, or asks again: the generation stands.
            GroupState::CompletingRebalance if same => {
                let joined = self.joined(&join.member, is_leader);
                return scene.join(token, Ok(joined));
            }
            GroupState::Stable if same && !is_leader => {
                let joined = self.joined(&join.member, false);
                return scene.join(token, Ok(joined));
            }
            GroupState::CompletingRebalance => "a member changed its metadata",
            // The leader rejoins when what it assigns has changed, its metadata need not.
            GroupState::Stable if is_leader => "the leader rejoins",
            GroupState::Stable => "a member changed its metadata",
            GroupState::Empty | GroupState::Dead => {
                return scene.refuse_join(token, GroupError::UnknownMemberId, join.member);
            }
        };
        let id = join.member.clone();
        self.update_member(scene, &id, join, token);
        self.rebalance(scene, reason);
    }

    /// Does the assignment rest on what the member says? After a restart only the protocol in use is known.
    fn knows_metadata(&self, join: &Join) -> bool {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let said = join.protocols.iter().find(|it| &*it.name == protocol);
        said.is_some_and(|said| said.metadata == self.members[&join.member].metadata(protocol))
    }

    /// The generation goes on with a member whose connection was lost.
    fn resume(&mut self, scene: &mut Scene<'_, T>, join: Join, token: T) {
        let (id, may_skip) = (join.member.clone(), join.may_skip_assignment);
        self.update_member(scene, &id, join, token);
        self.arm_session(scene, &id);
        if self.protocol != self.select_protocol() {
            return self.rebalance(scene, "a returning member changes the protocol");
        }
        let joined = self.rejoined(&id, self.leader.clone(), may_skip);
        self.answer_join(scene, &id, joined);
    }

    fn answer_join(&mut self, scene: &mut Scene<'_, T>, id: &MemberId, joined: Joined) {
        let member = self.members.get_mut(id).expect("the caller found the member");
        let waiting = member.joining.take().expect("its request was parked");
        self.joining_count -= 1;
        scene.join(waiting, Ok(joined));
    }

    fn add_member(&mut self, scene: &mut Scene<'_, T>, id: MemberId, join: Join, token: T) {
        if let Some(gathering) = &mut self.gathering {
            gathering.member_came = true;
        }
        self.pending.remove(&id);
        if self.members.is_empty() {
            self.protocol_type = Some(join.protocol_type);
        }
        let member = Member {
            instance: join.instance,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            is_new: true,
            joining: Some(token),
            syncing: None,
        };
        self.insert(id.clone(), member);
        let until = scene.now.mono.plus(NEW_MEMBER_JOIN_TIMEOUT_MS);
        scene.timers.set(self.key(Alarm::Session(id)), until);
        self.rebalance(scene, "a member joins");
    }

    /// The known member joins again, its request waiting in place of an older one.
    fn update_member(&mut self, scene: &mut Scene<'_, T>, id: &MemberId, join: Join, token: T) {
        let member = self.members.get_mut(id).expect("the caller found the member");
        let before = std::mem::replace(&mut member.protocols, join.protocols);
        let after: Vec<_> = member.protocols.iter().map(|p| Arc::clone(&p.name)).collect();
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.session_timeout_ms = join.session_timeout_ms;
        match member.joining.replace(token) {
            Some(stale) => {
                scene.refuse_join(stale, GroupError::RebalanceInProgress, id.clone());
            }
            None => self.joining_count += 1,
        }
        for protocol in &before {
            self.forget_protocol(&protocol.name);
        }
        for name in after {
            *self.protocol_counts.entry(name).or_default() += 1;
        }
    }

    /// A static member came back without its id: it gets a new one, the old one is fenced (KIP-345).
    fn replace_static(
        &mut self,
        scene: &mut Scene<'_, T>,
        old: &MemberId,
        new: MemberId,
        join: Join,
        token: T,
    ) {
        let leader_before = self.leader.clone();
        let may_skip = join.may_skip_assignment;
        self.rename_member(scene, old, &new);
        self.update_member(scene, &new, join, token);
        self.arm_session(scene, &new);
        match self.state {
            GroupState::Stable => {
                if self.protocol != self.select_protocol() {
                    return self.rebalance(scene, "a returning static member changes the protocol");
                }
                self.subscribed = self.subscribed_topics();
                let record = self.record();
                if record.size_estimate() > scene.settings.record_bytes_max {
                    return self.rebalance(scene, "the group's record grew too large");
                }
                scene.effects.records.push(record);
                let joined = self.rejoined(&new, leader_before, may_skip);
                self.answer_join(scene, &new, joined);
            }
            // The leader may have been told of the old id: its assignment would miss the new one.
            GroupState::CompletingRebalance => {
                self.prepare_rebalance(scene, "a static member returns before the sync");
            }
            GroupState::PreparingRebalance => self.complete_join_when_all_joined(scene),
            GroupState::Empty | GroupState::Dead => {
                unreachable!("a group with a static member is not empty")
            }
        }
    }

    /// The generation goes on. Clients that cannot skip the assignment must not think that they lead, so they are
    /// shown the leader's old id.
    fn rejoined(
        &self,
        member: &MemberId,
        leader_before: Option<MemberId>,
        may_skip: bool,
    ) -> Joined {
        if may_skip {
            let leads = self.leader.as_ref() == Some(member);
            return Joined { skip_assignment: leads, ..self.joined(member, leads) };
        }
        let leader = leader_before.unwrap_or_else(MemberId::none);
        Joined { leader, ..self.joined(member, false) }
    }

    fn rename_member(&mut self, scene: &mut Scene<'_, T>, old: &MemberId, new: &MemberId) {
        let mut member = self.members.remove(old).expect("static ids name members");
        let fenced = GroupError::FencedInstanceId;
        if let Some(token) = member.joining.take() {
            self.joining_count -= 1;
            scene.refuse_join(token, fenced, old.clone());
        }
        if let Some(token) = member.syncing.take() {
            scene.sync(token, Err(fenced));
        }
        scene.timers.cancel(self.key(Alarm::Session(old.clone())));
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), new.clone());
        }
        if self.leader.as_ref() == Some(old) {
            self.leader = Some(new.clone());
        }
        if self.unsynced.remove(old) {
            self.unsynced.insert(new.clone());
        }
        self.members.insert(new.clone(), member);
    }

    /// `SyncGroup`: answered at once, or parked until the leader's assignment is there.
    pub(super) fn sync(&mut self, scene: &mut Scene<'_, T>, sync: Sync, token: T) {
        if let Err(error) = self.check_sync(&sync) {
            return scene.sync(token, Err(error));
        }
        match self.state {
            GroupState::Empty | GroupState::Dead => {
                scene.sync(token, Err(GroupError::UnknownMemberId));
            }
            GroupState::PreparingRebalance => {
                scene.sync(token, Err(GroupError::RebalanceInProgress));
            }
            GroupState::Stable => {
                self.note_synced(scene, &sync.member);
                let synced = self.synced(&self.members[&sync.member]);
                scene.sync(token, Ok(synced));
            }
            GroupState::CompletingRebalance => {
                let member = self.members.get_mut(&sync.member).expect("checked above");
                if let Some(stale) = member.syncing.replace(token) {
                    scene.sync(stale, Err(GroupError::RebalanceInProgress));
                }
                self.note_synced(scene, &sync.member);
                if self.leader.as_ref() == Some(&sync.member) {
                    self.assign(scene, sync.assignments);
                }
            }
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), GroupError> {
        if self.state == GroupState::Empty {
            return Err(GroupError::UnknownMemberId);
        }
        self.check_member(&sync.member, sync.instance.as_ref())?;
        if sync.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        let differs = |theirs: &Option<Arc<str>>, ours: &Option<Arc<str>>| matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs != ours);
        if differs(&sync.protocol_type, &self.protocol_type)
            || differs(&sync.protocol, &self.protocol)
        {
            return Err(GroupError::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// The leader's word: everyone gets their part, who is not named an empty one, and the generation is recorded.
    fn assign(&mut self, scene: &mut Scene<'_, T>, assignments: Vec<(MemberId, Bytes)>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = Bytes::copy_from_slice(&assignment);
            }
        }
        let record = self.record();
        if record.size_estimate() > scene.settings.record_bytes_max {
            self.refuse_syncs(scene, GroupError::UnknownServerError);
            return self.prepare_rebalance(scene, "the group's record is too large");
        }
        scene.effects.records.push(record);
        self.enter(scene, GroupState::Stable);
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let member = self.members.get_mut(&id).expect("the id is a member's");
            if let Some(token) = member.syncing.take() {
                let synced = self.synced(&self.members[&id]);
                scene.sync(token, Ok(synced));
                self.arm_session(scene, &id);
            }
        }
    }

    fn synced(&self, member: &Member<T>) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: member.assignment.clone(),
        }
    }

    fn note_synced(&mut self, scene: &mut Scene<'_, T>, member: &MemberId) {
        self.unsynced.remove(member);
        if self.unsynced.is_empty() {
            scene.timers.cancel(self.key(Alarm::Sync));
        }
    }

    /// `Heartbeat`.
    ///
    /// # Errors
    /// What the member must do; a rebalance refreshes its session all the same.
    pub(super) fn heartbeat(
        &mut self,
        scene: &mut Scene<'_, T>,
        beat: &Heartbeat,
    ) -> Result<(), GroupError> {
        self.check_member(&beat.member, beat.instance.as_ref())?;
        if beat.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        self.arm_session(scene, &beat.member);
        match self.state {
            GroupState::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// `LeaveGroup`, for several members at once.
    pub(super) fn leave(&mut self, scene: &mut Scene<'_, T>, leavers: Vec<Leaver>) -> Vec<Left> {
        let mut left = Vec::with_capacity(leavers.len());
        for leaver in leavers {
            let result = self.leaver_id(&leaver).map(|member| {
                self.remove(scene, &member, GroupError::UnknownMemberId);
            });
            left.push(Left { leaver, result });
        }
        if left.iter().any(|l| l.result.is_ok()) {
            match self.state {
                GroupState::Stable | GroupState::CompletingRebalance => {
                    self.rebalance(scene, "a member leaves");
                }
                GroupState::PreparingRebalance => self.complete_join_when_all_joined(scene),
                GroupState::Empty | GroupState::Dead => {}
            }
        }
        left
    }

    fn leaver_id(&self, leaver: &Leaver) -> Result<MemberId, GroupError> {
        if leaver.member.is_none() {
            let instance = leaver.instance.as_ref().ok_or(GroupError::UnknownMemberId)?;
            return self.statics.get(instance).cloned().ok_or(GroupError::UnknownMemberId);
        }
        if !self.pending.contains(&leaver.member) {
            self.check_member(&leaver.member, leaver.instance.as_ref())?;
        }
        Ok(leaver.member.clone())
    }

    /// May this offset commit pass? A passing commit of a member refreshes its session.
    ///
    /// # Errors
    /// Kafka's answer for a member outside the generation.
    pub(super) fn check_commit(
        &mut self,
        scene: &mut Scene<'_, T>,
        commit: &super::CommitOffsets,
    ) -> Result<(), GroupError> {
        if commit.generation.0 < 0 && self.state == GroupState::Empty {
            return Ok(());
        }
        if commit.generation.0 < 0 && commit.member.is_none() && commit.instance.is_none() {
            return Err(GroupError::UnknownMemberId);
        }
        self.check_member(&commit.member, commit.instance.as_ref())?;
        if commit.generation != self.generation {
            return Err(GroupError::IllegalGeneration);
        }
        if self.state == GroupState::CompletingRebalance {
            return Err(GroupError::RebalanceInProgress);
        }
        self.arm_session(scene, &commit.member);
        Ok(())
    }

    /// A deadline of this group has passed.
    pub(super) fn alarm(&mut self, scene: &mut Scene<'_, T>, alarm: Alarm) {
        match alarm {
            Alarm::Join => self.join_time_is_up(scene),
            Alarm::Sync => self.sync_time_is_up(scene),
            Alarm::Session(member) => self.session_expired(scene, &member),
        }
    }

    fn join_time_is_up(&mut self, scene: &mut Scene<'_, T>) {
        if self.state != GroupState::PreparingRebalance {
            return;
        }
        if let Some(gathering) = self.gathering.as_mut().filter(|g| g.member_came)
            && gathering.remaining_ms > 0
        {
            let delay_ms = scene.settings.initial_rebalance_delay_ms.min(gathering.remaining_ms);
            let remaining_ms = gathering.remaining_ms.saturating_sub(gathering.delay_ms);
            *gathering = Gathering { delay_ms, remaining_ms, member_came: false };
            scene.timers.set(self.key(Alarm::Join), scene.now.mono.plus(delay_ms));
            return;
        }
        self.complete_join(scene);
    }

    fn sync_time_is_up(&mut self, scene: &mut Scene<'_, T>) {
        let completed = matches!(self.state, GroupState::CompletingRebalance | GroupState::Stable);
        if !completed || self.unsynced.is_empty() {
            return;
        }
        for member in std::mem::take(&mut self.unsynced) {
            self.remove(scene, &member, GroupError::UnknownMemberId);
        }
        self.prepare_rebalance(scene, "members did not sync in time");
    }

    fn session_expired(&mut self, scene: &mut Scene<'_, T>, id: &MemberId) {
        if self.pending.remove(id) {
            return self.complete_join_when_all_came(scene);
        }
        let Some(member) = self.members.get(id) else { return };
        if !member.is_new && member.waits() {
            return; // it waits for us; its session begins again with the answer
        }
        info!(group = %self.id, member = %id, "member expired");
        self.remove(scene, id, GroupError::UnknownMemberId);
        match self.state {
            GroupState::Stable | GroupState::CompletingRebalance => {
                self.rebalance(scene, "a member expired");
            }
            GroupState::PreparingRebalance => self.complete_join_when_all_came(scene),
            GroupState::Empty | GroupState::Dead => {}
        }
    }

    /// Every request that waits in this group; the group forgets them.
    pub(super) fn abandon(&mut self, error: GroupError, replies: &mut Vec<(T, GroupReply)>) {
        for (id, member) in &mut self.members {
            if let Some(token) = member.joining.take() {
                let refused = JoinRefused { error, member: id.clone() };
                replies.push((token, GroupReply::Join(Err(refused))));
            }
            if let Some(token) = member.syncing.take() {
                replies.push((token, GroupReply::Sync(Err(error))));
            }
        }
        self.joining_count = 0;
    }

    /// Starts a rebalance, or carries on with the one that runs.
    fn rebalance(&mut self, scene: &mut Scene<'_, T>, reason: &'static str) {
        match self.state {
            GroupState::PreparingRebalance => self.complete_join_when_all_joined(scene),
            _ => self.prepare_rebalance(scene, reason),
        }
    }

    fn prepare_rebalance(&mut self, scene: &mut Scene<'_, T>, reason: &'static str) {
        if self.state == GroupState::CompletingRebalance {
            self.refuse_syncs(scene, GroupError::RebalanceInProgress);
        }
        self.unsynced.clear();
        scene.timers.cancel(self.key(Alarm::Sync));
        info!(group = %self.id, generation = %self.generation, members = self.members.len(), reason, "rebalance begins");
        let timeout_ms = self.rebalance_timeout_ms();
        if self.state == GroupState::Empty {
            let delay_ms = scene.settings.initial_rebalance_delay_ms;
            let remaining_ms = timeout_ms.saturating_sub(delay_ms);
            self.gathering = Some(Gathering { delay_ms, remaining_ms, member_came: false });
            scene.timers.set(self.key(Alarm::Join), scene.now.mono.plus(delay_ms));
            return self.enter(scene, GroupState::PreparingRebalance);
        }
        self.enter(scene, GroupState::PreparingRebalance);
        if self.all_joined() {
            self.complete_join(scene);
        } else {
            scene.timers.set(self.key(Alarm::Join), scene.now.mono.plus(timeout_ms));
        }
    }

    /// Drops the assignment that was in the making.
    fn refuse_syncs(&mut self, scene: &mut Scene<'_, T>, error: GroupError) {
        let mut waiting = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = Bytes::new();
            if let Some(token) = member.syncing.take() {
                waiting.push(id.clone());
                scene.sync(token, Err(error));
            }
        }
        for id in waiting {
            self.arm_session(scene, &id); // it may have run out while it waited
        }
    }

    fn all_joined(&self) -> bool {
        self.members.len() == self.joining_count && self.pending.is_empty()
    }

    /// Not before an empty group's initial delay is over.
    fn complete_join_when_all_joined(&mut self, scene: &mut Scene<'_, T>) {
        if self.gathering.is_none() {
            self.complete_join_when_all_came(scene);
        }
    }

    fn complete_join_when_all_came(&mut self, scene: &mut Scene<'_, T>) {
        if self.state == GroupState::PreparingRebalance && self.all_joined() {
            self.complete_join(scene);
        }
    }

    /// The join phase ends: who did not come back is out (static members are not), the rest is the next generation.
    fn complete_join(&mut self, scene: &mut Scene<'_, T>) {
        scene.timers.cancel(self.key(Alarm::Join));
        self.gathering = None;
        let absent = |(id, m): (&MemberId, &Member<T>)| {
            (m.joining.is_none() && m.instance.is_none()).then(|| id.clone())
        };
        for id in self.members.iter().filter_map(absent).collect::<Vec<_>>() {
            self.remove(scene, &id, GroupError::UnknownMemberId);
        }
        if !self.members.is_empty() && !self.elect_leader() {
            // Static members only, and none came: their sessions decide.
            let timeout_ms = self.rebalance_timeout_ms();
            scene.timers.set(self.key(Alarm::Join), scene.now.mono.plus(timeout_ms));
            return;
        }
        self.next_generation(scene);
    }

    /// Keeps the leader if it came, else takes the first who did.
    fn elect_leader(&mut self) -> bool {
        let came = |id: &MemberId| self.members.get(id).is_some_and(|m| m.joining.is_some());
        if self.leader.as_ref().is_some_and(came) {
            return true;
        }
        let first = self.members.iter().find(|(_, m)| m.joining.is_some());
        let first = first.map(|(id, _)| id.clone());
        let elected = first.is_some();
        if elected {
            self.leader = first;
        }
        elected
    }

    fn next_generation(&mut self, scene: &mut Scene<'_, T>) {
        self.generation = Generation(self.generation.0.wrapping_add(1).max(1));
        self.protocol = self.select_protocol();
        self.subscribed = self.subscribed_topics();
        self.unsynced.clear();
        if self.members.is_empty() {
            self.enter(scene, GroupState::Empty);
            info!(group = %self.id, generation = %self.generation, "group is empty");
            scene.effects.records.push(self.record());
            return;
        }
        self.enter(scene, GroupState::CompletingRebalance);
        info!(group = %self.id, generation = %self.generation, members = self.members.len(), "members joined");
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let joined = self.joined(&id, self.leader.as_ref() == Some(&id));
            let member = self.members.get_mut(&id).expect("the id is a member's");
            member.is_new = false;
            if let Some(token) = member.joining.take() {
                scene.join(token, Ok(joined));
            }
            self.arm_session(scene, &id);
            self.unsynced.insert(id);
        }
        self.joining_count = 0;
        let timeout_ms = self.rebalance_timeout_ms();
        scene.timers.set(self.key(Alarm::Sync), scene.now.mono.plus(timeout_ms));
    }

    fn joined(&self, member: &MemberId, with_members: bool) -> Joined {
        let protocol = self.protocol.clone().unwrap_or_default();
        let one = |(id, m): (&MemberId, &Member<T>)| JoinedMember {
            member: id.clone(),
            instance: m.instance.clone(),
            metadata: m.metadata(&protocol),
        };
        Joined {
            member: member.clone(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(MemberId::none),
            skip_assignment: false,
            members: if with_members { self.members.iter().map(one).collect() } else { vec![] },
        }
    }

    /// Of the protocols that all members know, the one that most prefer; `None` without members.
    fn select_protocol(&self) -> Option<Arc<str>> {
        let common = |p: &&Protocol| {
            self.protocol_counts.get(&p.name).is_some_and(|count| *count == self.members.len())
        };
        let mut votes = BTreeMap::<&Arc<str>, usize>::new();
        for member in self.members.values() {
            let choice = member.protocols.iter().find(common);
            let choice = choice.expect("a member is let in only with a protocol that all know");
            *votes.entry(&choice.name).or_default() += 1;
        }
        let most = votes.values().max().copied()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| Arc::clone(name))
    }

    fn subscribed_topics(&self) -> Option<BTreeSet<Box<str>>> {
        if !self.is_consumer() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol.as_deref()?);
            consumer_topics(&metadata, &mut topics)?;
        }
        Some(topics)
    }

    fn check_member(
        &self,
        member: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            let current = self.statics.get(instance).ok_or(GroupError::UnknownMemberId)?;
            if current != member {
                return Err(GroupError::FencedInstanceId);
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(GroupError::UnknownMemberId) }
    }

    fn insert(&mut self, id: MemberId, member: Member<T>) {
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), id.clone());
        }
        for protocol in &member.protocols {
            *self.protocol_counts.entry(Arc::clone(&protocol.name)).or_default() += 1;
        }
        self.joining_count += usize::from(member.joining.is_some());
        self.leader.get_or_insert_with(|| id.clone());
        self.members.insert(id, member);
    }

    /// Forgets a member, or an id given out; what it waits for is answered with `error`.
    fn remove(&mut self, scene: &mut Scene<'_, T>, id: &MemberId, error: GroupError) {
        self.pending.remove(id);
        scene.timers.cancel(self.key(Alarm::Session(id.clone())));
        let Some(member) = self.members.remove(id) else { return };
        for protocol in &member.protocols {
            self.forget_protocol(&protocol.name);
        }
        if let Some(instance) = &member.instance {
            self.statics.remove(instance);
        }
        if let Some(token) = member.joining {
            self.joining_count -= 1;
            scene.refuse_join(token, error, MemberId::none());
        }
        if let Some(token) = member.syncing {
            scene.sync(token, Err(error));
        }
        self.unsynced.remove(id);
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn forget_protocol(&mut self, name: &Arc<str>) {
        if let Some(count) = self.protocol_counts.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.protocol_counts.remove(name);
            }
        }
    }

    fn enter(&mut self, scene: &Scene<'_, T>, state: GroupState) {
        self.state = state;
        self.state_since = Some(scene.now.wall);
    }

    fn arm_session(&self, scene: &mut Scene<'_, T>, id: &MemberId) {
        let Some(member) = self.members.get(id) else { return };
        let until = scene.now.mono.plus(duration(member.session_timeout_ms));
        scene.timers.set(self.key(Alarm::Session(id.clone())), until);
    }

    fn key(&self, alarm: Alarm) -> TimerKey {
        TimerKey { group: self.id.clone(), alarm }
    }

    /// The longest that any member may take.
    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(|m| duration(m.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    fn record(&self) -> Record {
        let protocol = self.protocol.clone().unwrap_or_default();
        let member = |(id, m): (&MemberId, &Member<T>)| MemberValue {
            member: id.clone(),
            instance: m.instance.clone(),
            client_id: Arc::clone(&m.client_id),
            client_host: Arc::clone(&m.client_host),
            rebalance_timeout_ms: m.rebalance_timeout_ms,
            session_timeout_ms: m.session_timeout_ms,
            subscription: m.metadata(&protocol),
            assignment: m.assignment.clone(),
        };
        let value = GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since: self.state_since,
            members: self.members.iter().map(member).collect(),
        };
        Record::Group { group: self.id.clone(), value: Some(value) }
    }
}

/// A client's timeout: what is below 0 is 0.
fn duration(ms: i32) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}

fn new_member_id(rng: &mut Prng, prefix: &str) -> MemberId {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let [a, b, c, d, e] = {
        let u = rng.uuid();
        [hex(&u[..4]), hex(&u[4..6]), hex(&u[6..8]), hex(&u[8..10]), hex(&u[10..])]
    };
    MemberId::new(&format!("{prefix}-{a}-{b}-{c}-{d}-{e}"))
}

/// Adds the topics of a consumer's subscription (Kafka's `ConsumerProtocolSubscription`, whose version 0 begins every
/// later one): version i16, topics (count i32 of length i16 and UTF-8), user data (length i32, -1 for none).
pub(super) fn consumer_topics(metadata: &[u8], topics: &mut BTreeSet<Box<str>>) -> Option<()> {
    let (_version, rest) = metadata.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = u32::try_from(i32::from_be_bytes(*count)).ok()?;
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (topic, tail) = tail.split_at_checked(length)?;
        topics.insert(std::str::from_utf8(topic).ok()?.into());
        rest = tail;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = i32::from_be_bytes(*length).max(0) as usize;
    (length <= rest.len()).then_some(())
}

/// What tests look at between two events.
#[cfg(test)]
pub(super) struct Insides<'a> {
    /// Does the member wait for an answer?
    pub(super) members: BTreeMap<&'a MemberId, bool>,
    pub(super) pending: &'a BTreeSet<MemberId>,
    pub(super) unsynced: &'a BTreeSet<MemberId>,
    pub(super) leader: Option<&'a MemberId>,
    pub(super) joining: usize,
    pub(super) joining_count: usize,
    pub(super) syncing: usize,
    pub(super) protocol_counts: BTreeMap<&'a str, usize>,
    pub(super) protocols_of_members: BTreeMap<&'a str, usize>,
}

#[cfg(test)]
impl<T> ClassicGroup<T> {
    pub(super) fn timer(&self, alarm: Alarm) -> TimerKey {
        self.key(alarm)
    }

    pub(super) fn insides(&self) -> Insides<'_> {
        let mut protocols_of_members = BTreeMap::new();
        for protocol in self.members.values().flat_map(|m| &m.protocols) {
            *protocols_of_members.entry(&*protocol.name).or_default() += 1;
        }
        let of_instance = |(id, m): (&'_ MemberId, &'_ Member<T>)| {
            m.instance.clone().map(|instance| (instance, id.clone()))
        };
        let named: BTreeMap<_, _> = self.members.iter().filter_map(of_instance).collect();
        assert_eq!(named, self.statics);
        Insides {
            members: self.members.iter().map(|(id, m)| (id, m.waits())).collect(),
            pending: &self.pending,
            unsynced: &self.unsynced,
            leader: self.leader.as_ref(),
            joining: self.members.values().filter(|m| m.joining.is_some()).count(),
            joining_count: self.joining_count,
            syncing: self.members.values().filter(|m| m.syncing.is_some()).count(),
            protocol_counts: self.protocol_counts.iter().map(|(n, c)| (&**n, *c)).collect(),
            protocols_of_members,
        }
    }
}
