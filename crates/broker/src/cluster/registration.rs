//! How a broker begins a life: the write-ahead log that metadata says is its own, or a fresh one; then the registration, which
//! gives the life its epoch.
//!
//! A crash in between leaves an unsealed log that metadata has not heard of, which the next start takes.

use std::sync::Arc;
use std::time::Duration;

use common::{NodeEpoch, Random};
use metadata::command::{Refusal, Registration};
use metadata::image::Endpoint;
use metadata::{Command, MetadataClient, MetadataImage, Outcome, WalDescriptor, WalState};
use uuid::Uuid;
use wal::{Choice, FoundLog, KnownLog, Logs, PublicationGate, WalConfig, WalLocation};

use super::lease::Lease;
use super::member::Member;
use crate::config::BrokerConfig;
use crate::network::BoundListener;
use crate::start::StartError;

/// Pause before what must change elsewhere first is looked at again.
const RETRY: Duration = Duration::from_millis(50);
/// How often somebody else may hold the log's lock: a sealer lets it go within seconds.
const LOCKED_MAX: u32 = 100;

/// Opens the log and registers. Waits for whoever is just sealing an earlier log of this node.
pub(crate) async fn register(
    config: &BrokerConfig,
    logs: &dyn Logs,
    member: &Member,
    lease: &Arc<Lease>,
    bound: &[BoundListener],
    random: &dyn Random,
) -> Result<(wal::Opened, NodeEpoch), StartError> {
    let cluster_id = member.identity.cluster_id.load().as_ref().clone();
    let place: WalLocation =
        config.wal_url.parse().map_err(|problem| StartError::Config(format!("ottla.wal.url: {problem}")))?;
    let (mut incarnation, mut locked) = (random.uuid(), 0);
    loop {
        let Some(location) = choose(&place, logs, &member.metadata.image(), config).await? else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let opening = wal_config(config, location.clone(), &cluster_id, lease);
        let opened = match logs.open(opening).await {
            Ok(opened) => opened,
            Err(wal::OpenError::Locked { .. }) if config.quorum.peer.is_some() && locked < LOCKED_MAX => {
                locked += 1;
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(wal::OpenError::Sealed { .. }) => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let registration = Registration {
            endpoints: endpoints(bound),
            rack: config.rack.as_deref().map(Into::into),
            peer: Arc::clone(&member.address),
            wal: Some(describe(config, &location, opened.uuid)),
            ..Registration::new(config.node_id, incarnation)
        };
        match member.metadata.submit(Command::RegisterNode(registration)).await {
            Ok(Outcome::Registered { epoch }) => return Ok((opened, epoch)),
            // The log was sealed since it was chosen; or this is what was asked for before, it was done, nobody said so, and it
            // was ended meanwhile.
            Ok(Outcome::Refused(Refusal::Fenced(reason))) => {
                tracing::info!(reason, "registering anew");
                incarnation = random.uuid();
            }
            Ok(Outcome::Refused(refusal)) => return Err(refused(&refusal)),
            Ok(other) => return Err(StartError::Metadata(format!("registration answered {other:?}"))),
            // Whether or not it was applied: the same start asked for again keeps its epoch.
            Err(error) if config.quorum.peer.is_some() => tracing::warn!(%error, "registering again"),
            Err(error) => return Err(StartError::Metadata(error.to_string())),
        }
        drop(opened);
        tokio::time::sleep(RETRY).await;
    }
}

/// Which log to open, or `None` if that shows later.
async fn choose(
    place: &WalLocation,
    logs: &dyn Logs,
    image: &Arc<MetadataImage>,
    config: &BrokerConfig,
) -> Result<Option<WalLocation>, StartError> {
    let known: Vec<(Uuid, KnownLog)> = image
        .wals
        .iter()
        .filter(|(_, wal)| wal.node == config.node_id)
        .map(|(uuid, wal)| (*uuid, known(&wal.state)))
        .collect();
    let found = logs.logs(place.clone()).await?;
    let (gone, found): (Vec<FoundLog>, Vec<FoundLog>) = found.into_iter().partition(|log| {
        log.sealed.is_some() && known.iter().any(|(uuid, state)| *uuid == log.uuid && *state == KnownLog::Retired)
    });
    for log in gone {
        tracing::info!(uuid = %log.uuid, "removing a write-ahead log whose records are all in the object store");
        logs.remove(log.location, log.uuid).await?;
    }
    match wal::choose(&found, &known) {
        Choice::Existing(log) => Ok(Some(log.location)),
        Choice::Fresh => match logs.fresh(place.clone()).await {
            // A device holds one log at a time: until that is retired there is no other.
            Err(wal::OpenError::Occupied { .. }) => Ok(None),
            fresh => Ok(Some(fresh?)),
        },
        Choice::BeingSealed(_) => Ok(None),
        Choice::Missing(uuid) => Err(refused(&Refusal::WalMissing(uuid))),
    }
}

fn known(state: &WalState) -> KnownLog {
    match state {
        WalState::Open => KnownLog::Open,
        // Of an abandoned one nothing must ever be read again: its streams went on without it.
        WalState::Sealed { .. } => KnownLog::Sealed,
        WalState::Abandoned => KnownLog::Abandoned,
        WalState::Retired => KnownLog::Retired,
    }
}

fn wal_config(config: &BrokerConfig, location: WalLocation, cluster_id: &str, lease: &Arc<Lease>) -> WalConfig {
    let mut wal = WalConfig::new(location, config.node_id, cluster_id);
    wal.class = config.wal_class;
    wal.capacity_bytes = config.wal_capacity_bytes;
    // Blocks being filled and flushed need memory beside those that the cache keeps.
    wal.memory_bytes = config.log_cache_bytes + config.log_cache_bytes / 4;
    wal.gate = Some(Arc::clone(lease) as Arc<dyn PublicationGate>);
    wal
}

fn describe(config: &BrokerConfig, location: &WalLocation, uuid: Uuid) -> WalDescriptor {
    let class = match config.wal_class {
        wal::WalClass::Private => metadata::WalClass::Private,
        wal::WalClass::Shared => metadata::WalClass::Shared,
    };
    WalDescriptor { uuid, class, location: location.to_string().into() }
}

fn endpoints(bound: &[BoundListener]) -> Vec<Endpoint> {
    let endpoint = |socket: &BoundListener| Endpoint {
        listener: socket.config.name.clone(),
        protocol: "PLAINTEXT".into(),
        host: socket.config.advertised_host.clone(),
        port: socket.config.advertised_port,
    };
    bound.iter().map(endpoint).collect()
}

/// Fixes the cluster's id with the first command of its life; returns it. Several first voters may try: one wins.
pub(crate) async fn cluster_id(metadata: &MetadataClient, own: &str) -> Result<String, StartError> {
    if metadata.image().cluster_id.is_empty() {
        match metadata.submit(Command::Bootstrap { cluster_id: own.into() }).await {
            Ok(Outcome::Refused(_)) if !metadata.image().cluster_id.is_empty() => {}
            Ok(Outcome::Refused(refusal)) => return Err(refused(&refusal)),
            Ok(_) => {}
            Err(error) => return Err(StartError::Metadata(error.to_string())),
        }
    }
    Ok(metadata.image().cluster_id.to_string())
}

/// A command without which there is no start.
pub(crate) async fn submit(metadata: &MetadataClient, command: Command) -> Result<Outcome, StartError> {
    match metadata.submit(command).await {
        Ok(Outcome::Refused(refusal)) => Err(refused(&refusal)),
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(StartError::Metadata(error.to_string())),
    }
}

fn refused(refusal: &Refusal) -> StartError {
    match refusal {
        Refusal::WalMissing(uuid) => StartError::Metadata(format!(
            "the write-ahead log {uuid} of this node may hold acknowledged records that were not uploaded, and it is not \
             at ottla.wal.url: put it back (a clean stop uploads everything and lets it go). If another process runs \
             under this node.id, give this one another"
        )),
        refusal => StartError::Metadata(refusal.to_string()),
    }
}
