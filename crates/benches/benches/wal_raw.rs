//! The write-ahead log against the raw disk: the same blocks by nothing but O_DIRECT writes and fdatasync, in turns on
//! the same disk, and the ratio of the two.
//!
//! `cargo bench -p ottla-benches --bench wal_raw`. The directory is `OTTLA_BENCH_DIR`, else the temporary one; it
//! must be on the disk that is to be measured.

#![allow(missing_docs)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{Clock, Lsn, NodeId, Offset, StreamEpoch, StreamId, SystemClock};
use futures::executor::block_on;
use wal::direct::{AlignedBuf, DirectFile, OpenMode};
use wal::{AppendError, Appended, RecordKind, RecordMeta, TAG_BYTES, WalConfig, WalLocation, WriteAheadLog};

const RING: u64 = 512 << 20;
const MIB: usize = 1 << 20;
/// The largest group that the log flushes at once, as it does when it is not the appender that limits: blocks.
const GROUP_BLOCKS: usize = 4;
/// Bytes that a stream is ahead of what is durable: two such groups.
const AHEAD: u64 = 2 * (GROUP_BLOCKS * MIB) as u64;
const ROUNDS: usize = 11;

/// What is written in one turn.
struct Load {
    name: &'static str,
    record_bytes: usize,
    block_bytes: usize,
    /// Blocks before each fdatasync.
    group: usize,
    /// Whether each record waits for the one before.
    waits: bool,
    bytes: usize,
}

const LOADS: [Load; 6] = [
    stream("stream of 1 KiB records", 1 << 10),
    stream("stream of 16 KiB records", 16 << 10),
    stream("stream of 128 KiB records", 128 << 10),
    commit("one commit after the other, 4 KiB", 4 << 10),
    commit("one commit after the other, 64 KiB", 64 << 10),
    commit("one commit after the other, 1 MiB", MIB),
];

/// Records as fast as the log takes them.
const fn stream(name: &'static str, record_bytes: usize) -> Load {
    Load { name, record_bytes, block_bytes: MIB, group: GROUP_BLOCKS, waits: false, bytes: 512 * MIB }
}

/// One record, one block, one flush.
const fn commit(name: &'static str, block_bytes: usize) -> Load {
    // So much less that record and headers fill the block exactly.
    let (record_bytes, bytes) = (block_bytes - 200, 1_000 * if block_bytes == MIB { MIB / 4 } else { block_bytes });
    Load { name, record_bytes, block_bytes, group: 1, waits: true, bytes }
}

/// The raw side: a preallocated, zero-filled file, written round and round.
struct Raw {
    file: DirectFile,
    at: u64,
}

impl Raw {
    fn make(path: &Path) -> Self {
        let file = DirectFile::open(path, OpenMode::CreateNew).expect("create");
        file.allocate(0, RING).expect("space");
        let zeros = AlignedBuf::zeroed(MIB).expect("memory");
        (0..RING).step_by(MIB).for_each(|offset| file.write_all_at(&zeros, offset).expect("write"));
        file.sync_data().expect("sync");
        Self { file, at: 0 }
    }

    fn write(&mut self, load: &Load, block: &[u8]) {
        for number in 1..=load.bytes / load.block_bytes {
            self.file.write_all_at(block, self.at).expect("write");
            if number.is_multiple_of(load.group) {
                self.file.sync_data().expect("sync");
            }
            self.at = (self.at + block.len() as u64) % RING;
        }
        self.file.sync_data().expect("sync");
    }
}

/// Appends, keeping a quarter of the ring.
fn append(log: &dyn WriteAheadLog, payload: &[u8]) -> Appended {
    let meta = RecordMeta {
        stream: StreamId(1),
        stream_epoch: StreamEpoch(1),
        kind: RecordKind::Data,
        base_offset: Offset(0),
        next_offset: Offset(1),
        max_timestamp_ms: 0,
        tag: [0; TAG_BYTES],
    };
    loop {
        log.trim(Lsn(log.durable().get().0.saturating_sub(RING / 4)));
        match log.append(&meta, payload, &mut |_| ()) {
            Ok(appended) => return appended,
            Err(AppendError::Full | AppendError::NoMemory) => std::thread::sleep(Duration::from_micros(50)),
            Err(error) => panic!("{error}"),
        }
    }
}

fn write(log: &dyn WriteAheadLog, load: &Load, payload: &[u8]) {
    let mut end = Lsn(0);
    for _ in 0..load.bytes / load.block_bytes.min(load.record_bytes.next_power_of_two()) {
        end = append(log, payload).end;
        if load.waits {
            block_on(log.durable().wait(end)).expect("durable");
        } else {
            // One group is being filled while one is flushed.
            block_on(log.durable().wait(Lsn(end.0.saturating_sub(AHEAD)))).expect("durable");
        }
    }
    block_on(log.durable().wait(end)).expect("durable");
}

/// Bytes of all files of a directory.
fn bytes_of(directory: &Path) -> std::io::Result<u64> {
    std::fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

/// MB/s of `bytes` written by `work`.
fn rate(bytes: usize, work: impl FnOnce()) -> f64 {
    let start = SystemClock.boot();
    work();
    bytes as f64 / 1e6 / (SystemClock.boot() - start).as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(raw: &mut Raw, log: &dyn WriteAheadLog, load: &Load) -> String {
    let block = AlignedBuf::zeroed(load.block_bytes).expect("memory");
    let payload = vec![7; load.record_bytes];
    let (mut raws, mut logs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        raws.push(rate(load.bytes, || raw.write(load, &block)));
        logs.push(rate(load.bytes, || write(log, load, &payload)));
    }
    let ratio = median(raws.iter().zip(&logs).map(|(raw, log)| log / raw).collect());
    let flush_us = |rate: f64| (load.block_bytes * load.group) as f64 / rate;
    let (raw, log) = (median(raws), median(logs));
    let each =
        if load.waits { format!(" ({:.0} and {:.0} µs each)", flush_us(raw), flush_us(log)) } else { String::new() };
    format!("| {} | {raw:.0} | {log:.0} | {ratio:.2}{each} |", load.name)
}

fn main() -> std::io::Result<()> {
    let base = std::env::var_os("OTTLA_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base)?;
    let mut raw = Raw::make(&dir.path().join("raw"));
    let location = WalLocation::Directory(dir.path().join("wal"));
    let config = WalConfig { capacity_bytes: RING, ..WalConfig::new(location, NodeId(1), "bench") };
    let log: Arc<dyn WriteAheadLog> = wal::open(&config).expect("opens").wal;
    // Round the ring, until all its segments exist and have their size, and nothing is made in the background.
    while bytes_of(&dir.path().join("wal"))? < RING {
        write(&*log, &LOADS[2], &vec![7; LOADS[2].record_bytes]);
    }
    let mut out = std::io::stdout();
    writeln!(out, "| load | raw, MB/s | log, MB/s | log ÷ raw |\n|---|---|---|---|")?;
    // As with other benches: a part of a name, after the flags that cargo gives.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for load in LOADS.iter().filter(|load| load.name.contains(&filter)) {
        writeln!(out, "{}", compare(&mut raw, &*log, load))?;
    }
    block_on(log.close()).expect("close");
    Ok(())
}
