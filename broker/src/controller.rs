//! The cluster's metadata on this node: the thread that decides, the log it decides on, and the published image.

pub(crate) mod actor;
pub(crate) mod local;

pub(crate) use actor::ControllerHandle;
