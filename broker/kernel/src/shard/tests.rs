//! A shard with everything around it that a driver would be, on a simulated disk.

mod history;

use std::path::PathBuf;
use std::sync::Arc as StdArc;

use millrace_model::env::{Now, Prng, WallMs};
use millrace_model::ids::{PartitionIndex, TopicId, TopicName};
use millrace_model::offset::LeaderEpoch;
use millrace_storage::disk::sim::SimDisk;
use millrace_storage::log::{Checkpoint, Log, LogConfig, Trust};
use proptest::prelude::*;

use super::*;
use crate::group::{
    CommitOffset, CommitOffsets, DeleteOffsets, FetchOffsets, Generation, GroupState, Heartbeat,
    Join, Leave, Leaver, ListFilter, MemberId, PerTopic, Protocol, Sync,
};
use crate::partition::{Durability, PartitionSettings, Timestamps};

const SMALL: Limits = Limits { replay_bytes_min: 1_000, rewrite_bytes: 150 };

struct Rig {
    disk: SimDisk,
    dir: PathBuf,
    shard: Option<Shard<SimDisk, u32>>,
    limits: Option<Limits>,
    env: Env,
    tokens: u32,
    replies: BTreeMap<u32, GroupReply>,
    /// A log start waits to be made durable.
    start_moved: bool,
    /// What the data directory knows of the partition.
    recorded: Trust,
    is_failed: bool,
    out: Vec<ShardOutput<SimDisk, u32>>,
}

fn settings() -> PartitionSettings {
    PartitionSettings {
        durability: Durability::Durable,
        timestamps: Timestamps::CreateTime { before_max_ms: i64::MAX, after_max_ms: i64::MAX },
        insync_replicas_min: 1,
        producer_expiration_ms: 86_400_000,
        maintenance_interval_ms: 300_000,
        relaxed_flush_ms: 1_000,
        log: LogConfig { segment_bytes: 1 << 20, retention_ms: -1, ..LogConfig::default() },
    }
}

fn group_settings() -> GroupSettings {
    let never = 1 << 40;
    GroupSettings {
        initial_rebalance_delay_ms: 0,
        offsets_retention_check_interval_ms: never,
        ..GroupSettings::default()
    }
}

impl Rig {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(limits: Option<Limits>) -> Self {
        let disk = SimDisk::new(1);
        let dir = PathBuf::from("/__consumer_offsets-0");
        let log = Log::create(disk.clone(), &dir, TopicId([7; 16]), settings().log).unwrap();
        disk.sync_all().unwrap();
        let now = Now { wall: WallMs(1_000_000), mono: MonoMs(0) };
        let mut rig = Self {
            disk,
            dir,
            shard: None,
            limits,
            env: Env { now, rng: Prng::new(3) },
            tokens: 0,
            replies: BTreeMap::new(),
            start_moved: false,
            recorded: Trust::Nothing,
            is_failed: false,
            out: Vec::new(),
        };
        rig.serve(log);
        rig
    }

    fn serve(&mut self, log: Log<SimDisk>) {
        let partition = Partition::open(log, settings(), LeaderEpoch(0), self.env.now).unwrap();
        let mut shard = Shard::open(partition, group_settings(), &mut self.env).unwrap();
        shard.limits = self.limits.unwrap_or(shard.limits);
        self.shard = Some(shard);
    }

    /// The process is gone and another begins: what was written is there, not all of it synced.
    fn restart(&mut self) {
        self.shard = None;
        (self.start_moved, self.is_failed) = (false, false);
        let (disk, now) = (self.disk.clone(), self.env.now.wall);
        let opened = Log::open(disk, &self.dir, settings().log, self.recorded, now);
        self.serve(opened.unwrap().0);
    }

    /// The power goes and comes back.
    fn crash(&mut self) {
        self.shard = None;
        self.disk = self.disk.crash();
        self.disk.set_capacity(1 << 40);
        self.restart();
    }

    fn shard(&mut self) -> &mut Shard<SimDisk, u32> {
        self.shard.as_mut().unwrap()
    }

    fn handle(&mut self, event: ShardEvent<u32>) {
        let shard = self.shard.as_mut().unwrap();
        shard.handle(&mut self.env, event, &mut self.out);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for output in std::mem::take(&mut self.out) {
            match output {
                ShardOutput::Reply { token, reply } => {
                    let twice = self.replies.insert(token, reply);
                    assert_eq!(twice, None, "#{token} is answered twice");
                }
                ShardOutput::Partition(Output::LogStart { save: true, .. }) => {
                    self.start_moved = true;
                }
                ShardOutput::Partition(Output::Doomed(doomed)) => {
                    for it in doomed {
                        let _ = it.unlink(); // what is not unlinked is found at the next start
                    }
                }
                ShardOutput::Partition(Output::Failed { .. }) => self.is_failed = true,
                ShardOutput::Partition(_) => {}
            }
        }
    }

    fn ask(&mut self, command: GroupCommand) -> u32 {
        self.tokens += 1;
        let token = self.tokens;
        self.handle(ShardEvent::Command { command, token });
        token
    }

    /// Asks, makes everything durable, and expects the answer.
    fn get(&mut self, command: GroupCommand) -> GroupReply {
        let token = self.ask(command);
        self.sync();
        self.reply(token).expect("everything is durable")
    }

    fn reply(&mut self, token: u32) -> Option<GroupReply> {
        self.replies.remove(&token)
    }

    fn sync(&mut self) {
        while self.sync_once() {}
        if std::mem::take(&mut self.start_moved) {
            self.checkpoint();
        }
    }

    fn sync_once(&mut self) -> bool {
        let Some(ticket) = self.shard().take_unsynced() else { return false };
        let synced = self.disk.sync_set(&ticket.files().collect::<Vec<_>>());
        self.handle(ShardEvent::Partition(match synced {
            Ok(_) => Event::Synced { end: ticket.end() },
            Err(error) => Event::SyncFailed { reason: error.to_string().into() },
        }));
        true
    }

    fn checkpoint(&mut self) {
        let Ok(Checkpoint { state, epochs }) = self.shard().checkpoint() else { return };
        if epochs.is_none_or(|file| file.write().is_ok()) {
            self.recorded = Trust::Recorded(state);
            let start = state.log_start;
            self.handle(ShardEvent::Partition(Event::LogStartSaved { start }));
        }
    }

    fn wait(&mut self, ms: u64) {
        let until = self.env.now.mono.plus(ms);
        loop {
            let deadline = self.shard().next_deadline().unwrap_or(until);
            let at = deadline.max(self.env.now.mono).min(until);
            let is_last = deadline > until;
            self.env.now.wall.0 += (at.0 - self.env.now.mono.0) as i64;
            self.env.now.mono = at;
            if is_last {
                return;
            }
            self.handle(ShardEvent::Tick);
        }
    }

    /// Lets a rewrite that has begun come to its end.
    fn finish_rewrite(&mut self) {
        for _ in 0..10_000 {
            if self.shard().rewrite.is_none() {
                return;
            }
            self.handle(ShardEvent::Tick);
            self.sync();
        }
        panic!("the rewrite has no end: {:?}", self.shard().rewrite);
    }

    fn offsets(&mut self, group: &str) -> Vec<(String, i32, i64)> {
        let fetched = self.get(fetch(group));
        let GroupReply::FetchOffsets(Ok(topics)) = fetched else { panic!("{fetched:?}") };
        let one = |it: PerTopic<Vec<crate::group::FetchedOffset>>| {
            let topic = it.topic.to_string();
            let of = move |o: crate::group::FetchedOffset| {
                (topic.clone(), o.partition.0, o.committed.unwrap().offset)
            };
            it.partitions.into_iter().map(of)
        };
        topics.into_iter().flat_map(one).collect()
    }

    /// What the groups `g0`, `g1`, ... of the random steps have.
    fn all_offsets(&mut self) -> BTreeMap<(u8, String, i32), i64> {
        let of_group = |g: u8| {
            let offsets = self.offsets(&format!("g{g}")).into_iter();
            offsets.map(move |(name, index, offset)| ((g, name, index), offset))
        };
        (0..GROUPS).flat_map(of_group).collect()
    }

    /// A member that has joined and synced, alone in its group.
    fn member(&mut self, group: &str) -> MemberId {
        let joined = self.get(join(group, &MemberId::none()));
        let GroupReply::Join(Ok(joined)) = joined else { panic!("{joined:?}") };
        let synced = self.get(sync(group, &joined.member, joined.generation.0));
        assert!(matches!(synced, GroupReply::Sync(Ok(_))), "{synced:?}");
        joined.member
    }
}

fn group(name: &str) -> GroupId {
    GroupId::new(name)
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn commit_with(name: &str, metadata: &str, offsets: &[(&str, i32, i64)]) -> GroupCommand {
    let one = |(name, partition, offset): &(&str, i32, i64)| PerTopic {
        topic: topic(name),
        partitions: vec![CommitOffset {
            partition: PartitionIndex(*partition),
            offset: *offset,
            leader_epoch: LeaderEpoch(0),
            metadata: metadata.into(),
            topic_id: TopicId::ZERO,
        }],
    };
    GroupCommand::CommitOffsets(CommitOffsets {
        group: group(name),
        generation: Generation::NONE,
        member: MemberId::none(),
        instance: None,
        retention_ms: None,
        topics: offsets.iter().map(one).collect(),
    })
}

fn commit(name: &str, offset: i64) -> GroupCommand {
    commit_with(name, "", &[("t", 0, offset)])
}

fn fetch(name: &str) -> GroupCommand {
    GroupCommand::FetchOffsets(FetchOffsets { group: group(name), topics: None })
}

fn join(name: &str, member: &MemberId) -> GroupCommand {
    GroupCommand::Join(Join {
        group: group(name),
        member: member.clone(),
        instance: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::new() }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        require_known_member_id: false,
        may_skip_assignment: false,
        resumes: false,
    })
}

fn sync(name: &str, member: &MemberId, generation: i32) -> GroupCommand {
    GroupCommand::Sync(Sync {
        group: group(name),
        generation: Generation(generation),
        member: member.clone(),
        instance: None,
        protocol_type: None,
        protocol: None,
        assignments: vec![(member.clone(), Bytes::from_static(b"all"))],
    })
}

fn beat(name: &str, member: &MemberId) -> GroupCommand {
    GroupCommand::Heartbeat(Heartbeat {
        group: group(name),
        generation: Generation(1),
        member: member.clone(),
        instance: None,
    })
}

fn state(reply: &GroupReply) -> (GroupState, usize) {
    match reply {
        GroupReply::Describe(Ok(it)) => (it.state, it.members.len()),
        other => panic!("{other:?}"),
    }
}

fn describe(name: &str) -> GroupCommand {
    GroupCommand::Describe { group: group(name) }
}

fn with_segment_bytes(segment_bytes: u32) -> ShardEvent<u32> {
    let log = LogConfig { segment_bytes, ..settings().log };
    ShardEvent::Partition(Event::Configure(PartitionSettings { log, ..settings() }))
}

#[test]
fn a_commit_is_answered_when_it_is_durable() {
    let mut rig = Rig::new();
    let token = rig.ask(commit("g", 7));
    assert_eq!(rig.reply(token), None);
    rig.sync();
    assert!(matches!(rig.reply(token), Some(GroupReply::CommitOffsets(Ok(_)))));
    assert_eq!(rig.offsets("g"), [("t".into(), 0, 7)]);
}

#[test]
fn a_read_waits_for_what_it_would_reveal_and_for_nothing_else() {
    let mut rig = Rig::new();
    rig.get(commit("other", 1));
    let committed = rig.ask(commit("g", 7));
    let read = rig.ask(fetch("g"));
    let described = rig.ask(describe("g"));
    let listed = rig.ask(GroupCommand::List(ListFilter::default()));
    let other = rig.ask(fetch("other"));
    let unknown = rig.ask(describe("nowhere"));
    assert_eq!(rig.replies.keys().copied().collect::<Vec<_>>(), [other, unknown]);
    rig.sync();
    for token in [committed, read, described, listed] {
        assert!(rig.reply(token).is_some(), "#{token}");
    }
}

#[test]
fn a_sync_is_answered_when_the_assignment_is_durable() {
    let mut rig = Rig::new();
    let token = rig.ask(join("g", &MemberId::none()));
    let Some(GroupReply::Join(Ok(joined))) = rig.reply(token) else {
        panic!("a join leaves no record and waits for none")
    };
    let token = rig.ask(sync("g", &joined.member, 1));
    let beaten = rig.ask(beat("g", &joined.member));
    assert_eq!((rig.reply(token), rig.reply(beaten)), (None, None));
    rig.sync();
    assert!(matches!(rig.reply(token), Some(GroupReply::Sync(Ok(_)))));
    assert_eq!(rig.reply(beaten), Some(GroupReply::Heartbeat(Ok(()))));
    let beaten = rig.ask(beat("g", &joined.member));
    assert_eq!(rig.reply(beaten), Some(GroupReply::Heartbeat(Ok(()))));
}

#[test]
fn a_restart_brings_groups_and_offsets_back() {
    let mut rig = Rig::new();
    let member = rig.member("g");
    rig.get(commit("simple", 9));
    rig.restart();
    rig.sync();
    assert_eq!(state(&rig.get(describe("g"))), (GroupState::Stable, 1));
    assert_eq!(rig.get(beat("g", &member)), GroupReply::Heartbeat(Ok(())));
    assert_eq!(rig.offsets("simple"), [("t".into(), 0, 9)]);
    rig.wait(10_000);
    assert_eq!(state(&rig.get(describe("g"))), (GroupState::Empty, 0));
}

#[test]
fn what_a_replay_found_is_not_shown_before_it_is_durable() {
    let mut rig = Rig::new();
    rig.ask(commit("g", 7));
    rig.restart();
    let token = rig.ask(fetch("g"));
    assert_eq!(rig.reply(token), None, "it may be lost in a power cut");
    rig.sync();
    assert!(rig.reply(token).is_some());
}

/// A sync whose record cannot be logged had already moved the group on: the whole coordinator goes back to the log.
#[test]
fn a_refused_append_throws_the_coordinator_away() {
    let mut rig = Rig::new();
    let member = rig.member("g");
    rig.get(commit("simple", 9));
    let newcomer = rig.ask(join("g", &MemberId::none()));
    let joined = rig.get(join("g", &member));
    assert!(matches!(joined, GroupReply::Join(Ok(_))), "{joined:?}");
    let Some(GroupReply::Join(Ok(second))) = rig.reply(newcomer) else { panic!("both joined") };
    let follower = rig.ask(sync("g", &second.member, 2));
    let waiting = rig.ask(join("h", &MemberId::none()));
    assert!(rig.reply(waiting).is_some());
    let waiting = rig.ask(join("h", &MemberId::none()));

    rig.handle(with_segment_bytes(100));
    let leader = rig.ask(sync("g", &member, 2));
    let refused = Some(GroupReply::Sync(Err(GroupError::UnknownServerError)));
    assert_eq!((rig.reply(leader), rig.reply(follower)), (refused.clone(), refused));
    assert!(matches!(rig.reply(waiting), Some(GroupReply::Join(Err(_)))));

    rig.handle(with_segment_bytes(1 << 20));
    assert_eq!(state(&rig.get(describe("g"))), (GroupState::Stable, 1));
    assert_eq!(rig.get(beat("g", &member)), GroupReply::Heartbeat(Ok(())));
    assert_eq!(rig.offsets("simple"), [("t".into(), 0, 9)]);
    let gone = GroupReply::Describe(Err(GroupError::GroupIdNotFound));
    assert_eq!(rig.get(describe("h")), gone);
}

#[test]
fn a_refused_commit_disturbs_nobody() {
    let mut rig = Rig::new();
    rig.member("g");
    let waiting = rig.ask(join("g", &MemberId::none()));
    rig.handle(with_segment_bytes(1_000));
    let token = rig.ask(commit_with("simple", &"x".repeat(2_000), &[("t", 0, 1)]));
    let refused = GroupReply::CommitOffsets(Err(GroupError::UnknownServerError));
    assert_eq!(rig.reply(token), Some(refused));
    assert_eq!(rig.offsets("simple"), []);
    assert_eq!(rig.reply(waiting), None);
    assert_eq!(state(&rig.get(describe("g"))), (GroupState::PreparingRebalance, 2));
}

#[test]
fn a_full_disk_refuses_changes_and_keeps_sessions() {
    let mut rig = Rig::new();
    let member = rig.member("g");
    rig.get(commit("simple", 9));
    rig.handle(ShardEvent::Partition(Event::Space { writable: false }));
    let unavailable = GroupError::CoordinatorNotAvailable;
    let refused = GroupReply::CommitOffsets(Err(unavailable));
    assert_eq!(rig.get(commit("simple", 10)), refused);
    assert!(matches!(rig.get(join("g", &member)), GroupReply::Join(Err(_))));
    let leaver = Leaver { member: member.clone(), instance: None };
    let leave = Leave { group: group("g"), members: vec![leaver] };
    assert_eq!(rig.get(GroupCommand::Leave(leave)), GroupReply::Leave(Err(unavailable)));
    assert_eq!(rig.get(beat("g", &member)), GroupReply::Heartbeat(Ok(())));
    assert_eq!(rig.offsets("simple"), [("t".into(), 0, 9)]);
    rig.wait(60_000);
    assert_eq!(rig.get(beat("g", &member)), GroupReply::Heartbeat(Ok(())), "nobody expires");
    rig.handle(ShardEvent::Partition(Event::Space { writable: true }));
    assert_eq!(rig.get(beat("g", &member)), GroupReply::Heartbeat(Ok(())));
    rig.get(commit("simple", 10));
    assert_eq!(rig.offsets("simple"), [("t".into(), 0, 10)]);
}

#[test]
fn a_failed_sync_answers_everyone_and_nothing_more() {
    let mut rig = Rig::new();
    rig.member("g");
    let waiting = rig.ask(join("g", &MemberId::none()));
    let parked = rig.ask(commit("simple", 9));
    let reason: StdArc<str> = "input/output error".into();
    rig.handle(ShardEvent::Partition(Event::SyncFailed { reason }));
    let error = GroupError::NotCoordinator;
    let Some(GroupReply::Join(Err(refused))) = rig.reply(waiting) else { panic!("refused") };
    assert_eq!(refused.error, error);
    assert_eq!(rig.reply(parked), Some(GroupReply::CommitOffsets(Err(error))));
    let token = rig.ask(fetch("simple"));
    assert_eq!(rig.reply(token), Some(GroupReply::FetchOffsets(Err(error))));
    assert_eq!(rig.shard().next_deadline(), None);
}

#[test]
fn stopping_answers_what_waits() {
    let mut rig = Rig::new();
    rig.member("g");
    let waiting = rig.ask(join("g", &MemberId::none()));
    let parked = rig.ask(commit("simple", 9));
    let Rig { shard, out, .. } = &mut rig;
    shard.as_mut().unwrap().stop(out);
    rig.carry_out();
    let error = GroupError::CoordinatorNotAvailable;
    let Some(GroupReply::Join(Err(refused))) = rig.reply(waiting) else { panic!("refused") };
    assert_eq!(refused.error, error);
    assert_eq!(rig.reply(parked), Some(GroupReply::CommitOffsets(Err(error))));
    let token = rig.ask(commit("simple", 9));
    assert!(rig.reply(token).is_some());
}

#[test]
fn many_records_become_several_batches_and_one_answer() {
    let mut rig = Rig::new();
    let metadata = "x".repeat(4_000);
    let offsets: Vec<_> = (0..600).map(|index| ("t", index, i64::from(index))).collect();
    rig.get(commit_with("g", &metadata, &offsets));
    assert_eq!(rig.shard().partition().marks().log_end(), Offset(600));
    rig.restart();
    assert_eq!(rig.offsets("g").len(), 600);
}

#[test]
fn replay_stays_bounded_and_loses_nothing() {
    let mut rig = Rig::new();
    let member = rig.member("g");
    rig.get(commit("simple", 9));
    let metadata = "x".repeat(4_000);
    let mut longest = 0;
    let mut last = 0;
    for round in 0..60 {
        let offsets: Vec<_> = (0..100).map(|index| ("t", index, round)).collect();
        rig.get(commit_with("busy", &metadata, &offsets));
        longest = longest.max(rig.shard().replay_bytes);
        last = round;
    }
    rig.finish_rewrite();
    let start = rig.shard().partition().marks().log_start();
    assert!(start > Offset(2_000), "the log begins at {start}");
    assert!(longest < REPLAY_BYTES_MIN + (2 << 20), "a replay would have read {longest} bytes");
    rig.restart();
    let replayed = rig.shard().replay_bytes;
    assert!(replayed < REPLAY_BYTES_MIN + (1 << 20), "{replayed}");
    assert_eq!(rig.offsets("simple"), [("t".into(), 0, 9)]);
    let busy = rig.offsets("busy");
    assert_eq!(busy.len(), 100);
    assert!(busy.iter().all(|(_, _, offset)| *offset == last));
    assert_eq!(rig.get(beat("g", &member)), GroupReply::Heartbeat(Ok(())));
}

#[test]
fn the_log_is_trimmed_when_the_copy_of_live_state_is_durable() {
    let mut rig = Rig::with(Some(SMALL));
    for index in 0..100 {
        rig.ask(commit_with("g", "", &[("t", index, 1)]));
        if rig.shard().rewrite.is_some() {
            break;
        }
    }
    rig.sync_once(); // all that lies before the copy is durable
    let copying = |rig: &mut Rig| {
        let rewrite = rig.shard().rewrite.as_ref().expect("it is under way");
        matches!(rewrite.progress, Progress::Copying(_))
    };
    while copying(&mut rig) {
        assert_eq!(rig.shard().next_deadline(), Some(MonoMs(0)), "the driver comes back at once");
        rig.handle(ShardEvent::Tick);
    }
    let start = |rig: &mut Rig| rig.shard().partition().marks().log_start();
    rig.handle(ShardEvent::Tick);
    assert_eq!(start(&mut rig), Offset::ZERO, "the copy may be lost in a power cut");
    rig.sync();
    assert!(start(&mut rig) > Offset::ZERO);
}

#[test]
fn a_log_that_is_no_coordinators_is_refused() {
    let write = |key: Option<&[u8]>, value: Option<&[u8]>| {
        let mut rig = Rig::new();
        let mut builder = BatchBuilder::new(Codec::None);
        builder.push(NewRecord { timestamp: 0, key, value, headers: &[] });
        let shard = rig.shard.as_mut().unwrap();
        shard.stage(&mut builder);
        shard.partition.append(&mut rig.env, &mut shard.appends, &mut shard.outputs);
        let (disk, dir) = (rig.disk.clone(), rig.dir.clone());
        rig.shard = None;
        let now = rig.env.now;
        let log = Log::open(disk, &dir, settings().log, Trust::Nothing, now.wall).unwrap().0;
        let partition = Partition::open(log, settings(), LeaderEpoch(0), now).unwrap();
        Shard::<_, u32>::open(partition, group_settings(), &mut rig.env).map(|_| ())
    };
    assert!(matches!(write(None, None), Err(LoadError::NoKey { .. })));
    assert!(matches!(write(Some(b""), None), Err(LoadError::Record { .. })));
    assert!(matches!(write(Some(&[0, 2, 0, 1, b'g']), Some(b"x")), Err(LoadError::Record { .. })));
    assert!(write(Some(&[0, 3, 0, 1, b'g']), Some(b"x")).is_ok(), "another group type's record");
}

const GROUPS: u8 = 6;

#[derive(Clone, Debug)]
enum Step {
    Commit(u8, u8, i64),
    Delete(u8, u8),
    DeleteGroup(u8),
    Forget,
    Sync,
    Tick,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..GROUPS, 0u8..6, any::<i64>()).prop_map(|(g, p, o)| Step::Commit(g, p, o)),
        2 => (0..GROUPS, 0u8..6).prop_map(|(g, p)| Step::Delete(g, p)),
        1 => (0..GROUPS).prop_map(Step::DeleteGroup),
        1 => Just(Step::Forget),
        4 => Just(Step::Sync),
        6 => Just(Step::Tick),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Commits, deletions, restarts and rewrites in any order: in the end exactly the last words stand.
    #[test]
    fn rewrites_change_nothing_that_can_be_seen(
        steps in proptest::collection::vec(step(), 1..300),
    ) {
        let mut rig = Rig::with(Some(SMALL));
        let mut expected = BTreeMap::<(u8, String, i32), i64>::new();
        let topic_of = |partition: u8| if partition < 3 { "t" } else { "u" };
        for step in steps {
            match step {
                Step::Commit(g, partition, offset) => {
                    let at = (topic_of(partition), i32::from(partition), offset);
                    rig.ask(commit_with(&format!("g{g}"), "note", &[at]));
                    expected.insert((g, at.0.into(), at.1), offset);
                }
                Step::Delete(g, partition) => {
                    let (name, index) = (topic_of(partition), i32::from(partition));
                    let partitions = vec![PartitionIndex(index)];
                    let topics = vec![PerTopic { topic: topic(name), partitions }];
                    let delete = DeleteOffsets { group: group(&format!("g{g}")), topics };
                    rig.ask(GroupCommand::DeleteOffsets(delete));
                    expected.remove(&(g, name.into(), index));
                }
                Step::DeleteGroup(g) => {
                    rig.ask(GroupCommand::DeleteGroup { group: group(&format!("g{g}")) });
                    expected.retain(|(other, _, _), _| *other != g);
                }
                Step::Forget => {
                    rig.ask(GroupCommand::ForgetTopic { topic: topic("u") });
                    expected.retain(|(_, name, _), _| name != "u");
                }
                Step::Sync => rig.sync(),
                Step::Tick => rig.handle(ShardEvent::Tick),
                Step::Restart => {
                    rig.restart();
                    prop_assert_eq!(rig.all_offsets(), expected.clone());
                }
            }
            let replay_bytes = rig.shard().replay_bytes;
            prop_assert!(replay_bytes < 60_000, "a replay would read {} bytes", replay_bytes);
        }
        rig.sync();
        rig.finish_rewrite();
        rig.restart();
        prop_assert_eq!(rig.all_offsets(), expected);
    }
}
