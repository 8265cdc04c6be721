//! Goals about the process and not its throughput: F8, how soon it serves; F9, how much memory it holds.
//!
//! Every figure needs a broker of its own, so these run when no other does.

use std::time::{Duration, Instant};

use millrace_model::compression::Codec;

use crate::admin::Admin;
use crate::batch::{Batch, Noise};
use crate::compare::broker::{Broker, Peer, Places, data_directory, remove};
use crate::compare::cases::median_of;
use crate::engine::{self, Door, Pace, Partitions, Plan, Work};
use crate::error::LoadError;
use crate::{clock, idle, machine, watch};

/// No broker takes longer to its first acknowledgement.
const START_MAX: Duration = Duration::from_secs(300);
/// Memory is looked at when a broker had so long to come to rest.
const REST: Duration = Duration::from_secs(4);
/// Topic and partition of the first acknowledgement.
const FIRST: &str = "first";

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub repetitions: usize,
    pub partitions: u32,
    pub connections: usize,
    /// Values in the log when the broker is killed.
    pub log_bytes: u64,
}

/// Seconds from the process's start to its first acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartReport {
    /// Nothing in the data directory but what the broker itself put there at an earlier start.
    pub empty: Option<f64>,
    pub many_partitions: Option<f64>,
    pub many_partitions_killed: Option<f64>,
    /// Killed while it was written to.
    pub big_log_killed: Option<f64>,
}

/// Anonymous memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryReport {
    pub idle: Option<f64>,
    pub per_partition: Option<f64>,
    /// Once a record was written to each.
    pub per_written_partition: Option<f64>,
    pub per_connection: Option<f64>,
}

/// F8 of one broker. What fails is told and stays unknown.
pub fn starts(places: &Places, peer: Peer, size: &Size, tell: &mut dyn FnMut(&str)) -> StartReport {
    let mut keep = |what: &str, outcome: Result<f64, LoadError>| match outcome {
        Ok(seconds) => {
            tell(&format!("{}, {what}: first ack after {seconds:.3} s", peer.name()));
            Some(seconds)
        }
        Err(error) => {
            tell(&format!("{}, {what}: failed: {error}", peer.name()));
            None
        }
    };
    let empty = keep("empty", start_empty(places, peer, size.repetitions));
    let (stopped, killed) = match start_many(places, peer, size.partitions) {
        Ok((stopped, killed)) => (Ok(stopped), Ok(killed)),
        Err(error) => (Err(error), Err(LoadError::Misuse("as before".into()))),
    };
    let many_partitions = keep(&format!("{} partitions", size.partitions), stopped);
    let what = format!("{} partitions, killed", size.partitions);
    let many_partitions_killed = keep(&what, killed);
    let what = format!("{:.1} GB in 6 partitions, killed under load", size.log_bytes as f64 / 1e9);
    let big_log_killed = keep(&what, start_big(places, peer, size.log_bytes));
    // A data directory that cannot be removed now is removed before the next start.
    let _ = remove(&data_directory(places, peer));
    StartReport { empty, many_partitions, many_partitions_killed, big_log_killed }
}

/// F9 of one broker.
///
/// # Errors
/// When the broker does not start or refuses.
pub fn memory(places: &Places, peer: Peer, size: &Size) -> Result<MemoryReport, LoadError> {
    let broker = Broker::start_empty(places, peer)?;
    let unseen = LoadError::Malformed("no process to look at");
    let pid = broker.pid().ok_or(unseen)?;
    let idle = rested(pid)?;
    let report = idle::run(broker.address, size.connections, REST, pid)?;
    let per_connection = Some(report.anonymous_per_connection);
    drop(broker);

    let broker = Broker::start_empty(places, peer)?;
    let pid = broker.pid().ok_or(LoadError::Malformed("no process to look at"))?;
    let before = rested(pid)?;
    let each = |bytes: f64| Some((bytes - before) / f64::from(size.partitions));
    let mut admin = Admin::connect(broker.address)?;
    admin.create_topic("many", size.partitions, &[])?;
    let created = rested(pid)?;
    let batch = Batch::encode(1, 100, Codec::None);
    for partition in 0..size.partitions {
        admin.produce("many", partition, &batch)?;
    }
    let written = rested(pid)?;
    Ok(MemoryReport {
        idle: Some(idle),
        per_partition: each(created),
        per_written_partition: each(written),
        per_connection,
    })
}

fn rested(pid: u32) -> Result<f64, LoadError> {
    std::thread::sleep(REST);
    let memory = watch::memory(pid).ok_or(LoadError::Malformed("no process to look at"))?;
    Ok(memory.anonymous_bytes as f64)
}

/// Kafka needs a formatted directory, so both brokers ran once before.
fn start_empty(places: &Places, peer: Peer, repetitions: usize) -> Result<f64, LoadError> {
    let mut seconds = Vec::new();
    for _ in 0..repetitions.max(1) {
        Broker::start_empty(places, peer)?.stop()?;
        machine::settle();
        let (broker, took) = launch_to_first_ack(places, peer, true)?;
        drop(broker);
        seconds.push(took);
    }
    Ok(median_of(seconds.into_iter()))
}

/// After a clean stop, and after a kill.
fn start_many(places: &Places, peer: Peer, partitions: u32) -> Result<(f64, f64), LoadError> {
    let broker = Broker::start_empty(places, peer)?;
    let mut admin = Admin::connect(broker.address)?;
    admin.create_topic("many", partitions, &[])?;
    admin.create_topic(FIRST, 1, &[])?;
    let batch = Batch::encode(1, 100, Codec::None);
    for partition in 0..partitions {
        admin.produce("many", partition, &batch)?;
    }
    broker.stop()?;
    machine::settle();
    let (broker, stopped) = launch_to_first_ack(places, peer, false)?;
    broker.kill()?;
    machine::settle();
    let (broker, killed) = launch_to_first_ack(places, peer, false)?;
    drop(broker);
    Ok((stopped, killed))
}

fn start_big(places: &Places, peer: Peer, log_bytes: u64) -> Result<f64, LoadError> {
    let broker = Broker::start_empty(places, peer)?;
    let mut admin = Admin::connect(broker.address)?;
    admin.create_topic("big", 6, &[])?;
    admin.create_topic(FIRST, 1, &[])?;
    let plan = Plan {
        broker: broker.address,
        door: Door::Kafka,
        topic: "big".into(),
        work: Work::Produce { acks: -1, partitions: Partitions::PerConnection(6) },
        batch: Batch::encode(1_000, 1_000, Codec::None),
        connections: 6,
        pace: Pace::Closed { in_flight: 5 },
        warm_up: Duration::ZERO,
        measure: START_MAX,
        bytes_max: Some(log_bytes),
    };
    engine::run(&plan, &mut |_| ())?;
    let last = Plan { bytes_max: None, measure: Duration::from_secs(3), ..plan };
    let load = std::thread::spawn(move || engine::run(&last, &mut |_| ()).map(|_| ()));
    std::thread::sleep(Duration::from_secs(1));
    broker.kill()?;
    // It fails, for its connections are gone.
    let _ = load.join();
    machine::settle();
    launch_to_first_ack(places, peer, false).map(|(_, seconds)| seconds)
}

fn launch_to_first_ack(
    places: &Places,
    peer: Peer,
    create: bool,
) -> Result<(Broker, f64), LoadError> {
    let launched = Instant::now();
    let mut broker = Broker::launch(places, peer)?;
    let mut noise = Noise(clock::now() | 1);
    let batch = Batch::encode(1, 1 + (noise.number() % 100) as usize, Codec::None);
    loop {
        match first_ack(&broker, &batch, create) {
            Ok(()) => break,
            Err(error) if broker.has_ended() || launched.elapsed() > START_MAX => {
                return Err(error);
            }
            Err(_) => std::thread::sleep(Duration::from_micros(500)),
        }
    }
    let seconds = match peer {
        Peer::Millrace => launched.elapsed().as_secs_f64(),
        // A script stands before it: count from when the process itself began.
        Peer::Kafka => {
            let started = broker.pid().and_then(watch::started_seconds);
            let started = started.ok_or(LoadError::Malformed("no process to look at"))?;
            clock::seconds(clock::since_boot()) - started
        }
    };
    Ok((broker, seconds))
}

fn first_ack(broker: &Broker, batch: &Batch, create: bool) -> Result<(), LoadError> {
    let mut admin = Admin::connect(broker.address)?;
    if create {
        // A topic that an attempt before made is there.
        match admin.create_topic(FIRST, 1, &[]) {
            Ok(()) | Err(LoadError::Refused { code: 36, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    admin.produce(FIRST, 0, batch).map(drop)
}
