//! Golden bytes made by Apache Kafka 4.3.1's own serialiser, round trips, hostile bytes.

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

const OFFSET_KEY: &str = "00010002673100066f726465727300000007";
const GROUP_KEY: &str = "000200026731";

fn committed(version: i16) -> Committed {
    let mut topic_id = TopicId::ZERO;
    if version == 4 {
        topic_id = TopicId(std::array::from_fn(|i| i as u8 + 1));
    }
    Committed {
        offset: 42,
        leader_epoch: LeaderEpoch(if version >= 3 { 5 } else { -1 }),
        metadata: "méta".into(),
        committed_at: WallMs(1_700_000_000_000),
        expires_at: (version == 1).then_some(WallMs(1_700_000_600_000)),
        topic_id,
    }
}

fn offset_record(value: Option<Committed>) -> Record {
    Record::Offset {
        group: GroupId::new("g1"),
        topic: TopicName::parse("orders").unwrap(),
        partition: PartitionIndex(7),
        value,
    }
}

#[test]
fn offsets_have_kafkas_bytes() {
    let cases = [
        (0, "0000000000000000002a00056dc3a974610000018bcfe56800"),
        (1, "0001000000000000002a00056dc3a974610000018bcfe568000000018bcfee8fc0"),
        (2, "0002000000000000002a00056dc3a974610000018bcfe56800"),
        (3, "0003000000000000002a0000000500056dc3a974610000018bcfe56800"),
        (
            4,
            "0004000000000000002a00000005066dc3a974610000018bcfe568000100100102030405060708090a0b0c0d0e0f10",
        ),
    ];
    for (version, golden) in cases {
        let record = offset_record(Some(committed(version)));
        assert_eq!(hex(&encode_offset(&committed(version), version)), golden, "version {version}");
        let decoded = decode(&unhex(OFFSET_KEY), Some(&unhex(golden))).unwrap();
        assert_eq!(decoded, Decoded::Known(record.clone()), "version {version}");
        assert_eq!(hex(&record.encode_key()), OFFSET_KEY);
    }
}

#[test]
fn a_version_4_offset_without_topic_id_is_read() {
    let golden = "0004000000000000002a00000005010000018bcfe5680000";
    let value = Committed { metadata: "".into(), topic_id: TopicId::ZERO, ..committed(4) };
    assert_eq!(hex(&encode_offset(&value, 4)), golden);
    let decoded = decode(&unhex(OFFSET_KEY), Some(&unhex(golden))).unwrap();
    assert_eq!(decoded, Decoded::Known(offset_record(Some(value))));
}

#[test]
fn offsets_are_written_in_the_oldest_version_that_can_say_it() {
    for (version, written) in [(0, 3), (1, 1), (3, 3), (4, 4)] {
        assert_eq!(offset_version(&committed(version)), written);
    }
}

fn group_value(version: i16) -> GroupValue {
    let one = MemberValue {
        member: MemberId::new("c-1"),
        instance: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: if version >= 1 { 300_000 } else { -1 },
        session_timeout_ms: 45_000,
        subscription: Bytes::from_static(&[1, 2]),
        assignment: Bytes::from_static(&[3]),
    };
    let two = MemberValue {
        member: MemberId::new("i-2"),
        instance: (version >= 3).then(|| InstanceId::new("i")),
        client_host: "/::1".into(),
        rebalance_timeout_ms: if version >= 1 { 60_000 } else { -1 },
        session_timeout_ms: 10_000,
        subscription: Bytes::new(),
        assignment: Bytes::new(),
        ..one.clone()
    };
    GroupValue {
        protocol_type: "consumer".into(),
        generation: Generation(3),
        protocol: Some("range".into()),
        leader: Some(MemberId::new("c-1")),
        state_since: (version >= 2).then_some(WallMs(1_700_000_000_123)),
        members: vec![one, two],
    }
}

fn group_record(value: Option<GroupValue>) -> Record {
    Record::Group { group: GroupId::new("g1"), value }
}

#[test]
fn groups_have_kafkas_bytes() {
    let cases = [
        "00000008636f6e73756d657200000003000572616e67650003632d31000000020003632d31000163000a2f3132372e302e302e310000afc800000002010200000001030003692d3200016300042f3a3a31000027100000000000000000",
        "00010008636f6e73756d657200000003000572616e67650003632d31000000020003632d31000163000a2f3132372e302e302e31000493e00000afc800000002010200000001030003692d3200016300042f3a3a310000ea60000027100000000000000000",
        "00020008636f6e73756d657200000003000572616e67650003632d310000018bcfe5687b000000020003632d31000163000a2f3132372e302e302e31000493e00000afc800000002010200000001030003692d3200016300042f3a3a310000ea60000027100000000000000000",
        "00030008636f6e73756d657200000003000572616e67650003632d310000018bcfe5687b000000020003632d31ffff000163000a2f3132372e302e302e31000493e00000afc800000002010200000001030003692d3200016900016300042f3a3a310000ea60000027100000000000000000",
        "000409636f6e73756d6572000000030672616e676504632d310000018bcfe5687b0304632d310002630b2f3132372e302e302e31000493e00000afc803010202030004692d3202690263052f3a3a310000ea600000271001010000",
    ];
    for (version, golden) in cases.into_iter().enumerate() {
        let version = version as i16;
        let value = group_value(version);
        assert_eq!(hex(&encode_group(&value, version)), golden, "version {version}");
        let decoded = decode(&unhex(GROUP_KEY), Some(&unhex(golden))).unwrap();
        assert_eq!(decoded, Decoded::Known(group_record(Some(value))), "version {version}");
    }
    assert_eq!(hex(&group_record(None).encode_key()), GROUP_KEY);
}

#[test]
fn an_empty_group_has_kafkas_bytes() {
    let golden = "0003000000000000ffffffff0000018bcfe5687b00000000";
    let value = GroupValue {
        protocol_type: "".into(),
        generation: Generation(0),
        protocol: None,
        leader: None,
        members: vec![],
        ..group_value(3)
    };
    let record = group_record(Some(value));
    assert_eq!(record.encode_value().map(|v| hex(&v)).as_deref(), Some(golden));
    let decoded = decode(&unhex(GROUP_KEY), Some(&unhex(golden))).unwrap();
    assert_eq!(decoded, Decoded::Known(record));
}

#[test]
fn an_absent_value_deletes() {
    for record in [offset_record(None), group_record(None)] {
        assert_eq!(record.encode_value(), None);
        assert_eq!(decode(&record.encode_key(), None).unwrap(), Decoded::Known(record));
    }
}

#[test]
fn keys_of_other_group_types_are_foreign_not_errors() {
    for version in [3i16, 8, 15, -1] {
        let decoded = decode(&version.to_be_bytes(), Some(&[0])).unwrap();
        assert_eq!(decoded, Decoded::Foreign { key_version: version });
    }
}

#[test]
fn broken_records_are_errors() {
    let value = unhex("0003000000000000002a0000000500056dc3a974610000018bcfe56800");
    let key = unhex(OFFSET_KEY);
    for cut in 0..key.len() {
        assert!(decode(&key[..cut], Some(&value)).is_err(), "key cut at {cut}");
    }
    for cut in 0..value.len() {
        assert!(decode(&key, Some(&value[..cut])).is_err(), "value cut at {cut}");
    }
    let longer = [value.as_slice(), &[0]].concat();
    assert_eq!(decode(&key, Some(&longer)), Err(RecordError::Trailing { count: 1 }));
    let mut newer = value.clone();
    newer[1] = 5;
    let what = "offset value";
    assert_eq!(decode(&key, Some(&newer)), Err(RecordError::Version { what, version: 5, max: 4 }));
    let illegal = unhex("0001000267310003612f6200000007");
    assert_eq!(decode(&illegal, None), Err(RecordError::Topic { name: "a/b".into() }));
}

#[test]
fn a_hostile_member_count_allocates_nothing() {
    // empty texts, generation 0, nulls, then 2^31 - 1 members of which none follows
    let bytes = unhex("0003000000000000ffffffff00000000000000007fffffff");
    let error = decode(&unhex(GROUP_KEY), Some(&bytes));
    assert_eq!(error, Err(RecordError::Short { field: "member" }));
}

fn text() -> impl Strategy<Value = String> {
    "[a-zé-]{0,12}"
}

prop_compose! {
    fn any_committed()(
        offset in any::<i64>(), epoch in any::<i32>(), metadata in text(), at in any::<i64>(),
        expires in proptest::option::of(0..i64::MAX), id in proptest::option::of(any::<[u8; 16]>()),
    ) -> Committed {
        // what no version can carry together is not kept
        let leader_epoch = if expires.is_some() { LeaderEpoch::NONE } else { LeaderEpoch(epoch) };
        let topic_id = if expires.is_some() { TopicId::ZERO } else { TopicId(id.unwrap_or_default()) };
        Committed {
            offset, leader_epoch, metadata: metadata.into(), committed_at: WallMs(at),
            expires_at: expires.map(WallMs), topic_id,
        }
    }
}

prop_compose! {
    fn any_member()(
        member in text(), instance in proptest::option::of(text()), client_id in text(), host in text(),
        rebalance in any::<i32>(), session in any::<i32>(),
        subscription in any::<Vec<u8>>(), assignment in any::<Vec<u8>>(),
    ) -> MemberValue {
        MemberValue {
            member: MemberId::new(&member),
            instance: instance.as_deref().map(InstanceId::new),
            client_id: client_id.into(),
            client_host: host.into(),
            rebalance_timeout_ms: rebalance,
            session_timeout_ms: session,
            subscription: subscription.into(),
            assignment: assignment.into(),
        }
    }
}

prop_compose! {
    fn any_group()(
        protocol_type in text(), generation in any::<i32>(), protocol in proptest::option::of(text()),
        leader in proptest::option::of(text()), since in proptest::option::of(0..i64::MAX),
        members in proptest::collection::vec(any_member(), 0..4),
    ) -> GroupValue {
        GroupValue {
            protocol_type: protocol_type.into(),
            generation: Generation(generation),
            protocol: protocol.map(Into::into),
            leader: leader.as_deref().map(MemberId::new),
            state_since: since.map(WallMs),
            members,
        }
    }
}

proptest! {
    #[test]
    fn records_survive_the_round_trip(
        group in text(), topic in "[a-z]{1,9}", partition in any::<i32>(),
        offset in proptest::option::of(any_committed()), value in proptest::option::of(any_group()),
    ) {
        let records = [
            Record::Offset {
                group: GroupId::new(&group),
                topic: TopicName::parse(&topic).unwrap(),
                partition: PartitionIndex(partition),
                value: offset,
            },
            Record::Group { group: GroupId::new(&group), value },
        ];
        for record in records {
            let (key, value) = (record.encode_key(), record.encode_value());
            let size = key.len() + value.as_ref().map_or(0, Vec::len);
            prop_assert!(size <= record.size_estimate() + 64, "{size} {}", record.size_estimate());
            prop_assert_eq!(decode(&key, value.as_deref()), Ok(Decoded::Known(record)));
        }
    }

    #[test]
    fn group_version_4_survives_the_round_trip(value in any_group()) {
        prop_assert_eq!(decode_group(&encode_group(&value, 4)), Ok(value));
    }

    #[test]
    fn hostile_bytes_never_panic(
        key_version in 0i16..4, key in any::<Vec<u8>>(),
        version in -1i16..6, value in any::<Vec<u8>>(),
    ) {
        let key = [&key_version.to_be_bytes()[..], &key].concat();
        let value = [&version.to_be_bytes()[..], &value].concat();
        let _ = decode(&key, Some(&value));
        let _ = decode(&unhex(OFFSET_KEY), Some(&value));
        let _ = decode(&unhex(GROUP_KEY), Some(&value));
    }

    #[test]
    fn one_flipped_byte_never_panics(value in any_group(), version in 0i16..5, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode_group(&value, version);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode_group(&bytes);
    }
}
