//! Streams of what changes: topics, and the lag of a group.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use millrace_proto::v1;

use crate::Error;
use crate::admin::topics::summaries;
use crate::admin::{Admin, PartitionLag, TopicSummary};

/// How far a group is at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupLag {
    /// Empty, PreparingRebalance, CompletingRebalance, Stable.
    pub state: String,
    pub partitions: Vec<PartitionLag>,
}

/// What is watched, one picture after the other, the first at once. It ends with an error when the connection breaks: the
/// caller decides whether to watch again.
#[must_use = "it does nothing unless its pictures are taken"]
pub struct Watch<T> {
    pictures: Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>,
}

impl<T> Watch<T> {
    /// Waits for the next picture.
    ///
    /// # Errors
    /// The connection broke, or what is watched is gone.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        self.pictures.next().await.transpose()
    }
}

impl<T> Stream for Watch<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pictures.poll_next_unpin(context)
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Admin {
    /// All topics, and again each time one is created, deleted or changed.
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub async fn watch_topics(
        &self,
        include_internal: bool,
    ) -> Result<Watch<Vec<TopicSummary>>, Error> {
        let request = v1::WatchTopicsRequest { include_internal };
        let pictures = self.door().watch_topics(request).await?.into_inner();
        let pictures = pictures.map(|it| it.map(summaries).map_err(Error::from));
        Ok(Watch { pictures: Box::pin(pictures) })
    }

    /// A group's lag, at once and then each interval, of which 100 ms is the shortest.
    ///
    /// # Errors
    /// The broker cannot be asked, or there is no such group.
    pub async fn watch_lag(
        &self,
        group: &str,
        interval: Duration,
    ) -> Result<Watch<GroupLag>, Error> {
        let interval_ms = i32::try_from(interval.as_millis()).unwrap_or(i32::MAX);
        let request = v1::WatchLagRequest { group: group.to_owned(), interval_ms };
        let pictures = self.door().watch_lag(request).await?.into_inner();
        let picture = |it: v1::WatchLagResponse| GroupLag {
            state: it.state,
            partitions: it.partitions.into_iter().map(PartitionLag::from).collect(),
        };
        let pictures = pictures.map(move |it| it.map(picture).map_err(Error::from));
        Ok(Watch { pictures: Box::pin(pictures) })
    }
}
