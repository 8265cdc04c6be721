//! What happens with a consumer's stream: it is opened, answers come and are handed out, it breaks and is opened again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use millrace_model::batch::BatchHeader;
use millrace_proto::v1;
use millrace_proto::v1::consume_request::Request;
use millrace_proto::v1::consume_response::Response;
use millrace_proto::v1::start::Source;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::consumer::builder::Settings;
use crate::consumer::link::{self, Link};
use crate::consumer::partition::{Partition, Resumed};
use crate::consumer::unpack::Answer;
use crate::consumer::{Consumer, Event, Rebalance, listed};
use crate::{Client, Error, ReceivedRecord, StartAt, TopicPartition};

/// The stream is looked at after so many records, for what is not a record.
const RECORDS_BETWEEN_LOOKS: u32 = 256;
/// Credit goes back once it is this part of all.
const CREDIT_PARTS: i64 = 4;
/// A member that the group has forgotten joins again.
const REJOIN_REASONS: [&str; 4] =
    ["UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "MEMBER_ID_REQUIRED"];

impl Consumer {
    pub(super) async fn open(client: Client, settings: Settings) -> Result<Self, Error> {
        let does_commit = settings.auto_commit && settings.group.is_some();
        let mut consumer = Self {
            backoff: client.backoff(),
            link: Link::Gone,
            broken_since: None,
            is_resuming: true,
            is_assigned: false,
            member_id: None,
            partitions: BTreeMap::new(),
            answers: VecDeque::new(),
            open: None,
            changes: VecDeque::new(),
            releasing: None,
            freed_bytes: 0,
            commits: HashMap::new(),
            next_commit: 0,
            commit_timer: does_commit.then(|| Box::pin(sleep(settings.commit_interval))),
            last: None,
            since_look: RECORDS_BETWEEN_LOOKS,
            failed: None,
            is_ended: false,
            client,
            settings,
        };
        let (client, start) = (consumer.client.clone(), consumer.start());
        let open = || link::open(client.clone(), start.clone());
        consumer.link = Link::Up(Box::new(client.ask(open).await?));
        if consumer.settings.group.is_none() {
            let waited = consumer.client.call_timeout();
            let begun = poll_fn(|context| consumer.poll_until_assigned(context));
            let begun = timeout(waited, begun).await;
            begun.map_err(|_| Error::Timeout { waited, last: String::new() })??;
        }
        Ok(consumer)
    }

    // ---- Handing out ----

    pub(super) fn poll_record(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ReceivedRecord, Error>>> {
        loop {
            return match std::task::ready!(self.poll_event(context)) {
                Some(Ok(Event::Record(record))) => Poll::Ready(Some(Ok(record))),
                Some(Ok(Event::Rebalance(_))) => continue,
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
                None => Poll::Ready(None),
            };
        }
    }

    pub(super) fn poll_event(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Event, Error>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        // Whoever asks has seen what was handed out before.
        self.last = None;
        self.release();
        match self.next_or_error(context) {
            Ok(Some(event)) => Poll::Ready(Some(Ok(event))),
            Ok(None) => Poll::Pending,
            Err(error) => {
                self.is_ended = true;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    /// `None`: nothing is there, and whoever asks is woken when that changes.
    fn next_or_error(&mut self, context: &mut Context<'_>) -> Result<Option<Event>, Error> {
        loop {
            let has_looked = self.since_look >= RECORDS_BETWEEN_LOOKS;
            if has_looked {
                self.since_look = 0;
                self.poll_stream(context)?;
                self.poll_commit_timer(context);
            }
            if let Some(change) = self.changes.pop_front() {
                return Ok(Some(Event::Rebalance(self.tell(change))));
            }
            if let Some(record) = self.next_record()? {
                self.since_look += 1;
                return Ok(Some(Event::Record(record)));
            }
            if has_looked {
                self.since_look = RECORDS_BETWEEN_LOOKS;
                self.return_credit(1);
                return Ok(None);
            }
            self.since_look = RECORDS_BETWEEN_LOOKS;
        }
    }

    /// The application is about to learn of a change.
    fn tell(&mut self, change: Rebalance) -> Rebalance {
        if let Some(hook) = &self.settings.on_rebalance {
            hook(&change);
        }
        if let Rebalance::Revoked(revoked) = &change {
            self.releasing = Some(revoked.clone());
        }
        change
    }

    /// What was revoked is let go: the application knows, and had the time to commit.
    fn release(&mut self) {
        let Some(revoked) = self.releasing.take() else { return };
        if self.settings.auto_commit {
            self.commit_in_passing();
        }
        for key in &revoked {
            self.partitions.remove(key);
        }
        self.send(Request::Released(v1::Released {}));
    }

    fn next_record(&mut self) -> Result<Option<ReceivedRecord>, Error> {
        loop {
            if self.open.is_none() {
                self.open = self.answers.pop_front();
            }
            let Some(answer) = &mut self.open else { return Ok(None) };
            let known = self.partitions.get_mut(&*answer.key);
            let partition = known.expect("answers go with their partition");
            if let Some(record) = answer.next(partition.next)? {
                partition.next = record.offset + 1;
                self.last = Some((Arc::clone(&answer.key), record.offset));
                return Ok(Some(record));
            }
            partition.next = partition.next.max(answer.next_offset);
            self.freed_bytes += answer.credit_bytes;
            self.open = None;
            let all = self.settings.buffer_bytes as i64;
            self.return_credit((all / CREDIT_PARTS).max(1));
        }
    }

    fn return_credit(&mut self, at_least: i64) {
        if self.freed_bytes >= at_least && matches!(self.link, Link::Up(_)) {
            let freed = std::mem::take(&mut self.freed_bytes);
            self.send(Request::CreditBytes(freed));
        }
    }

    /// Lets go of what has come of a partition and was not handed out.
    pub(super) fn discard(&mut self, key: &TopicPartition) {
        let mut freed = 0;
        let mut is_other = |answer: &Answer| {
            let is_other = *answer.key != *key;
            freed += if is_other { 0 } else { answer.credit_bytes };
            is_other
        };
        self.answers.retain(&mut is_other);
        self.open = self.open.take().filter(is_other);
        self.freed_bytes += freed;
        if let Some(partition) = self.partitions.get_mut(key)
            && partition.wire != StartAt::Offset(partition.next)
            && partition.seeks == 0
        {
            partition.dropped();
        }
    }

    pub(super) fn send(&mut self, request: Request) {
        if let Link::Up(up) = &self.link {
            up.send(request);
        }
    }

    pub(super) fn seek_stream(&mut self, key: &TopicPartition, to: StartAt) {
        let Some(partition) = self.partitions.get_mut(key) else { return };
        partition.seek(to);
        self.tell_stream(Request::Seek(seek(key, to)));
    }

    /// Sends what concerns partitions that the stream reads. Before the broker has said which, there are none: what they
    /// are to be then, `resume_at` tells.
    pub(super) fn tell_stream(&mut self, request: Request) {
        if !self.is_resuming {
            self.send(request);
        }
    }

    // ---- The stream ----

    /// Takes all that is there.
    pub(super) fn poll_stream(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        loop {
            match &mut self.link {
                Link::Resting(pause) => {
                    if pause.as_mut().poll(context).is_pending() {
                        return Ok(());
                    }
                    let opening = link::open(self.client.clone(), self.start());
                    self.link = Link::Opening(Box::pin(opening));
                }
                Link::Opening(opening) => match opening.as_mut().poll(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(up)) => self.link = Link::Up(Box::new(up)),
                    Poll::Ready(Err(error)) => self.handle_break(error)?,
                },
                Link::Up(up) => match up.poll(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Some(Ok(response))) => self.handle(response),
                    Poll::Ready(Some(Err(status))) => self.handle_break(status.into())?,
                    Poll::Ready(None) => {
                        let reason = "the broker ended the stream".to_owned();
                        self.handle_break(Error::Lost { reason })?;
                    }
                },
                Link::Gone => return Err(Error::Closed),
            }
        }
    }

    fn poll_until_assigned(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.poll_stream(context) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(()) if self.is_assigned => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
        }
    }

    /// The first request of a stream: everything that this consumer is, as it is now.
    fn start(&self) -> Request {
        let queued: i64 = self.answers.iter().chain(&self.open).map(|it| it.credit_bytes).sum();
        let credit = (self.settings.buffer_bytes as i64 - queued - self.freed_bytes).max(0);
        let source = match &self.settings.group {
            Some(group) => Source::Group(self.member(group)),
            None => Source::Partitions(self.places()),
        };
        let start = v1::Start {
            source: Some(source),
            initial_credit_bytes: Some(credit),
            answer_bytes_max: self.settings.answer_bytes_max.min(self.settings.buffer_bytes) as i32,
            format: v1::Format::Batches.into(),
        };
        Request::Start(start)
    }

    fn places(&self) -> v1::AssignedPartitions {
        let place = |(key, first): &(TopicPartition, StartAt)| {
            let at = self.partitions.get(key).map_or(*first, |known| known.wire);
            v1::StartPartition {
                topic: key.topic.clone(),
                partition: key.partition,
                position: Some(at.to_proto()),
            }
        };
        v1::AssignedPartitions { partitions: self.settings.partitions.iter().map(place).collect() }
    }

    fn member(&self, group: &str) -> v1::GroupMember {
        let Settings { topics, reset, protocols, instance_id, .. } = &self.settings;
        let ms = |time: std::time::Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
        v1::GroupMember {
            group: group.to_owned(),
            topics: topics.clone(),
            reset: reset.map(StartAt::to_proto),
            protocols: protocols.clone(),
            instance_id: instance_id.clone(),
            session_timeout_ms: ms(self.settings.session_timeout),
            rebalance_timeout_ms: ms(self.settings.rebalance_timeout),
            client_id: self.client.client_id().to_owned(),
            member_id: self.member_id.clone(),
        }
    }

    /// The stream broke: it is opened again, if that can help.
    fn handle_break(&mut self, error: Error) -> Result<(), Error> {
        let has_been_forgotten = error.reason().is_some_and(|it| REJOIN_REASONS.contains(&it));
        let is_new = !self.is_assigned && self.settings.group.is_none();
        if is_new || !(error.is_retriable() || has_been_forgotten) {
            return Err(error);
        }
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if self.settings.patience.is_some_and(|patience| since.elapsed() >= patience) {
            return Err(error);
        }
        self.drop_revoked();
        if has_been_forgotten {
            self.member_id = None;
            self.lose(self.assignment());
        }
        self.drop_commits(&error);
        let pause = self.backoff.pause().max(error.retry_after().unwrap_or_default());
        warn!(%error, pause_ms = pause.as_millis() as u64, "consume stream broke, opened again");
        (self.is_resuming, self.freed_bytes) = (true, 0);
        self.link = Link::Resting(Box::pin(sleep(pause)));
        Ok(())
    }

    /// There is nobody to release them to.
    fn drop_revoked(&mut self) {
        let told = self.releasing.take().unwrap_or_default();
        told.iter().for_each(|key| self.forget(key));
        for change in std::mem::take(&mut self.changes) {
            match change {
                Rebalance::Revoked(keys) => self.lose(keys),
                change => self.changes.push_back(change),
            }
        }
    }

    // ---- Answers ----

    fn handle(&mut self, response: Option<Response>) {
        match response {
            Some(Response::Records(records)) => self.handle_records(records),
            Some(Response::Assigned(assignment)) => self.handle_assigned(assignment),
            Some(Response::Revoked(revoked)) => self.handle_revoked(revoked),
            Some(Response::Committed(committed)) => self.handle_committed(committed),
            Some(Response::Sought(place)) => self.handle_sought(place),
            // Of a newer broker: news that this client does not understand, and did not ask for.
            None => {}
        }
    }

    fn handle_records(&mut self, records: v1::FetchedRecords) {
        let key = TopicPartition::new(records.topic, records.partition);
        let credit_bytes = records.credit_bytes;
        let partition = self.partitions.get_mut(&key);
        let Some(partition) = partition.filter(|it| it.seeks == 0 && !it.is_revoked) else {
            self.freed_bytes += credit_bytes;
            return;
        };
        partition.high_watermark = Some(records.high_watermark);
        if !partition.takes() {
            partition.dropped();
            self.freed_bytes += credit_bytes;
            return;
        }
        if let Some(start) = started_below(partition.wire, &records.batches) {
            warn!(%key, offset = start, "the log ends below what was read, begun anew");
            partition.begin(start);
            self.purge(&key);
        }
        let Some(partition) = self.partitions.get_mut(&key) else { return };
        let next_offset = records.next_offset;
        partition.wire = StartAt::Offset(next_offset);
        let topic = Arc::clone(&partition.topic);
        let answer = Answer::new(Arc::new(key), topic, records.batches, next_offset, credit_bytes);
        self.answers.push_back(answer);
    }

    fn handle_assigned(&mut self, assignment: v1::Assignment) {
        let is_resuming = std::mem::take(&mut self.is_resuming);
        (self.broken_since, self.is_assigned) = (None, true);
        self.backoff.reset();
        self.member_id = Some(assignment.member_id).filter(|id| !id.is_empty());
        let key = |it: &v1::StartedAt| TopicPartition::new(it.topic.clone(), it.partition);
        let assigned: BTreeSet<_> = assignment.partitions.iter().map(key).collect();
        let before: BTreeSet<_> = self.assignment().into_iter().collect();
        self.lose(before.difference(&assigned).cloned().collect());
        for place in &assignment.partitions {
            self.begin(key(place), place.offset, is_resuming);
        }
        if is_resuming && before == assigned && !assigned.is_empty() {
            debug!(partitions = assigned.len(), "consume stream opened again");
            return;
        }
        let (partitions, generation) = (assigned.len(), assignment.generation);
        info!(group = self.settings.group, partitions, generation, "partitions assigned");
        self.changes.push_back(Rebalance::Assigned(assigned.into_iter().collect()));
    }

    /// A partition is read from here on, as the broker says.
    fn begin(&mut self, key: TopicPartition, offset: i64, is_resuming: bool) {
        let Some(partition) = self.partitions.get_mut(&key).filter(|it| !it.is_revoked) else {
            self.forget(&key);
            let topic = Arc::from(key.topic.as_str());
            self.partitions.insert(key, Partition::new(topic, offset));
            return;
        };
        if is_resuming {
            self.resume_at(&key, offset);
        } else if partition.seeks > 0 || partition.wire != StartAt::Offset(offset) {
            partition.begin(offset);
            self.purge(&key);
        }
    }

    /// A partition that was read before the stream broke is read again.
    fn resume_at(&mut self, key: &TopicPartition, offset: i64) {
        let Some(partition) = self.partitions.get_mut(key) else { return };
        let (resumed, is_paused) = (partition.resumed(offset), partition.is_paused);
        match resumed {
            Resumed::GoesOn => {}
            Resumed::SeekTo(place) => self.send(Request::Seek(seek(key, place))),
            Resumed::Anew => self.purge(key),
        }
        if is_paused {
            self.send(Request::Pause(listed(std::slice::from_ref(key))));
        }
    }

    fn handle_revoked(&mut self, revoked: v1::Revoked) {
        let keys: Vec<_> = revoked.partitions.into_iter().map(TopicPartition::from).collect();
        info!(
            group = self.settings.group,
            partitions = keys.len(),
            lost = revoked.lost,
            "partitions revoked"
        );
        if revoked.lost {
            self.releasing = None;
            self.changes.retain(|it| !matches!(it, Rebalance::Revoked(_)));
            self.lose(keys);
            return;
        }
        for key in &keys {
            self.purge(key);
            if let Some(partition) = self.partitions.get_mut(key) {
                partition.is_revoked = true;
            }
        }
        self.changes.push_back(Rebalance::Revoked(keys));
    }

    /// Others may have these partitions already.
    fn lose(&mut self, keys: Vec<TopicPartition>) {
        keys.iter().for_each(|key| self.forget(key));
        if !keys.is_empty() {
            self.changes.push_back(Rebalance::Lost(keys));
        }
    }

    fn forget(&mut self, key: &TopicPartition) {
        self.purge(key);
        self.partitions.remove(key);
    }

    /// Lets go of what has come, for good.
    fn purge(&mut self, key: &TopicPartition) {
        self.discard(key);
        if let Some(partition) = self.partitions.get_mut(key) {
            partition.has_dropped = false;
        }
    }

    fn handle_sought(&mut self, place: v1::StartedAt) {
        let key = TopicPartition::new(place.topic, place.partition);
        if let Some(partition) = self.partitions.get_mut(&key) {
            partition.sought(place.offset);
        }
    }
}

fn seek(key: &TopicPartition, to: StartAt) -> v1::Seek {
    let position = Some(to.to_proto());
    v1::Seek { topic: key.topic.clone(), partition: key.partition, position }
}

/// Where records begin that lie wholly below the place that the stream had reached: a group was reset, because the log
/// has lost its end, as a topic with relaxed durability may in a crash.
fn started_below(wire: StartAt, batches: &[u8]) -> Option<i64> {
    let (StartAt::Offset(wire), Ok(first)) = (wire, BatchHeader::parse(batches)) else {
        return None;
    };
    let last = first.base_offset.0.saturating_add(first.last_offset_delta.into());
    (last < wire).then_some(first.base_offset.0)
}
