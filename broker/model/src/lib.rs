//! The vocabulary that every room of Millrace shares: ids, offsets, time as values, record batches, checksums, limits.
//!
//! Nothing here performs I/O, reads a clock or logs. Storage, kernel and shell all speak these words; the Kafka
//! grammar (`millrace-wire`) does not, because a wire message is bytes and not yet meaning.

#![forbid(unsafe_code)]

pub mod batch;
pub mod checksum;
pub mod compression;
pub mod consumer_protocol;
pub mod env;
pub mod ids;
pub mod limits;
pub mod offset;
pub mod partitioner;
pub mod record;
pub mod topic_config;
