//! `millrace topic`: create, list, describe, alter, delete.

use clap::{Args, Subcommand};
use millrace_client::{NewTopic, TopicDescription, TopicSummary};
use serde::Serialize;

use crate::cli::connect::{self, Session};
use crate::cli::delete;
use crate::cli::failure::Failure;
use crate::cli::output::{Table, bytes, counted};
use crate::cli::pairs::{Assignment, Settings, assignment};

/// Topics and their partitions.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace topic create orders --partitions 6 --set retention.ms=86400000\n  \
                  millrace topic list\n  \
                  millrace topic describe orders\n  \
                  millrace topic alter orders --partitions 12 --set durability=relaxed --unset retention.ms\n  \
                  millrace topic delete orders payments")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create topics
    #[command(after_help = "Examples:\n  \
                      millrace topic create orders payments --partitions 6\n  \
                      millrace topic create clicks --set retention.ms=3600000 --set durability=relaxed\n\n\
                      `millrace config get --topic NAME --docs` explains the settings.")]
    Create {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// [default: the broker's num.partitions]
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// A setting of the topic; may be given many times
        #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
        set: Vec<Assignment>,
        /// No error when the topic is there already
        #[arg(long)]
        if_not_exists: bool,
        /// Only say whether it could be created
        #[arg(long)]
        dry_run: bool,
    },
    /// All topics, by name
    List {
        /// Also those that the broker keeps for itself
        #[arg(long)]
        internal: bool,
    },
    /// One topic: partitions, where they begin and end, what they take, settings
    Describe { name: String },
    /// Add partitions, change settings
    #[command(after_help = "Examples:\n  \
                      millrace topic alter orders --partitions 12\n  \
                      millrace topic alter orders --set retention.ms=3600000 --unset durability")]
    Alter {
        name: String,
        /// The new total; keys may then belong to other partitions than before
        #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete topics with all their records
    Delete {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// No error when the topic is not there
        #[arg(long)]
        if_exists: bool,
    },
}

/// `topic list`, and what `topic create` made: `{"topics":[{"name","id","partitions","replication_factor","internal"}]}`.
#[derive(Debug, Serialize)]
struct Topics {
    topics: Vec<Topic>,
}

#[derive(Debug, Serialize)]
struct Topic {
    name: String,
    id: String,
    partitions: i32,
    replication_factor: i32,
    internal: bool,
}

/// `topic describe`: `{"name","id","replication_factor","internal","records","size_bytes","partitions":[{"partition",
/// "leader","leader_epoch","replicas","in_sync_replicas","start","end","records","size_bytes"}],"settings":{key:value}}`.
/// `records` counts offsets from `start` to `end`; settings are those that differ from the defaults.
#[derive(Debug, Serialize)]
struct Description {
    name: String,
    id: String,
    replication_factor: i32,
    internal: bool,
    records: i64,
    size_bytes: i64,
    partitions: Vec<Partition>,
    settings: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
struct Partition {
    partition: i32,
    leader: i32,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync_replicas: Vec<i32>,
    start: i64,
    end: i64,
    records: i64,
    size_bytes: i64,
}

/// Runs the command.
///
/// # Errors
/// What the broker refuses, in its words.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Create { names, partitions, set, if_not_exists, dry_run } => {
            let plan = Plan { partitions, set, if_not_exists, dry_run };
            create(session, &names, &plan).await
        }
        Command::List { internal } => list(session, internal).await,
        Command::Describe { name } => describe(session, &name).await,
        Command::Alter { name, partitions, settings } => {
            alter(session, &name, partitions, &settings).await
        }
        Command::Delete { names, if_exists } => delete(session, names, if_exists).await,
    }
}

/// How topics are to be created.
struct Plan {
    partitions: Option<i32>,
    set: Vec<Assignment>,
    if_not_exists: bool,
    dry_run: bool,
}

async fn create(session: &Session, names: &[String], plan: &Plan) -> Result<(), Failure> {
    let mut topics = Vec::new();
    for name in names {
        let mut topic = NewTopic::new(name);
        if let Some(partitions) = plan.partitions {
            topic = topic.partitions(partitions);
        }
        for Assignment { key, value } in &plan.set {
            topic = topic.config(key, value);
        }
        if plan.dry_run {
            topic = topic.validate_only();
        }
        match session.admin().create_topic(topic).await {
            Ok(created) => topics.push(Topic::from(created)),
            Err(error) if plan.if_not_exists && error.reason() == Some("TOPIC_ALREADY_EXISTS") => {}
            Err(error) => return Err(session.failed(format_args!("create topic {name}"))(error)),
        }
    }
    let verb = if plan.dry_run { "could create" } else { "created" };
    session.output.show(&Topics { topics }, |document| {
        let line = |it: &Topic| {
            let partitions = counted(it.partitions.max(0) as u64, "partition");
            format!("{verb} topic {} with {partitions}\n", it.name)
        };
        document.topics.iter().map(line).collect()
    });
    Ok(())
}

async fn list(session: &Session, internal: bool) -> Result<(), Failure> {
    let topics = session.admin().list_topics(internal).await;
    let topics = topics.map_err(session.failed("list topics"))?;
    let document = Topics { topics: topics.into_iter().map(Topic::from).collect() };
    session.output.show(&document, |document| {
        if document.topics.is_empty() {
            return "no topics; `millrace topic create NAME` makes one\n".to_owned();
        }
        let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS", "ID"], &[1, 2]);
        for topic in &document.topics {
            table.row([
                topic.name.clone(),
                topic.partitions.to_string(),
                topic.replication_factor.to_string(),
                topic.id.clone(),
            ]);
        }
        table.to_string()
    });
    Ok(())
}

async fn describe(session: &Session, name: &str) -> Result<(), Failure> {
    let topic = session.admin().describe_topic(name).await;
    let topic = topic.map_err(session.failed(format_args!("describe topic {name}")))?;
    session.output.show(&Description::from(topic), description_text);
    Ok(())
}

fn description_text(topic: &Description) -> String {
    let mut text = format!(
        "{}  id {}  {}  {} on disk\n\n",
        topic.name,
        topic.id,
        counted(topic.records.max(0) as u64, "record"),
        bytes(topic.size_bytes as f64)
    );
    let headings = ["PARTITION", "LEADER", "EPOCH", "IN SYNC", "START", "END", "RECORDS", "SIZE"];
    let mut table = Table::new(&headings, &[0, 1, 2, 4, 5, 6, 7]);
    for partition in &topic.partitions {
        let in_sync: Vec<_> = partition.in_sync_replicas.iter().map(i32::to_string).collect();
        table.row([
            partition.partition.to_string(),
            partition.leader.to_string(),
            partition.leader_epoch.to_string(),
            in_sync.join(","),
            partition.start.to_string(),
            partition.end.to_string(),
            partition.records.to_string(),
            bytes(partition.size_bytes as f64),
        ]);
    }
    text.push_str(&table.to_string());
    if !topic.settings.is_empty() {
        text.push('\n');
        let mut table = Table::new(&["SETTING", "VALUE"], &[]);
        for (key, value) in &topic.settings {
            table.row([key.clone(), value.as_str().unwrap_or_default().to_owned()]);
        }
        text.push_str(&table.to_string());
    }
    text
}

async fn alter(
    session: &Session,
    name: &str,
    partitions: Option<i32>,
    settings: &Settings,
) -> Result<(), Failure> {
    if partitions.is_none() && settings.is_empty() {
        return Err(Failure::usage("nothing to change")
            .with_help("give --partitions, --set KEY=VALUE or --unset KEY"));
    }
    let admin = session.admin();
    if !settings.is_empty() {
        let altered = admin.alter_config(name, settings.changes()).await;
        altered.map_err(session.failed(format_args!("change settings of topic {name}")))?;
    }
    if let Some(total) = partitions {
        let added = admin.add_partitions(name, total).await;
        added.map_err(session.failed(format_args!("add partitions to topic {name}")))?;
    }
    describe(session, name).await
}

async fn delete(session: &Session, names: Vec<String>, if_exists: bool) -> Result<(), Failure> {
    delete::each(session, "topic", names, async |admin, name| {
        match admin.delete_topic(name).await {
            Err(error) if if_exists && error.reason() == Some("UNKNOWN_TOPIC_OR_PARTITION") => {
                Ok(false)
            }
            deleted => deleted.map(|()| true),
        }
    })
    .await
}

impl From<TopicSummary> for Topic {
    fn from(topic: TopicSummary) -> Self {
        Self {
            name: topic.name,
            id: topic.id,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            internal: topic.internal,
        }
    }
}

impl From<TopicDescription> for Description {
    fn from(description: TopicDescription) -> Self {
        let partitions: Vec<Partition> = description
            .partitions
            .into_iter()
            .map(|it| Partition {
                partition: it.partition,
                leader: it.leader,
                leader_epoch: it.leader_epoch,
                replicas: it.replicas,
                in_sync_replicas: it.in_sync_replicas,
                start: it.log_start,
                end: it.high_watermark,
                records: it.high_watermark - it.log_start,
                size_bytes: it.size_bytes,
            })
            .collect();
        Self {
            name: description.topic.name,
            id: description.topic.id,
            replication_factor: description.topic.replication_factor,
            internal: description.topic.internal,
            records: partitions.iter().map(|it| it.records).sum(),
            size_bytes: partitions.iter().map(|it| it.size_bytes).sum(),
            partitions,
            settings: description
                .configs
                .into_iter()
                .map(|(key, value)| (key, value.into()))
                .collect(),
        }
    }
}
