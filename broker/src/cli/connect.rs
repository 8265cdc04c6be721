//! Which broker a command talks to, and the connection to it.
//!
//! The first that is given wins: `--broker`, `--context`, `MILLRACE_BROKER`, `MILLRACE_CONTEXT`, the context that
//! `millrace context use` chose, and the default address.

use std::fmt;
use std::time::Duration;

use clap::Args;
use millrace_client::{Admin, Client, Error};

use crate::cli::context::{Context, Contexts};
use crate::cli::failure::{Failure, GRPC_PORT};
use crate::cli::output::{Choice, Format, warn};

/// The port of a broker's gRPC door, where nobody says otherwise.
pub(super) const DEFAULT_PORT: u16 = 9095;
/// Where a broker with defaults listens for gRPC.
const DEFAULT_BROKER: &str = "http://127.0.0.1:9095";
/// The port of probes and metrics, where nobody says otherwise.
pub(super) const DEFAULT_OPS_PORT: u16 = 9644;
/// How long a broker may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// When a command that is not done yet is worth a question, and how long that may take.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
const DOUBT_PATIENCE: Duration = Duration::from_secs(2);

const BROKER_VARIABLE: &str = "MILLRACE_BROKER";
const CONTEXT_VARIABLE: &str = "MILLRACE_CONTEXT";
const OPS_VARIABLE: &str = "MILLRACE_OPS";

/// Environment variables of the command line, which are no settings of a broker.
pub(super) const VARIABLES: [&str; 3] = [BROKER_VARIABLE, CONTEXT_VARIABLE, OPS_VARIABLE];

/// Which broker, and how to print. Every command that talks to a broker has these.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection and output")]
#[group(skip)]
pub(super) struct Arguments {
    /// The broker's gRPC address [env: MILLRACE_BROKER] [default: the context in use, or http://127.0.0.1:9095]
    #[arg(short, long, value_name = "URL", global = true)]
    pub(super) broker: Option<String>,
    /// A broker that `millrace context add` named [env: MILLRACE_CONTEXT]
    #[arg(long, value_name = "NAME", global = true, conflicts_with = "broker")]
    pub(super) context: Option<String>,
    #[command(flatten)]
    pub(super) choice: Choice,
}

/// The same, before the command's name: `millrace --broker URL topic list`. The names differ, because values of global
/// arguments travel between a command and its parent.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Early {
    #[arg(id = "early broker", short = 'b', long = "broker", value_name = "URL", hide = true)]
    broker: Option<String>,
    #[arg(id = "early context", long = "context", value_name = "NAME", hide = true)]
    context: Option<String>,
    #[arg(id = "early output", short = 'o', long = "output", value_enum, hide = true)]
    output: Option<Format>,
}

impl Early {
    /// Was anything said that only a command with a connection can use?
    pub(super) fn is_given(&self) -> bool {
        self.broker.is_some() || self.context.is_some() || self.output.is_some()
    }
}

impl Arguments {
    /// What was said before the command's name holds where nothing was said behind it.
    pub(super) fn after(self, early: Early) -> Self {
        let names_one = self.broker.is_some() || self.context.is_some();
        let (broker, context) =
            if names_one { (self.broker, self.context) } else { (early.broker, early.context) };
        let output = self.choice.output.or(early.output);
        Self { broker, context, choice: Choice { output } }
    }

    pub(super) fn output(&self) -> Format {
        self.choice.format()
    }

    /// Finds out which broker is meant.
    ///
    /// # Errors
    /// A context that does not exist, or a contexts file that cannot be read.
    pub(super) fn address(&self) -> Result<Address, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(url) = &self.broker {
            return Ok(Address::new(url, Origin::Flag));
        }
        if let Some(name) = &self.context {
            return Ok(Address::of_context(name, Contexts::load()?.find(name)?));
        }
        if let Some(url) = variable(BROKER_VARIABLE) {
            return Ok(Address::new(&url, Origin::Environment));
        }
        if let Some(name) = variable(CONTEXT_VARIABLE) {
            return Ok(Address::of_context(&name, Contexts::load()?.find(&name)?));
        }
        let contexts = Contexts::load()?;
        match contexts.current() {
            Some(name) => Ok(Address::of_context(name, contexts.find(name)?)),
            None => Ok(Address::new(DEFAULT_BROKER, Origin::Default)),
        }
    }
}

/// Where a broker's gRPC port answers, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) url: String,
    pub(super) origin: Origin,
    /// Where its ops port answers, if somebody said so.
    ops: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Flag,
    Environment,
    Context(String),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("from --broker"),
            Self::Environment => write!(f, "from {BROKER_VARIABLE}"),
            Self::Context(name) => write!(f, "from context {name}"),
            Self::Default => f.write_str("the default"),
        }
    }
}

impl Address {
    fn new(url: &str, origin: Origin) -> Self {
        Self { url: broker_url(url), origin, ops: None }
    }

    fn of_context(name: &str, context: &Context) -> Self {
        let ops = context.ops.as_deref().map(with_scheme);
        Self { ops, ..Self::new(&context.broker, Origin::Context(name.to_owned())) }
    }

    /// `HOST:PORT` of the gRPC port.
    pub(super) fn authority(&self) -> &str {
        authority(&self.url)
    }

    /// `HOST:PORT` of probes and metrics: as given, else the broker's host with the default port.
    pub(super) fn ops(&self, given: Option<&str>) -> String {
        let variable = std::env::var(OPS_VARIABLE).ok().filter(|value| !value.is_empty());
        let said = given.map(str::to_owned).or_else(|| self.ops.clone()).or(variable);
        match said {
            Some(url) => authority(&url).to_owned(),
            None => format!("{}:{DEFAULT_OPS_PORT}", host(self.authority())),
        }
    }

    /// Is the broker on this machine, as far as its address tells?
    pub(super) fn is_here(&self) -> bool {
        let host = host(self.authority());
        host == "localhost" || host == "[::1]" || host.starts_with("127.")
    }
}

/// People write `host:port`; the client wants a URL.
pub(super) fn with_scheme(text: &str) -> String {
    if text.contains("://") { text.to_owned() } else { format!("http://{text}") }
}

/// The same for a gRPC port, whose number may be left out, too.
pub(super) fn broker_url(text: &str) -> String {
    let names_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let port =
        if text.contains("://") || names_port { String::new() } else { format!(":{DEFAULT_PORT}") };
    with_scheme(text) + &port
}

/// `host:port` of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// The host of `host:port`, with the brackets of an IPv6 address.
fn host(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A connection, and how to print what comes over it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) broker: Address,
    pub(super) output: Format,
}

impl Session {
    /// Connects to the broker that the command line, the environment or the contexts name.
    ///
    /// # Errors
    /// No such context, or nothing answers.
    pub(super) async fn open(arguments: &Arguments) -> Result<Self, Failure> {
        let broker = arguments.address()?;
        let client = connect(&broker)
            .await
            .map_err(|error| Failure::of_client("connect", &broker, &error))?;
        let output = arguments.output();
        if output == Format::Table {
            tokio::spawn(doubt(client.admin(), broker.url.clone()));
        }
        Ok(Self { client, broker, output })
    }

    pub(super) fn admin(&self) -> Admin {
        self.client.admin()
    }

    /// Puts an error of the client into words: what was tried, and where.
    pub(super) fn failed(&self, doing: impl fmt::Display) -> Box<dyn Fn(Error) -> Failure> {
        let doing = doing.to_string();
        let broker = self.broker.clone();
        Box::new(move |error| Failure::of_client(&doing, &broker, &error))
    }
}

/// Says so while a command still hopes: what takes connections there may be no broker, or another port of one. A command
/// that is done by then is not disturbed.
async fn doubt(admin: Admin, url: String) {
    tokio::time::sleep(DOUBT_AFTER).await;
    let answer = tokio::time::timeout(DOUBT_PATIENCE, admin.describe_cluster()).await;
    if !matches!(answer, Ok(Ok(_))) {
        warn(format_args!("no answer yet from {url}; still trying. {GRPC_PORT}\n"));
    }
}

/// Connects, without waiting long for a machine that does not answer.
pub(super) async fn connect(broker: &Address) -> Result<Client, Error> {
    let builder = Client::builder(&broker.url).client_id("millrace");
    builder.connect_timeout(CONNECT_TIMEOUT).connect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, given: Option<&str>, expected: [&str; 3]) {
        let address = Address::new(url, Origin::Flag);
        let found = [address.url.as_str(), address.authority(), &address.ops(given)];
        assert_eq!(found, expected, "{url}");
    }

    #[test]
    fn addresses_may_be_short() {
        check("h:1", None, ["http://h:1", "h:1", "h:9644"]);
        check("h", None, ["http://h:9095", "h:9095", "h:9644"]);
        check("[::1]", None, ["http://[::1]:9095", "[::1]:9095", "[::1]:9644"]);
        check("http://[::1]:9095/", None, ["http://[::1]:9095/", "[::1]:9095", "[::1]:9644"]);
        check("http://h", Some("http://o:2/metrics"), ["http://h", "h", "o:2"]);
    }

    #[test]
    fn loopback_is_here() {
        for (url, here) in [("127.0.0.1:1", true), ("localhost", true), ("http://[::1]:1", true)] {
            assert_eq!(Address::new(url, Origin::Flag).is_here(), here, "{url}");
        }
        assert!(!Address::new("10.0.0.1:9095", Origin::Flag).is_here());
    }

    #[test]
    fn what_stands_nearer_to_the_command_wins() {
        let early = || Early { broker: Some("b".to_owned()), ..Early::default() };
        let context = Arguments { context: Some("c".to_owned()), ..Arguments::default() };
        let merged = context.after(early());
        assert_eq!((merged.broker, merged.context.as_deref()), (None, Some("c")));
        assert_eq!(Arguments::default().after(early()).broker.as_deref(), Some("b"));
    }
}
