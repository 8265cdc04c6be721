//! Fetch: read what each partition may show, wait until it is enough, answer with ranges of segments.

use std::sync::Arc;
use std::time::Duration;

use millrace_model::offset::{LeaderEpoch, Offset};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::BrokerError;
use crate::partition::handle::PartitionHandle;
use crate::partition::pager;
use crate::partition::reader::{self, Collected};
use crate::service::Hall;

/// What a consumer wants, from any door.
pub(crate) struct Request {
    pub(crate) max_wait: Duration,
    pub(crate) min_bytes: u64,
    pub(crate) max_bytes: u64,
    pub(crate) parts: Vec<Part>,
}

/// One partition's share of a request.
pub(crate) struct Part {
    /// The partition, or why there is none.
    pub(crate) partition: Result<PartitionHandle, BrokerError>,
    pub(crate) offset: Offset,
    pub(crate) max_bytes: u64,
    /// The epoch that the client believes in, if it says.
    pub(crate) current_leader_epoch: Option<LeaderEpoch>,
}

/// Reads until `min_bytes` are there, an error shows, or `max_wait` is over (KIP-74 rules for the limits).
pub(crate) async fn fetch(hall: &Hall, request: &Request) -> Vec<Result<Collected, BrokerError>> {
    let deadline = Instant::now() + request.max_wait;
    let answers = wait_for_enough(request, deadline).await;
    count(hall, request, &answers);
    pager::make_resident(answers).await
}

fn count(hall: &Hall, request: &Request, answers: &[Result<Collected, BrokerError>]) {
    let mut sum = 0;
    for (part, answer) in request.parts.iter().zip(answers) {
        if let (Ok(partition), Ok(collected)) = (&part.partition, answer) {
            let bytes = collected.bytes();
            if bytes > 0 {
                partition.traffic().fetched(collected.offsets, bytes);
                sum += bytes;
            }
        }
    }
    hall.metrics.fetched(sum);
}

async fn wait_for_enough(
    request: &Request,
    deadline: Instant,
) -> Vec<Result<Collected, BrokerError>> {
    let mut answers = collect(request);
    if is_enough(request, &answers) || request.max_wait.is_zero() {
        return answers;
    }
    let watch = Watch::new(&request.parts);
    loop {
        // Registered before looking: a mark that moves in between wakes us.
        watch.register();
        answers = collect(request);
        if is_enough(request, &answers) {
            return answers;
        }
        let woken = tokio::time::timeout_at(deadline, watch.waiter.notified()).await;
        watch.unregister();
        if woken.is_err() {
            return collect(request);
        }
    }
}

fn is_enough(request: &Request, answers: &[Result<Collected, BrokerError>]) -> bool {
    let mut bytes = 0;
    for answer in answers {
        match answer {
            Ok(collected) => bytes += collected.bytes(),
            Err(_) => return true,
        }
    }
    bytes >= request.min_bytes || answers.is_empty()
}

fn collect(request: &Request) -> Vec<Result<Collected, BrokerError>> {
    let mut room = request.max_bytes;
    let mut found_any = false;
    let mut answers = Vec::with_capacity(request.parts.len());
    for part in &request.parts {
        let answer = part.partition.clone().and_then(|partition| {
            let max_bytes = part.max_bytes.min(room);
            // The first batch of the first partition with data comes whole, however large (KIP-74).
            reader::collect(
                &partition,
                part.offset,
                part.current_leader_epoch,
                max_bytes,
                !found_any,
            )
        });
        if let Ok(collected) = &answer {
            found_any |= collected.bytes() > 0;
            room = room.saturating_sub(collected.bytes());
        }
        answers.push(answer);
    }
    answers
}

/// One waiter on several partitions; taken back when dropped, also by a client that goes away.
struct Watch<'a> {
    parts: &'a [Part],
    waiter: Arc<Notify>,
}

impl<'a> Watch<'a> {
    fn new(parts: &'a [Part]) -> Self {
        Self { parts, waiter: Arc::new(Notify::new()) }
    }

    fn partitions(&self) -> impl Iterator<Item = &PartitionHandle> {
        self.parts.iter().filter_map(|part| part.partition.as_ref().ok())
    }

    fn register(&self) {
        self.partitions().for_each(|partition| partition.watch(&self.waiter));
    }

    fn unregister(&self) {
        self.partitions().for_each(|partition| partition.unwatch(&self.waiter));
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.unregister();
    }
}
