//! The integration binary: one module per subject, one link.

mod generated;
mod repository;
mod tidy;
