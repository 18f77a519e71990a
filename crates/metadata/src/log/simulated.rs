//! A store on a simulated disk: what it writes takes time, and what it has not told durable may be lost with its process
//! or with the power.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Random;
use common::simulated_disk::{DiskLife, DiskStep};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::memory::{Change, Content, chunks_of};
use super::{AppendDone, EntryId, LogBounds, LogRecord, RaftLogStore, SnapshotChunks, SnapshotSource, Vote};

/// How often a store that found no room looks again.
const ROOM_LOOK: Duration = Duration::from_millis(100);

/// What lies on the disk of one node; outlives its processes.
#[derive(Default)]
pub struct SimulatedLogDisk {
    state: Mutex<OnDisk>,
}

#[derive(Default)]
struct OnDisk {
    durable: Content,
    /// Written and not synced, in order.
    unsynced: Vec<Change>,
}

impl OnDisk {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            self.durable.apply(change);
        }
    }
}

impl SimulatedLogDisk {
    /// The power fails: of what was not synced some first changes are there. The node's process must have been killed.
    pub fn cut_power(&self, random: &dyn Random) {
        let mut state = self.state.lock();
        let kept = random.below(state.unsynced.len() as u64 + 1);
        state.unsynced.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }
}

/// What a process has open.
pub struct SimulatedLogStore {
    shared: Arc<Shared>,
    /// Ends with the store, wherever it is.
    _writer: JoinSet<()>,
}

struct Shared {
    disk: Arc<SimulatedLogDisk>,
    life: DiskLife,
    /// What readers see: all that was asked for.
    content: Mutex<Content>,
    queue: Mutex<VecDeque<Queued>>,
    work: Notify,
    failed: AtomicBool,
    stalled: AtomicBool,
}

/// A change, and who waits for it to be durable.
struct Queued {
    change: Change,
    done: Option<AppendDone>,
}

impl SimulatedLogStore {
    /// Opens what lies on `disk`, for a process of the node. Must be called on an async runtime.
    #[must_use]
    pub fn open(disk: &Arc<SimulatedLogDisk>, life: DiskLife) -> Self {
        let content = {
            let mut state = disk.state.lock();
            // What an earlier process wrote is read back, and made durable by that.
            state.sync();
            state.durable.clone()
        };
        let shared = Arc::new(Shared {
            disk: Arc::clone(disk),
            life,
            content: Mutex::new(content),
            queue: Mutex::default(),
            work: Notify::new(),
            failed: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
        });
        let mut writer = JoinSet::new();
        writer.spawn(write(Arc::clone(&shared)));
        Self { shared, _writer: writer }
    }

    async fn write(&self, change: Change) -> io::Result<()> {
        let (done, outcome) = oneshot::channel();
        // Who asked may have gone.
        let answer = move |result| drop(done.send(result));
        self.shared.put(change, Some(Box::new(answer)));
        outcome.await.map_err(io::Error::other)?
    }
}

impl Shared {
    fn put(&self, change: Change, done: Option<AppendDone>) {
        if self.failed.load(Ordering::SeqCst) {
            if let Some(done) = done {
                done(Err(failed()));
            }
            return;
        }
        self.content.lock().apply(change.clone());
        let wake = done.is_some();
        self.queue.lock().push_back(Queued { change, done });
        // What nobody waits for goes with the next batch.
        if wake {
            self.work.notify_one();
        }
    }

    /// One batch, as far as it gets.
    async fn carry_out(&self, changes: Vec<Change>) -> io::Result<()> {
        self.life.pause().await;
        while self.life.admit(DiskStep::Grow).is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            self.stalled.store(true, Ordering::SeqCst);
            tokio::time::sleep(ROOM_LOOK).await;
        }
        self.stalled.store(false, Ordering::SeqCst);
        self.life.admit(DiskStep::Write)?;
        self.disk.state.lock().unsynced.extend(changes);
        self.life.pause().await;
        self.life.admit(DiskStep::Sync)?;
        self.disk.state.lock().sync();
        self.life.pause().await;
        Ok(())
    }
}

fn failed() -> io::Error {
    io::Error::other("an earlier write to the metadata log failed")
}

async fn write(shared: Arc<Shared>) {
    loop {
        let batch: Vec<Queued> = shared.queue.lock().drain(..).collect();
        if batch.is_empty() {
            shared.work.notified().await;
            continue;
        }
        let (changes, waiting): (Vec<Change>, Vec<Option<AppendDone>>) =
            batch.into_iter().map(|queued| (queued.change, queued.done)).unzip();
        let written = shared.carry_out(changes).await;
        if written.is_err() {
            shared.failed.store(true, Ordering::SeqCst);
        }
        for done in waiting.into_iter().flatten() {
            done(if written.is_ok() { Ok(()) } else { Err(failed()) });
        }
        if written.is_err() {
            let unwritten: Vec<Queued> = shared.queue.lock().drain(..).collect();
            unwritten.into_iter().filter_map(|queued| queued.done).for_each(|done| done(Err(failed())));
            return;
        }
    }
}

#[async_trait::async_trait]
impl RaftLogStore for SimulatedLogStore {
    fn bounds(&self) -> LogBounds {
        self.shared.content.lock().bounds()
    }

    fn append(&self, records: Vec<LogRecord>, done: AppendDone) {
        self.shared.put(Change::Append(records), Some(done));
    }

    async fn truncate_after(&self, last: Option<EntryId>) -> io::Result<()> {
        self.write(Change::TruncateAfter(last)).await
    }

    async fn purge(&self, upto: EntryId) -> io::Result<()> {
        self.write(Change::Purge(upto)).await
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Vec<LogRecord>> {
        self.shared.life.pause().await;
        Ok(self.shared.content.lock().read(range))
    }

    async fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.write(Change::Vote(vote)).await
    }

    fn note_committed(&self, committed: Option<EntryId>) {
        self.shared.put(Change::Committed(committed), None);
    }

    async fn save_snapshot(&self, _covers: Option<EntryId>, source: SnapshotSource) -> io::Result<()> {
        self.write(Change::Snapshot(chunks_of(&source)?)).await
    }

    async fn load_snapshot(&self) -> io::Result<Option<SnapshotChunks>> {
        self.shared.life.pause().await;
        Ok(self.shared.content.lock().snapshot())
    }

    async fn close(&self) {
        let committed = self.bounds().committed;
        // Changes take effect in order: with this one all before it are durable. An error was told already.
        let _ = self.write(Change::Committed(committed)).await;
        self.shared.failed.store(true, Ordering::SeqCst);
    }

    fn is_stalled(&self) -> bool {
        self.shared.stalled.load(Ordering::SeqCst)
    }

    fn log_bytes(&self) -> u64 {
        self.shared.content.lock().log_bytes()
    }

    fn snapshot_bytes(&self) -> u64 {
        self.shared.content.lock().snapshot_bytes()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use common::SeededRandom;
    use common::simulated_disk::SimulatedDisk;

    use super::*;
    use crate::log::conformance;

    fn random(seed: u64) -> Arc<dyn Random> {
        Arc::new(SeededRandom::new(seed))
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_store_does_what_every_store_must() {
        conformance::check_all(|| {
            let (node, disk) = (SimulatedDisk::new(random(1)), Arc::new(SimulatedLogDisk::default()));
            move || Arc::new(SimulatedLogStore::open(&disk, node.begin_life())) as Arc<dyn RaftLogStore>
        })
        .await;
    }

    fn record(index: u64) -> LogRecord {
        LogRecord { id: EntryId { term: 1, node: 1, index }, payload: Bytes::from(index.to_string()) }
    }

    /// Appends one record after the other until `until`; returns how many were told durable.
    async fn append_until(store: &SimulatedLogStore, from: u64, until: Duration) -> u64 {
        let told = Arc::new(Mutex::new(from));
        let appending = async {
            for index in from.. {
                let (told, sleep) = (Arc::clone(&told), tokio::time::sleep(Duration::from_millis(1)));
                let done = move |result: io::Result<()>| {
                    result.expect("appended");
                    *told.lock() += 1;
                };
                store.append(vec![record(index)], Box::new(done));
                sleep.await;
            }
        };
        // Elapsed is what is meant to be.
        let _ = tokio::time::timeout(until, appending).await;
        *told.lock()
    }

    #[test]
    fn what_was_told_durable_survives_kills_and_power_cuts() {
        let mut lost = 0;
        for seed in 0..100 {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.expect("runtime").block_on(async {
                let random = random(seed);
                let (node, disk) = (SimulatedDisk::new(Arc::clone(&random)), Arc::default());
                let (mut told, mut appended) = (0, 0);
                for _ in 0..4 {
                    let store = SimulatedLogStore::open(&disk, node.begin_life());
                    let found = store.read(0..u64::MAX).await.expect("reads");
                    let next = found.len() as u64;
                    assert!(next >= told, "seed {seed}: {next} of {told} records");
                    lost += u64::from(next < appended);
                    assert_eq!(found, (0..next).map(record).collect::<Vec<_>>());
                    told = append_until(&store, next, Duration::from_millis(random.below(50))).await;
                    appended = store.bounds().last.map_or(0, |last| last.index + 1);
                    node.kill();
                    drop(store);
                    if random.below(2) == 0 {
                        disk.cut_power(&*random);
                    }
                }
            });
        }
        assert!(lost > 20, "what was not told durable was lost {lost} times: the disk forgets too little");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_disk_is_waited_for_and_an_error_is_final() {
        let (node, disk) = (SimulatedDisk::new(random(3)), Arc::default());
        let store = SimulatedLogStore::open(&disk, node.begin_life());
        node.set_full(true);
        let told = append_until(&store, 0, Duration::from_secs(5)).await;
        assert!(told == 0 && store.is_stalled());
        node.set_full(false);
        store.save_vote(Vote { term: 1, node: 1, committed: false }).await.expect("saved");
        assert!(!store.is_stalled());
        node.fail_syncs(1);
        let vote = Vote { term: 2, node: 1, committed: false };
        store.save_vote(vote).await.expect_err("the sync failed");
        store.save_vote(vote).await.expect_err("for good");
    }
}
