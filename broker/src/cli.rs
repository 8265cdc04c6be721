//! The command line: what may be asked of the binary, and with which code it ends.
//!
//! Exit codes: 0 done, or stopped as asked; 1 it could not start or failed while running; 2 the command line or a
//! setting is wrong. What a command prints goes to standard output, everything else to standard error.

mod output;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Done,
    Failed,
    Misused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Misused => Self::from(2),
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
                  millrace serve --set num.partitions=4         change a setting\n  \
                  millrace serve --help-settings                list the settings"
)]
struct Arguments {
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
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors: clap prints them to standard output and says 0.
            let code = error.exit_code();
            let _ = error.print();
            return if code == 0 { Exit::Done.into() } else { Exit::Misused.into() };
        }
    };
    let command = arguments.command.unwrap_or_else(|| Command::Serve(serve::Arguments::default()));
    match command {
        Command::Serve(arguments) => serve::run(arguments).into(),
    }
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
