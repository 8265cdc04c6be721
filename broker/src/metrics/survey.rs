//! What is told of topics and consumer groups: looked up by `service::survey` when the page is asked for, printed here.
//!
//! Group and topic names are not a closed set, so the survey is bounded, and the page says what a bound left out. The
//! names of danielqsj's kafka_exporter mean here what they mean there, so dashboards and alerts made for it go on
//! working; our own names stand beside them.

use millrace_model::ids::{GroupId, TopicName};

use super::Volume;
use super::page::{Kind, Page};

/// Topics and groups at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) topics: Vec<TopicFigures>,
    pub(crate) groups: Vec<GroupFigures>,
    pub(crate) left_out: LeftOut,
}

#[derive(Clone, Debug)]
pub(crate) struct TopicFigures {
    pub(crate) topic: TopicName,
    pub(crate) partition_count: usize,
    /// Those that are open, in order.
    pub(crate) partitions: Vec<PartitionFigures>,
    pub(crate) volume: Volume,
    pub(crate) size_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PartitionFigures {
    pub(crate) partition: i32,
    pub(crate) log_start: i64,
    pub(crate) high_watermark: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct GroupFigures {
    pub(crate) group: GroupId,
    pub(crate) members: usize,
    /// In order of topics.
    pub(crate) partitions: Vec<GroupPartitionFigures>,
}

#[derive(Clone, Debug)]
pub(crate) struct GroupPartitionFigures {
    pub(crate) topic: TopicName,
    pub(crate) partition: i32,
    /// `None`: nothing is committed.
    pub(crate) committed: Option<i64>,
    /// `None`: the partition is not here, or cannot be read.
    pub(crate) lag: Option<Lag>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Records that are there and not committed.
    pub(crate) records: i64,
    /// Age of the first of them.
    pub(crate) age_ms: i64,
}

/// What a bound kept off the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) topics: usize,
    pub(crate) partitions: usize,
    pub(crate) groups: usize,
    pub(crate) group_partitions: usize,
}

impl Survey {
    pub(super) fn render(&self, page: &mut Page) {
        self.render_topics(page);
        self.render_partitions(page);
        self.render_offsets(page);
        self.render_lag(page);
        page.metric(
            "millrace_metrics_left_out",
            Kind::Gauge,
            "Topics, partitions, groups and partitions of groups that this page lacks because it has as many as it may, or because they did not answer in time; 0 when it is complete.",
        );
        let LeftOut { topics, partitions, groups, group_partitions } = self.left_out;
        for (what, count) in [
            ("topics", topics),
            ("partitions", partitions),
            ("groups", groups),
            ("group_partitions", group_partitions),
        ] {
            page.sample(&[("what", &what)], count);
        }
    }

    fn render_topics(&self, page: &mut Page) {
        let counters: [Row<Volume, u64>; 4] = [
            (
                "millrace_topic_produced_records_total",
                "Records written to a topic since the broker started.",
                |it| it.produced_records,
            ),
            (
                "millrace_topic_produced_bytes_total",
                "Bytes of record batches written to a topic since the broker started.",
                |it| it.produced_bytes,
            ),
            (
                "millrace_topic_fetched_records_total",
                "Offsets of a topic handed to consumers since the broker started; a record that is read twice counts twice.",
                |it| it.fetched_records,
            ),
            (
                "millrace_topic_fetched_bytes_total",
                "Bytes of record batches of a topic handed to consumers since the broker started.",
                |it| it.fetched_bytes,
            ),
        ];
        for (name, help, value) in counters {
            page.metric(name, Kind::Counter, help);
            for it in &self.topics {
                page.sample(&[("topic", &it.topic)], value(&it.volume));
            }
        }
        page.metric("millrace_topic_size_bytes", Kind::Gauge, "Bytes of a topic's segments.");
        for it in &self.topics {
            page.sample(&[("topic", &it.topic)], it.size_bytes);
        }
        page.metric("kafka_topic_partitions", Kind::Gauge, "Partitions of a topic.");
        for it in &self.topics {
            page.sample(&[("topic", &it.topic)], it.partition_count);
        }
    }

    fn render_partitions(&self, page: &mut Page) {
        let offsets: [Row<PartitionFigures, i64>; 2] = [
            (
                "kafka_topic_partition_current_offset",
                "The offset that the next record of a partition gets, as consumers see it.",
                |it| it.high_watermark,
            ),
            (
                "kafka_topic_partition_oldest_offset",
                "The oldest offset that a partition has.",
                |it| it.log_start,
            ),
        ];
        for (name, help, value) in offsets {
            page.metric(name, Kind::Gauge, help);
            for topic in &self.topics {
                for it in &topic.partitions {
                    let labels = [("topic", &topic.topic as _), ("partition", &it.partition as _)];
                    page.sample(&labels, value(it));
                }
            }
        }
    }

    fn render_offsets(&self, page: &mut Page) {
        page.metric("kafka_consumergroup_members", Kind::Gauge, "Members of a group.");
        for it in &self.groups {
            page.sample(&[("consumergroup", &it.group)], it.members);
        }
        page.metric(
            "kafka_consumergroup_current_offset",
            Kind::Gauge,
            "The offset that a group has committed in a partition; -1 where it has none.",
        );
        self.each(page, "consumergroup", |it| Some(it.committed.unwrap_or(NOTHING)));
        page.metric(
            "kafka_consumergroup_current_offset_sum",
            Kind::Untyped,
            "What a group has committed, summed over a topic.",
        );
        self.each_topic(page, |it| it.committed);
        page.metric(
            "kafka_consumergroup_lag",
            Kind::Gauge,
            "Records between what a group has committed in a partition and its end; -1 where it has committed nothing.",
        );
        self.each(page, "consumergroup", |it| {
            it.lag.map(|lag| it.committed.map_or(NOTHING, |_| lag.records))
        });
        page.metric(
            "kafka_consumergroup_lag_sum",
            Kind::Untyped,
            "The lag of a group, summed over a topic; a partition where it has committed nothing counts 0.",
        );
        self.each_topic(page, |it| it.committed.and(it.lag).map(|lag| lag.records));
    }

    fn render_lag(&self, page: &mut Page) {
        page.metric(
            "millrace_consumer_group_lag_records",
            Kind::Gauge,
            "Records of a partition that a group has not committed; where it has committed nothing, all of them.",
        );
        self.each(page, "group", |it| it.lag.map(|lag| lag.records));
        page.metric(
            "millrace_consumer_group_lag_seconds",
            Kind::Gauge,
            "Age of the first record of a partition that a group has not committed, by its timestamp; 0 when there is none.",
        );
        self.each(page, "group", |it| it.lag.map(|lag| lag.age_ms as f64 / 1e3));
    }

    /// A sample for each partition of each group that has a value.
    fn each<V: std::fmt::Display>(
        &self,
        page: &mut Page,
        group_label: &'static str,
        value: impl Fn(&GroupPartitionFigures) -> Option<V>,
    ) {
        for group in &self.groups {
            for it in &group.partitions {
                if let Some(value) = value(it) {
                    page.sample(
                        &[
                            (group_label, &group.group),
                            ("topic", &it.topic),
                            ("partition", &it.partition),
                        ],
                        value,
                    );
                }
            }
        }
    }

    /// A sum for each topic of each group.
    fn each_topic(&self, page: &mut Page, value: impl Fn(&GroupPartitionFigures) -> Option<i64>) {
        for group in &self.groups {
            for of_topic in group.partitions.chunk_by(|a, b| a.topic == b.topic) {
                let sum: i64 = of_topic.iter().filter_map(&value).sum();
                page.sample(&[("consumergroup", &group.group), ("topic", &of_topic[0].topic)], sum);
            }
        }
    }
}

/// A metric's name, help and value.
type Row<T, V> = (&'static str, &'static str, fn(&T) -> V);

/// What kafka_exporter shows where nothing is committed.
const NOTHING: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_shown_under_both_names() {
        let partition = |topic, partition, committed, lag| GroupPartitionFigures {
            topic: TopicName::parse(topic).unwrap(),
            partition,
            committed,
            lag,
        };
        let lag = |records, age_ms| Some(Lag { records, age_ms });
        let group = GroupFigures {
            group: GroupId::new("billing"),
            members: 2,
            partitions: vec![
                partition("a", 0, Some(7), lag(3, 1_500)),
                partition("a", 1, None, lag(9, 0)),
                partition("a", 2, Some(4), lag(2, 10)),
                partition("gone", 0, Some(5), None),
            ],
        };
        let survey = Survey { groups: vec![group], ..Survey::default() };
        let mut page = Page::default();
        survey.render(&mut page);
        let page = page.finish();
        let samples: Vec<&str> = page
            .lines()
            .filter(|it| it.starts_with("kafka_consumer") || it.starts_with("millrace_consumer"))
            .collect();
        let expected = r#"
kafka_consumergroup_members{consumergroup="billing"} 2
kafka_consumergroup_current_offset{consumergroup="billing",topic="a",partition="0"} 7
kafka_consumergroup_current_offset{consumergroup="billing",topic="a",partition="1"} -1
kafka_consumergroup_current_offset{consumergroup="billing",topic="a",partition="2"} 4
kafka_consumergroup_current_offset{consumergroup="billing",topic="gone",partition="0"} 5
kafka_consumergroup_current_offset_sum{consumergroup="billing",topic="a"} 11
kafka_consumergroup_current_offset_sum{consumergroup="billing",topic="gone"} 5
kafka_consumergroup_lag{consumergroup="billing",topic="a",partition="0"} 3
kafka_consumergroup_lag{consumergroup="billing",topic="a",partition="1"} -1
kafka_consumergroup_lag{consumergroup="billing",topic="a",partition="2"} 2
kafka_consumergroup_lag_sum{consumergroup="billing",topic="a"} 5
kafka_consumergroup_lag_sum{consumergroup="billing",topic="gone"} 0
millrace_consumer_group_lag_records{group="billing",topic="a",partition="0"} 3
millrace_consumer_group_lag_records{group="billing",topic="a",partition="1"} 9
millrace_consumer_group_lag_records{group="billing",topic="a",partition="2"} 2
millrace_consumer_group_lag_seconds{group="billing",topic="a",partition="0"} 1.5
millrace_consumer_group_lag_seconds{group="billing",topic="a",partition="1"} 0
millrace_consumer_group_lag_seconds{group="billing",topic="a",partition="2"} 0.01
"#;
        assert_eq!(samples, expected.trim().lines().collect::<Vec<_>>());
        assert!(page.contains("millrace_metrics_left_out{what=\"groups\"} 0\n"));
    }
}
