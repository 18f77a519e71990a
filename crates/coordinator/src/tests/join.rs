use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use protocol::ErrorCode;

use super::harness::{DELAY_MS, GROUP, Harness, group_id, join_request, protocols, string, subscription};
use crate::{CoordinatorRecord, GroupConfig, GroupState};

fn code_of(harness: &mut Harness, request: kafka_protocol::messages::JoinGroupRequest) -> i16 {
    let token = harness.join(request);
    harness.joined(token).error_code
}

#[test]
fn an_empty_group_id_is_refused() {
    let mut harness = Harness::new();
    let code = code_of(&mut harness, join_request("").with_group_id(group_id("")));
    assert_eq!(code, ErrorCode::InvalidGroupId.code());
    assert_eq!(harness.shard.group_count(), 0);
}

#[test]
fn the_session_timeout_is_bounded_on_both_sides() {
    let mut harness = Harness::new();
    for (timeout_ms, expected) in [
        (5_999, ErrorCode::InvalidSessionTimeout),
        (6_000, ErrorCode::MemberIdRequired),
        (1_800_000, ErrorCode::MemberIdRequired),
        (1_800_001, ErrorCode::InvalidSessionTimeout),
        (-1, ErrorCode::InvalidSessionTimeout),
    ] {
        let code = code_of(&mut harness, join_request("").with_session_timeout_ms(timeout_ms));
        assert_eq!(code, expected.code(), "{timeout_ms}");
    }
}

#[test]
fn a_member_id_without_a_group_is_unknown() {
    let mut harness = Harness::new();
    assert_eq!(code_of(&mut harness, join_request("nobody")), ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.state(), None);
}

#[test]
fn a_member_id_nobody_gave_out_is_unknown() {
    let mut harness = Harness::new();
    harness.stable(1);
    assert_eq!(code_of(&mut harness, join_request("nobody")), ErrorCode::UnknownMemberId.code());
}

#[test]
fn old_versions_join_without_a_member_id() {
    let mut harness = Harness::new();
    let token = harness.join_version(3, join_request(""));
    assert!(harness.is_waiting(token));
    harness.advance(DELAY_MS);
    let response = harness.joined(token);
    assert_eq!((response.error_code, response.generation_id), (0, 1));
    assert_eq!(response.leader, response.member_id);
    assert!(response.member_id.starts_with("client-"));
    assert_eq!(response.members.len(), 1);
}

#[test]
fn a_member_id_is_required_and_creates_the_group_durably() {
    let mut harness = Harness::new();
    let id = harness.member_id();
    assert!(id.starts_with("client-"));
    assert_eq!(harness.state(), Some(GroupState::Empty));
    assert!(matches!(&harness.log[..], [CoordinatorRecord::Group { value: Some(value), .. }] if value.generation == 0));
    harness.restart();
    assert_eq!(harness.state(), Some(GroupState::Empty));
}

#[test]
fn a_pending_member_id_expires_with_the_session_timeout() {
    let mut harness = Harness::new();
    let id = harness.member_id();
    harness.advance(10_000);
    assert_eq!(code_of(&mut harness, join_request(&id)), ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_pending_member_holds_up_a_rebalance_until_it_expires() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(1);
    let _pending = harness.member_id();
    let token = harness.join(join_request(&ids[0]));
    assert!(harness.is_waiting(token), "the pending member may still come");
    harness.advance(10_000);
    assert_eq!(harness.joined(token).generation_id, generation + 1);
}

#[test]
fn a_pending_member_must_not_claim_to_be_static() {
    let mut harness = Harness::new();
    let id = harness.member_id();
    let code = code_of(&mut harness, join_request(&id).with_group_instance_id(Some(string("instance"))));
    assert_eq!(code, ErrorCode::UnknownServerError.code());
}

#[test]
fn pending_members_are_bounded() {
    let mut harness = Harness::with(GroupConfig { max_pending_members: 2, ..GroupConfig::default() });
    harness.member_id();
    harness.member_id();
    assert_eq!(code_of(&mut harness, join_request("")), ErrorCode::GroupMaxSizeReached.code());
    harness.advance(10_000);
    harness.member_id();
}

#[test]
fn groups_are_bounded() {
    let mut harness = Harness::with(GroupConfig { max_groups: 1, ..GroupConfig::default() });
    harness.member_id();
    let code = code_of(&mut harness, join_request("").with_group_id(group_id("another")));
    assert_eq!(code, ErrorCode::CoordinatorNotAvailable.code());
}

#[test]
fn member_bytes_are_bounded() {
    let mut harness = Harness::with(GroupConfig { max_group_bytes: 200, ..GroupConfig::default() });
    let id = harness.member_id();
    let large = JoinGroupRequestProtocol::default().with_name(string("range")).with_metadata(vec![0; 300].into());
    let code = code_of(&mut harness, join_request(&id).with_protocols(vec![large]));
    assert_eq!(code, ErrorCode::GroupMaxSizeReached.code());
    let token = harness.join(join_request(&id));
    assert!(harness.is_waiting(token));
}

#[test]
fn the_first_rebalance_waits_as_long_as_members_keep_coming() {
    let mut harness = Harness::new();
    let first = harness.join_version(3, join_request(""));
    harness.advance(DELAY_MS - 1);
    let second = harness.join_version(3, join_request(""));
    harness.advance(1);
    assert!(harness.is_waiting(first) && harness.is_waiting(second));
    harness.advance(DELAY_MS);
    let (first, second) = (harness.joined(first).clone(), harness.joined(second).clone());
    assert_eq!((first.generation_id, second.generation_id), (1, 1));
    let (leader, follower) = if first.leader == first.member_id { (first, second) } else { (second, first) };
    assert_eq!(leader.members.len(), 2);
    assert_eq!(follower.members.len(), 0, "only the leader learns who the members are");
    assert_eq!(follower.leader, leader.member_id);
    assert_eq!(leader.protocol_name.as_ref().map(|name| name.as_str()), Some("range"));
    assert_eq!(leader.protocol_type.as_ref().map(|name| name.as_str()), Some("consumer"));
    assert_eq!(harness.state(), Some(GroupState::CompletingRebalance));
}

#[test]
fn the_first_rebalance_waits_no_longer_than_the_rebalance_timeout() {
    let mut harness = Harness::new();
    let short = |member: &str| join_request(member).with_rebalance_timeout_ms(7_000);
    let first = harness.join_version(3, short(""));
    let mut waited = 0;
    while harness.is_waiting(first) {
        harness.join_version(3, short(""));
        harness.advance(500);
        waited += 500;
        assert!(waited <= 7_000, "still waiting after {waited} ms");
    }
    assert_eq!(waited, 7_000);
}

#[test]
fn without_an_initial_delay_the_first_member_is_served_at_once() {
    let mut harness = Harness::with(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() });
    let token = harness.join_version(3, join_request(""));
    harness.advance(1);
    assert_eq!(harness.joined(token).generation_id, 1);
}

#[test]
fn protocols_must_be_given_and_shared() {
    let mut harness = Harness::new();
    let inconsistent = ErrorCode::InconsistentGroupProtocol.code();
    assert_eq!(code_of(&mut harness, join_request("").with_protocols(Vec::new())), inconsistent);
    assert_eq!(code_of(&mut harness, join_request("").with_protocol_type(string(""))), inconsistent);
    harness.stable(1);
    assert_eq!(code_of(&mut harness, join_request("").with_protocol_type(string("connect"))), inconsistent);
    assert_eq!(code_of(&mut harness, join_request("").with_protocols(protocols(&["sticky"]))), inconsistent);
}

#[test]
fn the_protocol_most_members_prefer_is_chosen_among_the_common_ones() {
    let mut harness = Harness::new();
    let orders: [&[&str]; 3] = [&["sticky", "range", "other"], &["range", "sticky"], &["sticky", "range"]];
    let tokens: Vec<_> = orders
        .map(|order| harness.join_version(3, join_request("").with_protocols(protocols(order))))
        .into_iter()
        .collect();
    harness.advance(2 * DELAY_MS);
    for token in tokens {
        assert_eq!(harness.joined(token).protocol_name.as_ref().map(|name| name.as_str()), Some("sticky"));
    }
}

#[test]
fn a_repeated_protocol_counts_once() {
    let mut harness = Harness::new();
    let first = harness.join_version(3, join_request("").with_protocols(protocols(&["range", "range"])));
    let second = harness.join_version(3, join_request(""));
    harness.advance(2 * DELAY_MS);
    assert_eq!(harness.joined(first).error_code, 0);
    assert_eq!(harness.joined(second).error_code, 0);
}

#[test]
fn a_full_group_refuses_new_members_and_keeps_old_ones() {
    let mut harness = Harness::with(GroupConfig { max_size: 2, ..GroupConfig::default() });
    let (ids, _) = harness.stable(2);
    assert_eq!(code_of(&mut harness, join_request("")), ErrorCode::GroupMaxSizeReached.code());
    let token = harness.join(join_request(&ids[0]));
    assert!(harness.is_waiting(token), "the leader may rejoin");
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
}

#[test]
fn while_members_gather_the_last_to_come_is_refused() {
    let mut harness = Harness::with(GroupConfig { max_size: 2, ..GroupConfig::default() });
    let waiting = [harness.join_version(3, join_request("")), harness.join_version(3, join_request(""))];
    let refused = harness.join_version(3, join_request(""));
    assert_eq!(harness.joined(refused).error_code, ErrorCode::GroupMaxSizeReached.code());
    harness.advance(2 * DELAY_MS);
    waiting.iter().for_each(|token| assert_eq!(harness.joined(*token).error_code, 0));
}

#[test]
fn an_unchanged_follower_gets_the_current_generation() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let token = harness.join(join_request(&ids[1]));
    let response = harness.joined(token);
    assert_eq!((response.error_code, response.generation_id, response.members.len()), (0, generation, 0));
    assert_eq!(harness.state(), Some(GroupState::Stable));
}

#[test]
fn a_changed_follower_or_the_leader_starts_a_rebalance() {
    let changed = |id: &str| {
        let protocol =
            JoinGroupRequestProtocol::default().with_name(string("range")).with_metadata(subscription(&["other"]));
        join_request(id).with_protocols(vec![protocol])
    };
    for (index, request) in [(0, join_request as fn(&str) -> _), (1, changed as fn(&str) -> _)] {
        let mut harness = Harness::new();
        let (ids, _) = harness.stable(2);
        let token = harness.join(request(&ids[index]));
        assert!(harness.is_waiting(token));
        assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
    }
}

#[test]
fn during_completing_a_lost_answer_is_given_again_and_a_change_rebalances() {
    let mut harness = Harness::new();
    let ids = [harness.member_id(), harness.member_id()];
    let tokens: Vec<_> = ids.iter().map(|id| harness.join(join_request(id))).collect();
    harness.advance(2 * DELAY_MS);
    let before = harness.joined(tokens[0]).clone();
    let again = harness.join(join_request(&ids[0]));
    assert_eq!(harness.joined(again), &before);
    assert_eq!(harness.state(), Some(GroupState::CompletingRebalance));
    let changed = harness.join(join_request(&ids[0]).with_protocols(protocols(&["range", "sticky"])));
    assert!(harness.is_waiting(changed));
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
}

#[test]
fn a_second_join_of_a_waiting_member_supersedes_the_first() {
    let mut harness = Harness::new();
    let (ids, _) = harness.stable(2);
    let first = harness.join(join_request(&ids[0]));
    let second = harness.join(join_request(&ids[0]));
    assert_eq!(harness.joined(first).error_code, ErrorCode::RebalanceInProgress.code());
    assert!(harness.is_waiting(second));
    harness.join(join_request(&ids[1]));
    assert_eq!(harness.joined(second).error_code, 0);
}

#[test]
fn version_0_has_the_session_timeout_for_rebalancing() {
    let mut harness = Harness::new();
    let (ids, _) = harness.stable(1);
    harness.leave(&[(&ids[0], None)]);
    let old = harness.join_version(0, join_request("").with_rebalance_timeout_ms(-1));
    harness.advance(DELAY_MS);
    let old_id = harness.joined(old).member_id.to_string();
    let generation = harness.joined(old).generation_id;
    harness.sync_all(std::slice::from_ref(&old_id), generation);
    // A new member starts a rebalance that the old one does not join: it waits for the session timeout.
    let new = harness.join_version(0, join_request("").with_rebalance_timeout_ms(-1));
    for _ in 0..9 {
        harness.advance(1_000);
        assert_eq!(harness.heartbeat(&old_id, generation), ErrorCode::RebalanceInProgress.code());
    }
    assert!(harness.is_waiting(new));
    harness.advance(1_000);
    assert_eq!(harness.joined(new).error_code, 0);
}

#[test]
fn cooperative_members_rejoin_with_what_they_own_and_rebalance_again() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let owning = |id: &str, owned: &str| {
        let metadata = [&subscription(&["topic"])[..], owned.as_bytes()].concat();
        let protocol = JoinGroupRequestProtocol::default().with_name(string("range")).with_metadata(metadata.into());
        join_request(id).with_protocols(vec![protocol])
    };
    let revoked = harness.join(owning(&ids[1], "p0"));
    assert!(harness.is_waiting(revoked));
    let leader = harness.join(owning(&ids[0], "p1"));
    let response = harness.joined(leader).clone();
    assert_eq!(response.generation_id, generation + 1);
    let metadata: Vec<_> = response.members.iter().map(|member| member.metadata.clone()).collect();
    assert!(metadata.iter().any(|bytes| bytes.ends_with(b"p0")) && metadata.iter().any(|bytes| bytes.ends_with(b"p1")));
    assert_eq!(harness.shard.group_state(GROUP), Some(GroupState::CompletingRebalance));
}

#[test]
fn names_too_long_for_a_record_are_refused() {
    let mut harness = Harness::new();
    let long = "x".repeat(40_000);
    let code = code_of(&mut harness, join_request("").with_group_id(group_id(&long)));
    assert_eq!(code, ErrorCode::InvalidGroupId.code());
    for request in [
        join_request("").with_group_instance_id(Some(string(&long))),
        join_request("").with_protocol_type(string(&long)),
        join_request("").with_protocols(protocols(&[&long])),
    ] {
        assert_eq!(code_of(&mut harness, request), ErrorCode::InvalidRequest.code());
    }
    let commit = Harness::commit_request("", -1, "topic", 0, 1).with_group_id(group_id(&long));
    assert_eq!(harness.commit_version(9, commit), ErrorCode::InvalidGroupId.code());
    assert_eq!(harness.shard.group_count(), 0);
}
