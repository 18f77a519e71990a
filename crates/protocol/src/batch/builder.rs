//! Batches that the broker writes itself: coordinator records, control batches, and client batches whose
//! codec or relative offsets must change.

use std::io::{self, Write as _};

use bytes::Bytes;

use super::codec::{Bounded, Codec, CodecError, Encoder};
use super::records::{Head, RecordsError, expect_end, read_head};
use super::stream::{Source, Walk, decode};
use super::varint::{put_varint, put_varlong};
use super::{
    ATTRIBUTES_AT, Attributes, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BatchView, HEADER_LEN, LAST_OFFSET_DELTA_AT,
    LENGTH_AT, LOG_OVERHEAD, MAGIC_AT, MAGIC_V2, MAX_TIMESTAMP_AT, NO_PRODUCER_ID, NO_TIMESTAMP, PRODUCER_EPOCH_AT,
    PRODUCER_ID_AT, RECORD_COUNT_AT, patch_base_offset, patch_crc, patch_leader_epoch,
};

/// Collects records into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    records: Vec<u8>,
    body: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    attributes: Attributes,
    producer: (i64, i16, i32),
    codec: Codec,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty, uncompressed batch without a producer id.
    #[must_use]
    pub fn new() -> Self {
        Self {
            records: Vec::new(),
            body: Vec::new(),
            count: 0,
            base_timestamp: NO_TIMESTAMP,
            max_timestamp: NO_TIMESTAMP,
            attributes: Attributes::default(),
            producer: (NO_PRODUCER_ID, -1, -1),
            codec: Codec::None,
        }
    }

    /// Compresses the records when the batch is finished.
    #[must_use]
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Writes the batch in the name of a producer.
    #[must_use]
    pub fn with_producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// Sets attribute bits (transactional, control); codec bits are overwritten.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }

    /// Adds a record without headers.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.push_with_headers(timestamp, key, value, &[]);
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When a field exceeds 2³¹-1 bytes.
    pub fn push_with_headers(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.body.clear();
        self.body.push(0);
        put_varlong(&mut self.body, timestamp.wrapping_sub(self.base_timestamp));
        put_varint(&mut self.body, self.count);
        put_field(&mut self.body, key);
        put_field(&mut self.body, value);
        put_varint(&mut self.body, field_len(headers.len()));
        for (key, value) in headers {
            put_field(&mut self.body, Some(key));
            put_field(&mut self.body, *value);
        }
        put_varint(&mut self.records, field_len(self.body.len()));
        self.records.extend_from_slice(&self.body);
        self.count += 1;
    }

    /// Number of records so far.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch so far, before compression.
    #[must_use]
    pub fn size(&self) -> usize {
        HEADER_LEN + self.records.len()
    }

    /// The batch, with base offset and leader epoch as given.
    ///
    /// # Panics
    /// When there is no record, or when the batch exceeds 2³¹-1 bytes.
    #[must_use]
    pub fn build(self, base_offset: i64, leader_epoch: i32) -> Bytes {
        assert!(self.count > 0, "a batch has at least one record");
        let mut header = [0_u8; HEADER_LEN];
        let fields = HeaderFields {
            attributes: self.attributes.with_codec(self.codec),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer.0,
            producer_epoch: self.producer.1,
            base_sequence: self.producer.2,
            record_count: self.count,
        };
        fields.write(&mut header);
        let mut out = if self.codec == Codec::None {
            let mut out = Vec::with_capacity(HEADER_LEN + self.records.len());
            out.extend_from_slice(&header);
            out.extend_from_slice(&self.records);
            out
        } else {
            let mut encoder = Encoder::new(self.codec, None, Bounded::new(header.to_vec(), usize::MAX))
                .expect("an encoder in memory starts");
            encoder.write_all(&self.records).expect("memory takes every byte");
            encoder.finish().expect("memory takes every byte")
        };
        seal(&mut out);
        patch_base_offset(&mut out, base_offset);
        patch_leader_epoch(&mut out, leader_epoch);
        Bytes::from(out)
    }
}

struct HeaderFields {
    attributes: Attributes,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    record_count: i32,
}

impl HeaderFields {
    fn write(&self, header: &mut [u8; HEADER_LEN]) {
        header[MAGIC_AT] = MAGIC_V2 as u8;
        header[ATTRIBUTES_AT..LAST_OFFSET_DELTA_AT].copy_from_slice(&self.attributes.0.to_be_bytes());
        header[LAST_OFFSET_DELTA_AT..BASE_TIMESTAMP_AT].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        header[BASE_TIMESTAMP_AT..MAX_TIMESTAMP_AT].copy_from_slice(&self.base_timestamp.to_be_bytes());
        header[MAX_TIMESTAMP_AT..PRODUCER_ID_AT].copy_from_slice(&self.max_timestamp.to_be_bytes());
        header[PRODUCER_ID_AT..PRODUCER_EPOCH_AT].copy_from_slice(&self.producer_id.to_be_bytes());
        header[PRODUCER_EPOCH_AT..BASE_SEQUENCE_AT].copy_from_slice(&self.producer_epoch.to_be_bytes());
        header[BASE_SEQUENCE_AT..RECORD_COUNT_AT].copy_from_slice(&self.base_sequence.to_be_bytes());
        header[RECORD_COUNT_AT..].copy_from_slice(&self.record_count.to_be_bytes());
    }
}

/// Sets length and checksum of a batch that is whole but for those.
fn seal(batch: &mut [u8]) {
    let length = field_len(batch.len() - LOG_OVERHEAD);
    batch[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    patch_crc(batch);
}

fn field_len(len: usize) -> i32 {
    i32::try_from(len).expect("fields of a batch are smaller than 2 GiB")
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, field_len(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

/// Why a batch could not be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The new batch would exceed the limit: `MESSAGE_TOO_LARGE`.
    #[error("the rebuilt batch exceeds {0} bytes")]
    TooLarge(usize),
}

/// The same records in another codec, with relative offsets 0, 1, 2 …: what `compression.type` other than
/// `producer` asks for. Everything else in the header stays. `level` is the codec's own, `None` its default.
/// At most `decoded_max` bytes are decompressed, and the new batch has at most `size_max` bytes.
pub fn rebuild(
    batch: &BatchView<'_>,
    codec: Codec,
    level: Option<i32>,
    size_max: usize,
    decoded_max: u64,
) -> Result<Bytes, RebuildError> {
    let from = batch.attributes().codec().ok_or(RecordsError::UnknownCodec)?;
    let out = Bounded::new(batch.bytes()[..HEADER_LEN].to_vec(), size_max.min(i32::MAX as usize));
    let too_large = |_| RebuildError::TooLarge(size_max);
    let encoder = Encoder::new(codec, level, out).map_err(too_large)?;
    let copy = Copy { count: batch.record_count(), encoder, size_max };
    let encoder = decode(from, batch.payload(), decoded_max, copy).map_err(RecordsError::from)??;
    let mut out = encoder.finish().map_err(too_large)?;
    let attributes = batch.attributes().with_codec(codec);
    out[ATTRIBUTES_AT..LAST_OFFSET_DELTA_AT].copy_from_slice(&attributes.0.to_be_bytes());
    seal(&mut out);
    Ok(Bytes::from(out))
}

struct Copy {
    count: i32,
    encoder: Encoder,
    size_max: usize,
}

impl Walk for Copy {
    type Output = Result<Encoder, RebuildError>;

    fn walk<S: Source>(mut self, source: &mut S) -> Self::Output {
        let mut head_bytes = Vec::with_capacity(32);
        for index in 0..self.count {
            let head = read_head(source)?;
            let rest = head.body_len - head.consumed;
            head_bytes.clear();
            put_head(&mut head_bytes, &head, index);
            self.write(&head_bytes)?;
            self.copy(source, rest)?;
        }
        expect_end(source)?;
        Ok(self.encoder)
    }
}

/// The head of a record again, with another relative offset.
fn put_head(out: &mut Vec<u8>, head: &Head, offset_delta: i32) {
    let key_len = head.key_len.map_or(-1, field_len);
    let rest = head.body_len - head.consumed;
    let mut fields = Vec::with_capacity(24);
    fields.push(head.attributes);
    put_varlong(&mut fields, head.timestamp_delta);
    put_varint(&mut fields, offset_delta);
    put_varint(&mut fields, key_len);
    put_varint(out, field_len(fields.len() + rest));
    out.extend_from_slice(&fields);
}

impl Copy {
    fn write(&mut self, bytes: &[u8]) -> Result<(), RebuildError> {
        self.encoder.write_all(bytes).map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::FileTooLarge => RebuildError::TooLarge(self.size_max),
            _ => RebuildError::Records(RecordsError::Codec(CodecError::Malformed("re-encoded"))),
        })
    }

    fn copy<S: Source>(&mut self, source: &mut S, mut count: usize) -> Result<(), RebuildError> {
        while count > 0 {
            let bytes = source.peek_some(count).map_err(RecordsError::from)?;
            let len = bytes.len();
            if len == 0 {
                return Err(RecordsError::Short.into());
            }
            self.encoder.write_all(bytes).map_err(|_| RebuildError::TooLarge(self.size_max))?;
            source.advance(len);
            count -= len;
        }
        Ok(())
    }
}
