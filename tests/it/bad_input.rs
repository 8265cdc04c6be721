//! Bytes that no client should send: each costs its own connection at most, never the broker, its memory or its other
//! clients.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersionsResponse;
use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest};
use kafka_protocol::protocol::Decodable;
use millrace_tests::ask::{LATEST, fresh, text};
use millrace_tests::kafka::{Connection, frame, framed};
use millrace_tests::process::BrokerProcess;
use millrace_tests::random::{Random, seed};
use millrace_tests::records::batch;
use millrace_wire::{ApiKey, TABLE};

use crate::bad_frames;
use crate::broker::broker;

/// Nothing hostile here is larger than this; what one connection makes the broker keep must not be either.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// A hostile connection is answered or closed within this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with a client that was there before anything went wrong.
struct Witness {
    broker: BrokerProcess,
    client: Connection,
    topic: String,
    produced: i64,
    memory_bytes: u64,
}

impl Witness {
    fn new(broker: BrokerProcess) -> Self {
        let mut client = Connection::open(broker.kafka);
        let topic = fresh("witness");
        client.create_topic(&topic, 1, &[]);
        client.produce(&topic, 0, &batch(&["before"])).expect("nothing is wrong yet");
        let memory_bytes = broker.pid().map_or(0, |_| broker.anonymous_bytes());
        Self { broker, client, topic, produced: 1, memory_bytes }
    }

    /// A connection to be hostile on.
    fn victim(&self) -> Connection {
        let connection = Connection::open(self.broker.kafka);
        connection.set_patience(PATIENCE);
        connection
    }

    /// The broker goes on: its old client writes and reads, no handler broke, memory stayed small.
    fn is_well(&mut self, after: &str) {
        let offset = self.client.produce(&self.topic, 0, &batch(&["still"]));
        assert_eq!(offset, Ok(self.produced), "{after}");
        self.produced += 1;
        assert_eq!(self.client.offset(&self.topic, 0, LATEST), self.produced, "{after}");
        if self.broker.pid().is_none() {
            return; // another broker is judged
        }
        assert!(self.broker.is_running(), "{after}");
        let panics = self.broker.metric("millrace_panics_total").unwrap_or(0.0);
        assert_eq!(panics as u64, 0, "{after}: a handler broke");
        let grown = self.broker.anonymous_bytes().saturating_sub(self.memory_bytes);
        assert!(grown < GROWTH_BYTES_MAX, "{after}: {grown} bytes more");
    }
}

/// What the table below expects.
enum Expected {
    /// Closed, without a byte.
    Closed,
    /// Answered and still open.
    Answered(fn(Bytes) -> bool),
}

/// An API, a version, a correlation id, a client id, a body.
fn request(key: i16, version: i16, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(key);
    out.put_i16(version);
    out.put_i32(7);
    out.put_slice(rest);
    framed(&out)
}

/// Answered with correlation id 7 and, in the body of version 0, error 35 and the range of ApiVersions itself.
fn is_unsupported_version(mut answer: Bytes) -> bool {
    let correlation = answer.split_to(4);
    let response = ApiVersionsResponse::decode(&mut answer, 0).expect("a body of version 0");
    let own = response.api_keys.iter().find(|it| it.api_key == ApiKey::ApiVersions.code());
    let own = own.map(|it| (it.min_version, it.max_version));
    *correlation == [0, 0, 0, 7] && response.error_code == 35 && own == Some((0, 4))
}

/// An error code behind the correlation id of an answer without header tags.
fn is_invalid_request(answer: Bytes) -> bool {
    *answer.slice(..6) == [0, 0, 0, 7, 0, 42]
}

fn is_success(answer: Bytes) -> bool {
    *answer.slice(..6) == [0, 0, 0, 7, 0, 0]
}

fn answers_7(answer: Bytes) -> bool {
    *answer.slice(..4) == [0, 0, 0, 7]
}

#[test]
fn malformed_frames_get_what_kafka_gives() {
    use Expected::{Answered, Closed};
    let mut witness = Witness::new(broker(&[]));
    let null_client = b"\xff\xff";
    let api = |key: ApiKey, version: i16, body: &[u8]| {
        request(key.code(), version, &[null_client, body].concat())
    };
    let software = |name: &[u8], version: &[u8]| {
        let mut body = vec![0, name.len() as u8 + 1];
        body.extend(name);
        body.push(version.len() as u8 + 1);
        body.extend(version);
        body.push(0);
        api(ApiKey::ApiVersions, 3, &body)
    };
    let raw = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let table: Vec<(&str, Bytes, Expected)> = vec![
        ("an empty frame", framed(b""), Closed),
        ("one byte", framed(b"\0"), Closed),
        ("seven bytes", framed(b"\0\x12\0\0\0\0\0"), Closed),
        ("a negative size", raw(b"\xff\xff\xff\xff"), Closed),
        ("the least size", raw(b"\x80\0\0\0"), Closed),
        ("the greatest size", raw(b"\x7f\xff\xff\xff"), Closed),
        ("a TLS hello", raw(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"), Closed),
        ("an HTTP request", raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Closed),
        ("an SSH greeting", raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Closed),
        ("an unknown API", request(999, 0, null_client), Closed),
        ("API -1", request(-1, 0, null_client), Closed),
        ("a controller's API", request(4, 0, null_client), Closed),
        ("Metadata v-1", api(ApiKey::Metadata, -1, b"\0\0\0\0"), Closed),
        ("Metadata v14", api(ApiKey::Metadata, 14, b"\0\0\0\0"), Closed),
        ("Produce v2", api(ApiKey::Produce, 2, b"\0\x01\0\0\x75\x30\0\0\0\0"), Closed),
        ("Fetch v3", api(ApiKey::Fetch, 3, b""), Closed),
        ("ApiVersions v5", api(ApiKey::ApiVersions, 5, b"\0"), Answered(is_unsupported_version)),
        (
            "ApiVersions of the greatest version",
            api(ApiKey::ApiVersions, i16::MAX, b"\0junk"),
            Answered(is_unsupported_version),
        ),
        ("ApiVersions v-1", api(ApiKey::ApiVersions, -1, b""), Answered(is_unsupported_version)),
        ("ApiVersions v0", api(ApiKey::ApiVersions, 0, b""), Answered(is_success)),
        ("a client's software", software(b"my-client.1", b"1.0-rc.2"), Answered(is_success)),
        ("software without a name", software(b"", b"1"), Answered(is_invalid_request)),
        ("software with a space", software(b"my client", b"1"), Answered(is_invalid_request)),
        ("software that ends in a dash", software(b"a", b"1-"), Answered(is_invalid_request)),
        ("ApiVersions v3 without a body", api(ApiKey::ApiVersions, 3, b""), Closed),
        ("a client id beyond the frame", request(3, 1, b"\x7f\xff"), Closed),
        ("Metadata without a body", api(ApiKey::Metadata, 1, b""), Closed),
        ("Metadata of 2^31 - 1 topics", api(ApiKey::Metadata, 1, b"\x7f\xff\xff\xff"), Closed),
        (
            "Metadata v12 of 2^31 - 2 topics",
            api(ApiKey::Metadata, 12, b"\0\xff\xff\xff\xff\x07\0\0\0"),
            Closed,
        ),
        ("an endless varint", api(ApiKey::Metadata, 12, &[0xff; 40]), Closed),
        ("a name beyond the frame", api(ApiKey::Metadata, 1, b"\0\0\0\x01\x7f\xffa"), Closed),
        ("Produce without a body", api(ApiKey::Produce, 9, b""), Closed),
        (
            "Produce of 2^31 - 1 topics",
            api(ApiKey::Produce, 3, b"\xff\xff\xff\xff\0\0\x75\x30\x7f\xff\xff\xff"),
            Closed,
        ),
        ("Fetch without a body", api(ApiKey::Fetch, 12, b""), Closed),
        ("what follows a body", api(ApiKey::Metadata, 1, b"\0\0\0\0junk"), Answered(answers_7)),
    ];
    for (name, bytes, expected) in table {
        let mut victim = witness.victim();
        victim.send_raw(&bytes).unwrap();
        match expected {
            Closed => assert!(victim.is_closed(), "{name}: neither closed nor silent"),
            Answered(is_right) => {
                let answer = victim.receive().unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(is_right(answer.clone()), "{name}: {answer:?}");
                let next = victim.try_ask(0, &ApiVersionsRequest::default());
                assert_eq!(next.map(|it| it.error_code).ok(), Some(0), "{name}: then closed");
            }
        }
        witness.is_well(name);
    }
}

/// Kafka would read replacement characters, and answer for another name than the client meant.
#[test]
fn a_name_that_is_no_text_ends_its_connection() {
    let mut witness = Witness::new(broker(&[]));
    let mut victim = witness.victim();
    let body = b"\xff\xff\0\x02\xff\xfe\0\0\0\0\0\0";
    victim.send_raw(&request(ApiKey::Heartbeat.code(), 0, body)).unwrap();
    assert!(victim.is_closed());
    witness.is_well("a name that is no text");
}

#[test]
fn a_request_above_the_limit_is_refused_before_it_arrives() {
    let mut witness = Witness::new(broker(&["socket.request.max.bytes=100000"]));
    let mut victim = witness.victim();
    victim.send_raw(&100_001_u32.to_be_bytes()).unwrap();
    assert!(victim.is_closed());
    witness.is_well("a frame above the limit");
    let mut just = witness.victim();
    let whole = frame(1, 1, &MetadataRequest::default().with_topics(Some(vec![])));
    let mut padded = whole.slice(4..).to_vec();
    padded.resize(100_000, 0);
    just.send_raw(&framed(&padded)).unwrap();
    assert!(just.receive().is_ok(), "a frame at the limit is read");
    witness.is_well("a frame at the limit");
}

/// Frames that are begun and never finished: small and large ones, by one address, as many as it may have. The others
/// are served meanwhile, and what was announced is not what is kept.
#[test]
fn half_frames_hold_neither_memory_nor_other_clients() {
    const EACH: usize = 150;
    let mut witness = Witness::new(broker(&[]));
    let mut victims = Vec::new();
    for (announced, sent) in [(16 << 20, 1), (16 << 20, 5000), (100_000, 50_000), (100, 3), (0, 0)]
    {
        for _ in 0..EACH {
            let mut victim = witness.victim();
            let mut bytes = u32::to_be_bytes(announced).to_vec();
            bytes.resize(bytes.len() + sent, 0);
            // Some never even finish the length.
            bytes.truncate(if announced == 0 { 2 } else { bytes.len() });
            victim.send_raw(&bytes).unwrap();
            victims.push(victim);
        }
    }
    witness.is_well("half frames");
    let mut large = Connection::open(witness.broker.kafka);
    large.set_patience(PATIENCE);
    let value = "x".repeat(500_000);
    let offset = large.produce(&witness.topic, 0, &batch(&[&value]));
    assert_eq!(offset, Ok(witness.produced), "a large request gets through as well");
    witness.produced += 1;
    drop(victims);
    witness.is_well("their end");
}

/// A client that asks and never reads: its answers wait in its own socket, not in the broker.
#[test]
fn a_client_that_never_reads_does_not_fill_the_broker() {
    let mut witness = Witness::new(broker(&[]));
    let value = "x".repeat(1_000_000);
    for _ in 0..4 {
        witness.client.produce(&witness.topic, 0, &batch(&[&value])).unwrap();
        witness.produced += 1;
    }
    let fetch = millrace_tests::ask::Fetch::at(0, 0).request(4, &witness.topic, [0; 16]);
    let mut victims = Vec::new();
    for _ in 0..20 {
        let mut victim = witness.victim();
        for correlation in 0..100 {
            victim.send_raw(&frame(4, correlation, &fetch)).unwrap();
        }
        victims.push(victim);
    }
    witness.is_well("clients that never read");
}

/// Every API at every version: a real request, then the same with hostile lengths, counts and bits at places that a
/// seed chooses.
#[test]
fn mutated_requests_of_every_api_cost_their_own_connection() {
    const MUTANTS: usize = 12;
    let seed = seed(0x0bad_f00d);
    let mut random = Random::new(seed);
    let mut witness = Witness::new(broker(&["auto.create.topics.enable=false"]));
    let topic = fresh("mutants");
    witness.client.create_topic(&topic, 2, &[]);
    let mut seen = std::collections::BTreeSet::new();
    for row in TABLE {
        for version in row.min..=row.max {
            let real = bad_frames::real(row.key, version, &topic);
            seen.insert(row.key);
            for round in 0..=MUTANTS {
                let mutant =
                    if round == 0 { real.clone() } else { bad_frames::mutate(&real, &mut random) };
                let name = format!("{} v{version}, mutant {round} of seed {seed}", row.name);
                attack(&witness, &name, &mutant);
            }
        }
        witness.is_well(row.name);
    }
    assert_eq!(seen.len(), TABLE.len());
}

/// Sends a frame and sees the connection end, or the request behind it answered.
fn attack(witness: &Witness, name: &str, bytes: &Bytes) {
    let mut victim = witness.victim();
    let behind = frame(0, 77, &ApiVersionsRequest::default());
    // A mutant may ask to wait for minutes: then the broker must notice that nobody waits for the answer.
    let sent = victim.send_raw(bytes).and_then(|()| victim.send_raw(&behind));
    if sent.and_then(|()| victim.finish_sending()).is_err() {
        return; // closed already, which is an answer
    }
    loop {
        match victim.receive() {
            Ok(answer) if answer.starts_with(&[0, 0, 0, 77]) => return,
            Ok(_) => {}
            Err(error) => {
                let waited = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!waited, "{name}: neither answered nor closed: {bytes:?}");
                return;
            }
        }
    }
}

/// What the APIs say of themselves is what they take: nothing is advertised that a client cannot send.
#[test]
fn every_advertised_version_of_a_real_request_is_answered() {
    let broker = broker(&["auto.create.topics.enable=false"]);
    let mut client = Connection::open(broker.kafka);
    let topic = fresh("advertised");
    client.create_topic(&topic, 1, &[]);
    let advertised = client.ask(
        3,
        &ApiVersionsRequest::default()
            .with_client_software_name(text("millrace-tests"))
            .with_client_software_version(text("1")),
    );
    assert_eq!(advertised.api_keys.len(), TABLE.len());
    for shown in advertised.api_keys {
        let row = TABLE.iter().find(|row| row.key.code() == shown.api_key).unwrap();
        assert_eq!(
            (shown.min_version, shown.max_version),
            (row.min_shown, row.max),
            "{}",
            row.name
        );
        for version in row.min..=row.max {
            client.send_raw(&bad_frames::real(row.key, version, &topic)).unwrap();
            let answer =
                client.receive().unwrap_or_else(|e| panic!("{} v{version}: {e}", row.name));
            assert!(answer.starts_with(&bad_frames::CORRELATION.to_be_bytes()), "{}", row.name);
        }
    }
}
