//! What the partitions of one topic share.

use std::sync::Arc;

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::config::TopicConfig;

/// The topic that holds committed offsets and group state.
const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";
/// The topic that holds the state of transactions.
const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// The topic that holds the state of share groups.
const SHARE_GROUP_STATE_TOPIC: &str = "__share_group_state";

/// A topic of which this broker leads partitions.
#[derive(Debug)]
pub struct Topic {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Effective configuration; replaced when it changes. Equal ones are shared between topics.
    pub config: ArcSwap<TopicConfig>,
}

impl Topic {
    /// Whether a coordinator of this broker writes its records and its checkpoints.
    #[must_use]
    pub fn is_coordinator_owned(&self) -> bool {
        is_internal(&self.name)
    }
}

/// Whether clients may not produce to it, as in Kafka.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    matches!(name, GROUP_METADATA_TOPIC | TRANSACTION_STATE_TOPIC | SHARE_GROUP_STATE_TOPIC)
}
