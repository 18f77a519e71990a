use std::sync::Arc;
use std::time::Duration;

use common::Offset;
use wal::WriteAheadLog;

use super::rig::{Rig, accepted, marker, plain, transactional};
use crate::partition::{AppendOrigin, DataWait, Isolation, Partition, ReadError, Verification};

fn wait(rig: &Rig, partition: &Arc<Partition>, from: i64) -> DataWait {
    let mut wait = DataWait::new(rig.log.durable());
    wait.watch(partition, Offset(from), Isolation::ReadUncommitted);
    wait
}

fn wait_for_committed(rig: &Rig, partition: &Arc<Partition>, from: i64) -> DataWait {
    let mut wait = DataWait::new(rig.log.durable());
    wait.watch(partition, Offset(from), Isolation::ReadCommitted);
    wait
}

/// Begins a transaction, or goes on with it.
fn write(partition: &Partition, producer_id: i64, sequence: i32) {
    let guard = match partition.begin_verification(producer_id, 0, sequence, false) {
        Verification::Needed(guard) => Some(guard),
        Verification::NotNeeded => None,
    };
    let origin = AppendOrigin::Client { produce_version: 11, behind_refusal: false, guard };
    partition.append(&transactional(producer_id, 0, sequence, 1), origin).expect("verified");
}

/// Whether the wait has ended. Waits end by wake-ups that happened before, so one poll tells.
fn is_woken(wait: &DataWait) -> bool {
    futures::FutureExt::now_or_never(wait.woken()).is_some()
}

#[tokio::test]
async fn a_wait_ends_when_an_append_is_durable_and_not_before() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    let waiting = wait(&rig, &partition, 0);
    assert!(!is_woken(&waiting));
    accepted(&partition, &plain(1));
    accepted(&partition, &plain(1));
    assert!(!is_woken(&waiting), "appended is not durable");
    rig.log.flush();
    assert!(is_woken(&waiting));
    assert!(!is_woken(&waiting), "once");
    accepted(&partition, &plain(1));
    rig.log.flush();
    assert!(!is_woken(&waiting), "one wait, one wake-up");
}

#[tokio::test]
async fn a_wait_that_comes_late_sees_what_is_under_way_or_there() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    accepted(&partition, &plain(2));
    let under_way = wait(&rig, &partition, 1);
    let beyond = wait(&rig, &partition, 2);
    assert!(!is_woken(&under_way));
    rig.log.flush();
    assert!(is_woken(&under_way));
    assert!(is_woken(&wait(&rig, &partition, 1)), "already there");
    assert!(!is_woken(&beyond), "nothing new beyond what was appended");
    accepted(&partition, &plain(1));
    rig.log.flush();
    assert!(is_woken(&beyond));
}

#[tokio::test]
async fn losing_the_partition_or_the_log_wakes() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    let waiting = wait(&rig, &partition, 0);
    accepted(&partition, &plain(1));
    let failing = wait(&rig, &partition, 0);
    rig.log.durable().fail();
    assert!(is_woken(&waiting) && is_woken(&failing));
    // Or a parked fetch would find nothing, wait, be woken at once, and turn in a circle.
    let read = partition.read_cached(Offset(0), 1 << 20, Isolation::ReadUncommitted, true);
    assert!(matches!(read, Err(ReadError::NotLeader)), "{read:?}");
    let parked = wait(&rig, &partition, 9);
    partition.close();
    assert!(is_woken(&parked));
    assert!(is_woken(&wait(&rig, &partition, 9)), "closed before");
}

#[tokio::test]
async fn any_of_many_partitions_wakes_and_a_dropped_wait_leaves_all() {
    let (rig, other) = (Rig::durable(), Rig::durable());
    let (first, second) = (rig.open().await, other.open().await);
    let mut waiting = wait(&rig, &first, 0);
    waiting.watch(&second, Offset(0), Isolation::ReadUncommitted);
    drop(waiting);
    assert_eq!([&first, &second].map(|partition| partition.state.lock().waiters.len()), [0, 0]);
    let waiting = wait(&rig, &first, 0);
    let mut woken = Box::pin(waiting.woken());
    assert!(futures::poll!(&mut woken).is_pending());
    accepted(&first, &plain(1));
    tokio::time::timeout(Duration::from_secs(10), woken).await.expect("woken");
    assert_eq!(first.state.lock().waiters.len(), 0);
}

/// From the moment that metadata may have given it away on, whatever is told of it could be behind what its new leader told.
#[tokio::test]
async fn a_partition_that_may_be_gone_tells_nothing_until_that_is_known() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    accepted(&partition, &plain(3));
    let read = || partition.read_cached(Offset(0), 1 << 20, Isolation::ReadUncommitted, true).map(|_| ());
    partition.park();
    assert_eq!((read().is_ok(), partition.is_serving()), (true, true), "parked, it is still this broker's");
    partition.leave();
    assert!(matches!(read(), Err(ReadError::NotLeader)));
    assert!(!partition.is_serving());
    partition.resume();
    assert_eq!((read().is_ok(), partition.is_serving()), (true, true));
    accepted(&partition, &plain(1));
    partition.park();
    partition.close();
    partition.resume();
    assert!(partition.is_closed() && read().is_err(), "the end is for good");
}

/// Or a parked fetch would be woken by every append, find nothing, and wait anew.
#[tokio::test]
async fn who_reads_committed_records_is_woken_by_what_makes_them_stable_alone() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    let waiting = wait_for_committed(&rig, &partition, 0);
    accepted(&partition, &plain(1));
    rig.log.flush();
    assert!(is_woken(&waiting), "without transactions it is the high watermark");
    let before = wait_for_committed(&rig, &partition, 1);
    write(&partition, 7, 0);
    let blocked = wait_for_committed(&rig, &partition, 1);
    write(&partition, 8, 0);
    accepted(&partition, &plain(1));
    write(&partition, 7, 1);
    rig.log.flush();
    assert!(!is_woken(&before) && !is_woken(&blocked), "all of that is above an open transaction");
    partition.append_marker(&marker(8, 0, true)).expect("ends");
    rig.log.flush();
    assert!(!is_woken(&before) && !is_woken(&blocked), "an earlier one is open");
    partition.append_marker(&marker(7, 0, false)).expect("ends");
    let late = wait_for_committed(&rig, &partition, 1);
    assert!(!is_woken(&before) && !is_woken(&blocked) && !is_woken(&late), "the marker is not durable");
    rig.log.flush();
    assert!(is_woken(&before) && is_woken(&blocked) && is_woken(&late));
    assert!(is_woken(&wait_for_committed(&rig, &partition, 1)), "already there");
}

#[tokio::test]
async fn the_end_of_the_earliest_transaction_wakes_although_others_are_open() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    write(&partition, 7, 0);
    write(&partition, 8, 0);
    rig.log.flush();
    let waiting = wait_for_committed(&rig, &partition, 0);
    partition.append_marker(&marker(7, 0, true)).expect("ends");
    write(&partition, 7, 1);
    rig.log.flush();
    assert!(is_woken(&waiting));
    assert_eq!(partition.last_stable_offset(), Offset(1));
    let next = wait_for_committed(&rig, &partition, 1);
    assert!(!is_woken(&next));
    partition.close();
    assert!(is_woken(&next), "closed");
}

#[tokio::test]
async fn a_log_start_above_an_open_transaction_wakes() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    write(&partition, 7, 0);
    accepted(&partition, &plain(3));
    let waiting = wait_for_committed(&rig, &partition, 0);
    assert!(!is_woken(&waiting));
    partition.trim(Offset(2)).await.expect("trims");
    assert!(is_woken(&waiting));
    drop(wait_for_committed(&rig, &partition, 2));
    assert_eq!(partition.state.lock().waiters.len(), 0);
}
