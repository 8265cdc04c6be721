//! A broker inside a test: for the test suites of whoever builds on Millrace. Starts in milliseconds.
//!
//! ```
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = millrace::testing::TestBroker::start().await?;
//! let client = millrace_client::Client::connect(&broker.grpc_url()).await?;
//! // ... publish, read, assert ...
//! # drop(client);
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! It is the broker itself, with every promise: its own temporary data directory, free ports on loopback, nothing
//! shared with other tests. What it needs is a Tokio runtime with more than one thread.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::config::{ConfigErrors, RawConfig};
use crate::node::{Node, StartError};

/// What makes tests fast and says nothing about a real broker: few internal partitions, no wait for more members.
const SETTINGS: [&str; 5] = [
    "listeners=127.0.0.1:0",
    "grpc.listen=127.0.0.1:0",
    "http.listen=127.0.0.1:0",
    "group.initial.rebalance.delay.ms=0",
    "offsets.topic.num.partitions=4",
];

/// Why there is no broker for a test.
#[derive(Debug, thiserror::Error)]
pub enum TestBrokerError {
    #[error("no temporary directory: {0}")]
    Directory(#[from] std::io::Error),
    #[error(transparent)]
    Settings(#[from] ConfigErrors),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// A broker that runs in this process until it is stopped; its data goes when this is dropped.
///
/// Dropping it without [`TestBroker::stop`] leaves the broker to the end of the runtime, as a crash would.
pub struct TestBroker {
    node: Node,
    _data: TempDir,
}

impl TestBroker {
    /// A broker with the defaults.
    ///
    /// # Errors
    /// [`TestBrokerError`].
    pub async fn start() -> Result<Self, TestBrokerError> {
        Self::start_with(&[]).await
    }

    /// A broker with settings of its own, `key=value` as for `millrace serve --set`.
    ///
    /// # Errors
    /// [`TestBrokerError`]; all settings that do not read are named at once.
    pub async fn start_with(settings: &[&str]) -> Result<Self, TestBrokerError> {
        let data = tempfile::tempdir()?;
        let directory = data.path().join("data").to_string_lossy().into_owned();
        let raw = RawConfig::default().flag("--data-dir", "log.dirs", directory);
        let raw = SETTINGS.iter().chain(settings).fold(raw, |raw, it| raw.assignment(it));
        let config = raw.check()?;
        Ok(Self { node: Node::start(config).await?, _data: data })
    }

    /// For clients of Millrace's own API, e.g. `http://127.0.0.1:40123`.
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.node.addresses().grpc)
    }

    /// For Kafka clients: `bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> String {
        self.kafka().to_string()
    }

    pub fn kafka(&self) -> SocketAddr {
        self.node.addresses().kafka
    }

    /// Metrics and health.
    pub fn http(&self) -> SocketAddr {
        self.node.addresses().http
    }

    /// Stops it cleanly and removes its data.
    pub async fn stop(self) {
        self.node.shutdown().await;
    }
}
