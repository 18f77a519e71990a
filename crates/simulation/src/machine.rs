//! A simulated machine: its clocks, and what a broker finds on it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker::Machine;
use broker::meta_properties::{MetaError, MetaProperties};
use common::simulated_disk::DiskLife;
use common::store::{StoreOptions, faulty};
use common::{Clock, NodeId, Random, SeededRandom};
use futures::future::BoxFuture;
use metadata::log::{RaftLogStore, SimulatedLogStore};
use object_store::ObjectStore;
use parking_lot::Mutex;
use wal::Logs;

use crate::logs::WatchedLogs;
use crate::world::World;

/// Wall-clock time at which every simulation begins.
pub const EPOCH_MS: i64 = 1_750_000_000_000;

/// The pace of a clock that is right, in percent.
pub const TRUE_PACE: u32 = 100;

/// The clocks of a machine: those of the simulation, until somebody tampers with them.
#[derive(Default)]
pub struct Clocks {
    inner: Mutex<Tampering>,
}

struct Tampering {
    /// Where the boot-time clock stands while the machine is frozen.
    frozen: Option<Duration>,
    wall_offset_ms: i64,
    /// The newest true time that was seen; used where no host is running.
    last: Duration,
    /// How fast the boot-time clock runs, in percent, since when, and what it showed then.
    pace: (u32, Duration, Duration),
}

impl Default for Tampering {
    fn default() -> Self {
        let pace = (TRUE_PACE, Duration::ZERO, Duration::ZERO);
        Self { frozen: None, wall_offset_ms: 0, last: Duration::ZERO, pace }
    }
}

impl Tampering {
    /// What the boot-time clock shows, frozen or not.
    fn running(&self) -> Duration {
        let (percent, since, shown) = self.pace;
        shown + self.last.saturating_sub(since) * percent / TRUE_PACE
    }
}

impl Clocks {
    /// Moves the wall clock.
    pub fn jump(&self, by_ms: i64) {
        self.inner.lock().wall_offset_ms += by_ms;
    }

    /// Stops the boot-time clock of a machine that does nothing, as its software sees it: it does not know yet how long it was.
    pub fn freeze(&self) {
        let mut inner = self.inner.lock();
        inner.frozen = Some(inner.running());
    }

    /// Lets them go on, as if they had never stood.
    pub fn thaw(&self) {
        self.inner.lock().frozen = None;
    }

    /// Lets the boot-time clock run at so many percent of its pace from now on.
    pub fn set_pace(&self, percent: u32) {
        let mut inner = self.inner.lock();
        inner.pace = (percent, inner.last, inner.running());
    }
}

impl Clock for Clocks {
    fn wall_ms(&self) -> i64 {
        let since = i64::try_from(self.boot().as_millis()).unwrap_or(i64::MAX);
        EPOCH_MS + since + self.inner.lock().wall_offset_ms
    }

    fn boot(&self) -> Duration {
        let mut inner = self.inner.lock();
        if let Some(elapsed) = turmoil::sim_elapsed() {
            inner.last = inner.last.max(elapsed);
        }
        inner.frozen.unwrap_or_else(|| inner.running())
    }
}

/// One machine, as one process on it sees it. What is durable lives in the [`World`].
pub struct SimulatedMachine {
    world: Arc<World>,
    node: NodeId,
    random: Arc<SeededRandom>,
    life: DiskLife,
}

impl SimulatedMachine {
    /// The machine of `node`, for a new process; the one before it has ended.
    #[must_use]
    pub fn new(world: &Arc<World>, node: NodeId) -> Self {
        let random = Arc::new(SeededRandom::new(world.random.next_u64()));
        let life = world.node(node).disk.begin_life();
        Self { world: Arc::clone(world), node, random, life }
    }
}

impl Machine for SimulatedMachine {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.world.node(self.node).clocks) as Arc<dyn Clock>
    }

    fn random(&self) -> Arc<dyn Random> {
        Arc::clone(&self.random) as Arc<dyn Random>
    }

    fn load_identity(&self, _directory: &Path, _node: NodeId) -> Result<Option<MetaProperties>, MetaError> {
        Ok(self.world.node(self.node).identity.lock().clone())
    }

    fn create_identity(&self, _directory: &Path, identity: &MetaProperties) -> Result<(), MetaError> {
        *self.world.node(self.node).identity.lock() = Some(identity.clone());
        Ok(())
    }

    fn raft_log(&self, _directory: PathBuf) -> BoxFuture<'_, io::Result<Arc<dyn RaftLogStore>>> {
        let log = SimulatedLogStore::open(&self.world.node(self.node).raft, self.life.clone());
        Box::pin(async { Ok(Arc::new(log) as Arc<dyn RaftLogStore>) })
    }

    fn logs(&self) -> Arc<dyn Logs> {
        Arc::new(WatchedLogs::new(self.world.disks.logs(self.life.clone()), &self.world, self.node))
    }

    fn objects(&self, _url: &str) -> Result<Arc<dyn ObjectStore>, String> {
        let options = StoreOptions { random: self.random(), ..StoreOptions::default() };
        Ok(faulty(Arc::clone(&self.world.objects), &self.world.node(self.node).faults, &options))
    }
}
