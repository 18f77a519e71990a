//! The life of one or a few streams, step by step.

use wal::{AppendError, WriteAheadLog};

use super::*;
use crate::{FetchError, Fetched, OpenError, ReadClass};

fn log() -> MemoryLog {
    MemoryLog::new(64 << 20, 1000, true)
}

fn text(fetched: &Fetched) -> String {
    fetched.slices.iter().map(|slice| String::from_utf8_lossy(&slice.bytes).into_owned()).collect()
}

async fn fetch(stream: &Arc<Stream>, from: i64, until: i64, max_bytes: usize) -> String {
    let fetched = stream.fetch(offset(from), offset(until), max_bytes, ReadClass::Tail).await.expect("fetches");
    text(&fetched)
}

#[tokio::test]
async fn appends_are_fetched_from_the_log_cache() {
    let rig = Rig::new(log(), settings());
    let stream = rig.open(1);
    for payload in ["aa", "bb", "cc"] {
        append(&stream, 2, payload.as_bytes());
    }
    assert_eq!((stream.start_offset(), stream.next_offset(), stream.size_bytes()), (offset(0), offset(6), 6));
    assert_eq!(fetch(&stream, 0, 6, 100).await, "aabbcc");
    assert_eq!(fetch(&stream, 3, 6, 100).await, "bbcc");
    assert_eq!(fetch(&stream, 0, 5, 100).await, "aabb");
    assert_eq!(fetch(&stream, 0, 6, 5).await, "aabb");
    assert_eq!(fetch(&stream, 0, 6, 1).await, "aa");
    assert_eq!(fetch(&stream, 6, 6, 1).await, "");
    let cached = stream.fetch_cached(offset(2), offset(6), 100).expect("cached");
    assert_eq!((text(&cached).as_str(), cached.bytes), ("bbcc", 4));
    let outside = stream.fetch(offset(7), offset(9), 1, ReadClass::Tail).await;
    assert!(matches!(outside, Err(FetchError::OutOfRange { .. })));
}

#[tokio::test]
async fn a_patch_is_what_is_read() {
    let rig = Rig::new(log(), settings());
    let stream = rig.open(1);
    let request = AppendRequest {
        base_offset: offset(0),
        next_offset: offset(1),
        max_timestamp_ms: -1,
        tag: [0; wal::TAG_BYTES],
    };
    stream.append(&request, b"x...", &mut |copy| copy[1..].fill(b'!')).expect("appends");
    assert_eq!(fetch(&stream, 0, 1, 10).await, "x!!!");
}

#[tokio::test]
async fn released_blocks_are_read_from_the_log_once() {
    let rig = Rig::new(log(), Settings { log_cache_bytes: 100, ..settings() });
    let stream = rig.open(1);
    for n in 0..10 {
        append(&stream, 1, n.to_string().as_bytes());
    }
    assert!(stream.fetch_cached(offset(0), offset(10), 100).is_none());
    assert_eq!(fetch(&stream, 0, 10, 100).await, "0123456789");
    let reads = rig.log.reads();
    assert!(reads > 0);
    assert_eq!(fetch(&stream, 0, 10, 100).await, "0123456789");
    assert_eq!(rig.log.reads(), reads);
}

#[tokio::test]
async fn a_crash_loses_only_what_was_not_durable() {
    let rig = Rig::new(MemoryLog::new(1 << 20, 1000, false), settings());
    let stream = rig.open(1);
    append(&stream, 1, b"kept");
    stream.append_checkpoint(offset(1), b"state").expect("appends");
    rig.log.flush();
    append(&stream, 1, b"lost");
    let rig = rig.crash().await;
    let stream = rig.open(1);
    assert_eq!(stream.next_offset(), offset(1));
    assert_eq!(fetch(&stream, 0, 1, 100).await, "kept");
    let checkpoint = stream.checkpoint().await.expect("reads").expect("is there");
    assert_eq!((checkpoint.offset, &checkpoint.payload[..]), (offset(1), &b"state"[..]));
}

#[tokio::test]
async fn uploads_then_serves_from_objects_and_trims_the_log() {
    let rig = Rig::new(log(), settings());
    let (one, two) = (rig.open(1), rig.open(2));
    for n in 0..5 {
        append(&one, 1, format!("a{n}").as_bytes());
        append(&two, 3, format!("b{n}").as_bytes());
    }
    one.append_checkpoint(one.next_offset(), b"one").expect("appends");
    two.append_checkpoint(two.next_offset(), b"two").expect("appends");
    rig.store.flush().await.expect("flushes");
    assert_eq!(rig.metadata.commits(), 1);
    assert_eq!(rig.store.backlog_bytes(), 0);
    assert!(rig.log.used() < 200, "only the checkpoints are left in the log: {}", rig.log.used());
    assert_eq!(rig.metadata.all_ranges(StreamId(2)).len(), 1);

    let rig = rig.crash().await;
    let (one, two) = (rig.open(1), rig.open(2));
    assert_eq!((one.next_offset(), two.next_offset()), (offset(5), offset(15)));
    assert_eq!(fetch(&one, 0, 5, 100).await, "a0a1a2a3a4");
    assert_eq!(fetch(&two, 4, 14, 100).await, "b1b2b3");
    assert_eq!(fetch(&two, 4, 15, 3).await, "b1");
    assert_eq!((one.size_bytes(), two.size_bytes()), (10, 10));
    let checkpoint = two.checkpoint().await.expect("reads").expect("is there");
    assert_eq!((checkpoint.offset, &checkpoint.payload[..]), (offset(15), &b"two"[..]));
    append(&one, 1, b"a5");
    assert_eq!(fetch(&one, 4, 6, 100).await, "a4");
    assert_eq!(fetch(&one, 5, 6, 100).await, "a5");
    let heads = one.heads(offset(2)).await.expect("reads");
    let bases: Vec<i64> = heads.iter().map(|head| head.base_offset.0).collect();
    assert_eq!(bases, [2, 3, 4, 5]);
    assert_eq!(heads[0].tag, [2; wal::TAG_BYTES]);
}

#[tokio::test]
async fn timestamps_are_found_in_objects_and_tail() {
    let rig = Rig::new(log(), settings());
    let stream = rig.open(1);
    for _ in 0..3 {
        append(&stream, 1, b"x");
    }
    rig.store.flush().await.expect("flushes");
    let rig = rig.crash().await;
    let stream = rig.open(1);
    append(&stream, 1, b"y");
    for (timestamp, until, expected) in
        [(0, 4, Some(0)), (1001, 4, Some(1)), (1003, 4, Some(3)), (1003, 3, None), (1004, 4, None)]
    {
        let found = stream.find_timestamp(timestamp, offset(until)).await.expect("searches");
        assert_eq!(found.map(|record| record.base_offset.0), expected, "{timestamp} below {until}");
    }
    for (until, expected) in [(4, Some(3)), (3, Some(2)), (0, None)] {
        let found = stream.find_max_timestamp(offset(until)).await.expect("searches");
        assert_eq!(found.map(|record| record.base_offset.0), expected);
    }
}

#[tokio::test]
async fn trim_moves_the_start_for_good() {
    let rig = Rig::new(log(), settings());
    let stream = rig.open(1);
    for n in 0..5 {
        append(&stream, 2, n.to_string().as_bytes());
    }
    stream.trim(offset(5)).await.expect("trims");
    assert_eq!(stream.start_offset(), offset(5));
    assert!(matches!(
        stream.fetch(offset(4), offset(10), 10, ReadClass::Tail).await,
        Err(FetchError::OutOfRange { .. })
    ));
    assert_eq!(fetch(&stream, 5, 10, 100).await, "234");
    let rig = rig.crash().await;
    let stream = rig.open(1);
    assert_eq!(stream.start_offset(), offset(5));
    assert_eq!(fetch(&stream, 5, 10, 100).await, "234");
    stream.trim(offset(10)).await.expect("trims");
    assert_eq!(fetch(&stream, 10, 10, 100).await, "");
}

#[tokio::test]
async fn a_newer_opening_fences_the_older_one_and_takes_its_tail() {
    let rig = Rig::new(log(), settings());
    let old = rig.open(1);
    append(&old, 1, b"a");
    let new = rig.open(1);
    assert_eq!(new.next_offset(), offset(1));
    assert_eq!(old.append_checkpoint(offset(1), b""), Err(AppendError::Closed));
    append(&new, 1, b"b");
    assert!(matches!(rig.store.open(StreamId(1), old.epoch()), Err(OpenError::Fenced { .. })));
    assert!(matches!(rig.store.open(StreamId(9), old.epoch()), Err(OpenError::Unknown(_))));
    drop(old);
    rig.store.flush().await.expect("flushes");
    assert_eq!(rig.store.backlog_bytes(), 0);
    let rig = rig.crash().await;
    assert_eq!(fetch(&rig.open(1), 0, 2, 100).await, "ab");
}

#[tokio::test]
async fn a_full_index_refuses_and_an_upload_heals() {
    let rig = Rig::new(log(), Settings { tail_index_bytes: 1000, ..settings() });
    let stream = rig.open(1);
    let request = |base: i64| AppendRequest {
        base_offset: offset(base),
        next_offset: offset(base + 1),
        max_timestamp_ms: -1,
        tag: [0; wal::TAG_BYTES],
    };
    let mut base = 0;
    while stream.append(&request(base), b"x", &mut |_| ()).is_ok() {
        base += 1;
    }
    assert!(base > 1 && base < 100);
    assert_eq!(stream.append(&request(base), b"x", &mut |_| ()), Err(AppendError::Full));
    rig.store.flush().await.expect("flushes");
    assert!(stream.append(&request(base), b"x", &mut |_| ()).is_ok());
    assert_eq!(fetch(&stream, 0, base + 1, 1000).await, "x".repeat(base as usize));
}

#[tokio::test]
async fn a_deleted_stream_blocks_neither_others_nor_the_trim() {
    let rig = Rig::new(log(), settings());
    let (gone, kept) = (rig.open(1), rig.open(2));
    append(&gone, 1, b"x");
    append(&kept, 1, b"y");
    rig.metadata.delete_stream(StreamId(1));
    rig.store.flush().await.expect("flushes");
    assert_eq!(rig.store.backlog_bytes(), 0);
    assert!(rig.log.used() < 100);
    assert_eq!(kept.committed_offset(), offset(1));

    append(&kept, 1, b"z");
    let unopened = rig.open(3);
    append(&unopened, 1, b"w");
    rig.metadata.delete_stream(StreamId(3));
    let rig = rig.crash().await;
    let kept = rig.open(2);
    rig.store.flush().await.expect("what the log holds of a deleted stream is dropped");
    assert_eq!(kept.committed_offset(), offset(2));
}

#[tokio::test]
async fn a_lost_commit_answer_is_asked_for_again() {
    let rig = Rig::new(log(), settings());
    let stream = rig.open(1);
    append(&stream, 1, b"x");
    rig.metadata.lose_outcomes(2);
    rig.store.flush().await.expect("flushes");
    assert_eq!(rig.metadata.commits(), 1);
    assert_eq!(stream.committed_offset(), offset(1));
}

#[tokio::test]
async fn large_slices_get_objects_of_their_own() {
    let settings = Settings { log_cache_bytes: 128 << 20, ..settings() };
    let rig = Rig::new(MemoryLog::new(256 << 20, 1 << 20, true), settings);
    let (large, small, tiny) = (rig.open(1), rig.open(2), rig.open(3));
    let payload = vec![7; 500_000];
    for _ in 0..20 {
        append(&large, 1, &payload);
    }
    append(&small, 1, b"s");
    append(&tiny, 1, b"t");
    rig.store.flush().await.expect("flushes");
    assert_eq!(rig.metadata.commits(), 1);
    let of = |stream: u64| rig.metadata.all_ranges(StreamId(stream))[0].object.id;
    assert_eq!(of(2), of(3));
    assert_ne!(of(1), of(2));
    let rig = rig.crash().await;
    let large = rig.open(1);
    let mut from = 0;
    while from < 20 {
        let fetched = large.fetch(offset(from), offset(20), 1 << 20, ReadClass::CatchUp).await.expect("fetches");
        assert!(fetched.slices.iter().all(|slice| slice.bytes.iter().all(|byte| *byte == 7)));
        from = fetched.slices.last().expect("something").next_offset.0;
    }
}

/// Metadata granted the next epoch, and this node has not taken it over yet: the upload of the opening before is
/// refused, and what it was to upload must still be there for the next one.
#[tokio::test(start_paused = true)]
async fn an_upload_that_is_refused_amid_a_reopening_drops_nothing() {
    let rig = Rig::new(log(), settings());
    let stream = rig.open(1);
    for payload in ["aa", "bb", "cc"] {
        append(&stream, 1, payload.as_bytes());
    }
    let owner = (rig.settings.node, rig.settings.node_epoch);
    let epoch = rig.metadata.open_stream_by(StreamId(1), Some(owner));
    // It cannot succeed before the stream is open under the new epoch.
    assert!(tokio::time::timeout(Duration::from_millis(500), rig.store.flush()).await.is_err());
    assert_eq!((rig.metadata.commits(), rig.metadata.all_ranges(StreamId(1)).len()), (1, 0), "one commit, refused");

    let stream = rig.store.open(StreamId(1), epoch).expect("opens");
    assert_eq!(stream.next_offset(), offset(3));
    assert_eq!(fetch(&stream, 0, 3, 100).await, "aabbcc");
    rig.store.flush().await.expect("flushes");
    assert_eq!(stream.committed_offset(), offset(3));
    assert_eq!(fetch(&stream, 0, 3, 100).await, "aabbcc");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_holds_of_a_deleted_stream_holds_up_nothing() {
    let rig = Rig::new(log(), settings());
    append(&rig.open(1), 1, &[7; 5000]);
    rig.metadata.delete_stream(StreamId(1));
    let rig = rig.crash().await;
    let held = rig.log.used();
    assert!(tokio::time::timeout(Duration::from_secs(1), rig.store.flush()).await.is_err(), "metadata may be behind");
    rig.store.metadata_loaded();
    rig.store.flush().await.expect("flushes");
    assert!(rig.log.used() < held, "the log is trimmed");
}
