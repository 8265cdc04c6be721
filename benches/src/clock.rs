//! Time as nanoseconds of the monotonic clock, which timers understand too, and the CPU time of this process.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A moment, in nanoseconds of the monotonic clock.
pub type Nanos = u64;

const PER_SECOND: u64 = 1_000_000_000;

/// Now.
pub fn now() -> Nanos {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// CPU time that this process has used, in all its threads.
pub fn cpu() -> Nanos {
    nanos(clock_gettime(ClockId::ProcessCPUTime))
}

/// Time since the machine's start, which `/proc/<pid>/stat` counts in.
pub fn since_boot() -> Nanos {
    nanos(clock_gettime(ClockId::Boottime))
}

/// As the kernel takes it.
pub fn timespec(nanos: Nanos) -> Timespec {
    Timespec { tv_sec: (nanos / PER_SECOND) as i64, tv_nsec: (nanos % PER_SECOND) as _ }
}

/// As people read it.
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / PER_SECOND as f64
}

fn nanos(time: Timespec) -> Nanos {
    time.tv_sec as u64 * PER_SECOND + time.tv_nsec as u64
}
