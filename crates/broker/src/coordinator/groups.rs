//! Groups: shards of `__consumer_offsets`.

use std::sync::Arc;

use common::Lsn;
use coordinator::{
    CheckpointError, Context, CoordinatorRecord, GroupConfig, GroupShard, Now, Output, Persisted, Request, Response,
    Token, Topics,
};
use metadata::MetadataImage;
use protocol::{ErrorCode, StoredRecordError};

use super::Coordinator;
use super::hosted::HostedShard;
use super::shard::{Outcome, Shard, StoredRecord};
use crate::config::BrokerConfig;
use crate::partition::{Partition, TransactionMarker};

/// The topic whose partitions hold groups and committed offsets.
pub(crate) const GROUP_METADATA_TOPIC: &str = "__consumer_offsets";

/// The first version of nodes ([`metadata::VERSION`]) that read records and checkpoints of consumer groups (KIP-848).
const CONSUMER_GROUPS_SINCE: u32 = 3;

/// Whether consumer groups may come into being: every node that may have to lead their partition knows them.
pub(crate) fn consumer_groups_enabled(image: &MetadataImage) -> bool {
    image.least_version() >= CONSUMER_GROUPS_SINCE
}

/// Group coordinators on the partitions of `__consumer_offsets` that this broker leads.
pub(crate) type GroupCoordinator = Coordinator<GroupShard>;

/// What a broker's configuration says of groups.
pub(crate) fn group_config(config: &BrokerConfig) -> GroupConfig {
    GroupConfig {
        min_session_timeout_ms: config.group_min_session_timeout_ms,
        max_session_timeout_ms: config.group_max_session_timeout_ms,
        initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
        max_size: config.group_max_size,
        consumer_session_timeout_ms: config.group_consumer_session_timeout_ms,
        consumer_heartbeat_interval_ms: config.group_consumer_heartbeat_interval_ms,
        consumer_max_size: config.group_consumer_max_size,
        consumer_default_assignor: config.group_consumer_default_assignor,
        offset_metadata_max_bytes: config.offset_metadata_max_bytes,
        offsets_retention_ms: config.offsets_retention_minutes.saturating_mul(60_000),
        offsets_retention_check_interval_ms: config.offsets_retention_check_interval_ms,
        ..GroupConfig::default()
    }
}

/// Groups have nothing to do besides.
pub(crate) enum Nothing {}

impl Shard for GroupShard {
    const TOPIC: &'static str = GROUP_METADATA_TOPIC;
    const NAME: &'static str = "group";
    type Config = GroupConfig;
    type Means = ();
    type State = Persisted;
    type Record = CoordinatorRecord;
    type Request = Request;
    type Context<'a> = Context<'a>;
    type Response = Response;
    type Effect = Nothing;

    fn restore(checkpoint: &[u8]) -> Result<Persisted, CheckpointError> {
        Persisted::restore(checkpoint)
    }

    /// A record that cannot be understood was written by somebody else (an administrator may produce to the topic): it is
    /// no reason to serve none of the groups.
    fn replay(state: &mut Persisted, record: &StoredRecord<'_>) {
        let offset = record.offset;
        match CoordinatorRecord::decode(record.key, record.value) {
            Ok(Some(decoded)) => state.replay(&of_producer(decoded, record.producer_id)),
            Ok(None) => tracing::debug!(offset, "a record of another kind of group"),
            Err(error) => tracing::error!(offset, %error, "a record that is no group coordinator's is left out"),
        }
    }

    fn replay_marker(state: &mut Persisted, producer_id: i64, commit: bool) {
        state.end_transaction(producer_id, commit);
    }

    fn topics_gone(state: &Persisted, exists: &dyn Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut gone: Vec<Arc<str>> = state.topics().filter(|topic| !exists(topic)).cloned().collect();
        gone.sort();
        gone.dedup();
        gone
    }

    fn start(config: Arc<GroupConfig>, state: Persisted, now: Now) -> (Self, Vec<Nothing>) {
        let (groups, offsets) = state.counts();
        if groups + offsets > 0 {
            tracing::info!(groups, offsets, "group coordinator loaded");
        }
        (Self::load(config, state, now), Vec::new())
    }

    fn handle(&mut self, token: Token, context: &Context<'_>, request: &Request, now: Now) -> Outcome<Self> {
        GroupShard::handle(self, token, context, request, now).into()
    }

    fn on_timer(&mut self, now: Now, topics: &dyn Topics) -> Outcome<Self> {
        GroupShard::on_timer(self, now, topics).into()
    }

    fn on_topics_deleted(&mut self, topics: &[Arc<str>]) -> Outcome<Self> {
        GroupShard::on_topics_deleted(self, topics).into()
    }

    fn apply(&mut self, records: &[CoordinatorRecord]) {
        GroupShard::apply(self, records);
    }

    fn encode(record: &CoordinatorRecord) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError> {
        record.encode()
    }

    fn producer_of(records: &[CoordinatorRecord]) -> Option<(i64, i16)> {
        records.first().and_then(CoordinatorRecord::producer)
    }

    /// What is decided of groups is known to the shard before it is appended; offsets are not.
    fn is_ahead(records: &[CoordinatorRecord]) -> bool {
        let is_offset = |record: &CoordinatorRecord| {
            matches!(record, CoordinatorRecord::Offset { .. } | CoordinatorRecord::StagedOffset { .. })
        };
        !records.iter().all(is_offset)
    }

    fn next_deadline(&self) -> Option<i64> {
        GroupShard::next_deadline(self)
    }

    fn checkpoint(&self) -> Vec<u8> {
        GroupShard::checkpoint(self)
    }

    fn carry_out(_: &Coordinator<Self>, _: &Arc<HostedShard<Self>>, _: Lsn, _: Vec<Nothing>) {}
}

impl GroupCoordinator {
    /// Appends a marker to a partition of the topic, and lets its shard know that the transaction has ended: in one order
    /// with everything that the shard appends. Returns where it is durable.
    pub(crate) fn append_marker(&self, index: i32, marker: &TransactionMarker) -> Result<Lsn, ErrorCode> {
        let shard = self.shard_at(index).ok_or(ErrorCode::CoordinatorLoadInProgress)?;
        let append = |partition: &Partition| partition.append_marker(marker).map(|appended| appended.lsn);
        let (producer_id, commit) = (marker.producer_id, marker.commit);
        let appended = shard.append_foreign(append, |shard| shard.end_transaction(producer_id, commit));
        appended.map_err(|refused| ErrorCode::from_code(refused.code).unwrap_or(ErrorCode::UnknownServerError))
    }
}

/// A record of a batch that may be of a transaction.
fn of_producer(record: CoordinatorRecord, producer_id: Option<i64>) -> CoordinatorRecord {
    match (record, producer_id) {
        (CoordinatorRecord::Offset { group, topic, partition, value: Some(value) }, Some(producer_id)) => {
            // The epoch is the batch's, and says nothing here.
            CoordinatorRecord::StagedOffset { producer: (producer_id, -1), group, topic, partition, value }
        }
        (record, _) => record,
    }
}

impl From<Output> for Outcome<GroupShard> {
    fn from(from: Output) -> Self {
        Self { records: from.records, responses: from.responses, effects: Vec::new() }
    }
}
