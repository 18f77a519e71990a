//! Composes a broker, and takes it apart again: the one place that knows every crate.
//!
//! Start, in this order, because each step needs the one before:
//! 1. listening sockets are bound (a port in use is the commonest mistake, so it is told first);
//! 2. the data directory is identified (`meta.properties`), the WAL opened and recovered, Raft's log opened;
//! 3. Raft starts; the node registers and gets its epoch, under which everything it writes is fenced;
//! 4. the object store prefix is claimed, once in a cluster's life, so that later starts need no store;
//! 5. streams, partitions and coordinators open from durable state;
//! 6. connections are accepted.
//!
//! A crash between any two steps leaves only what the next start finds and continues from: nothing is
//! acknowledged to a client before step 6.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::budget::ByteBudget;
use common::supervisor::Supervisor;
use common::{Clock, NodeEpoch, Random, SystemClock, SystemRandom};
use metadata::command::{Command, Outcome, Refusal, Registration};
use metadata::image::Endpoint;
use metadata::raft::NoPeers;
use metadata::{MetadataClient, Node, NodeConfig, WalClass, WalDescriptor};
use object_store::ObjectStore;
use parking_lot::Mutex;
use s3stream::{ObjectManager, StreamManager, StreamStore};
use wal::{WalConfig, WalLocation};

use crate::Broker;
use crate::config::{BrokerConfig, Listener, TopicConfig};
use crate::coordinator::{GroupCoordinator, GroupCoordinatorParts};
use crate::fetch::session::FetchSessions;
use crate::meta_properties::{self, MetaError};
use crate::metrics::Metrics;
use crate::network::{BoundListener, Limits, RequestMemory};
use crate::partition::{Partitions, PartitionsParts};
use crate::storage::ports::MetadataPorts;
use crate::storage::raft_log::RaftLog;

/// How long a graceful stop waits for the object store before it leaves the rest in the WAL.
pub const UPLOAD_GRACE: Duration = Duration::from_secs(20);

/// How long a start waits for its partitions before it accepts connections all the same: an object store that does
/// not answer holds up those partitions alone that need it.
const OPEN_GRACE: Duration = Duration::from_secs(2);

/// How long a graceful stop waits for background tasks.
const TASK_GRACE: Duration = Duration::from_secs(3);

/// A broker that is up.
pub struct RunningBroker {
    broker: Arc<Broker>,
    raft: Arc<Node>,
    listeners: Vec<Listener>,
    network: Supervisor,
}

/// What a graceful stop left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Payload bytes that are only in the WAL, because the object store could not be reached in time. The next start
    /// has them; until then the WAL directory must be kept.
    pub left_in_wal: u64,
}

/// Why a broker does not start. Each says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] MetaError),
    /// The WAL cannot be used.
    #[error("write-ahead log: {0}")]
    Wal(#[from] wal::OpenError),
    /// Raft's log cannot be used, or Raft does not start.
    #[error("{0}")]
    Metadata(String),
    /// The object store cannot be used.
    #[error("object store {url}: {reason}")]
    Store {
        /// As configured, without secrets.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Config(String),
}

/// Starts a broker with the system's clock and randomness. Returns when it accepts connections.
pub async fn start(config: BrokerConfig) -> Result<RunningBroker, StartError> {
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let address = format!("{}:{}", listener.host, listener.port);
        let socket = BoundListener::bind(listener.clone()).await;
        bound.push(socket.map_err(|source| StartError::Listen { address, source })?);
    }
    let supervisor = Supervisor::default();
    let (broker, raft) = compose(config, &bound, &supervisor).await?;
    if tokio::time::timeout(OPEN_GRACE, broker.partitions.wait_started()).await.is_err() {
        tracing::warn!(
            "partitions are still being opened: is the object store slow? Clients are told to retry meanwhile"
        );
    }
    let network = Supervisor::default();
    let listeners = bound.iter().map(|socket| socket.config.clone()).collect();
    for socket in bound {
        network.spawn("listener", socket.serve(Arc::clone(&broker), network.stop_signal()));
    }
    Ok(RunningBroker { broker, raft, listeners, network })
}

async fn compose(
    config: BrokerConfig,
    bound: &[BoundListener],
    supervisor: &Supervisor,
) -> Result<(Arc<Broker>, Arc<Node>), StartError> {
    let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let meta = meta_properties::load_or_create(&config.data_dir, config.node_id, &*random)?;
    let opening = wal_config(&config, &meta.cluster_id)?;
    let opened = tokio::task::spawn_blocking(move || wal::open(&opening));
    let (raft, metadata) = start_raft(&config, &clock, &meta.cluster_id).await?;
    let opened = opened.await.map_err(|error| StartError::Metadata(error.to_string()))??;
    let node_epoch = register(&metadata, &config, bound, opened.uuid, &*random).await?;
    opened.wal.set_node_epoch(node_epoch);
    let objects = claimed_store(&config, &metadata, &meta.cluster_id).await?;
    let config = Arc::new(config);
    let ports = Arc::new(MetadataPorts::new(metadata.clone(), config.node_id, node_epoch, Arc::clone(&clock)));
    let parts = s3stream::Parts {
        wal: Arc::clone(&opened.wal),
        recovered: opened.recovered,
        objects,
        stream_manager: Arc::clone(&ports) as Arc<dyn StreamManager>,
        object_manager: Arc::clone(&ports) as Arc<dyn ObjectManager>,
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        supervisor: supervisor.clone(),
    };
    let streams = StreamStore::start(stream_settings(&config, node_epoch), parts)
        .map_err(|error| StartError::Store { url: config.object_store_url.clone(), reason: error.to_string() })?;
    // The registration was applied here, and with it all that was committed before: whatever the WAL holds is older.
    streams.metadata_loaded();
    let partitions = Partitions::start(PartitionsParts {
        node: config.node_id,
        node_epoch,
        config: Arc::clone(&config),
        topic_config: TopicConfig::effective,
        metadata: metadata.clone(),
        streams: Arc::clone(&streams),
        objects: ports,
        durable: Arc::clone(opened.wal.durable()),
        clock: Arc::clone(&clock),
        supervisor: supervisor.clone(),
    });
    let groups = GroupCoordinator::start(GroupCoordinatorParts {
        config: Arc::clone(&config),
        metadata: metadata.clone(),
        partitions: partitions.clone(),
        durable: Arc::clone(opened.wal.durable()),
        clock: Arc::clone(&clock),
        supervisor: supervisor.clone(),
    });
    let broker = Arc::new(Broker {
        groups,
        fetch_sessions: Mutex::new(FetchSessions::new(config.fetch_session_slots)),
        request_memory: RequestMemory::new(config.request_bytes_in_flight),
        response_budget: ByteBudget::new(config.response_bytes_in_flight),
        connections: Arc::new(Limits::new(config.response_bytes_in_flight / 2)),
        metrics: Metrics::default(),
        log_filter: OnceLock::new(),
        config,
        node_epoch,
        clock,
        random,
        metadata,
        wal: opened.wal,
        streams,
        partitions,
        supervisor: supervisor.clone(),
    });
    Ok((broker, raft))
}

fn wal_config(config: &BrokerConfig, cluster_id: &str) -> Result<WalConfig, StartError> {
    let location = match config.wal_url.split_once("://") {
        Some(("file", path)) => WalLocation::Directory(path.into()),
        Some(("block", path)) => WalLocation::Block(path.into()),
        _ => {
            let message = format!("ottla.wal.url={}: use file:///directory or block:///dev/device", config.wal_url);
            return Err(StartError::Config(message));
        }
    };
    let mut wal = WalConfig::new(location, config.node_id, cluster_id);
    wal.capacity_bytes = config.wal_capacity_bytes;
    // Blocks being filled and flushed need memory beside those that the cache keeps.
    wal.memory_bytes = config.log_cache_bytes + config.log_cache_bytes / 4;
    Ok(wal)
}

fn stream_settings(config: &BrokerConfig, node_epoch: NodeEpoch) -> s3stream::Settings {
    s3stream::Settings {
        node: config.node_id,
        node_epoch,
        prefix: String::new(),
        upload_bytes: config.upload_bytes,
        upload_age_ms: config.upload_interval_ms,
        log_cache_bytes: config.log_cache_bytes,
        block_cache_bytes: config.block_cache_bytes,
        tail_index_bytes: config.tail_index_bytes,
    }
}

async fn start_raft(
    config: &BrokerConfig,
    clock: &Arc<dyn Clock>,
    cluster_id: &str,
) -> Result<(Arc<Node>, MetadataClient), StartError> {
    let metadata_error = |error: &dyn std::fmt::Display| StartError::Metadata(format!("metadata: {error}"));
    let directory = config.data_dir.join("raft");
    let log = tokio::task::spawn_blocking(move || RaftLog::open(&directory))
        .await
        .map_err(|error| metadata_error(&error))?
        .map_err(|error| metadata_error(&error))?;
    let node = NodeConfig::single(config.node_id);
    let started = Node::start(node, Arc::new(log), Arc::new(NoPeers), Arc::clone(clock)).await;
    let (node, metadata) = started.map_err(|error| metadata_error(&error))?;
    bootstrap(&metadata, cluster_id).await?;
    Ok((node, metadata))
}

/// Fixes the cluster's id with the first command of its life.
async fn bootstrap(metadata: &MetadataClient, cluster_id: &str) -> Result<(), StartError> {
    let known = Arc::clone(&metadata.image().cluster_id);
    if known.is_empty() {
        submit(metadata, Command::Bootstrap { cluster_id: cluster_id.into() }).await?;
    } else if &*known != cluster_id {
        let message = format!("meta.properties names cluster {cluster_id}, the metadata log beside it cluster {known}");
        return Err(StartError::Metadata(message));
    }
    Ok(())
}

async fn register(
    metadata: &MetadataClient,
    config: &BrokerConfig,
    bound: &[BoundListener],
    wal: uuid::Uuid,
    random: &dyn Random,
) -> Result<NodeEpoch, StartError> {
    let endpoints = bound.iter().map(|socket| Endpoint {
        listener: socket.config.name.clone(),
        protocol: "PLAINTEXT".into(),
        host: socket.config.advertised_host.clone(),
        port: socket.config.advertised_port,
    });
    let wal = WalDescriptor { uuid: wal, class: WalClass::Private, location: config.wal_url.as_str().into() };
    let command = Command::RegisterNode(Registration {
        endpoints: endpoints.collect(),
        rack: config.rack.as_deref().map(Into::into),
        wal: Some(wal),
        ..Registration::new(config.node_id, random.uuid())
    });
    match submit(metadata, command).await? {
        Outcome::Registered { epoch } => Ok(epoch),
        other => Err(StartError::Metadata(format!("registration answered {other:?}"))),
    }
}

async fn submit(metadata: &MetadataClient, command: Command) -> Result<Outcome, StartError> {
    match metadata.submit(command).await {
        Ok(Outcome::Refused(Refusal::WalMissing(uuid))) => Err(StartError::Metadata(format!(
            "the write-ahead log {uuid} of this node may hold acknowledged records that were not uploaded, and it is not \
             at ottla.wal.url: put it back (a clean stop uploads everything and lets it go)"
        ))),
        Ok(Outcome::Refused(refusal)) => Err(StartError::Metadata(refusal.to_string())),
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(StartError::Metadata(error.to_string())),
    }
}

/// Opens the object store. The first start of a cluster claims the prefix, for which the store must answer; later
/// starts do no I/O here, so that a broker starts while the store is down.
async fn claimed_store(
    config: &BrokerConfig,
    metadata: &MetadataClient,
    cluster_id: &str,
) -> Result<Arc<dyn ObjectStore>, StartError> {
    let store_error = |reason: String| StartError::Store { url: redacted(&config.object_store_url), reason };
    let store = common::store::open(&config.object_store_url).map_err(|error| store_error(error.to_string()))?;
    let identity = redacted(&config.object_store_url);
    let claimed = Arc::clone(&metadata.image().store);
    if claimed.is_empty() {
        common::store::claim(&*store, cluster_id).await.map_err(|error| store_error(error.to_string()))?;
        submit(metadata, Command::ClaimStore { store: identity.as_str().into() }).await?;
    } else if *claimed != *identity {
        let reason = format!("this cluster keeps its data in {claimed}: set ottla.object.store.url to it");
        return Err(store_error(reason));
    }
    Ok(store)
}

/// A store's URL without its query, where credentials might stand.
fn redacted(url: &str) -> String {
    url.split_once('?').map_or(url, |(location, _)| location).to_owned()
}

impl RunningBroker {
    /// What handlers see.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Listeners with the ports that were really bound.
    #[must_use]
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Where this broker keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.broker.config.data_dir
    }

    /// Completes with a reason when the broker cannot go on and the process must exit: a background task failed, or
    /// the WAL or metadata did. Nothing is acknowledged any more by then.
    pub async fn failed(&self) -> String {
        let durable = self.broker.wal.durable();
        let wal_failed = async {
            // The position is never reached: this completes only by failure.
            let _ = durable.wait(common::Lsn(u64::MAX)).await;
            "the write-ahead log failed: see the I/O error above; the log is recovered at the next start".to_owned()
        };
        tokio::select! {
            reason = self.broker.supervisor.failed() => reason,
            reason = self.network.failed() => reason,
            reason = wal_failed => reason,
            reason = self.raft.failed() => format!("metadata failed: {reason}"),
        }
    }

    /// Stops gracefully: closes connections, writes checkpoints, uploads the WAL's tail and lets the WAL go, so that
    /// its directory may be deleted. With the object store unreachable it gives up after [`UPLOAD_GRACE`]; then the
    /// tail stays in the WAL and the next start has it.
    pub async fn stop(self) -> StopReport {
        let broker = &self.broker;
        self.network.stop(TASK_GRACE).await;
        broker.partitions.append_final_checkpoints();
        broker.groups.append_final_checkpoints();
        let uploaded = tokio::time::timeout(UPLOAD_GRACE, broker.streams.flush()).await;
        let left_in_wal = broker.streams.backlog_bytes();
        if matches!(uploaded, Ok(Ok(()))) && left_in_wal == 0 {
            let retired = broker.metadata.submit(Command::RetireWal { wal: broker.wal.uuid() }).await;
            match retired {
                Ok(Outcome::Done) => tracing::debug!("write-ahead log let go"),
                other => tracing::warn!(
                    outcome = ?other,
                    "everything is uploaded, but metadata did not note that the write-ahead log may go: keep its directory"
                ),
            }
        }
        broker.supervisor.stop(TASK_GRACE).await;
        let closed = broker.wal.close().await;
        self.raft.stop().await;
        tracing::debug!(?closed, left_in_wal, "stopped");
        StopReport { left_in_wal }
    }
}
