//! Which stream is which group member's. A client whose connection broke comes back as the same member while the stream
//! before may not have noticed: the newer stream takes the member over, and the older one ends without taking it along.
//!
//! ```text
//!   take(member)  nobody has it     -> held                      (also after a restart: the group's word decides)
//!                 a stream has it   -> held, that stream is told
//!                 a stream leaves   -> not held: the member is about to be gone, join anew
//! ```
//! Only [`super::member`] calls this, whenever it learns which member it is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millrace_kernel::group::MemberId;
use millrace_model::ids::GroupId;
use tokio::sync::Notify;

/// All members that streams of this node hold.
#[derive(Default)]
pub(super) struct Holders {
    /// Guards: each member has one holder at most. Invariant: no longer than there are streams, for each removes its own.
    held: Mutex<BTreeMap<Key, Holder>>,
}

type Key = (GroupId, MemberId);

struct Holder {
    /// Tells the holder that the member was taken over; also says who it is.
    taken: Arc<Notify>,
    is_leaving: bool,
}

/// A stream's hold on a member, until it is dropped or somebody takes the member over.
pub(super) struct Hold {
    holders: Arc<Holders>,
    key: Key,
    taken: Arc<Notify>,
}

impl Holders {
    /// Makes the caller the member's holder. `None`: the member is leaving its group just now.
    pub(super) fn take(self: &Arc<Self>, group: &GroupId, member: &MemberId) -> Option<Hold> {
        let (key, taken) = ((group.clone(), member.clone()), Arc::new(Notify::new()));
        let holder = Holder { taken: Arc::clone(&taken), is_leaving: false };
        match self.held().entry(key.clone()) {
            Entry::Occupied(held) if held.get().is_leaving => return None,
            Entry::Occupied(mut held) => held.insert(holder).taken.notify_one(),
            Entry::Vacant(free) => {
                free.insert(holder);
            }
        }
        Some(Hold { holders: Arc::clone(self), key, taken })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Key, Holder>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    pub(super) fn member(&self) -> &MemberId {
        &self.key.1
    }

    /// Waits until somebody else holds the member.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// From now on nobody takes the member over. `false`: somebody has.
    pub(super) fn begin_to_leave(&self) -> bool {
        match self.holders.held().get_mut(&self.key) {
            Some(holder) if Arc::ptr_eq(&holder.taken, &self.taken) => {
                holder.is_leaving = true;
                true
            }
            Some(_) | None => false,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holders.held();
        if held.get(&self.key).is_some_and(|it| Arc::ptr_eq(&it.taken, &self.taken)) {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn take(holders: &Arc<Holders>, member: &str) -> Option<Hold> {
        holders.take(&GroupId::new("g"), &MemberId::new(member))
    }

    #[test]
    fn who_takes_a_member_over_keeps_it_when_the_one_before_ends() {
        let holders = Arc::new(Holders::default());
        let old = take(&holders, "m").unwrap();
        let other = take(&holders, "n").unwrap();
        assert_eq!(old.taken().now_or_never(), None);
        let new = take(&holders, "m").unwrap();
        assert_eq!(old.taken().now_or_never(), Some(()));
        assert_eq!((new.taken().now_or_never(), other.taken().now_or_never()), (None, None));
        assert!(!old.begin_to_leave());
        drop(old);
        assert!(new.begin_to_leave());
        drop((new, other));
        assert!(holders.held().is_empty());
    }

    #[test]
    fn nobody_takes_a_member_that_leaves() {
        let holders = Arc::new(Holders::default());
        let old = take(&holders, "m").unwrap();
        assert!(old.begin_to_leave());
        assert!(take(&holders, "m").is_none());
        drop(old);
        assert!(take(&holders, "m").is_some());
    }
}
