//! Publishes one record and says where it stands. The README shows this.

#![allow(clippy::print_stdout)]

use millrace_client::{Client, Record};

#[tokio::main]
async fn main() -> Result<(), millrace_client::Error> {
    let broker = std::env::var("MILLRACE").unwrap_or("http://127.0.0.1:9095".to_owned());
    let client = Client::connect(broker).await?;
    let producer = client.producer().build().await?;
    let delivery = producer.send("greetings", Record::new("hello").with_key("en")).await?;
    let position = delivery.await?; // it is on stable storage now
    println!("partition {}, offset {}", position.partition, position.offset);
    producer.close().await
}
