//! Idempotent producers: a retry never doubles, a gap never passes, and a hard kill changes neither.

use bytes::Bytes;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use millrace_tests::ask::{INIT_PRODUCER_ID, LATEST, PRODUCE, fresh, produce_request, produced};
use millrace_tests::kafka::Connection;
use millrace_tests::process::BrokerProcess;
use millrace_tests::random::{Random, seed};
use millrace_tests::records::sequenced;

use crate::broker::broker;

const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
const INVALID_PRODUCER_EPOCH: i16 = 47;

/// Kafka's clients keep at most so many batches in flight; the broker remembers as many.
const WINDOW: i32 = 5;

/// SIGKILL, start again, and a new connection.
fn crash(broker: &mut BrokerProcess) -> Connection {
    broker.kill();
    broker.launch();
    Connection::open(broker.kafka)
}

/// Two records from `sequence` on.
fn pair(producer: (i64, i16), sequence: i32) -> Bytes {
    sequenced(producer, sequence, &[&format!("{sequence}"), &format!("{}", sequence + 1)])
}

/// Two records at a time, so often; returns what was sent.
fn send_pairs(
    client: &mut Connection,
    topic: &str,
    producer: (i64, i16),
    count: i32,
) -> Vec<Bytes> {
    let sent: Vec<Bytes> = (0..count).map(|at| pair(producer, at * 2)).collect();
    for (at, batch) in sent.iter().enumerate() {
        assert_eq!(client.produce(topic, 0, batch), Ok(at as i64 * 2));
    }
    sent
}

#[test]
fn a_repeat_within_the_window_gets_the_first_answer() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("repeat");
    client.create_topic(&topic, 1, &[]);
    let producer = client.init_producer();
    let sent = send_pairs(&mut client, &topic, producer, 7);
    for _ in ["before a kill", "after it"] {
        for (at, batch) in sent.iter().enumerate().skip(2).rev() {
            assert_eq!(client.produce(&topic, 0, batch), Ok(at as i64 * 2));
        }
        assert_eq!(client.offset(&topic, 0, LATEST), 14, "nothing was doubled");
        client = crash(&mut broker);
    }
    assert_eq!(client.produce(&topic, 0, &pair(producer, 14)), Ok(14), "it goes on");
}

#[test]
fn a_repeat_older_than_the_window_is_a_duplicate() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("older");
    client.create_topic(&topic, 1, &[]);
    let producer = client.init_producer();
    let sent = send_pairs(&mut client, &topic, producer, WINDOW + 2);
    for _ in ["before a kill", "after it"] {
        for batch in &sent[..2] {
            let answer = client.produce(&topic, 0, batch);
            assert_eq!(answer, Err(DUPLICATE_SEQUENCE_NUMBER));
        }
        assert_eq!(client.offset(&topic, 0, LATEST), 14, "nothing was doubled");
        client = crash(&mut broker);
    }
}

#[test]
fn a_gap_in_the_sequence_does_not_pass() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("gap");
    client.create_topic(&topic, 1, &[]);
    let producer = client.init_producer();
    send_pairs(&mut client, &topic, producer, 1);
    for round in 0..2 {
        let end = 2 + round * 2;
        for sequence in [end + 1, end + 2, i32::MAX - 1] {
            let answer = client.produce(&topic, 0, &pair(producer, sequence));
            assert_eq!(answer, Err(OUT_OF_ORDER_SEQUENCE_NUMBER), "{sequence} after {end}");
        }
        assert_eq!(client.produce(&topic, 0, &pair(producer, end)), Ok(i64::from(end)));
        client = crash(&mut broker);
    }
}

#[test]
fn a_failed_batch_fails_those_behind_it() {
    let broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("behind");
    client.create_topic(&topic, 1, &[]);
    let producer = client.init_producer();
    let mut bad = pair(producer, 2).to_vec();
    bad[17] ^= 1;
    let batches = [pair(producer, 0), bad.into(), pair(producer, 4), pair(producer, 6)];
    let answers = pipelined(&mut client, &topic, &batches);
    let gap = Err(OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(answers, [Ok(0), Err(2), gap, gap]);
    let again = [pair(producer, 2), pair(producer, 4), pair(producer, 6)];
    assert_eq!(pipelined(&mut client, &topic, &again), [Ok(2), Ok(4), Ok(6)]);
}

/// Sends all, then takes the answers.
fn pipelined(client: &mut Connection, topic: &str, batches: &[Bytes]) -> Vec<Result<i64, i16>> {
    let send =
        |batch: &Bytes| client.send(PRODUCE, &produce_request(-1, topic, &[(0, batch.clone())]));
    let sent: Vec<i32> = batches.iter().map(send).collect();
    let mut answers = Vec::new();
    for correlation in sent {
        let answer = client.answer::<ProduceRequest>(PRODUCE, correlation).expect("an answer");
        let answer = produced(answer).remove(0);
        let code = answer.error_code;
        answers.push(if code == 0 { Ok(answer.base_offset) } else { Err(code) });
    }
    answers
}

#[test]
fn the_sequence_wraps_to_zero() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("wrap");
    client.create_topic(&topic, 1, &[]);
    let producer = client.init_producer();
    // A producer of whom nothing is known may begin anywhere: its state may have expired.
    let last = sequenced(producer, i32::MAX - 1, &["a", "b", "c"]);
    assert_eq!(client.produce(&topic, 0, &last), Ok(0));
    let mut client = crash(&mut broker);
    assert_eq!(client.produce(&topic, 0, &last), Ok(0), "a repeat");
    assert_eq!(client.produce(&topic, 0, &pair(producer, 2)), Err(OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(client.produce(&topic, 0, &pair(producer, 1)), Ok(3));
}

#[test]
fn each_partition_has_a_sequence_of_its_own() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("own");
    client.create_topic(&topic, 2, &[]);
    let producer = client.init_producer();
    assert_eq!(client.produce(&topic, 0, &pair(producer, 0)), Ok(0));
    assert_eq!(client.produce(&topic, 0, &pair(producer, 2)), Ok(2));
    assert_eq!(client.produce(&topic, 1, &pair(producer, 0)), Ok(0));
    let mut client = crash(&mut broker);
    assert_eq!(client.produce(&topic, 1, &pair(producer, 4)), Err(OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(client.produce(&topic, 1, &pair(producer, 2)), Ok(2));
    assert_eq!(client.produce(&topic, 0, &pair(producer, 4)), Ok(4));
}

/// The next epoch of a producer that says what it had (KIP-360).
fn bump(client: &mut Connection, (id, epoch): (i64, i16)) -> (i64, i16) {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(id.into())
        .with_producer_epoch(epoch);
    let answer = client.ask(INIT_PRODUCER_ID, &request);
    assert_eq!(answer.error_code, 0);
    (answer.producer_id.0, answer.producer_epoch)
}

#[test]
fn a_new_epoch_starts_at_zero_and_ends_the_old_one() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("epoch");
    client.create_topic(&topic, 1, &[]);
    let old = client.init_producer();
    send_pairs(&mut client, &topic, old, 3);
    let new = (old.0, old.1 + 1);
    let answer = client.produce(&topic, 0, &pair(new, 6));
    assert_eq!(answer, Err(OUT_OF_ORDER_SEQUENCE_NUMBER), "the old sequence does not go on");
    assert_eq!(client.produce(&topic, 0, &pair(new, 0)), Ok(6));
    for _ in ["before a kill", "after it"] {
        assert_eq!(client.produce(&topic, 0, &pair(old, 6)), Err(INVALID_PRODUCER_EPOCH));
        assert_eq!(client.produce(&topic, 0, &pair(new, 0)), Ok(6), "a repeat");
        client = crash(&mut broker);
    }
    assert_eq!(client.produce(&topic, 0, &pair(new, 2)), Ok(8));
}

#[test]
fn a_producer_that_asks_for_an_epoch_can_go_on_with_it() {
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("bump");
    client.create_topic(&topic, 1, &[]);
    let old = client.init_producer();
    send_pairs(&mut client, &topic, old, 1);
    let mut client = crash(&mut broker);
    let new = bump(&mut client, old);
    assert_ne!(new, old);
    assert_eq!(client.produce(&topic, 0, &pair(new, 0)), Ok(2));
}

#[test]
fn producer_ids_are_never_given_twice() {
    let mut broker = broker(&[]);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let mut client = Connection::open(broker.kafka);
        for version in 0..=5 {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(60_000);
            let request = if version >= 3 {
                request.with_producer_id((-1).into()).with_producer_epoch(-1)
            } else {
                request
            };
            let answer = client.ask(version, &request);
            assert_eq!((answer.error_code, answer.producer_epoch), (0, 0), "v{version}");
            assert!(seen.insert(answer.producer_id.0), "v{version}: {}", answer.producer_id.0);
        }
        broker.kill();
        broker.launch();
    }
}

/// The whole contract at once: five batches in flight, the broker killed at moments that a seed chooses, everything
/// unanswered sent again, and in the end each record once, in order.
#[test]
fn kills_in_full_flight_neither_lose_nor_double_nor_reorder() {
    check_flight("durable");
}

/// A relaxed topic answers before the disk has it; a kill of the process alone takes nothing from it either.
#[test]
fn a_relaxed_topic_loses_nothing_by_kills_of_the_process() {
    check_flight("relaxed");
}

fn check_flight(durability: &str) {
    const BATCHES: usize = 120;
    const KILLS: usize = 5;
    let seed = seed(0x5eed_0007);
    let mut random = Random::new(seed);
    let mut broker = broker(&[]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("flight");
    client.create_topic(&topic, 1, &[("durability", durability)]);
    let producer = client.init_producer();
    let batches: Vec<Bytes> = (0..BATCHES as i32).map(|at| pair(producer, at * 2)).collect();
    let mut kills: Vec<usize> = (0..KILLS).map(|_| random.below(BATCHES)).collect();
    kills.sort_unstable();
    let mut acknowledged = 0;
    while acknowledged < BATCHES {
        let flight = &batches[acknowledged..(acknowledged + WINDOW as usize).min(BATCHES)];
        let request = |batch: &Bytes| produce_request(-1, &topic, &[(0, batch.clone())]);
        let sent: Vec<i32> = flight.iter().map(|it| client.send(PRODUCE, &request(it))).collect();
        if kills.first().is_some_and(|&at| at <= acknowledged) {
            kills.remove(0);
            // Some of the flight is answered, the rest may or may not have reached the disk.
            for &correlation in &sent[..random.below(sent.len())] {
                let answer =
                    client.answer::<ProduceRequest>(PRODUCE, correlation).expect("an answer");
                let answer = &produced(answer)[0];
                let expected = (0, acknowledged as i64 * 2);
                assert_eq!((answer.error_code, answer.base_offset), expected, "seed {seed}");
                acknowledged += 1;
            }
            client = crash(&mut broker);
            continue;
        }
        for correlation in sent {
            let answer = client.answer::<ProduceRequest>(PRODUCE, correlation).expect("an answer");
            let answer = &produced(answer)[0];
            let expected = (0, acknowledged as i64 * 2);
            assert_eq!((answer.error_code, answer.base_offset), expected, "seed {seed}");
            acknowledged += 1;
        }
    }
    let found = client.read_all(&topic, 0);
    let expected: Vec<_> = (0..BATCHES as i64 * 2).map(|at| (at, at.to_string())).collect();
    assert_eq!(found, expected, "seed {seed}");
}
