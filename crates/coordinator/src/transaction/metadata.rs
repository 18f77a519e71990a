//! State of one transactional id, and the changes it can undergo. Each change gives the state that follows, as it
//! will be recorded; none alters the state it begins with.

use crate::shard::Now;
use crate::transaction::partitions::PartitionSet;

/// No producer id.
pub(crate) const NO_PRODUCER_ID: i64 = -1;
/// No producer epoch.
pub(crate) const NO_PRODUCER_EPOCH: i16 = -1;
/// No timestamp.
const NO_TIMESTAMP: i64 = -1;
/// The last epoch that a client may use. The one above it is the coordinator's, so that it can always fence.
pub(crate) const CLIENT_EPOCH_MAX: i16 = i16::MAX - 1;
/// `transaction.version` from which on each transaction has an epoch of its own (KIP-890, TV2).
const EPOCH_BUMP_SINCE: i8 = 2;
/// Timeout of a transaction that is never aborted for its age (KIP-939).
const NO_TIMEOUT_MS: i32 = i32::MAX;

/// Whether clients of this `transaction.version` work with an epoch per transaction (KIP-890, TV2).
pub(crate) fn bumps_epoch(transaction_version: i8) -> bool {
    transaction_version >= EPOCH_BUMP_SINCE
}

/// State of a transactional id, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum TransactionState {
    /// No transaction since the producer was initialized.
    Empty = 0,
    /// A transaction is open.
    Ongoing = 1,
    /// Decided: to be committed. Markers are being written.
    PrepareCommit = 2,
    /// Decided: to be aborted. Markers are being written.
    PrepareAbort = 3,
    /// The last transaction was committed, and every partition has its marker.
    CompleteCommit = 4,
    /// The last transaction was aborted, and every partition has its marker.
    CompleteAbort = 5,
    /// Being removed. Kafka's in memory alone; here a tombstone takes its place.
    Dead = 6,
    /// Being fenced. Kafka's in memory alone; here fencing is one step, from Ongoing to PrepareAbort.
    PrepareEpochFence = 7,
}

impl TransactionState {
    /// All states, by ascending number.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    /// Kafka's number.
    #[must_use]
    pub fn id(self) -> i8 {
        self as i8
    }

    /// The state of a number, if a record can say it: Dead and PrepareEpochFence are never written.
    #[must_use]
    pub fn from_recorded_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.id() == id && state.is_recorded())
    }

    /// The state of this name, as ListTransactions spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Kafka's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// Decided, with markers still to be written.
    #[must_use]
    pub fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// No transaction is open or being completed.
    #[must_use]
    pub fn is_idle(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }

    /// Whether a record of this state may follow one of `before`. A transactional id begins as Empty.
    #[must_use]
    pub fn may_follow(self, before: Option<Self>) -> bool {
        let Some(before) = before else { return self == Self::Empty };
        match self {
            Self::Empty => before.is_idle(),
            Self::Ongoing => before.is_idle() || before == Self::Ongoing,
            Self::PrepareCommit => before == Self::Ongoing,
            // A TV2 client that does not know whether it has begun a transaction aborts to be sure.
            Self::PrepareAbort => before == Self::Ongoing || before.is_idle(),
            Self::CompleteCommit => before == Self::PrepareCommit,
            Self::CompleteAbort => before == Self::PrepareAbort,
            Self::Dead | Self::PrepareEpochFence => false,
        }
    }

    fn is_recorded(self) -> bool {
        !matches!(self, Self::Dead | Self::PrepareEpochFence)
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Commit,
    Abort,
}

impl Outcome {
    pub(crate) fn of(commit: bool) -> Self {
        if commit { Self::Commit } else { Self::Abort }
    }

    fn prepared(self) -> TransactionState {
        match self {
            Self::Commit => TransactionState::PrepareCommit,
            Self::Abort => TransactionState::PrepareAbort,
        }
    }

    pub(crate) fn completed(self) -> TransactionState {
        match self {
            Self::Commit => TransactionState::CompleteCommit,
            Self::Abort => TransactionState::CompleteAbort,
        }
    }
}

/// A producer id and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerIdAndEpoch {
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Epoch, -1 for none.
    pub epoch: i16,
}

impl ProducerIdAndEpoch {
    /// Neither id nor epoch.
    pub const NONE: Self = Self { producer_id: NO_PRODUCER_ID, epoch: NO_PRODUCER_EPOCH };
}

/// What a record says of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionMetadata {
    /// Producer id in use.
    pub producer_id: i64,
    /// Producer id before the last change of state; mostly the same one. -1 when unknown.
    pub previous_producer_id: i64,
    /// Producer id that takes over when the transaction completes; else -1. Only in Prepare states (KIP-890).
    pub next_producer_id: i64,
    /// Epoch in use.
    pub producer_epoch: i16,
    /// Epoch that the producer had before this one; -1 when a request that gives it must be refused.
    pub last_producer_epoch: i16,
    /// How long a transaction may stay open, milliseconds.
    pub timeout_ms: i32,
    /// State.
    pub state: TransactionState,
    /// Partitions of the open or decided transaction.
    pub partitions: PartitionSet,
    /// Wall time at which the transaction began, milliseconds, -1 when none has since the producer was initialized.
    pub start_timestamp_ms: i64,
    /// Wall time of the last change, milliseconds.
    pub last_update_timestamp_ms: i64,
    /// `transaction.version` that the last change was made by.
    pub client_transaction_version: i8,
}

impl TransactionMetadata {
    /// A transactional id that was not there before, with epoch 0.
    pub(crate) fn created(producer_id: i64, timeout_ms: i32, now: Now) -> Self {
        Self {
            producer_id,
            // As Kafka has it, which creates the id in memory before it records it.
            previous_producer_id: producer_id,
            next_producer_id: NO_PRODUCER_ID,
            producer_epoch: 0,
            last_producer_epoch: NO_PRODUCER_EPOCH,
            timeout_ms,
            state: TransactionState::Empty,
            partitions: PartitionSet::default(),
            start_timestamp_ms: NO_TIMESTAMP,
            last_update_timestamp_ms: now.wall_ms,
            client_transaction_version: 0,
        }
    }

    /// After InitProducerId.
    pub(crate) fn initialized(
        &self,
        producer: ProducerIdAndEpoch,
        last_producer_epoch: i16,
        timeout_ms: i32,
        now: Now,
    ) -> Self {
        Self {
            producer_id: producer.producer_id,
            producer_epoch: producer.epoch,
            last_producer_epoch,
            timeout_ms,
            partitions: PartitionSet::default(),
            start_timestamp_ms: NO_TIMESTAMP,
            ..self.changed(TransactionState::Empty, now)
        }
    }

    /// With more partitions; begins a transaction if none is open.
    pub(crate) fn with_partitions(&self, added: &PartitionSet, client_transaction_version: i8, now: Now) -> Self {
        let mut next = self.changed(TransactionState::Ongoing, now);
        added.iter().for_each(|(topic, partition)| next.partitions.insert(topic, partition));
        if self.state.is_idle() {
            next.start_timestamp_ms = now.wall_ms;
        }
        next.client_transaction_version = client_transaction_version;
        next
    }

    /// Decided by the client. In TV2 the epoch grows now, so that whatever the client sent before is of another
    /// epoch than its next transaction; `next_producer_id` is needed when [`Self::is_epoch_exhausted`].
    pub(crate) fn decided(
        &self,
        outcome: Outcome,
        client_transaction_version: i8,
        next_producer_id: i64,
        now: Now,
    ) -> Self {
        let mut next = self.changed(outcome.prepared(), now);
        if bumps_epoch(client_transaction_version) {
            next.producer_epoch = self.producer_epoch.saturating_add(1);
            next.last_producer_epoch = self.producer_epoch;
            next.next_producer_id = next_producer_id;
        }
        next.client_transaction_version = client_transaction_version;
        // Without partitions the coordinator never heard of its beginning.
        if self.state.is_idle() {
            next.start_timestamp_ms = now.wall_ms;
        }
        next
    }

    /// Aborted by the coordinator, which works by `transaction_version`, under an epoch that its producer does not have.
    pub(crate) fn fenced(&self, transaction_version: i8, next_producer_id: i64, now: Now) -> Self {
        let mut next = self.decided(Outcome::Abort, transaction_version, next_producer_id, now);
        if !bumps_epoch(transaction_version) {
            next.client_transaction_version = 0;
            next.producer_epoch = self.producer_epoch.saturating_add(1);
            next.last_producer_epoch = NO_PRODUCER_EPOCH;
        }
        next
    }

    /// Every partition of a decided transaction has its marker.
    pub(crate) fn completed(&self, now: Now) -> Self {
        let outcome = Outcome::of(self.state == TransactionState::PrepareCommit);
        let after = self.after_completion();
        Self {
            producer_id: after.producer_id,
            producer_epoch: after.epoch,
            next_producer_id: NO_PRODUCER_ID,
            partitions: PartitionSet::default(),
            ..self.changed(outcome.completed(), now)
        }
    }

    /// Producer id and epoch of the client's next transaction, once this decided one is complete.
    pub(crate) fn after_completion(&self) -> ProducerIdAndEpoch {
        if self.next_producer_id == NO_PRODUCER_ID {
            self.producer()
        } else {
            ProducerIdAndEpoch { producer_id: self.next_producer_id, epoch: 0 }
        }
    }

    /// Producer id and epoch in use.
    #[must_use]
    pub fn producer(&self) -> ProducerIdAndEpoch {
        ProducerIdAndEpoch { producer_id: self.producer_id, epoch: self.producer_epoch }
    }

    /// Whether no client can be given a higher epoch of this producer id.
    #[must_use]
    pub fn is_epoch_exhausted(&self) -> bool {
        self.producer_epoch >= CLIENT_EPOCH_MAX
    }

    /// Whether the transaction is open for longer than its timeout.
    pub(crate) fn is_timed_out(&self, now: Now) -> bool {
        self.state == TransactionState::Ongoing
            && self.timeout_ms != NO_TIMEOUT_MS
            && self.start_timestamp_ms.saturating_add(self.timeout_ms.into()) < now.wall_ms
    }

    fn changed(&self, state: TransactionState, now: Now) -> Self {
        Self { state, previous_producer_id: self.producer_id, last_update_timestamp_ms: now.wall_ms, ..self.clone() }
    }
}
