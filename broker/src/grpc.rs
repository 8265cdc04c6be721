//! Door 2: the native gRPC contract. Translates between `millrace_proto` and the hall, and decides nothing.

pub(crate) mod server;

mod admin;
mod consume;
mod deadline;
mod errors;
mod observe;
mod produce;

/// How the paths of our own services begin; health and reflection are others.
const OURS: &str = "/millrace.v1.";
