//! Everything in Millrace that decides: offsets, producers, groups, metadata.
//!
//! Ordinary synchronous Rust without clock, thread, socket or randomness: time and luck are arguments, so the same
//! inputs give the same outputs and the same bytes. It acts on the log of `millrace-storage`; the shell (package
//! `millrace`) and the simulator drive it. Nothing here speaks a protocol.

#![forbid(unsafe_code)]

pub mod controller;
pub mod group;
pub mod machine;
pub mod metadata;
pub mod metadata_log;
pub mod partition;
pub mod shard;
