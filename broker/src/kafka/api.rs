//! One file per API of the Kafka protocol: the request as clients send it, the hall's operation, the reply.

pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod create_partitions;
pub(crate) mod create_topics;
pub(crate) mod delete_groups;
pub(crate) mod delete_records;
pub(crate) mod delete_topics;
pub(crate) mod describe_acls;
pub(crate) mod describe_cluster;
pub(crate) mod describe_configs;
pub(crate) mod describe_groups;
pub(crate) mod describe_log_dirs;
pub(crate) mod fetch;
pub(crate) mod find_coordinator;
pub(crate) mod heartbeat;
pub(crate) mod incremental_alter_configs;
pub(crate) mod init_producer_id;
pub(crate) mod join_group;
pub(crate) mod leave_group;
pub(crate) mod list_groups;
pub(crate) mod list_offsets;
pub(crate) mod metadata;
pub(crate) mod offset_commit;
pub(crate) mod offset_delete;
pub(crate) mod offset_fetch;
pub(crate) mod offset_for_leader_epoch;
pub(crate) mod produce;
pub(crate) mod sync_group;

use millrace_kernel::group::InstanceId;
use millrace_wire::ApiRow;
use millrace_wire::cold::messages::StrBytes;
use millrace_wire::cold::{self, Response};

use crate::kafka::pipeline::Reply;

/// "Not asked, not answered": how Kafka leaves out authorized operations (KIP-430).
const AUTHORIZED_OPERATIONS_OMITTED: i32 = i32::MIN;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn instance(instance: Option<&StrBytes>) -> Option<InstanceId> {
    instance.map(|it| InstanceId::new(it))
}

/// A whole response frame.
pub(super) fn reply(
    row: &ApiRow,
    version: i16,
    correlation_id: i32,
    response: impl Response,
) -> Reply {
    match cold::encode_response(version, correlation_id, response) {
        Ok(frame) => Reply::Frame(frame),
        Err(error) => {
            let api = row.name;
            Reply::Close(format!("the reply to {api} v{version} cannot be encoded: {error}").into())
        }
    }
}
