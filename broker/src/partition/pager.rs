//! Cold pages: a fetch of bytes that are not in the page cache waits here, so that no network worker faults on the disk.

use millrace_storage::disk::real::RealDisk;
use millrace_storage::log::FileRange;
use tracing::warn;

use crate::error::BrokerError;
use crate::partition::reader::Collected;

/// Brings cold ranges in on tokio's blocking threads, whose number the runtime bounds. Returns `answers` once every range in them is in the page cache; a range that cannot be read becomes an error.
pub(crate) async fn make_resident(
    answers: Vec<Result<Collected, BrokerError>>,
) -> Vec<Result<Collected, BrokerError>> {
    let is_cold = |answer: &Result<Collected, BrokerError>| {
        answer.as_ref().is_ok_and(|collected| collected.ranges().iter().any(is_cold_range))
    };
    if !answers.iter().any(is_cold) {
        return answers;
    }
    let paged = tokio::task::spawn_blocking(move || answers.into_iter().map(page_in).collect());
    paged.await.unwrap_or_else(|error| {
        warn!(%error, "paging in failed");
        Vec::new()
    })
}

fn is_cold_range(range: &FileRange<RealDisk>) -> bool {
    !range.is_recent() && !range.resident()
}

fn page_in(answer: Result<Collected, BrokerError>) -> Result<Collected, BrokerError> {
    let collected = answer?;
    for range in collected.ranges() {
        if let Err(error) = range.populate() {
            warn!(%error, "a segment could not be read");
            let reason = format!("read failed: {error}").into();
            return Err(BrokerError::Storage { reason });
        }
    }
    Ok(collected)
}
