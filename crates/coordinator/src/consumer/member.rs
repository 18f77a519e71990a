//! A member of a consumer group, as its records say.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::assignment::Assignment;

/// Epoch of a member that wants to join.
pub(super) const JOIN_EPOCH: i32 = 0;
/// Epoch of a member that leaves.
pub(super) const LEAVE_EPOCH: i32 = -1;
/// Epoch of a static member that leaves for a while.
pub(super) const LEAVE_STATIC_EPOCH: i32 = -2;

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerMemberMetadata {
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Client's address as Java prints it: `/127.0.0.1`.
    pub client_host: Arc<str>,
    /// Topics subscribed to by name.
    pub topic_names: BTreeSet<Arc<str>>,
    /// Regular expression subscribed to; empty for none.
    pub topic_regex: Arc<str>,
    /// How long it may take to give partitions up.
    pub rebalance_timeout_ms: i32,
    /// The assignor it asks for.
    pub server_assignor: Option<Arc<str>>,
}

/// Where a member stands between what it has and what it should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// It has all that its epoch gives it.
    #[default]
    Stable,
    /// It must give partitions up before it may go on to the next epoch.
    UnrevokedPartitions,
    /// It waits for partitions that others have not given up.
    UnreleasedPartitions,
}

impl MemberState {
    /// Kafka's number.
    #[must_use]
    pub fn number(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
        }
    }

    /// The state of that number.
    #[must_use]
    pub fn of_number(number: i8) -> Option<Self> {
        [Self::Stable, Self::UnrevokedPartitions, Self::UnreleasedPartitions]
            .into_iter()
            .find(|state| state.number() == number)
    }
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CurrentAssignment {
    /// The epoch it must name in its next heartbeat; -2 while a static member is away.
    pub epoch: i32,
    /// The epoch before: the answer that told of the new one may have been lost.
    pub previous_epoch: i32,
    /// See [`MemberState`].
    pub state: MemberState,
    /// Partitions it owns, or may take.
    pub(crate) assigned: Assignment,
    /// Partitions it must give up first. Until then they are its own.
    pub(crate) pending_revocation: Assignment,
}

/// A member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerMember {
    pub(crate) metadata: ConsumerMemberMetadata,
    /// What it should have, as of the group's assignment epoch.
    pub(crate) target: Assignment,
    pub(crate) current: CurrentAssignment,
}

impl ConsumerMember {
    /// Whether it has all that the target of that epoch gives it.
    pub(crate) fn is_reconciled_to(&self, assignment_epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == assignment_epoch
    }

    pub(crate) fn regex(&self) -> Option<&Arc<str>> {
        Some(&self.metadata.topic_regex).filter(|regex| !regex.is_empty())
    }
}
