//! Administration: topics, offsets, groups, settings, the cluster, and what changes in them.
//!
//! Calls that only read are made again while the broker is away, as long as the client's `call_timeout` lasts. Calls that
//! change something are made once: after a lost connection it is open whether it was done, and only the caller knows
//! whether doing it twice is harmless.

mod configs;
mod groups;
mod topics;
mod watch;

pub use configs::{BrokerDescription, ClusterDescription, ConfigDescription, ConfigResource};
pub use groups::{
    GroupDescription, GroupSummary, ItemResult, MemberDescription, PartitionLag, ResetOffset,
};
pub use topics::{
    DeletedBefore, FoundOffset, NewTopic, PartitionDescription, TopicDescription, TopicSummary,
};
pub use watch::{GroupLag, Watch};

use crate::client::Door;
use crate::{Client, Error};
use millrace_proto::v1::admin_service_client::AdminServiceClient;

/// Looks after topics, groups and settings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn door(&self) -> AdminServiceClient<Door> {
        self.client.admin_door()
    }
}

/// A value, or why there is none.
fn item<T>(status: Option<millrace_proto::v1::ItemStatus>, value: T) -> Result<T, Error> {
    Error::of_item(status).map(|()| value)
}
