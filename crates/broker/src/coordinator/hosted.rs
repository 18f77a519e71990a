//! One shard on its partition: handling, appending and answering under one lock.

use std::collections::HashMap;
use std::sync::Arc;

use common::Lsn;
use coordinator::{Now, Token, Topics};
use parking_lot::Mutex;
use protocol::ErrorCode;
use protocol::batch::Attributes;
use protocol::batch::builder::BatchBuilder;
use s3stream::CheckpointSource;
use tokio::sync::oneshot;

use super::answer::Submitted;
use super::shard::{Outcome, Shard};
use crate::partition::{AppendOrigin, AppendRefused, Partition, VerificationGuard};

/// A batch of records that come of no request is closed above this size; one record may exceed it.
const BATCH_BYTES: usize = 256 << 10;
/// A checkpoint is not worth its bytes before this much was written.
const CHECKPOINT_AFTER_BYTES: usize = 64 << 10;
/// A checkpoint may cost one part in this many of what was written since the last.
const CHECKPOINT_COST: usize = 10;
/// After this many bytes without one, a checkpoint is written whatever it costs.
const CHECKPOINT_AT_LATEST_BYTES: usize = 8 << 20;

/// A shard that serves.
pub(crate) struct HostedShard<S: Shard> {
    partition: Arc<Partition>,
    state: Mutex<State<S>>,
}

struct State<S: Shard> {
    shard: S,
    /// Everything this shard ever decided is durable once the log is durable up to here.
    lsn: Lsn,
    waiting: HashMap<Token, oneshot::Sender<(Lsn, S::Response)>>,
    bytes_since_checkpoint: usize,
    /// Size of the last checkpoint that was made, appended or not.
    checkpoint_bytes: usize,
    /// An append failed that cannot be undone here: the shard takes no more requests.
    dropped: bool,
}

impl<S: Shard> State<S> {
    fn next_deadline(&self) -> Option<i64> {
        if self.dropped { None } else { self.shard.next_deadline() }
    }
}

/// What came of a call to a shard.
pub(super) struct Called<S: Shard> {
    /// What becomes of the request, if it was one.
    pub(super) submitted: Option<Submitted<S::Response>>,
    /// The shard's next deadline, boot ms; none if it must be loaded anew.
    pub(super) deadline_ms: Option<i64>,
    /// What is to be done when the log is durable up to `after`.
    pub(super) effects: Vec<S::Effect>,
    /// See `effects`.
    pub(super) after: Lsn,
}

/// The response to the request itself, if it is answered now, and what is to be done besides.
type Completed<S> = (Option<<S as Shard>::Response>, Vec<<S as Shard>::Effect>);

/// An append that failed: nothing was stored of what a request asks for.
struct Failed(ErrorCode);

impl<S: Shard> HostedShard<S> {
    /// Hosts a shard that was loaded from `partition`; `replayed_bytes` were read beyond the newest checkpoint.
    pub(super) fn new(partition: Arc<Partition>, shard: S, replayed_bytes: usize) -> Self {
        let state = State {
            shard,
            lsn: Lsn(0),
            waiting: HashMap::new(),
            bytes_since_checkpoint: replayed_bytes,
            checkpoint_bytes: 0,
            dropped: false,
        };
        Self { partition, state: Mutex::new(state) }
    }

    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Whether it must be loaded again.
    pub(super) fn is_dropped(&self) -> bool {
        self.state.lock().dropped
    }

    /// The position up to which the log must be durable before the shard is loaded again.
    pub(super) fn lsn(&self) -> Lsn {
        self.state.lock().lsn
    }

    /// Handles a request.
    pub(super) fn submit(
        &self,
        token: Token,
        context: &S::Context<'_>,
        request: &S::Request,
        guard: Option<VerificationGuard>,
        now: Now,
    ) -> Called<S> {
        let mut state = self.state.lock();
        if state.dropped {
            let submitted = Some(Submitted::Refused(ErrorCode::CoordinatorLoadInProgress));
            return Called { submitted, deadline_ms: None, effects: Vec::new(), after: Lsn(0) };
        }
        let outcome = state.shard.handle(token, context, request, now);
        let (submitted, effects) = match self.complete(&mut state, outcome, Some(token), guard, now) {
            Ok((Some(response), effects)) => (Submitted::Now(state.lsn, response), effects),
            Ok((None, effects)) => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(token, sender);
                (Submitted::Later(receiver), effects)
            }
            Err(Failed(code)) => (Submitted::Refused(code), Vec::new()),
        };
        let (deadline_ms, after) = (state.next_deadline(), state.lsn);
        Called { submitted: Some(submitted), deadline_ms, effects, after }
    }

    /// Runs the timers that are due.
    pub(super) fn on_timer(&self, now: Now, topics: &dyn Topics) -> Called<S> {
        self.call(now, |shard| {
            let is_due = shard.next_deadline().is_some_and(|deadline| deadline <= now.boot_ms);
            is_due.then(|| shard.on_timer(now, topics))
        })
    }

    /// Topics are gone.
    pub(super) fn on_topics_deleted(&self, topics: &[Arc<str>], now: Now) -> Called<S> {
        self.call(now, |shard| Some(shard.on_topics_deleted(topics)))
    }

    /// Does something with the shard that is no request, and appends what comes of it.
    pub(super) fn call(&self, now: Now, work: impl FnOnce(&mut S) -> Option<Outcome<S>>) -> Called<S> {
        let mut state = self.state.lock();
        let outcome = if state.dropped { None } else { work(&mut state.shard) };
        let effects = match outcome.map(|outcome| self.complete(&mut state, outcome, None, None, now)) {
            Some(Ok((_, effects))) => effects,
            Some(Err(Failed(code))) => {
                tracing::warn!(partition = ?self.partition, code = code.name(), "records of the {} coordinator were refused", S::NAME);
                Vec::new()
            }
            None => Vec::new(),
        };
        Called { submitted: None, deadline_ms: state.next_deadline(), effects, after: state.lsn }
    }

    /// Appends something that is no record of the shard's own, and lets the shard take it over: both in one order.
    pub(super) fn append_foreign(
        &self,
        append: impl FnOnce(&Partition) -> Result<Lsn, AppendRefused>,
        take_over: impl FnOnce(&mut S),
    ) -> Result<Lsn, AppendRefused> {
        let mut state = self.state.lock();
        let lsn = append(&self.partition)?;
        state.lsn = state.lsn.max(lsn);
        if !state.dropped {
            take_over(&mut state.shard);
        }
        Ok(lsn)
    }

    /// Appends a checkpoint if anything was written since the last.
    pub(super) fn append_final_checkpoint(&self) {
        let mut state = self.state.lock();
        if state.bytes_since_checkpoint > 0 && !state.dropped {
            let checkpoint = state.shard.checkpoint();
            self.append_checkpoint(&mut state, &checkpoint);
        }
    }

    /// Appends what the shard decided, then releases the responses. The response to `own` is returned, and what is to be
    /// done besides.
    fn complete(
        &self,
        state: &mut State<S>,
        outcome: Outcome<S>,
        own: Option<Token>,
        guard: Option<VerificationGuard>,
        now: Now,
    ) -> Result<Completed<S>, Failed> {
        // A request is stored whole or not at all, as in Kafka: what comes of it is one batch.
        let batch_bytes = if own.is_some() { usize::MAX } else { BATCH_BYTES };
        if let Err(refused) = self.append(state, &outcome.records, batch_bytes, guard, now) {
            let code = append_error(&refused);
            if S::is_ahead(&outcome.records) || self.partition.is_closed() {
                // The shard has gone ahead of its log. Whoever waits looks for the coordinator anew.
                state.dropped = true;
                state.waiting.clear();
            }
            return Err(Failed(code));
        }
        let mut own_response = None;
        for (token, response) in outcome.responses {
            if own == Some(token) {
                own_response = Some(response);
            } else if let Some(waiting) = state.waiting.remove(&token) {
                // A client that went away does not read its answer.
                let _ = waiting.send((state.lsn, response));
            }
        }
        self.maybe_checkpoint(state);
        Ok((own_response, outcome.effects))
    }

    /// Appends records in batches and lets the shard take over each batch that was appended.
    fn append(
        &self,
        state: &mut State<S>,
        records: &[S::Record],
        batch_bytes: usize,
        guard: Option<VerificationGuard>,
        now: Now,
    ) -> Result<(), AppendRefused> {
        let mut rest = records;
        while !rest.is_empty() {
            let (mut batch, mut origin) = (BatchBuilder::new(), AppendOrigin::Coordinator);
            if let Some((producer_id, epoch)) = S::producer_of(rest) {
                let transactional = Attributes::default().with_transactional(true);
                batch = batch.with_producer(producer_id, epoch, -1).with_attributes(transactional);
                origin = AppendOrigin::TransactionalCoordinator { guard };
            }
            let mut taken = 0;
            for record in rest {
                let (key, value) = S::encode(record).map_err(|error| AppendRefused {
                    code: ErrorCode::UnknownServerError.code(),
                    message: Some(error.to_string()),
                    record_errors: Vec::new(),
                })?;
                let more = key.len() + value.as_ref().map_or(0, Vec::len);
                if taken > 0 && batch.size() + more > batch_bytes {
                    break;
                }
                batch.push(now.wall_ms, Some(&key), value.as_deref());
                taken += 1;
            }
            let (appended, later) = rest.split_at(taken);
            let batch = batch.build(0, self.partition.leader_epoch());
            let position = self.partition.append(&batch, origin)?;
            state.lsn = state.lsn.max(position.lsn);
            state.bytes_since_checkpoint += batch.len();
            state.shard.apply(appended);
            rest = later;
        }
        Ok(())
    }

    fn maybe_checkpoint(&self, state: &mut State<S>) {
        let written = state.bytes_since_checkpoint;
        let worth_it =
            |size: usize| size.saturating_mul(CHECKPOINT_COST) <= written || written >= CHECKPOINT_AT_LATEST_BYTES;
        if written < CHECKPOINT_AFTER_BYTES || !worth_it(state.checkpoint_bytes) {
            return;
        }
        let checkpoint = state.shard.checkpoint();
        state.checkpoint_bytes = checkpoint.len();
        if worth_it(checkpoint.len()) {
            self.append_checkpoint(state, &checkpoint);
        }
    }

    fn append_checkpoint(&self, state: &mut State<S>, checkpoint: &[u8]) {
        match self.partition.append_coordinator_checkpoint(checkpoint) {
            Ok(_) => {}
            // Loading replays more; the next attempt comes after as many bytes again.
            Err(refused) => {
                tracing::warn!(partition = ?self.partition, ?refused, "no checkpoint of the {} coordinator", S::NAME)
            }
        }
        state.bytes_since_checkpoint = 0;
    }
}

impl<S: Shard> CheckpointSource for HostedShard<S> {
    fn append_checkpoint(&self) {
        let mut state = self.state.lock();
        if !state.dropped {
            let checkpoint = state.shard.checkpoint();
            self.append_checkpoint(&mut state, &checkpoint);
        }
    }
}

/// What clients are told when the log refuses records: as Kafka maps it.
fn append_error(refused: &AppendRefused) -> ErrorCode {
    match ErrorCode::from_code(refused.code) {
        Some(ErrorCode::NotEnoughReplicas | ErrorCode::RequestTimedOut | ErrorCode::UnknownTopicOrPartition) => {
            ErrorCode::CoordinatorNotAvailable
        }
        Some(ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError) => ErrorCode::NotCoordinator,
        Some(ErrorCode::MessageTooLarge) => ErrorCode::InvalidCommitOffsetSize,
        _ => ErrorCode::UnknownServerError,
    }
}
