//! Header of one record, in a block and in a segment's index: 72 bytes.
//!
//! ```text
//!  0 stream u64 · 8 stream epoch u64 · 16 base offset i64 · 24 next offset i64 · 32 max timestamp i64, ms
//! 40 tag [24] · 64 payload length u32 · 68 kind u8 · 69 zero [3]
//! ```
//! In a block the payload follows, padded with zeros to a multiple of 8.

use common::{Offset, StreamEpoch, StreamId};

use super::{Put, Take};
use crate::record::{RecordKind, RecordMeta};

pub(crate) const RECORD_HEADER_BYTES: usize = 72;

/// Bytes a record takes in its block.
pub(crate) const fn record_bytes(payload: usize) -> usize {
    RECORD_HEADER_BYTES + payload.next_multiple_of(8)
}

pub(crate) fn encode(meta: &RecordMeta, payload_len: u32, out: &mut [u8]) {
    let mut put = Put::new(&mut out[..RECORD_HEADER_BYTES]);
    put.u64(meta.stream.0).u64(meta.stream_epoch.0).i64(meta.base_offset.0).i64(meta.next_offset.0);
    put.i64(meta.max_timestamp_ms).array(&meta.tag).u32(payload_len).u8(meta.kind as u8).zeros();
}

/// Reads a record header and its payload length; `None` when it is cut short or of an unknown kind.
pub(crate) fn decode(take: &mut Take<'_>) -> Option<(RecordMeta, u32)> {
    let stream = StreamId(take.u64()?);
    let stream_epoch = StreamEpoch(take.u64()?);
    let (base_offset, next_offset) = (Offset(take.i64()?), Offset(take.i64()?));
    let max_timestamp_ms = take.i64()?;
    let tag = take.array()?;
    let payload_len = take.u32()?;
    let kind = match take.array::<4>()? {
        [0, 0, 0, 0] => RecordKind::Data,
        [1, 0, 0, 0] => RecordKind::Checkpoint,
        _ => return None,
    };
    let meta = RecordMeta { stream, stream_epoch, kind, base_offset, next_offset, max_timestamp_ms, tag };
    Some((meta, payload_len))
}
