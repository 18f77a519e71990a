use super::*;
use crate::transaction::record_codec::TransactionRecord;

fn sample() -> PersistedTransactions {
    let transaction = TransactionMetadata {
        producer_id: 0x0102,
        previous_producer_id: 3,
        next_producer_id: -1,
        producer_epoch: 0x0405,
        last_producer_epoch: -1,
        timeout_ms: 6,
        state: TransactionState::PrepareAbort,
        partitions: [("t".into(), 8), ("t".into(), 9)].into_iter().collect(),
        start_timestamp_ms: 10,
        last_update_timestamp_ms: 11,
        client_transaction_version: 2,
    };
    let mut persisted = PersistedTransactions::default();
    persisted.replay(&TransactionRecord { transactional_id: "x".into(), value: Some(transaction) });
    persisted
}

const GOLDEN: &[u8] = &[
    1, // version
    1, 0, 0, 0, 1, 0, 0, 0, b'x', // ids
    2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, // producer ids
    5, 4, 255, 255, 6, 0, 0, 0, 3, // epochs, timeout, state
    10, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 2, // timestamps, client's version
    1, 0, 0, 0, 1, 0, 0, 0, b't', 2, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, // partitions
];

#[test]
fn golden_bytes() {
    assert_eq!(sample().checkpoint(), GOLDEN);
    assert_eq!(PersistedTransactions::restore(GOLDEN), Ok(sample()));
    assert_eq!(PersistedTransactions::default().checkpoint(), [1, 0, 0, 0, 0]);
}

#[test]
fn every_truncation_and_every_changed_byte_is_an_error_or_another_state() {
    for end in 0..GOLDEN.len() {
        assert!(PersistedTransactions::restore(&GOLDEN[..end]).is_err(), "{end} bytes");
    }
    for position in 0..GOLDEN.len() {
        for change in [1, 0x80, 0xFF] {
            let mut bytes = GOLDEN.to_vec();
            bytes[position] ^= change;
            assert_ne!(PersistedTransactions::restore(&bytes), Ok(sample()), "byte {position}");
        }
    }
    let mut longer = GOLDEN.to_vec();
    longer.push(0);
    assert!(matches!(PersistedTransactions::restore(&longer), Err(CheckpointError::Damaged { .. })));
}

#[test]
fn what_no_checkpoint_says_is_refused() {
    let reason = |bytes: &[u8]| match PersistedTransactions::restore(bytes) {
        Err(CheckpointError::Damaged { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(PersistedTransactions::restore(&[2, 0, 0, 0, 0]), Err(CheckpointError::Version(2)));
    assert_eq!(reason(&[1, 255, 255, 255, 255, 0]), "a count beyond the end");
    let state_at = GOLDEN.len() - 21 - 17 - 1;
    let mut dead = GOLDEN.to_vec();
    dead[state_at] = 6;
    assert_eq!(reason(&dead), "an unknown state");
    let mut twice = GOLDEN.to_vec();
    let last = twice.len() - 4;
    twice[last] = 8;
    assert_eq!(reason(&twice), "keys that do not ascend");
    let mut none = GOLDEN[..GOLDEN.len() - 8].to_vec();
    let count_at = none.len() - 4;
    none[count_at] = 0;
    assert_eq!(reason(&none), "a topic without partitions");
}
