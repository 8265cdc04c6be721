//! Metadata records and their bytes.
//!
//! A [`Record`] is one durable fact about the cluster; [`crate::metadata::Metadata`] is what applying them yields. Every
//! record states what is so, never what to do, so applying one twice changes nothing more. The bytes are protobuf, by
//! the private mirror types at the end of this file; their numbers are persisted, never reuse. A record that this
//! version does not know is an error: metadata is never guessed.
//!
//! Called by the deciders beside, and by implementations of [`crate::metadata_log::MetadataLog`] for the bytes.

use millrace_model::ids::{InvalidTopicName, NodeId, PartitionIndex, TopicId, TopicName};
use millrace_model::offset::LeaderEpoch;
use prost::Message;

use crate::metadata::image::{Broker, ConfigResource, Endpoint, Partition};

/// One fact about the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Everything before is void: the rest of this entry is the whole state. First in a snapshot.
    SnapshotStart,
    /// The cluster exists; the first record of its life.
    Cluster {
        cluster_id: String,
    },
    /// A broker is (again) part of the cluster.
    Broker(Broker),
    Topic {
        id: TopicId,
        name: TopicName,
    },
    RemoveTopic {
        id: TopicId,
    },
    /// A partition is so, wholly: replaces what was known of it.
    Partition {
        topic: TopicId,
        index: PartitionIndex,
        partition: Partition,
    },
    /// An override, or its end.
    Config {
        resource: ConfigResource,
        key: String,
        value: Option<String>,
    },
    /// Producer ids below `next` are handed out.
    ProducerIds {
        next: i64,
    },
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    #[error("metadata record is no protobuf message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("metadata record is of a kind that this version does not know")]
    UnknownKind,
    #[error("metadata record has an id of {bytes} bytes instead of 16")]
    Id { bytes: usize },
    #[error("metadata record names a topic illegally: {0}")]
    Name(#[from] InvalidTopicName),
    #[error("metadata record has port {port}")]
    Port { port: u32 },
    #[error("metadata record lacks its {field}")]
    Missing { field: &'static str },
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        wire::Record { kind: Some(self.to_wire()) }.encode_to_vec()
    }

    /// # Errors
    /// [`InvalidRecord`] when the bytes are none, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidRecord> {
        let kind = wire::Record::decode(bytes)?.kind.ok_or(InvalidRecord::UnknownKind)?;
        Self::from_wire(kind)
    }

    fn to_wire(&self) -> wire::Kind {
        use wire::Kind;
        match self {
            Self::SnapshotStart => Kind::SnapshotStart(wire::SnapshotStart {}),
            Self::Cluster { cluster_id } => {
                Kind::Cluster(wire::Cluster { cluster_id: cluster_id.clone() })
            }
            Self::Broker(broker) => Kind::Broker(wire::Broker {
                node: broker.id.0,
                incarnation: broker.incarnation.to_vec(),
                epoch: broker.epoch,
                endpoints: broker.endpoints.iter().map(endpoint_to_wire).collect(),
                rack: broker.rack.clone(),
            }),
            Self::Topic { id, name } => {
                Kind::Topic(wire::Topic { id: id.0.to_vec(), name: name.as_str().to_owned() })
            }
            Self::RemoveTopic { id } => Kind::RemoveTopic(wire::RemoveTopic { id: id.0.to_vec() }),
            Self::Partition { topic, index, partition } => Kind::Partition(wire::Partition {
                topic: topic.0.to_vec(),
                index: index.0,
                leader: partition.leader.map(|node| node.0),
                leader_epoch: partition.leader_epoch.0,
                partition_epoch: partition.partition_epoch,
                replicas: partition.replicas.iter().map(|node| node.0).collect(),
                isr: partition.isr.iter().map(|node| node.0).collect(),
            }),
            Self::Config { resource, key, value } => Kind::Config(wire::Config {
                resource: Some(resource_to_wire(resource)),
                key: key.clone(),
                value: value.clone(),
            }),
            Self::ProducerIds { next } => Kind::ProducerIds(wire::ProducerIds { next: *next }),
        }
    }

    fn from_wire(kind: wire::Kind) -> Result<Self, InvalidRecord> {
        use wire::Kind;
        Ok(match kind {
            Kind::SnapshotStart(_) => Self::SnapshotStart,
            Kind::Cluster(it) => Self::Cluster { cluster_id: it.cluster_id },
            Kind::Broker(it) => Self::Broker(broker_from_wire(it)?),
            Kind::Topic(it) => {
                Self::Topic { id: TopicId(id(&it.id)?), name: TopicName::parse(&it.name)? }
            }
            Kind::RemoveTopic(it) => Self::RemoveTopic { id: TopicId(id(&it.id)?) },
            Kind::Partition(it) => Self::Partition {
                topic: TopicId(id(&it.topic)?),
                index: PartitionIndex(it.index),
                partition: Partition {
                    leader: it.leader.map(NodeId),
                    leader_epoch: LeaderEpoch(it.leader_epoch),
                    partition_epoch: it.partition_epoch,
                    replicas: it.replicas.into_iter().map(NodeId).collect(),
                    isr: it.isr.into_iter().map(NodeId).collect(),
                },
            },
            Kind::Config(it) => Self::Config {
                resource: resource_from_wire(
                    it.resource.ok_or(InvalidRecord::Missing { field: "resource" })?,
                )?,
                key: it.key,
                value: it.value,
            },
            Kind::ProducerIds(it) => Self::ProducerIds { next: it.next },
        })
    }
}

fn endpoint_to_wire(endpoint: &Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        listener: endpoint.listener.clone(),
        host: endpoint.host.clone(),
        port: u32::from(endpoint.port),
    }
}

fn broker_from_wire(it: wire::Broker) -> Result<Broker, InvalidRecord> {
    let mut endpoints = Vec::new();
    for wire::Endpoint { listener, host, port } in it.endpoints {
        let port = u16::try_from(port).map_err(|_| InvalidRecord::Port { port })?;
        endpoints.push(Endpoint { listener, host, port });
    }
    let incarnation = id(&it.incarnation)?;
    Ok(Broker { id: NodeId(it.node), incarnation, epoch: it.epoch, endpoints, rack: it.rack })
}

fn resource_to_wire(resource: &ConfigResource) -> wire::Resource {
    match resource {
        ConfigResource::Topic(name) => wire::Resource::Topic(name.as_str().to_owned()),
        ConfigResource::Broker(Some(node)) => wire::Resource::Broker(node.0),
        ConfigResource::Broker(None) => wire::Resource::AllBrokers(true),
    }
}

fn resource_from_wire(resource: wire::Resource) -> Result<ConfigResource, InvalidRecord> {
    Ok(match resource {
        wire::Resource::Topic(name) => ConfigResource::Topic(TopicName::parse(&name)?),
        wire::Resource::Broker(node) => ConfigResource::Broker(Some(NodeId(node))),
        wire::Resource::AllBrokers(_) => ConfigResource::Broker(None),
    })
}

fn id(bytes: &[u8]) -> Result<[u8; 16], InvalidRecord> {
    bytes.try_into().map_err(|_| InvalidRecord::Id { bytes: bytes.len() })
}

/// The bytes as protobuf messages. Every number is persisted, never reuse.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Record {
        #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
        pub(super) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Kind {
        #[prost(message, tag = "1")]
        SnapshotStart(SnapshotStart),
        #[prost(message, tag = "2")]
        Cluster(Cluster),
        #[prost(message, tag = "3")]
        Broker(Broker),
        #[prost(message, tag = "4")]
        Topic(Topic),
        #[prost(message, tag = "5")]
        RemoveTopic(RemoveTopic),
        #[prost(message, tag = "6")]
        Partition(Partition),
        #[prost(message, tag = "7")]
        Config(Config),
        #[prost(message, tag = "8")]
        ProducerIds(ProducerIds),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SnapshotStart {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Cluster {
        #[prost(string, tag = "1")]
        pub(super) cluster_id: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Broker {
        #[prost(int32, tag = "1")]
        pub(super) node: i32,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) incarnation: Vec<u8>,
        #[prost(int64, tag = "3")]
        pub(super) epoch: i64,
        #[prost(message, repeated, tag = "4")]
        pub(super) endpoints: Vec<Endpoint>,
        #[prost(string, optional, tag = "5")]
        pub(super) rack: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Endpoint {
        #[prost(string, tag = "1")]
        pub(super) listener: String,
        #[prost(string, tag = "2")]
        pub(super) host: String,
        #[prost(uint32, tag = "3")]
        pub(super) port: u32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Topic {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) id: Vec<u8>,
        #[prost(string, tag = "2")]
        pub(super) name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RemoveTopic {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) id: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Partition {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) topic: Vec<u8>,
        #[prost(int32, tag = "2")]
        pub(super) index: i32,
        #[prost(int32, optional, tag = "3")]
        pub(super) leader: Option<i32>,
        #[prost(int32, tag = "4")]
        pub(super) leader_epoch: i32,
        #[prost(int32, tag = "5")]
        pub(super) partition_epoch: i32,
        #[prost(int32, repeated, tag = "6")]
        pub(super) replicas: Vec<i32>,
        #[prost(int32, repeated, tag = "7")]
        pub(super) isr: Vec<i32>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Config {
        #[prost(oneof = "Resource", tags = "1, 2, 3")]
        pub(super) resource: Option<Resource>,
        #[prost(string, tag = "4")]
        pub(super) key: String,
        #[prost(string, optional, tag = "5")]
        pub(super) value: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Resource {
        #[prost(string, tag = "1")]
        Topic(String),
        #[prost(int32, tag = "2")]
        Broker(i32),
        #[prost(bool, tag = "3")]
        AllBrokers(bool),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ProducerIds {
        #[prost(int64, tag = "1")]
        pub(super) next: i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let topic = TopicId([7; 16]);
        let name = TopicName::parse("orders").unwrap();
        vec![
            Record::SnapshotStart,
            Record::Cluster { cluster_id: "c".into() },
            Record::Broker(Broker {
                id: NodeId(3),
                incarnation: [1; 16],
                epoch: 9,
                endpoints: vec![Endpoint {
                    listener: "kafka".into(),
                    host: "::1".into(),
                    port: 65535,
                }],
                rack: Some("r".into()),
            }),
            Record::Topic { id: topic, name: name.clone() },
            Record::RemoveTopic { id: topic },
            Record::Partition {
                topic,
                index: PartitionIndex(2),
                partition: Partition {
                    leader: Some(NodeId(0)),
                    leader_epoch: LeaderEpoch(4),
                    partition_epoch: 5,
                    replicas: vec![NodeId(0), NodeId(1)],
                    isr: vec![NodeId(0)],
                },
            },
            Record::Config {
                resource: ConfigResource::Topic(name),
                key: "retention.ms".into(),
                value: None,
            },
            Record::Config {
                resource: ConfigResource::Broker(None),
                key: "k".into(),
                value: Some(String::new()),
            },
            Record::Config {
                resource: ConfigResource::Broker(Some(NodeId(0))),
                key: "k".into(),
                value: Some("v".into()),
            },
            Record::ProducerIds { next: 1000 },
        ]
    }

    #[test]
    fn every_record_survives_its_bytes() {
        for record in samples() {
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    /// The bytes of version 1. They must stay readable for ever: add lines, never change one.
    #[test]
    fn bytes_of_older_versions_stay_readable() {
        let lines = include_str!("../../testdata/metadata_records.txt");
        let samples = samples();
        let mut count = 0;
        for (line, expected) in lines.lines().filter(|l| !l.starts_with('#')).zip(&samples) {
            let bytes: Vec<u8> = (0..line.len() / 2)
                .map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            assert_eq!(Record::decode(&bytes).as_ref(), Ok(expected));
            assert_eq!(bytes, expected.encode());
            count += 1;
        }
        assert_eq!(count, samples.len());
    }

    #[test]
    fn unknown_kinds_are_refused() {
        assert_eq!(Record::decode(&[]), Err(InvalidRecord::UnknownKind));
        assert_eq!(Record::decode(&[0xfa, 0x01, 0]), Err(InvalidRecord::UnknownKind));
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_are_refused_quietly(bytes in proptest::collection::vec(0u8.., 0..64)) {
            let _ = Record::decode(&bytes);
        }
    }
}
