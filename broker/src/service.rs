//! The hall: what every operation means, in no protocol's words. Both doors call it; it calls the owners.
//!
//! One file per operation. Requests and replies here know neither Kafka nor protobuf; doors translate them, kernel
//! types never leave through a door.

pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod producers;
pub(crate) mod topics;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::controller::ControllerHandle;
use crate::metrics::Metrics;
use crate::partition::clock::Clock;
use crate::partition::registry::Registry;

/// Everything that an operation may reach.
pub(crate) struct Hall {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) controller: ControllerHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) producer_ids: producers::ProducerIds,
    /// Bytes of large requests that the whole node may hold at once, in units of [`BUDGET_UNIT`].
    budget: Arc<Semaphore>,
}

/// Granularity of the byte budget; a semaphore counts in `u32`.
const BUDGET_UNIT: usize = 1024;

impl Hall {
    pub(crate) fn new(
        config: Config,
        registry: Arc<Registry>,
        controller: ControllerHandle,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        let units = config.queued_max_request_bytes.div_ceil(BUDGET_UNIT).max(1);
        Self {
            config,
            registry,
            controller,
            metrics,
            clock,
            producer_ids: producers::ProducerIds::default(),
            budget: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Waits until the node may hold `bytes` more of requests.
    pub(crate) async fn reserve_bytes(&self, bytes: usize) -> OwnedSemaphorePermit {
        let all = self.config.queued_max_request_bytes.div_ceil(BUDGET_UNIT).max(1);
        let units = bytes.div_ceil(BUDGET_UNIT).clamp(1, all);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.budget)
            .acquire_many_owned(units)
            .await
            .expect("the budget is never closed")
    }
}
