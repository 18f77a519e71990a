//! Producer ids: leased from metadata in blocks, so that most are given out without asking anyone, and none twice.

use std::ops::Range;

use common::{NodeEpoch, NodeId};
use metadata::{Command, MetadataClient, Outcome, SubmitError};

/// Ids in one block, as in Kafka. A restart loses what is left of one: 63 bits of them last.
const BLOCK_IDS: u32 = 1000;

/// Gives out producer ids.
pub struct ProducerIds {
    node: NodeId,
    node_epoch: NodeEpoch,
    metadata: MetadataClient,
    block: parking_lot::Mutex<Range<i64>>,
    /// Held while a block is leased, so that many callers lease one.
    leasing: tokio::sync::Mutex<()>,
}

impl ProducerIds {
    pub(crate) fn new(node: NodeId, node_epoch: NodeEpoch, metadata: MetadataClient) -> Self {
        Self {
            node,
            node_epoch,
            metadata,
            block: parking_lot::Mutex::new(0..0),
            leasing: tokio::sync::Mutex::default(),
        }
    }

    /// An id from the present block, if there is one left.
    #[must_use]
    pub fn cached(&self) -> Option<i64> {
        self.block.lock().next()
    }

    /// An id that was never given out before. Leases another block if it must.
    pub async fn next(&self) -> Result<i64, SubmitError> {
        let _leasing = self.leasing.lock().await;
        if let Some(id) = self.cached() {
            return Ok(id);
        }
        let command = Command::LeaseProducerIds { node: self.node, node_epoch: self.node_epoch, count: BLOCK_IDS };
        // After an unknown outcome the block may be lost; a lost one is never given out again.
        let first = match self.metadata.submit(command).await? {
            Outcome::Leased { first } => i64::try_from(first).ok(),
            other => return Err(SubmitError::Unavailable(format!("{other:?}"))),
        };
        let exhausted = || SubmitError::Unavailable("all producer ids were given out".to_owned());
        let first = first.filter(|first| *first < i64::MAX - i64::from(BLOCK_IDS)).ok_or_else(exhausted)?;
        let mut block = self.block.lock();
        *block = first + 1..first + i64::from(BLOCK_IDS);
        Ok(first)
    }
}
