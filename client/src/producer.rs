//! Sending: records in, batches out, an answer for each record.
//!
//! [`Producer::send`] chooses a keyed record's partition and waits for room; all else is the work of one task, the
//! driver. It alone knows what waits, what is under way and in which order.

mod batch;
mod driver;
mod lane;
mod ledger;
mod link;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_model::compression::Codec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::metadata::Topics;
use crate::producer::batch::Outgoing;
use crate::producer::driver::{Driver, Message, Target};
use crate::{Client, Error, Position, Record, trace};

const LINGER: Duration = Duration::ZERO;
const BATCH_BYTES: usize = 64 * 1024;
const BUFFER_BYTES: usize = 32 * 1024 * 1024;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
const METADATA_AGE_MAX: Duration = Duration::from_secs(300);
/// Messages on their way to the driver; the bytes of their records are bounded by the buffer.
const MESSAGES_MAX: usize = 1024;
/// What a record takes of the buffer beside its bytes: its place in a batch, and the answer that is waited for.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// The largest record that is tried at all. A broker takes 1 MiB unless a topic's settings say more.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Debug)]
struct Settings {
    codec: Codec,
    linger: Duration,
    batch_bytes: usize,
    buffer_bytes: usize,
    delivery_timeout: Duration,
    metadata_age_max: Duration,
}

/// Options of a [`Producer`]. Each says its default and what another value costs.
#[derive(Clone, Debug)]
#[must_use = "it does nothing before `build`"]
pub struct ProducerBuilder {
    client: Client,
    settings: Settings,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        let settings = Settings {
            codec: Codec::None,
            linger: LINGER,
            batch_bytes: BATCH_BYTES,
            buffer_bytes: BUFFER_BYTES,
            delivery_timeout: DELIVERY_TIMEOUT,
            metadata_age_max: METADATA_AGE_MAX,
        };
        Self { client, settings }
    }

    /// How batches are packed. Default: [`Codec::None`]. LZ4 and zstd make text a third or less, on the wire, on disk and
    /// for every reader, for processor time here and there; of small batches they make little.
    pub fn compression(mut self, codec: Codec) -> Self {
        self.settings.codec = codec;
        self
    }

    /// How long a record may wait for others to share its batch. Default: 0, a record goes as soon as its partition has a
    /// batch less than five under way, so batches grow by themselves under load. 5 ms makes fewer and larger batches of a
    /// steady trickle, which is cheaper for the broker and packs better, for up to 5 ms more until a record is safe.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// When a batch is full, in bytes before compression. Default: 64 KiB. Larger is cheaper per record at full speed and
    /// packs better; a topic's `max.message.bytes`, 1 MiB unless changed, is the limit. A record that is larger goes
    /// alone.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes.max(1);
        self
    }

    /// What records that are not acknowledged may take together; [`Producer::send`] waits when it is taken. Default:
    /// 32 MiB. More keeps going through longer pauses of the broker, for memory and for more that is lost with this
    /// process.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes.clamp(1, u32::MAX as usize);
        self
    }

    /// How long a record is tried, from [`Producer::send`] on, before its [`Delivery`] fails. Default: 2 minutes, time
    /// for a broker to come back after a crash. Shorter tells sooner; longer rides out more, with the buffer full.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// When the number of a topic's partitions is asked for again. Default: 5 minutes. Shorter finds partitions that were
    /// added sooner, for a call each time.
    pub fn metadata_age_max(mut self, age: Duration) -> Self {
        self.settings.metadata_age_max = age;
        self
    }

    /// Gets an id from the broker, by which it knows what it has written already, and begins.
    ///
    /// # Errors
    /// The broker could not be asked for as long as the client's `call_timeout`.
    pub async fn build(self) -> Result<Producer, Error> {
        let Self { client, settings } = self;
        let identity = client.ask(|| driver::identify(client.clone())).await?;
        let (messages, inbox) = mpsc::channel(MESSAGES_MAX);
        let topics = Topics::new(client.clone(), settings.metadata_age_max);
        let room = Arc::new(Semaphore::new(settings.buffer_bytes));
        let driver = Driver::new(client.clone(), settings.clone(), identity, inbox);
        tokio::spawn(driver.run());
        Ok(Producer { shared: Arc::new(Shared { client, settings, topics, room, messages }) })
    }
}

/// Sends records. Cheap to clone; all clones share one buffer, one order per partition and one stream to the broker.
///
/// Records of one partition are written in the order in which `send` returned. What is tried again, after a lost
/// connection or a restart of the broker, is written once: each batch has a number that the broker remembers.
///
/// Dropping it sends what it took, as long as the runtime lives; [`Self::close`] waits for that.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    settings: Settings,
    topics: Topics,
    room: Arc<Semaphore>,
    messages: mpsc::Sender<Message>,
}

impl Producer {
    /// Takes a record, once there is room for it in the buffer. The [`Delivery`] says when it is on stable storage, and
    /// where; who does not care drops it, and may learn of failures from [`Self::flush`].
    ///
    /// # Errors
    /// The topic does not exist, the record is too large, the producer was closed. The record will not be written.
    pub async fn send(&self, topic: &str, mut record: Record) -> Result<Delivery, Error> {
        if let Some(current) = self.shared.client.traceparent() {
            trace::mark(&mut record, current);
        }
        let (topic, target) = self.target(topic, &record).await?;
        let bytes = size(&record);
        let room = self.room(bytes).await?;
        let (done, answer) = oneshot::channel();
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(now_ms);
        let outgoing = Outgoing { record, timestamp_ms, bytes, room, done };
        let message = Message::Record { topic, target, outgoing };
        self.shared.messages.send(message).await.map_err(|_| Error::Closed)?;
        Ok(Delivery { answer })
    }

    /// Waits until all that was taken before is acknowledged.
    ///
    /// # Errors
    /// The first that could not be written since the last `flush`.
    pub async fn flush(&self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.shared.messages.send(Message::Flush { done }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Flushes and ends, for all clones: further records are refused.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn close(self) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.shared.messages.send(Message::Close { done }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn target(&self, topic: &str, record: &Record) -> Result<(Arc<str>, Target), Error> {
        if let Some(partition) = record.partition {
            return Ok((self.shared.topics.name(topic), Target::Partition(partition)));
        }
        let found = self.shared.topics.topic(topic).await?;
        let target = match &record.key {
            Some(key) => Target::Partition(found.partition_of(key)),
            None => Target::AnyOf(found.partitions),
        };
        Ok((found.name, target))
    }

    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let bytes_max = self.shared.settings.buffer_bytes.min(RECORD_BYTES_MAX);
        if bytes > bytes_max {
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        let permits = bytes as u32;
        if let Ok(room) = Arc::clone(&self.shared.room).try_acquire_many_owned(permits) {
            return Ok(room);
        }
        // Nothing lingers while others wait for its place. A full channel means that the driver is busy sending.
        let _ = self.shared.messages.try_send(Message::Hurry);
        let room = Arc::clone(&self.shared.room).acquire_many_owned(permits).await;
        room.map_err(|_| Error::Closed)
    }
}

/// What a record takes of the buffer.
fn size(record: &Record) -> usize {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record.headers.iter().map(|it| it.key.len() + length(&it.value)).sum();
    RECORD_OVERHEAD_BYTES + length(&record.key) + length(&record.value) + headers
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

/// The answer to one record: its position, once it is on stable storage. Dropping it changes nothing for the record.
#[derive(Debug)]
#[must_use = "it says whether the record was written; `flush` does so for all"]
pub struct Delivery {
    answer: oneshot::Receiver<Result<Position, Error>>,
}

impl Future for Delivery {
    type Output = Result<Position, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.answer).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(Error::Closed)))
    }
}

#[cfg(test)]
mod tests;
