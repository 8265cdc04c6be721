//! What is not answered yet, by flush: a flush waits for the batches begun before it and tells their first error.

use std::collections::BTreeMap;

use crate::Error;

/// Counts batches by the flush that waits for them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The next flush's number.
    epoch: u64,
    /// Invariant: no count is 0.
    unanswered: BTreeMap<u64, usize>,
    /// The first error of each.
    errors: BTreeMap<u64, Error>,
}

impl Ledger {
    /// A batch is begun: the number of the flush that will wait for it.
    pub(super) fn begun(&mut self) -> u64 {
        *self.unanswered.entry(self.epoch).or_default() += 1;
        self.epoch
    }

    /// A batch has its answer.
    pub(super) fn answered(&mut self, epoch: u64, error: Option<Error>) {
        let count = self.unanswered.get_mut(&epoch).expect("a batch is answered once");
        *count -= 1;
        if *count == 0 {
            self.unanswered.remove(&epoch);
        }
        if let Some(error) = error {
            self.errors.entry(epoch).or_insert(error);
        }
    }

    /// A flush begins: its number. What is begun from now on waits for the next.
    pub(super) fn flush(&mut self) -> u64 {
        self.epoch += 1;
        self.epoch - 1
    }

    /// Is all that this flush waits for answered?
    pub(super) fn is_done(&self, epoch: u64) -> bool {
        self.unanswered.first_key_value().is_none_or(|(first, _)| *first > epoch)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// What a flush that is done has to tell.
    pub(super) fn verdict(&mut self, epoch: u64) -> Result<(), Error> {
        let later = self.errors.split_off(&(epoch + 1));
        let errors = std::mem::replace(&mut self.errors, later);
        errors.into_values().next().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_waits_for_what_was_begun_before_it_and_tells_its_first_error() {
        let mut ledger = Ledger::default();
        let (early, other) = (ledger.begun(), ledger.begun());
        let flush = ledger.flush();
        let late = ledger.begun();
        ledger.answered(early, None);
        assert!(!ledger.is_done(flush));
        ledger.answered(late, Some(Error::Closed));
        let lost = Error::Lost { reason: "first".to_owned() };
        ledger.answered(other, Some(lost.clone()));
        assert!(ledger.is_done(flush) && ledger.is_empty());
        assert_eq!(ledger.verdict(flush), Err(lost));
        let next = ledger.flush();
        assert_eq!(ledger.verdict(next), Err(Error::Closed));
        let last = ledger.flush();
        assert_eq!((ledger.is_done(last), ledger.verdict(last)), (true, Ok(())));
    }
}
