//! The harness of the integration tests: broker processes, raw connections to them, and what a client needs on top.

#![forbid(unsafe_code)]

pub mod ask;
pub mod group;
pub mod kafka;
pub mod process;
pub mod random;
pub mod records;
