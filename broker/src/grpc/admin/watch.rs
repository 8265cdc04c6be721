//! What is watched: all topics as they change, a group's lag as time passes.
//!
//! Both streams are pulled: the next picture is taken when the transport has room for it, so a slow watcher skips
//! pictures and holds nothing here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use millrace_kernel::metadata::image::{Delta, Image};
use millrace_model::ids::{GroupId, TopicName};
use millrace_proto::v1::{
    ListTopicsResponse, WatchLagRequest, WatchLagResponse, WatchTopicsRequest,
};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::Status;

use crate::error::BrokerError;
use crate::grpc::admin::{Answers, groups, topics};
use crate::grpc::errors;
use crate::service::{Hall, cluster};
use crate::shutdown::Shutdown;

/// Between two pictures of a group's lag, unless the client says otherwise; and at least.
const LAG_INTERVAL_MS_DEFAULT: i32 = 1000;
const LAG_INTERVAL_MS_MIN: i32 = 100;

/// What makes one picture after the other.
trait Watcher: Send + 'static {
    type Answer;

    fn hall(&self) -> &Arc<Hall>;

    /// Waits until there is another picture to show.
    fn advance(&mut self) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

/// The pictures as a stream. An error ends it: what would go on is given up.
fn pulled<W: Watcher>(watcher: W) -> Answers<W::Answer> {
    Box::pin(stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        let hall = Arc::clone(watcher.hall());
        match errors::guarded(&hall, watcher.advance()).await {
            Ok(answer) => Some((Ok(answer), Some(watcher))),
            Err(status) => Some((Err(status), None)),
        }
    }))
}

/// The picture of all topics at once and after each change.
pub(super) fn topics(
    hall: Arc<Hall>,
    shutdown: Shutdown,
    request: &WatchTopicsRequest,
) -> Answers<ListTopicsResponse> {
    let published = hall.controller.published();
    let include_internal = request.include_internal;
    let watcher = TopicsWatcher { hall, shutdown, published, include_internal, shown: None };
    pulled(watcher)
}

struct TopicsWatcher {
    hall: Arc<Hall>,
    shutdown: Shutdown,
    published: watch::Receiver<u64>,
    include_internal: bool,
    /// What the client knows.
    shown: Option<Arc<Image>>,
}

impl Watcher for TopicsWatcher {
    type Answer = ListTopicsResponse;

    fn hall(&self) -> &Arc<Hall> {
        &self.hall
    }

    async fn advance(&mut self) -> Result<ListTopicsResponse, Status> {
        loop {
            // Marked before looking: an image that comes in between wakes us.
            self.published.borrow_and_update();
            let image = cluster::image(&self.hall);
            let differs = self
                .shown
                .as_ref()
                .is_none_or(|shown| touches(&image.diff(shown), self.include_internal));
            if differs {
                let answer = topics::summaries(&image, self.include_internal);
                self.shown = Some(image);
                return Ok(answer);
            }
            tokio::select! {
                changed = self.published.changed() => changed.map_err(|_| stopping())?,
                () = self.shutdown.requested() => return Err(stopping()),
            }
        }
    }
}

/// Is anything of a topic different that the client may see?
fn touches(delta: &Delta, include_internal: bool) -> bool {
    let is_shown = |name: &TopicName| include_internal || !name.is_internal();
    delta.created.iter().chain(&delta.deleted).any(|it| is_shown(&it.name))
        || delta.changed.iter().any(|it| is_shown(&it.topic.name))
}

/// A group's lag at once and then each interval.
pub(super) async fn lag(
    hall: Arc<Hall>,
    shutdown: Shutdown,
    request: WatchLagRequest,
) -> Result<Answers<WatchLagResponse>, Status> {
    let period = period(request.interval_ms)?;
    let group = GroupId::new(&request.group);
    let first = lag_of(&hall, &group).await?;
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = LagWatcher { hall, shutdown, group, ticks, first: Some(first) };
    Ok(pulled(watcher))
}

fn period(interval_ms: i32) -> Result<Duration, Status> {
    let interval_ms = if interval_ms == 0 { LAG_INTERVAL_MS_DEFAULT } else { interval_ms };
    if interval_ms < LAG_INTERVAL_MS_MIN {
        let least = format!("it is less than {LAG_INTERVAL_MS_MIN}");
        return Err(errors::invalid("interval_ms", &least));
    }
    Ok(Duration::from_millis(interval_ms.unsigned_abs().into()))
}

struct LagWatcher {
    hall: Arc<Hall>,
    shutdown: Shutdown,
    group: GroupId,
    ticks: Interval,
    /// Taken before the stream began, so that a group that does not exist is the call's error.
    first: Option<WatchLagResponse>,
}

impl Watcher for LagWatcher {
    type Answer = WatchLagResponse;

    fn hall(&self) -> &Arc<Hall> {
        &self.hall
    }

    async fn advance(&mut self) -> Result<WatchLagResponse, Status> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        tokio::select! {
            _ = self.ticks.tick() => {}
            () = self.shutdown.requested() => return Err(stopping()),
        }
        lag_of(&self.hall, &self.group).await
    }
}

async fn lag_of(hall: &Hall, group: &GroupId) -> Result<WatchLagResponse, Status> {
    let found = groups::of_group(hall, group).await?;
    let partitions = found.partitions.into_iter().map(groups::partition_lag).collect();
    Ok(WatchLagResponse { partitions, state: found.description.state.as_str().to_owned() })
}

fn stopping() -> Status {
    errors::status(&BrokerError::ShuttingDown)
}
