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
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Grower {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

struct Growth {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    slots: u32,
    segment_bytes: u64,
}

impl Grower {
    /// `None` when all slots have their full size already.
    pub(super) fn start(shared: &Arc<Shared>, slots: u32, segment_bytes: u64) -> io::Result<Option<Self>> {
        let existing = shared.device.slots();
        if existing.len() >= slots as usize && existing.iter().all(|slot| slot.usable >= segment_bytes) {
            return Ok(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let growth = Growth { shared: Arc::clone(shared), stop: Arc::clone(&stop), slots, segment_bytes };
        let thread = std::thread::Builder::new().name("wal-grow".to_owned()).spawn(move || growth.run())?;
        Ok(Some(Self { thread, stop }))
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

/// What to do about the size of the ring.
enum Step {
    Make(Slot),
    Extend { from: Slot, to: Slot },
}

impl Growth {
    fn run(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let Some(step) = self.plan() else {
                std::thread::park();
                continue;
            };
            match self.carry_out(step) {
                Ok(()) => self.shared.growth_failed.store(false, Ordering::Relaxed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !self.shared.growth_failed.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the write-ahead log cannot grow now; retrying");
                    }
                    std::thread::park_timeout(RETRY_PAUSE);
                }
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

    fn carry_out(&self, step: Step) -> io::Result<()> {
        let (slot, otherwise) = match step {
            Step::Make(slot) => (slot, None),
            Step::Extend { from, to } => (to, Some(from)),
        };
        let grown = self.shared.device.grow(slot, &mut || self.pace());
        let back = if grown.is_ok() { Some(slot) } else { otherwise };
        if let Some(slot) = back {
            self.shared.state.lock().core.add_slot(slot);
        }
        grown
    }

    fn pace(&self) -> Pace {
        let (free, _) = self.shared.state.lock().core.free_room();
        if free >= HURRY_BELOW_SLOTS {
            std::thread::park_timeout(STEP_PAUSE);
        }
        if self.stop.load(Ordering::Acquire) { Pace::Stop } else { Pace::Go }
    }
}
