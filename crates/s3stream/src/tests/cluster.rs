//! Random histories of several nodes against a naive model: appends, reads, uploads with a store that fails, crashes and
//! restarts, sealed logs and their adoption (also of adopters), moves that fail at each of their steps. What was
//! acknowledged is never lost, doubled or altered, and a sealed log that holds nothing un-uploaded is never needed again.
//! `OTTLA_STREAM_HISTORIES` sets how many, and `OTTLA_CLUSTER_SEED` replays one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use common::budget::ByteBudget;
use common::store::{FaultPlan, Faults, Layered, Operation};
use common::{Random, StreamEpoch};
use wal::{Recovered, SealedLog, WriteAheadLog};

use super::*;
use crate::{FetchError, HandOver, ImportError, ReadClass, StreamManager, sealed_tails};

const NODES: usize = 3;
const STREAMS: u64 = 4;
const STEPS: usize = 250;
const HAND_OVER_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug)]
struct Record {
    base: i64,
    next: i64,
    payload: Vec<u8>,
}

#[derive(Debug, Default)]
struct Model {
    leader: usize,
    start: i64,
    next: i64,
    durable: i64,
    records: Vec<Record>,
    checkpoint: Option<i64>,
}

/// One life of a node.
struct Node {
    epoch: NodeEpoch,
    log: Arc<MemoryLog>,
    store: Arc<StreamStore>,
    supervisor: Supervisor,
    streams: BTreeMap<u64, Arc<Stream>>,
}

/// A log that was sealed, as metadata knows it.
struct Sealed {
    log: Arc<SealedLog>,
    pending: BTreeMap<u64, Offset>,
    present: Arc<AtomicBool>,
}

struct Cluster {
    random: Arc<SeededRandom>,
    faults: Arc<Faults>,
    objects: Arc<dyn ObjectStore>,
    metadata: Arc<MemoryMetadata>,
    settings: Settings,
    nodes: Vec<Node>,
    sealed: Vec<Sealed>,
    models: BTreeMap<u64, Model>,
    lives: u64,
    moves: usize,
    adoptions: usize,
}

fn id(node: usize) -> NodeId {
    NodeId(node as i32)
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let random = Arc::new(SeededRandom::new(seed));
        let faults = Arc::new(Faults::new(FaultPlan::default(), random.clone()));
        let settings = Settings {
            log_cache_bytes: [0, 2_000, 1 << 20][random.below(3) as usize],
            block_cache_bytes: [0, 64 << 10, 16 << 20][random.below(3) as usize],
            upload_bytes: [500, 5_000, u64::MAX / 4][random.below(3) as usize],
            ..settings()
        };
        let mut cluster = Self {
            random,
            faults: Arc::clone(&faults),
            objects: Arc::new(Layered::new(Arc::new(InMemory::new()), faults)),
            metadata: Arc::new(MemoryMetadata::default()),
            settings,
            nodes: Vec::new(),
            sealed: Vec::new(),
            models: BTreeMap::new(),
            lives: 0,
            moves: 0,
            adoptions: 0,
        };
        for node in 0..NODES {
            let started = cluster.start(node, cluster.fresh_log(), Recovered::default());
            cluster.nodes.push(started);
        }
        for stream in 0..STREAMS {
            let leader = cluster.pick(NODES);
            cluster.metadata.create_stream(StreamId(stream));
            cluster.models.insert(stream, Model { leader, ..Model::default() });
            cluster.grant(stream, leader);
            cluster.open(stream);
        }
        cluster
    }

    fn pick(&self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    fn one_in(&self, count: u64) -> bool {
        self.random.below(count) == 0
    }

    fn fresh_log(&self) -> MemoryLog {
        MemoryLog::new(64 << 20, 700, self.one_in(2))
    }

    /// Starts a life of a node, which has not opened anything yet.
    fn start(&mut self, node: usize, log: MemoryLog, recovered: Recovered) -> Node {
        self.lives += 1;
        let (epoch, supervisor, log) = (NodeEpoch(self.lives), Supervisor::default(), Arc::new(log));
        self.metadata.register(id(node), epoch);
        let parts = Parts {
            wal: log.clone(),
            recovered,
            objects: self.objects.clone(),
            stream_manager: self.metadata.clone(),
            object_manager: self.metadata.clone(),
            clock: Arc::new(SystemClock),
            random: self.random.clone(),
            supervisor: supervisor.clone(),
        };
        let settings = Settings { node: id(node), node_epoch: epoch, ..self.settings.clone() };
        let store = StreamStore::start(settings, parts).expect("starts");
        store.metadata_loaded();
        Node { epoch, log, store, supervisor, streams: BTreeMap::new() }
    }

    fn led_by(&self, node: usize) -> Vec<u64> {
        self.models.iter().filter(|(_, model)| model.leader == node).map(|(stream, _)| *stream).collect()
    }

    fn model(&mut self, stream: u64) -> &mut Model {
        self.models.get_mut(&stream).expect("is there")
    }

    fn leader(&self, stream: u64) -> &Node {
        &self.nodes[self.models[&stream].leader]
    }

    fn stream(&self, stream: u64) -> &Arc<Stream> {
        &self.leader(stream).streams[&stream]
    }

    fn grant(&self, stream: u64, node: usize) -> StreamEpoch {
        self.metadata.open_stream_by(StreamId(stream), Some((id(node), self.nodes[node].epoch)))
    }

    /// Takes over what sealed logs hold of a node's streams, in any order.
    fn adopt(&mut self, node: usize) {
        let led = self.led_by(node);
        let mut logs: Vec<_> = self.sealed.iter().filter(|log| log.pending.keys().any(|it| led.contains(it))).collect();
        if self.one_in(2) {
            logs.reverse();
        }
        for log in logs {
            for _ in 0..=self.random.below(2) {
                let of = |stream: StreamId| led.contains(&stream.0);
                self.nodes[node].store.adopt(&log.log, &of).expect("granted, and present");
            }
        }
        self.adoptions += 1;
    }

    /// Opens a stream at its leader, under the epoch it was granted, and compares.
    fn open(&mut self, stream: u64) {
        let epoch = self.metadata.stream(StreamId(stream)).expect("exists").epoch;
        let opened = self.leader(stream).store.open(StreamId(stream), epoch).expect("opens");
        let model = self.model(stream);
        let recovered = opened.next_offset().0;
        assert!(recovered >= model.durable, "stream {stream} ends at {recovered}, {} was durable", model.durable);
        assert!(recovered <= model.next, "stream {stream} ends at {recovered}, above {}", model.next);
        model.records.retain(|record| record.next <= recovered);
        assert_eq!(model.records.last().map_or(0, |record| record.next), recovered, "whole records");
        (model.next, model.durable) = (recovered, recovered);
        model.checkpoint = model.checkpoint.filter(|offset| *offset <= recovered);
        let leader = model.leader;
        self.nodes[leader].streams.insert(stream, opened);
    }

    async fn step(&mut self) {
        let stream = self.random.below(STREAMS);
        let node = self.pick(NODES);
        match self.random.below(100) {
            0..36 => self.append(stream),
            36..40 => self.checkpoint(stream),
            40..48 => self.make_durable(node),
            48..62 => self.read(stream).await,
            62..65 => self.trim(stream).await,
            65..74 => self.upload(node).await,
            74..77 => self.set_faults(),
            77..80 => self.reopen(stream),
            80..84 => self.crash(node).await,
            84..89 => self.lose(node).await,
            _ => self.move_stream(stream).await,
        }
        self.retire();
    }

    fn append(&mut self, stream: u64) {
        let count = 1 + self.random.below(3) as i64;
        let payload: Vec<u8> = (0..self.random.below(300)).map(|_| self.random.below(256) as u8).collect();
        let base = self.models[&stream].next;
        append(self.stream(stream), count, &payload);
        let model = self.model(stream);
        model.next += count;
        model.records.push(Record { base, next: base + count, payload });
        if self.leader(stream).log.durable().get() >= self.stream(stream).newest_lsn().unwrap_or_default() {
            let model = self.model(stream);
            model.durable = model.next;
        }
    }

    fn checkpoint(&mut self, stream: u64) {
        let next = self.models[&stream].next;
        self.stream(stream).append_checkpoint(offset(next), format!("{stream}@{next}").as_bytes()).expect("appends");
        self.model(stream).checkpoint = Some(next);
    }

    fn make_durable(&mut self, node: usize) {
        self.nodes[node].log.flush();
        for model in self.models.values_mut().filter(|model| model.leader == node) {
            model.durable = model.next;
        }
    }

    async fn read(&mut self, stream: u64) {
        let model = &self.models[&stream];
        let from = model.start + self.random.below((model.durable - model.start).max(0) as u64 + 1) as i64;
        self.read_from(stream, from, self.random.below(2000) as usize).await;
        let Ok(found) = self.stream(stream).checkpoint().await else { return };
        if let Some(found) = found {
            assert_eq!(found.payload, format!("{stream}@{}", found.offset.0));
        }
    }

    /// One fetch. Returns where it ended, `None` when the store did not let it.
    async fn read_from(&self, stream: u64, from: i64, max_bytes: usize) -> Option<i64> {
        let model = &self.models[&stream];
        let fetched = self.stream(stream).fetch(offset(from), offset(model.durable), max_bytes, ReadClass::Tail).await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(FetchError::Unavailable(_)) => return None,
            Err(error) => panic!("fetch of {from}..{} of stream {stream}: {error}", model.durable),
        };
        let mut expected = model.records.iter().filter(|record| record.next > from && record.next <= model.durable);
        let mut end = from;
        for slice in &fetched.slices {
            let mut payload = Vec::new();
            while end < slice.next_offset.0 {
                let record = expected.next().expect("nothing that was never written");
                assert!(payload.is_empty() || record.base < slice.next_offset.0);
                end = record.next;
                payload.extend_from_slice(&record.payload);
            }
            assert_eq!((end, payload), (slice.next_offset.0, slice.bytes.to_vec()));
        }
        assert!(!fetched.slices.is_empty() || expected.next().is_none(), "fetch from {from} found nothing");
        Some(end)
    }

    async fn trim(&mut self, stream: u64) {
        let model = &self.models[&stream];
        let start = model.start + self.random.below((model.durable - model.start).max(0) as u64 / 2 + 1) as i64;
        self.stream(stream).trim(offset(start)).await.expect("trims");
        self.model(stream).start = start;
    }

    /// Lets the upload run, for as long as the store lets it.
    async fn upload(&mut self, node: usize) {
        self.make_durable(node);
        self.metadata.lose_outcomes(u32::from(self.one_in(5)));
        let store = &self.nodes[node].store;
        if tokio::time::timeout(Duration::from_secs(300), store.flush()).await.is_ok() {
            assert_eq!(store.backlog_bytes(), 0);
            for stream in self.led_by(node) {
                assert_eq!(self.stream(stream).committed_offset(), self.stream(stream).next_offset());
            }
        }
    }

    fn set_faults(&self) {
        let rate = [0, 0, 300][self.pick(3)];
        let all = || Operation::ALL.iter().map(|operation| (*operation, rate)).collect();
        self.faults.set(FaultPlan {
            fail: all(),
            fail_after: all(),
            unreachable: self.one_in(4),
            ..FaultPlan::default()
        });
    }

    /// A partition opens its stream anew; logs that were adopted may be adopted once more, at any time.
    fn reopen(&mut self, stream: u64) {
        let (leader, next) = (self.models[&stream].leader, self.models[&stream].next);
        self.make_durable(leader);
        self.adopt(leader);
        self.grant(stream, leader);
        self.adopt(leader);
        self.open(stream);
        assert_eq!(self.models[&stream].next, next, "nothing is lost");
        self.adopt(leader);
    }

    async fn kill(&mut self, node: usize) -> Arc<MemoryLog> {
        let dead = &mut self.nodes[node];
        dead.streams.clear();
        dead.supervisor.stop(Duration::ZERO).await;
        dead.log.clone()
    }

    /// A node is killed and comes back with its log.
    async fn crash(&mut self, node: usize) {
        let (log, recovered) = self.kill(node).await.crash();
        self.nodes[node] = self.start(node, log, recovered);
        self.adopt(node);
        for stream in self.led_by(node) {
            self.grant(stream, node);
            self.open(stream);
        }
    }

    /// A node is killed, its log sealed, and its streams go to others. It comes back with a fresh log.
    async fn lose(&mut self, node: usize) {
        self.seal(node).await;
        self.fail_over(node);
    }

    async fn seal(&mut self, node: usize) {
        let present = Arc::new(AtomicBool::new(true));
        let log = self.kill(node).await.sealed(Arc::clone(&present));
        let tails = sealed_tails(&log, &*self.metadata).expect("reads");
        assert_eq!(sealed_tails(&log, &*self.metadata).expect("reads"), tails);
        let pending = tails.into_iter().map(|(stream, end)| (stream.0, end)).collect();
        self.sealed.push(Sealed { log, pending, present });
    }

    /// What the node led goes to others, in one step with the news of what its log holds.
    fn fail_over(&mut self, node: usize) {
        let tails = self.sealed.last().expect("just sealed").pending.iter();
        self.metadata.seal(&tails.map(|(stream, end)| (StreamId(*stream), *end)).collect::<Vec<_>>());
        let led = self.led_by(node);
        for stream in &led {
            let target = (node + 1 + self.pick(NODES - 1)) % NODES;
            self.grant(*stream, target);
            self.model(*stream).leader = target;
        }
        for target in (0..NODES).filter(|target| *target != node) {
            self.adopt(target);
        }
        led.into_iter().for_each(|stream| self.open(stream));
        self.nodes[node] = self.start(node, self.fresh_log(), Recovered::default());
    }

    /// Sealed logs of which everything is committed are retired, and go away.
    fn retire(&mut self) {
        let metadata = Arc::clone(&self.metadata);
        for sealed in &mut self.sealed {
            sealed.pending.retain(|stream, end| {
                let known = metadata.stream(StreamId(*stream)).expect("exists");
                *end > known.end.max(known.start)
            });
            if sealed.pending.is_empty() {
                sealed.present.store(false, Ordering::SeqCst);
            }
        }
        self.sealed.retain(|sealed| !sealed.pending.is_empty());
    }

    async fn import(&self, target: usize, epoch: StreamEpoch, bytes: &Bytes) {
        let hand_over = HandOver::decode(bytes.clone()).expect("as it was encoded");
        let node = &self.nodes[target];
        let flush = async { node.log.flush() };
        futures::join!(node.store.import(epoch, &hand_over), flush).0.expect("imports");
    }

    /// A move, which may fail at each of its steps.
    async fn move_stream(&mut self, stream: u64) {
        let source = self.models[&stream].leader;
        let target = (source + 1 + self.pick(NODES - 1)) % NODES;
        if self.one_in(2) {
            self.checkpoint(stream);
        }
        let moving = Arc::clone(self.stream(stream));
        moving.park();
        self.make_durable(source);
        let fails = self.pick(10);
        let budget = ByteBudget::new(HAND_OVER_BYTES_MAX);
        let Ok((hand_over, _lease)) = moving.export_tail(&budget).await else { return moving.resume() };
        let epoch = self.metadata.reserve(StreamId(stream));
        if fails == 0 {
            return moving.resume();
        }
        let bytes = hand_over.encode();
        if fails == 1 {
            // The target is killed before it has all of that durable.
            let node = &self.nodes[target];
            let _ = tokio::time::timeout(Duration::from_millis(1), node.store.import(epoch, &hand_over)).await;
            self.crash(target).await;
            return moving.resume();
        }
        self.import(target, epoch, &bytes).await;
        match fails {
            2 => {
                self.crash(target).await;
                return moving.resume();
            }
            3 => {
                let node = &self.nodes[target];
                node.store.discard(StreamId(stream), epoch);
                let late = node.store.import(epoch, &hand_over).await;
                assert_eq!(late, Err(ImportError::Used { stream: StreamId(stream), epoch }));
                return moving.resume();
            }
            // The source goes on, and nobody tells the target.
            4 => return moving.resume(),
            5 => return self.lose(source).await,
            6 => return self.crash(source).await,
            7 => self.import(target, epoch, &bytes).await,
            _ => {}
        }
        let owner = (id(target), self.nodes[target].epoch);
        let durable = self.models[&stream].durable;
        if self.one_in(10) {
            // The target is lost, and the move is completed while its log is being read.
            self.seal(target).await;
            assert!(self.metadata.grant(StreamId(stream), epoch, owner));
            self.model(stream).leader = target;
            self.fail_over(target);
            assert_eq!(self.models[&stream].durable, durable, "nothing is lost, acknowledged or not");
            return;
        }
        assert!(self.metadata.grant(StreamId(stream), epoch, owner));
        self.model(stream).leader = target;
        if self.one_in(10) {
            // The answer is lost with the source.
            self.lose(source).await;
        } else if !self.one_in(4) {
            self.nodes[source].store.close(StreamId(stream));
        }
        match self.pick(10) {
            // The target is killed before it opens the stream, for good or not.
            0 => self.crash(target).await,
            1 => self.lose(target).await,
            _ => self.open(stream),
        }
        assert_eq!(self.models[&stream].durable, durable, "nothing is lost, acknowledged or not");
        if self.models[&stream].leader != source {
            self.nodes[source].streams.remove(&stream);
        }
        self.moves += 1;
    }

    /// All faults end: everything is uploaded, no sealed log is needed any more, and all of it is read from objects.
    async fn heal(mut self) -> (usize, usize) {
        self.faults.set(FaultPlan::default());
        for node in 0..NODES {
            self.upload(node).await;
            assert_eq!(self.nodes[node].store.backlog_bytes(), 0);
        }
        self.retire();
        assert!(self.sealed.is_empty());
        for node in 0..NODES {
            self.crash(node).await;
        }
        for stream in 0..STREAMS {
            let model = &self.models[&stream];
            let (start, end) = (model.start, model.next);
            let mut from = start;
            while from < end {
                from = self.read_from(stream, from, 1000).await.expect("the store is well");
            }
        }
        (self.moves, self.adoptions)
    }
}

fn run(seed: u64) -> (usize, usize) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("builds");
    let history = async {
        let mut cluster = Cluster::new(seed);
        for _ in 0..STEPS {
            cluster.step().await;
        }
        cluster.heal().await
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(history)));
    outcome.unwrap_or_else(|panic| {
        eprintln!("replay with OTTLA_CLUSTER_SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn histories_of_a_cluster_agree_with_the_model() {
    if let Some(seed) = number("OTTLA_CLUSTER_SEED") {
        run(seed);
        return;
    }
    let (mut moves, mut adoptions) = (0, 0);
    let histories = number("OTTLA_STREAM_HISTORIES").unwrap_or(12);
    for seed in 0..histories {
        let done = run(seed);
        (moves, adoptions) = (moves + done.0, adoptions + done.1);
    }
    assert!(moves as u64 > histories && adoptions as u64 > histories, "{moves} moves, {adoptions} adoptions");
    eprintln!("{histories} histories, {moves} moves, {adoptions} adoptions");
}
