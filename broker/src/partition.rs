//! The partitions that live on this broker: who owns each, how to reach it, what makes its bytes safe.

pub(crate) mod actor;
pub(crate) mod clock;
pub(crate) mod flusher;
pub(crate) mod handle;
pub(crate) mod housekeeper;
pub(crate) mod opener;
pub(crate) mod pager;
pub(crate) mod reader;
pub(crate) mod registry;
pub(crate) mod timer;
