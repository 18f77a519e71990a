//! Crash, damage and full-disk tests of the whole log.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use common::{NodeId, SystemClock};
use metadata::log::{EntryId, LogRecord, RaftLogStore, conformance};
use metadata::raft::NoPeers;
use metadata::{Command, Node, NodeConfig, Registration};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    conformance::check_all(|| {
        let dir = tempfile::tempdir().expect("dir");
        move || Arc::new(RaftLog::open(dir.path()).expect("opens")) as Arc<dyn RaftLogStore>
    })
    .await;
}

fn record(index: u64, len: usize) -> LogRecord {
    let payload = Bytes::from(vec![index as u8 | 1; len]);
    LogRecord { id: EntryId { term: 1, node: 1, index }, payload }
}

async fn append(log: &RaftLog, records: Vec<LogRecord>) -> io::Result<()> {
    let (done, outcome) = oneshot::channel();
    let answer = move |result| {
        let _ = done.send(result);
    };
    log.append(records, Box::new(answer));
    outcome.await.expect("the callback is called")
}

fn only_segment(dir: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = fs::read_dir(dir)
        .expect("lists")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-")))
        .collect();
    segments.sort();
    segments.pop().expect("a segment")
}

/// Writes five batches, the last of three records over several pages; returns the bytes and where the last starts.
async fn five_batches(dir: &Path) -> (PathBuf, Vec<u8>, usize, usize) {
    let log = RaftLog::open(dir).expect("opens");
    for index in 0..4 {
        append(&log, vec![record(index, 100)]).await.expect("appends");
    }
    let before = usize::try_from(log.log_bytes()).expect("small");
    append(&log, (4..7).map(|index| record(index, 3000)).collect()).await.expect("appends");
    let after = usize::try_from(log.log_bytes()).expect("small");
    drop(log);
    let path = only_segment(dir);
    let bytes = fs::read(&path).expect("reads");
    (path, bytes, before, after)
}

fn indexes(log: &RaftLog) -> Vec<u64> {
    let state = log.shared.state.lock();
    state.slots.iter().map(|slot| slot.id.index).collect()
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_leaves_every_batch_before_it() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, whole, before, after) = five_batches(dir.path()).await;
    // Past the last record's end lies padding, which nothing depends on.
    let meaningful = before + 72 + 3 * 3032;
    for cut in (before..meaningful).step_by(37).chain([before, before + 1, meaningful - 1]) {
        let mut torn = whole.clone();
        torn[cut..after].fill(0);
        fs::write(&path, &torn).expect("writes");
        let log = RaftLog::open(dir.path()).expect("a torn tail is no damage");
        assert_eq!(indexes(&log), [0, 1, 2, 3], "cut at {cut}");
        append(&log, vec![record(4, 10)]).await.expect("goes on");
        drop(log);
        assert_eq!(indexes(&RaftLog::open(dir.path()).expect("opens")), [0, 1, 2, 3, 4], "cut at {cut}");
    }
    // The same with the file itself cut, as when its growth was not durable.
    for cut in (before..meaningful).step_by(311) {
        fs::write(&path, &whole[..cut]).expect("writes");
        assert_eq!(indexes(&RaftLog::open(dir.path()).expect("opens")), [0, 1, 2, 3], "file cut at {cut}");
    }
}

#[tokio::test]
async fn pages_of_a_torn_batch_written_in_any_order_are_no_damage() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, whole, before, after) = five_batches(dir.path()).await;
    let pages = (after - before) / 4096;
    for written in 0..(1_usize << pages) - 1 {
        let mut torn = whole.clone();
        for page in (0..pages).filter(|page| written >> page & 1 == 0) {
            torn[before + page * 4096..before + (page + 1) * 4096].fill(0);
        }
        fs::write(&path, &torn).expect("writes");
        let log = RaftLog::open(dir.path()).expect("opens");
        let recovered = indexes(&log);
        let tail_is_whole = torn[before..] == whole[before..];
        assert_eq!(recovered.len(), if tail_is_whole { 7 } else { 4 }, "pages {written:b}");
        drop(log);
        let wiped = fs::read(&path).expect("reads");
        assert!(tail_is_whole || wiped[before..].iter().all(|byte| *byte == 0), "pages {written:b}");
    }
}

#[tokio::test]
async fn damage_below_a_later_batch_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, whole, before, _) = five_batches(dir.path()).await;
    for batch in 0..4 {
        for at in (0..72 + 132).step_by(13) {
            let mut damaged = whole.clone();
            damaged[batch * 4096 + at] ^= 0x40;
            fs::write(&path, &damaged).expect("writes");
            let error = RaftLog::open(dir.path()).err().expect("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "batch {batch}, byte {at}: {error}");
            assert_eq!(fs::read(&path).expect("reads"), damaged, "what was refused is left alone");
        }
    }
    assert_eq!(before, 4 * 4096);
}

#[tokio::test]
async fn missing_segments_and_snapshots_are_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let log = RaftLog::open(dir.path()).expect("opens");
    for index in 0..12 {
        append(&log, vec![record(index, 1 << 20)]).await.expect("appends");
    }
    log.save_snapshot(Some(record(3, 0).id), Box::new(|sink| sink(b"state"))).await.expect("saves");
    log.purge(record(3, 0).id).await.expect("purges");
    drop(log);
    assert_eq!(indexes(&RaftLog::open(dir.path()).expect("opens")), (4..12).collect::<Vec<_>>());
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir.path()).expect("lists").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    let vital = files.iter().filter(|path| !path.ends_with("vote"));
    let last_segment = only_segment(dir.path());
    for path in vital.filter(|path| **path != last_segment) {
        let aside = dir.path().with_extension("aside");
        fs::rename(path, &aside).expect("renames");
        let error = RaftLog::open(dir.path()).err().unwrap_or_else(|| panic!("{} is needed", path.display()));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        fs::rename(&aside, path).expect("renames");
    }
    assert_eq!(indexes(&RaftLog::open(dir.path()).expect("opens")), (4..12).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_processes_never_share_a_log() {
    let dir = tempfile::tempdir().expect("dir");
    let _log = RaftLog::open(dir.path()).expect("opens");
    assert_eq!(RaftLog::open(dir.path()).err().expect("refused").kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn purging_keeps_the_directory_small() {
    let dir = tempfile::tempdir().expect("dir");
    let log = RaftLog::open(dir.path()).expect("opens");
    let largest = AtomicU64::new(0);
    for round in 0..8 {
        for index in round * 10..(round + 1) * 10 {
            append(&log, vec![record(index, 500_000)]).await.expect("appends");
        }
        largest.fetch_max(log.log_bytes(), Ordering::Relaxed);
        let upto = record(round * 10 + 9, 0).id;
        log.save_snapshot(Some(upto), Box::new(|sink| sink(b"state"))).await.expect("saves");
        log.purge(upto).await.expect("purges");
        assert_eq!(log.log_bytes(), 4096, "only the mark is left");
    }
    assert!(largest.into_inner() < 6 << 20);
    drop(log);
    let log = RaftLog::open(dir.path()).expect("opens");
    assert_eq!(log.bounds().last, Some(record(79, 0).id));
}

async fn start(dir: &Path) -> (Arc<Node>, metadata::MetadataClient) {
    let log: Arc<dyn RaftLogStore> = Arc::new(RaftLog::open(dir).expect("opens"));
    Node::start(NodeConfig::single(NodeId(1)), log, Arc::new(NoPeers), Arc::new(SystemClock)).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_survives_restarts_with_a_snapshot_and_without() {
    let dir = tempfile::tempdir().expect("dir");
    let mut created: Vec<Arc<str>> = Vec::new();
    for life in 0..4_u128 {
        let (node, client) = start(dir.path()).await;
        for name in &created {
            assert!(client.image().topic(name).is_some(), "{name} in life {life}");
        }
        client.submit(register(life + 1)).await.expect("registers");
        for topic in 0..20_u128 {
            let name: Arc<str> = format!("t{life}-{topic}").into();
            let id = uuid::Uuid::from_u128(1 + life * 100 + topic);
            let partitions = vec![Arc::from([NodeId(1)].as_slice())];
            let create = Command::CreateTopic { id, name: Arc::clone(&name), partitions, configs: Vec::new() };
            client.submit(create).await.expect("creates");
            created.push(name);
        }
        if life == 1 {
            node.snapshot().await.expect("asked for");
        }
        node.stop().await;
    }
}

fn register(life: u128) -> Command {
    Command::RegisterNode(Registration::new(NodeId(1), uuid::Uuid::from_u128(life)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_commands_and_heals() {
    let dir = tempfile::tempdir().expect("dir");
    let log = Arc::new(RaftLog::open(dir.path()).expect("opens"));
    let config = NodeConfig { submit_timeout: Duration::from_millis(500), ..NodeConfig::single(NodeId(1)) };
    let store: Arc<dyn RaftLogStore> = Arc::clone(&log) as _;
    let (node, client) = Node::start(config, store, Arc::new(NoPeers), Arc::new(SystemClock)).await.expect("starts");
    client.submit(register(1)).await.expect("registers");

    log.shared.full.store(true, Ordering::Release);
    let first = client.submit(register(2)).await.expect_err("nothing is durable");
    assert!(matches!(first, metadata::SubmitError::Indeterminate(_)), "it is in the queue: {first}");
    assert!(log.is_stalled());
    let next = client.submit(register(3)).await.expect_err("refused at once");
    assert!(matches!(next, metadata::SubmitError::Unavailable(_)), "{next}");
    assert_eq!(client.image().nodes.len(), 1, "reads go on");

    log.shared.full.store(false, Ordering::Release);
    let healed = async {
        while client.submit(register(4)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), healed).await.expect("heals");
    // The queued command was applied when there was room: its outcome was unknown, not lost.
    assert_eq!(client.image().nodes[&NodeId(1)].epoch, common::NodeEpoch(3));
    node.stop().await;
}
