//! A broker as its own process: started on free ports, killed and started again, always cleaned up.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a broker may take to become ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports for brokers: below those that Linux gives to connections (`net.ipv4.ip_local_port_range`).
const PORTS: Range<u16> = 12_000..32_000;

/// `HOST:PORT` of another Kafka broker that the tests are to judge instead of ours, to find out what is true there.
/// Tests that kill or look inside their broker cannot run so.
const AGAINST: &str = "TESTS_AGAINST";

/// Do the tests judge another broker than ours?
pub fn judges_another() -> bool {
    std::env::var_os(AGAINST).is_some()
}

/// A broker process with its data directory; both go when this is dropped.
pub struct BrokerProcess {
    binary: PathBuf,
    directory: tempfile::TempDir,
    settings: Vec<String>,
    /// Where the data lies instead of in the broker's own temporary directory.
    pub data_dir: Option<PathBuf>,
    /// Where standard output and standard error go instead of nowhere and the broker's own log.
    pub output: Option<PathBuf>,
    child: Option<Child>,
    pub kafka: SocketAddr,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

impl BrokerProcess {
    /// Starts `binary` on free loopback ports with an empty data directory, and waits until it is ready.
    ///
    /// `settings` are `key=value`, as for `--set`.
    ///
    /// # Panics
    /// When the broker does not become ready.
    pub fn start(binary: &str, settings: &[&str]) -> Self {
        let mut broker = Self::prepare(binary, settings);
        match std::env::var(AGAINST) {
            Ok(other) => broker.kafka = other.parse().expect("TESTS_AGAINST is HOST:PORT"),
            Err(_) => broker.launch(),
        }
        broker
    }

    /// As [`Self::start`], but the process is still to be launched.
    ///
    /// # Panics
    /// When the machine has no temporary directory or no free port.
    pub fn prepare(binary: &str, settings: &[&str]) -> Self {
        Self {
            binary: binary.into(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            settings: settings.iter().map(|&it| it.to_owned()).collect(),
            data_dir: None,
            output: None,
            child: None,
            kafka: free_address(),
            grpc: free_address(),
            http: free_address(),
        }
    }

    /// Starts the process, again after [`Self::kill`] or [`Self::stop`], on the same ports and data.
    ///
    /// # Panics
    /// When the broker does not become ready.
    pub fn launch(&mut self) {
        let command = self.command();
        self.launch_as(command);
    }

    /// As [`Self::launch`], by a command that was made of [`Self::command`].
    ///
    /// # Panics
    /// When the broker does not become ready.
    pub fn launch_as(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "the broker runs already");
        let open = |path: &Path| {
            let file = std::fs::File::options().create(true).append(true).open(path);
            file.expect("a file to write to")
        };
        match &self.output {
            Some(output) => command.stdout(open(output)).stderr(open(output)),
            None => command.stdout(Stdio::null()).stderr(open(&self.log_path())),
        };
        self.child = Some(command.spawn().expect("the broker's binary starts"));
        self.wait_until_ready();
    }

    /// The command that serves this broker's data on this broker's ports.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // Whoever runs the tests may have settings of a broker of their own.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"MILLRACE_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg("--data-dir").arg(self.data_dir());
        command.args(["--kafka-listen", &self.kafka.to_string()]);
        command.args(["--grpc-listen", &self.grpc.to_string()]);
        command.args(["--http-listen", &self.http.to_string()]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    /// Changes a setting for the next launch.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if http_get(self.http, "/readyz").is_some_and(|(status, _)| status == 200) {
                return;
            }
            let child = self.child.as_mut().expect("just launched");
            if let Ok(Some(status)) = child.try_wait() {
                self.child = None;
                panic!("the broker ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the broker is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    ///
    /// # Panics
    /// When no process runs.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a running broker");
        child.kill().expect("our own child can be killed");
        child.wait().expect("our own child can be waited for");
    }

    /// SIGTERM, and the exit code.
    ///
    /// # Panics
    /// When no process runs, or it does not stop in time.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait().code()
    }

    /// # Panics
    /// When no process runs.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running broker");
        kill_process(Pid::from_child(child), signal).expect("our own child can be signalled");
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// When no process runs, or it does not end in time.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running broker");
        wait_for(&mut child).unwrap_or_else(|| panic!("the broker goes on:\n{}", self.log()))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Bytes of memory that belong to the process alone: no mapped file counts.
    ///
    /// # Panics
    /// When no process runs.
    pub fn anonymous_bytes(&self) -> u64 {
        let pid = self.pid().expect("a running broker");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let line = line.expect("every process has a line for it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// What the broker wrote to standard error, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// One sample of `/metrics`, summed over labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, page) = http_get(self.http, "/metrics")?;
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let values = samples.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let series = series.split('{').next()?;
            (series == name).then(|| value.parse::<f64>().ok())?
        });
        values.reduce(|sum, value| sum + value)
    }
}

/// What became of a command that ends by itself.
#[derive(Debug)]
pub struct Ended {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// When it does not start, or does not end in time.
pub fn run_to_end(mut command: Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let status = wait_for(&mut child).unwrap_or_else(|| panic!("{command:?} does not end"));
    let mut ended = Ended { code: status.code(), stdout: String::new(), stderr: String::new() };
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut ended.stdout).expect("the output is text");
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut ended.stderr).expect("the output is text");
    }
    ended
}

/// Waits for a child to end; kills it and answers `None` when it takes too long.
fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let ended = until(PATIENCE, || child.try_wait().expect("our own child can be waited for"));
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

/// Asks again and again until there is an answer or `patience` is over.
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(4000);
            let tail = (tail..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
            let _ = writeln!(std::io::stderr(), "--- broker log, its end ---\n{}", &log[tail..]);
        }
    }
}

/// A loopback address that nobody listens on and that no connection gets as its own end: those have ports of another
/// range. So a broker finds its port free, also when it starts again.
fn free_address() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes begin at different places.
        let turn = COUNT
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(std::process::id().wrapping_mul(7919));
        let port = PORTS.start + (turn % PORTS.len() as u32) as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("a bound listener has an address");
        }
    }
}

/// Status and body of a plain GET; `None` when nobody answers.
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// Is `path` empty or missing? For tests that look whether something was left behind.
pub fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}
