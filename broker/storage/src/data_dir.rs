//! One data directory: whose it is, who holds it, and how far each of its logs was durable when last recorded.
//!
//! ```text
//! .lock                  advisory lock, held for life
//! meta.properties        version=1, cluster.id, node.id, directory.id
//! .kafka_cleanshutdown   there only between a clean close and the next open
//! millrace-state.0, .1   exact recovery state, written in turn; the one with the higher generation counts
//! recovery-point-, replication-, log-start-offset-checkpoint   the same in Kafka's formats, which know offsets only
//!
//! millrace-state, big-endian; persisted, never reuse:
//!   magic "MILLSTAT" | version u32 = 1 | generation u64 | count u32
//!   each: topic length u16, topic | partition i32 | topic id 16 B | log start i64 | segment base i64 (-1: none)
//!         | position u64 | next offset i64 | epoch i32 | high watermark i64 | snapshot offset i64 (-1: none)
//!   CRC-32 (IEEE) of all before it, u32
//! ```
//! Durable bytes only are recorded, so whatever survives a crash is true. The topic id keeps a record about a deleted
//! topic from being held against a new one of the same name; `Log::open` compares it. Clean and unclean differ in whether the
//! recorded ends are the ends. Called by the shell: at start, by its housekeeper, and at the very end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use millrace_model::checksum::crc32_ieee;
use millrace_model::ids::{NodeId, PartitionIndex, TopicId, TopicName, TopicPartition};
use millrace_model::offset::{LeaderEpoch, Offset};
use tracing::warn;

use crate::checkpoint::{read_optional, write_file, write_files};
use crate::disk::Disk;
use crate::error::Fault;
use crate::log::{PartitionState, Trust};

/// The names that a directory carries for life. Drawn by the caller: there is no luck in the cellar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub node_id: NodeId,
    pub directory_id: String,
}

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("{path} is in use by another process; stop it, or choose another --data-dir", path = .0.display())]
    InUse(PathBuf),
    #[error(
        "{path} belongs to node {found}, this is node {asked}; set node.id={found}, or choose another --data-dir",
        path = path.display()
    )]
    OtherNode { path: PathBuf, found: NodeId, asked: NodeId },
    #[error(
        "{path} is no data directory: it has no meta.properties but holds {entry:?}; choose an empty --data-dir",
        path = path.display()
    )]
    Foreign { path: PathBuf, entry: String },
    #[error("{path} cannot be read as meta.properties: {reason}", path = path.display())]
    Meta { path: PathBuf, reason: String },
    #[error(transparent)]
    Disk(#[from] Fault),
}

/// A data directory in our hands.
pub struct DataDir<D: Disk> {
    disk: D,
    path: PathBuf,
    identity: Identity,
    was_clean: bool,
    /// What the last process recorded; `None` when neither generation can be read.
    recorded: Option<States>,
    recovery_points: BTreeMap<TopicPartition, Offset>,
    log_starts: BTreeMap<TopicPartition, Offset>,
    partitions: Vec<TopicPartition>,
    leftovers: Vec<PathBuf>,
    /// Guards the turn of writing state files.
    recorder: Mutex<Recorder>,
    _lock: D::Lock,
}

struct Recorder {
    /// Of the newest state file.
    generation: u64,
    /// What it holds.
    states: States,
}

impl<D: Disk> DataDir<D> {
    /// Takes `path` (which exists) into use: locks it, reads what the last process recorded, and takes the clean marker
    /// away, so that a crash from here on is seen as one. `fresh` becomes the identity of a new directory.
    ///
    /// # Errors
    /// [`DataDirError`] says who holds it or what is wrong with it.
    pub fn open(disk: D, path: &Path, fresh: Identity) -> Result<Self, DataDirError> {
        let lock = disk.lock(&path.join(LOCK_FILE)).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => DataDirError::InUse(path.to_owned()),
            _ => Fault::new("lock", path, &error).into(),
        })?;
        let identity = read_or_write_identity(&disk, path, fresh)?;
        let (generation, recorded) = read_state(&disk, path)?;
        let recorder = Recorder { generation, states: recorded.clone().unwrap_or_default() };
        let marker = path.join(CLEAN_MARKER);
        let was_clean = disk.exists(&marker).map_err(|it| Fault::new("look at", &marker, &it))?;
        if was_clean {
            disk.remove(&marker).map_err(|it| Fault::new("remove", &marker, &it))?;
            disk.sync_dir(path).map_err(|it| Fault::new("sync", path, &it))?;
        }
        let (partitions, leftovers) = list(&disk, path)?;
        Ok(Self {
            recovery_points: read_offsets(&disk, &path.join(RECOVERY_POINTS))?,
            log_starts: read_offsets(&disk, &path.join(LOG_STARTS))?,
            disk,
            path: path.to_owned(),
            identity,
            was_clean,
            recorded,
            partitions,
            leftovers,
            recorder: Mutex::new(recorder),
            _lock: lock,
        })
    }

    pub fn disk(&self) -> &D {
        &self.disk
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Did the last process close everything?
    pub fn was_clean(&self) -> bool {
        self.was_clean
    }

    /// Partition directories that were there at open, in order.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// Directories of deleted partitions (`*-delete`) whose removal was interrupted.
    pub fn leftovers(&self) -> &[PathBuf] {
        &self.leftovers
    }

    pub fn partition_dir(&self, partition: &TopicPartition) -> PathBuf {
        self.path.join(partition.to_string())
    }

    /// How much of a partition's files may be believed, by what was recorded before this open. Kafka's checkpoints are
    /// asked only when our own record is lost: they do not know which topic they speak of.
    pub fn trust(&self, partition: &TopicPartition) -> Trust {
        if let Some(recorded) = &self.recorded {
            return match recorded.get(partition) {
                Some(state) if self.was_clean => Trust::Clean(*state),
                Some(state) => Trust::Recorded(*state),
                None => Trust::Nothing,
            };
        }
        match self.recovery_points.get(partition) {
            Some(recovery_point) => {
                let log_start = self.log_starts.get(partition).copied().unwrap_or(Offset::ZERO);
                Trust::Offsets { log_start, recovery_point: *recovery_point }
            }
            None => Trust::Nothing,
        }
    }

    /// The topic that was last recorded under that name, for when `partition.metadata` is lost.
    pub fn recorded_topic_id(&self, partition: &TopicPartition) -> Option<TopicId> {
        Some(self.recorded.as_ref()?.get(partition)?.topic_id)
    }

    /// Records the durable state of logs, in our format and in Kafka's. Logs not mentioned keep what was recorded of
    /// them as long as their directory is there. Two barriers, however many files.
    ///
    /// # Errors
    /// Any failure; what was recorded before then still counts.
    pub fn record(&self, states: &[(TopicPartition, PartitionState)]) -> Result<(), Fault> {
        let mut recorder = self.recorder.lock().expect("no holder of this lock panics");
        let mut all: States = states.iter().cloned().collect();
        for (partition, state) in &recorder.states {
            let dir = self.partition_dir(partition);
            let exists = || self.disk.exists(&dir).map_err(|it| Fault::new("look at", &dir, &it));
            if !all.contains_key(partition) && exists()? {
                all.insert(partition.clone(), *state);
            }
        }
        let generation = recorder.generation + 1;
        let offsets = |of: fn(&PartitionState) -> Offset| encode_offsets(&all, of).into_bytes();
        let files = [
            (STATE_FILES[usize::from(generation % 2 == 1)], encode_state(generation, &all)),
            (RECOVERY_POINTS, offsets(|state| state.next_offset)),
            (HIGH_WATERMARKS, offsets(|state| state.high_watermark)),
            (LOG_STARTS, offsets(|state| state.log_start)),
        ];
        write_files(&self.disk, &self.path, &files)?;
        *recorder = Recorder { generation, states: all };
        Ok(())
    }

    /// The very last call: records the ends of all logs, every one closed, and marks the directory clean.
    ///
    /// # Errors
    /// Any failure: then the directory is not clean, and the next open recovers.
    pub fn close(&self, states: &[(TopicPartition, PartitionState)]) -> Result<(), Fault> {
        self.record(states)?;
        self.disk.sync_all().map_err(|error| Fault::new("sync", &self.path, &error))?;
        write_file(&self.disk, &self.path.join(CLEAN_MARKER), CLEAN_TEXT.as_bytes())
    }

    /// Removes a directory of this data directory with all files in it. No partition's directory has folders.
    ///
    /// # Errors
    /// The first entry that cannot be removed.
    pub fn remove_directory(&self, dir: &Path) -> Result<(), Fault> {
        let entries = self.disk.list(dir).map_err(|error| Fault::new("list", dir, &error))?;
        for entry in entries {
            let path = dir.join(entry.name);
            self.disk.remove(&path).map_err(|error| Fault::new("remove", &path, &error))?;
        }
        self.disk.remove_dir(dir).map_err(|error| Fault::new("remove", dir, &error))
    }
}

const LOCK_FILE: &str = ".lock";
const META_FILE: &str = "meta.properties";
const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
const CLEAN_TEXT: &str = "{\"version\":0,\"brokerEpoch\":-1}";
const STATE_FILES: [&str; 2] = ["millrace-state.0", "millrace-state.1"];
const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
const LOG_STARTS: &str = "log-start-offset-checkpoint";
const DELETED_SUFFIX: &str = "-delete";

fn read_or_write_identity<D: Disk>(
    disk: &D,
    dir: &Path,
    fresh: Identity,
) -> Result<Identity, DataDirError> {
    let path = dir.join(META_FILE);
    let Some(bytes) = read_optional(disk, &path)? else {
        let Identity { cluster_id, node_id, directory_id } = &fresh;
        let text = format!(
            "version=1\ncluster.id={cluster_id}\nnode.id={node_id}\ndirectory.id={directory_id}\n"
        );
        refuse_foreign(disk, dir)?;
        write_file(disk, &path, text.as_bytes())?;
        return Ok(fresh);
    };
    let found = parse_identity(&String::from_utf8_lossy(&bytes))
        .map_err(|reason| DataDirError::Meta { path: path.clone(), reason })?;
    if found.node_id != fresh.node_id {
        let (found, asked) = (found.node_id, fresh.node_id);
        return Err(DataDirError::OtherNode { path: dir.to_owned(), found, asked });
    }
    Ok(found)
}

/// A directory without our identity must be empty: it may be somebody's mistake.
fn refuse_foreign<D: Disk>(disk: &D, dir: &Path) -> Result<(), DataDirError> {
    let ours = |name: &str| name == LOCK_FILE || name == "lost+found" || name.ends_with(".tmp");
    let entries = disk.list(dir).map_err(|error| Fault::new("list", dir, &error))?;
    match entries.into_iter().find(|entry| !ours(&entry.name)) {
        Some(entry) => Err(DataDirError::Foreign { path: dir.to_owned(), entry: entry.name }),
        None => Ok(()),
    }
}

fn parse_identity(text: &str) -> Result<Identity, String> {
    let value = |key: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        let found = pairs.find(|(name, _)| name.trim() == key);
        found.map(|(_, value)| value.trim().to_owned()).ok_or(format!("it has no {key}"))
    };
    let version = value("version")?;
    if version != "1" {
        return Err(format!("its version is {version}, only 1 is known"));
    }
    let node_id = value("node.id")?;
    let node_id = node_id.parse().map_err(|_| format!("its node.id {node_id:?} is no number"))?;
    Ok(Identity {
        cluster_id: value("cluster.id")?,
        node_id: NodeId(node_id),
        directory_id: value("directory.id")?,
    })
}

/// The partitions and the leavings of deleted ones among the directories.
fn list<D: Disk>(disk: &D, dir: &Path) -> Result<(Vec<TopicPartition>, Vec<PathBuf>), Fault> {
    let entries = disk.list(dir).map_err(|error| Fault::new("list", dir, &error))?;
    let directories = entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name);
    let (deleted, others): (Vec<_>, Vec<_>) =
        directories.partition(|name| name.ends_with(DELETED_SUFFIX) && name.contains('.'));
    let mut partitions: Vec<_> =
        others.iter().filter_map(|name| TopicPartition::parse(name)).collect();
    partitions.sort();
    Ok((partitions, deleted.into_iter().map(|name| dir.join(name)).collect()))
}

// ---- The state file ----

const MAGIC: [u8; 8] = *b"MILLSTAT";
const VERSION: u32 = 1;
const NONE: i64 = -1;

type States = BTreeMap<TopicPartition, PartitionState>;

fn encode_state(generation: u64, states: &States) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&generation.to_be_bytes());
    let count = u32::try_from(states.len()).expect("partitions are far fewer than 2^32");
    out.extend_from_slice(&count.to_be_bytes());
    let optional = |offset: Option<Offset>| offset.map_or(NONE, |offset| offset.0);
    for (partition, state) in states {
        let topic = partition.topic.as_str().as_bytes();
        out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        out.extend_from_slice(topic);
        out.extend_from_slice(&partition.partition.0.to_be_bytes());
        out.extend_from_slice(&state.topic_id.0);
        out.extend_from_slice(&state.log_start.0.to_be_bytes());
        out.extend_from_slice(&optional(state.segment_base).to_be_bytes());
        out.extend_from_slice(&state.position.to_be_bytes());
        out.extend_from_slice(&state.next_offset.0.to_be_bytes());
        out.extend_from_slice(&state.epoch.0.to_be_bytes());
        out.extend_from_slice(&state.high_watermark.0.to_be_bytes());
        out.extend_from_slice(&optional(state.snapshot_offset).to_be_bytes());
    }
    let crc = crc32_ieee(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// `None` for whatever is not a whole, undamaged state file of a version we know.
fn decode_state(bytes: &[u8]) -> Option<(u64, States)> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32_ieee(body) != u32::from_be_bytes(*crc) {
        return None;
    }
    let mut fields = Fields(body);
    if fields.take::<8>()? != MAGIC || u32::from_be_bytes(fields.take()?) != VERSION {
        return None;
    }
    let generation = u64::from_be_bytes(fields.take()?);
    let count = u32::from_be_bytes(fields.take()?);
    let mut states = BTreeMap::new();
    for _ in 0..count {
        let (partition, state) = fields.partition()?;
        states.insert(partition, state);
    }
    fields.0.is_empty().then_some((generation, states))
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn offset(&mut self) -> Option<Offset> {
        self.i64().map(Offset)
    }

    fn optional(&mut self) -> Option<Option<Offset>> {
        self.i64().map(|offset| (offset != NONE).then_some(Offset(offset)))
    }

    fn partition(&mut self) -> Option<(TopicPartition, PartitionState)> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (topic, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        let topic = TopicName::parse(std::str::from_utf8(topic).ok()?).ok()?;
        let partition = PartitionIndex(i32::from_be_bytes(self.take()?));
        let state = PartitionState {
            topic_id: TopicId(self.take()?),
            log_start: self.offset()?,
            segment_base: self.optional()?,
            position: u64::from_be_bytes(self.take()?),
            next_offset: self.offset()?,
            epoch: LeaderEpoch(i32::from_be_bytes(self.take()?)),
            high_watermark: self.offset()?,
            snapshot_offset: self.optional()?,
        };
        Some((TopicPartition::new(topic, partition), state))
    }
}

/// The newer of the two state files that can be read. None at all is no error: whole logs are scanned then.
fn read_state<D: Disk>(disk: &D, dir: &Path) -> Result<(u64, Option<States>), Fault> {
    let mut newest = (0, None);
    for name in STATE_FILES {
        let path = dir.join(name);
        let Some(bytes) = read_optional(disk, &path)? else { continue };
        match decode_state(&bytes) {
            Some((generation, states)) if generation > newest.0 => {
                newest = (generation, Some(states));
            }
            Some(_) => {}
            None => warn!(path = %path.display(), "a damaged state file is passed over"),
        }
    }
    Ok(newest)
}

// ---- Kafka's offset checkpoints: "0\n<count>\n<topic> <partition> <offset>\n"... ----

fn encode_offsets(states: &States, of: fn(&PartitionState) -> Offset) -> String {
    let mut text = format!("0\n{}\n", states.len());
    for (TopicPartition { topic, partition }, state) in states {
        text.push_str(&format!("{topic} {partition} {}\n", of(state)));
    }
    text
}

fn read_offsets<D: Disk>(disk: &D, path: &Path) -> Result<BTreeMap<TopicPartition, Offset>, Fault> {
    let Some(bytes) = read_optional(disk, path)? else { return Ok(BTreeMap::new()) };
    let parsed = std::str::from_utf8(&bytes).ok().and_then(parse_offsets);
    Ok(parsed.unwrap_or_else(|| {
        warn!(path = %path.display(), "a damaged checkpoint is passed over");
        BTreeMap::new()
    }))
}

fn parse_offsets(text: &str) -> Option<BTreeMap<TopicPartition, Offset>> {
    let mut lines = text.lines();
    if lines.next()? != "0" {
        return None;
    }
    let count: usize = lines.next()?.parse().ok()?;
    let mut offsets = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let topic = TopicName::parse(words.next()?).ok()?;
        let partition = PartitionIndex(words.next()?.parse().ok()?);
        let offset = Offset(words.next()?.parse().ok()?);
        offsets.insert(TopicPartition::new(topic, partition), offset);
    }
    (offsets.len() == count).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::real::RealDisk;

    fn partition(topic: &str, index: i32) -> TopicPartition {
        TopicPartition::new(TopicName::parse(topic).unwrap(), PartitionIndex(index))
    }

    fn state(next: i64) -> PartitionState {
        PartitionState {
            topic_id: TopicId([7; 16]),
            log_start: Offset(3),
            segment_base: Some(Offset(0)),
            position: 4711,
            next_offset: Offset(next),
            epoch: LeaderEpoch(2),
            high_watermark: Offset(next),
            snapshot_offset: None,
        }
    }

    fn fresh() -> Identity {
        Identity { cluster_id: "c".into(), node_id: NodeId(1), directory_id: "d".into() }
    }

    fn open(path: &Path) -> Result<DataDir<RealDisk>, DataDirError> {
        DataDir::open(RealDisk::new(path).unwrap(), path, fresh())
    }

    #[test]
    fn state_survives_its_bytes_and_damage_is_seen() {
        let states = [(partition("a", 0), state(9)), (partition("b.c", 7), state(0))].into();
        let bytes = encode_state(5, &states);
        assert_eq!(decode_state(&bytes), Some((5, states)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode_state(&damaged), None, "byte {at}");
            assert_eq!(decode_state(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn the_newer_generation_counts_and_the_other_stands_in() {
        let dir = tempfile::tempdir().unwrap();
        let id = partition("t", 0);
        let data_dir = open(dir.path()).unwrap();
        assert_eq!(data_dir.trust(&id), Trust::Nothing);
        data_dir.record(&[(id.clone(), state(10))]).unwrap();
        data_dir.record(&[(id.clone(), state(20))]).unwrap();
        drop(data_dir);
        let data_dir = open(dir.path()).unwrap();
        assert_eq!(data_dir.trust(&id), Trust::Recorded(state(20)));
        drop(data_dir);
        std::fs::write(dir.path().join(STATE_FILES[0]), b"junk").unwrap();
        let data_dir = open(dir.path()).unwrap();
        assert_eq!(data_dir.trust(&id), Trust::Recorded(state(10)));
        drop(data_dir);
        std::fs::write(dir.path().join(STATE_FILES[1]), b"").unwrap();
        let expected = Trust::Offsets { log_start: Offset(3), recovery_point: Offset(20) };
        assert_eq!(open(dir.path()).unwrap().trust(&id), expected);
    }

    #[test]
    fn a_clean_close_is_believed_once() {
        let dir = tempfile::tempdir().unwrap();
        let id = partition("t", 0);
        let data_dir = open(dir.path()).unwrap();
        assert!(!data_dir.was_clean());
        data_dir.close(&[(id.clone(), state(10))]).unwrap();
        drop(data_dir);
        let data_dir = open(dir.path()).unwrap();
        assert_eq!(data_dir.trust(&id), Trust::Clean(state(10)));
        drop(data_dir);
        assert!(!open(dir.path()).unwrap().was_clean());
    }

    #[test]
    fn identity_is_kept_and_another_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let disk = RealDisk::new(dir.path()).unwrap();
        let other = Identity { cluster_id: "x".into(), directory_id: "y".into(), ..fresh() };
        assert_eq!(DataDir::open(disk.clone(), dir.path(), other).unwrap().identity(), &fresh());
        let other = Identity { node_id: NodeId(2), ..fresh() };
        let refused = DataDir::open(disk, dir.path(), other);
        assert!(matches!(refused, Err(DataDirError::OtherNode { .. })));
    }

    #[test]
    fn what_is_not_mentioned_stays_recorded_while_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (here, gone) = (partition("here", 0), partition("gone", 0));
        let data_dir = open(dir.path()).unwrap();
        std::fs::create_dir(data_dir.partition_dir(&here)).unwrap();
        data_dir.record(&[(here.clone(), state(10)), (gone.clone(), state(11))]).unwrap();
        data_dir.record(&[]).unwrap();
        drop(data_dir);
        let data_dir = open(dir.path()).unwrap();
        assert_eq!(data_dir.trust(&here), Trust::Recorded(state(10)));
        assert_eq!(data_dir.trust(&gone), Trust::Nothing);
    }

    #[test]
    fn a_directory_with_strange_files_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        assert!(matches!(open(dir.path()), Err(DataDirError::Foreign { .. })));
    }

    #[test]
    fn a_second_holder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        assert!(matches!(open(dir.path()), Err(DataDirError::InUse(_))));
        drop(first);
        assert!(open(dir.path()).is_ok());
    }

    #[test]
    fn directories_are_sorted_into_partitions_and_leavings() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        for name in ["a-1", "a-0", "b-2.AAAAAAAAAAAAAAAAAAAAAA-delete", "c-0.x-stray", "odd"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let data_dir = open(dir.path()).unwrap();
        assert_eq!(data_dir.partitions(), [partition("a", 0), partition("a", 1)]);
        assert_eq!(data_dir.leftovers().len(), 1);
        data_dir.remove_directory(&data_dir.leftovers()[0]).unwrap();
    }

    #[test]
    fn checkpoints_are_kafkas() {
        let states = [(partition("a", 0), state(9)), (partition("b", 1), state(4))].into();
        let text = encode_offsets(&states, |state| state.next_offset);
        assert_eq!(text, "0\n2\na 0 9\nb 1 4\n");
        let expected = [(partition("a", 0), Offset(9)), (partition("b", 1), Offset(4))];
        assert_eq!(parse_offsets(&text), Some(expected.into_iter().collect()));
        for bad in ["", "1\n0\n", "0\n2\na 0 9\n", "0\n1\na zero 9\n", "0\n1\n../x 0 9\n"] {
            assert_eq!(parse_offsets(bad), None, "{bad:?}");
        }
    }
}
