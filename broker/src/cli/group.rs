//! `millrace group`: consumer groups of both doors: list, describe, members, reset-offsets, delete.

use clap::{Args, Subcommand};
use millrace_client::{Admin, GroupDescription, PartitionLag, StartAt};
use serde::Serialize;

use crate::cli::at::At;
use crate::cli::connect::{self, Session};
use crate::cli::delete;
use crate::cli::failure::Failure;
use crate::cli::output::{NOTHING_THERE, Table, counted, or_dash, span_ms};

/// Consumer groups, whichever door their members use.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace group list\n  \
                  millrace group describe billing                                    lag by partition\n  \
                  millrace group members billing                                     who reads what\n  \
                  millrace group reset-offsets billing --topic orders --to earliest  read all again\n  \
                  millrace group reset-offsets billing --topic orders --to -2h       the last two hours\n  \
                  millrace group reset-offsets billing --topic orders --partition 0 --to 42 --dry-run\n  \
                  millrace group delete billing")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    pub(super) connection: connect::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All groups, by name
    List {
        /// Only groups in this state; may be given many times
        #[arg(
            long,
            value_parser = ["Empty", "PreparingRebalance", "CompletingRebalance", "Stable"],
            ignore_case = true
        )]
        state: Vec<String>,
    },
    /// How far a group is in each partition, and how far behind
    Describe { group: String },
    /// Who is in a group, and which partitions each reads
    Members { group: String },
    /// Moves what a group has committed; its members must be stopped
    ResetOffsets(Reset),
    /// Deletes groups without members, and what they committed
    Delete {
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace group reset-offsets billing --topic orders --to earliest --dry-run\n  \
                  millrace group reset-offsets billing --topic orders --to 2026-01-02T03:04:05Z\n  \
                  millrace group reset-offsets billing --topic orders --partition 0,1 --to 42\n\n\
                  An offset outside the log becomes its nearest end.")]
struct Reset {
    group: String,
    /// May be given many times
    #[arg(short, long, required = true)]
    topic: Vec<String>,
    /// Only these partitions [default: all]
    #[arg(short, long, value_delimiter = ',')]
    partition: Vec<i32>,
    /// earliest, latest, an offset (42), records before the end (-10), a time (2026-01-02T03:04:05Z), so long ago (-2h)
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true)]
    to: At,
    /// Only say what would be committed
    #[arg(long)]
    dry_run: bool,
}

/// `group list`: `{"groups":[{"group","state","protocol_type"}]}`.
#[derive(Debug, Serialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    state: String,
    protocol_type: String,
}

/// `group describe`: `{"group","state","protocol","coordinator","members":count,"lag","lag_ms","partitions":[{"topic",
/// "partition","committed","start","end","lag","lag_ms","member_id","metadata"}]}`. `committed` is null where nothing
/// is; `lag` sums the partitions, `lag_ms` is the largest.
#[derive(Debug, Serialize)]
struct Description {
    group: String,
    state: String,
    protocol: String,
    coordinator: i32,
    members: usize,
    lag: i64,
    lag_ms: i64,
    partitions: Vec<Lag>,
}

/// How far a group is in one partition.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Lag {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) committed: Option<i64>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) lag: i64,
    pub(super) lag_ms: i64,
    pub(super) member_id: Option<String>,
    pub(super) metadata: String,
}

/// `group members`: `{"group","state","members":[{"member_id","instance_id","client_id","client_host","partitions":
/// [{"topic","partition"}]}]}`.
#[derive(Debug, Serialize)]
struct Members {
    group: String,
    state: String,
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    member_id: String,
    instance_id: Option<String>,
    client_id: String,
    client_host: String,
    partitions: Vec<Assigned>,
}

#[derive(Debug, Serialize)]
struct Assigned {
    topic: String,
    partition: i32,
}

/// `group reset-offsets`: `{"group","dry_run","offsets":[{"topic","partition","before","after"}]}`; `before` is null
/// where nothing was committed.
#[derive(Debug, Serialize)]
struct Moved {
    group: String,
    dry_run: bool,
    offsets: Vec<MovedOffset>,
}

#[derive(Debug, Serialize)]
struct MovedOffset {
    topic: String,
    partition: i32,
    before: Option<i64>,
    after: i64,
}

/// Runs the command.
///
/// # Errors
/// No such group, or one that has members where it must have none.
pub(super) async fn run(session: &Session, arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::List { state } => list(session, &state).await,
        Command::Describe { group } => describe(session, &group).await,
        Command::Members { group } => members(session, &group).await,
        Command::ResetOffsets(reset) => reset_offsets(session, reset).await,
        Command::Delete { groups } => {
            let delete =
                async |admin: &Admin, group: &str| admin.delete_group(group).await.map(|()| true);
            delete::each(session, "group", groups, delete).await
        }
    }
}

async fn list(session: &Session, states: &[String]) -> Result<(), Failure> {
    let groups = session.admin().list_groups(states).await;
    let groups = groups.map_err(session.failed("list groups"))?;
    let group = |it: millrace_client::GroupSummary| Group {
        group: it.group,
        state: it.state,
        protocol_type: it.protocol_type,
    };
    let document = Groups { groups: groups.into_iter().map(group).collect() };
    session.output.show(&document, |document| {
        if document.groups.is_empty() {
            return "no groups\n".to_owned();
        }
        let mut table = Table::new(&["GROUP", "STATE", "TYPE"], &[]);
        for it in &document.groups {
            let kind = Some(&it.protocol_type).filter(|kind| !kind.is_empty());
            table.row([it.group.clone(), it.state.clone(), or_dash(kind)]);
        }
        table.to_string()
    });
    Ok(())
}

/// Asks for one group.
///
/// # Errors
/// There is none of this name.
pub(super) async fn ask(session: &Session, group: &str) -> Result<GroupDescription, Failure> {
    let found = session.admin().describe_group(group).await;
    found.map_err(session.failed(format_args!("describe group {group}")))
}

async fn describe(session: &Session, group: &str) -> Result<(), Failure> {
    let found = ask(session, group).await?;
    let partitions: Vec<Lag> = found.partitions.into_iter().map(Lag::from).collect();
    let document = Description {
        group: found.group.group,
        state: found.group.state,
        protocol: found.protocol,
        coordinator: found.coordinator,
        members: found.members.len(),
        lag: partitions.iter().map(|it| it.lag.max(0)).sum(),
        lag_ms: partitions.iter().map(|it| it.lag_ms).max().unwrap_or(0),
        partitions,
    };
    session.output.show(&document, |document| {
        let text = format!(
            "{}  {}  {}  lag {} ({})\n",
            document.group,
            document.state,
            counted(document.members as u64, "member"),
            counted(document.lag.max(0) as u64, "record"),
            span_ms(document.lag_ms)
        );
        if document.partitions.is_empty() {
            return text + "nothing is committed\n";
        }
        text + "\n" + &lag_table(&document.partitions)
    });
    Ok(())
}

/// Partitions with lag, for people.
pub(super) fn lag_table(partitions: &[Lag]) -> String {
    let headings = ["TOPIC", "PARTITION", "COMMITTED", "START", "END", "LAG", "BEHIND", "READ BY"];
    let mut table = Table::new(&headings, &[1, 2, 3, 4, 5, 6]);
    for it in partitions {
        table.row([
            it.topic.clone(),
            it.partition.to_string(),
            or_dash(it.committed),
            it.start.to_string(),
            it.end.to_string(),
            it.lag.to_string(),
            span_ms(it.lag_ms),
            or_dash(it.member_id.as_ref()),
        ]);
    }
    table.to_string()
}

async fn members(session: &Session, group: &str) -> Result<(), Failure> {
    let found = ask(session, group).await?;
    let member = |it: millrace_client::MemberDescription| Member {
        member_id: it.member_id,
        instance_id: it.instance_id,
        client_id: it.client_id,
        client_host: it.client_host,
        partitions: it
            .assignment
            .into_iter()
            .map(|it| Assigned { topic: it.topic.to_string(), partition: it.partition })
            .collect(),
    };
    let members = found.members.into_iter().map(member).collect();
    let document = Members { group: found.group.group, state: found.group.state, members };
    session.output.show(&document, members_text);
    Ok(())
}

fn members_text(document: &Members) -> String {
    if document.members.is_empty() {
        return format!("group {} has no members\n", document.group);
    }
    let mut table = Table::new(&["MEMBER", "CLIENT", "HOST", "INSTANCE", "PARTITIONS"], &[]);
    for member in &document.members {
        let reads: Vec<_> =
            member.partitions.iter().map(|it| format!("{}-{}", it.topic, it.partition)).collect();
        let reads = if reads.is_empty() { NOTHING_THERE.to_owned() } else { reads.join(" ") };
        table.row([
            member.member_id.clone(),
            member.client_id.clone(),
            member.client_host.clone(),
            or_dash(member.instance_id.as_ref()),
            reads,
        ]);
    }
    table.to_string()
}

async fn reset_offsets(session: &Session, reset: Reset) -> Result<(), Failure> {
    let mut offsets = Vec::new();
    for topic in &reset.topic {
        for (partitions, place) in places(session, topic, &reset).await? {
            let admin = session.admin();
            let moved =
                admin.reset_offsets(&reset.group, topic, &partitions, place, reset.dry_run).await;
            let doing = format!("reset group {} on topic {topic}", reset.group);
            let moved = moved.map_err(session.failed(&doing))?;
            for it in moved {
                let after = it.after.map_err(session.failed(&doing))?;
                let (partition, before) = (it.partition, it.before);
                offsets.push(MovedOffset { topic: topic.clone(), partition, before, after });
            }
        }
    }
    let document = Moved { group: reset.group, dry_run: reset.dry_run, offsets };
    session.output.show(&document, |document| {
        let mut table = Table::new(&["TOPIC", "PARTITION", "BEFORE", "AFTER"], &[1, 2, 3]);
        for it in &document.offsets {
            table.row([
                it.topic.clone(),
                it.partition.to_string(),
                or_dash(it.before),
                it.after.to_string(),
            ]);
        }
        let note = if document.dry_run { "nothing was committed: --dry-run\n" } else { "" };
        format!("{table}{note}")
    });
    Ok(())
}

/// Which partitions go where. Counting from the end takes a question first, and one reset each.
async fn places(
    session: &Session,
    topic: &str,
    reset: &Reset,
) -> Result<Vec<(Vec<i32>, StartAt)>, Failure> {
    if let Some(place) = reset.to.start() {
        return Ok(vec![(reset.partition.clone(), place)]);
    }
    let found = reset.to.find(session, topic, &reset.partition).await?;
    Ok(found.into_iter().map(|(at, offset)| (vec![at], StartAt::Offset(offset))).collect())
}

impl From<PartitionLag> for Lag {
    fn from(it: PartitionLag) -> Self {
        Self {
            topic: it.topic,
            partition: it.partition,
            committed: it.committed,
            start: it.log_start,
            end: it.high_watermark,
            lag: it.lag,
            lag_ms: it.lag_ms,
            member_id: it.member_id,
            metadata: it.metadata,
        }
    }
}
