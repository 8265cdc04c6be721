//! `millrace completions`: what makes a shell complete our commands.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::{self, output};

/// Print what makes a shell complete the commands.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                  millrace completions bash > ~/.local/share/bash-completion/completions/millrace\n  \
                  millrace completions zsh > ~/.zfunc/_millrace      with ~/.zfunc in fpath\n  \
                  millrace completions fish > ~/.config/fish/completions/millrace.fish")]
pub(super) struct Arguments {
    shell: Shell,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut cli::Arguments::command(),
        "millrace",
        &mut script,
    );
    output::print(String::from_utf8_lossy(&script));
}
