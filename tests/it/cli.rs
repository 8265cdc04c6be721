//! The command line against a live broker, as people and scripts use it: what is printed, and the exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millrace_tests::ask::fresh;
use millrace_tests::process::{BrokerProcess, Ended, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::broker::{BINARY, broker, skip};
use crate::repository::read;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A command that knows nothing of whoever runs the tests.
pub(crate) fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"MILLRACE_") {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent/config").args(arguments);
    command
}

/// A command for this broker.
pub(crate) fn command(broker: &BrokerProcess, arguments: &[&str]) -> Command {
    let mut command = bare(arguments);
    command.env("MILLRACE_BROKER", format!("http://{}", broker.grpc));
    command.env("MILLRACE_OPS", broker.http.to_string());
    command
}

/// Runs a command to its end, with this on its standard input.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let (mut stdin, input) = (child.stdin.take().expect("it is piped"), input.to_vec());
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = all_of(child.stdout.take().expect("it is piped"));
    let stderr = all_of(child.stderr.take().expect("it is piped"));
    let ended = until(PATIENCE, || child.try_wait().expect("our own child"));
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    writer.join().expect("it writes or gives up");
    let ended = Ended {
        code: ended.and_then(|status| status.code()),
        stdout: stdout.join().expect("it is text"),
        stderr: stderr.join().expect("it is text"),
    };
    assert!(ended.code.is_some(), "{command:?} did not end by itself: {ended:?}");
    ended
}

fn all_of(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the output is text");
        text
    })
}

/// Runs a command that is to succeed; what it printed.
pub(crate) fn done(broker: &BrokerProcess, arguments: &[&str]) -> String {
    done_with(broker, arguments, b"")
}

pub(crate) fn done_with(broker: &BrokerProcess, arguments: &[&str], input: &[u8]) -> String {
    let ended = run(command(broker, arguments), input);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended.stdout
}

/// The same with `--output json`: one document, whose shape is documented.
fn document(broker: &BrokerProcess, arguments: &[&str]) -> Value {
    document_with(broker, arguments, b"")
}

fn document_with(broker: &BrokerProcess, arguments: &[&str], input: &[u8]) -> Value {
    let arguments = [arguments, &["--output", "json"]].concat();
    let text = done_with(broker, &arguments, input);
    let document = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    documented(&document);
    document
}

/// Every field is in the documentation; what stands below `settings` and `changed` is named by topics.
fn documented(document: &Value) {
    let page = read("broker/docs/cli.md");
    let mut left = vec![document];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => {
                for (key, value) in fields {
                    assert!(page.contains(&format!("{key:?}")), "{key} is not in docs/cli.md");
                    let is_free = value.is_object() && (key == "settings" || key == "changed");
                    left.extend((!is_free).then_some(value));
                }
            }
            _ => {}
        }
    }
}

/// Fails with this code, says all of these words on standard error, and nothing else.
pub(crate) fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in {}", ended.stderr);
    }
    assert_eq!(ended.stdout, "");
}

/// A topic of its own with this many partitions.
fn topic(broker: &BrokerProcess, name: &str, partitions: &str) -> String {
    let name = fresh(name);
    done(broker, &["topic", "create", &name, "--partitions", partitions]);
    name
}

/// The lines of a command that goes on, and the way to end it.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(broker: &BrokerProcess, arguments: &[&str]) -> Self {
        let mut command = command(broker, arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().expect("the command starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("the output is text");
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child");
    }

    fn code(&mut self) -> Option<i32> {
        until(PATIENCE, || self.child.try_wait().expect("our own child"))
            .and_then(|status| status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn topics_are_made_listed_described_altered_and_deleted() {
    let broker = broker(&[]);
    assert!(done(&broker, &["topic", "list"]).contains("no topics"));
    let made =
        done(&broker, &["topic", "create", "a", "b", "-p", "2", "--set", "retention.ms=5000"]);
    assert_eq!(made, "created topic a with 2 partitions\ncreated topic b with 2 partitions\n");
    let list = done(&broker, &["topic", "list"]);
    let first: Vec<_> = list.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(first, ["TOPIC", "a", "b"], "{list}");
    let document_of_a = document(&broker, &["topic", "describe", "a"]);
    assert_eq!(document_of_a["settings"], json!({"retention.ms": "5000"}));
    assert_eq!(document_of_a["partitions"].as_array().unwrap().len(), 2);
    let alter = [
        "topic",
        "alter",
        "a",
        "-p",
        "3",
        "--set",
        "durability=relaxed",
        "--unset",
        "retention.ms",
    ];
    let altered = document(&broker, &alter);
    assert_eq!(altered["settings"], json!({"durability": "relaxed"}));
    assert_eq!(altered["partitions"].as_array().unwrap().len(), 3);
    assert_eq!(document(&broker, &["topic", "delete", "a", "b"]), json!({"deleted": ["a", "b"]}));
    assert_eq!(document(&broker, &["topic", "list"]), json!({"topics": []}));
    done(&broker, &["topic", "delete", "a", "--if-exists"]);
    done(&broker, &["topic", "create", "c", "--dry-run"]);
    assert_eq!(document(&broker, &["topic", "list"]), json!({"topics": []}));
    done(&broker, &["topic", "create", "c"]);
    done(&broker, &["topic", "create", "c", "--if-not-exists"]);
}

#[test]
fn lines_go_in_and_come_out() {
    let broker = broker(&[]);
    let topic = topic(&broker, "lines", "1");
    let wrote = done_with(&broker, &["produce", &topic], b"one\ntwo\r\nthree");
    assert_eq!(wrote, format!("wrote 3 records to {topic}\n  partition 0: offsets 0 to 2\n"));
    assert_eq!(done(&broker, &["consume", &topic]), "one\ntwo\nthree\n");
    assert_eq!(done(&broker, &["consume", &topic, "--from", "1", "-n", "1"]), "two\n");
    assert_eq!(done(&broker, &["consume", &topic, "--from", "-2"]), "two\nthree\n");
    assert_eq!(done(&broker, &["consume", &topic, "--until", "2"]), "one\ntwo\n");
    assert_eq!(done(&broker, &["consume", &topic, "--from", "latest"]), "");
    assert_eq!(done(&broker, &["consume", &topic, "--from", "-1h"]), "one\ntwo\nthree\n");
    assert_eq!(done(&broker, &["consume", &topic, "--until", "-1h"]), "");
    let pattern = done(&broker, &["consume", &topic, "--format", r"%t/%p@%o=%v%%\n", "-n", "1"]);
    assert_eq!(pattern, format!("{topic}/0@0=one%\n"));
}

#[test]
fn records_survive_json_whole() {
    let broker = broker(&[]);
    let (first, second) = (topic(&broker, "json", "2"), topic(&broker, "copy", "2"));
    let lines = concat!(
        r#"{"key":"k","value":"v","headers":[{"key":"h","value":"x"},{"key":"n","value":null}],"timestamp_ms":5}"#,
        "\n",
        r#"{"key":{"base64":"AP8="},"value":null,"timestamp_ms":6}"#,
        "\n",
        r#"{"value":{"order":1},"timestamp_ms":7}"#,
        "\n"
    );
    let summary = document_with(&broker, &["produce", &first, "--input", "json"], lines.as_bytes());
    assert_eq!(summary["records"], 3);
    let out = done(&broker, &["consume", &first, "-o", "json"]);
    let copied = document_with(&broker, &["produce", &second, "--input", "json"], out.as_bytes());
    assert_eq!(copied["records"], 3);
    let content = |topic: &str| {
        let out = done(&broker, &["consume", topic, "--format", "json"]);
        let mut records: Vec<Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        records.iter().for_each(documented);
        records.sort_by_key(|it| it["timestamp_ms"].as_i64());
        let content = |it: &Value| {
            json!([it["key"], it["value"], it["headers"], it["timestamp_ms"], it["timestamp"]])
        };
        records.iter().map(content).collect::<Vec<_>>()
    };
    let headers = json!([{"key": "h", "value": "x"}, {"key": "n", "value": null}]);
    let expected = [
        json!(["k", "v", headers, 5, "1970-01-01T00:00:00.005Z"]),
        json!([{"base64": "AP8="}, null, [], 6, "1970-01-01T00:00:00.006Z"]),
        json!([null, r#"{"order":1}"#, [], 7, "1970-01-01T00:00:00.007Z"]),
    ];
    assert_eq!(content(&first), expected);
    assert_eq!(content(&second), expected);
}

#[test]
fn keys_headers_partitions_and_files_are_as_asked() {
    let broker = broker(&[]);
    let topic = topic(&broker, "shaped", "3");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let pairs = file("pairs", b"a:1\nb:2:3\n");
    let shape = ["produce", &topic, "-p", "2", "-H", "from=x", "--compression", "zstd"];
    done(&broker, &[&shape[..], &["--key-separator", ":", "--file", &pairs]].concat());
    let whole = file("whole", b"two\nlines\n");
    done(&broker, &[&shape[..], &["--input", "whole", "--key", "w", "--file", &whole]].concat());
    let out = done(&broker, &["consume", &topic, "-F", r"%p %o %k [%v] %h\n"]);
    assert_eq!(out, "2 0 a [1] from=x\n2 1 b [2:3] from=x\n2 2 w [two\nlines\n] from=x\n");
    let empty = done(&broker, &["consume", &topic, "--partition", "0,1"]);
    assert_eq!(empty, "");
}

#[test]
fn a_group_reads_once_and_its_lag_is_told() {
    let broker = broker(&[]);
    let (topic, group) = (topic(&broker, "shared", "2"), fresh("group"));
    done_with(&broker, &["produce", &topic, "-p", "0"], b"a\nb\nc\n");
    done_with(&broker, &["produce", &topic, "-p", "1"], b"d\n");
    let mut read: Vec<_> =
        done(&broker, &["consume", &topic, "-g", &group]).lines().map(str::to_owned).collect();
    read.sort();
    assert_eq!(read, ["a", "b", "c", "d"]);
    assert_eq!(done(&broker, &["consume", &topic, "-g", &group]), "", "it is committed");

    let listed = document(&broker, &["group", "list"]);
    assert_eq!(listed["groups"][0]["group"], group.as_str(), "{listed}");
    let described = document(&broker, &["group", "describe", &group]);
    assert_eq!((&described["lag"], &described["members"]), (&json!(0), &json!(0)), "{described}");

    done_with(&broker, &["produce", &topic, "-p", "0"], b"e\n");
    let offsets = document(&broker, &["offsets", &topic, "--group", &group]);
    assert_eq!((&offsets["records"], &offsets["lag"]), (&json!(5), &json!(1)), "{offsets}");
    let partition = &offsets["partitions"][0];
    let found = ["start", "end", "committed", "lag"].map(|field| partition[field].as_i64());
    assert_eq!(found, [Some(0), Some(4), Some(3), Some(1)]);
    assert!(partition["lag_ms"].as_i64().unwrap() >= 0);
    assert_eq!(document(&broker, &["offsets", "--group", &group])["lag"], 1);
    let table = done(&broker, &["offsets", &topic, "--group", &group]);
    assert!(table.lines().last().unwrap().starts_with("total"), "{table}");

    let reset = ["group", "reset-offsets", &group, "--topic", &topic, "--to"];
    let dry = document(&broker, &[&reset[..], &["earliest", "--dry-run"]].concat());
    assert_eq!(dry["offsets"][0], json!({"topic": topic, "partition": 0, "before": 3, "after": 0}));
    assert_eq!(document(&broker, &["offsets", "--group", &group])["lag"], 1, "it was a dry run");
    done(&broker, &[&reset[..], &["-1"]].concat());
    assert_eq!(document(&broker, &["offsets", "--group", &group])["lag"], 2);
    done(&broker, &[&reset[..], &["latest"]].concat());
    assert_eq!(document(&broker, &["offsets", "--group", &group])["lag"], 0);
    assert_eq!(document(&broker, &["group", "delete", &group]), json!({"deleted": [group]}));
    let gone = run(command(&broker, &["group", "describe", &group]), b"");
    refused(&gone, 1, &["describe group", "millrace group list"]);
}

#[test]
fn an_interrupted_member_has_committed_what_it_printed() {
    let broker = broker(&[]);
    for signal in [Signal::INT, Signal::TERM] {
        check_interrupted(&broker, signal);
    }
}

fn check_interrupted(broker: &BrokerProcess, signal: Signal) {
    let (topic, group) = (topic(broker, "interrupted", "1"), fresh("group"));
    done_with(broker, &["produce", &topic], b"a\nb\n");
    let mut member = Running::start(broker, &["consume", &topic, "-g", &group, "--follow"]);
    assert_eq!([member.line(), member.line()], ["a", "b"]);
    let members = document(broker, &["group", "members", &group]);
    assert_eq!(members["members"][0]["partitions"], json!([{"topic": topic, "partition": 0}]));
    let busy = run(command(broker, &["group", "delete", &group]), b"");
    refused(&busy, 1, &["delete group", "group members"]);
    member.signal(signal);
    assert_eq!(member.code(), Some(0));
    assert_eq!(document(broker, &["offsets", "--group", &group])["lag"], 0);
}

#[test]
fn following_prints_what_comes_as_it_comes() {
    let broker = broker(&[]);
    let topic = topic(&broker, "followed", "2");
    let mut follower = Running::start(&broker, &["consume", &topic, "-f", "-n", "3"]);
    for value in ["x", "y", "z"] {
        done_with(&broker, &["produce", &topic], value.as_bytes());
        assert_eq!(follower.line(), value);
    }
    assert_eq!(follower.code(), Some(0), "three were asked for");
    let bounded = ["consume", &topic, "-f", "-p", "0", "--until", "2", "-F", r"%o\n"];
    let mut follower = Running::start(&broker, &bounded);
    done_with(&broker, &["produce", &topic, "-p", "0"], b"1\n2\n3\n");
    assert_eq!([follower.line(), follower.line()], ["0", "1"]);
    assert_eq!(follower.code(), Some(0), "offset 2 is where to end");
}

/// The broker dies wherever it just is, and comes back.
fn kill_and_launch(broker: &mut BrokerProcess) {
    broker.kill();
    broker.launch();
}

#[test]
fn lines_are_written_once_and_in_order_while_the_broker_dies() {
    let mut broker = broker(&[]);
    let topic = topic(&broker, "survived", "1");
    let mut producing = command(&broker, &["produce", &topic, "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = producing.stdin.take().expect("it is piped");
    let stdout = all_of(producing.stdout.take().expect("it is piped"));
    let stderr = all_of(producing.stderr.take().expect("it is piped"));
    let is_over = Arc::new(AtomicBool::new(false));
    let is_enough = Arc::clone(&is_over);
    // Lines come all the time, also while nobody is there to take them.
    let writer = std::thread::spawn(move || {
        let mut count = 0;
        while !is_enough.load(Ordering::Relaxed) && writeln!(stdin, "line {count}").is_ok() {
            count += 1;
            std::thread::sleep(Duration::from_micros(500));
        }
        count
    });
    let written = |broker: &BrokerProcess| {
        let offsets = document(broker, &["offsets", &topic]);
        offsets["partitions"][0]["end"].as_i64().expect("the partition has an end")
    };
    for _ in 0..3 {
        let before = written(&broker);
        let grown = until(PATIENCE, || (written(&broker) > before + 100).then_some(()));
        assert!(grown.is_some(), "no line is written after {before}");
        kill_and_launch(&mut broker);
    }
    is_over.store(true, Ordering::Relaxed);
    let count: usize = writer.join().expect("it writes until it is told to end");
    let ended = until(PATIENCE, || producing.try_wait().expect("our own child"));
    let _ = producing.kill();
    let (stdout, stderr) = (stdout.join().expect("text"), stderr.join().expect("text"));
    assert_eq!(ended.and_then(|it| it.code()), Some(0), "{stderr}");
    let summary: Value = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(summary["records"], count);
    let expected: String = (0..count).map(|it| format!("line {it}\n")).collect();
    assert!(done(&broker, &["consume", &topic]) == expected, "lines are missing, or twice");
}

#[test]
fn a_follower_prints_each_record_once_while_the_broker_dies() {
    let mut broker = broker(&[]);
    let (topic, group) = (topic(&broker, "followed", "1"), fresh("group"));
    let follow = ["consume", &topic, "--follow", "--limit", "400", "--format", r"%o %v\n"];
    let in_group = [&follow[..], &["--group", &group]].concat();
    let mut followers = [&follow[..], &in_group].map(|it| Running::start(&broker, it));
    let mut printed = [Vec::new(), Vec::new()];
    for round in 0..4 {
        let lines: String = (0..100).map(|it| format!("{round}/{it}\n")).collect();
        done_with(&broker, &["produce", &topic], lines.as_bytes());
        // In two of the rounds the broker dies while they read.
        let heard = if round % 2 == 0 { 100 } else { 50 };
        for (follower, printed) in followers.iter_mut().zip(&mut printed) {
            while printed.len() < round * 100 + heard {
                printed.push(follower.line());
            }
        }
        kill_and_launch(&mut broker);
    }
    let record = |it: usize| format!("{it} {}/{}", it / 100, it % 100);
    let expected: Vec<_> = (0..400).map(record).collect();
    for (mut follower, mut printed) in followers.into_iter().zip(printed) {
        while printed.len() < expected.len() {
            printed.push(follower.line());
        }
        assert_eq!(follower.code(), Some(0), "as many as were asked for");
        assert_eq!(follower.line(), "", "and no more");
        assert!(printed == expected, "{printed:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let broker = broker(&[]);
    let topic = topic(&broker, "piped", "1");
    let lines: String = (0..50_000).map(|at| format!("line {at}\n")).collect();
    done_with(&broker, &["produce", &topic], lines.as_bytes());
    let mut reader = Running::start(&broker, &["consume", &topic]);
    assert_eq!(reader.line(), "line 0");
    let empty = BufReader::new(
        Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.take().unwrap(),
    );
    drop(std::mem::replace(&mut reader.lines, empty));
    assert_eq!(reader.code(), Some(0));
}

#[test]
fn settings_are_shown_and_changed() {
    let broker = broker(&["num.partitions=3"]);
    let got = document(&broker, &["config", "get", "num.partitions"]);
    assert_eq!(got["resource"], "broker");
    assert_eq!(got["settings"][0]["value"], "3");
    let topic = topic(&broker, "set", "1");
    let set = document(&broker, &["config", "set", "-t", &topic, "retention.ms=5000"]);
    assert_eq!(set, json!({"topic": topic, "changed": {"retention.ms": "5000"}, "dry_run": false}));
    let changed = ["config", "get", "--topic", &topic, "--changed"];
    assert_eq!(document(&broker, &changed)["settings"][0]["value"], "5000");
    done(&broker, &["config", "set", "-t", &topic, "--unset", "retention.ms"]);
    assert_eq!(
        document(&broker, &["config", "get", "-t", &topic, "retention.ms"])["settings"][0]["source"],
        "DEFAULT_CONFIG"
    );
    let bad = run(command(&broker, &["config", "set", "-t", &topic, "retention.ms=soon"]), b"");
    refused(&bad, 1, &["retention.ms"]);
    let unknown = run(command(&broker, &["config", "get", "no.such.key"]), b"");
    refused(&unknown, 1, &["no setting no.such.key"]);
}

#[test]
fn top_shows_one_look_where_nobody_watches() {
    let broker = broker(&[]);
    let (topic, group) = (topic(&broker, "busy", "2"), fresh("group"));
    done_with(&broker, &["produce", &topic], b"a\nb\n");
    done(&broker, &["consume", &topic, "-g", &group, "-n", "1"]);
    let look = document(&broker, &["top", "--interval", "0.2"]);
    assert_eq!(look["topics"][0]["topic"], topic.as_str(), "{look}");
    assert_eq!(look["topics"][0]["records"], 2);
    assert_eq!(look["groups"][0]["lag"], 1, "{look}");
    assert!(look["broker"]["uptime_seconds"].as_f64().unwrap() > 0.0, "{look}");
    let table = done(&broker, &["top", "--interval", "0.2"]);
    assert!(table.contains(&topic) && table.contains(&group) && !table.contains('\x1b'), "{table}");
    let mut without_ops = command(&broker, &["top", "--interval", "0.2", "-o", "json"]);
    without_ops.env("MILLRACE_OPS", "127.0.0.1:1");
    let look: Value = serde_json::from_str(&run(without_ops, b"").stdout).unwrap();
    assert_eq!(look["broker"], Value::Null);
}

/// Runs `top` on a terminal of this size; what it wrote there.
fn top_on_a_terminal(broker: &BrokerProcess, columns: usize, lines: usize, top: &str) -> String {
    let mut script = Command::new("script");
    let typed = format!("stty cols {columns} rows {lines}; exec {BINARY} top {top}");
    script.args(["-qec", &typed, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
    script.env("MILLRACE_BROKER", format!("http://{}", broker.grpc));
    script.env("MILLRACE_OPS", broker.http.to_string()).env("NO_COLOR", "1");
    let ended = run(script, b"");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.replace('\r', "")
}

#[test]
fn top_fits_the_terminal_and_gives_it_back() {
    const TEST: &str = "top_fits_the_terminal_and_gives_it_back";
    if Command::new("script").arg("--version").output().is_err() {
        return skip(TEST, "there is no script(1), and so no terminal");
    }
    let broker = broker(&[]);
    let names = (0..30).map(|at| format!("a-topic-with-a-rather-long-name-{at}"));
    let names: Vec<_> = names.collect();
    let create = ["topic", "create"].into_iter().chain(names.iter().map(String::as_str));
    done(&broker, &create.collect::<Vec<_>>());
    for (columns, lines) in [(40, 12), (80, 24), (200, 50)] {
        let written = top_on_a_terminal(&broker, columns, lines, "--interval 0.1 -n 2");
        let (screens, left) = written.split_once("\x1b[?1049l").expect("it gives the screen back");
        let taken = screens.split_once("\x1b[?1049h").expect("it takes a screen").1;
        let frames: Vec<_> = taken.split("\x1b[H").skip(1).collect();
        assert_eq!(frames.len(), 3, "one before the first look is over: {frames:?}");
        for frame in frames.into_iter().chain([left]) {
            let rows: Vec<_> = frame.lines().map(|it| it.replace("\x1b[K", "")).collect();
            assert!(rows.len() <= lines, "{columns}x{lines}: {frame}");
            let wide = rows.iter().find(|it| it.chars().count() > columns);
            assert_eq!(wide, None, "{columns}x{lines}");
        }
        assert!(left.contains("a-topic-with-a-rather"), "the last look stays: {left}");
        let all = names.iter().all(|name| left.contains(name));
        assert_eq!(all, lines == 50, "{left}");
        assert_eq!(left.contains(" more topics\n"), !all, "{left}");
    }
}

#[test]
fn bench_measures_and_cleans_up() {
    let broker = broker(&[]);
    let brief = ["--warm-up", "0", "--seconds", "0.5"];
    for pace in [&["--in-flight", "10"][..], &["--rate", "200", "--connections", "2"]] {
        let report = document(&broker, &[&["bench", "produce"], pace, &brief].concat());
        assert!(report["records"].as_u64().unwrap() > 0, "{report}");
        assert!(report["latency_ms"]["p99"].as_f64().unwrap() > 0.0, "{report}");
    }
    let report = document(&broker, &["bench", "consume", "--records", "1000"]);
    assert_eq!((&report["records"], &report["record_bytes"]), (&json!(1000), &json!(1000)));
    assert_eq!(document(&broker, &["topic", "list"]), json!({"topics": []}));
}

#[test]
fn doctor_judges_and_says_what_to_change() {
    let broker = broker(&["durability=relaxed"]);
    let ended = run(command(&broker, &["doctor", "-o", "json"]), b"");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    documented(&report);
    let checks = report["checks"].as_array().unwrap();
    let verdict = |name: &str| {
        let check = checks.iter().find(|it| it["check"] == name);
        check.unwrap_or_else(|| panic!("{name} is not in {report}"))["verdict"].clone()
    };
    for name in ["connection", "health", "clock", "retention"] {
        assert_eq!(verdict(name), "good", "{name}: {report}");
    }
    assert_eq!(verdict("durability"), "look");
    for name in ["open files", "memory maps", "file system", "free space"] {
        assert_ne!(verdict(name), "unknown", "{name}: {report}");
    }
    let is_bad = checks.iter().any(|it| it["verdict"] == "bad");
    assert_eq!(ended.code, Some(i32::from(is_bad)), "{report}");
    let text = run(command(&broker, &["doctor"]), b"").stdout;
    assert!(text.contains("durability=durable"), "{text}");
}

#[test]
fn doctor_without_a_broker_still_looks_at_the_machine() {
    let mut command =
        bare(&["doctor", "--broker", "127.0.0.1:1", "--data-dir", "/tmp", "-o", "json"]);
    command.env("MILLRACE_OPS", "127.0.0.1:1");
    let ended = run(command, b"");
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    assert_eq!(checks[0]["check"], "connection");
    assert!(checks[0]["advice"].as_str().unwrap().contains("millrace serve"));
    assert!(checks.iter().any(|it| it["check"] == "free space"), "{report}");
}

#[test]
fn errors_say_what_where_and_what_to_do() {
    let broker = broker(&["auto.create.topics.enable=false"]);
    let at = format!("http://{}", broker.grpc);
    for (arguments, code, words) in [
        (
            &["topic", "describe", "nowhere"][..],
            1,
            &["nowhere", &at, "help: `millrace topic list`"][..],
        ),
        (&["consume", "nowhere"], 1, &["nowhere", "UNKNOWN_TOPIC_OR_PARTITION"]),
        (&["produce", "nowhere"], 1, &["nowhere", "0 records acknowledged before"]),
        (&["topic", "create", "no/good"], 1, &["no/good", "letters, digits"]),
        (&["group", "describe", "nobody"], 1, &["nobody", "`millrace group list`"]),
        (&["topic", "alter", "x"], 2, &["nothing to change", "--partitions"]),
        (&["consume", "x", "--from", "soon"], 2, &["earliest", "2026-01-02"]),
        (&["consume", "x", "--format", "%q"], 2, &["%q", "%v"]),
        (&["consume"], 2, &["TOPIC", "Usage"]),
        (&["consume", "x", "--follow", "--until", "-5m"], 2, &["--follow", "--until"]),
        (&["produce", "x", "--file", "/no/such/file"], 1, &["/no/such/file"]),
        (&["frobnicate"], 2, &["frobnicate"]),
    ] {
        refused(&run(command(&broker, arguments), b"v\n"), code, words);
    }
    let topic = topic(&broker, "twice", "1");
    let twice = run(command(&broker, &["topic", "create", &topic]), b"");
    refused(&twice, 1, &[&topic, "topic describe"]);
    let beyond = run(command(&broker, &["consume", &topic, "--from", "7"]), b"");
    refused(&beyond, 1, &["offset 7", "ends at 0", "millrace offsets"]);
    let line = run(command(&broker, &["produce", &topic, "--input", "json"]), b"{}\nno\n");
    refused(&line, 1, &["line 2", "standard input"]);
}

#[test]
fn errors_are_json_for_programs() {
    let broker = broker(&[]);
    let ended = run(command(&broker, &["topic", "describe", "nowhere", "-o", "json"]), b"");
    refused(&ended, 1, &[]);
    let error: Value = serde_json::from_str(&ended.stderr).unwrap();
    documented(&error);
    assert_eq!(error["error"]["reason"], "UNKNOWN_TOPIC_OR_PARTITION");
    assert!(error["error"]["help"].as_str().unwrap().contains("topic list"));
}

#[test]
fn nobody_there_is_3_and_says_how_to_start_one() {
    for arguments in [&["topic", "list"][..], &["consume", "x"], &["offsets", "x"], &["top"]] {
        let ended = run(bare(&[arguments, &["--broker", "127.0.0.1:1"]].concat()), b"");
        refused(&ended, 3, &["http://127.0.0.1:1", "from --broker", "millrace serve"]);
    }
    let ended = run(bare(&["--broker", "not an address", "topic", "list"]), b"");
    refused(&ended, 2, &["not an address"]);
}

#[test]
fn contexts_name_brokers() {
    let broker = broker(&[]);
    let home = tempfile::tempdir().unwrap();
    let url = format!("http://{}", broker.grpc);
    let with = |arguments: &[&str]| {
        let mut command = bare(arguments);
        command.env("XDG_CONFIG_HOME", home.path());
        run(command, b"")
    };
    let done = |arguments: &[&str]| {
        let ended = with(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended.stdout
    };
    assert!(done(&["context", "list"]).contains("no contexts"));
    done(&["context", "add", "here", &url, "--ops", &broker.http.to_string()]);
    done(&["context", "add", "away", "127.0.0.1:1"]);
    let list: Value = serde_json::from_str(&done(&["context", "list", "-o", "json"])).unwrap();
    documented(&list);
    let current = |name: &str| {
        let contexts = list["contexts"].as_array().unwrap();
        contexts.iter().find(|it| it["name"] == name).unwrap()["current"].clone()
    };
    assert_eq!((current("here"), current("away")), (json!(true), json!(false)));
    done(&["topic", "create", "x"]);
    refused(&with(&["topic", "list", "--context", "away"]), 3, &["from context away"]);
    done(&["context", "use", "away"]);
    refused(&with(&["topic", "list"]), 3, &["from context away"]);
    assert!(done(&["--context", "here", "topic", "list"]).contains('x'));
    assert!(done(&["topic", "list", "--broker", &url]).contains('x'));
    refused(&with(&["topic", "list", "--context", "her"]), 2, &["no context her", "away, here"]);
    done(&["context", "remove", "away"]);
    refused(&with(&["context", "use", "away"]), 2, &["no context away"]);
    let file = home.path().join("millrace/contexts.toml");
    assert!(Path::exists(&file));
    std::fs::write(&file, "current = [").unwrap();
    refused(&with(&["topic", "list"]), 2, &["contexts.toml", "is no contexts file"]);
}

#[test]
fn variables_of_the_command_line_are_no_settings_of_a_broker() {
    let mut broker = crate::broker::prepared(&[]);
    let mut command = broker.command();
    command.env("MILLRACE_BROKER", "http://127.0.0.1:1").env("MILLRACE_OPS", "x");
    command.env("MILLRACE_CONTEXT", "x");
    broker.launch_as(command);
}

#[test]
fn every_command_teaches_by_examples() {
    let commands = [
        "topic",
        "produce",
        "consume",
        "group",
        "offsets",
        "config",
        "top",
        "bench",
        "doctor",
        "context",
        "completions",
    ];
    for name in commands {
        let ended = run(bare(&[name, "--help"]), b"");
        assert_eq!(ended.code, Some(0));
        let example = format!("\n  millrace {name}");
        let words = ["Examples:", example.as_str()];
        let has_all = words.iter().all(|word| ended.stdout.contains(word));
        assert!(
            has_all || name == "produce" && ended.stdout.contains("| millrace produce"),
            "{}",
            ended.stdout
        );
        assert!(ended.stdout.lines().all(|line| line.chars().count() <= 100), "{}", ended.stdout);
    }
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = run(bare(&["completions", shell]), b"");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for word in ["consume", "reset-offsets", "millrace"] {
            assert!(ended.stdout.contains(word), "{shell} lacks {word}");
        }
    }
}
