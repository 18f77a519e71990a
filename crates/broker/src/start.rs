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
use common::{Clock, NodeEpoch, Random};
use metadata::command::{Command, Outcome};
use object_store::ObjectStore;
use parking_lot::Mutex;
use s3stream::{ObjectManager, StreamManager, StreamStore};
use tokio::sync::watch;
use wal::Logs;

use crate::Broker;
use crate::cluster::adopter::Adopter;
use crate::cluster::agent::Agent;
use crate::cluster::mover::Mover;
use crate::cluster::receiver::Receiver;
use crate::cluster::sealer::Sealer;
use crate::cluster::{Lease, Member, drainer, registration};
use crate::config::{BrokerConfig, Listener, TopicConfig};
use crate::coordinator::{
    CoordinatorParts, GroupCoordinator, TransactionCoordinator, group_config, transaction_config,
};
use crate::fetch::session::FetchSessions;
use crate::machine::{Machine, SystemMachine};
use crate::meta_properties::{self, MetaError, MetaProperties};
use crate::metrics::Metrics;
use crate::network::{BoundListener, Limits, RequestMemory};
use crate::partition::{Partitions, PartitionsParts};
use crate::storage::ports::MetadataPorts;
use crate::transactions::Transactions;
use crate::transactions::markers::MarkerWriter;

/// How long a graceful stop takes to give partitions away and to upload, before it leaves the rest in the WAL.
pub const UPLOAD_GRACE: Duration = Duration::from_secs(20);

/// How long a start waits for its partitions before it accepts connections all the same: an object store that does
/// not answer holds up those partitions alone that need it.
const OPEN_GRACE: Duration = Duration::from_secs(2);

/// How long a graceful stop goes on giving partitions away.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// How long a graceful stop waits for background tasks.
const TASK_GRACE: Duration = Duration::from_secs(3);

/// How often a starting broker looks whether it has a lease, at first and later.
const LEASE_LOOK: Duration = Duration::from_millis(1);
const LEASE_LOOK_MAX: Duration = Duration::from_millis(20);

/// A broker that is up.
pub struct RunningBroker {
    broker: Arc<Broker>,
    fenced: watch::Receiver<bool>,
    listeners: Vec<Listener>,
    network: Supervisor,
}

/// Why a broker does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The cluster took it for lost and gave its partitions to others: it must start a new life.
    Fenced,
    /// The process must exit, for this reason.
    Failed(String),
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

/// Starts a broker on the operating system. Returns when it accepts connections.
pub async fn start(config: BrokerConfig) -> Result<RunningBroker, StartError> {
    start_on(config, &SystemMachine).await
}

/// Starts a broker on `machine`. Returns when it accepts connections.
pub async fn start_on(config: BrokerConfig, machine: &dyn Machine) -> Result<RunningBroker, StartError> {
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let address = format!("{}:{}", listener.host, listener.port);
        let socket = BoundListener::bind(listener.clone()).await;
        bound.push(socket.map_err(|source| StartError::Listen { address, source })?);
    }
    let supervisor = Supervisor::default();
    let Composed { broker, fenced } = compose(config, machine, &bound, &supervisor).await?;
    while_metadata_lasts(&broker.member, wait_for_lease(&broker, &fenced)).await?;
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
    Ok(RunningBroker { broker, fenced, listeners, network })
}

/// A controller that is up, without a broker.
pub struct RunningController {
    member: Member,
    supervisor: Supervisor,
}

/// Starts a controller on the operating system. Returns when the quorum works.
pub async fn start_controller(config: BrokerConfig) -> Result<RunningController, StartError> {
    let supervisor = Supervisor::default();
    let member = join(&config, &SystemMachine, &supervisor).await?;
    let objects = open_store(&config, &SystemMachine)?;
    back_up(&member, &config, objects, SystemMachine.random(), &supervisor);
    Ok(RunningController { member, supervisor })
}

impl RunningController {
    /// Where peers reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.member.address
    }

    /// Completes with a reason when it cannot go on.
    pub async fn failed(&self) -> String {
        tokio::select! {
            reason = self.supervisor.failed() => reason,
            reason = self.member.raft.failed() => format!("metadata failed: {reason}"),
        }
    }

    /// Stops it. Another one leads before it does.
    pub async fn stop(self) {
        self.member.bow_out().await;
        self.supervisor.stop(TASK_GRACE).await;
        self.member.raft.stop().await;
    }
}

/// Does a step of the start that waits for the cluster. Where this node's own part in metadata ends, nothing would ever come.
async fn while_metadata_lasts<T>(member: &Member, step: impl Future<Output = T>) -> Result<T, StartError> {
    tokio::select! {
        done = step => Ok(done),
        reason = member.raft.failed() => Err(StartError::Metadata(format!("metadata failed: {reason}"))),
    }
}

/// Returns with the first lease, until which nothing could be answered; or when this life ended before, which
/// [`RunningBroker::ended`] tells.
async fn wait_for_lease(broker: &Broker, fenced: &watch::Receiver<bool>) {
    let mut pause = LEASE_LOOK;
    while !broker.lease.is_valid() && !*fenced.borrow() && !broker.wal.durable().is_failed() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LEASE_LOOK_MAX);
    }
}

/// What a start makes, before it serves clients.
struct Composed {
    broker: Arc<Broker>,
    fenced: watch::Receiver<bool>,
}

/// Starts metadata, identifies the data directory, and settles which cluster this is.
async fn join(config: &BrokerConfig, machine: &dyn Machine, supervisor: &Supervisor) -> Result<Member, StartError> {
    let meta = machine.load_identity(&config.data_dir, config.node_id)?;
    let known = meta.as_ref().map_or("", |meta| meta.cluster_id.as_str());
    let member = Member::start(config, known, machine, supervisor).await?;
    let own = if known.is_empty() { meta_properties::new_cluster_id(&*machine.random()) } else { known.to_owned() };
    let cluster_id = registration::cluster_id(&member.metadata, &own).await?;
    if !known.is_empty() && known != cluster_id {
        let message = format!("meta.properties names cluster {known}, the metadata log beside it cluster {cluster_id}");
        return Err(StartError::Metadata(message));
    }
    if meta.is_none() {
        let meta = MetaProperties { cluster_id: cluster_id.clone(), node_id: config.node_id };
        machine.create_identity(&config.data_dir, &meta)?;
    }
    member.identity.cluster_id.store(Arc::new(cluster_id));
    Ok(member)
}

/// A life of this node that metadata knows of.
struct Life {
    member: Arc<Member>,
    lease: Arc<Lease>,
    /// Where its logs lie, and those of others.
    logs: Arc<dyn Logs>,
    opened: wal::Opened,
    node_epoch: NodeEpoch,
    fenced: watch::Receiver<bool>,
}

/// Joins, opens the write-ahead log, registers, and begins to ask for leases.
async fn begin(
    config: &BrokerConfig,
    machine: &dyn Machine,
    bound: &[BoundListener],
    supervisor: &Supervisor,
) -> Result<Life, StartError> {
    let member = Arc::new(join(config, machine, supervisor).await?);
    let (clock, random, logs) = (machine.clock(), machine.random(), machine.logs());
    member.service.can_seal(Sealer::new(&member, Arc::clone(&logs), Arc::clone(&clock)));
    let lease = Arc::new(Lease::none(Arc::clone(&clock)));
    let registering = registration::register(config, &*logs, &member, &lease, bound, &*random);
    let (opened, node_epoch) = while_metadata_lasts(&member, registering).await??;
    opened.wal.set_node_epoch(node_epoch);
    let (fencing, fenced) = watch::channel(false);
    let agent = Agent {
        member: Arc::clone(&member),
        node_epoch,
        lease: Arc::clone(&lease),
        clock,
        interval: config.quorum.heartbeat_interval,
        fenced: Arc::new(fencing),
    };
    supervisor.spawn_until_stopped("lease", agent.run());
    Ok(Life { member, lease, logs, opened, node_epoch, fenced })
}

async fn compose(
    config: BrokerConfig,
    machine: &dyn Machine,
    bound: &[BoundListener],
    supervisor: &Supervisor,
) -> Result<Composed, StartError> {
    let (clock, random) = (machine.clock(), machine.random());
    let mut life = begin(&config, machine, bound, supervisor).await?;
    let (member, node_epoch) = (Arc::clone(&life.member), life.node_epoch);
    let metadata = member.metadata.clone();
    let objects = claimed_store(&config, machine, &member).await?;
    back_up(&member, &config, Arc::clone(&objects), Arc::clone(&random), supervisor);
    let config = Arc::new(config);
    let ports = Arc::new(MetadataPorts::new(metadata.clone(), config.node_id, node_epoch, Arc::clone(&clock)));
    let streams = start_streams(&config, &mut life, objects, &ports, (&clock, &random), supervisor)?;
    let durable = Arc::clone(life.opened.wal.durable());
    let partitions = Partitions::start(PartitionsParts {
        node: config.node_id,
        node_epoch,
        config: Arc::clone(&config),
        topic_config: TopicConfig::effective,
        metadata: metadata.clone(),
        streams: Arc::clone(&streams),
        adopter: Adopter::new(config.node_id, Arc::clone(&life.logs), Arc::clone(&streams)),
        objects: ports,
        durable: Arc::clone(&durable),
        lease: Arc::clone(&life.lease),
        clock: Arc::clone(&clock),
        supervisor: supervisor.clone(),
    });
    let coordinators = CoordinatorParts {
        metadata: metadata.clone(),
        partitions: partitions.clone(),
        durable,
        clock: Arc::clone(&clock),
        supervisor: supervisor.clone(),
    };
    let groups = GroupCoordinator::start(coordinators.clone(), group_config(&config), ());
    let transactions = start_transactions(coordinators, &config, &groups, &member);
    let hosted = (groups.clone(), transactions.coordinator.clone());
    let mover = start_mover(&life, &partitions, hosted, &streams, &clock, supervisor);
    let broker = Arc::new(Broker {
        groups,
        transactions,
        mover,
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
        wal: life.opened.wal,
        streams,
        partitions,
        member,
        lease: life.lease,
        supervisor: supervisor.clone(),
    });
    Ok(Composed { broker, fenced: life.fenced })
}

fn start_transactions(
    parts: CoordinatorParts,
    config: &BrokerConfig,
    groups: &GroupCoordinator,
    member: &Member,
) -> Arc<Transactions> {
    let markers = Arc::new(MarkerWriter {
        node: config.node_id,
        metadata: parts.metadata.clone(),
        partitions: parts.partitions.clone(),
        groups: groups.clone(),
        peers: member.peers.clone(),
        durable: Arc::clone(&parts.durable),
    });
    let coordinator = TransactionCoordinator::start(parts, transaction_config(config), Arc::clone(&markers));
    let transactions = Arc::new(Transactions { coordinator, markers });
    member.service.transactions_started(&transactions);
    transactions
}

fn start_mover(
    life: &Life,
    partitions: &Partitions,
    hosted: (GroupCoordinator, TransactionCoordinator),
    streams: &Arc<StreamStore>,
    clock: &Arc<dyn Clock>,
    supervisor: &Supervisor,
) -> Arc<Mover> {
    let loads = Arc::clone(&life.member.loads).run(partitions.clone(), Arc::clone(clock));
    supervisor.spawn_until_stopped("loads", loads);
    let (member, partitions) = (Arc::clone(&life.member), partitions.clone());
    let (streams, clock) = (Arc::clone(streams), Arc::clone(clock));
    let mover = Arc::new(Mover::new(member, life.node_epoch, partitions, hosted, streams, clock));
    life.member.service.mover_started(&mover);
    supervisor.spawn_until_stopped("drain", drainer::run(Arc::clone(&mover), life.member.metadata.clone()));
    mover
}

/// Streams on what the log recovered. From here on this node also takes streams of others.
fn start_streams(
    config: &BrokerConfig,
    life: &mut Life,
    objects: Arc<dyn ObjectStore>,
    ports: &Arc<MetadataPorts>,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
    supervisor: &Supervisor,
) -> Result<Arc<StreamStore>, StartError> {
    let settings = s3stream::Settings {
        node: config.node_id,
        node_epoch: life.node_epoch,
        prefix: String::new(),
        upload_bytes: config.upload_bytes,
        upload_age_ms: config.upload_interval_ms,
        log_cache_bytes: config.log_cache_bytes,
        block_cache_bytes: config.block_cache_bytes,
        tail_index_bytes: config.tail_index_bytes,
    };
    let parts = s3stream::Parts {
        wal: Arc::clone(&life.opened.wal),
        recovered: std::mem::take(&mut life.opened.recovered),
        objects,
        stream_manager: Arc::clone(ports) as Arc<dyn StreamManager>,
        object_manager: Arc::clone(ports) as Arc<dyn ObjectManager>,
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        supervisor: supervisor.clone(),
    };
    let store_error = |error: s3stream::StartError| error.to_string();
    let failed = |reason| StartError::Store { url: config.object_store_url.clone(), reason };
    let streams = StreamStore::start(settings, parts).map_err(store_error).map_err(failed)?;
    // The registration was applied here, and with it all that was committed before: whatever the WAL holds is older.
    streams.metadata_loaded();
    life.member.service.broker_started(Receiver::new(life.node_epoch, Arc::clone(&streams)));
    Ok(streams)
}

/// Opens the object store. The first start of a cluster claims the prefix, for which the store must answer; later
/// starts do no I/O here, so that a broker starts while the store is down.
async fn claimed_store(
    config: &BrokerConfig,
    machine: &dyn Machine,
    member: &Member,
) -> Result<Arc<dyn ObjectStore>, StartError> {
    let metadata = &member.metadata;
    let store_error = |reason: String| StartError::Store { url: redacted(&config.object_store_url), reason };
    let store = open_store(config, machine)?;
    let identity = redacted(&config.object_store_url);
    let claimed = Arc::clone(&metadata.image().store);
    if claimed.is_empty() {
        common::store::claim(&*store, &member.identity.cluster_id.load())
            .await
            .map_err(|error| store_error(error.to_string()))?;
        registration::submit(metadata, Command::ClaimStore { store: identity.as_str().into() }).await?;
    } else if *claimed != *identity {
        let reason = format!("this cluster keeps its data in {claimed}: set ottla.object.store.url to it");
        return Err(store_error(reason));
    }
    Ok(store)
}

/// Makes no request.
pub(crate) fn open_store(config: &BrokerConfig, machine: &dyn Machine) -> Result<Arc<dyn ObjectStore>, StartError> {
    let failed = |reason| StartError::Store { url: redacted(&config.object_store_url), reason };
    machine.objects(&config.object_store_url).map_err(failed)
}

/// Has metadata copied to the object store whenever this node is the active controller.
fn back_up(
    member: &Member,
    config: &BrokerConfig,
    objects: Arc<dyn ObjectStore>,
    random: Arc<dyn Random>,
    supervisor: &Supervisor,
) {
    let url = redacted(&config.object_store_url);
    supervisor.spawn_until_stopped("metadata backup", Arc::clone(&member.backup).run(objects, url, random));
}

/// A store's URL without its query, where credentials might stand.
pub(crate) fn redacted(url: &str) -> String {
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

    /// Completes when the broker cannot go on: this life was ended by others, or a background task, the WAL or metadata
    /// failed. Nothing is acknowledged any more by then.
    pub async fn ended(&self) -> Ending {
        let durable = self.broker.wal.durable();
        let wal_failed = async {
            // The position is never reached: this completes only by failure.
            let _ = durable.wait(common::Lsn(u64::MAX)).await;
            match durable.sealed_by() {
                Some(_) => Ending::Fenced,
                None => Ending::Failed(
                    "the write-ahead log failed: see the I/O error above; the log is recovered at the next start"
                        .into(),
                ),
            }
        };
        let mut fenced = self.fenced.clone();
        let fenced = async {
            match fenced.wait_for(|fenced| *fenced).await {
                Ok(_) => Ending::Fenced,
                // The agent ended with the supervisor, which tells by itself.
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            reason = self.broker.supervisor.failed() => Ending::Failed(reason),
            reason = self.network.failed() => Ending::Failed(reason),
            ending = wal_failed => ending,
            ending = fenced => ending,
            reason = self.broker.member.raft.failed() => Ending::Failed(format!("metadata failed: {reason}")),
        }
    }

    /// Ends without leave: nothing is uploaded, nothing is said to metadata. After [`Ending::Fenced`] the same process may
    /// start a new life.
    pub async fn abandon(self) {
        let broker = &self.broker;
        broker.lease.end();
        self.network.stop(TASK_GRACE).await;
        broker.supervisor.stop(TASK_GRACE).await;
        let closed = broker.wal.close().await;
        broker.member.raft.stop().await;
        tracing::debug!(?closed, "this life ended");
    }

    /// Stops gracefully: closes connections, writes checkpoints, uploads the WAL's tail and lets the WAL go, so that
    /// its directory may be deleted. With the object store unreachable it gives up after [`UPLOAD_GRACE`]; then the
    /// tail stays in the WAL and the next start has it.
    pub async fn stop(self) -> StopReport {
        let broker = &self.broker;
        broker.streams.refuse_imports();
        // Clients go on while they are sent elsewhere; the network stops when nothing is left, or takes too long.
        // Without a quorum, as when all nodes stop together, nothing can be given away, and nobody would tell.
        let since = broker.clock.boot();
        let leave = drainer::leave(&broker.mover, &broker.metadata, &*broker.clock, DRAIN_GRACE);
        match tokio::time::timeout(DRAIN_GRACE, leave).await {
            // Whoever clients ask next tells them of the new leaders.
            Ok(()) => broker.member.bow_out().await,
            Err(_) => tracing::warn!("not everything could be given away in time: others adopt the rest"),
        }
        self.network.stop(TASK_GRACE).await;
        broker.partitions.append_final_checkpoints();
        broker.groups.append_final_checkpoints();
        broker.transactions.coordinator.append_final_checkpoints();
        let left = UPLOAD_GRACE.saturating_sub(broker.clock.boot().saturating_sub(since)).max(UPLOAD_GRACE / 4);
        let uploaded = tokio::time::timeout(left, broker.streams.flush()).await;
        let left_in_wal = broker.streams.backlog_bytes();
        if matches!(uploaded, Ok(Ok(()))) && left_in_wal == 0 {
            let retire = broker.metadata.submit(Command::RetireWal { wal: broker.wal.uuid() });
            match tokio::time::timeout(TASK_GRACE, retire).await {
                Ok(Ok(Outcome::Done)) => tracing::debug!("write-ahead log let go"),
                other => tracing::warn!(
                    outcome = ?other,
                    "everything is uploaded, but metadata did not note that the write-ahead log may go: keep its directory"
                ),
            }
        }
        broker.supervisor.stop(TASK_GRACE).await;
        let closed = broker.wal.close().await;
        broker.member.raft.stop().await;
        tracing::debug!(?closed, left_in_wal, "stopped");
        StopReport { left_in_wal }
    }
}
