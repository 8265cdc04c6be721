//! Three services and two topics: a shop takes orders, a till charges them, a warehouse ships what is paid.
//!
//! ```text
//! cargo run -p millrace-client --example order_pipeline
//! ```
//! The till reads one topic and writes another. It commits an order only once the payment that follows from it is on
//! stable storage, so a crash repeats a payment and never loses one; the warehouse knows an order by its key, and ships it
//! once. All records of one order share a trace: the till takes `traceparent` from what it reads into what it writes.

#![allow(clippy::print_stdout)]

use std::collections::HashSet;
use std::error::Error;

use millrace_client::{Client, NewTopic, Record, TraceParent};

const ORDERS: &str = "shop.orders";
const PAYMENTS: &str = "shop.payments";
const COUNT: usize = 20;

type Done = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Done {
    let broker = std::env::var("MILLRACE").unwrap_or("http://127.0.0.1:9095".to_owned());
    let client = |name: &str| Client::builder(&broker).client_id(name).connect();
    let admin = client("setup").await?.admin();
    for topic in [ORDERS, PAYMENTS] {
        match admin.create_topic(NewTopic::new(topic).partitions(3)).await {
            Err(error) if error.reason() != Some("TOPIC_ALREADY_EXISTS") => {
                return Err(error.into());
            }
            _ => {}
        }
    }
    // Orders of this run, so that what is left of an earlier one is told apart.
    let run = std::process::id();
    let till = tokio::spawn(till(client("till").await?));
    let warehouse = tokio::spawn(warehouse(client("warehouse").await?, run));
    shop(client("shop").await?, run).await?;
    warehouse.await??;
    till.abort();
    Ok(())
}

/// Publishes orders; each is taken once it is on stable storage.
async fn shop(client: Client, run: u32) -> Done {
    let producer = client.producer().build().await?;
    for number in 0..COUNT {
        let trace = TraceParent::root().to_string();
        let order = Record::new(format!("{} books", number + 1))
            .with_key(format!("order-{run}-{number}"))
            .with_header("traceparent", trace);
        producer.send(ORDERS, order).await?.await?;
    }
    println!("shop: {COUNT} orders taken");
    producer.close().await?;
    Ok(())
}

/// Turns orders into payments.
async fn till(client: Client) -> Done {
    let producer = client.producer().build().await?;
    let consumer = client.consumer().group("till").topics([ORDERS]).auto_commit(false);
    let mut consumer = consumer.build().await?;
    let mut since_commit = 0;
    while let Some(order) = consumer.next().await? {
        let mut payment = Record::new("paid").with_key(order.key.clone().unwrap_or_default());
        if let Some(trace) = order.traceparent() {
            payment = payment.with_header("traceparent", trace.child().to_string());
        }
        drop(producer.send(PAYMENTS, payment).await?);
        since_commit += 1;
        if since_commit == 5 {
            // All payments so far are safe: so many orders are done with.
            producer.flush().await?;
            consumer.commit().await?;
            since_commit = 0;
        }
    }
    Ok(())
}

/// Ships what is paid, each order once.
async fn warehouse(client: Client, run: u32) -> Done {
    let consumer = client.consumer().group("warehouse").topics([PAYMENTS]);
    let mut consumer = consumer.build().await?;
    let mut shipped = HashSet::new();
    let ours = format!("order-{run}-");
    while shipped.len() < COUNT {
        let Some(payment) = consumer.next().await? else { break };
        let order = String::from_utf8_lossy(&payment.key.unwrap_or_default()).into_owned();
        if order.starts_with(&ours) && shipped.insert(order) && shipped.len() % 5 == 0 {
            println!("warehouse: {} orders shipped", shipped.len());
        }
    }
    consumer.close().await?;
    Ok(())
}
