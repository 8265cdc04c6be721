//! Scripts for the controller: commands, and the trace that they must leave (`testdata/controller.txt`).

use std::fmt::Write as _;

use millrace_model::env::{Env, Now, Prng};
use millrace_model::ids::NodeId;

use super::*;
use crate::metadata::brokers::RegisterBroker;
use crate::metadata::configs::{
    AlterConfigs, AlteredResource, ConfigChange, ConfigEdit, ConfigOperation, ConfigRules,
    InvalidConfig,
};
use crate::metadata::image::Endpoint;
use crate::metadata::partitions::NewPartitions;
use crate::metadata::topics::{NewTopic, TopicShape};
use crate::metadata::{TopicRef, image};

/// A metadata log in memory that commits when told.
struct ManualLog {
    leadership: Leadership,
    first_index: u64,
    entries: Vec<(Vec<Record>, ProposalId)>,
    committed: usize,
    delivered: usize,
}

impl ManualLog {
    fn new() -> Self {
        Self {
            leadership: Leadership::Leader { epoch: LeaderEpoch(1) },
            first_index: 0,
            entries: Vec::new(),
            committed: 0,
            delivered: 0,
        }
    }

    fn commit(&mut self, count: usize) {
        self.committed = (self.committed + count).min(self.entries.len());
    }

    /// What another process would find.
    fn reopen(&self) -> Self {
        let entries = self.entries[..self.committed].to_vec();
        Self { delivered: 0, leadership: self.leadership, entries, ..*self }
    }

    fn records(&self) -> usize {
        self.entries.iter().map(|(records, _)| records.len()).sum()
    }
}

impl MetadataLog for ManualLog {
    fn propose(&mut self, records: Vec<Record>) -> Result<ProposalId, NotLeader> {
        // The bytes are what survives.
        let records =
            records.iter().map(|it| Record::decode(&it.encode()).expect("round trip")).collect();
        let id = ProposalId(self.first_index + self.entries.len() as u64);
        match self.leadership {
            Leadership::Leader { .. } => self.entries.push((records, id)),
            Leadership::Follower { leader } => return Err(NotLeader { leader }),
        }
        Ok(id)
    }

    fn next_committed(&mut self) -> Option<Committed> {
        if self.delivered == self.committed {
            return None;
        }
        let (records, id) = self.entries[self.delivered].clone();
        self.delivered += 1;
        Some(Committed { index: id.0 + 1, records, proposal: Some(id) })
    }

    fn leadership(&self) -> Leadership {
        self.leadership
    }

    fn trim_before(&mut self, index: u64) {
        let gone = (index - 1 - self.first_index) as usize;
        self.entries.drain(..gone);
        self.first_index += gone as u64;
        self.committed -= gone;
        self.delivered -= gone;
    }
}

fn settings() -> MetadataSettings {
    fn check_topic(key: &str, value: &str) -> Result<(), InvalidConfig> {
        match key {
            "cleanup.policy" | "retention.ms" if !value.is_empty() => Ok(()),
            "cleanup.policy" | "retention.ms" => Err(InvalidConfig::Value {
                key: key.into(),
                value: value.into(),
                reason: "empty".into(),
            }),
            _ => Err(InvalidConfig::UnknownKey { key: key.into() }),
        }
    }
    fn check_broker(key: &str, _: &str) -> Result<(), InvalidConfig> {
        Err(InvalidConfig::ReadOnly { key: key.into() })
    }
    MetadataSettings {
        partitions_default: 2,
        replication_factor_default: 1,
        config_rules: ConfigRules {
            check_topic,
            check_broker,
            list_default: |key| (key == "cleanup.policy").then_some("delete"),
        },
    }
}

fn env() -> Env {
    Env { now: Now::default(), rng: Prng::new(1) }
}

struct Script {
    controller: Controller<ManualLog, usize>,
    env: Env,
    out: Vec<ControllerOutput<usize>>,
    commands: usize,
    trace: String,
}

impl Script {
    fn new() -> Self {
        let controller = Controller::new(ManualLog::new(), settings());
        Self { controller, env: env(), out: Vec::new(), commands: 0, trace: String::new() }
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let event = match words[..] {
            ["commit"] => {
                self.controller.log_mut().commit(usize::MAX / 2);
                ControllerEvent::LogMoved
            }
            ["commit", count] => {
                self.controller.log_mut().commit(count.parse().unwrap());
                ControllerEvent::LogMoved
            }
            ["lead", epoch] => {
                let epoch = LeaderEpoch(epoch.parse().unwrap());
                self.controller.log_mut().leadership = Leadership::Leader { epoch };
                ControllerEvent::LogMoved
            }
            ["follow", leader] => {
                let leader = leader.parse().ok().map(NodeId);
                let log = self.controller.log_mut();
                log.leadership = Leadership::Follower { leader };
                // The new leader's log does not have what was never committed.
                log.entries.truncate(log.committed);
                ControllerEvent::LogMoved
            }
            ["restart"] => {
                self.controller = Controller::new(self.controller.log_mut().reopen(), settings());
                ControllerEvent::LogMoved
            }
            ["image"] => {
                let image = self.controller.image().clone();
                describe(&image, &mut self.trace);
                return;
            }
            _ => {
                self.commands += 1;
                ControllerEvent::Command { command: command(&words), token: self.commands }
            }
        };
        self.controller.handle(&mut self.env, event, &mut self.out);
        for output in self.out.drain(..) {
            match output {
                ControllerOutput::Image { image, delta } => {
                    let names = |topics: &[Arc<image::Topic>]| {
                        topics.iter().map(|t| t.name.to_string()).collect::<Vec<_>>().join(",")
                    };
                    write!(self.trace, "  image {}", image.index()).unwrap();
                    write!(self.trace, " created=[{}]", names(&delta.created)).unwrap();
                    write!(self.trace, " deleted=[{}]", names(&delta.deleted)).unwrap();
                    for change in &delta.changed {
                        let partitions: Vec<_> = change.partitions.iter().map(|p| p.0).collect();
                        let (name, configs) = (&change.topic.name, change.configs_changed);
                        write!(self.trace, " {name}: {partitions:?} configs={configs}").unwrap();
                    }
                    self.trace.push('\n');
                }
                ControllerOutput::Reply { token, result: Ok(reply) } => {
                    writeln!(self.trace, "  reply {token} {reply:?}").unwrap();
                }
                ControllerOutput::Reply { token, result: Err(refused) } => {
                    writeln!(self.trace, "  refused {token}: {refused}").unwrap();
                }
            }
        }
    }
}

fn command(words: &[&str]) -> Command {
    let named = |key: &str| {
        words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    let number = |key: &str| named(key).map(|it| it.parse::<i32>().unwrap());
    let validate_only = words.contains(&"validate");
    let brokers = |list: &str| -> Vec<Vec<NodeId>> {
        list.split('/')
            .map(|it| it.split(',').map(|n| NodeId(n.parse().unwrap())).collect())
            .collect()
    };
    match words[0] {
        "init" => Command::InitCluster { cluster_id: words[1].into() },
        "broker" => Command::RegisterBroker(RegisterBroker {
            id: NodeId(words[1].parse().unwrap()),
            incarnation: [number("incarnation").unwrap_or(0) as u8; 16],
            endpoints: vec![Endpoint { listener: "kafka".into(), host: "h".into(), port: 9092 }],
            rack: None,
        }),
        "create" => {
            let topic = |name: &str| NewTopic {
                name: name.into(),
                shape: match named("on") {
                    Some(list) => TopicShape::Assigned(brokers(&list)),
                    None => TopicShape::Counts {
                        partitions: number("partitions"),
                        replication_factor: number("rf").map(|it| it as i16),
                    },
                },
                configs: named("config")
                    .map(|it| it.split_once(':').map(|(k, v)| (k.into(), Some(v.into()))).unwrap())
                    .into_iter()
                    .collect(),
            };
            let topics = words[1].split('+').map(topic).collect();
            Command::CreateTopics { topics, validate_only }
        }
        "delete" => {
            let topics = words[1].split('+').map(|it| TopicRef::Name(it.into())).collect();
            Command::DeleteTopics { topics }
        }
        "grow" => Command::CreatePartitions {
            topics: vec![NewPartitions {
                topic: words[1].into(),
                count: words[2].parse().unwrap(),
                assignments: named("on").map(|it| brokers(&it)),
            }],
            validate_only,
        },
        "pids" => Command::AllocateProducerIds,
        "replace" => Command::AlterConfigs {
            resources: vec![AlterConfigs {
                resource: AlteredResource::Topic(words[1].into()),
                edit: ConfigEdit::Replace(
                    words[2..]
                        .iter()
                        .map(|it| it.split_once('=').unwrap())
                        .map(|(key, value)| (key.into(), Some(value.into())))
                        .collect(),
                ),
            }],
            validate_only,
        },
        operation => {
            let resource = match words[1].strip_prefix("broker:") {
                Some(id) => AlteredResource::Broker(id.parse().ok().map(NodeId)),
                None => AlteredResource::Topic(words[1].into()),
            };
            let operation = match operation {
                "set" => ConfigOperation::Set,
                "unset" => ConfigOperation::Delete,
                "append" => ConfigOperation::Append,
                "subtract" => ConfigOperation::Subtract,
                _ => panic!("unknown command {words:?}"),
            };
            let value = words.get(3).map(|it| (*it).to_owned());
            let changes = vec![ConfigChange { key: words[2].into(), operation, value }];
            let edit = ConfigEdit::Incremental(changes);
            Command::AlterConfigs {
                resources: vec![AlterConfigs { resource, edit }],
                validate_only: false,
            }
        }
    }
}

fn describe(image: &Image, out: &mut String) {
    writeln!(out, "  at {} cluster {:?}", image.index(), image.cluster_id()).unwrap();
    for broker in image.brokers() {
        writeln!(out, "  broker {} epoch {}", broker.id, broker.epoch).unwrap();
    }
    for topic in image.topics() {
        writeln!(out, "  topic {} {} {:?}", topic.name, topic.id, topic.configs).unwrap();
        for (index, it) in topic.partitions.iter().enumerate() {
            let replicas: Vec<_> = it.replicas.iter().map(|node| node.0).collect();
            let (leader, epoch) = (it.leader.unwrap(), it.leader_epoch);
            writeln!(out, "    {index} on {replicas:?} leader {leader} epoch {epoch}").unwrap();
        }
    }
}

#[test]
fn scripts_leave_the_expected_trace() {
    let script = include_str!("../../testdata/controller.txt");
    let mut actual = String::new();
    let mut run = Script::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        actual.push_str(line);
        actual.push('\n');
        if line.starts_with("== ") {
            run = Script::new();
        } else if !line.is_empty() && !line.starts_with('#') {
            run.run(line);
            actual.push_str(&run.trace);
            run.trace.clear();
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/controller.txt");
        #[allow(clippy::disallowed_methods, reason = "expected traces are rewritten on demand")]
        std::fs::write(path, &actual).unwrap();
    } else {
        assert!(actual == script, "the trace differs (UPDATE=1 rewrites it):\n{actual}");
    }
}

#[test]
fn replay_stays_bounded_and_loses_nothing() {
    let mut run = Script::new();
    run.run("init c");
    run.run("broker 0");
    run.run("create keep partitions=3");
    run.run("pids");
    run.run("commit");
    let mut largest = 0;
    for round in 0..3 * METADATA_REPLAY_RECORDS_MAX / 5 {
        run.run("set keep retention.ms 1");
        run.run(&format!("create t{round} partitions=1"));
        run.run("unset keep retention.ms");
        run.run(&format!("delete t{round}"));
        run.run("commit");
        largest = largest.max(run.controller.log_mut().records());
    }
    assert!(largest < METADATA_REPLAY_RECORDS_MAX + 100, "{largest} records in the log");
    let before = run.controller.image().clone();
    run.run("restart");
    assert_eq!(*run.controller.image(), before);
    assert!(before.topic("keep").is_some());
}
