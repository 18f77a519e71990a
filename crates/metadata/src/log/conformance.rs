//! What every [`RaftLogStore`] must do. Each check gets a store from `open`, which must give the same durable
//! content again when it is called again after the store before was dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{EntryId, LogBounds, LogRecord, RaftLogStore, Vote};

/// Opens the store under test; again and again on the same durable content.
pub type Open<'a> = &'a (dyn Fn() -> Arc<dyn RaftLogStore> + Sync);

/// Runs every check, openraft's own suite for storage among them; `fresh` makes a place of its own for each, and
/// returns how to open it.
pub async fn check_all<F>(fresh: impl Fn() -> F + Send + Sync)
where
    F: Fn() -> Arc<dyn RaftLogStore> + Send + Sync,
{
    crate::raft::suite::check(&fresh).await;
    an_empty_store_has_no_bounds(&fresh()).await;
    what_was_appended_is_found_again(&fresh()).await;
    truncation_makes_room_for_other_entries(&fresh()).await;
    what_was_purged_is_gone(&fresh()).await;
    the_newest_vote_counts(&fresh()).await;
    the_newest_snapshot_counts(&fresh()).await;
    large_entries_survive(&fresh()).await;
    callbacks_come_in_order(&fresh()).await;
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term, node: 1, index }
}

fn record(term: u64, index: u64) -> LogRecord {
    LogRecord { id: id(term, index), payload: Bytes::from(format!("{term}/{index}")) }
}

fn records(term: u64, indexes: impl Iterator<Item = u64>) -> Vec<LogRecord> {
    indexes.map(|index| record(term, index)).collect()
}

async fn append(store: &Arc<dyn RaftLogStore>, records: Vec<LogRecord>) {
    let (done, outcome) = oneshot::channel();
    let answer = move |result| done.send(result).expect("the test waits");
    store.append(records, Box::new(answer));
    let outcome = tokio::time::timeout(Duration::from_secs(30), outcome).await.expect("an answer in time");
    outcome.expect("the callback is called").expect("appended");
}

async fn an_empty_store_has_no_bounds(open: Open<'_>) {
    let store = open();
    assert_eq!(store.bounds(), LogBounds::default());
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), []);
    assert!(store.load_snapshot().await.expect("loads").is_none());
}

async fn what_was_appended_is_found_again(open: Open<'_>) {
    let store = open();
    append(&store, records(1, 0..5)).await;
    append(&store, records(2, 5..9)).await;
    store.note_committed(Some(id(2, 6)));
    append(&store, records(2, 9..10)).await;
    let all: Vec<LogRecord> = records(1, 0..5).into_iter().chain(records(2, 5..10)).collect();
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), all);
    drop(store);
    let store = open();
    assert_eq!(store.bounds().last, Some(id(2, 9)));
    assert_eq!(store.bounds().committed, Some(id(2, 6)));
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), all);
    store.settle();
    assert_eq!(store.read(3..7).await.expect("reads"), all[3..7]);
    assert_eq!(store.read(9..30).await.expect("reads"), all[9..]);
    assert_eq!(store.read(10..30).await.expect("reads"), []);
}

async fn truncation_makes_room_for_other_entries(open: Open<'_>) {
    let store = open();
    append(&store, records(1, 0..10)).await;
    store.truncate_after(Some(id(1, 3))).await.expect("truncates");
    assert_eq!(store.bounds().last, Some(id(1, 3)));
    append(&store, records(2, 4..6)).await;
    let expected: Vec<LogRecord> = records(1, 0..4).into_iter().chain(records(2, 4..6)).collect();
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), expected);
    drop(store);
    let store = open();
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), expected);
    store.truncate_after(None).await.expect("truncates");
    append(&store, records(3, 0..1)).await;
    drop(store);
    assert_eq!(open().read(0..u64::MAX).await.expect("reads"), records(3, 0..1));
}

async fn what_was_purged_is_gone(open: Open<'_>) {
    let store = open();
    append(&store, records(1, 0..100)).await;
    let source = || Box::new(|sink: &mut super::ChunkSink<'_>| sink(b"state"));
    store.save_snapshot(Some(id(1, 40)), source()).await.expect("saves");
    store.purge(id(1, 40)).await.expect("purges");
    assert_eq!(store.bounds().purged, Some(id(1, 40)));
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), records(1, 41..100));
    drop(store);
    let store = open();
    assert_eq!((store.bounds().purged, store.bounds().last), (Some(id(1, 40)), Some(id(1, 99))));
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), records(1, 41..100));
    // A snapshot of another node may cover more than the whole log.
    store.save_snapshot(Some(id(2, 300)), source()).await.expect("saves");
    store.purge(id(2, 300)).await.expect("purges");
    assert_eq!(store.bounds().last, Some(id(2, 300)));
    append(&store, records(2, 301..303)).await;
    drop(store);
    let store = open();
    assert_eq!((store.bounds().purged, store.bounds().last), (Some(id(2, 300)), Some(id(2, 302))));
    assert_eq!(store.read(0..u64::MAX).await.expect("reads"), records(2, 301..303));
}

async fn the_newest_vote_counts(open: Open<'_>) {
    let mut vote = Vote { term: 1, node: 2, committed: false };
    let store = open();
    for term in 1..6 {
        vote = Vote { term, committed: term % 2 == 0, ..vote };
        store.save_vote(vote).await.expect("saves");
        assert_eq!(store.bounds().vote, Some(vote));
    }
    drop(store);
    assert_eq!(open().bounds().vote, Some(vote));
}

async fn the_newest_snapshot_counts(open: Open<'_>) {
    let store = open();
    for round in 1..4_u8 {
        let source = move |sink: &mut super::ChunkSink<'_>| (0..3).try_for_each(|part| sink(&[round, part]));
        store.save_snapshot(Some(id(1, u64::from(round))), Box::new(source)).await.expect("saves");
    }
    assert!(store.snapshot_bytes() >= 6);
    drop(store);
    let store = open();
    let chunks = store.load_snapshot().await.expect("loads").expect("there is one");
    let chunks: Vec<Bytes> = chunks.collect::<Result<_, _>>().expect("whole");
    assert_eq!(chunks, (0..3).map(|part| Bytes::from(vec![3, part])).collect::<Vec<_>>());
}

async fn large_entries_survive(open: Open<'_>) {
    let large = |index: u64| LogRecord { id: id(1, index), payload: Bytes::from(vec![index as u8; 3 << 20]) };
    let store = open();
    for index in 0..4 {
        append(&store, vec![large(index), record(1, index)].into_iter().take(1).collect()).await;
    }
    drop(store);
    let store = open();
    store.settle();
    assert_eq!(store.read(0..4).await.expect("reads"), (0..4).map(large).collect::<Vec<_>>());
}

async fn callbacks_come_in_order(open: Open<'_>) {
    let store = open();
    let (told, mut heard) = tokio::sync::mpsc::channel(200);
    for index in 0..200 {
        let told = told.clone();
        let answer = move |result: std::io::Result<()>| {
            result.expect("appended");
            told.try_send(index).expect("the test listens");
        };
        store.append(records(1, index..index + 1), Box::new(answer));
        assert_eq!(store.read(index..index + 1).await.expect("reads"), records(1, index..index + 1));
    }
    for index in 0..200 {
        assert_eq!(heard.recv().await, Some(index));
    }
}
