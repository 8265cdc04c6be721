//! The broker under test.

use millrace_tests::process::BrokerProcess;

/// The broker's binary as this package builds it.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_millrace-broker");

/// A broker of its own for one test, ready, with these settings beside those that make tests fast.
pub(crate) fn broker(settings: &[&str]) -> BrokerProcess {
    BrokerProcess::start(BINARY, &fast(settings))
}

fn fast<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["group.initial.rebalance.delay.ms=0", "offsets.topic.num.partitions=4"];
    all.extend(settings);
    all
}
