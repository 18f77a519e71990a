use kafka_protocol::messages::SyncGroupRequest;
use protocol::ErrorCode;

use super::harness::{DELAY_MS, GROUP, Harness, REBALANCE_MS, group_id, join_request, string};
use crate::{CoordinatorRecord, GroupConfig, GroupState, Request, Token};

/// Two members that have joined and not synced: leader first, with the generation.
fn joined_pair(harness: &mut Harness) -> ([String; 2], i32) {
    let mut ids = [harness.member_id(), harness.member_id()];
    let tokens = ids.clone().map(|id| harness.join(join_request(&id)));
    harness.advance(2 * DELAY_MS);
    let response = harness.joined(tokens[0]).clone();
    ids.sort_by_key(|id| **id != *response.leader);
    (ids, response.generation_id)
}

fn code(harness: &Harness, token: Token) -> i16 {
    harness.synced(token).error_code
}

#[test]
fn followers_wait_for_the_leader_and_everybody_gets_their_part() {
    let mut harness = Harness::new();
    let ([leader, follower], generation) = joined_pair(&mut harness);
    let waiting = harness.sync_with(&follower, generation, &[]);
    assert!(harness.is_waiting(waiting));
    let records = harness.log.len();
    let assigned =
        harness.sync_with(&leader, generation, &[(&leader, b"one"), (&follower, b"two"), ("stranger", b"three")]);
    assert_eq!(&harness.synced(assigned).assignment[..], b"one");
    assert_eq!(&harness.synced(waiting).assignment[..], b"two");
    assert_eq!(harness.synced(waiting).protocol_name.as_ref().map(|name| name.as_str()), Some("range"));
    assert_eq!(harness.state(), Some(GroupState::Stable));
    let [CoordinatorRecord::Group { value: Some(value), .. }] = &harness.log[records..] else {
        panic!("one group record")
    };
    assert_eq!((value.generation, value.leader.as_deref()), (generation, Some(leader.as_str())));
    assert_eq!(value.members.len(), 2);
    assert!(value.members.iter().all(|member| !member.subscription.is_empty() && !member.assignment.is_empty()));
}

#[test]
fn a_member_the_leader_left_out_gets_an_empty_assignment() {
    let mut harness = Harness::new();
    let ([leader, follower], generation) = joined_pair(&mut harness);
    harness.sync_with(&leader, generation, &[(&leader, b"one")]);
    let token = harness.sync_with(&follower, generation, &[]);
    assert_eq!(code(&harness, token), 0);
    assert!(harness.synced(token).assignment.is_empty());
}

#[test]
fn sync_is_judged_by_group_member_generation_and_protocol() {
    let mut harness = Harness::new();
    let unknown = harness.sync_with("member", 1, &[]);
    assert_eq!(code(&harness, unknown), ErrorCode::UnknownMemberId.code());
    let ([leader, _], generation) = joined_pair(&mut harness);
    let stranger = harness.sync_with("nobody", generation, &[]);
    assert_eq!(code(&harness, stranger), ErrorCode::UnknownMemberId.code());
    let old = harness.sync_with(&leader, generation - 1, &[]);
    assert_eq!(code(&harness, old), ErrorCode::IllegalGeneration.code());
    let request = SyncGroupRequest::default()
        .with_group_id(group_id(GROUP))
        .with_member_id(string(&leader))
        .with_generation_id(generation);
    let wrong_type = request.clone().with_protocol_type(Some(string("connect")));
    let wrong_name = request.clone().with_protocol_name(Some(string("sticky")));
    for request in [wrong_type, wrong_name] {
        let token = harness.send(5, Request::Sync(request));
        assert_eq!(code(&harness, token), ErrorCode::InconsistentGroupProtocol.code());
    }
    let nameless = harness.send(5, Request::Sync(request.with_group_id(group_id(""))));
    assert_eq!(code(&harness, nameless), ErrorCode::InvalidGroupId.code());
}

#[test]
fn sync_during_preparing_is_refused_and_stable_repeats_the_assignment() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let again = harness.sync_with(&ids[1], generation, &[]);
    assert_eq!(&harness.synced(again).assignment[..], b"a");
    harness.join(join_request(&ids[0]));
    let token = harness.sync_with(&ids[1], generation, &[]);
    assert_eq!(code(&harness, token), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn a_rebalance_sends_waiting_followers_back_to_joining() {
    let mut harness = Harness::new();
    let ([_, follower], generation) = joined_pair(&mut harness);
    let waiting = harness.sync_with(&follower, generation, &[]);
    let newcomer = harness.member_id();
    harness.join(join_request(&newcomer));
    assert_eq!(code(&harness, waiting), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn a_second_sync_supersedes_the_first() {
    let mut harness = Harness::new();
    let ([leader, follower], generation) = joined_pair(&mut harness);
    let first = harness.sync_with(&follower, generation, &[]);
    let second = harness.sync_with(&follower, generation, &[]);
    assert_eq!(code(&harness, first), ErrorCode::RebalanceInProgress.code());
    assert!(harness.is_waiting(second));
    harness.sync_with(&leader, generation, &[(&follower, b"two")]);
    assert_eq!(&harness.synced(second).assignment[..], b"two");
}

#[test]
fn who_does_not_sync_within_the_rebalance_timeout_is_out() {
    let mut harness = Harness::new();
    let ([leader, follower], generation) = joined_pair(&mut harness);
    harness.sync_with(&leader, generation, &[(&leader, b"one")]);
    for _ in 0..i64::from(REBALANCE_MS) / 5_000 {
        assert_eq!(harness.heartbeat(&leader, generation), 0);
        assert_eq!(harness.heartbeat(&follower, generation), 0, "heartbeats alone do not count");
        harness.advance(5_000);
    }
    assert_eq!(harness.heartbeat(&follower, generation), ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.heartbeat(&leader, generation), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn when_nobody_syncs_the_group_empties() {
    let mut harness = Harness::new();
    let ([leader, follower], generation) = joined_pair(&mut harness);
    for _ in 0..i64::from(REBALANCE_MS) / 5_000 {
        harness.heartbeat(&leader, generation);
        harness.heartbeat(&follower, generation);
        harness.advance(5_000);
    }
    assert_eq!(harness.state(), Some(GroupState::Empty));
}

#[test]
fn an_assignment_too_large_for_a_record_fails_and_rebalances() {
    let mut harness = Harness::with(GroupConfig { max_record_bytes: 700, ..GroupConfig::default() });
    let ([leader, follower], generation) = joined_pair(&mut harness);
    let waiting = harness.sync_with(&follower, generation, &[]);
    let large: &'static [u8] = &[7; 600];
    let records = harness.log.len();
    let token = harness.sync_with(&leader, generation, &[(&leader, large)]);
    assert_eq!(code(&harness, token), ErrorCode::UnknownServerError.code());
    assert_eq!(code(&harness, waiting), ErrorCode::UnknownServerError.code());
    assert_eq!(harness.log.len(), records);
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
}
