//! What a broker checks of a batch that a client wants to append, in Kafka's order and with Kafka's codes.
//! One pass over the records, nothing allocated unless a record is at fault.

use std::borrow::Cow;

use super::codec::Codec;
use super::records::{RecordsError, expect_end, read_head, skip_body, timestamp_of};
use super::stream::{Source, Walk, decode};
use super::{Attributes, BatchError, BatchView, NO_TIMESTAMP};
use crate::errors::ErrorCode;

/// Most records at fault that one rejection lists; Kafka lists all, we bound the response.
pub const RECORD_ERRORS_MAX: usize = 1000;
/// Default for [`Rules::decoded_max`]. Kafka has no limit; this one bounds the time one batch can take.
pub const DECODED_MAX: u64 = 1 << 30;

/// A topic's rules for batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `max.message.bytes`: largest batch in bytes, header included.
    pub message_bytes_max: usize,
    /// `segment.bytes`.
    pub segment_bytes: usize,
    /// Whether `cleanup.policy` has `compact`: keys are required.
    pub compacted: bool,
    /// Whether `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
    /// Wall-clock time, milliseconds.
    pub now_ms: i64,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// Most bytes the records may decompress to.
    pub decoded_max: u64,
}

impl Rules {
    /// Kafka's defaults, at `now_ms`.
    #[must_use]
    pub fn defaults(now_ms: i64) -> Self {
        Self {
            message_bytes_max: 1_048_588,
            segment_bytes: 1 << 30,
            compacted: false,
            log_append_time: false,
            now_ms,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            decoded_max: DECODED_MAX,
        }
    }
}

/// A batch that may be appended, and what must be changed in it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validated {
    /// Codec the producer used.
    pub codec: Codec,
    /// Max timestamp the stored batch must have.
    pub max_timestamp: i64,
    /// Attributes and max timestamp for [`super::patch_timestamp`], unless the batch has them already.
    pub timestamp_fix: Option<(Attributes, i64)>,
    /// Whether relative offsets are 0, 1, 2 … . If not, the batch must go through [`super::rebuild`],
    /// as in Kafka, which mends batches of old clients this way.
    pub contiguous: bool,
}

/// One record at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Its index in the batch.
    pub index: i32,
    /// What is wrong with it.
    pub message: Cow<'static, str>,
}

/// Why a batch is refused. Nothing of it may be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}: {message}")]
pub struct Invalid {
    /// Code for the response.
    pub error: ErrorCode,
    /// Text for the response.
    pub message: Cow<'static, str>,
    /// Records at fault, at most [`RECORD_ERRORS_MAX`]; responses carry them from version 8 on.
    pub record_errors: Vec<RecordError>,
}

impl Invalid {
    fn new(error: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { error, message: message.into(), record_errors: Vec::new() }
    }

    fn record(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidRecord, message)
    }
}

impl From<BatchError> for Invalid {
    fn from(error: BatchError) -> Self {
        let code = match error {
            BatchError::Magic(_) => ErrorCode::InvalidRecord,
            BatchError::Truncated { .. } | BatchError::Length(_) => ErrorCode::CorruptMessage,
        };
        Self::new(code, error.to_string())
    }
}

impl From<RecordsError> for Invalid {
    fn from(error: RecordsError) -> Self {
        Self::record(error.to_string())
    }
}

/// The one batch of a partition in a produce request of version `api_version`: exactly one, of format v2, with
/// a codec that this version allows.
///
/// Difference to Kafka: a partial batch behind the first is refused, not cut off and forgotten.
pub fn sole_batch(records: &[u8], api_version: i16) -> Result<BatchView<'_>, Invalid> {
    if records.is_empty() {
        return Err(Invalid::record("a produce request needs exactly one record batch per partition"));
    }
    let (batch, rest) = BatchView::split_first(records)?;
    if !rest.is_empty() {
        return Err(Invalid::record("a produce request may hold only one record batch per partition"));
    }
    match batch.attributes().codec() {
        Some(Codec::Zstd) if api_version < 7 => {
            Err(Invalid::new(ErrorCode::UnsupportedCompressionType, "zstd needs version 7 of the produce request"))
        }
        _ => Ok(batch),
    }
}

/// Checks everything about `batch` that does not depend on the partition's state.
///
/// Errors: `INVALID_RECORD`, `MESSAGE_TOO_LARGE`, `CORRUPT_MESSAGE`, `INVALID_TIMESTAMP`,
/// `RECORD_LIST_TOO_LARGE`, in the order of Kafka's checks.
/// Difference to Kafka: a codec id that does not exist, or records that do not decompress, are
/// `INVALID_RECORD`, where Kafka answers `UNKNOWN_SERVER_ERROR`.
pub fn validate(batch: &BatchView<'_>, rules: &Rules) -> Result<Validated, Invalid> {
    check_header(batch, rules)?;
    let codec = batch.attributes().codec().ok_or_else(|| Invalid::from(RecordsError::UnknownCodec))?;
    let check = RecordCheck { batch, rules, errors: Vec::new(), bad_timestamp: false };
    let seen = decode(codec, batch.payload(), rules.decoded_max, check).map_err(RecordsError::from)??;
    if batch.size() > rules.segment_bytes {
        let message = format!("the batch of {} bytes exceeds segment.bytes, {}", batch.size(), rules.segment_bytes);
        return Err(Invalid::new(ErrorCode::RecordListTooLarge, message));
    }
    let max_timestamp = if rules.log_append_time { rules.now_ms } else { seen.max_timestamp };
    let attributes = batch.attributes().with_log_append_time(rules.log_append_time);
    let fix_needed = attributes != batch.attributes() || max_timestamp != batch.max_timestamp();
    Ok(Validated {
        codec,
        max_timestamp,
        timestamp_fix: fix_needed.then_some((attributes, max_timestamp)),
        contiguous: seen.contiguous,
    })
}

fn check_header(batch: &BatchView<'_>, rules: &Rules) -> Result<(), Invalid> {
    if batch.base_offset() != 0 {
        return Err(Invalid::record(format!("the base offset must be 0, it is {}", batch.base_offset())));
    }
    if batch.size() > rules.message_bytes_max {
        let message =
            format!("the batch of {} bytes exceeds max.message.bytes, {}", batch.size(), rules.message_bytes_max);
        return Err(Invalid::new(ErrorCode::MessageTooLarge, message));
    }
    if !batch.is_valid() {
        let message = format!("stored checksum {:#010x}, computed {:#010x}", batch.crc(), batch.computed_crc());
        return Err(Invalid::new(ErrorCode::CorruptMessage, message));
    }
    let (count, last_delta) = (batch.record_count(), batch.last_offset_delta());
    if last_delta < 0 {
        return Err(Invalid::record(format!("the last offset delta is {last_delta}")));
    }
    if count <= 0 {
        return Err(Invalid::record(format!("the record count is {count}")));
    }
    if i64::from(count) != i64::from(last_delta) + 1 {
        return Err(Invalid::record(format!("{count} records do not match the last offset delta {last_delta}")));
    }
    if batch.has_producer_id() && batch.base_sequence() < 0 {
        let (producer, sequence) = (batch.producer_id(), batch.base_sequence());
        return Err(Invalid::record(format!("sequence {sequence} of producer {producer} is negative")));
    }
    if batch.attributes().is_control() {
        return Err(Invalid::record("clients may not write control records"));
    }
    Ok(())
}

/// What the pass over the records found out.
struct Seen {
    max_timestamp: i64,
    contiguous: bool,
}

struct RecordCheck<'b> {
    batch: &'b BatchView<'b>,
    rules: &'b Rules,
    errors: Vec<RecordError>,
    bad_timestamp: bool,
}

impl Walk for RecordCheck<'_> {
    type Output = Result<Seen, Invalid>;

    fn walk<S: Source>(mut self, source: &mut S) -> Self::Output {
        let mut seen = Seen { max_timestamp: NO_TIMESTAMP, contiguous: true };
        for index in 0..self.batch.record_count() {
            let head = read_head(source)?;
            let timestamp = timestamp_of(self.batch, head.timestamp_delta);
            seen.max_timestamp = seen.max_timestamp.max(timestamp);
            seen.contiguous &= head.offset_delta == index;
            self.check_record(index, timestamp, head.key_len.is_some());
            skip_body(source, &head)?;
        }
        expect_end(source)?;
        self.verdict().map(|()| seen)
    }
}

impl RecordCheck<'_> {
    #[inline]
    fn check_record(&mut self, index: i32, timestamp: i64, has_key: bool) {
        if self.rules.compacted && !has_key {
            self.fault(index, || Cow::Borrowed("a compacted topic takes no record without a key"));
        } else if !self.rules.log_append_time && timestamp != NO_TIMESTAMP {
            let age = self.rules.now_ms.wrapping_sub(timestamp);
            if age > self.rules.timestamp_before_max_ms || age.wrapping_neg() > self.rules.timestamp_after_max_ms {
                self.bad_timestamp = true;
                let rules = *self.rules;
                self.fault(index, || Cow::Owned(out_of_range(&rules, timestamp)));
            }
        } else if self.batch.attributes().is_log_append_time() {
            self.bad_timestamp = true;
            self.fault(index, || Cow::Borrowed("a producer may not set the timestamp type LogAppendTime"));
        }
    }

    #[cold]
    fn fault(&mut self, index: i32, message: impl FnOnce() -> Cow<'static, str>) {
        if self.errors.len() < RECORD_ERRORS_MAX {
            self.errors.push(RecordError { index, message: message() });
        }
    }

    fn verdict(self) -> Result<(), Invalid> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let (error, message) = if self.bad_timestamp {
            (ErrorCode::InvalidTimestamp, "one or more records have an invalid timestamp")
        } else {
            (ErrorCode::InvalidRecord, "one or more records are invalid")
        };
        Err(Invalid { error, message: Cow::Borrowed(message), record_errors: self.errors })
    }
}

fn out_of_range(rules: &Rules, timestamp: i64) -> String {
    let earliest = rules.now_ms.saturating_sub(rules.timestamp_before_max_ms);
    let latest = rules.now_ms.saturating_add(rules.timestamp_after_max_ms);
    format!("timestamp {timestamp} is outside [{earliest}, {latest}]")
}
