use bytes::Bytes;
use common::Offset;
use protocol::batch::{Attributes, BatchBuilder, BatchView, EndTransactionMarker};
use s3stream::ReadClass;

use super::rig::{CLIENT, NOW, Rig, accepted, append, code, fill, idempotent, marker, plain, topic, transactional};
use crate::partition::{
    ActiveProducer, AppendOrigin, AppendRefused, AppendedBatch, Isolation, Partition, ReadError, TransactionMarker,
    Verification, VerificationGuard,
};

fn guarded(partition: &Partition, batch: &Bytes, guard: VerificationGuard) -> Result<AppendedBatch, AppendRefused> {
    let origin = AppendOrigin::Client { produce_version: 11, behind_refusal: false, guard: Some(guard) };
    partition.append(batch, origin)
}

fn guard(partition: &Partition, producer_id: i64, epoch: i16, sequence: i32) -> VerificationGuard {
    match partition.begin_verification(producer_id, epoch, sequence, false) {
        Verification::Needed(guard) => guard,
        Verification::NotNeeded => panic!("it is open"),
    }
}

/// Begins a transaction with one batch; its offset.
fn begin(partition: &Partition, producer_id: i64, epoch: i16, sequence: i32, records: i32) -> i64 {
    let guard = guard(partition, producer_id, epoch, sequence);
    let batch = transactional(producer_id, epoch, sequence, records);
    guarded(partition, &batch, guard).expect("verified").base_offset.0
}

fn end(partition: &Partition, producer_id: i64, epoch: i16, commit: bool) -> AppendedBatch {
    partition.append_marker(&marker(producer_id, epoch, commit)).expect("ends")
}

async fn read(partition: &Partition, from: i64, isolation: Isolation) -> (Option<i64>, Vec<(i64, i64)>) {
    let read = partition.read(Offset(from), 1 << 20, isolation, true, ReadClass::Tail).await.expect("reads");
    let cached = partition.read_cached(Offset(from), 1 << 20, isolation, true).expect("reads");
    if let Some(cached) = cached {
        assert_eq!(cached.aborted, read.aborted);
    }
    (read.slices.last().map(|slice| slice.next_offset.0), read.aborted)
}

#[tokio::test]
async fn guard_or_open() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let first = transactional(7, 0, 0, 2);
    assert_eq!(code(append(&partition, &first)), 48, "neither");
    let guard = guard(&partition, 7, 0, 0);
    assert_eq!(code(append(&partition, &first)), 48, "a guard that is not presented");
    assert_eq!(guarded(&partition, &first, guard).expect("verified").base_offset, Offset(0));
    assert_eq!(partition.begin_verification(7, 0, 2, false), Verification::NotNeeded);
    assert_eq!(append(&partition, &transactional(7, 0, 2, 1)).expect("open").base_offset, Offset(2));
    assert_eq!(code(append(&partition, &idempotent(7, 0, 3, 1))), 48, "not part of it");
    assert_eq!(code(append(&partition, &transactional(7, 1, 0, 1))), 48, "open under another epoch");
    assert_eq!(code(append(&partition, &transactional(8, 0, 0, 1))), 48, "somebody else's");
    let unnamed = fill(BatchBuilder::new().with_attributes(Attributes::default().with_transactional(true)), 1);
    assert_eq!(code(append(&partition, &unnamed)), 48, "nobody's");
    assert_eq!(partition.log_end(), Offset(3));
}

#[tokio::test]
async fn no_guard_outlives_a_marker() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let stale = guard(&partition, 7, 0, 0);
    end(&partition, 7, 0, false);
    assert_eq!(code(guarded(&partition, &transactional(7, 0, 0, 1), stale)), 48);
    begin(&partition, 7, 0, 0, 1);
    assert_eq!(append(&partition, &transactional(7, 0, 1, 1)).expect("open").base_offset, Offset(2));
    end(&partition, 7, 0, true);
    assert_eq!(code(append(&partition, &transactional(7, 0, 2, 1))), 48, "it has ended");
    // A guard serves once.
    let guard = guard(&partition, 7, 0, 2);
    guarded(&partition, &transactional(7, 0, 2, 1), guard).expect("verified");
    end(&partition, 7, 0, true);
    assert_eq!(code(guarded(&partition, &transactional(7, 0, 3, 1), guard)), 48);
}

#[tokio::test]
async fn a_duplicate_needs_no_verification() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    begin(&partition, 7, 0, 0, 2);
    end(&partition, 7, 0, true);
    assert_eq!(partition.begin_verification(7, 0, 0, false), Verification::NotNeeded);
    assert_eq!(append(&partition, &transactional(7, 0, 0, 2)).expect("known").base_offset, Offset(0));
    assert_eq!(code(append(&partition, &transactional(7, 0, 0, 1))), 48, "the same beginning is not the same batch");
    assert_eq!(partition.log_end(), Offset(3));
}

#[tokio::test]
async fn a_guard_survives_an_append_that_failed_for_a_passing_reason() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let guard = guard(&partition, 7, 0, 0);
    partition.park();
    assert_eq!(code(guarded(&partition, &transactional(7, 0, 0, 1), guard)), 19);
    assert_eq!(code(partition.append_marker(&marker(7, 0, true))), 19);
    partition.resume();
    guarded(&partition, &transactional(7, 0, 0, 1), guard).expect("verified");
    partition.close();
    assert_eq!(code(partition.append_marker(&marker(7, 0, true))), 6);
}

#[tokio::test]
async fn sequences_and_epochs_bind_within_transactions() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let Verification::Needed(bumping) = partition.begin_verification(7, 0, 3, true) else { panic!("unknown") };
    assert_eq!(code(guarded(&partition, &transactional(7, 0, 3, 1), bumping)), 45, "an unknown one begins at 0");
    let guard = guard(&partition, 8, 1, 3);
    assert_eq!(guarded(&partition, &transactional(8, 1, 3, 1), guard).expect("as in version 1").base_offset, Offset(0));
    assert_eq!(code(append(&partition, &transactional(8, 1, 9, 1))), 45);
    assert_eq!(code(append(&partition, &transactional(8, 0, 4, 1))), 47);
    assert_eq!(code(guarded(&partition, &transactional(8, 0, 4, 1), guard)), 47, "that comes before the guard");
    end(&partition, 8, 2, true);
    assert_eq!(code(append(&partition, &transactional(8, 1, 4, 1))), 47, "a marker fences");
    assert_eq!(begin(&partition, 8, 2, 0, 1), 2);
}

#[tokio::test]
async fn stable_below_open() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    let ends = || (partition.last_stable_offset().0, partition.high_watermark().0);
    accepted(&partition, &plain(3));
    rig.log.flush();
    assert_eq!(ends(), (3, 3));
    begin(&partition, 7, 0, 0, 2);
    begin(&partition, 8, 0, 0, 1);
    accepted(&partition, &plain(1));
    assert_eq!(ends(), (3, 3));
    rig.log.flush();
    assert_eq!(ends(), (3, 7));
    assert_eq!(read(&partition, 0, Isolation::ReadCommitted).await, (Some(3), vec![]));
    assert_eq!(read(&partition, 3, Isolation::ReadCommitted).await, (None, vec![]));
    assert_eq!(read(&partition, 0, Isolation::ReadUncommitted).await, (Some(7), vec![]));
    end(&partition, 8, 0, true);
    rig.log.flush();
    assert_eq!(ends(), (3, 8), "a later one does not matter");
    end(&partition, 7, 0, false);
    assert_eq!(ends(), (3, 8), "the marker is not durable");
    assert_eq!(partition.readable_end(Isolation::ReadCommitted), Offset(3));
    assert_eq!(partition.readable_end(Isolation::ReadUncommitted), Offset(8));
    rig.log.flush();
    assert_eq!(ends(), (9, 9));
    assert_eq!(read(&partition, 0, Isolation::ReadCommitted).await, (Some(9), vec![(7, 3)]));
}

#[tokio::test]
async fn aborted_overlap() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    begin(&partition, 7, 0, 0, 2);
    begin(&partition, 8, 0, 0, 2);
    end(&partition, 8, 0, false);
    accepted(&partition, &plain(1));
    end(&partition, 7, 0, false);
    begin(&partition, 7, 0, 2, 1);
    end(&partition, 7, 0, true);
    let committed = Isolation::ReadCommitted;
    for _ in 0..2 {
        assert_eq!(read(&partition, 0, committed).await, (Some(9), vec![(7, 0), (8, 2)]));
        assert_eq!(read(&partition, 5, committed).await, (Some(9), vec![(7, 0)]), "begun before");
        assert_eq!(read(&partition, 7, committed).await, (Some(9), vec![]));
        assert_eq!(read(&partition, 0, Isolation::ReadUncommitted).await, (Some(9), vec![]));
        let one = partition.read(Offset(0), 1, committed, true, ReadClass::Tail).await.expect("reads");
        assert_eq!((one.slices[0].next_offset, one.aborted), (Offset(2), vec![(7, 0)]), "as far as was read");
        let none = partition.read_cached(Offset(0), 0, committed, false).expect("reads").expect("nothing to load");
        assert_eq!((none.slices.len(), none.aborted), (0, vec![]));
        // Once more from objects.
        rig.store.flush().await.expect("uploads");
        rig.store.drop_log_cache();
    }
    partition.trim(Offset(5)).await.expect("trims");
    assert_eq!(partition.state.lock().transactions.aborted().len(), 1, "of the other nothing is left");
    assert_eq!(read(&partition, 5, committed).await, (Some(9), vec![(7, 0)]));
    let below = partition.read_cached(Offset(4), 1 << 20, committed, true);
    assert!(matches!(below, Err(ReadError::OutOfRange { .. })));
}

#[tokio::test]
async fn what_is_trimmed_is_stable() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    begin(&partition, 7, 0, 0, 4);
    accepted(&partition, &plain(4));
    assert_eq!(partition.last_stable_offset(), Offset(0));
    partition.trim(Offset(6)).await.expect("trims");
    assert_eq!((partition.last_stable_offset(), partition.high_watermark()), (Offset(6), Offset(8)));
    end(&partition, 7, 0, false);
    assert_eq!(partition.last_stable_offset(), Offset(9));
    assert_eq!(read(&partition, 6, Isolation::ReadCommitted).await, (Some(9), vec![(7, 0)]));
}

#[tokio::test]
async fn markers_are_control_batches_under_the_leaders_epoch() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    begin(&partition, 7, 0, 0, 1);
    let appended = end(&partition, 7, 0, false);
    assert_eq!((appended.base_offset, appended.log_append_time_ms), (Offset(1), -1));
    let read = partition.read(Offset(1), 1 << 20, Isolation::ReadUncommitted, true, ReadClass::Tail).await;
    let bytes = read.expect("reads").slices[0].bytes.clone();
    let stored = BatchView::exactly_one(&bytes).expect("one batch");
    assert!(stored.is_valid());
    assert_eq!((stored.base_offset(), stored.leader_epoch(), stored.max_timestamp()), (1, 0, NOW));
    let expected = EndTransactionMarker { commit: false, coordinator_epoch: 3 };
    assert_eq!(EndTransactionMarker::parse(&stored), Ok(expected));
    assert_eq!(code(partition.append(&bytes, AppendOrigin::Coordinator)), 87, "not by this way");
    assert_eq!(code(append(&partition, &bytes)), 87);
}

#[tokio::test]
async fn markers_fence_and_are_fenced() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    begin(&partition, 7, 5, 0, 1);
    let send = |marker: TransactionMarker| partition.append_marker(&marker);
    assert_eq!(code(send(marker(7, 4, true))), 47);
    assert_eq!(code(send(marker(-1, 4, true))), 42);
    let bumping = |epoch| TransactionMarker { transaction_version: 2, ..marker(7, epoch, true) };
    assert_eq!(code(send(bumping(5))), 47, "the epoch of its records");
    let ended = send(bumping(6)).expect("ends");
    assert_eq!(code(send(TransactionMarker { coordinator_epoch: 2, ..bumping(7) })), 52);
    let again = send(bumping(6)).expect("a repetition");
    assert_eq!((again.base_offset, again.lsn), (ended.base_offset, ended.lsn), "durable with the original");
    assert_eq!(partition.log_end(), Offset(2));
    assert_eq!(send(marker(7, 6, true)).expect("as in Kafka").base_offset, Offset(2));
    assert_eq!(send(marker(9, 0, false)).expect("of an unknown producer").base_offset, Offset(3));
    assert!(partition.state.lock().transactions.aborted().is_empty(), "there was nothing to abort");
}

#[tokio::test]
async fn a_coordinator_writes_in_a_producers_name_without_sequences() {
    let rig = Rig { topic: topic("__consumer_offsets", super::config()), ..Rig::durable() };
    let partition = rig.open().await;
    let batch = transactional(7, 0, -1, 2);
    let with = |guard| partition.append(&batch, AppendOrigin::TransactionalCoordinator { guard });
    assert_eq!(code(with(None)), 48);
    let guard = guard(&partition, 7, 0, -1);
    assert_eq!(with(Some(guard)).expect("verified").base_offset, Offset(0));
    assert_eq!(partition.begin_verification(7, 0, -1, false), Verification::NotNeeded);
    assert_eq!(with(None).expect("open").base_offset, Offset(2), "no duplicate: it has no sequence");
    assert_eq!(partition.last_stable_offset(), Offset(0));
    end(&partition, 7, 0, true);
    assert_eq!(partition.last_stable_offset(), Offset(5));
    partition.append(&plain(1), AppendOrigin::Coordinator).expect("accepted");
}

#[tokio::test]
async fn timestamps_are_searched_below_the_last_stable_offset() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    accepted(&partition, &plain(1));
    begin(&partition, 7, 0, 0, 3);
    let found = async |isolation| {
        let at = partition.find_timestamp(NOW + 1, isolation).await.expect("searches").offset;
        (at, partition.find_max_timestamp(isolation).await.expect("searches").offset)
    };
    assert_eq!(found(Isolation::ReadUncommitted).await, (2, 3));
    assert_eq!(found(Isolation::ReadCommitted).await, (-1, 0));
    rig.clock.set_wall_ms(NOW + 100);
    end(&partition, 7, 0, false);
    assert_eq!(found(Isolation::ReadCommitted).await, (2, 4), "aborted records and markers are found, as in Kafka");
}

#[tokio::test]
async fn producers_are_told_with_their_transactions() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    begin(&partition, 7, 1, 0, 3);
    accepted(&partition, &idempotent(8, 0, 40, 2));
    end(&partition, 9, 2, true);
    let told = |producer_id, producer_epoch, last_sequence, last_timestamp_ms, coordinator_epoch, transaction_start| {
        ActiveProducer {
            producer_id,
            producer_epoch,
            last_sequence,
            last_timestamp_ms,
            coordinator_epoch,
            transaction_start,
        }
    };
    let expected =
        vec![told(7, 1, 2, NOW + 2, -1, Some(0)), told(8, 0, 41, NOW + 1, -1, None), told(9, 2, -1, NOW, 3, None)];
    assert_eq!(partition.active_producers(3), Some(expected));
    assert_eq!(partition.active_producers(2), None);
}

#[tokio::test]
async fn a_transaction_whose_producer_is_silent_for_long_is_late() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    begin(&partition, 7, 0, 0, 1);
    rig.clock.set_wall_ms(NOW + 1_000);
    begin(&partition, 8, 0, 0, 1);
    rig.clock.set_wall_ms(NOW + 1_500);
    assert!(partition.has_late_transaction(1_000) && !partition.has_late_transaction(1_500));
    end(&partition, 7, 0, true);
    assert!(!partition.has_late_transaction(1_000), "the other one is younger");
    partition.expire_producers(100);
    assert!(partition.has_late_transaction(400), "open-is-kept");
    end(&partition, 8, 0, true);
    assert!(!partition.has_late_transaction(-1));
}

/// Nothing of transactions may be possible to clients that were not verified.
#[tokio::test]
async fn a_client_without_a_guard_writes_no_transaction() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    assert_eq!(code(partition.append(&transactional(7, 0, 0, 1), CLIENT)), 48);
    assert_eq!(partition.log_end(), Offset(0));
}
