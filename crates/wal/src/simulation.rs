//! Logs in a simulation: disks that lie in memory, reached by all nodes, with the simulated time that everything takes.
//!
//! Core, writer, recovery, seal and sealed logs are the ones that files have; only the bytes, the locks and what runs the
//! I/O differ. Whoever simulates hands each process [`SimulatedLogs`], kills it through its
//! [`SimulatedDisk`](common::simulated_disk::SimulatedDisk), and asks [`SimulatedDisks`] whether all is as it should be.

mod disk;
mod tasks;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::simulated_disk::DiskLife;
use common::{Lsn, NodeId, Random};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::config::{WalConfig, WalLocation};
use crate::engine::Engine;
use crate::format::superblock::Superblock;
use crate::home::{LOG_PREFIX, home_of, uuid_of};
use crate::open::{Place, check_config, check_whose, new_superblock, read_seal, recover};
use crate::reads::ReadBlocks as _;
use crate::seal::{self, conclude, mark};
use crate::sealed_log::OnDevice;
use crate::{
    Block, BoxFuture, FoundLog, Logs, OpenError, Opened, ReadError, RecordRef, SealError, SealProof, Sealed, SealedBy,
    SealedLog, SealedSource,
};
use disk::{Handle, StoredLog};
use tasks::Tasks;

/// Sizes of the logs in a simulation, whatever is configured: small, so that rings turn.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedSizes {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of the ring.
    pub capacity_bytes: u64,
}

impl Default for SimulatedSizes {
    fn default() -> Self {
        Self { segment_bytes: 256 << 10, capacity_bytes: 4 << 20 }
    }
}

/// All logs of all nodes.
pub struct SimulatedDisks {
    logs: Mutex<BTreeMap<PathBuf, Arc<StoredLog>>>,
    sizes: SimulatedSizes,
    random: Arc<dyn Random>,
}

/// The logs as the process of one node reaches them.
#[derive(Clone)]
pub struct SimulatedLogs {
    disks: Arc<SimulatedDisks>,
    life: DiskLife,
}

impl SimulatedDisks {
    /// Disks without any log. What a power cut leaves, and the identities of logs, are drawn from `random`.
    #[must_use]
    pub fn new(sizes: SimulatedSizes, random: Arc<dyn Random>) -> Arc<Self> {
        Arc::new(Self { logs: Mutex::default(), sizes, random })
    }

    /// The logs for a process.
    #[must_use]
    pub fn logs(self: &Arc<Self>, life: DiskLife) -> SimulatedLogs {
        SimulatedLogs { disks: Arc::clone(self), life }
    }

    /// The power of a node's disk fails: of what was not synced, anything may be lost or torn. Its process must have been
    /// killed.
    pub fn cut_power(&self, node: NodeId) {
        for log in self.logs.lock().values().filter(|log| log.superblock.node == node) {
            log.lose_power();
        }
    }

    /// Whether the logs are as they should be.
    ///
    /// Errors: an owner acknowledged what lies behind the end where its log was sealed, or anything without a lease.
    pub fn check(&self) -> Result<(), String> {
        for (path, log) in &*self.logs.lock() {
            let (uuid, published) = (log.superblock.uuid, *log.published.lock());
            let node = log.superblock.node;
            if published.unleased {
                return Err(format!("log {uuid} of node {node} was acknowledged without a lease"));
            }
            let sector = read_seal(&Handle::observing(log), path, uuid).map_err(|error| error.to_string())?;
            if let Some(end) = sector.end
                && published.upto > end
            {
                let upto = published.upto;
                return Err(format!("log {uuid} of node {node} was sealed at {end} and acknowledged up to {upto}"));
            }
        }
        Ok(())
    }

    /// Identity, owner and records of every log that was not removed, as a recovery would find them.
    ///
    /// Errors: a log that cannot be read.
    pub fn contents(&self) -> Result<Vec<(Uuid, NodeId, Vec<RecordRef>)>, OpenError> {
        let logs: Vec<Arc<StoredLog>> = self.logs.lock().values().cloned().collect();
        let read = |log: Arc<StoredLog>| {
            let Superblock { uuid, node, segment_bytes, .. } = log.superblock;
            let device = Handle::observing(&log);
            // Of a sealed one, what those read who take it over.
            let found = match read_seal(&device, &log.path, uuid)?.end {
                Some(end) => crate::recovery::recover_sealed(&device, uuid, segment_bytes, end),
                None => crate::recovery::recover(&device, uuid, segment_bytes),
            };
            let found = found.map_err(OpenError::recovering(&log.path))?;
            Ok((uuid, node, found.recovered.records))
        };
        logs.into_iter().map(read).collect()
    }

    /// The log itself and all others of the node that lie beside it.
    fn beside(&self, place: &Path) -> Vec<Arc<StoredLog>> {
        let home = home_of(place);
        self.logs.lock().values().filter(|log| home_of(&log.path) == home).cloned().collect()
    }

    fn find(&self, path: &Path) -> Option<Arc<StoredLog>> {
        self.logs.lock().get(path).cloned()
    }

    fn find_or_make(&self, config: &WalConfig) -> Arc<StoredLog> {
        let path = config.location.path();
        let make = || {
            let uuid = uuid_of(path).unwrap_or_else(|| self.random.uuid());
            let superblock = new_superblock(config, uuid, config.capacity_bytes);
            Arc::new(StoredLog::new(path.to_owned(), superblock, &self.random))
        };
        Arc::clone(self.logs.lock().entry(path.to_owned()).or_insert_with(make))
    }
}

impl SimulatedLogs {
    fn handle(&self, log: &Arc<StoredLog>) -> Handle {
        Handle::of(log, self.life.clone())
    }

    async fn found(&self, place: &Path) -> Result<Vec<FoundLog>, OpenError> {
        self.life.pause().await;
        let describe = |log: Arc<StoredLog>| {
            let Superblock { uuid, node, class, cluster_id, .. } = log.superblock.clone();
            let sealed = read_seal(&self.handle(&log), &log.path, uuid)?.sealed;
            let location = WalLocation::Directory(log.path.clone());
            Ok(FoundLog { location, uuid, node, cluster_id, class, sealed })
        };
        self.disks.beside(place).into_iter().map(describe).collect()
    }

    async fn open_log(&self, config: WalConfig) -> Result<Opened, OpenError> {
        let SimulatedSizes { segment_bytes, capacity_bytes } = self.disks.sizes;
        let config = WalConfig { segment_bytes, capacity_bytes, ..config };
        check_config(&config)?;
        self.life.pause().await;
        let path = config.location.path().to_owned();
        for log in self.disks.beside(&path) {
            check_whose(&log.path, &log.superblock, &config)?;
            // A node has one log open at a time.
            drop(log.hold(&self.life)?);
        }
        let log = self.disks.find_or_make(&config);
        let lock = log.hold(&self.life)?;
        self.life.pause().await;
        let slots = u32::try_from(capacity_bytes / segment_bytes).unwrap_or(u32::MAX);
        let place = Place {
            path: path.clone(),
            device: Arc::new(self.handle(&log)),
            superblock: log.superblock.clone(),
            slots,
            lock: Box::new(lock),
        };
        let (parts, recovered) = recover(place, &config, &*self.disks.random)?;
        let uuid = parts.uuid;
        self.life.pause().await;
        let life = &self.life;
        let engine = Engine::driven(parts, |writer, shared, growth| {
            Ok(Box::new(Tasks::start(writer, shared, growth, life, &log)))
        });
        let engine = engine.map_err(OpenError::io(&path))?;
        Ok(Opened { wal: Arc::new(engine), recovered, uuid })
    }

    async fn remove_log(&self, path: &Path, uuid: Uuid) -> Result<(), OpenError> {
        self.life.pause().await;
        let Some(log) = self.disks.find(path) else { return Ok(()) };
        if log.superblock.uuid != uuid {
            return Err(OpenError::not_a_wal(path, format!("it holds log {}, not log {uuid}", log.superblock.uuid)));
        }
        let _lock = log.hold(&self.life)?;
        self.disks.logs.lock().remove(path);
        Ok(())
    }

    /// A log of anybody's.
    async fn reach(&self, path: &Path, uuid: Uuid) -> Result<(Arc<StoredLog>, seal::Place), SealError> {
        self.life.pause().await;
        let missing = || SealError::NotReachable { path: path.to_owned(), error: std::io::ErrorKind::NotFound.into() };
        let log = self.disks.find(path).ok_or_else(missing)?;
        let (path, superblock) = (path.to_owned(), log.superblock.clone());
        let place = seal::Place { path, device: Box::new(self.handle(&log)), superblock, is_directory: false };
        Ok((log, place.checked(uuid)?))
    }

    async fn seal_log(&self, path: &Path, uuid: Uuid, by: SealedBy, proof: SealProof) -> Result<Sealed, SealError> {
        let (log, place) = self.reach(path, uuid).await?;
        let _turn = log.turn(&self.life).await;
        let marked = mark(&place, by, || (proof == SealProof::OwnerGone).then(|| log.hold(&self.life)).transpose())?;
        let (_, place) = self.reach(path, uuid).await?;
        let sealed = conclude(&place, marked)?;
        self.life.pause().await;
        Ok(sealed)
    }
}

impl Logs for SimulatedLogs {
    fn logs(&self, place: WalLocation) -> BoxFuture<'_, Result<Vec<FoundLog>, OpenError>> {
        Box::pin(async move { self.found(place.path()).await })
    }

    fn fresh(&self, place: WalLocation) -> BoxFuture<'_, Result<WalLocation, OpenError>> {
        Box::pin(async move {
            self.life.pause().await;
            match self.disks.find(place.path()) {
                None => Ok(place),
                Some(_) => {
                    let name = format!("{LOG_PREFIX}{}", self.disks.random.uuid());
                    Ok(WalLocation::Directory(place.path().join(name)))
                }
            }
        })
    }

    fn open(&self, config: WalConfig) -> BoxFuture<'_, Result<Opened, OpenError>> {
        Box::pin(self.open_log(config))
    }

    fn remove(&self, location: WalLocation, uuid: Uuid) -> BoxFuture<'_, Result<(), OpenError>> {
        Box::pin(async move { self.remove_log(location.path(), uuid).await })
    }

    fn seal(
        &self,
        location: WalLocation,
        uuid: Uuid,
        by: SealedBy,
        proof: SealProof,
    ) -> BoxFuture<'_, Result<Sealed, SealError>> {
        Box::pin(async move { self.seal_log(location.path(), uuid, by, proof).await })
    }

    fn open_sealed(
        &self,
        location: WalLocation,
        uuid: Uuid,
        end: Lsn,
    ) -> BoxFuture<'_, Result<Arc<SealedLog>, SealError>> {
        Box::pin(async move {
            let (_, place) = self.reach(location.path(), uuid).await?;
            let source = SimulatedSource { log: Arc::new(OnDevice::open(place, end)?), life: self.life.clone() };
            Ok(SealedLog::over(uuid, end, Box::new(source)))
        })
    }
}

struct SimulatedSource {
    log: Arc<OnDevice>,
    life: DiskLife,
}

impl SealedSource for SimulatedSource {
    fn records(&self) -> Result<Vec<RecordRef>, OpenError> {
        self.log.records()
    }

    fn read_block(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(async move {
            self.life.pause().await;
            self.log.read(lsn)
        })
    }
}
