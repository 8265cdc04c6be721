//! The latch of one log: after a write or sync error that is no full disk, every call answers that first failure until
//! the log is reopened. Nothing here unlatches.

use crate::error::Fault;

#[derive(Debug, Default)]
pub(crate) struct Latch(Option<Fault>);

impl Latch {
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match &self.0 {
            None => Ok(()),
            Some(first) => Err(first.clone()),
        }
    }

    /// Closes the latch; the first failure wins and is returned.
    pub(crate) fn fail(&mut self, fault: Fault) -> Fault {
        self.0.get_or_insert(fault).clone()
    }

    pub(crate) fn failure(&self) -> Option<&Fault> {
        self.0.as_ref()
    }
}
