//! One small object, byte for byte, and what becomes of damaged ones.

use bytes::Bytes;
use common::{NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};

use super::data_block::DataBlock;
use super::footer::{FOOTER_BYTES, Footer};
use super::object_index::ObjectIndex;
use crate::inspect::inspect;
use crate::object::builder::ObjectBuilder;
use crate::ports::ObjectDescriptor;
use crate::stream::RecordHead;

fn head(base: i64, next: i64, len: u32) -> RecordHead {
    RecordHead {
        base_offset: Offset(base),
        next_offset: Offset(next),
        max_timestamp_ms: 1000 + base,
        len,
        tag: [base as u8; wal::TAG_BYTES],
    }
}

/// Two streams, three records, one checkpoint.
fn object() -> Bytes {
    let mut builder = ObjectBuilder::default();
    builder.begin_slice(StreamId(1), StreamEpoch(3), Offset(10), Offset(15));
    builder.record(head(10, 12, 5), Bytes::from_static(b"hello"));
    builder.record(head(12, 15, 2), Bytes::from_static(b", "));
    builder.begin_slice(StreamId(2), StreamEpoch(4), Offset(0), Offset(1));
    builder.record(head(0, 1, 5), Bytes::from_static(b"world"));
    builder.checkpoint(StreamId(2), Offset(1), Bytes::from_static(b"state"));
    let descriptor = ObjectDescriptor { id: ObjectId(7), node_epoch: NodeEpoch(5), attempt: 1, size: 0 };
    let built = builder.finish(NodeId(9), descriptor);
    let bytes = Bytes::from(built.parts.concat());
    assert_eq!(bytes.len() as u64, built.descriptor.size);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    let bytes = object();
    let expected: String = include_str!("golden.hex").split_whitespace().collect();
    assert_eq!(hex(&bytes), expected);
}

#[test]
fn decodes_what_was_encoded() {
    let bytes = object();
    let footer = Footer::decode(&bytes, bytes.len() as u64).expect("a footer");
    assert_eq!((footer.object, footer.attempt, footer.node), (ObjectId(7), 1, NodeId(9)));
    let start = footer.index_position as usize;
    let index = ObjectIndex::decode(&footer, &bytes[start..bytes.len() - FOOTER_BYTES]).expect("an index");
    assert_eq!((index.slices.len(), index.blocks.len(), index.checkpoints.len()), (2, 2, 1));
    let entry = index.blocks_of(StreamId(1))[0];
    let range = entry.position as usize..entry.end_position() as usize;
    let block = DataBlock::decode(&entry, &bytes.slice(range)).expect("a block");
    let payloads: Vec<Bytes> = block.records().iter().map(|record| block.payload(record)).collect();
    assert_eq!(payloads, [&b"hello"[..], b", "]);
    assert_eq!(block.records()[1].head, head(12, 15, 2));
    assert!(index.blocks_of(StreamId(3)).is_empty());
    let checkpoint = index.checkpoint_of(StreamId(2), Offset(1)).expect("a checkpoint");
    let at = checkpoint.position as usize;
    assert_eq!(&bytes[at..at + checkpoint.len as usize], b"state");
}

#[test]
fn every_flipped_bit_is_found() {
    let good = object();
    inspect(&good).expect("sound");
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << bit;
            assert!(inspect(&Bytes::from(bad)).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let good = object();
    for len in 0..good.len() {
        assert!(inspect(&good.slice(..len)).is_err(), "{len} bytes");
        assert!(inspect(&good.slice(good.len() - len..)).is_err(), "last {len} bytes");
    }
}

#[test]
fn counts_that_lie_are_refused_before_anything_is_allocated() {
    let good = object();
    for (field, value) in [(36, u32::MAX), (40, u32::MAX), (44, u32::MAX), (40, 0)] {
        let mut bad = good.to_vec();
        let footer = bad.len() - FOOTER_BYTES;
        bad[footer + field..footer + field + 4].copy_from_slice(&value.to_le_bytes());
        let crc = super::crc32c(&bad[footer..footer + FOOTER_BYTES - 4]);
        let end = bad.len();
        bad[end - 4..].copy_from_slice(&crc.to_le_bytes());
        assert!(inspect(&Bytes::from(bad)).is_err());
    }
}
