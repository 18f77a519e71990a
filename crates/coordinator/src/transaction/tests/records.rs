use std::sync::Arc;

use protocol::StoredRecordError;

use super::harness::{FIRST_ID, Harness, ID, TV2};
use crate::transaction::TransactionRecord;

#[test]
fn the_records_of_a_transaction_as_kafka_would_write_them() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[1], TV2), Ok(()));
    harness.end(held, true, TV2).expect("decided");
    harness.complete();
    let hex = |record: &TransactionRecord| -> String {
        let (key, value) = record.encode().expect("encodes");
        let bytes = key.iter().chain(value.iter().flatten());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    };
    let now = "0000018bcfe56800";
    let topic = "0206746f7069630200000001";
    // Key; version, producer id, epoch, timeout, state, partitions, last update, start, tags.
    let expected = [
        format!(
            "000000027478 0001 00000000000003e8 0000 0000ea60 00 00 {now} ffffffffffffffff 01 000800000000000003e8"
        ),
        format!(
            "000000027478 0001 00000000000003e8 0000 0000ea60 01 {topic}00 {now} {now} 02 000800000000000003e8 02020002"
        ),
        format!(
            "000000027478 0001 00000000000003e8 0001 0000ea60 02 {topic}00 {now} {now} 03 000800000000000003e8 02020002 \
             f49e01020000"
        ),
        format!(
            "000000027478 0001 00000000000003e8 0001 0000ea60 04 01 {now} {now} 03 000800000000000003e8 02020002 \
             f49e01020000"
        ),
    ];
    assert_eq!(harness.log.len(), expected.len());
    for (record, expected) in harness.log.iter().zip(expected) {
        assert_eq!(hex(record), expected.replace(' ', ""));
    }
    let tombstone = TransactionRecord { transactional_id: ID.into(), value: None };
    assert_eq!(hex(&tombstone), "000000027478");
    assert_eq!(harness.transaction().producer_id, FIRST_ID);
}

#[test]
fn what_no_coordinator_writes_is_refused() {
    let mut harness = Harness::new();
    harness.init(None).expect("a producer");
    let (key, value) = harness.log[0].encode().expect("encodes");
    let value = value.expect("no tombstone");
    // Behind version, producer id, epoch and timeout.
    let state_at = 2 + 8 + 2 + 4;
    for state in [6_u8, 7, 8, 0xFF] {
        let mut changed = value.clone();
        changed[state_at] = state;
        let error = StoredRecordError::Value(i64::from(state as i8));
        assert_eq!(TransactionRecord::decode(&key, Some(&changed)), Err(error));
    }
    assert_eq!(TransactionRecord::decode(&[0, 1, 9], None), Ok(None), "of a kind that is not known");
}

#[test]
fn partitions_that_kafka_leaves_null_are_none() {
    let mut harness = Harness::new();
    harness.init(None).expect("a producer");
    let (key, value) = harness.log[0].encode().expect("encodes");
    let mut value = value.expect("no tombstone");
    value[2 + 8 + 2 + 4] = 4;
    let record = TransactionRecord::decode(&key, Some(&value)).expect("decodes").expect("a transaction");
    let metadata = record.value.expect("no tombstone");
    assert!(metadata.partitions.is_empty());
    assert_eq!(record.transactional_id, Arc::from(ID));
}
