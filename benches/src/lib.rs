//! What the load generator `load` and the comparison `compare` are made of.
//!
//! The generator speaks the Kafka protocol by hand, in one thread over epoll, and sends batches that were encoded once:
//! on a machine that it shares with the broker it must cost next to nothing. It knows nothing of Millrace's insides, so
//! the same binary drives any broker of that protocol; Millrace's other door it drives over bare HTTP/2, and through the
//! Rust client. Nothing here is used by the product.

#![forbid(unsafe_code)]

pub mod admin;
pub mod batch;
pub mod clock;
pub mod compare;
pub mod engine;
pub mod error;
pub mod histogram;
pub mod idle;
pub mod machine;
pub mod micro;
pub mod protocol;
pub mod raw;
pub mod report;
pub mod topic;
pub mod watch;
