//! Scripts for the group coordinator: commands, and the trace that they must leave (`testdata/groups.txt`); then random
//! interleavings against invariants.

mod model;

use std::collections::BTreeMap;
use std::fmt::Write;

use millrace_model::env::{Now, Prng};
use millrace_model::ids::TopicId;
use millrace_model::offset::LeaderEpoch;

use super::record::Decoded;
use super::*;

/// One coordinator over a log of encoded records; member ids are shown as `M1`, `M2`, ... in order of appearance.
struct Script {
    settings: GroupSettings,
    groups: Groups<u32>,
    log: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    env: Env,
    tokens: u32,
    names: BTreeMap<String, String>,
    trace: String,
}

impl Script {
    fn new(settings: GroupSettings) -> Self {
        let env = Env { now: Now { wall: WallMs(1_000_000), mono: MonoMs(0) }, rng: Prng::new(7) };
        Self {
            groups: Groups::new(settings.clone(), MonoMs(0)),
            settings,
            log: Vec::new(),
            env,
            tokens: 0,
            names: BTreeMap::new(),
            trace: String::new(),
        }
    }

    fn run(&mut self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[0] {
            "after" => self.advance(words[1].parse().unwrap()),
            "restart" => self.restart(),
            "set" => {
                self.settings = settings(line);
                self.groups.configure(self.settings.clone());
            }
            "log" => self.show_log(),
            _ => {
                let command = self.command(&words);
                self.tokens += 1;
                let effects = self.groups.handle(&mut self.env, command, self.tokens);
                self.name_members();
                self.show(effects);
                self.advance(0);
            }
        }
    }

    fn advance(&mut self, ms: u64) {
        let until = self.env.now.mono.plus(ms);
        loop {
            let at = self.groups.next_deadline().unwrap().min(until).max(self.env.now.mono);
            self.env.now.wall.0 += (at.0 - self.env.now.mono.0) as i64;
            self.env.now.mono = at;
            let Some((_, effects)) = self.groups.expire_next(&mut self.env) else {
                if at == until {
                    return;
                }
                continue;
            };
            if !(effects.records.is_empty() && effects.replies.is_empty()) {
                writeln!(self.trace, "  @{}", at.0).unwrap();
            }
            self.show(effects);
        }
    }

    fn restart(&mut self) {
        self.groups = Groups::new(self.settings.clone(), self.env.now.mono);
        for (key, value) in &self.log {
            let Decoded::Known(record) = record::decode(key, value.as_deref()).unwrap() else {
                panic!("only own records are written");
            };
            self.groups.apply(record);
        }
        self.groups.restore(&mut self.env);
    }

    fn show_log(&mut self) {
        let (records, rest) = self.groups.live_records(None, usize::MAX);
        assert_eq!(rest, None);
        for record in &records {
            self.show_record(record, '=');
        }
    }

    fn show(&mut self, effects: Effects<u32>) {
        for record in effects.records {
            self.log.push((record.encode_key(), record.encode_value()));
            self.show_record(&record, '+');
            self.groups.apply(record);
        }
        for (token, reply) in effects.replies {
            let text = self.reply(&reply);
            writeln!(self.trace, "  #{token} {text}").unwrap();
        }
    }

    fn show_record(&mut self, record: &Record, mark: char) {
        let text = match record {
            Record::Offset { group, topic, partition, value: Some(value) } => {
                let expires = value.expires_at.map(|at| format!(" until {}", at.0));
                let expires = expires.unwrap_or_default();
                let (offset, epoch, at) = (value.offset, value.leader_epoch, value.committed_at.0);
                let metadata = &value.metadata;
                format!(
                    "{group} {topic}-{partition} = {offset} epoch {epoch} {metadata:.9?} at {at}{expires}"
                )
            }
            Record::Offset { group, topic, partition, value: None } => {
                format!("{group} {topic}-{partition} gone")
            }
            Record::Group { group, value: None } => format!("{group} gone"),
            Record::Group { group, value: Some(value) } => {
                let leader = value.leader.as_ref().map_or("-".into(), |leader| self.name(leader));
                let mut text = format!(
                    "{group} generation {} {:?} {} leader {leader}",
                    value.generation,
                    &*value.protocol_type,
                    value.protocol.as_deref().unwrap_or("-"),
                );
                for member in &value.members {
                    let (name, assignment) = (self.name(&member.member), &member.assignment);
                    write!(text, " {name}:{}", String::from_utf8_lossy(assignment)).unwrap();
                }
                text
            }
        };
        writeln!(self.trace, "  {mark} {text}").unwrap();
    }

    /// A command brings one new member at most, so ids get their names in the order of the script.
    fn name_members(&mut self) {
        let described = self.groups.groups.values().map(|group| group.classic.describe());
        for member in described.flat_map(|group| group.members).collect::<Vec<_>>() {
            self.name(&member.member);
        }
    }

    fn name(&mut self, member: &MemberId) -> String {
        if member.is_none() {
            return "-".into();
        }
        let next = format!("M{}", self.names.len() + 1);
        self.names.entry(member.to_string()).or_insert(next).clone()
    }

    fn id(&self, name: &str) -> MemberId {
        let known = self.names.iter().find(|(_, known)| *known == name);
        MemberId::new(known.map_or(name, |(id, _)| id))
    }

    fn reply(&mut self, reply: &GroupReply) -> String {
        match reply {
            GroupReply::Join(Ok(it)) => {
                let mut text = format!(
                    "joined {} generation {} {:?} {:?} leader {}",
                    self.name(&it.member),
                    it.generation,
                    it.protocol_type.as_deref().unwrap_or("-"),
                    it.protocol.as_deref().unwrap_or("-"),
                    self.name(&it.leader),
                );
                if it.skip_assignment {
                    text.push_str(" skip");
                }
                for member in &it.members {
                    let instance = member.instance.as_ref().map_or("", InstanceId::as_str);
                    write!(text, " [{} {instance}]", self.name(&member.member)).unwrap();
                }
                text
            }
            GroupReply::Join(Err(it)) => format!("{:?} {}", it.error, self.name(&it.member)),
            GroupReply::Sync(Ok(it)) => {
                let (kind, name) = (it.protocol_type.as_deref(), it.protocol.as_deref());
                let assignment = String::from_utf8_lossy(&it.assignment);
                format!("synced {assignment:?} {} {}", kind.unwrap_or("-"), name.unwrap_or("-"))
            }
            GroupReply::Leave(Ok(left)) => {
                let mut text = "left".to_owned();
                for Left { leaver, result } in left {
                    let instance = leaver.instance.as_ref().map_or("", InstanceId::as_str);
                    write!(text, " [{} {instance} {result:?}]", self.name(&leaver.member)).unwrap();
                }
                text
            }
            GroupReply::CommitOffsets(Ok(topics)) | GroupReply::DeleteOffsets(Ok(topics)) => {
                let mut text = "done".to_owned();
                for PerTopic { topic, partitions } in topics {
                    for (index, result) in partitions {
                        write!(text, " [{topic}-{index} {result:?}]").unwrap();
                    }
                }
                text
            }
            GroupReply::FetchOffsets(Ok(topics)) => {
                let mut text = "offsets".to_owned();
                for PerTopic { topic, partitions } in topics {
                    for it in partitions {
                        let shown = it.committed.as_ref().map_or("none".into(), |c| {
                            format!("{} {} {:?}", c.offset, c.leader_epoch, c.metadata)
                        });
                        write!(text, " [{topic}-{} {shown}]", it.partition).unwrap();
                    }
                }
                text
            }
            GroupReply::Describe(Ok(it)) => {
                let mut text = format!("{} {:?} {:?}", it.state, it.protocol_type, it.protocol);
                for member in &it.members {
                    write!(
                        text,
                        " [{} {:?} {} {} {:?} {:?}]",
                        self.name(&member.member),
                        member.instance.as_ref().map_or("", InstanceId::as_str),
                        member.client_id,
                        member.client_host,
                        String::from_utf8_lossy(&member.metadata),
                        String::from_utf8_lossy(&member.assignment),
                    )
                    .unwrap();
                }
                text
            }
            GroupReply::List(Ok(groups)) => {
                let mut text = "groups".to_owned();
                for it in groups {
                    write!(text, " [{} {:?} {}]", it.group, &*it.protocol_type, it.state).unwrap();
                }
                text
            }
            GroupReply::Heartbeat(Ok(()))
            | GroupReply::DeleteGroup(Ok(()))
            | GroupReply::ForgetTopic(Ok(())) => "ok".into(),
            GroupReply::Sync(Err(error))
            | GroupReply::Heartbeat(Err(error))
            | GroupReply::Leave(Err(error))
            | GroupReply::CommitOffsets(Err(error))
            | GroupReply::FetchOffsets(Err(error))
            | GroupReply::Describe(Err(error))
            | GroupReply::List(Err(error))
            | GroupReply::DeleteGroup(Err(error))
            | GroupReply::DeleteOffsets(Err(error))
            | GroupReply::ForgetTopic(Err(error)) => format!("{error:?}"),
        }
    }

    fn command(&self, words: &[&str]) -> GroupCommand {
        let named =
            |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let group = GroupId::new(words.get(1).filter(|w| **w != "\"\"").copied().unwrap_or(""));
        let member = named("m").map_or_else(MemberId::none, |name| self.id(name));
        let instance = named("i").map(InstanceId::new);
        let generation =
            named("gen").map_or(Generation::NONE, |it| Generation(it.parse().unwrap()));
        match words[0] {
            "join" => GroupCommand::Join(join(group, member, instance, named)),
            "sync" => GroupCommand::Sync(Sync {
                group,
                generation,
                member,
                instance,
                protocol_type: named("type").map(Into::into),
                protocol: named("p").map(Into::into),
                assignments: named("assign")
                    .into_iter()
                    .flat_map(|all| all.split(','))
                    .map(|one| one.split_once(':').unwrap())
                    .map(|(name, part)| (self.id(name), Bytes::copy_from_slice(part.as_bytes())))
                    .collect(),
            }),
            "beat" => GroupCommand::Heartbeat(Heartbeat { group, generation, member, instance }),
            "leave" => {
                let leaver = |word: &&str| match word.split_once('@') {
                    Some((name, instance)) => {
                        Leaver { member: self.id(name), instance: Some(InstanceId::new(instance)) }
                    }
                    None => Leaver { member: self.id(word), instance: None },
                };
                GroupCommand::Leave(Leave {
                    group,
                    members: words[2..].iter().map(leaver).collect(),
                })
            }
            "commit" => GroupCommand::CommitOffsets(CommitOffsets {
                group,
                generation,
                member,
                instance,
                retention_ms: named("retention").map(|it| it.parse().unwrap()),
                topics: per_topic(words.iter().filter_map(|word| {
                    let (at, rest) = word.split_once('=').filter(|(at, _)| at.contains('-'))?;
                    let (offset, metadata) = rest.split_once(':').unwrap_or((rest, ""));
                    let metadata = match metadata.strip_prefix('*') {
                        Some(count) => "x".repeat(count.parse().unwrap()),
                        None => metadata.to_owned(),
                    };
                    Some((at, |partition| CommitOffset {
                        partition,
                        offset: offset.parse().unwrap(),
                        leader_epoch: LeaderEpoch(3),
                        metadata: metadata.into(),
                        topic_id: TopicId::ZERO,
                    }))
                })),
            }),
            "fetch" => {
                let topics = per_topic(words[2..].iter().map(|at| (*at, |index| index)));
                let topics = (!topics.is_empty()).then_some(topics);
                GroupCommand::FetchOffsets(FetchOffsets { group, topics })
            }
            "describe" => GroupCommand::Describe { group },
            "list" => {
                let states = words[1..].iter().filter_map(|it| GroupState::parse(it)).collect();
                let states = (words.len() > 1).then_some(states);
                GroupCommand::List(ListFilter { states })
            }
            "delete" => GroupCommand::DeleteGroup { group },
            "delete-offsets" => {
                let topics = per_topic(words[2..].iter().map(|at| (*at, |index| index)));
                GroupCommand::DeleteOffsets(DeleteOffsets { group, topics })
            }
            "forget-topic" => {
                GroupCommand::ForgetTopic { topic: TopicName::parse(words[1]).unwrap() }
            }
            _ => panic!("unknown command {words:?}"),
        }
    }
}

fn join<'a>(
    group: GroupId,
    member: MemberId,
    instance: Option<InstanceId>,
    named: impl Fn(&str) -> Option<&'a str>,
) -> Join {
    let version: i16 = named("v").map_or(5, |it| it.parse().unwrap());
    let metadata = match named("topics") {
        Some(topics) => subscription(&topics.split('+').collect::<Vec<_>>()),
        None => Bytes::copy_from_slice(named("meta").unwrap_or("meta").as_bytes()),
    };
    let protocol = |name: &str| Protocol { name: name.into(), metadata: metadata.clone() };
    Join {
        group,
        member,
        instance,
        client_id: named("client").unwrap_or("c").into(),
        client_host: "/127.0.0.1".into(),
        protocol_type: named("type").unwrap_or("consumer").into(),
        protocols: named("p").unwrap_or("range").split('+').map(protocol).collect(),
        session_timeout_ms: named("session").map_or(10_000, |it| it.parse().unwrap()),
        rebalance_timeout_ms: named("rebalance").map_or(60_000, |it| it.parse().unwrap()),
        require_known_member_id: version >= 4,
        may_skip_assignment: version >= 9,
        resumes: named("resumes").is_some(),
    }
}

/// A consumer's subscription, version 1.
fn subscription(topics: &[&str]) -> Bytes {
    let mut out = vec![0, 1];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend((-1i32).to_be_bytes()); // no user data
    out.extend([0; 4]); // no owned partitions
    out.into()
}

fn per_topic<'a, P, F: FnOnce(PartitionIndex) -> P>(
    parts: impl Iterator<Item = (&'a str, F)>,
) -> Vec<PerTopic<Vec<P>>> {
    let mut topics: Vec<PerTopic<Vec<P>>> = Vec::new();
    for (at, make) in parts {
        let (topic, index) = at.rsplit_once('-').unwrap();
        let topic = TopicName::parse(topic).unwrap();
        let one = make(PartitionIndex(index.parse().unwrap()));
        match topics.iter_mut().find(|it| it.topic == topic) {
            Some(it) => it.partitions.push(one),
            None => topics.push(PerTopic { topic, partitions: vec![one] }),
        }
    }
    topics
}

fn settings(title: &str) -> GroupSettings {
    let mut settings = GroupSettings::default();
    for word in title.split_whitespace() {
        match word.split_once('=') {
            Some(("delay", ms)) => settings.initial_rebalance_delay_ms = ms.parse().unwrap(),
            Some(("max", count)) => settings.group_size_max = count.parse().unwrap(),
            Some(("retention", ms)) => settings.offsets_retention_ms = ms.parse().unwrap(),
            Some(("check", ms)) => {
                settings.offsets_retention_check_interval_ms = ms.parse().unwrap();
            }
            _ => {}
        }
    }
    settings
}

#[test]
fn scripts_leave_the_expected_trace() {
    let script = include_str!("../../testdata/groups.txt");
    let mut actual = String::new();
    let mut run = Script::new(GroupSettings::default());
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        actual.push_str(line);
        actual.push('\n');
        if let Some(title) = line.strip_prefix("== ") {
            run = Script::new(settings(title));
        } else if !line.is_empty() && !line.starts_with('#') {
            run.run(line);
            actual.push_str(&run.trace);
            run.trace.clear();
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/groups.txt");
        #[allow(clippy::disallowed_methods, reason = "expected traces are rewritten on demand")]
        std::fs::write(path, &actual).unwrap();
    } else {
        assert!(actual == script, "the trace differs (UPDATE=1 rewrites it):\n{actual}");
    }
}

#[test]
fn member_ids_begin_with_what_clients_look_for() {
    let mut run = Script::new(settings("delay=0"));
    run.run("join g client=app v=2");
    run.run("join g client=app i=box-1");
    let ids: Vec<_> = run.names.keys().cloned().collect();
    assert!(ids[0].starts_with("app-") && ids[0].len() == 4 + 36, "{ids:?}");
    assert!(ids[1].starts_with("box-1-") && ids[1].len() == 6 + 36, "{ids:?}");
}

#[test]
fn commands_out_of_bounds_are_refused() {
    let mut run = Script::new(GroupSettings::default());
    let long = "x".repeat(TEXT_BYTES_MAX + 1);
    let mut check = |line: &str, expected: &str| {
        run.trace.clear();
        run.run(line);
        assert!(run.trace.contains(expected), "{line:.40} left {}", run.trace);
    };
    for command in ["join", "sync", "beat", "leave", "commit", "fetch", "describe", "delete"] {
        check(&format!("{command} {long}"), "InvalidGroupId");
    }
    for command in ["join", "sync", "beat", "leave", "delete-offsets"] {
        check(&format!("{command} \"\""), "InvalidGroupId");
    }
    check("commit \"\" t-0=1", "Ok");
    check("fetch \"\" t-0", "[t-0 1 3 \"\"]");
    check("join g session=5999", "InvalidSessionTimeout");
    check("join g session=1800001", "InvalidSessionTimeout");
    check(&format!("join g client={long}"), "InvalidRequest");
    check(&format!("join g i={long}"), "InvalidRequest");
    check(&format!("join g type={long}"), "InvalidRequest");
    check(&format!("join g p={long}"), "InvalidRequest");
    let many: Vec<_> = (0..=PROTOCOLS_MAX).map(|it| it.to_string()).collect();
    check(&format!("join g p={}", many.join("+")), "InvalidRequest");
    check("list", "groups [ \"\" Empty]\n");
}

#[test]
fn a_group_whose_record_would_be_too_large_rebalances() {
    let mut run = Script::new(settings("delay=0"));
    run.run("join g v=2");
    let big = "x".repeat(GROUP_RECORD_BYTES_MAX);
    run.trace.clear();
    run.run(&format!("sync g m=M1 gen=1 assign=M1:{big}"));
    assert_eq!(run.trace, "  #2 UnknownServerError\n");
    run.trace.clear();
    run.run("beat g m=M1 gen=1");
    assert_eq!(run.trace, "  #3 RebalanceInProgress\n");
}

#[test]
fn live_records_rebuild_the_coordinator_chunk_by_chunk() {
    let mut run = Script::new(settings("delay=0"));
    for line in [
        "join g v=2 topics=t",
        "sync g m=M1 gen=1 assign=M1:all",
        "commit g m=M1 gen=1 t-0=1 t-1=2 u-0=3",
        "commit simple t-0=9:meta t-1=8",
        "commit old retention=50 t-0=1",
        "join empty v=2",
        "leave empty M2",
    ] {
        run.run(line);
    }
    let (whole, _) = run.groups.live_records(None, usize::MAX);
    assert_eq!(whole.len(), 8);
    for bytes in [1, 100, 200, 300, 10_000] {
        let mut cursor = None;
        let mut chunks = Vec::new();
        loop {
            let (records, next) = run.groups.live_records(cursor.as_ref(), bytes);
            assert!(records.len() <= bytes / 20 + 1, "{} in {bytes}", records.len());
            chunks.extend(records);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(chunks, whole, "in chunks of {bytes}");
    }
}

#[test]
fn subscriptions_are_read_like_kafka_reads_them() {
    let parse = |bytes: &[u8]| {
        let mut topics = std::collections::BTreeSet::new();
        classic::consumer_topics(bytes, &mut topics)
            .map(|()| topics.into_iter().collect::<Vec<_>>())
    };
    assert_eq!(parse(&subscription(&["a", "b"])), Some(vec!["a".into(), "b".into()]));
    assert_eq!(parse(&subscription(&[])), Some(vec![]));
    let bytes = subscription(&["a", "b"]);
    for cut in 0..bytes.len() - 4 {
        assert_eq!(parse(&bytes[..cut]), None, "cut at {cut}");
    }
    assert_eq!(parse(&[0, 0, 0x7f, 0xff, 0xff, 0xff]), None);
    assert_eq!(parse(&[0, 0, 0xff, 0xff, 0xff, 0xff]), None);
}
