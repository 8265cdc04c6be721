//! Publishes numbered, keyed lines from standard input and ends once every one of them is on stable storage.
//!
//! ```text
//! GRPC=127.0.0.1:9095 TOPIC=events cargo run -p millrace-client --example publish_lines < lines
//! ```
//! A line is `number TAB key TAB value`; the number travels in the header `line`. Lines of one key keep their order, and
//! each is written once, also when the broker goes away and comes back meanwhile.

use std::error::Error;
use std::io::BufRead;

use millrace_client::{Client, Record};
use tokio::sync::mpsc;

/// Lines that are read and not yet sent.
const LINES_MAX: usize = 256;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let topic = std::env::var("TOPIC")?;
    // The broker may start after this program.
    let client = Client::builder(format!("http://{}", std::env::var("GRPC")?)).connect_lazy()?;
    let producer = client.producer().build().await?;
    let mut lines = lines();
    while let Some(line) = lines.recv().await {
        let record = record(&line?)?;
        // Whether it was written is asked of all lines at once, below.
        drop(producer.send(&topic, record).await?);
    }
    producer.close().await?;
    Ok(())
}

/// Standard input blocks, so a thread of its own reads it.
fn lines() -> mpsc::Receiver<std::io::Result<String>> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn record(line: &str) -> Result<Record, Box<dyn Error>> {
    let mut fields = line.splitn(3, '\t');
    let (Some(number), Some(key), Some(value)) = (fields.next(), fields.next(), fields.next())
    else {
        return Err(format!("{line:?} is no number TAB key TAB value").into());
    };
    let record = Record::new(value.to_owned()).with_key(key.to_owned());
    Ok(record.with_header("line", number.to_owned()))
}
