//! One blocking connection for what stands around a measurement: topics made and deleted, one batch written.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::error::LoadError;
use crate::protocol::{Answer, Frame, Produced, Template};

/// How long a broker may take for what is no measurement.
const PATIENCE: Duration = Duration::from_secs(120);
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection that asks one thing at a time.
#[derive(Debug)]
pub struct Admin {
    stream: TcpStream,
}

impl Admin {
    /// # Errors
    /// When nobody listens.
    pub fn connect(broker: SocketAddr) -> Result<Self, LoadError> {
        let stream =
            TcpStream::connect(broker).map_err(LoadError::io("connecting to the broker"))?;
        stream.set_nodelay(true).map_err(LoadError::io("setting up the connection"))?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .map_err(LoadError::io("setting up the connection"))?;
        Ok(Self { stream })
    }

    /// Makes a topic and waits until every partition has a leader.
    ///
    /// # Errors
    /// When the broker refuses or takes too long.
    pub fn create_topic(
        &mut self,
        topic: &str,
        partitions: u32,
        configs: &[(String, String)],
    ) -> Result<(), LoadError> {
        let mut frame = Frame::request(19, 4);
        frame.i32(1).string(topic).i32(partitions as i32).i16(1).i32(0).i32(configs.len() as i32);
        for (key, value) in configs {
            frame.string(key).string(value);
        }
        frame.i32(60_000).i8(0);
        let answer = self.ask(frame.finish(0), &[])?;
        let mut answer = Answer(&answer);
        answer.skip(8)?;
        answer.count()?;
        answer.string()?;
        refused("CreateTopics", answer.i16()?)?;
        self.wait_for_leaders(topic, partitions)
    }

    /// # Errors
    /// When the broker refuses.
    pub fn delete_topic(&mut self, topic: &str) -> Result<(), LoadError> {
        let mut frame = Frame::request(20, 3);
        frame.i32(1).string(topic).i32(60_000);
        let answer = self.ask(frame.finish(0), &[])?;
        let mut answer = Answer(&answer);
        answer.skip(8)?;
        answer.count()?;
        answer.string()?;
        refused("DeleteTopics", answer.i16()?)
    }

    /// Writes one batch with acks=all and waits for the acknowledgement.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: u32,
        batch: &Batch,
    ) -> Result<i64, LoadError> {
        let template = Template::produce(topic, -1, batch.bytes.len());
        let head = template.head(0, partition, 0);
        let answer = self.ask(head[..template.len()].to_vec(), &batch.bytes)?;
        let produced = Produced::read(&answer)?;
        refused("Produce", produced.error)?;
        Ok(produced.base_offset)
    }

    /// Asks for the versions that the broker speaks, as every client does first.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn greet(&mut self) -> Result<(), LoadError> {
        self.ask(Frame::request(18, 0).finish(0), &[]).map(drop)
    }

    fn wait_for_leaders(&mut self, topic: &str, partitions: u32) -> Result<(), LoadError> {
        let deadline = Instant::now() + PATIENCE;
        while self.leaders(topic)? < partitions || !self.is_led(topic, partitions)? {
            if Instant::now() > deadline {
                return Err(LoadError::Timeout("a leader for every partition"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Does every partition answer as its leader? Kafka names leaders a moment before they know of it.
    fn is_led(&mut self, topic: &str, partitions: u32) -> Result<bool, LoadError> {
        let mut frame = Frame::request(2, 5);
        frame.i32(-1).i8(0).i32(1).string(topic).i32(partitions as i32);
        for partition in 0..partitions {
            frame.i32(partition as i32).i32(-1).i64(-1);
        }
        let answer = self.ask(frame.finish(0), &[])?;
        let mut answer = Answer(&answer);
        answer.skip(8)?;
        answer.count()?;
        answer.string()?;
        let mut led = true;
        for _ in 0..answer.count()? {
            answer.i32()?;
            led &= answer.i16()? == 0;
            answer.skip(20)?;
        }
        Ok(led)
    }

    /// How many partitions of a topic have a leader.
    fn leaders(&mut self, topic: &str) -> Result<u32, LoadError> {
        let mut frame = Frame::request(3, 8);
        frame.i32(1).string(topic).i8(0).i8(0).i8(0);
        let answer = self.ask(frame.finish(0), &[])?;
        let mut answer = Answer(&answer);
        answer.skip(8)?;
        for _ in 0..answer.count()? {
            answer.i32()?;
            answer.string()?;
            answer.i32()?;
            answer.string()?;
        }
        answer.string()?;
        answer.i32()?;
        answer.count()?;
        answer.i16()?;
        answer.string()?;
        answer.i8()?;
        let mut leaders = 0;
        for _ in 0..answer.count()? {
            let error = answer.i16()?;
            answer.i32()?;
            let leader = answer.i32()?;
            answer.i32()?;
            for _list in ["replicas", "in sync", "offline"] {
                let nodes = answer.count()?;
                answer.skip(nodes.saturating_mul(4))?;
            }
            leaders += u32::from(error == 0 && leader >= 0);
        }
        Ok(leaders)
    }

    /// Sends a frame and its body; the answer without its length.
    fn ask(&mut self, head: Vec<u8>, body: &[u8]) -> Result<Vec<u8>, LoadError> {
        let io = LoadError::io("asking the broker");
        self.stream.write_all(&head).map_err(&io)?;
        self.stream.write_all(body).map_err(&io)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(&io)?;
        let length = i32::from_be_bytes(length).max(0) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(LoadError::Malformed("too long"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).map_err(&io)?;
        Ok(answer)
    }
}

fn refused(request: &'static str, code: i16) -> Result<(), LoadError> {
    if code == 0 { Ok(()) } else { Err(LoadError::Refused { request, code }) }
}
