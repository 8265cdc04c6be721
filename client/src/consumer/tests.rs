//! A consumer against a broker in memory: nothing is lost or repeated that need not be, whatever breaks.

use std::time::Duration;

use futures_util::StreamExt;
use tonic::Code;

use crate::fake::Fake;
use crate::{
    Client, CommitOffset, Consumer, ConsumerBuilder, ErrorKind, Event, Rebalance, Record, StartAt,
    TopicPartition,
};

async fn client(fake: &Fake) -> Client {
    let builder = Client::builder(&fake.address).call_timeout(Duration::from_secs(10));
    builder.backoff(Duration::from_millis(1), Duration::from_millis(20)).connect().await.unwrap()
}

/// A broker whose topic `t` has partitions with so many records each, their values their offsets.
async fn started(counts: &[u32]) -> (Fake, Client) {
    let fake = Fake::start().await;
    fake.topic("t", counts.len());
    let client = client(&fake).await;
    for (partition, count) in counts.iter().enumerate() {
        fill(&client, partition as i32, 0..*count).await;
    }
    (fake, client)
}

async fn fill(client: &Client, partition: i32, range: std::ops::Range<u32>) {
    let producer = client.producer().batch_bytes(1000).build().await.unwrap();
    for number in range {
        let record = Record::new(number.to_string()).with_partition(partition);
        drop(producer.send("t", record).await.unwrap());
    }
    producer.close().await.unwrap();
}

fn member(client: &Client) -> ConsumerBuilder {
    client.consumer().group("g").topics(["t"]).commit_interval(Duration::from_secs(600))
}

fn t(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// Takes so many records of partition 0; each is the one behind the one before.
async fn take(consumer: &mut Consumer, range: std::ops::Range<i64>) {
    for offset in range {
        let record = consumer.next().await.unwrap().unwrap();
        assert_eq!((record.partition, record.offset), (0, offset));
        assert_eq!(record.value.unwrap(), offset.to_string());
    }
}

#[tokio::test]
async fn a_partition_is_read_from_each_kind_of_place() {
    let (_fake, client) = started(&[50]).await;
    for (at, first) in [(StartAt::Earliest, 0), (StartAt::Offset(17), 17), (StartAt::Latest, 50)] {
        let consumer = client.consumer().partitions([("t", 0, at)]);
        let mut consumer = consumer.build().await.unwrap();
        assert_eq!(consumer.assignment(), [t(0)]);
        assert_eq!(consumer.position(&t(0)), Some(first));
        take(&mut consumer, first..50).await;
    }
    fill(&client, 0, 50..51).await;
}

#[tokio::test]
async fn it_is_a_stream() {
    let (_fake, client) = started(&[50]).await;
    let consumer = client.consumer().partitions([("t", 0, StartAt::Earliest)]);
    let consumer = consumer.build().await.unwrap();
    let offsets: Vec<_> = consumer.take(50).map(|it| it.unwrap().offset).collect().await;
    assert_eq!(offsets, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_does_not_exist_is_told_at_once() {
    let (_fake, client) = started(&[1]).await;
    let missing = client.consumer().partitions([("nowhere", 0, StartAt::Earliest)]).build().await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    for nothing in [
        client.consumer(),
        client.consumer().group("g"),
        client.consumer().topics(["t"]),
        member(&client).partitions([("t", 0, StartAt::Earliest)]),
    ] {
        assert_eq!(nothing.build().await.unwrap_err().kind(), ErrorKind::Misuse);
    }
}

#[tokio::test]
async fn a_broken_connection_neither_loses_nor_repeats() {
    let (fake, client) = started(&[500]).await;
    let consumer = client.consumer().partitions([("t", 0, StartAt::Earliest)]).buffer_bytes(3000);
    let mut alone = consumer.build().await.unwrap();
    let mut member = member(&client).buffer_bytes(3000).build().await.unwrap();
    for start in (0..500).step_by(50) {
        for consumer in [&mut alone, &mut member] {
            take(consumer, start..start + 25).await;
        }
        fake.cut();
        for consumer in [&mut alone, &mut member] {
            take(consumer, start + 25..start + 50).await;
        }
    }
}

#[tokio::test]
async fn credit_is_what_comes_ahead_at_most() {
    let (fake, client) = started(&[5000]).await;
    let consumer = client.consumer().partitions([("t", 0, StartAt::Earliest)]);
    let mut consumer = consumer.buffer_bytes(30_000).build().await.unwrap();
    let credits = || {
        let starts = fake.journal().into_iter().filter_map(|it| {
            it.strip_prefix("start with ").map(|bytes| bytes.parse::<i64>().unwrap())
        });
        starts.collect::<Vec<_>>()
    };
    assert_eq!(credits(), [30_000]);
    take(&mut consumer, 0..600).await;
    fake.cut();
    let mut next = 600;
    while credits().len() < 2 {
        take(&mut consumer, next..next + 1).await;
        next += 1;
        tokio::task::yield_now().await;
    }
    // What was at hand when the stream broke was not given out twice.
    assert!(credits()[1] < 30_000, "{:?}", credits());
    take(&mut consumer, next..5000).await;
}

#[tokio::test]
async fn what_was_handed_out_is_committed_once_the_next_is_asked_for() {
    let (fake, client) = started(&[100]).await;
    let mut consumer =
        member(&client).commit_interval(Duration::from_millis(1)).build().await.unwrap();
    take(&mut consumer, 0..100).await;
    tokio::select! {
        record = consumer.next() => panic!("there is no more: {record:?}"),
        () = fake.until("all is committed", |it| it.committed("t", 0) == Some(100)) => {}
    }
}

#[tokio::test]
async fn a_member_that_is_dropped_commits_what_it_has_done_and_no_more() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).build().await.unwrap();
    take(&mut consumer, 0..10).await;
    drop(consumer);
    fake.until("it is gone", |it| it.journal().contains(&"gone".to_owned())).await;
    assert_eq!(fake.committed("t", 0), Some(9), "nobody has said that the tenth is done");
    let mut consumer = member(&client).build().await.unwrap();
    take(&mut consumer, 9..30).await;
    consumer.close().await.unwrap();
    assert_eq!(fake.committed("t", 0), Some(30), "closing says so");
    fake.until("both are gone", |it| it.journal().iter().filter(|it| *it == "gone").count() == 2)
        .await;
}

#[tokio::test]
async fn without_auto_commit_nothing_is_committed_but_by_hand() {
    let (fake, client) = started(&[100]).await;
    let consumer = member(&client).auto_commit(false).commit_interval(Duration::from_millis(1));
    let mut consumer = consumer.build().await.unwrap();
    take(&mut consumer, 0..10).await;
    assert_eq!(fake.committed("t", 0), None);
    consumer.commit().await.unwrap();
    assert_eq!(fake.committed("t", 0), Some(10));
    consumer.commit_offsets(&[CommitOffset::new("t", 0, 4)]).await.unwrap();
    assert_eq!(fake.committed("t", 0), Some(4));
    let other = consumer.commit_offsets(&[CommitOffset::new("t", 7, 4)]).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Misuse);
    take(&mut consumer, 10..20).await;
    consumer.close().await.unwrap();
    assert_eq!(fake.committed("t", 0), Some(4));
}

#[tokio::test]
async fn a_commit_outlives_a_broken_connection() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).auto_commit(false).build().await.unwrap();
    take(&mut consumer, 0..10).await;
    fake.cut();
    consumer.commit().await.unwrap();
    assert_eq!(fake.committed("t", 0), Some(10));
    take(&mut consumer, 10..20).await;
}

#[tokio::test]
async fn what_is_revoked_is_committed_before_it_is_let_go() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).build().await.unwrap();
    take(&mut consumer, 0..10).await;
    fake.revoke(false);
    // Nobody asks for a record: nothing is let go while the tenth is in work.
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!fake.journal().contains(&"released".to_owned()));
    take(&mut consumer, 10..100).await;
    tokio::select! {
        record = consumer.next() => panic!("there is no more: {record:?}"),
        () = fake.until("it is let go", |it| it.journal().contains(&"released".to_owned())) => {}
    }
    let journal = fake.journal();
    let released = journal.iter().position(|it| it == "released").unwrap();
    assert!(journal[released - 1].starts_with("commit t-0 at"), "{journal:?}");
    let committed = fake.committed("t", 0).unwrap();
    assert_eq!((committed, consumer.assignment()), (100, vec![]));
    fill(&client, 0, 100..110).await;
    fake.assign();
    take(&mut consumer, 100..110).await;
}

#[tokio::test]
async fn changes_are_told_before_they_take_effect() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).auto_commit(false).build().await.unwrap();
    let assigned = Event::Rebalance(Rebalance::Assigned(vec![t(0)]));
    assert_eq!(consumer.next_event().await.unwrap().unwrap(), assigned);
    take(&mut consumer, 0..100).await;
    fake.revoke(false);
    let revoked = Event::Rebalance(Rebalance::Revoked(vec![t(0)]));
    assert_eq!(consumer.next_event().await.unwrap().unwrap(), revoked);
    consumer.commit().await.unwrap();
    assert_eq!(fake.journal().last().unwrap(), "commit t-0 at 100");
    fake.assign();
    assert_eq!(consumer.next_event().await.unwrap().unwrap(), assigned);
    assert!(fake.journal().contains(&"released".to_owned()));
    fake.revoke(true);
    let lost = Event::Rebalance(Rebalance::Lost(vec![t(0)]));
    assert_eq!(consumer.next_event().await.unwrap().unwrap(), lost);
    assert_eq!(consumer.assignment(), []);
}

#[tokio::test]
async fn a_member_that_was_forgotten_joins_again_from_what_is_committed() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).build().await.unwrap();
    take(&mut consumer, 0..100).await;
    fake.end_consumers(Code::FailedPrecondition, "UNKNOWN_MEMBER_ID");
    take(&mut consumer, 0..100).await;
    fake.end_consumers(Code::FailedPrecondition, "FENCED_INSTANCE_ID");
    let fenced = consumer.next().await.unwrap_err();
    assert_eq!(fenced.reason(), Some("FENCED_INSTANCE_ID"));
    assert_eq!(consumer.next().await, Ok(None), "it has ended");
}

#[tokio::test]
async fn a_member_comes_back_as_who_it_was_until_it_is_forgotten() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).build().await.unwrap();
    take(&mut consumer, 0..10).await;
    let members = async |consumer: &mut Consumer, expected: &[&str]| {
        let of = |journal: Vec<String>| -> Vec<String> {
            journal.iter().filter_map(|it| it.strip_prefix("member ").map(str::to_owned)).collect()
        };
        tokio::select! {
            record = consumer.next() => panic!("there is no more: {record:?}"),
            () = fake.until("it is back", |it| of(it.journal()).len() == expected.len()) => {}
        }
        assert_eq!(of(fake.journal()), expected);
    };
    take(&mut consumer, 10..100).await;
    fake.cut();
    members(&mut consumer, &["m1", "m1"]).await;
    // Broken again before it could be told anything.
    fake.cut();
    members(&mut consumer, &["m1", "m1", "m1"]).await;
    consumer.commit().await.unwrap();
    fake.end_consumers(Code::FailedPrecondition, "UNKNOWN_MEMBER_ID");
    members(&mut consumer, &["m1", "m1", "m1", "m2"]).await;
    fill(&client, 0, 100..101).await;
    take(&mut consumer, 100..101).await;
    fake.cut();
    members(&mut consumer, &["m1", "m1", "m1", "m2", "m2"]).await;
}

#[tokio::test]
async fn patience_ends_what_would_be_tried_for_ever() {
    let (fake, client) = started(&[10]).await;
    let consumer = client.consumer().partitions([("t", 0, StartAt::Earliest)]);
    let mut consumer = consumer.patience(Duration::from_millis(100)).build().await.unwrap();
    take(&mut consumer, 0..10).await;
    fake.down();
    let error = consumer.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_seek_goes_to_the_place_and_nowhere_else() {
    let (fake, client) = started(&[300]).await;
    let mut consumer = member(&client).buffer_bytes(2000).build().await.unwrap();
    take(&mut consumer, 0..40).await;
    consumer.seek(&t(0), StartAt::Offset(200)).await.unwrap();
    take(&mut consumer, 200..300).await;
    consumer.seek(&t(0), StartAt::Earliest).await.unwrap();
    consumer.seek(&t(0), StartAt::Offset(7)).await.unwrap();
    take(&mut consumer, 7..30).await;
    consumer.seek(&t(0), StartAt::Earliest).await.unwrap();
    fake.cut();
    take(&mut consumer, 0..300).await;
    let nowhere = consumer.seek(&t(1), StartAt::Earliest).await.unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn what_is_paused_rests_and_goes_on_where_it_was() {
    let (fake, client) = started(&[300, 300]).await;
    let places = [("t", 0, StartAt::Earliest), ("t", 1, StartAt::Earliest)];
    let mut consumer =
        client.consumer().partitions(places).buffer_bytes(4000).build().await.unwrap();
    let mut next = [0, 0];
    let mut take = async |consumer: &mut Consumer, count: usize, rests: Option<i32>| {
        for _ in 0..count {
            let record = consumer.next().await.unwrap().unwrap();
            assert_ne!(Some(record.partition), rests);
            assert_eq!(record.offset, next[record.partition as usize]);
            next[record.partition as usize] += 1;
        }
        next
    };
    take(&mut consumer, 20, None).await;
    consumer.pause(&[t(0)]).unwrap();
    let left = 300 - take(&mut consumer, 0, None).await[1];
    take(&mut consumer, left as usize / 2, Some(0)).await;
    fake.cut();
    take(&mut consumer, (left - left / 2) as usize, Some(0)).await;
    consumer.resume(&[t(0)]).unwrap();
    let left = 300 - take(&mut consumer, 0, None).await[0];
    assert_eq!(take(&mut consumer, left as usize, Some(1)).await, [300, 300]);
}

#[tokio::test]
async fn a_log_that_has_lost_its_end_is_read_anew_from_where_the_group_is_reset() {
    let (fake, client) = started(&[100]).await;
    let mut consumer = member(&client).build().await.unwrap();
    take(&mut consumer, 0..100).await;
    fake.truncate("t", 0);
    fill(&client, 0, 0..50).await;
    fake.reset();
    take(&mut consumer, 0..50).await;
}

#[tokio::test]
async fn lag_counts_what_is_not_handed_out() {
    let (_fake, client) = started(&[100]).await;
    let consumer = client.consumer().partitions([("t", 0, StartAt::Earliest)]);
    let mut consumer = consumer.build().await.unwrap();
    take(&mut consumer, 0..30).await;
    assert_eq!(consumer.lag()[&t(0)], 70);
}

#[tokio::test]
async fn a_trace_reaches_the_reader() {
    let fake = Fake::start().await;
    fake.topic("t", 1);
    let current = crate::TraceParent::root();
    let client = Client::builder(&fake.address).traceparent(move || Some(current));
    let client = client.connect().await.unwrap();
    fill(&client, 0, 0..1).await;
    let consumer = client.consumer().partitions([("t", 0, StartAt::Earliest)]);
    let record = consumer.build().await.unwrap().next().await.unwrap().unwrap();
    let found = record.traceparent().unwrap();
    assert_eq!(found.trace_id(), current.trace_id());
    assert_ne!(found.span_id(), current.span_id());
}
