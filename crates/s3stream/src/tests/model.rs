//! Random histories against a naive model: appends, reads, searches, trims, uploads, object compaction, collection,
//! crashes, deletions and a faulty store, in any order. `OTTLA_STREAM_HISTORIES` sets how many, and
//! `OTTLA_STREAM_SEED` replays one.

use std::collections::BTreeMap;

use common::store::{FaultPlan, Faults, Layered, Operation};
use common::{Random, StreamEpoch};

use super::*;
use crate::collector::Collector;
use crate::compaction::Compactor;
use crate::{FetchError, ReadClass};

const STREAMS: u64 = 4;
const STEPS: usize = 250;

#[derive(Clone, Debug)]
struct Record {
    base: i64,
    next: i64,
    payload: Vec<u8>,
    timestamp: i64,
}

#[derive(Debug, Default)]
struct Model {
    start: i64,
    next: i64,
    durable: i64,
    records: Vec<Record>,
    checkpoint: Option<(i64, Vec<u8>)>,
    durable_checkpoint: Option<(i64, Vec<u8>)>,
}

struct History {
    rig: Rig,
    random: Arc<SeededRandom>,
    faults: Arc<Faults>,
    streams: BTreeMap<u64, Arc<Stream>>,
    models: BTreeMap<u64, Model>,
}

impl History {
    fn new(seed: u64) -> Self {
        let random = Arc::new(SeededRandom::new(seed));
        let faults = Arc::new(Faults::new(FaultPlan::default(), random.clone()));
        let objects = Arc::new(Layered::new(Arc::new(InMemory::new()), Arc::clone(&faults)));
        let settings = Settings {
            log_cache_bytes: [0, 2_000, 1 << 20][random.below(3) as usize],
            block_cache_bytes: [0, 64 << 10, 16 << 20][random.below(3) as usize],
            upload_bytes: [500, 5_000, u64::MAX / 4][random.below(3) as usize],
            ..settings()
        };
        let log = MemoryLog::new(64 << 20, 700, random.below(2) == 0);
        let mut history = Self {
            rig: Rig::on(objects, log, settings),
            random,
            faults,
            streams: BTreeMap::new(),
            models: BTreeMap::new(),
        };
        for id in 0..STREAMS {
            history.streams.insert(id, history.rig.open(id));
            history.models.insert(id, Model::default());
        }
        history
    }

    fn below(&self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn between(&self, from: i64, to: i64) -> i64 {
        from + self.below((to - from + 1) as u64) as i64
    }

    async fn step(mut self) -> Self {
        let id = self.below(STREAMS);
        match self.below(100) {
            0..35 => self.append(id),
            35..38 => self.checkpoint(id),
            38..46 => self.make_durable(),
            46..64 => self.fetch(id).await,
            64..68 => self.search(id).await,
            68..71 => self.heads(id).await,
            71..73 => self.trim(id).await,
            73..87 => self.upload().await,
            87..92 => self.compact().await,
            92..94 => self.set_faults(),
            94..96 => self.reopen(id),
            96..98 => self.checkpoints(id).await,
            _ => self = self.crash().await,
        }
        self
    }

    fn append(&mut self, id: u64) {
        let (count, len) = (self.between(1, 5), self.below(300) as usize);
        let timestamp = self.between(0, 1000);
        let payload: Vec<u8> = (0..len).map(|_| self.below(256) as u8).collect();
        let model = self.models.get_mut(&id).expect("is there");
        let record = Record { base: model.next, next: model.next + count, payload, timestamp };
        let request = AppendRequest {
            base_offset: offset(record.base),
            next_offset: offset(record.next),
            max_timestamp_ms: timestamp,
            tag: [id as u8; wal::TAG_BYTES],
        };
        self.streams[&id].append(&request, &record.payload, &mut |_| ()).expect("appends");
        model.next = record.next;
        model.records.push(record);
    }

    fn checkpoint(&mut self, id: u64) {
        let model = self.models.get_mut(&id).expect("is there");
        let payload = format!("{id}@{}", model.next).into_bytes();
        self.streams[&id].append_checkpoint(offset(model.next), &payload).expect("appends");
        model.checkpoint = Some((model.next, payload));
    }

    fn make_durable(&mut self) {
        self.rig.log.flush();
        for model in self.models.values_mut() {
            model.durable = model.next;
            model.durable_checkpoint = model.checkpoint.clone();
        }
    }

    async fn fetch(&self, id: u64) {
        let (stream, model) = (&self.streams[&id], &self.models[&id]);
        let from = self.between(model.start, model.durable.max(model.start));
        let until = self.between(from, model.durable.max(from));
        let max_bytes = self.below(1000) as usize;
        let class = if self.below(2) == 0 { ReadClass::Tail } else { ReadClass::CatchUp };
        let fetched = match stream.fetch(offset(from), offset(until), max_bytes, class).await {
            Ok(fetched) => fetched,
            Err(FetchError::Unavailable(_)) => return,
            Err(error) => panic!("fetch of {from}..{until} in {:?}: {error}", model),
        };
        let mut expected = model.records.iter().filter(|record| record.next > from && record.next <= until);
        let mut bytes = 0;
        for slice in &fetched.slices {
            let mut payloads = Vec::new();
            let mut next = None;
            while next != Some(slice.next_offset.0) {
                let record = expected.next().expect("nothing that was never written");
                if next.is_none() {
                    assert_eq!(record.base, slice.base_offset.0);
                }
                next = Some(record.next);
                payloads.extend_from_slice(&record.payload);
            }
            assert_eq!(payloads, slice.bytes);
            bytes += slice.bytes.len();
        }
        assert_eq!(bytes, fetched.bytes);
        if fetched.slices.is_empty() {
            assert!(expected.next().is_none(), "fetch of {from}..{until} found nothing");
        }
    }

    async fn search(&self, id: u64) {
        let (stream, model) = (&self.streams[&id], &self.models[&id]);
        let until = self.between(model.start, model.durable.max(model.start));
        let timestamp = self.between(0, 1000);
        let live = || model.records.iter().filter(|record| record.next > model.start);
        let within = |record: &&Record| record.next <= until;
        if let Ok(found) = stream.find_timestamp(timestamp, offset(until)).await {
            let first = live().find(|record| record.timestamp >= timestamp).filter(within);
            assert_eq!(found.map(|slice| slice.next_offset.0), first.map(|record| record.next));
        }
        if let Ok(found) = stream.find_max_timestamp(offset(until)).await {
            let mut best: Option<&Record> = None;
            for record in live().filter(within) {
                if best.is_none_or(|best| record.timestamp > best.timestamp) {
                    best = Some(record);
                }
            }
            assert_eq!(found.map(|slice| slice.next_offset.0), best.map(|record| record.next));
        }
    }

    async fn heads(&self, id: u64) {
        let (stream, model) = (&self.streams[&id], &self.models[&id]);
        let from = self.between(model.start, model.next);
        let Ok(heads) = stream.heads(offset(from)).await else { return };
        let found: Vec<_> =
            heads.iter().map(|head| (head.base_offset.0, head.next_offset.0, head.max_timestamp_ms)).collect();
        let live = model.records.iter().filter(|record| record.next > from);
        assert_eq!(found, live.map(|record| (record.base, record.next, record.timestamp)).collect::<Vec<_>>());
    }

    async fn trim(&mut self, id: u64) {
        let model = self.models.get_mut(&id).expect("is there");
        let start = model.start + self.random.below((model.durable - model.start).max(0) as u64 / 2 + 1) as i64;
        self.streams[&id].trim(offset(start)).await.expect("trims");
        model.start = start;
    }

    /// Lets the upload run, for as long as the store lets it.
    async fn upload(&mut self) {
        self.make_durable();
        let lost = self.below(5) == 0;
        self.rig.metadata.lose_outcomes(u32::from(lost));
        if tokio::time::timeout(Duration::from_secs(300), self.rig.store.flush()).await.is_ok() {
            assert_eq!(self.rig.store.backlog_bytes(), 0);
            for stream in self.streams.values() {
                assert_eq!(stream.committed_offset(), stream.next_offset());
            }
        }
    }

    async fn compact(&self) {
        let (core, registry) = (&self.rig.store.core, &self.rig.store.registry);
        let compactor = Compactor::new(Arc::clone(core), Arc::clone(registry), self.random.clone());
        let _ = compactor.pass(u64::MAX).await;
        Collector::new(Arc::clone(core)).pass().await;
    }

    fn set_faults(&self) {
        let rate = [0, 0, 300][self.below(3) as usize];
        let all = || Operation::ALL.iter().map(|operation| (*operation, rate)).collect();
        let unreachable = self.below(6) == 0;
        self.faults.set(FaultPlan { fail: all(), fail_after: all(), unreachable, ..FaultPlan::default() });
    }

    fn reopen(&mut self, id: u64) {
        let old = self.streams.insert(id, self.rig.open(id)).expect("was open");
        assert_eq!(old.next_offset(), self.streams[&id].next_offset());
        assert!(old.append_checkpoint(old.next_offset(), b"void").is_err());
    }

    async fn checkpoints(&self, id: u64) {
        let Ok(found) = self.streams[&id].checkpoint().await else { return };
        // Never anything but what was written; the newest may be lost with the log's trim, an older one takes its place.
        if let Some(found) = found {
            assert_eq!(found.payload, format!("{id}@{}", found.offset.0).as_bytes());
            let newest = self.models[&id].checkpoint.as_ref().map(|(offset, _)| *offset);
            assert!(newest.is_some_and(|newest| found.offset.0 <= newest));
        }
    }

    async fn crash(mut self) -> Self {
        self.streams.clear();
        self.rig = self.rig.crash().await;
        for id in 0..STREAMS {
            let stream = self.rig.open(id);
            let model = self.models.get_mut(&id).expect("is there");
            let recovered = stream.next_offset().0;
            assert!(recovered >= model.durable, "stream {id} ends at {recovered}, {} was durable", model.durable);
            assert!(recovered <= model.next);
            assert_eq!(stream.start_offset().0, model.start);
            model.records.retain(|record| record.next <= recovered);
            assert_eq!(model.records.last().map_or(0, |record| record.next), recovered);
            (model.next, model.durable) = (recovered, recovered);
            self.streams.insert(id, stream);
        }
        self
    }

    /// All faults end: everything is uploaded, compacted, collected and read back.
    async fn heal(mut self) {
        self.faults.set(FaultPlan::default());
        self.upload().await;
        assert_eq!(self.rig.store.backlog_bytes(), 0);
        for _ in 0..20 {
            self.compact().await;
        }
        for id in 0..STREAMS {
            let ranges = self.rig.metadata.all_ranges(StreamId(id)).len();
            assert!(ranges < 40, "stream {id} lies in {ranges} ranges");
        }
        let stored = self.stored().await;
        assert_eq!(stored.len(), self.rig.metadata.live_objects().len() + self.orphans(&stored));
        self = self.crash().await;
        for (id, stream) in &self.streams {
            let model = &self.models[id];
            let mut cursor = model.start;
            let mut read = Vec::new();
            while cursor < model.next {
                let fetched =
                    stream.fetch(offset(cursor), offset(model.next), 700, ReadClass::CatchUp).await.expect("reads");
                cursor = fetched.slices.last().expect("never empty").next_offset.0;
                fetched.slices.iter().for_each(|slice| read.extend_from_slice(&slice.bytes));
            }
            let expected = model.records.iter().filter(|record| record.next > model.start);
            assert_eq!(read, expected.flat_map(|record| record.payload.clone()).collect::<Vec<_>>());
        }
    }

    async fn stored(&self) -> Vec<common::ObjectId> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.rig.objects.list(None).try_collect().await.expect("lists");
        listed
            .iter()
            .filter_map(|meta| crate::object::key::parse_key("test", &meta.location))
            .map(|(_, id, _)| id)
            .collect()
    }

    /// Objects that were put by an upload or compaction that a crash or fault ended before its commit.
    fn orphans(&self, stored: &[common::ObjectId]) -> usize {
        let live = self.rig.metadata.live_objects();
        stored.iter().filter(|id| !live.contains(id)).count()
    }
}

fn run(seed: u64) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("builds");
    let history = async {
        let mut history = History::new(seed);
        for _ in 0..STEPS {
            history = history.step().await;
        }
        history.heal().await;
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(history)));
    if let Err(panic) = outcome {
        eprintln!("replay with OTTLA_STREAM_SEED={seed}");
        std::panic::resume_unwind(panic);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn histories_agree_with_the_model() {
    if let Some(seed) = number("OTTLA_STREAM_SEED") {
        return run(seed);
    }
    for seed in 0..number("OTTLA_STREAM_HISTORIES").unwrap_or(40) {
        run(seed);
    }
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_was_never_granted_is_void() {
    let rig = Rig::new(MemoryLog::new(1 << 20, 1000, true), settings());
    let stream = rig.open(1);
    append(&stream, 1, b"a");
    rig.metadata.create_stream(StreamId(1));
    // A newer opening that metadata will not know after the crash, as after a move that failed.
    let phantom = rig.store.registry.open(
        &rig.store.core,
        StreamId(1),
        StreamEpoch(9),
        &crate::StreamManager::stream(&*rig.metadata, StreamId(1)).expect("exists"),
    );
    append(&phantom.expect("opens"), 1, b"phantom");
    let rig = rig.crash().await;
    assert_eq!(rig.open(1).next_offset(), offset(1));
}
