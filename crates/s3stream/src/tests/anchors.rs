//! What is opened while the store is down: see [`crate::anchors`].

use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use wal::WriteAheadLog;

use super::*;
use crate::{CheckpointSource, ReadClass};

const CAPACITY: u64 = 64 << 10;

/// Whoever leads a stream: makes its checkpoints when asked.
struct Leader {
    stream: Arc<Stream>,
    asked: AtomicUsize,
}

impl CheckpointSource for Leader {
    fn append_checkpoint(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let next = self.stream.next_offset();
        // A full log takes none.
        let _ = self.stream.append_checkpoint(next, format!("state at {next}").as_bytes());
    }
}

fn lead(stream: &Arc<Stream>) -> Arc<Leader> {
    let leader = Arc::new(Leader { stream: Arc::clone(stream), asked: AtomicUsize::new(0) });
    let source: Weak<Leader> = Arc::downgrade(&leader);
    stream.set_checkpoint_source(source);
    leader
}

/// Crashes and comes back without a store: whoever asks it for something gets an error.
async fn crash_and_lose_the_store(rig: Rig) -> Rig {
    let objects = Arc::clone(&rig.objects);
    let rig = rig.crash().await;
    let all: Vec<_> = objects.list(None).try_collect().await.expect("lists");
    assert!(!all.is_empty(), "there was something to lose");
    for object in all {
        objects.delete(&object.location).await.expect("deletes");
    }
    rig
}

async fn state(stream: &Arc<Stream>) -> (Option<String>, Vec<(i64, i64)>) {
    let checkpoint = stream.checkpoint().await.expect("no store is needed");
    let from = checkpoint.as_ref().map_or(offset(0), |checkpoint| checkpoint.offset);
    let heads = stream.heads(from).await.expect("no store is needed");
    let text = checkpoint.map(|checkpoint| String::from_utf8_lossy(&checkpoint.payload).into_owned());
    (text, heads.iter().map(|head| (head.base_offset.0, head.next_offset.0)).collect())
}

/// The log may refuse an append long before it is three quarters full: a ring of few segments turns over in large steps.
#[tokio::test]
async fn an_anchor_gives_way_to_an_append_that_was_refused() {
    let rig = Rig::new(MemoryLog::new(CAPACITY, 100, true), settings());
    let (resting, busy) = (rig.open(1), rig.open(2));
    append(&resting, 1, b"a");
    append(&busy, 1, &[7; 40_000]);
    rig.store.flush().await.expect("uploads");
    let next = busy.next_offset();
    let request =
        AppendRequest { base_offset: next, next_offset: next.plus(1), max_timestamp_ms: 1, tag: [0; wal::TAG_BYTES] };
    let append = || busy.append(&request, &[7; 40_000], &mut |_| ());
    assert_eq!(append(), Err(wal::AppendError::Full));
    rig.store.registry.settle(&rig.store.core);
    assert!(append().is_ok());
}

/// Writes `bytes` to `stream`, some of it un-uploaded at any time.
async fn fill(rig: &Rig, stream: &Stream, bytes: u64) {
    for n in 0..bytes / 1000 {
        append(stream, 1, &[7; 936]);
        if n % 8 == 7 {
            rig.store.flush().await.expect("uploads");
            crate::anchors::renew(&rig.store.core, &rig.store.registry).await;
        }
    }
}

#[tokio::test]
async fn a_stream_that_the_log_holds_whole_needs_no_store() {
    let rig = Rig::new(MemoryLog::new(CAPACITY, 100, true), settings());
    let stream = rig.open(1);
    append(&stream, 3, b"abc");
    append(&stream, 2, b"de");
    rig.store.flush().await.expect("uploads");
    append(&stream, 1, b"f");
    let rig = crash_and_lose_the_store(rig).await;
    let stream = rig.open(1);
    assert!(stream.opens_from_log());
    assert_eq!(stream.committed_offset(), offset(5));
    assert_eq!(state(&stream).await, (None, vec![(0, 3), (3, 5), (5, 6)]));
    // A coordinator reads its records, too, before the opening is over.
    let read = stream.fetch(offset(0), offset(6), 100, ReadClass::CatchUp).await.expect("no store is needed");
    assert_eq!(read.slices.iter().flat_map(|slice| slice.bytes.to_vec()).collect::<Vec<_>>(), b"abcdef");
    stream.opened();
    assert!(stream.fetch(offset(0), offset(6), 100, ReadClass::CatchUp).await.is_err(), "objects have it from now on");
}

#[tokio::test]
async fn a_stream_at_rest_needs_no_store_however_much_others_write() {
    let rig = Rig::new(MemoryLog::new(CAPACITY, 100, true), settings());
    let (resting, busy) = (rig.open(1), rig.open(2));
    append(&resting, 3, b"abc");
    let (leader, _busy_leader) = (lead(&resting), lead(&busy));
    fill(&rig, &busy, 10 * CAPACITY).await;
    assert!(rig.log.used() < CAPACITY / 2, "nothing holds up the trim: {}", rig.log.used());
    let asked = leader.asked.load(Ordering::Relaxed);
    assert!((20..200).contains(&asked), "asked {asked} times");
    append(&resting, 2, b"de");
    let rig = crash_and_lose_the_store(rig).await;
    let (resting, busy) = (rig.open(1), rig.open(2));
    assert!(resting.opens_from_log() && busy.opens_from_log());
    assert_eq!(state(&resting).await, (Some("state at 3".to_owned()), vec![(3, 5)]));
    let (checkpoint, heads) = state(&busy).await;
    assert!(checkpoint.is_some());
    assert_eq!(heads.last().map_or(busy.next_offset().0, |(_, next)| *next), 10 * CAPACITY as i64 / 1000);
}

/// A source that makes no checkpoint must not end produce to all others.
#[tokio::test]
async fn an_anchor_gives_way_before_the_log_is_full() {
    let rig = Rig::new(MemoryLog::new(CAPACITY, 100, true), settings());
    let (resting, busy) = (rig.open(1), rig.open(2));
    append(&resting, 3, b"abc");
    resting.append_checkpoint(offset(3), b"old").expect("appends");
    let _busy_leader = lead(&busy);
    fill(&rig, &busy, 10 * CAPACITY).await;
    assert!(!resting.opens_from_log());
    let rig = rig.crash().await;
    let resting = rig.open(1);
    assert!(!resting.opens_from_log(), "its anchor was trimmed");
    assert_eq!(state(&resting).await, (Some("old".to_owned()), vec![]), "but the store has it");
    // Now it is anchored again, because it was opened from the store.
    let leader = lead(&resting);
    crate::anchors::renew(&rig.store.core, &rig.store.registry).await;
    assert!(leader.asked.load(Ordering::Relaxed) > 0 && resting.opens_from_log());
}
