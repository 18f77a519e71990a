//! A hosted shard on a real partition: durability of what it answers, crashes, checkpoints, refused appends.

use std::sync::Arc;

use common::Offset;
use coordinator::{Context, GroupConfig, GroupShard, NoTopics, Now, Request, Response, Token};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::{GroupId, JoinGroupRequest, OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use protocol::ErrorCode;
use protocol::batch::BatchView;
use s3stream::ReadClass;
use s3stream::testing::MemoryLog;
use uuid::Uuid;
use wal::WriteAheadLog;

use super::GROUP_METADATA_TOPIC;
use super::answer::Submitted;
use super::hosted::HostedShard;
use super::load::load;
use crate::partition::tests::rig::{Rig, topic};
use crate::partition::{Isolation, Partition};

fn rig(log: MemoryLog) -> Rig {
    let mut rig = Rig::new(log, crate::partition::tests::config());
    rig.topic = topic(GROUP_METADATA_TOPIC, crate::partition::tests::config());
    rig
}

fn now() -> Now {
    Now { wall_ms: 1_700_000_000_000, boot_ms: 1_000 }
}

async fn host(partition: &Arc<Partition>) -> (HostedShard<GroupShard>, usize) {
    let checkpoint = partition.coordinator_checkpoint();
    let loaded = load::<GroupShard>(partition, checkpoint.as_ref()).await.expect("loads");
    let replayed = loaded.replayed_bytes;
    let shard = GroupShard::load(Arc::new(GroupConfig::default()), loaded.state, now());
    (HostedShard::new(Arc::clone(partition), shard, replayed), replayed)
}

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn commit(partition: i32, offset: i64, metadata: &str) -> Request {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(string(metadata)));
    let topic = OffsetCommitRequestTopic::default().with_name(TopicName(string("t"))).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(string("group")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    Request::OffsetCommit(request)
}

fn join(member_id: &str) -> Request {
    let protocol = JoinGroupRequestProtocol::default().with_name(string("range"));
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(string("members")))
        .with_member_id(string(member_id))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(string("connect"))
        .with_protocols(vec![protocol]);
    Request::Join(request)
}

fn submit(shard: &HostedShard<GroupShard>, token: u64, request: &Request) -> Submitted<Response> {
    let suffix = Uuid::from_u128(u128::from(token));
    let context =
        Context { client_id: "client", client_host: "/127.0.0.1", member_id_suffix: suffix, ..Context::version(3) };
    shard.submit(Token(token), &context, request, None, now()).submitted.expect("a request")
}

fn refused(submitted: Submitted<Response>) -> ErrorCode {
    match submitted {
        Submitted::Refused(code) => code,
        Submitted::Now(_, response) => panic!("answered: {response:?}"),
        Submitted::Later(_) => panic!("waits"),
    }
}

#[tokio::test]
async fn a_commit_is_answered_once_it_is_durable_and_survives_a_crash() {
    let rig = rig(MemoryLog::new(64 << 20, 1 << 20, false));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    let Submitted::Now(first, _) = submit(&shard, 1, &commit(0, 41, "")) else {
        panic!("commits never wait for members")
    };
    rig.log.flush();
    let Submitted::Now(lsn, Response::OffsetCommit(_)) = submit(&shard, 2, &commit(0, 42, "")) else { panic!("taken") };
    let durable = rig.log.durable();
    assert!(durable.get() >= first && durable.get() < lsn, "the second commit is not durable yet");
    // The process dies before the flush: nobody was told of the second commit, and it is gone.
    let rig = rig.crash().await;
    let partition = rig.open().await;
    let checkpoint = partition.coordinator_checkpoint();
    let loaded = load::<GroupShard>(&partition, checkpoint.as_ref()).await.expect("loads");
    assert_eq!(loaded.state.offset("group", "t", 0).map(|committed| committed.offset), Some(41));
}

#[tokio::test]
async fn checkpoints_bound_what_is_replayed() {
    let rig = rig(MemoryLog::new(64 << 20, 1 << 20, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    let metadata = "x".repeat(1_000);
    for offset in 0..500_i64 {
        let submitted = submit(&shard, offset as u64, &commit((offset % 3) as i32, offset, &metadata));
        assert!(matches!(submitted, Submitted::Now(..)));
    }
    let written = partition.size_bytes();
    let rig = rig.crash().await;
    let partition = rig.open().await;
    let (shard, replayed) = host(&partition).await;
    assert!((replayed as u64) < written / 4, "{replayed} of {written} bytes were replayed");
    assert_eq!(partition.log_end().0, 500);
    shard.append_final_checkpoint();
    let rig = rig.crash().await;
    let partition = rig.open().await;
    let checkpoint = partition.coordinator_checkpoint();
    let loaded = load::<GroupShard>(&partition, checkpoint.as_ref()).await.expect("loads");
    assert_eq!(loaded.replayed_bytes, 0);
    for index in 0..3 {
        let last = 499 - (499 - i64::from(index)) % 3;
        assert_eq!(loaded.state.offset("group", "t", index).map(|committed| committed.offset), Some(last));
    }
}

#[tokio::test]
async fn a_commit_is_stored_whole_however_large() {
    let rig = rig(MemoryLog::new(64 << 20, 4 << 20, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    let Request::OffsetCommit(mut request) = commit(0, 7, &"x".repeat(1_000)) else { unreachable!("a commit") };
    let first = request.topics[0].partitions[0].clone();
    request.topics[0].partitions = (0..1_000).map(|index| first.clone().with_partition_index(index)).collect();
    let Submitted::Now(..) = submit(&shard, 1, &Request::OffsetCommit(request)) else { panic!("taken") };
    // The smallest read returns the first batch, which has all that was committed.
    let read = partition.read(Offset(0), 1, Isolation::ReadUncommitted, true, ReadClass::CatchUp).await.expect("read");
    let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes.to_vec()).collect();
    let batch = BatchView::exactly_one(&bytes).expect("one batch");
    assert_eq!((batch.last_offset_delta(), partition.log_end().0), (999, 1_000));
}

#[tokio::test]
async fn records_without_a_checkpoint_are_replayed_from_the_start() {
    let rig = rig(MemoryLog::new(64 << 20, 1 << 20, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    for offset in 0..20 {
        submit(&shard, offset, &commit(0, offset as i64, ""));
    }
    let rig = rig.crash().await;
    let partition = rig.open().await;
    let loaded = load::<GroupShard>(&partition, None).await.expect("loads");
    assert_eq!(loaded.state.counts(), (0, 1));
    assert_eq!(loaded.state.offset("group", "t", 0).map(|committed| committed.offset), Some(19));
}

#[tokio::test]
async fn refused_offsets_change_nothing_and_members_stay() {
    let rig = rig(MemoryLog::new(64 << 10, 32 << 10, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    let Submitted::Later(mut waiting) = submit(&shard, 1, &join("")) else { panic!("joins wait") };
    let metadata = "x".repeat(4_000);
    let mut last = None;
    let code = (2..100).find_map(|token| match submit(&shard, token, &commit(0, token as i64, &metadata)) {
        Submitted::Now(..) => {
            last = Some(token as i64);
            None
        }
        other => Some(refused(other)),
    });
    assert_eq!(code, Some(ErrorCode::CoordinatorNotAvailable), "the log is full");
    assert!(!shard.is_dropped());
    assert!(waiting.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty));
    let loaded = load::<GroupShard>(&partition, None).await.expect("loads");
    assert_eq!(loaded.state.offset("group", "t", 0).map(|committed| committed.offset), last);
}

#[tokio::test]
async fn refused_groups_drop_the_shard_and_whoever_waits_looks_anew() {
    let rig = rig(MemoryLog::new(64 << 10, 32 << 10, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    let Submitted::Later(waiting) = submit(&shard, 1, &join("")) else { panic!("joins wait") };
    let metadata = "x".repeat(4_000);
    (2..100).for_each(|token| drop(submit(&shard, token, &commit(0, token as i64, &metadata))));
    // Smaller and smaller, until nothing fits any more.
    for size in [1_000, 100, 0] {
        (100..400).for_each(|token| drop(submit(&shard, token, &commit(0, token as i64, &metadata[..size]))));
    }
    let unknown = Request::DeleteGroups(vec!["group".into()]);
    assert_eq!(refused(submit(&shard, 500, &unknown)), ErrorCode::CoordinatorNotAvailable);
    assert!(shard.is_dropped());
    assert_eq!(Submitted::Later(waiting).durable(Arc::clone(rig.log.durable())).await, Err(ErrorCode::NotCoordinator));
    assert_eq!(refused(submit(&shard, 501, &commit(0, 1, ""))), ErrorCode::CoordinatorLoadInProgress);
}

#[tokio::test]
async fn a_closed_partition_coordinates_no_more() {
    let rig = rig(MemoryLog::new(64 << 20, 1 << 20, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    partition.close();
    assert_eq!(refused(submit(&shard, 1, &commit(0, 1, ""))), ErrorCode::NotCoordinator);
    assert!(shard.is_dropped());
}

#[tokio::test]
async fn a_join_is_answered_by_a_timer() {
    let rig = rig(MemoryLog::new(64 << 20, 1 << 20, true));
    let partition = rig.open().await;
    let (shard, _) = host(&partition).await;
    let Submitted::Later(mut waiting) = submit(&shard, 1, &join("")) else { panic!("joins wait") };
    let later = Now { wall_ms: now().wall_ms + 3_000, boot_ms: now().boot_ms + 3_000 };
    assert!(shard.on_timer(later, &NoTopics).deadline_ms.is_some_and(|deadline| deadline > later.boot_ms));
    let (_, Response::Join(response)) = waiting.try_recv().expect("answered") else { panic!("a JoinGroup response") };
    assert_eq!((response.error_code, response.generation_id), (0, 1));
}
