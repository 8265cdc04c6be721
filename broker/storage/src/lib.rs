//! The cellar: the log on disk. Segments of verbatim record batches, their indexes, recovery, and the seam to the disk.
//!
//! No thread, socket, clock, randomness or `async` lives here: time is an argument, syncing and unlinking are values
//! that the shell carries to its own threads. The kernel decides what is appended; the shell decides when it is synced.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod data_dir;
pub mod disk;
pub mod epochs;
pub mod error;
pub mod log;
pub mod snapshot;

mod index;
mod latch;
mod retention;
mod segment;
