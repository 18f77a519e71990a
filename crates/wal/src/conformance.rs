//! What every log must do, run on memory, directory and block device.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, Offset, StreamEpoch, StreamId};
use futures::executor::block_on;

use crate::{
    AppendError, Appended, FlushMode, MemoryWal, MemoryWalSizes, Opened, ReadError, RecordKind, RecordMeta, Recovered,
    TAG_BYTES, WalClass, WalConfig, WalLocation, WriteAheadLog, open,
};

const SEGMENT: u64 = 256 << 10;
const CAPACITY: u64 = 2 << 20;

pub(crate) fn meta(stream: u64, base: i64) -> RecordMeta {
    RecordMeta {
        stream: StreamId(stream),
        stream_epoch: StreamEpoch(3),
        kind: if base % 7 == 0 { RecordKind::Checkpoint } else { RecordKind::Data },
        base_offset: Offset(base),
        next_offset: Offset(base + 1),
        max_timestamp_ms: base * 10,
        tag: [base as u8; TAG_BYTES],
    }
}

pub(crate) fn payload(base: i64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (base as usize * 31 + at) as u8).collect()
}

pub(crate) fn config(location: WalLocation) -> WalConfig {
    WalConfig {
        capacity_bytes: CAPACITY,
        segment_bytes: SEGMENT,
        block_bytes_max: 32 << 10,
        record_bytes_max: 1 << 20,
        memory_bytes: 1 << 20,
        ..WalConfig::new(location, NodeId(1), "cluster")
    }
}

/// A place to open logs in.
pub(crate) enum Ground {
    Directory(tempfile::TempDir),
    Block(tempfile::NamedTempFile),
}

impl Ground {
    pub(crate) fn directory() -> Self {
        Self::Directory(tempfile::tempdir().expect("directory"))
    }

    pub(crate) fn block() -> Self {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(CAPACITY + (1 << 20)).expect("length");
        Self::Block(file)
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Directory(directory) => directory.path(),
            Self::Block(file) => file.path(),
        }
    }

    pub(crate) fn config(&self) -> WalConfig {
        config(match self {
            Self::Directory(directory) => WalLocation::Directory(directory.path().to_owned()),
            Self::Block(file) => WalLocation::Block(file.path().to_owned()),
        })
    }

    pub(crate) fn open(&self) -> Opened {
        open(&self.config()).expect("opens")
    }
}

fn both(test: impl Fn(&Ground)) {
    test(&Ground::directory());
    test(&Ground::block());
}

fn everywhere(test: impl Fn(Arc<dyn WriteAheadLog>)) {
    both(|ground| test(ground.open().wal));
    let sizes = MemoryWalSizes { capacity: CAPACITY, segment: SEGMENT, memory: 1 << 20 };
    test(Arc::new(MemoryWal::new(FlushMode::Instant, sizes).expect("memory")));
}

/// Appends, retrying while the ring grows or memory is out.
pub(crate) fn append(wal: &dyn WriteAheadLog, stream: u64, base: i64, len: usize) -> Appended {
    let bytes = payload(base, len);
    for _ in 0..10_000 {
        match wal.append(&meta(stream, base), &bytes, &mut |_| ()) {
            Err(AppendError::Full | AppendError::NoMemory) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other.expect("append"),
        }
    }
    panic!("no room for {len} bytes");
}

fn durable(wal: &dyn WriteAheadLog, appended: &Appended) {
    block_on(wal.durable().wait(appended.end)).expect("durable");
}

/// Every record of a recovery by (stream, base), with its payload read from the log.
pub(crate) fn contents(wal: &dyn WriteAheadLog, recovered: &Recovered) -> HashMap<(u64, i64), Vec<u8>> {
    let mut found = HashMap::new();
    let mut last = Lsn(0);
    for record in &recovered.records {
        assert!(record.block.lsn() >= last, "records come in order");
        last = record.block.lsn();
        let block = block_on(wal.read_block(record.block.lsn())).expect("readable");
        let bytes = block.slice(record.position, record.len).expect("within the block").to_vec();
        assert_eq!(record.meta, meta(record.meta.stream.0, record.meta.base_offset.0));
        let key = (record.meta.stream.0, record.meta.base_offset.0);
        assert!(found.insert(key, bytes).is_none(), "once");
    }
    found
}

#[test]
fn appended_records_become_durable_and_readable() {
    everywhere(|wal| {
        wal.set_node_epoch(NodeEpoch(9));
        let mut last = Lsn(0);
        for base in 0..200 {
            let appended = append(&*wal, 1, base, base as usize * 11);
            assert!(appended.end > last, "positions grow");
            last = appended.end;
            durable(&*wal, &appended);
            let bytes = appended.block.slice(appended.position, appended.len).expect("published when durable");
            assert_eq!(bytes, payload(base, base as usize * 11));
            appended.block.release();
            let again = block_on(wal.read_block(appended.block.lsn())).expect("read");
            assert_eq!(again.slice(appended.position, appended.len).expect("bytes"), bytes);
            wal.trim(Lsn(last.0.saturating_sub(100_000)));
        }
    });
}

#[test]
fn concurrent_appenders_share_flushes() {
    everywhere(|wal| {
        std::thread::scope(|scope| {
            for stream in 0..4 {
                let wal = &*wal;
                scope.spawn(move || {
                    for base in 0..100 {
                        let appended = append(wal, stream, base, 500);
                        if base % 10 == 9 {
                            durable(wal, &appended);
                            let bytes = appended.block.slice(appended.position, appended.len).expect("published");
                            assert_eq!(bytes, payload(base, 500));
                        }
                    }
                });
            }
        });
    });
}

#[test]
fn the_ring_turns_many_times() {
    everywhere(|wal| {
        let mut end = Lsn(0);
        for base in 0..2_000 {
            let appended = append(&*wal, 1, base, 10_000);
            if base % 16 == 15 {
                durable(&*wal, &appended);
                wal.trim(wal.durable().get());
            }
            end = appended.end;
            assert!(wal.used() <= wal.capacity() + SEGMENT);
        }
        assert!(end.0 > 5 * CAPACITY);
    });
}

#[test]
fn a_record_larger_than_a_block_and_one_too_large() {
    everywhere(|wal| {
        let big = append(&*wal, 1, 1, 200_000);
        durable(&*wal, &big);
        assert_eq!(big.block.slice(big.position, big.len).expect("bytes"), payload(1, 200_000));
        let error = wal.append(&meta(1, 2), &vec![0; SEGMENT as usize], &mut |_| ()).expect_err("too large");
        let AppendError::TooLarge { bytes, limit } = error else { panic!("{error}") };
        assert!(bytes == SEGMENT as usize && limit >= 200_000 && limit < bytes);
        let largest = append(&*wal, 1, 3, limit);
        durable(&*wal, &largest);
    });
}

#[test]
fn trimmed_and_unknown_blocks_are_not_found() {
    everywhere(|wal| {
        let first = append(&*wal, 1, 0, 10);
        durable(&*wal, &first);
        let unknown = block_on(wal.read_block(Lsn(1 << 40))).expect_err("unknown");
        assert!(matches!(unknown, ReadError::NotFound(_)), "{unknown}");
        for base in 1..200 {
            let appended = append(&*wal, 1, base, 30_000);
            durable(&*wal, &appended);
            wal.trim(wal.durable().get());
        }
        let trimmed = block_on(wal.read_block(first.block.lsn())).expect_err("trimmed");
        assert!(matches!(trimmed, ReadError::NotFound(_)), "{trimmed}");
    });
}

#[test]
fn a_closed_log_reopens_with_all_its_records() {
    both(|ground| {
        let mut expected = HashMap::new();
        let mut end = Lsn(0);
        for round in 0..8 {
            let opened = ground.open();
            assert_eq!(contents(&*opened.wal, &opened.recovered), expected, "round {round}");
            assert!(opened.recovered.end >= end);
            for base in round * 20..round * 20 + 20 {
                let len = 100 + base as usize * 37;
                end = append(&*opened.wal, 5, base, len).end;
                expected.insert((5, base), payload(base, len));
            }
            block_on(opened.wal.close()).expect("close");
            let closed = opened.wal.append(&meta(1, 1), b"", &mut |_| ()).expect_err("closed");
            assert_eq!(closed, AppendError::Closed);
        }
    });
}

#[test]
fn an_opening_that_appends_nothing_writes_nothing() {
    both(|ground| {
        let opened = ground.open();
        append(&*opened.wal, 1, 1, 100);
        block_on(opened.wal.close()).expect("close");
        drop(opened);
        let end = ground.open().recovered.end;
        for _ in 0..50 {
            assert_eq!(ground.open().recovered.end, end);
        }
    });
}

#[test]
fn a_trimmed_log_reopens_at_its_trim_mark() {
    both(|ground| {
        let opened = ground.open();
        let mut kept = HashMap::new();
        for base in 0..600 {
            let appended = append(&*opened.wal, 1, base, 9_000);
            kept.insert((1, base), payload(base, 9_000));
            if base % 50 == 49 {
                durable(&*opened.wal, &appended);
                opened.wal.trim(opened.wal.durable().get());
                kept.clear();
            }
        }
        for base in 600..620 {
            append(&*opened.wal, 1, base, 9_000);
            kept.insert((1, base), payload(base, 9_000));
        }
        block_on(opened.wal.close()).expect("close");
        drop(opened);
        let opened = ground.open();
        assert_eq!(contents(&*opened.wal, &opened.recovered), kept);
    });
}

#[test]
fn a_shared_log_that_is_sealed_acknowledges_nothing_more() {
    both(|ground| {
        let config = WalConfig { class: WalClass::Shared, ..ground.config() };
        let opened = open(&config).expect("open");
        let before = append(&*opened.wal, 1, 1, 10);
        durable(&*opened.wal, &before);
        let by = crate::SealedBy { node: NodeId(2), epoch: NodeEpoch(5) };
        let sealed = crate::seal(&config.location, opened.uuid, by, crate::SealProof::LeaseExpired).expect("seal");
        assert!(sealed.by == by && sealed.end >= before.end);
        let after = append(&*opened.wal, 1, 2, 10);
        block_on(opened.wal.durable().wait(after.end)).expect_err("sealed");
        assert!(opened.wal.append(&meta(1, 3), b"", &mut |_| ()).is_err());
        drop(opened);
        let error = open(&config).err().expect("sealed");
        assert!(error.to_string().contains("sealed by node 2"), "{error}");
    });
}
