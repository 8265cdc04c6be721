//! The integration binary: one module per subject, one link.

mod generated;
mod grpc;
mod reference;
mod repository;
mod tidy;
