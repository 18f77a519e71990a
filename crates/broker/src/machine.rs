//! What a broker takes from the machine it runs on. Everything that is not the same in a simulation comes through here,
//! the network apart (see [`crate::network`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Clock, NodeId, Random, SystemClock, SystemRandom, blocking};
use futures::future::BoxFuture;
use metadata::log::RaftLogStore;
use object_store::ObjectStore;
use wal::{Logs, SystemLogs};

use crate::meta_properties::{self, MetaError, MetaProperties};
use crate::storage::raft_log::RaftLog;

/// See the module.
pub trait Machine: Send + Sync + 'static {
    /// Time.
    fn clock(&self) -> Arc<dyn Clock>;

    /// Randomness.
    fn random(&self) -> Arc<dyn Random>;

    /// Whose data directory this is; `None` where it is nobody's yet.
    ///
    /// # Errors
    /// It is another node's, or cannot be read.
    fn load_identity(&self, directory: &Path, node: NodeId) -> Result<Option<MetaProperties>, MetaError>;

    /// Gives a data directory its identity, once and durably.
    ///
    /// # Errors
    /// It cannot be written.
    fn create_identity(&self, directory: &Path, identity: &MetaProperties) -> Result<(), MetaError>;

    /// Opens the log and the snapshots of Raft below `directory`.
    fn raft_log(&self, directory: PathBuf) -> BoxFuture<'_, io::Result<Arc<dyn RaftLogStore>>>;

    /// Write-ahead logs, this node's and those of others.
    fn logs(&self) -> Arc<dyn Logs>;

    /// The object store at `url`. Does no I/O.
    ///
    /// # Errors
    /// What is wrong with the URL.
    fn objects(&self, url: &str) -> Result<Arc<dyn ObjectStore>, String>;
}

/// The operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemMachine;

impl Machine for SystemMachine {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    fn random(&self) -> Arc<dyn Random> {
        Arc::new(SystemRandom)
    }

    fn load_identity(&self, directory: &Path, node: NodeId) -> Result<Option<MetaProperties>, MetaError> {
        meta_properties::load(directory, node)
    }

    fn create_identity(&self, directory: &Path, identity: &MetaProperties) -> Result<(), MetaError> {
        meta_properties::create(directory, identity)
    }

    fn raft_log(&self, directory: PathBuf) -> BoxFuture<'_, io::Result<Arc<dyn RaftLogStore>>> {
        Box::pin(async move {
            let log = blocking(move || RaftLog::open(&directory)).await?;
            Ok(Arc::new(log) as Arc<dyn RaftLogStore>)
        })
    }

    fn logs(&self) -> Arc<dyn Logs> {
        Arc::new(SystemLogs)
    }

    fn objects(&self, url: &str) -> Result<Arc<dyn ObjectStore>, String> {
        common::store::open(url).map_err(|error| error.to_string())
    }
}
