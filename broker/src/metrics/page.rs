//! Prometheus' text format, version 0.0.4: how counts look on the page. What is counted is not known here.

use std::fmt::{Display, Write};

use super::number::{Counter, Gauge, Histogram};

/// What a metric is, in the format's words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge whose name, which is not ours, ends as a histogram's part would.
    Untyped,
}

/// A label and its value.
pub(super) type Label<'a> = (&'static str, &'a dyn Display);

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
            Kind::Untyped => "untyped",
        };
        self.name = name;
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// The only sample of a metric without labels.
    pub(super) fn value(&mut self, value: impl Display) {
        self.sample(&[], value);
    }

    /// One sample.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        self.series("", labels, value);
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &str, counter: &Counter) {
        self.metric(name, Kind::Counter, help);
        self.value(counter.value());
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str, gauge: &Gauge) {
        self.metric(name, Kind::Gauge, help);
        self.value(gauge.value());
    }

    /// As [`Self::histogram`], unless there is nothing in it: not every request is ever made.
    pub(super) fn histogram_if_any(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        if histogram.read().count > 0 {
            self.histogram(labels, histogram);
        }
    }

    /// All samples of one histogram.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], histogram: &Histogram) {
        let reading = histogram.read();
        for (bound, count) in &reading.buckets {
            self.bucket(labels, bound, *count);
        }
        self.bucket(labels, &"+Inf", reading.count);
        self.series("_sum", labels, reading.sum);
        self.series("_count", labels, reading.count);
    }

    fn bucket(&mut self, labels: &[Label<'_>], bound: &dyn Display, count: u64) {
        let mut labels = labels.to_vec();
        labels.push(("le", bound));
        self.series("_bucket", &labels, count);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn series(&mut self, suffix: &str, labels: &[Label<'_>], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (label, text) in labels {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(label);
            self.text.push_str("=\"");
            let from = self.text.len();
            self.write(text);
            self.escape(from);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    /// Escapes what a label's value may not contain as it is; nearly none does.
    fn escape(&mut self, from: usize) {
        if self.text[from..].contains(['\\', '"', '\n']) {
            let plain = self.text.split_off(from);
            let escaped = plain.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.text.push_str(&escaped);
        }
    }

    fn write(&mut self, text: impl Display) {
        write!(self.text, "{text}").expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.metric("m", Kind::Gauge, "Help.");
        page.sample(&[("group", &"a\"b\\c\nd"), ("partition", &7)], -1);
        page.sample(&[("group", &"plain")], 0.5);
        assert_eq!(
            page.finish(),
            "# HELP m Help.\n# TYPE m gauge\nm{group=\"a\\\"b\\\\c\\nd\",partition=\"7\"} -1\nm{group=\"plain\"} 0.5\n"
        );
    }
}
