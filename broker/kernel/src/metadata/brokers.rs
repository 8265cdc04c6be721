//! Brokers: who is part of the cluster, and where it answers.

use millrace_model::ids::NodeId;

use super::image::{Broker, Endpoint, Image};
use super::record::Record;

/// A broker that has started and wants to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterBroker {
    pub id: NodeId,
    /// Drawn anew at each start; the same one again is a retry.
    pub incarnation: [u8; 16],
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterBrokerRefused {
    #[error("node id {id} is negative")]
    InvalidId { id: NodeId },
    #[error("a broker without an endpoint cannot be reached")]
    NoEndpoint,
}

pub(super) fn decide_register(
    image: &Image,
    it: RegisterBroker,
    records: &mut Vec<Record>,
) -> Result<i64, RegisterBrokerRefused> {
    if it.id.0 < 0 {
        return Err(RegisterBrokerRefused::InvalidId { id: it.id });
    }
    if it.endpoints.is_empty() {
        return Err(RegisterBrokerRefused::NoEndpoint);
    }
    let known = image.broker(it.id);
    let retry = known.is_some_and(|known| known.incarnation == it.incarnation);
    let epoch = known.map_or(0, |known| known.epoch + i64::from(!retry));
    let RegisterBroker { id, incarnation, endpoints, rack } = it;
    let broker = Broker { id, incarnation, epoch, endpoints, rack };
    if known != Some(&broker) {
        records.push(Record::Broker(broker));
    }
    Ok(epoch)
}

pub(super) fn apply_broker(image: &mut Image, broker: &Broker) {
    image.brokers.insert(broker.id, broker.clone());
}
