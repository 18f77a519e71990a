use protocol::batch::EndTransactionMarker;

use super::*;
use crate::partition::producer_state::Sequenced;

#[derive(Clone, Debug, Default)]
struct State {
    epochs: LeaderEpochs,
    producers: ProducerStates,
    transactions: Transactions,
}

impl State {
    fn derived(&self) -> Derived<'_> {
        Derived { epochs: &self.epochs, producers: &self.producers, transactions: &self.transactions }
    }

    fn begin(&mut self, producer_id: i64, epoch: i16, first_offset: i64) {
        let batch = Sequenced {
            producer_id,
            producer_epoch: epoch,
            base_sequence: 0,
            last_offset_delta: 0,
            transactional: true,
        };
        self.producers.record(&batch, first_offset, 33, 44);
        assert!(self.producers.begin_transaction(producer_id, first_offset));
        self.transactions.begin(producer_id, first_offset);
    }

    fn end(&mut self, producer_id: i64, epoch: i16, marker_offset: i64, commit: bool) {
        let marker = EndTransactionMarker { commit, coordinator_epoch: 5 };
        let first = self.producers.record_marker(producer_id, epoch, marker, marker_offset, 55).expect("open");
        self.transactions.end(producer_id, first, marker_offset, commit);
        self.transactions.durable(marker_offset + 1);
    }
}

fn state() -> State {
    let (mut epochs, mut producers) = (LeaderEpochs::default(), ProducerStates::default());
    epochs.assign(3, 0);
    epochs.assign(4, 70);
    let batch = |producer_id, base_sequence| Sequenced {
        producer_id,
        producer_epoch: 1,
        base_sequence,
        last_offset_delta: 1,
        transactional: false,
    };
    for index in 0..6 {
        producers.record(&batch(9, index * 2), 80 + i64::from(index) * 2, 1_000, 2_000);
    }
    producers.record(&batch(7, i32::MAX), 92, -1, 2_001);
    State { epochs, producers, ..State::default() }
}

/// The same with transactions in every state.
fn transactional() -> State {
    let mut state = state();
    state.begin(20, 1, 94);
    state.begin(21, 1, 95);
    state.begin(22, 1, 96);
    state.begin(23, 1, 97);
    state.end(22, 2, 98, false);
    state.end(23, 2, 99, true);
    state.end(21, 1, 100, false);
    state.producers.record_marker(24, 0, EndTransactionMarker { commit: true, coordinator_epoch: 6 }, 101, 66);
    // A later epoch forgets how the last transaction ended.
    let batch =
        Sequenced { producer_id: 23, producer_epoch: 3, base_sequence: 0, last_offset_delta: 0, transactional: false };
    state.producers.record(&batch, 102, 33, 44);
    state
}

fn encoded(coordinator: Option<&[u8]>) -> Bytes {
    Bytes::from(encode(94, 5, state().derived(), coordinator))
}

#[test]
fn golden_bytes() {
    let (mut epochs, mut producers) = (LeaderEpochs::default(), ProducerStates::default());
    epochs.assign(3, 7);
    let batch =
        Sequenced { producer_id: 9, producer_epoch: 1, base_sequence: 4, last_offset_delta: 1, transactional: false };
    producers.record(&batch, 16, 33, 44);
    let state = State { epochs, producers, ..State::default() };
    let bytes = encode(18, 7, state.derived(), Some(b"xy"));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let body = concat!(
        "0000000000000012",
        "0000000000000007",
        "0001",
        "0000000c",
        "00000003",
        "0000000000000007",
        "0002",
        "0000002b",
        "0000000000000009",
        "0001",
        "000000000000002c",
        "01",
        "00000005",
        "00000001",
        "0000000000000011",
        "0000000000000021",
        "0003",
        "00000002",
        "7879"
    );
    assert_eq!(hex, format!("4f50434b{}{}{}{body}", "0001", "0003", "ea36a10c"));
}

#[test]
fn golden_bytes_of_transactions() {
    let mut state = State::default();
    state.begin(7, 1, 10);
    state.begin(9, 1, 11);
    state.end(9, 2, 12, false);
    let bytes = encode(13, 0, state.derived(), None);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let body = concat!(
        "000000000000000d",
        "0000000000000000",
        // The producers themselves: 9's batches went with its epoch.
        "0002",
        "0000003e",
        "0000000000000007",
        "0001",
        "000000000000002c",
        "01",
        "00000000",
        "00000000",
        "000000000000000a",
        "0000000000000021",
        "0000000000000009",
        "0002",
        "0000000000000037",
        "00",
        "0004",
        "0000002a",
        "0000000000000007",
        "ffffffff",
        "01",
        "000000000000000a",
        "0000000000000009",
        "00000005",
        "02",
        "000000000000000c",
        "0005",
        "00000020",
        "0000000000000009",
        "000000000000000b",
        "000000000000000c",
        "000000000000000a"
    );
    assert_eq!(hex, format!("4f50434b{}{}{}{body}", "0001", "0003", "e5fb41ed"));
}

#[test]
fn round_trip_and_length() {
    for coordinator in [None, Some(&b""[..]), Some(b"groups")] {
        for (state, offset) in [(state(), 94), (transactional(), 103)] {
            let bytes = Bytes::from(encode(offset, 5, state.derived(), coordinator));
            assert_eq!(bytes.len(), encoded_len(state.derived(), coordinator));
            let State { epochs, producers, transactions } = state;
            let coordinator = coordinator.map(Bytes::from_static);
            let expected = PartitionCheckpoint { offset, log_start: 5, epochs, producers, transactions, coordinator };
            assert_eq!(decode(&bytes), Ok(expected));
        }
    }
    let empty = encode(0, 0, State::default().derived(), None);
    assert_eq!(decode(&Bytes::from(empty)), Ok(PartitionCheckpoint::default()));
}

#[test]
fn every_damaged_byte_and_every_cut_is_refused() {
    for good in [encoded(Some(b"groups")), Bytes::from(encode(103, 5, transactional().derived(), None))] {
        for length in 0..good.len() {
            assert!(decode(&good.slice(..length)).is_err(), "cut at {length}");
        }
        for index in 0..good.len() {
            let mut bad = good.to_vec();
            bad[index] ^= 0x20;
            assert!(decode(&Bytes::from(bad)).is_err(), "byte {index}");
        }
    }
}

#[test]
fn transactions_that_contradict_themselves_are_refused() {
    let mut state = State::default();
    state.begin(7, 1, 10);
    state.begin(9, 1, 11);
    state.begin(8, 1, 12);
    state.end(9, 2, 13, false);
    state.end(8, 2, 14, false);
    let good = encode(15, 0, state.derived(), None);
    let with = |index: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[index..index + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c(&bad[CHECKED_FROM..]);
        bad[8..12].copy_from_slice(&crc.to_be_bytes());
        decode(&Bytes::from(bad))
    };
    let invalid = |result: Result<_, _>, word: &str| match result {
        Err(CheckpointError::Invalid(what)) => assert!(what.contains(word), "{what}, not {word}"),
        other => panic!("{word}: {other:?}"),
    };
    let aborted = good.len() - 2 * ABORTED_BYTES;
    let open = aborted - SECTION_HEADER_BYTES - 3 * TRANSACTION_BYTES;
    assert_eq!(with(open + 7, &[7]), decode(&Bytes::from(good.clone())), "nothing changed");
    invalid(with(open, &6_i64.to_be_bytes()), "unknown producer");
    invalid(with(open + TRANSACTION_BYTES, &7_i64.to_be_bytes()), "ascend");
    invalid(with(open + 12, &[4]), "unknown state");
    invalid(with(open + 13, &15_i64.to_be_bytes()), "outside");
    invalid(with(open + 13, &(-1_i64).to_be_bytes()), "outside");
    let mut two_open = vec![1];
    two_open.extend_from_slice(&10_i64.to_be_bytes());
    invalid(with(open + TRANSACTION_BYTES + 12, &two_open), "same record");
    invalid(with(aborted + 8, &13_i64.to_be_bytes()), "contradicts");
    invalid(with(aborted + 8, &(-1_i64).to_be_bytes()), "contradicts");
    invalid(with(aborted + 16, &14_i64.to_be_bytes()), "ascend");
    invalid(with(aborted + ABORTED_BYTES + 16, &15_i64.to_be_bytes()), "contradicts");
    invalid(with(aborted + 24, &15_i64.to_be_bytes()), "contradicts");
    invalid(with(aborted + 24, &13_i64.to_be_bytes()), "ascend");
    invalid(with(aborted + ABORTED_BYTES + 24, &11_i64.to_be_bytes()), "open and not counted");
    assert_eq!(with(aborted - 4, &31_u32.to_be_bytes()), Err(CheckpointError::Truncated));
    assert_eq!(with(open - 4, &20_u32.to_be_bytes()), Err(CheckpointError::Truncated));
}

/// Damage that a matching checksum hides, as a hostile or faulty writer could make it.
#[test]
fn hostile_contents_are_refused_without_large_allocations() {
    let good = encoded(None);
    let resealed = |index: usize, bytes: &[u8]| {
        let mut bad = good.to_vec();
        bad[index..index + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c(&bad[CHECKED_FROM..]);
        bad[8..12].copy_from_slice(&crc.to_be_bytes());
        decode(&Bytes::from(bad))
    };
    assert_eq!(resealed(30, &u32::MAX.to_be_bytes()), Err(CheckpointError::Truncated));
    assert_eq!(resealed(28, &9_u16.to_be_bytes()), Err(CheckpointError::Section(9)));
    assert!(
        resealed(28, &0x8009_u16.to_be_bytes()).is_ok_and(|checkpoint| checkpoint.epochs == LeaderEpochs::default())
    );
    assert_eq!(resealed(20, &95_i64.to_be_bytes()), Err(CheckpointError::Invalid("the log starts beyond its end")));
    assert!(matches!(resealed(34, &9_i32.to_be_bytes()), Err(CheckpointError::Invalid(_))));
    let first_count = 28 + 6 + 24 + 6 + 18;
    assert!(matches!(resealed(first_count, &[6]), Err(CheckpointError::Invalid(_))));
    assert!(resealed(first_count, &[4]).is_err());
}

proptest::proptest! {
    #[test]
    fn random_sections_never_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), sections in 0_u16..4) {
        let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes(), &sections.to_be_bytes(), &[0; 4], &[0; 16], &body].concat();
        let crc = crc32c(&bytes[CHECKED_FROM..]);
        bytes[8..12].copy_from_slice(&crc.to_be_bytes());
        let _ = decode(&Bytes::from(bytes));
    }
}
