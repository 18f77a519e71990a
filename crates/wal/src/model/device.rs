//! A device that forgets: what was written but not synced may be lost, torn or reordered by a power cut.

use std::collections::BTreeMap;
use std::io;

use common::{Random, SeededRandom};
use parking_lot::Mutex;

use crate::device::{Pace, Slot, WalDevice};

/// What a sync does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Honesty {
    Honest,
    SyncsNothing,
    SyncsFirstOnly,
}

pub(super) struct SimulatedDevice {
    state: Mutex<State>,
    random: SeededRandom,
    honesty: Honesty,
}

struct State {
    durable: BTreeMap<u32, Vec<u8>>,
    /// What reads see.
    current: BTreeMap<u32, Vec<u8>>,
    pending: Vec<(u32, usize, Vec<u8>)>,
    /// I/O steps until the power fails.
    left: Option<u64>,
    down: bool,
    seal: Vec<u8>,
    /// What happens beside the writer, before its I/O step after so many more.
    beside: Option<(u64, Beside)>,
}

/// Another node's doing.
pub(super) type Beside = Box<dyn FnOnce(&SimulatedDevice) + Send>;

impl SimulatedDevice {
    pub(super) fn new(seed: u64, honesty: Honesty) -> Self {
        let state = State {
            durable: BTreeMap::new(),
            current: BTreeMap::new(),
            pending: Vec::new(),
            left: None,
            down: false,
            seal: Vec::new(),
            beside: None,
        };
        Self { state: Mutex::new(state), random: SeededRandom::new(seed), honesty }
    }

    /// The power fails at the write or sync after so many more.
    pub(super) fn crash_after(&self, steps: u64) {
        self.state.lock().left = Some(steps);
    }

    /// `what` happens before the write, sync or look at the seal after so many more.
    pub(super) fn beside_after(&self, steps: u64, what: Beside) {
        self.state.lock().beside = Some((steps, what));
    }

    /// Takes what has not happened yet.
    pub(super) fn take_beside(&self) -> Option<Beside> {
        self.state.lock().beside.take().map(|(_, what)| what)
    }

    /// A step of the writer's begins. Without the lock held: what happens beside it uses the device as well.
    fn let_others(&self) {
        let due = {
            let mut state = self.state.lock();
            match &mut state.beside {
                Some((0, _)) => state.beside.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, what)) = due {
            what(self);
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.state.lock().down
    }

    /// Decides what of the unsynced writes is on the disk, and starts again without a crash to come.
    pub(super) fn lose_power(&self) {
        let mut state = self.state.lock();
        let pending = std::mem::take(&mut state.pending);
        let mode = self.random.below(6);
        let prefix = self.random.below(pending.len() as u64 + 1) as usize;
        for (at, (slot, offset, bytes)) in pending.into_iter().enumerate() {
            let tear = if self.random.below(2) == 0 { 512 } else { 4096 };
            let whole = match mode {
                0 => Some(false),
                1 => Some(true),
                2 => Some(at < prefix),
                3 => Some(self.random.below(2) == 0),
                _ => None,
            };
            let disk = state.durable.get_mut(&slot).expect("a slot that was written exists");
            for (piece, start) in bytes.chunks(tear).zip((offset..).step_by(tear)) {
                if whole.unwrap_or_else(|| self.random.below(2) == 0) {
                    disk[start..start + piece.len()].copy_from_slice(piece);
                }
            }
        }
        state.current = state.durable.clone();
        state.left = None;
        state.down = false;
    }

    fn step(&self, state: &mut State) -> io::Result<()> {
        match &mut state.left {
            Some(0) => state.down = true,
            Some(left) => *left -= 1,
            None => {}
        }
        if state.down { Err(io::Error::other("the power failed")) } else { Ok(()) }
    }
}

impl WalDevice for SimulatedDevice {
    fn slots(&self) -> Vec<Slot> {
        let state = self.state.lock();
        state.current.iter().map(|(id, bytes)| Slot { id: *id, usable: bytes.len() as u64 }).collect()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        let bytes = state.current.get(&slot).ok_or(io::ErrorKind::NotFound)?;
        let start = offset as usize;
        buf.copy_from_slice(bytes.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.let_others();
        let mut state = self.state.lock();
        let start = offset as usize;
        let alive = !state.down;
        let step = self.step(&mut state);
        if alive {
            // Also of the write at which the power fails, something may have reached the disk.
            state.pending.push((slot, start, bytes.to_vec()));
        }
        step?;
        let current = state.current.get_mut(&slot).ok_or(io::ErrorKind::NotFound)?;
        current[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, slots: &[u32]) -> io::Result<()> {
        self.let_others();
        let mut state = self.state.lock();
        self.step(&mut state)?;
        let slots = match self.honesty {
            Honesty::Honest => slots,
            Honesty::SyncsFirstOnly => &slots[..slots.len().min(1)],
            Honesty::SyncsNothing => &[],
        };
        let pending = std::mem::take(&mut state.pending);
        for (slot, start, bytes) in pending {
            if slots.contains(&slot) {
                let disk = state.durable.get_mut(&slot).expect("a slot that was written exists");
                disk[start..start + bytes.len()].copy_from_slice(&bytes);
            } else {
                state.pending.push((slot, start, bytes));
            }
        }
        Ok(())
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        self.let_others();
        page.copy_from_slice(&self.state.lock().seal);
        Ok(())
    }

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        self.state.lock().seal = page.to_vec();
        Ok(())
    }

    fn grow(&self, slot: Slot, _pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.down {
            return Err(io::Error::other("the power failed"));
        }
        for place in [0, 1] {
            let slots = if place == 0 { &mut state.durable } else { &mut state.current };
            slots.entry(slot.id).or_default().resize(slot.usable as usize, 0);
        }
        Ok(())
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        format!("slot {slot}, offset {offset}")
    }
}
