use protocol::ErrorCode;

use super::harness::{FIRST_ID, Harness, ID, TV1, TV2, of, partitions, producer};
use crate::transaction::{TransactionConfig, TransactionRequest, TransactionResponse, TransactionState};

#[test]
fn the_first_partition_begins_a_transaction_and_others_join_it() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[1], TV2), Ok(()));
    let begun_ms = harness.now.wall_ms;
    assert_eq!(harness.transaction().start_timestamp_ms, begun_ms);
    harness.advance(10);
    let records = harness.log.len();
    assert_eq!(harness.add(held, &[1], TV2), Ok(()));
    assert_eq!(harness.log.len(), records, "one that is in it needs no record");
    assert_eq!(harness.add(held, &[0, 1], TV2), Ok(()));
    let transaction = harness.transaction();
    assert_eq!(transaction.state, TransactionState::Ongoing);
    assert_eq!(transaction.partitions.to_list(), partitions("topic", &[0, 1]));
    assert_eq!((transaction.start_timestamp_ms, transaction.last_update_timestamp_ms), (begun_ms, begun_ms + 10));
    assert_eq!(transaction.client_transaction_version, TV2);
}

#[test]
fn who_may_not() {
    let mut harness = Harness::new();
    let unknown = producer(FIRST_ID, 0);
    assert_eq!(harness.add(unknown, &[0], TV1), Err(ErrorCode::InvalidProducerIdMapping), "no such id");
    let held = harness.init(None).expect("a producer");
    let cases = [
        (producer(FIRST_ID + 1, 0), ErrorCode::InvalidProducerIdMapping),
        (producer(FIRST_ID, 1), ErrorCode::ProducerFenced),
        (producer(FIRST_ID, -1), ErrorCode::ProducerFenced),
    ];
    for (who, error) in cases {
        assert_eq!(harness.add(who, &[0], TV1), Err(error), "{who:?}");
    }
    let unnamed = TransactionRequest::AddPartitions {
        producer: of("", held),
        partitions: partitions("topic", &[0]),
        client_transaction_version: TV1,
    };
    assert_eq!(harness.request(&unnamed), TransactionResponse::AddPartitions(Err(ErrorCode::InvalidRequest)));
    let nowhere = TransactionRequest::AddPartitions {
        producer: of(ID, held),
        partitions: partitions(&"t".repeat(250), &[0]),
        client_transaction_version: TV1,
    };
    assert_eq!(harness.request(&nowhere), TransactionResponse::AddPartitions(Err(ErrorCode::InvalidTopicException)));
    assert_eq!(harness.state(), TransactionState::Empty);
}

#[test]
fn a_decided_transaction_takes_none_whoever_asks() {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[0], TV2), Ok(()));
    let next = harness.end(held, true, TV2).expect("decided");
    for who in [held, next, producer(FIRST_ID + 9, 0)] {
        assert_eq!(harness.add(who, &[1], TV2), Err(ErrorCode::ConcurrentTransactions), "{who:?}");
    }
    harness.complete();
    assert_eq!(harness.add(held, &[1], TV2), Err(ErrorCode::ProducerFenced), "a write that was late");
    assert_eq!(harness.add(next, &[1], TV2), Ok(()));
    assert_eq!(harness.transaction().partitions.to_list(), partitions("topic", &[1]));
}

#[test]
fn a_transaction_is_bounded() {
    for config in [
        TransactionConfig { max_partitions: 2, ..TransactionConfig::default() },
        TransactionConfig { max_record_bytes: 25, ..TransactionConfig::default() },
    ] {
        let mut harness = Harness::with(config);
        let held = harness.init(None).expect("a producer");
        assert_eq!(harness.add(held, &[0, 1], TV2), Ok(()));
        assert_eq!(harness.add(held, &[2], TV2), Err(ErrorCode::UnknownServerError));
        assert_eq!(harness.add(held, &[1], TV2), Ok(()), "one that is in it");
        assert_eq!(harness.transaction().partitions.len(), 2);
    }
}

#[test]
fn leaders_verify_without_changing_anything() {
    let mut harness = Harness::new();
    let unknown = producer(FIRST_ID, 0);
    assert_eq!(harness.verify(unknown, &[0]), [ErrorCode::InvalidProducerIdMapping]);
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.verify(held, &[0]), [ErrorCode::TransactionAbortable]);
    assert_eq!(harness.add(held, &[0, 2], TV1), Ok(()));
    let records = harness.log.len();
    let verdicts = harness.verify(held, &[2, 1, 0]);
    assert_eq!(verdicts, [ErrorCode::None, ErrorCode::TransactionAbortable, ErrorCode::None]);
    assert_eq!(harness.verify(producer(FIRST_ID + 1, 0), &[0]), [ErrorCode::InvalidProducerIdMapping]);
    assert_eq!(harness.verify(producer(FIRST_ID, 1), &[0, 1]), [ErrorCode::ProducerFenced; 2]);
    assert_eq!(harness.log.len(), records);
    assert_eq!(harness.end(held, true, TV1).map(|next| next.epoch), Ok(-1));
    assert_eq!(harness.verify(held, &[0]), [ErrorCode::ConcurrentTransactions]);
    harness.complete();
    assert_eq!(harness.verify(held, &[0]), [ErrorCode::TransactionAbortable], "not in the next one");
}
