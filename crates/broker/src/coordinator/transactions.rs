//! Transactions: shards of `__transaction_state`.

use std::sync::Arc;
use std::time::Duration;

use common::Lsn;
use coordinator::transaction::{
    MarkerTask, PersistedTransactions, TransactionConfig, TransactionContext, TransactionOutput, TransactionRecord,
    TransactionRequest, TransactionResponse, TransactionShard,
};
use coordinator::{CheckpointError, Now, Token, Topics};
use protocol::StoredRecordError;

use super::Coordinator;
use super::hosted::HostedShard;
use super::shard::{Outcome, Shard, StoredRecord};
use crate::config::BrokerConfig;
use crate::transactions::markers::MarkerWriter;

/// The topic whose partitions hold transactional ids.
pub(crate) const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// Pause before markers that were not accepted are tried again; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Transaction coordinators on the partitions of `__transaction_state` that this broker leads.
pub(crate) type TransactionCoordinator = Coordinator<TransactionShard>;

/// What a broker's configuration says of transactions.
pub(crate) fn transaction_config(config: &BrokerConfig) -> TransactionConfig {
    TransactionConfig {
        transactional_id_expiration_ms: config.transactional_id_expiration_ms,
        max_timeout_ms: config.transaction_max_timeout_ms,
        abort_timed_out_interval_ms: config.transaction_abort_interval_ms,
        remove_expired_interval_ms: config.transaction_remove_interval_ms,
        transaction_version: crate::transactions::TRANSACTION_VERSION,
        ..TransactionConfig::default()
    }
}

/// What is to be done when a decision is durable.
pub(crate) enum Effect {
    /// Write markers until every partition has its own.
    Markers(MarkerTask),
    /// Find a producer id for a transaction that timed out.
    FreshProducerId,
}

impl Shard for TransactionShard {
    const TOPIC: &'static str = TRANSACTION_STATE_TOPIC;
    const NAME: &'static str = "transaction";
    type Config = TransactionConfig;
    type Means = Arc<MarkerWriter>;
    type State = PersistedTransactions;
    type Record = TransactionRecord;
    type Request = TransactionRequest;
    type Context<'a> = TransactionContext;
    type Response = TransactionResponse;
    type Effect = Effect;

    fn restore(checkpoint: &[u8]) -> Result<PersistedTransactions, CheckpointError> {
        PersistedTransactions::restore(checkpoint)
    }

    fn replay(state: &mut PersistedTransactions, record: &StoredRecord<'_>) {
        let offset = record.offset;
        match TransactionRecord::decode(record.key, record.value) {
            Ok(Some(record)) => state.replay(&record),
            Ok(None) => tracing::debug!(offset, "a record of a later version"),
            Err(error) => tracing::error!(offset, %error, "a record that is no transaction coordinator's is left out"),
        }
    }

    /// No transaction writes here.
    fn replay_marker(_: &mut PersistedTransactions, _: i64, _: bool) {}

    fn topics_gone(_: &PersistedTransactions, _: &dyn Fn(&str) -> bool) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn start(config: Arc<TransactionConfig>, state: PersistedTransactions, now: Now) -> (Self, Vec<Effect>) {
        if !state.is_empty() {
            tracing::info!(ids = state.len(), "transaction coordinator loaded");
        }
        let shard = Self::load(config, state, now);
        let again = shard.pending_markers().into_iter().map(Effect::Markers).collect();
        (shard, again)
    }

    fn handle(
        &mut self,
        token: Token,
        context: &TransactionContext,
        request: &TransactionRequest,
        now: Now,
    ) -> Outcome<Self> {
        TransactionShard::handle(self, token, context, request, now).into()
    }

    fn on_timer(&mut self, now: Now, _: &dyn Topics) -> Outcome<Self> {
        TransactionShard::on_timer(self, now).into()
    }

    /// Markers to topics that are gone are found out by whoever writes them.
    fn on_topics_deleted(&mut self, _: &[Arc<str>]) -> Outcome<Self> {
        TransactionOutput::default().into()
    }

    fn apply(&mut self, records: &[TransactionRecord]) {
        TransactionShard::apply(self, records);
    }

    fn encode(record: &TransactionRecord) -> Result<(Vec<u8>, Option<Vec<u8>>), StoredRecordError> {
        record.encode()
    }

    /// Nothing is decided before it is appended.
    fn is_ahead(_: &[TransactionRecord]) -> bool {
        false
    }

    fn next_deadline(&self) -> Option<i64> {
        TransactionShard::next_deadline(self)
    }

    fn checkpoint(&self) -> Vec<u8> {
        TransactionShard::checkpoint(self)
    }

    fn carry_out(coordinator: &Coordinator<Self>, shard: &Arc<HostedShard<Self>>, after: Lsn, effects: Vec<Effect>) {
        for effect in effects {
            let (coordinator, shard) = (coordinator.clone(), Arc::clone(shard));
            let supervisor = coordinator.parts().supervisor.clone();
            match effect {
                Effect::Markers(task) => {
                    supervisor.spawn_until_stopped("markers", coordinator.write_markers(shard, after, task));
                }
                Effect::FreshProducerId => {
                    supervisor.spawn_until_stopped("producer-id", coordinator.find_producer_id(shard));
                }
            }
        }
    }
}

impl From<TransactionOutput> for Outcome<TransactionShard> {
    fn from(from: TransactionOutput) -> Self {
        let fresh = from.wants_producer_id.then_some(Effect::FreshProducerId);
        let effects = from.markers.into_iter().map(Effect::Markers).chain(fresh).collect();
        Self { records: from.records, responses: from.responses, effects }
    }
}

impl TransactionCoordinator {
    /// Writes the markers of a decision that is durable at `after`, again and again until every partition has accepted its
    /// own, its topic is gone, or another broker coordinates.
    async fn write_markers(self, shard: Arc<HostedShard<TransactionShard>>, after: Lsn, task: MarkerTask) {
        if self.durable().wait(after).await.is_err() {
            return;
        }
        let writer = Arc::clone(self.means());
        let coordinator_epoch = shard.partition().leader_epoch();
        let mut left = task.partitions.clone();
        let mut pause = PAUSE_MIN;
        while !shard.partition().is_closed() && !shard.is_dropped() {
            let Ok(accepted) = writer.write(&task, coordinator_epoch, &left).await else {
                tracing::warn!(id = %task.transactional_id, "markers were refused: a later coordinator or producer is at work");
                return;
            };
            if !accepted.is_empty() {
                let now = self.now();
                let called = shard.call(now, |shard| Some(shard.markers_written(&task, &accepted, now).into()));
                self.after(&shard, called);
                left.retain(|partition| !accepted.contains(partition));
            }
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn find_producer_id(self, shard: Arc<HostedShard<TransactionShard>>) {
        match self.parts().partitions.producer_ids().next().await {
            Ok(id) => {
                let called = shard.call(self.now(), |shard| {
                    shard.offer_producer_id(id);
                    None
                });
                self.after(&shard, called);
            }
            // The next scan asks again.
            Err(error) => tracing::warn!(%error, "no producer id for a transaction that timed out"),
        }
    }
}
