//! What the metrics page tells of topics and groups, looked up when it is asked for. Bounded in size and in time: a
//! page that cannot show everything says what it lacks.

use std::time::Duration;

use millrace_kernel::group::{GroupCommand, GroupReply, ListFilter};
use millrace_model::ids::GroupId;
use tokio::time::{Instant, timeout_at};

use crate::metrics::{
    GroupFigures, GroupPartitionFigures, Lag, PartitionFigures, Survey, TopicFigures, Volume,
};
use crate::partition::registry::Topic;
use crate::service::lag::{self, GroupLag};
use crate::service::{Hall, groups};

/// Topics on the page, in order of their names.
const TOPICS_MAX: usize = 1_000;
/// Partitions of these topics on the page.
const PARTITIONS_MAX: usize = 10_000;
/// Groups on the page, in order of their names.
const GROUPS_MAX: usize = 1_000;
/// Partitions of these groups on the page.
const GROUP_PARTITIONS_MAX: usize = 10_000;
/// Groups that are not looked up by then are left out: whoever scrapes waits ten seconds and no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks at all topics and groups, as far as the bounds allow.
pub(crate) async fn take(hall: &Hall) -> Survey {
    let mut survey = Survey::default();
    add_topics(hall, &mut survey);
    add_groups(hall, &mut survey, Instant::now() + PATIENCE).await;
    survey
}

fn add_topics(hall: &Hall, survey: &mut Survey) {
    let topics = hall.registry.topics();
    survey.left_out.topics = topics.len().saturating_sub(TOPICS_MAX);
    let mut room = PARTITIONS_MAX;
    for topic in &topics {
        let is_shown = survey.topics.len() < TOPICS_MAX;
        let shown = if is_shown { room.min(topic.partition_count()) } else { 0 };
        survey.left_out.partitions += topic.partition_count() - shown;
        room -= shown;
        if is_shown {
            survey.topics.push(figures(topic, shown));
        }
    }
}

/// Sums over all partitions, and the first `shown` of them.
fn figures(topic: &Topic, shown: usize) -> TopicFigures {
    let mut volume = Volume::default();
    let mut size_bytes = 0;
    let mut partitions = Vec::with_capacity(shown);
    for partition in topic.open_partitions() {
        volume += partition.traffic().volume();
        size_bytes += partition.size_bytes();
        if partitions.len() < shown {
            partitions.push(PartitionFigures {
                partition: partition.id().partition.0,
                log_start: partition.marks().log_start().0,
                high_watermark: partition.marks().high_watermark().0,
            });
        }
    }
    let (name, partition_count) = (topic.name().clone(), topic.partition_count());
    TopicFigures { topic: name, partition_count, partitions, volume, size_bytes }
}

async fn add_groups(hall: &Hall, survey: &mut Survey, deadline: Instant) {
    let Ok(groups) = timeout_at(deadline, list(hall)).await else {
        // At least one; nobody knows.
        survey.left_out.groups += 1;
        return;
    };
    let mut room = GROUP_PARTITIONS_MAX;
    for (index, group) in groups.iter().enumerate() {
        let found = if index < GROUPS_MAX && room > 0 {
            timeout_at(deadline, lag::of_group(hall, group)).await.ok()
        } else {
            None
        };
        let Some(found) = found else {
            survey.left_out.groups += groups.len() - index;
            return;
        };
        // Otherwise it went away since it was listed, or its coordinator did.
        let Ok(found) = found else { continue };
        let shown = room.min(found.partitions.len());
        survey.left_out.group_partitions += found.partitions.len() - shown;
        room -= shown;
        survey.groups.push(group_figures(group, found, shown));
    }
}

/// All groups that answering coordinators have, in order.
async fn list(hall: &Hall) -> Vec<GroupId> {
    let replies = groups::call_all(hall, || GroupCommand::List(ListFilter::default())).await;
    let listed = replies.into_iter().filter_map(|reply| match reply {
        Ok(GroupReply::List(Ok(groups))) => Some(groups),
        _ => None,
    });
    let mut groups: Vec<_> = listed.flatten().map(|it| it.group).collect();
    groups.sort();
    groups
}

fn group_figures(group: &GroupId, found: GroupLag, shown: usize) -> GroupFigures {
    let partitions = found.partitions.into_iter().take(shown).map(|it| GroupPartitionFigures {
        topic: it.topic,
        partition: it.partition.0,
        committed: it.progress.committed,
        lag: it.log.map(|log| Lag { records: log.records, age_ms: log.age_ms }),
    });
    GroupFigures {
        group: group.clone(),
        members: found.description.members.len(),
        partitions: partitions.collect(),
    }
}
