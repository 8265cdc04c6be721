//! The main job, as far as it needs only Rust: five services publish events, two groups of three members read all of
//! them, the broker is killed three times and members die meanwhile. In the end every event is there once per group, in
//! the order of its key, and the committed offsets are the log's ends.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use millrace_model::compression::Codec;
use millrace_model::ids::{ProducerEpoch, ProducerId};
use millrace_model::partitioner::partition_for_key;
use millrace_model::record::{BatchBuilder, NewRecord, Record};
use millrace_tests::ask::{Fetch, LATEST, PRODUCE, fresh, produce_request, produced};
use millrace_tests::group::{Assignment, Member, Offsets, UNKNOWN_MEMBER_ID, committed};
use millrace_tests::kafka::Connection;
use millrace_tests::process::until;
use millrace_tests::random::{Random, seed};
use millrace_tests::records::{batches, now_ms};

use crate::broker::broker;

const TOPICS: usize = 5;
const PARTITIONS: i32 = 3;
const LINES: usize = 2_000;
const GROUPS: usize = 2;
const MEMBERS: usize = 3;
const BROKER_KILLS: usize = 3;

/// Lines that one produce request carries, over all partitions.
const LINES_PER_REQUEST: usize = 20;
/// Produce requests in flight: fewer than the batches that the broker remembers of a producer.
const REQUESTS_IN_FLIGHT: usize = 4;
/// A member that says nothing for this long is dead.
const SESSION_MS: i32 = 1_500;
/// The whole job is over long before; a bug is not.
const PATIENCE: Duration = Duration::from_secs(240);

/// One event of the sample.
struct Line {
    key: String,
    text: String,
}

/// Events of one service: few keys have most of them, as paths in a repository do.
fn sample(topic: usize, random: &mut Random) -> Vec<Line> {
    let line = |number| {
        let rank = random.below(40).min(random.below(40)).min(random.below(40));
        let text = format!(
            "{{\"service\":{topic},\"line\":{number},\"noise\":\"{:016x}\"}}",
            random.draw()
        );
        Line { key: format!("src/module-{rank}/file.rs"), text }
    };
    (0..LINES).map(line).collect()
}

/// What all threads share.
struct Job {
    address: SocketAddr,
    topics: Vec<String>,
    /// Lines that are acknowledged, of all services.
    acknowledged: AtomicUsize,
    is_over: AtomicBool,
    /// What the groups' members were given, in the order of their work.
    delivered: Mutex<Vec<Delivery>>,
    deadline: Instant,
}

/// One record in a member's hands.
struct Delivery {
    group: usize,
    topic: usize,
    partition: i32,
    offset: i64,
    key: Bytes,
    line: usize,
    text: Bytes,
}

impl Job {
    fn connect(&self) -> Connection {
        loop {
            assert!(Instant::now() < self.deadline, "the broker does not come back");
            if let Ok(connection) = Connection::try_open(self.address) {
                return connection;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A service that publishes its lines, once each, whatever happens to the broker.
struct Service {
    job: Arc<Job>,
    topic: usize,
    connection: Connection,
    unanswered: VecDeque<(ProduceRequest, usize, i32)>,
}

impl Service {
    fn run(job: Arc<Job>, topic: usize, lines: &[Line]) {
        let mut connection = job.connect();
        let producer = connection.init_producer();
        let mut service = Self { job, topic, connection, unanswered: VecDeque::new() };
        let mut sequences = [0; PARTITIONS as usize];
        for (first, chunk) in lines.chunks(LINES_PER_REQUEST).enumerate() {
            let request =
                service.request(producer, &mut sequences, first * LINES_PER_REQUEST, chunk);
            while service.unanswered.len() >= REQUESTS_IN_FLIGHT {
                service.take_answer();
            }
            let correlation = service.connection.try_send(PRODUCE, &request).unwrap_or(-1);
            service.unanswered.push_back((request, chunk.len(), correlation));
        }
        while !service.unanswered.is_empty() {
            service.take_answer();
        }
    }

    fn request(
        &self,
        producer: (i64, i16),
        sequences: &mut [i32; PARTITIONS as usize],
        first: usize,
        lines: &[Line],
    ) -> ProduceRequest {
        let mut builders: BTreeMap<i32, BatchBuilder> = BTreeMap::new();
        for (number, line) in (first..).zip(lines) {
            let partition = partition_for_key(line.key.as_bytes(), PARTITIONS);
            let builder = builders.entry(partition).or_insert_with(|| {
                let (id, epoch) = (ProducerId(producer.0), ProducerEpoch(producer.1));
                BatchBuilder::new(Codec::ALL[first % 5]).producer(
                    id,
                    epoch,
                    sequences[partition as usize],
                )
            });
            let number = number.to_string();
            builder.push(NewRecord {
                timestamp: now_ms(),
                key: Some(line.key.as_bytes()),
                value: Some(line.text.as_bytes()),
                headers: &[(b"line", Some(number.as_bytes()))],
            });
            sequences[partition as usize] += 1;
        }
        let parts: Vec<_> = builders.into_iter().map(|(at, mut it)| (at, it.build())).collect();
        produce_request(-1, &self.job.topics[self.topic], &parts)
    }

    /// Takes the oldest answer. When there is none, or it says to try again, everything unanswered is sent again: the
    /// broker knows what it has.
    fn take_answer(&mut self) {
        let (_, lines, correlation) = self.unanswered.front().expect("something is in flight");
        match self.connection.answer::<ProduceRequest>(PRODUCE, *correlation) {
            Ok(answer) if produced(answer.clone()).iter().all(|it| it.error_code == 0) => {
                self.job.acknowledged.fetch_add(*lines, Ordering::Relaxed);
                self.unanswered.pop_front();
            }
            Ok(answer) => {
                let codes: Vec<i16> = produced(answer).iter().map(|it| it.error_code).collect();
                panic!("a service was refused: {codes:?}");
            }
            Err(_) => self.send_again(),
        }
    }

    fn send_again(&mut self) {
        self.connection = self.job.connect();
        for (request, _, correlation) in &mut self.unanswered {
            *correlation = self.connection.try_send(PRODUCE, request).unwrap_or(-1);
        }
    }
}

/// One member's thread and the way to kill it.
struct MemberHandle {
    dies: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl MemberHandle {
    fn start(job: &Arc<Job>, group: usize, name: &str) -> Self {
        let dies = Arc::new(AtomicBool::new(false));
        let (job, flag, name) = (Arc::clone(job), Arc::clone(&dies), name.to_owned());
        let thread = thread::spawn(move || consume(&job, group, &name, &flag));
        Self { dies, thread }
    }

    /// It stops wherever it is, and says goodbye to nobody.
    fn kill(self) {
        self.dies.store(true, Ordering::Relaxed);
        self.thread.join().expect("no member panics");
    }
}

/// A member's life: it joins again whenever the broker or the group wants it.
fn consume(job: &Job, group: usize, name: &str, dies: &AtomicBool) {
    let mut id = String::new();
    while !dies.load(Ordering::Relaxed) && !job.is_over.load(Ordering::Relaxed) {
        assert!(Instant::now() < job.deadline, "a member of {name} never saw the end");
        let Ok(mut member) = Member::open(job.address, name) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        member.id.clone_from(&id);
        member.session_timeout_ms = SESSION_MS;
        member.rebalance_timeout_ms = 5_000;
        match one_life(job, group, &mut member, dies) {
            // What the coordinator forgot in a crash starts anew.
            Ok(code) if code == UNKNOWN_MEMBER_ID => id = String::new(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => id = String::new(),
            _ => id.clone_from(&member.id),
        }
    }
}

/// From joining to the next rebalance: the code that ended it.
fn one_life(job: &Job, group: usize, member: &mut Member, dies: &AtomicBool) -> io::Result<i16> {
    let topics: Vec<_> = job.topics.iter().map(|it| (it.clone(), PARTITIONS)).collect();
    let assignment = member.enter(&topics)?;
    let mut positions = positions(job, member, &assignment)?;
    let mut beat = Instant::now();
    loop {
        if dies.load(Ordering::Relaxed) {
            return Ok(0);
        }
        if job.is_over.load(Ordering::Relaxed) {
            return member.leave();
        }
        if beat.elapsed() > Duration::from_millis(100) {
            beat = Instant::now();
            let code = member.heartbeat()?;
            if code != 0 {
                return Ok(code);
            }
        }
        if poll(job, group, member, &mut positions)? && !dies.load(Ordering::Relaxed) {
            let offsets: Offsets = positions
                .iter()
                .map(|(&(topic, partition), &at)| ((job.topics[topic].clone(), partition), at))
                .collect();
            let code = member.commit(&offsets)?;
            if code != 0 {
                return Ok(code);
            }
        }
    }
}

/// Where to go on, by topic and partition.
type Positions = BTreeMap<(usize, i32), i64>;

fn positions(job: &Job, member: &mut Member, assignment: &Assignment) -> io::Result<Positions> {
    let committed = committed(&mut member.connection, &member.group)?;
    let mut positions = Positions::new();
    for (name, partitions) in assignment {
        let topic = job.topics.iter().position(|it| it == name).expect("a topic of the job");
        for &partition in partitions {
            let at = committed.get(&(name.clone(), partition)).copied().unwrap_or(0);
            positions.insert((topic, partition), at);
        }
    }
    Ok(positions)
}

/// Reads a little of each partition; did anything come?
fn poll(
    job: &Job,
    group: usize,
    member: &mut Member,
    positions: &mut Positions,
) -> io::Result<bool> {
    let mut came = false;
    for topic in 0..TOPICS {
        let parts: Vec<_> = positions
            .range((topic, 0)..(topic + 1, 0))
            .map(|(&(_, partition), &at)| (partition, at, 8_000))
            .collect();
        if parts.is_empty() {
            continue;
        }
        let fetch = Fetch { max_wait_ms: 10, parts, ..Fetch::at(0, 0) };
        let request = fetch.request(4, &job.topics[topic], [0; 16]);
        let answer = member.connection.try_ask(4, &request)?;
        for part in answer.responses.into_iter().flat_map(|it| it.partitions) {
            assert_eq!(part.error_code, 0, "Fetch");
            let at = positions.get_mut(&(topic, part.partition_index)).expect("asked for");
            for batch in batches(part.records.unwrap_or_default()) {
                for (offset, record) in batch.records() {
                    if offset >= *at {
                        deliver(job, group, topic, part.partition_index, offset, record);
                        *at = offset + 1;
                        came = true;
                    }
                }
            }
        }
    }
    Ok(came)
}

fn deliver(job: &Job, group: usize, topic: usize, partition: i32, offset: i64, record: Record) {
    let header = record.headers.into_iter().next().expect("every line has its number");
    assert_eq!(&header.key[..], b"line");
    let line = header.value.expect("a number");
    let line = String::from_utf8_lossy(&line).parse().expect("a number");
    let key = record.key.expect("every line has a key");
    let text = record.value.expect("every line has a text");
    job.delivered.lock().expect("no member panics").push(Delivery {
        group,
        topic,
        partition,
        offset,
        key,
        line,
        text,
    });
}

#[test]
fn every_event_reaches_every_group_once_and_in_order_through_kills() {
    let seed = seed(0x0a11_0ca7);
    let mut random = Random::new(seed);
    let mut broker = broker(&["group.min.session.timeout.ms=100"]);
    let mut admin = Connection::open(broker.kafka);
    let job = Arc::new(Job {
        address: broker.kafka,
        topics: (0..TOPICS).map(|it| fresh(&format!("service-{it}"))).collect(),
        acknowledged: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        delivered: Mutex::default(),
        deadline: Instant::now() + PATIENCE,
    });
    job.topics.iter().for_each(|it| {
        admin.create_topic(it, PARTITIONS, &[]);
    });
    drop(admin);
    let lines: Arc<Vec<Vec<Line>>> =
        Arc::new((0..TOPICS).map(|topic| sample(topic, &mut random)).collect());
    let groups: Vec<String> = (0..GROUPS).map(|it| fresh(&format!("group-{it}"))).collect();
    let mut members: Vec<(usize, MemberHandle)> = (0..GROUPS * MEMBERS)
        .map(|it| it % GROUPS)
        .map(|group| (group, MemberHandle::start(&job, group, &groups[group])))
        .collect();
    let services: Vec<JoinHandle<()>> = (0..TOPICS)
        .map(|topic| {
            let (job, lines) = (Arc::clone(&job), Arc::clone(&lines));
            thread::spawn(move || Service::run(job, topic, &lines[topic]))
        })
        .collect();

    for kill in 1..=BROKER_KILLS {
        let part = TOPICS * LINES * kill / (BROKER_KILLS + 1);
        wait(&job, &services, &mut broker, |job| job.acknowledged.load(Ordering::Relaxed) >= part);
        broker.kill();
        broker.launch();
        let unlucky = random.below(members.len());
        let (group, member) = members.swap_remove(unlucky);
        member.kill();
        members.push((group, MemberHandle::start(&job, group, &groups[group])));
    }
    for service in services {
        service.join().unwrap();
    }
    let mut admin = Connection::open(broker.kafka);
    let mut ends = Offsets::new();
    for topic in &job.topics {
        for partition in 0..PARTITIONS {
            ends.insert((topic.clone(), partition), admin.offset(topic, partition, LATEST));
        }
    }
    for group in &groups {
        let agree = until(job.deadline.duration_since(Instant::now()), || {
            let found = committed(&mut admin, group).ok()?;
            // A partition that no key hashed to has nothing to commit.
            let missing = ends.iter().any(|(at, &end)| found.get(at).copied().unwrap_or(0) != end);
            (!missing).then_some(())
        });
        assert!(agree.is_some(), "{group} never commits the log's ends, seed {seed}");
    }
    job.is_over.store(true, Ordering::Relaxed);
    for (_, member) in members {
        member.thread.join().unwrap();
    }
    check(&job, &lines, &ends);
}

/// Waits until `is_so`, as long as the services live.
fn wait(
    job: &Job,
    services: &[JoinHandle<()>],
    broker: &mut millrace_tests::process::BrokerProcess,
    is_so: impl Fn(&Job) -> bool,
) {
    let reached = until(job.deadline.duration_since(Instant::now()), || {
        assert!(broker.is_running(), "the broker ended by itself");
        (is_so(job) || services.iter().all(JoinHandle::is_finished)).then_some(())
    });
    assert!(reached.is_some(), "{} lines only", job.acknowledged.load(Ordering::Relaxed));
}

/// Every line once per group, first deliveries without a gap, keys in the order of the file.
fn check(job: &Job, lines: &[Vec<Line>], ends: &Offsets) {
    let delivered = job.delivered.lock().expect("no member panics");
    let total: i64 = ends.values().sum();
    assert_eq!(total, (TOPICS * LINES) as i64, "the log holds each line once");
    for group in 0..GROUPS {
        let mut next: BTreeMap<(usize, i32), i64> = BTreeMap::new();
        let mut last_of_key: BTreeMap<(usize, Bytes), usize> = BTreeMap::new();
        let mut seen = vec![vec![false; LINES]; TOPICS];
        for it in delivered.iter().filter(|it| it.group == group) {
            let next = next.entry((it.topic, it.partition)).or_default();
            if it.offset < *next {
                continue; // at least once: the same record again
            }
            assert_eq!(it.offset, *next, "a gap in topic {} partition {}", it.topic, it.partition);
            *next += 1;
            let line = &lines[it.topic][it.line];
            assert_eq!((&it.key[..], &it.text[..]), (line.key.as_bytes(), line.text.as_bytes()));
            let was_seen = std::mem::replace(&mut seen[it.topic][it.line], true);
            assert!(!was_seen, "topic {} line {} is there twice", it.topic, it.line);
            let before = last_of_key.insert((it.topic, it.key.clone()), it.line);
            assert!(before.is_none_or(|before| before < it.line), "key {:?} in order", it.key);
        }
        let missing = seen.iter().flatten().filter(|&&seen| !seen).count();
        assert_eq!(missing, 0, "group {group} misses lines");
    }
}
