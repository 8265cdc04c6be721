//! The Rust client, as an application uses it: record by record, closed loop. What this gives less than the bare door
//! is the client's cost.
//!
//! A connection is a client of its own with one producer, or one consumer that reads a partition and begins again at its
//! end. Clients run on a runtime with a thread per CPU; what is sent and counted stays on this thread.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::try_join_all;
use millrace_client::{Client, Delivery, Error, Producer, Record, StartAt, TopicPartition};

use super::book::{Done, SharedBook};
use super::{Mark, Pace, Partitions, Plan, Tally, Work};
use crate::clock::{self, Nanos};
use crate::error::LoadError;

/// Runs a plan through the Rust client.
pub(super) fn run(
    plan: &Plan,
    address: SocketAddr,
    mark: &mut dyn FnMut(Mark),
) -> Result<Tally, LoadError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(LoadError::io("starting a runtime"))?;
    let run = Run { shared: SharedBook::new(plan, mark) };
    runtime.block_on(async {
        match plan.work {
            Work::Produce { partitions: Partitions::PerConnection(count), .. } => {
                run.produce(address, count).await
            }
            Work::Fetch { partitions, .. } => run.consume(address, partitions).await,
            Work::Produce { .. } => {
                Err(LoadError::Misuse("the client writes to one partition a connection".into()))
            }
        }
    })?;
    Ok(run.shared.into_tally())
}

struct Run<'a> {
    shared: SharedBook<'a>,
}

impl Run<'_> {
    async fn produce(&self, address: SocketAddr, partitions: u32) -> Result<(), LoadError> {
        let Pace::Closed { in_flight } = self.shared.plan.pace else {
            return Err(LoadError::Misuse("the client is driven in a closed loop".into()));
        };
        let mut producers = Vec::new();
        for _ in 0..self.shared.plan.connections {
            let producer = connect(address).await?.producer();
            let producer = producer.batch_bytes(self.shared.plan.batch.bytes.len());
            producers.push(producer.build().await.map_err(failed)?);
        }
        self.shared.book.borrow_mut().start(clock::now());
        let in_flight = in_flight * self.shared.plan.batch.records as usize;
        let loops = producers.into_iter().enumerate().map(|(index, producer)| {
            self.send(producer, (index as u32 % partitions) as i32, in_flight)
        });
        try_join_all(loops).await.map(drop)
    }

    /// Keeps so many records waiting for their acknowledgement.
    async fn send(
        &self,
        producer: Producer,
        partition: i32,
        in_flight: usize,
    ) -> Result<(), LoadError> {
        let value = Bytes::from(vec![b'v'; self.value_bytes() as usize]);
        let mut waiting: VecDeque<(Delivery, Nanos)> = VecDeque::with_capacity(in_flight);
        loop {
            let now = self.shared.turn();
            while waiting.len() < in_flight && self.shared.book.borrow().may_send() {
                let record = Record::new(value.clone()).with_partition(partition);
                let delivery =
                    producer.send(&self.shared.plan.topic, record).await.map_err(failed)?;
                waiting.push_back((delivery, now));
            }
            // They come in order. Once one was waited for, others are there.
            let Some((delivery, since)) = waiting.pop_front() else { return Ok(()) };
            delivery.await.map_err(failed)?;
            self.count(since);
        }
    }

    async fn consume(&self, address: SocketAddr, partitions: u32) -> Result<(), LoadError> {
        let mut clients = Vec::new();
        for _ in 0..self.shared.plan.connections {
            clients.push(connect(address).await?);
        }
        self.shared.book.borrow_mut().start(clock::now());
        let loops = clients
            .into_iter()
            .enumerate()
            .map(|(index, client)| self.read(client, (index as u32 % partitions) as i32));
        try_join_all(loops).await.map(drop)
    }

    async fn read(&self, client: Client, partition: i32) -> Result<(), LoadError> {
        let topic = self.shared.plan.topic.as_str();
        let found = client.admin().describe_topic(topic).await.map_err(failed)?;
        let end = found.partitions.iter().find(|it| it.partition == partition);
        let end = end.ok_or(LoadError::Malformed("a topic without its partition"))?.high_watermark;
        let consumer = client.consumer().partitions([(topic, partition, StartAt::Earliest)]);
        let mut consumer = consumer.build().await.map_err(failed)?;
        let place = TopicPartition { topic: topic.to_owned(), partition };
        while self.shared.book.borrow().may_send() {
            let since = clock::now();
            let record = consumer.next().await.map_err(failed)?;
            let record = record.ok_or(LoadError::Malformed("the stream ended"))?;
            self.shared.turn();
            self.count(since);
            if record.offset + 1 >= end {
                consumer.seek(&place, StartAt::Earliest).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    fn count(&self, since: Nanos) {
        let done = Done { records: 1, payload_bytes: self.value_bytes() };
        self.shared.book.borrow_mut().count(since, clock::now(), Ok(done));
    }

    fn value_bytes(&self) -> u64 {
        self.shared.plan.batch.payload_bytes / u64::from(self.shared.plan.batch.records)
    }
}

async fn connect(address: SocketAddr) -> Result<Client, LoadError> {
    Client::connect(format!("http://{address}")).await.map_err(failed)
}

fn failed(error: Error) -> LoadError {
    LoadError::Io { doing: "using the client", source: std::io::Error::other(error) }
}
