//! A device that forgets: what was written but not synced may be lost, torn or reordered by a power cut.

use std::io;

use common::SeededRandom;
use parking_lot::Mutex;

use crate::device::image::Image;
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

#[derive(Default)]
struct State {
    image: Image,
    /// I/O steps until the power fails.
    left: Option<u64>,
    down: bool,
    /// What happens beside the writer, before its I/O step after so many more.
    beside: Option<(u64, Beside)>,
}

/// Another node's doing.
pub(super) type Beside = Box<dyn FnOnce(&SimulatedDevice) + Send>;

impl SimulatedDevice {
    pub(super) fn new(seed: u64, honesty: Honesty) -> Self {
        Self { state: Mutex::default(), random: SeededRandom::new(seed), honesty }
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
        state.image.lose_power(&self.random);
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
        self.state.lock().image.slots()
    }

    fn read_at(&self, slot: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.state.lock().image.read(slot, offset, buf)
    }

    fn write_at(&self, slot: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.let_others();
        let mut state = self.state.lock();
        let alive = !state.down;
        let step = self.step(&mut state);
        if alive {
            // Also of the write at which the power fails, something may have reached the disk.
            state.image.write(slot, offset, bytes)?;
        }
        step
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
        state.image.sync(slots);
        Ok(())
    }

    fn read_seal(&self, page: &mut [u8]) -> io::Result<()> {
        self.let_others();
        self.state.lock().image.read_seal(page);
        Ok(())
    }

    fn write_seal(&self, page: &[u8]) -> io::Result<()> {
        self.state.lock().image.write_seal(page);
        Ok(())
    }

    fn grow(&self, slot: Slot, _pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.down {
            return Err(io::Error::other("the power failed"));
        }
        state.image.grow(slot);
        Ok(())
    }

    fn describe(&self, slot: u32, offset: u64) -> String {
        format!("slot {slot}, offset {offset}")
    }
}
