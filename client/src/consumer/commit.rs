//! Commits of a group's member: by themselves, by hand, and the last one.

use std::future::poll_fn;
use std::task::{Context, Poll};

use millrace_proto::v1;
use millrace_proto::v1::consume_request::Request;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::consumer::Consumer;
use crate::consumer::link::Link;
use crate::consumer::partition::Partition;
use crate::{CommitOffset, Error, TopicPartition};

/// A commit that was sent.
pub(super) struct Commit {
    offsets: Vec<CommitOffset>,
    /// Somebody waits for the answer and takes it away.
    is_awaited: bool,
    answer: Option<Result<(), Error>>,
}

impl Consumer {
    pub(super) fn handle_committed(&mut self, committed: v1::StreamCommitted) {
        let Some(commit) = self.commits.get_mut(&committed.request_id) else { return };
        let mut answer = Ok(());
        for result in committed.results {
            let key = TopicPartition::new(result.topic, result.partition);
            let done = Error::of_item(result.status);
            let mut offsets = commit.offsets.iter();
            let asked = offsets.find(|it| it.topic == key.topic && it.partition == key.partition);
            if let (Some(asked), Some(partition)) = (asked, self.partitions.get_mut(&key)) {
                partition.committed(asked.offset, done.is_ok());
            }
            answer = answer.and(done);
        }
        if commit.is_awaited {
            commit.answer = Some(answer);
            return;
        }
        self.commits.remove(&committed.request_id);
        if let Err(error) = answer {
            warn!(group = self.settings.group, %error, "offsets not committed, tried again later");
        }
    }

    /// The stream broke: there is nobody to answer commits.
    pub(super) fn drop_commits(&mut self, error: &Error) {
        for commit in self.commits.values_mut() {
            commit.answer.get_or_insert(Err(error.clone()));
        }
        self.commits.retain(|_, it| it.is_awaited);
        self.partitions.values_mut().for_each(Partition::commits_lost);
    }

    pub(super) fn poll_commit_timer(&mut self, context: &mut Context<'_>) {
        let interval = self.settings.commit_interval;
        let Some(timer) = &mut self.commit_timer else { return };
        let mut is_due = false;
        while timer.as_mut().poll(context).is_ready() {
            timer.as_mut().reset(Instant::now() + interval);
            is_due = true;
        }
        if is_due {
            self.commit_in_passing();
        }
    }

    /// Commits what is done, and leaves it to the stream to tell how that went.
    pub(super) fn commit_in_passing(&mut self) -> Option<u64> {
        let offsets = self.done();
        let has_any = self.settings.group.is_some() && !offsets.is_empty();
        if has_any { self.send_commit(offsets, false) } else { None }
    }

    /// When it is dropped.
    pub(super) fn commit_what_is_done(&mut self) -> Option<u64> {
        if let Some((key, offset)) = self.last.take()
            && let Some(partition) = self.partitions.get_mut(&*key)
        {
            partition.next = offset;
        }
        if self.settings.auto_commit { self.commit_in_passing() } else { None }
    }

    fn done(&self) -> Vec<CommitOffset> {
        let one = |(key, partition): (&TopicPartition, &Partition)| {
            let offset = partition.to_commit()?;
            Some(CommitOffset::new(key.topic.clone(), key.partition, offset))
        };
        self.partitions.iter().filter_map(one).collect()
    }

    fn send_commit(&mut self, offsets: Vec<CommitOffset>, is_awaited: bool) -> Option<u64> {
        let Link::Up(up) = &self.link else { return None };
        if self.is_resuming {
            return None;
        }
        let request_id = self.next_commit;
        self.next_commit += 1;
        let listed = offsets.iter().map(CommitOffset::to_proto).collect();
        up.send(Request::Commit(v1::StreamCommit { offsets: listed, request_id }));
        for it in &offsets {
            let key = TopicPartition::new(it.topic.clone(), it.partition);
            if let Some(partition) = self.partitions.get_mut(&key) {
                partition.commit_asked(it.offset);
            }
        }
        self.commits.insert(request_id, Commit { offsets, is_awaited, answer: None });
        Some(request_id)
    }

    /// Commits these offsets, or what was handed out, again and again while the broker is away and the time of a call
    /// lasts.
    pub(super) async fn commit_until_answered(
        &mut self,
        offsets: Option<&[CommitOffset]>,
    ) -> Result<(), Error> {
        if self.settings.group.is_none() {
            return Err(Error::misuse("partitions are read without a group: nothing to commit to"));
        }
        let waited = self.client.call_timeout();
        match timeout(waited, self.commit_until_done(offsets)).await {
            Ok(done) => done,
            Err(_) => Err(Error::Timeout { waited, last: String::new() }),
        }
    }

    async fn commit_until_done(&mut self, offsets: Option<&[CommitOffset]>) -> Result<(), Error> {
        // Nobody waits for those any more who stopped waiting.
        self.commits.retain(|_, it| !it.is_awaited);
        let mut backoff = self.client.backoff();
        // Without anything to commit there is no need to wait for a broker that is away.
        while offsets.is_some() || !self.handed_out().is_empty() {
            poll_fn(|context| self.poll_until_ready(context)).await?;
            let offsets = match offsets {
                Some(offsets) => self.checked(offsets)?,
                None => self.handed_out(),
            };
            if offsets.is_empty() {
                return Ok(());
            }
            let Some(request_id) = self.send_commit(offsets, true) else { continue };
            let answered = poll_fn(|context| self.poll_commit(context, request_id)).await;
            match answered {
                Err(error) if error.is_retriable() => debug!(%error, "commit tried again"),
                answered => return answered,
            }
            sleep(backoff.pause()).await;
        }
        Ok(())
    }

    /// All that was handed out, also where a commit of it is under way.
    fn handed_out(&self) -> Vec<CommitOffset> {
        let open = self.partitions.iter().filter(|(_, it)| it.is_uncommitted());
        open.map(|(key, it)| CommitOffset::new(key.topic.clone(), key.partition, it.next)).collect()
    }

    fn checked(&self, offsets: &[CommitOffset]) -> Result<Vec<CommitOffset>, Error> {
        for it in offsets {
            let key = TopicPartition::new(it.topic.clone(), it.partition);
            if !self.partitions.contains_key(&key) {
                return Err(Error::misuse(format!("{key} is not assigned to this consumer")));
            }
        }
        Ok(offsets.to_vec())
    }

    /// Ready once the stream is open and the broker has said what is read.
    fn poll_until_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Err(error) = self.poll_stream(context) {
            return Poll::Ready(Err(self.fail(error)));
        }
        let is_ready = matches!(self.link, Link::Up(_)) && !self.is_resuming;
        if is_ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_commit(&mut self, context: &mut Context<'_>, id: u64) -> Poll<Result<(), Error>> {
        if let Err(error) = self.poll_stream(context) {
            return Poll::Ready(Err(self.fail(error)));
        }
        let is_answered = self.commits.get(&id).is_none_or(|it| it.answer.is_some());
        if !is_answered {
            return Poll::Pending;
        }
        let answer = self.commits.remove(&id).and_then(|it| it.answer);
        Poll::Ready(answer.unwrap_or_else(|| Err(Error::Lost { reason: "the stream".to_owned() })))
    }

    /// The stream ended for good while something else was waited for: whoever asks for a record learns it too.
    fn fail(&mut self, error: Error) -> Error {
        self.failed = Some(error.clone());
        error
    }
}
