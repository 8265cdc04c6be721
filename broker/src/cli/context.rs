//! `millrace context`: brokers by name, kept in `$XDG_CONFIG_HOME/millrace/contexts.toml` (`~/.config` without it).
//!
//! ```toml
//! current = "prod"
//!
//! [contexts.prod]
//! broker = "http://10.0.0.7:9095"
//! ops = "http://10.0.0.7:9644"
//! ```

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::cli::connect::broker_url;
use crate::cli::failure::Failure;
use crate::cli::output::{Choice, Table, or_dash};

/// Brokers by name.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace context add prod http://10.0.0.7:9095   remember a broker\n  \
                  millrace context use prod                        talk to it from now on\n  \
                  millrace topic list --context prod               talk to it once\n  \
                  millrace context list                            what there is, * is in use")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) choice: Choice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remember a broker; the first one is in use at once
    Add {
        name: String,
        /// The broker's gRPC address
        url: String,
        /// Where its probes and metrics answer [default: the same host, port 9644]
        #[arg(long, value_name = "URL")]
        ops: Option<String>,
    },
    /// Talk to this broker from now on
    Use { name: String },
    /// What there is
    List,
    /// Forget a broker
    Remove { name: String },
}

/// One broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    pub(super) broker: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ops: Option<String>,
}

/// The file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// `context list`: `{"contexts":[{"name","broker","ops","current"}]}`; `ops` may be null.
#[derive(Debug, Serialize)]
struct Listing {
    contexts: Vec<Listed>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    broker: String,
    ops: Option<String>,
    current: bool,
}

/// Runs the command.
///
/// # Errors
/// There is no such context, or the file cannot be read or written.
pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = arguments.choice.format();
    let mut contexts = Contexts::load()?;
    match arguments.command {
        Command::List => {
            output.show(&contexts.listing(), table);
            return Ok(());
        }
        Command::Add { name, url, ops } => {
            let context = Context { broker: broker_url(&url), ops };
            contexts.contexts.insert(name.clone(), context);
            contexts.current.get_or_insert(name);
        }
        Command::Use { name } => {
            contexts.find(&name)?;
            contexts.current = Some(name);
        }
        Command::Remove { name } => {
            contexts.find(&name)?;
            contexts.contexts.remove(&name);
            contexts.current.take_if(|current| *current == name);
        }
    }
    contexts.save()?;
    output.show(&contexts.listing(), table);
    Ok(())
}

fn table(listing: &Listing) -> String {
    if listing.contexts.is_empty() {
        return "no contexts; `millrace context add NAME URL` makes one\n".to_owned();
    }
    let mut table = Table::new(&["", "NAME", "BROKER", "OPS"], &[]);
    for context in &listing.contexts {
        let mark = if context.current { "*" } else { "" };
        table.row([
            mark.to_owned(),
            context.name.clone(),
            context.broker.clone(),
            or_dash(context.ops.as_ref()),
        ]);
    }
    table.to_string()
}

impl Contexts {
    /// Reads the file; a missing one is empty.
    ///
    /// # Errors
    /// It cannot be read, or is no contexts file.
    pub(super) fn load() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Failure::usage(format_args!(
                    "cannot read {}: {error}",
                    path.display()
                )));
            }
        };
        toml::from_str(&text).map_err(|error| {
            let reason = error.message();
            Failure::usage(format_args!("{} is no contexts file: {reason}", path.display()))
                .with_help("mend it, or remove it and add the contexts again")
        })
    }

    /// # Errors
    /// There is no context of this name.
    pub(super) fn find(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Failure::usage(format_args!("there is no context {name}")).with_help(format_args!(
                "known contexts: {known}; `millrace context add {name} URL` makes it"
            ))
        })
    }

    /// The one in use.
    pub(super) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    fn listing(&self) -> Listing {
        let listed = |(name, context): (&String, &Context)| Listed {
            name: name.clone(),
            broker: context.broker.clone(),
            ops: context.ops.clone(),
            current: self.current.as_ref() == Some(name),
        };
        Listing { contexts: self.contexts.iter().map(listed).collect() }
    }

    /// Writes the file whole, or leaves the old one.
    fn save(&self) -> Result<(), Failure> {
        let path = path().ok_or_else(|| {
            Failure::new("there is no place for contexts: neither XDG_CONFIG_HOME nor HOME is set")
        })?;
        let text = toml::to_string(self).expect("names and addresses are plain text");
        write(&path, &text)
            .map_err(|error| Failure::new(format_args!("cannot write {}: {error}", path.display())))
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().expect("a file has a folder");
    std::fs::create_dir_all(folder)?;
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&fresh, text)?;
    std::fs::rename(&fresh, path)
}

fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || set("HOME").map(|home| PathBuf::from(home).join(".config"));
    let folder = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
    Some(folder.join("millrace").join("contexts.toml"))
}
