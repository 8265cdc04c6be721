//! Reference pages in the manual that come from the code: proves them current, and with `UPDATE=1` makes them so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use millrace::config::keys::KEYS;
use millrace_tests::process::BrokerProcess;

use crate::repository::{read, root};

const MANUAL: &str = "broker/docs/operations.md";
const HOW: &str = "(generated: UPDATE=1 cargo test -p millrace-tests reference)";

#[test]
fn the_manual_lists_every_setting() {
    let mut table = "| setting | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let kind = format!("{:?}", key.kind).to_lowercase();
        let default = if key.default.is_empty() { "" } else { &format!("`{}`", key.default) };
        writeln!(table, "| `{}` | {kind} | {default} | {} |", key.name, key.doc).unwrap();
    }
    check_section("settings", &table);
}

#[test]
fn the_manual_lists_every_metric() {
    let broker = BrokerProcess::start(env!("CARGO_BIN_EXE_millrace-broker"), &[]);
    let page = metrics(broker.http);
    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' '))
        else {
            continue;
        };
        let kind = lines.peek().and_then(|line| line.rsplit_once(' ')).map_or("", |(_, kind)| kind);
        writeln!(table, "| `{name}` | {kind} | {help} |").unwrap();
    }
    check_section("metrics", &table);
}

fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// Holds the part of the manual between the markers of `name` against `text`.
fn check_section(name: &str, text: &str) {
    let manual = read(MANUAL);
    let (begin, end) = (format!("<!-- {name}: begin {HOW} -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = manual.split_once(&begin).expect("the manual has the marker");
    let (found, after) = rest.split_once(&end).expect("the manual has the marker");
    if std::env::var_os("UPDATE").is_some() {
        // One test at a time: the two sections share a file.
        std::fs::write(root().join(MANUAL), format!("{before}{begin}{text}{end}{after}")).unwrap();
        return;
    }
    assert!(
        found == text,
        "{MANUAL}, {name}: UPDATE=1 cargo test -p millrace-tests reference -- --test-threads=1"
    );
}
