//! Receiving: records of partitions, alone or as a member of a group.
//!
//! A consumer is driven by those who ask it for records: while nobody asks, the broker sends what credit allows and no
//! more, and nothing is committed or let go. So a record that is in work is never handed to another member meanwhile,
//! unless its owner is slower than `rebalance_timeout`. There is one owner of all state and no task behind it; `flow.rs`
//! is what happens with the stream, `commit.rs` commits, this file is what applications see.

mod builder;
mod commit;
mod flow;
mod link;
mod partition;
mod unpack;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use millrace_proto::v1;
use millrace_proto::v1::consume_request::Request;
use tokio::time::{Instant, Sleep, timeout};

pub use builder::ConsumerBuilder;

use crate::consumer::builder::Settings;
use crate::consumer::commit::Commit;
use crate::consumer::link::Link;
use crate::consumer::partition::Partition;
use crate::consumer::unpack::Answer;
use crate::retry::Backoff;
use crate::{Client, CommitOffset, Error, ReceivedRecord, StartAt, TopicPartition};

/// How long the last commit of a consumer that was dropped may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Receives records: one after the other by [`Self::next`], or as a [`Stream`].
///
/// A broken connection is made again, and reading goes on behind the last record. Dropping a group's member leaves the
/// group, with a last commit of what was done; [`Self::close`] waits for that, and counts the last record as done.
pub struct Consumer {
    client: Client,
    settings: Settings,
    link: Link,
    backoff: Backoff,
    /// Since when the stream is broken.
    broken_since: Option<Instant>,
    /// The stream was opened, and the broker has not said yet where it begins.
    is_resuming: bool,
    /// The broker has said what is read, once.
    is_assigned: bool,
    /// As which member the group knows it: a stream that breaks is followed by one of the same member.
    member_id: Option<String>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// What has come and is not handed out, in order.
    answers: VecDeque<Answer>,
    /// The one whose records are being handed out.
    open: Option<Answer>,
    /// Changes of the assignment that nobody has seen yet.
    changes: VecDeque<Rebalance>,
    /// What was revoked, as the application knows: it is let go when the next record is asked for.
    releasing: Option<Vec<TopicPartition>>,
    /// Credit of what was handed out, to be given back.
    freed_bytes: i64,
    commits: HashMap<u64, Commit>,
    next_commit: u64,
    commit_timer: Option<Pin<Box<Sleep>>>,
    /// The record that was handed out last.
    last: Option<(Arc<TopicPartition>, i64)>,
    /// Records handed out since the stream was looked at.
    since_look: u32,
    /// An error that was not told yet ends it.
    failed: Option<Error>,
    is_ended: bool,
}

/// What happens to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    Record(ReceivedRecord),
    Rebalance(Rebalance),
}

/// A change of what a consumer reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rebalance {
    /// These partitions are read from now on, and no others.
    Assigned(Vec<TopicPartition>),
    /// These partitions are taken away. They are let go when the next event is asked for: until then they may be
    /// committed.
    Revoked(Vec<TopicPartition>),
    /// These partitions were taken away already: others may have begun where the group had committed.
    Lost(Vec<TopicPartition>),
}

impl Consumer {
    /// Waits for the next record. By asking, the application says that it is done with those before. `None` after an
    /// error that ended it.
    ///
    /// Whoever stops waiting loses nothing.
    ///
    /// # Errors
    /// One that trying again does not mend; it ends the consumer.
    pub async fn next(&mut self) -> Result<Option<ReceivedRecord>, Error> {
        poll_fn(|context| self.poll_record(context)).await.transpose()
    }

    /// Waits for the next record or change of the assignment: for those who want to commit, or to clean up, before a
    /// partition is let go. Otherwise as [`Self::next`].
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        poll_fn(|context| self.poll_event(context)).await.transpose()
    }

    /// Commits all that was handed out, for the group, and waits until that is durable.
    ///
    /// # Errors
    /// The consumer has no group, the broker refuses, or is away for longer than the client's `call_timeout`.
    pub async fn commit(&mut self) -> Result<(), Error> {
        self.commit_until_answered(None).await
    }

    /// Commits these offsets, each the one behind the last record that is done with: [`CommitOffset::after`].
    ///
    /// # Errors
    /// As [`Self::commit`], and when a partition is not assigned.
    pub async fn commit_offsets(&mut self, offsets: &[CommitOffset]) -> Result<(), Error> {
        self.commit_until_answered(Some(offsets)).await
    }

    /// Goes on elsewhere in a partition; what came of it and was not handed out is let go.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub async fn seek(&mut self, partition: &TopicPartition, to: StartAt) -> Result<(), Error> {
        self.assigned(partition)?;
        self.discard(partition);
        self.seek_stream(partition, to);
        Ok(())
    }

    /// Hands out no records of these partitions until they are resumed. They stay assigned; what has come of them is let
    /// go, and comes again.
    ///
    /// # Errors
    /// A partition is not assigned.
    pub fn pause(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        for key in partitions {
            self.assigned(key)?.is_paused = true;
            self.discard(key);
        }
        self.tell_stream(Request::Pause(listed(partitions)));
        Ok(())
    }

    /// Goes on with partitions that were paused.
    ///
    /// # Errors
    /// A partition is not assigned.
    pub fn resume(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        for key in partitions {
            let partition = self.assigned(key)?;
            partition.is_paused = false;
            if partition.has_dropped {
                let next = StartAt::Offset(partition.next);
                self.seek_stream(key, next);
            }
        }
        self.tell_stream(Request::Resume(listed(partitions)));
        Ok(())
    }

    /// The partitions that it reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        let held = self.partitions.iter().filter(|(_, it)| !it.is_revoked);
        held.map(|(key, _)| key.clone()).collect()
    }

    /// The offset behind the last record that was handed out of a partition, and what [`Self::commit`] commits.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.partitions.get(partition).map(|it| it.next)
    }

    /// How many records each partition holds beyond those that were handed out, as far as the broker has said.
    pub fn lag(&self) -> BTreeMap<TopicPartition, i64> {
        let lag = |it: &Partition| it.high_watermark.map(|end| (end - it.next).max(0));
        let known = self.partitions.iter().filter_map(|(key, it)| Some((key.clone(), lag(it)?)));
        known.collect()
    }

    /// Commits what was handed out, if it commits by itself, leaves the group and ends.
    ///
    /// # Errors
    /// The last commit failed, or the broker is away for longer than the client's `call_timeout`.
    pub async fn close(mut self) -> Result<(), Error> {
        self.is_ended = true;
        let does_commit = self.settings.auto_commit && self.settings.group.is_some();
        if does_commit { self.commit().await } else { Ok(()) }
    }

    fn assigned(&mut self, key: &TopicPartition) -> Result<&mut Partition, Error> {
        let found = self.partitions.get_mut(key).filter(|it| !it.is_revoked);
        found.ok_or_else(|| Error::misuse(format!("{key} is not assigned to this consumer")))
    }
}

impl Stream for Consumer {
    type Item = Result<ReceivedRecord, Error>;

    /// As [`Consumer::next`]: asking for a record says that those before are done with, so combinators that keep several
    /// in work go with [`ConsumerBuilder::auto_commit`] switched off.
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(context)
    }
}

impl Drop for Consumer {
    /// Leaves, with a last commit. The record that was handed out last does not count as done: nobody has said so.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.is_ended
            && let Some(commit) = self.commit_what_is_done()
            && let Link::Up(up) = std::mem::replace(&mut self.link, Link::Gone)
        {
            runtime.spawn(async move { timeout(LEAVE_TIMEOUT, up.leave_after(commit)).await });
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.settings.group)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

fn listed(partitions: &[TopicPartition]) -> v1::Partitions {
    v1::Partitions { partitions: partitions.iter().map(TopicPartition::to_proto).collect() }
}

#[cfg(test)]
mod tests;
