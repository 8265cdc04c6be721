//! The native gRPC contract of Millrace: the messages and services of `millrace/v1/*.proto`, as Rust.
//!
//! Generated and committed, so that building needs no protoc; the test `generated_code_is_current` proves it and
//! `UPDATE=1` rewrites it. Nothing here is written by hand, and nothing here decides. The broker's gRPC door and the
//! client use it.

#![forbid(unsafe_code)]

/// Package `millrace.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, unused_qualifications, unreachable_pub)]
#[rustfmt::skip]
#[path = "gen/millrace.v1.rs"]
pub mod v1;

/// The contract itself, with its comments: an encoded `google.protobuf.FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/millrace.v1.bin");
