//! Settings of group coordination, named as Kafka's properties.

use crate::consumer::Assignor;

/// What a [`crate::GroupShard`] is configured with. Times are milliseconds.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`, inclusive.
    pub min_session_timeout_ms: i64,
    /// `group.max.session.timeout.ms`, inclusive.
    pub max_session_timeout_ms: i64,
    /// `group.initial.rebalance.delay.ms`: how long the first rebalance of an empty group waits for more members.
    pub initial_rebalance_delay_ms: i64,
    /// `group.max.size`: members of one group.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`: of the string committed with an offset.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `group.consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: i64,
    /// `group.consumer.heartbeat.interval.ms`: told to members.
    pub consumer_heartbeat_interval_ms: i64,
    /// `group.consumer.max.size`: members of one consumer group.
    pub consumer_max_size: usize,
    /// First of `group.consumer.assignors`: for groups whose members ask for none.
    pub consumer_default_assignor: Assignor,
    /// Time a new member may wait in its first JoinGroup, during which it cannot send heartbeats. Kafka fixes it
    /// at five minutes.
    pub new_member_join_timeout_ms: i64,
    /// Bytes one group's members may hold in protocols and assignments; a member that would exceed them is
    /// answered with GROUP_MAX_SIZE_REACHED.
    pub max_group_bytes: usize,
    /// Bytes of a group's record, which must fit a batch of `__consumer_offsets` (`max.message.bytes`). A larger
    /// assignment fails with UNKNOWN_SERVER_ERROR, as in Kafka, and the group rebalances.
    pub max_record_bytes: usize,
    /// Groups one shard may hold; a join or commit that would create one more is answered with
    /// COORDINATOR_NOT_AVAILABLE.
    pub max_groups: usize,
    /// Member ids of one group that were given out by MEMBER_ID_REQUIRED and have not come back yet.
    pub max_pending_members: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: i32::MAX as usize,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5_000,
            consumer_max_size: i32::MAX as usize,
            consumer_default_assignor: Assignor::Uniform,
            new_member_join_timeout_ms: 300_000,
            max_group_bytes: 64 << 20,
            max_record_bytes: 1_000_000,
            max_groups: 1_000_000,
            max_pending_members: 10_000,
        }
    }
}
