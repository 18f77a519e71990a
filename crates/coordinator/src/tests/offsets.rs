use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, ProducerId, TopicName, TxnOffsetCommitRequest};
use protocol::ErrorCode;

use super::harness::{DELAY_MS, GROUP, Harness, group_id, join_request, string};
use crate::{GroupConfig, GroupState, Persisted, Request, Response};

#[test]
fn a_stable_member_commits_and_reads_back() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(1);
    assert_eq!(harness.commit(&ids[0], generation, "topic", 42), 0);
    assert_eq!(harness.commit(&ids[0], generation, "topic", 43), 0);
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 0, 43)]);
    harness.restart();
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 0, 43)]);
}

#[test]
fn what_is_not_committed_is_minus_one_and_no_error() {
    let mut harness = Harness::new();
    harness.commit("", -1, "topic", 42);
    for (group, topic, partition, expected) in
        [(GROUP, "topic", 0, 42), (GROUP, "topic", 1, -1), (GROUP, "other", 0, -1), ("other", "topic", 0, -1)]
    {
        let topics = OffsetFetchRequestTopics::default()
            .with_name(TopicName(string(topic)))
            .with_partition_indexes(vec![partition]);
        let request = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(vec![topics]));
        let token = harness.send(9, Request::OffsetFetch(request, crate::RequireStable::No));
        let Some(Response::OffsetFetch(response)) = harness.answers.get(&token) else { panic!("no response") };
        let answer = &response.topics[0].partitions[0];
        assert_eq!((response.error_code, answer.error_code, answer.committed_offset), (0, 0, expected));
        let (epoch, metadata) = if expected < 0 { (-1, "") } else { (3, "note") };
        assert_eq!((answer.committed_leader_epoch, answer.metadata.as_ref().unwrap().as_str()), (epoch, metadata));
    }
}

#[test]
fn a_consumer_without_a_group_commits_with_a_negative_generation() {
    let mut harness = Harness::new();
    assert_eq!(harness.commit("", -1, "topic", 1), 0);
    assert_eq!(harness.state(), Some(GroupState::Empty));
    assert_eq!(harness.commit("some member", -1, "topic", 2), 0, "an empty group takes it from anybody");
    harness.restart();
    assert_eq!(harness.state(), Some(GroupState::Empty));
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 0, 2)]);
}

#[test]
fn commits_are_judged_by_generation_member_and_state() {
    let mut harness = Harness::new();
    assert_eq!(
        harness.commit_version(9, Harness::commit_request("a", 1, "topic", 0, 1)),
        ErrorCode::GroupIdNotFound.code()
    );
    assert_eq!(
        harness.commit_version(8, Harness::commit_request("a", 1, "topic", 0, 1)),
        ErrorCode::IllegalGeneration.code()
    );
    let nameless = Harness::commit_request("a", 1, "topic", 0, 1).with_group_id(group_id(""));
    assert_eq!(harness.commit_version(9, nameless), ErrorCode::InvalidGroupId.code());
    let (ids, generation) = harness.stable(1);
    assert_eq!(harness.commit("", -1, "topic", 1), ErrorCode::UnknownMemberId.code(), "not past a group's members");
    assert_eq!(harness.commit(&ids[0], -1, "topic", 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.commit(&ids[0], generation - 1, "topic", 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.commit(&ids[0], generation + 1, "topic", 1), ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.commit("nobody", generation, "topic", 1), ErrorCode::UnknownMemberId.code());
    assert!(harness.fetch_all().is_empty());
}

#[test]
fn commits_during_a_rebalance() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(2);
    let token = harness.join(join_request(&ids[0]));
    assert_eq!(harness.state(), Some(GroupState::PreparingRebalance));
    assert_eq!(harness.commit(&ids[1], generation, "topic", 1), 0, "members finish what they consumed");
    harness.join(join_request(&ids[1]));
    let next = harness.joined(token).generation_id;
    assert_eq!(harness.commit(&ids[1], generation, "topic", 2), ErrorCode::IllegalGeneration.code());
    assert_eq!(harness.commit(&ids[1], next, "topic", 2), ErrorCode::RebalanceInProgress.code());
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 0, 1)]);
}

#[test]
fn a_static_member_that_was_replaced_cannot_commit() {
    let mut harness = Harness::new();
    let join = |harness: &mut Harness| harness.join(join_request("").with_group_instance_id(Some(string("a"))));
    let token = join(&mut harness);
    harness.advance(DELAY_MS);
    let old = harness.joined(token).member_id.to_string();
    let generation = harness.joined(token).generation_id;
    harness.sync_all(std::slice::from_ref(&old), generation);
    join(&mut harness);
    let request = Harness::commit_request(&old, generation, "topic", 0, 1).with_group_instance_id(Some(string("a")));
    assert_eq!(harness.commit_version(9, request), ErrorCode::FencedInstanceId.code());
}

#[test]
fn a_commit_keeps_the_session_alive() {
    let mut harness = Harness::new();
    let (ids, generation) = harness.stable(1);
    for offset in 0..5 {
        harness.advance(9_000);
        assert_eq!(harness.commit(&ids[0], generation, "topic", offset), 0);
    }
    assert_eq!(harness.state(), Some(GroupState::Stable));
}

#[test]
fn long_metadata_is_refused_for_its_partition_alone() {
    let mut harness = Harness::with(GroupConfig { offset_metadata_max_bytes: 4, ..GroupConfig::default() });
    let mut request = Harness::commit_request("", -1, "topic", 0, 1);
    let mut other = request.topics[0].partitions[0].clone();
    request.topics[0].partitions[0].committed_metadata = Some(string("12345"));
    other.partition_index = 1;
    other.committed_metadata = Some(string("äöüß"));
    request.topics[0].partitions.push(other);
    let token = harness.send(9, Request::OffsetCommit(request));
    let Some(Response::OffsetCommit(response)) = harness.answers.get(&token) else { panic!("no response") };
    let codes: Vec<_> = response.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(codes, [ErrorCode::OffsetMetadataTooLarge.code(), 0], "lengths count as Java's");
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 1, 1)]);
}

fn delete(harness: &mut Harness, topic: &str) -> (i16, Option<i16>) {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic =
        OffsetDeleteRequestTopic::default().with_name(TopicName(string(topic))).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(group_id(GROUP)).with_topics(vec![topic]);
    let token = harness.send(0, Request::OffsetDelete(request));
    match harness.answers.get(&token) {
        Some(Response::OffsetDelete(response)) => {
            (response.error_code, response.topics.first().map(|topic| topic.partitions[0].error_code))
        }
        other => panic!("no OffsetDelete response but {other:?}"),
    }
}

#[test]
fn offsets_of_topics_nobody_consumes_can_be_deleted() {
    let mut harness = Harness::new();
    assert_eq!(delete(&mut harness, "topic"), (ErrorCode::GroupIdNotFound.code(), None));
    let (ids, generation) = harness.stable(1);
    harness.commit(&ids[0], generation, "topic", 1);
    harness.commit(&ids[0], generation, "other", 2);
    assert_eq!(delete(&mut harness, "topic"), (0, Some(ErrorCode::GroupSubscribedToTopic.code())));
    assert_eq!(delete(&mut harness, "other"), (0, Some(0)));
    assert_eq!(delete(&mut harness, "never committed"), (0, Some(0)));
    assert_eq!(harness.fetch_all(), [("topic".to_owned(), 0, 1)]);
    harness.leave(&[(&ids[0], None)]);
    assert_eq!(delete(&mut harness, "topic"), (0, Some(0)));
    assert!(harness.fetch_all().is_empty());
    harness.restart();
    assert!(harness.fetch_all().is_empty());
}

#[test]
fn offsets_of_a_group_that_is_no_consumer_group_stay_while_it_has_members() {
    let mut harness = Harness::new();
    let token = harness.join_version(3, join_request("").with_protocol_type(string("connect")));
    harness.advance(DELAY_MS);
    let id = harness.joined(token).member_id.to_string();
    let generation = harness.joined(token).generation_id;
    harness.sync_all(std::slice::from_ref(&id), generation);
    harness.commit(&id, generation, "topic", 1);
    assert_eq!(delete(&mut harness, "topic"), (ErrorCode::NonEmptyGroup.code(), None));
}

#[test]
fn a_deleted_topic_takes_its_offsets_along() {
    let mut harness = Harness::new();
    harness.commit("", -1, "topic", 1);
    harness.commit("", -1, "other", 2);
    let output = harness.shard.on_topics_deleted(&["topic".into(), "unknown".into()]);
    assert_eq!(output.records.len(), 1);
    harness.take(output);
    assert_eq!(harness.fetch_all(), [("other".to_owned(), 0, 2)]);
    harness.restart();
    assert_eq!(harness.fetch_all(), [("other".to_owned(), 0, 2)]);
}

fn staged_request(offset: i64) -> TxnOffsetCommitRequest {
    let partition = TxnOffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(offset);
    let topic =
        TxnOffsetCommitRequestTopic::default().with_name(TopicName(string("t"))).with_partitions(vec![partition]);
    TxnOffsetCommitRequest::default()
        .with_group_id(group_id(GROUP))
        .with_producer_id(ProducerId(7))
        .with_producer_epoch(0)
        .with_generation_id(-1)
        .with_topics(vec![topic])
}

fn stage(harness: &mut Harness, offset: i64) {
    let token = harness.send(3, Request::TxnOffsetCommit(staged_request(offset)));
    match harness.answers.get(&token) {
        Some(Response::TxnOffsetCommit(response)) => assert_eq!(response.topics[0].partitions[0].error_code, 0),
        other => panic!("no TxnOffsetCommit response but {other:?}"),
    }
}

fn stable_code(harness: &mut Harness) -> i16 {
    let topic = OffsetFetchRequestTopics::default().with_name(TopicName(string("t"))).with_partition_indexes(vec![0]);
    let request = OffsetFetchRequestGroup::default().with_group_id(group_id(GROUP)).with_topics(Some(vec![topic]));
    let token = harness.send(9, Request::OffsetFetch(request, crate::RequireStable::Yes));
    match harness.answers.get(&token) {
        Some(Response::OffsetFetch(response)) => response.topics[0].partitions[0].error_code,
        other => panic!("no OffsetFetch response but {other:?}"),
    }
}

#[test]
fn offsets_of_a_transaction_count_when_it_is_committed() {
    let mut harness = Harness::new();
    assert_eq!(harness.commit("", -1, "t", 1), 0);
    stage(&mut harness, 5);
    assert_eq!(harness.fetch_all(), [("t".into(), 0, 1)]);
    assert_eq!(stable_code(&mut harness), ErrorCode::UnstableOffsetCommit.code());
    let checkpoint = harness.shard.checkpoint();
    assert_eq!(Persisted::restore(&checkpoint).as_ref(), Ok(harness.shard.persisted()), "staged offsets are kept");
    harness.shard.end_transaction(7, true);
    assert_eq!((harness.fetch_all(), stable_code(&mut harness)), (vec![("t".into(), 0, 5)], 0));
}

#[test]
fn offsets_of_an_aborted_transaction_never_count() {
    let mut harness = Harness::new();
    stage(&mut harness, 5);
    harness.shard.end_transaction(8, true);
    assert_eq!(harness.fetch_all(), [], "another producer's marker says nothing");
    harness.shard.end_transaction(7, false);
    assert_eq!((harness.fetch_all(), stable_code(&mut harness)), (vec![], 0));
}

#[test]
fn a_later_commit_outside_of_the_transaction_stays() {
    let mut harness = Harness::new();
    stage(&mut harness, 5);
    assert_eq!(harness.commit("", -1, "t", 9), 0);
    harness.shard.end_transaction(7, true);
    assert_eq!(harness.fetch_all(), [("t".into(), 0, 9)]);
}
