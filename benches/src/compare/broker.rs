//! Broker processes on loopback: started on an empty or a kept data directory, stopped, killed.
//!
//! Kafka runs by a script that understands `start PORT` and `stop PORT`, keeps its home in `$KAFKA_HOME`, there a
//! directory `data-PORT` and a file `pid-PORT`, and takes broker settings from `$EXTRA`.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::LoadError;
use crate::watch::Watch;

/// How long a broker may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(180);
/// What Millrace says, in its data's directory, and how much of it is told when a run fails.
const MILLRACE_LOG: &str = "millrace.log";
const COMPLAINTS_MAX: usize = 8;
/// Goal F9 opens its idle connections from one address.
const MILLRACE_SETTING: &str = "max.connections.per.ip=100000";
/// Deleted topics leave the disk at once instead of after a minute: it changes nothing that is measured.
const KAFKA_SETTINGS: &str = "log.segment.delete.delay.ms=1000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Millrace,
    Kafka,
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Millrace => "Millrace",
            Self::Kafka => "Kafka",
        }
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    pub millrace: PathBuf,
    pub kafka_script: PathBuf,
    pub kafka_home: PathBuf,
    pub kafka_port: u16,
    /// Millrace's data directories come and go here.
    pub directory: PathBuf,
}

/// A broker that runs; gone with its data when dropped.
#[derive(Debug)]
pub struct Broker {
    pub peer: Peer,
    pub address: SocketAddr,
    pub data: PathBuf,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    places: Places,
    process: Process,
    keep_data: bool,
}

#[derive(Debug)]
enum Process {
    Own(Child),
    /// The script's child, known once its pid file is there, and the script itself.
    Script {
        starter: Child,
    },
    Gone,
}

impl Broker {
    /// Starts a broker; it need not listen yet. What its data directory holds stays.
    ///
    /// # Errors
    /// When the binary or the script cannot be run.
    pub fn launch(places: &Places, peer: Peer) -> Result<Self, LoadError> {
        match peer {
            Peer::Millrace => Self::launch_millrace(places),
            Peer::Kafka => Self::launch_kafka(places),
        }
    }

    /// Starts a broker on an empty directory and waits until it listens.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_empty(places: &Places, peer: Peer) -> Result<Self, LoadError> {
        let kafka = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), places.kafka_port);
        if peer == Peer::Kafka && TcpStream::connect(kafka).is_ok() {
            return Err(LoadError::Misuse(format!("another process listens on {kafka}")));
        }
        remove(&data_directory(places, peer))?;
        let mut broker = Self::launch(places, peer)?;
        broker.wait_until_open()?;
        Ok(broker)
    }

    fn launch_millrace(places: &Places) -> Result<Self, LoadError> {
        let data = data_directory(places, Peer::Millrace);
        let io = LoadError::io("starting millrace");
        fs::create_dir_all(&places.directory).map_err(&io)?;
        let (address, grpc, http) = (free_address()?, free_address()?, free_address()?);
        let log = fs::File::create(places.directory.join(MILLRACE_LOG)).map_err(&io)?;
        let child = Command::new(&places.millrace)
            .args(["serve", "--data-dir"])
            .arg(&data)
            .args(["--kafka-listen", &address.to_string(), "--grpc-listen", &grpc.to_string()])
            .args(["--http-listen", &http.to_string(), "--set", MILLRACE_SETTING])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(&io)?;
        let (grpc, http, process) = (Some(grpc), Some(http), Process::Own(child));
        let (peer, places, keep_data) = (Peer::Millrace, places.clone(), false);
        Ok(Self { peer, address, data, grpc, http, places, process, keep_data })
    }

    fn launch_kafka(places: &Places) -> Result<Self, LoadError> {
        let _ = fs::remove_file(pid_file(places));
        let starter = kafka_script(places, "start").spawn();
        let starter = starter.map_err(LoadError::io("starting Kafka's script"))?;
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), places.kafka_port);
        let (peer, data) = (Peer::Kafka, data_directory(places, Peer::Kafka));
        let process = Process::Script { starter };
        let (grpc, http) = (None, None);
        let (places, keep_data) = (places.clone(), false);
        Ok(Self { peer, address, data, grpc, http, places, process, keep_data })
    }

    /// # Errors
    /// When it ends, or does not listen in time.
    pub fn wait_until_open(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > deadline || self.has_ended() {
                return Err(LoadError::Timeout("a broker that listens"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Did its process end by itself?
    pub fn has_ended(&mut self) -> bool {
        let runs = self.pid().is_some_and(is_alive);
        match &mut self.process {
            Process::Own(child) => !matches!(child.try_wait(), Ok(None)),
            // The script gives up sooner than we do; what counts is what it started.
            Process::Script { starter } => !runs && !matches!(starter.try_wait(), Ok(None)),
            Process::Gone => true,
        }
    }

    pub fn pid(&self) -> Option<u32> {
        match &self.process {
            Process::Own(child) => Some(child.id()),
            Process::Script { .. } => {
                fs::read_to_string(pid_file(&self.places)).ok()?.trim().parse().ok()
            }
            Process::Gone => None,
        }
    }

    /// The last of what it said that is more than information.
    pub fn complaints(&self) -> Vec<String> {
        let said = fs::read_to_string(self.places.directory.join(MILLRACE_LOG)).unwrap_or_default();
        let is_grave = |line: &&str| line.contains("\"WARN\"") || line.contains("\"ERROR\"");
        let mut grave: Vec<_> =
            said.lines().rev().filter(is_grave).take(COMPLAINTS_MAX).map(str::to_owned).collect();
        grave.reverse();
        grave
    }

    /// The address of its gRPC door.
    ///
    /// # Errors
    /// When it has none.
    pub fn grpc(&self) -> Result<SocketAddr, LoadError> {
        self.grpc.ok_or_else(|| LoadError::Misuse(format!("{} has no gRPC door", self.peer.name())))
    }

    pub fn watch(&self) -> Watch {
        Watch { pid: self.pid(), metrics: self.http }
    }

    /// Asks it to stop and waits; its data stays.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(mut self) -> Result<(), LoadError> {
        self.keep_data = true;
        self.end(Signal::TERM)
    }

    /// Ends it as a crash would; its data stays.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<(), LoadError> {
        self.keep_data = true;
        self.end(Signal::KILL)
    }

    fn end(&mut self, signal: Signal) -> Result<(), LoadError> {
        let pid = self.pid();
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid as i32)) {
            // An error means that it is gone already.
            let _ = kill_process(pid, signal);
        }
        let deadline = Instant::now() + PATIENCE;
        match &mut self.process {
            Process::Own(child) => drop(child.wait()),
            Process::Script { starter } => drop(starter.wait()),
            Process::Gone => {}
        }
        while pid.is_some_and(is_alive) {
            if Instant::now() > deadline {
                return Err(LoadError::Timeout("a broker that stops"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Process::Gone;
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if !matches!(self.process, Process::Gone) {
            let _ = self.end(Signal::KILL);
        }
        if !self.keep_data {
            let _ = remove(&self.data);
        }
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Where a peer keeps its data.
pub fn data_directory(places: &Places, peer: Peer) -> PathBuf {
    match peer {
        Peer::Millrace => places.directory.join("millrace-data"),
        Peer::Kafka => places.kafka_home.join(format!("data-{}", places.kafka_port)),
    }
}

/// Removes a directory that may not be there.
///
/// # Errors
/// When it stays.
pub fn remove(directory: &Path) -> Result<(), LoadError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::io("removing data")(error))
        }
        _ => Ok(()),
    }
}

fn kafka_script(places: &Places, verb: &str) -> Command {
    let mut command = Command::new(&places.kafka_script);
    command.arg(verb).arg(places.kafka_port.to_string());
    command.env("KAFKA_HOME", &places.kafka_home).env("EXTRA", KAFKA_SETTINGS);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn pid_file(places: &Places) -> PathBuf {
    places.kafka_home.join(format!("pid-{}", places.kafka_port))
}

fn free_address() -> Result<SocketAddr, LoadError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.and_then(|it| it.local_addr()).map_err(LoadError::io("looking for a free port"))
}
