//! Failing disks, on a real broker process: nothing is acknowledged that may be lost, reads go on, and it is said.
//!
//! System calls fail because strace makes them; a full disk is a small tmpfs. Where one of them cannot be had the tests
//! say so.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millrace_tests::ask::{EARLIEST, LATEST, fresh, produce_request, produced};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, http_get, until};
use millrace_tests::records::batch;
use rustix::process::{Pid, Signal, kill_process};

use crate::broker::{broker, prepared, skip};

const KAFKA_STORAGE_ERROR: i16 = 56;
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes system calls of a running broker fail until this is dropped.
struct Injection {
    strace: Child,
}

impl Injection {
    /// `calls` as strace names them, `error` as errno does. `None`, loudly, where there is no strace or it may not
    /// trace.
    fn start(test: &str, broker: &BrokerProcess, calls: &str, error: &str) -> Option<Self> {
        let pid = broker.pid()?.to_string();
        let inject = format!("inject={calls}:error={error}");
        let spawned = Command::new("strace")
            .args(["-f", "-p", &pid, "-e", &format!("trace={calls}"), "-e", &inject])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut strace) = spawned else {
            skip(test, "there is no strace");
            return None;
        };
        // What it writes must be read, or it stops; how it begins says whether it may trace.
        let stderr = strace.stderr.take().expect("a pipe was asked for");
        let mut lines = BufReader::new(stderr).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        std::thread::spawn(move || lines.for_each(drop));
        let mut injection = Self { strace };
        if !first.contains("attached") {
            skip(test, &format!("strace cannot trace: {first}"));
            return None;
        }
        let attached = until(PATIENCE, || injection.is_everywhere(&pid).then_some(()));
        assert!(attached.is_some(), "strace never attached to every thread");
        Some(injection)
    }

    fn is_everywhere(&mut self, pid: &str) -> bool {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the broker runs");
        let mine = format!("TracerPid:\t{}", self.strace.id());
        tasks.flatten().all(|task| {
            let status = fs::read_to_string(task.path().join("status"));
            status.map_or(true, |it| it.lines().any(|line| line == mine))
        })
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // Asked to stop it lets go of the broker; killed it might not.
        let _ = kill_process(Pid::from_child(&self.strace), Signal::TERM);
        let _ = self.strace.wait();
    }
}

/// A topic with one acknowledged record in each of its partitions.
fn acknowledged(client: &mut Connection, partitions: i32) -> String {
    let topic = fresh("faulty");
    client.create_topic(&topic, partitions, &[]);
    for partition in 0..partitions {
        assert_eq!(client.produce(&topic, partition, &batch(&["acknowledged"])), Ok(0));
    }
    topic
}

fn health(broker: &BrokerProcess, path: &str) -> (u16, String) {
    http_get(broker.http, path).expect("the ops port answers")
}

/// The broker says that it failed, and why, to whoever asks.
fn says_failed(broker: &BrokerProcess) {
    for path in ["/healthz", "/readyz"] {
        let said = until(PATIENCE, || {
            let (status, text) = health(broker, path);
            (status == 503 && text.contains("failed")).then_some(text)
        });
        assert!(said.is_some(), "{path}: {:?}", health(broker, path));
    }
}

/// A failed sync, of one file or of several, is final: the kernel has forgotten which pages were not written.
/// A log file lies on a disk too, often on the one that is full.
#[test]
fn a_broker_that_can_write_no_log_line_works_on() {
    let mut broker = prepared(&["tracing.filter=trace"]);
    broker.output = Some("/dev/full".into());
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("unlogged");
    client.create_topic(&topic, 1, &[]);
    assert_eq!(client.produce(&topic, 0, &batch(&["a"])), Ok(0));
    assert_eq!(client.read_all(&topic, 0), [(0, "a".to_owned())]);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_failed_sync_acknowledges_nothing_for_good() {
    const TEST: &str = "a_failed_sync_acknowledges_nothing_for_good";
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = acknowledged(&mut client, 3);
    let other = acknowledged(&mut client, 1);
    let Some(injection) = Injection::start(TEST, &broker, "fdatasync,syncfs,fsync", "EIO") else {
        return;
    };
    let parts: Vec<_> = (0..3).map(|it| (it, batch(&["lost"]))).collect();
    for answer in produced(client.ask(9, &produce_request(-1, &topic, &parts))) {
        assert_eq!(answer.error_code, KAFKA_STORAGE_ERROR, "partition {}", answer.index);
    }
    drop(injection);
    says_failed(&broker);
    // The disk is well again, but what it dropped meanwhile is not known: only a restart can find out.
    for (topic, partition) in [(&topic, 0), (&topic, 1), (&other, 0)] {
        let answer = client.produce(topic, partition, &batch(&["late"]));
        assert_eq!(answer, Err(KAFKA_STORAGE_ERROR), "{topic}-{partition}");
        assert_eq!(client.offset(topic, partition, LATEST), 1, "nothing more is shown");
        let found = client.read_all(topic, partition);
        assert_eq!(found, [(0, "acknowledged".to_owned())], "reads go on");
    }
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    for partition in 0..3 {
        let found = client.read_all(&topic, partition);
        assert_eq!(found[0], (0, "acknowledged".to_owned()), "partition {partition}");
        assert!(client.produce(&topic, partition, &batch(&["again"])).is_ok());
    }
}

/// A failed write ends its partition and nobody else's.
#[test]
fn a_failed_write_acknowledges_nothing() {
    const TEST: &str = "a_failed_write_acknowledges_nothing";
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = acknowledged(&mut client, 2);
    let calls = "pwritev,pwritev2,pwrite64";
    let Some(injection) = Injection::start(TEST, &broker, calls, "EIO") else { return };
    assert_eq!(client.produce(&topic, 0, &batch(&["lost"])), Err(KAFKA_STORAGE_ERROR));
    drop(injection);
    assert_eq!(client.produce(&topic, 0, &batch(&["late"])), Err(KAFKA_STORAGE_ERROR));
    assert_eq!(client.read_all(&topic, 0), [(0, "acknowledged".to_owned())]);
    assert_eq!(client.produce(&topic, 1, &batch(&["other"])), Ok(1), "the others go on");
    broker.kill();
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    assert_eq!(client.read_all(&topic, 0), [(0, "acknowledged".to_owned())]);
    assert_eq!(client.produce(&topic, 0, &batch(&["again"])), Ok(1));
}

/// A write that finds no space is refused, and the partition takes writes again when there is some.
#[test]
fn a_write_without_space_is_refused_until_there_is_some() {
    const TEST: &str = "a_write_without_space_is_refused_until_there_is_some";
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = acknowledged(&mut client, 1);
    let calls = "pwritev,pwritev2,pwrite64";
    let Some(injection) = Injection::start(TEST, &broker, calls, "ENOSPC") else { return };
    for _ in 0..3 {
        assert_eq!(client.produce(&topic, 0, &batch(&["lost"])), Err(KAFKA_STORAGE_ERROR));
    }
    assert_eq!(client.read_all(&topic, 0), [(0, "acknowledged".to_owned())]);
    drop(injection);
    let back = until(PATIENCE, || client.produce(&topic, 0, &batch(&["again"])).ok());
    assert_eq!(back, Some(1), "nothing lies between");
    assert_eq!(health(&broker, "/healthz").0, 200);
}

/// A file system of so many bytes, gone when this is dropped.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(test: &str, size_bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_bytes}"), "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|it| it.success()) {
            skip(test, "mounting a tmpfs is not allowed here");
            return None;
        }
        Some(Self { directory })
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.directory.path()).status();
    }
}

/// Something else that needs the space.
fn fill_disk(path: &Path, leave_bytes: u64) {
    let ballast = fs::File::create(path).expect("there is space for a name");
    let space = rustix::fs::statvfs(path).expect("a mounted file system");
    let free = space.f_bavail * space.f_frsize;
    let block = vec![0xaa; 64 * 1024];
    let blocks = free.saturating_sub(leave_bytes) / block.len() as u64;
    for at in 0..blocks {
        let at = at * block.len() as u64;
        rustix::io::pwrite(&ballast, &block, at).expect("there is space");
    }
}

#[test]
fn a_full_disk_refuses_produce_before_space_is_gone_and_recovers() {
    const TEST: &str = "a_full_disk_refuses_produce_before_space_is_gone_and_recovers";
    const MIB: u64 = 1 << 20;
    let Some(disk) = SmallDisk::mount(TEST, 64 * MIB) else { return };
    let mut broker = prepared(&[]);
    broker.data_dir = Some(disk.path());
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    let topic = acknowledged(&mut client, 2);
    let ballast = disk.directory.path().join("ballast");

    // A twentieth of the disk is kept back; less than that is free now.
    fill_disk(&ballast, 2 * MIB);
    let mut end = 1;
    let refused = until(PATIENCE, || match client.produce(&topic, 0, &batch(&["more"])) {
        Ok(offset) => {
            assert_eq!(offset, end);
            end += 1;
            None
        }
        Err(code) => Some(code),
    });
    assert_eq!(refused, Some(KAFKA_STORAGE_ERROR));
    let space = rustix::fs::statvfs(disk.path()).unwrap();
    assert!(space.f_bavail * space.f_frsize >= MIB, "space is left");
    assert_eq!(client.read_all(&topic, 0).len() as i64, end, "reads go on");
    assert_eq!(client.produce(&topic, 1, &batch(&["more"])), Err(KAFKA_STORAGE_ERROR));
    assert!(commits(&mut client, &topic), "commits go on");
    assert!(broker.is_running());

    fs::remove_file(&ballast).unwrap();
    let back = until(PATIENCE, || client.produce(&topic, 0, &batch(&["again"])).ok());
    assert_eq!(back, Some(end), "nothing lies between");
    broker.kill();
    broker.launch();
    let found = Connection::open(broker.kafka).read_all(&topic, 0);
    assert_eq!(found.len() as i64, end + 1);
}

fn commits(client: &mut Connection, topic: &str) -> bool {
    let offsets = [((topic.to_owned(), 0), 1)].into();
    let request = millrace_tests::group::commit_request(&fresh("group"), &offsets);
    let answer = client.ask(millrace_tests::group::OFFSET_COMMIT, &request);
    answer.topics[0].partitions[0].error_code == 0
}

/// The disk fills to its last byte while producers write as fast as they can.
#[test]
fn a_disk_that_is_filled_to_the_brim_loses_nothing_acknowledged() {
    const TEST: &str = "a_disk_that_is_filled_to_the_brim_loses_nothing_acknowledged";
    const MIB: u64 = 1 << 20;
    let Some(disk) = SmallDisk::mount(TEST, 48 * MIB) else { return };
    let mut broker = prepared(&[]);
    broker.data_dir = Some(disk.path());
    broker.launch();
    let mut client = Connection::open(broker.kafka);
    let topic = acknowledged(&mut client, 1);
    let ballast = disk.directory.path().join("ballast");
    let value = "x".repeat(300_000);
    for round in 0..3 {
        fill_disk(&ballast, MIB);
        let mut end = client.offset(&topic, 0, LATEST);
        let refused = until(PATIENCE, || match client.produce(&topic, 0, &batch(&[&value])) {
            Ok(offset) => {
                assert_eq!(offset, end, "round {round}");
                end += 1;
                None
            }
            Err(code) => Some(code),
        });
        assert_eq!(refused, Some(KAFKA_STORAGE_ERROR), "round {round}");
        assert_eq!(client.offset(&topic, 0, LATEST), end, "round {round}");
        assert_eq!(client.read_all(&topic, 0).len() as i64, end, "round {round}");
        broker.kill();
        fs::remove_file(&ballast).unwrap();
        broker.launch();
        client = Connection::open(broker.kafka);
        assert_eq!(client.offset(&topic, 0, EARLIEST), 0);
        assert_eq!(client.read_all(&topic, 0).len() as i64, end, "round {round}");
        let next = until(PATIENCE, || client.produce(&topic, 0, &batch(&["next"])).ok());
        assert_eq!(next, Some(end), "round {round}");
    }
}
