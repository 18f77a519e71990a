//! What the coordinator persists: the records of `__consumer_offsets`, as values.

use std::sync::Arc;

use bytes::Bytes;

use crate::consumer::ConsumerGroupRecord;

/// A record of `__consumer_offsets`. `None` as value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoordinatorRecord {
    /// A classic group.
    Group {
        /// Group id.
        group: Arc<str>,
        /// Its state; `None` when the group is gone.
        value: Option<GroupMetadata>,
    },
    /// Something of a consumer group.
    Consumer(ConsumerGroupRecord),
    /// A committed offset.
    Offset {
        /// Group id.
        group: Arc<str>,
        /// Topic name.
        topic: Arc<str>,
        /// Partition index.
        partition: i32,
        /// The commit; `None` when it expired or was deleted.
        value: Option<CommittedOffset>,
    },
    /// An offset that counts when its transaction is committed. In the log it is an [`Self::Offset`] in a batch of the
    /// transaction.
    StagedOffset {
        /// Producer id and epoch.
        producer: (i64, i16),
        /// Group id.
        group: Arc<str>,
        /// Topic name.
        topic: Arc<str>,
        /// Partition index.
        partition: i32,
        /// The commit.
        value: CommittedOffset,
    },
}

/// A classic group at the end of a rebalance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMetadata {
    /// Protocol type such as `consumer`; empty when no member has ever joined.
    pub protocol_type: Arc<str>,
    /// Generation.
    pub generation: i32,
    /// The selected protocol.
    pub protocol: Option<Arc<str>>,
    /// Member id of the leader.
    pub leader: Option<Arc<str>>,
    /// Wall time at which the group entered its state, -1 when unknown.
    pub state_timestamp_ms: i64,
    /// Members, by ascending id.
    pub members: Vec<MemberMetadata>,
}

/// A member of a classic group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Member id.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member.
    pub group_instance_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Client's address as Java prints it: `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// Rebalance timeout.
    pub rebalance_timeout_ms: i32,
    /// Session timeout.
    pub session_timeout_ms: i32,
    /// Its metadata for the selected protocol.
    pub subscription: Bytes,
    /// Its assignment.
    pub assignment: Bytes,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset.
    pub offset: i64,
    /// Leader epoch of the last consumed record, -1 when unknown.
    pub leader_epoch: i32,
    /// The client's own string.
    pub metadata: Box<str>,
    /// Wall time of the commit.
    pub commit_timestamp_ms: i64,
    /// Wall time at which it expires, -1 when the broker's retention applies (old clients may set one).
    pub expire_timestamp_ms: i64,
}

impl CoordinatorRecord {
    /// The producer in whose transaction the record is: its id and epoch.
    #[must_use]
    pub fn producer(&self) -> Option<(i64, i16)> {
        match self {
            Self::StagedOffset { producer, .. } => Some(*producer),
            Self::Group { .. } | Self::Consumer(_) | Self::Offset { .. } => None,
        }
    }

    pub(crate) fn offset_tombstone(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> Self {
        Self::Offset { group: Arc::clone(group), topic: Arc::clone(topic), partition, value: None }
    }
}
