//! Golden bytes of every format, and what each makes of damaged bytes.

use common::{Lsn, NodeEpoch, NodeId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use super::block_header::{BLOCK_HEADER_BYTES, BlockHeader, Link, RecordPlace};
use super::record_header::{self, RECORD_HEADER_BYTES, record_bytes};
use super::seal_sector::{SealSector, SealedBy};
use super::segment_footer::{IndexedBlock, TRAILER_BYTES, Trailer, decode_index, footer_bytes, push_block};
use super::segment_header::SegmentHeader;
use super::superblock::Superblock;
use super::*;
use crate::config::WalClass;
use crate::record::{RecordKind, RecordMeta, TAG_BYTES};

const UUID: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);

fn meta() -> RecordMeta {
    RecordMeta {
        stream: StreamId(0x0102),
        stream_epoch: StreamEpoch(3),
        kind: RecordKind::Checkpoint,
        base_offset: Offset(100),
        next_offset: Offset(107),
        max_timestamp_ms: -1,
        tag: std::array::from_fn::<u8, TAG_BYTES, _>(|at| at as u8),
    }
}

fn block() -> (BlockHeader, Vec<u8>) {
    let payload = b"payload";
    let mut bytes = vec![0; 4096];
    record_header::encode(&meta(), payload.len() as u32, &mut bytes[BLOCK_HEADER_BYTES..]);
    let at = BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES;
    bytes[at..at + payload.len()].copy_from_slice(payload);
    let header = BlockHeader {
        uuid: UUID,
        node: NodeId(5),
        node_epoch: NodeEpoch(6),
        sequence: 7,
        lsn: Lsn(0x4000),
        record_count: 1,
        length: 4096,
        used: (BLOCK_HEADER_BYTES + record_bytes(payload.len())) as u32,
        synced: Lsn(0x3000),
        trim: Lsn(0x2000),
        incarnation: 0xabcd,
        link: Link { end: Lsn(0x4000), crc: 0xdead_beef },
    };
    header.encode(&mut bytes);
    (header, bytes)
}

fn superblock() -> Superblock {
    Superblock {
        uuid: UUID,
        node: NodeId(5),
        class: WalClass::Shared,
        segment_bytes: 1 << 20,
        capacity_bytes: 1 << 24,
        cluster_id: "c1".to_owned(),
    }
}

fn seal() -> SealSector {
    SealSector { uuid: UUID, sealed: Some(SealedBy { node: NodeId(8), epoch: NodeEpoch(9) }), end: None }
}

fn segment() -> SegmentHeader {
    SegmentHeader { uuid: UUID, segment: 3, usable: 1 << 20, trim: Lsn(0x2000), incarnation: 0xabcd }
}

fn trailer(index: &[u8]) -> Trailer {
    Trailer {
        uuid: UUID,
        segment: 3,
        index_len: index.len() as u32,
        index_crc: crc32c(index),
        blocks: 1,
        last: Link { end: Lsn(0x5000), crc: 0x1234 },
        incarnation: 0xabcd,
        sequence: 7,
        synced: Lsn(0x3000),
        trim: Lsn(0x2000),
        first_link: Link { end: Lsn(0x4000), crc: 0xdead_beef },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Flips each bit of the first `len` bytes in turn.
fn each_flip(bytes: &[u8], len: usize, mut check: impl FnMut(&[u8])) {
    let mut damaged = bytes.to_vec();
    for bit in 0..len * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        check(&damaged);
        damaged[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn the_checksum_is_crc32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn golden_superblock() {
    let mut page = vec![0xff; 4096];
    superblock().encode(&mut page);
    assert_eq!(
        hex(&page[..64]),
        concat!(
            "4f54544c4157414c010000009017232800112233445566778899aabbccddeeff05000000010000000000100000000000",
            "00000001000000000200000063310000",
        )
    );
    assert!(page[64..].iter().all(|byte| *byte == 0));
    assert_eq!(Superblock::decode(&page), Ok(superblock()));
    each_flip(&page, 80, |damaged| assert!(Superblock::decode(damaged).is_err()));
    assert_eq!(Superblock::decode(&page[..100]), Err(Damage::Checksum));
    assert_eq!(Superblock::decode(&[]), Err(Damage::Short));
}

#[test]
fn golden_seal_sector() {
    let mut page = vec![0xff; 4096];
    seal().encode(&mut page);
    assert_eq!(
        hex(&page[..48]),
        "4f54544c5345414c0100000032d3934d00112233445566778899aabbccddeeff01000000080000000900000000000000"
    );
    assert!(page[48..].iter().all(|byte| *byte == 0));
    assert_eq!(SealSector::decode(&page), Ok(seal()));
    each_flip(&page, 64, |damaged| assert!(SealSector::decode(damaged).is_err()));
    let read = SealSector { end: Some(Lsn(0x7000)), ..seal() };
    read.encode(&mut page);
    assert_eq!(
        hex(&page[..56]),
        concat!(
            "4f54544c5345414c01000000a2cbc30200112233445566778899aabbccddeeff0200000008000000",
            "09000000000000000070000000000000",
        )
    );
    assert_eq!(SealSector::decode(&page), Ok(read));
    let open = SealSector::open(UUID);
    open.encode(&mut page);
    assert_eq!(SealSector::decode(&page), Ok(open));
}

#[test]
fn golden_segment_header() {
    let mut page = vec![0xff; 4096];
    segment().encode(&mut page);
    assert_eq!(
        hex(&page[..64]),
        concat!(
            "4f54544c5345474d01000000a4fc6c0700112233445566778899aabbccddeeff03000000000000000000100000000000",
            "0020000000000000cdab000000000000",
        )
    );
    assert!(page[64..].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&page), Ok(segment()));
    each_flip(&page, 80, |damaged| assert!(SegmentHeader::decode(damaged).is_err()));
}

#[test]
fn golden_block() {
    let (header, bytes) = block();
    assert_eq!(
        hex(&bytes[..BLOCK_HEADER_BYTES]),
        concat!(
            "4f54544c41424c4b010000002604db9a00112233445566778899aabbccddeeff05000000010000000600000000000000",
            "0700000000000000004000000000000000100000d000000000300000000000000020000000000000cdab000000000000",
            "0040000000000000efbeadde0000000000000000000000000000000000000000",
        )
    );
    let record = &bytes[BLOCK_HEADER_BYTES..header.used as usize];
    assert_eq!(
        hex(record),
        concat!(
            "0201000000000000030000000000000064000000000000006b00000000000000ffffffffffffffff0001020304050607",
            "08090a0b0c0d0e0f101112131415161707000000010000007061796c6f616400",
        )
    );
    let (decoded, crc) = BlockHeader::decode(&bytes).expect("valid");
    assert_eq!((decoded, crc), (header, u32::from_le_bytes(bytes[12..16].try_into().expect("four"))));
    let place = RecordPlace { meta: meta(), position: 200, len: 7 };
    assert_eq!(header.records(&bytes), Ok(vec![place]));
    each_flip(&bytes, bytes.len(), |damaged| assert!(BlockHeader::decode(damaged).is_err()));
    for short in 0..4096 {
        assert!(BlockHeader::decode(&bytes[..short]).is_err());
    }
}

#[test]
fn a_block_with_impossible_counts_is_refused_without_reading_beyond_it() {
    let (header, bytes) = block();
    let count = |record_count| BlockHeader { record_count, ..header }.records(&bytes);
    assert_eq!(count(u32::MAX), Err(Damage::Field("record count")));
    assert_eq!(count(2), Err(Damage::Field("record header")));
    assert_eq!(count(0), Err(Damage::Field("used length")));
    let mut long = bytes.clone();
    long[BLOCK_HEADER_BYTES + 64..BLOCK_HEADER_BYTES + 68].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(header.records(&long), Err(Damage::Field("record length")));
}

#[test]
fn golden_footer() {
    let (header, bytes) = block();
    let mut index = Vec::new();
    push_block(&mut index, &header, &bytes);
    assert_eq!(index.len(), 16 + RECORD_HEADER_BYTES);
    assert_eq!(hex(&index[..16]), "00400000000000000010000001000000");
    assert_eq!(index[16..], bytes[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + RECORD_HEADER_BYTES]);
    let mut encoded = vec![0xff; TRAILER_BYTES];
    trailer(&index).encode(&mut encoded);
    assert_eq!(
        hex(&encoded),
        concat!(
            "4f54544c494e4458010000007118a16f00112233445566778899aabbccddeeff030000000000000058000000d4c23584",
            "01000000341200000050000000000000cdab000000000000070000000000000000300000000000000020000000000000",
            "0040000000000000efbeadde0000000000000000000000000000000000000000",
        )
    );
    let decoded = Trailer::decode(&encoded).expect("valid");
    assert_eq!(decoded, trailer(&index));
    let records = header.records(&bytes).expect("valid");
    let expected = IndexedBlock { lsn: header.lsn, length: header.length, records };
    assert_eq!(decode_index(&decoded, &index), Ok(vec![expected]));
    each_flip(&encoded, TRAILER_BYTES, |damaged| assert!(Trailer::decode(damaged).is_err()));
    each_flip(&index, index.len(), |damaged| assert!(decode_index(&decoded, damaged).is_err()));
    assert_eq!((footer_bytes(0, 0), footer_bytes(1, 54), footer_bytes(1, 55)), (4096, 4096, 8192));
}

#[test]
fn an_index_with_impossible_counts_is_refused() {
    let (header, bytes) = block();
    let mut index = Vec::new();
    push_block(&mut index, &header, &bytes);
    index[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_index(&trailer(&index), &index), Err(Damage::Field("index entry")));
    let many = Trailer { blocks: u32::MAX, ..trailer(&index) };
    assert_eq!(decode_index(&many, &index), Err(Damage::Field("block count")));
}
