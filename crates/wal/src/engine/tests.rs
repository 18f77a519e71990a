//! The engine on devices that refuse: no space to grow, and writes that fail.

use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use common::{NodeId, Random, SystemRandom};
use futures::executor::block_on;
use parking_lot::Condvar;

use super::*;
use crate::chunk::ChunkPool;
use crate::conformance::{append, meta, payload};
use crate::core::Sizes;
use crate::core::writer::Author;
use crate::device::memory::MemoryDevice;
use crate::device::{Pace, Slot};
use crate::format::seal_sector::{SealSector, SealedBy};
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

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        self.inner.write_seal(page)
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
    start_with(device, None)
}

fn start_with(device: Arc<Refusing>, gate: Option<Arc<dyn PublicationGate>>) -> Engine {
    let uuid = SystemRandom.uuid();
    let recovery = recover(&*device, uuid, SEGMENT).expect("empty");
    let author = Author { uuid, node: NodeId(1), incarnation: 1, checks_seal: gate.is_some() };
    if gate.is_some() {
        crate::seal::write(&*device, &SealSector::open(uuid)).expect("memory");
    }
    let sizes = Sizes {
        segment_bytes: SEGMENT,
        block_bytes_max: 16 << 10,
        record_bytes_max: 1 << 20,
        flush_bytes_max: 64 << 10,
    };
    let core = Core::new(sizes, ChunkPool::new(64 << 10, 1 << 20), recovery.start);
    let writer = Writer::new(author, SEGMENT, recovery.link, recovery.index).expect("memory");
    let lock = Box::new(());
    Engine::start(Parts { core, writer, device, uuid, slots: 6, segment_bytes: SEGMENT, gate, lock }).expect("threads")
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

/// A lease that a test gives and takes.
#[derive(Debug, Default)]
struct Lease {
    held: Mutex<bool>,
    changed: Condvar,
    /// How often the log's thread began to wait.
    waits: AtomicU32,
}

impl Lease {
    fn set(&self, held: bool) {
        *self.held.lock() = held;
        self.changed.notify_all();
    }

    /// Returns when the log's thread waits for the lease.
    fn await_waiter(&self) {
        let before = self.waits.load(Ordering::SeqCst);
        while self.waits.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
    }
}

impl PublicationGate for Lease {
    fn is_open(&self) -> bool {
        *self.held.lock()
    }

    fn wait(&self, at_most: Duration) {
        self.waits.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock();
        if !*held {
            self.changed.wait_for(&mut held, at_most);
        }
    }
}

fn leased(device: &Arc<Refusing>) -> (Engine, Arc<Lease>) {
    let lease = Arc::new(Lease::default());
    let gate: Arc<dyn PublicationGate> = lease.clone();
    (start_with(Arc::clone(device), Some(gate)), lease)
}

#[test]
fn without_a_lease_nothing_is_published_and_with_it_all_of_it() {
    let (engine, lease) = leased(&Refusing::new(false));
    let appended = append(&engine, 1, 0, 100);
    lease.await_waiter();
    assert!(engine.durable().get() < appended.end && appended.block.bytes().is_none());
    lease.set(true);
    block_on(engine.durable().wait(appended.end)).expect("published");
    lease.set(false);
    let next = append(&engine, 1, 1, 100);
    lease.await_waiter();
    assert!(engine.durable().get() < next.end);
    lease.set(true);
    block_on(engine.durable().wait(next.end)).expect("published");
    block_on(engine.close()).expect("closes");
}

#[test]
fn what_was_sealed_while_the_lease_was_away_is_not_published() {
    let device = Refusing::new(false);
    let (engine, lease) = leased(&device);
    let appended = append(&engine, 1, 0, 100);
    lease.await_waiter();
    let by = SealedBy { node: NodeId(2), epoch: NodeEpoch(3) };
    let sector = SealSector { uuid: engine.uuid(), sealed: Some(by), end: None };
    crate::seal::write(&*device, &sector).expect("memory");
    lease.set(true);
    assert_eq!(block_on(engine.durable().wait(appended.end)), Err(WalFailed));
    assert_eq!(engine.durable().sealed_by(), Some(by));
    assert!(engine.durable().get() < appended.end);
}

#[test]
fn a_log_without_a_lease_can_be_closed() {
    let (engine, lease) = leased(&Refusing::new(false));
    let appended = append(&engine, 1, 0, 100);
    lease.await_waiter();
    assert_eq!(block_on(engine.close()), Err(WalFailed));
    assert!(engine.durable().get() < appended.end);
    assert_eq!(engine.durable().sealed_by(), None);
}
