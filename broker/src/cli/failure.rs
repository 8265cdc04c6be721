//! Why a command did not do what was asked: what failed, where, what to do about it, and the exit code that follows.

use std::fmt;

use millrace_client::Error;
use serde::Serialize;

use crate::cli::output::counted;
use crate::cli::{Exit, connect};

/// What a person, or a program that reads JSON, is told on standard error.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Failure {
    #[serde(skip)]
    pub(super) exit: Exit,
    pub(super) message: String,
    /// Kafka's name of the error, where the broker gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) help: Option<String>,
}

/// What goes wrong when the port is not ours.
pub(super) const GRPC_PORT: &str = "If nothing works there: is it the broker's gRPC port (9095 by default), not that of Kafka \
                         clients (9092) or of operations (9644)?";

/// The document that `--output json` puts on standard error: `{"error":{"message","reason","help"}}`.
#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    pub(super) error: &'a Failure,
}

impl Failure {
    /// It was tried, and failed or was refused.
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Failed, message: message.to_string(), reason: None, help: None }
    }

    /// The command line asks for something that cannot be.
    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Misused, ..Self::new(message) }
    }

    pub(super) fn with_help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// What was done before it failed.
    pub(super) fn after(mut self, acknowledged: u64) -> Self {
        let records = counted(acknowledged, "record");
        self.message = format!("{} ({records} acknowledged before)", self.message);
        self
    }

    /// What the client reports, in the words of who was doing what.
    pub(super) fn of_client(doing: &str, broker: &connect::Address, error: &Error) -> Self {
        match error {
            Error::Connect { reason, .. } => Self::unreachable(broker, reason),
            Error::Address { .. } => {
                Self::usage(format_args!("{} ({}): {error}", broker.url, broker.origin))
            }
            Error::Lost { .. } | Error::Timeout { .. } => Self {
                exit: Exit::Unreachable,
                help: Some(format!(
                    "what was under way may have been done or not: look before you repeat it. {GRPC_PORT}"
                )),
                ..Self::new(format_args!("cannot {doing} at {}: {error}", broker.url))
            },
            _ => {
                let help = error.reason().and_then(help_for).map(str::to_owned);
                // Whatever our broker refuses has a name.
                let is_strange = matches!(error, Error::Refused(_)) && error.reason().is_none();
                let stranger = is_strange.then(|| GRPC_PORT.to_owned());
                Self {
                    reason: error.reason().map(str::to_owned),
                    help: help.or_else(|| retry_advice(error)).or(stranger),
                    ..Self::new(format_args!("cannot {doing} at {}: {error}", broker.url))
                }
            }
        }
    }

    fn unreachable(broker: &connect::Address, reason: &str) -> Self {
        Self {
            exit: Exit::Unreachable,
            message: format!("no broker answers at {} ({}): {reason}", broker.url, broker.origin),
            reason: None,
            help: Some(
                "start one by `millrace serve`, or name the address of its gRPC port by --broker URL, \
                 MILLRACE_BROKER or `millrace context`; `millrace doctor` looks further"
                    .to_owned(),
            ),
        }
    }
}

fn retry_advice(error: &Error) -> Option<String> {
    error.is_retriable().then(|| "it may pass: try again".to_owned())
}

/// What to do about what the broker refuses, by Kafka's name of the error.
fn help_for(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "UNKNOWN_TOPIC_OR_PARTITION" => {
            "`millrace topic list` shows the topics, `millrace offsets NAME` the partitions of one, \
             `millrace topic create NAME` makes one"
        }
        "TOPIC_ALREADY_EXISTS" => {
            "`millrace topic describe NAME` shows it, `millrace topic alter` changes it"
        }
        "INVALID_TOPIC_EXCEPTION" => {
            "a name has 1 to 249 letters, digits, dots, underscores and hyphens"
        }
        "INVALID_PARTITIONS" => {
            "partitions can be added, never taken away: `millrace topic describe NAME` shows them"
        }
        "INVALID_REPLICATION_FACTOR" => "one broker holds one replica: leave it out",
        "INVALID_CONFIG" => "`millrace config get --topic NAME` lists settings and values",
        "GROUP_ID_NOT_FOUND" => "`millrace group list` shows the groups",
        "NON_EMPTY_GROUP" | "GROUP_SUBSCRIBED_TO_TOPIC" => {
            "stop its members first: `millrace group members NAME` shows them"
        }
        "OFFSET_OUT_OF_RANGE" => "`millrace offsets TOPIC` shows where the log begins and ends",
        "RECORD_LIST_TOO_LARGE" | "MESSAGE_TOO_LARGE" | "RECORD_TOO_LARGE" => {
            "raise the topic's max.message.bytes by `millrace config set`, or send smaller records"
        }
        "INCONSISTENT_GROUP_PROTOCOL" => {
            "the group's members share out partitions another way: choose another --group"
        }
        _ => return None,
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}
