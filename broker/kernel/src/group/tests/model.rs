//! Clients that join, sync, crash and come back at random, and a broker that restarts under them. After every event
//! the coordinator's insides are consistent and every request that waits has a deadline; in the end all are answered.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::classic::ClassicGroup;
use super::super::timers::{Alarm, Timers};
use super::*;

const CLIENTS: usize = 5;

/// What one client believes.
#[derive(Clone, Debug, Default)]
struct Client {
    member: String,
    generation: i32,
    /// Assignments to send with the next sync, when it leads.
    leads: Option<Vec<MemberId>>,
    joined: bool,
    synced: bool,
    waiting: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
enum Step {
    /// The next right thing for this client.
    Act(usize),
    Rejoin(usize),
    /// The client forgets its id, as a restarted process does.
    Crash(usize),
    Leave(usize),
    /// A request with whatever generation and id.
    Stray(usize, i32),
    Tool(u8),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => client.clone().prop_map(Step::Act),
        2 => client.clone().prop_map(Step::Rejoin),
        1 => client.clone().prop_map(Step::Crash),
        1 => client.clone().prop_map(Step::Leave),
        1 => (client, -1..5).prop_map(|(client, generation)| Step::Stray(client, generation)),
        1 => (0u8..5).prop_map(Step::Tool),
        5 => prop_oneof![0u64..10, 0u64..4_000, 0u64..20_000].prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

struct World {
    script: Script,
    clients: Vec<Client>,
    /// Requests without an answer, by whom and at which generation.
    asked: BTreeMap<u32, (usize, i32)>,
    /// Who was told to own what, per group and generation.
    owners: BTreeMap<(usize, i32, Bytes), String>,
    generations: BTreeMap<GroupId, i32>,
}

impl World {
    fn new() -> Self {
        let settings = GroupSettings {
            initial_rebalance_delay_ms: 1_000,
            group_size_max: 3,
            offsets_retention_check_interval_ms: 30_000,
            offsets_retention_ms: 100_000,
            ..GroupSettings::default()
        };
        Self {
            script: Script::new(settings),
            clients: vec![Client::default(); CLIENTS],
            asked: BTreeMap::new(),
            owners: BTreeMap::new(),
            generations: BTreeMap::new(),
        }
    }

    /// Clients 0 to 3 share a group, the last two of them as static members; client 4 is alone.
    fn group(client: usize) -> GroupId {
        GroupId::new(if client == 4 { "h" } else { "g" })
    }

    fn instance(client: usize) -> Option<InstanceId> {
        matches!(client, 2 | 3).then(|| InstanceId::new(&format!("box{client}")))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Act(client) => self.act(client),
            Step::Rejoin(client) => self.join(client),
            Step::Crash(client) => {
                let waiting = std::mem::take(&mut self.clients[client].waiting);
                self.clients[client] = Client { waiting, ..Client::default() };
            }
            Step::Leave(client) => self.leave(client),
            Step::Stray(client, generation) => {
                self.clients[client].generation = generation;
                self.sync(client);
                self.commit(client);
            }
            Step::Tool(which) => self.tool(which),
            Step::Wait(ms) => self.wait(ms),
            Step::Restart => self.restart(),
        }
    }

    fn act(&mut self, client: usize) {
        let it = &self.clients[client];
        match (it.waiting.is_empty(), it.joined, it.synced) {
            (false, _, _) => {}
            (true, false, _) => self.join(client),
            (true, true, false) => self.sync(client),
            (true, true, true) => {
                let beat = Heartbeat {
                    group: Self::group(client),
                    generation: Generation(it.generation),
                    member: MemberId::new(&it.member),
                    instance: Self::instance(client),
                };
                self.ask(client, GroupCommand::Heartbeat(beat));
                self.commit(client);
            }
        }
    }

    fn join(&mut self, client: usize) {
        let it = &mut self.clients[client];
        (it.joined, it.synced) = (false, false);
        let names: &[&str] = if client == 1 { &["sticky", "range"] } else { &["range", "sticky"] };
        let metadata = subscription(&["t"]);
        let join = Join {
            group: Self::group(client),
            member: MemberId::new(&it.member),
            instance: Self::instance(client),
            client_id: format!("c{client}").into(),
            client_host: "/::1".into(),
            protocol_type: "consumer".into(),
            protocols: names
                .iter()
                .map(|name| Protocol { name: (*name).into(), metadata: metadata.clone() })
                .collect(),
            session_timeout_ms: 6_000 + 2_000 * client as i32,
            rebalance_timeout_ms: 4_000 + 3_000 * client as i32,
            require_known_member_id: client != 0,
            may_skip_assignment: client == 3,
            resumes: client == 3,
        };
        self.ask(client, GroupCommand::Join(join));
    }

    fn sync(&mut self, client: usize) {
        let it = &self.clients[client];
        let part = |(at, member): (usize, &MemberId)| {
            (member.clone(), Bytes::copy_from_slice(&[at as u8 + 1]))
        };
        let members = it.leads.clone().unwrap_or_default();
        let sync = Sync {
            group: Self::group(client),
            generation: Generation(it.generation),
            member: MemberId::new(&it.member),
            instance: Self::instance(client),
            protocol_type: Some("consumer".into()),
            protocol: None,
            assignments: members.iter().enumerate().map(part).collect(),
        };
        self.ask(client, GroupCommand::Sync(sync));
    }

    fn commit(&mut self, client: usize) {
        let it = &self.clients[client];
        let topic = TopicName::parse("t").unwrap();
        let offset = CommitOffset {
            partition: PartitionIndex(client as i32),
            offset: i64::from(self.script.tokens),
            leader_epoch: LeaderEpoch(0),
            metadata: "".into(),
            topic_id: TopicId::ZERO,
        };
        let commit = CommitOffsets {
            group: Self::group(client),
            generation: Generation(it.generation),
            member: MemberId::new(&it.member),
            instance: Self::instance(client),
            retention_ms: None,
            topics: vec![PerTopic { topic, partitions: vec![offset] }],
        };
        self.ask(client, GroupCommand::CommitOffsets(commit));
    }

    fn leave(&mut self, client: usize) {
        let it = &mut self.clients[client];
        let leaver = Leaver { member: MemberId::new(&it.member), instance: Self::instance(client) };
        let waiting = std::mem::take(&mut it.waiting);
        *it = Client { waiting, ..Client::default() };
        let (group, members) = (Self::group(client), vec![leaver]);
        self.ask(client, GroupCommand::Leave(Leave { group, members }));
    }

    fn tool(&mut self, which: u8) {
        let group = GroupId::new("g");
        let topics = vec![PerTopic {
            topic: TopicName::parse("t").unwrap(),
            partitions: vec![PartitionIndex(1)],
        }];
        let command = match which {
            0 => GroupCommand::List(ListFilter::default()),
            1 => GroupCommand::Describe { group },
            2 => GroupCommand::DeleteGroup { group },
            3 => GroupCommand::DeleteOffsets(DeleteOffsets { group, topics }),
            _ => GroupCommand::FetchOffsets(FetchOffsets { group, topics: None }),
        };
        self.ask(0, command);
    }

    fn ask(&mut self, client: usize, command: GroupCommand) {
        self.script.tokens += 1;
        let token = self.script.tokens;
        if matches!(command, GroupCommand::Join(_) | GroupCommand::Sync(_)) {
            self.clients[client].waiting.insert(token);
        }
        self.asked.insert(token, (client, self.clients[client].generation));
        let effects = self.script.groups.handle(&mut self.script.env, command, token);
        self.take(effects);
    }

    fn wait(&mut self, ms: u64) {
        let until = self.script.env.now.mono.plus(ms);
        loop {
            let env = &mut self.script.env;
            let next = self.script.groups.next_deadline().unwrap();
            let at = next.min(until).max(env.now.mono);
            env.now.wall.0 += (at.0 - env.now.mono.0) as i64;
            env.now.mono = at;
            match self.script.groups.expire_next(env) {
                Some((_, effects)) => self.take(effects),
                None if at == until => return,
                None => panic!("the deadline {next:?} has passed and nothing was due"),
            }
        }
    }

    fn restart(&mut self) {
        let before = self.script.groups.live_records(None, usize::MAX);
        let replies = self.script.groups.abandon(GroupError::NotCoordinator);
        self.answer(replies);
        assert!(
            self.asked.is_empty(),
            "unanswered by a coordinator that is gone: {:?}",
            self.asked
        );
        self.script.restart();
        assert_eq!(self.script.groups.live_records(None, usize::MAX), before);
        self.check();
    }

    fn take(&mut self, effects: Effects<u32>) {
        for record in effects.records {
            if let Record::Group { group, value } = &record {
                let generation = value.as_ref().map_or(0, |value| value.generation.0);
                let before = self.generations.insert(group.clone(), generation).unwrap_or(0);
                assert!(value.is_none() || generation >= before, "{group} went back");
                if value.is_none() {
                    let of = usize::from(group.as_str() == "h");
                    self.owners.retain(|(group, _, _), _| *group != of);
                }
            }
            self.script.log.push((record.encode_key(), record.encode_value()));
            self.script.groups.apply(record);
        }
        self.answer(effects.replies);
        self.check();
    }

    fn answer(&mut self, replies: Vec<(u32, GroupReply)>) {
        for (token, reply) in replies {
            let asked = self.asked.remove(&token);
            let (client, generation) = asked.expect("answered once, and only what was asked");
            self.clients[client].waiting.remove(&token);
            self.learn(client, generation, reply);
        }
    }

    fn learn(&mut self, client: usize, generation: i32, reply: GroupReply) {
        let it = &mut self.clients[client];
        match reply {
            GroupReply::Join(Ok(joined)) => {
                it.member = joined.member.as_str().to_owned();
                it.generation = joined.generation.0;
                let leads = joined.leader == joined.member && !joined.skip_assignment;
                it.leads = leads.then(|| joined.members.into_iter().map(|m| m.member).collect());
                (it.joined, it.synced) = (true, false);
            }
            GroupReply::Join(Err(refused)) => {
                let keeps_id = matches!(
                    refused.error,
                    GroupError::MemberIdRequired | GroupError::RebalanceInProgress
                );
                it.member = if keeps_id { refused.member.to_string() } else { String::new() };
                (it.joined, it.synced) = (false, false);
            }
            GroupReply::Sync(Ok(synced)) => {
                it.synced = true;
                if !synced.assignment.is_empty() {
                    let owner = Self::instance(client).map_or(it.member.clone(), |i| i.to_string());
                    let key = (usize::from(client == 4), generation, synced.assignment);
                    let first = self.owners.entry(key).or_insert_with(|| owner.clone());
                    assert_eq!(*first, owner, "two owners in generation {generation}");
                }
            }
            GroupReply::Sync(Err(error)) | GroupReply::Heartbeat(Err(error)) => {
                if matches!(error, GroupError::UnknownMemberId | GroupError::FencedInstanceId) {
                    it.member.clear();
                }
                it.joined = false;
            }
            _ => {}
        }
    }

    fn check(&self) {
        let groups = &self.script.groups;
        let mut waiting = 0;
        for (id, group) in &groups.groups {
            waiting += group.classic.check(&groups.timers);
            assert!(!group.is_nothing(), "{id} is nothing");
        }
        assert_eq!(waiting, self.asked.len(), "all that has no answer waits: {:?}", self.asked);
    }
}

impl<T> ClassicGroup<T> {
    /// Asserts what must hold between two events; returns how many requests wait.
    fn check(&self, timers: &Timers) -> usize {
        let state = self.state();
        let view = self.insides();
        assert_eq!(view.joining, view.joining_count);
        assert_eq!(view.protocol_counts, view.protocols_of_members);
        assert_eq!(view.leader.is_some(), !view.members.is_empty());
        assert!(view.leader.is_none_or(|leader| view.members.contains_key(leader)));
        let is_member = |id: &&MemberId| view.members.contains_key(*id);
        assert!(view.unsynced.iter().all(|id| is_member(&id)));
        assert!(!view.pending.iter().any(|id| is_member(&id)));
        match state {
            GroupState::Empty => assert!(view.members.is_empty()),
            GroupState::PreparingRebalance => {}
            _ => assert!(!view.members.is_empty()),
        }
        let preparing = state == GroupState::PreparingRebalance;
        assert!(view.joining == 0 || preparing);
        assert!(view.syncing == 0 || state == GroupState::CompletingRebalance);
        assert!(!preparing || timers.is_set(&self.timer(Alarm::Join)), "no end of the join phase");
        if !view.unsynced.is_empty() {
            assert!(timers.is_set(&self.timer(Alarm::Sync)), "no end of the sync phase");
        }
        assert!(view.syncing == 0 || !view.unsynced.is_empty());
        for id in view.pending {
            assert!(timers.is_set(&self.timer(Alarm::Session(id.clone()))), "{id} has no end");
        }
        for (id, waits) in &view.members {
            let has_session = timers.is_set(&self.timer(Alarm::Session((*id).clone())));
            assert!(*waits || has_session, "{id} lives for ever");
        }
        view.joining + view.syncing
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_and_every_partition_has_one_owner(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        // The longest of all timeouts, several times over: nobody is left, and nothing waits.
        world.wait(1_000_000);
        prop_assert!(world.asked.is_empty(), "{:?}", world.asked);
        let groups = &world.script.groups;
        for group in groups.groups.values() {
            prop_assert_eq!(group.classic.state(), GroupState::Empty);
        }
        prop_assert_eq!(groups.timers.len(), 0);
    }
}
