use kafka_protocol::messages::ListGroupsRequest;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use protocol::ErrorCode;

use super::harness::{GROUP, Harness, join_request, string};
use crate::{Request, Response, shard_of};

fn describe(harness: &mut Harness, version: i16, group: &str) -> DescribedGroup {
    let token = harness.send(version, Request::Describe(vec![group.into()]));
    match harness.answers.remove(&token) {
        Some(Response::Describe(mut groups)) => groups.remove(0),
        other => panic!("no DescribeGroups response but {other:?}"),
    }
}

fn list(harness: &mut Harness, states: &[&str], types: &[&str]) -> Vec<(String, String, String)> {
    let request = ListGroupsRequest::default()
        .with_states_filter(states.iter().map(|state| string(state)).collect())
        .with_types_filter(types.iter().map(|kind| string(kind)).collect());
    let token = harness.send(5, Request::List(request));
    let Some(Response::List(groups)) = harness.answers.get(&token) else { panic!("no ListGroups response") };
    let mut groups: Vec<_> = groups
        .iter()
        .map(|group| {
            assert_eq!(group.group_type.as_str(), "classic");
            (group.group_id.to_string(), group.group_state.to_string(), group.protocol_type.to_string())
        })
        .collect();
    groups.sort();
    groups
}

fn delete(harness: &mut Harness, group: &str) -> i16 {
    let token = harness.send(2, Request::DeleteGroups(vec![group.into()]));
    match harness.answers.get(&token) {
        Some(Response::DeleteGroups(results)) => results[0].error_code,
        other => panic!("no DeleteGroups response but {other:?}"),
    }
}

#[test]
fn an_unknown_group_is_dead_or_not_found() {
    let mut harness = Harness::new();
    let old = describe(&mut harness, 5, "nowhere");
    assert_eq!((old.error_code, old.group_state.as_str()), (0, "Dead"));
    let new = describe(&mut harness, 6, "nowhere");
    assert_eq!((new.error_code, new.group_state.as_str()), (ErrorCode::GroupIdNotFound.code(), "Dead"));
    assert!(new.error_message.is_some());
}

#[test]
fn a_stable_group_is_described_with_what_its_members_agreed_on() {
    let mut harness = Harness::new();
    let (ids, _) = harness.stable(2);
    let group = describe(&mut harness, 6, GROUP);
    assert_eq!(
        (group.group_state.as_str(), group.protocol_type.as_str(), group.protocol_data.as_str()),
        ("Stable", "consumer", "range")
    );
    assert_eq!(group.members.len(), 2);
    for member in &group.members {
        assert_eq!((member.client_id.as_str(), member.client_host.as_str()), ("client", "/127.0.0.1"));
        assert!(!member.member_metadata.is_empty());
        assert_eq!(&member.member_assignment[..], b"a");
    }
    harness.join(join_request(&ids[0]));
    let group = describe(&mut harness, 6, GROUP);
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("PreparingRebalance", ""));
    assert!(group.members.iter().all(|member| member.member_metadata.is_empty()));
}

#[test]
fn groups_are_listed_by_state_and_type_whatever_the_case() {
    let mut harness = Harness::new();
    harness.stable(1);
    let simple = Harness::commit_request("", -1, "topic", 0, 1).with_group_id(super::harness::group_id("simple"));
    harness.commit_version(9, simple);
    let stable = (GROUP.to_owned(), "Stable".to_owned(), "consumer".to_owned());
    let empty = ("simple".to_owned(), "Empty".to_owned(), String::new());
    assert_eq!(list(&mut harness, &[], &[]), [stable.clone(), empty.clone()]);
    assert_eq!(list(&mut harness, &["stable"], &[]), std::slice::from_ref(&stable));
    assert_eq!(list(&mut harness, &["EMPTY", "Dead"], &["Classic"]), [empty]);
    assert_eq!(list(&mut harness, &[], &["consumer"]), []);
    assert_eq!(list(&mut harness, &["nonsense"], &[]), []);
}

#[test]
fn only_groups_without_members_can_be_deleted() {
    let mut harness = Harness::new();
    assert_eq!(delete(&mut harness, GROUP), ErrorCode::GroupIdNotFound.code());
    assert_eq!(delete(&mut harness, ""), ErrorCode::InvalidGroupId.code());
    let (ids, generation) = harness.stable(1);
    harness.commit(&ids[0], generation, "topic", 1);
    assert_eq!(delete(&mut harness, GROUP), ErrorCode::NonEmptyGroup.code());
    harness.leave(&[(&ids[0], None)]);
    assert_eq!(delete(&mut harness, GROUP), 0);
    assert_eq!(harness.state(), None);
    assert!(harness.fetch_all().is_empty());
    assert_eq!(harness.shard.persisted().counts(), (0, 0));
    harness.restart();
    assert_eq!(harness.state(), None);
}

#[test]
fn groups_are_spread_as_java_hashes_their_ids() {
    // String.hashCode: "" 0, "a" 97, "group" 98629247, "polygenelubricants" the smallest integer.
    assert_eq!(shard_of("", 50), 0);
    assert_eq!(shard_of("a", 50), 47);
    assert_eq!(shard_of("group", 50), 98_629_247 % 50);
    assert_eq!(shard_of("polygenelubricants", 50), 0);
    assert_eq!(shard_of("ü", 50), 252 % 50);
}
