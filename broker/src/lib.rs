//! The shell of Millrace: everything that waits. Sockets, tasks, timers and sync threads live here; decisions do not.
//!
//! A request walks through one of the doors (`kafka`, `grpc`) into the hall (`service`), from there to the owner of a
//! partition (`partition`) or of the metadata (`controller`), and back. `node` builds it all. The map is
//! `broker/ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
mod context;
mod controller;
mod error;
mod grpc;
mod kafka;
mod metrics;
mod net;
pub mod node;
mod ops;
mod partition;
mod service;
mod shutdown;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
