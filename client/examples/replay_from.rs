//! Reads a topic again from a point in time to where it ends now, without disturbing anybody's group.
//!
//! ```text
//! cargo run -p millrace-client --example replay_from -- TOPIC SECONDS_AGO
//! ```

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use millrace_client::{Admin, Client, StartAt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(topic), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err("which topic, and from how many seconds ago?".into());
    };
    let broker = std::env::var("MILLRACE").unwrap_or("http://127.0.0.1:9095".to_owned());
    let client = Client::connect(broker).await?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let from = StartAt::TimestampMs(now_ms - seconds.parse::<i64>()? * 1000);

    let ends = offsets(&client.admin(), &topic, StartAt::Latest).await?;
    let mut left = offsets(&client.admin(), &topic, from).await?;
    left.retain(|partition, start| *start < ends[partition]);
    let starts = left.iter().map(|(partition, at)| (&*topic, *partition, StartAt::Offset(*at)));
    let starts: Vec<_> = starts.collect();
    if starts.is_empty() {
        println!("nothing since then");
        return Ok(());
    }
    let mut consumer = client.consumer().partitions(starts).build().await?;
    let mut count = 0;
    while let Some(record) = consumer.next().await? {
        let is_there = left.contains_key(&record.partition);
        if is_there && record.offset < ends[&record.partition] {
            count += 1;
            let value = record.value.unwrap_or_default();
            println!("{} {}", record.timestamp_ms, String::from_utf8_lossy(&value));
        }
        if record.offset + 1 >= ends[&record.partition] {
            left.remove(&record.partition);
        }
        if left.is_empty() {
            break;
        }
    }
    println!("{count} records replayed");
    Ok(())
}

async fn offsets(
    admin: &Admin,
    topic: &str,
    at: StartAt,
) -> Result<BTreeMap<i32, i64>, millrace_client::Error> {
    let found = admin.offsets(topic, &[], at).await?;
    found.into_iter().map(|it| Ok((it.partition, it.offset?))).collect()
}
