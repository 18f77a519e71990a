//! Partitions this broker leads: appends with producer state, high watermark, reads, retention.
//!
//! Order of offsets, always: log start ≤ last stable offset ≤ high watermark ≤ log end. The high watermark never
//! exceeds what the log holds durably.

mod active_producers;
mod append;
mod checkpoint;
mod high_watermark;
mod leader_epochs;
mod markers;
mod meter;
mod open;
mod opener;
mod partitions;
mod producer_ids;
mod producer_state;
mod read;
mod retention;
mod search;
mod state;
mod topic;
mod topic_configs;
mod transactions;
mod verification;
mod waiters;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use bytes::Bytes;
use common::planted::{self, Bug};
use common::{Clock, Lsn, Offset};
use parking_lot::Mutex;
use protocol::ErrorCode;
use s3stream::Stream;
use uuid::Uuid;
use wal::DurableLsn;

pub use active_producers::ActiveProducer;
pub use append::{AppendOrigin, AppendRefused, AppendedBatch};
pub use checkpoint::CheckpointError;
pub use markers::TransactionMarker;
pub use meter::Meter;
pub use open::OpenError;
pub use partitions::{LookupError, Partitions, PartitionsParts};
pub use producer_ids::ProducerIds;
pub use read::{Isolation, PartitionRead, ReadError};
pub use search::FoundOffset;
pub use topic::{Topic, is_internal};
pub use verification::{Verification, VerificationGuard};
pub use waiters::DataWait;

use crate::cluster::Lease;
use state::{Leadership, PartitionState};
use verification::GuardNumbers;
use waiters::DataWaiter;

/// What all partitions of a broker share.
pub(crate) struct Environment {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) durable: Arc<DurableLsn>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) guards: GuardNumbers,
}

/// One partition that this broker leads, or led: see [`Partition::is_closed`].
pub struct Partition {
    environment: Arc<Environment>,
    topic: Arc<Topic>,
    index: i32,
    leader_epoch: i32,
    stream: Arc<Stream>,
    meter: Meter,
    state: Mutex<PartitionState>,
}

impl Partition {
    /// Its topic: name, id, configuration.
    #[must_use]
    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// Topic id.
    #[must_use]
    pub fn topic_id(&self) -> Uuid {
        self.topic.id
    }

    /// Index within its topic.
    #[must_use]
    pub fn index(&self) -> i32 {
        self.index
    }

    /// Kafka's leader epoch under which this broker leads.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Its data.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// What it carries.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// First offset (inclusive).
    #[must_use]
    pub fn log_start(&self) -> Offset {
        Offset(self.state.lock().log_start)
    }

    /// End of what consumers may read (exclusive): everything below it is durable.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        let durable = self.environment.durable.get();
        Offset(self.state.lock().follow(durable))
    }

    /// Last stable offset, the end of what consumers of committed records may read (exclusive): the high watermark, or
    /// the first offset of the earliest transaction below it whose end is not durable.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        let durable = self.environment.durable.get();
        Offset(self.state.lock().follow_stable(durable).1)
    }

    /// Next offset to be given out.
    #[must_use]
    pub fn log_end(&self) -> Offset {
        Offset(self.state.lock().log_end)
    }

    /// Payload bytes from the log start on.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.stream.size_bytes()
    }

    /// Whether this broker ceased to lead it. It then takes no appends and serves no reads.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.lock().leadership == Leadership::Ended
    }

    /// Whether this broker may answer for it now: it leads it for certain, and has a lease.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        let state = self.state.lock();
        self.environment.lease.is_valid() && state.leadership < Leadership::Leaving
    }

    /// Judges the leader epoch that a client believes in: -1 is no belief.
    pub fn check_leader_epoch(&self, believed: i32) -> Result<(), ErrorCode> {
        match believed {
            -1 => Ok(()),
            epoch if epoch < self.leader_epoch => Err(ErrorCode::FencedLeaderEpoch),
            epoch if epoch > self.leader_epoch => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// The newest epoch not above `requested` and its end (exclusive); `None` if `requested` is above all known.
    #[must_use]
    pub fn end_of_epoch(&self, requested: i32) -> Option<(i32, Offset)> {
        let state = self.state.lock();
        state.epochs.end_of(requested, state.log_end).map(|(epoch, end)| (epoch, Offset(end)))
    }

    /// Leader epoch of the record at `offset`, -1 if unknown.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> i32 {
        self.state.lock().epochs.epoch_at(offset.0)
    }

    /// Ends it: appends and reads are refused from now on, and whoever waits for data is woken. Idempotent.
    pub(crate) fn close(&self) {
        self.state.lock().end();
    }

    /// Takes no appends until [`Self::resume`] or [`Self::close`]: they are told to wait. What must move with the partition
    /// is in its newest checkpoint and the records after it.
    pub(crate) fn park(&self) {
        if planted::is(Bug::MoveWithoutParking) {
            return;
        }
        let mut state = self.state.lock();
        if state.bytes_since_checkpoint > 0
            && state.leadership == Leadership::Full
            && !self.topic.is_coordinator_owned()
        {
            // Without it the new leader replays more.
            let _ = self.append_checkpoint_locked(&mut state, None);
        }
        state.turn(Leadership::Parked);
        self.stream.park();
    }

    /// From now on metadata may give it to its new leader at any moment, and that one may append: whatever is told here could
    /// be behind what clients know already. The lease does not guard that, for this broker lives. Until [`Self::resume`] or
    /// [`Self::close`].
    pub(crate) fn leave(&self) {
        self.state.lock().turn(Leadership::Leaving);
    }

    /// The partition stays.
    pub(crate) fn resume(&self) {
        self.stream.resume();
        self.state.lock().turn(Leadership::Full);
    }

    /// What the coordinator that owns this partition's records has put into its newest checkpoint, here or before the
    /// partition was opened, and the offset up to which it describes them.
    #[must_use]
    pub fn coordinator_checkpoint(&self) -> Option<(Offset, Bytes)> {
        self.state.lock().coordinator.clone()
    }

    /// Forgets producers that have not written for `expiration_ms`, and verifications begun as long ago.
    pub(crate) fn expire_producers(&self, expiration_ms: i64) {
        let now_ms = self.environment.clock.wall_ms();
        let mut state = self.state.lock();
        state.producers.expire(now_ms, expiration_ms);
        state.verifications.expire(now_ms, expiration_ms);
    }

    /// Adds a waiter for records at or above `from` that are readable under `isolation`; false if it was woken or armed
    /// at once.
    fn register(&self, waiter: &Arc<DataWaiter>, from: Offset, isolation: Isolation) -> bool {
        let durable = self.environment.durable.get();
        let mut state = self.state.lock();
        let (high_watermark, last_stable_offset) = state.follow_stable(durable);
        let end = match isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => last_stable_offset,
        };
        if state.leadership == Leadership::Ended || end > from.0 {
            waiter.fire();
            return false;
        }
        if let Some(lsn) = state.readable_at(from.0, isolation) {
            waiter.arm(lsn);
            return false;
        }
        state.waiters.add(waiter, isolation);
        true
    }

    fn deregister(&self, waiter: &Arc<DataWaiter>) {
        self.state.lock().waiters.remove(waiter);
    }

    /// Moves the log start up to `start`; returns once that is in metadata.
    ///
    /// Producer state that only the records cut off tell is kept where it can be: in memory, and in a checkpoint
    /// that is durable before the trim. That one is lost if the log is trimmed before another record is uploaded with
    /// it; after a restart such producers are unknown, as all are whose records are gone.
    pub async fn trim(&self, start: Offset) -> Result<(), s3stream::PortError> {
        let checkpoint = {
            let mut state = self.state.lock();
            if start.0 <= state.log_start {
                return Ok(());
            }
            let needed = state.bytes_since_checkpoint > 0 && !self.topic.is_coordinator_owned();
            needed.then(|| self.append_checkpoint_locked(&mut state, None)).and_then(Result::ok)
        };
        if let Some(lsn) = checkpoint {
            let wait = self.environment.durable.wait(lsn).await;
            wait.map_err(|error| s3stream::PortError::Unavailable(error.to_string()))?;
        }
        self.stream.trim(start).await?;
        self.state.lock().trimmed(start.0);
        Ok(())
    }

    /// Appends a checkpoint if there is anything the newest one does not cover: before a graceful stop.
    /// Coordinators write those of their own partitions.
    pub fn append_final_checkpoint(&self) -> Option<Lsn> {
        let mut state = self.state.lock();
        if state.bytes_since_checkpoint == 0
            || state.leadership != Leadership::Full
            || self.topic.is_coordinator_owned()
        {
            return None;
        }
        self.append_checkpoint_locked(&mut state, None).ok()
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic.name, self.index)
    }
}
