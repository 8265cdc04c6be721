//! The node: builds every room, spawns and names every task, and takes it all down in the reverse order.
//!
//! Start: bind the doors (a taken port is found before any file is touched), lock the data directory, replay the
//! metadata, open the partitions, register, then let clients in. Stop: no new connection, connections drain, the
//! flusher finishes, logs close cleanly, the clean marker is written.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use millrace_kernel::metadata::brokers::RegisterBroker;
use millrace_kernel::metadata::image::Endpoint;
use millrace_kernel::metadata::{Command, MetadataSettings};
use millrace_model::env::Prng;
use millrace_model::ids::TopicId;
use millrace_storage::data_dir::{DataDir, DataDirError, Identity};
use millrace_storage::disk::mmap;
use millrace_storage::disk::real::RealDisk;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::task::JoinHandle as Task;
use tracing::{info, warn};

use crate::config::{Address, Config};
use crate::controller::actor::{ControllerActor, ControllerHandle};
use crate::controller::local::{DurableState, LocalLog};
use crate::metrics::Metrics;
use crate::ops::health::Health;
use crate::partition::clock::{self, Clock};
use crate::partition::flusher::{DirtyQueue, Flusher};
use crate::partition::housekeeper::{Chores, Housekeeper};
use crate::partition::opener::Opener;
use crate::partition::registry::{self, Registry, Shared};
use crate::partition::timer::Timer;
use crate::service::Hall;
use crate::service::cluster::KAFKA_LISTENER;
use crate::service::{configs, survey};
use crate::shutdown::{self, Shutdown, ShutdownTrigger};
use crate::{grpc, kafka, ops};

pub use crate::controller::local::LocalLogError;
pub use crate::error::BrokerError;

/// Where a started node listens: the real ports, also where 0 was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub kafka: SocketAddr,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot listen on {address} ({setting}): {error}; stop what listens there, or choose another address"
    )]
    Listen { address: String, setting: &'static str, error: io::Error },
    #[error("cannot use {path} as data directory: {error}", path = path.display())]
    NoDirectory { path: std::path::PathBuf, error: io::Error },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot open the metadata log: {0}")]
    Metadata(#[from] LocalLogError),
    #[error("the cluster's metadata refuses this broker: {0}")]
    Refused(#[from] BrokerError),
    #[error("the handler of failing page loads cannot be installed: {0}")]
    Guard(io::Error),
    #[error("the system gives no thread: {0}")]
    Thread(io::Error),
}

/// A running broker.
pub struct Node {
    addresses: Addresses,
    stop_doors: ShutdownTrigger,
    doors: Vec<(&'static str, Task<()>)>,
    stop_rooms: ShutdownTrigger,
    rooms: Vec<(&'static str, Task<()>)>,
    hall: Arc<Hall>,
    flusher: Flusher,
    controller: JoinHandle<()>,
    housekeeper: Housekeeper,
    health: Health,
    fatal: Shutdown,
}

impl Node {
    /// Starts a broker and returns once it serves.
    ///
    /// # Errors
    /// [`StartError`] says what is in the way and what to do; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let doors = Doors::bind(&config).await?;
        tokio::task::spawn_blocking(move || {
            Foundation::build(config, &doors.addresses).map(|it| (it, doors))
        })
        .await
        .expect("start-up does not panic")
        .map(|(foundation, doors)| foundation.open(doors))
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Completes when the node cannot go on, for example because its metadata log cannot be written.
    pub async fn failed(&self) {
        self.fatal.requested().await;
    }

    /// Stops cleanly: finishes what was begun, makes it durable, marks the data directory clean.
    pub async fn shutdown(self) {
        self.health.draining();
        self.stop_doors.request();
        join("doors", self.doors, self.hall.config.shutdown_drain).await;
        self.stop_rooms.request();
        join("rooms", self.rooms, self.hall.config.shutdown_drain).await;
        let Self { hall, flusher, controller, housekeeper, .. } = self;
        let closing = move || close(hall, flusher, controller, housekeeper);
        if tokio::task::spawn_blocking(closing).await.is_err() {
            warn!("closing failed; the next start recovers");
        }
    }
}

/// Waits for tasks, up to `limit`; a task that takes longer is left to the runtime's end.
async fn join(what: &str, tasks: Vec<(&'static str, Task<()>)>, limit: std::time::Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    for (name, mut task) in tasks {
        match tokio::time::timeout_at(deadline, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(what, task = name, %error, "a task ended badly"),
            Err(_) => {
                warn!(what, task = name, "not drained in time; stopped");
                task.abort();
            }
        }
    }
}

fn close(hall: Arc<Hall>, flusher: Flusher, controller: JoinHandle<()>, housekeeper: Housekeeper) {
    hall.controller.stop();
    if controller.join().is_err() {
        warn!("the controller panicked");
    }
    hall.registry.sync_all();
    flusher.stop();
    housekeeper.close();
}

/// The listening sockets.
struct Doors {
    kafka: TcpListener,
    grpc: TcpListener,
    http: TcpListener,
    addresses: Addresses,
}

impl Doors {
    async fn bind(config: &Config) -> Result<Self, StartError> {
        let kafka = bind(&config.kafka_listen, "listeners").await?;
        let grpc = bind(&config.grpc_listen, "grpc.listen").await?;
        let http = bind(&config.http_listen, "http.listen").await?;
        let local = |listener: &TcpListener, address: &Address, setting| {
            let failed =
                |error| StartError::Listen { address: address.to_string(), setting, error };
            listener.local_addr().map_err(failed)
        };
        let addresses = Addresses {
            kafka: local(&kafka, &config.kafka_listen, "listeners")?,
            grpc: local(&grpc, &config.grpc_listen, "grpc.listen")?,
            http: local(&http, &config.http_listen, "http.listen")?,
        };
        Ok(Self { kafka, grpc, http, addresses })
    }
}

async fn bind(address: &Address, setting: &'static str) -> Result<TcpListener, StartError> {
    let failed = |error| StartError::Listen { address: address.to_string(), setting, error };
    TcpListener::bind((address.host.as_str(), address.port)).await.map_err(failed)
}

/// Everything below the doors, before the first client.
struct Foundation {
    hall: Arc<Hall>,
    controller: ControllerActor,
    flusher: Flusher,
    housekeeper: Housekeeper,
    timer: Arc<Timer>,
    health: Health,
    fatal: Shutdown,
}

impl Foundation {
    fn build(config: Config, addresses: &Addresses) -> Result<Self, StartError> {
        raise_descriptor_limit();
        mmap::install_guard().map_err(StartError::Guard)?;
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::new());
        let disk = RealDisk::new(&config.data_dir)
            .map_err(|error| StartError::NoDirectory { path: config.data_dir.clone(), error })?;
        let fresh = fresh_identity(&config, &mut clock::fresh_prng());
        let data_dir = Arc::new(DataDir::open(disk.clone(), &config.data_dir, fresh)?);
        let chores = Chores::default();
        let health = Health::starting();
        let dirty = DirtyQueue::new();
        let flusher = Flusher::start(disk.clone(), dirty.clone(), Arc::clone(&metrics))
            .map_err(StartError::Thread)?;
        let timer = Arc::new(Timer::default());
        let shared = Arc::new(Shared {
            config: config.clone(),
            clock,
            dirty,
            timer: Arc::clone(&timer),
            metrics: Arc::clone(&metrics),
            chores: chores.clone(),
        });
        let opener = Opener::new(disk, Arc::clone(&data_dir));
        let registry = Arc::new(Registry::new(opener, shared));
        let metadata = DurableState::default();
        let log = LocalLog::open(&data_dir, clock, metadata.clone())?;
        let settings = MetadataSettings {
            partitions_default: config.num_partitions,
            replication_factor_default: config.default_replication_factor,
            config_rules: configs::rules(),
        };
        let (fatal_trigger, fatal) = shutdown::channel();
        let (mut controller, handle) = ControllerActor::new(
            log,
            settings,
            Arc::clone(&registry),
            clock,
            clock::fresh_prng(),
            fatal_trigger,
        );
        controller.replay();
        register(&mut controller, &config, &data_dir, addresses)?;
        report_strays(&data_dir, &handle);
        registry.remove_leftovers(data_dir.leftovers());
        let housekeeper = Housekeeper::start(
            chores,
            Arc::clone(&registry),
            Arc::clone(&data_dir),
            metadata,
            health.clone(),
        )
        .map_err(StartError::Thread)?;
        let hall = Arc::new(Hall::new(config, registry, handle, metrics, clock));
        Ok(Self { hall, controller, flusher, housekeeper, timer, health, fatal })
    }

    fn open(self, doors: Doors) -> Node {
        let Self { hall, controller, flusher, housekeeper, timer, health, fatal } = self;
        let controller = std::thread::Builder::new()
            .name("controller".into())
            .spawn(move || controller.run())
            .expect("a process that started two threads can start a third");
        let (stop_doors, doors_stopped) = shutdown::channel();
        let (stop_rooms, rooms_stopped) = shutdown::channel();
        let rooms = vec![
            ("timer", tokio::spawn(timer.run(hall.clock, rooms_stopped.clone()))),
            (
                "http",
                tokio::spawn(ops::http::serve(
                    doors.http,
                    health.clone(),
                    metrics_page(Arc::clone(&hall)),
                    rooms_stopped,
                )),
            ),
        ];
        let open_doors = vec![
            (
                "kafka",
                tokio::spawn(kafka::listener::run(
                    doors.kafka,
                    Arc::clone(&hall),
                    doors_stopped.clone(),
                )),
            ),
            ("grpc", tokio::spawn(grpc::server::run(doors.grpc, Arc::clone(&hall), doors_stopped))),
        ];
        health.ready();
        Node {
            addresses: doors.addresses,
            stop_doors,
            doors: open_doors,
            stop_rooms,
            rooms,
            hall,
            flusher,
            controller,
            housekeeper,
            health,
            fatal,
        }
    }
}

/// The counts with what is to be seen of topics and groups just then; one look at a time, however many ask.
fn metrics_page(hall: Arc<Hall>) -> ops::http::MetricsPage {
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    Arc::new(move || {
        let (hall, turn) = (Arc::clone(&hall), Arc::clone(&turn));
        Box::pin(async move {
            let _turn = turn.lock().await;
            hall.metrics.render(&survey::take(&hall).await)
        })
    })
}

/// Files and connections share the process's descriptors: take all that the system allows.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        warn!(%error, limit = limit.current, "the limit of open files stays as it is");
    }
}

/// What a new data directory is called; an old one keeps its names.
fn fresh_identity(config: &Config, rng: &mut Prng) -> Identity {
    Identity {
        cluster_id: TopicId(rng.uuid()).to_string(),
        node_id: config.node_id,
        directory_id: TopicId(rng.uuid()).to_string(),
    }
}

/// Makes this broker part of its cluster of one.
fn register(
    controller: &mut ControllerActor,
    config: &Config,
    data_dir: &DataDir<RealDisk>,
    addresses: &Addresses,
) -> Result<(), StartError> {
    let cluster_id = data_dir.identity().cluster_id.clone();
    controller.ask_now(Command::InitCluster { cluster_id })?;
    let kafka = match &config.kafka_advertised {
        Some(Address { host, port }) => (host.clone(), *port),
        None => (addresses.kafka.ip().to_string(), addresses.kafka.port()),
    };
    let endpoint =
        |listener: &str, (host, port)| Endpoint { listener: listener.to_owned(), host, port };
    let endpoints = vec![
        endpoint(KAFKA_LISTENER, kafka),
        endpoint("grpc", (addresses.grpc.ip().to_string(), addresses.grpc.port())),
    ];
    let incarnation = clock::fresh_prng().uuid();
    let broker = RegisterBroker { id: config.node_id, incarnation, endpoints, rack: None };
    controller.ask_now(Command::RegisterBroker(broker))?;
    Ok(())
}

/// Data is never deleted because metadata does not mention it; somebody should know, though.
fn report_strays(data_dir: &DataDir<RealDisk>, controller: &ControllerHandle) {
    let image = controller.image();
    for stray in registry::stray_directories(data_dir.partitions(), &image) {
        warn!(directory = %stray.display(), "no topic owns this directory; it is left alone");
    }
    info!(topics = image.topic_count(), "metadata replayed");
}
