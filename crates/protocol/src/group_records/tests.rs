//! The hexadecimal strings were written by the generated classes of Apache Kafka 4.3.1
//! (`MessageUtil.toVersionPrefixedByteBuffer`).

use super::consumer::{
    ConsumerGroupValue, ConsumerMemberValue, CurrentAssignmentValue, RegexValue, TopicPartitionsValue,
};
use super::*;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

const OFFSET_KEY: &str = "0001000267310005746f70696300000007";
const OFFSET_VALUES: [&str; 5] = [
    "00000000011f71fb04cb00046d6574610000018bcfe56800",
    "00010000011f71fb04cb00046d6574610000018bcfe568000000018bcfe58f0f",
    "00020000011f71fb04cb00046d6574610000018bcfe56800",
    "00030000011f71fb04cb0000000500046d6574610000018bcfe56800",
    "00040000011f71fb04cb00000005056d6574610000018bcfe568000100100102030405060708090a0b0c0d0e0f10",
];
const GROUP_VALUES: [&str; 5] = [
    "00000008636f6e73756d657200000003000572616e676500026d310000000200026d31000163000a2f3132372e302e302e310000afc80000000301020300000002040500026d32000000022f68000027100000000000000000",
    "00010008636f6e73756d657200000003000572616e676500026d310000000200026d31000163000a2f3132372e302e302e31000493e00000afc80000000301020300000002040500026d32000000022f680000ea60000027100000000000000000",
    "00020008636f6e73756d657200000003000572616e676500026d310000018bcfe568010000000200026d31000163000a2f3132372e302e302e31000493e00000afc80000000301020300000002040500026d32000000022f680000ea60000027100000000000000000",
    "00030008636f6e73756d657200000003000572616e676500026d310000018bcfe568010000000200026d3100026931000163000a2f3132372e302e302e31000493e00000afc80000000301020300000002040500026d32ffff000000022f680000ea60000027100000000000000000",
    "000409636f6e73756d6572000000030672616e6765036d310000018bcfe5680103036d3103693102630b2f3132372e302e302e31000493e00000afc80401020303040500036d320001032f680000ea600000271001010000",
];

fn offset_value(version: i16) -> OffsetValue {
    OffsetValue {
        offset: 1_234_567_890_123,
        leader_epoch: if version >= 3 { 5 } else { -1 },
        metadata: "meta".into(),
        commit_timestamp: 1_700_000_000_000,
        expire_timestamp: if version == 1 { 1_700_000_009_999 } else { -1 },
        topic_id: if version >= 4 { Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10) } else { Uuid::nil() },
    }
}

fn group_value(version: i16) -> GroupValue {
    let first = MemberValue {
        member_id: "m1".into(),
        group_instance_id: (version >= 3).then(|| "i1".into()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: if version >= 1 { 300_000 } else { 45_000 },
        session_timeout_ms: 45_000,
        subscription: vec![1, 2, 3],
        assignment: vec![4, 5],
    };
    let second = MemberValue {
        member_id: "m2".into(),
        group_instance_id: None,
        client_id: String::new(),
        client_host: "/h".into(),
        rebalance_timeout_ms: if version >= 1 { 60_000 } else { 10_000 },
        session_timeout_ms: 10_000,
        subscription: Vec::new(),
        assignment: Vec::new(),
    };
    GroupValue {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("m1".into()),
        state_timestamp: if version >= 2 { 1_700_000_000_001 } else { -1 },
        members: vec![first, second],
    }
}

#[test]
fn offsets_as_kafka_writes_them() {
    let key = OffsetKey { group: "g1".into(), topic: "topic".into(), partition: 7 };
    assert_eq!(key.encode(), Ok(unhex(OFFSET_KEY)));
    for (version, hex) in (0..).zip(OFFSET_VALUES) {
        let value = offset_value(version);
        assert_eq!(value.encode_version(version), Ok(unhex(hex)), "v{version}");
        let decoded = GroupRecord::decode(&unhex(OFFSET_KEY), Some(&unhex(hex)));
        assert_eq!(decoded, Ok(GroupRecord::Offset(key.clone(), Some(value))), "v{version}");
    }
    assert_eq!(offset_value(4).encode(), Ok(unhex(OFFSET_VALUES[4])));
    assert_eq!(offset_value(1).encode(), Ok(unhex(OFFSET_VALUES[1])));
    let bare = OffsetValue {
        offset: 1,
        leader_epoch: -1,
        metadata: String::new(),
        commit_timestamp: 2,
        expire_timestamp: -1,
        topic_id: Uuid::nil(),
    };
    assert_eq!(bare.encode(), Ok(unhex("00040000000000000001ffffffff01000000000000000200")));
}

#[test]
fn groups_as_kafka_writes_them() {
    let key = unhex("000200026731");
    assert_eq!(encode_group_key("g1"), Ok(key.clone()));
    for (version, hex) in (0..).zip(GROUP_VALUES) {
        let value = group_value(version);
        assert_eq!(value.encode_version(version), Ok(unhex(hex)), "v{version}");
        assert_eq!(GroupRecord::decode(&key, Some(&unhex(hex))), Ok(GroupRecord::Group("g1".into(), Some(value))));
    }
    assert_eq!(group_value(3).encode(), Ok(unhex(GROUP_VALUES[3])));
    let empty = GroupValue {
        protocol_type: String::new(),
        generation: 0,
        protocol: None,
        leader: None,
        state_timestamp: 9,
        members: Vec::new(),
    };
    assert_eq!(empty.encode(), Ok(unhex("0003000000000000ffffffff000000000000000900000000")));
}

#[test]
fn tombstones_and_unknown_types() {
    let key = OffsetKey { group: "g1".into(), topic: "topic".into(), partition: 7 };
    assert_eq!(GroupRecord::decode(&unhex(OFFSET_KEY), None), Ok(GroupRecord::Offset(key, None)));
    assert_eq!(GroupRecord::decode(&unhex("000200026731"), None), Ok(GroupRecord::Group("g1".into(), None)));
    // ConsumerGroupMetadata (type 3) and whatever may come.
    assert_eq!(GroupRecord::decode(&unhex("000b00026731"), Some(b"x")), Ok(GroupRecord::Other(11)));
    assert_eq!(GroupRecord::decode(&unhex("7fff"), None), Ok(GroupRecord::Other(i16::MAX)));
}

#[test]
fn hostile_bytes_are_errors() {
    let key = unhex("000200026731");
    for len in 0..key.len() {
        assert!(GroupRecord::decode(&key[..len], None).is_err());
    }
    assert_eq!(GroupRecordKey::decode(&unhex("00020002673100")), Err(StoredRecordError::Surplus));
    assert_eq!(GroupRecordKey::decode(&unhex("00020001ff")), Err(StoredRecordError::NotUtf8));
    for hex in OFFSET_VALUES.iter().chain(&GROUP_VALUES) {
        let value = unhex(hex);
        for len in 0..value.len() {
            let whole_is_offset = OFFSET_VALUES.contains(hex);
            let cut = &value[..len];
            let refused =
                if whole_is_offset { OffsetValue::decode(cut).is_err() } else { GroupValue::decode(cut).is_err() };
            assert!(refused, "{hex} cut to {len}");
        }
        // Every single-byte change is an error or another value, never a panic or a huge allocation.
        for at in 0..value.len() {
            for byte in [0x00, 0x7F, 0x80, 0xFF] {
                let mut changed = value.clone();
                changed[at] = byte;
                let _ = OffsetValue::decode(&changed);
                let _ = GroupValue::decode(&changed);
            }
        }
    }
    assert_eq!(OffsetValue::decode(&unhex("0005")), Err(StoredRecordError::Version(5)));
    let huge_count = unhex("0003000000000000ffffffff00000000000000097fffffff");
    assert_eq!(GroupValue::decode(&huge_count), Err(StoredRecordError::Truncated));
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    let mut value = unhex("00040000000000000001ffffffff010000000000000002");
    value.extend_from_slice(&[1, 5, 2, 0xAA, 0xBB]);
    assert_eq!(OffsetValue::decode(&value).expect("decodes").offset, 1);
}

#[test]
fn too_long_a_string_is_refused_on_writing() {
    assert_eq!(encode_group_key(&"g".repeat(32768)), Err(StoredRecordError::TooLong));
}

/// Records of consumer groups with key and value, as the generated classes of Apache Kafka 4.3.1 write them.
fn consumer_records() -> Vec<(ConsumerRecord, &'static str, &'static str)> {
    let topic_id = Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let topics = |partitions: &[i32]| vec![TopicPartitionsValue { topic_id, partitions: partitions.to_vec() }];
    let (group, member) = (|| "g1".to_owned(), || "m1".to_owned());
    let metadata = ConsumerMemberValue {
        instance_id: Some("i1".into()),
        rack_id: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        topic_names: vec!["t1".into(), "t2".into()],
        topic_regex: Some("t.*".into()),
        rebalance_timeout_ms: 300_000,
        server_assignor: Some("uniform".into()),
    };
    let current = CurrentAssignmentValue {
        epoch: 7,
        previous_epoch: 6,
        state: 1,
        assigned: topics(&[0]),
        pending_revocation: topics(&[2]),
    };
    let regex = RegexValue { topics: vec!["t1".into()], version: 9, timestamp: 1_700_000_000_000 };
    let value = |metadata_hash| ConsumerGroupValue { epoch: 7, metadata_hash };
    vec![
        (
            ConsumerRecord::Group(group(), Some(value(0x0102_0304_0506_0708))),
            "000300026731",
            "0000000000070100080102030405060708",
        ),
        (ConsumerRecord::Group(group(), Some(value(0))), "000300026731", "00000000000700"),
        (
            ConsumerRecord::Member(group(), member(), Some(metadata)),
            "00050002673100026d31",
            "00000369310002630b2f3132372e302e302e310303743103743204742e2a000493e008756e69666f726d00",
        ),
        (ConsumerRecord::TargetEpoch(group(), Some(7)), "000600026731", "00000000000700"),
        (
            ConsumerRecord::Target(group(), member(), Some(topics(&[0, 2]))),
            "00070002673100026d31",
            "0000020102030405060708090a0b0c0d0e0f100300000000000000020000",
        ),
        (
            ConsumerRecord::Current(group(), member(), Some(current)),
            "00080002673100026d31",
            "0000000000070000000601020102030405060708090a0b0c0d0e0f10020000000000020102030405060708090a0b0c0d0e0f1002000000020000",
        ),
        (
            ConsumerRecord::Regex(group(), "t.*".into(), Some(regex)),
            "0010000267310003742e2a",
            "00000203743100000000000000090000018bcfe5680000",
        ),
    ]
}

#[test]
fn records_of_consumer_groups_are_kafkas_bytes() {
    for (record, key, value) in consumer_records() {
        let (key, value) = (unhex(key), unhex(value));
        assert_eq!(record.encode(), Ok((key.clone(), Some(value.clone()))), "{record:?}");
        assert_eq!(GroupRecord::decode(&key, Some(&value)), Ok(GroupRecord::Consumer(record.clone())));
        for end in 0..value.len() {
            assert!(GroupRecord::decode(&key, Some(&value[..end])).is_err(), "{record:?}, {end} bytes");
        }
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] = 0xff;
            // An error, or another value; never a panic.
            let _ = GroupRecord::decode(&key, Some(&damaged));
        }
    }
}

#[test]
fn tombstones_of_consumer_groups_are_read() {
    let key = unhex("00080002673100026d31");
    let gone = ConsumerRecord::Current("g1".into(), "m1".into(), None);
    assert_eq!(gone.encode(), Ok((key.clone(), None)));
    assert_eq!(GroupRecord::decode(&key, None), Ok(GroupRecord::Consumer(gone)));
}
