//! Ctrl-C and SIGTERM, for commands that finish what they have begun when they are asked to end.
//!
//! Heard from the beginning on, so that a signal that comes between two waits is not lost.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a command to end.
pub(super) struct Stop {
    /// `None` where the system does not let us listen: it ends the process then.
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Stop {
    /// Listens from now on; the process no longer dies of these signals.
    pub(super) fn listen() -> Self {
        let listen = |kind| signal(kind).ok();
        Self {
            interrupt: listen(SignalKind::interrupt()),
            terminate: listen(SignalKind::terminate()),
        }
    }

    /// Waits for one of them.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            () = next(&mut self.interrupt) => {}
            () = next(&mut self.terminate) => {}
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}
