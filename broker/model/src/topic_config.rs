//! A topic's settings: one row per key with Kafka's name, type, default and rules, and their typed form.
//!
//! Broker defaults of the same things (`log.retention.ms` for `retention.ms`) are rows' second names; the shell reads
//! them. Keys of features that do not exist here (tiering, throttled replicas) are accepted with Kafka's defaults and
//! change nothing, because tools set and show them.

use std::fmt;

use crate::compression::Codec;
use crate::limits::{BATCH_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};

/// What must be true before a record is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Its bytes are on stable storage. The default.
    Durable,
    /// Its bytes are in the page cache: a process crash loses nothing, a power cut up to the flush bound.
    Relaxed,
}

/// How closely a produced batch is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validation {
    /// Its header, size and CRC: records are never unpacked.
    Header,
    /// Every record as well.
    Strict,
}

/// Whose clock a record's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// A topic's settings, none left to interpret. Durations in milliseconds, -1 for "no limit".
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub durability: Durability,
    pub validation: Validation,
    pub cleanup_delete: bool,
    /// Keys are required. NOTE: nothing is compacted yet, so such a topic keeps every record, which any reader of a
    /// compacted topic must bear.
    pub cleanup_compact: bool,
    /// `None`: as the producer sent it.
    pub compression: Option<Codec>,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub segment_bytes: u32,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub segment_index_bytes: u32,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub min_insync_replicas: i32,
    /// 1 means durable, see [`Self::is_durable`]; nothing else.
    pub flush_messages: i64,
    /// Bounds a relaxed topic's loss; on a durable one it changes nothing.
    pub flush_ms: i64,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Durable,
            validation: Validation::Header,
            cleanup_delete: true,
            cleanup_compact: false,
            compression: None,
            retention_ms: 604_800_000,
            retention_bytes: -1,
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10_485_760,
            index_interval_bytes: 4096,
            max_message_bytes: BATCH_BYTES_DEFAULT,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            min_insync_replicas: 1,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
        }
    }
}

impl TopicConfig {
    /// Changes one setting.
    ///
    /// # Errors
    /// An unknown key, or a value that breaks its rule; nothing is changed then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), InvalidTopicConfig> {
        let row = row(key).ok_or_else(|| InvalidTopicConfig::unknown(key))?;
        (row.apply)(self, value.trim()).map_err(|reason| InvalidTopicConfig {
            key: key.to_owned(),
            value: value.to_owned(),
            reason,
        })
    }

    /// These settings with a topic's overrides on top. Overrides were checked when they were accepted; one that a newer
    /// rule refuses is left out.
    #[must_use]
    pub fn with_overrides<'a>(
        &self,
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut config = self.clone();
        for (key, value) in overrides {
            let _ = config.set(key, value);
        }
        config
    }

    /// Must records be looked at one by one when they are produced?
    pub fn checks_records(&self) -> bool {
        self.cleanup_compact || self.validation == Validation::Strict
    }

    /// Does an acknowledgement wait for stable storage? Kafka's `flush.messages=1` means that too.
    pub fn is_durable(&self) -> bool {
        self.durability == Durability::Durable || self.flush_messages == 1
    }
}

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidTopicConfig {
    pub key: String,
    pub value: String,
    pub reason: Reason,
}

impl fmt::Display for InvalidTopicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, reason } = self;
        match reason {
            Reason::UnknownKey => write!(f, "unknown topic setting {key:?}"),
            reason => write!(f, "invalid value {value:?} for {key}: {reason}"),
        }
    }
}

impl InvalidTopicConfig {
    fn unknown(key: &str) -> Self {
        Self { key: key.to_owned(), value: String::new(), reason: Reason::UnknownKey }
    }
}

/// The rule that a value breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("there is no such topic setting")]
    UnknownKey,
    #[error("it is no whole number")]
    NotANumber,
    #[error("it must be from {min} to {max}")]
    OutOfRange { min: i64, max: i64 },
    #[error("it must be {0}")]
    NotOneOf(&'static str),
    #[error("it must be a number from 0 to 1")]
    NotARatio,
    #[error("it must be * or a list of partition:broker pairs separated by commas")]
    NotReplicas,
    #[error("tiered storage is not supported")]
    NoTiering,
}

/// A value's type; the numbers are Kafka's `DescribeConfigsResponse.ConfigType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One topic setting.
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// Kafka's default, as text.
    pub default: &'static str,
    /// The broker's setting that is the default of topics that do not say; `None` where there is none.
    pub broker_name: Option<&'static str>,
    pub doc: &'static str,
    apply: fn(&mut TopicConfig, &str) -> Result<(), Reason>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The row of a key.
pub fn row(name: &str) -> Option<&'static Row> {
    ROWS.binary_search_by(|row| row.name.cmp(name)).ok().map(|index| &ROWS[index])
}

const LONG_MAX: &str = "9223372036854775807";

/// Every topic setting, in order of the names.
pub const ROWS: &[Row] = &[
    Row {
        name: "cleanup.policy",
        kind: Kind::List,
        default: "delete",
        broker_name: Some("log.cleanup.policy"),
        doc: "What becomes of old records: delete by retention, compact to the last of each key, both, or nothing if \
              empty. Compacted topics require keys; compaction itself does not run yet, every record is kept.",
        apply: |config, text| {
            let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
            if items().any(|item| item != "delete" && item != "compact") {
                let choices = "delete, compact, both separated by a comma, or empty";
                return Err(Reason::NotOneOf(choices));
            }
            config.cleanup_delete = items().any(|item| item == "delete");
            config.cleanup_compact = items().any(|item| item == "compact");
            Ok(())
        },
    },
    Row {
        name: "compression.gzip.level",
        kind: Kind::Int,
        default: "-1",
        broker_name: None,
        doc: "Unused: where the broker compresses, it uses the default level.",
        apply: |_, text| match int(text, -1, 9)? {
            0 => Err(Reason::NotOneOf("-1 or from 1 to 9")),
            _ => Ok(()),
        },
    },
    Row {
        name: "compression.lz4.level",
        kind: Kind::Int,
        default: "9",
        broker_name: None,
        doc: "Unused: where the broker compresses, it uses the default level.",
        apply: |_, text| int(text, 1, 17).map(|_| ()),
    },
    Row {
        name: "compression.type",
        kind: Kind::String,
        default: "producer",
        broker_name: Some("compression.type"),
        doc: "How batches are stored: as the producer sent them, or in this codec.",
        apply: |config, text| {
            config.compression = match text {
                "producer" => None,
                "uncompressed" => Some(Codec::None),
                "gzip" => Some(Codec::Gzip),
                "snappy" => Some(Codec::Snappy),
                "lz4" => Some(Codec::Lz4),
                "zstd" => Some(Codec::Zstd),
                _ => {
                    return Err(Reason::NotOneOf(
                        "producer, uncompressed, gzip, snappy, lz4 or zstd",
                    ));
                }
            };
            Ok(())
        },
    },
    Row {
        name: "compression.zstd.level",
        kind: Kind::Int,
        default: "3",
        broker_name: None,
        doc: "Unused: where the broker compresses, it uses the default level.",
        apply: |_, text| int(text, -131072, 22).map(|_| ()),
    },
    unused_long("delete.retention.ms", "86400000", 0, "How long compaction keeps tombstones."),
    Row {
        name: "durability",
        kind: Kind::String,
        default: "durable",
        broker_name: Some("durability"),
        doc: "durable: a record is acknowledged, and shown to consumers, once it is on stable storage. relaxed: once it \
              is in the page cache, and on stable storage at most a second later.",
        apply: |config, text| {
            config.durability = match text {
                "durable" => Durability::Durable,
                "relaxed" => Durability::Relaxed,
                _ => return Err(Reason::NotOneOf("durable or relaxed")),
            };
            Ok(())
        },
    },
    unused_long(
        "file.delete.delay.ms",
        "60000",
        0,
        "Unused: a deleted segment's bytes live as long as its last reader.",
    ),
    Row {
        name: "flush.messages",
        kind: Kind::Long,
        default: LONG_MAX,
        broker_name: Some("log.flush.interval.messages"),
        doc: "1 makes a topic durable, whatever durability says. Other values change nothing: a relaxed topic is synced \
              by time.",
        apply: |config, text| long(text, 1, i64::MAX).map(|value| config.flush_messages = value),
    },
    Row {
        name: "flush.ms",
        kind: Kind::Long,
        default: LONG_MAX,
        broker_name: Some("log.flush.interval.ms"),
        doc: "On a relaxed topic, sync after this time, at most a second. On a durable topic it changes nothing.",
        apply: |config, text| long(text, 0, i64::MAX).map(|value| config.flush_ms = value),
    },
    throttled_replicas("follower.replication.throttled.replicas"),
    Row {
        name: "index.interval.bytes",
        kind: Kind::Int,
        default: "4096",
        broker_name: Some("log.index.interval.bytes"),
        doc: "About one index entry for this many bytes of log.",
        apply: |config, text| {
            int(text, 0, i32::MAX).map(|value| config.index_interval_bytes = value.unsigned_abs())
        },
    },
    throttled_replicas("leader.replication.throttled.replicas"),
    unused_long("local.retention.bytes", "-2", -2, "Unused: there is no tiered storage."),
    unused_long("local.retention.ms", "-2", -2, "Unused: there is no tiered storage."),
    unused_long("max.compaction.lag.ms", LONG_MAX, 1, "Unused: compaction does not run yet."),
    Row {
        name: "max.message.bytes",
        kind: Kind::Int,
        default: "1048588",
        broker_name: Some("message.max.bytes"),
        doc: "The largest batch, as stored, that may be produced.",
        apply: |config, text| {
            int(text, 0, i32::MAX).map(|value| config.max_message_bytes = value.unsigned_abs())
        },
    },
    Row {
        name: "message.timestamp.after.max.ms",
        kind: Kind::Long,
        default: "3600000",
        broker_name: Some("log.message.timestamp.after.max.ms"),
        doc: "How far a record's time may lie after the broker's.",
        apply: |config, text| long(text, 0, i64::MAX).map(|it| config.timestamp_after_max_ms = it),
    },
    Row {
        name: "message.timestamp.before.max.ms",
        kind: Kind::Long,
        default: LONG_MAX,
        broker_name: Some("log.message.timestamp.before.max.ms"),
        doc: "How far a record's time may lie before the broker's.",
        apply: |config, text| long(text, 0, i64::MAX).map(|it| config.timestamp_before_max_ms = it),
    },
    Row {
        name: "message.timestamp.type",
        kind: Kind::String,
        default: "CreateTime",
        broker_name: Some("log.message.timestamp.type"),
        doc: "Whose clock a record's time is: CreateTime the producer's, LogAppendTime the broker's.",
        apply: |config, text| {
            config.timestamp_type = match text {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return Err(Reason::NotOneOf("CreateTime or LogAppendTime")),
            };
            Ok(())
        },
    },
    Row {
        name: "min.cleanable.dirty.ratio",
        kind: Kind::Double,
        default: "0.5",
        broker_name: None,
        doc: "Unused: compaction does not run yet.",
        apply: |_, text| match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => Err(Reason::NotARatio),
        },
    },
    unused_long("min.compaction.lag.ms", "0", 0, "Unused: compaction does not run yet."),
    Row {
        name: "min.insync.replicas",
        kind: Kind::Int,
        default: "1",
        broker_name: Some("min.insync.replicas"),
        doc: "How many replicas must have a record before acks=all is answered.",
        apply: |config, text| {
            int(text, 1, i32::MAX).map(|value| config.min_insync_replicas = value)
        },
    },
    Row {
        name: "preallocate",
        kind: Kind::Boolean,
        default: "false",
        broker_name: None,
        doc: "Unused: a segment's length is always the length of its records.",
        apply: |_, text| boolean(text).map(|_| ()),
    },
    Row {
        name: "remote.log.copy.disable",
        kind: Kind::Boolean,
        default: "false",
        broker_name: None,
        doc: "Unused: there is no tiered storage.",
        apply: |_, text| boolean(text).map(|_| ()),
    },
    Row {
        name: "remote.log.delete.on.disable",
        kind: Kind::Boolean,
        default: "false",
        broker_name: None,
        doc: "Unused: there is no tiered storage.",
        apply: |_, text| boolean(text).map(|_| ()),
    },
    Row {
        name: "remote.storage.enable",
        kind: Kind::Boolean,
        default: "false",
        broker_name: None,
        doc: "Tiered storage, which is not supported: only false is accepted.",
        apply: |_, text| match boolean(text)? {
            true => Err(Reason::NoTiering),
            false => Ok(()),
        },
    },
    Row {
        name: "retention.bytes",
        kind: Kind::Long,
        default: "-1",
        broker_name: Some("log.retention.bytes"),
        doc: "Oldest segments go while a partition is larger; -1 keeps any size.",
        // Kafka has no lower bound here and takes whatever is below zero for "any size".
        apply: |config, text| {
            long(text, i64::MIN, i64::MAX).map(|value| config.retention_bytes = value.max(-1))
        },
    },
    Row {
        name: "retention.ms",
        kind: Kind::Long,
        default: "604800000",
        broker_name: Some("log.retention.ms"),
        doc: "Segments whose newest record is older go; -1 keeps any age.",
        apply: |config, text| long(text, -1, i64::MAX).map(|value| config.retention_ms = value),
    },
    Row {
        name: "segment.bytes",
        kind: Kind::Int,
        default: "1073741824",
        broker_name: Some("log.segment.bytes"),
        doc: "A segment ends before it grows beyond this.",
        apply: |config, text| {
            let (min, max) = (SEGMENT_BYTES_MIN.cast_signed(), SEGMENT_BYTES_MAX.cast_signed());
            int(text, min, max).map(|value| config.segment_bytes = value.unsigned_abs())
        },
    },
    Row {
        name: "segment.index.bytes",
        kind: Kind::Int,
        default: "10485760",
        broker_name: Some("log.index.size.max.bytes"),
        doc: "A segment ends when its index would grow beyond this.",
        apply: |config, text| {
            int(text, 4, i32::MAX).map(|value| config.segment_index_bytes = value.unsigned_abs())
        },
    },
    Row {
        name: "segment.jitter.ms",
        kind: Kind::Long,
        default: "0",
        broker_name: Some("log.roll.jitter.ms"),
        doc: "Unused: segments of one age do not end at one moment, because each ends with its next append.",
        apply: |config, text| long(text, 0, i64::MAX).map(|value| config.segment_jitter_ms = value),
    },
    Row {
        name: "segment.ms",
        kind: Kind::Long,
        default: "604800000",
        broker_name: Some("log.roll.ms"),
        doc: "A segment ends when it is this old, even if it is not full.",
        apply: |config, text| long(text, 1, i64::MAX).map(|value| config.segment_ms = value),
    },
    Row {
        name: "unclean.leader.election.enable",
        kind: Kind::Boolean,
        default: "false",
        broker_name: None,
        doc: "Unused: a replica that lacks acknowledged records never leads.",
        apply: |_, text| boolean(text).map(|_| ()),
    },
    Row {
        name: "validation",
        kind: Kind::String,
        default: "header",
        broker_name: None,
        doc: "header: a produced batch's header, size and CRC are checked. strict: each of its records too.",
        apply: |config, text| {
            config.validation = match text {
                "header" => Validation::Header,
                "strict" => Validation::Strict,
                _ => return Err(Reason::NotOneOf("header or strict")),
            };
            Ok(())
        },
    },
];

const fn unused_long(
    name: &'static str,
    default: &'static str,
    min: i64,
    doc: &'static str,
) -> Row {
    // A function pointer captures nothing, so the bound is one of three.
    let apply: fn(&mut TopicConfig, &str) -> Result<(), Reason> = match min {
        -2 => |_, text| long(text, -2, i64::MAX).map(|_| ()),
        0 => |_, text| long(text, 0, i64::MAX).map(|_| ()),
        _ => |_, text| long(text, 1, i64::MAX).map(|_| ()),
    };
    Row { name, kind: Kind::Long, default, broker_name: None, doc, apply }
}

const fn throttled_replicas(name: &'static str) -> Row {
    let apply: fn(&mut TopicConfig, &str) -> Result<(), Reason> = |_, text| {
        let number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
        let pair = |it: &str| {
            it.trim().split_once(':').is_some_and(|(left, right)| number(left) && number(right))
        };
        match text.is_empty() || text == "*" || text.split(',').all(pair) {
            true => Ok(()),
            false => Err(Reason::NotReplicas),
        }
    };
    let doc = "Unused: there is no replication yet.";
    Row { name, kind: Kind::List, default: "", broker_name: None, doc, apply }
}

fn long(text: &str, min: i64, max: i64) -> Result<i64, Reason> {
    let value: i64 = text.parse().map_err(|_| Reason::NotANumber)?;
    if (min..=max).contains(&value) { Ok(value) } else { Err(Reason::OutOfRange { min, max }) }
}

fn int(text: &str, min: i32, max: i32) -> Result<i32, Reason> {
    let value = long(text, min.into(), max.into())?;
    Ok(i32::try_from(value).expect("within an i32's range"))
}

fn boolean(text: &str) -> Result<bool, Reason> {
    if text.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(Reason::NotOneOf("true or false"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_ordered_and_their_defaults_are_the_default() {
        assert!(ROWS.windows(2).all(|pair| pair[0].name < pair[1].name));
        let mut config = TopicConfig::default();
        for row in ROWS {
            config.set(row.name, row.default).unwrap();
        }
        assert_eq!(config, TopicConfig::default());
    }

    #[test]
    fn values_outside_kafkas_rules_are_refused_and_change_nothing() {
        for (key, value) in [
            ("retention.ms", "-2"),
            ("retention.ms", "soon"),
            ("segment.bytes", "1048575"),
            ("segment.bytes", "2147483648"),
            ("segment.ms", "0"),
            ("cleanup.policy", "Delete"),
            ("compression.gzip.level", "0"),
            ("compression.gzip.level", "10"),
            ("compression.lz4.level", "18"),
            ("compression.zstd.level", "23"),
            ("leader.replication.throttled.replicas", "0:1,x"),
            ("local.retention.ms", "-3"),
            ("retention.ms", "99999999999999999999"),
            ("max.message.bytes", "-1"),
            ("segment.index.bytes", "3"),
            ("max.compaction.lag.ms", "0"),
            ("message.format.version", "3.0"),
            ("cleanup.policy", "delete,shred"),
            ("compression.type", "brotli"),
            ("message.timestamp.type", "createtime"),
            ("min.insync.replicas", "0"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("remote.storage.enable", "true"),
            ("preallocate", "maybe"),
            ("durability", "none"),
            ("no.such.key", "1"),
        ] {
            let mut config = TopicConfig::default();
            assert!(config.set(key, value).is_err(), "{key}={value}");
            assert_eq!(config, TopicConfig::default());
        }
    }

    #[test]
    fn what_kafka_accepts_is_accepted() {
        for (key, value) in [
            ("cleanup.policy", ""),
            ("cleanup.policy", "delete,delete"),
            ("preallocate", "TRUE"),
            ("retention.ms", " 5 "),
            ("retention.ms", "+5"),
            ("retention.bytes", "-7"),
            ("compression.type", " gzip"),
            ("compression.gzip.level", "-1"),
            ("compression.zstd.level", "-131072"),
            ("leader.replication.throttled.replicas", "*"),
            ("leader.replication.throttled.replicas", "0:1, 1:2"),
            ("local.retention.ms", "-1"),
            ("max.message.bytes", "0"),
            ("file.delete.delay.ms", "0"),
        ] {
            assert_eq!(TopicConfig::default().set(key, value), Ok(()), "{key}={value}");
        }
    }

    /// What `LogConfig.configDefCopy()` of Kafka 4.3.1 says: name, type, default.
    #[test]
    fn every_topic_setting_of_kafka_has_its_row() {
        let kafka = include_str!("topic_config/kafka-4.3.1.txt");
        let ours = ["durability", "validation"];
        let rows = ROWS.iter().filter(|row| !ours.contains(&row.name));
        let told: String = rows
            .map(|row| {
                let kind = format!("{:?}", row.kind).to_uppercase();
                format!("{} {kind} {}", row.name, row.default).trim_end().to_owned() + "\n"
            })
            .collect();
        assert_eq!(told, kafka);
    }

    #[test]
    fn refusals_say_what_was_wrong() {
        let refused = |key, value| TopicConfig::default().set(key, value).unwrap_err().to_string();
        assert_eq!(refused("a.b", "1"), "unknown topic setting \"a.b\"");
        assert_eq!(
            refused("segment.ms", "0"),
            "invalid value \"0\" for segment.ms: it must be from 1 to 9223372036854775807"
        );
    }

    #[test]
    fn overrides_reach_their_fields() {
        let overrides = [
            ("durability", "relaxed"),
            ("cleanup.policy", " compact , delete "),
            ("compression.type", "zstd"),
            ("max.message.bytes", "100"),
            ("unknown.from.the.future", "x"),
        ];
        let config = TopicConfig::default().with_overrides(overrides);
        assert!(!config.is_durable() && config.checks_records() && config.cleanup_delete);
        assert_eq!((config.compression, config.max_message_bytes), (Some(Codec::Zstd), 100));
        assert!(config.with_overrides([("flush.messages", "1")]).is_durable());
    }
}
