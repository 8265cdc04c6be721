//! What members of a consumer group tell each other through the coordinator: Kafka's `ConsumerProtocolSubscription` and
//! `ConsumerProtocolAssignment` as bytes, and the two ways of assigning that every client knows.
//!
//! ```text
//! subscription  version i16; topics [string]; user data bytes
//!               1: owned partitions [string, [i32]];  2: generation i32;  3: rack string
//! assignment    version i16; partitions [string, [i32]]; user data bytes
//! string        length i16 (-1: null), UTF-8          bytes  length i32 (-1: null)          [x]  count i32, x...
//! ```
//! Big-endian; on the wire between clients of many makers: never reuse. A reader takes what it knows of a newer version
//! and ignores what follows, as Kafka's `ConsumerProtocol` does. The coordinator itself never looks inside.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

/// The newest version of both; what a newer one adds is ignored.
pub const VERSION_MAX: i16 = 3;

/// Partition indexes by topic.
pub type Partitions = BTreeMap<String, Vec<i32>>;

/// What a member tells the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub topics: Vec<String>,
    pub user_data: Option<Bytes>,
    /// What a cooperative member holds on to while it rejoins; from version 1 on.
    pub owned: Partitions,
    /// When it was given `owned`; -1 if it says nothing. From version 2 on.
    pub generation: i32,
    /// From version 3 on.
    pub rack: Option<String>,
}

/// What the leader tells a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub topics: Partitions,
    pub user_data: Option<Bytes>,
}

/// Why bytes are neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConsumerProtocol {
    #[error("version {version} is below 0")]
    Version { version: i16 },
    #[error("the bytes end before their fields do")]
    Truncated,
    #[error("a length or count of {length} is illegal")]
    Length { length: i32 },
    #[error("a name is no UTF-8")]
    Text,
}

impl Subscription {
    /// A member that wants `topics` and holds on to nothing.
    pub fn to(topics: Vec<String>) -> Self {
        Self { topics, user_data: None, owned: Partitions::new(), generation: -1, rack: None }
    }

    /// The bytes of `version`; what it lacks is left out.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(version);
        out.put_i32(self.topics.len() as i32);
        self.topics.iter().for_each(|topic| put_text(&mut out, topic));
        put_bytes(&mut out, self.user_data.as_ref());
        if version >= 1 {
            put_partitions(&mut out, &self.owned);
        }
        if version >= 2 {
            out.put_i32(self.generation);
        }
        if version >= 3 {
            match &self.rack {
                Some(rack) => put_text(&mut out, rack),
                None => out.put_i16(-1),
            }
        }
        out.freeze()
    }

    /// # Errors
    /// [`InvalidConsumerProtocol`] says where the bytes break the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidConsumerProtocol> {
        let (version, mut cursor) = Cursor::open(bytes)?;
        let mut topics = Vec::new();
        for _ in 0..cursor.count()? {
            topics.push(cursor.text()?);
        }
        let mut read = Self { user_data: cursor.bytes()?, ..Self::to(topics) };
        if version >= 1 {
            read.owned = cursor.partitions()?;
        }
        if version >= 2 {
            read.generation = cursor.i32()?;
        }
        if version >= 3 {
            read.rack = cursor.text_or_null()?;
        }
        Ok(read)
    }
}

impl Assignment {
    /// The bytes of `version`, which differ in the version alone.
    pub fn encode(&self, version: i16) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(version);
        put_partitions(&mut out, &self.topics);
        put_bytes(&mut out, self.user_data.as_ref());
        out.freeze()
    }

    /// Nothing at all is an empty assignment: what a member gets whom its leader did not name.
    ///
    /// # Errors
    /// [`InvalidConsumerProtocol`] says where the bytes break the format.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidConsumerProtocol> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (_, mut cursor) = Cursor::open(bytes)?;
        Ok(Self { topics: cursor.partitions()?, user_data: cursor.bytes()? })
    }
}

/// A way of assigning partitions; members of one group agree on one by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    Range,
    RoundRobin,
}

/// A member as an assignor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subscriber<'a> {
    pub member: &'a str,
    /// A static member's lasting name, which orders it instead of its id, so that a restart changes nothing.
    pub instance: Option<&'a str>,
    pub topics: &'a [String],
}

impl Assignor {
    pub const ALL: [Self; 2] = [Self::Range, Self::RoundRobin];

    /// Kafka's name (`ConsumerPartitionAssignor.name`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Gives every partition of the subscribed topics to one of their subscribers; answers in the order of `members`.
    ///
    /// A topic that `partition_counts` does not name has no partitions.
    pub fn assign(
        self,
        members: &[Subscriber<'_>],
        partition_counts: &BTreeMap<String, i32>,
    ) -> Vec<Partitions> {
        let mut ranked: Vec<Ranked<'_>> = members
            .iter()
            .enumerate()
            .map(|(at, it)| Ranked { at, topics: it.topics.iter().map(String::as_str).collect() })
            .collect();
        ranked.sort_by(|a, b| members[a.at].rank(&members[b.at]));
        let mut assigned = vec![Partitions::new(); members.len()];
        match self {
            Self::Range => assign_ranges(&ranked, partition_counts, &mut assigned),
            Self::RoundRobin => assign_in_turn(&ranked, partition_counts, &mut assigned),
        }
        assigned
    }
}

impl Subscriber<'_> {
    /// Static members first, by their lasting names, then the others by their ids (`MemberInfo.compareTo`).
    fn rank(&self, other: &Self) -> Ordering {
        match (self.instance, other.instance) {
            (Some(mine), Some(theirs)) => mine.cmp(theirs),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.member.cmp(other.member),
        }
    }
}

/// A member in its place.
struct Ranked<'a> {
    /// Its place among the members as they were given.
    at: usize,
    topics: BTreeSet<&'a str>,
}

/// For each topic a run of partitions for each subscriber; the first ones get one more (`RangeAssignor`).
fn assign_ranges(
    ranked: &[Ranked<'_>],
    partition_counts: &BTreeMap<String, i32>,
    assigned: &mut [Partitions],
) {
    for (topic, count) in partition_counts {
        let subscribers = || ranked.iter().filter(|it| it.topics.contains(topic.as_str()));
        let subscriber_count = subscribers().count() as i32;
        let mut next = 0;
        for (rank, member) in (0..).zip(subscribers()) {
            let more = i32::from(rank < count % subscriber_count);
            let run = next..next + count / subscriber_count + more;
            next = run.end;
            if !run.is_empty() {
                assigned[member.at].insert(topic.clone(), run.collect());
            }
        }
    }
}

/// All partitions of all topics in order, dealt out to the members in turn (`RoundRobinAssignor`).
fn assign_in_turn(
    ranked: &[Ranked<'_>],
    partition_counts: &BTreeMap<String, i32>,
    assigned: &mut [Partitions],
) {
    let mut turn = ranked.iter().cycle();
    for (topic, count) in partition_counts {
        let wants = |member: &&Ranked<'_>| member.topics.contains(topic.as_str());
        if !ranked.iter().any(|member| wants(&member)) {
            continue;
        }
        for partition in 0..*count {
            let member = turn.find(wants).expect("somebody wants the topic");
            assigned[member.at].entry(topic.clone()).or_default().push(partition);
        }
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

fn put_bytes(out: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        Some(bytes) => {
            out.put_i32(bytes.len() as i32);
            out.put_slice(bytes);
        }
        None => out.put_i32(-1),
    }
}

fn put_partitions(out: &mut BytesMut, partitions: &Partitions) {
    out.put_i32(partitions.len() as i32);
    for (topic, indexes) in partitions {
        put_text(out, topic);
        out.put_i32(indexes.len() as i32);
        indexes.iter().for_each(|index| out.put_i32(*index));
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn open(bytes: &'a [u8]) -> Result<(i16, Self), InvalidConsumerProtocol> {
        let mut cursor = Self(bytes);
        let version = cursor.i16()?;
        if version < 0 {
            return Err(InvalidConsumerProtocol::Version { version });
        }
        Ok((version, cursor))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidConsumerProtocol> {
        let (head, rest) =
            self.0.split_first_chunk::<N>().ok_or(InvalidConsumerProtocol::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn i16(&mut self) -> Result<i16, InvalidConsumerProtocol> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, InvalidConsumerProtocol> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// How many elements follow; each has bytes of its own, so nothing is allocated by this number.
    fn count(&mut self) -> Result<i32, InvalidConsumerProtocol> {
        let length = self.i32()?;
        if length < 0 { Err(InvalidConsumerProtocol::Length { length }) } else { Ok(length) }
    }

    fn slice(&mut self, length: i32) -> Result<Option<&'a [u8]>, InvalidConsumerProtocol> {
        if length == -1 {
            return Ok(None);
        }
        let wanted = usize::try_from(length);
        let wanted = wanted.map_err(|_| InvalidConsumerProtocol::Length { length })?;
        let split = self.0.split_at_checked(wanted);
        let (head, rest) = split.ok_or(InvalidConsumerProtocol::Truncated)?;
        self.0 = rest;
        Ok(Some(head))
    }

    fn bytes(&mut self) -> Result<Option<Bytes>, InvalidConsumerProtocol> {
        let length = self.i32()?;
        Ok(self.slice(length)?.map(Bytes::copy_from_slice))
    }

    fn text_or_null(&mut self) -> Result<Option<String>, InvalidConsumerProtocol> {
        let length = self.i16()?.into();
        let Some(bytes) = self.slice(length)? else { return Ok(None) };
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidConsumerProtocol::Text)?;
        Ok(Some(text.to_owned()))
    }

    fn text(&mut self) -> Result<String, InvalidConsumerProtocol> {
        self.text_or_null()?.ok_or(InvalidConsumerProtocol::Length { length: -1 })
    }

    fn partitions(&mut self) -> Result<Partitions, InvalidConsumerProtocol> {
        let mut partitions = Partitions::new();
        for _ in 0..self.count()? {
            let topic = self.text()?;
            let indexes = partitions.entry(topic).or_default();
            for _ in 0..self.count()? {
                indexes.push(self.i32()?);
            }
        }
        Ok(partitions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partitions(of: &[(&str, &[i32])]) -> Partitions {
        of.iter().map(|(topic, indexes)| ((*topic).to_owned(), indexes.to_vec())).collect()
    }

    fn subscription() -> Subscription {
        Subscription {
            topics: vec!["bar".into(), "foo".into()],
            user_data: Some(Bytes::from_static(b"\x2a")),
            owned: partitions(&[("foo", &[0, 7])]),
            generation: 3,
            rack: Some("r1".into()),
        }
    }

    #[test]
    fn subscriptions_are_kafkas_bytes() {
        let topics = *b"\0\0\0\x02\0\x03bar\0\x03foo\0\0\0\x01\x2a";
        let owned = *b"\0\0\0\x01\0\x03foo\0\0\0\x02\0\0\0\0\0\0\0\x07";
        let (generation, rack) = (*b"\0\0\0\x03", *b"\0\x02r1");
        for (version, bytes) in [
            [&b"\0\0"[..], &topics].concat(),
            [&b"\0\x01"[..], &topics, &owned].concat(),
            [&b"\0\x02"[..], &topics, &owned, &generation].concat(),
            [&b"\0\x03"[..], &topics, &owned, &generation, &rack].concat(),
        ]
        .into_iter()
        .enumerate()
        {
            let mut expected = subscription();
            assert_eq!(expected.encode(version as i16), bytes, "version {version}");
            if version < 3 {
                expected.rack = None;
            }
            if version < 2 {
                expected.generation = -1;
            }
            if version < 1 {
                expected.owned.clear();
            }
            assert_eq!(Subscription::decode(&bytes), Ok(expected), "version {version}");
        }
    }

    #[test]
    fn what_clients_send_most_is_read() {
        // An eager Java consumer of today (version 3, nothing owned), and one of long ago.
        let java = b"\0\x03\0\0\0\x01\0\x03foo\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff\xff\xff";
        let eager = Subscription::to(vec!["foo".into()]);
        assert_eq!(Subscription::decode(java), Ok(eager.clone()));
        assert_eq!(eager.encode(3), &java[..]);
        let old = b"\0\0\0\0\0\x01\0\x03foo\xff\xff\xff\xff";
        assert_eq!(Subscription::decode(old), Ok(eager.clone()));
        // A version of tomorrow: what it adds is not looked at.
        let newer = [b"\0\x09", &java[2..], b"more"].concat();
        assert_eq!(Subscription::decode(&newer), Ok(eager));
    }

    #[test]
    fn assignments_are_kafkas_bytes() {
        let assignment =
            Assignment { topics: partitions(&[("a", &[1]), ("b", &[])]), user_data: None };
        let fields = *b"\0\0\0\x02\0\x01a\0\0\0\x01\0\0\0\x01\0\x01b\0\0\0\0\xff\xff\xff\xff";
        for version in 0..=VERSION_MAX {
            let bytes = [&version.to_be_bytes()[..], &fields].concat();
            assert_eq!(assignment.encode(version), bytes);
            assert_eq!(Assignment::decode(&bytes).as_ref(), Ok(&assignment));
        }
        assert_eq!(Assignment::decode(b""), Ok(Assignment::default()));
        assert_eq!(Assignment::default().encode(0), &b"\0\0\0\0\0\0\xff\xff\xff\xff"[..]);
    }

    #[test]
    fn what_breaks_the_format_is_refused() {
        use InvalidConsumerProtocol as Invalid;
        for (bytes, expected) in [
            (&b"\0"[..], Invalid::Truncated),
            (b"\xff\xff", Invalid::Version { version: -1 }),
            (b"\0\0\x7f\xff\xff\xff", Invalid::Truncated),
            (b"\0\0\xff\xff\xff\xff", Invalid::Length { length: -1 }),
            (b"\0\0\0\0\0\x01\xff\xff", Invalid::Length { length: -1 }),
            (b"\0\0\0\0\0\x01\0\x01\xff", Invalid::Text),
            (b"\0\0\0\0\0\0\xff\xff\xff\xfe", Invalid::Length { length: -2 }),
        ] {
            assert_eq!(Subscription::decode(bytes), Err(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_end_in_an_error_or_a_value(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Subscription::decode(&bytes);
            let _ = Assignment::decode(&bytes);
        }

        #[test]
        fn every_version_round_trips(
            topics in prop::collection::vec("[a-z]{1,8}", 0..5),
            owned in prop::collection::btree_map("[a-z]{1,8}", prop::collection::vec(0..100, 0..4), 0..4),
            user_data in prop::option::of(prop::collection::vec(any::<u8>(), 0..9)),
            generation in -1..9,
            rack in prop::option::of("[a-z]{0,4}"),
        ) {
            let user_data = user_data.map(Bytes::from);
            let assignment = Assignment { topics: owned.clone(), user_data: user_data.clone() };
            prop_assert_eq!(Assignment::decode(&assignment.encode(1)), Ok(assignment));
            let sent = Subscription { topics, user_data, owned, generation, rack };
            prop_assert_eq!(Subscription::decode(&sent.encode(VERSION_MAX)), Ok(sent));
        }

        #[test]
        fn every_partition_goes_to_one_subscriber(
            wishes in prop::collection::vec(prop::collection::btree_set("[a-d]", 0..4), 1..6),
            counts in prop::collection::btree_map("[a-d]", 0..9, 0..4),
        ) {
            let topics: Vec<Vec<String>> = wishes.iter().map(|it| it.iter().cloned().collect()).collect();
            let names: Vec<_> = (0..topics.len()).map(|at| format!("m{at}")).collect();
            let members: Vec<_> = names.iter().zip(&topics)
                .map(|(member, topics)| Subscriber { member, instance: None, topics })
                .collect();
            for assignor in Assignor::ALL {
                let assigned = assignor.assign(&members, &counts);
                let mut seen = Vec::new();
                for (member, mine) in members.iter().zip(&assigned) {
                    for (topic, indexes) in mine {
                        prop_assert!(member.topics.contains(topic) && !indexes.is_empty());
                        seen.extend(indexes.iter().map(|index| (topic.clone(), *index)));
                    }
                }
                seen.sort();
                let wanted = counts.iter().filter(|(topic, _)| members.iter().any(|it| it.topics.contains(topic)));
                let all: Vec<_> =
                    wanted.flat_map(|(topic, count)| (0..*count).map(|it| (topic.clone(), it))).collect();
                prop_assert_eq!(seen, all);
            }
        }
    }

    /// `members`: name, lasting name, topics. `expected`: `member topic:partition,... topic:...`.
    fn check(
        assignor: Assignor,
        members: &[(&str, Option<&str>, &[&str])],
        counts: &[(&str, i32)],
        expected: &[&str],
    ) {
        let topics: Vec<Vec<String>> =
            members.iter().map(|it| it.2.iter().map(|it| (*it).to_owned()).collect()).collect();
        let subscribers: Vec<_> = members
            .iter()
            .zip(&topics)
            .map(|((member, instance, _), topics)| Subscriber {
                member,
                instance: *instance,
                topics,
            })
            .collect();
        let counts = counts.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect();
        let assigned = assignor.assign(&subscribers, &counts);
        let text = |(member, mine): (&(&str, Option<&str>, &[&str]), &Partitions)| {
            let of = mine.iter().map(|(topic, indexes)| {
                let indexes: Vec<_> = indexes.iter().map(i32::to_string).collect();
                format!(" {topic}:{}", indexes.join(","))
            });
            format!("{}{}", member.0, of.collect::<String>())
        };
        let found: Vec<_> = members.iter().zip(&assigned).map(text).collect();
        assert_eq!(found, expected, "{}", assignor.name());
    }

    // The cases are those of Kafka's `RangeAssignorTest` and `RoundRobinAssignorTest`.
    #[test]
    fn ranges_are_those_of_kafkas_assignor() {
        let both: &[&str] = &["t1", "t2"];
        let check = |members: &[_], counts: &[_], expected: &[_]| {
            check(Assignor::Range, members, counts, expected);
        };
        check(&[("c", None, &[])], &[], &["c"]);
        check(&[("c", None, &["t1"])], &[], &["c"]);
        check(&[("c", None, &["t1"])], &[("t1", 3), ("other", 3)], &["c t1:0,1,2"]);
        check(&[("c1", None, &["t1"]), ("c2", None, &["t1"])], &[("t1", 1)], &["c1 t1:0", "c2"]);
        check(
            &[("c2", None, both), ("c1", None, both)],
            &[("t1", 3), ("t2", 3)],
            &["c2 t1:2 t2:2", "c1 t1:0,1 t2:0,1"],
        );
        check(
            &[("c1", None, &["t1"]), ("c2", None, both), ("c3", None, &["t1"])],
            &[("t1", 3), ("t2", 2)],
            &["c1 t1:0", "c2 t1:1 t2:0,1", "c3 t1:2"],
        );
        // A lasting name goes before ids, whatever the id.
        check(
            &[("a", None, &["t1"]), ("z", Some("i2"), &["t1"]), ("y", Some("i3"), &["t1"])],
            &[("t1", 4)],
            &["a t1:3", "z t1:0,1", "y t1:2"],
        );
    }

    #[test]
    fn turns_are_those_of_kafkas_assignor() {
        let both: &[&str] = &["t1", "t2"];
        let check = |members: &[_], counts: &[_], expected: &[_]| {
            check(Assignor::RoundRobin, members, counts, expected);
        };
        check(&[("c", None, both)], &[("t1", 1), ("t2", 2)], &["c t1:0 t2:0,1"]);
        check(&[("c1", None, &["t1"]), ("c2", None, &["t1"])], &[("t1", 1)], &["c1 t1:0", "c2"]);
        check(
            &[("c1", None, both), ("c2", None, both)],
            &[("t1", 3), ("t2", 3)],
            &["c1 t1:0,2 t2:1", "c2 t1:1 t2:0,2"],
        );
        check(
            &[("c1", None, &["t1"]), ("c2", None, both), ("c3", None, &["t1"])],
            &[("t1", 3), ("t2", 2)],
            &["c1 t1:0", "c2 t1:1 t2:0,1", "c3 t1:2"],
        );
    }
}
