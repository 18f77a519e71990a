//! DescribeTransactions and ListTransactions.

use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState as DescribedTransaction};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use kafka_protocol::messages::{
    ListTransactionsRequest, ListTransactionsResponse, ProducerId, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;

use crate::group::text;
use crate::pattern::compile;
use crate::shard::Now;
use crate::transaction::metadata::{TransactionMetadata, TransactionState};
use crate::transaction::shard::TransactionShard;

impl TransactionShard {
    /// A transaction with the partitions that are in it; of a decided one, those that still lack their marker.
    pub(crate) fn describe(&self, id: &str) -> DescribedTransaction {
        let described = DescribedTransaction::default().with_transactional_id(TransactionalId(text(id)));
        let Some(transaction) = self.persisted.transaction(id) else {
            let error = if id.is_empty() { ErrorCode::InvalidRequest } else { ErrorCode::TransactionalIdNotFound };
            return described.with_error_code(error.code());
        };
        let partitions = self.unmarked.get(id).map_or(&transaction.partitions, |unmarked| &unmarked.partitions);
        let topics = partitions.topics().map(|(topic, partitions)| {
            TopicData::default()
                .with_topic(TopicName(text(topic)))
                .with_partitions(partitions.iter().copied().collect())
        });
        described
            .with_producer_id(ProducerId(transaction.producer_id))
            .with_producer_epoch(transaction.producer_epoch)
            .with_transaction_state(text(transaction.state.name()))
            .with_transaction_timeout_ms(transaction.timeout_ms)
            .with_transaction_start_time_ms(transaction.start_timestamp_ms)
            .with_topics(topics.collect())
    }

    /// Transactions that pass every filter; INVALID_REGULAR_EXPRESSION where the pattern is none.
    pub(crate) fn list(&self, request: &ListTransactionsRequest, now: Now) -> ListTransactionsResponse {
        let pattern = request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty());
        let Ok(pattern) = pattern.map(compile).transpose() else {
            return ListTransactionsResponse::default().with_error_code(ErrorCode::InvalidRegularExpression.code());
        };
        let is_unknown = |name: &&StrBytes| TransactionState::from_name(name).is_none();
        let unknown = request.state_filters.iter().filter(is_unknown).cloned().collect();
        let states: Vec<TransactionState> =
            request.state_filters.iter().filter_map(|name| TransactionState::from_name(name)).collect();
        let is_listed = |id: &str, transaction: &TransactionMetadata| {
            (request.producer_id_filters.is_empty()
                || request.producer_id_filters.contains(&ProducerId(transaction.producer_id)))
                && (request.state_filters.is_empty() || states.contains(&transaction.state))
                && (request.duration_filter < 0
                    || now.wall_ms.saturating_sub(transaction.start_timestamp_ms) > request.duration_filter)
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
        };
        let listed = self.persisted.transactions().filter(|(id, transaction)| is_listed(id, transaction));
        let listed = listed.map(|(id, transaction)| {
            ListedTransaction::default()
                .with_transactional_id(TransactionalId(text(id)))
                .with_producer_id(ProducerId(transaction.producer_id))
                .with_transaction_state(text(transaction.state.name()))
        });
        ListTransactionsResponse::default()
            .with_unknown_state_filters(unknown)
            .with_transaction_states(listed.collect())
    }
}
