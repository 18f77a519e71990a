//! The stream layer alone: append, fetch from the log cache, fetch from objects. The log is in memory and durable at
//! once, so that what is measured is the layer and not a disk.

use std::hint::black_box;
use std::sync::Arc;

use common::supervisor::Supervisor;
use common::{NodeEpoch, NodeId, Offset, StreamId, SystemClock, SystemRandom};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use object_store::memory::InMemory;
use s3stream::testing::{MemoryLog, MemoryMetadata};
use s3stream::{AppendRequest, Parts, ReadClass, Settings, Stream, StreamStore};
use tokio::runtime::Runtime;
use wal::WriteAheadLog;

const BATCH_BYTES: usize = 16 * 1024;
const BATCHES: i64 = 4096;

struct Rig {
    store: Arc<StreamStore>,
    stream: Arc<Stream>,
    runtime: Runtime,
}

/// A stream with nothing in it, whose log takes appends.
fn rig(block_cache_bytes: u64) -> (Rig, Arc<dyn WriteAheadLog>) {
    let runtime = Runtime::new().expect("a runtime");
    let _guard = runtime.enter();
    let metadata = Arc::new(MemoryMetadata::default());
    let settings = Settings {
        node: NodeId(1),
        node_epoch: NodeEpoch(1),
        prefix: String::new(),
        upload_bytes: u64::MAX / 4,
        upload_age_ms: u64::MAX / 4,
        log_cache_bytes: 256 << 20,
        block_cache_bytes,
        tail_index_bytes: 256 << 20,
    };
    let parts = Parts {
        wal: Arc::new(MemoryLog::new(8 << 30, 1 << 20, false)),
        recovered: wal::Recovered::default(),
        objects: Arc::new(InMemory::new()),
        stream_manager: metadata.clone(),
        object_manager: metadata.clone(),
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        supervisor: Supervisor::default(),
    };
    let log = parts.wal.clone();
    let store = StreamStore::start(settings, parts).expect("starts");
    metadata.create_stream(StreamId(1));
    let stream = store.open(StreamId(1), metadata.open_stream(StreamId(1))).expect("opens");
    drop(_guard);
    (Rig { store, stream, runtime }, log)
}

/// A stream of `BATCHES` durable batches.
fn filled(block_cache_bytes: u64) -> Rig {
    let (rig, log) = rig(block_cache_bytes);
    for _ in 0..BATCHES {
        append(&rig.stream, &[7; BATCH_BYTES]);
    }
    rig.runtime.block_on(log.close()).expect("flushes");
    rig
}

fn append(stream: &Stream, payload: &[u8]) {
    let base = stream.next_offset();
    let request = AppendRequest {
        base_offset: base,
        next_offset: base.plus(16),
        max_timestamp_ms: base.0,
        tag: [0; wal::TAG_BYTES],
    };
    stream.append(&request, payload, &mut |copy| copy[..8].copy_from_slice(&base.0.to_be_bytes())).expect("appends");
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream append");
    for bytes in [100_usize, BATCH_BYTES] {
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{bytes} bytes"), |bencher| {
            let payload = vec![7; bytes];
            let rounds = BATCHES as u64;
            bencher.iter_custom(|iterations| {
                let mut spent = std::time::Duration::ZERO;
                let mut left = iterations;
                let clock = SystemClock;
                while left > 0 {
                    // A fresh store per round: the log in memory is not endless.
                    let (rig, _log) = rig(1 << 20);
                    let _guard = rig.runtime.enter();
                    let count = left.min(rounds);
                    let start = common::Clock::boot(&clock);
                    for _ in 0..count {
                        append(&rig.stream, black_box(&payload));
                    }
                    spent += common::Clock::boot(&clock) - start;
                    left -= count;
                }
                spent
            });
        });
    }
    group.finish();
}

fn read_all(rig: &Rig, max_bytes: usize) -> usize {
    let end = Offset(BATCHES * 16);
    let mut cursor = Offset(0);
    let mut bytes = 0;
    while cursor < end {
        let fetched =
            rig.runtime.block_on(rig.stream.fetch(cursor, end, max_bytes, ReadClass::CatchUp)).expect("reads");
        cursor = fetched.slices.last().expect("never empty").next_offset;
        bytes += black_box(fetched).bytes;
    }
    bytes
}

fn fetches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream fetch");
    group.throughput(Throughput::Bytes(BATCHES as u64 * BATCH_BYTES as u64));
    group.sample_size(10);
    let cached = filled(1 << 20);
    group.bench_function("log cache, 1 MiB a fetch", |bencher| bencher.iter(|| read_all(&cached, 1 << 20)));
    for (name, cache_bytes) in [("block cache", 512 << 20), ("object store in memory", 8 << 20)] {
        let rig = filled(cache_bytes);
        rig.runtime.block_on(rig.store.flush()).expect("uploads");
        rig.store.drop_log_cache();
        group.bench_function(format!("{name}, 1 MiB a fetch"), |bencher| bencher.iter(|| read_all(&rig, 1 << 20)));
    }
    group.finish();
}

criterion_group!(benches, appends, fetches);
criterion_main!(benches);
