//! The integration binary: one module per subject, one link.

mod admin;
mod bad_frames;
mod bad_input;
mod broker;
mod faults;
mod generated;
mod groups;
mod grpc;
mod idempotence;
mod lifecycle;
mod limits;
mod main_job;
mod produce_fetch;
mod reference;
mod repository;
mod rotation;
mod tidy;
