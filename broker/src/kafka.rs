//! The Kafka door: sockets and frames in, the hall's operations, replies in request order out.

pub(crate) mod api;
mod connection;
mod dispatch;
mod errors;
pub(crate) mod listener;
mod pipeline;
