//! What holds for any history of commands: the snapshot is the state, bytes and all.

use millrace_model::env::{Env, Now, Prng};
use millrace_model::ids::NodeId;
use proptest::prelude::*;

use super::brokers::RegisterBroker;
use super::configs::{AlterConfigs, AlteredResource, ConfigChange, ConfigEdit, ConfigOperation};
use super::image::Endpoint;
use super::partitions::NewPartitions;
use super::topics::TopicShape;
use super::*;

fn metadata() -> Metadata {
    Metadata::new(MetadataSettings {
        partitions_default: 1,
        replication_factor_default: 1,
        config_rules: ConfigRules {
            check_topic: |_, _| Ok(()),
            check_broker: |_, _| Ok(()),
            list_default: |_| Some(""),
        },
    })
}

fn register(incarnation: u8) -> Command {
    Command::RegisterBroker(RegisterBroker {
        id: NodeId(0),
        incarnation: [incarnation; 16],
        endpoints: vec![Endpoint { listener: "kafka".into(), host: "h".into(), port: 1 }],
        rack: None,
    })
}

fn alter(resource: AlteredResource, key: String, value: Option<String>) -> Command {
    let operation = match value {
        Some(_) => ConfigOperation::Append,
        None => ConfigOperation::Delete,
    };
    let edit = ConfigEdit::Incremental(vec![ConfigChange { key, operation, value }]);
    Command::AlterConfigs { resources: vec![AlterConfigs { resource, edit }], validate_only: false }
}

fn commands() -> impl Strategy<Value = Command> {
    let name = || "[ab][._]?[c]?";
    prop_oneof![
        (0u8..3).prop_map(register),
        Just(Command::AllocateProducerIds),
        (name(), 0..4).prop_map(|(name, partitions)| Command::CreateTopics {
            topics: vec![NewTopic {
                name,
                shape: TopicShape::Counts {
                    partitions: Some(partitions),
                    replication_factor: None
                },
                configs: vec![("k".into(), Some("v".into()))],
            }],
            validate_only: partitions == 3,
        }),
        name().prop_map(|name| Command::DeleteTopics { topics: vec![TopicRef::Name(name)] }),
        (name(), 0..6).prop_map(|(topic, count)| Command::CreatePartitions {
            topics: vec![NewPartitions { topic, count, assignments: None }],
            validate_only: false,
        }),
        (name(), "[kl]", proptest::option::of("[vw]")).prop_map(|(name, key, value)| alter(
            AlteredResource::Topic(name),
            key,
            value
        )),
        (proptest::option::of(0..2), "[kl]", proptest::option::of("[vw]")).prop_map(
            |(id, key, value)| alter(AlteredResource::Broker(id.map(NodeId)), key, value)
        ),
    ]
}

proptest! {
    #[test]
    fn a_snapshot_rebuilds_the_state(history in proptest::collection::vec(commands(), 0..40)) {
        let mut env = Env { now: Now::default(), rng: Prng::new(7) };
        let mut state = metadata();
        let mut log = vec![Record::Cluster { cluster_id: "c".into() }];
        for command in std::iter::once(register(0)).chain(history) {
            for record in &log {
                state.apply(record);
            }
            log = state.decide(&mut env, command).unwrap().records;
        }
        let mut rebuilt = metadata();
        // Whatever was there before a snapshot does not count.
        rebuilt.apply(&Record::ProducerIds { next: 77 });
        for record in state.snapshot() {
            rebuilt.apply(&Record::decode(&record.encode()).unwrap());
        }
        prop_assert_eq!(state.image(), rebuilt.image());
        prop_assert!(rebuilt.image().diff(state.image()).is_empty());
        // Applying a snapshot twice changes nothing.
        for record in state.snapshot() {
            state.apply(&record);
        }
        prop_assert_eq!(state.image(), rebuilt.image());
    }
}
