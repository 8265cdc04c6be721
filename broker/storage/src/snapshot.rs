//! Producer snapshots: what is known of idempotent producers at one offset, so that replay need not begin at the
//! start of the log. The file format lives here; its meaning is the kernel's (`partition/producers.rs`).
//!
//! ```text
//! <20-digit offset>.snapshot, big-endian, Kafka's format version 1:
//!  0 version        i16  1
//!  2 crc            u32  CRC-32C of bytes 6..
//!  6 count          i32
//! 10 entries, 46 bytes each:
//!    0 producer id i64, 8 epoch i16, 10 last sequence i32, 14 last offset i64, 22 offset delta i32, 26 timestamp i64,
//!   34 coordinator epoch i32, 38 first offset of the open transaction i64 or -1
//! ```
//! Persisted: never reuse. Only the last batch of each producer is kept, as in Kafka.

use millrace_model::checksum::crc32c;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_model::offset::Offset;

const VERSION: i16 = 1;
const HEADER_BYTES: usize = 10;
const CRC_START: usize = 6;
const ENTRY_BYTES: usize = 46;

/// One producer in a snapshot: its last batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub last_sequence: i32,
    pub last_offset: Offset,
    /// Last offset minus first offset of the batch.
    pub offset_delta: i32,
    pub timestamp: i64,
    pub coordinator_epoch: i32,
    /// -1 when no transaction is open.
    pub transaction_first_offset: i64,
}

pub(crate) fn encode(entries: &[ProducerEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES);
    out.extend(VERSION.to_be_bytes());
    out.extend([0; 4]);
    out.extend((entries.len() as i32).to_be_bytes());
    for entry in entries {
        out.extend(entry.producer_id.0.to_be_bytes());
        out.extend(entry.producer_epoch.0.to_be_bytes());
        out.extend(entry.last_sequence.to_be_bytes());
        out.extend(entry.last_offset.0.to_be_bytes());
        out.extend(entry.offset_delta.to_be_bytes());
        out.extend(entry.timestamp.to_be_bytes());
        out.extend(entry.coordinator_epoch.to_be_bytes());
        out.extend(entry.transaction_first_offset.to_be_bytes());
    }
    let crc = crc32c(&out[CRC_START..]);
    out[2..CRC_START].copy_from_slice(&crc.to_be_bytes());
    out
}

/// `None` for anything but a whole, checksummed snapshot.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<ProducerEntry>> {
    let mut rest = bytes;
    let version = i16::from_be_bytes(take(&mut rest)?);
    let crc = u32::from_be_bytes(take(&mut rest)?);
    if version != VERSION || crc32c(rest) != crc {
        return None;
    }
    let count = usize::try_from(i32::from_be_bytes(take(&mut rest)?)).ok()?;
    if rest.len() != count.checked_mul(ENTRY_BYTES)? {
        return None;
    }
    rest.chunks_exact(ENTRY_BYTES).map(decode_entry).collect()
}

fn decode_entry(mut bytes: &[u8]) -> Option<ProducerEntry> {
    let bytes = &mut bytes;
    Some(ProducerEntry {
        producer_id: ProducerId(i64::from_be_bytes(take(bytes)?)),
        producer_epoch: ProducerEpoch(i16::from_be_bytes(take(bytes)?)),
        last_sequence: i32::from_be_bytes(take(bytes)?),
        last_offset: Offset(i64::from_be_bytes(take(bytes)?)),
        offset_delta: i32::from_be_bytes(take(bytes)?),
        timestamp: i64::from_be_bytes(take(bytes)?),
        coordinator_epoch: i32::from_be_bytes(take(bytes)?),
        transaction_first_offset: i64::from_be_bytes(take(bytes)?),
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_survive_a_round_trip_and_no_flipped_bit_does() {
        let entry = ProducerEntry {
            producer_id: ProducerId(4000),
            producer_epoch: ProducerEpoch(2),
            last_sequence: 17,
            last_offset: Offset(99),
            offset_delta: 3,
            timestamp: 1_700_000_000_000,
            coordinator_epoch: -1,
            transaction_first_offset: -1,
        };
        let bytes = encode(&[entry, entry]);
        assert_eq!(bytes.len(), HEADER_BYTES + 2 * ENTRY_BYTES);
        assert_eq!(decode(&bytes), Some(vec![entry, entry]));
        assert_eq!(decode(&encode(&[])), Some(vec![]));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "{len} bytes");
        }
    }
}
