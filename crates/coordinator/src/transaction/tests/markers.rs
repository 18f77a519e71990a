use super::harness::{FIRST_ID, Harness, ID, TV1, TV2, of, partitions};
use crate::transaction::{MarkerTask, TransactionRequest, TransactionState};

fn decided(version: i8) -> (Harness, MarkerTask) {
    let mut harness = Harness::new();
    let held = harness.init(None).expect("a producer");
    assert_eq!(harness.add(held, &[0, 1, 2], version), Ok(()));
    assert!(harness.end(held, true, version).is_ok());
    let task = harness.markers[0].clone();
    (harness, task)
}

#[test]
fn the_last_marker_completes_the_transaction() {
    for version in [TV1, TV2] {
        let (mut harness, task) = decided(version);
        assert_eq!(task.partitions, partitions("topic", &[0, 1, 2]));
        assert_eq!((&*task.transactional_id, task.producer_id, task.commit), (ID, FIRST_ID, true));
        harness.marked(&task, &[1]);
        harness.marked(&task, &[1, 2]);
        assert_eq!(harness.state(), TransactionState::PrepareCommit);
        assert_eq!(harness.shard.pending_markers()[0].partitions, partitions("topic", &[0]));
        harness.marked(&task, &[0]);
        assert_eq!(harness.state(), TransactionState::CompleteCommit);
        assert!(harness.shard.pending_markers().is_empty());
        assert!(harness.transaction().partitions.is_empty());
        let records = harness.log.len();
        harness.marked(&task, &[0, 1, 2]);
        assert_eq!(harness.log.len(), records, "late news");
    }
}

#[test]
fn after_a_crash_every_partition_gets_its_marker_again() {
    let (mut harness, task) = decided(TV2);
    harness.marked(&task, &[0, 1]);
    harness.restart();
    let again = harness.markers.remove(0);
    assert_eq!(again, MarkerTask { decision: again.decision, ..task.clone() });
    harness.marked(&task, &[0, 1, 2]);
    assert_eq!(harness.shard.pending_markers(), std::slice::from_ref(&again), "news that was told to nobody who lives");
    harness.marked(&again, &[0, 1, 2]);
    assert_eq!(harness.state(), TransactionState::CompleteCommit);
}

#[test]
fn news_of_another_decision_or_id_changes_nothing() {
    let (mut harness, task) = decided(TV2);
    let others = [
        MarkerTask { decision: task.decision - 1, ..task.clone() },
        MarkerTask { decision: task.decision + 1, ..task.clone() },
        MarkerTask { transactional_id: "other".into(), ..task.clone() },
    ];
    for other in others {
        harness.marked(&other, &[0, 1, 2]);
        assert_eq!(harness.shard.pending_markers(), std::slice::from_ref(&task), "{other:?}");
    }
    harness.complete();
    harness.add(harness.transaction().producer(), &[0], TV2).expect("the next one");
    harness.marked(&task, &[0, 1, 2]);
    assert_eq!(harness.state(), TransactionState::Ongoing);
}

/// Below TV2 the next transaction's markers have the same producer id and epoch.
#[test]
fn a_second_acceptance_is_not_taken_for_the_next_transactions_marker() {
    let (mut harness, first) = decided(TV1);
    harness.complete();
    let held = harness.transaction().producer();
    assert_eq!(harness.add(held, &[0], TV1), Ok(()));
    assert!(harness.end(held, false, TV1).is_ok());
    harness.marked(&first, &[0]);
    assert_eq!(harness.state(), TransactionState::PrepareAbort);
    let second = harness.markers[1].clone();
    harness.marked(&second, &[0]);
    assert_eq!(harness.state(), TransactionState::CompleteAbort);
}

#[test]
fn decisions_of_one_scan_have_numbers_of_their_own() {
    let mut harness = Harness::new();
    for id in ["a", "b", "c"] {
        let held = harness.init_with(id, 10, None).expect("a producer");
        let request = TransactionRequest::AddPartitions {
            producer: of(id, held),
            // One of them began without partitions, and is complete at once.
            partitions: partitions("topic", if id == "b" { &[] } else { &[0] }),
            client_transaction_version: TV1,
        };
        harness.request(&request);
    }
    harness.wait(10_000);
    assert_eq!(harness.markers, harness.shard.pending_markers());
    assert_eq!(harness.markers.len(), 2);
    harness.complete();
    assert!(harness.shard.pending_markers().is_empty());
}

#[test]
fn a_completion_that_could_not_be_appended_comes_again() {
    let (mut harness, task) = decided(TV1);
    let accepted = partitions("topic", &[0, 1, 2]);
    let written = |harness: &mut Harness, accepted| harness.shard.markers_written(&task, accepted, harness.now);
    assert_eq!(written(&mut harness, &accepted).records.len(), 1);
    assert_eq!(harness.state(), TransactionState::PrepareCommit);
    assert_eq!(written(&mut harness, &[]).records.len(), 1, "when it is told again");
    harness.wait(10_000);
    assert_eq!(harness.state(), TransactionState::CompleteCommit, "or by itself");
}

#[test]
fn a_decision_without_partitions_that_was_loaded_completes_at_once() {
    let (mut harness, _) = decided(TV1);
    harness.record(|transaction| transaction.partitions = Default::default());
    assert!(harness.shard.pending_markers().is_empty());
    assert_eq!(harness.shard.next_deadline(), Some(harness.now.boot_ms));
    harness.wait(0);
    assert_eq!(harness.state(), TransactionState::CompleteCommit);
}
