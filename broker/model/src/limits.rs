//! Every maximum in the system, in one place, with the relations between them checked at compile time.

/// Index and log positions are `i32` in Kafka's formats, so a segment stays below 2 GiB.
pub const SEGMENT_BYTES_MAX: u32 = i32::MAX as u32;
/// Buffers in one vectored write (Linux `IOV_MAX`).
pub const IOVECS_MAX: usize = 1024;
/// Idempotence window: batches remembered per producer and partition (Kafka's `NUM_BATCHES_TO_RETAIN`).
pub const PRODUCER_BATCHES_RETAINED: usize = 5;
/// Producers remembered in one partition; beyond it those silent longest expire early.
pub const PARTITION_PRODUCERS_MAX: usize = 100_000;
/// Producer ids that one allocation hands out (Kafka's `PRODUCER_ID_BLOCK_SIZE`).
pub const PRODUCER_ID_BLOCK: i64 = 1_000;
/// Partitions that one request may create (Kafka's `MAX_PARTITIONS_PER_BATCH`).
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;
/// Metadata records that a start replays at most beside the live ones: beyond it the image is written again.
pub const METADATA_REPLAY_RECORDS_MAX: usize = 10_000;
