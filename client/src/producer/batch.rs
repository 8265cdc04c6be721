//! One batch on its way: records while it is open, bytes once it is sealed, and those who wait for its answer.

use bytes::{Bytes, BytesMut};
use millrace_model::batch::CRC_START;
use millrace_model::checksum::crc32c;
use millrace_model::compression::Codec;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_model::record::{BatchBuilder, NewRecord};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use tracing::{Span, debug};

use crate::{Error, Position, Record};

/// A record that a batch takes in.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) record: Record,
    pub(super) timestamp_ms: i64,
    /// What it takes of the buffer; `room` is as much.
    pub(super) bytes: usize,
    pub(super) room: OwnedSemaphorePermit,
    pub(super) done: oneshot::Sender<Result<Position, Error>>,
}

/// By whom the broker knows what it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// A batch's place in all that its producer writes to the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) identity: Identity,
    /// Of the first record.
    pub(super) sequence: i32,
}

/// Some records for one partition.
#[derive(Debug)]
pub(super) struct Batch {
    content: Content,
    count: i32,
    /// Who waits, in the order of the records. Invariant: empty once they have their answer.
    waiting: Vec<oneshot::Sender<Result<Position, Error>>>,
    /// The records' room in the buffer, until they have their answer.
    room: Option<OwnedSemaphorePermit>,
    pub(super) born: Instant,
    /// From when on it may be sealed, full or not.
    pub(super) due: Instant,
    /// The flush that waits for it.
    pub(super) epoch: u64,
    /// Set when it is sent first. It stays as long as the broker may have written it.
    pub(super) number: Option<Number>,
    /// It was sent, and nobody knows whether it was written.
    pub(super) doubtful: bool,
    /// From when it is sent first until its answer.
    pub(super) span: Span,
}

#[derive(Debug)]
enum Content {
    Open(BatchBuilder),
    /// Invariant: they carry `number` when it is set.
    Sealed(Bytes),
}

impl Batch {
    pub(super) fn new(
        codec: Codec,
        likely_bytes: usize,
        born: Instant,
        due: Instant,
        epoch: u64,
    ) -> Self {
        Self {
            content: Content::Open(BatchBuilder::new(codec).with_capacity(likely_bytes)),
            count: 0,
            waiting: Vec::new(),
            room: None,
            born,
            due,
            epoch,
            number: None,
            doubtful: false,
            span: Span::none(),
        }
    }

    pub(super) fn count(&self) -> i32 {
        self.count
    }

    /// Bytes before compression.
    pub(super) fn size_bytes(&self) -> usize {
        match &self.content {
            Content::Open(builder) => builder.size_bytes(),
            Content::Sealed(bytes) => bytes.len(),
        }
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        let Content::Open(builder) = &mut self.content else {
            unreachable!("only the open batch of a lane takes records");
        };
        let Outgoing { record, timestamp_ms, room, done, .. } = outgoing;
        let headers: Vec<_> =
            record.headers.iter().map(|it| (it.key.as_bytes(), it.value.as_deref())).collect();
        builder.push(NewRecord {
            timestamp: timestamp_ms,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
        self.count += 1;
        self.waiting.push(done);
        match &mut self.room {
            Some(taken) => taken.merge(room),
            None => self.room = Some(room),
        }
    }

    /// The bytes to send, under this number.
    pub(super) fn numbered(&mut self, number: Number) -> Bytes {
        let Number { identity: Identity { id, epoch }, sequence } = number;
        let bytes = match &mut self.content {
            Content::Open(builder) => std::mem::take(builder).producer(id, epoch, sequence).build(),
            Content::Sealed(bytes) if self.number == Some(number) => bytes.clone(),
            Content::Sealed(bytes) => renumbered(bytes, number),
        };
        self.number = Some(number);
        self.content = Content::Sealed(bytes.clone());
        bytes
    }

    /// Has everybody who waited had an answer?
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// It is written. A base of -1: where, the broker has forgotten.
    pub(super) fn acknowledge(&mut self, partition: i32, base_offset: i64) {
        debug!(parent: &self.span, offset = base_offset, "acknowledged");
        self.room = None;
        for (index, done) in self.waiting.drain(..).enumerate() {
            let offset = if base_offset < 0 { -1 } else { base_offset + index as i64 };
            // Whoever dropped the delivery does not want to know.
            let _ = done.send(Ok(Position { partition, offset }));
        }
    }

    pub(super) fn fail(&mut self, error: &Error) {
        debug!(parent: &self.span, %error, "failed");
        self.room = None;
        for done in self.waiting.drain(..) {
            let _ = done.send(Err(error.clone()));
        }
    }
}

/// The same batch under another number. See the layout in the model's `batch.rs`.
fn renumbered(batch: &Bytes, number: Number) -> Bytes {
    const NUMBER_START: usize = 43;
    let mut bytes = BytesMut::from(&batch[..]);
    let Number { identity: Identity { id, epoch }, sequence } = number;
    bytes[NUMBER_START..][..8].copy_from_slice(&id.0.to_be_bytes());
    bytes[NUMBER_START + 8..][..2].copy_from_slice(&epoch.0.to_be_bytes());
    bytes[NUMBER_START + 10..][..4].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c(&bytes[CRC_START..]);
    bytes[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}
