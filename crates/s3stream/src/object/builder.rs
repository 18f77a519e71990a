//! Assembles one object as a list of `Bytes`: payloads are not copied unless they are small.

use bytes::{Bytes, BytesMut};
use common::{Offset, StreamEpoch, StreamId};

use crate::format::data_block::{RecordEntry, encode_table};
use crate::format::footer::Footer;
use crate::format::object_index::{BlockEntry, CheckpointIndexEntry, ObjectIndex, SliceEntry};
use crate::format::{Crc, crc32c};
use crate::ports::ObjectDescriptor;
use crate::stream::RecordHead;

/// Payload bytes at which a data block is closed.
pub(crate) const DATA_BLOCK_BYTES: usize = 1024 * 1024;
/// Pieces below this are copied together: a write or a frame of its own would cost more than the copy.
const COPIED_BELOW_BYTES: usize = 8 * 1024;

/// See the module. Slices come in the order of (stream, start); records in offset order.
#[derive(Default)]
pub(crate) struct ObjectBuilder {
    parts: Vec<Bytes>,
    /// Small pieces that wait to become one part.
    copied: BytesMut,
    position: u64,
    index: ObjectIndex,
    open: OpenBlock,
    checkpoints: Vec<(StreamId, Offset, Bytes)>,
}

#[derive(Default)]
struct OpenBlock {
    position: u64,
    payload_bytes: usize,
    crc: Option<Crc>,
    records: Vec<RecordEntry>,
}

/// An object ready to be put.
pub(crate) struct BuiltObject {
    pub(crate) parts: Vec<Bytes>,
    pub(crate) descriptor: ObjectDescriptor,
}

impl ObjectBuilder {
    /// Starts a slice, ending the one before.
    pub(crate) fn begin_slice(&mut self, stream: StreamId, epoch: StreamEpoch, start: Offset, end: Offset) {
        self.close_block();
        self.index.slices.push(SliceEntry { stream, epoch, start, end });
    }

    /// Adds a record to the slice.
    pub(crate) fn record(&mut self, head: RecordHead, payload: Bytes) {
        debug_assert_eq!(head.len as usize, payload.len());
        if self.open.payload_bytes + payload.len() > DATA_BLOCK_BYTES {
            self.close_block();
        }
        if self.open.records.is_empty() {
            self.open.position = self.position;
        }
        let position = u32::try_from(self.open.payload_bytes).expect("a block is closed long before 4 GiB");
        self.open.crc.get_or_insert_with(Crc::new).update(&payload);
        self.open.payload_bytes += payload.len();
        self.open.records.push(RecordEntry { head, position });
        self.push(payload);
    }

    /// Adds a checkpoint.
    pub(crate) fn checkpoint(&mut self, stream: StreamId, offset: Offset, payload: Bytes) {
        self.checkpoints.push((stream, offset, payload));
    }

    fn push(&mut self, piece: Bytes) {
        self.position += piece.len() as u64;
        if piece.len() < COPIED_BELOW_BYTES {
            self.copied.extend_from_slice(&piece);
            return;
        }
        self.flush_copied();
        self.parts.push(piece);
    }

    fn flush_copied(&mut self) {
        if !self.copied.is_empty() {
            self.parts.push(self.copied.split().freeze());
        }
    }

    fn close_block(&mut self) {
        let open = std::mem::take(&mut self.open);
        let (Some(first), Some(last), Some(slice)) =
            (open.records.first(), open.records.last(), self.index.slices.last())
        else {
            return;
        };
        let (stream, base, end) = (slice.stream, first.head.base_offset, last.head.next_offset);
        let max_timestamp_ms = open.records.iter().map(|record| record.head.max_timestamp_ms).max().unwrap_or(-1);
        let mut table = BytesMut::new();
        encode_table(&open.records, &mut table);
        let size = u32::try_from(open.payload_bytes + table.len()).expect("a block is far below 4 GiB");
        self.index.blocks.push(BlockEntry {
            stream,
            base,
            end,
            position: open.position,
            size,
            records: u32::try_from(open.records.len()).expect("a block is far below 2^32 records"),
            max_timestamp_ms,
            crc: open.crc.as_ref().map_or_else(|| crc32c(&[]), Crc::finish),
        });
        self.push(table.freeze());
    }

    /// Closes the object: `descriptor` with its size filled in.
    pub(crate) fn finish(mut self, node: common::NodeId, mut descriptor: ObjectDescriptor) -> BuiltObject {
        self.close_block();
        for (stream, offset, payload) in std::mem::take(&mut self.checkpoints) {
            self.index.checkpoints.push(CheckpointIndexEntry {
                stream,
                offset,
                position: self.position,
                len: u32::try_from(payload.len()).expect("a checkpoint fits a block of the log"),
                crc: crc32c(&payload),
            });
            self.push(payload);
        }
        // Invariant: what is put can be read. An index that readers refuse would lose what it lists, once the log is trimmed.
        self.index.validate(self.position).expect("slices come in the order of streams and offsets");
        let count = |len: usize| u32::try_from(len).expect("an object holds fewer than 2^32 entries");
        let mut index = BytesMut::new();
        self.index.encode(&mut index);
        let footer = Footer {
            node,
            node_epoch: descriptor.node_epoch,
            object: descriptor.id,
            attempt: descriptor.attempt,
            slices: count(self.index.slices.len()),
            blocks: count(self.index.blocks.len()),
            checkpoints: count(self.index.checkpoints.len()),
            index_position: self.position,
            index_crc: crc32c(&index),
        };
        footer.encode(&mut index);
        self.push(index.freeze());
        self.flush_copied();
        descriptor.size = self.position;
        BuiltObject { parts: self.parts, descriptor }
    }
}
