//! How the rest of a broker reads and changes metadata.

use std::sync::Arc;

use common::LogIndex;

use crate::command::{Command, Outcome};
use crate::image::MetadataImage;

/// Handle on this node's image and on the quorum. Cheap to clone.
#[derive(Clone)]
pub struct MetadataClient {}

/// Why a command has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// Certainly not applied: no leader, or the queue is full. Retry.
    #[error("metadata is unavailable: {0}")]
    Unavailable(String),
    /// May be applied.
    #[error("the command's outcome is unknown: {0}")]
    Indeterminate(String),
}

impl MetadataClient {
    /// The newest image this node has applied.
    #[must_use]
    pub fn image(&self) -> Arc<MetadataImage> {
        unimplemented!()
    }

    /// Tells of every newer image by the index it has applied.
    #[must_use]
    pub fn watch(&self) -> tokio::sync::watch::Receiver<LogIndex> {
        unimplemented!()
    }

    /// Sends a command to the active controller and waits until it is committed *and* in this node's image.
    pub async fn submit(&self, _command: Command) -> Result<Outcome, SubmitError> {
        unimplemented!()
    }
}
