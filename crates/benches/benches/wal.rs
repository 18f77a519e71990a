//! What the write-ahead log costs without the disk (one copy of a record into a block, the checksum), and what opening
//! one takes. Against the raw disk: `wal_raw`.
//!
//! `cargo bench -p ottla-benches --bench wal`. The directory is `OTTLA_BENCH_DIR`, else the temporary one; it
//! must be on the disk that is to be measured.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{NodeId, Offset, StreamEpoch, StreamId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use wal::{
    FlushMode, MemoryWal, MemoryWalSizes, RecordKind, RecordMeta, TAG_BYTES, WalConfig, WalLocation, WriteAheadLog,
};

fn directory() -> tempfile::TempDir {
    let base = std::env::var_os("OTTLA_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(base).expect("a directory to measure in")
}

fn meta() -> RecordMeta {
    RecordMeta {
        stream: StreamId(1),
        stream_epoch: StreamEpoch(1),
        kind: RecordKind::Data,
        base_offset: Offset(0),
        next_offset: Offset(1),
        max_timestamp_ms: 0,
        tag: [0; TAG_BYTES],
    }
}

/// Frame to block: one copy, without I/O in the way.
fn copy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/copy");
    for bytes in [100, 1 << 10, 16 << 10, 256 << 10] {
        group.throughput(Throughput::Bytes(bytes as u64));
        let payload = vec![7; bytes];
        let mut target = vec![0; bytes];
        group.bench_function(BenchmarkId::new("memcpy", bytes), |bencher| {
            bencher.iter(|| std::hint::black_box(&mut target).copy_from_slice(std::hint::black_box(&payload)));
        });
        let log = log(bytes);
        group.bench_function(BenchmarkId::new("append", bytes), |bencher| {
            bencher.iter_custom(|iterations| appends(&log, iterations, &payload));
        });
    }
    group.finish();
}

/// Appends between two flushes.
fn batch(bytes: usize) -> u64 {
    ((16 << 20) / (bytes as u64 + 200)).max(1)
}

/// A log whose memory was touched: that happens only once in its life.
fn log(bytes: usize) -> MemoryWal {
    let sizes = MemoryWalSizes { capacity: 256 << 20, segment: 32 << 20, memory: 64 << 20 };
    let log = MemoryWal::new(FlushMode::Manual, sizes).expect("memory");
    appends(&log, 16 * batch(bytes), &vec![7; bytes]);
    log
}

/// The time of so many appends alone: the flushes between them are not counted.
fn appends(log: &MemoryWal, iterations: u64, payload: &[u8]) -> Duration {
    let (mut left, mut took) = (iterations, Duration::ZERO);
    while left > 0 {
        let now = left.min(batch(payload.len()));
        let start = Instant::now();
        for _ in 0..now {
            log.append(&meta(), payload, &mut |_| ()).expect("room");
        }
        took += start.elapsed();
        log.flush();
        log.trim(log.durable().get());
        left -= now;
    }
    took
}

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/crc32c");
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        group.throughput(Throughput::Bytes(bytes as u64));
        let block = vec![7; bytes];
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, std::hint::black_box(&block)));
        });
    }
    group.finish();
}

/// Opening a log of the default size whose ring is full, and making an empty one.
fn recovery(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/recovery");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(200));
    for (name, bytes) in [("1GiB-of-128KiB", 128 << 10), ("1GiB-of-1KiB", 1 << 10)] {
        let dir = directory();
        let config = WalConfig::new(WalLocation::Directory(dir.path().join("wal")), NodeId(1), "bench");
        let log = wal::open(&config).expect("opens").wal;
        let payload = vec![7; bytes];
        let mut full = 0;
        // Full for a while means full; for a moment, that the ring is growing.
        while full < 2_000 {
            match log.append(&meta(), &payload, &mut |_| ()) {
                Ok(appended) => {
                    full = 0;
                    appended.block.release();
                }
                Err(_) => {
                    full += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        drop(log);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| {
                        let start = Instant::now();
                        let opened = wal::open(&config).expect("opens");
                        let took = start.elapsed();
                        assert!(opened.recovered.records.len() > (500 << 20) / bytes);
                        took
                    })
                    .sum()
            });
        });
    }
    group.bench_function("empty-directory", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations)
                .map(|_| {
                    let dir = directory();
                    let config = WalConfig::new(WalLocation::Directory(dir.path().join("wal")), NodeId(1), "bench");
                    let start = Instant::now();
                    let opened = wal::open(&config).expect("opens");
                    let took = start.elapsed();
                    drop(opened);
                    took
                })
                .sum()
        });
    });
    group.finish();
}

criterion_group!(benches, copy, checksum, recovery);
criterion_main!(benches);
