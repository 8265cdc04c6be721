//! All that the house knows of consensus: one agreed order of metadata records.
//!
//! The kernel never learns what stands behind [`MetadataLog`]: one local log, a quorum, or the simulator's model.
//! Implementations live in the shell (and the simulator); [`crate::controller::Controller`] is the only caller.

use millrace_model::ids::NodeId;
use millrace_model::offset::LeaderEpoch;

use crate::metadata::record::Record;

/// Names one proposal until it is committed or lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProposalId(pub u64);

/// One committed proposal, whole: the log never splits one.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Position in the agreed order; strictly rising.
    pub index: u64,
    pub records: Vec<Record>,
    /// Set when this node's current leadership proposed it.
    pub proposal: Option<ProposalId>,
}

/// This node's part in the agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leadership {
    Leader { epoch: LeaderEpoch },
    Follower { leader: Option<NodeId> },
}

/// The log is not ours to write; another node may know more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead the metadata log")]
pub struct NotLeader {
    pub leader: Option<NodeId>,
}

/// One agreed order of metadata records. No verb waits: the driver calls the controller again when the log moved.
pub trait MetadataLog {
    /// Offers records as one atomic entry behind everything proposed before.
    ///
    /// # Errors
    /// [`NotLeader`]: nothing was proposed.
    fn propose(&mut self, records: Vec<Record>) -> Result<ProposalId, NotLeader>;

    /// The next committed entry, in order and without a gap. At start everything that is kept comes again, the oldest
    /// entry being the first ever or a snapshot.
    fn next_committed(&mut self) -> Option<Committed>;

    /// `Leader` only once everything that was committed before this leadership has been handed out: whoever decides
    /// then decides on all there is.
    fn leadership(&self) -> Leadership;

    /// Entries below `index` are no longer needed: the entry at `index` is a committed snapshot.
    fn trim_before(&mut self, index: u64);
}
