use common::{Offset, StreamEpoch, StreamId};
use futures::executor::block_on;

use super::*;
use crate::{RecordKind, TAG_BYTES};

fn meta(base: i64) -> RecordMeta {
    RecordMeta {
        stream: StreamId(1),
        stream_epoch: StreamEpoch(2),
        kind: RecordKind::Data,
        base_offset: Offset(base),
        next_offset: Offset(base + 1),
        max_timestamp_ms: -1,
        tag: [base as u8; TAG_BYTES],
    }
}

fn small(mode: FlushMode) -> MemoryWal {
    MemoryWal::new(mode, MemoryWalSizes { capacity: 256 << 10, segment: 64 << 10, memory: 256 << 10 }).expect("memory")
}

#[test]
fn instant_appends_are_durable_readable_and_patched() {
    let wal = small(FlushMode::Instant);
    let appended = wal.append(&meta(0), b"hello", &mut |copy| copy[0] = b'j').expect("append");
    assert!(wal.durable().get() >= appended.end);
    assert_eq!(appended.block.slice(appended.position, appended.len).expect("bytes"), &b"jello"[..]);
    appended.block.release();
    assert!(appended.block.bytes().is_none());
    let again = block_on(wal.read_block(appended.block.lsn())).expect("read back");
    assert_eq!(again.slice(appended.position, appended.len).expect("bytes"), &b"jello"[..]);
}

#[test]
fn manual_appends_wait_for_the_flush() {
    let wal = small(FlushMode::Manual);
    let first = wal.append(&meta(0), b"a", &mut |_| ()).expect("append");
    let second = wal.append(&meta(1), b"b", &mut |_| ()).expect("append");
    assert!(wal.durable().get() < first.end && first.end < second.end);
    assert!(first.block.bytes().is_none());
    wal.flush();
    assert!(wal.durable().get() >= second.end);
    assert_eq!(second.block.slice(second.position, 1).expect("bytes"), &b"b"[..]);
}

#[test]
fn a_full_ring_takes_records_again_after_a_trim() {
    let wal = small(FlushMode::Instant);
    let payload = vec![7; 10_000];
    let mut last = Lsn(0);
    for round in 0..50 {
        let mut appended = 0;
        loop {
            match wal.append(&meta(round), &payload, &mut |_| ()) {
                Ok(place) => last = place.end,
                Err(AppendError::Full) => break,
                Err(error) => panic!("{error}"),
            }
            appended += 1;
        }
        assert!(appended >= 12, "round {round}: {appended} records");
        assert!(wal.used() <= wal.capacity());
        wal.trim(wal.durable().get());
    }
    assert!(last.0 > 40 * wal.capacity() / 2);
}

#[test]
fn oversized_closed_and_failed_appends_are_told_apart() {
    let wal = small(FlushMode::Instant);
    assert!(matches!(wal.append(&meta(0), &vec![0; 70_000], &mut |_| ()), Err(AppendError::TooLarge { .. })));
    block_on(wal.close()).expect("close");
    assert_eq!(wal.append(&meta(0), b"", &mut |_| ()).expect_err("closed"), AppendError::Closed);
    let wal = small(FlushMode::Manual);
    let pending = wal.append(&meta(0), b"x", &mut |_| ()).expect("append");
    wal.fail();
    assert_eq!(block_on(wal.durable().wait(pending.end)), Err(WalFailed));
    assert_eq!(wal.append(&meta(0), b"", &mut |_| ()).expect_err("failed"), AppendError::Failed(WalFailed));
}

#[test]
fn memory_that_readers_hold_bounds_the_appends() {
    let wal = small(FlushMode::Instant);
    let mut held = Vec::new();
    let error = loop {
        match wal.append(&meta(0), &vec![1; 4_000], &mut |_| ()) {
            Ok(appended) => held.push(appended.block.bytes().expect("bytes")),
            Err(error) => break error,
        }
        wal.trim(wal.durable().get());
    };
    assert_eq!(error, AppendError::NoMemory);
    held.clear();
    wal.append(&meta(0), &vec![1; 4_000], &mut |_| ()).expect("memory came back");
}
