//! The group coordinator's state machine: replaying a partition, joining a large group, committing.

use std::hint::black_box;
use std::sync::Arc;

use coordinator::{
    CommittedOffset, Context, CoordinatorRecord, GroupConfig, GroupShard, NoTopics, Now, Persisted, Request, Response,
    Token,
};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::{GroupId, JoinGroupRequest, OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

const COMMITS: i32 = 100_000;
const MEMBERS: u64 = 1_000;

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn now(boot_ms: i64) -> Now {
    Now { wall_ms: 1_700_000_000_000 + boot_ms, boot_ms }
}

fn shard() -> GroupShard {
    GroupShard::load(Arc::new(GroupConfig::default()), Persisted::default(), now(0))
}

/// Commits of 100 groups over 10 topics of 10 partitions, each committed ten times, as stored.
fn commits() -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let record = |index: i32| CoordinatorRecord::Offset {
        group: format!("group-{}", index % 100).into(),
        topic: format!("topic-{}", index / 100 % 10).into(),
        partition: index / 1_000 % 10,
        value: Some(CommittedOffset {
            offset: i64::from(index),
            leader_epoch: 0,
            metadata: "".into(),
            commit_timestamp_ms: 1_700_000_000_000,
            expire_timestamp_ms: -1,
        }),
    };
    (0..COMMITS).map(|index| record(index).encode().expect("encodes")).collect()
}

fn replay(stored: &[(Vec<u8>, Option<Vec<u8>>)]) -> Persisted {
    let mut persisted = Persisted::default();
    for (key, value) in stored {
        let record = CoordinatorRecord::decode(key, value.as_deref()).expect("decodes").expect("a commit");
        persisted.replay(&record);
    }
    persisted
}

fn join_all() -> usize {
    let mut shard = shard();
    let protocol = JoinGroupRequestProtocol::default().with_name(string("range")).with_metadata(vec![7; 100].into());
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(string("group")))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_protocol_type(string("bench"))
        .with_protocols(vec![protocol]);
    let request = Request::Join(request);
    for token in 0..MEMBERS {
        let suffix = Uuid::from_u128(u128::from(token));
        let context =
            Context { client_id: "client", client_host: "/127.0.0.1", member_id_suffix: suffix, ..Context::version(3) };
        shard.handle(Token(token), &context, &request, now(0));
    }
    let mut answered = 0;
    while let Some(deadline) = shard.next_deadline().filter(|deadline| *deadline < 100_000) {
        answered += shard.on_timer(now(deadline), &NoTopics).responses.len();
        if answered == MEMBERS as usize {
            break;
        }
    }
    answered
}

fn bench(criterion: &mut Criterion) {
    let stored = commits();
    let mut group = criterion.benchmark_group("coordinator");
    group.sample_size(20);
    group.throughput(Throughput::Elements(COMMITS as u64));
    group.bench_function("replay of 100k offset commits", |bencher| {
        bencher.iter(|| replay(black_box(&stored)).counts())
    });
    let persisted = replay(&stored);
    let checkpoint = persisted.checkpoint();
    group.throughput(Throughput::Elements(persisted.counts().1 as u64));
    group.bench_function("restore of a checkpoint of 10k offsets", |bencher| {
        bencher.iter(|| Persisted::restore(black_box(&checkpoint)).expect("restores").counts());
    });
    group.bench_function("checkpoint of 10k offsets", |bencher| {
        bencher.iter(|| black_box(&persisted).checkpoint().len())
    });
    group.throughput(Throughput::Elements(MEMBERS));
    group.bench_function("join of 1000 members", |bencher| bencher.iter(|| assert_eq!(join_all(), MEMBERS as usize)));
    group.throughput(Throughput::Elements(1));
    group.bench_function("offset commit", |bencher| {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
        let topic =
            OffsetCommitRequestTopic::default().with_name(TopicName(string("t"))).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(string("group")))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let request = Request::OffsetCommit(request);
        let commit = |mut shard: GroupShard| {
            let output = shard.handle(Token(1), &Context::version(9), &request, now(1));
            shard.apply(&output.records);
            assert!(matches!(output.responses[..], [(_, Response::OffsetCommit(_))]));
            (shard, output.records[0].encode().expect("encodes"))
        };
        bencher.iter_batched(shard, commit, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
