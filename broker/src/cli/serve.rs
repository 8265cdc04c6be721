//! `millrace serve`: settings together, a node up, and down again when asked.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::cli::{Exit, connect, output};
use crate::config::{Config, ConfigErrors, RawConfig, keys};
use crate::node::{Addresses, Node};
use crate::ops::telemetry;

/// How the broker is to run.
#[derive(Debug, Default, Args)]
#[command(
    after_help = "A setting is looked for in the file, then the environment, then the flags; the last one wins. \
                        num.partitions is MILLRACE_NUM_PARTITIONS in the environment.\n\n\
                        Examples:\n  \
                        millrace serve --data-dir /var/lib/millrace --kafka-listen 127.0.0.1:19092\n  \
                        millrace serve --config broker.properties --set log.retention.hours=24\n  \
                        MILLRACE_NUM_PARTITIONS=4 millrace serve"
)]
pub(super) struct Arguments {
    /// Where topics and groups are kept; created if missing [default: ./millrace-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where Kafka clients connect [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    kafka_listen: Option<String>,
    /// Where gRPC clients connect [default: 127.0.0.1:9095]
    #[arg(long, value_name = "HOST:PORT")]
    grpc_listen: Option<String>,
    /// Where /healthz, /readyz and /metrics answer [default: 127.0.0.1:9644]
    #[arg(long, value_name = "HOST:PORT")]
    http_listen: Option<String>,
    /// Changes one setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A file of `key = value` lines; a server.properties of Kafka's reads too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listens beyond this machine although there is no TLS and no authentication yet: whoever reaches a port reads,
    /// writes and deletes everything
    #[arg(long)]
    insecure_public_listeners: bool,
    /// Lists every setting with its default and meaning, then ends
    #[arg(long)]
    help_settings: bool,
}

impl Arguments {
    fn config(self) -> Result<Config, ConfigErrors> {
        let mut raw = RawConfig::default();
        if let Some(path) = &self.config {
            raw = raw.file(path);
        }
        raw = raw.environment(environment());
        for assignment in &self.set {
            raw = raw.assignment(assignment);
        }
        let data_dir = self.data_dir.map(|path| path.to_string_lossy().into_owned());
        let insecure = self.insecure_public_listeners.then(|| "true".to_owned());
        for (flag, key, value) in [
            ("--data-dir", "log.dirs", data_dir),
            ("--kafka-listen", "listeners", self.kafka_listen),
            ("--grpc-listen", "grpc.listen", self.grpc_listen),
            ("--http-listen", "http.listen", self.http_listen),
            ("--insecure-public-listeners", "insecure.public.listeners", insecure),
        ] {
            if let Some(value) = value {
                raw = raw.flag(flag, key, value);
            }
        }
        raw.check()
    }
}

/// Variables whose name and value are text; another one cannot be ours. What other commands read is no setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !connect::VARIABLES.contains(&name.as_str()))
}

/// Runs the command to its end.
pub(super) fn run(arguments: Arguments) -> Exit {
    if arguments.help_settings {
        output::print(SettingsPage);
        return Exit::Done;
    }
    let config = match arguments.config() {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(output::complain);
            return Exit::Misused;
        }
    };
    let runtime = match runtime(&config) {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format_args!("the system gives no threads: {error}"));
            return Exit::Failed;
        }
    };
    let inside = runtime.enter();
    let telemetry = match telemetry::init(&config) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            output::complain(error);
            return Exit::Misused;
        }
    };
    drop(inside);
    let exit = runtime.block_on(serve(config));
    if matches!(exit, Exit::Done) {
        // Otherwise somebody wants it to end at once.
        telemetry.stop();
    }
    exit
}

/// Threads for reads of cold segments and look-ups by time: enough to keep a disk busy, few enough to bound memory.
const BLOCKING_THREADS_MAX: usize = 8;

fn runtime(config: &Config) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if config.worker_threads > 0 {
        builder.worker_threads(config.worker_threads);
    }
    builder.thread_name("worker").max_blocking_threads(BLOCKING_THREADS_MAX).enable_all().build()
}

async fn serve(config: Config) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            output::complain(format_args!("cannot listen for signals: {error}"));
            return Exit::Failed;
        }
    };
    let data_dir = config.data_dir.clone();
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => {
            output::complain(error);
            return Exit::Failed;
        }
    };
    let banner = Banner { addresses: node.addresses(), data_dir };
    let Addresses { kafka, grpc, http } = banner.addresses;
    info!(%kafka, %grpc, %http, data_dir = %banner.data_dir.display(), "ready");
    output::print(&banner);

    let name = tokio::select! {
        name = signals.next() => name,
        () = node.failed() => {
            output::complain("the node cannot go on; the log says why. Restart it once that is mended");
            node.shutdown().await;
            return Exit::Failed;
        }
    };
    info!(
        signal = name,
        "stopping: what was begun is finished first; a second signal stops at once"
    );
    tokio::select! {
        () = node.shutdown() => {
            info!("stopped");
            Exit::Done
        }
        name = signals.next() => {
            warn!(signal = name, "stopped at once; the next start recovers");
            Exit::Failed
        }
    }
}

/// The signals that ask a broker to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// What a newcomer needs next.
struct Banner {
    addresses: Addresses,
    data_dir: PathBuf,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addresses { kafka, grpc, http } = self.addresses;
        let broker = reachable(kafka);
        let http_base = reachable(http);
        let at = Elsewhere { grpc: reachable(grpc), http: http_base };
        write!(
            f,
            "\n\
             Millrace {version} is ready. Data in {data}; Ctrl-C stops it.\n\
             \n  \
             Kafka clients  {kafka}\n  \
             gRPC clients   {grpc}\n  \
             operations     http://{http_base}  (/healthz /readyz /metrics)\n\
             \n\
             Publish a first event and read it, in another terminal:\n\
             \n  \
             echo 'hello' | millrace produce first{at}\n  \
             millrace consume first{at}\n\
             \n\
             Watch it, and have it looked over:\n\
             \n  \
             millrace top{at:#}\n  \
             millrace doctor{at:#}\n\
             \n\
             Kafka's clients see the same topics, kcat for example:\n\
             \n  \
             echo 'hello' | kcat -P -b {broker} -t first\n  \
             kcat -C -b {broker} -t first -e\n\
             \n\
             or with Kafka's own tools:\n\
             \n  \
             echo 'hello' | kafka-console-producer.sh --bootstrap-server {broker} --topic first\n  \
             kafka-console-consumer.sh --bootstrap-server {broker} --topic first --from-beginning --max-messages 1\n\
             \n",
            version = env!("CARGO_PKG_VERSION"),
            data = self.data_dir.display(),
        )
    }
}

/// What a command must be told to find a broker whose ports are not the usual ones; with `#` one that asks both.
struct Elsewhere {
    grpc: SocketAddr,
    http: SocketAddr,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.grpc != ([127, 0, 0, 1], connect::DEFAULT_PORT).into() {
            write!(f, " --broker {}", self.grpc)?;
        }
        if f.alternate() && self.http != SocketAddr::new(self.grpc.ip(), connect::DEFAULT_OPS_PORT)
        {
            write!(f, " --ops {}", self.http)?;
        }
        Ok(())
    }
}

/// An address that a client on this machine can use: a listener on every interface is reached by loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        other => other,
    }
}

/// The table of settings as text.
struct SettingsPage;

impl fmt::Display for SettingsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in keys::KEYS {
            let default = if key.default.is_empty() { "(not set)" } else { key.default };
            writeln!(f, "{} = {default}", key.name)?;
            for line in wrapped(key.doc, 96) {
                writeln!(f, "    {line}")?;
            }
            f.write_char('\n')?;
        }
        Ok(())
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_reach_their_settings() {
        let arguments = Arguments {
            data_dir: Some("d".into()),
            kafka_listen: Some("127.0.0.1:1".to_owned()),
            grpc_listen: Some("127.0.0.1:2".to_owned()),
            http_listen: Some("[::1]:3".to_owned()),
            set: vec!["num.partitions=4".to_owned(), "listeners=127.0.0.1:9".to_owned()],
            ..Arguments::default()
        };
        let config = arguments.config().unwrap();
        assert_eq!(config.data_dir, PathBuf::from("d"));
        assert_eq!(config.kafka_listen.port, 1);
        assert_eq!(config.grpc_listen.port, 2);
        assert_eq!(config.http_listen.to_string(), "[::1]:3");
        assert_eq!(config.num_partitions, 4);
    }

    #[test]
    fn the_banner_tells_how_to_publish_and_read() {
        let addresses = Addresses {
            kafka: ([0, 0, 0, 0], 9092).into(),
            grpc: ([127, 0, 0, 1], 9095).into(),
            http: ([127, 0, 0, 1], 9644).into(),
        };
        let banner = Banner { addresses, data_dir: "d".into() }.to_string();
        for line in [
            "  echo 'hello' | kcat -P -b 127.0.0.1:9092 -t first",
            "  kcat -C -b 127.0.0.1:9092 -t first -e",
            "  Kafka clients  0.0.0.0:9092",
            "  echo 'hello' | millrace produce first",
            "  millrace top",
            "  millrace doctor",
        ] {
            assert!(banner.lines().any(|found| found == line), "{banner}");
        }
        let (grpc, http) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        let banner =
            Banner { addresses: Addresses { grpc, http, ..addresses }, data_dir: "d".into() };
        let banner = banner.to_string();
        for line in [
            "  millrace consume first --broker 127.0.0.1:1",
            "  millrace doctor --broker 127.0.0.1:1 --ops 127.0.0.1:2",
        ] {
            assert!(banner.lines().any(|found| found == line), "{banner}");
        }
    }

    #[test]
    fn the_readme_shows_what_the_banner_shows() {
        let addresses = Addresses {
            kafka: ([127, 0, 0, 1], 9092).into(),
            grpc: ([127, 0, 0, 1], 9095).into(),
            http: ([127, 0, 0, 1], 9644).into(),
        };
        let banner = Banner { addresses, data_dir: "./millrace-data".into() }.to_string();
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let commands = banner.lines().map(str::trim).filter(|it| it.contains(":9092 -"));
        let commands: Vec<_> = commands.collect();
        assert_eq!(commands.len(), 4, "{banner}");
        for command in commands {
            assert!(readme.lines().any(|line| line == command), "the README lacks {command}");
        }
    }

    #[test]
    fn the_settings_page_has_every_key_and_fits_a_terminal() {
        let page = SettingsPage.to_string();
        for key in keys::KEYS {
            assert!(page.contains(&format!("{} = ", key.name)));
        }
        assert!(page.lines().all(|line| line.len() <= 100), "{page}");
    }
}
