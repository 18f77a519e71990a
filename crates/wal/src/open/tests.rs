//! What is refused, and how the operator is told; damage on real files.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use futures::executor::block_on;

use super::*;
use crate::conformance::{Ground, append, config, contents, payload};
use crate::device::block::SLOTS_OFFSET;
use crate::inspect::inspect;

fn refused(config: &WalConfig) -> OpenError {
    open(config).err().expect("refused")
}

fn written(ground: &Ground, records: std::ops::Range<i64>, len: usize) -> HashMap<(u64, i64), Vec<u8>> {
    let opened = ground.open();
    for base in records.clone() {
        append(&*opened.wal, 1, base, len);
    }
    block_on(opened.wal.close()).expect("close");
    records.map(|base| ((1, base), payload(base, len))).collect()
}

#[test]
fn a_second_owner_is_refused_and_named() {
    for ground in [Ground::directory(), Ground::block()] {
        let first = ground.open();
        let error = refused(&ground.config());
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        assert!(error.to_string().contains("in use by another process"), "{error}");
        drop(first);
        ground.open();
    }
}

#[test]
fn another_nodes_or_clusters_log_is_refused() {
    for ground in [Ground::directory(), Ground::block()] {
        drop(ground.open());
        let error = refused(&WalConfig { node: NodeId(2), ..ground.config() });
        assert!(error.to_string().contains("of node 1, not of node 2"), "{error}");
        let error = refused(&WalConfig { cluster_id: "other".to_owned(), ..ground.config() });
        assert!(error.to_string().contains("of cluster \"cluster\", not of cluster \"other\""), "{error}");
    }
}

#[test]
fn strangers_and_wrong_sizes_are_refused() {
    let ground = Ground::directory();
    std::fs::write(ground.path().join("precious.txt"), "x").expect("file");
    let error = refused(&ground.config());
    assert!(error.to_string().contains("precious.txt"), "{error}");
    assert!(ground.path().join("precious.txt").exists());

    let file = tempfile::NamedTempFile::new().expect("file");
    file.as_file().set_len(3 << 20).expect("length");
    file.as_file().write_all_at(b"a file system", 0).expect("write");
    let image = config(WalLocation::Block(file.path().to_owned()));
    assert!(refused(&image).to_string().contains("not a write-ahead log"));
    file.as_file().write_all_at(&[0; 64], 0).expect("write");
    file.as_file().set_len(SLOTS_OFFSET + 1).expect("length");
    assert!(matches!(refused(&image), OpenError::WrongSize { .. }));
    file.as_file().set_len(3 << 20).expect("length");
    drop(open(&WalConfig { capacity_bytes: 0, ..image.clone() }).expect("all of it"));
    file.as_file().set_len(2 << 20).expect("length");
    assert!(refused(&image).to_string().contains("shrunk"));
    let tiny = WalConfig { segment_bytes: 5000, ..image };
    assert!(matches!(refused(&tiny), OpenError::WrongSize { .. }));
}

#[test]
fn segments_without_their_superblock_are_not_made_anew() {
    let ground = Ground::directory();
    written(&ground, 0..10, 100);
    std::fs::remove_file(ground.path().join("superblock")).expect("remove");
    std::fs::remove_file(ground.path().join("seal")).expect("remove");
    let error = refused(&ground.config());
    assert!(error.to_string().contains("superblock is missing"), "{error}");
}

#[test]
fn what_a_crash_leaves_of_a_log_in_the_making_is_made_anew() {
    let ground = Ground::directory();
    drop(ground.open());
    std::fs::rename(ground.path().join("superblock"), ground.path().join("superblock.new")).expect("rename");
    let expected = written(&ground, 0..10, 100);
    let opened = ground.open();
    assert_eq!(contents(&*opened.wal, &opened.recovered), expected);
}

/// Flips one bit at many places of a block image: either the log is refused, or what was hit shows when it is
/// read; what reads well is what was written.
#[test]
fn a_flipped_bit_never_alters_or_hides_a_record() {
    let ground = Ground::block();
    let expected = written(&ground, 0..60, 9_000);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(ground.path()).expect("image");
    let (mut refusals, mut unreadable, mut harmless) = (0, 0, 0);
    for at in (SLOTS_OFFSET..SLOTS_OFFSET + (800 << 10)).step_by(9_973) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 4], at).expect("flip");
        match open(&ground.config()) {
            Err(OpenError::Damaged { place, .. }) => {
                assert!(place.contains("offset"), "{place}");
                refusals += 1;
            }
            Err(error) => panic!("{error}"),
            Ok(opened) => {
                assert_eq!(opened.recovered.records.len(), expected.len(), "flip at {at} hid a record");
                let mut damaged = 0;
                for record in &opened.recovered.records {
                    match block_on(opened.wal.read_block(record.block.lsn())) {
                        Ok(block) => {
                            let key = (record.meta.stream.0, record.meta.base_offset.0);
                            assert_eq!(block.slice(record.position, record.len).expect("in it"), expected[&key]);
                        }
                        Err(crate::ReadError::Corrupt { .. }) => damaged += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                if damaged > 0 { unreadable += 1 } else { harmless += 1 }
            }
        }
        file.write_all_at(&byte, at).expect("restore");
    }
    assert!(refusals > 5 && unreadable > 20, "{refusals} refused, {unreadable} unreadable, {harmless} harmless");
    let opened = ground.open();
    assert_eq!(contents(&*opened.wal, &opened.recovered), expected);
}

#[test]
fn damage_in_the_last_block_of_a_closed_log_is_refused() {
    let ground = Ground::block();
    written(&ground, 0..3, 100);
    let opened = ground.open();
    let last = opened.recovered.records.last().expect("records").block.lsn();
    drop(opened);
    let file = std::fs::OpenOptions::new().write(true).open(ground.path()).expect("image");
    file.write_all_at(b"damage", SLOTS_OFFSET + last.0 + 300).expect("write");
    let error = refused(&ground.config());
    assert!(matches!(&error, OpenError::Damaged { lsn, .. } if *lsn == last), "{error}");
    let found = inspect(&ground.config().location).expect("inspects");
    assert!(!found.is_sound() && found.to_string().contains("REFUSED"), "{found}");
}

#[test]
fn an_inspection_tells_what_a_log_holds() {
    for ground in [Ground::directory(), Ground::block()] {
        written(&ground, 0..100, 9_000);
        let found = inspect(&ground.config().location).expect("inspects");
        assert!(found.is_sound(), "{found}");
        assert_eq!(found.recovered.as_ref().expect("sound").records.len(), 100);
        assert_eq!(found.segments.iter().map(|report| report.records).sum::<u64>(), 100);
        assert_eq!(found.segments.iter().map(|report| report.payload_bytes).sum::<u64>(), 900_000);
        assert!(found.segments.iter().filter(|report| report.indexed).count() >= 3, "{found}");
        let text = found.to_string();
        assert!(text.contains("of node 1 in cluster \"cluster\"") && text.contains("stream 1: 100 records"), "{text}");
    }
}

#[test]
fn an_empty_directory_holds_little_when_opened() {
    let ground = Ground::directory();
    let config = WalConfig { segment_bytes: 64 << 20, capacity_bytes: 1 << 30, ..ground.config() };
    let place = directory::open(ground.path(), &config).unwrap_or_else(|_| panic!("made"));
    let bytes: u64 = place.device.slots().iter().map(|slot| slot.usable).sum();
    assert!(bytes <= 8 << 20, "{bytes} bytes were filled before the log opened");
}
