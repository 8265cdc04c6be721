//! A topic for one run: made before it, filled when it is to be read, deleted behind it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::admin::Admin;
use crate::batch::Batch;
use crate::engine::{self, Door, Pace, Partitions, Plan, Work};
use crate::error::LoadError;

/// Bytes of one request when a topic is filled.
const FILL_IN_FLIGHT: usize = 8;

/// A topic that lives as long as its run.
#[derive(Debug)]
pub struct RunTopic {
    pub name: String,
    admin: Admin,
}

impl RunTopic {
    /// Makes a topic with a name that no other run has.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create(
        broker: SocketAddr,
        partitions: u32,
        configs: &[(String, String)],
    ) -> Result<Self, LoadError> {
        let name = format!("load-{:x}-{:x}", std::process::id(), crate::clock::now());
        let mut admin = Admin::connect(broker)?;
        admin.create_topic(&name, partitions, configs)?;
        Ok(Self { name, admin })
    }

    /// Writes the same number of batches to each partition, `bytes` in all at least.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn fill(
        &mut self,
        broker: SocketAddr,
        partitions: u32,
        batch: &Batch,
        bytes: u64,
    ) -> Result<(), LoadError> {
        let plan = Plan {
            broker,
            door: Door::Kafka,
            topic: self.name.clone(),
            work: Work::Produce { acks: -1, partitions: Partitions::PerConnection(partitions) },
            batch: batch.clone(),
            connections: partitions as usize,
            pace: Pace::Closed { in_flight: FILL_IN_FLIGHT },
            warm_up: Duration::ZERO,
            measure: Duration::from_secs(600),
            bytes_max: Some(bytes),
        };
        let tally = engine::run(&plan, &mut |_| ())?;
        match tally.error_code {
            Some(code) => Err(LoadError::Refused { request: "filling the topic", code }),
            None => Ok(()),
        }
    }

    /// Writes two batches to each partition, so that none makes a file while it is measured: Kafka makes a partition's
    /// indexes with the second.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn touch(&mut self, partitions: u32, batch: &Batch) -> Result<(), LoadError> {
        let mut each = (0..partitions).chain(0..partitions);
        each.try_for_each(|at| self.admin.produce(&self.name, at, batch).map(drop))
    }

    /// # Errors
    /// When the broker refuses.
    pub fn delete(mut self) -> Result<(), LoadError> {
        self.admin.delete_topic(&self.name)
    }
}
