use kafka_protocol::messages::LeaveGroupRequest;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use protocol::ErrorCode;

use super::harness::{DELAY_MS, Harness, group_id, join_request, string};
use crate::{GroupState, Request, Response};

#[test]
fn who_leaves_is_out_at_once() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    assert_eq!(harness.leave(&[(&ids[1], None)]), [0]);
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
    assert_eq!(harness.heartbeat(&ids[0], generation), ErrorCode::RebalanceInProgress.code());
    let token = harness.join(join_request(&ids[0]));
    assert_eq!(harness.joined(token).members.len(), 1);
    assert_eq!(harness.leave(&[(&ids[0], None)]), [0]);
    assert_eq!(harness.state(), Some(GroupState::Empty));
}

#[test]
fn errors_are_per_member_and_the_others_go() {
    let mut harness = Harness::new();
    let (ids, _) = harness.stable(2);
    let unknown = ErrorCode::UnknownMemberId.code();
    let left = [
        ("nobody", None),
        (ids[0].as_str(), None),
        ("", None),
        ("", Some("instance")),
        (ids[1].as_str(), Some("instance")),
    ];
    assert_eq!(harness.leave(&left), [unknown, 0, unknown, unknown, unknown]);
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
    assert_eq!(harness.leave(&[(&ids[0], None)]), [unknown]);
}

#[test]
fn static_members_leave_by_instance_id() {
    let mut harness = Harness::new();
    let token = harness.join(join_request("").with_group_instance_id(Some(string("a"))));
    harness.advance(DELAY_MS);
    let id = harness.joined(token).member_id.to_string();
    let generation = harness.joined(token).generation_id;
    harness.sync_all(&[id], generation);
    assert_eq!(harness.leave(&[("another", Some("a"))]), [ErrorCode::FencedInstanceId.code()]);
    assert_eq!(harness.leave(&[("", Some("a"))]), [0]);
    assert_eq!(harness.state(), Some(GroupState::Empty));
}

#[test]
fn a_pending_member_may_leave_and_no_longer_holds_up_the_rebalance() {
    let mut harness = Harness::new();
    let (ids, _) = harness.stable(1);
    let pending = harness.member_id();
    let waiting = harness.join(join_request(&ids[0]));
    assert!(harness.is_waiting(waiting));
    assert_eq!(harness.leave(&[(&pending, None)]), [0]);
    assert_eq!(harness.joined(waiting).error_code, 0);
}

#[test]
fn a_waiting_join_is_answered_when_its_member_leaves() {
    let mut harness = Harness::new();
    let (ids, _) = harness.stable(2);
    let waiting = harness.join(join_request(&ids[0]));
    harness.leave(&[(&ids[0], None)]);
    assert_eq!(harness.joined(waiting).error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_waiting_sync_is_answered_when_its_member_leaves() {
    let mut harness = Harness::new();
    let ids = [harness.member_id(), harness.member_id()];
    let tokens = ids.clone().map(|id| harness.join(join_request(&id)));
    harness.advance(2 * DELAY_MS);
    let response = harness.joined(tokens[0]).clone();
    let follower = ids.iter().find(|id| ***id != *response.leader).unwrap();
    let waiting = harness.sync_with(follower, response.generation_id, &[]);
    harness.leave(&[(follower, None)]);
    assert_eq!(harness.synced(waiting).error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn unknown_and_empty_groups() {
    let mut harness = Harness::new();
    assert_eq!(harness.leave(&[("a", None), ("b", None)]), [ErrorCode::UnknownMemberId.code(); 2]);
    let members = vec![MemberIdentity::default().with_member_id(string("a"))];
    let request = LeaveGroupRequest::default().with_group_id(group_id("")).with_members(members);
    let token = harness.send(5, Request::Leave(request));
    let Some(Response::Leave(response)) = harness.answers.get(&token) else { panic!("no response") };
    assert_eq!(response.error_code, ErrorCode::InvalidGroupId.code());
}
