//! Streams that come from another node: from its sealed log, or handed over.

use std::sync::atomic::{AtomicBool, Ordering};

use common::budget::ByteBudget;
use common::store::{FaultPlan, Faults, Layered};
use wal::{AppendError, SealedLog, WriteAheadLog};

use super::*;
use crate::compaction::{Compactor, SETS_PER_SPLIT};
use crate::{
    AdoptError, ExportError, HandOver, ImportError, ObjectManager as _, OpenError, ReadClass, StreamManager as _,
    sealed_tails,
};

/// Another node on the same metadata and store.
fn beside(rig: &Rig, node: i32, settings: Settings) -> Rig {
    let settings = Settings { node: NodeId(node), node_epoch: NodeEpoch(node as u64), ..settings };
    let log = Arc::new(MemoryLog::new(1 << 20, 700, true));
    Rig::start(rig.objects.clone(), log, wal::Recovered::default(), rig.metadata.clone(), settings)
}

fn grant(rig: &Rig, stream: u64) -> common::StreamEpoch {
    let owner = (rig.settings.node, rig.settings.node_epoch);
    rig.metadata.create_stream(StreamId(stream));
    rig.metadata.open_stream_by(StreamId(stream), Some(owner))
}

fn open(rig: &Rig, stream: u64) -> Arc<Stream> {
    rig.store.open(StreamId(stream), grant(rig, stream)).expect("opens")
}

/// Node 1 dies; node 2 gets `streams` and opens them.
async fn fail_over(dead: Rig, to: &Rig, streams: &[u64]) -> (Arc<SealedLog>, Arc<AtomicBool>, Vec<Arc<Stream>>) {
    dead.supervisor.stop(Duration::ZERO).await;
    let present = Arc::new(AtomicBool::new(true));
    let log = dead.log.sealed(Arc::clone(&present));
    to.metadata.seal(&sealed_tails(&log, &*to.metadata).expect("reads"));
    let epochs: Vec<_> = streams.iter().map(|stream| grant(to, *stream)).collect();
    to.store.adopt(&log, &|stream| streams.contains(&stream.0)).expect("adopts");
    let opened = streams.iter().zip(epochs).map(|(stream, epoch)| to.store.open(StreamId(*stream), epoch));
    let opened = opened.map(|stream| stream.expect("opens")).collect();
    (log, present, opened)
}

async fn text(stream: &Arc<Stream>) -> String {
    let (mut from, next, mut text) = (stream.start_offset(), stream.next_offset(), String::new());
    while from < next {
        let fetched = stream.fetch(from, next, 1000, ReadClass::Tail).await.expect("fetches");
        for slice in fetched.slices {
            text += &String::from_utf8_lossy(&slice.bytes);
            from = slice.next_offset;
        }
    }
    text
}

fn rig() -> Rig {
    Rig::new(MemoryLog::new(1 << 20, 700, true), settings())
}

#[tokio::test]
async fn an_adopted_stream_opens_without_store_or_payload_and_is_uploaded_from_the_sealed_log() {
    let one = rig();
    let two = beside(&one, 2, settings());
    let (stream, other) = (open(&one, 1), open(&one, 2));
    for n in 0..5 {
        append(&stream, 2, n.to_string().as_bytes());
        append(&other, 1, b"other");
    }
    stream.append_checkpoint(offset(10), b"state").expect("appends");
    drop(other);
    let (log, present, streams) = fail_over(one, &two, &[1]).await;
    assert_eq!(two.metadata.stream(StreamId(2)).expect("exists").sealed_end, offset(5), "nobody has that yet");
    let stream = &streams[0];
    assert!(stream.opens_from_log());
    assert_eq!((stream.next_offset(), stream.newest_lsn(), two.store.backlog_bytes()), (offset(10), None, 5));
    present.store(false, Ordering::SeqCst);
    assert_eq!(stream.heads(offset(0)).await.expect("indexed").len(), 5);
    present.store(true, Ordering::SeqCst);
    let checkpoint = stream.checkpoint().await.expect("reads").expect("is there");
    assert_eq!((checkpoint.offset, &checkpoint.payload[..]), (offset(10), &b"state"[..]));

    append(stream, 1, b"new");
    assert_eq!(text(stream).await, "01234new");
    for _ in 0..2 {
        two.store.adopt(&log, &|stream| stream == StreamId(1)).expect("changes nothing");
        assert_eq!(text(stream).await, "01234new");
    }
    two.store.flush().await.expect("uploads");
    assert_eq!((two.store.backlog_bytes(), stream.committed_offset()), (0, offset(11)));
    present.store(false, Ordering::SeqCst);
    assert_eq!(text(stream).await, "01234new", "nobody needs the sealed log any more");
    let two = two.crash().await;
    assert_eq!(text(&open(&two, 1)).await, "01234new");
}

#[tokio::test]
async fn a_stream_is_not_opened_without_the_log_that_holds_its_tail() {
    let one = rig();
    let two = beside(&one, 2, settings());
    append(&open(&one, 1), 3, b"abc");
    one.supervisor.stop(Duration::ZERO).await;
    let log = one.log.sealed(Arc::new(AtomicBool::new(true)));
    let tails = sealed_tails(&log, &*two.metadata).expect("reads");
    assert_eq!(tails, [(StreamId(1), offset(3))]);
    let early = two.store.adopt(&log, &|_| true);
    assert!(matches!(early, Err(AdoptError::Elsewhere(StreamId(1)))), "not granted yet");
    two.metadata.seal(&tails);
    let epoch = grant(&two, 1);
    let refused = two.store.open(StreamId(1), epoch).expect_err("a log is missing");
    assert!(matches!(refused, OpenError::Gap { found: Offset(3), .. }), "{refused}");
    two.store.adopt(&log, &|_| true).expect("adopts");
    assert_eq!(text(&two.store.open(StreamId(1), epoch).expect("opens")).await, "abc");
    let ahead = common::StreamEpoch(epoch.0 + 1);
    assert!(matches!(two.store.open(StreamId(1), ahead), Err(OpenError::Behind { .. })));
}

/// A partition that reopens asks for a new epoch. What is adopted once more in between is older than what is open, and
/// must not take its place.
#[tokio::test]
async fn what_is_adopted_again_amid_a_reopening_takes_nothing_away() {
    let one = rig();
    let two = beside(&one, 2, settings());
    append(&open(&one, 1), 1, b"a");
    let (log, _present, streams) = fail_over(one, &two, &[1]).await;
    append(&streams[0], 1, b"b");
    let epoch = grant(&two, 1);
    two.store.adopt(&log, &|_| true).expect("changes nothing");
    let reopened = two.store.open(StreamId(1), epoch).expect("opens");
    assert_eq!(text(&reopened).await, "ab");
    two.store.flush().await.expect("uploads");
    assert_eq!(reopened.committed_offset(), offset(2));
}

#[tokio::test]
async fn a_sealed_log_that_cannot_be_read_holds_up_nothing_else() {
    let one = rig();
    let two = beside(&one, 2, Settings { block_cache_bytes: 0, upload_bytes: 1, ..settings() });
    append(&open(&one, 1), 1, b"a");
    let (_log, present, streams) = fail_over(one, &two, &[1]).await;
    present.store(false, Ordering::SeqCst);
    let own = open(&two, 2);
    append(&own, 1, b"b");
    while own.committed_offset() < offset(1) {
        let _ = tokio::time::timeout(Duration::from_millis(10), two.store.flush()).await;
    }
    assert_eq!((streams[0].committed_offset(), two.store.backlog_bytes()), (offset(0), 1), "nothing is given up");
    present.store(true, Ordering::SeqCst);
    two.store.flush().await.expect("uploads");
    assert_eq!(streams[0].committed_offset(), offset(1));
}

/// Below a stream's start nothing has to be there: metadata lets go of the sealed log, and nobody may wait for it.
#[tokio::test]
async fn what_was_trimmed_before_its_upload_is_not_uploaded() {
    let one = rig();
    let two = beside(&one, 2, Settings { block_cache_bytes: 0, ..settings() });
    let stream = open(&one, 1);
    append(&stream, 2, b"aa");
    append(&stream, 2, b"bb");
    let (_log, present, streams) = fail_over(one, &two, &[1]).await;
    let stream = &streams[0];
    append(stream, 1, b"c");
    stream.trim(offset(3)).await.expect("trims");
    assert_eq!((two.store.backlog_bytes(), stream.committed_offset()), (3, offset(3)));
    assert_eq!(text(stream).await, "bbc", "the record that holds the start is still there");
    stream.trim(offset(4)).await.expect("trims");
    present.store(false, Ordering::SeqCst);
    two.store.flush().await.expect("uploads");
    assert_eq!((stream.committed_offset(), two.store.backlog_bytes()), (offset(5), 0));
    assert_eq!(text(stream).await, "c");
}

/// An upload that waits for the store when its records are trimmed, and then from the log: it would look for them for ever.
#[tokio::test(start_paused = true)]
async fn an_upload_whose_records_were_trimmed_is_planned_anew() {
    let faults = Arc::new(Faults::new(FaultPlan::default(), Arc::new(SeededRandom::new(1))));
    let objects = Arc::new(Layered::new(Arc::new(InMemory::new()), Arc::clone(&faults)));
    let rig = Rig::on(objects, MemoryLog::new(1 << 20, 100, true), Settings { log_cache_bytes: 0, ..settings() });
    let stream = open(&rig, 1);
    append(&stream, 1, &[b'a'; 200]);
    stream.append_checkpoint(offset(1), b"state").expect("appends");
    faults.set(FaultPlan { unreachable: true, ..FaultPlan::default() });
    assert!(tokio::time::timeout(Duration::from_secs(5), rig.store.flush()).await.is_err(), "no store");
    stream.trim(offset(1)).await.expect("trims");
    rig.store.registry.settle(&rig.store.core);
    append(&stream, 1, b"b");
    faults.set(FaultPlan::default());
    tokio::time::timeout(Duration::from_secs(60), rig.store.flush()).await.expect("goes on").expect("uploads");
    assert_eq!((stream.committed_offset(), text(&stream).await), (offset(2), "b".to_owned()));
}

/// The stream moved on, and nobody has told yet: its new node committed all of it, and the sealed log was let go.
#[tokio::test]
async fn what_was_adopted_and_moved_on_is_not_waited_for() {
    let one = rig();
    let two = beside(&one, 2, Settings { block_cache_bytes: 0, ..settings() });
    append(&open(&one, 1), 1, b"a");
    let (_log, present, streams) = fail_over(one, &two, &[1]).await;
    grant(&beside(&two, 3, settings()), 1);
    present.store(false, Ordering::SeqCst);
    two.store.flush().await.expect("nothing of it is this node's");
    assert_eq!((two.store.backlog_bytes(), two.metadata.commits()), (0, 0));
    assert_eq!(streams[0].append_checkpoint(offset(0), b""), Err(AppendError::Closed));
}

/// It was elsewhere, where all of it was committed, and comes back before anybody here has closed it.
#[tokio::test]
async fn a_stream_that_comes_back_longer_is_read_whole() {
    let one = rig();
    let two = beside(&one, 2, settings());
    append(&open(&one, 1), 1, b"a");
    one.store.flush().await.expect("uploads");
    let there = open(&two, 1);
    append(&there, 1, b"b");
    two.store.flush().await.expect("uploads");
    let back = open(&one, 1);
    append(&back, 1, b"c");
    assert_eq!((back.committed_offset(), text(&back).await), (offset(2), "abc".to_owned()));
}

async fn hand_over(from: &Stream) -> HandOver {
    from.park();
    let (hand_over, _lease) = from.export_tail(&ByteBudget::new(1 << 20)).await.expect("exports");
    HandOver::decode(hand_over.encode()).expect("as encoded")
}

#[tokio::test]
async fn a_stream_moves_there_and_back_with_its_tail() {
    let one = rig();
    let two = beside(&one, 2, settings());
    let stream = open(&one, 1);
    append(&stream, 2, b"aa");
    one.store.flush().await.expect("uploads");
    append(&stream, 1, b"b");
    stream.append_checkpoint(offset(3), b"state").expect("appends");
    let mut text_so_far = "aab".to_owned();
    let mut here = (one, stream);
    let mut there = two;
    for round in 0..4 {
        let (source, stream) = here;
        let moved = hand_over(&stream).await;
        assert_eq!(moved.records.first().map(|record| record.base_offset), Some(offset(2)));
        assert_eq!(stream.append_checkpoint(stream.next_offset(), b""), Err(AppendError::Closed), "parked");
        let epoch = source.metadata.reserve(StreamId(1));
        let end = there.store.import(epoch, &moved).await.expect("imports");
        assert!(there.log.durable().get() >= end);
        assert_eq!(there.store.import(epoch, &moved).await, Ok(end), "asked again");
        assert!(source.metadata.grant(StreamId(1), epoch, (there.settings.node, there.settings.node_epoch)));
        if round % 2 == 0 {
            source.store.close(StreamId(1));
            assert_eq!(source.store.backlog_bytes(), 0);
        }
        let reads = there.log.reads();
        let opened = there.store.open(StreamId(1), epoch).expect("opens");
        let again = there.store.import(epoch, &moved).await;
        assert_eq!(again, Err(ImportError::Used { stream: StreamId(1), epoch }));
        append(&opened, 1, b"c");
        text_so_far += "c";
        assert_eq!((text(&opened).await, there.log.reads()), (text_so_far.clone(), reads), "all of it is in memory");
        let state = opened.checkpoint().await.expect("reads").expect("is there");
        assert_eq!((state.offset, &state.payload[..]), (offset(3), &b"state"[..]));
        here = (there, opened);
        there = source;
    }
    let (node, stream) = here;
    node.store.flush().await.expect("uploads");
    assert_eq!(stream.committed_offset(), stream.next_offset());
    let node = node.crash().await;
    assert_eq!(text(&open(&node, 1)).await, text_so_far);
}

#[tokio::test]
async fn objects_shared_with_a_stream_that_moved_are_rewritten_by_both_owners_and_go() {
    let one = rig();
    let two = beside(&one, 2, settings());
    let (stays, moves) = (open(&one, 1), open(&one, 2));
    for _ in 0..SETS_PER_SPLIT {
        append(&stays, 1, b"s");
        append(&moves, 1, b"m");
        one.store.flush().await.expect("uploads");
    }
    let shared: Vec<_> = one.metadata.stream_set_objects().iter().map(|object| object.id).collect();
    assert_eq!(shared.len(), SETS_PER_SPLIT);
    let (tail, epoch) = (hand_over(&moves).await, one.metadata.reserve(StreamId(2)));
    two.store.import(epoch, &tail).await.expect("imports");
    assert!(one.metadata.grant(StreamId(2), epoch, (two.settings.node, two.settings.node_epoch)));
    one.store.close(StreamId(2));
    let moved = two.store.open(StreamId(2), epoch).expect("opens");
    for rig in [&one, &two] {
        let StreamStore { core, registry, .. } = &*rig.store;
        let random = Arc::new(SeededRandom::new(7));
        let compactor = Compactor::new(Arc::clone(core), Arc::clone(registry), random);
        // A window of sets has to hold at least two slices of a stream; merging would need twice as many.
        assert_eq!(compactor.pass(u64::MAX).await.expect("compacts"), 1);
    }
    let destroyed: Vec<_> = one.metadata.destroyed(usize::MAX).iter().map(|object| object.id).collect();
    assert_eq!(destroyed, shared, "nothing keeps them any more");
    assert_eq!((text(&stays).await, text(&moved).await), ("ssssssss".to_owned(), "mmmmmmmm".to_owned()));
}

#[tokio::test]
async fn tails_that_are_exported_side_by_side_share_one_budget() {
    let one = rig();
    let streams = [open(&one, 1), open(&one, 2)];
    for stream in &streams {
        append(stream, 1, &[b'x'; 100]);
        stream.append_checkpoint(offset(1), &[b'c'; 100]).expect("appends");
        stream.park();
    }
    let budget = ByteBudget::new(700);
    let (first, second) = futures::join!(streams[0].export_tail(&budget), streams[1].export_tail(&budget));
    let (tail, lease) = first.expect("exports");
    assert!(tail.encode().len() as u64 <= budget.used(), "the checkpoint counts, and what stands around records");
    assert!(matches!(second, Err(ExportError::TooLarge { stream: StreamId(2), .. })));
    drop(lease);
    streams[1].export_tail(&budget).await.expect("there is room again");
}

/// Or tails of a few MiB, of which each block of a large log holds a little, would keep all of that log in memory.
#[tokio::test]
async fn a_tail_read_from_the_log_holds_no_blocks() {
    let one = Rig::new(MemoryLog::new(1 << 20, 700, true), Settings { log_cache_bytes: 1, ..settings() });
    let stream = open(&one, 1);
    append(&stream, 1, b"a");
    for _ in 0..100 {
        append(&open(&one, 2), 1, &[b'x'; 300]);
    }
    stream.park();
    let (tail, _lease) = stream.export_tail(&ByteBudget::new(1 << 20)).await.expect("exports");
    assert!(one.store.core.block_cache.used() > 0, "its block had been given up");
    assert!(tail.records[0].payload.is_unique(), "it would keep the whole block");
}

#[tokio::test]
async fn a_move_that_fails_leaves_the_stream_where_it_was() {
    let one = rig();
    let two = beside(&one, 2, settings());
    let stream = open(&one, 1);
    append(&stream, 1, b"a");
    stream.park();
    let error = stream.export_tail(&ByteBudget::new(1)).await.expect_err("too large");
    assert!(matches!(error, ExportError::TooLarge { left: 1, .. }), "{error}");
    let moved = hand_over(&stream).await;
    let epoch = one.metadata.reserve(StreamId(1));
    two.store.import(epoch, &moved).await.expect("imports");
    two.store.discard(StreamId(1), epoch);
    let used = Err(ImportError::Used { stream: StreamId(1), epoch });
    assert_eq!(two.store.import(epoch, &moved).await, used, "a late repetition");
    two.store.metadata_loaded();
    two.store.flush().await.expect("nothing is held up");
    assert_eq!(two.metadata.commits(), 0);
    stream.resume();
    append(&stream, 1, b"b");
    // The next attempt: the records of the first one are void, also for whoever recovers that log.
    let epoch = one.metadata.reserve(StreamId(1));
    two.store.import(epoch, &hand_over(&stream).await).await.expect("imports");
    assert!(one.metadata.grant(StreamId(1), epoch, (two.settings.node, two.settings.node_epoch)));
    drop(two.store.open(StreamId(1), epoch).expect("opens"));
    let two = two.crash().await;
    assert_eq!(text(&open(&two, 1)).await, "ab");
}

/// A broker that stops lets its log go when everything in it is uploaded: what were taken over after that would be lost.
#[tokio::test]
async fn who_leaves_waits_for_what_was_handed_over_and_takes_no_more() {
    let one = rig();
    let two = beside(&one, 2, settings());
    let (first, second) = (open(&one, 1), open(&one, 2));
    append(&first, 1, b"a");
    append(&second, 1, b"b");
    let epoch = one.metadata.reserve(StreamId(1));
    two.store.import(epoch, &hand_over(&first).await).await.expect("imports");
    two.store.refuse_imports();
    let late = one.metadata.reserve(StreamId(2));
    assert_eq!(two.store.import(late, &hand_over(&second).await).await, Err(ImportError::Leaving));
    two.store.metadata_loaded();
    let waited = tokio::time::timeout(std::time::Duration::from_millis(50), two.store.flush()).await;
    assert!(waited.is_err(), "its move may still be completed");
    assert!(one.metadata.grant(StreamId(1), epoch, (two.settings.node, two.settings.node_epoch)));
    let moved = two.store.open(StreamId(1), epoch).expect("opens");
    two.store.flush().await.expect("uploads");
    assert_eq!((moved.committed_offset(), two.store.backlog_bytes()), (offset(1), 0));
}
