//! The broker from outside: CPU time and memory by `/proc`, syncs by its metrics page, and what else the machine did.
//!
//! A thread of its own looks at the begin and at the end of the window, so that looking delays no request.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::Mark;

/// Ticks of `/proc/<pid>/stat` a second (`USER_HZ`), fixed on every Linux.
const TICKS: f64 = 100.0;
const SYNCS: &str = "millrace_syncs_total";

/// What to look at; with nothing set there is nothing to report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    pub pid: Option<u32>,
    /// Where `GET /metrics` is answered.
    pub metrics: Option<SocketAddr>,
}

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    pub cpu_seconds: Option<f64>,
    pub memory: Option<Memory>,
    pub syncs: Option<u64>,
    /// Busy time of all CPUs.
    pub machine_seconds: f64,
}

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub anonymous_bytes: u64,
    pub file_bytes: u64,
}

impl Watch {
    pub fn look(&self) -> Look {
        Look {
            cpu_seconds: self.pid.and_then(cpu_seconds),
            memory: self.pid.and_then(memory),
            syncs: self.metrics.and_then(|address| syncs(&http_get(address, "/metrics")?)),
            machine_seconds: machine_seconds().unwrap_or_default(),
        }
    }
}

/// Looks whenever it is told to.
#[derive(Debug)]
pub struct Observer {
    tell: Sender<Mark>,
    thread: JoinHandle<Vec<Look>>,
}

impl Observer {
    pub fn start(watch: Watch) -> Self {
        let (tell, told): (Sender<Mark>, Receiver<Mark>) = channel();
        let thread = std::thread::spawn(move || told.iter().map(|_| watch.look()).collect());
        Self { tell, thread }
    }

    pub fn mark(&self, mark: Mark) {
        // The thread ends only after this sender is gone.
        let _ = self.tell.send(mark);
    }

    /// Both looks, when both marks came.
    pub fn finish(self) -> Option<(Look, Look)> {
        drop(self.tell);
        let looks = self.thread.join().ok()?;
        Some((*looks.first()?, *looks.get(1)?))
    }
}

/// CPU time of a process, its threads and those that ended.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let field = |index: usize| stat_field(&stat, index);
    Some((field(14)? + field(15)?) as f64 / TICKS)
}

/// When a process began, in seconds since the machine did.
pub fn started_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat_field(&stat, 22)? as f64 / TICKS)
}

/// A field of `/proc/<pid>/stat` as `proc(5)` numbers them, from 3 on; the name before may hold spaces.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(number - 3)?.trim().parse().ok()
}

pub fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|it| it * 1024)
    };
    Some(Memory { anonymous_bytes: bytes("RssAnon:")?, file_bytes: bytes("RssFile:")? })
}

/// Busy time of all CPUs.
pub fn machine_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let times = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = times.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy: u64 = times.iter().take(8).sum::<u64>() - times.get(3)? - times.get(4)?;
    Some(busy as f64 / TICKS)
}

/// The body of a page; `None` when there is none.
pub fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    let (head, body) = page.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// The sum over all labels.
fn syncs(page: &str) -> Option<u64> {
    let values: Vec<f64> = page
        .lines()
        .filter_map(|line| line.strip_prefix(SYNCS)?.rsplit_once([' ', '}'])?.1.trim().parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_summed_over_their_labels() {
        let page = "# HELP millrace_syncs_total x\n# TYPE millrace_syncs_total counter\n\
                    millrace_syncs_total{kind=\"fdatasync\"} 2\nmillrace_syncs_total{kind=\"syncfs\"} 40\n";
        assert_eq!(syncs(page), Some(42));
        assert_eq!(syncs("millrace_syncs_total 7\n"), Some(7));
        assert_eq!(syncs("other 7\n"), None);
    }

    #[test]
    fn a_process_is_seen() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).is_some());
        assert!(started_seconds(pid).is_some_and(|it| it > 0.0));
        assert!(memory(pid).is_some_and(|it| it.anonymous_bytes > 0));
        assert!(machine_seconds().is_some_and(|it| it > 0.0));
        assert_eq!(stat_field("1 (a ) b) S 7 8", 4), Some(7));
    }
}
