//! The hexadecimal strings were written by the generated classes of Apache Kafka 4.3.1
//! (`MessageUtil.toVersionPrefixedBytes`); the one with Ottla's own field was read and written back by them.

use super::*;

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

const KEY: &str = "0000000474782d31";
const VERSION_0: &str = "00000000000000000fa000070000ea60020000000200066f726465727300000002000000000000000300017400000001000001020000018bcfe568010000018bcfe56800";
const VERSION_1: &str = "00010000000000000fa000070000ea600203076f72646572730300000000000000030002740200000102000000018bcfe568010000018bcfe568000300080000000000000f9f0108000000000000138802020002";
const WITH_NEXT_EPOCH: &str = "00010000000000000fa000070000ea600203076f72646572730300000000000000030002740200000102000000018bcfe568010000018bcfe568000400080000000000000f9f010800000000000013880202000203020009";
const WITH_LAST_EPOCH: &str = "00010000000000000fa000070000ea600203076f72646572730300000000000000030002740200000102000000018bcfe568010000018bcfe568000400080000000000000f9f0108000000000000138802020002f49e01020006";
const EMPTY_0: &str = "0000000000000000000100000000000a00ffffffff0000000000000002ffffffffffffffff";
const EMPTY_1: &str = "0001000000000000000100000000000a00000000000000000002ffffffffffffffff00";
const NO_PARTITIONS: &str = "0001000000000000000100000000000a04010000000000000002ffffffffffffffff00";
const VALUES: [&str; 7] = [VERSION_0, VERSION_1, WITH_NEXT_EPOCH, WITH_LAST_EPOCH, EMPTY_0, EMPTY_1, NO_PARTITIONS];

/// What version 0 can say of it.
fn value() -> TransactionValue {
    TransactionValue {
        producer_id: 4_000,
        previous_producer_id: -1,
        next_producer_id: -1,
        producer_epoch: 7,
        next_producer_epoch: -1,
        last_producer_epoch: -1,
        timeout_ms: 60_000,
        state: 2,
        partitions: Some(vec![
            TopicPartitionsValue { topic: "orders".into(), partitions: vec![0, 3] },
            TopicPartitionsValue { topic: "t".into(), partitions: vec![258] },
        ]),
        last_update_timestamp: 1_700_000_000_001,
        start_timestamp: 1_700_000_000_000,
        client_transaction_version: 0,
    }
}

fn tagged() -> TransactionValue {
    TransactionValue { previous_producer_id: 3_999, next_producer_id: 5_000, client_transaction_version: 2, ..value() }
}

fn empty() -> TransactionValue {
    TransactionValue {
        producer_id: 1,
        producer_epoch: 0,
        timeout_ms: 10,
        state: 0,
        partitions: None,
        last_update_timestamp: 2,
        start_timestamp: -1,
        ..value()
    }
}

fn decoded(hex: &str) -> Result<TransactionValue, StoredRecordError> {
    TransactionValue::decode(&unhex(hex))
}

#[test]
fn keys_as_kafka_writes_them() {
    assert_eq!(encode_transaction_key("tx-1"), Ok(unhex(KEY)));
    assert_eq!(TransactionRecordKey::decode(&unhex(KEY)), Ok(TransactionRecordKey::Transaction("tx-1".into())));
    assert_eq!(encode_transaction_key(&"t".repeat(32_768)), Err(StoredRecordError::TooLong));
}

#[test]
fn values_as_kafka_writes_them() {
    let none = TransactionValue { state: 4, partitions: Some(Vec::new()), ..empty() };
    let next = TransactionValue { next_producer_epoch: 9, ..tagged() };
    let last = TransactionValue { last_producer_epoch: 6, ..tagged() };
    let cases = [
        (0, value(), VERSION_0),
        (1, tagged(), VERSION_1),
        (1, next, WITH_NEXT_EPOCH),
        (1, last, WITH_LAST_EPOCH),
        (0, empty(), EMPTY_0),
        (1, empty(), EMPTY_1),
        (1, none, NO_PARTITIONS),
    ];
    for (version, value, hex) in cases {
        assert_eq!(value.encode_version(version), Ok(unhex(hex)), "{value:?}");
        assert_eq!(decoded(hex), Ok(value), "{hex}");
    }
    assert_eq!(tagged().encode(), Ok(unhex(VERSION_1)), "version 1 is what is written");
}

#[test]
fn tombstones_and_unknown_types() {
    let whole = TransactionLogRecord::decode(&unhex(KEY), Some(&unhex(VERSION_1)));
    assert_eq!(whole, Ok(TransactionLogRecord::Transaction("tx-1".into(), Some(tagged()))));
    let tombstone = TransactionLogRecord::decode(&unhex(KEY), None);
    assert_eq!(tombstone, Ok(TransactionLogRecord::Transaction("tx-1".into(), None)));
    let other = TransactionLogRecord::decode(&unhex("000100026731"), Some(b"x"));
    assert_eq!(other, Ok(TransactionLogRecord::Other(1)));
    assert_eq!(decoded("0002"), Err(StoredRecordError::Version(2)));
    assert_eq!(decoded("ffff"), Err(StoredRecordError::Version(-1)));
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    let mut bytes = unhex(EMPTY_1);
    bytes.pop();
    bytes.extend_from_slice(&[1, 99, 2, 0xAA, 0xBB]);
    assert_eq!(TransactionValue::decode(&bytes), Ok(empty()));
}

#[test]
fn a_tagged_field_of_another_length_is_refused() {
    for (length, field) in [(1, vec![0]), (3, vec![0, 2, 0])] {
        let mut bytes = unhex(EMPTY_1);
        bytes.pop();
        bytes.extend_from_slice(&[1, 2, length]);
        bytes.extend_from_slice(&field);
        assert!(TransactionValue::decode(&bytes).is_err(), "{length} bytes");
    }
}

#[test]
fn hostile_bytes_are_errors() {
    let key = unhex(KEY);
    (0..key.len()).for_each(|len| assert!(TransactionRecordKey::decode(&key[..len]).is_err(), "key cut to {len}"));
    assert_eq!(TransactionRecordKey::decode(&unhex("00000001ff")), Err(StoredRecordError::NotUtf8));
    assert_eq!(TransactionRecordKey::decode(&unhex("0000000474782d3100")), Err(StoredRecordError::Surplus));
    for hex in VALUES {
        let value = unhex(hex);
        for len in 0..value.len() {
            assert!(TransactionValue::decode(&value[..len]).is_err(), "{hex} cut to {len}");
        }
        let mut longer = value.clone();
        longer.push(0);
        assert!(TransactionValue::decode(&longer).is_err(), "{hex} and a byte");
        // Every single-byte change is an error or another value, never a panic or a huge allocation.
        for at in 0..value.len() {
            for byte in [0x00, 0x7F, 0x80, 0xFF] {
                let mut changed = value.clone();
                changed[at] = byte;
                if let Ok(decoded) = TransactionValue::decode(&changed) {
                    let again = decoded.encode().expect("what was read can be written");
                    assert_eq!(TransactionValue::decode(&again), Ok(decoded));
                }
            }
        }
    }
    // Two thousand million topics, and as many partitions of one.
    assert_eq!(decoded("0000000000000000000100000000000a027fffffff"), Err(StoredRecordError::Truncated));
    assert_eq!(decoded("0000000000000000000100000000000a020000000100017c7fffffff"), Err(StoredRecordError::Truncated));
}
