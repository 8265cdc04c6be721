//! The integration binary: one module per subject, one link.

mod admin;
mod bad_frames;
mod bad_input;
mod broker;
mod cli;
mod faults;
mod generated;
mod groups;
mod grpc;
mod grpc_admin;
mod grpc_groups;
mod grpc_server;
mod idempotence;
mod lifecycle;
mod limits;
mod main_job;
mod metrics;
mod newcomer;
mod produce_fetch;
mod reference;
mod repository;
mod rotation;
mod tidy;
mod traces;
mod walk;
