//! The generator: a plan, driven through one door of a broker.
//!
//! Closed loop keeps a number of requests in flight on each connection and counts from when one was handed over. Open
//! loop sends at a rate whatever the broker does and counts from when a request was *due*, so a stall shows in every
//! request that it delays. The first seconds are dropped. The caller is told when the measured window begins and ends,
//! and looks at the broker then (`watch.rs`). What counts and when is `book.rs`'s; each door has a driver.

mod book;
mod client;
mod connection;
mod grpc;
mod kafka;

use std::net::SocketAddr;
use std::time::Duration;

use crate::batch::Batch;
use crate::clock::Nanos;
use crate::error::LoadError;
use crate::histogram::Histogram;
use crate::protocol::TOPIC_BYTES_MAX;

/// How long answers may be outstanding after the window.
const DRAIN: Duration = Duration::from_secs(60);
/// An open loop that is so far behind will not recover.
const BACKLOG_MAX: usize = 1_000_000;

/// What one run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The broker's Kafka address.
    pub broker: SocketAddr,
    pub door: Door,
    pub topic: String,
    pub work: Work,
    pub batch: Batch,
    pub connections: usize,
    pub pace: Pace,
    pub warm_up: Duration,
    pub measure: Duration,
    /// The window ends when so many bytes of values were sent or read, a quarter of them before it begins.
    pub bytes_max: Option<u64>,
}

/// How the work reaches the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The Kafka protocol, by hand.
    Kafka,
    /// gRPC at this address: `ProduceStream` and `Consume` over bare HTTP/2, batches encoded once.
    Grpc(SocketAddr),
    /// gRPC at this address through the Rust client, record by record.
    Client(SocketAddr),
}

#[derive(Clone, Copy, Debug)]
pub enum Work {
    Produce {
        acks: i16,
        partitions: Partitions,
    },
    /// Connection i reads partition i from its start, again and again; one request in flight.
    Fetch {
        partitions: u32,
        fetch_bytes: u32,
        /// Copy what arrives into memory instead of letting the kernel drop it.
        copy: bool,
    },
}

/// Which partition a batch goes to.
#[derive(Clone, Copy, Debug)]
pub enum Partitions {
    /// Connection i writes to partition i modulo this.
    PerConnection(u32),
    /// Any of so many.
    Random(u32),
}

#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many requests in flight on each connection.
    Closed { in_flight: usize },
    /// So many requests a second over all connections.
    Open { per_second: f64 },
}

/// A turning point of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin,
    End,
}

/// What was counted inside the window.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub seconds: f64,
    pub requests: u64,
    pub records: u64,
    pub payload_bytes: u64,
    pub errors: u64,
    pub error_code: Option<i16>,
    pub latency: Histogram,
    /// CPU time of this process in the window.
    pub generator_cpu: Nanos,
}

/// Runs a plan; `mark` is called at the window's begin and end, and must return at once.
///
/// # Errors
/// When a connection breaks, an answer cannot be read, or answers stay out.
pub fn run(plan: &Plan, mark: &mut dyn FnMut(Mark)) -> Result<Tally, LoadError> {
    if plan.topic.len() > TOPIC_BYTES_MAX || plan.connections == 0 {
        return Err(LoadError::Misuse("no connection, or the topic's name is too long".into()));
    }
    match plan.door {
        Door::Kafka => kafka::run(plan, mark),
        Door::Grpc(address) => grpc::run(plan, address, mark),
        Door::Client(address) => client::run(plan, address, mark),
    }
}

#[cfg(test)]
mod tests;
