//! What one running broker is made of; handlers reach everything through it.

use std::sync::Arc;

use common::supervisor::Supervisor;
use common::{Clock, Random};
use metadata::MetadataClient;
use s3stream::StreamStore;
use wal::WriteAheadLog;

use crate::config::BrokerConfig;
use crate::partition::Partitions;

/// One running broker.
pub struct Broker {
    /// Static configuration.
    pub config: Arc<BrokerConfig>,
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
    /// Background tasks.
    pub supervisor: Supervisor,
}
