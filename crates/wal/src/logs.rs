//! What a broker asks of the place where logs lie: its own, and those of others that it seals and takes over.

use std::sync::Arc;

use common::{Lsn, blocking};
use uuid::Uuid;

use crate::{
    BoxFuture, FoundLog, OpenError, Opened, SealError, SealProof, Sealed, SealedBy, SealedLog, WalConfig, WalLocation,
    home, open, seal,
};

/// Logs on storage that some nodes share.
pub trait Logs: Send + Sync + 'static {
    /// The logs below `place`: see [`logs`](crate::logs).
    fn logs(&self, place: WalLocation) -> BoxFuture<'_, Result<Vec<FoundLog>, OpenError>>;

    /// Where to make another log: see [`fresh`](crate::fresh).
    fn fresh(&self, place: WalLocation) -> BoxFuture<'_, Result<WalLocation, OpenError>>;

    /// Opens a log of one's own, or makes one: see [`open`](crate::open).
    fn open(&self, config: WalConfig) -> BoxFuture<'_, Result<Opened, OpenError>>;

    /// Removes a retired log: see [`remove`](crate::remove).
    fn remove(&self, location: WalLocation, uuid: Uuid) -> BoxFuture<'_, Result<(), OpenError>>;

    /// Ends a log of another node: see [`seal`](crate::seal()).
    fn seal(
        &self,
        location: WalLocation,
        uuid: Uuid,
        by: SealedBy,
        proof: SealProof,
    ) -> BoxFuture<'_, Result<Sealed, SealError>>;

    /// Opens a log that was sealed at `end`: see [`SealedLog::open`].
    fn open_sealed(
        &self,
        location: WalLocation,
        uuid: Uuid,
        end: Lsn,
    ) -> BoxFuture<'_, Result<Arc<SealedLog>, SealError>>;
}

/// Logs in directories and on block devices of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLogs;

impl Logs for SystemLogs {
    fn logs(&self, place: WalLocation) -> BoxFuture<'_, Result<Vec<FoundLog>, OpenError>> {
        Box::pin(blocking(move || home::logs(&place)))
    }

    fn fresh(&self, place: WalLocation) -> BoxFuture<'_, Result<WalLocation, OpenError>> {
        Box::pin(blocking(move || home::fresh(&place)))
    }

    fn open(&self, config: WalConfig) -> BoxFuture<'_, Result<Opened, OpenError>> {
        Box::pin(blocking(move || open::open(&config)))
    }

    fn remove(&self, location: WalLocation, uuid: Uuid) -> BoxFuture<'_, Result<(), OpenError>> {
        Box::pin(blocking(move || home::remove(&location, uuid)))
    }

    fn seal(
        &self,
        location: WalLocation,
        uuid: Uuid,
        by: SealedBy,
        proof: SealProof,
    ) -> BoxFuture<'_, Result<Sealed, SealError>> {
        Box::pin(blocking(move || seal::seal(&location, uuid, by, proof)))
    }

    fn open_sealed(
        &self,
        location: WalLocation,
        uuid: Uuid,
        end: Lsn,
    ) -> BoxFuture<'_, Result<Arc<SealedLog>, SealError>> {
        Box::pin(blocking(move || SealedLog::open(&location, uuid, end)))
    }
}
