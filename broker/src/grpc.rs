//! Door 2: the native gRPC contract. Translates between `millrace_proto` and the hall, and decides nothing.

pub(crate) mod server;

mod admin;
mod consume;
mod deadline;
mod errors;
mod observe;
mod produce;
