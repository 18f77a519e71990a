//! Makes segments before they are needed, and extends the short ones a young log starts with.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use super::Shared;
use crate::device::file::first_slot_bytes;
use crate::device::{Pace, Slot};

/// Pause after each step (1 MiB) while the log has room: about 200 MB/s.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// With fewer free slots there is no pause.
const HURRY_BELOW_SLOTS: usize = 1;
/// After a failure, as when the disk is full.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The thread that grows a log.
pub(super) struct Grower {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

/// Which segments a log may yet get.
pub(crate) struct Growth {
    shared: Arc<Shared>,
    slots: u32,
    segment_bytes: u64,
}

impl Grower {
    pub(super) fn start(growth: Growth) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("wal-grow".to_owned()).spawn(move || growth.run(&told))?;
        Ok(Self { thread, stop })
    }

    pub(super) fn handle(&self) -> Thread {
        self.thread.thread().clone()
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the thread that grows the write-ahead log panicked");
        }
    }
}

/// What came of a step of growth.
pub(crate) enum Grown {
    /// There is room enough for now.
    Enough,
    /// There may be more to do.
    Step,
    /// Not now: see [`RETRY_PAUSE`].
    Failed,
}

/// What to do about the size of the ring.
enum Step {
    Make(Slot),
    Extend { from: Slot, to: Slot },
}

impl Growth {
    /// `None` when all slots have their full size already.
    pub(super) fn of(shared: &Arc<Shared>, slots: u32, segment_bytes: u64) -> Option<Self> {
        let existing = shared.device.slots();
        let whole = existing.len() >= slots as usize && existing.iter().all(|slot| slot.usable >= segment_bytes);
        (!whole).then(|| Self { shared: Arc::clone(shared), slots, segment_bytes })
    }

    fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            match self.step(&mut || self.pace(stop)) {
                Grown::Enough => std::thread::park(),
                Grown::Step => {}
                Grown::Failed => std::thread::park_timeout(RETRY_PAUSE),
            }
        }
    }

    /// Makes or extends one segment, if there is need.
    pub(crate) fn step(&self, pace: &mut dyn FnMut() -> Pace) -> Grown {
        let Some(step) = self.plan() else { return Grown::Enough };
        match self.carry_out(step, pace) {
            Ok(()) => {
                self.shared.growth_failed.store(false, Ordering::Relaxed);
                Grown::Step
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Grown::Step,
            Err(error) => {
                if !self.shared.growth_failed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the write-ahead log cannot grow now; retrying");
                }
                Grown::Failed
            }
        }
    }

    /// Two free slots with the room of a whole segment are enough ahead of the writer. Once all slots exist,
    /// short ones are extended when they are free.
    fn plan(&self) -> Option<Step> {
        let existing = self.shared.device.slots();
        let mut state = self.shared.state.lock();
        let (free, room) = state.core.free_room();
        let next = existing.last().map_or(0, |slot| slot.id + 1);
        if existing.len() < self.slots as usize {
            let slot = Slot { id: next, usable: first_slot_bytes(next, self.segment_bytes) };
            let enough = free >= 2 && room >= self.segment_bytes;
            return (!enough).then_some(Step::Make(slot));
        }
        let from = state.core.borrow_short_slot(self.segment_bytes)?;
        Some(Step::Extend { from, to: Slot { usable: self.segment_bytes, ..from } })
    }

    fn carry_out(&self, step: Step, pace: &mut dyn FnMut() -> Pace) -> io::Result<()> {
        let (slot, otherwise) = match step {
            Step::Make(slot) => (slot, None),
            Step::Extend { from, to } => (to, Some(from)),
        };
        let grown = self.shared.device.grow(slot, pace);
        let back = if grown.is_ok() { Some(slot) } else { otherwise };
        if let Some(slot) = back {
            self.shared.state.lock().core.add_slot(slot);
        }
        grown
    }

    fn pace(&self, stop: &AtomicBool) -> Pace {
        let (free, _) = self.shared.state.lock().core.free_room();
        if free >= HURRY_BELOW_SLOTS {
            std::thread::park_timeout(STEP_PAUSE);
        }
        if stop.load(Ordering::Acquire) { Pace::Stop } else { Pace::Go }
    }
}
