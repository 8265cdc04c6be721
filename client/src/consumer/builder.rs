//! What to consume, and how.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::consumer::Rebalance;
use crate::{Client, Consumer, Error, StartAt, TopicPartition};

const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
const BUFFER_BYTES: usize = 16 * 1024 * 1024;
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
const SESSION_TIMEOUT: Duration = Duration::from_secs(45);
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) type RebalanceHook = Arc<dyn Fn(&Rebalance) + Send + Sync>;

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) partitions: Vec<(TopicPartition, StartAt)>,
    /// A group's member, when there is one.
    pub(super) group: Option<String>,
    pub(super) topics: Vec<String>,
    pub(super) reset: Option<StartAt>,
    pub(super) protocols: Vec<String>,
    pub(super) instance_id: Option<String>,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) auto_commit: bool,
    pub(super) commit_interval: Duration,
    pub(super) buffer_bytes: usize,
    pub(super) answer_bytes_max: usize,
    pub(super) patience: Option<Duration>,
    pub(super) on_rebalance: Option<RebalanceHook>,
}

/// What to consume, and options of a [`Consumer`]. Each says its default and what another value costs.
#[derive(Clone)]
#[must_use = "it does nothing before `build`"]
pub struct ConsumerBuilder {
    client: Client,
    settings: Settings,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let settings = Settings {
            partitions: Vec::new(),
            group: None,
            topics: Vec::new(),
            reset: Some(StartAt::Earliest),
            protocols: Vec::new(),
            instance_id: None,
            session_timeout: SESSION_TIMEOUT,
            rebalance_timeout: REBALANCE_TIMEOUT,
            auto_commit: true,
            commit_interval: COMMIT_INTERVAL,
            buffer_bytes: BUFFER_BYTES,
            answer_bytes_max: ANSWER_BYTES_MAX,
            patience: None,
            on_rebalance: None,
        };
        Self { client, settings }
    }

    /// Reads these partitions, each from its place, alone: nobody else is asked, nothing is committed. For replays and
    /// for those who keep offsets themselves.
    pub fn partitions<T: Into<String>>(
        mut self,
        partitions: impl IntoIterator<Item = (T, i32, StartAt)>,
    ) -> Self {
        let one =
            |(topic, partition, at): (T, i32, StartAt)| (TopicPartition::new(topic, partition), at);
        self.settings.partitions.extend(partitions.into_iter().map(one));
        self
    }

    /// Reads as a member of this group, which shares out the partitions of its [`topics`](Self::topics) and remembers how
    /// far it is. Members may come by either door.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.settings.group = Some(group.into());
        self
    }

    /// The topics that a group's member wants.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.settings.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Where a group begins in a partition for which it has committed nothing, or an offset that is gone. Default:
    /// [`StartAt::Earliest`], which reads more than wanted rather than less. [`StartAt::Latest`] leaves out what was
    /// there before the group; `None` makes it an error, for those who want no guess.
    pub fn reset(mut self, reset: impl Into<Option<StartAt>>) -> Self {
        self.settings.reset = reset.into();
        self
    }

    /// Whether offsets are committed by themselves. Default: yes, at least once: what was handed out counts as done when
    /// the next record is asked for, and is committed soon after. A crash then repeats a few records and loses none.
    /// Without it, nothing is committed but by [`Consumer::commit`] and [`Consumer::commit_offsets`]; needed by those
    /// who keep several records in work at once.
    pub fn auto_commit(mut self, auto_commit: bool) -> Self {
        self.settings.auto_commit = auto_commit;
        self
    }

    /// How often offsets are committed by themselves. Default: 5 s. Shorter repeats less after a crash, for more writes
    /// on the broker.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.settings.commit_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// What may have come and not be handed out, in bytes as they came; the broker sends no more until there is room,
    /// one answer aside. Default: 16 MiB. More keeps a fast consumer busy over a slow line, for memory.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes.max(1);
        self
    }

    /// The most records in one answer, in bytes, unless a single batch is larger. Default: 1 MiB. Smaller mixes
    /// partitions more finely; larger is cheaper.
    pub fn answer_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.answer_bytes_max = bytes.clamp(1, i32::MAX as usize);
        self
    }

    /// A lasting name of this member: it keeps its partitions over a restart that is shorter than the session timeout
    /// (KIP-345). Default: none. With one, a member that does not come back holds its partitions for that long.
    pub fn instance_id(mut self, instance_id: impl Into<String>) -> Self {
        self.settings.instance_id = Some(instance_id.into());
        self
    }

    /// How long the group waits for this member to come back once the broker has died, or, with an
    /// [`Self::instance_id`], once its own connection is gone. Default: 45 s. Shorter hands its partitions on sooner;
    /// longer rides out more without a rebalance. A member that does come back keeps its partitions.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.settings.session_timeout = timeout;
        self
    }

    /// How long a rebalance waits for this member to ask for its next record, and so to let go. Default: 60 s. It must be
    /// longer than one record takes, or partitions are lost while they are worked on; the others wait as long.
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.settings.rebalance_timeout = timeout;
        self
    }

    /// Ways of sharing out partitions, the preferred one first. Default: `range`, `roundrobin`. All members of a group
    /// need one in common.
    pub fn protocols<T: Into<String>>(mut self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.settings.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// How long a broken stream is tried to be opened again before that is an error. Default: `None`, for ever: a service
    /// waits for its broker. A program that somebody watches may rather end.
    pub fn patience(mut self, patience: impl Into<Option<Duration>>) -> Self {
        self.settings.patience = patience.into();
        self
    }

    /// Called with each change of the assignment, before its records come and before what is revoked is let go. Default:
    /// nothing. It must not block; who has to commit first uses [`Consumer::next_event`].
    pub fn on_rebalance(mut self, hook: impl Fn(&Rebalance) + Send + Sync + 'static) -> Self {
        self.settings.on_rebalance = Some(Arc::new(hook));
        self
    }

    /// Begins. With partitions, they are known to exist when it returns; a group may take longer to share out its own.
    ///
    /// # Errors
    /// Nothing to consume is named, a partition does not exist, the broker cannot be asked.
    pub async fn build(self) -> Result<Consumer, Error> {
        self.check()?;
        Consumer::open(self.client, self.settings).await
    }

    fn check(&self) -> Result<(), Error> {
        let Settings { partitions, group, topics, .. } = &self.settings;
        match (partitions.is_empty(), group, topics.is_empty()) {
            (false, None, true) | (true, Some(_), false) => Ok(()),
            (true, Some(_), true) => Err(Error::misuse("a member of a group names its topics")),
            (true, None, false) => Err(Error::misuse("topics are shared out by a group: name one")),
            (true, None, true) => Err(Error::misuse("name partitions, or a group and its topics")),
            _ => Err(Error::misuse("name partitions, or a group and its topics, not both")),
        }
    }
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { partitions, group, topics, .. } = &self.settings;
        f.debug_struct("ConsumerBuilder")
            .field("partitions", partitions)
            .field("group", group)
            .field("topics", topics)
            .finish_non_exhaustive()
    }
}
