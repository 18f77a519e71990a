//! What one running broker is made of; handlers reach everything through it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::budget::ByteBudget;
use common::supervisor::Supervisor;
use common::{Clock, NodeEpoch, Random};
use metadata::MetadataClient;
use parking_lot::Mutex;
use s3stream::StreamStore;
use wal::WriteAheadLog;

use crate::cluster::mover::Mover;
use crate::cluster::{Lease, Member};
use crate::config::BrokerConfig;
use crate::coordinator::GroupCoordinator;
use crate::fetch::session::FetchSessions;
use crate::loggers::LogFilter;
use crate::metrics::Metrics;
use crate::network::{Limits, RequestMemory};
use crate::partition::Partitions;
use crate::transactions::Transactions;

/// One running broker.
pub struct Broker {
    /// Static configuration.
    pub config: Arc<BrokerConfig>,
    /// This life of the node.
    pub node_epoch: NodeEpoch,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Metadata image and commands.
    pub metadata: MetadataClient,
    /// The write-ahead log.
    pub wal: Arc<dyn WriteAheadLog>,
    /// Streams.
    pub streams: Arc<StreamStore>,
    /// Partitions this broker leads.
    pub partitions: Partitions,
    /// Group coordinators on the partitions of `__consumer_offsets` that this broker leads.
    pub(crate) groups: GroupCoordinator,
    /// Transactions: their coordinators here, and the way to those elsewhere.
    pub(crate) transactions: Arc<Transactions>,
    /// Incremental fetch sessions.
    pub fetch_sessions: Mutex<FetchSessions>,
    /// Bytes of requests being read and handled.
    pub request_memory: RequestMemory,
    /// Bytes of records in responses that are not yet written.
    pub response_budget: ByteBudget,
    /// Open connections.
    pub connections: Arc<Limits>,
    /// What is counted.
    pub metrics: Metrics,
    /// The log's filter, where there is one that can change; set by whoever started the broker.
    pub log_filter: OnceLock<Arc<dyn LogFilter>>,
    /// This node's part in the metadata quorum, and the way to its peers.
    pub member: Arc<Member>,
    /// Gives partitions away.
    pub mover: Arc<Mover>,
    /// Until when this broker may serve.
    pub lease: Arc<Lease>,
    /// Background tasks.
    pub supervisor: Supervisor,
}

impl Broker {
    /// Waits, at most `longest`, until the coordinator of a group serves here; a client that comes too early is told to
    /// retry.
    pub async fn wait_group_ready(&self, group: &str, longest: Duration) {
        self.groups.wait_ready(group, longest).await;
    }
}
