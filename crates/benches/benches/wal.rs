//! The write-ahead log beside its speed of light: raw O_DIRECT writes + fdatasync at the same block size, one
//! copy of a record into a block, and the checksum.
//!
//! `cargo bench -p ottla-benches --bench wal`. The directory is `OTTLA_BENCH_DIR`, else the temporary one; it
//! must be on the disk that is to be measured. Results of both sides come from one run: compare only those.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Lsn, NodeId, Offset, StreamEpoch, StreamId};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::executor::block_on;
use wal::direct::{AlignedBuf, DirectFile, OpenMode};
use wal::{
    AppendError, Appended, RecordKind, RecordMeta, TAG_BYTES, WalClass, WalConfig, WalLocation, WriteAheadLog,
};

/// Bytes that lie behind each flush, and bytes of the ring.
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
const RING: u64 = 512 << 20;

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

fn open(location: WalLocation, class: WalClass) -> Arc<dyn WriteAheadLog> {
    let config = WalConfig {
        capacity_bytes: RING,
        segment_bytes: 64 << 20,
        class,
        ..WalConfig::new(location, NodeId(1), "bench")
    };
    wal::open(&config).expect("opens").wal
}

/// A preallocated, zero-filled file.
fn filled(path: &std::path::Path, bytes: u64) -> DirectFile {
    let file = DirectFile::open(path, OpenMode::CreateNew).expect("create");
    file.allocate(0, bytes).expect("space");
    let zeros = AlignedBuf::zeroed(1 << 20).expect("memory");
    for offset in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros[..zeros.len().min((bytes - offset) as usize)], offset).expect("write");
    }
    file.sync_data().expect("sync");
    file
}

fn append(log: &dyn WriteAheadLog, payload: &[u8]) -> Appended {
    loop {
        match log.append(&meta(), payload, &mut |_| ()) {
            Ok(appended) => return appended,
            Err(AppendError::Full | AppendError::NoMemory) => std::thread::sleep(Duration::from_micros(50)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// One record, one flush: the latency of a commit.
fn commit(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/commit");
    group.sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    for bytes in SIZES {
        group.throughput(Throughput::Bytes(bytes as u64));
        let dir = directory();
        let raw = filled(&dir.path().join("raw"), 64 << 20);
        let block = AlignedBuf::zeroed(bytes).expect("memory");
        let mut at = 0;
        group.bench_function(BenchmarkId::new("raw", bytes), |bencher| {
            bencher.iter(|| {
                raw.write_all_at(&block, at).expect("write");
                raw.sync_data().expect("sync");
                at = (at + bytes as u64) % (64 << 20);
            });
        });
        let image = dir.path().join("image");
        drop(filled(&image, RING + (1 << 20)));
        // So much less that record and headers fill the block exactly.
        let payload = vec![7; bytes - 200];
        for (name, class) in [("wal", WalClass::Private), ("wal-sealable", WalClass::Shared)] {
            let log = open(WalLocation::Block(image.clone()), class);
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter(|| {
                    let appended = append(&*log, &payload);
                    block_on(log.durable().wait(appended.end)).expect("durable");
                    log.trim(Lsn(appended.end.0.saturating_sub(RING / 2)));
                });
            });
            block_on(log.close()).expect("close");
            drop(log);
            DirectFile::open(&image, OpenMode::ReadWrite)
                .and_then(|file| file.write_all_at(&AlignedBuf::zeroed(4096)?, 0))
                .expect("a fresh image");
        }
    }
    group.finish();
}

/// Records without waiting for each: the rate of the append path, which writes blocks of 1 MiB.
fn stream(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/stream");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(1 << 20));
    let dir = directory();
    let raw = filled(&dir.path().join("raw"), RING);
    let block = AlignedBuf::zeroed(1 << 20).expect("memory");
    let mut at = 0;
    group.bench_function("raw/1048576", |bencher| {
        bencher.iter(|| {
            raw.write_all_at(&block, at).expect("write");
            raw.sync_data().expect("sync");
            at = (at + (1 << 20)) % RING;
        });
    });
    let image = dir.path().join("image");
    drop(filled(&image, RING + (1 << 20)));
    for bytes in [1 << 10, 16 << 10, 128 << 10] {
        let log = open(WalLocation::Block(image.clone()), WalClass::Private);
        let payload = vec![7; bytes];
        group.bench_function(BenchmarkId::new("wal", bytes), |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                let mut last = Lsn(0);
                for _ in 0..iterations as usize * ((1 << 20) / bytes) {
                    last = append(&*log, &payload).end;
                    log.trim(Lsn(log.durable().get().0.saturating_sub(RING / 4)));
                }
                block_on(log.durable().wait(last)).expect("durable");
                start.elapsed()
            });
        });
        block_on(log.close()).expect("close");
    }
    group.finish();
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
        group.bench_function(BenchmarkId::new("append", bytes), |bencher| {
            bencher.iter_custom(|iterations| appends(iterations, &payload));
        });
    }
    group.finish();
}

/// The time of so many appends alone: the flushes between them are not counted.
fn appends(iterations: u64, payload: &[u8]) -> Duration {
    let sizes = wal::MemoryWalSizes { capacity: 256 << 20, segment: 32 << 20, memory: 64 << 20 };
    let log = wal::MemoryWal::new(wal::FlushMode::Manual, sizes).expect("memory");
    let batch = ((16 << 20) / (payload.len() as u64 + 200)).max(1);
    // Memory is touched for the first time only once in the life of a log.
    for _ in 0..4 * batch {
        drop(log.append(&meta(), payload, &mut |_| ()));
    }
    log.flush();
    log.trim(log.durable().get());
    let (mut left, mut took) = (iterations, Duration::ZERO);
    while left > 0 {
        let now = left.min(batch);
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

/// Opening a log whose ring is full of 128 KiB records.
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

criterion_group!(benches, commit, stream, copy, checksum, recovery);
criterion_main!(benches);
