//! The machine in one line, for figures mean nothing without it; and how to let it come to rest.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::watch;

/// Dirty pages below this do not disturb a run.
const QUIET_BYTES: u64 = 8 << 20;
const REST_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(500);
/// Shares of one CPU that count as rest.
const PROCESS_BUSY: f64 = 0.1;
const MACHINE_BUSY: f64 = 0.4;

/// CPU, memory, kernel, and the file system that holds `directory`.
pub fn facts(directory: &Path) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = meminfo("MemTotal:") >> 20;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({model}), {} GiB, Linux {}, {}",
        (memory as f64 / 1024.0).round(),
        kernel.trim(),
        file_system(directory)
    )
}

/// Writes back all that is dirty, and waits until it is.
pub fn settle() {
    rustix::fs::sync();
    let deadline = Instant::now() + REST_MAX;
    while meminfo("Dirty:") + meminfo("Writeback:") > QUIET_BYTES && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        rustix::fs::sync();
    }
}

/// Touches so much free memory and lets go of it, so that a run's page cache comes from pages that are really there.
///
/// A virtual machine hands free memory back to its host. The first touch of such a page costs several times the copy
/// into it, and which run meets how many of them is luck. To hold the memory between runs instead, or to touch all of
/// it, was worse: the kernel then spends the next run telling the host what is free again.
pub fn touch_memory(bytes: u64) {
    let bytes = bytes.min(meminfo("MemAvailable:") / 2);
    let mut memory = vec![0_u8; bytes as usize];
    memory.iter_mut().step_by(rustix::param::page_size()).for_each(|byte| *byte = 1);
    drop(std::hint::black_box(memory));
}

/// Waits until a process, and the machine around it, has little to do; not for ever.
pub fn wait_for_rest(pid: Option<u32>) {
    let deadline = Instant::now() + REST_MAX;
    let busy = || {
        (pid.and_then(watch::cpu_seconds).unwrap_or(0.0), watch::machine_seconds().unwrap_or(0.0))
    };
    while Instant::now() < deadline {
        let before = busy();
        std::thread::sleep(LOOK);
        let after = busy();
        let share = |seconds: f64| seconds / LOOK.as_secs_f64();
        if share(after.0 - before.0) < PROCESS_BUSY && share(after.1 - before.1) < MACHINE_BUSY {
            return;
        }
    }
}

/// Bytes of the files below a directory.
pub fn used_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => used_bytes(&entry.path()),
        Ok(data) => std::os::unix::fs::MetadataExt::blocks(&data) * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

/// What may still be written to the file system of `directory`.
pub fn free_bytes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(0, |it| it.f_bavail * it.f_frsize)
}

fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// The type of the file system by the longest mount point above `directory`.
fn file_system(directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let kinds = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        directory.starts_with(at).then(|| (at.len(), kind.to_owned()))
    });
    kinds.max_by_key(|(length, _)| *length).map_or("unknown".into(), |(_, kind)| kind)
}
