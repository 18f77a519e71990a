//! Records inside a batch: walking them one by one, and finding one by timestamp.
//!
//! Record: length varint (of what follows) · attributes i8 · timestamp delta varlong · offset delta varint ·
//! key length varint, key · value length varint, value · header count varint · headers {key length
//! varint, key, value length varint, value}. A negative length is a null; a header key is never null.

use std::ops::ControlFlow;

use super::codec::CodecError;
use super::stream::{Source, Walk, decode};
use super::varint::{VARINT_MAX, VARLONG_MAX, varint, varlong};
use super::{BatchView, NO_TIMESTAMP};

/// Most bytes of a record before its key: length, attributes, timestamp and offset delta, key length.
const HEAD_MAX: usize = VARINT_MAX + 1 + VARLONG_MAX + VARINT_MAX + VARINT_MAX;

/// Why records could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// The codec's id does not exist.
    #[error("unknown compression codec")]
    UnknownCodec,
    /// The compressed bytes are malformed or too many come out.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The bytes end inside a record, or before the last of as many records as the header says.
    #[error("the batch ends inside a record")]
    Short,
    /// A record contradicts itself.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
    /// Bytes follow the last of as many records as the header says.
    #[error("the batch holds more than its record count")]
    Surplus,
}

/// One record, borrowed from the batch or from the decoder's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Kafka offset.
    pub offset: i64,
    /// Milliseconds; the batch's max timestamp if that is the time of the append.
    pub timestamp: i64,
    /// Key, `None` for null.
    pub key: Option<&'a [u8]>,
    /// Value, `None` for null (a tombstone).
    pub value: Option<&'a [u8]>,
    headers: Headers<'a>,
}

impl<'a> Record<'a> {
    /// The headers in order: key and value, `None` for a null value.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }
}

/// The headers of one record. They were checked when the record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    left: i32,
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let (key, rest) = field(self.rest).ok()?;
        let (value, rest) = field(rest).ok()?;
        self.rest = rest;
        Some((key?, value))
    }
}

/// What stands before a record's key.
pub(super) struct Head {
    /// Bytes of the record behind its length field.
    pub(super) body_len: usize,
    /// Bytes of those that come before the key.
    pub(super) consumed: usize,
    /// Bytes of the key, `None` for null.
    pub(super) key_len: Option<usize>,
    pub(super) attributes: u8,
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
}

/// Reads the head of the next record and consumes it.
#[inline]
pub(super) fn read_head<S: Source>(source: &mut S) -> Result<Head, RecordsError> {
    let bytes = source.peek(HEAD_MAX)?;
    let (length, length_len) = varint(bytes).ok_or(RecordsError::Short)?;
    let body = &bytes[length_len..];
    let body_len = usize::try_from(length).map_err(|_| RecordsError::Malformed("negative length"))?;
    let attributes = *body.first().ok_or(RecordsError::Short)?;
    let mut at = 1;
    let (timestamp_delta, len) = varlong(&body[at..]).ok_or(RecordsError::Malformed("timestamp delta"))?;
    at += len;
    let (offset_delta, len) = varint(&body[at..]).ok_or(RecordsError::Malformed("offset delta"))?;
    at += len;
    let (key_len, len) = varint(&body[at..]).ok_or(RecordsError::Malformed("key length"))?;
    at += len;
    let key_len = usize::try_from(key_len).ok();
    if at + key_len.unwrap_or(0) > body_len {
        return Err(RecordsError::Malformed("key exceeds record"));
    }
    source.advance(length_len + at);
    Ok(Head { body_len, consumed: at, key_len, attributes, timestamp_delta, offset_delta })
}

/// Checks and consumes a record's key, value and headers, whose head was just read.
#[inline]
pub(super) fn skip_body<S: Source>(source: &mut S, head: &Head) -> Result<(), RecordsError> {
    let mut left = head.body_len - head.consumed;
    if let Some(key_len) = head.key_len {
        skip(source, key_len, &mut left)?;
    }
    if let Some(value_len) = length(source, &mut left, "value length")? {
        skip(source, value_len, &mut left)?;
    }
    let headers = length(source, &mut left, "header count")?.ok_or(RecordsError::Malformed("negative header count"))?;
    if headers > left {
        return Err(RecordsError::Malformed("header count exceeds record"));
    }
    for _ in 0..headers {
        let key_len = length(source, &mut left, "header key")?.ok_or(RecordsError::Malformed("null header key"))?;
        skip(source, key_len, &mut left)?;
        if let Some(value_len) = length(source, &mut left, "header value")? {
            skip(source, value_len, &mut left)?;
        }
    }
    if left == 0 { Ok(()) } else { Err(RecordsError::Malformed("length exceeds content")) }
}

#[inline]
fn length<S: Source>(source: &mut S, left: &mut usize, what: &'static str) -> Result<Option<usize>, RecordsError> {
    let bytes = source.peek(VARINT_MAX.min(*left))?;
    let (value, len) = varint(bytes).ok_or(RecordsError::Malformed(what))?;
    source.advance(len);
    *left -= len;
    Ok(usize::try_from(value).ok())
}

#[inline]
fn skip<S: Source>(source: &mut S, count: usize, left: &mut usize) -> Result<(), RecordsError> {
    *left = left.checked_sub(count).ok_or(RecordsError::Malformed("field exceeds record"))?;
    if source.skip(count)? { Ok(()) } else { Err(RecordsError::Short) }
}

/// A length-prefixed field at the start of `bytes`, and what follows it.
fn field(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), RecordsError> {
    let (len, len_len) = varint(bytes).ok_or(RecordsError::Malformed("field length"))?;
    let rest = &bytes[len_len..];
    match usize::try_from(len) {
        Err(_) => Ok((None, rest)),
        Ok(len) => {
            let (field, rest) = rest.split_at_checked(len).ok_or(RecordsError::Malformed("field exceeds record"))?;
            Ok((Some(field), rest))
        }
    }
}

/// The timestamp of a record with this delta.
pub(super) fn timestamp_of(batch: &BatchView<'_>, delta: i64) -> i64 {
    if batch.attributes().is_log_append_time() {
        batch.max_timestamp()
    } else {
        batch.base_timestamp().wrapping_add(delta)
    }
}

/// The offset of a record with this delta.
fn offset_of(batch: &BatchView<'_>, delta: i32) -> i64 {
    batch.base_offset().wrapping_add(i64::from(delta))
}

/// Checks that nothing follows the last record.
pub(super) fn expect_end<S: Source>(source: &mut S) -> Result<(), RecordsError> {
    if source.peek_some(1)?.is_empty() { Ok(()) } else { Err(RecordsError::Surplus) }
}

/// Calls `visit` with every record of `batch` until it breaks. At most `decoded_max` bytes are decompressed.
/// Memory: the largest record, besides a window.
pub fn for_each_record<B>(
    batch: &BatchView<'_>,
    decoded_max: u64,
    visit: impl FnMut(Record<'_>) -> ControlFlow<B>,
) -> Result<ControlFlow<B>, RecordsError> {
    let codec = batch.attributes().codec().ok_or(RecordsError::UnknownCodec)?;
    decode(codec, batch.payload(), decoded_max, Visit { batch, visit })?
}

struct Visit<'b, F> {
    batch: &'b BatchView<'b>,
    visit: F,
}

impl<B, F: FnMut(Record<'_>) -> ControlFlow<B>> Walk for Visit<'_, F> {
    type Output = Result<ControlFlow<B>, RecordsError>;

    fn walk<S: Source>(mut self, source: &mut S) -> Self::Output {
        for _ in 0..self.batch.record_count() {
            let head = read_head(source)?;
            let left = head.body_len - head.consumed;
            let bytes = source.peek(left)?;
            if bytes.len() < left {
                return Err(RecordsError::Short);
            }
            let flow = (self.visit)(parse_body(self.batch, &head, bytes)?);
            if flow.is_break() {
                return Ok(flow);
            }
            source.advance(left);
        }
        expect_end(source)?;
        Ok(ControlFlow::Continue(()))
    }
}

fn parse_body<'a>(batch: &BatchView<'_>, head: &Head, bytes: &'a [u8]) -> Result<Record<'a>, RecordsError> {
    // The head was checked to leave room for the key.
    let (key, rest) = bytes.split_at(head.key_len.unwrap_or(0));
    let (value, rest) = field(rest)?;
    let (count, count_len) = varint(rest).ok_or(RecordsError::Malformed("header count"))?;
    if count < 0 {
        return Err(RecordsError::Malformed("negative header count"));
    }
    let headers = Headers { left: count, rest: &rest[count_len..] };
    let mut rest = headers.rest;
    for _ in 0..count {
        let (key, after) = field(rest)?;
        key.ok_or(RecordsError::Malformed("null header key"))?;
        (_, rest) = field(after)?;
    }
    if !rest.is_empty() {
        return Err(RecordsError::Malformed("length exceeds content"));
    }
    Ok(Record {
        offset: offset_of(batch, head.offset_delta),
        timestamp: timestamp_of(batch, head.timestamp_delta),
        key: head.key_len.map(|_| key),
        value,
        headers,
    })
}

/// Offset and timestamp of the first record at or after `target`, if there is one.
pub fn find_timestamp(
    batch: &BatchView<'_>,
    target: i64,
    decoded_max: u64,
) -> Result<Option<(i64, i64)>, RecordsError> {
    if batch.max_timestamp() < target {
        return Ok(None);
    }
    scan_timestamps(batch, decoded_max, |found: &mut Option<(i64, i64)>, offset, timestamp| {
        if timestamp >= target {
            *found = Some((offset, timestamp));
        }
        found.is_some()
    })
}

/// Offset and timestamp of the first record that has the largest timestamp, if any record has one.
pub fn find_max_timestamp(batch: &BatchView<'_>, decoded_max: u64) -> Result<Option<(i64, i64)>, RecordsError> {
    scan_timestamps(batch, decoded_max, |best: &mut Option<(i64, i64)>, offset, timestamp| {
        if timestamp > best.map_or(NO_TIMESTAMP, |(_, max)| max) {
            *best = Some((offset, timestamp));
        }
        false
    })
}

/// Feeds offsets and timestamps to `step` until it says that it is done. Keys and values are skipped, never held.
fn scan_timestamps<F>(batch: &BatchView<'_>, decoded_max: u64, step: F) -> Result<Option<(i64, i64)>, RecordsError>
where
    F: FnMut(&mut Option<(i64, i64)>, i64, i64) -> bool,
{
    struct Scan<'b, F> {
        batch: &'b BatchView<'b>,
        step: F,
    }

    impl<F: FnMut(&mut Option<(i64, i64)>, i64, i64) -> bool> Walk for Scan<'_, F> {
        type Output = Result<Option<(i64, i64)>, RecordsError>;

        fn walk<S: Source>(mut self, source: &mut S) -> Self::Output {
            let mut found = None;
            for _ in 0..self.batch.record_count() {
                let head = read_head(source)?;
                let offset = offset_of(self.batch, head.offset_delta);
                if (self.step)(&mut found, offset, timestamp_of(self.batch, head.timestamp_delta)) {
                    break;
                }
                skip_body(source, &head)?;
            }
            Ok(found)
        }
    }

    let codec = batch.attributes().codec().ok_or(RecordsError::UnknownCodec)?;
    decode(codec, batch.payload(), decoded_max, Scan { batch, step })?
}
