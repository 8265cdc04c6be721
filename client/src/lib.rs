//! The Rust client of Millrace: publish and read over the broker's gRPC port. The README is its first page.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod admin;
mod client;
mod consumer;
mod error;
#[cfg(test)]
mod fake;
mod metadata;
mod producer;
mod record;
mod retry;
mod trace;

pub use millrace_model::compression::Codec;

pub use admin::{
    Admin, BrokerDescription, ClusterDescription, ConfigDescription, ConfigResource, DeletedBefore,
    FoundOffset, GroupDescription, GroupLag, GroupSummary, ItemResult, MemberDescription, NewTopic,
    PartitionDescription, PartitionLag, ResetOffset, TopicDescription, TopicSummary, Watch,
};
pub use client::{Client, ClientBuilder};
pub use consumer::{Consumer, ConsumerBuilder, Event, Rebalance};
pub use error::{Error, ErrorKind, Refusal};
pub use producer::{Delivery, Producer, ProducerBuilder};
pub use record::{CommitOffset, Header, Position, ReceivedRecord, Record, StartAt, TopicPartition};
pub use trace::TraceParent;

#[cfg(test)]
mod tests {
    #[test]
    fn the_readme_shows_the_examples() {
        let readme = include_str!("../README.md");
        for example in
            [include_str!("../examples/publish.rs"), include_str!("../examples/subscribe.rs")]
        {
            let (_, code) = example.split_once("#![allow(clippy::print_stdout)]").unwrap();
            let code = code.trim();
            assert!(code.lines().count() < 20);
            assert!(readme.contains(code), "the README differs from\n{code}");
        }
    }
}
