//! The one place of the shell that turns real clocks and real luck into the kernel's values.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use millrace_model::env::{MonoMs, Now, Prng, WallMs};

/// Both clocks, counted from the node's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        self.at(Instant::now())
    }

    /// As [`Self::now`], for who has just read the monotonic clock.
    pub(crate) fn at(&self, instant: Instant) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Now {
            wall: WallMs(wall),
            mono: MonoMs(instant.saturating_duration_since(self.started).as_millis() as u64),
        }
    }
}

/// A generator seeded by the operating system.
pub(crate) fn fresh_prng() -> Prng {
    use std::hash::{BuildHasher, Hasher};
    // Each `RandomState` draws its keys from the operating system's generator.
    Prng::new(std::collections::hash_map::RandomState::new().build_hasher().finish())
}
