use common::{NodeEpoch, NodeId};
use futures::executor::block_on;

use super::*;
use crate::conformance::{Ground, append};
use crate::{WalConfig, open};

const BY: SealedBy = SealedBy { node: NodeId(2), epoch: NodeEpoch(5) };
const LATER: SealedBy = SealedBy { node: NodeId(3), epoch: NodeEpoch(6) };

fn shared(ground: &Ground) -> WalConfig {
    WalConfig { class: WalClass::Shared, ..ground.config() }
}

#[test]
fn a_lock_that_is_held_proves_that_the_owner_lives() {
    for ground in [Ground::directory(), Ground::block()] {
        let config = shared(&ground);
        let opened = open(&config).expect("opens");
        let sealed = |proof| seal(&config.location, opened.uuid, BY, proof);
        assert!(matches!(sealed(SealProof::OwnerGone), Err(SealError::Alive { .. })));
        let appended = append(&*opened.wal, 1, 1, 10);
        block_on(opened.wal.durable().wait(appended.end)).expect("nothing was changed");
        let end = opened.wal.durable().get();
        let uuid = opened.uuid;
        drop(opened);
        assert_eq!(seal(&config.location, uuid, BY, SealProof::OwnerGone).expect("seals").by, BY);
        let again = seal(&config.location, uuid, LATER, SealProof::OwnerGone).expect("seals");
        assert!(again.by == BY && again.end >= end);
        assert!(matches!(open(&config), Err(OpenError::Sealed { by: BY, .. })));
    }
}

/// The owner that is only slow writes one more group, which it does not acknowledge. The end stands.
#[test]
fn what_a_slow_owner_still_writes_moves_no_end() {
    for ground in [Ground::directory(), Ground::block()] {
        let config = shared(&ground);
        let opened = open(&config).expect("opens");
        let before = append(&*opened.wal, 1, 1, 10);
        block_on(opened.wal.durable().wait(before.end)).expect("durable");
        let first = seal(&config.location, opened.uuid, BY, SealProof::LeaseExpired).expect("seals");
        assert!(first.end >= before.end);
        let late = append(&*opened.wal, 1, 2, 10);
        assert!(late.end > first.end);
        block_on(opened.wal.durable().wait(late.end)).expect_err("never acknowledged");
        assert_eq!(opened.wal.durable().sealed_by(), Some(BY));
        let on_disk = crate::inspect::inspect(&config.location).expect("reads").recovered.expect("sound");
        assert!(on_disk.end >= late.end, "the late group is on the disk");
        for proof in [SealProof::LeaseExpired, SealProof::OwnerGone, SealProof::LeaseExpired] {
            let again = seal(&config.location, opened.uuid, LATER, proof).expect("seals");
            assert_eq!(again, first);
        }
    }
}

/// The one who sealed it crashed before it had found the end.
#[test]
fn a_seal_without_an_end_gets_one() {
    let ground = Ground::directory();
    let config = shared(&ground);
    let opened = open(&config).expect("opens");
    append(&*opened.wal, 1, 1, 10);
    block_on(opened.wal.close()).expect("closes");
    let (uuid, end) = (opened.uuid, opened.wal.durable().get());
    drop(opened);
    let place = Place::reach(&config.location, uuid).unwrap_or_else(|error| panic!("{error}"));
    write(&*place.device, &SealSector { uuid, sealed: Some(BY), end: None }).expect("written");
    assert_eq!(seal(&config.location, uuid, LATER, SealProof::OwnerGone).expect("seals"), Sealed { end, by: BY });
}

#[test]
fn what_cannot_be_sealed_says_why() {
    for ground in [Ground::directory(), Ground::block()] {
        let config = shared(&ground);
        let uuid = open(&config).expect("opens").uuid;
        let sealed = |uuid, proof| seal(&config.location, uuid, BY, proof).expect_err("refused");
        let other = Uuid::from_u128(1);
        let error = sealed(other, SealProof::LeaseExpired);
        assert!(matches!(error, SealError::OtherLog { found, .. } if found == uuid), "{error}");
        open(&config).expect("nothing was changed");
    }
    let ground = Ground::directory();
    let uuid = ground.open().uuid;
    let error = seal(&ground.config().location, uuid, BY, SealProof::OwnerGone).expect_err("private");
    assert!(matches!(error, SealError::Private { .. }), "{error}");
    ground.open();
    let nowhere = WalLocation::Directory(ground.path().join("nowhere"));
    let error = seal(&nowhere, uuid, BY, SealProof::OwnerGone).expect_err("not there");
    assert!(matches!(error, SealError::NotReachable { .. }), "{error}");
}

/// Damage below the end is no end: the log stays sealed, and whoever looks next is told the same.
#[test]
fn a_damaged_log_has_no_end() {
    use std::os::unix::fs::FileExt;
    let ground = Ground::block();
    let config = shared(&ground);
    let opened = open(&config).expect("opens");
    let lost = append(&*opened.wal, 1, 1, 9000);
    block_on(opened.wal.durable().wait(lost.end)).expect("durable");
    append(&*opened.wal, 1, 2, 9000);
    block_on(opened.wal.close()).expect("closes");
    let (uuid, lsn) = (opened.uuid, lost.block.lsn());
    drop(opened);
    let file = std::fs::OpenOptions::new().write(true).open(ground.path()).expect("image");
    file.write_all_at(b"damage", crate::device::block::SLOTS_OFFSET + lsn.0 + 300).expect("write");
    for _ in 0..2 {
        let error = seal(&config.location, uuid, BY, SealProof::OwnerGone).expect_err("damaged");
        assert!(matches!(error, SealError::Unreadable(OpenError::Damaged { .. })), "{error}");
        assert!(matches!(open(&config), Err(OpenError::Sealed { .. })));
    }
}
