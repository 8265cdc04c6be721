//! Every maximum in the system, in one place, with the relations between them checked at compile time.

/// Index and log positions are `i32` in Kafka's formats, so a segment stays below 2 GiB.
pub const SEGMENT_BYTES_MAX: u32 = i32::MAX as u32;
/// The smallest `segment.bytes` of a client, Kafka's since 4.0 (KIP-1030).
pub const SEGMENT_BYTES_MIN: u32 = 1 << 20;
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
/// The largest request that `socket.request.max.bytes` may allow: Kafka's own default. A TLS greeting sent to a plain port
/// reads as a longer one.
pub const REQUEST_BYTES_MAX: usize = 100 << 20;
/// The largest request of a broker that is not told otherwise.
pub const REQUEST_BYTES_DEFAULT: usize = 16 << 20;
/// Bytes of requests that one connection may have unanswered; beyond it, with at least one whole request read, its
/// socket is not read.
pub const CONNECTION_REQUEST_BYTES_MAX: usize = 32 << 20;
/// Bytes of requests that a node holds unless told otherwise; beyond it no socket is read.
pub const NODE_REQUEST_BYTES_DEFAULT: usize = 1 << 30;
/// Connections of a node that is not told otherwise.
pub const CONNECTIONS_DEFAULT: usize = 12_000;
/// Connections from one address to a node that is not told otherwise.
pub const ADDRESS_CONNECTIONS_DEFAULT: usize = 1_000;
/// `fetch.max.bytes` of a node that is not told otherwise: Kafka's default.
pub const FETCH_BYTES_DEFAULT: usize = 55 << 20;
/// `max.message.bytes` of a topic that is not told otherwise: Kafka's default, 1 MiB and a batch's overhead.
pub const BATCH_BYTES_DEFAULT: u32 = (1 << 20) + 12;
/// What a produced batch may unpack to where its records must be looked at. There is no limit on records in a batch or
/// headers in a record: nothing is allocated by those counts, so their bytes bound them.
pub const BATCH_UNPACKED_BYTES_MAX: usize = 16 << 20;

const _: () = {
    assert!(REQUEST_BYTES_DEFAULT <= REQUEST_BYTES_MAX);
    assert!(REQUEST_BYTES_DEFAULT <= CONNECTION_REQUEST_BYTES_MAX, "a request fits its connection");
    assert!(REQUEST_BYTES_MAX <= NODE_REQUEST_BYTES_DEFAULT, "the largest request fits the node");
    assert!(
        CONNECTION_REQUEST_BYTES_MAX * 8 <= NODE_REQUEST_BYTES_DEFAULT,
        "few do not starve all"
    );
    assert!(ADDRESS_CONNECTIONS_DEFAULT <= CONNECTIONS_DEFAULT);
    assert!(BATCH_BYTES_DEFAULT as usize <= REQUEST_BYTES_DEFAULT, "the largest batch can be sent");
    assert!(BATCH_BYTES_DEFAULT as usize <= FETCH_BYTES_DEFAULT, "and comes back in one fetch");
    assert!(BATCH_BYTES_DEFAULT as usize <= BATCH_UNPACKED_BYTES_MAX, "and can be looked at");
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX);
    assert!(PRODUCER_BATCHES_RETAINED >= 5, "clients keep up to five idempotent batches in flight");
    assert!(METADATA_REPLAY_RECORDS_MAX >= PARTITIONS_PER_REQUEST_MAX);
};
