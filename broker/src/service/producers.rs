//! Producer ids: unique for the life of the cluster, handed out from blocks that the controller gives.

use millrace_kernel::metadata::{Command, Reply};
use millrace_model::ids::{ProducerEpoch, ProducerId};

use crate::error::BrokerError;
use crate::service::Hall;

/// The rest of this broker's block.
#[derive(Default)]
pub(crate) struct ProducerIds {
    /// Guards the block; held while a new one is fetched, so that concurrent askers share it.
    block: tokio::sync::Mutex<Block>,
}

#[derive(Default)]
struct Block {
    next: i64,
    end: i64,
}

/// A fresh producer id with epoch 0, or the same id with the next epoch for a producer that lost its sequence
/// (KIP-360: `current` is what it had).
///
/// # Errors
/// The controller cannot give another block.
pub(crate) async fn init(
    hall: &Hall,
    current: Option<(ProducerId, ProducerEpoch)>,
) -> Result<(ProducerId, ProducerEpoch), BrokerError> {
    if let Some((id, ProducerEpoch(epoch))) = current
        && epoch < EPOCH_MAX
    {
        return Ok((id, ProducerEpoch(epoch + 1)));
    }
    let mut block = hall.producer_ids.block.lock().await;
    if block.next == block.end {
        match hall.controller.ask(Command::AllocateProducerIds).await? {
            Reply::ProducerIds { first, count } => {
                *block = Block { next: first.0, end: first.0 + count };
            }
            other => unreachable!("an allocation was answered with {other:?}"),
        }
    }
    let id = ProducerId(block.next);
    block.next += 1;
    Ok((id, ProducerEpoch(0)))
}

/// The last epoch that Kafka hands out (`TransactionMetadata.isEpochExhausted`); after it a new id starts.
const EPOCH_MAX: i16 = i16::MAX - 1;
