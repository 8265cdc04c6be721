//! A producer against a broker in memory that breaks on order. What counts each time: the log holds every record once, in
//! the order in which it was sent.

use std::time::Duration;

use millrace_model::env::Prng;
use tonic::Code;

use crate::fake::{Fake, Fault};
use crate::{Client, Codec, Error, ErrorKind, Position, Producer, ProducerBuilder, Record};

async fn client(fake: &Fake) -> Client {
    let builder = Client::builder(&fake.address).call_timeout(Duration::from_secs(10));
    builder.backoff(Duration::from_millis(1), Duration::from_millis(20)).connect().await.unwrap()
}

/// A broker with topic `t` of one partition, and batches of few records.
async fn started(options: impl Fn(ProducerBuilder) -> ProducerBuilder) -> (Fake, Producer) {
    let fake = Fake::start().await;
    fake.topic("t", 1);
    let builder = client(&fake).await.producer().batch_bytes(200);
    let producer = options(builder).build().await.unwrap();
    (fake, producer)
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|it| it.to_string()).collect()
}

/// Sends numbers and has every answer say where they are: each behind the one before.
async fn send_numbers(producer: &Producer, range: std::ops::Range<u32>) {
    let mut deliveries = Vec::new();
    for number in range {
        let record = Record::new(number.to_string()).with_partition(0);
        deliveries.push((number, producer.send("t", record).await.unwrap()));
    }
    for (number, delivery) in deliveries {
        let position = delivery.await.unwrap();
        assert_eq!(position, Position { partition: 0, offset: i64::from(number) });
    }
}

#[tokio::test]
async fn records_share_batches_and_each_learns_its_offset() {
    for codec in Codec::ALL {
        let linger = Duration::from_millis(1);
        let (fake, producer) =
            started(|it| it.batch_bytes(4096).compression(codec).linger(linger)).await;
        send_numbers(&producer, 0..500).await;
        assert_eq!(fake.values("t", 0), numbers(0..500));
        assert!(fake.writes() < 100, "{} writes", fake.writes());
    }
}

#[tokio::test]
async fn whatever_breaks_records_are_written_once_and_in_order() {
    use Fault::{CutAfter, CutBefore, Doubt, None, Refuse};
    let unavailable = || Refuse(Code::Unavailable, "NOT_ENOUGH_REPLICAS");
    let check = async |faults: Vec<Fault>| {
        let (fake, producer) = started(|it| it).await;
        fake.faults(faults.clone());
        send_numbers(&producer, 0..200).await;
        assert_eq!(fake.values("t", 0), numbers(0..200), "{faults:?}");
    };
    check(vec![CutBefore]).await;
    check(vec![CutAfter]).await;
    check(vec![Doubt]).await;
    check(vec![unavailable()]).await;
    check(vec![None, None, CutAfter, CutAfter, CutBefore]).await;
    check(vec![None, unavailable(), None, None, CutAfter]).await;
    check(vec![None, Doubt, None, unavailable(), None, Doubt, CutAfter, unavailable()]).await;
    let mut many = Vec::new();
    for _ in 0..10 {
        many.extend([None, CutAfter, None, Doubt, unavailable(), None, None, CutBefore]);
    }
    check(many).await;
}

/// As above, with the faults left to luck; a seed that fails is printed.
#[tokio::test]
async fn whatever_breaks_at_random_records_are_written_once_and_in_order() {
    for seed in 0..30 {
        println!("seed {seed}");
        let mut luck = Prng::new(seed);
        let (fake, producer) = started(|it| it).await;
        let mut faults = Vec::new();
        for _ in 0..luck.below(60) {
            faults.push(match luck.below(10) {
                0 => Fault::CutBefore,
                1 => Fault::CutAfter,
                2 => Fault::Doubt,
                3 => Fault::Refuse(Code::Unavailable, "NOT_ENOUGH_REPLICAS"),
                4 => Fault::Refuse(Code::ResourceExhausted, "THROTTLING_QUOTA_EXCEEDED"),
                _ => Fault::None,
            });
        }
        fake.faults(faults);
        let first = luck.below(100) as u32;
        send_numbers(&producer, 0..first).await;
        send_numbers(&producer, first..200).await;
        assert_eq!(fake.values("t", 0), numbers(0..200));
    }
}

#[tokio::test]
async fn a_broker_that_comes_back_is_sent_what_it_had_not_written() {
    let (fake, producer) = started(|it| it).await;
    send_numbers(&producer, 0..10).await;
    fake.down();
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move { send_numbers(&producer, 10..100).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.values("t", 0), numbers(0..10));
    fake.up();
    sending.await.unwrap();
    assert_eq!(fake.values("t", 0), numbers(0..100));
}

#[tokio::test]
async fn a_batch_that_is_refused_for_good_takes_no_other_with_it() {
    let (fake, producer) = started(|it| it).await;
    for before in 0..7 {
        let refused = Fault::Refuse(Code::InvalidArgument, "MESSAGE_TOO_LARGE");
        fake.faults((0..before).map(|_| Fault::None).chain([refused]));
        let written = fake.values("t", 0).len();
        let mut deliveries = Vec::new();
        for number in 0..30 {
            // One batch each: the value is larger than a batch.
            let record = Record::new(format!("{number:0300}")).with_partition(0);
            deliveries.push(producer.send("t", record).await.unwrap());
        }
        let mut failed = Vec::new();
        for (number, delivery) in deliveries.into_iter().enumerate() {
            if let Err(error) = delivery.await {
                assert_eq!(error.reason(), Some("MESSAGE_TOO_LARGE"), "{error}");
                failed.push(number);
            }
        }
        assert_eq!(failed.len(), 1);
        let expected = (0..30).filter(|it| !failed.contains(it)).map(|it| format!("{it:0300}"));
        assert_eq!(fake.values("t", 0)[written..], expected.collect::<Vec<_>>());
        assert_eq!(producer.flush().await.unwrap_err().reason(), Some("MESSAGE_TOO_LARGE"));
        assert_eq!(producer.flush().await, Ok(()), "an error is told once");
    }
}

#[tokio::test]
async fn a_broker_that_has_forgotten_the_producer_gets_a_new_one() {
    let (fake, producer) = started(|it| it).await;
    send_numbers(&producer, 0..50).await;
    fake.forget_producers();
    send_numbers(&producer, 50..100).await;
    assert_eq!(fake.values("t", 0), numbers(0..100));
}

#[tokio::test]
async fn keys_choose_partitions_as_kafkas_clients_do_and_records_without_key_fill_batches() {
    let (fake, producer) = started(|it| it.batch_bytes(10_000)).await;
    fake.topic("wide", 7);
    for (key, partition) in [("", 2), ("a", 5), ("ab", 0), ("abc", 4), ("the quick brown fox", 6)] {
        let delivery = producer.send("wide", Record::new("v").with_key(key)).await.unwrap();
        assert_eq!(delivery.await.unwrap().partition, partition, "{key}");
    }
    let mut partitions = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let delivery = producer.send("wide", Record::new("small")).await.unwrap();
        partitions.insert(delivery.await.unwrap().partition);
    }
    assert_eq!(partitions.len(), 1, "a batch is not full before 10,000 bytes");
}

#[tokio::test]
async fn a_topic_that_is_missing_is_created_where_the_broker_says_so() {
    let (fake, producer) = started(|it| it).await;
    let missing = producer.send("new", Record::new("v").with_key("abc")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    fake.auto_create();
    let delivery = producer.send("new", Record::new("v").with_key("abc")).await.unwrap();
    let partition = millrace_model::partitioner::partition_for_key(b"abc", 3);
    assert_eq!(delivery.await.unwrap().partition, partition);
}

#[tokio::test]
async fn send_waits_for_room_and_no_longer() {
    let (fake, producer) =
        started(|it| it.buffer_bytes(2000).linger(Duration::from_secs(60))).await;
    fake.hold(true);
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move {
            for number in numbers(0..100) {
                let record = Record::new(number).with_partition(0);
                drop(producer.send("t", record).await.unwrap());
            }
            producer.flush().await
        }
    });
    fake.until("something is sent, though it might linger", |it| it.writes() > 0).await;
    assert!(!sending.is_finished());
    assert!(fake.writes() <= 20);
    let huge = producer.send("t", Record::new(vec![0; 3000]).with_partition(0)).await.unwrap_err();
    assert!(matches!(huge, Error::TooLarge { bytes_max: 2000, .. }), "{huge}");
    fake.hold(false);
    sending.await.unwrap().unwrap();
    assert_eq!(fake.values("t", 0), numbers(0..100));
}

#[tokio::test]
async fn a_record_that_waits_for_too_long_fails_and_the_next_is_written() {
    let (fake, producer) = started(|it| it.delivery_timeout(Duration::from_secs(2))).await;
    fake.down();
    let lost = producer.send("t", Record::new("lost").with_partition(0)).await.unwrap();
    let error = lost.await.unwrap_err();
    assert_eq!((error.kind(), error.is_retriable()), (ErrorKind::Timeout, true), "{error}");
    assert_eq!(producer.flush().await, Err(error));
    fake.up();
    // Whatever became of the first, the broker takes what follows.
    for number in 0..10 {
        let delivery = producer.send("t", Record::new(number.to_string()).with_partition(0)).await;
        delivery.unwrap().await.unwrap();
    }
    let written = fake.values("t", 0);
    let written: Vec<_> = written.into_iter().filter(|it| it != "lost").collect();
    assert_eq!(written, numbers(0..10));
}

#[tokio::test]
async fn what_is_under_way_when_time_is_over_leaves_the_order_whole() {
    let (fake, producer) = started(|it| it.delivery_timeout(Duration::from_secs(2))).await;
    fake.hold(true);
    let lost = producer.send("t", Record::new("late").with_partition(0)).await.unwrap();
    assert_eq!(lost.await.unwrap_err().kind(), ErrorKind::Timeout);
    fake.hold(false);
    for number in 0..10 {
        let delivery = producer.send("t", Record::new(number.to_string()).with_partition(0)).await;
        delivery.unwrap().await.unwrap();
    }
    let expected: Vec<_> = [vec!["late".to_owned()], numbers(0..10)].concat();
    assert_eq!(fake.values("t", 0), expected, "an answer came too late, the record did not");
}

#[tokio::test]
async fn a_closed_producer_has_sent_everything_and_takes_no_more() {
    let (fake, producer) = started(|it| it.linger(Duration::from_secs(60))).await;
    let other = producer.clone();
    drop(producer.send("t", Record::new("0").with_partition(0)).await.unwrap());
    producer.close().await.unwrap();
    assert_eq!(fake.values("t", 0), numbers(0..1));
    let refused = other.send("t", Record::new("1").with_partition(0)).await;
    assert_eq!(refused.unwrap_err(), Error::Closed);
}

#[tokio::test]
async fn a_dropped_producer_still_sends_what_it_took() {
    let (fake, producer) = started(|it| it.linger(Duration::from_secs(60))).await;
    drop(producer.send("t", Record::new("0").with_partition(0)).await.unwrap());
    drop(producer);
    fake.until("it is written", |it| it.values("t", 0) == numbers(0..1)).await;
}
