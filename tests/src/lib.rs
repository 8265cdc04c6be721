//! The harness of the integration tests: broker processes and raw connections to them.

#![forbid(unsafe_code)]

pub mod kafka;
pub mod process;
