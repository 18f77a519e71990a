//! The engine on devices that refuse: no space to grow, and writes that fail.

use std::io;
use std::sync::atomic::AtomicU32;

use common::{NodeId, Random, SystemRandom};
use futures::executor::block_on;

use super::*;
use crate::chunk::ChunkPool;
use crate::conformance::{append, meta, payload};
use crate::core::Sizes;
use crate::core::writer::Author;
use crate::device::memory::MemoryDevice;
use crate::device::{Pace, Slot};
use crate::recovery::recover;

const SEGMENT: u64 = 64 << 10;

struct Refusing {
    inner: MemoryDevice,
    full: AtomicBool,
    refused_growth: AtomicU32,
    failing: AtomicBool,
    writes_after_failure: AtomicU32,
}

impl Refusing {
    fn new(full: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryDevice::new(2, SEGMENT),
            full: AtomicBool::new(full),
            refused_growth: AtomicU32::new(0),
            failing: AtomicBool::new(false),
            writes_after_failure: AtomicU32::new(0),
        })
    }
}

impl WalDevice for Refusing {
    fn slots(&self) -> Vec<Slot> {
        self.inner.slots()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(slot, offset, buf)
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.failing.load(Ordering::SeqCst) {
            self.writes_after_failure.fetch_add(1, Ordering::SeqCst);
            return Err(io::Error::other("bad sector"));
        }
        self.inner.write_at(slot, offset, bytes)
    }

    fn sync(&self, slots: &[u32]) -> io::Result<()> {
        self.inner.sync(slots)
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        self.inner.read_seal(page)
    }

    fn grow(&self, slot: Slot, pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            self.refused_growth.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.grow(slot, pace)
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        self.inner.describe(slot, offset)
    }
}

fn start(device: Arc<Refusing>) -> Engine {
    let uuid = SystemRandom.uuid();
    let recovery = recover(&*device, uuid, SEGMENT).expect("empty");
    let author = Author { uuid, node: NodeId(1), incarnation: 1, checks_seal: false };
    let sizes = Sizes {
        segment_bytes: SEGMENT,
        block_bytes_max: 16 << 10,
        record_bytes_max: 1 << 20,
        flush_bytes_max: 64 << 10,
    };
    let core = Core::new(sizes, ChunkPool::new(64 << 10, 1 << 20), recovery.start);
    let writer = Writer::new(author, SEGMENT, recovery.link, recovery.index).expect("memory");
    let lock = Arc::new(tempfile::tempfile().expect("file"));
    Engine::start(Parts { core, writer, device, uuid, slots: 6, segment_bytes: SEGMENT, lock }).expect("threads")
}

/// Appends until the ring is full; returns how many it took.
fn fill(engine: &Engine) -> i64 {
    for base in 0.. {
        let bytes = payload(base, 10_000);
        match engine.append(&meta(1, base), &bytes, &mut |_| ()) {
            Ok(appended) => block_on(engine.durable().wait(appended.end)).expect("durable"),
            Err(error) => {
                assert_eq!(error, AppendError::Full);
                return base;
            }
        }
    }
    unreachable!("the ring is bounded")
}

#[test]
fn a_full_disk_stops_growth_not_the_log_and_heals() {
    let device = Refusing::new(true);
    let engine = start(Arc::clone(&device));
    let taken = fill(&engine);
    assert!((5..12).contains(&taken), "two segments took {taken} records");
    while device.refused_growth.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    assert!(!engine.durable().is_failed());
    engine.trim(engine.durable().get());
    // The trim frees a segment without any growth.
    append(&engine, 1, 100, 10_000);
    while engine.capacity() != 2 * SEGMENT {
        std::thread::yield_now();
    }
    device.full.store(false, Ordering::SeqCst);
    let more: i64 = (0..12).map(|base| i64::from(append(&engine, 1, 200 + base, 10_000).len > 0)).sum();
    assert_eq!((more, engine.capacity()), (12, 6 * SEGMENT));
    block_on(engine.close()).expect("close");
}

#[test]
fn the_first_io_error_ends_the_log() {
    let device = Refusing::new(false);
    let engine = start(Arc::clone(&device));
    let before = append(&engine, 1, 0, 100);
    block_on(engine.durable().wait(before.end)).expect("durable");
    device.failing.store(true, Ordering::SeqCst);
    let after = append(&engine, 1, 1, 100);
    assert_eq!(block_on(engine.durable().wait(after.end)), Err(WalFailed));
    assert_eq!(after.block.bytes(), None);
    device.failing.store(false, Ordering::SeqCst);
    assert_eq!(engine.append(&meta(1, 2), b"", &mut |_| ()).expect_err("ended"), AppendError::Failed(WalFailed));
    assert_eq!(device.writes_after_failure.load(Ordering::SeqCst), 1, "an I/O error is not retried");
    assert!(engine.durable().get() >= before.end && engine.durable().get() < after.end);
    assert_eq!(block_on(engine.close()), Err(WalFailed));
}
