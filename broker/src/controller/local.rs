//! One local log as the metadata log of a cluster of one: an entry is one record batch of `__cluster_metadata-0`, whose
//! records are the kernel's metadata records. Committed is what is on stable storage.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use millrace_kernel::metadata::record::{InvalidRecord, Record};
use millrace_kernel::metadata_log::{Committed, Leadership, MetadataLog, NotLeader, ProposalId};
use millrace_model::batch::{BatchHeader, InvalidHeader, crc_matches};
use millrace_model::compression::Codec;
use millrace_model::ids::{PartitionIndex, TopicId, TopicName, TopicPartition};
use millrace_model::offset::{LeaderEpoch, Offset};
use millrace_model::record::{BatchBuilder, InvalidRecords, NewRecord, records};
use millrace_storage::checkpoint::PendingFile;
use millrace_storage::data_dir::DataDir;
use millrace_storage::disk::Disk;
use millrace_storage::disk::real::RealDisk;
use millrace_storage::error::{AppendError, Fault, OpenError, ReadError};
use millrace_storage::log::{AppendBatch, Checkpoint, Doomed, Log, LogConfig, PartitionState};
use tracing::warn;

use crate::partition::clock::Clock;

/// The metadata topic's id in Kafka (`Uuid.METADATA_TOPIC_ID`).
const METADATA_TOPIC_ID: TopicId = TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// A log of a cluster of one has one epoch: nobody else ever leads it.
const EPOCH: LeaderEpoch = LeaderEpoch(1);
/// Bytes read at a time in replay.
const READ_BYTES: u32 = 1 << 20;
/// An entry larger than a segment cannot be written; the controller's own limits keep entries far below.
const SEGMENT_BYTES: u32 = 1 << 30;

/// Why the metadata log cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum LocalLogError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Disk(#[from] Fault),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error("sync failed: {0}")]
    Sync(std::io::Error),
    #[error("metadata batch at offset {at}: {error}")]
    Header { at: Offset, error: InvalidHeader },
    #[error("metadata batch at offset {at} does not match its checksum")]
    Checksum { at: Offset },
    #[error("metadata batch at offset {at}: {error}")]
    Records { at: Offset, error: InvalidRecords },
    #[error("metadata record at offset {at}: {error}; was it written by a newer version?")]
    Record { at: Offset, error: InvalidRecord },
}

/// How far the metadata log is durable: set by the controller's thread, put into the state file by the housekeeper. What
/// is recorded there is never taken for a torn tail.
#[derive(Clone, Default)]
pub(crate) struct DurableState(Arc<Mutex<Option<PartitionState>>>);

impl DurableState {
    /// The log's name with its state; `None` before it was opened.
    pub(crate) fn get(&self) -> Option<(TopicPartition, PartitionState)> {
        let state = *self.0.lock().expect("no holder panics");
        state.map(|state| (metadata_partition(), state))
    }

    fn set(&self, state: PartitionState) {
        *self.0.lock().expect("no holder panics") = Some(state);
    }
}

fn metadata_partition() -> TopicPartition {
    let topic = TopicName::parse(TopicName::CLUSTER_METADATA).expect("a legal name");
    TopicPartition::new(topic, PartitionIndex(0))
}

/// The log, written by the controller's thread alone.
pub(crate) struct LocalLog {
    log: Log<RealDisk>,
    disk: RealDisk,
    clock: Clock,
    next_proposal: u64,
    /// Written, not yet synced.
    written: VecDeque<Committed>,
    /// Synced, not yet taken.
    committed: VecDeque<Committed>,
    /// A write that failed: reported by the next sync, for a proposal cannot fail but by losing the lead.
    failed: Option<LocalLogError>,
    /// Segments before the last snapshot.
    doomed: Vec<Doomed<RealDisk>>,
    durable: DurableState,
}

impl LocalLog {
    /// Opens, or begins, the metadata log; everything it holds is committed again.
    ///
    /// # Errors
    /// A log that cannot be read: topics are never guessed from what directories happen to be there.
    pub(crate) fn open(
        data_dir: &DataDir<RealDisk>,
        clock: Clock,
        durable: DurableState,
    ) -> Result<Self, LocalLogError> {
        let disk = data_dir.disk().clone();
        let id = metadata_partition();
        let dir = data_dir.partition_dir(&id);
        let config = LogConfig {
            segment_bytes: SEGMENT_BYTES,
            retention_ms: -1,
            retention_bytes: -1,
            ..LogConfig::default()
        };
        let log = if disk.exists(&dir).map_err(LocalLogError::Sync)? {
            let trust = data_dir.trust(&id);
            let (log, recovered) = Log::open(disk.clone(), &dir, config, trust, clock.now().wall)?;
            if let Some(torn) = recovered.torn {
                warn!(offset = %torn.end, bytes = torn.bytes, "an unfinished metadata entry was cut");
            }
            log
        } else {
            Log::create(disk.clone(), &dir, METADATA_TOPIC_ID, config)?
        };
        let mut opened = Self {
            log,
            disk,
            clock,
            next_proposal: 0,
            written: VecDeque::new(),
            committed: VecDeque::new(),
            failed: None,
            doomed: Vec::new(),
            durable,
        };
        opened.replay()?;
        // What was only in the page cache must be durable before anything rests on it.
        opened.disk.sync_all().map_err(LocalLogError::Sync)?;
        let end = opened.log.end();
        opened.log.mark_durable(end);
        opened.publish()?;
        Ok(opened)
    }

    /// Tells the housekeeper how far the log is durable.
    fn publish(&mut self) -> Result<(), LocalLogError> {
        let Checkpoint { state, epochs } = self.log.checkpoint(self.log.durable_end())?;
        epochs.map_or(Ok(()), PendingFile::write)?;
        self.durable.set(state);
        Ok(())
    }

    fn replay(&mut self) -> Result<(), LocalLogError> {
        let reader = self.log.reader();
        let (mut at, end) = (reader.start(), reader.end());
        while at < end {
            let read = reader.read(at, end, READ_BYTES, true)?;
            for range in &read.ranges {
                self.replay_bytes(range.bytes()?)?;
            }
            at = read.next;
        }
        Ok(())
    }

    fn replay_bytes(&mut self, mut bytes: Bytes) -> Result<(), LocalLogError> {
        while !bytes.is_empty() {
            let at =
                self.committed.back().map_or(Offset::ZERO, |it| Offset(it.index.cast_signed()));
            let header =
                BatchHeader::parse(&bytes).map_err(|error| LocalLogError::Header { at, error })?;
            let at = header.base_offset;
            if !crc_matches(&header, &bytes) {
                return Err(LocalLogError::Checksum { at });
            }
            let batch = bytes.split_to(header.size_bytes as usize);
            let broken = |error| LocalLogError::Records { at, error };
            let mut entry = Vec::with_capacity(header.record_count.max(0).unsigned_abs() as usize);
            for record in records(&header, &batch, batch.len()).map_err(broken)? {
                let value = record.map_err(broken)?.value.unwrap_or_default();
                let record =
                    Record::decode(&value).map_err(|error| LocalLogError::Record { at, error })?;
                entry.push(record);
            }
            let index = index_of(header.next_offset());
            self.committed.push_back(Committed { index, records: entry, proposal: None });
        }
        Ok(())
    }

    /// Makes everything proposed so far durable, and so committed.
    ///
    /// # Errors
    /// The first write or sync that failed. There is no second try: the node stops.
    pub(crate) fn sync(&mut self) -> Result<(), LocalLogError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if let Some(ticket) = self.log.take_unsynced() {
            let files: Vec<_> = ticket.files().collect();
            self.disk.sync_set(&files).map_err(LocalLogError::Sync)?;
            drop(files);
            self.log.mark_durable(ticket.end());
            self.publish()?;
        }
        self.committed.append(&mut self.written);
        for doomed in self.doomed.drain(..) {
            if let Err(error) = doomed.unlink() {
                warn!(%error, "an old metadata segment is not removed");
            }
        }
        Ok(())
    }

    fn append(&mut self, entry: &[Record]) -> Result<Offset, AppendError> {
        let now = self.clock.now().wall;
        let mut builder = BatchBuilder::new(Codec::None);
        for record in entry {
            let value = record.encode();
            let (timestamp, value) = (now.0, Some(value.as_slice()));
            builder.push(NewRecord { timestamp, value, ..NewRecord::default() });
        }
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).expect("a built batch has a header");
        let base = self.log.end();
        let batch = AppendBatch { header: &header, bytes: &bytes, base, epoch: EPOCH };
        self.log.append(&[batch], now).map(|appended| appended.end)
    }
}

/// An entry's index is the offset behind it: 0 is "nothing applied yet".
fn index_of(end: Offset) -> u64 {
    u64::try_from(end.0).expect("offsets are not negative")
}

impl MetadataLog for LocalLog {
    fn propose(&mut self, records: Vec<Record>) -> Result<ProposalId, NotLeader> {
        let id = ProposalId(self.next_proposal);
        self.next_proposal += 1;
        match self.append(&records) {
            Ok(end) => {
                let index = index_of(end);
                self.written.push_back(Committed { index, records, proposal: Some(id) });
            }
            Err(error) => {
                self.failed.get_or_insert(error.into());
            }
        }
        Ok(id)
    }

    fn next_committed(&mut self) -> Option<Committed> {
        self.committed.pop_front()
    }

    fn leadership(&self) -> Leadership {
        Leadership::Leader { epoch: EPOCH }
    }

    fn trim_before(&mut self, index: u64) {
        // `index` is behind the snapshot's batch; the batch itself must stay, and it ends there.
        let reader = self.log.reader();
        let last = Offset(index.cast_signed() - 1);
        let first = match reader.headers(last, reader.end()).map(|mut headers| headers.next()) {
            Ok(Some(Ok(header))) => header.base_offset,
            _ => return,
        };
        self.doomed.extend(self.log.trim_before(first));
    }
}
