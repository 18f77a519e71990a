//! Metadata at 100,000 partitions of 20 ranges each, led by 100 nodes: applying a commit, publishing an image,
//! walking everything, and the memory of it. `cargo bench --bench metadata`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use common::{LogIndex, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use metadata::command::{NewObject, NewSlice};
use metadata::state::{State, apply};
use metadata::{Command, Outcome, Registration};
use uuid::Uuid;

const NODES: i32 = 100;
const PARTITIONS: u64 = 100_000;
const RANGES: u64 = 20;
const PER_TOPIC: u64 = 10;

struct Cluster {
    state: State,
    next_object: Vec<u64>,
}

impl Cluster {
    fn submit(&mut self, command: &Command) -> Outcome {
        let index = LogIndex(self.state.applied.0 + 1);
        let outcome = apply(&mut self.state, index, 0, command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        outcome
    }

    /// Nodes and topics, without any data.
    fn empty() -> Self {
        let mut cluster = Self { state: State::default(), next_object: Vec::new() };
        for node in 0..NODES {
            let incarnation = Uuid::from_u128(u128::from(node.unsigned_abs()) + 1);
            let id = NodeId(node);
            cluster.submit(&Command::RegisterNode(Registration::new(id, incarnation)));
            let lease = Command::LeaseObjectIds { node: id, node_epoch: epoch(node), count: 100_000 };
            if let Outcome::Leased { first } = cluster.submit(&lease) {
                cluster.next_object.push(first);
            }
        }
        cluster
    }

    fn create_topics(&mut self) {
        for topic in 0..PARTITIONS / PER_TOPIC {
            let partitions = (0..PER_TOPIC).map(|index| Arc::from([leader(topic * PER_TOPIC + index)].as_slice()));
            let command = Command::CreateTopic {
                id: Uuid::from_u128(u128::from(topic) + 1),
                name: format!("topic-{topic}").into(),
                partitions: partitions.collect(),
                configs: Vec::new(),
            };
            self.submit(&command);
        }
        for node in 0..NODES {
            let streams = (0..PARTITIONS).filter(|p| leader(*p) == NodeId(node)).map(|p| StreamId(p + 1)).collect();
            self.submit(&Command::OpenStreams { node: NodeId(node), node_epoch: epoch(node), streams });
        }
    }

    /// One upload of everything that `node` leads, as one stream-set object.
    fn upload(&mut self, node: i32, round: u64) -> Command {
        let slice = |partition: u64| NewSlice {
            stream: StreamId(partition + 1),
            epoch: StreamEpoch(1),
            start: Offset((round * 100) as i64),
            end: Offset((round * 100 + 100) as i64),
            bytes: 10_000,
            max_timestamp_ms: 0,
            checkpoint: None,
        };
        let slices = (0..PARTITIONS).filter(|partition| leader(*partition) == NodeId(node)).map(slice).collect();
        let id = &mut self.next_object[node.unsigned_abs() as usize];
        *id += 1;
        let object = NewObject { id: ObjectId(*id - 1), attempt: 0, size: 1 << 20, slices };
        Command::CommitObjects {
            node: NodeId(node),
            node_epoch: epoch(node),
            objects: vec![object],
            replaces: Vec::new(),
        }
    }
}

fn epoch(node: i32) -> NodeEpoch {
    NodeEpoch(u64::from(node.unsigned_abs()) + 1)
}

fn leader(partition: u64) -> NodeId {
    NodeId(i32::try_from(partition % u64::from(NODES.unsigned_abs())).expect("small"))
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * 4096
}

fn report(what: &str, amount: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{what}: {amount}");
}

fn metadata(c: &mut Criterion) {
    let before = resident();
    let mut cluster = Cluster::empty();
    cluster.create_topics();
    let created = resident();
    report("bytes per created partition", (created - before) / PARTITIONS);
    let started = Instant::now();
    for round in 0..RANGES {
        for node in 0..NODES {
            let command = cluster.upload(node, round);
            cluster.submit(&command);
        }
    }
    report("bytes per range", (resident() - created) / (PARTITIONS * RANGES));
    report("applying all uploads, ns per range", started.elapsed().as_nanos() / u128::from(PARTITIONS * RANGES));

    c.bench_function("publish an image", |b| b.iter(|| Arc::new(black_box(&cluster.state).clone())));
    c.bench_function("walk all ranges", |b| {
        b.iter(|| cluster.state.ranges.iter().map(|(_, range)| range.bytes).sum::<u64>());
    });
    c.bench_function("walk all topics and partitions", |b| {
        b.iter(|| cluster.state.topics.values().map(|topic| topic.partitions.len()).sum::<usize>());
    });
    let upload = cluster.upload(0, RANGES);
    c.bench_function("commit an object of 1,000 slices after a publication", |b| {
        b.iter_batched_ref(
            || cluster.state.clone(),
            |state| apply(state, LogIndex(state.applied.0 + 1), 0, &upload),
            BatchSize::SmallInput,
        );
    });
    let published = cluster.state.clone();
    cluster.submit(&upload);
    c.bench_function("delta after that commit", |b| {
        b.iter(|| ::metadata::Delta::between(black_box(&published), black_box(&cluster.state)));
    });
}

criterion_group! { name = benches; config = Criterion::default().sample_size(10); targets = metadata }
criterion_main!(benches);
