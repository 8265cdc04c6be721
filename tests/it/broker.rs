//! The broker under test.

use std::io::Write;

use millrace_tests::process::BrokerProcess;

/// The broker's binary as this package builds it.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_millrace-broker");

/// A broker of its own for one test, ready, with these settings beside those that make tests fast.
pub(crate) fn broker(settings: &[&str]) -> BrokerProcess {
    BrokerProcess::start(BINARY, &fast(settings))
}

/// As [`broker`], but still to be launched.
pub(crate) fn prepared(settings: &[&str]) -> BrokerProcess {
    BrokerProcess::prepare(BINARY, &fast(settings))
}

fn fast<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["group.initial.rebalance.delay.ms=0", "offsets.topic.num.partitions=4"];
    all.extend(settings);
    all
}

/// Says on standard error that a test could not be run here, and why: never a silent pass. Every line can be counted.
pub(crate) fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}
