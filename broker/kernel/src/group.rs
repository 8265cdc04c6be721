//! The group coordinator: all groups of one shard, as a Machine.
//!
//! Commands become replies and records. What is durable (committed offsets, each group's last completed generation)
//! becomes true only by [`Groups::apply`], at run time as in replay; a rebalance in progress is volatile and lives in
//! `group/classic.rs`. When records cannot be logged, the shard throws the whole coordinator away and rebuilds it by
//! replay: there is no undo. Knows no log and no protocol. Only the shard (`shard.rs`) calls [`Groups`]; doors see the
//! words of `group/command.rs`.

mod classic;
mod command;
mod offsets;
pub mod record;
mod timers;

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use millrace_model::env::{Env, MonoMs, WallMs};
use millrace_model::ids::{GroupId, PartitionIndex, TopicName};

pub use command::{
    CommitOffset, CommitOffsets, DeleteOffsets, FetchOffsets, FetchedOffset, Generation,
    GroupCommand, GroupDescription, GroupError, GroupReply, GroupState, Heartbeat, InstanceId,
    Join, JoinRefused, Joined, JoinedMember, Leave, Leaver, Left, ListFilter, ListedGroup,
    MemberDescription, MemberId, PartitionResults, PerTopic, Protocol, Sync, Synced,
};

use classic::{ClassicGroup, Scene};
use offsets::{Aging, Offsets};
use record::{GroupValue, MEMBER_ID_SUFFIX_BYTES, Record, TEXT_BYTES_MAX};
use timers::Timers;

/// Groups in one shard; more are refused (retriable).
pub const GROUPS_MAX: usize = 100_000;
/// Ids given out but not used yet, in one group; more joins are refused (retriable).
pub const PENDING_MEMBERS_MAX: usize = 10_000;
/// Protocols of one member.
pub const PROTOCOLS_MAX: usize = 256;
/// Members named in one leave or one assignment.
pub const NAMED_MEMBERS_MAX: usize = 100_000;
/// Committed offsets of one group.
pub const GROUP_OFFSETS_MAX: usize = 1_000_000;
/// Largest record of a group: all members with metadata and assignment.
pub const GROUP_RECORD_BYTES_MAX: usize = 16 << 20;
/// Deletions in one pass of the expiry; the next pass follows at once.
const EXPIRY_RECORDS_MAX: usize = 10_000;

const _: () = assert!(TEXT_BYTES_MAX < GROUP_RECORD_BYTES_MAX);

/// What an operator may set; the names in the comments are Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: u64,
    /// `group.min.session.timeout.ms`
    pub session_timeout_ms_min: i32,
    /// `group.max.session.timeout.ms`
    pub session_timeout_ms_max: i32,
    /// `group.max.size`
    pub group_size_max: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`, in ms
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval_ms: u64,
    /// Largest record of a group; a shard holds it to half a segment.
    pub record_bytes_max: usize,
}

impl Default for GroupSettings {
    /// Kafka's, but for `group.max.size`, which is unlimited there.
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            session_timeout_ms_min: 6_000,
            session_timeout_ms_max: 1_800_000,
            group_size_max: 10_000,
            offset_metadata_max: 4_096,
            offsets_retention_ms: 10_080 * 60 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            record_bytes_max: GROUP_RECORD_BYTES_MAX,
        }
    }
}

/// What follows from one event. Replies may leave once everything recorded about their group is durable, the records
/// here included.
#[derive(Debug)]
pub(crate) struct Effects<T> {
    pub(crate) records: Vec<Record>,
    pub(crate) replies: Vec<(T, GroupReply)>,
    /// Nothing has changed but what the records, once applied, will.
    pub(crate) only_records: bool,
}

impl<T> Default for Effects<T> {
    fn default() -> Self {
        Self { records: Vec::new(), replies: Vec::new(), only_records: false }
    }
}

/// All groups of one shard. `T` is whatever names a waiting request.
#[derive(Debug)]
pub(crate) struct Groups<T> {
    settings: GroupSettings,
    groups: BTreeMap<GroupId, Group<T>>,
    timers: Timers,
    expiry_at: MonoMs,
    /// Where a pass of the expiry stopped; `None` between two rounds.
    expiry_after: Option<GroupId>,
}

#[derive(Debug)]
struct Group<T> {
    classic: ClassicGroup<T>,
    offsets: Offsets,
    /// The group's record in the log: what a restart would bring back.
    recorded: Option<GroupValue>,
}

/// Where [`Groups::live_records`] goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveCursor {
    group: GroupId,
    /// The last offset that was taken of this group.
    offset: Option<(TopicName, PartitionIndex)>,
}

impl<T> Group<T> {
    fn new(id: GroupId, now: WallMs) -> Self {
        Self { classic: ClassicGroup::new(id, now), offsets: Offsets::default(), recorded: None }
    }

    fn aging(&self) -> Aging {
        let Some(_) = self.classic.protocol_type() else { return Aging::SinceCommit };
        match self.classic.state() {
            GroupState::Empty => match self.classic.state_since() {
                Some(since) => Aging::Since(since),
                None => Aging::SinceCommit,
            },
            GroupState::Stable if self.classic.is_consumer() && self.classic.knows_topics() => {
                Aging::SinceCommit
            }
            _ => Aging::Never,
        }
    }

    /// Nothing would be lost with it.
    fn is_nothing(&self) -> bool {
        self.classic.is_deserted() && self.offsets.is_empty() && self.recorded.is_none()
    }
}

impl<T> Groups<T> {
    pub(crate) fn new(settings: GroupSettings, now: MonoMs) -> Self {
        let expiry_at = now.plus(settings.offsets_retention_check_interval_ms);
        let timers = Timers::default();
        Self { settings, groups: BTreeMap::new(), timers, expiry_at, expiry_after: None }
    }

    /// New settings; they count from the next event on.
    pub(crate) fn configure(&mut self, settings: GroupSettings) {
        self.settings = settings;
    }

    /// Makes a logged record true. Replay calls it too.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Offset { group, topic, partition, value: Some(value) } => {
                // A group without members and type: a consumer that manages its own partitions.
                let create = || Group::new(group.clone(), value.committed_at);
                let of = self.groups.entry(group.clone()).or_insert_with(create);
                of.offsets.put(topic, partition, value);
            }
            Record::Offset { group, topic, partition, value: None } => {
                let Some(of) = self.groups.get_mut(&group) else { return };
                of.offsets.remove(&topic, partition);
                if of.is_nothing() {
                    self.groups.remove(&group);
                }
            }
            Record::Group { group, value: Some(value) } => {
                let since = value.state_since.unwrap_or_default();
                let create = || Group::new(group.clone(), since);
                let of = self.groups.entry(group.clone()).or_insert_with(create);
                of.recorded = Some(value);
            }
            Record::Group { group, value: None } => {
                self.groups.remove(&group);
            }
        }
    }

    /// Replay is over: members take their places as the records say.
    pub(crate) fn restore(&mut self, env: &mut Env) {
        let mut effects = Effects::default();
        for group in self.groups.values_mut() {
            if let Some(value) = &group.recorded {
                let mut scene = Scene {
                    now: env.now,
                    rng: &mut env.rng,
                    settings: &self.settings,
                    timers: &mut self.timers,
                    effects: &mut effects,
                };
                group.classic.restore(&mut scene, value);
            }
        }
        let Effects { records, replies, .. } = effects;
        assert!(records.is_empty() && replies.is_empty(), "nobody waits and nothing is new");
    }

    /// Decides one command. Its reply, and those of requests that waited for it, are in the effects.
    pub(crate) fn handle(&mut self, env: &mut Env, command: GroupCommand, token: T) -> Effects<T> {
        let mut effects = Effects::default();
        if let Err(error) = check(&self.settings, &command) {
            effects.replies.push((token, command.refused(error)));
            return effects;
        }
        let group = command.group().cloned();
        effects.only_records = matches!(
            command,
            GroupCommand::CommitOffsets(_)
                | GroupCommand::DeleteGroup { .. }
                | GroupCommand::DeleteOffsets(_)
                | GroupCommand::ForgetTopic { .. }
        );
        self.dispatch(env, command, token, &mut effects);
        if let Some(group) = group {
            self.drop_if_nothing(&group, &effects);
        }
        effects
    }

    pub(crate) fn next_deadline(&self) -> Option<MonoMs> {
        let first = self.timers.next_deadline();
        Some(first.map_or(self.expiry_at, |at| at.min(self.expiry_at)))
    }

    /// Handles the earliest deadline that has passed; `None` when none has. The caller logs and applies the records
    /// before it calls again.
    pub(crate) fn expire_next(&mut self, env: &mut Env) -> Option<(Option<GroupId>, Effects<T>)> {
        let mut effects = Effects::default();
        if let Some(key) = self.timers.pop_due(env.now.mono) {
            let id = key.group;
            if let Some((group, mut scene)) = self.scene(env, &id, &mut effects) {
                group.classic.alarm(&mut scene, key.alarm);
            }
            self.drop_if_nothing(&id, &effects);
            return Some((Some(id), effects));
        }
        if self.expiry_at > env.now.mono {
            return None;
        }
        effects.only_records = true;
        self.expire_offsets(env, &mut effects);
        Some((None, effects))
    }

    /// About the size of all live state as records.
    pub(crate) fn live_bytes(&self) -> u64 {
        let (records, _) = self.live_records(None, usize::MAX);
        records.iter().map(|record| record.size_estimate() as u64).sum()
    }

    /// Live state as records, from `after` on, about `bytes` of them at most; and where to go on.
    pub(crate) fn live_records(
        &self,
        after: Option<&LiveCursor>,
        bytes: usize,
    ) -> (Vec<Record>, Option<LiveCursor>) {
        let mut records = Vec::new();
        let mut left = bytes;
        let from = after.map_or(Bound::Unbounded, |cursor| Bound::Included(&cursor.group));
        for (id, group) in self.groups.range::<GroupId, _>((from, Bound::Unbounded)) {
            let resumed = after.filter(|cursor| cursor.group == *id);
            let mut cursor = LiveCursor { group: id.clone(), offset: None };
            if let (None, Some(value)) = (resumed, &group.recorded) {
                let record = Record::Group { group: id.clone(), value: Some(value.clone()) };
                left = left.saturating_sub(record.size_estimate());
                records.push(record);
                if left == 0 {
                    return (records, Some(cursor));
                }
            }
            let taken = resumed.and_then(|cursor| cursor.offset.as_ref());
            for (topic, partition, value) in group.offsets.iter_after(taken) {
                let (group, topic) = (id.clone(), topic.clone());
                cursor.offset = Some((topic.clone(), partition));
                let record = Record::Offset { group, topic, partition, value: Some(value.clone()) };
                left = left.saturating_sub(record.size_estimate());
                records.push(record);
                if left == 0 {
                    return (records, Some(cursor));
                }
            }
        }
        (records, None)
    }

    /// Answers every request that waits inside a group; for a coordinator that is thrown away.
    pub(crate) fn abandon(&mut self, error: GroupError) -> Vec<(T, GroupReply)> {
        let mut replies = Vec::new();
        for group in self.groups.values_mut() {
            group.classic.abandon(error, &mut replies);
        }
        replies
    }

    fn dispatch(
        &mut self,
        env: &mut Env,
        command: GroupCommand,
        token: T,
        effects: &mut Effects<T>,
    ) {
        let reply = match command {
            GroupCommand::Join(join) => return self.join(env, join, token, effects),
            GroupCommand::Sync(sync) => return self.sync(env, sync, token, effects),
            GroupCommand::Heartbeat(beat) => {
                let scene = self.scene(env, &beat.group, effects);
                let beaten =
                    scene.map(|(group, mut scene)| group.classic.heartbeat(&mut scene, &beat));
                GroupReply::Heartbeat(beaten.unwrap_or(Err(GroupError::UnknownMemberId)))
            }
            GroupCommand::Leave(leave) => GroupReply::Leave(Ok(self.leave(env, leave, effects))),
            GroupCommand::CommitOffsets(commit) => {
                GroupReply::CommitOffsets(self.commit(env, commit, effects))
            }
            GroupCommand::FetchOffsets(fetch) => {
                let nothing = Offsets::default();
                let of = self.groups.get(&fetch.group).map_or(&nothing, |group| &group.offsets);
                GroupReply::FetchOffsets(Ok(of.fetch(fetch.topics)))
            }
            GroupCommand::Describe { group } => {
                let found = self.groups.get(&group).map(|group| group.classic.describe());
                GroupReply::Describe(found.ok_or(GroupError::GroupIdNotFound))
            }
            GroupCommand::List(filter) => GroupReply::List(Ok(self.list(&filter))),
            GroupCommand::DeleteGroup { group } => {
                GroupReply::DeleteGroup(self.delete_group(&group, effects))
            }
            GroupCommand::DeleteOffsets(delete) => {
                GroupReply::DeleteOffsets(self.delete_offsets(delete, effects))
            }
            GroupCommand::ForgetTopic { topic } => {
                for (id, group) in &self.groups {
                    effects.records.extend(group.offsets.delete_topic(id, &topic));
                }
                GroupReply::ForgetTopic(Ok(()))
            }
        };
        effects.replies.push((token, reply));
    }

    fn join(&mut self, env: &mut Env, mut join: Join, token: T, effects: &mut Effects<T>) {
        let is_new = !self.groups.contains_key(&join.group);
        let refusal = match (is_new, join.member.is_none()) {
            (true, false) => Some(GroupError::UnknownMemberId),
            (true, true) if self.groups.len() >= GROUPS_MAX => {
                Some(GroupError::CoordinatorNotAvailable)
            }
            _ => None,
        };
        if let Some(error) = refusal {
            let refused = JoinRefused { error, member: join.member };
            return effects.replies.push((token, GroupReply::Join(Err(refused))));
        }
        if is_new {
            let group = Group::new(join.group.clone(), env.now.wall);
            self.groups.insert(join.group.clone(), group);
        }
        own(&mut join.protocols);
        let id = join.group.clone();
        let (group, mut scene) = self.scene(env, &id, effects).expect("it is there by now");
        group.classic.join(&mut scene, join, token);
    }

    fn sync(&mut self, env: &mut Env, sync: Sync, token: T, effects: &mut Effects<T>) {
        let id = sync.group.clone();
        if !self.groups.contains_key(&id) {
            let refused = GroupReply::Sync(Err(GroupError::UnknownMemberId));
            return effects.replies.push((token, refused));
        }
        let (group, mut scene) = self.scene(env, &id, effects).expect("it is there");
        group.classic.sync(&mut scene, sync, token);
    }

    fn leave(&mut self, env: &mut Env, leave: Leave, effects: &mut Effects<T>) -> Vec<Left> {
        let Some((group, mut scene)) = self.scene(env, &leave.group, effects) else {
            let result = Err(GroupError::UnknownMemberId);
            return leave.members.into_iter().map(|leaver| Left { leaver, result }).collect();
        };
        group.classic.leave(&mut scene, leave.members)
    }

    fn commit(
        &mut self,
        env: &mut Env,
        commit: CommitOffsets,
        effects: &mut Effects<T>,
    ) -> Result<Vec<PerTopic<PartitionResults>>, GroupError> {
        let now = env.now.wall;
        let full = self.groups.len() >= GROUPS_MAX;
        let (records, results) =
            if let Some((group, mut scene)) = self.scene(env, &commit.group, effects) {
                group.classic.check_commit(&mut scene, &commit)?;
                group.offsets.decide_commit(scene.settings, now, commit)?
            } else {
                if commit.generation.0 >= 0 {
                    return Err(GroupError::GroupIdNotFound);
                }
                if full {
                    return Err(GroupError::CoordinatorNotAvailable);
                }
                Offsets::default().decide_commit(&self.settings, now, commit)?
            };
        effects.records.extend(records);
        Ok(results)
    }

    fn list(&self, filter: &ListFilter) -> Vec<ListedGroup> {
        let wanted = |state| filter.states.as_ref().is_none_or(|states| states.contains(&state));
        let listed = |(id, group): (&GroupId, &Group<T>)| ListedGroup {
            group: id.clone(),
            protocol_type: group.classic.protocol_type().cloned().unwrap_or_default(),
            state: group.classic.state(),
        };
        self.groups.iter().map(listed).filter(|group| wanted(group.state)).collect()
    }

    fn delete_group(&self, id: &GroupId, effects: &mut Effects<T>) -> Result<(), GroupError> {
        let group = self.groups.get(id).ok_or(GroupError::GroupIdNotFound)?;
        if group.classic.state() != GroupState::Empty {
            return Err(GroupError::NonEmptyGroup);
        }
        effects.records.extend(group.offsets.delete_all(id));
        effects.records.push(Record::Group { group: id.clone(), value: None });
        Ok(())
    }

    fn delete_offsets(
        &self,
        delete: DeleteOffsets,
        effects: &mut Effects<T>,
    ) -> Result<Vec<PerTopic<PartitionResults>>, GroupError> {
        let DeleteOffsets { group: id, topics } = delete;
        let group = self.groups.get(&id).ok_or(GroupError::GroupIdNotFound)?;
        if group.classic.state() != GroupState::Empty && !group.classic.is_consumer() {
            return Err(GroupError::NonEmptyGroup);
        }
        let subscribed = |topic: &TopicName| group.classic.is_subscribed_to(topic.as_str());
        let (records, results) = group.offsets.decide_delete(&id, topics, subscribed);
        effects.records.extend(records);
        Ok(results)
    }

    /// One pass over the groups: offsets past their retention, then groups that keep nothing.
    fn expire_offsets(&mut self, env: &Env, effects: &mut Effects<T>) {
        let mut dropped = Vec::new();
        let mut last = None;
        let from = self.expiry_after.take().map_or(Bound::Unbounded, Bound::Excluded);
        for (id, group) in self.groups.range((from, Bound::Unbounded)) {
            if effects.records.len() >= EXPIRY_RECORDS_MAX {
                break;
            }
            last = Some(id.clone());
            let deletions = group.offsets.expire(
                id,
                env.now.wall,
                self.settings.offsets_retention_ms,
                group.aging(),
                |topic| group.classic.is_subscribed_to(topic.as_str()),
            );
            let keeps_nothing = group.offsets.are_all(&deletions) && group.classic.is_deserted();
            if group.is_nothing() {
                dropped.push(id.clone());
                continue;
            }
            effects.records.extend(deletions);
            if keeps_nothing {
                effects.records.push(Record::Group { group: id.clone(), value: None });
            }
        }
        let reached_end = effects.records.len() < EXPIRY_RECORDS_MAX;
        for id in dropped {
            self.groups.remove(&id);
        }
        if reached_end {
            let interval = self.settings.offsets_retention_check_interval_ms;
            self.expiry_at = env.now.mono.plus(interval.max(1));
        } else {
            self.expiry_after = last;
        }
    }

    /// A group that was made for a request and came to nothing leaves no trace.
    fn drop_if_nothing(&mut self, id: &GroupId, effects: &Effects<T>) {
        let is_nothing = self.groups.get(id).is_some_and(Group::is_nothing);
        if effects.records.is_empty() && is_nothing {
            self.groups.remove(id);
        }
    }

    /// A group, and all that it may touch.
    fn scene<'a>(
        &'a mut self,
        env: &'a mut Env,
        id: &GroupId,
        effects: &'a mut Effects<T>,
    ) -> Option<(&'a mut Group<T>, Scene<'a, T>)> {
        let group = self.groups.get_mut(id)?;
        let scene = Scene {
            now: env.now,
            rng: &mut env.rng,
            settings: &self.settings,
            timers: &mut self.timers,
            effects,
        };
        Some((group, scene))
    }
}

/// What needs no group to be refused.
fn check(settings: &GroupSettings, command: &GroupCommand) -> Result<(), GroupError> {
    if let Some(group) = command.group() {
        let may_be_unnamed = matches!(
            command,
            GroupCommand::CommitOffsets(_)
                | GroupCommand::FetchOffsets(_)
                | GroupCommand::Describe { .. }
                | GroupCommand::DeleteGroup { .. }
        );
        let length = group.as_str().len();
        if length > TEXT_BYTES_MAX || (length == 0 && !may_be_unnamed) {
            return Err(GroupError::InvalidGroupId);
        }
    }
    let sized = match command {
        GroupCommand::Join(join) => {
            let session = settings.session_timeout_ms_min..=settings.session_timeout_ms_max;
            if !session.contains(&join.session_timeout_ms) {
                return Err(GroupError::InvalidSessionTimeout);
            }
            join_is_sized(settings, join)
        }
        GroupCommand::Sync(sync) => sync.assignments.len() <= NAMED_MEMBERS_MAX,
        GroupCommand::Leave(leave) => leave.members.len() <= NAMED_MEMBERS_MAX,
        _ => true,
    };
    if sized { Ok(()) } else { Err(GroupError::InvalidRequest) }
}

fn join_is_sized(settings: &GroupSettings, join: &Join) -> bool {
    let prefix_max = TEXT_BYTES_MAX - MEMBER_ID_SUFFIX_BYTES;
    let metadata: usize = join.protocols.iter().map(|p| p.metadata.len()).sum();
    join.client_id.len() <= prefix_max
        && join.instance.as_ref().is_none_or(|instance| instance.as_str().len() <= prefix_max)
        && join.client_host.len() <= TEXT_BYTES_MAX
        && join.protocol_type.len() <= TEXT_BYTES_MAX
        && join.protocols.len() <= PROTOCOLS_MAX
        && join.protocols.iter().all(|p| p.name.len() <= TEXT_BYTES_MAX)
        && metadata <= settings.record_bytes_max
}

/// One protocol per name, with metadata that does not hold on to a request's frame.
fn own(protocols: &mut Vec<Protocol>) {
    let mut names = std::collections::BTreeSet::new();
    protocols.retain(|p| names.insert(p.name.clone()));
    for protocol in protocols {
        protocol.metadata = Bytes::copy_from_slice(&protocol.metadata);
    }
}

#[cfg(test)]
mod tests;
