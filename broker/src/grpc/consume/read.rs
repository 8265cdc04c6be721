//! One answer's worth of records: wait for them, read them, and where the client wants it so, take them out of their
//! batches. Unpacking is bounded, and what may take long runs on a thread of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_model::batch::BatchHeader;
use millrace_model::compression::Codec;
use millrace_model::offset::Offset;
use millrace_model::record::{self, InvalidRecords, Records};
use millrace_proto::v1::{FetchedRecords, Format, Header, Record};

use crate::error::BrokerError;
use crate::grpc::consume::cursors::{Cursor, Slot};
use crate::partition::reader::Collected;
use crate::service::Hall;
use crate::service::fetch::{self, Part};

/// How long one read waits for records before it looks whether its topics are still there.
const WAIT: Duration = Duration::from_secs(5);
/// What a stored batch may unpack to. A larger one can only be read as it is.
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Uncompressed batches up to this size are taken apart on the network worker.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// What a record and a header count beside their keys and values.
const RECORD_OVERHEAD_BYTES: usize = 24;
const HEADER_OVERHEAD_BYTES: usize = 8;

/// What to read.
pub(super) struct Ask {
    pub(super) wanted: Vec<(Slot, Cursor)>,
    pub(super) bytes_max: usize,
    pub(super) format: Format,
    /// What an earlier read unpacked and had no room for.
    pub(super) rest: Option<Box<Rest>>,
}

/// What was read.
pub(super) enum Read {
    Records {
        slot: Slot,
        records: FetchedRecords,
        rest: Option<Box<Rest>>,
    },
    /// Nothing came in time.
    Nothing,
    Failed {
        slot: Slot,
        error: BrokerError,
    },
}

/// The records of a batch that follow those of the last answer.
pub(super) struct Rest {
    slot: Slot,
    next: Offset,
    header: BatchHeader,
    records: Records,
}

/// Reads from the first partition that has something.
pub(super) async fn read(hall: Arc<Hall>, mut ask: Ask) -> Read {
    if let Some(rest) = ask.rest.take()
        && let [(slot, cursor)] = ask.wanted.as_slice()
        && (rest.slot, rest.next) == (*slot, cursor.next)
    {
        let mut unpacked = Unpacked::from(cursor.next);
        let taken = unpacked.take(rest.header, rest.records, ask.bytes_max);
        return answer(*slot, cursor, taken.map(|()| unpacked));
    }
    let gone =
        |(_, cursor): &&(Slot, Cursor)| hall.registry.topic_by_id(cursor.topic_id()).is_none();
    if let Some((slot, cursor)) = ask.wanted.iter().find(gone) {
        let (topic, partition) = (cursor.topic().to_owned(), cursor.partition());
        let error = BrokerError::UnknownTopicOrPartition { topic, partition };
        return Read::Failed { slot: *slot, error };
    }
    let answers = fetch::fetch(&hall, &request(&ask)).await;
    let has_something =
        |answer: &Result<Collected, BrokerError>| !answer.as_ref().is_ok_and(|it| it.bytes() == 0);
    let found = ask.wanted.iter().zip(answers).find(|(_, answer)| has_something(answer));
    match found {
        Some(((slot, cursor), Ok(collected))) => {
            let unpacked = take_out(collected, cursor.next, &ask).await;
            answer(*slot, cursor, unpacked)
        }
        Some(((slot, _), Err(error))) => Read::Failed { slot: *slot, error },
        None => Read::Nothing,
    }
}

fn request(ask: &Ask) -> fetch::Request {
    let bytes_max = ask.bytes_max as u64;
    let part = |(_, cursor): &(Slot, Cursor)| Part {
        partition: Ok(cursor.handle.clone()),
        offset: cursor.next,
        max_bytes: bytes_max,
        current_leader_epoch: None,
    };
    let parts = ask.wanted.iter().map(part).collect();
    fetch::Request { max_wait: WAIT, min_bytes: 1, max_bytes: bytes_max, parts }
}

fn answer(slot: Slot, cursor: &Cursor, unpacked: Result<Unpacked, BrokerError>) -> Read {
    let Unpacked { batches, records, next, bytes, rest } = match unpacked {
        Ok(unpacked) => unpacked,
        Err(error) => return Read::Failed { slot, error },
    };
    let records = FetchedRecords {
        topic: cursor.topic().to_owned(),
        partition: cursor.partition(),
        batches,
        records,
        next_offset: next.0,
        high_watermark: cursor.handle.marks().high_watermark().0,
        credit_bytes: bytes as i64,
    };
    let rest = rest.map(|(header, records)| Box::new(Rest { slot, next, header, records }));
    Read::Records { slot, records, rest }
}

/// The records that were asked for, out of what was read.
async fn take_out(collected: Collected, from: Offset, ask: &Ask) -> Result<Unpacked, BrokerError> {
    let storage = |reason: String| BrokerError::Storage { reason: reason.into() };
    // Ranges of several segments come in several answers: the next read goes on behind the first.
    let range = collected.into_ranges().into_iter().next().expect("there are bytes, so a range");
    let batches = range.bytes().map_err(|fault| storage(fault.to_string()))?;
    let bytes_max = ask.bytes_max;
    let unpacked = if ask.format == Format::Batches {
        Ok(Unpacked::whole(batches, from))
    } else if is_quick(&batches) {
        unpack(batches, from, bytes_max)
    } else {
        let unpacked = tokio::task::spawn_blocking(move || unpack(batches, from, bytes_max)).await;
        unpacked.map_err(|_| storage("unpacking stopped".into()))?
    };
    if range.poisoned() {
        return Err(storage("a page of the segment did not load".into()));
    }
    match unpacked {
        Ok(unpacked) if unpacked.next == from => Err(storage(format!("no batch is at {from}"))),
        unpacked => unpacked,
    }
}

fn is_quick(batches: &Bytes) -> bool {
    let is_plain = |header: BatchHeader| header.attributes.codec() == Codec::None.number();
    batches.len() <= INLINE_BYTES_MAX && headers(batches).all(is_plain)
}

/// The headers of whole batches, one behind the other.
fn headers(mut batches: &[u8]) -> impl Iterator<Item = BatchHeader> {
    std::iter::from_fn(move || {
        let header = BatchHeader::parse(batches).ok()?;
        batches = batches.get(header.size_bytes as usize..)?;
        Some(header)
    })
}

/// Records on their way into an answer.
struct Unpacked {
    /// Instead of records, where batches are wanted.
    batches: Bytes,
    records: Vec<Record>,
    /// Behind the last record.
    next: Offset,
    /// What they take of the credit.
    bytes: usize,
    rest: Option<(BatchHeader, Records)>,
}

impl Unpacked {
    fn from(next: Offset) -> Self {
        Self { batches: Bytes::new(), records: Vec::new(), next, bytes: 0, rest: None }
    }

    fn whole(batches: Bytes, from: Offset) -> Self {
        let next = headers(&batches).last().map_or(from, |header| header.next_offset());
        Self { bytes: batches.len(), batches, ..Self::from(next) }
    }

    /// Takes records from `self.next` on until there is no room; the first is taken whatever its size.
    fn take(
        &mut self,
        header: BatchHeader,
        mut records: Records,
        bytes_max: usize,
    ) -> Result<(), BrokerError> {
        loop {
            let rest = records.clone();
            let Some(read) = records.next() else { break };
            let read = read.map_err(|error| unreadable(&header, &error))?;
            let offset = header.base_offset.plus(read.offset_delta.into());
            if offset < self.next {
                continue;
            }
            let bytes = size_of(&read);
            if !self.records.is_empty() && self.bytes + bytes > bytes_max {
                self.rest = Some((header, rest));
                return Ok(());
            }
            self.bytes += bytes;
            self.next = offset.plus(1);
            self.records.push(translate(&header, offset, read));
        }
        self.next = self.next.max(header.next_offset());
        Ok(())
    }
}

/// Takes records out of their batches. A batch that cannot be read ends it, with an error if there was nothing before.
fn unpack(mut batches: Bytes, from: Offset, bytes_max: usize) -> Result<Unpacked, BrokerError> {
    let mut unpacked = Unpacked::from(from);
    while unpacked.rest.is_none()
        && unpacked.bytes < bytes_max
        && let Ok(header) = BatchHeader::parse(&batches)
        && batches.len() >= header.size_bytes as usize
    {
        let batch = batches.split_to(header.size_bytes as usize);
        let taken = record::records(&header, &batch, UNPACKED_BYTES_MAX)
            .map_err(|error| unreadable(&header, &error))
            .and_then(|records| unpacked.take(header, records, bytes_max));
        match taken {
            Err(error) if unpacked.records.is_empty() => return Err(error),
            Err(_) => break,
            Ok(()) => {}
        }
    }
    Ok(unpacked)
}

fn unreadable(header: &BatchHeader, error: &InvalidRecords) -> BrokerError {
    let offset = header.base_offset;
    BrokerError::InvalidRecord(format!(
        "the batch at offset {offset} cannot be unpacked: {error}; FORMAT_BATCHES gives it as it is"
    ))
}

fn size_of(record: &record::Record) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = (&record.headers).into_iter();
    let headers: usize =
        headers.map(|it| HEADER_OVERHEAD_BYTES + it.key.len() + length(&it.value)).sum();
    RECORD_OVERHEAD_BYTES + length(&record.key) + length(&record.value) + headers
}

/// A header's name that is no UTF-8 is shown as well as protobuf can.
fn translate(header: &BatchHeader, offset: Offset, record: record::Record) -> Record {
    let timestamp = if header.attributes.is_log_append_time() {
        header.max_timestamp
    } else {
        header.base_timestamp.wrapping_add(record.timestamp_delta)
    };
    let headers = record
        .headers
        .into_iter()
        .map(|it| Header { key: String::from_utf8_lossy(&it.key).into_owned(), value: it.value });
    Record {
        key: record.key,
        value: record.value,
        headers: headers.collect(),
        timestamp_ms: Some(timestamp),
        offset: offset.0,
    }
}

#[cfg(test)]
mod tests {
    use millrace_model::record::{BatchBuilder, NewRecord};

    use super::*;

    fn batch(codec: Codec, base: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        for value in values {
            builder.push(NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() });
        }
        let mut bytes = builder.build().to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes.into()
    }

    /// `offset value, ...`
    fn text(unpacked: &Unpacked) -> String {
        let one = |it: &Record| {
            let value = it.value.as_deref().unwrap();
            format!("{} {}", it.offset, String::from_utf8_lossy(value))
        };
        unpacked.records.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn exactly_the_records_that_were_asked_for_come_out() {
        for codec in Codec::ALL {
            let batches = [batch(codec, 7, &["a", "b", "c"]), batch(codec, 10, &["d"])].concat();
            let unpacked = unpack(batches.into(), Offset(8), 1 << 20).unwrap();
            assert_eq!(text(&unpacked), "8 b, 9 c, 10 d");
            assert_eq!((unpacked.next, unpacked.rest.is_none()), (Offset(11), true));
        }
    }

    #[test]
    fn what_has_no_room_is_the_rest() {
        let batches = batch(Codec::Zstd, 0, &["a", "b", "c"]);
        let one = RECORD_OVERHEAD_BYTES + 1;
        let mut unpacked = unpack(batches, Offset(0), 2 * one).unwrap();
        assert_eq!(text(&unpacked), "0 a, 1 b");
        assert_eq!((unpacked.next, unpacked.bytes), (Offset(2), 2 * one));
        let (header, rest) = unpacked.rest.take().unwrap();
        let mut unpacked = Unpacked::from(unpacked.next);
        unpacked.take(header, rest, 1).unwrap();
        assert_eq!(text(&unpacked), "2 c");
        assert_eq!((unpacked.next, unpacked.rest.is_none()), (Offset(3), true));
    }

    #[test]
    fn a_batch_is_not_begun_without_room() {
        let batches = [batch(Codec::None, 0, &["a"]), batch(Codec::None, 1, &["b"])].concat();
        let unpacked = unpack(batches.into(), Offset(0), 1).unwrap();
        assert_eq!(text(&unpacked), "0 a");
        assert_eq!((unpacked.next, unpacked.rest.is_none()), (Offset(1), true));
    }

    #[test]
    fn a_damaged_batch_is_an_error_of_its_own() {
        let good = batch(Codec::None, 0, &["a"]);
        let mut bad = batch(Codec::Zstd, 1, &["b"]).to_vec();
        bad.truncate(bad.len() - 1);
        let length = bad.len() as u32 - 12;
        bad[8..12].copy_from_slice(&length.to_be_bytes());
        let both = Bytes::from([&good[..], &bad].concat());
        assert_eq!(text(&unpack(both, Offset(0), 1 << 20).unwrap()), "0 a");
        let error = unpack(bad.into(), Offset(1), 1 << 20).err().unwrap();
        assert!(matches!(&error, BrokerError::InvalidRecord(it) if it.contains("offset 1")));
    }

    #[test]
    fn whole_batches_end_behind_their_last_record() {
        let batches = [batch(Codec::None, 7, &["a", "b"]), batch(Codec::Lz4, 9, &["c"])].concat();
        let length = batches.len();
        let whole = Unpacked::whole(batches.into(), Offset(8));
        assert_eq!((whole.next, whole.bytes, whole.records.len()), (Offset(10), length, 0));
        assert_eq!(Unpacked::whole(Bytes::new(), Offset(8)).next, Offset(8));
    }
}
