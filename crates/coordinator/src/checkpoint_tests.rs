use super::*;
use crate::CoordinatorRecord;

fn sample() -> Persisted {
    let member = MemberMetadata {
        member_id: "m".into(),
        group_instance_id: Some("i".into()),
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_timeout_ms: 0x0102,
        session_timeout_ms: 3,
        subscription: Bytes::from_static(b"s"),
        assignment: Bytes::new(),
    };
    let group = GroupMetadata {
        protocol_type: "t".into(),
        generation: 7,
        protocol: Some("p".into()),
        leader: None,
        state_timestamp_ms: -1,
        members: vec![member],
    };
    let committed = CommittedOffset {
        offset: 42,
        leader_epoch: -1,
        metadata: "x".into(),
        commit_timestamp_ms: 5,
        expire_timestamp_ms: -1,
    };
    let mut persisted = Persisted::default();
    persisted.replay(&CoordinatorRecord::Group { group: "g".into(), value: Some(group) });
    persisted.replay(&CoordinatorRecord::Offset {
        group: "g".into(),
        topic: "o".into(),
        partition: 9,
        value: Some(committed),
    });
    persisted
}

const GOLDEN: &[u8] = &[
    1, // version
    1, 0, 0, 0, // groups
    1, 0, 0, 0, b'g', 1, 0, 0, 0, b't', 7, 0, 0, 0, 1, 1, 0, 0, 0, b'p',
    0, // id, type, generation, protocol, leader
    255, 255, 255, 255, 255, 255, 255, 255, // state timestamp
    1, 0, 0, 0, // members
    1, 0, 0, 0, b'm', 1, 1, 0, 0, 0, b'i', 1, 0, 0, 0, b'c', 2, 0, 0, 0, b'/', b'h', // ids, client
    2, 1, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, b's', 0, 0, 0, 0, // timeouts, subscription, assignment
    1, 0, 0, 0, 1, 0, 0, 0, b'g', // groups with offsets
    1, 0, 0, 0, 1, 0, 0, 0, b'o', // topics
    1, 0, 0, 0, 9, 0, 0, 0, // partitions
    42, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 1, 0, 0, 0, b'x', // offset, epoch, metadata
    5, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, // timestamps
];

#[test]
fn golden_bytes() {
    assert_eq!(sample().checkpoint(), GOLDEN);
    assert_eq!(Persisted::restore(GOLDEN), Ok(sample()));
    assert_eq!(Persisted::default().checkpoint(), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_truncation_and_every_changed_byte_is_an_error_or_another_state() {
    for end in 0..GOLDEN.len() {
        assert!(Persisted::restore(&GOLDEN[..end]).is_err(), "{end} bytes");
    }
    for position in 0..GOLDEN.len() {
        for change in [1, 0x80, 0xFF] {
            let mut bytes = GOLDEN.to_vec();
            bytes[position] ^= change;
            assert_ne!(Persisted::restore(&bytes), Ok(sample()), "byte {position}");
        }
    }
    let mut longer = GOLDEN.to_vec();
    longer.push(0);
    assert!(matches!(Persisted::restore(&longer), Err(CheckpointError::Damaged { .. })));
}

#[test]
fn unknown_versions_and_absurd_counts_are_refused() {
    assert_eq!(Persisted::restore(&[3, 0, 0, 0, 0]), Err(CheckpointError::Version(3)));
    assert_eq!(Persisted::restore(&[]), Err(CheckpointError::Damaged { left: 0, reason: "cut short" }));
    let absurd = [1, 255, 255, 255, 255, 0, 0, 0, 0];
    assert_eq!(
        Persisted::restore(&absurd),
        Err(CheckpointError::Damaged { left: 4, reason: "a count beyond the end" })
    );
}

#[test]
fn keys_that_do_not_ascend_are_refused() {
    let mut bytes = vec![1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, b'g', 1, 0, 0, 0, 1, 0, 0, 0, b'o', 2, 0, 0, 0];
    let one =
        [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&one);
    bytes.extend_from_slice(&one);
    let error = Persisted::restore(&bytes);
    assert!(matches!(error, Err(CheckpointError::Damaged { reason: "keys that do not ascend", .. })), "{error:?}");
}
