//! Produce, Fetch and ListOffsets over real sockets: what goes in comes out, whole and in order, and what may not go in
//! is told so in Kafka's words.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest,
};
use millrace_model::batch::STAMP_BYTES;
use millrace_model::compression::Codec;
use millrace_tests::ask::{
    EARLIEST, FETCH, Fetch, LATEST, MAX_TIMESTAMP, PRODUCE, TopicId, fresh, list_offsets_request,
    produce_request, produced, topic_name,
};
use millrace_tests::kafka::Connection;
use millrace_tests::records::{batch, batches, forged, now_ms, packed, sequenced, timed, values};

use crate::broker::broker;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_REQUIRED_ACKS: i16 = 21;
const INVALID_TIMESTAMP: i16 = 32;
const UNKNOWN_LEADER_EPOCH: i16 = 75;
const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
const INVALID_RECORD: i16 = 87;
const UNKNOWN_TOPIC_ID: i16 = 100;

/// The bytes of a batch that the broker may not change.
fn body(batch: &Bytes) -> Bytes {
    batch.slice(STAMP_BYTES..)
}

/// One answer of a single partition.
fn fetch_one(
    connection: &mut Connection,
    topic: &str,
    fetch: &Fetch,
) -> kafka_protocol::messages::fetch_response::PartitionData {
    let mut answers = connection.fetch(topic, fetch);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

#[test]
fn every_version_of_produce_stores_and_of_fetch_returns_the_same_bytes() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("versions");
    let id = client.create_topic(&topic, 1, &[]);
    let mut expected = Vec::new();
    for version in 3..=11 {
        let sent = batch(&["a", &format!("version {version}")]);
        let answers =
            produced(client.ask(version, &produce_request(-1, &topic, &[(0, sent.clone())])));
        assert_eq!(answers[0].error_code, 0, "Produce v{version}");
        assert_eq!(answers[0].base_offset, expected.len() as i64 * 2, "Produce v{version}");
        assert_eq!(answers[0].log_append_time_ms, -1, "Produce v{version}");
        expected.push(body(&sent));
    }
    for version in 4..=17 {
        let response = client.ask(version, &Fetch::at(0, 0).request(version, &topic, id));
        assert_eq!(response.error_code, 0, "Fetch v{version}");
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0, "Fetch v{version}");
        assert_eq!(partition.high_watermark, 18, "Fetch v{version}");
        assert_eq!(partition.last_stable_offset, 18, "Fetch v{version}");
        let found = batches(partition.records.clone().unwrap());
        let found: Vec<_> = found.iter().map(|it| body(&it.bytes)).collect();
        assert_eq!(found, expected, "Fetch v{version}");
    }
}

#[test]
fn acks_1_and_all_are_answered_with_the_offset() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("acks");
    client.create_topic(&topic, 1, &[]);
    for (at, acks) in [1, -1, 1, -1].into_iter().enumerate() {
        let request = produce_request(acks, &topic, &[(0, batch(&["x"]))]);
        let answers = produced(client.ask(PRODUCE, &request));
        assert_eq!((answers[0].error_code, answers[0].base_offset), (0, at as i64), "acks={acks}");
    }
}

#[test]
fn acks_0_stores_and_gets_no_answer() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("acks-0");
    client.create_topic(&topic, 1, &[]);
    for value in ["a", "b", "c"] {
        client.send(PRODUCE, &produce_request(0, &topic, &[(0, batch(&[value]))]));
    }
    // The next answer on this connection belongs to the next request, not to one of those.
    assert_eq!(client.produce(&topic, 0, &batch(&["d"])), Ok(3));
    let found: Vec<_> = client.read_all(&topic, 0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(found, ["a", "b", "c", "d"]);
}

#[test]
fn acks_0_that_fails_closes_the_connection() {
    let broker = broker(&["auto.create.topics.enable=false"]);
    let mut client = Connection::open(broker.kafka);
    client.send(PRODUCE, &produce_request(0, &fresh("nowhere"), &[(0, batch(&["x"]))]));
    assert!(client.is_closed());
}

#[test]
fn acks_that_do_not_exist_are_refused() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("acks-2");
    client.create_topic(&topic, 1, &[]);
    for acks in [2, -2, i16::MAX, i16::MIN] {
        let request = produce_request(acks, &topic, &[(0, batch(&["x"]))]);
        let answers = produced(client.ask(PRODUCE, &request));
        assert_eq!(answers[0].error_code, INVALID_REQUIRED_ACKS, "acks={acks}");
        assert_eq!(answers[0].base_offset, -1, "acks={acks}");
    }
    assert_eq!(client.offset(&topic, 0, LATEST), 0);
}

#[test]
fn every_codec_passes_through_byte_for_byte() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("codecs");
    client.create_topic(&topic, 1, &[]);
    let long = "compressible ".repeat(1000);
    let sent = Codec::ALL.map(|codec| packed(codec, &["a", &long, "", "c"]));
    for batch in &sent {
        client.produce(&topic, 0, batch).unwrap();
    }
    let found = batches(client.read(&topic, 0, 0));
    assert_eq!(found.len(), sent.len());
    for ((found, sent), codec) in found.iter().zip(&sent).zip(Codec::ALL) {
        assert_eq!(body(&found.bytes), body(sent), "{}", codec.name());
        assert_eq!(found.header.attributes.codec(), codec.number());
        assert_eq!(found.records().len(), 4, "{}", codec.name());
    }
}

#[test]
fn a_topic_with_a_codec_of_its_own_recompresses() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("recompressed");
    client.create_topic(&topic, 1, &[("compression.type", "lz4")]);
    client.produce(&topic, 0, &packed(Codec::Gzip, &["a", "b"])).unwrap();
    client.produce(&topic, 0, &batch(&["c"])).unwrap();
    let bytes = client.read(&topic, 0, 0);
    for batch in batches(bytes.clone()) {
        assert_eq!(batch.header.attributes.codec(), Codec::Lz4.number());
    }
    let expected = [(0, "a"), (1, "b"), (2, "c")].map(|(at, value)| (at, value.to_owned()));
    assert_eq!(values(bytes), expected);
}

#[test]
fn a_fetch_begins_with_the_whole_batch_that_holds_its_offset() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("whole");
    client.create_topic(&topic, 1, &[]);
    for _ in 0..3 {
        client.produce(&topic, 0, &batch(&["0", "1", "2", "3"])).unwrap();
    }
    for offset in 0..12 {
        let found = batches(client.read(&topic, 0, offset));
        let bases: Vec<i64> = found.iter().map(|it| it.header.base_offset.0).collect();
        let expected: Vec<i64> = [0, 4, 8].into_iter().filter(|base| base + 4 > offset).collect();
        assert_eq!(bases, expected, "from {offset}");
    }
}

#[test]
fn the_first_batch_comes_whole_however_small_the_limits() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("kip-74");
    client.create_topic(&topic, 2, &[]);
    let large = batch(&[&"x".repeat(100_000)]);
    for partition in [0, 1] {
        client.produce(&topic, partition, &large).unwrap();
        client.produce(&topic, partition, &large).unwrap();
    }
    let check = |client: &mut Connection, max_bytes, partition_max_bytes, expected: [usize; 2]| {
        let parts = [0, 1].map(|partition| (partition, 0, partition_max_bytes)).to_vec();
        let answers = client.fetch(&topic, &Fetch { max_bytes, parts, ..Fetch::at(0, 0) });
        let found: Vec<usize> = answers
            .iter()
            .map(|it| batches(it.records.clone().unwrap_or_default()).len())
            .collect();
        assert_eq!(found, expected, "{max_bytes} bytes, {partition_max_bytes} each");
    };
    let (one, two) = (large.len() as i32, 2 * large.len() as i32);
    check(&mut client, i32::MAX, i32::MAX, [2, 2]);
    check(&mut client, 1, i32::MAX, [1, 0]);
    check(&mut client, i32::MAX, 1, [1, 0]);
    check(&mut client, i32::MAX, one, [1, 1]);
    check(&mut client, i32::MAX, two - 1, [1, 1]);
    check(&mut client, one + two, two, [2, 1]);
    check(&mut client, two, two, [2, 0]);
    check(&mut client, 0, 0, [1, 0]);
}

#[test]
fn a_waiting_fetch_wakes_when_records_come() {
    let broker = broker(&[]);
    let mut producer = Connection::open(broker.kafka);
    let topic = fresh("long-poll");
    producer.create_topic(&topic, 2, &[]);
    let mut consumer = Connection::open(broker.kafka);
    let parts = vec![(0, 0, i32::MAX), (1, 0, i32::MAX)];
    let fetch = Fetch { max_wait_ms: 50_000, parts, ..Fetch::at(0, 0) };
    let started = Instant::now();
    let sent = consumer.send(FETCH, &fetch.request(FETCH, &topic, TopicId::default()));
    producer.produce(&topic, 1, &batch(&["wake"])).unwrap();
    let answer = consumer.answer::<FetchRequest>(FETCH, sent).unwrap();
    assert!(started.elapsed() < Duration::from_secs(40), "it waited for its whole time");
    let records = answer.responses[0].partitions[1].records.clone().unwrap();
    assert_eq!(values(records), [(0, "wake".to_owned())]);
}

#[test]
fn a_fetch_waits_for_its_least_bytes() {
    let broker = broker(&[]);
    let mut producer = Connection::open(broker.kafka);
    let topic = fresh("min-bytes");
    producer.create_topic(&topic, 1, &[]);
    let one = batch(&["0123456789"]);
    let mut consumer = Connection::open(broker.kafka);
    let min_bytes = 5 * one.len() as i32;
    let fetch = Fetch { max_wait_ms: 50_000, min_bytes, ..Fetch::at(0, 0) };
    let sent = consumer.send(FETCH, &fetch.request(FETCH, &topic, TopicId::default()));
    for _ in 0..5 {
        producer.produce(&topic, 0, &one).unwrap();
    }
    let answer = consumer.answer::<FetchRequest>(FETCH, sent).unwrap();
    let records = answer.responses[0].partitions[0].records.clone().unwrap();
    assert_eq!(batches(records).len(), 5);
}

#[test]
fn a_fetch_gives_up_waiting_after_its_greatest_wait() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("max-wait");
    client.create_topic(&topic, 1, &[]);
    client.produce(&topic, 0, &batch(&["a"])).unwrap();
    for offset in [0, 1] {
        let started = Instant::now();
        let fetch = Fetch { max_wait_ms: 300, min_bytes: 1_000_000, ..Fetch::at(0, offset) };
        let answer = fetch_one(&mut client, &topic, &fetch);
        assert!(started.elapsed() >= Duration::from_millis(300), "from {offset}");
        let found = batches(answer.records.unwrap_or_default()).len() as i64;
        assert_eq!(found, 1 - offset, "what there is comes");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("pipelined");
    client.create_topic(&topic, 2, &[]);
    let mut asked = Vec::new();
    for round in 0..100 {
        let request = produce_request(-1, &topic, &[(round % 2, batch(&["x"]))]);
        asked.push((client.send(PRODUCE, &request), true));
        if round % 10 == 9 {
            let fetch = Fetch::at(0, 0).request(FETCH, &topic, TopicId::default());
            asked.push((client.send(FETCH, &fetch), false));
        }
    }
    let mut ends = [0, 0];
    for (correlation, is_produce) in asked {
        if is_produce {
            let answer = client.answer::<ProduceRequest>(PRODUCE, correlation).unwrap();
            let partition = &produced(answer)[0];
            assert_eq!(partition.error_code, 0);
            assert_eq!(partition.base_offset, ends[partition.index as usize]);
            ends[partition.index as usize] += 1;
        } else {
            let answer = client.answer::<FetchRequest>(FETCH, correlation).unwrap();
            let partition = &answer.responses[0].partitions[0];
            // A request runs when those before it are done.
            assert_eq!(partition.high_watermark, ends[0]);
        }
    }
    assert_eq!(ends, [50, 50]);
}

#[test]
fn each_partition_of_a_produce_request_is_answered_for_itself() {
    let broker = broker(&["auto.create.topics.enable=false"]);
    let mut client = Connection::open(broker.kafka);
    let (first, second, missing) = (fresh("parts-a"), fresh("parts-b"), fresh("parts-c"));
    client.create_topic(&first, 3, &[]);
    client.create_topic(&second, 1, &[]);
    let data = |name: &str, parts: Vec<(i32, Option<Bytes>)>| {
        let part = |(index, records)| {
            PartitionProduceData::default().with_index(index).with_records(records)
        };
        let parts = parts.into_iter().map(part).collect();
        TopicProduceData::default().with_name(topic_name(name)).with_partition_data(parts)
    };
    let good = || Some(batch(&["good"]));
    let mut bad = batch(&["bad"]).to_vec();
    bad[17] ^= 1;
    let topics = vec![
        data(&first, vec![(0, good()), (7, good()), (2, Some(bad.into())), (1, good())]),
        data(&missing, vec![(0, good())]),
        data(&second, vec![(0, good()), (-1, good())]),
    ];
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(topics);
    let answer = client.ask(PRODUCE, &request);
    let mut found = Vec::new();
    for topic in &answer.responses {
        for it in &topic.partition_responses {
            found.push((topic.name.to_string(), it.index, it.error_code, it.base_offset));
        }
    }
    // The order of partitions in the answer is nobody's promise.
    found.sort();
    let unknown = UNKNOWN_TOPIC_OR_PARTITION;
    let mut expected = vec![
        (first.clone(), 0, 0, 0),
        (first.clone(), 1, 0, 0),
        (first.clone(), 2, CORRUPT_MESSAGE, -1),
        (first.clone(), 7, unknown, -1),
        (missing, 0, unknown, -1),
        (second.clone(), -1, unknown, -1),
        (second.clone(), 0, 0, 0),
    ];
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(client.read_all(&second, 0), [(0, "good".to_owned())]);
    assert_eq!(client.read_all(&first, 2), []);
}

#[test]
fn offsets_outside_the_log_are_out_of_range() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("range");
    client.create_topic(&topic, 1, &[]);
    for _ in 0..4 {
        client.produce(&topic, 0, &batch(&["0", "1"])).unwrap();
    }
    let check = |client: &mut Connection, offset, expected: i16| {
        let answer = fetch_one(client, &topic, &Fetch::at(0, offset));
        assert_eq!(answer.error_code, expected, "at {offset}");
        assert!(expected == 0 || answer.records.unwrap_or_default().is_empty(), "at {offset}");
        let high_watermark = if expected == 0 { 8 } else { -1 };
        assert_eq!(answer.high_watermark, high_watermark, "at {offset}");
    };
    check(&mut client, 0, 0);
    check(&mut client, 7, 0);
    check(&mut client, 8, 0);
    check(&mut client, 9, OFFSET_OUT_OF_RANGE);
    check(&mut client, i64::MAX, OFFSET_OUT_OF_RANGE);
    check(&mut client, -1, OFFSET_OUT_OF_RANGE);
    check(&mut client, i64::MIN, OFFSET_OUT_OF_RANGE);
    assert_eq!(delete_records(&mut client, &topic, 3), (0, 3));
    check(&mut client, 2, OFFSET_OUT_OF_RANGE);
    check(&mut client, 3, 0);
    let answer = fetch_one(&mut client, &topic, &Fetch::at(0, 3));
    assert_eq!(answer.log_start_offset, 3);
    let found = batches(answer.records.unwrap());
    assert_eq!(found[0].header.base_offset.0, 2, "whole batches still");
}

/// Error code and low watermark of one partition.
fn delete_records(client: &mut Connection, topic: &str, before: i64) -> (i16, i64) {
    use kafka_protocol::messages::delete_records_request::{
        DeleteRecordsPartition, DeleteRecordsTopic,
    };
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(before);
    let topic =
        DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    let answer = client.ask(2, &request);
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

#[test]
fn a_batch_above_the_topics_limit_is_too_large() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("too-large");
    client.create_topic(&topic, 1, &[("max.message.bytes", "1000")]);
    let sized = |bytes: usize| {
        let empty = batch(&[&"x".repeat(500)]).len();
        let batch = batch(&[&"x".repeat(bytes - empty + 500)]);
        assert_eq!(batch.len(), bytes);
        batch
    };
    assert_eq!(client.produce(&topic, 0, &sized(1000)), Ok(0));
    assert_eq!(client.produce(&topic, 0, &sized(1001)), Err(MESSAGE_TOO_LARGE));
    // The limit is on the batch as it is sent: what it unpacks to is the client's business.
    let packed = packed(Codec::Zstd, &[&"x".repeat(100_000)]);
    assert_eq!(client.produce(&topic, 0, &packed), Ok(1));
    assert_eq!(client.offset(&topic, 0, LATEST), 2);
}

#[test]
fn a_batch_whose_bytes_changed_on_the_way_is_corrupt() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("corrupt");
    client.create_topic(&topic, 1, &[]);
    let good = batch(&["a", "b"]);
    // From the CRC on every byte is covered.
    for at in 17..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 0x40;
        assert_eq!(client.produce(&topic, 0, &bad.into()), Err(CORRUPT_MESSAGE), "byte {at}");
    }
    let magic = forged(&good, 16, &[3]);
    assert_eq!(client.produce(&topic, 0, &magic), Err(CORRUPT_MESSAGE), "magic 3");
    let length = forged(&good, 8, &[0, 0, 0, 0]);
    assert_eq!(client.produce(&topic, 0, &length), Err(CORRUPT_MESSAGE), "length 0");
    assert_eq!(client.offset(&topic, 0, LATEST), 0);
    assert_eq!(client.produce(&topic, 0, &good), Ok(0));
}

#[test]
fn a_batch_that_breaks_the_rules_is_an_invalid_record() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("invalid");
    client.create_topic(&topic, 1, &[]);
    let good = batch(&["a", "b"]);
    let count = |count: i32| forged(&good, 57, &count.to_be_bytes());
    let delta = |delta: i32| forged(&good, 23, &delta.to_be_bytes());
    for (name, bad) in [
        ("no bytes", Bytes::new()),
        ("fewer bytes than a header", good.slice(..10)),
        ("a cut batch", good.slice(..good.len() - 1)),
        ("two batches", [good.clone(), good.clone()].concat().into()),
        ("magic 0", forged(&good, 16, &[0])),
        ("magic 1", forged(&good, 16, &[1])),
        ("count 1 of 2", count(1)),
        ("count 3 of 2", count(3)),
        ("count 0", count(0)),
        ("count -1", count(-1)),
        ("greatest count", count(i32::MAX)),
        ("delta 0 of 2", delta(0)),
        ("delta -1", delta(-1)),
        ("greatest delta", delta(i32::MAX)),
        ("a control batch", forged(&good, 21, &[0, 0x20])),
        ("a base offset", forged(&good, 0, &7_i64.to_be_bytes())),
        ("a producer without a sequence", sequenced((4, 0), -1, &["a"])),
    ] {
        assert_eq!(client.produce(&topic, 0, &bad), Err(INVALID_RECORD), "{name}");
    }
    assert_eq!(client.offset(&topic, 0, LATEST), 0);
}

#[test]
fn null_records_are_refused() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("null");
    client.create_topic(&topic, 1, &[]);
    let data = PartitionProduceData::default().with_index(0).with_records(None);
    let data =
        TopicProduceData::default().with_name(topic_name(&topic)).with_partition_data(vec![data]);
    let request =
        ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data]);
    let answers = produced(client.ask(PRODUCE, &request));
    assert_eq!(answers[0].error_code, INVALID_RECORD);
}

#[test]
fn zstd_is_for_clients_that_can_read_it_back() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("zstd");
    client.create_topic(&topic, 1, &[]);
    let zstd = packed(Codec::Zstd, &["a"]);
    for version in 3..=11 {
        let request = produce_request(-1, &topic, &[(0, zstd.clone())]);
        let code = produced(client.ask(version, &request))[0].error_code;
        let expected = if version < 7 { UNSUPPORTED_COMPRESSION_TYPE } else { 0 };
        assert_eq!(code, expected, "Produce v{version}");
    }
}

#[test]
fn log_append_time_replaces_the_clients_time() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("append-time");
    client.create_topic(&topic, 1, &[("message.timestamp.type", "LogAppendTime")]);
    for codec in [Codec::None, Codec::Gzip] {
        let before = now_ms();
        // The client's clock does not matter here, however wrong it is.
        let answer = client.produce_fully(&topic, 0, &timed(codec, &[5, i64::MAX / 2]));
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        let stamped = answer.log_append_time_ms;
        assert!((before..=now_ms()).contains(&stamped), "{stamped}");
        let found = batches(client.read(&topic, 0, answer.base_offset)).remove(0);
        assert!(found.header.attributes.is_log_append_time());
        assert_eq!(found.header.max_timestamp, stamped);
        assert_eq!(found.header.attributes.codec(), codec.number());
        assert_eq!(found.records().len(), 2);
        let at = client.list_offset(&topic, 0, stamped);
        assert_eq!((at.error_code, at.timestamp), (0, stamped));
    }
}

#[test]
fn timestamps_too_far_from_now_are_refused() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let (topic, strict) = (fresh("future"), fresh("past"));
    client.create_topic(&topic, 1, &[]);
    client.create_topic(&strict, 1, &[("message.timestamp.before.max.ms", "60000")]);
    let check = |client: &mut Connection, topic: &str, from_now: i64, expected: i16| {
        let answer = client.produce_fully(topic, 0, &timed(Codec::None, &[now_ms() + from_now]));
        assert_eq!(answer.error_code, expected, "{from_now} ms from now");
    };
    const HOUR: i64 = 3_600_000;
    check(&mut client, &topic, HOUR - 60_000, 0);
    check(&mut client, &topic, HOUR + 60_000, INVALID_TIMESTAMP);
    check(&mut client, &topic, -100_000 * HOUR, 0);
    check(&mut client, &strict, -30_000, 0);
    check(&mut client, &strict, -90_000, INVALID_TIMESTAMP);
}

#[test]
fn a_compacted_topic_wants_keys() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("keys");
    client.create_topic(&topic, 1, &[("cleanup.policy", "compact")]);
    assert_eq!(client.produce(&topic, 0, &batch(&["no key"])), Err(INVALID_RECORD));
}

#[test]
fn unknown_topics_are_told_by_name_and_by_id() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("known");
    let id = client.create_topic(&topic, 1, &[]);
    let missing = fresh("missing");
    for version in 4..=17 {
        let response = client.ask(version, &Fetch::at(0, 0).request(version, &missing, [9; 16]));
        let expected = if version < 13 { UNKNOWN_TOPIC_OR_PARTITION } else { UNKNOWN_TOPIC_ID };
        let partition = &response.responses[0].partitions[0];
        assert_eq!(partition.error_code, expected, "Fetch v{version}");
        let response = client.ask(version, &Fetch::at(1, 0).request(version, &topic, id));
        let code = response.responses[0].partitions[0].error_code;
        assert_eq!(code, UNKNOWN_TOPIC_OR_PARTITION, "partition 1, Fetch v{version}");
    }
    let code = client.list_offset(&missing, 0, LATEST).error_code;
    assert_eq!(code, UNKNOWN_TOPIC_OR_PARTITION);
}

/// The epoch of partition 0 as Metadata tells it.
fn leader_epoch(client: &mut Connection, topic: &str) -> i32 {
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
    let answer = client.ask(12, &MetadataRequest::default().with_topics(Some(vec![topic])));
    answer.topics[0].partitions[0].leader_epoch
}

/// Fetch, ListOffsets and OffsetForLeaderEpoch by a client that believes in `epoch`.
fn codes_at_epoch(client: &mut Connection, topic: &str, epoch: i32) -> [i16; 3] {
    let fetch = Fetch { leader_epoch: epoch, ..Fetch::at(0, 0) };
    let fetched = fetch_one(client, topic, &fetch).error_code;
    let mut list = list_offsets_request(topic, 0, LATEST);
    list.topics[0].partitions[0].current_leader_epoch = epoch;
    let listed = client.ask(8, &list).topics[0].partitions[0].error_code;
    let ended = epoch_end(client, topic, epoch, 0).0;
    [fetched, listed, ended]
}

/// Error code, epoch and end offset.
fn epoch_end(client: &mut Connection, topic: &str, current: i32, asked: i32) -> (i16, i32, i64) {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(current)
        .with_leader_epoch(asked);
    let topic = OffsetForLeaderTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(vec![partition]);
    let request = OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![topic]);
    let answer = client.ask(4, &request);
    let end = &answer.topics[0].partitions[0];
    (end.error_code, end.leader_epoch, end.end_offset)
}

#[test]
fn clients_that_know_a_later_leader_epoch_are_told_so() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("epochs");
    client.create_topic(&topic, 1, &[]);
    client.produce(&topic, 0, &batch(&["a"])).unwrap();
    let first = leader_epoch(&mut client, &topic);
    assert!(first >= 0);
    for _ in ["before a kill", "after it"] {
        let epoch = leader_epoch(&mut client, &topic);
        assert!(epoch >= first, "an epoch never goes back: {first}, then {epoch}");
        assert_eq!(codes_at_epoch(&mut client, &topic, -1), [0; 3]);
        assert_eq!(codes_at_epoch(&mut client, &topic, epoch), [0; 3]);
        assert_eq!(codes_at_epoch(&mut client, &topic, epoch + 1), [UNKNOWN_LEADER_EPOCH; 3]);
        assert_eq!(epoch_end(&mut client, &topic, epoch, first), (0, first, 1));
        assert_eq!(epoch_end(&mut client, &topic, epoch, epoch + 1), (0, -1, -1));
        broker.kill();
        broker.launch();
        client = Connection::open(broker.kafka);
    }
}

#[test]
fn offsets_are_found_by_every_kind_of_time() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("times");
    client.create_topic(&topic, 1, &[]);
    let check = |client: &mut Connection, timestamp, expected: (i64, i64)| {
        let answer = client.list_offset(&topic, 0, timestamp);
        assert_eq!(answer.error_code, 0, "{timestamp}");
        assert_eq!((answer.offset, answer.timestamp), expected, "{timestamp}");
    };
    check(&mut client, LATEST, (0, -1));
    check(&mut client, EARLIEST, (0, -1));
    check(&mut client, MAX_TIMESTAMP, (-1, -1));
    check(&mut client, 0, (-1, -1));
    // Times need not grow, neither in a batch nor between batches.
    client.produce(&topic, 0, &timed(Codec::None, &[100, 90, 120])).unwrap();
    client.produce(&topic, 0, &timed(Codec::Gzip, &[50, 300, 200])).unwrap();
    client.produce(&topic, 0, &timed(Codec::Zstd, &[250, 300, 110])).unwrap();
    let epoch = leader_epoch(&mut client, &topic);
    for timestamp in [LATEST, EARLIEST, MAX_TIMESTAMP, 100] {
        let answer = client.list_offset(&topic, 0, timestamp);
        assert_eq!(answer.leader_epoch, epoch, "{timestamp}");
    }
    check(&mut client, LATEST, (9, -1));
    check(&mut client, EARLIEST, (0, -1));
    check(&mut client, MAX_TIMESTAMP, (4, 300));
    check(&mut client, 0, (0, 100));
    check(&mut client, 100, (0, 100));
    check(&mut client, 101, (2, 120));
    check(&mut client, 121, (4, 300));
    check(&mut client, 300, (4, 300));
    check(&mut client, 301, (-1, -1));
    check(&mut client, i64::MAX, (-1, -1));
    assert_eq!(delete_records(&mut client, &topic, 5), (0, 5));
    check(&mut client, EARLIEST, (5, -1));
    check(&mut client, 0, (5, 200));
}

#[test]
fn every_version_of_list_offsets_answers() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("list-versions");
    client.create_topic(&topic, 1, &[]);
    client.produce(&topic, 0, &timed(Codec::None, &[10, 20])).unwrap();
    const UNSUPPORTED_VERSION: i16 = 35;
    for version in 1..=10 {
        let ask = |client: &mut Connection, timestamp| {
            let mut request: ListOffsetsRequest = list_offsets_request(&topic, 0, timestamp);
            if version >= 10 {
                request.timeout_ms = 1000;
            }
            let answer = client.ask(version, &request);
            let it = &answer.topics[0].partitions[0];
            (it.error_code, it.offset, it.timestamp)
        };
        let since = |from: i16, answer: (i16, i64, i64)| {
            if version >= from { answer } else { (UNSUPPORTED_VERSION, -1, -1) }
        };
        assert_eq!(ask(&mut client, LATEST), (0, 2, -1), "v{version}");
        assert_eq!(ask(&mut client, EARLIEST), (0, 0, -1), "v{version}");
        assert_eq!(ask(&mut client, 15), (0, 1, 20), "v{version}");
        assert_eq!(ask(&mut client, MAX_TIMESTAMP), since(7, (0, 1, 20)), "v{version}");
        assert_eq!(ask(&mut client, -4), since(8, (0, 0, -1)), "v{version}");
        assert_eq!(ask(&mut client, -5), since(9, (0, -1, -1)), "v{version}");
        assert_eq!(ask(&mut client, -7), (UNSUPPORTED_VERSION, -1, -1), "v{version}");
    }
}

#[test]
fn many_connections_write_one_partition_without_loss() {
    const WRITERS: usize = 8;
    const EACH: usize = 50;
    let broker = broker(&[]);
    let topic = fresh("writers");
    Connection::open(broker.kafka).create_topic(&topic, 1, &[]);
    let offsets: Vec<i64> = thread::scope(|scope| {
        let write = |writer: usize| {
            let mut client = Connection::open(broker.kafka);
            let topic = &topic;
            scope.spawn(move || {
                let value = |round| format!("{writer}:{round}");
                (0..EACH)
                    .map(|it| client.produce(topic, 0, &batch(&[&value(it)])).unwrap())
                    .collect::<Vec<_>>()
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        writers.into_iter().flat_map(|it| it.join().unwrap()).collect()
    });
    let found = Connection::open(broker.kafka).read_all(&topic, 0);
    assert_eq!(found.len(), WRITERS * EACH);
    for (at, offset) in offsets.iter().enumerate() {
        let expected = format!("{}:{}", at / EACH, at % EACH);
        assert_eq!(found[*offset as usize], (*offset, expected));
    }
}
