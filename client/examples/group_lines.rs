//! Prints what is published to some topics, a line for each record, as a member of a group; until it is asked to end.
//!
//! ```text
//! GRPC=127.0.0.1:9095 GROUP=readers cargo run -p millrace-client --example group_lines events orders
//! ```
//! A line is `topic TAB partition TAB offset TAB time TAB headers TAB key TAB value`. Start it several times, and they
//! share the records; kill one, and the others take over: what it had not printed is printed by them, and at worst a few
//! records twice. While the broker is away they wait for it, and then go on as the members that they were.

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use millrace_client::{Client, ReceivedRecord};
use tokio::signal::unix::{SignalKind, signal};

/// Who dies while the broker is away is waited for that long.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// Records of so long may be printed again after a kill.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (broker, group) = (std::env::var("GRPC")?, std::env::var("GROUP")?);
    let mut asked_to_end = signal(SignalKind::terminate())?;
    let client = Client::builder(format!("http://{broker}")).client_id("group_lines");
    let client = client.connect_lazy()?;
    let consumer = client.consumer().group(group).topics(std::env::args().skip(1));
    let consumer = consumer.session_timeout(SESSION_TIMEOUT).commit_interval(COMMIT_INTERVAL);
    let mut consumer = consumer.build().await?;
    loop {
        // Asking for the next record says that those before are done: they are printed, and may be committed.
        let next = tokio::select! {
            next = consumer.next() => next?,
            _ = asked_to_end.recv() => break,
        };
        let Some(record) = next else { break };
        print(&record)?;
    }
    consumer.close().await?;
    Ok(())
}

/// The line is out when this returns.
fn print(record: &ReceivedRecord) -> std::io::Result<()> {
    let ReceivedRecord { topic, partition, offset, timestamp_ms, key, value, .. } = record;
    let mut line = format!("{topic}\t{partition}\t{offset}\t{timestamp_ms}\t").into_bytes();
    for (at, header) in record.headers.iter().enumerate() {
        line.extend_from_slice(if at == 0 { b"" } else { b"," });
        line.extend_from_slice(header.key.as_bytes());
        line.push(b'=');
        line.extend_from_slice(header.value.as_deref().unwrap_or_default());
    }
    for field in [key, value] {
        line.push(b'\t');
        line.extend_from_slice(field.as_deref().unwrap_or_default());
    }
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
