//! Metadata at 100,000 partitions of 20 ranges each, three replicas, led by 100 nodes: applying a commit, the failover of a
//! node and a move of all it leads, planning both, publishing an image, walking everything, answering a client that asks
//! for everything, and the memory of it.
//! `cargo bench --bench metadata`.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use common::{LogIndex, Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kafka_protocol::protocol::Encodable as _;
use metadata::balance::{Balancer, Settings, Traffic};
use metadata::command::{FailOver, NewObject, NewSlice, Seal};
use metadata::image::Endpoint;
use metadata::placement::plan_fail_over;
use metadata::state::{State, apply};
use metadata::{Command, Outcome, Registration, WalClass, WalDescriptor};
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
            let wal = WalDescriptor { uuid: wal(node), class: WalClass::Shared, location: "file:///wal".into() };
            let endpoint = Endpoint {
                listener: "PLAINTEXT".into(),
                protocol: "PLAINTEXT".into(),
                host: format!("broker-{node}.example"),
                port: 9092,
            };
            let registration =
                Registration { wal: Some(wal), endpoints: vec![endpoint], ..Registration::new(id, incarnation) };
            cluster.submit(&Command::RegisterNode(registration));
            let lease = Command::LeaseObjectIds { node: id, node_epoch: epoch(node), count: 100_000 };
            if let Outcome::Leased { first } = cluster.submit(&lease) {
                cluster.next_object.push(first);
            }
        }
        cluster
    }

    fn create_topics(&mut self) {
        for topic in 0..PARTITIONS / PER_TOPIC {
            let replicas = |index| (0..3).map(|at| leader(topic * PER_TOPIC + index + at)).collect::<Arc<[NodeId]>>();
            let partitions = (0..PER_TOPIC).map(replicas);
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

fn wal(node: i32) -> Uuid {
    Uuid::from_u128(u128::from(node.unsigned_abs()) + 1_000)
}

fn epoch(node: i32) -> NodeEpoch {
    NodeEpoch(u64::from(node.unsigned_abs()) + 1)
}

fn leader(partition: u64) -> NodeId {
    NodeId(i32::try_from(partition % u64::from(NODES.unsigned_abs())).expect("small"))
}

/// The loss of node 0 with a tail in each of its streams.
fn fail_over(state: &State) -> Command {
    let tails = state.streams_led_by(NodeId(0)).map(|stream| (stream, Offset(1 << 40))).collect();
    let seal = Some(Seal { wal: wal(0), end: Lsn(1 << 30), tails });
    let leaders = plan_fail_over(state, NodeId(0));
    Command::FailOver(FailOver { node: NodeId(0), node_epoch: epoch(0), seal, leaders })
}

/// Everything that node 0 leads goes to node 1.
fn moves(state: &State) -> (Command, Command) {
    let (source, target) = ((NodeId(0), epoch(0)), (NodeId(1), epoch(1)));
    let streams: Vec<StreamId> = state.streams_led_by(NodeId(0)).collect();
    let reserved = streams.iter().map(|stream| (*stream, state.streams[stream].next_epoch())).collect();
    (Command::ReserveMove { source, target, streams }, Command::CommitMove { source, target, streams: reserved })
}

/// Bytes of the Metadata answer for all topics.
fn answer(state: &State) -> usize {
    let mut bytes = BytesMut::new();
    let answer = broker::api::metadata::all_topics(state, "PLAINTEXT", NodeId(0));
    answer.encode(&mut bytes, 13).expect("encodes");
    bytes.len()
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
    report("bytes of everything", resident() - before);
    report("applying all uploads, ns per range", started.elapsed().as_nanos() / u128::from(PARTITIONS * RANGES));

    c.bench_function("publish an image", |b| b.iter(|| Arc::new(black_box(&cluster.state).clone())));
    c.bench_function("walk all ranges", |b| {
        b.iter(|| cluster.state.ranges.iter().map(|(_, range)| range.bytes).sum::<u64>());
    });
    c.bench_function("walk all topics and partitions", |b| {
        b.iter(|| cluster.state.topics.values().map(|topic| topic.partitions.len()).sum::<usize>());
    });
    c.bench_function("answer Metadata for all topics, encoded", |b| b.iter(|| answer(black_box(&cluster.state))));
    report("bytes of that answer", answer(&cluster.state));
    let upload = cluster.upload(0, RANGES);
    after_a_publication(c, "commit an object of 1,000 slices", &cluster.state, &upload);
    c.bench_function("plan the failover of 1,000 partitions", |b| {
        b.iter(|| plan_fail_over(black_box(&cluster.state), NodeId(0)));
    });
    after_a_publication(c, "fail 1,000 partitions over", &cluster.state, &fail_over(&cluster.state));
    let (reserve, commit) = moves(&cluster.state);
    after_a_publication(c, "reserve the move of 1,000 partitions", &cluster.state, &reserve);
    let reserved = after(&cluster.state, &reserve).0;
    after_a_publication(c, "commit the move of 1,000 partitions", &reserved, &commit);
    let sealed = after(&cluster.state, &fail_over(&cluster.state)).0;
    let other = cluster.upload(1, RANGES);
    after_a_publication(c, "commit an object of 1,000 slices while a log is sealed", &sealed, &other);
    balance(c, &cluster.state);
    let published = cluster.state.clone();
    cluster.submit(&upload);
    c.bench_function("delta after that commit", |b| {
        b.iter(|| ::metadata::Delta::between(black_box(&published), black_box(&cluster.state)));
    });
}

fn after(state: &State, command: &Command) -> (State, Outcome) {
    let (mut state, index) = (state.clone(), LogIndex(state.applied.0 + 1));
    let outcome = apply(&mut state, index, 0, command);
    (state, outcome)
}

/// Applies a command to a state whose structure a published image shares.
fn after_a_publication(c: &mut Criterion, name: &str, state: &State, command: &Command) {
    let outcome = after(state, command).1;
    let all = |done: &[bool]| done.len() == 1_000 && done.iter().all(|done| *done);
    let is_whole = match &outcome {
        Outcome::Moved { committed } | Outcome::Slices { committed } => all(committed),
        Outcome::Opened { epochs } => epochs.len() == 1_000 && epochs.iter().all(Option::is_some),
        _ => false,
    };
    assert!(is_whole, "{name}: {outcome:?}");
    c.bench_function(name, |b| {
        b.iter_batched_ref(
            || state.clone(),
            |state| apply(state, LogIndex(state.applied.0 + 1), 0, command),
            BatchSize::SmallInput,
        );
    });
}

/// A look at a cluster whose every partition carries something: nothing is to be moved.
fn balance(c: &mut Criterion, state: &State) {
    let sample = |stream: &StreamId| (*stream, Traffic { bytes_in: 1_000_000, bytes_out: 0, requests: 0 });
    let samples = state.streams.keys().map(sample).collect();
    let mut balancer = Balancer::new(Settings::default());
    let mut seconds = 0;
    c.bench_function("observe and plan a balanced cluster", |b| {
        b.iter(|| {
            seconds += 5;
            let now = Duration::from_secs(seconds);
            balancer.observe(now, state, &samples);
            balancer.plan(now, state)
        });
    });
}

criterion_group! { name = benches; config = Criterion::default().sample_size(10); targets = metadata }
criterion_main!(benches);
