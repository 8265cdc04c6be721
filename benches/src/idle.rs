//! Many connections that do nothing: what one costs the broker.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::admin::Admin;
use crate::error::LoadError;
use crate::watch::{Memory, memory};

/// Memory of the broker before and with the connections.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct IdleReport {
    pub connections: usize,
    pub anonymous_before: u64,
    pub anonymous_with: u64,
    pub anonymous_per_connection: f64,
}

/// Opens connections that have asked for the broker's versions once, waits, and looks.
///
/// # Errors
/// When a connection is refused, or the broker's process is not to be seen.
pub fn run(
    broker: SocketAddr,
    connections: usize,
    hold: Duration,
    pid: u32,
) -> Result<IdleReport, LoadError> {
    raise_file_limit()?;
    let seen = |memory: Option<Memory>| {
        memory.map(|it| it.anonymous_bytes).ok_or(LoadError::Malformed("no process of that id"))
    };
    let anonymous_before = seen(memory(pid))?;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut connection = Admin::connect(broker)?;
        connection.greet()?;
        open.push(connection);
    }
    std::thread::sleep(hold);
    let anonymous_with = seen(memory(pid))?;
    let grown = anonymous_with as f64 - anonymous_before as f64;
    let anonymous_per_connection = grown / connections.max(1) as f64;
    Ok(IdleReport { connections, anonymous_before, anonymous_with, anonymous_per_connection })
}

fn raise_file_limit() -> Result<(), LoadError> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(LoadError::os("raising the limit of open files"))
}
