//! A node's storage in a simulation: how long it takes, what goes wrong with it, and which process uses it. What lies on
//! it is kept by whoever simulates the log that lies there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Random;

/// What a process does with its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskStep {
    /// Reads.
    Read,
    /// Writes; not durable yet.
    Write,
    /// Makes durable what was written.
    Sync,
    /// Takes more room.
    Grow,
}

/// One node's disk. Shared by all lives of the node, and by whoever makes faults.
pub struct SimulatedDisk {
    state: Mutex<State>,
    thawed: Notify,
    random: Arc<dyn Random>,
}

struct State {
    /// Which life of the node may use it.
    life: u64,
    frozen: bool,
    full: bool,
    /// Syncs that fail, from the next one on.
    failing_syncs: u32,
    /// Everything takes so many times as long.
    slowness: u32,
}

impl SimulatedDisk {
    /// A disk without faults. Times are drawn from `random`.
    #[must_use]
    pub fn new(random: Arc<dyn Random>) -> Arc<Self> {
        let state = State { life: 0, frozen: false, full: false, failing_syncs: 0, slowness: 1 };
        Arc::new(Self { state: Mutex::new(state), thawed: Notify::new(), random })
    }

    /// Begins a life of the node; the one before it has ended, if it had not yet.
    #[must_use]
    pub fn begin_life(self: &Arc<Self>) -> DiskLife {
        self.kill();
        DiskLife { disk: Arc::clone(self), life: self.state.lock().life }
    }

    /// Ends the life that uses the disk, wherever it is: nothing it does has an effect any more, its locks are free.
    pub fn kill(&self) {
        self.state.lock().life += 1;
        self.thawed.notify_waiters();
    }

    /// Holds up everything, or lets it go on.
    pub fn set_frozen(&self, frozen: bool) {
        self.state.lock().frozen = frozen;
        self.thawed.notify_waiters();
    }

    /// Leaves no room for growth, or gives it back.
    pub fn set_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// Lets the next `syncs` syncs fail.
    pub fn fail_syncs(&self, syncs: u32) {
        self.state.lock().failing_syncs = syncs;
    }

    /// Makes everything take `times` as long.
    pub fn set_slowness(&self, times: u32) {
        self.state.lock().slowness = times.max(1);
    }

    /// Most steps take no time to speak of, some a few milliseconds, one in a hundred much longer.
    fn draw(&self, slowness: u32) -> Duration {
        let ms = match self.random.below(100) {
            0..=59 => 0,
            60..=89 => 1,
            90..=98 => 2 + self.random.below(4),
            _ => 5 + self.random.below(30),
        };
        Duration::from_millis(ms) * slowness
    }
}

/// A life of a node, as its disk knows it.
#[derive(Clone)]
pub struct DiskLife {
    disk: Arc<SimulatedDisk>,
    life: u64,
}

impl DiskLife {
    /// Whether the node was killed since.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.disk.state.lock().life != self.life
    }

    /// Whether this is the same life of the same node.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.disk, &other.disk) && self.life == other.life
    }

    /// The node's disk.
    #[must_use]
    pub fn disk(&self) -> &Arc<SimulatedDisk> {
        &self.disk
    }

    /// Lets the time of a step pass. Never returns in a life that is over.
    pub async fn pause(&self) {
        let wait = self.disk.draw(self.disk.state.lock().slowness);
        if wait.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(wait).await;
        }
        loop {
            // Before the look: a thaw after it is not missed.
            let mut thawed = std::pin::pin!(self.disk.thawed.notified());
            thawed.as_mut().enable();
            if self.is_over() {
                std::future::pending::<()>().await;
            }
            if !self.disk.state.lock().frozen {
                return;
            }
            thawed.await;
        }
    }

    /// Whether the step may be taken now.
    ///
    /// Errors: the faults that were asked for, and everything in a life that is over.
    pub fn admit(&self, step: DiskStep) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("the process was killed"));
        }
        match step {
            DiskStep::Grow if state.full => Err(io::ErrorKind::StorageFull.into()),
            DiskStep::Sync if state.failing_syncs > 0 => {
                state.failing_syncs -= 1;
                Err(io::Error::other("simulated failure to sync"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    fn disk() -> Arc<SimulatedDisk> {
        SimulatedDisk::new(Arc::new(SeededRandom::new(1)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_disk_holds_up_until_it_thaws() {
        let disk = disk();
        let life = disk.begin_life();
        disk.set_frozen(true);
        let wait = Duration::from_secs(60);
        assert!(tokio::time::timeout(wait, life.pause()).await.is_err());
        let thaw = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            disk.set_frozen(false);
        };
        let (paused, ()) = tokio::join!(tokio::time::timeout(wait, life.pause()), thaw);
        paused.expect("thawed");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_done_in_a_life_that_is_over() {
        let disk = disk();
        let first = disk.begin_life();
        first.admit(DiskStep::Write).expect("alive");
        let second = disk.begin_life();
        assert!(first.is_over() && !second.is_over());
        first.admit(DiskStep::Write).expect_err("killed");
        assert!(tokio::time::timeout(Duration::from_secs(60), first.pause()).await.is_err());
        second.admit(DiskStep::Write).expect("alive");
    }

    #[test]
    fn faults_hit_the_steps_they_are_meant_for() {
        let disk = disk();
        let life = disk.begin_life();
        disk.set_full(true);
        disk.fail_syncs(1);
        life.admit(DiskStep::Write).expect("writes");
        assert_eq!(life.admit(DiskStep::Grow).expect_err("full").kind(), io::ErrorKind::StorageFull);
        life.admit(DiskStep::Sync).expect_err("fails once");
        life.admit(DiskStep::Sync).expect("only once");
    }
}
