use kafka_protocol::messages::JoinGroupRequest;
use protocol::ErrorCode;

use super::harness::{DELAY_MS, Harness, join_request, protocols, string};
use crate::{CoordinatorRecord, GroupState};

fn static_join(member_id: &str, instance_id: &str) -> JoinGroupRequest {
    join_request(member_id)
        .with_group_instance_id(Some(string(instance_id)))
        .with_protocols(protocols(&["range", "sticky"]))
}

/// A stable group of two static members, `a` (the leader) and `b`: ids and generation.
fn stable_static(harness: &mut Harness) -> ([String; 2], i32) {
    let tokens = ["a", "b"].map(|instance| harness.join(static_join("", instance)));
    harness.advance(2 * DELAY_MS);
    let ids = tokens.map(|token| harness.joined(token).member_id.to_string());
    let generation = harness.joined(tokens[0]).generation_id;
    assert_eq!(*harness.joined(tokens[0]).leader, *ids[0]);
    harness.sync_all(&ids, generation);
    (ids, generation)
}

#[test]
fn a_static_member_needs_no_member_id_first() {
    let mut harness = Harness::new();
    let (ids, _) = stable_static(&mut harness);
    assert!(ids[0].starts_with("a-") && ids[1].starts_with("b-"));
}

#[test]
fn a_returning_follower_takes_its_place_without_a_rebalance() {
    let mut harness = Harness::new();
    let (ids, generation) = stable_static(&mut harness);
    let records = harness.log.len();
    let token = harness.join(static_join("", "b"));
    let response = harness.joined(token).clone();
    assert_eq!((response.error_code, response.generation_id), (0, generation));
    assert_ne!(*response.member_id, *ids[1]);
    assert!(!response.skip_assignment);
    assert_eq!(harness.state(), Some(GroupState::Stable));
    let [CoordinatorRecord::Group { value: Some(value), .. }] = &harness.log[records..] else {
        panic!("the new id persists")
    };
    assert!(
        value.members.iter().any(|member| *member.member_id == *response.member_id && &member.assignment[..] == b"a")
    );
    assert_eq!(harness.heartbeat_as(&ids[1], Some("b"), generation), ErrorCode::FencedInstanceId.code());
    assert_eq!(harness.heartbeat(&ids[1], generation), ErrorCode::UnknownMemberId.code());
    let token = harness.sync_with(&response.member_id, generation, &[]);
    assert_eq!(&harness.synced(token).assignment[..], b"a");
}

#[test]
fn a_returning_leader_may_skip_the_assignment_since_version_9() {
    let mut harness = Harness::new();
    let (_, generation) = stable_static(&mut harness);
    let token = harness.join(static_join("", "a"));
    let response = harness.joined(token);
    assert_eq!((response.generation_id, response.skip_assignment), (generation, true));
    assert_eq!(response.leader, response.member_id);
    assert_eq!(response.members.len(), 2);
}

#[test]
fn an_old_returning_leader_is_not_told_that_it_leads() {
    let mut harness = Harness::new();
    let (ids, _) = stable_static(&mut harness);
    let token = harness.join_version(8, static_join("", "a"));
    let response = harness.joined(token);
    assert_eq!(*response.leader, *ids[0], "its former id");
    assert_ne!(response.member_id, response.leader);
    assert!(response.members.is_empty() && !response.skip_assignment);
}

#[test]
fn a_returning_member_that_changes_the_selected_protocol_rebalances() {
    let mut harness = Harness::new();
    stable_static(&mut harness);
    let token = harness.join(static_join("", "b").with_protocols(protocols(&["sticky"])));
    assert!(harness.is_waiting(token));
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
}

#[test]
fn a_return_while_the_leader_assigns_rebalances() {
    let mut harness = Harness::new();
    let tokens = ["a", "b"].map(|instance| harness.join(static_join("", instance)));
    harness.advance(2 * DELAY_MS);
    let waiting_id = harness.joined(tokens[1]).member_id.to_string();
    let generation = harness.joined(tokens[1]).generation_id;
    let waiting = harness.sync_with(&waiting_id, generation, &[]);
    let token = harness.join(static_join("", "b"));
    assert_eq!(harness.synced(waiting).error_code, ErrorCode::FencedInstanceId.code());
    assert!(harness.is_waiting(token));
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
}

#[test]
fn a_second_process_fences_the_one_that_waits_in_join() {
    let mut harness = Harness::new();
    let first = harness.join(static_join("", "a"));
    let second = harness.join(static_join("", "a"));
    assert_eq!(harness.joined(first).error_code, ErrorCode::FencedInstanceId.code());
    harness.advance(2 * DELAY_MS);
    assert_eq!(harness.joined(second).error_code, 0);
    assert_eq!(harness.joined(second).members.len(), 1);
}

#[test]
fn static_identities_are_fenced_and_unknown_ones_are_unknown() {
    let mut harness = Harness::new();
    let (ids, generation) = stable_static(&mut harness);
    let token = harness.join(static_join("another", "a"));
    assert_eq!(harness.joined(token).error_code, ErrorCode::FencedInstanceId.code());
    let token = harness.join(static_join(&ids[0], "c"));
    assert_eq!(harness.joined(token).error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.heartbeat_as(&ids[1], Some("a"), generation), ErrorCode::FencedInstanceId.code());
    assert_eq!(harness.heartbeat_as(&ids[0], Some("a"), generation), 0);
}

#[test]
fn an_absent_static_member_stays_until_its_session_ends() {
    let mut harness = Harness::new();
    let long = |instance: &str| static_join("", instance).with_session_timeout_ms(120_000);
    let tokens = ["a", "b"].map(|instance| harness.join(long(instance)));
    harness.advance(2 * DELAY_MS);
    let ids = tokens.map(|token| harness.joined(token).member_id.to_string());
    let generation = harness.joined(tokens[0]).generation_id;
    harness.sync_all(&ids, generation);
    let leader = harness.join(long("a").with_member_id(string(&ids[0])));
    harness.advance(60_000);
    assert_eq!(harness.joined(leader).members.len(), 2, "b keeps its place although it did not rejoin");
    let generation = harness.joined(leader).generation_id;
    let token = harness.sync_with(&ids[0], generation, &[]);
    assert_eq!(harness.synced(token).error_code, 0);
    harness.advance(59_000);
    assert_eq!(harness.heartbeat(&ids[0], generation), 0, "b has still time to sync");
    harness.advance(1_000);
    assert_eq!(harness.heartbeat(&ids[0], generation), ErrorCode::RebalanceInProgress.code());
}

#[test]
fn static_members_survive_a_restart() {
    let mut harness = Harness::new();
    let (_, generation) = stable_static(&mut harness);
    harness.restart();
    let token = harness.join(static_join("", "b").with_protocols(protocols(&["range"])));
    assert_eq!(harness.joined(token).generation_id, generation, "returns without a rebalance");
}
