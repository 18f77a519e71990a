//! Consumer groups (KIP-848), request by request.

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{ListGroupsRequest, OffsetDeleteRequest, TopicName};
use protocol::ErrorCode;

use super::consumer_member::{Consumer, REBALANCE_MS};
use super::harness::{GROUP, Harness, group_id, join_request, string};
use crate::{GroupConfig, GroupState, Persisted, Request, Response};

const TOPIC: &str = "topic";

fn harness() -> Harness {
    let mut harness = Harness::new();
    harness.topics.set(TOPIC, 4);
    harness
}

fn code(error: ErrorCode) -> i16 {
    error.code()
}

fn described(harness: &mut Harness) -> kafka_protocol::messages::consumer_group_describe_response::DescribedGroup {
    let token = harness.send(1, Request::ConsumerDescribe(GROUP.into()));
    match harness.answers.remove(&token) {
        Some(Response::ConsumerDescribe(group)) => group,
        other => panic!("no ConsumerGroupDescribe response but {other:?}"),
    }
}

/// State, group epoch, assignment epoch.
fn summary(harness: &mut Harness) -> (String, i32, i32) {
    let group = described(harness);
    (group.group_state.to_string(), group.group_epoch, group.assignment_epoch)
}

#[test]
fn the_first_member_is_given_everything_at_once() {
    let mut harness = harness();
    let mut consumer = Consumer::new("a", &[TOPIC]);
    let response = harness.beat(consumer.request());
    consumer.take(&response);
    assert_eq!((response.error_code, response.member_epoch, response.heartbeat_interval_ms), (0, 1, 5_000));
    assert_eq!(consumer.partitions(), [0, 1, 2, 3]);
    assert_eq!(summary(&mut harness), ("Stable".into(), 1, 1));
    let quiet = consumer.request().with_rebalance_timeout_ms(-1).with_subscribed_topic_names(None);
    assert_eq!(harness.beat(quiet.with_topic_partitions(None)).assignment, None, "nothing new is not told");
    assert!(harness.beat(consumer.request()).assignment.is_some(), "a full request is told everything");
}

#[test]
fn one_owner_a_second_member_waits_for_what_the_first_gives_up() {
    let mut harness = harness();
    let (mut first, mut second) = (Consumer::new("a", &[TOPIC]), Consumer::new("b", &[TOPIC]));
    first.beat(&mut harness);
    second.beat(&mut harness);
    assert_eq!((second.epoch, second.partitions()), (2, vec![]));
    assert_eq!(summary(&mut harness).0, "Reconciling");
    let response = harness.beat(first.request());
    assert_eq!(response.member_epoch, 1, "the epoch stays until partitions are given up");
    second.beat(&mut harness);
    assert!(second.partitions().is_empty(), "they are not given up yet");
    first.take(&response);
    first.beat(&mut harness);
    assert_eq!((first.epoch, first.partitions().len()), (2, 2));
    second.beat(&mut harness);
    assert_eq!(second.partitions().len(), 2);
    assert_eq!(summary(&mut harness), ("Stable".into(), 2, 2));
    harness.restart();
    first.beat(&mut harness);
    assert_eq!((first.epoch, first.partitions().len()), (2, 2), "a crash of the coordinator changes nothing");
}

#[test]
fn epochs_fence() {
    let mut harness = harness();
    let mut consumer = Consumer::new("a", &[TOPIC]);
    assert_eq!(harness.beat(consumer.request().with_member_epoch(3)).error_code, code(ErrorCode::GroupIdNotFound));
    consumer.beat(&mut harness);
    let ahead = consumer.request().with_member_epoch(9);
    assert_eq!(harness.beat(ahead).error_code, code(ErrorCode::FencedMemberEpoch));
    let stranger = Consumer { epoch: 1, ..Consumer::new("b", &[TOPIC]) };
    assert_eq!(harness.beat(stranger.request()).error_code, code(ErrorCode::UnknownMemberId));
    // The answer to its next heartbeat is lost: it comes with the epoch before.
    harness.topics.set(TOPIC, 5);
    let lost = harness.beat(consumer.request());
    assert_eq!(lost.member_epoch, 2);
    let unsure = consumer.request().with_topic_partitions(None);
    assert_eq!(harness.beat(unsure).error_code, code(ErrorCode::FencedMemberEpoch), "it may own anything");
    assert_eq!(consumer.beat(&mut harness), 0);
    assert_eq!((consumer.epoch, consumer.partitions().len()), (2, 5));
}

#[test]
fn a_member_that_leaves_or_falls_silent_frees_its_partitions() {
    let mut harness = harness();
    let mut both = [Consumer::new("a", &[TOPIC]), Consumer::new("b", &[TOPIC])];
    both.iter_mut().for_each(|consumer| assert_eq!(consumer.beat(&mut harness), 0));
    harness.settle(&mut both);
    let [mut first, mut second] = both;
    assert_eq!(second.leave(&mut harness, -1), 0);
    first.beat(&mut harness);
    assert_eq!(first.partitions(), [0, 1, 2, 3]);
    second.beat(&mut harness);
    harness.advance(44_000);
    first.beat(&mut harness);
    first.beat(&mut harness);
    harness.advance(2_000);
    assert_eq!(described(&mut harness).members.len(), 1, "the second member's session is over");
    harness.restart();
    harness.advance(44_000);
    assert_eq!(described(&mut harness).members.len(), 1, "sessions begin anew with the coordinator");
    harness.advance(2_000);
    assert_eq!(summary(&mut harness).0, "Empty");
}

#[test]
fn a_member_that_does_not_give_up_in_time_is_fenced() {
    let mut harness = harness();
    let (mut slow, mut second) = (Consumer::new("a", &[TOPIC]), Consumer::new("b", &[TOPIC]));
    slow.beat(&mut harness);
    second.beat(&mut harness);
    assert_eq!(harness.beat(slow.request()).error_code, 0);
    harness.advance(i64::from(REBALANCE_MS) - 1);
    assert_eq!(harness.beat(slow.request()).error_code, 0, "it says that it lives, and owns what it owned");
    harness.advance(1);
    assert_eq!(harness.beat(slow.request()).error_code, code(ErrorCode::UnknownMemberId));
    second.beat(&mut harness);
    assert_eq!(second.partitions(), [0, 1, 2, 3]);
}

#[test]
fn a_static_member_comes_back_to_what_it_had() {
    let mut harness = harness();
    let mut both = [Consumer::new("a", &[TOPIC]).of_instance("i"), Consumer::new("b", &[TOPIC])];
    both.iter_mut().for_each(|consumer| assert_eq!(consumer.beat(&mut harness), 0));
    harness.settle(&mut both);
    let [mut old, _] = both;
    let had = old.partitions();
    let before = summary(&mut harness);
    let mut new = Consumer::new("c", &[TOPIC]).of_instance("i");
    assert_eq!(new.beat(&mut harness), code(ErrorCode::UnreleasedInstanceId));
    assert_eq!(old.leave(&mut harness, -2), 0);
    harness.restart();
    assert_eq!(new.beat(&mut harness), 0);
    assert_eq!((new.partitions(), summary(&mut harness)), (had, before), "nobody else noticed");
    old.epoch = 2;
    assert_eq!(old.beat(&mut harness), code(ErrorCode::FencedInstanceId));
    assert_eq!(old.leave(&mut harness, -1), code(ErrorCode::FencedInstanceId));
    assert_eq!(harness.leave(&[("", Some("i"))]), [0], "an operator knows it by its instance id");
    assert_eq!(harness.leave(&[("b", None)]), [code(ErrorCode::UnknownMemberId)]);
    assert_eq!(described(&mut harness).members.len(), 1);
}

#[test]
fn topics_that_come_and_grow_are_assigned() {
    let mut harness = harness();
    let mut consumer = Consumer::new("a", &[TOPIC, "later"]);
    consumer.beat(&mut harness);
    assert_eq!((consumer.owned.len(), consumer.epoch), (4, 1));
    harness.topics.set("unrelated", 1);
    consumer.beat(&mut harness);
    assert_eq!(consumer.epoch, 1);
    harness.topics.set("later", 2);
    consumer.beat(&mut harness);
    assert_eq!((consumer.owned.len(), consumer.epoch), (6, 2));
    harness.topics.set(TOPIC, 6);
    consumer.beat(&mut harness);
    assert_eq!((consumer.owned.len(), consumer.epoch), (8, 3));
}

#[test]
fn regular_expressions_match_whole_names_now_and_later() {
    let mut harness = harness();
    harness.topics.set("topics", 1);
    let mut consumer = Consumer { regex: Some("top.c".into()), ..Consumer::new("a", &[]) };
    consumer.beat(&mut harness);
    assert_eq!((consumer.owned.len(), consumer.epoch), (4, 1));
    harness.topics.set("topac", 2);
    consumer.beat(&mut harness);
    assert_eq!(consumer.owned.len(), 4, "it was resolved less than ten seconds ago");
    harness.advance(10_000);
    consumer.beat(&mut harness);
    assert_eq!((consumer.owned.len(), consumer.epoch), (6, 2));
    harness.restart();
    consumer.regex = Some("(".into());
    assert_eq!(consumer.beat(&mut harness), code(ErrorCode::InvalidRegularExpression));
    consumer.regex = Some("topics|topac".into());
    consumer.beat(&mut harness);
    consumer.beat(&mut harness);
    assert_eq!(
        consumer.owned.iter().map(|(topic, _)| topic.as_str()).collect::<Vec<_>>(),
        ["topac", "topac", "topics"]
    );
    let group = described(&mut harness);
    assert_eq!(group.members[0].subscribed_topic_regex.as_deref(), Some("topics|topac"));
    assert_eq!(harness.shard.persisted().consumer_groups[GROUP].regexes.len(), 1, "the other one is forgotten");
}

#[test]
fn a_member_that_unsubscribes_gives_up_at_once() {
    let mut harness = harness();
    harness.topics.set("other", 2);
    let mut consumer = Consumer::new("a", &[TOPIC, "other"]);
    consumer.beat(&mut harness);
    assert_eq!(consumer.owned.len(), 6);
    consumer.topics.remove("other");
    consumer.beat(&mut harness);
    consumer.beat(&mut harness);
    assert_eq!((consumer.owned.len(), summary(&mut harness).0.as_str()), (4, "Stable"));
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut harness = harness();
    let good = Consumer::new("a", &[TOPIC]).request();
    let cases = [
        good.clone().with_group_id(group_id("")),
        good.clone().with_member_id(string("")),
        good.clone().with_member_epoch(-3),
        good.clone().with_member_epoch(-2),
        good.clone().with_instance_id(Some(string(""))),
        good.clone().with_rack_id(Some(string(""))),
        good.clone().with_rebalance_timeout_ms(-1),
        good.clone().with_topic_partitions(None),
        good.clone().with_subscribed_topic_names(None),
        good.clone().with_member_id(string(&"x".repeat(40_000))),
        good.clone().with_subscribed_topic_names(Some(vec![TopicName(string(&"x".repeat(200))); 3_000])),
    ];
    for request in cases {
        assert_eq!(harness.beat(request.clone()).error_code, code(ErrorCode::InvalidRequest), "{request:?}");
    }
    let unknown = good.clone().with_server_assignor(Some(string("sticky")));
    assert_eq!(harness.beat(unknown).error_code, code(ErrorCode::UnsupportedAssignor));
    assert!(harness.log.is_empty(), "nothing has changed");
    let response = harness.beat_version(0, good.with_member_id(string("")));
    assert!(response.member_id.is_some_and(|id| !id.is_empty()), "version 0 is given an id");
}

#[test]
fn the_group_is_bounded() {
    let mut harness = Harness::with(GroupConfig { consumer_max_size: 1, ..GroupConfig::default() });
    harness.topics.set(TOPIC, 1);
    let mut consumer = Consumer::new("a", &[TOPIC]);
    assert_eq!(consumer.beat(&mut harness), 0);
    assert_eq!(Consumer::new("b", &[TOPIC]).beat(&mut harness), code(ErrorCode::GroupMaxSizeReached));
    assert_eq!(consumer.beat(&mut harness), 0);
}

#[test]
fn offsets_are_committed_under_the_members_epoch() {
    let mut harness = harness();
    let mut consumer = Consumer::new("a", &[TOPIC]);
    consumer.beat(&mut harness);
    assert_eq!(harness.commit("a", 1, TOPIC, 5), 0);
    assert_eq!(harness.commit("a", 0, TOPIC, 6), code(ErrorCode::StaleMemberEpoch));
    assert_eq!(harness.commit("b", 1, TOPIC, 6), code(ErrorCode::UnknownMemberId));
    assert_eq!(harness.commit("", -1, TOPIC, 6), code(ErrorCode::UnknownMemberId));
    let old = Harness::commit_request("a", 1, TOPIC, 0, 6);
    assert_eq!(harness.commit_version(8, old), code(ErrorCode::UnsupportedVersion));
    let fetch = |member: Option<&str>, epoch| {
        OffsetFetchRequestGroup::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(member.map(string))
            .with_member_epoch(epoch)
            .with_topics(None)
    };
    for (member, epoch, expected) in
        [(Some("a"), 1, 0), (None, -1, 0), (Some("a"), 0, code(ErrorCode::StaleMemberEpoch)), (Some("b"), 1, 25)]
    {
        let token = harness.send(9, Request::OffsetFetch(fetch(member, epoch), crate::RequireStable::No));
        let Some(Response::OffsetFetch(response)) = harness.answers.get(&token) else { panic!("no answer") };
        assert_eq!(response.error_code, expected, "{member:?} {epoch}");
    }
}

#[test]
fn offsets_expire_when_nobody_subscribes_and_the_group_with_them() {
    let mut harness = harness();
    let mut consumer = Consumer::new("a", &[TOPIC]);
    consumer.beat(&mut harness);
    assert_eq!(harness.commit("a", 1, TOPIC, 5), 0);
    consumer.leave(&mut harness, -1);
    harness.advance(GroupConfig::default().offsets_retention_ms + 600_001);
    assert_eq!(harness.fetch_all(), []);
    assert_eq!(harness.shard.group_count(), 0);
    assert_eq!(harness.shard.persisted(), &Persisted::default());
}

#[test]
fn a_group_without_members_becomes_what_its_next_member_wants() {
    let mut harness = harness();
    assert_eq!(harness.commit("", -1, TOPIC, 5), 0);
    assert_eq!(harness.state(), Some(GroupState::Empty));
    let mut consumer = Consumer::new("a", &[TOPIC]);
    assert_eq!(consumer.beat(&mut harness), 0);
    assert_eq!((harness.state(), harness.fetch_all().len()), (None, 1), "offsets stay");
    let refused = harness.join(join_request(""));
    assert_eq!(harness.joined(refused).error_code, code(ErrorCode::InconsistentGroupProtocol));
    consumer.leave(&mut harness, -1);
    let (members, _) = harness.stable(2);
    assert_eq!((members.len(), harness.fetch_all().len(), harness.shard.group_count()), (2, 1, 1));
    assert_eq!(consumer.beat(&mut harness), code(ErrorCode::GroupIdNotFound), "it has classic members");
    harness.restart();
    assert_eq!(harness.state(), Some(GroupState::Stable));
}

#[test]
fn operators_see_and_delete_groups() {
    let mut harness = harness();
    let mut consumer = Consumer { assignor: Some("range".into()), ..Consumer::new("a", &[TOPIC]) };
    consumer.beat(&mut harness);
    let group = described(&mut harness);
    assert_eq!((group.assignor_name.as_str(), group.members[0].member_type), ("range", 1));
    assert_eq!(group.members[0].assignment.topic_partitions[0].topic_name.as_str(), TOPIC);
    for (states, types, count) in [
        (vec![], vec![], 1),
        (vec!["stable"], vec!["Consumer"], 1),
        (vec!["empty"], vec![], 0),
        (vec![], vec!["classic"], 0),
    ] {
        let request = ListGroupsRequest::default()
            .with_states_filter(states.into_iter().map(string).collect())
            .with_types_filter(types.into_iter().map(string).collect());
        let token = harness.send(5, Request::List(request));
        let Some(Response::List(groups)) = harness.answers.get(&token) else { panic!("no answer") };
        assert_eq!(groups.len(), count);
    }
    let delete = |harness: &mut Harness| {
        let token = harness.send(2, Request::DeleteGroups(vec![GROUP.into()]));
        match harness.answers.remove(&token) {
            Some(Response::DeleteGroups(results)) => results[0].error_code,
            other => panic!("no DeleteGroups response but {other:?}"),
        }
    };
    assert_eq!(delete(&mut harness), code(ErrorCode::NonEmptyGroup));
    let token = harness.send(0, Request::OffsetDelete(OffsetDeleteRequest::default().with_group_id(group_id(GROUP))));
    assert!(matches!(&harness.answers[&token], Response::OffsetDelete(response) if response.error_code == 0));
    consumer.leave(&mut harness, -1);
    assert_eq!(delete(&mut harness), 0);
    assert_eq!(described(&mut harness).error_code, code(ErrorCode::GroupIdNotFound));
    assert_eq!(harness.shard.persisted(), &Persisted::default());
}

#[test]
fn a_checkpoint_holds_consumer_groups() {
    let mut harness = harness();
    let mut consumers = [
        Consumer { regex: Some("t.*".into()), ..Consumer::new("a", &[]) }.of_instance("i"),
        Consumer::new("b", &[TOPIC]),
    ];
    consumers.iter_mut().for_each(|consumer| assert_eq!(consumer.beat(&mut harness), 0));
    harness.commit("b", 2, TOPIC, 7);
    let checkpoint = harness.shard.checkpoint();
    assert_eq!(checkpoint[0], 2, "brokers that know no consumer groups must not read it");
    assert_eq!(Persisted::restore(&checkpoint).as_ref(), Ok(harness.shard.persisted()));
    for end in 0..checkpoint.len() {
        assert!(Persisted::restore(&checkpoint[..end]).is_err(), "{end} bytes");
    }
}
