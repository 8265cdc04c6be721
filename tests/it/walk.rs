//! A newcomer's walk: what the README says to type, typed in a terminal, shows what the README shows.
//!
//! The README's `console` blocks are the script: `$ ` begins a command, the lines below it are what is expected, `…` is
//! anything, blank lines and the width of gaps do not count.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::symlink;
use std::process::Command;

use millrace_tests::process::{BrokerProcess, run_to_end};

use crate::broker::{BINARY, broker, skip};
use crate::repository::root;

/// One command of the README and the lines that it shows.
struct Step {
    command: String,
    shown: Vec<String>,
}

fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines() {
            match line.strip_prefix("$ ") {
                Some(command) => {
                    steps.push(Step { command: command.to_owned(), shown: Vec::new() });
                }
                None => steps.last_mut().unwrap().shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Runs `command` in a shell on a terminal of its own; what the terminal shows, as lines without colours.
fn type_in(command: &str, broker: &BrokerProcess, path: &str) -> Vec<String> {
    let mut script = Command::new("script");
    script.args(["-qec", command, "/dev/null"]);
    script.env("PATH", path).env("TERM", "xterm").env("SHELL", "/bin/sh");
    script.env("MILLRACE_BROKER", format!("http://{}", broker.grpc));
    script.env("MILLRACE_OPS", format!("http://{}", broker.http));
    let ended = run_to_end(script);
    assert_eq!(ended.code, Some(0), "{command} says {}", ended.stdout);
    let addresses = ended
        .stdout
        .replace(&broker.grpc.to_string(), "127.0.0.1:9095")
        .replace(&broker.http.to_string(), "127.0.0.1:9644");
    without_colours(&addresses).lines().map(words).filter(|line| !line.is_empty()).collect()
}

/// What a person sees of a line: the last thing that was written over it.
fn words(line: &str) -> String {
    let seen = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Leaves out control sequences: ESC [ up to a letter.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |seen, piece| {
        let end = piece.find(|c: char| c.is_ascii_alphabetic()).map_or(piece.len(), |at| at + 1);
        seen + &piece[end..]
    })
}

/// Does `line` read as `pattern` says, where `…` is anything?
fn matches(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let open = pattern.contains('…');
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.is_empty() || open && pattern.ends_with('…')
}

/// Lines match one by one; a line that is only `…` is any number of them.
fn shows(shown: &[String], seen: &[String]) -> bool {
    match (shown.split_first(), seen.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "…" => {
            (0..=seen.len()).any(|at| shows(rest, &seen[at..]))
        }
        (Some((pattern, shown)), Some((line, seen))) => {
            matches(pattern, line) && shows(shown, seen)
        }
        _ => false,
    }
}

#[test]
fn what_the_readme_says_is_what_a_newcomer_sees() {
    const TEST: &str = "what_the_readme_says_is_what_a_newcomer_sees";
    if Command::new("script").arg("--version").output().is_err() {
        return skip(TEST, "there is no script(1), and so no terminal");
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let steps = steps(&readme);
    assert!(steps.len() >= 8, "the walk has {} steps", steps.len());
    let broker = broker(&[]);
    let bin = tempfile::tempdir().unwrap();
    symlink(BINARY, bin.path().join("millrace")).unwrap();
    let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
    for Step { command, shown } in steps {
        let shown: Vec<_> =
            shown.iter().map(|line| words(line)).filter(|it| !it.is_empty()).collect();
        let seen = type_in(&command, &broker, &path);
        assert!(
            shows(&shown, &seen),
            "$ {command}\n--- the README ---\n{}\n--- the terminal ---\n{}",
            shown.join("\n"),
            seen.join("\n")
        );
    }
}

#[test]
fn dots_stand_for_anything() {
    assert!(matches("a … c", "a bb c") && matches("a …", "a b") && matches("…", ""));
    assert!(!matches("a … c", "a b d") && !matches("a", "a b"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(shows(&lines("a\n…\nd"), &lines("a\nb\nc\nd")));
    assert!(!shows(&lines("a\nb"), &lines("a")));
}
