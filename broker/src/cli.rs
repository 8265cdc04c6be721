//! The command line: what may be asked of the binary, and with which code it ends.
//!
//! Exit codes: 0 done, or stopped as asked; 1 it was refused, could not start or failed while running; 2 the command
//! line, a setting or a context is wrong; 3 no broker answers. What a command prints goes to standard output,
//! everything else to standard error. All commands but `serve` reach a broker through the client alone, on a runtime of
//! one thread.

mod at;
mod bench;
mod completions;
mod config;
mod connect;
mod consume;
mod context;
mod delete;
mod doctor;
mod failure;
mod group;
mod offsets;
mod ops;
mod output;
mod pairs;
mod produce;
mod record;
mod serve;
mod stop;
mod top;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use connect::{Early, Session};
use failure::Failure;
use output::Format;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    Misused,
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Misused => Self::from(2),
            Exit::Unreachable => Self::from(3),
        }
    }
}

#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    about = "A persistent message queue broker: Kafka's protocol and gRPC over one durable log",
    long_about = "A persistent message queue broker: Kafka's protocol and gRPC over one durable log.\n\n\
                  Without a command it serves with defaults: data in ./millrace-data, Kafka clients on \
                  127.0.0.1:9092, gRPC on 127.0.0.1:9095, probes and metrics on http://127.0.0.1:9644.",
    after_help = "Examples:\n  \
                  millrace                                      start a broker with defaults\n  \
                  millrace serve --data-dir /var/lib/millrace   keep the data elsewhere\n  \
                  millrace topic create orders --partitions 6   make a topic\n  \
                  echo hello | millrace produce orders          write a record\n  \
                  millrace consume orders                       read what is there\n  \
                  millrace offsets orders --group billing       how far a group is behind\n  \
                  millrace top                                  watch it work\n\n\
                  Every command but serve takes --broker URL, --context NAME and --output json; each has examples \
                  under --help.\n\
                  Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no broker answers."
)]
struct Arguments {
    #[command(flatten)]
    early: Early,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a broker
    ///
    /// It runs until SIGTERM or Ctrl-C, finishes what was begun, then ends with code 0. What was acknowledged is on
    /// disk at any moment, so a hard kill loses nothing of it either.
    Serve(serve::Arguments),
    Topic(topic::Arguments),
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    Group(group::Arguments),
    Offsets(offsets::Arguments),
    Config(config::Arguments),
    Top(top::Arguments),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
    Context(context::Arguments),
    Completions(completions::Arguments),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let Arguments { early, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors: clap prints them to standard output and says 0.
            if error.exit_code() == 0 {
                let _ = error.print();
                return Exit::Done.into();
            }
            output::misuse(&error);
            return Exit::Misused.into();
        }
    };
    let command = command.unwrap_or_else(|| Command::Serve(serve::Arguments::default()));
    command.run(early).into()
}

impl Command {
    fn run(mut self, early: Early) -> Exit {
        match self.connection() {
            Some(connection) => *connection = std::mem::take(connection).after(early),
            None if early.is_given() => {
                let failure = Failure::usage(
                    "this command does not take --broker, --context or --output here",
                )
                .with_help("`millrace --help` lists the commands that talk to a broker");
                return ended(Err(failure), Format::Table);
            }
            None => {}
        }
        match self {
            Self::Serve(it) => serve::run(it),
            Self::Topic(it) => talk(it.connection.clone(), async |to| topic::run(to, it).await),
            Self::Produce(it) => talk(it.connection.clone(), async |to| produce::run(to, it).await),
            Self::Consume(it) => talk(it.connection.clone(), async |to| consume::run(to, it).await),
            Self::Group(it) => talk(it.connection.clone(), async |to| group::run(to, it).await),
            Self::Offsets(it) => talk(it.connection.clone(), async |to| offsets::run(to, it).await),
            Self::Config(it) => talk(it.connection.clone(), async |to| config::run(to, it).await),
            Self::Top(it) => talk(it.connection.clone(), async |to| top::run(to, it).await),
            Self::Bench(it) => talk(it.connection.clone(), async |to| bench::run(to, it).await),
            Self::Doctor(it) => {
                let output = it.connection.output();
                ended(waited_for(doctor::run(it)), output)
            }
            Self::Context(it) => {
                let output = it.choice.format();
                ended(context::run(it).map(|()| Exit::Done), output)
            }
            Self::Completions(it) => {
                completions::run(&it);
                Exit::Done
            }
        }
    }

    /// How it reaches a broker, if it does.
    fn connection(&mut self) -> Option<&mut connect::Arguments> {
        Some(match self {
            Self::Topic(it) => &mut it.connection,
            Self::Produce(it) => &mut it.connection,
            Self::Consume(it) => &mut it.connection,
            Self::Group(it) => &mut it.connection,
            Self::Offsets(it) => &mut it.connection,
            Self::Config(it) => &mut it.connection,
            Self::Top(it) => &mut it.connection,
            Self::Bench(it) => &mut it.connection,
            Self::Doctor(it) => &mut it.connection,
            Self::Serve(_) | Self::Context(_) | Self::Completions(_) => return None,
        })
    }
}

/// Connects, runs a command, tells how it ended.
fn talk(
    connection: connect::Arguments,
    command: impl AsyncFnOnce(&Session) -> Result<(), Failure>,
) -> Exit {
    let output = connection.output();
    let work = async {
        let session = Session::open(&connection).await?;
        command(&session).await.map(|()| Exit::Done)
    };
    ended(waited_for(work), output)
}

/// Runs to the end on a runtime of one thread.
fn waited_for(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::new(format_args!("the system gives no runtime: {error}")))?;
    let ended = runtime.block_on(work);
    // A thread may still wait for somebody who types.
    runtime.shutdown_background();
    ended
}

fn ended(result: Result<Exit, Failure>, output: Format) -> Exit {
    result.unwrap_or_else(|failure| {
        output.complain(&failure);
        failure.exit
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        assert!(Arguments::try_parse_from(["millrace"]).unwrap().command.is_none());
        let serve = ["millrace", "serve", "--data-dir", "d", "--set", "a=b", "--set", "c=d"];
        assert!(Arguments::try_parse_from(serve).is_ok());
        assert!(Arguments::try_parse_from(["millrace", "swerve"]).is_err());
    }
}
