use protocol::ErrorCode;

use super::harness::{FIRST_ID, Harness, ID, TIMEOUT_MS, TV1, TV2, producer};
use crate::transaction::timeouts::SCAN_RECORDS_MAX;
use crate::transaction::{TransactionConfig, TransactionState};

const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[0], TV2), Ok(()));
    harness.wait(i64::from(TIMEOUT_MS));
    assert_eq!(harness.state(), TransactionState::Ongoing, "not longer than its timeout yet");
    harness.wait(10_000);
    assert_eq!(harness.state(), TransactionState::PrepareAbort);
    assert_eq!((harness.markers[0].producer_epoch, harness.markers[0].commit), (1, false));
    harness.complete();
    assert_eq!(harness.end(held, true, TV2), Err(ErrorCode::InvalidTxnState), "what was aborted is not committed");
    assert_eq!(harness.end(held, false, TV2), Ok(producer(FIRST_ID, 1)), "the client catches up by aborting");
}

#[test]
fn one_that_grows_does_not_get_more_time() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    for partition in 0..7 {
        let added = harness.add(held, &[partition], TV1);
        assert_eq!(added.is_ok(), partition < 7);
        harness.wait(10_000);
    }
    assert_eq!(harness.state(), TransactionState::PrepareAbort);
}

#[test]
fn a_distributed_transaction_has_no_timeout() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[0], TV2), Ok(()));
    harness.record(|transaction| transaction.timeout_ms = i32::MAX);
    harness.wait(40 * 24 * 60 * 60 * 1_000);
    assert_eq!(harness.state(), TransactionState::Ongoing);
}

#[test]
fn the_last_epoch_is_aborted_with_a_producer_id_that_was_offered() {
    let mut harness = Harness::new();
    harness.init(None).expect("a producer");
    harness.record(|transaction| transaction.producer_epoch = i16::MAX - 1);
    assert_eq!(harness.add(producer(FIRST_ID, i16::MAX - 1), &[0], TV2), Ok(()));
    assert!(harness.wait(80_000), "it is wanted");
    assert_eq!(harness.state(), TransactionState::Ongoing);
    let offered = harness.lease();
    harness.shard.offer_producer_id(offered);
    assert!(!harness.wait(10_000));
    assert_eq!(harness.state(), TransactionState::PrepareAbort);
    harness.complete();
    assert_eq!(harness.transaction().producer(), producer(offered, 0));
}

#[test]
fn an_id_that_nobody_used_for_a_week_is_removed() {
    for commit in [None, Some(true), Some(false)] {
        let mut harness = Harness::new();
        match commit {
            Some(commit) => drop(harness.completed(commit, TV2)),
            None => drop(harness.init(None)),
        }
        harness.wait(WEEK_MS - 1);
        assert_eq!(harness.shard.transaction_count(), 1);
        harness.wait(3_600_000);
        assert_eq!(harness.shard.transaction_count(), 0, "{commit:?}");
        assert!(harness.log.last().is_some_and(|record| record.value.is_none() && &*record.transactional_id == ID));
        harness.restart();
    }
}

#[test]
fn an_open_or_decided_transaction_is_not_removed() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[0], TV2), Ok(()));
    harness.wait(3 * WEEK_MS);
    assert_eq!(harness.state(), TransactionState::PrepareAbort, "aborted, and waiting for its marker");
    harness.complete();
    harness.wait(WEEK_MS + 3_600_000);
    assert_eq!(harness.shard.transaction_count(), 0);
}

#[test]
fn scans_give_bounded_portions() {
    let mut harness = Harness::new();
    let count = SCAN_RECORDS_MAX * 2 + 1;
    for index in 0..count {
        harness.init_with(&format!("id-{index}"), TIMEOUT_MS, None).expect("a producer");
    }
    harness.advance(WEEK_MS);
    let mut left = count;
    for portion in [SCAN_RECORDS_MAX, SCAN_RECORDS_MAX, 1] {
        let output = harness.shard.on_timer(harness.now);
        assert_eq!(output.records.len(), portion);
        harness.append(&output);
        left -= portion;
        assert_eq!(harness.shard.transaction_count(), left);
        harness.advance(100);
    }
}

#[test]
fn a_portion_of_aborts_fits_a_batch() {
    let config = TransactionConfig { max_record_bytes: 1_000, ..TransactionConfig::default() };
    let mut harness = Harness::with(config);
    let held = harness.init(None).expect("a producer");
    let partitions: Vec<i32> = (0..200).collect();
    assert_eq!(harness.add(held, &partitions, TV2), Ok(()));
    harness.init_with("z", TIMEOUT_MS, None).expect("a producer");
    harness.advance(100_000);
    let output = harness.shard.on_timer(harness.now);
    assert_eq!(output.records.len(), 1);
    harness.append(&output);
    assert_eq!(harness.state(), TransactionState::PrepareAbort);
}
