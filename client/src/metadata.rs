//! How many partitions topics have: asked when first needed, and again when the answer has grown old.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use millrace_model::partitioner;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::admin::{ConfigResource, NewTopic};
use crate::{Client, Error, ErrorKind};

/// The broker's setting that says whether writing to a topic creates it.
const AUTO_CREATE: &str = "auto.create.topics.enable";

/// What is known of topics.
#[derive(Debug)]
pub(crate) struct Topics {
    client: Client,
    age_max: Duration,
    /// Guards the map alone; nobody waits while holding it.
    known: RwLock<HashMap<Arc<str>, Topic>>,
    /// Held while the broker is asked: a thousand senders ask once.
    asking: Mutex<()>,
}

/// A topic as it was when the broker was asked.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: i32,
    asked_at: Instant,
}

impl Topic {
    /// The partition that records of this key belong to.
    pub(crate) fn partition_of(&self, key: &[u8]) -> i32 {
        partitioner::partition_for_key(key, self.partitions)
    }
}

impl Topics {
    pub(crate) fn new(client: Client, age_max: Duration) -> Self {
        let known = RwLock::new(HashMap::new());
        Self { client, age_max, known, asking: Mutex::new(()) }
    }

    /// The topic's name, shared if it was asked for before.
    pub(crate) fn name(&self, topic: &str) -> Arc<str> {
        self.known(topic).map_or_else(|| Arc::from(topic), |known| known.name)
    }

    /// The topic; created if it is missing and the broker's settings allow it.
    pub(crate) async fn topic(&self, name: &str) -> Result<Topic, Error> {
        if let Some(known) = self.fresh(name) {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        if let Some(known) = self.fresh(name) {
            return Ok(known);
        }
        let known = self.known(name);
        let partitions = match self.ask(name).await {
            Ok(partitions) => partitions,
            Err(error) => match &known {
                // Old news is better than none: topics grow, they never shrink.
                Some(known) if error.is_retriable() => known.partitions,
                _ => return Err(error),
            },
        };
        let name = known.map_or_else(|| Arc::from(name), |known| known.name);
        let topic = Topic { name: Arc::clone(&name), partitions, asked_at: Instant::now() };
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(name, topic.clone());
        Ok(topic)
    }

    fn known(&self, topic: &str) -> Option<Topic> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    fn fresh(&self, topic: &str) -> Option<Topic> {
        self.known(topic).filter(|it| it.asked_at.elapsed() < self.age_max)
    }

    async fn ask(&self, topic: &str) -> Result<i32, Error> {
        let admin = self.client.admin();
        let partitions = match admin.describe_topic(topic).await {
            Ok(found) => found.topic.partitions,
            Err(error) if error.kind() == ErrorKind::NotFound => self.create(topic, error).await?,
            Err(error) => return Err(error),
        };
        if partitions > 0 {
            return Ok(partitions);
        }
        Err(Error::Nonsense { reason: format!("topic {topic} has {partitions} partitions") })
    }

    /// As Kafka's clients have it: writing to a topic creates it, where the broker's settings say so. The broker would do
    /// so itself for a record, but a record's partition depends on how many there are.
    async fn create(&self, topic: &str, missing: Error) -> Result<i32, Error> {
        let admin = self.client.admin();
        let found =
            admin.describe_config(ConfigResource::Broker, &[AUTO_CREATE.to_owned()]).await?;
        let is_allowed = |it: &crate::ConfigDescription| {
            it.name == AUTO_CREATE && it.value.as_deref() == Some("true")
        };
        if !found.iter().any(is_allowed) {
            return Err(missing);
        }
        match admin.create_topic(NewTopic::new(topic)).await {
            Ok(created) => Ok(created.partitions),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Ok(admin.describe_topic(topic).await?.topic.partitions)
            }
            Err(error) => Err(error),
        }
    }
}
