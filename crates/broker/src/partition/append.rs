//! Appends: everything that depends on the batch alone is checked before the lock is taken; under it come the
//! sequence check, the offsets and the log.

use std::borrow::Cow;

use bytes::Bytes;
use common::{Lsn, Offset};
use parking_lot::MutexGuard;
use protocol::ErrorCode;
use protocol::batch::builder::RebuildError;
use protocol::batch::validate::{DECODED_MAX, sole_batch};
use protocol::batch::{BatchView, Invalid, Rules, Tag, Validated};
use protocol::batch::{patch_base_offset, patch_leader_epoch, patch_timestamp, rebuild, validate};
use s3stream::AppendRequest;
use wal::AppendError;

use super::Partition;
use super::producer_state::{CachedBatch, Judgement, SequenceError};
use super::state::{Leadership, PartitionState, sequenced};
use super::verification::{TransactionError, VerificationGuard};
use crate::config::{Codec, TopicConfig};

/// Where an append comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A client's Produce request.
    Client {
        /// Version of the request.
        produce_version: i16,
        /// A batch that this one may have been sent behind was refused for a moment, so that a producer of whom nothing
        /// is known has to begin at 0.
        behind_refusal: bool,
        /// Of the verification of a transactional batch: see [`Partition::begin_verification`].
        guard: Option<VerificationGuard>,
    },
    /// A coordinator of this broker, which builds sound batches itself.
    Coordinator,
    /// The same, in the name of a transactional producer (KIP-98: offsets that are committed with a transaction). Such
    /// batches have no sequence; they need an open transaction or a guard like any other.
    TransactionalCoordinator {
        /// As of a client.
        guard: Option<VerificationGuard>,
    },
}

impl AppendOrigin {
    /// The same with the guard of a verification.
    #[must_use]
    pub fn guarded(self, guard: VerificationGuard) -> Self {
        let guard = Some(guard);
        match self {
            Self::Client { produce_version, behind_refusal, .. } => {
                Self::Client { produce_version, behind_refusal, guard }
            }
            Self::TransactionalCoordinator { .. } => Self::TransactionalCoordinator { guard },
            Self::Coordinator => Self::Coordinator,
        }
    }

    fn guard(self) -> Option<VerificationGuard> {
        match self {
            Self::Client { guard, .. } | Self::TransactionalCoordinator { guard } => guard,
            Self::Coordinator => None,
        }
    }
}

/// A successful append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendedBatch {
    /// Offset of the first record: the original one when the batch was a duplicate.
    pub base_offset: Offset,
    /// Time the broker gave the batch, or -1 under CreateTime. For a duplicate the original's newest timestamp,
    /// as in Kafka.
    pub log_append_time_ms: i64,
    /// First offset of the partition.
    pub log_start: Offset,
    /// Durable once the WAL is durable up to here (for a duplicate: the original's position).
    pub lsn: Lsn,
}

/// A refused append. Certainly nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendRefused {
    /// Kafka's code.
    pub code: i16,
    /// For the client.
    pub message: Option<String>,
    /// Index in the batch and message of each bad record.
    pub record_errors: Vec<(i32, String)>,
}

impl AppendRefused {
    /// A refusal of the batch as a whole.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code as i16, message: Some(message.into()), record_errors: Vec::new() }
    }

    /// Retriable, and waited out for a while where a client asks.
    fn moving() -> Self {
        Self::new(ErrorCode::NotEnoughReplicas, "the partition is being moved to another broker")
    }

    fn not_leader() -> Self {
        Self::new(ErrorCode::NotLeaderOrFollower, "this broker does not lead the partition any more")
    }
}

impl From<Invalid> for AppendRefused {
    fn from(invalid: Invalid) -> Self {
        let record_errors = invalid.record_errors.into_iter().map(|record| (record.index, record.message.into_owned()));
        Self {
            code: invalid.error as i16,
            message: Some(invalid.message.into_owned()),
            record_errors: record_errors.collect(),
        }
    }
}

impl From<SequenceError> for AppendRefused {
    fn from(error: SequenceError) -> Self {
        let code = match error {
            SequenceError::StaleEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            SequenceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
            SequenceError::OutsideTransaction { .. } => ErrorCode::InvalidTxnState,
        };
        Self::new(code, error.to_string())
    }
}

impl From<TransactionError> for AppendRefused {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::NotVerified => Self::new(ErrorCode::InvalidTxnState, error.to_string()),
            TransactionError::TooMany => Self::new(ErrorCode::NotEnoughReplicas, error.to_string()),
            TransactionError::Sequence(error) => error.into(),
        }
    }
}

/// A batch that may be appended, if its sequence number is right.
pub(super) struct Prepared<'a> {
    /// As it is to be stored, but for base offset and leader epoch.
    bytes: Cow<'a, [u8]>,
    tag: Tag,
    last_offset_delta: i32,
    max_timestamp_ms: i64,
    log_append_time_ms: i64,
    now_ms: i64,
}

impl Partition {
    /// Validates one record batch, checks its sequence, assigns offsets and appends it. Never waits.
    ///
    /// A batch that one of the producer's last five equals is not appended again: the answer has the original's
    /// offset and log position.
    ///
    /// A transactional batch is taken only if its producer has an open transaction here, or with the guard of a
    /// verification ([`Self::begin_verification`]): else `INVALID_TXN_STATE`.
    pub fn append(&self, batch: &Bytes, origin: AppendOrigin) -> Result<AppendedBatch, AppendRefused> {
        let prepared = self.prepare(batch, origin)?;
        let state = self.lock_to_append()?;
        if prepared.tag.producer_id >= 0 {
            let batch = sequenced(&prepared.tag, prepared.last_offset_delta);
            if matches!(origin, AppendOrigin::Client { behind_refusal: true, .. }) {
                state.producers.expect_first(&batch)?;
            }
            let judged = if batch.transactional {
                state.judge_transactional(&batch, origin.guard())?
            } else {
                state.producers.judge(&batch)?
            };
            if let Judgement::Duplicate(original) = judged {
                return Ok(duplicate(&state, &original));
            }
        } else if prepared.tag.attributes.is_transactional() {
            return Err(TransactionError::NotVerified.into());
        }
        self.append_prepared(state, &prepared)
    }

    /// The state, if records may be appended now.
    pub(super) fn lock_to_append(&self) -> Result<MutexGuard<'_, PartitionState>, AppendRefused> {
        let state = self.state.lock();
        if !self.environment.lease.is_valid() {
            return Err(AppendRefused::not_leader());
        }
        may_append(&state)?;
        Ok(state)
    }

    /// Appends what was judged under the same lock.
    pub(super) fn append_prepared(
        &self,
        mut state: MutexGuard<'_, PartitionState>,
        prepared: &Prepared<'_>,
    ) -> Result<AppendedBatch, AppendRefused> {
        let Prepared { bytes, tag, last_offset_delta, max_timestamp_ms, log_append_time_ms, now_ms } = prepared;
        let base_offset = Offset(state.log_end);
        let next_offset = base_offset.plus(i64::from(*last_offset_delta) + 1);
        let request =
            AppendRequest { base_offset, next_offset, max_timestamp_ms: *max_timestamp_ms, tag: tag.encode() };
        let patch = &mut |stored: &mut [u8]| {
            patch_base_offset(stored, base_offset.0);
            patch_leader_epoch(stored, self.leader_epoch);
        };
        let lsn = self.stream.append(&request, bytes, patch).map_err(|error| self.refused(&mut state, &error))?;
        // From here on nothing fails: state is what the log holds.
        self.meter.wrote(bytes.len() as u64);
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        state.appended(tag, next_offset.0, *max_timestamp_ms, len, lsn, *now_ms);
        // Keeps the queue of pending appends short although nobody asks for the high watermark.
        state.follow(self.environment.durable.get());
        if state.checkpoint_due() && !self.topic.is_coordinator_owned() {
            // Without it a later opening replays more; the next append tries again.
            let _ = self.append_checkpoint_locked(&mut state, None);
        }
        let log_start = Offset(state.log_start);
        Ok(AppendedBatch { base_offset, log_append_time_ms: *log_append_time_ms, log_start, lsn })
    }

    /// Appends a checkpoint on behalf of the coordinator that owns this partition's records: its state as it
    /// follows from all of them up to the log's end. It comes back from [`Partition::coordinator_checkpoint`].
    pub fn append_coordinator_checkpoint(&self, payload: &[u8]) -> Result<Lsn, AppendRefused> {
        let mut state = self.state.lock();
        may_append(&state)?;
        let appended = self.append_checkpoint_locked(&mut state, Some(payload));
        let lsn = appended.map_err(|error| self.refused(&mut state, &error))?;
        state.coordinator = Some((Offset(state.log_end), Bytes::copy_from_slice(payload)));
        Ok(lsn)
    }

    pub(super) fn append_checkpoint_locked(
        &self,
        state: &mut PartitionState,
        coordinator: Option<&[u8]>,
    ) -> Result<Lsn, AppendError> {
        let payload = state.checkpoint(coordinator);
        let lsn = self.stream.append_checkpoint(Offset(state.log_end), &payload)?;
        state.bytes_since_checkpoint = 0;
        Ok(lsn)
    }

    /// Everything that depends on batch and configuration alone.
    fn prepare<'a>(&self, batch: &'a Bytes, origin: AppendOrigin) -> Result<Prepared<'a>, AppendRefused> {
        let now_ms = self.environment.clock.wall_ms();
        let AppendOrigin::Client { produce_version, .. } = origin else {
            let view = BatchView::exactly_one(batch).map_err(Invalid::from)?;
            if view.attributes().is_control() {
                let message = "markers are appended as such";
                return Err(AppendRefused::new(ErrorCode::InvalidRecord, message));
            }
            return self.prepared(&view, Cow::Borrowed(batch), view.max_timestamp(), -1, now_ms);
        };
        let view = sole_batch(batch, produce_version)?;
        let config = self.topic.config.load();
        let validated = validate(&view, &rules(&config, now_ms))?;
        let log_append_time_ms = if config.log_append_time { now_ms } else { -1 };
        let bytes = stored(&view, &validated, &config)?;
        self.prepared(&view, bytes, validated.max_timestamp, log_append_time_ms, now_ms)
    }

    /// `view` is what `bytes` hold, or held before their codec or timestamps were changed.
    pub(super) fn prepared<'a>(
        &self,
        view: &BatchView<'_>,
        bytes: Cow<'a, [u8]>,
        max_timestamp_ms: i64,
        log_append_time_ms: i64,
        now_ms: i64,
    ) -> Result<Prepared<'a>, AppendRefused> {
        let tag = Tag::of(view, self.leader_epoch);
        let tag = tag.map_err(|error| AppendRefused::new(ErrorCode::InvalidRecord, error.to_string()))?;
        let last_offset_delta = view.last_offset_delta();
        Ok(Prepared { bytes, tag, last_offset_delta, max_timestamp_ms, log_append_time_ms, now_ms })
    }

    /// What a log that does not take a record means. One that will take none ever again ends the leadership:
    /// state is never patched after a failure.
    fn refused(&self, state: &mut PartitionState, error: &AppendError) -> AppendRefused {
        match error {
            AppendError::Full | AppendError::NoMemory => {
                AppendRefused::new(ErrorCode::NotEnoughReplicas, error.to_string())
            }
            AppendError::TooLarge { .. } => AppendRefused::new(ErrorCode::MessageTooLarge, error.to_string()),
            AppendError::Closed | AppendError::Failed(_) => {
                state.end();
                AppendRefused::not_leader()
            }
        }
    }
}

/// The answer to a batch that was appended before.
fn duplicate(state: &PartitionState, original: &CachedBatch) -> AppendedBatch {
    AppendedBatch {
        base_offset: Offset(original.base_offset()),
        log_append_time_ms: original.timestamp_ms,
        log_start: Offset(state.log_start),
        lsn: state.durable_at(original.last_offset),
    }
}

fn may_append(state: &PartitionState) -> Result<(), AppendRefused> {
    match state.leadership {
        Leadership::Full => Ok(()),
        Leadership::Parked | Leadership::Leaving => Err(AppendRefused::moving()),
        Leadership::Ended => Err(AppendRefused::not_leader()),
    }
}

fn rules(config: &TopicConfig, now_ms: i64) -> Rules {
    Rules {
        message_bytes_max: config.max_message_bytes as usize,
        segment_bytes: config.segment_bytes as usize,
        compacted: config.compact,
        log_append_time: config.log_append_time,
        now_ms,
        timestamp_before_max_ms: config.timestamp_before_max_ms,
        timestamp_after_max_ms: config.timestamp_after_max_ms,
        decoded_max: DECODED_MAX,
    }
}

/// The batch as it is to be stored: the client's own bytes wherever they can stay.
fn stored<'a>(
    view: &BatchView<'a>,
    validated: &Validated,
    config: &TopicConfig,
) -> Result<Cow<'a, [u8]>, AppendRefused> {
    let (codec, level) = match config.compression {
        None => (validated.codec, None),
        Some(codec) => target(codec),
    };
    let mut bytes = if codec == validated.codec && validated.contiguous {
        Cow::Borrowed(view.bytes())
    } else {
        let size_max = config.max_message_bytes.min(config.segment_bytes) as usize;
        let rebuilt = rebuild(view, codec, level, size_max, DECODED_MAX).map_err(|error| match error {
            RebuildError::TooLarge(limit) if limit < config.max_message_bytes as usize => {
                AppendRefused::new(ErrorCode::RecordListTooLarge, error.to_string())
            }
            RebuildError::TooLarge(_) => AppendRefused::new(ErrorCode::MessageTooLarge, error.to_string()),
            RebuildError::Records(_) => AppendRefused::new(ErrorCode::InvalidRecord, error.to_string()),
        })?;
        Cow::Owned(rebuilt.to_vec())
    };
    if let Some((attributes, max_timestamp)) = validated.timestamp_fix {
        patch_timestamp(bytes.to_mut(), attributes.with_codec(codec), max_timestamp);
    }
    Ok(bytes)
}

fn target(codec: Codec) -> (protocol::batch::Codec, Option<i32>) {
    match codec {
        Codec::Uncompressed => (protocol::batch::Codec::None, None),
        Codec::Gzip(level) => (protocol::batch::Codec::Gzip, Some(level)),
        Codec::Snappy => (protocol::batch::Codec::Snappy, None),
        Codec::Lz4(level) => (protocol::batch::Codec::Lz4, Some(level)),
        Codec::Zstd(level) => (protocol::batch::Codec::Zstd, Some(level)),
    }
}
