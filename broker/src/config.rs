//! Settings: what was written where (`RawConfig`), and what it means (`Config`).
//!
//! A file is overruled by environment variables, those by flags. `RawConfig::check` turns the lot into one `Config` in
//! which nothing is left to interpret, or tells every problem at once, each with its place and what to do. Rooms read
//! `Config` fields; none of them parses text. The keys stand in [`keys`].

pub mod keys;

mod address;
mod properties;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_model::ids::NodeId;
use millrace_model::topic_config::{self, TopicConfig};

pub use address::{Address, InvalidAddress};
pub use properties::SyntaxError;

use keys::{InvalidValue, Key};

/// Environment variables of ours begin with this.
const ENVIRONMENT_PREFIX: &str = "MILLRACE_";

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_id: NodeId,
    pub broker_rack: Option<String>,
    pub data_dir: PathBuf,
    pub kafka_listen: Address,
    /// What Kafka clients are told; `None` is the address that each connected to.
    pub kafka_advertised: Option<Address>,
    pub grpc_listen: Address,
    pub http_listen: Address,
    pub insecure_public_listeners: bool,

    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics: bool,
    pub delete_topic_enable: bool,
    /// What a topic has where it does not say otherwise.
    pub topic_defaults: TopicConfig,
    pub retention_check_interval: Duration,

    pub group_initial_rebalance_delay: Duration,
    pub group_session_timeout_min: Duration,
    pub group_session_timeout_max: Duration,
    pub group_size_max: usize,
    pub offsets_topic_partitions: i32,
    pub offsets_retention: Duration,
    pub offsets_retention_check_interval: Duration,
    pub offset_metadata_bytes_max: usize,
    pub producer_id_expiration: Duration,

    pub socket_request_max_bytes: usize,
    pub queued_max_request_bytes: usize,
    pub fetch_max_bytes: usize,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub connections_max_idle: Duration,
    /// `None` is the system's choice, here and for receiving.
    pub socket_send_buffer_bytes: Option<usize>,
    pub socket_receive_buffer_bytes: Option<usize>,

    /// 0 is one for each core.
    pub worker_threads: usize,
    pub shutdown_drain: Duration,
    pub tracing_filter: String,
    pub tracing_format: LogFormat,
    /// Where spans go; `None` is nowhere.
    pub tracing_otlp_endpoint: Option<Address>,
    pub tracing_otlp_sample_ratio: f64,

    /// The text that each key was given, for answers that show settings.
    given: BTreeMap<&'static str, Given>,
    /// By topic setting: the broker's own default, in the topic's unit, and the key that gave it.
    topic_given: BTreeMap<&'static str, (&'static Key, Given)>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    Human,
    Json,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File { path: PathBuf, line: usize },
    Environment { variable: String },
    Flag { flag: &'static str },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment { variable } => write!(f, "environment variable {variable}"),
            Self::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

#[derive(Clone, Debug)]
struct Given {
    value: String,
    origin: Origin,
}

/// One key with the value in force.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    pub key: &'static Key,
    pub value: &'a str,
    /// Where it was written; `None` is the default.
    pub origin: Option<&'a Origin>,
}

/// One thing that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the settings file {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: {error}", path.display())]
    Syntax { path: PathBuf, error: SyntaxError },
    #[error("{origin}: {key} is given twice, first on line {first}")]
    Twice { key: String, first: usize, origin: Origin },
    #[error("{origin}: {text:?} is no key=value")]
    NoAssignment { text: String, origin: Origin },
    #[error("{origin}: there is no setting {key}{advice}")]
    Unknown { key: String, origin: Origin, advice: Advice },
    #[error("{origin}: {key} = {value:?}: {error}")]
    Invalid { key: &'static str, value: String, origin: Origin, error: InvalidValue },
    #[error(
        "{key} = {address} is reachable from other machines, and there is no TLS and no authentication: whoever \
         reaches it reads, writes and deletes everything. Listen on 127.0.0.1, or allow it by \
         --insecure-public-listeners"
    )]
    Public { key: &'static str, address: Address },
    #[error("{key} = {address} cannot be told to clients: give a host that they can reach")]
    Unadvertisable { key: &'static str, address: Address },
    #[error("{low} = {low_value} is above {high} = {high_value}")]
    Crossed { low: &'static str, low_value: u128, high: &'static str, high_value: u128 },
}

/// What to write instead of an unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    None,
    DidYouMean(&'static str),
    OfKafka(&'static str),
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("; `millrace serve --help-settings` lists them all"),
            Self::DidYouMean(key) => write!(f, "; did you mean {key}?"),
            Self::OfKafka(advice) => write!(f, " in Millrace, though Kafka has it: {advice}"),
        }
    }
}

/// Everything that is wrong, told at once.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Settings as written. Later layers overrule earlier ones, so add file, environment, flags in this order.
#[derive(Debug, Default)]
pub struct RawConfig {
    given: BTreeMap<&'static str, Given>,
    errors: Vec<ConfigError>,
}

impl RawConfig {
    /// Adds the settings of a file.
    #[must_use]
    pub fn file(self, path: &Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => self.file_text(path, &text),
            Err(error) => self.fails(ConfigError::Unreadable { path: path.to_owned(), error }),
        }
    }

    fn file_text(mut self, path: &Path, text: &str) -> Self {
        let entries = match properties::parse(text) {
            Ok(entries) => entries,
            Err(error) => return self.fails(ConfigError::Syntax { path: path.to_owned(), error }),
        };
        let mut lines = BTreeMap::new();
        for entry in entries {
            let origin = Origin::File { path: path.to_owned(), line: entry.line };
            match lines.insert(entry.key.clone(), entry.line) {
                None => self = self.set(&entry.key, entry.value, origin),
                Some(first) => {
                    self = self.fails(ConfigError::Twice { key: entry.key, first, origin });
                }
            }
        }
        self
    }

    /// Adds environment variables: `MILLRACE_NUM_PARTITIONS` is `num.partitions`. Others are not ours.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let key = name.to_ascii_lowercase().replace('_', ".");
            let origin = Origin::Environment { variable };
            self = self.set(&key, value, origin);
        }
        self
    }

    /// Adds one `key=value` of a `--set` flag.
    #[must_use]
    pub fn assignment(self, text: &str) -> Self {
        let origin = Origin::Flag { flag: "--set" };
        match text.split_once('=') {
            Some((key, value)) => self.set(key.trim(), value.trim().to_owned(), origin),
            None => self.fails(ConfigError::NoAssignment { text: text.to_owned(), origin }),
        }
    }

    /// Adds the value of a flag that has its own name, such as `--data-dir`.
    #[must_use]
    pub fn flag(self, flag: &'static str, key: &str, value: String) -> Self {
        self.set(key, value, Origin::Flag { flag })
    }

    fn set(mut self, key: &str, value: String, origin: Origin) -> Self {
        match keys::find(key) {
            Some(row) => {
                self.given.insert(row.name, Given { value, origin });
                self
            }
            None => {
                let advice = advise(key);
                self.fails(ConfigError::Unknown { key: key.to_owned(), origin, advice })
            }
        }
    }

    fn fails(mut self, error: ConfigError) -> Self {
        self.errors.push(error);
        self
    }

    /// Makes the settings of a node.
    ///
    /// # Errors
    /// Every problem of every layer, and every contradiction between settings.
    pub fn check(self) -> Result<Config, ConfigErrors> {
        let Self { given, mut errors } = self;
        let mut config = Config::blank();
        for key in keys::KEYS {
            let Some(Given { value, origin }) = given.get(key.name) else {
                (key.apply)(&mut config, key.default).expect("defaults are legal, a test says so");
                continue;
            };
            if let Err(error) = (key.apply)(&mut config, value) {
                let (value, origin) = (value.clone(), origin.clone());
                errors.push(ConfigError::Invalid { key: key.name, value, origin, error });
            }
        }
        config.given = given;
        config.topic_given = config.topic_defaults_given();
        if errors.is_empty() {
            config.contradictions(&mut errors);
        }
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }
}

/// Finds what the writer of an unknown key may have meant.
fn advise(key: &str) -> Advice {
    if let Some((_, advice)) = keys::KAFKA_ONLY.iter().find(|(name, _)| *name == key) {
        return Advice::OfKafka(advice);
    }
    let likeness = |row: &Key| strsim::jaro_winkler(key, row.name);
    let best = keys::KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best {
        Some(row) if likeness(row) > 0.8 => Advice::DidYouMean(row.name),
        _ => Advice::None,
    }
}

impl Config {
    /// Every key with the value in force, in the order of the table.
    pub fn settings(&self) -> impl Iterator<Item = Setting<'_>> {
        keys::KEYS.iter().map(|key| match self.given.get(key.name) {
            Some(given) => Setting { key, value: &given.value, origin: Some(&given.origin) },
            None => Setting { key, value: key.default, origin: None },
        })
    }

    /// The broker's default of a topic setting, in that setting's unit; `None` where nobody changed it.
    pub fn topic_default(&self, row: &topic_config::Row) -> Option<Setting<'_>> {
        let (key, Given { value, origin }) = self.topic_given.get(row.name)?;
        Some(Setting { key, value, origin: Some(origin) })
    }

    fn topic_defaults_given(&self) -> BTreeMap<&'static str, (&'static Key, Given)> {
        let strongest = |row: &'static topic_config::Row| {
            keys::family(row).into_iter().find_map(|(name, unit_ms)| {
                let given = self.given.get(name).filter(|given| !given.value.is_empty())?;
                let value = keys::scale(&given.value, unit_ms)?;
                let given = Given { value, origin: given.origin.clone() };
                Some((row.name, (keys::find(name)?, given)))
            })
        };
        topic_config::ROWS.iter().filter_map(strongest).collect()
    }

    /// Before the first row was applied. Every field belongs to a row whose default is applied first.
    fn blank() -> Self {
        let nowhere = Address { host: String::new(), port: 0 };
        Self {
            node_id: NodeId(0),
            broker_rack: None,
            data_dir: PathBuf::new(),
            kafka_listen: nowhere.clone(),
            kafka_advertised: None,
            grpc_listen: nowhere.clone(),
            http_listen: nowhere,
            insecure_public_listeners: false,
            num_partitions: 0,
            default_replication_factor: 0,
            auto_create_topics: false,
            delete_topic_enable: false,
            topic_defaults: TopicConfig::default(),
            retention_check_interval: Duration::ZERO,
            group_initial_rebalance_delay: Duration::ZERO,
            group_session_timeout_min: Duration::ZERO,
            group_session_timeout_max: Duration::ZERO,
            group_size_max: 0,
            offsets_topic_partitions: 0,
            offsets_retention: Duration::ZERO,
            offsets_retention_check_interval: Duration::ZERO,
            offset_metadata_bytes_max: 0,
            producer_id_expiration: Duration::ZERO,
            socket_request_max_bytes: 0,
            queued_max_request_bytes: 0,
            fetch_max_bytes: 0,
            max_connections: 0,
            max_connections_per_ip: 0,
            connections_max_idle: Duration::ZERO,
            socket_send_buffer_bytes: None,
            socket_receive_buffer_bytes: None,
            worker_threads: 0,
            shutdown_drain: Duration::ZERO,
            tracing_filter: String::new(),
            tracing_format: LogFormat::Auto,
            tracing_otlp_endpoint: None,
            tracing_otlp_sample_ratio: 0.0,
            given: BTreeMap::new(),
            topic_given: BTreeMap::new(),
        }
    }

    fn contradictions(&self, errors: &mut Vec<ConfigError>) {
        for (key, address) in [
            ("listeners", &self.kafka_listen),
            ("grpc.listen", &self.grpc_listen),
            ("http.listen", &self.http_listen),
        ] {
            if !address.is_loopback() && !self.insecure_public_listeners {
                errors.push(ConfigError::Public { key, address: address.clone() });
            }
        }
        if let Some(address) = self.kafka_advertised.as_ref().filter(|a| a.is_wildcard()) {
            let (key, address) = ("advertised.listeners", address.clone());
            errors.push(ConfigError::Unadvertisable { key, address });
        }
        let (low, high) = (self.group_session_timeout_min, self.group_session_timeout_max);
        if low > high {
            errors.push(ConfigError::Crossed {
                low: "group.min.session.timeout.ms",
                low_value: low.as_millis(),
                high: "group.max.session.timeout.ms",
                high_value: high.as_millis(),
            });
        }
        if self.queued_max_request_bytes < self.socket_request_max_bytes {
            errors.push(ConfigError::Crossed {
                low: "socket.request.max.bytes",
                low_value: self.socket_request_max_bytes as u128,
                high: "queued.max.request.bytes",
                high_value: self.queued_max_request_bytes as u128,
            });
        }
    }
}

#[cfg(test)]
mod tests;
