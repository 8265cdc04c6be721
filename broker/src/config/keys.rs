//! Every setting there is, one row each: name, type, default, meaning, and where its value goes.
//!
//! A setting that Kafka has keeps Kafka's name and meaning. The reference page, `--help-settings` and the answers of
//! `DescribeConfigs` come from this table. Rows apply from top to bottom, so where Kafka has several names for one
//! thing (`log.retention.hours`, `.minutes`, `.ms`) the one that wins stands last. Settings with a twin per topic are
//! checked by the table of `millrace_model::topic_config`, which knows their ranges.

use std::time::Duration;

use millrace_model::ids::NodeId;
use millrace_model::topic_config::{self, Reason};

use crate::config::address::{Address, InvalidAddress};
use crate::config::{Config, LogFormat};

pub use millrace_model::topic_config::Kind;

/// One setting.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// As text; empty is Kafka's null: not set, another row decides.
    pub default: &'static str,
    pub doc: &'static str,
    /// Checks a value and puts it into its place.
    pub(super) apply: fn(&mut Config, &str) -> Result<(), InvalidValue>,
}

/// Why a value does not fit its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("it is no whole number")]
    NotANumber,
    #[error("it must be from {min} to {max}")]
    OutOfRange { min: i64, max: i64 },
    #[error("it must be {choices}")]
    NotOneOf { choices: &'static str },
    #[error("it must be a number from 0 to 1")]
    NoRatio,
    #[error("it must be http://HOST:PORT; there is no TLS")]
    NoPlainUrl,
    #[error("it must not be empty")]
    Empty,
    #[error("one directory is supported, {count} are given")]
    Directories { count: usize },
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    #[error(transparent)]
    Topic(#[from] Reason),
}

type Applied = Result<(), InvalidValue>;

/// The broker's default of one topic setting: type, default and rule are those of the topic's row.
macro_rules! topic_default {
    ($name:literal, $kind:ident, $default:literal, $topic:literal) => {
        Key {
            name: $name,
            kind: Kind::$kind,
            default: $default,
            doc: concat!("Default of the topic setting ", $topic, "."),
            apply: |config, text| unless_empty(text, || set_topic(config, $topic, text, 1)),
        }
    };
    ($name:literal, $kind:ident, $default:literal, $topic:literal, $unit_ms:expr, $doc:literal) => {
        Key {
            name: $name,
            kind: Kind::$kind,
            default: $default,
            doc: concat!("Default of the topic setting ", $topic, ", ", $doc, "."),
            apply: |config, text| unless_empty(text, || set_topic(config, $topic, text, $unit_ms)),
        }
    };
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// Where several keys give one topic setting: the strongest first, each with its unit in milliseconds.
pub(super) const FAMILIES: &[(&str, &[(&str, i64)])] = &[
    (
        "retention.ms",
        &[
            ("log.retention.ms", 1),
            ("log.retention.minutes", MINUTE_MS),
            ("log.retention.hours", HOUR_MS),
        ],
    ),
    ("segment.ms", &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)]),
    ("segment.jitter.ms", &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)]),
];

/// The table.
pub const KEYS: &[Key] = &[
    // Who and where.
    Key {
        name: "broker.id",
        kind: Kind::Int,
        default: "-1",
        doc: "Older name of node.id, used where node.id is not set.",
        apply: |config, text| set_node_id(config, text),
    },
    Key {
        name: "node.id",
        kind: Kind::Int,
        default: "",
        doc: "The number of this broker in its cluster, 0 or more; 1 where neither this nor broker.id is set. It \
              belongs to the data directory: a directory made for one number is refused under another.",
        apply: |config, text| unless_empty(text, || set_node_id(config, text)),
    },
    Key {
        name: "broker.rack",
        kind: Kind::String,
        default: "",
        doc: "Where this broker stands, told to clients that prefer near replicas.",
        apply: |config, text| {
            config.broker_rack = (!text.is_empty()).then(|| text.to_owned());
            Ok(())
        },
    },
    Key {
        name: "log.dir",
        kind: Kind::String,
        default: "./millrace-data",
        doc: "The data directory, used where log.dirs is not set.",
        apply: |config, text| set_data_dir(config, text),
    },
    Key {
        name: "log.dirs",
        kind: Kind::List,
        default: "",
        doc: "The data directory (flag --data-dir). Exactly one; it is created if it is missing.",
        apply: |config, text| unless_empty(text, || set_data_dir(config, text)),
    },
    Key {
        name: "listeners",
        kind: Kind::String,
        default: "PLAINTEXT://127.0.0.1:9092",
        doc: "Where Kafka clients connect (flag --kafka-listen). One listener; port 0 takes any free port.",
        apply: |config, text| {
            config.kafka_listen = Address::parse_listener(text)?;
            Ok(())
        },
    },
    Key {
        name: "advertised.listeners",
        kind: Kind::String,
        default: "",
        doc: "The address that Kafka clients are told to use. Not set: the address that each client connected to.",
        apply: |config, text| {
            unless_empty(text, || {
                config.kafka_advertised = Some(Address::parse_listener(text)?);
                Ok(())
            })
        },
    },
    Key {
        name: "grpc.listen",
        kind: Kind::String,
        default: "127.0.0.1:9095",
        doc: "Where gRPC clients connect (flag --grpc-listen).",
        apply: |config, text| {
            config.grpc_listen = Address::parse(text)?;
            Ok(())
        },
    },
    Key {
        name: "http.listen",
        kind: Kind::String,
        default: "127.0.0.1:9644",
        doc: "Where /healthz, /readyz and /metrics answer (flag --http-listen).",
        apply: |config, text| {
            config.http_listen = Address::parse(text)?;
            Ok(())
        },
    },
    Key {
        name: "insecure.public.listeners",
        kind: Kind::Boolean,
        default: "false",
        doc: "Allows listeners beyond loopback although there is no TLS and no authentication: whoever reaches the \
              port reads, writes and deletes everything (flag --insecure-public-listeners).",
        apply: |config, text| set(&mut config.insecure_public_listeners, boolean(text)),
    },
    // Topics.
    Key {
        name: "num.partitions",
        kind: Kind::Int,
        default: "1",
        doc: "Partitions of a topic whose creator does not say how many.",
        apply: |config, text| set(&mut config.num_partitions, int(text, 1, 10_000)),
    },
    Key {
        name: "default.replication.factor",
        kind: Kind::Int,
        default: "1",
        doc: "Replicas of a topic whose creator does not say how many. One broker can hold one.",
        apply: |config, text| {
            set(&mut config.default_replication_factor, short(text, 1, i64::from(i16::MAX)))
        },
    },
    Key {
        name: "auto.create.topics.enable",
        kind: Kind::Boolean,
        default: "true",
        doc: "Creates a topic when a Kafka client asks for the metadata of one that does not exist.",
        apply: |config, text| set(&mut config.auto_create_topics, boolean(text)),
    },
    Key {
        name: "delete.topic.enable",
        kind: Kind::Boolean,
        default: "true",
        doc: "Allows topics to be deleted.",
        apply: |config, text| set(&mut config.delete_topic_enable, boolean(text)),
    },
    Key {
        name: "log.retention.check.interval.ms",
        kind: Kind::Long,
        default: "300000",
        doc: "How often old segments are looked for.",
        apply: |config, text| set(&mut config.retention_check_interval, millis(text, 1)),
    },
    // What a topic has where it does not say otherwise.
    topic_default!("durability", String, "durable", "durability"),
    topic_default!("log.retention.hours", Int, "168", "retention.ms", HOUR_MS, "in hours"),
    topic_default!(
        "log.retention.minutes",
        Int,
        "",
        "retention.ms",
        MINUTE_MS,
        "in minutes; stronger than the hours"
    ),
    topic_default!(
        "log.retention.ms",
        Long,
        "",
        "retention.ms",
        1,
        "stronger than minutes and hours"
    ),
    topic_default!("log.retention.bytes", Long, "-1", "retention.bytes"),
    topic_default!("log.segment.bytes", Int, "1073741824", "segment.bytes"),
    topic_default!("log.roll.hours", Int, "168", "segment.ms", HOUR_MS, "in hours"),
    topic_default!("log.roll.ms", Long, "", "segment.ms", 1, "stronger than the hours"),
    topic_default!("log.roll.jitter.hours", Int, "0", "segment.jitter.ms", HOUR_MS, "in hours"),
    topic_default!(
        "log.roll.jitter.ms",
        Long,
        "",
        "segment.jitter.ms",
        1,
        "stronger than the hours"
    ),
    topic_default!("log.index.interval.bytes", Int, "4096", "index.interval.bytes"),
    topic_default!("log.index.size.max.bytes", Int, "10485760", "segment.index.bytes"),
    topic_default!("message.max.bytes", Int, "1048588", "max.message.bytes"),
    topic_default!("log.message.timestamp.type", String, "CreateTime", "message.timestamp.type"),
    topic_default!(
        "log.message.timestamp.before.max.ms",
        Long,
        "9223372036854775807",
        "message.timestamp.before.max.ms"
    ),
    topic_default!(
        "log.message.timestamp.after.max.ms",
        Long,
        "3600000",
        "message.timestamp.after.max.ms"
    ),
    topic_default!("min.insync.replicas", Int, "1", "min.insync.replicas"),
    topic_default!("compression.type", String, "producer", "compression.type"),
    topic_default!("log.cleanup.policy", List, "delete", "cleanup.policy"),
    topic_default!("log.flush.interval.messages", Long, "9223372036854775807", "flush.messages"),
    topic_default!("log.flush.interval.ms", Long, "", "flush.ms"),
    // Consumer groups.
    Key {
        name: "group.initial.rebalance.delay.ms",
        kind: Kind::Int,
        default: "3000",
        doc: "How long an empty group waits for more members after its first one joined.",
        apply: |config, text| set(&mut config.group_initial_rebalance_delay, millis(text, 0)),
    },
    Key {
        name: "group.min.session.timeout.ms",
        kind: Kind::Int,
        default: "6000",
        doc: "The shortest session timeout that a member may ask for.",
        apply: |config, text| set(&mut config.group_session_timeout_min, millis(text, 1)),
    },
    Key {
        name: "group.max.session.timeout.ms",
        kind: Kind::Int,
        default: "1800000",
        doc: "The longest session timeout that a member may ask for.",
        apply: |config, text| set(&mut config.group_session_timeout_max, millis(text, 1)),
    },
    Key {
        name: "group.max.size",
        kind: Kind::Int,
        default: "2147483647",
        doc: "The most members that a group may have.",
        apply: |config, text| set(&mut config.group_size_max, count(text, 1)),
    },
    Key {
        name: "offsets.topic.num.partitions",
        kind: Kind::Int,
        default: "50",
        doc: "Partitions of __consumer_offsets, read when that topic is created.",
        apply: |config, text| set(&mut config.offsets_topic_partitions, int(text, 1, 10_000)),
    },
    Key {
        name: "offsets.retention.minutes",
        kind: Kind::Int,
        default: "10080",
        doc: "How long the offsets of a group without members are kept.",
        apply: |config, text| {
            let minutes = number(text, 1, i64::from(i32::MAX))?;
            config.offsets_retention = Duration::from_secs(minutes as u64 * 60);
            Ok(())
        },
    },
    Key {
        name: "offsets.retention.check.interval.ms",
        kind: Kind::Long,
        default: "600000",
        doc: "How often expired offsets are looked for.",
        apply: |config, text| set(&mut config.offsets_retention_check_interval, millis(text, 1)),
    },
    Key {
        name: "offset.metadata.max.bytes",
        kind: Kind::Int,
        default: "4096",
        doc: "The longest text that a client may store beside a committed offset.",
        apply: |config, text| set(&mut config.offset_metadata_bytes_max, count(text, 0)),
    },
    // Producers.
    Key {
        name: "producer.id.expiration.ms",
        kind: Kind::Int,
        default: "86400000",
        doc: "How long a partition remembers an idempotent producer that no longer writes.",
        apply: |config, text| set(&mut config.producer_id_expiration, millis(text, 1)),
    },
    // Limits.
    Key {
        name: "socket.request.max.bytes",
        kind: Kind::Int,
        default: "16777216",
        doc: "The largest request of a Kafka client; a larger one closes its connection.",
        apply: |config, text| {
            // Above 100 MiB a few clients could hold the node's whole budget.
            set(&mut config.socket_request_max_bytes, size(text, 1024, 100 * 1024 * 1024))
        },
    },
    Key {
        name: "queued.max.request.bytes",
        kind: Kind::Long,
        default: "1073741824",
        doc: "Bytes of large requests that the broker holds at once, over all connections; at this many it stops \
              reading from sockets until some are answered.",
        apply: |config, text| {
            set(&mut config.queued_max_request_bytes, size(text, 1024 * 1024, i64::MAX))
        },
    },
    Key {
        name: "fetch.max.bytes",
        kind: Kind::Int,
        default: "57671680",
        doc: "The most bytes that one fetch is answered with, whatever the client asks for.",
        apply: |config, text| {
            set(&mut config.fetch_max_bytes, size(text, 1024, i64::from(i32::MAX)))
        },
    },
    Key {
        name: "max.connections",
        kind: Kind::Int,
        default: "12000",
        doc: "Kafka connections at once; a further one is closed.",
        apply: |config, text| set(&mut config.max_connections, count(text, 1)),
    },
    Key {
        name: "max.connections.per.ip",
        kind: Kind::Int,
        default: "1000",
        doc: "Kafka connections at once from one address.",
        apply: |config, text| set(&mut config.max_connections_per_ip, count(text, 1)),
    },
    Key {
        name: "connections.max.idle.ms",
        kind: Kind::Long,
        default: "600000",
        doc: "A connection without a request for this long is closed; -1 is never.",
        apply: |config, text| set(&mut config.connections_max_idle, millis(text, -1)),
    },
    Key {
        name: "socket.send.buffer.bytes",
        kind: Kind::Int,
        default: "262144",
        doc: "The system's send buffer of a Kafka connection; -1 lets the system grow it, for consumers far away. \
              Small is fast near by: what is sent is still in the CPU's cache when it is received.",
        apply: |config, text| set(&mut config.socket_send_buffer_bytes, buffer(text)),
    },
    Key {
        name: "socket.receive.buffer.bytes",
        kind: Kind::Int,
        default: "-1",
        doc: "The system's receive buffer of a Kafka connection; -1 lets the system size it.",
        apply: |config, text| set(&mut config.socket_receive_buffer_bytes, buffer(text)),
    },
    // The process.
    Key {
        name: "worker.threads",
        kind: Kind::Int,
        default: "0",
        doc: "Threads that serve connections; 0 is one for each core.",
        apply: |config, text| set(&mut config.worker_threads, count_to(text, 0, 1024)),
    },
    Key {
        name: "shutdown.drain.ms",
        kind: Kind::Long,
        default: "10000",
        doc: "How long a stopping broker lets requests finish before it closes their connections.",
        apply: |config, text| set(&mut config.shutdown_drain, millis(text, 0)),
    },
    Key {
        name: "tracing.filter",
        kind: Kind::String,
        default: "info",
        doc: "Which log lines are written: a level (error, warn, info, debug, trace), or levels by module such as \
              info,millrace::kafka=debug.",
        apply: |config, text| {
            config.tracing_filter = not_empty(text)?.to_owned();
            Ok(())
        },
    },
    Key {
        name: "tracing.format",
        kind: Kind::String,
        default: "auto",
        doc: "How log lines look: human, json, or auto, which is human on a terminal and json elsewhere.",
        apply: |config, text| {
            config.tracing_format = match text {
                "auto" => LogFormat::Auto,
                "human" => LogFormat::Human,
                "json" => LogFormat::Json,
                _ => return Err(InvalidValue::NotOneOf { choices: "auto, human or json" }),
            };
            Ok(())
        },
    },
    Key {
        name: "tracing.otlp.endpoint",
        kind: Kind::String,
        default: "",
        doc: "Where a span for each request is sent: an OpenTelemetry collector that takes OTLP over gRPC, such as \
              http://127.0.0.1:4317. Empty: nowhere.",
        apply: |config, text| {
            config.tracing_otlp_endpoint = plain_url(text)?;
            Ok(())
        },
    },
    Key {
        name: "tracing.otlp.sample.ratio",
        kind: Kind::Double,
        default: "1",
        doc: "The share of requests whose span is sent, where the client brings no trace of its own that says so. \
              1 costs a busy broker a good part of its speed.",
        apply: |config, text| set(&mut config.tracing_otlp_sample_ratio, ratio(text)),
    },
];

/// Settings of Kafka that have no meaning here, with what to do instead. Named so that a `server.properties` fails with
/// advice and not with a riddle.
pub(super) const KAFKA_ONLY: &[(&str, &str)] = &[
    ("process.roles", "every broker is its own controller; leave the line out"),
    ("controller.quorum.voters", "there is no separate controller; leave the line out"),
    ("controller.quorum.bootstrap.servers", "there is no separate controller; leave the line out"),
    ("controller.listener.names", "there is no separate controller; leave the line out"),
    ("inter.broker.listener.name", "brokers do not talk to each other yet; leave the line out"),
    ("zookeeper.connect", "there is no ZooKeeper; leave the line out"),
    ("listener.security.protocol.map", "PLAINTEXT is the only protocol yet; leave the line out"),
    ("num.network.threads", "set worker.threads instead, or leave it to the cores"),
    ("num.io.threads", "set worker.threads instead, or leave it to the cores"),
    ("num.recovery.threads.per.data.dir", "recovery chooses for itself; leave the line out"),
    ("offsets.topic.replication.factor", "one broker holds one replica; leave the line out"),
    (
        "transaction.state.log.replication.factor",
        "there are no transactions yet; leave the line out",
    ),
    ("transaction.state.log.min.isr", "there are no transactions yet; leave the line out"),
    ("log.cleaner.enable", "there is no compaction yet; leave the line out"),
];

/// The row of `name`.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn set<T>(place: &mut T, value: Result<T, InvalidValue>) -> Applied {
    *place = value?;
    Ok(())
}

fn unless_empty(text: &str, apply: impl FnOnce() -> Applied) -> Applied {
    if text.is_empty() { Ok(()) } else { apply() }
}

fn not_empty(text: &str) -> Result<&str, InvalidValue> {
    if text.is_empty() { Err(InvalidValue::Empty) } else { Ok(text) }
}

fn set_node_id(config: &mut Config, text: &str) -> Applied {
    // Kafka's -1 is "not given"; a lone broker is number 1, as in Kafka's quick start.
    let id = int(text, -1, i64::from(i32::MAX))?;
    config.node_id = NodeId(if id < 0 { 1 } else { id });
    Ok(())
}

fn set_data_dir(config: &mut Config, text: &str) -> Applied {
    let count = text.split(',').count();
    if count > 1 {
        return Err(InvalidValue::Directories { count });
    }
    config.data_dir = not_empty(text)?.into();
    Ok(())
}

fn set_topic(config: &mut Config, topic_key: &str, text: &str, unit_ms: i64) -> Applied {
    let scaled = scale(text, unit_ms).ok_or(InvalidValue::NotANumber)?;
    config.topic_defaults.set(topic_key, &scaled).map_err(|invalid| invalid.reason)?;
    Ok(())
}

/// A value in the unit of the topic setting; below zero there is no unit, because -1 means "no limit".
pub(super) fn scale(text: &str, unit_ms: i64) -> Option<String> {
    if unit_ms == 1 {
        return Some(text.to_owned());
    }
    let value: i64 = text.parse().ok()?;
    Some(if value < 0 { value } else { value.checked_mul(unit_ms)? }.to_string())
}

/// The keys that give a topic setting its default, the strongest first, each with its unit in milliseconds.
pub(super) fn family(row: &topic_config::Row) -> Vec<(&'static str, i64)> {
    match FAMILIES.iter().find(|(topic_key, _)| *topic_key == row.name) {
        Some((_, members)) => members.to_vec(),
        None => row.broker_name.map(|name| (name, 1)).into_iter().collect(),
    }
}

fn number(text: &str, min: i64, max: i64) -> Result<i64, InvalidValue> {
    let number: i64 = text.parse().map_err(|_| InvalidValue::NotANumber)?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(InvalidValue::OutOfRange { min, max })
    }
}

fn int(text: &str, min: i32, max: i64) -> Result<i32, InvalidValue> {
    let max = max.min(i64::from(i32::MAX));
    number(text, i64::from(min), max).map(|n| i32::try_from(n).expect("the range lies in an i32"))
}

fn short(text: &str, min: i16, max: i64) -> Result<i16, InvalidValue> {
    let max = max.min(i64::from(i16::MAX));
    number(text, i64::from(min), max).map(|n| i16::try_from(n).expect("the range lies in an i16"))
}

fn count(text: &str, min: i64) -> Result<usize, InvalidValue> {
    count_to(text, min, i64::from(i32::MAX))
}

fn count_to(text: &str, min: i64, max: i64) -> Result<usize, InvalidValue> {
    number(text, min, max).map(|n| usize::try_from(n).expect("counts begin at 0"))
}

fn size(text: &str, min: i64, max: i64) -> Result<usize, InvalidValue> {
    count_to(text, min, max)
}

/// `None` is the system's choice.
fn buffer(text: &str) -> Result<Option<usize>, InvalidValue> {
    number(text, -1, i64::from(i32::MAX)).map(|bytes| usize::try_from(bytes).ok())
}

/// Milliseconds; negative, where it is allowed, is never. Deadlines are sums with a clock, so a century is never too.
fn millis(text: &str, min: i64) -> Result<Duration, InvalidValue> {
    const CENTURY: u64 = 100 * 366 * 24 * 3600 * 1000;
    let ms = number(text, min, i64::MAX)?;
    Ok(Duration::from_millis(u64::try_from(ms).unwrap_or(CENTURY).min(CENTURY)))
}

/// `None` where it is empty.
fn plain_url(text: &str) -> Result<Option<Address>, InvalidValue> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.strip_prefix("http://").ok_or(InvalidValue::NoPlainUrl)?;
    Ok(Some(Address::parse(address.trim_end_matches('/'))?))
}

fn ratio(text: &str) -> Result<f64, InvalidValue> {
    let ratio = text.parse().map_err(|_| InvalidValue::NoRatio)?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err(InvalidValue::NoRatio) }
}

fn boolean(text: &str) -> Result<bool, InvalidValue> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(InvalidValue::NotOneOf { choices: "true or false" }),
    }
}
