//! One shard on its partition: handling, appending and answering under one lock.

use std::collections::HashMap;
use std::sync::Arc;

use common::Lsn;
use coordinator::{Context, CoordinatorRecord, GroupShard, Now, Output, Request, Response, Token};
use parking_lot::Mutex;
use protocol::ErrorCode;
use protocol::batch::builder::BatchBuilder;
use s3stream::CheckpointSource;
use tokio::sync::oneshot;

use super::answer::Submitted;
use crate::partition::{AppendOrigin, AppendRefused, Partition};

/// A batch of records that come of no request is closed above this size; one record may exceed it.
const BATCH_BYTES: usize = 256 << 10;
/// A checkpoint is not worth its bytes before this much was written.
const CHECKPOINT_AFTER_BYTES: usize = 64 << 10;
/// A checkpoint may cost one part in this many of what was written since the last.
const CHECKPOINT_COST: usize = 10;
/// After this many bytes without one, a checkpoint is written whatever it costs.
const CHECKPOINT_AT_LATEST_BYTES: usize = 8 << 20;

/// A shard that serves.
pub(super) struct HostedShard {
    partition: Arc<Partition>,
    state: Mutex<State>,
}

struct State {
    shard: GroupShard,
    /// Everything this shard ever decided is durable once the log is durable up to here.
    lsn: Lsn,
    waiting: HashMap<Token, oneshot::Sender<(Lsn, Response)>>,
    bytes_since_checkpoint: usize,
    /// Size of the last checkpoint that was made, appended or not.
    checkpoint_bytes: usize,
    /// An append failed that cannot be undone here: the shard takes no more requests.
    dropped: bool,
}

impl State {
    fn next_deadline(&self) -> Option<i64> {
        if self.dropped { None } else { self.shard.next_deadline() }
    }
}

/// An append that failed: nothing was stored of what a request asks for.
struct Failed(ErrorCode);

impl HostedShard {
    /// Hosts a shard that was loaded from `partition`; `replayed_bytes` were read beyond the newest checkpoint.
    pub(super) fn new(partition: Arc<Partition>, shard: GroupShard, replayed_bytes: usize) -> Self {
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

    pub(super) fn partition(&self) -> &Arc<Partition> {
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

    /// Handles a request; also returns the shard's next deadline.
    pub(super) fn submit(
        &self,
        token: Token,
        context: &Context<'_>,
        request: &Request,
        now: Now,
    ) -> (Submitted, Option<i64>) {
        let mut state = self.state.lock();
        if state.dropped {
            return (Submitted::Refused(ErrorCode::CoordinatorLoadInProgress), None);
        }
        let output = state.shard.handle(token, context, request, now);
        let submitted = match self.complete(&mut state, output, Some(token), now) {
            Ok(Some(response)) => Submitted::Now(state.lsn, response),
            Ok(None) => {
                let (sender, receiver) = oneshot::channel();
                state.waiting.insert(token, sender);
                Submitted::Later(receiver)
            }
            Err(Failed(code)) => Submitted::Refused(code),
        };
        (submitted, state.next_deadline())
    }

    /// Runs the timers that are due; returns the next deadline.
    pub(super) fn on_timer(&self, now: Now) -> Option<i64> {
        let mut state = self.state.lock();
        if state.next_deadline().is_some_and(|deadline| deadline <= now.boot_ms) {
            let output = state.shard.on_timer(now);
            self.complete_own(&mut state, output, now);
        }
        state.next_deadline()
    }

    /// Removes the offsets of topics that are gone.
    pub(super) fn on_topics_deleted(&self, topics: &[Arc<str>], now: Now) {
        let mut state = self.state.lock();
        if !state.dropped {
            let output = state.shard.on_topics_deleted(topics);
            self.complete_own(&mut state, output, now);
        }
    }

    /// Appends a checkpoint if anything was written since the last.
    pub(super) fn append_final_checkpoint(&self) {
        let mut state = self.state.lock();
        if state.bytes_since_checkpoint > 0 && !state.dropped {
            let checkpoint = state.shard.checkpoint();
            self.append_checkpoint(&mut state, &checkpoint);
        }
    }

    fn complete_own(&self, state: &mut State, output: Output, now: Now) {
        if let Err(Failed(code)) = self.complete(state, output, None, now) {
            tracing::warn!(partition = ?self.partition, code = code.name(), "records of the group coordinator were refused");
        }
    }

    /// Appends what the shard decided, then releases the responses. The response to `own` is returned.
    fn complete(
        &self,
        state: &mut State,
        output: Output,
        own: Option<Token>,
        now: Now,
    ) -> Result<Option<Response>, Failed> {
        let groups_changed = output.records.iter().any(|record| matches!(record, CoordinatorRecord::Group { .. }));
        // A request is stored whole or not at all, as in Kafka: what comes of it is one batch.
        let batch_bytes = if own.is_some() { usize::MAX } else { BATCH_BYTES };
        if let Err(refused) = self.append(state, &output.records, batch_bytes, now) {
            let code = append_error(&refused);
            if groups_changed || self.partition.is_closed() {
                // The shard has gone ahead of its log. Whoever waits looks for the coordinator anew.
                state.dropped = true;
                state.waiting.clear();
            }
            return Err(Failed(code));
        }
        let mut own_response = None;
        for (token, response) in output.responses {
            if own == Some(token) {
                own_response = Some(response);
            } else if let Some(waiting) = state.waiting.remove(&token) {
                // A client that went away does not read its answer.
                let _ = waiting.send((state.lsn, response));
            }
        }
        self.maybe_checkpoint(state);
        Ok(own_response)
    }

    /// Appends records in batches and lets the shard take over each batch that was appended.
    fn append(
        &self,
        state: &mut State,
        records: &[CoordinatorRecord],
        batch_bytes: usize,
        now: Now,
    ) -> Result<(), AppendRefused> {
        let mut rest = records;
        while !rest.is_empty() {
            let mut batch = BatchBuilder::new();
            let mut taken = 0;
            for record in rest {
                let (key, value) = record.encode().map_err(|error| AppendRefused {
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
            let position = self.partition.append(&batch, AppendOrigin::Coordinator)?;
            state.lsn = state.lsn.max(position.lsn);
            state.bytes_since_checkpoint += batch.len();
            state.shard.apply(appended);
            rest = later;
        }
        Ok(())
    }

    fn maybe_checkpoint(&self, state: &mut State) {
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

    fn append_checkpoint(&self, state: &mut State, checkpoint: &[u8]) {
        match self.partition.append_coordinator_checkpoint(checkpoint) {
            Ok(_) => {}
            // Loading replays more; the next attempt comes after as many bytes again.
            Err(refused) => {
                tracing::warn!(partition = ?self.partition, ?refused, "no checkpoint of the group coordinator")
            }
        }
        state.bytes_since_checkpoint = 0;
    }
}

impl CheckpointSource for HostedShard {
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
