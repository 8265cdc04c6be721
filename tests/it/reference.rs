//! Reference pages in the manual that come from the code: proves them current, and with `UPDATE=1` makes them so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use millrace::config::keys::KEYS;
use millrace_proto::v1::ListTopicsRequest;
use millrace_tests::group::{OFFSET_COMMIT, Offsets, commit_request};
use millrace_tests::kafka::Connection;
use millrace_tests::process::{BrokerProcess, http_get};
use millrace_tests::records::batch;

use crate::metrics::admin;
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

#[tokio::test]
async fn the_manual_lists_every_metric() {
    let broker = BrokerProcess::start(env!("CARGO_BIN_EXE_millrace-broker"), &[]);
    give_every_metric_a_sample(&broker).await;
    let (_, page) = http_get(broker.http, "/metrics").unwrap();
    let mut table = "| metric | labels | type | meaning |\n|---|---|---|---|\n".to_owned();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' '))
        else {
            continue;
        };
        let kind = lines.peek().and_then(|line| line.rsplit_once(' ')).map_or("", |(_, kind)| kind);
        let labels = labels(&page, name, kind).join(", ");
        writeln!(table, "| `{name}` | {labels} | {kind} | {help} |").unwrap();
    }
    check_section("metrics", &table);
}

/// Some metrics have samples only once there is something to tell.
async fn give_every_metric_a_sample(broker: &BrokerProcess) {
    let mut kafka = Connection::open(broker.kafka);
    kafka.create_topic("orders", 1, &[]);
    kafka.produce("orders", 0, &batch(&["a"])).unwrap();
    let offsets = Offsets::from([(("orders".to_owned(), 0), 0)]);
    kafka.ask(OFFSET_COMMIT, &commit_request("billing", &offsets));
    let mut admin = admin(broker).await;
    admin.list_topics(ListTopicsRequest::default()).await.unwrap();
}

/// The names of a metric's labels, but for those of the format itself.
fn labels(page: &str, name: &str, kind: &str) -> Vec<String> {
    let sampled = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
    let sample = page.lines().find_map(|line| {
        let rest = line.strip_prefix(&sampled)?;
        rest.starts_with(['{', ' ']).then_some(rest)
    });
    let sample = sample.unwrap_or_else(|| panic!("{name} has no sample:\n{page}"));
    let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap());
    let names = labels.split(',').filter_map(|it| it.split_once('='));
    names.map(|(label, _)| format!("`{label}`")).collect()
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
