use protocol::ErrorCode;

use super::harness::{FIRST_ID, Harness, TV1, TV2, producer};
use crate::transaction::{ProducerIdAndEpoch, TransactionState};

/// State to end in, how it is reached.
#[derive(Clone, Copy, Debug)]
enum From {
    Empty,
    Ongoing,
    CompleteCommit,
    CompleteAbort,
}

fn reach(from: From, version: i8) -> (Harness, ProducerIdAndEpoch) {
    let mut harness = Harness::new();
    let held = match from {
        From::Empty | From::Ongoing => {
            harness.init(None).expect("a producer");
            harness.init(None).expect("bumped")
        }
        From::CompleteCommit => harness.completed(true, version),
        From::CompleteAbort => harness.completed(false, version),
    };
    if matches!(from, From::Ongoing) {
        assert_eq!(harness.add(held, &[0], version), Ok(()));
    }
    (harness, held)
}

#[test]
fn without_epoch_bumps_the_state_alone_says_what_is_repeated() {
    let none = Ok(ProducerIdAndEpoch::NONE);
    let invalid = Err(ErrorCode::InvalidTxnState);
    // (state, abort, commit)
    let cases = [
        (From::Empty, invalid, invalid),
        (From::Ongoing, none, none),
        (From::CompleteCommit, invalid, none),
        (From::CompleteAbort, none, invalid),
    ];
    for (from, abort, commit) in cases {
        for (is_commit, answer) in [(false, abort), (true, commit)] {
            let (mut harness, held) = reach(from, TV1);
            assert_eq!(harness.end(held, is_commit, TV1), answer, "{from:?}, commit {is_commit}");
            assert_eq!(harness.transaction().producer(), held, "the epoch stays");
            let before = producer(held.producer_id, held.epoch - 1);
            assert_eq!(harness.end(before, is_commit, TV1), Err(ErrorCode::ProducerFenced), "{from:?}");
        }
    }
}

#[test]
fn with_epoch_bumps_the_epoch_says_which_transaction_is_meant() {
    let fenced = Err(ErrorCode::ProducerFenced);
    let invalid = Err(ErrorCode::InvalidTxnState);
    // What is answered by the epoch that grows (1) or does not (0).
    let cases = [
        (From::Empty, false, fenced, Ok(1)),
        (From::Empty, true, fenced, invalid),
        (From::Ongoing, false, fenced, Ok(1)),
        (From::Ongoing, true, fenced, Ok(1)),
        (From::CompleteAbort, false, Ok(0), Ok(1)),
        (From::CompleteAbort, true, invalid, invalid),
        (From::CompleteCommit, false, invalid, Ok(1)),
        (From::CompleteCommit, true, Ok(0), invalid),
    ];
    for (from, is_commit, repeated, current) in cases {
        for (age, answer) in [(1, repeated), (0, current)] {
            let (mut harness, held) = reach(from, TV2);
            let records = harness.log.len();
            let request = producer(held.producer_id, held.epoch - age);
            let expected = answer.map(|grown: i16| producer(held.producer_id, held.epoch + grown));
            assert_eq!(harness.end(request, is_commit, TV2), expected, "{from:?}, commit {is_commit}, {age} before");
            assert_eq!(harness.log.len() > records, answer == Ok(1), "{from:?}, commit {is_commit}, {age} before");
        }
    }
}

#[test]
fn while_markers_are_written_the_client_is_told_to_wait() {
    for version in [TV1, TV2] {
        for is_commit in [false, true] {
            let (mut harness, held) = reach(From::Ongoing, version);
            assert!(harness.end(held, is_commit, version).is_ok());
            let wait = Err(ErrorCode::ConcurrentTransactions);
            assert_eq!(harness.end(held, is_commit, version), wait);
            assert_eq!(harness.end(held, !is_commit, version), wait, "Kafka, too, looks no further");
            let stranger = harness.end(producer(FIRST_ID + 1, 0), is_commit, version);
            let error =
                if version == TV2 { ErrorCode::ConcurrentTransactions } else { ErrorCode::InvalidProducerIdMapping };
            assert_eq!(stranger, Err(error));
        }
    }
}

#[test]
fn who_may_not() {
    for version in [TV1, TV2] {
        let mut harness = Harness::new();
        let mapping = Err(ErrorCode::InvalidProducerIdMapping);
        assert_eq!(harness.end(producer(1, 0), true, version), mapping, "no such id");
        let held = harness.init(None).expect("a producer");
        assert_eq!(harness.add(held, &[0], version), Ok(()));
        assert_eq!(harness.end(producer(FIRST_ID + 1, 0), true, version), mapping);
        for epoch in [-1, 1, i16::MAX] {
            let fenced = Err(ErrorCode::ProducerFenced);
            assert_eq!(harness.end(producer(FIRST_ID, epoch), true, version), fenced, "epoch {epoch}");
        }
        assert_eq!(harness.state(), TransactionState::Ongoing);
    }
}

#[test]
fn the_decision_carries_the_epoch_of_the_markers() {
    let (mut harness, held) = reach(From::Ongoing, TV2);
    let next = harness.end(held, true, TV2).expect("decided");
    assert_eq!(next, producer(FIRST_ID, held.epoch + 1));
    let decided = harness.transaction();
    assert_eq!((decided.producer_epoch, decided.last_producer_epoch), (held.epoch + 1, held.epoch));
    assert_eq!(decided.client_transaction_version, TV2);
    assert_eq!(harness.markers[0].producer_epoch, held.epoch + 1);
    assert_eq!(harness.markers[0].transaction_version, TV2);

    let (mut harness, held) = reach(From::Ongoing, TV1);
    assert_eq!(harness.end(held, true, 1), Ok(ProducerIdAndEpoch::NONE));
    assert_eq!(harness.transaction().client_transaction_version, 0);
    assert_eq!(harness.markers[0].producer_epoch, held.epoch);
    assert_eq!(harness.markers[0].transaction_version, 0);
}

#[test]
fn a_transaction_without_partitions_is_complete_at_once() {
    let (mut harness, held) = reach(From::Empty, TV2);
    let records = harness.log.len();
    assert_eq!(harness.end(held, false, TV2), Ok(producer(FIRST_ID, held.epoch + 1)));
    assert_eq!(harness.states_since(records), [TransactionState::PrepareAbort, TransactionState::CompleteAbort]);
    assert!(harness.markers.is_empty());
    assert_eq!(harness.transaction().start_timestamp_ms, harness.now.wall_ms);
}

#[test]
fn the_last_epoch_hands_over_to_a_fresh_producer_id() {
    for is_commit in [false, true] {
        let mut harness = Harness::new();
        harness.init(None).expect("a producer");
        harness.record(|transaction| transaction.producer_epoch = i16::MAX - 1);
        let held = producer(FIRST_ID, i16::MAX - 1);
        assert_eq!(harness.add(held, &[0], TV2), Ok(()));
        let next = producer(FIRST_ID + 1, 0);
        assert_eq!(harness.end(held, is_commit, TV2), Ok(next));
        assert_eq!(harness.transaction().next_producer_id, FIRST_ID + 1);
        assert_eq!((harness.markers[0].producer_id, harness.markers[0].producer_epoch), (FIRST_ID, i16::MAX));
        assert_eq!(harness.add(next, &[1], TV2), Err(ErrorCode::ConcurrentTransactions), "it knows already");
        harness.restart();
        harness.complete();
        assert_eq!(harness.transaction().producer(), next, "also over a crash");
        assert_eq!(harness.end(held, is_commit, TV2), Ok(next), "the answer was lost");
        assert_eq!(harness.end(held, !is_commit, TV2), Err(ErrorCode::InvalidTxnState));
        assert_eq!(harness.add(next, &[1], TV2), Ok(()));
        assert_eq!(
            harness.end(held, is_commit, TV2),
            Err(ErrorCode::InvalidProducerIdMapping),
            "later it is not heard"
        );
        assert_eq!(harness.leased.len(), 2);
    }
}

/// Jepsen's report on Bufstream (2024) showed the protocol below TV2 commit a transaction by an EndTxn of the one before.
#[test]
fn a_delayed_commit_never_decides_a_later_transaction() {
    let (mut harness, held) = reach(From::Ongoing, TV2);
    let next = harness.end(held, true, TV2).expect("decided");
    harness.complete();
    assert_eq!(harness.add(next, &[0], TV2), Ok(()));
    for is_commit in [false, true] {
        assert_eq!(harness.end(held, is_commit, TV2), Err(ErrorCode::ProducerFenced));
    }
    assert_eq!(harness.state(), TransactionState::Ongoing);
}

#[test]
fn a_fenced_producer_is_not_told_that_another_ones_commit_is_its_own() {
    let mut harness = Harness::new();
    let fenced = harness.init(None).expect("a producer");
    let other = harness.init(None).expect("another instance");
    assert_eq!(harness.add(other, &[0], TV1), Ok(()));
    assert!(harness.end(other, true, TV1).is_ok());
    harness.complete();
    assert_eq!(harness.end(fenced, true, TV2), Err(ErrorCode::ProducerFenced));
}

#[test]
fn what_could_not_be_appended_has_not_happened() {
    let (mut harness, held) = reach(From::Ongoing, TV2);
    let request = crate::transaction::TransactionRequest::EndTxn {
        producer: super::harness::of(super::harness::ID, held),
        commit: true,
        client_transaction_version: TV2,
    };
    let lost = harness.try_request(&request);
    assert_eq!((lost.records.len(), lost.markers.len()), (1, 1));
    assert_eq!(harness.state(), TransactionState::Ongoing);
    assert!(harness.shard.pending_markers().is_empty());
    assert!(harness.end(held, false, TV2).is_ok(), "it may still be aborted");
}
