//! Is the broker alive, and may it be sent work? Told by `node`, asked by probes.

use std::fmt;
use std::sync::{Arc, Mutex};

/// What the node says of itself; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Health(Arc<Mutex<State>>);

/// Where a node stands in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Recovering; answers no client yet.
    Starting,
    Ready,
    /// Finishing what was begun; takes nothing new.
    Draining,
    /// Accepts no more writes until it is restarted.
    Failed {
        reason: Arc<str>,
    },
}

impl Health {
    pub(crate) fn starting() -> Self {
        Self(Arc::new(Mutex::new(State::Starting)))
    }

    pub(crate) fn ready(&self) {
        self.change(State::Ready);
    }

    pub(crate) fn draining(&self) {
        self.change(State::Draining);
    }

    /// For good: a failure stays until the process ends, and the first reason stands.
    pub(crate) fn failed(&self, reason: impl Into<Arc<str>>) {
        self.change(State::Failed { reason: reason.into() });
    }

    pub(crate) fn state(&self) -> State {
        self.0.lock().expect("no holder of this lock panics").clone()
    }

    fn change(&self, to: State) {
        let mut state = self.0.lock().expect("no holder of this lock panics");
        if !matches!(*state, State::Failed { .. }) {
            *state = to;
        }
    }
}

impl State {
    /// May it go on living? An orchestrator restarts what says no.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self, Self::Failed { .. })
    }

    /// May it be sent work? A load balancer leaves out what says no.
    pub(crate) fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Ready => f.write_str("ready"),
            Self::Draining => f.write_str("draining"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stands() {
        let health = Health::starting();
        assert!(health.state().is_alive() && !health.state().is_ready());
        health.ready();
        assert!(health.state().is_ready());
        health.failed("sync failed: EIO");
        health.failed("another");
        health.draining();
        assert_eq!(health.state().to_string(), "failed: sync failed: EIO");
        assert!(!health.state().is_alive());
    }
}
