//! Door 2: the native gRPC contract. Translates between `millrace_proto` and the hall, and decides nothing.

pub(crate) mod server;

mod consume;
mod errors;
mod produce;
