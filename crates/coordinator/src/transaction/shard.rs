//! The shard: requests, written markers and timers in, records, responses and markers to write out.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::describe_transactions_response::TransactionState as DescribedTransaction;
use kafka_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse};
use protocol::ErrorCode;

use crate::shard::{Now, Token};
use crate::transaction::config::TransactionConfig;
use crate::transaction::invariants;
use crate::transaction::markers::{MarkerTask, Unmarked, first_decision};
use crate::transaction::metadata::{ProducerIdAndEpoch, TransactionMetadata};
use crate::transaction::persisted::PersistedTransactions;
use crate::transaction::record_codec::TransactionRecord;
use crate::transaction::timeouts::Scan;

/// What a request brings besides its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransactionContext {
    /// A producer id that nobody was ever given. Needed for some requests ([`TransactionResponse::NeedsProducerId`]).
    /// An id handed in here is never to be used again, whether it was needed or not.
    pub fresh_producer_id: Option<i64>,
}

/// Who says that a request is of a producer, and under which of its epochs.
#[derive(Clone, Debug)]
pub struct ProducerRequest {
    /// Transactional id.
    pub transactional_id: Arc<str>,
    /// Producer id and epoch that the client holds.
    pub producer: ProducerIdAndEpoch,
}

/// A request about transactional ids of this shard.
#[derive(Clone, Debug)]
pub enum TransactionRequest {
    /// InitProducerId with a transactional id. (Without one no coordinator is needed.)
    InitProducerId {
        /// Transactional id.
        transactional_id: Arc<str>,
        /// Transaction timeout, milliseconds.
        timeout_ms: i32,
        /// Producer id and epoch that the client holds already (KIP-360).
        expected: Option<ProducerIdAndEpoch>,
    },
    /// AddPartitionsToTxn; also AddOffsetsToTxn, with the group's partition of `__consumer_offsets`. The partitions
    /// exist and the client may write to them.
    AddPartitions {
        /// Whose transaction.
        producer: ProducerRequest,
        /// Topics and partition indexes.
        partitions: Vec<(Arc<str>, i32)>,
        /// `transaction.version` that the client works by: 2 for AddPartitionsToTxn from version 5 on, else 0.
        client_transaction_version: i8,
    },
    /// AddPartitionsToTxn that only asks whether the partitions are in the transaction (KIP-890).
    VerifyPartitions {
        /// Whose transaction.
        producer: ProducerRequest,
        /// Topics and partition indexes.
        partitions: Vec<(Arc<str>, i32)>,
    },
    /// EndTxn.
    EndTxn {
        /// Whose transaction.
        producer: ProducerRequest,
        /// Commit, else abort.
        commit: bool,
        /// `transaction.version` that the client works by: 2 for EndTxn from version 5 on, else 0.
        client_transaction_version: i8,
    },
    /// DescribeTransactions.
    Describe(Vec<Arc<str>>),
    /// ListTransactions.
    List(ListTransactionsRequest),
}

/// The response to a [`TransactionRequest`]. Where it is PRODUCER_FENCED, versions that do not know that code (below 2
/// of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn, below 4 of InitProducerId) say INVALID_PRODUCER_EPOCH.
#[derive(Clone, Debug, PartialEq)]
pub enum TransactionResponse {
    /// InitProducerId: what the client is to use from now on.
    InitProducerId(Result<ProducerIdAndEpoch, ErrorCode>),
    /// AddPartitions: one answer for all.
    AddPartitions(Result<(), ErrorCode>),
    /// VerifyPartitions: an answer for each, in the order of the request.
    VerifyPartitions(Vec<(Arc<str>, i32, ErrorCode)>),
    /// EndTxn: what the client is to use from now on; [`ProducerIdAndEpoch::NONE`] for a client below
    /// `transaction.version` 2, which goes on as before.
    EndTxn(Result<ProducerIdAndEpoch, ErrorCode>),
    /// DescribeTransactions.
    Describe(Vec<DescribedTransaction>),
    /// ListTransactions, of this shard.
    List(ListTransactionsResponse),
    /// Not for the client: nothing was done, for this takes a fresh producer id. Hand the request in again with one.
    NeedsProducerId,
}

/// What a request, a written marker or a timer brought about.
#[derive(Debug, Default)]
pub struct TransactionOutput {
    /// To be appended in this order.
    pub records: Vec<TransactionRecord>,
    /// To be sent once the records, and all before them, are durable.
    pub responses: Vec<(Token, TransactionResponse)>,
    /// To be written once the records are durable, and not before: a marker is a decision made known.
    pub markers: Vec<MarkerTask>,
    /// A transaction that timed out takes a fresh producer id: see [`TransactionShard::offer_producer_id`].
    pub wants_producer_id: bool,
}

impl TransactionOutput {
    pub(crate) fn record(&mut self, id: &Arc<str>, value: Option<TransactionMetadata>) {
        self.records.push(TransactionRecord { transactional_id: Arc::clone(id), value });
    }

    /// Number of decisions among the records.
    fn decisions(&self) -> u64 {
        let is_decision =
            |record: &&TransactionRecord| record.value.as_ref().is_some_and(|value| value.state.is_prepared());
        self.records.iter().filter(is_decision).count() as u64
    }

    pub(crate) fn respond(&mut self, token: Token, response: TransactionResponse) {
        self.responses.push((token, response));
    }
}

/// Why a request changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is answered with an error.
    Error(ErrorCode),
    /// It takes a fresh producer id, and none was handed in.
    NeedsProducerId,
}

impl From<ErrorCode> for Refusal {
    fn from(error: ErrorCode) -> Self {
        Self::Error(error)
    }
}

impl Refusal {
    /// As a response; errors by `of`.
    pub(crate) fn response(self, of: impl FnOnce(ErrorCode) -> TransactionResponse) -> TransactionResponse {
        match self {
            Self::Error(error) => of(error),
            Self::NeedsProducerId => TransactionResponse::NeedsProducerId,
        }
    }
}

/// State of one partition of `__transaction_state`.
#[derive(Debug)]
pub struct TransactionShard {
    pub(crate) config: Arc<TransactionConfig>,
    pub(crate) persisted: PersistedTransactions,
    /// Of every decided transaction, the partitions that have no marker yet as far as this shard was told. Soft: after a
    /// crash all partitions get their marker again, which changes nothing where they have it.
    pub(crate) unmarked: BTreeMap<Arc<str>, Unmarked>,
    /// Number of the next decision, soft as well.
    next_decision: u64,
    /// Handed in for a transaction that timed out.
    pub(crate) offered_producer_id: Option<i64>,
    pub(crate) abort_scan: Scan,
    pub(crate) removal_scan: Scan,
}

impl TransactionShard {
    /// Starts serving from what is persisted. The host asks for [`Self::pending_markers`] next, and carries them out.
    #[must_use]
    pub fn load(config: Arc<TransactionConfig>, persisted: PersistedTransactions, now: Now) -> Self {
        let mut unmarked = BTreeMap::new();
        let mut next_decision = first_decision(now);
        for (id, transaction) in persisted.transactions.iter().filter(|(_, decided)| decided.state.is_prepared()) {
            let partitions = transaction.partitions.clone();
            unmarked.insert(Arc::clone(id), Unmarked { decision: next_decision, partitions });
            next_decision += 1;
        }
        // A decided transaction without partitions waits for nobody: the first scan completes it, at once.
        let is_stranded = unmarked.values().any(|unmarked| unmarked.partitions.is_empty());
        let first_scan_ms = if is_stranded { 0 } else { config.abort_timed_out_interval_ms };
        let shard = Self {
            next_decision,
            abort_scan: Scan::after(first_scan_ms, now),
            removal_scan: Scan::after(config.remove_expired_interval_ms, now),
            config,
            persisted,
            unmarked,
            offered_producer_id: None,
        };
        shard.check();
        shard
    }

    /// Handles a request. Nothing that is persisted changes before [`Self::apply`].
    pub fn handle(
        &mut self,
        token: Token,
        context: &TransactionContext,
        request: &TransactionRequest,
        now: Now,
    ) -> TransactionOutput {
        let mut out = TransactionOutput::default();
        let fresh = context.fresh_producer_id;
        let response = match request {
            TransactionRequest::InitProducerId { transactional_id, timeout_ms, expected } => {
                let result = self.init_producer_id(transactional_id, *timeout_ms, *expected, fresh, now, &mut out);
                answer(result, TransactionResponse::InitProducerId)
            }
            TransactionRequest::AddPartitions { producer, partitions, client_transaction_version } => {
                let result = self.add_partitions(producer, partitions, *client_transaction_version, now, &mut out);
                TransactionResponse::AddPartitions(result)
            }
            TransactionRequest::VerifyPartitions { producer, partitions } => {
                TransactionResponse::VerifyPartitions(self.verify_partitions(producer, partitions))
            }
            TransactionRequest::EndTxn { producer, commit, client_transaction_version } => {
                let result = self.end_txn(producer, *commit, *client_transaction_version, fresh, now, &mut out);
                answer(result, TransactionResponse::EndTxn)
            }
            TransactionRequest::Describe(ids) => {
                TransactionResponse::Describe(ids.iter().map(|id| self.describe(id)).collect())
            }
            TransactionRequest::List(request) => TransactionResponse::List(self.list(request, now)),
        };
        out.respond(token, response);
        self.check();
        out
    }

    /// Takes over records that were appended, as a later replay will.
    pub fn apply(&mut self, records: &[TransactionRecord]) {
        for record in records {
            let id = &record.transactional_id;
            invariants::check_transition(id, self.persisted.transaction(id), record.value.as_ref());
            match &record.value {
                Some(transaction) if transaction.state.is_prepared() => {
                    let partitions = transaction.partitions.clone();
                    self.unmarked.insert(Arc::clone(id), Unmarked { decision: self.next_decision, partitions });
                    self.next_decision += 1;
                }
                _ => {
                    self.unmarked.remove(id);
                }
            }
            self.persisted.replay(record);
        }
        self.check();
    }

    /// When [`Self::on_timer`] wants to be called next, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        Some(self.abort_scan.deadline_ms().min(self.removal_scan.deadline_ms()))
    }

    /// Runs the scans that are due: aborts what timed out, removes ids that expired. What one call gives is bounded; if
    /// more is left, the next deadline is near.
    pub fn on_timer(&mut self, now: Now) -> TransactionOutput {
        let mut out = TransactionOutput::default();
        if self.abort_scan.deadline_ms() <= now.boot_ms {
            self.abort_timed_out(now, &mut out);
        }
        if self.removal_scan.deadline_ms() <= now.boot_ms {
            self.remove_expired(now, &mut out);
        }
        self.check();
        out
    }

    /// Hands in a fresh producer id after an output that [wanted](TransactionOutput::wants_producer_id) one. It is for
    /// the next scan, and never to be used again.
    pub fn offer_producer_id(&mut self, producer_id: i64) {
        self.offered_producer_id = Some(producer_id);
    }

    /// What the records say.
    #[must_use]
    pub fn persisted(&self) -> &PersistedTransactions {
        &self.persisted
    }

    /// The persisted state as bytes, for [`PersistedTransactions::restore`].
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        self.persisted.checkpoint()
    }

    /// Number of transactional ids.
    #[must_use]
    pub fn transaction_count(&self) -> usize {
        self.persisted.len()
    }

    /// A decision, and all that follows from it now.
    pub(crate) fn decide(&self, id: &Arc<str>, decided: TransactionMetadata, now: Now, out: &mut TransactionOutput) {
        debug_assert!(decided.state.is_prepared(), "decided-once: {id}");
        // Without partitions it is complete in the same append.
        let completed = decided.partitions.is_empty().then(|| decided.completed(now));
        if completed.is_none() {
            // The number that applying the record will give it.
            let decision = self.next_decision + out.decisions();
            out.markers.push(MarkerTask::of(id, decision, &decided, &decided.partitions));
        }
        out.record(id, Some(decided));
        if completed.is_some() {
            out.record(id, completed);
        }
    }

    /// What must hold after every call.
    fn check(&self) {
        if cfg!(debug_assertions) && self.persisted.len() < 64 {
            invariants::check_unmarked(&self.persisted, &self.unmarked);
        }
    }
}

fn answer(
    result: Result<ProducerIdAndEpoch, Refusal>,
    response: impl Fn(Result<ProducerIdAndEpoch, ErrorCode>) -> TransactionResponse,
) -> TransactionResponse {
    match result {
        Ok(producer) => response(Ok(producer)),
        Err(refusal) => refusal.response(|error| response(Err(error))),
    }
}
