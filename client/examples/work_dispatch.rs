//! Work shared out among the members of a group: each job is done by one of three workers, whoever comes and goes.
//!
//! ```text
//! cargo run -p millrace-client --example work_dispatch
//! ```
//! One worker leaves half-way; its partitions go to the others, and no job is lost.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;

use millrace_client::{Client, Event, NewTopic, Rebalance, Record};
use tokio::sync::mpsc;

const JOBS: &str = "work.jobs";
const COUNT: usize = 300;

type Done = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Done {
    let broker = std::env::var("MILLRACE").unwrap_or("http://127.0.0.1:9095".to_owned());
    let client = Client::connect(broker).await?;
    match client.admin().create_topic(NewTopic::new(JOBS).partitions(6)).await {
        Err(error) if error.reason() != Some("TOPIC_ALREADY_EXISTS") => return Err(error.into()),
        _ => {}
    }
    let (results, mut done) = mpsc::channel(COUNT);
    for name in ["anna", "bert", "cleo"] {
        tokio::spawn(work(client.clone(), name, results.clone()));
    }
    let run = std::process::id();
    let producer = client.producer().build().await?;
    for job in 0..COUNT {
        // The key shares them out among the partitions.
        let job = Record::new(format!("{run}/{job}")).with_key(job.to_string());
        drop(producer.send(JOBS, job).await?);
    }
    producer.close().await?;
    let mut by_worker = BTreeMap::<_, usize>::new();
    let mut jobs = std::collections::HashSet::new();
    let ours = format!("{run}/");
    while jobs.len() < COUNT {
        let Some((name, job)) = done.recv().await else { break };
        if job.starts_with(&ours) && jobs.insert(job) {
            *by_worker.entry(name).or_default() += 1;
        }
    }
    println!("{} jobs done: {by_worker:?}", jobs.len());
    Ok(())
}

async fn work(
    client: Client,
    name: &'static str,
    results: mpsc::Sender<(&'static str, String)>,
) -> Done {
    let mut consumer = client.consumer().group("workers").topics([JOBS]).build().await?;
    let mut count = 0;
    while let Some(event) = consumer.next_event().await? {
        match event {
            Event::Record(job) => {
                let job = String::from_utf8_lossy(&job.value.unwrap_or_default()).into_owned();
                results.send((name, job)).await?;
                count += 1;
            }
            Event::Rebalance(Rebalance::Assigned(all)) => {
                println!("{name}: {} partitions", all.len())
            }
            _ => {}
        }
        if name == "anna" && count == 20 {
            println!("anna goes home");
            return Ok(consumer.close().await?);
        }
    }
    Ok(())
}
