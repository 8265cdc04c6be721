//! Prints the records of a topic, as a member of a group. The README shows this.

#![allow(clippy::print_stdout)]

use millrace_client::Client;

#[tokio::main]
async fn main() -> Result<(), millrace_client::Error> {
    let broker = std::env::var("MILLRACE").unwrap_or("http://127.0.0.1:9095".to_owned());
    let client = Client::connect(broker).await?;
    let consumer = client.consumer().group("greeters").topics(["greetings"]);
    let mut consumer = consumer.build().await?;
    while let Some(record) = consumer.next().await? {
        println!(
            "{}: {}",
            record.offset,
            String::from_utf8_lossy(&record.value.unwrap_or_default())
        );
    } // asking for the next record says that this one is done: it is committed soon after
    Ok(())
}
