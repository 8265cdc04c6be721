//! The cluster as a client sees it: who is there, who answers.

use std::sync::Arc;

use millrace_kernel::metadata::image::Image;
use millrace_model::ids::NodeId;

use crate::config::Address;
use crate::context::RequestContext;
use crate::service::Hall;

/// A broker and where this client reaches it.
#[derive(Clone, Debug)]
pub(crate) struct BrokerAddress {
    pub(crate) id: NodeId,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) rack: Option<String>,
}

/// The cluster at this moment.
pub(crate) fn image(hall: &Hall) -> Arc<Image> {
    hall.controller.image()
}

/// This broker as the client that asks can reach it: the advertised address if one is configured, else the one that
/// the client came in by.
pub(crate) fn this_broker(hall: &Hall, context: &RequestContext) -> BrokerAddress {
    let id = hall.config.node_id;
    let rack = hall.config.broker_rack.clone();
    match &hall.config.kafka_advertised {
        Some(Address { host, port }) => BrokerAddress { id, host: host.clone(), port: *port, rack },
        None => {
            let local = context.local();
            BrokerAddress {
                id,
                host: local.ip().to_canonical().to_string(),
                port: local.port(),
                rack,
            }
        }
    }
}

/// All brokers, each where this client reaches it.
pub(crate) fn brokers(hall: &Hall, context: &RequestContext) -> Vec<BrokerAddress> {
    let me = this_broker(hall, context);
    let image = image(hall);
    let others = image.brokers().filter(|broker| broker.id != me.id).filter_map(|broker| {
        let endpoint = broker.endpoint(KAFKA_LISTENER)?;
        let (host, rack) = (endpoint.host.clone(), broker.rack.clone());
        Some(BrokerAddress { id: broker.id, host, port: endpoint.port, rack })
    });
    let mut brokers: Vec<_> = others.collect();
    brokers.push(me);
    brokers.sort_by_key(|broker| broker.id);
    brokers
}

/// The Kafka door's name among a broker's endpoints.
pub(crate) const KAFKA_LISTENER: &str = "kafka";
