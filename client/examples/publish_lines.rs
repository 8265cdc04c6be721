//! Publishes numbered, keyed lines from standard input and ends once every one of them is on stable storage.
//!
//! ```text
//! GRPC=127.0.0.1:9095 TOPIC=events cargo run -p millrace-client --example publish_lines < lines
//! ```
//! A line is `number TAB key TAB value`; the number travels in the header `line`. Lines of one key keep their order:
//! each key belongs to a lane, and a lane sends its next line when the last one is acknowledged. While the broker is
//! away a lane tries again, so a line may be written twice.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::BufRead;
use std::time::{Duration, Instant};

use millrace_client::{Client, Error, Record};
use tokio::sync::mpsc;

/// Lines on their way at once.
const LANES: usize = 64;
/// Lines that wait in one lane; beyond that reading pauses.
const LANE_LINES_MAX: usize = 64;
/// How long one line is tried.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topic = std::env::var("TOPIC")?;
    let client = connect(&format!("http://{}", std::env::var("GRPC")?)).await?;
    let mut lanes = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..LANES {
        let (lane, lines) = mpsc::channel(LANE_LINES_MAX);
        lanes.push(lane);
        workers.push(tokio::spawn(publish(client.clone(), topic.clone(), lines)));
    }
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut fields = line.splitn(3, '\t');
        let (Some(number), Some(key), Some(value)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(format!("{line:?} is no number TAB key TAB value").into());
        };
        let record = Record::new(value.to_owned())
            .with_key(key.to_owned())
            .with_header("line", number.to_owned());
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        lanes[hasher.finish() as usize % LANES].send(record).await?;
    }
    drop(lanes);
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

async fn connect(address: &str) -> Result<Client, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(address).await {
            Err(error) if Instant::now() < deadline && error.is_retriable() => {}
            connected => return connected,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Sends one lane's lines in order.
async fn publish(
    client: Client,
    topic: String,
    mut lines: mpsc::Receiver<Record>,
) -> Result<(), Error> {
    while let Some(record) = lines.recv().await {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.produce(&topic, record.clone()).await {
                Ok(_) => break,
                Err(error) if Instant::now() < deadline && error.is_retriable() => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}
