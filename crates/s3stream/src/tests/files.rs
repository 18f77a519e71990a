//! The whole way on real files: a node dies, its log is sealed, opened by others, adopted, read and uploaded, removed.

use std::path::Path;

use wal::{SealProof, SealedBy, SealedLog, WalClass, WalConfig, WalLocation, WriteAheadLog};

use super::*;
use crate::{ReadClass, StreamManager, sealed_tails};

const STREAMS: u64 = 3;

/// A node with a log in files.
struct Node {
    log: Arc<dyn WriteAheadLog>,
    config: WalConfig,
    store: Arc<StreamStore>,
    supervisor: Supervisor,
    owner: (NodeId, NodeEpoch),
}

fn start(directory: &Path, node: i32, metadata: &Arc<MemoryMetadata>, objects: &Arc<dyn ObjectStore>) -> Node {
    let place = WalLocation::Directory(directory.to_owned());
    let config = WalConfig {
        class: WalClass::Shared,
        capacity_bytes: 4 << 20,
        segment_bytes: 256 << 10,
        block_bytes_max: 32 << 10,
        memory_bytes: 1 << 20,
        ..WalConfig::new(wal::fresh(&place).expect("a place"), NodeId(node), "cluster")
    };
    let opened = wal::open(&config).expect("opens");
    let (supervisor, owner) = (Supervisor::default(), (NodeId(node), NodeEpoch(node as u64)));
    metadata.register(owner.0, owner.1);
    let settings = Settings { node: owner.0, node_epoch: owner.1, log_cache_bytes: 100_000, ..settings() };
    let parts = Parts {
        wal: Arc::clone(&opened.wal),
        recovered: opened.recovered,
        objects: Arc::clone(objects),
        stream_manager: metadata.clone(),
        object_manager: metadata.clone(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(7)),
        supervisor: supervisor.clone(),
    };
    let store = StreamStore::start(settings, parts).expect("starts");
    Node { log: opened.wal, config, store, supervisor, owner }
}

fn payload(stream: u64, record: i64) -> Vec<u8> {
    (0..2000 + record * 7 % 900).map(|at| (stream as i64 * 31 + record * 13 + at) as u8).collect()
}

async fn append_all(streams: &[Arc<Stream>], records: std::ops::Range<i64>, log: &dyn WriteAheadLog) {
    for record in records {
        for stream in streams {
            let payload = payload(stream.id().0, record);
            let request = crate::AppendRequest {
                base_offset: offset(record),
                next_offset: offset(record + 1),
                max_timestamp_ms: record,
                tag: [0; wal::TAG_BYTES],
            };
            while stream.append(&request, &payload, &mut |_| ()).is_err() {
                // The log begins with a small ring, and flushes give memory back.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    let newest = streams.iter().filter_map(|stream| stream.newest_lsn()).max().expect("records");
    log.durable().wait(newest).await.expect("durable");
}

async fn check_all(streams: &[Arc<Stream>], records: i64) {
    for stream in streams {
        assert_eq!(stream.next_offset(), offset(records));
        let mut from = offset(0);
        while from < offset(records) {
            let fetched = stream.fetch(from, offset(records), 10_000, ReadClass::CatchUp).await.expect("fetches");
            for slice in &fetched.slices {
                let expected: Vec<u8> =
                    (from.0..slice.next_offset.0).flat_map(|record| payload(stream.id().0, record)).collect();
                assert!(slice.bytes == expected, "stream {} from {from}", stream.id());
                from = slice.next_offset;
            }
        }
    }
}

/// Node `dead` is lost, its log sealed by `node` and all its streams opened there.
async fn take_over(dead: Node, node: &Node, metadata: &MemoryMetadata) -> Vec<Arc<Stream>> {
    let Node { log, config, store, supervisor, .. } = dead;
    let uuid = log.uuid();
    let by = SealedBy { node: node.owner.0, epoch: node.owner.1 };
    let seal = |proof| wal::seal(&config.location, uuid, by, proof);
    seal(SealProof::OwnerGone).expect_err("it lives");
    supervisor.stop(Duration::ZERO).await;
    drop((store, log));
    let sealed = seal(SealProof::OwnerGone).expect("seals");
    let log = SealedLog::open(&config.location, uuid, sealed.end).expect("opens");
    let tails = sealed_tails(&log, metadata).expect("reads");
    metadata.seal(&tails);
    let ids: Vec<StreamId> = (0..STREAMS).map(StreamId).collect();
    let epochs: Vec<_> = ids.iter().map(|id| metadata.open_stream_by(*id, Some(node.owner))).collect();
    node.store.adopt(&log, &|_| true).expect("adopts");
    ids.iter().zip(epochs).map(|(id, epoch)| node.store.open(*id, epoch).expect("opens")).collect()
}

#[tokio::test]
async fn a_lost_nodes_files_are_taken_over_twice_and_let_go() {
    let directory = tempfile::tempdir().expect("directory");
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let (metadata, objects): (_, Arc<dyn ObjectStore>) =
        (Arc::new(MemoryMetadata::default()), Arc::new(InMemory::new()));
    let first = start(&one, 1, &metadata, &objects);
    let open = |id: u64| {
        let epoch = metadata.open_stream_by(StreamId(id), Some(first.owner));
        first.store.open(StreamId(id), epoch).expect("opens")
    };
    let streams: Vec<_> = (0..STREAMS).map(open).collect();
    append_all(&streams, 0..100, &*first.log).await;
    first.store.flush().await.expect("uploads");
    append_all(&streams, 100..250, &*first.log).await;
    drop(streams);

    let second = start(&two, 2, &metadata, &objects);
    let streams = take_over(first, &second, &metadata).await;
    assert!(streams.iter().all(|stream| stream.committed_offset() == offset(100)));
    check_all(&streams, 250).await;
    append_all(&streams, 250..300, &*second.log).await;
    drop(streams);

    // Node 1 is back with a log of its own beside the sealed one, and takes over from its adopter.
    let third = start(&one, 1, &metadata, &objects);
    assert_ne!(third.config.location, WalLocation::Directory(one.clone()));
    let found = wal::logs(&WalLocation::Directory(one)).expect("lists");
    let old = found.iter().find(|log| log.sealed.is_some()).expect("is still there").clone();
    let end = wal::seal(&old.location, old.uuid, old.sealed.expect("sealed"), SealProof::OwnerGone).expect("known").end;
    for id in 0..STREAMS {
        metadata.open_stream_by(StreamId(id), Some(third.owner));
    }
    let log = SealedLog::open(&old.location, old.uuid, end).expect("opens");
    third.store.adopt(&log, &|_| true).expect("adopts");
    let streams = take_over(second, &third, &metadata).await;
    check_all(&streams, 300).await;
    append_all(&streams, 300..310, &*third.log).await;
    third.store.flush().await.expect("uploads");
    assert!((0..STREAMS).all(|id| metadata.stream(StreamId(id)).expect("exists").end == offset(310)));
    wal::remove(&old.location, old.uuid).expect("nobody needs it");
    check_all(&streams, 310).await;
}
