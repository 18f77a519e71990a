//! A simulated machine: its clocks, and what a broker finds on it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker::Machine;
use broker::meta_properties::{MetaError, MetaProperties};
use common::{Clock, NodeId, Random, SeededRandom};
use futures::future::BoxFuture;
use metadata::log::RaftLogStore;
use object_store::ObjectStore;
use parking_lot::Mutex;
use wal::Logs;

use crate::world::World;

/// Wall-clock time at which every simulation begins.
pub const EPOCH_MS: i64 = 1_750_000_000_000;

/// The clocks of a machine: those of the simulation, until somebody tampers with them.
#[derive(Default)]
pub struct Clocks {
    inner: Mutex<Tampering>,
}

#[derive(Default)]
struct Tampering {
    /// Where the boot-time clock stands while the machine is frozen.
    frozen: Option<Duration>,
    wall_offset_ms: i64,
    /// The newest time that was told; used where no host is running.
    last: Duration,
}

impl Clocks {
    /// Moves the wall clock.
    pub fn jump(&self, by_ms: i64) {
        self.inner.lock().wall_offset_ms += by_ms;
    }

    /// Stops the clocks of a machine that does nothing, as its software sees them: it will not know how long it was.
    pub fn freeze(&self, now: Duration) {
        self.inner.lock().frozen = Some(now);
    }

    /// Lets them go on, from the true time.
    pub fn thaw(&self) {
        self.inner.lock().frozen = None;
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
        inner.frozen.unwrap_or(inner.last)
    }
}

/// One machine, as the broker on it sees it. What is durable lives in the [`World`].
pub struct SimulatedMachine {
    world: Arc<World>,
    node: NodeId,
    random: Arc<SeededRandom>,
}

impl SimulatedMachine {
    /// The machine of `node` during one life.
    #[must_use]
    pub fn new(world: &Arc<World>, node: NodeId) -> Self {
        let random = Arc::new(SeededRandom::new(world.random.next_u64()));
        Self { world: Arc::clone(world), node, random }
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
        Box::pin(async { Ok(self.world.node(self.node).raft_log()) })
    }

    fn logs(&self) -> Arc<dyn Logs> {
        self.world.node(self.node).logs()
    }

    fn objects(&self, _url: &str) -> Result<Arc<dyn ObjectStore>, String> {
        Ok(self.world.objects(&self.random))
    }
}
