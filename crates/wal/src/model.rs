//! Model test: random histories on a simulated device, crashed at every step of I/O, against a list of records.
//!
//! A crash loses, tears or reorders what was not synced. After each one recovery must return every acknowledged
//! record, in order and unaltered, and nothing that was never appended or had been lost before.
//! `OTTLA_WAL_HISTORIES=10000 cargo test --release -p ottla-wal --lib model` runs more histories.

mod device;
mod seal;

use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, Random, SeededRandom};
use uuid::Uuid;

use crate::chunk::ChunkPool;
use crate::conformance::{meta, payload};
use crate::core::ring::Ring;
use crate::core::writer::{Author, FlushError, Writer};
use crate::core::{Core, Next, Sizes};
use crate::device::{Pace, Slot, WalDevice};
use crate::reader::{Place, read_block};
use crate::recovery::{RecoverError, recover};
use crate::{AppendError, RecordRef};
use device::{Honesty, SimulatedDevice};

const SEGMENT: u64 = 64 << 10;
const UUID: Uuid = Uuid::from_u128(0x0771_a000);
const SLOTS_MAX: u32 = 6;
/// Steps of one life of the log.
const STEPS: u64 = 12;

/// A record that was appended: its number, payload bytes, and position.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: i64,
    len: usize,
    end: Lsn,
}

/// What the log should hold.
#[derive(Clone, Default)]
struct Model {
    entries: Vec<Entry>,
    acknowledged: usize,
    trim: Lsn,
    next_number: i64,
}

/// Why a history ended, other than by its last step.
enum Stop {
    Crash,
    Sealed,
    Violation(String),
}

struct History {
    device: Arc<SimulatedDevice>,
    random: SeededRandom,
    model: Model,
    /// Whether the writer looks at the seal.
    shared: bool,
}

impl History {
    fn new(seed: u64, honesty: Honesty) -> Self {
        let random = SeededRandom::new(seed);
        let device = Arc::new(SimulatedDevice::new(seed ^ 0xD1CE, honesty));
        for id in 0..2 + random.below(3) as u32 {
            let usable = if random.below(3) == 0 { SEGMENT / 2 } else { SEGMENT };
            device.grow(Slot { id, usable }, &mut || Pace::Go).expect("grows");
        }
        Self { device, random, model: Model::default(), shared: false }
    }

    /// Recovers, checks, works and maybe closes. An error is a violation.
    fn live(&mut self) -> Result<(), Stop> {
        if self.shared && seal::is_sealed(&self.device) {
            return Err(Stop::Sealed);
        }
        let mut recovery = match recover(&*self.device, UUID, SEGMENT) {
            Ok(recovery) => recovery,
            Err(RecoverError::Io(_)) => return Err(Stop::Crash),
            Err(error) => return Err(Stop::Violation(error.to_string())),
        };
        let kept = self.check(&recovery.recovered.records, &recovery.start.ring).map_err(Stop::Violation)?;
        recovery.settle(&*self.device).map_err(|_| Stop::Crash)?;
        self.model.entries.truncate(kept);
        self.model.acknowledged = kept;
        let incarnation = self.random.next_u64();
        let author = Author { uuid: UUID, node: NodeId(1), incarnation, checks_seal: self.shared };
        let sizes = Sizes {
            segment_bytes: SEGMENT,
            block_bytes_max: 16 << 10,
            record_bytes_max: 1 << 20,
            flush_bytes_max: 40 << 10,
        };
        let mut core = Core::new(sizes, ChunkPool::new(64 << 10, 512 << 10), recovery.start);
        core.set_epoch(NodeEpoch(incarnation));
        let writer = Writer::new(author, SEGMENT, recovery.link, recovery.index);
        let mut writer = writer.map_err(|error| Stop::Violation(error.to_string()))?;
        for _ in 0..STEPS {
            self.step(&mut core, &mut writer)?;
        }
        if self.random.below(3) == 0 {
            core.close();
            self.flush_all(&mut core, &mut writer)?;
        }
        Ok(())
    }

    fn step(&mut self, core: &mut Core, writer: &mut Writer) -> Result<(), Stop> {
        match self.random.below(8) {
            0..=3 => self.append(core),
            4..=5 => self.flush_one(core, writer).map(|_| ()),
            6 => {
                // Anywhere: also inside of blocks, and beyond what is durable.
                let span = core.durable().0 + SEGMENT - self.model.trim.0.min(core.durable().0);
                let before = Lsn(self.model.trim.0 + self.random.below(span));
                core.trim(before);
                self.model.trim = core.trimmed();
                Ok(())
            }
            _ => {
                let slots = self.device.slots();
                if slots.len() < SLOTS_MAX as usize {
                    let slot = Slot { id: slots.len() as u32, usable: SEGMENT };
                    self.device.grow(slot, &mut || Pace::Go).map_err(|_| Stop::Crash)?;
                    core.add_slot(slot);
                }
                Ok(())
            }
        }
    }

    fn append(&mut self, core: &mut Core) -> Result<(), Stop> {
        for _ in 0..=self.random.below(4) {
            let len = match self.random.below(6) {
                0 => self.random.below(30_000),
                1..=2 => self.random.below(9_000),
                _ => self.random.below(300),
            } as usize;
            let number = self.model.next_number;
            match core.append(&meta(1, number), &payload(number, len), &mut |_| ()) {
                Ok(appended) => {
                    self.model.entries.push(Entry { number, len, end: appended.end });
                    self.model.next_number += 1;
                }
                Err(AppendError::Full | AppendError::NoMemory | AppendError::TooLarge { .. }) => {}
                Err(error) => return Err(Stop::Violation(format!("append: {error}"))),
            }
        }
        Ok(())
    }

    fn flush_all(&mut self, core: &mut Core, writer: &mut Writer) -> Result<(), Stop> {
        while self.flush_one(core, writer)? {}
        Ok(())
    }

    fn flush_one(&mut self, core: &mut Core, writer: &mut Writer) -> Result<bool, Stop> {
        let Next::Flush(mut flush) = core.next() else { return Ok(false) };
        if self.random.below(2) == 0 && !core.is_closing() {
            // Appends go on while the flush is in flight.
            self.append(core)?;
        }
        match writer.run(&*self.device, &mut flush) {
            Ok(()) => {}
            Err(FlushError::Io(_)) => return Err(Stop::Crash),
            Err(FlushError::Sealed(_)) if self.shared => return Err(Stop::Sealed),
            Err(error) => return Err(Stop::Violation(error.to_string())),
        }
        let durable = core.finish(&flush);
        self.model.acknowledged = self.model.entries.partition_point(|entry| entry.end <= durable);
        Ok(true)
    }

    /// Checks what was recovered; returns how many of the model's entries are still there.
    fn check(&self, found: &[RecordRef], ring: &Ring) -> Result<usize, String> {
        let model = &self.model;
        let Some(first) = found.first() else {
            let lost = model.entries[..model.acknowledged].iter().find(|entry| entry.end > model.trim);
            return lost.map_or(Ok(model.acknowledged), |entry| Err(format!("lost {entry:?}, all of the rest too")));
        };
        let number = first.meta.base_offset.0;
        let start = model.entries.binary_search_by_key(&number, |entry| entry.number);
        let start = start.map_err(|_| format!("invented record {number}"))?;
        if let Some(lost) = model.entries[..start.min(model.acknowledged)].iter().find(|entry| entry.end > model.trim) {
            return Err(format!("lost {lost:?} at the start"));
        }
        for (at, record) in found.iter().enumerate() {
            let entry = model.entries.get(start + at).ok_or(format!("invented {record:?}"))?;
            self.check_record(entry, record, ring)?;
        }
        let kept = start + found.len();
        if kept < model.acknowledged {
            return Err(format!("lost {:?} at the end", model.entries[kept]));
        }
        Ok(kept)
    }

    fn check_record(&self, entry: &Entry, record: &RecordRef, ring: &Ring) -> Result<(), String> {
        if record.meta != meta(1, entry.number) {
            return Err(format!("expected {entry:?}, found {record:?}"));
        }
        let lsn = record.block.lsn();
        let slot = ring.slot_of(lsn.0 / SEGMENT).ok_or(format!("no segment holds {entry:?}"))?;
        let place = Place { uuid: UUID, lsn, slot, offset: lsn.0 % SEGMENT };
        let block = read_block(&*self.device, place).map_err(|error| format!("{entry:?}: {error}"))?;
        let bytes = block.slice(record.position, record.len).ok_or("a record outside of its block")?;
        if bytes == payload(entry.number, entry.len) { Ok(()) } else { Err(format!("{entry:?} was altered")) }
    }
}

/// Runs some lives without and one with a crash at I/O step `crash`, then two more. Returns whether the crash
/// was reached.
fn run(seed: u64, crash: u64, honesty: Honesty) -> Result<bool, String> {
    let mut history = History::new(seed, honesty);
    let lives = history.random.below(3);
    let mut reached = false;
    for life in 0..lives + 3 {
        if life == lives {
            history.device.crash_after(crash);
        }
        match history.live() {
            Ok(()) => {}
            Err(Stop::Crash | Stop::Sealed) => reached = true,
            Err(Stop::Violation(what)) => {
                return Err(format!("seed {seed}, crash at step {crash}, life {life} of {lives}+3: {what}"));
            }
        }
        // The other half: the process was killed, and the device kept its cache.
        if history.random.below(2) == 0 || history.device.is_down() {
            history.device.lose_power();
        }
    }
    Ok(reached)
}

/// Every crash point of so many histories. Returns the number of crashes.
fn run_all(histories: u64, honesty: Honesty) -> Result<u64, String> {
    let mut crashes = 0;
    for seed in 0..histories {
        for crash in 0.. {
            if !run(seed, crash, honesty)? {
                break;
            }
            crashes += 1;
        }
    }
    Ok(crashes)
}

#[test]
fn every_acknowledged_record_survives_a_crash_at_every_step() {
    let histories = std::env::var("OTTLA_WAL_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let crashes = run_all(histories, Honesty::Honest).unwrap_or_else(|what| panic!("{what}"));
    assert!(crashes >= histories, "{crashes} crashes in {histories} histories");
    eprintln!("{histories} histories, {crashes} crashes");
}

#[test]
fn a_device_that_does_not_sync_is_found_out() {
    let found = run_all(100, Honesty::SyncsNothing).expect_err("acknowledged records were lost");
    assert!(found.contains("lost") || found.contains("damaged"), "{found}");
}

#[test]
fn a_device_that_syncs_one_file_of_many_is_found_out() {
    run_all(500, Honesty::SyncsFirstOnly).expect_err("acknowledged records were lost");
}
