use protocol::ErrorCode;

use super::harness::{FIRST_ID, Harness, ID, TIMEOUT_MS, TV1, TV2, producer};
use crate::transaction::{TransactionConfig, TransactionState};

#[test]
fn a_new_id_gets_a_producer_and_each_request_a_higher_epoch() {
    let mut harness = Harness::new();
    assert_eq!(harness.init(None), Ok(producer(FIRST_ID, 0)));
    assert_eq!(harness.init(None), Ok(producer(FIRST_ID, 1)));
    assert_eq!(harness.init_with("other", TIMEOUT_MS, None), Ok(producer(FIRST_ID + 1, 0)));
    assert_eq!(harness.transaction().previous_producer_id, FIRST_ID);
    assert_eq!(harness.transaction().timeout_ms, TIMEOUT_MS);
    assert_eq!(harness.state(), TransactionState::Empty);
}

#[test]
fn what_is_refused() {
    let mut harness = Harness::with(TransactionConfig { max_transactional_ids: 1, ..TransactionConfig::default() });
    let long = "i".repeat(32_768);
    let cases = [
        ("", TIMEOUT_MS, ErrorCode::InvalidRequest),
        (long.as_str(), TIMEOUT_MS, ErrorCode::InvalidRequest),
        (ID, 0, ErrorCode::InvalidTransactionTimeout),
        (ID, -1, ErrorCode::InvalidTransactionTimeout),
        (ID, 900_001, ErrorCode::InvalidTransactionTimeout),
    ];
    for (id, timeout_ms, error) in cases {
        assert_eq!(harness.init_with(id, timeout_ms, None), Err(error), "{timeout_ms}");
    }
    assert!(harness.leased.is_empty(), "no producer id was taken for them");
    assert!(harness.init_with(ID, 900_000, None).is_ok());
    assert_eq!(harness.init_with("other", TIMEOUT_MS, None), Err(ErrorCode::CoordinatorNotAvailable));
    assert!(harness.init(None).is_ok(), "one that is there is no new one");
}

#[test]
fn a_client_goes_on_with_what_it_holds_and_repeats_what_it_did_not_hear() {
    let mut harness = Harness::new();
    let first = harness.init(None).expect("a producer");
    let second = harness.init(Some(first)).expect("bumped");
    assert_eq!(second, producer(FIRST_ID, 1));
    assert_eq!(harness.init(Some(first)), Ok(second), "the answer was lost");
    harness.restart();
    assert_eq!(harness.init(Some(first)), Ok(second), "the coordinator moved, too");
    let third = harness.init(Some(second)).expect("bumped");
    assert_eq!(harness.init(Some(first)), Err(ErrorCode::ProducerFenced));
    assert_eq!(harness.init(Some(producer(FIRST_ID + 7, 2))), Err(ErrorCode::ProducerFenced), "another producer id");
    let other_instance = harness.init(None).expect("bumped");
    assert_eq!(other_instance.epoch, third.epoch + 1);
    assert_eq!(harness.init(Some(third)), Err(ErrorCode::ProducerFenced), "fenced by another instance");
    assert_eq!(harness.init(Some(second)), Err(ErrorCode::ProducerFenced));
}

#[test]
fn an_id_that_expired_begins_anew_whatever_the_client_holds() {
    let mut harness = Harness::new();
    assert_eq!(harness.init(Some(producer(5, 9))), Ok(producer(FIRST_ID, 0)));
}

#[test]
fn epochs_that_are_used_up_lead_to_a_fresh_producer_id() {
    for is_known in [false, true] {
        let mut harness = Harness::new();
        harness.init(None).expect("a producer");
        harness.record(|transaction| transaction.producer_epoch = i16::MAX - 2);
        let held = harness.init(None).expect("the last epoch of a client");
        assert_eq!(held, producer(FIRST_ID, i16::MAX - 1));
        let expected = is_known.then_some(held);
        assert_eq!(harness.init(expected), Ok(producer(FIRST_ID + 1, 0)));
        assert_eq!(harness.transaction().previous_producer_id, FIRST_ID);
        let repeated = harness.init(Some(held));
        if is_known {
            assert_eq!(repeated, Ok(producer(FIRST_ID + 1, 0)), "the answer was lost");
        } else {
            assert_eq!(repeated, Err(ErrorCode::ProducerFenced), "another instance came");
        }
    }
}

#[test]
fn the_request_that_led_to_the_last_epoch_can_be_repeated() {
    let mut harness = Harness::new();
    harness.init(None).expect("a producer");
    harness.record(|transaction| transaction.producer_epoch = i16::MAX - 2);
    let held = producer(FIRST_ID, i16::MAX - 2);
    let last = harness.init(Some(held));
    assert_eq!(last, Ok(producer(FIRST_ID, i16::MAX - 1)));
    assert_eq!(harness.init(Some(held)), last);
}

#[test]
fn an_open_transaction_is_aborted_under_an_epoch_that_nobody_holds() {
    for (version, marker_version, last_epoch) in [(TV2, TV2, 0), (1, 0, -1)] {
        let config = TransactionConfig { transaction_version: version, ..TransactionConfig::default() };
        let mut harness = Harness::with(config);
        let old = harness.init(None).expect("a producer");
        assert_eq!(harness.add(old, &[0, 1], TV1), Ok(()));
        assert_eq!(harness.init(None), Err(ErrorCode::ConcurrentTransactions));
        assert_eq!(harness.state(), TransactionState::PrepareAbort);
        assert_eq!(harness.transaction().last_producer_epoch, last_epoch);
        let task = harness.markers[0].clone();
        assert_eq!((task.producer_epoch, task.commit, task.transaction_version), (1, false, marker_version));
        assert_eq!(task.partitions.len(), 2);
        assert_eq!(harness.init(None), Err(ErrorCode::ConcurrentTransactions), "until it is complete");
        assert_eq!(harness.add(old, &[0], TV1), Err(ErrorCode::ConcurrentTransactions));
        harness.complete();
        assert_eq!(harness.init(None), Ok(producer(FIRST_ID, 2)), "bumped a second time");
        assert_eq!(harness.add(old, &[0], TV1), Err(ErrorCode::ProducerFenced));
        assert_eq!(harness.end(old, true, TV1), Err(ErrorCode::ProducerFenced));
        assert_eq!(harness.end(old, true, TV2), Err(ErrorCode::ProducerFenced));
    }
}

#[test]
fn fencing_at_the_last_epoch_rotates_the_producer_id() {
    // (server's version, epoch of the markers, producer after completion)
    for (version, next) in [(TV2, producer(FIRST_ID + 1, 0)), (1, producer(FIRST_ID, i16::MAX))] {
        let config = TransactionConfig { transaction_version: version, ..TransactionConfig::default() };
        let mut harness = Harness::with(config);
        harness.init(None).expect("a producer");
        harness.record(|transaction| transaction.producer_epoch = i16::MAX - 1);
        let old = producer(FIRST_ID, i16::MAX - 1);
        assert_eq!(harness.add(old, &[0], TV1), Ok(()));
        assert_eq!(harness.init(None), Err(ErrorCode::ConcurrentTransactions));
        assert_eq!((harness.markers[0].producer_id, harness.markers[0].producer_epoch), (FIRST_ID, i16::MAX));
        harness.complete();
        assert_eq!(harness.transaction().producer(), next);
        assert!(harness.add(producer(FIRST_ID, i16::MAX), &[0], TV1).is_err(), "no client's epoch");
        let fresh = harness.init(None).expect("a producer");
        assert!(fresh.producer_id > FIRST_ID, "{fresh:?}");
    }
}

#[test]
fn a_delayed_request_does_not_abort_a_later_transaction() {
    let mut harness = Harness::new();
    let first = harness.init(None).expect("a producer");
    let second = harness.init(Some(first)).expect("bumped");
    assert_eq!(harness.add(second, &[0], TV2), Ok(()));
    assert_eq!(harness.init(Some(first)), Err(ErrorCode::ProducerFenced));
    assert_eq!(harness.state(), TransactionState::Ongoing);
    assert_eq!(harness.init(Some(second)), Err(ErrorCode::ConcurrentTransactions), "its own, it may");
    assert_eq!(harness.state(), TransactionState::PrepareAbort);
}
