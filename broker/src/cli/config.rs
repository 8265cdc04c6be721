//! `millrace config`: settings of the broker and of topics, with where each value comes from.

use clap::{Args, Subcommand};
use millrace_client::{ConfigDescription, ConfigResource};
use serde::Serialize;

use crate::cli::connect::{self, Session};
use crate::cli::failure::Failure;
use crate::cli::output::{NOTHING_THERE, Table};
use crate::cli::pairs::{Assignment, assignment};

/// Settings of the broker and of topics.
#[derive(Debug, Args)]
#[command(
    after_help = "Settings of the broker are read here, and changed by its file, environment and flags.\n\n\
                  Examples:\n  \
                  millrace config get                                        the broker\n  \
                  millrace config get log.dirs num.partitions                two of its settings\n  \
                  millrace config get --topic orders                         a topic\n  \
                  millrace config get --topic orders --changed --docs        only what differs, explained\n  \
                  millrace config set --topic orders retention.ms=86400000\n  \
                  millrace config set --topic orders --unset retention.ms    back to the default"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows settings
    #[command(after_help = "Examples:\n  \
                      millrace config get log.dirs num.partitions\n  \
                      millrace config get --topic orders --docs")]
    Get {
        /// Only these settings
        #[arg(value_name = "KEY")]
        keys: Vec<String>,
        /// Of this topic instead of the broker
        #[arg(short, long)]
        topic: Option<String>,
        /// Only what somebody set
        #[arg(long)]
        changed: bool,
        /// With what each means
        #[arg(long)]
        docs: bool,
    },
    /// Changes settings of a topic, all or none
    #[command(after_help = "Examples:\n  \
                      millrace config set --topic orders retention.ms=86400000 max.message.bytes=2000000\n  \
                      millrace config set --topic orders --unset retention.ms")]
    Set {
        /// Whose settings; those of the broker are changed by its file, environment and flags
        #[arg(short, long)]
        topic: String,
        #[arg(value_name = "KEY=VALUE", value_parser = assignment, required_unless_present = "unset")]
        set: Vec<Assignment>,
        /// Back to the default; may be given many times
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        /// Only say whether it could be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// `config get`: `{"resource":"broker"|"topic","topic":name|null,"settings":[{"key","value","source","read_only",
/// "sensitive","type","documentation"}]}`. `value` is null where there is none or where it is sensitive; `source` is
/// Kafka's word, such as `DEFAULT_CONFIG`.
#[derive(Debug, Serialize)]
struct Listing {
    resource: &'static str,
    topic: Option<String>,
    settings: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct Setting {
    key: String,
    value: Option<String>,
    source: String,
    read_only: bool,
    sensitive: bool,
    #[serde(rename = "type")]
    kind: String,
    documentation: String,
}

/// `config set`: `{"topic","changed":{key:value|null},"dry_run"}`; null went back to the default.
#[derive(Debug, Serialize)]
struct Changed {
    topic: String,
    changed: serde_json::Map<String, serde_json::Value>,
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// No such topic or setting, or a value that cannot be.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Get { keys, topic, changed, docs } => {
            let listing = get(session, topic, &keys, changed).await?;
            session.output.show(&listing, |listing| table(listing, docs));
            Ok(())
        }
        Command::Set { topic, set, unset, dry_run } => {
            let set = set.into_iter().map(|it| (it.key, Some(it.value)));
            let changes = set.chain(unset.into_iter().map(|key| (key, None))).collect();
            change(session, topic, changes, dry_run).await
        }
    }
}

async fn get(
    session: &Session,
    topic: Option<String>,
    keys: &[String],
    changed_only: bool,
) -> Result<Listing, Failure> {
    let resource = match &topic {
        Some(topic) => ConfigResource::Topic(topic.clone()),
        None => ConfigResource::Broker,
    };
    let whose = topic.as_ref().map_or("the broker".to_owned(), |topic| format!("topic {topic}"));
    let found = session.admin().describe_config(resource.clone(), keys).await;
    let found = found.map_err(session.failed(format_args!("read settings of {whose}")))?;
    if let Some(missing) = keys.iter().find(|key| found.iter().all(|it| it.name != **key)) {
        let all = session.admin().describe_config(resource, &[]).await.unwrap_or_default();
        return Err(Failure::new(format_args!("{whose} has no setting {missing}"))
            .with_help(like(missing, &all)));
    }
    let is_wanted = |it: &ConfigDescription| !changed_only || it.source != "DEFAULT_CONFIG";
    Ok(Listing {
        resource: if topic.is_some() { "topic" } else { "broker" },
        topic,
        settings: found.into_iter().filter(is_wanted).map(Setting::from).collect(),
    })
}

/// What may have been meant.
fn like(missing: &str, all: &[ConfigDescription]) -> String {
    const LIKENESS_MIN: f64 = 0.8;
    let names = all.iter().map(|it| it.name.as_str());
    let likeness = |name: &&str| strsim::jaro_winkler(missing, name);
    let best = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|name| likeness(name) >= LIKENESS_MIN) {
        Some(best) => {
            format!("did you mean {best}? Without KEY, `millrace config get` lists them all")
        }
        None => "without KEY, `millrace config get` lists them all".to_owned(),
    }
}

fn table(listing: &Listing, docs: bool) -> String {
    if listing.settings.is_empty() {
        return "every setting has its default\n".to_owned();
    }
    let mut headings = vec!["SETTING", "VALUE", "SOURCE"];
    headings.extend(docs.then_some("MEANING"));
    let mut table = Table::new(&headings, &[]);
    for setting in &listing.settings {
        let value = setting.value.as_deref().filter(|value| !value.is_empty());
        let hidden = if setting.sensitive { "(hidden)" } else { NOTHING_THERE };
        let mut row = vec![
            setting.key.clone(),
            value.unwrap_or(hidden).to_owned(),
            source_text(&setting.source).to_owned(),
        ];
        row.extend(docs.then(|| setting.documentation.clone()));
        table.row(row);
    }
    table.to_string()
}

/// Kafka's word for where a value comes from, in plain words.
fn source_text(source: &str) -> &str {
    match source {
        "DYNAMIC_TOPIC_CONFIG" => "topic",
        "STATIC_BROKER_CONFIG" => "broker",
        "DEFAULT_CONFIG" => "default",
        other => other,
    }
}

async fn change(
    session: &Session,
    topic: String,
    changes: Vec<(String, Option<String>)>,
    dry_run: bool,
) -> Result<(), Failure> {
    let admin = session.admin();
    let answer = match dry_run {
        true => admin.validate_config(&topic, changes.clone()).await,
        false => admin.alter_config(&topic, changes.clone()).await,
    };
    answer.map_err(session.failed(format_args!("change settings of topic {topic}")))?;
    let changed = changes.into_iter().map(|(key, value)| (key, value.into())).collect();
    session.output.show(&Changed { topic, changed, dry_run }, |document| {
        let verb = if document.dry_run { "could be" } else { "is" };
        let line = |(key, value): (&String, &serde_json::Value)| match value.as_str() {
            Some(value) => format!("{key} {verb} {value}\n"),
            None => format!("{key} {verb} back to its default\n"),
        };
        document.changed.iter().map(line).collect()
    });
    Ok(())
}

impl From<ConfigDescription> for Setting {
    fn from(it: ConfigDescription) -> Self {
        Self {
            key: it.name,
            value: it.value,
            source: it.source,
            read_only: it.read_only,
            sensitive: it.sensitive,
            kind: it.kind,
            documentation: it.documentation,
        }
    }
}
