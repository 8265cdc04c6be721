//! The Rust client of Millrace: publish and read over the broker's gRPC port.
//!
//! What it does today: one record or one batch to a topic, one partition as a stream of records, and the broker's
//! health. What it leaves to the caller, honestly: a send that failed with [`Error::is_retriable`] may be sent again,
//! but if its outcome is unknown (a lost connection, a deadline) the record may then be there twice.
//!
//! ```no_run
//! # async fn example() -> Result<(), millrace_client::Error> {
//! use millrace_client::{Client, Record};
//!
//! let client = Client::connect("http://127.0.0.1:9095").await?;
//! let position = client.produce("greetings", Record::new("hello").with_key("en")).await?;
//!
//! let mut records = client.consume("greetings", position.partition, position.offset).await?;
//! while let Some(record) = records.next().await? {
//!     println!("{}: {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod consumer;
mod error;
mod producer;
mod record;

use std::time::Duration;

use millrace_proto::v1::consume_service_client::ConsumeServiceClient;
use millrace_proto::v1::produce_service_client::ProduceServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

pub use consumer::Records;
pub use error::Error;
pub use producer::Position;
pub use record::{Header, ReceivedRecord, Record};

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a broker may take to answer a call, or to begin a stream. It gives up on a write after 30 s itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent connection is asked for a sign of life this often, and given up without one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);
/// The largest message taken from a broker: one batch of Kafka's largest request size.
const MESSAGE_BYTES_MAX: usize = 100 * 1024 * 1024;

/// A connection to one broker. Cheap to clone; all clones share the connection, which is made again when it breaks.
#[derive(Clone, Debug)]
pub struct Client {
    produce: ProduceServiceClient<Channel>,
    consume: ConsumeServiceClient<Channel>,
    health: HealthClient<Channel>,
}

impl Client {
    /// Connects to the gRPC port of a broker, such as `http://127.0.0.1:9095`.
    ///
    /// # Errors
    /// [`Error::Address`] when the text is no address, [`Error::Connect`] when nothing answers there.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|_| Error::Address { address: address.to_owned() })?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_PATIENCE)
            .tcp_nodelay(true);
        let connected = endpoint.connect().await;
        let channel = connected.map_err(|error| Error::Connect {
            address: address.to_owned(),
            reason: root(&error),
        })?;
        Ok(Self {
            produce: ProduceServiceClient::new(channel.clone()),
            consume: ConsumeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            health: HealthClient::new(channel),
        })
    }

    /// Does the broker say that it serves?
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub async fn is_serving(&self) -> Result<bool, Error> {
        let request = HealthCheckRequest { service: String::new() };
        let answer = self.health.clone().check(request).await?.into_inner();
        Ok(answer.status() == ServingStatus::Serving)
    }
}

/// What lies at the bottom of a chain of errors; the upper ones only say "transport error".
fn root(error: &dyn std::error::Error) -> String {
    let mut bottom = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}
