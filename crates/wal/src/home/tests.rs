use common::NodeEpoch;
use futures::executor::block_on;

use super::*;
use crate::conformance::{Ground, append, config, contents};
use crate::{SealProof, open, seal};

fn shared(ground: &Ground) -> WalConfig {
    WalConfig { class: WalClass::Shared, ..ground.config() }
}

fn by(node: i32) -> SealedBy {
    SealedBy { node: NodeId(node), epoch: NodeEpoch(1) }
}

fn at(config: &WalConfig, location: &WalLocation) -> WalConfig {
    WalConfig { location: location.clone(), ..config.clone() }
}

/// Writes a record, and lets go of the log.
fn used(config: &WalConfig, base: i64) -> Uuid {
    let opened = open(config).expect("opens");
    append(&*opened.wal, 1, base, 100);
    block_on(opened.wal.close()).expect("closes");
    opened.uuid
}

fn seal_at(config: &WalConfig, uuid: Uuid) {
    seal(&config.location, uuid, by(2), SealProof::OwnerGone).expect("seals");
}

#[test]
fn a_sealed_log_stays_beside_the_fresh_one_until_it_is_removed() {
    let ground = Ground::directory();
    let home = shared(&ground);
    assert_eq!(logs(&home.location).expect("lists"), []);
    assert_eq!(fresh(&home.location).expect("the place itself"), home.location);
    let first = used(&home, 1);
    seal_at(&home, first);

    let child = at(&home, &fresh(&home.location).expect("below"));
    assert_ne!(child.location, home.location);
    let second = used(&child, 2);
    let found = logs(&home.location).expect("lists");
    assert_eq!(
        found.iter().map(|log| (log.uuid, log.sealed)).collect::<Vec<_>>(),
        [(first, Some(by(2))), (second, None)]
    );
    assert_eq!((found[1].node, found[1].class, &*found[1].cluster_id), (NodeId(1), WalClass::Shared, "cluster"));
    assert_eq!(WalLocation::Directory(ground.path().join(format!("log-{second}"))), child.location);

    // The retired one goes while the other is in use, which stays as it was.
    let opened = open(&child).expect("opens");
    let error = remove(&child.location, second).expect_err("in use");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    let error = remove(&home.location, second).expect_err("another");
    assert!(matches!(error, OpenError::NotAWal { .. }), "{error}");
    remove(&home.location, first).expect("removes");
    remove(&home.location, first).expect("idempotent");
    assert_eq!(contents(&*opened.wal, &opened.recovered).len(), 1);
    assert_eq!(logs(&home.location).expect("lists").len(), 1);
    assert_eq!(fresh(&home.location).expect("free again"), home.location);
    drop(opened);

    let third = used(&home, 3);
    remove(&child.location, second).expect("removes");
    assert!(!ground.path().join(format!("log-{second}")).exists());
    let left: Vec<Uuid> = logs(&home.location).expect("lists").iter().map(|log| log.uuid).collect();
    assert_eq!(left, [third]);
}

#[test]
fn one_process_of_a_node_has_one_log_open() {
    let ground = Ground::directory();
    let home = shared(&ground);
    let first = used(&home, 1);
    seal_at(&home, first);
    let child = at(&home, &fresh(&home.location).expect("below"));
    let opened = open(&child).expect("opens");
    let other = at(&home, &fresh(&home.location).expect("a second one"));
    assert_ne!(other.location, child.location);
    for config in [&home, &child, &other] {
        let error = open(config).err().expect("refused");
        assert!(
            error.to_string().contains(&format!("in use by another process (pid {})", std::process::id())),
            "{error}"
        );
    }
    drop(opened);
    open(&other).expect("opens");
}

#[test]
fn a_device_holds_one_log_at_a_time() {
    let ground = Ground::block();
    let config = shared(&ground);
    assert_eq!(fresh(&config.location).expect("unused"), config.location);
    let first = used(&config, 1);
    let found = logs(&config.location).expect("lists");
    assert_eq!((found.len(), found[0].uuid, found[0].sealed), (1, first, None));
    seal_at(&config, first);
    assert_eq!(logs(&config.location).expect("lists")[0].sealed, Some(by(2)));
    let error = fresh(&config.location).expect_err("in use");
    assert!(error.to_string().contains("once that is retired"), "{error}");
    remove(&config.location, first).expect("removes");
    remove(&config.location, first).expect("idempotent");
    let opened = open(&at(&config, &fresh(&config.location).expect("free"))).expect("made anew");
    assert!(opened.recovered.records.is_empty() && opened.uuid != first, "nothing of the old one is left");
}

#[test]
fn what_a_crash_left_of_a_removal_is_removed() {
    let ground = Ground::directory();
    let home = shared(&ground);
    let first = used(&home, 1);
    std::fs::rename(ground.path().join("superblock"), ground.path().join("superblock.removed")).expect("cut off here");
    let child = ground.path().join(format!("removed-{first}"));
    std::fs::create_dir(&child).expect("cut off there");
    assert_eq!(logs(&home.location).expect("lists"), []);
    let opened = open(&at(&home, &fresh(&home.location).expect("free"))).expect("made anew");
    assert!(opened.recovered.records.is_empty() && !child.exists());
}

#[test]
fn what_a_crash_left_of_a_log_in_the_making_is_used() {
    let ground = Ground::directory();
    let home = shared(&ground);
    let first = used(&home, 1);
    seal_at(&home, first);
    let begun = fresh(&home.location).expect("below");
    let WalLocation::Directory(path) = &begun else { panic!("a directory") };
    std::fs::create_dir(path).expect("cut off here");
    assert_eq!(fresh(&home.location).expect("the same"), begun);
    assert_eq!(logs(&home.location).expect("lists").len(), 1);
    used(&at(&home, &begun), 2);
}

#[test]
fn a_place_with_a_log_of_another_node_is_refused() {
    let ground = Ground::directory();
    let home = shared(&ground);
    let first = used(&home, 1);
    seal_at(&home, first);
    let mut stranger = at(&home, &fresh(&home.location).expect("below"));
    stranger.node = NodeId(7);
    let error = open(&stranger).err().expect("refused");
    assert!(matches!(error, OpenError::OtherNode { found: NodeId(1), .. }), "{error}");
    assert_eq!(logs(&home.location).expect("lists").len(), 1);
}

fn log(number: u128, sealed: bool) -> FoundLog {
    let WalConfig { location, node, cluster_id, class, .. } = config(WalLocation::Block("/dev/null".into()));
    FoundLog { location, uuid: Uuid::from_u128(number), node, cluster_id, class, sealed: sealed.then(|| by(2)) }
}

#[test]
fn what_is_opened_follows_from_what_metadata_says() {
    use KnownLog::{Abandoned, Open, Retired, Sealed};
    let one = Uuid::from_u128(1);
    let two = Uuid::from_u128(2);
    let open = [log(1, true), log(2, false)];
    type Case<'a> = (&'a [FoundLog], &'a [(Uuid, KnownLog)], Choice);
    let cases: &[Case<'_>] = &[
        (&[], &[], Choice::Fresh),
        (&[], &[(one, Open)], Choice::Missing(one)),
        (&[log(2, false)], &[(one, Open)], Choice::Missing(one)),
        (&[log(1, false)], &[(one, Open)], Choice::Existing(log(1, false))),
        (&open, &[(one, Sealed), (two, Open)], Choice::Existing(log(2, false))),
        // A crash between making it and registering it.
        (&open, &[(one, Sealed)], Choice::Existing(log(2, false))),
        (&[log(1, false)], &[], Choice::Existing(log(1, false))),
        // A clean stop.
        (&[log(1, false)], &[(one, Retired)], Choice::Existing(log(1, false))),
        (&[log(1, true)], &[(one, Sealed)], Choice::Fresh),
        (&[log(1, false)], &[(one, Abandoned)], Choice::Fresh),
        (&[log(1, true)], &[(one, Retired)], Choice::Fresh),
        // A seal that did not reach the disk cannot be: but if so, metadata is believed.
        (&[log(1, false)], &[(one, Sealed)], Choice::Fresh),
        (&[log(1, true)], &[(one, Open)], Choice::BeingSealed(log(1, true))),
        // Sealed before it was ever registered: nobody needs it.
        (&[log(1, true)], &[], Choice::Fresh),
    ];
    for (found, known, expected) in cases {
        assert_eq!(choose(found, known), *expected, "{found:?} with {known:?}");
    }
}
