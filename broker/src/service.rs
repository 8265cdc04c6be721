//! The hall: what every operation means, in no protocol's words. Both doors call it; it calls the owners.
//!
//! One file per operation. Requests and replies here know neither Kafka nor protobuf; doors translate them, kernel
//! types never leave through a door.

pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod fetch;
pub(crate) mod group_offsets;
pub(crate) mod groups;
pub(crate) mod lag;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod producers;
pub(crate) mod survey;
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

    /// Takes `bytes` more of requests into account if the node may hold them now.
    pub(crate) fn try_reserve_bytes(&self, bytes: usize) -> Option<HeldBytes> {
        let units = u32::try_from(self.units(bytes)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(units).ok()?;
        Some(HeldBytes::new(permit, bytes, &self.metrics))
    }

    /// What `bytes` cost of the budget; never more than all of it, so that one request can always pass.
    fn units(&self, bytes: usize) -> usize {
        let all = self.config.queued_max_request_bytes.div_ceil(BUDGET_UNIT).max(1);
        bytes.div_ceil(BUDGET_UNIT).clamp(1, all)
    }

    /// Waits until the node may hold `bytes` more of requests.
    pub(crate) async fn reserve_bytes(&self, bytes: usize) -> HeldBytes {
        let units = u32::try_from(self.units(bytes)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget).acquire_many_owned(units).await;
        let permit = permit.expect("the budget is never closed");
        HeldBytes::new(permit, bytes, &self.metrics)
    }
}

/// Bytes of a request that count in the node's budget until this is dropped.
pub(crate) struct HeldBytes {
    /// `None` once it was merged into another.
    permit: Option<OwnedSemaphorePermit>,
    bytes: i64,
    metrics: Arc<Metrics>,
}

impl HeldBytes {
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0)
    }

    /// Takes `more` in: both are given back together.
    pub(crate) fn merge(&mut self, mut more: Self) {
        if let (Some(mine), Some(others)) = (&mut self.permit, more.permit.take()) {
            mine.merge(others);
        }
        self.bytes += std::mem::take(&mut more.bytes);
    }

    fn new(permit: OwnedSemaphorePermit, bytes: usize, metrics: &Arc<Metrics>) -> Self {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.request_bytes_held(bytes);
        Self { permit: Some(permit), bytes, metrics: Arc::clone(metrics) }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.metrics.request_bytes_held(-self.bytes);
    }
}
