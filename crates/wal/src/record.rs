//! A record as callers see it: what it belongs to, and where it lies.

use std::sync::Arc;

use common::{Lsn, Offset, StreamEpoch, StreamId};

use crate::block::Block;

/// Bytes of the opaque tag that travels with each record (see [`RecordMeta::tag`]).
pub const TAG_BYTES: usize = 24;

/// What a record is to the layer above; the log stores it and looks no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Data of a stream.
    Data = 0,
    /// A checkpoint of what follows from the stream's data below its base offset.
    Checkpoint = 1,
}

/// Description of a record, stored beside its payload in the log and in the index of each segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMeta {
    /// The stream this record belongs to.
    pub stream: StreamId,
    /// The epoch under which the writer holds the stream open.
    pub stream_epoch: StreamEpoch,
    /// Data or checkpoint.
    pub kind: RecordKind,
    /// First offset of the record (data), or the offset that the checkpoint describes (exclusive end of
    /// what it covers).
    pub base_offset: Offset,
    /// Exclusive end: the next offset after the record. Equals `base_offset` for a checkpoint.
    pub next_offset: Offset,
    /// Largest timestamp in the record, milliseconds; -1 when none.
    pub max_timestamp_ms: i64,
    /// Opaque to the log and to the stream layer. The broker keeps here what it needs to rebuild a
    /// partition's state without reading payloads: recovery hands tags out, payloads stay on disk.
    pub tag: [u8; TAG_BYTES],
}

/// Where an appended record lies.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The record is durable once the durable position reaches this (exclusive end of its bytes).
    pub end: Lsn,
    /// The block that holds it.
    pub block: Arc<Block>,
    /// First byte of the payload within the block.
    pub position: u32,
    /// Payload bytes.
    pub len: u32,
}

/// A record that recovery found on disk.
#[derive(Clone, Debug)]
pub struct RecordRef {
    /// Its description.
    pub meta: RecordMeta,
    /// The block that holds it, whose memory is absent until somebody reads it.
    pub block: Arc<Block>,
    /// First byte of the payload within the block.
    pub position: u32,
    /// Payload bytes.
    pub len: u32,
}
