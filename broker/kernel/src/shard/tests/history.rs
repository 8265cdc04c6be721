//! Random histories: commits, deletions and rebalances while syncs lag, disks fail and the power goes. Whatever
//! happens, what was answered is there afterwards, and nothing that was read before a crash is gone after it.

use std::collections::BTreeMap;

use millrace_storage::disk::sim;
use proptest::prelude::*;

use super::*;

const GROUPS: u8 = 4;
const PARTITIONS: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    Commit(u8, u8),
    Delete(u8, u8),
    Read(u8),
    /// The next right thing for the one member of another group.
    Member(u8),
    Sync,
    Checkpoint,
    Tick(u64),
    Full(bool),
    /// One of the next operations on the disk fails so.
    Fault(sim::Fault, u64),
    Restart,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let at = (0..GROUPS, 0..PARTITIONS);
    prop_oneof![
        10 => at.clone().prop_map(|(group, partition)| Step::Commit(group, partition)),
        2 => at.prop_map(|(group, partition)| Step::Delete(group, partition)),
        3 => (0..GROUPS).prop_map(Step::Read),
        6 => (0..2u8).prop_map(Step::Member),
        5 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
        3 => prop_oneof![Just(0), 0..20_000u64].prop_map(Step::Tick),
        1 => any::<bool>().prop_map(Step::Full),
        2 => (faults(), 1..30u64).prop_map(|(fault, after)| Step::Fault(fault, after)),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

fn faults() -> impl Strategy<Value = sim::Fault> {
    use sim::Fault::{Eio, Enospc, Interrupted, PowerCut, Short, TooManyFiles};
    proptest::sample::select(vec![Eio, Enospc, Interrupted, PowerCut, Short, TooManyFiles])
}

/// A group and a partition of the topic `t`.
type Key = (u8, u8);

enum Asked {
    Write(Key),
    Read(u8),
    /// In the generation that it believed in.
    Member(u8, i32),
}

/// What the member of group `m0` or `m1` believes.
#[derive(Default)]
struct Member {
    joined: Option<(MemberId, i32)>,
    is_synced: bool,
    /// The last generation whose assignment it was given.
    told: i32,
}

struct History {
    rig: Rig,
    /// What was written to each key since its last safe value, each with the request that wrote it. The first is safe.
    written: BTreeMap<Key, Vec<(u32, Option<i64>)>>,
    asked: BTreeMap<u32, Asked>,
    members: [Member; 2],
    /// The disk was made to fail since the last power cut.
    is_faulty: bool,
}

fn name(group: u8) -> String {
    format!("g{group}")
}

impl History {
    fn new() -> Self {
        let mut history = Self {
            rig: Rig::with(Some(SMALL)),
            written: BTreeMap::new(),
            asked: BTreeMap::new(),
            members: Default::default(),
            is_faulty: false,
        };
        for step in [Step::Commit(0, 0), Step::Sync, Step::Checkpoint] {
            history.step(step);
        }
        history
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(group, partition) => {
                let offset = i64::from(self.rig.tokens);
                let command = commit_with(&name(group), "note", &[("t", partition.into(), offset)]);
                self.write((group, partition), command, Some(offset));
            }
            Step::Delete(g, partition) => {
                let partitions = vec![PartitionIndex(partition.into())];
                let topics = vec![PerTopic { topic: topic("t"), partitions }];
                let delete = DeleteOffsets { group: group(&name(g)), topics };
                self.write((g, partition), GroupCommand::DeleteOffsets(delete), None);
            }
            Step::Read(group) => self.ask(Asked::Read(group), fetch(&name(group))),
            Step::Member(which) => self.member(which),
            Step::Sync => self.rig.sync(),
            Step::Checkpoint => self.rig.checkpoint(),
            Step::Tick(ms) => {
                self.rig.env.now.mono.0 += ms;
                self.rig.env.now.wall.0 += ms as i64;
                self.rig.handle(ShardEvent::Tick);
            }
            Step::Full(full) => {
                self.rig.disk.set_capacity(if full { 1 } else { 1 << 40 });
                self.is_faulty |= full;
                self.rig.handle(ShardEvent::Partition(Event::Space { writable: true }));
            }
            Step::Fault(fault, after) => {
                let disk = &self.rig.disk;
                disk.fault_at(disk.operations() + after, fault);
                self.is_faulty = true;
            }
            Step::Restart => self.restart(),
            Step::Crash => self.crash(),
        }
        self.collect();
        if self.rig.is_failed {
            self.crash(); // nothing else helps
        }
    }

    fn ask(&mut self, asked: Asked, command: GroupCommand) {
        self.asked.insert(self.rig.tokens + 1, asked);
        self.rig.ask(command);
    }

    fn write(&mut self, key: Key, command: GroupCommand, value: Option<i64>) {
        let writes = self.written.entry(key).or_insert_with(|| vec![(0, None)]);
        writes.push((self.rig.tokens + 1, value));
        self.ask(Asked::Write(key), command);
    }

    fn member(&mut self, which: u8) {
        let (name, member) = (format!("m{which}"), &self.members[usize::from(which)]);
        let command = match &member.joined {
            None => join(&name, &MemberId::none()),
            Some((id, generation)) if !member.is_synced => sync(&name, id, *generation),
            Some((id, _)) => join(&name, id),
        };
        let generation = member.joined.as_ref().map_or(0, |(_, generation)| *generation);
        self.ask(Asked::Member(which, generation), command);
    }

    /// Another process begins. After a fault only a power cut makes sure that nothing unsynced looks synced.
    fn restart(&mut self) {
        self.rig.sync();
        self.collect();
        if self.rig.is_failed || self.is_faulty {
            return self.crash();
        }
        self.rig.restart();
        self.look();
    }

    fn crash(&mut self) {
        self.collect();
        self.is_faulty = false;
        self.rig.crash();
        self.look();
    }

    /// After a start: everything safe is there, and what is read is safe from then on.
    fn look(&mut self) {
        self.asked.clear();
        for group in 0..GROUPS {
            let reply = self.rig.get(fetch(&name(group)));
            self.check_read(group, reply);
        }
        let (records, _) = self.rig.shard().groups.live_records(None, usize::MAX);
        for (which, member) in self.members.iter_mut().enumerate() {
            let name = format!("m{which}");
            let found = records.iter().find_map(|record| match record {
                Record::Group { group, value: Some(value) } if group.as_str() == name => {
                    Some(value.generation.0)
                }
                _ => None,
            });
            assert!(found.unwrap_or(0) >= member.told, "{name} is back at {found:?}");
            *member = Member { told: member.told, ..Member::default() };
        }
    }

    fn collect(&mut self) {
        for (token, reply) in std::mem::take(&mut self.rig.replies) {
            match self.asked.remove(&token).expect("only what was asked is answered") {
                Asked::Write(key) => self.check_write(key, token, reply),
                Asked::Read(group) => self.check_read(group, reply),
                Asked::Member(which, generation) => {
                    self.members[usize::from(which)].learn(generation, reply);
                }
            }
        }
    }

    fn check_write(&mut self, key: Key, token: u32, reply: GroupReply) {
        let is_done = match reply {
            GroupReply::CommitOffsets(result) | GroupReply::DeleteOffsets(result) => result.is_ok(),
            other => panic!("{other:?}"),
        };
        let writes = self.written.get_mut(&key).expect("it was written");
        let at = writes.iter().position(|(by, _)| *by == token);
        if let Some(at) = at.filter(|_| is_done) {
            writes.drain(..at);
        }
    }

    /// What is read is the last safe value or one that was written later, and safe itself. A write that was refused
    /// may have reached the log all the same.
    fn check_read(&mut self, group: u8, reply: GroupReply) {
        let GroupReply::FetchOffsets(Ok(topics)) = reply else { return };
        let found = topics.into_iter().flat_map(|topic| topic.partitions);
        let found: BTreeMap<_, _> =
            found.map(|it| (it.partition.0 as u8, it.committed.unwrap().offset)).collect();
        for partition in 0..PARTITIONS {
            let Some(writes) = self.written.get_mut(&(group, partition)) else { continue };
            let value = found.get(&partition).copied();
            let at = writes.iter().position(|(_, written)| *written == value);
            let at = at.unwrap_or_else(|| panic!("g{group}-{partition} is {value:?}: {writes:?}"));
            writes.drain(..at);
        }
    }
}

impl Member {
    fn learn(&mut self, generation: i32, reply: GroupReply) {
        match reply {
            GroupReply::Join(Ok(joined)) => {
                self.joined = Some((joined.member, joined.generation.0));
                self.is_synced = false;
            }
            GroupReply::Sync(Ok(_)) => {
                self.is_synced = true;
                self.told = self.told.max(generation);
            }
            _ => *self = Self { told: self.told, ..Self::default() },
        }
    }
}

proptest! {
    #[test]
    fn what_was_answered_survives(steps in proptest::collection::vec(step(), 1..150)) {
        let mut history = History::new();
        steps.into_iter().for_each(|step| history.step(step));
        history.crash();
    }
}
