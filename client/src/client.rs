//! The way to a broker: one connection, what every call on it has in common, and the doors to producer, consumer, admin.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_proto::v1::admin_service_client::AdminServiceClient;
use millrace_proto::v1::consume_service_client::ConsumeServiceClient;
use millrace_proto::v1::produce_service_client::ProduceServiceClient;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::error::root;
use crate::retry::{self, Backoff};
use crate::{Admin, ConsumerBuilder, Error, ProducerBuilder, TraceParent, trace};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(20);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// The largest message taken from a broker: one batch of Kafka's largest request size.
const MESSAGE_BYTES_MAX: usize = 100 * 1024 * 1024;
/// What one stream may have on its way to us, unread. A consumer's credit bounds it further.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// The same of all streams, as large as HTTP/2 allows: a consumer at rest must not hold up what others wait for.
const CONNECTION_WINDOW_BYTES: u32 = i32::MAX as u32;
/// What the broker may send as one frame: large ones cost fewer system calls, here and there.
const FRAME_BYTES_MAX: u32 = 256 * 1024;

/// A channel whose calls carry what the client says with each.
pub(crate) type Door = InterceptedService<Channel, Stamp>;

type TraceHook = Arc<dyn Fn() -> Option<TraceParent> + Send + Sync>;

/// A connection to one broker. Cheap to clone; all clones share the connection, which is made again when it breaks.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    settings: Arc<Settings>,
}

#[derive(Clone)]
struct Settings {
    address: String,
    client_id: String,
    connect_timeout: Duration,
    call_timeout: Duration,
    keepalive: Option<Duration>,
    backoff_first: Duration,
    backoff_max: Duration,
    traceparent: Option<TraceHook>,
}

impl Client {
    /// Connects to the gRPC port of a broker, such as `http://127.0.0.1:9095`, with every option at its default.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    pub async fn connect(address: impl Into<String>) -> Result<Self, Error> {
        Self::builder(address).connect().await
    }

    /// Options first, then a connection.
    pub fn builder(address: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            settings: Settings {
                address: address.into(),
                client_id: "millrace-client".to_owned(),
                connect_timeout: CONNECT_TIMEOUT,
                call_timeout: CALL_TIMEOUT,
                keepalive: Some(KEEPALIVE_INTERVAL),
                backoff_first: BACKOFF_FIRST,
                backoff_max: BACKOFF_MAX,
                traceparent: None,
            },
        }
    }

    /// Options of a producer, then the producer.
    pub fn producer(&self) -> ProducerBuilder {
        ProducerBuilder::new(self.clone())
    }

    /// What to consume and how, then the consumer.
    pub fn consumer(&self) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone())
    }

    /// Topics, offsets, groups, settings.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Does the broker say that it serves?
    ///
    /// # Errors
    /// The broker cannot be asked.
    pub async fn is_serving(&self) -> Result<bool, Error> {
        let request = HealthCheckRequest { service: String::new() };
        let mut health = HealthClient::new(self.channel.clone());
        let answer = health.check(self.request(request)).await?.into_inner();
        Ok(answer.status() == ServingStatus::Serving)
    }

    /// The address that this client was made for.
    pub fn address(&self) -> &str {
        &self.settings.address
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.settings.client_id
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        self.settings.call_timeout
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.settings.backoff_first, self.settings.backoff_max)
    }

    /// The trace that the caller is in now.
    pub(crate) fn traceparent(&self) -> Option<TraceParent> {
        self.settings.traceparent.as_ref()?()
    }

    pub(crate) fn produce_door(&self) -> ProduceServiceClient<Door> {
        ProduceServiceClient::with_interceptor(self.channel.clone(), self.stamp())
    }

    pub(crate) fn consume_door(&self) -> ConsumeServiceClient<Door> {
        ConsumeServiceClient::with_interceptor(self.channel.clone(), self.stamp())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn admin_door(&self) -> AdminServiceClient<Door> {
        AdminServiceClient::with_interceptor(self.channel.clone(), self.stamp())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A call that is to be answered in time.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.settings.call_timeout);
        request
    }

    /// Makes a call that changes nothing, again and again while the broker is away and the time of a call lasts.
    pub(crate) async fn ask<T, F: Future<Output = Result<T, Error>>>(
        &self,
        attempt: impl FnMut() -> F,
    ) -> Result<T, Error> {
        retry::until(self.settings.call_timeout, self.backoff(), attempt).await
    }

    fn stamp(&self) -> Stamp {
        Stamp { traceparent: self.settings.traceparent.clone() }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { address, client_id, .. } = &*self.settings;
        f.debug_struct("Client").field("address", address).field("client_id", client_id).finish()
    }
}

/// Options of a [`Client`]. Each says its default and what another value costs.
#[must_use = "it does nothing before `connect`"]
pub struct ClientBuilder {
    settings: Settings,
}

impl ClientBuilder {
    /// The name that tools show of this client, in groups for one. Default: `millrace-client`. A name per service makes
    /// `group describe` readable.
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.settings.client_id = client_id.into();
        self
    }

    /// How long one try to connect may take. Default: 10 s. Shorter finds out sooner that a host is gone, and gives up on
    /// one that is merely far or busy.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long a call may take, with all its tries; it travels to the broker as the call's deadline. Default: 60 s, as
    /// a busy broker may take 30 s to write. Shorter fails sooner and leaves more often open what was done. Streams of
    /// producers and consumers have no deadline.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.settings.call_timeout = timeout;
        self
    }

    /// How long a connection may be silent before it is asked for a sign of life; without one it is given up 20 s later.
    /// Default: 30 s. Shorter notices sooner that a machine is gone, for a little traffic; `None` leaves that to TCP,
    /// which takes minutes.
    pub fn keepalive(mut self, interval: Option<Duration>) -> Self {
        self.settings.keepalive = interval;
        self
    }

    /// Pauses between tries to reach a broker that is away: the first, and the longest that they grow to; half of each is
    /// left to luck. Default: 50 ms, 2 s. Shorter comes back sooner and, with many clients, is a load on a broker that
    /// has just started.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.settings.backoff_first = first;
        self.settings.backoff_max = max.max(first);
        self
    }

    /// Says what trace the caller is in. A child of it goes into the header `traceparent` of each record that has none,
    /// and with each call to the broker. Default: none, and records stay as they are. With OpenTelemetry, hand over the
    /// current span's context; [`TraceParent::root`] begins a trace per record. It costs 66 bytes per record.
    pub fn traceparent(
        mut self,
        current: impl Fn() -> Option<TraceParent> + Send + Sync + 'static,
    ) -> Self {
        self.settings.traceparent = Some(Arc::new(current));
        self
    }

    /// Connects, in one try.
    ///
    /// # Errors
    /// [`Error::Address`] when the text is no address, [`Error::Connect`] when nothing answers there.
    pub async fn connect(self) -> Result<Client, Error> {
        let connected = self.endpoint()?.connect().await;
        let channel = connected.map_err(|error| Error::Connect {
            address: self.settings.address.clone(),
            reason: root(&error),
        })?;
        Ok(Client { channel, settings: Arc::new(self.settings) })
    }

    /// Leaves connecting to the first call: for a service that may start before its broker.
    ///
    /// # Errors
    /// [`Error::Address`] when the text is no address.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let channel = self.endpoint()?.connect_lazy();
        Ok(Client { channel, settings: Arc::new(self.settings) })
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let Settings { address, client_id, connect_timeout, keepalive, .. } = &self.settings;
        let no_address = |_| Error::Address { address: address.clone() };
        let mut endpoint = Endpoint::from_shared(address.clone())
            .map_err(no_address)?
            .connect_timeout(*connect_timeout)
            .max_frame_size(FRAME_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true);
        if endpoint.uri().scheme().is_none() {
            return Err(Error::Address { address: address.clone() });
        }
        if let Some(interval) = keepalive {
            endpoint = endpoint
                .http2_keep_alive_interval(*interval)
                .keep_alive_timeout(KEEPALIVE_PATIENCE)
                .keep_alive_while_idle(true);
        }
        let agent = format!("{client_id} millrace-client/{}", env!("CARGO_PKG_VERSION"));
        let no_name = |_| Error::misuse(format!("{client_id:?} is no client id"));
        endpoint.user_agent(agent).map_err(no_name)
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("address", &self.settings.address).finish()
    }
}

/// Puts into each call what belongs into all of them.
#[derive(Clone)]
pub(crate) struct Stamp {
    traceparent: Option<TraceHook>,
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(current) = self.traceparent.as_ref().and_then(|hook| hook()) {
            let value = MetadataValue::try_from(current.child().to_string());
            let value = value.expect("a traceparent is ASCII");
            request.metadata_mut().insert(trace::HEADER, value);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_text_that_is_no_address_is_refused_before_anything_is_sent() {
        for address in ["", "127.0.0.1:9095", "no address", "/x"] {
            let refused = Client::builder(address).connect_lazy().unwrap_err();
            assert_eq!(refused, Error::Address { address: address.to_owned() });
        }
    }

    #[tokio::test]
    async fn nothing_there_is_said_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let refused = Client::connect(&address).await.unwrap_err();
        assert!(matches!(&refused, Error::Connect { address: it, .. } if *it == address));
        assert!(refused.is_retriable());
    }
}
