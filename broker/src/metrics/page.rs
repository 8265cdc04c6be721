//! Prometheus' text format, version 0.0.4: how counts look on the page. What is counted is not known here.

use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;

use super::{Counter, Gauge, Histogram};

/// What a metric is, in the format's words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A page being written, metric after metric.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    /// Declares a metric; its samples follow.
    pub(super) fn metric(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// The only sample of a metric without labels.
    pub(super) fn value(&mut self, value: f64) {
        let name = self.name;
        self.line(format_args!("{name} {value}"));
    }

    /// One sample. Labels here come from closed sets of plain words, so nothing needs escaping.
    pub(super) fn labelled(&mut self, label: &str, text: &str, value: f64) {
        let name = self.name;
        self.line(format_args!("{name}{{{label}=\"{text}\"}} {value}"));
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &str, counter: &Counter) {
        self.metric(name, Kind::Counter, help);
        self.value(counter.value() as f64);
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str, gauge: &Gauge) {
        self.metric(name, Kind::Gauge, help);
        self.value(gauge.value() as f64);
    }

    pub(super) fn histogram<const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        histogram: &Histogram<N>,
    ) {
        self.metric(name, Kind::Histogram, help);
        let mut count = 0;
        for (bound, bucket) in histogram.bounds.iter().zip(&histogram.buckets) {
            count += bucket.load(Ordering::Relaxed);
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {count}"));
        }
        // The count is the sum of the buckets, so that one page never contradicts itself.
        count += histogram.beyond.load(Ordering::Relaxed);
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        let sum = histogram.sum_micro.load(Ordering::Relaxed) as f64 / 1e6;
        self.line(format_args!("{name}_sum {sum}"));
        self.line(format_args!("{name}_count {count}"));
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.text, "{line}").expect("writing to a string cannot fail");
    }
}
