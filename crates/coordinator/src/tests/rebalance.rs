use protocol::ErrorCode;

use super::harness::{DELAY_MS, Harness, REBALANCE_MS, join_request};
use crate::{CoordinatorRecord, GroupConfig, GroupState};

const REBALANCE_IN_PROGRESS: i16 = 27;

#[test]
fn a_new_member_makes_the_others_rejoin() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let newcomer = harness.member_id();
    let new = harness.join(join_request(&newcomer));
    assert_eq!(harness.heartbeat(&ids[0], generation), REBALANCE_IN_PROGRESS);
    assert_eq!(harness.heartbeat(&ids[1], generation), REBALANCE_IN_PROGRESS);
    let tokens = [harness.join(join_request(&ids[0])), harness.join(join_request(&ids[1]))];
    for token in [new, tokens[0], tokens[1]] {
        assert_eq!(harness.joined(token).generation_id, generation + 1);
        assert_eq!(harness.joined(token).leader.as_str(), ids[0], "the leader stays");
    }
}

#[test]
fn who_does_not_rejoin_within_the_rebalance_timeout_is_out() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let leader = harness.join(join_request(&ids[0]));
    for _ in 0..59 {
        harness.advance(1_000);
        assert_eq!(harness.heartbeat(&ids[1], generation), REBALANCE_IN_PROGRESS);
    }
    assert!(harness.is_waiting(leader));
    harness.advance(1_000);
    assert_eq!(harness.joined(leader).members.len(), 1);
    assert_eq!(harness.heartbeat(&ids[1], generation), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_leader_that_stays_away_loses_the_lead() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let changed = join_request(&ids[1]).with_protocols(super::harness::protocols(&["range", "sticky"]));
    let follower = harness.join(changed);
    harness.advance(9_999);
    assert!(harness.is_waiting(follower));
    harness.advance(1);
    let response = harness.joined(follower);
    assert_eq!((response.generation_id, response.leader.as_str()), (generation + 1, ids[1].as_str()));
}

#[test]
fn a_silent_member_expires_and_the_rest_rebalances() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    harness.advance(5_000);
    assert_eq!(harness.heartbeat(&ids[0], generation), 0);
    harness.advance(5_000);
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
    assert_eq!(harness.heartbeat(&ids[1], generation), ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.heartbeat(&ids[0], generation), REBALANCE_IN_PROGRESS);
}

#[test]
fn heartbeats_keep_a_session_alive() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(1);
    for _ in 0..20 {
        harness.advance(9_000);
        assert_eq!(harness.heartbeat(&ids[0], generation), 0);
    }
    assert_eq!(harness.state(), Some(GroupState::Stable));
}

#[test]
fn the_last_member_leaves_an_empty_group_with_a_new_generation() {
    let mut harness = Harness::new();
    let (_, generation) = harness.stable(1);
    let records = harness.log.len();
    harness.advance(10_000);
    assert_eq!(harness.state(), Some(GroupState::Empty));
    let [CoordinatorRecord::Group { value: Some(value), .. }] = &harness.log[records..] else {
        panic!("one group record")
    };
    assert_eq!((value.generation, value.members.len()), (generation + 1, 0));
    assert_eq!((value.leader.as_ref(), value.protocol.as_ref(), &*value.protocol_type), (None, None, "consumer"));
    harness.restart();
    assert_eq!(harness.state(), Some(GroupState::Empty));
    let (_, next) = harness.stable(1);
    assert_eq!(next, generation + 2, "generations go on across emptiness and restarts");
}

#[test]
fn heartbeats_are_judged_by_member_generation_and_state() {
    let mut harness = Harness::new();
    let ids = [harness.member_id(), harness.member_id()];
    assert_eq!(harness.heartbeat(&ids[0], 0), ErrorCode::UnknownMemberId.code(), "pending is not a member");
    let tokens = ids.clone().map(|id| harness.join(join_request(&id)));
    harness.advance(2 * DELAY_MS);
    let generation = harness.joined(tokens[0]).generation_id;
    assert_eq!(harness.state(), Some(GroupState::CompletingRebalance));
    assert_eq!(harness.heartbeat(&ids[0], generation), 0, "fine while the leader assigns");
    assert_eq!(harness.heartbeat(&ids[0], generation - 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.heartbeat(&ids[0], generation + 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.heartbeat("nobody", generation), ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.heartbeat_as(&ids[0], Some("instance"), generation), ErrorCode::UnknownMemberId.code());
}

#[test]
fn heartbeats_without_a_group_are_unknown() {
    let mut harness = Harness::new();
    assert_eq!(harness.heartbeat("member", 1), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_new_member_that_waits_too_long_is_told_to_join_anew() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(1);
    let newcomer = join_request(&harness.member_id()).with_rebalance_timeout_ms(1_000_000);
    let token = harness.join(newcomer);
    for _ in 0..60 {
        harness.advance(5_000);
        harness.heartbeat(&ids[0], generation);
        if !harness.is_waiting(token) {
            break;
        }
    }
    assert_eq!(harness.joined(token).error_code, ErrorCode::UnknownMemberId.code());
    assert!(harness.joined(token).member_id.is_empty());
}

#[test]
fn waiting_members_need_no_heartbeats() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let waiting = harness.join(join_request(&ids[0]));
    for _ in 0..5 {
        harness.advance(9_000);
        harness.heartbeat(&ids[1], generation);
    }
    assert!(harness.is_waiting(waiting));
    harness.join(join_request(&ids[1]));
    assert_eq!(harness.joined(waiting).error_code, 0);
}

#[test]
fn a_stable_group_survives_a_restart() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(3);
    harness.restart();
    assert_eq!(harness.state(), Some(GroupState::Stable));
    for id in &ids {
        assert_eq!(harness.heartbeat(id, generation), 0);
        let token = harness.sync_with(id, generation, &[]);
        assert_eq!(&harness.synced(token).assignment[..], b"a");
    }
    harness.advance(10_000);
    assert_eq!(harness.state(), Some(GroupState::Empty), "sessions start anew and run out");
}

#[test]
fn a_restart_within_a_rebalance_goes_back_to_the_last_generation() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    harness.join(join_request(&ids[0]));
    harness.restart();
    assert_eq!(harness.state(), Some(GroupState::Stable));
    assert_eq!(harness.heartbeat(&ids[1], generation), 0);
}

#[test]
fn a_group_above_a_lowered_maximum_rebalances_when_loaded() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(3);
    let persisted = harness.shard.persisted().clone();
    let config = GroupConfig { max_size: 2, ..GroupConfig::default() };
    harness.shard = crate::GroupShard::load(config.into(), persisted, harness.now);
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
    let tokens: Vec<_> = ids.iter().map(|id| harness.join(join_request(id))).collect();
    assert_eq!(harness.joined(tokens[2]).error_code, ErrorCode::GroupMaxSizeReached.code());
    harness.advance(i64::from(REBALANCE_MS));
    assert_eq!(harness.joined(tokens[0]).generation_id, generation + 1);
    assert_eq!(harness.joined(tokens[1]).generation_id, generation + 1);
}

#[test]
fn a_storm_of_rebalances_ends_in_one_generation() {
    let mut harness = Harness::new();
    let (mut ids, mut generation) = harness.stable(1);
    for _ in 0..40 {
        let newcomer = harness.member_id();
        let new = harness.join(join_request(&newcomer));
        let rejoined: Vec<_> = ids.iter().map(|id| harness.join(join_request(id))).collect();
        generation += 1;
        for token in rejoined.iter().chain([&new]) {
            assert_eq!(harness.joined(*token).generation_id, generation);
        }
        ids.push(newcomer);
    }
    let leader = harness.shard.groups[super::harness::GROUP].leader.clone().unwrap();
    ids.sort_by_key(|id| **id != *leader);
    harness.sync_all(&ids, generation);
    assert_eq!(harness.state(), Some(GroupState::Stable));
    assert_eq!(harness.log.iter().filter(|record| matches!(record, CoordinatorRecord::Group { .. })).count(), 3);
}
