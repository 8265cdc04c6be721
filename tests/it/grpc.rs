//! The gRPC door, through the Rust client, against a broker process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use millrace_client::{Client, Error, Header, ReceivedRecord, Record, Records};
use millrace_model::compression::Codec;
use millrace_model::partitioner::partition_for_key;
use millrace_model::record::{BatchBuilder, NewRecord};
use millrace_tests::process::BrokerProcess;

const BROKER: &str = env!("CARGO_BIN_EXE_millrace-broker");
/// Longer than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(broker: &BrokerProcess) -> Client {
    Client::connect(&format!("http://{}", broker.grpc)).await.unwrap()
}

async fn next(records: &mut Records) -> Result<ReceivedRecord, Error> {
    let next = tokio::time::timeout(PATIENCE, records.next()).await;
    Ok(next.expect("a record or an error comes in time")?.expect("the stream goes on"))
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_sent() {
    let broker = BrokerProcess::start(BROKER, &["num.partitions=4"]);
    let client = connect(&broker).await;
    assert!(client.is_serving().await.unwrap());

    let sent = Record::new("value")
        .with_key("key")
        .with_header("trace", "1")
        .with_header("trace", "2")
        .with_timestamp_ms(1_700_000_000_000);
    let position = client.produce("events", sent).await.unwrap();
    assert_eq!(position.partition, partition_for_key(b"key", 4));
    assert_eq!(position.offset, 0);

    let mut records = client.consume("events", position.partition, 0).await.unwrap();
    let header = |value: &'static str| Header { key: "trace".into(), value: Some(value.into()) };
    let expected = ReceivedRecord {
        partition: position.partition,
        offset: 0,
        timestamp_ms: 1_700_000_000_000,
        key: Some("key".into()),
        value: Some("value".into()),
        headers: vec![header("1"), header("2")],
    };
    assert_eq!(next(&mut records).await.unwrap(), expected);

    // The stream waits for what is not there yet.
    let tombstone = Record { key: Some("key".into()), ..Record::default() };
    let (second, received) = tokio::join!(client.produce("events", tombstone), next(&mut records));
    assert_eq!(second.unwrap().offset, 1);
    let received = received.unwrap();
    assert_eq!((received.offset, received.value), (1, None));
}

#[tokio::test]
async fn records_without_a_key_spread_over_the_partitions() {
    let broker = BrokerProcess::start(BROKER, &["num.partitions=3"]);
    let client = connect(&broker).await;
    let mut partitions = Vec::new();
    for _ in 0..3 {
        partitions.push(client.produce("spread", Record::new("x")).await.unwrap().partition);
    }
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 1, 2]);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut broker = BrokerProcess::start(BROKER, &[]);
    let client = connect(&broker).await;
    let sent: Vec<_> = (0..1000).map(|i| Record::new(format!("record {i}"))).collect();
    for batch in sent.chunks(100) {
        client.produce_batch("survivors", 0, batch).await.unwrap();
    }
    broker.kill();
    broker.launch();
    // From the middle of a batch, over the connection's own reconnection.
    let client = connect(&broker).await;
    let mut records = client.consume("survivors", 0, 150).await.unwrap();
    for i in 150..1000 {
        let record = next(&mut records).await.unwrap();
        assert_eq!(record.offset, i);
        assert_eq!(record.value.unwrap(), format!("record {i}"));
    }
}

#[tokio::test]
async fn every_codec_is_stored_as_sent_and_unpacked_by_the_client() {
    let broker = BrokerProcess::start(BROKER, &[]);
    let client = connect(&broker).await;
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for (at, codec) in codecs.into_iter().enumerate() {
        let value = Some(codec.name().as_bytes());
        let batch =
            BatchBuilder::new(codec).push(NewRecord { value, ..NewRecord::default() }).build();
        let position = client.produce_encoded("codecs", 0, batch).await.unwrap();
        assert_eq!(position.offset, at as i64);
    }
    let mut records = client.consume("codecs", 0, 0).await.unwrap();
    for codec in codecs {
        assert_eq!(next(&mut records).await.unwrap().value.unwrap(), codec.name());
    }
}

#[tokio::test]
async fn refusals_are_typed() {
    let broker = BrokerProcess::start(BROKER, &["auto.create.topics.enable=false"]);
    let client = connect(&broker).await;
    let missing = client.produce("missing", Record::new("x")).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    let missing = client.consume("missing", 0, 0).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    let empty = client.produce_batch("missing", 0, &[]).await.unwrap_err();
    assert!(matches!(empty, Error::EmptyBatch), "{empty}");

    let broker = BrokerProcess::start(BROKER, &[]);
    let client = connect(&broker).await;
    client.produce("topic", Record::new("x")).await.unwrap();
    let beyond = client.produce_batch("topic", 9, &[Record::new("x")]).await.unwrap_err();
    assert!(matches!(beyond, Error::NotFound { .. }), "{beyond}");
    let illegal = client.produce("no/name", Record::new("x")).await.unwrap_err();
    assert!(matches!(illegal, Error::Refused { .. }), "{illegal}");
    let internal = client.produce_batch("__consumer_offsets", 0, &[Record::new("x")]).await;
    assert!(internal.is_err());
    for damaged in [b"".as_slice(), b"short", &[0; 100]] {
        let error = client.produce_encoded("topic", 0, damaged.to_vec().into()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert!(!error.is_retriable());
    }
    let mut records = client.consume("topic", 0, 7).await.unwrap();
    let outside = next(&mut records).await.unwrap_err();
    assert!(matches!(outside, Error::OutOfRange { .. }), "{outside}");
}

#[tokio::test]
async fn a_stopping_broker_ends_streams_and_exits_well() {
    let mut broker = BrokerProcess::start(BROKER, &[]);
    let client = connect(&broker).await;
    client.produce("stopping", Record::new("x")).await.unwrap();
    let mut records = client.consume("stopping", 0, 1).await.unwrap();
    let waiting = tokio::spawn(async move { next(&mut records).await });
    let code = tokio::task::spawn_blocking(move || broker.stop()).await.unwrap();
    assert_eq!(code, Some(0));
    let ended = waiting.await.unwrap().unwrap_err();
    assert!(ended.is_retriable(), "{ended}");
}
