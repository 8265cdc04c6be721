//! DescribeLogDirs, key 35, versions 1-4.
//!
//! Behaviour: one log directory. Null topics mean all. Version notes: 4 adds the file system's size (KIP-827).

use std::collections::BTreeMap;

use millrace_wire::cold::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use millrace_wire::cold::messages::{
    DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName as WireTopicName,
};
use millrace_wire::error_code::ErrorCode;

use crate::context::RequestContext;
use crate::kafka::api::text;
use crate::service::Hall;

pub(crate) async fn handle(
    hall: &Hall,
    _: &RequestContext,
    _: i16,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let asked: Option<BTreeMap<String, Vec<i32>>> = request
        .topics
        .map(|topics| topics.into_iter().map(|it| (it.topic.to_string(), it.partitions)).collect());
    let wanted = |topic: &str, partition: i32| match &asked {
        None => true,
        Some(asked) => asked.get(topic).is_some_and(|it| it.contains(&partition)),
    };
    let mut topics = Vec::new();
    for topic in hall.registry.topics() {
        let partitions =
            topic.open_partitions().filter(|it| wanted(topic.name().as_str(), it.id().partition.0));
        let partitions: Vec<_> = partitions
            .map(|it| {
                DescribeLogDirsPartition::default()
                    .with_partition_index(it.id().partition.0)
                    .with_partition_size(it.size_bytes() as i64)
            })
            .collect();
        if !partitions.is_empty() {
            let name = WireTopicName(text(topic.name().as_str()));
            topics
                .push(DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions));
        }
    }
    let code =
        if hall.registry.disk_failed() { ErrorCode::KafkaStorageError } else { ErrorCode::None };
    let (total, free) =
        hall.registry.space().map_or((-1, -1), |it| (it.total as i64, it.free as i64));
    let result = DescribeLogDirsResult::default()
        .with_error_code(code.code())
        .with_log_dir(text(&hall.config.data_dir.display().to_string()))
        .with_topics(topics)
        .with_total_bytes(total)
        .with_usable_bytes(free);
    DescribeLogDirsResponse::default().with_results(vec![result])
}
