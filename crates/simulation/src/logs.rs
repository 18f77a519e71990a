//! The logs as a broker reaches them, where it is looked at what it seals.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{LogIndex, Lsn, NodeId};
use metadata::image::WalState;
use parking_lot::Mutex;
use uuid::Uuid;
use wal::simulation::SimulatedLogs;
use wal::{
    BoxFuture, FoundLog, Logs, OpenError, Opened, SealError, SealProof, Sealed, SealedBy, SealedLog, WalConfig,
    WalLocation,
};

use crate::watch::sealed_early;
use crate::world::World;

/// See the module.
pub struct WatchedLogs {
    logs: SimulatedLogs,
    world: Arc<World>,
    node: NodeId,
    /// Up to where metadata was committed at least, when this process had sealed a log.
    sealed: Mutex<BTreeMap<Uuid, LogIndex>>,
}

impl WatchedLogs {
    /// The logs as a process of `node` reaches them.
    #[must_use]
    pub fn new(logs: SimulatedLogs, world: &Arc<World>, node: NodeId) -> Self {
        Self { logs, world: Arc::clone(world), node, sealed: Mutex::default() }
    }

    fn seals(&self, uuid: Uuid, proof: SealProof) {
        let committed = self.world.brokers().map(|(_, broker)| broker.metadata.image().applied).max();
        self.sealed.lock().insert(uuid, committed.unwrap_or_default());
        if proof == SealProof::LeaseExpired
            && let Some(complaint) = sealed_early(&self.world, uuid)
        {
            self.world.judge.complain(complaint);
        }
    }

    /// Whoever looks through a log that it sealed, and of whose seal metadata does not know yet, knows all that had been granted.
    fn looks_through(&self, uuid: Uuid) {
        let sealed = self.sealed.lock().get(&uuid).copied();
        let (Some(committed), Some(broker)) = (sealed, self.world.broker(self.node)) else { return };
        let image = broker.metadata.image();
        let is_open = image.wals.get(&uuid).is_some_and(|wal| wal.state == WalState::Open);
        if is_open && image.applied < committed {
            let (node, applied) = (self.node, image.applied);
            let complaint = format!(
                "node {node} knows metadata up to {applied}, and looks through log {uuid}, sealed at {committed}"
            );
            self.world.judge.complain(complaint);
        }
    }
}

impl Logs for WatchedLogs {
    fn logs(&self, place: WalLocation) -> BoxFuture<'_, Result<Vec<FoundLog>, OpenError>> {
        self.logs.logs(place)
    }

    fn fresh(&self, place: WalLocation) -> BoxFuture<'_, Result<WalLocation, OpenError>> {
        self.logs.fresh(place)
    }

    fn open(&self, config: WalConfig) -> BoxFuture<'_, Result<Opened, OpenError>> {
        self.logs.open(config)
    }

    fn remove(&self, location: WalLocation, uuid: Uuid) -> BoxFuture<'_, Result<(), OpenError>> {
        self.logs.remove(location, uuid)
    }

    fn seal(
        &self,
        location: WalLocation,
        uuid: Uuid,
        by: SealedBy,
        proof: SealProof,
    ) -> BoxFuture<'_, Result<Sealed, SealError>> {
        Box::pin(async move {
            let sealed = self.logs.seal(location, uuid, by, proof).await?;
            self.seals(uuid, proof);
            Ok(sealed)
        })
    }

    fn open_sealed(
        &self,
        location: WalLocation,
        uuid: Uuid,
        end: Lsn,
    ) -> BoxFuture<'_, Result<Arc<SealedLog>, SealError>> {
        self.looks_through(uuid);
        self.logs.open_sealed(location, uuid, end)
    }
}
