use super::harness::{DELAY_MS, Harness, join_request, string};
use crate::{CoordinatorRecord, GroupConfig, GroupState};

const HOUR_MS: i64 = 3_600_000;

fn harness() -> Harness {
    let config = GroupConfig {
        offsets_retention_ms: 24 * HOUR_MS,
        offsets_retention_check_interval_ms: HOUR_MS,
        max_session_timeout_ms: 1_000 * HOUR_MS,
        ..GroupConfig::default()
    };
    Harness::with(config)
}

/// A stable group of one member that never expires.
fn lasting_member(harness: &mut Harness) -> (String, i32) {
    let token = harness.join_version(3, join_request("").with_session_timeout_ms(i32::MAX));
    harness.advance(DELAY_MS);
    let id = harness.joined(token).member_id.to_string();
    let generation = harness.joined(token).generation_id;
    harness.sync_all(std::slice::from_ref(&id), generation);
    (id, generation)
}

#[test]
fn offsets_of_a_simple_group_expire_after_their_commit_and_the_group_goes() {
    let mut harness = harness();
    harness.commit("", -1, "topic", 1);
    harness.advance(12 * HOUR_MS);
    harness.commit("", -1, "other", 2);
    harness.advance(12 * HOUR_MS);
    assert_eq!(harness.fetch_all(), [("other".to_owned(), 0, 2)]);
    assert_eq!(harness.state(), Some(GroupState::Empty));
    harness.advance(12 * HOUR_MS);
    assert!(harness.fetch_all().is_empty());
    assert_eq!(harness.state(), None);
    assert!(matches!(harness.log.last(), Some(CoordinatorRecord::Group { value: None, .. })));
    harness.restart();
    assert_eq!(harness.state(), None);
}

#[test]
fn offsets_of_a_group_count_from_when_it_became_empty() {
    let mut harness = harness();
    let (id, generation) = lasting_member(&mut harness);
    harness.commit(&id, generation, "topic", 1);
    harness.advance(100 * HOUR_MS);
    assert_eq!(harness.fetch_all().len(), 1, "consumed topics keep their offsets");
    harness.leave(&[(&id, None)]);
    harness.restart();
    harness.advance(23 * HOUR_MS);
    assert_eq!(harness.fetch_all().len(), 1);
    harness.advance(HOUR_MS);
    assert!(harness.fetch_all().is_empty());
    assert_eq!(harness.state(), None);
}

#[test]
fn offsets_of_topics_no_longer_consumed_expire_under_a_stable_group() {
    let mut harness = harness();
    let (id, generation) = lasting_member(&mut harness);
    harness.commit(&id, generation, "topic", 1);
    harness.commit(&id, generation, "former", 2);
    harness.advance(25 * HOUR_MS);
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 0, 1)]);
    assert_eq!(harness.state(), Some(GroupState::Stable));
}

#[test]
fn offsets_of_an_active_group_that_is_no_consumer_group_never_expire() {
    let mut harness = harness();
    let request = join_request("").with_session_timeout_ms(i32::MAX).with_protocol_type(string("connect"));
    let token = harness.join_version(3, request);
    harness.advance(DELAY_MS);
    let id = harness.joined(token).member_id.to_string();
    let generation = harness.joined(token).generation_id;
    harness.sync_all(std::slice::from_ref(&id), generation);
    harness.commit(&id, generation, "topic", 1);
    harness.advance(100 * HOUR_MS);
    assert_eq!(harness.fetch_all().len(), 1);
}

#[test]
fn a_retention_given_with_the_commit_wins() {
    let mut harness = harness();
    let mut request = Harness::commit_request("", -1, "topic", 0, 1);
    request.retention_time_ms = 2 * HOUR_MS;
    assert_eq!(harness.commit_version(2, request), 0);
    harness.advance(HOUR_MS);
    assert_eq!(harness.fetch_all().len(), 1);
    harness.restart();
    harness.advance(2 * HOUR_MS);
    assert!(harness.fetch_all().is_empty());
}

#[test]
fn an_empty_group_without_offsets_goes_at_the_next_check() {
    let mut harness = harness();
    harness.member_id();
    assert_eq!(harness.state(), Some(GroupState::Empty));
    harness.advance(HOUR_MS);
    assert_eq!(harness.state(), None);
}
