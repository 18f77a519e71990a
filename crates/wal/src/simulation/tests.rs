//! Logs in simulated time: whatever befalls a node, what it acknowledged is found again.

use std::time::Duration;

use common::simulated_disk::SimulatedDisk;
use common::{NodeEpoch, SeededRandom};
use tokio::time::timeout;

use super::*;
use crate::conformance::{config, meta, payload};
use crate::{AppendError, WalClass};

const SEEDS: u64 = 60;
const NODE: NodeId = NodeId(1);
const BY: SealedBy = SealedBy { node: NodeId(2), epoch: NodeEpoch(7) };

/// A world with one owner and one node beside it.
struct Rig {
    random: Arc<dyn Random>,
    disks: Arc<SimulatedDisks>,
    own: Arc<SimulatedDisk>,
    other: Arc<SimulatedDisk>,
    /// Records that were acknowledged, by number; and the next one.
    acknowledged: i64,
    next: i64,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let disk = || SimulatedDisk::new(Arc::clone(&random));
        let sizes = SimulatedSizes { segment_bytes: 64 << 10, capacity_bytes: 512 << 10 };
        let disks = SimulatedDisks::new(sizes, Arc::clone(&random));
        Self { disks, own: disk(), other: disk(), random, acknowledged: 0, next: 0 }
    }

    fn config() -> WalConfig {
        WalConfig { class: WalClass::Shared, ..config(WalLocation::Directory("/n1/wal".into())) }
    }

    async fn open(&self) -> Opened {
        let logs = self.disks.logs(self.own.begin_life());
        logs.open(Self::config()).await.expect("opens")
    }

    /// What was found begins with everything that was acknowledged, in order and unaltered.
    async fn check(&mut self, records: &[RecordRef], read: impl AsyncFn(Lsn) -> bytes::Bytes) {
        assert!(records.len() as i64 >= self.acknowledged, "{} of {}", records.len(), self.acknowledged);
        for (number, record) in (0..).zip(records) {
            assert_eq!(record.meta, meta(1, number));
            let block = read(record.block.lsn()).await;
            let (start, len) = (record.position as usize, record.len as usize);
            assert_eq!(block[start..start + len], payload(number, len));
        }
        self.next = records.len() as i64;
    }

    /// Appends and waits, until `until` has passed or the log fails.
    async fn work(&mut self, opened: &Opened, until: Duration) {
        let work = async {
            loop {
                let mut last = None;
                for _ in 0..=self.random.below(4) {
                    let bytes = payload(self.next, self.random.below(9_000) as usize);
                    match opened.wal.append(&meta(1, self.next), &bytes, &mut |_| ()) {
                        Ok(appended) => {
                            self.next += 1;
                            last = Some(appended.end);
                        }
                        Err(AppendError::Full | AppendError::NoMemory) => break,
                        Err(error) => return assert!(opened.wal.durable().is_failed(), "{error}"),
                    }
                }
                match last {
                    Some(end) if opened.wal.durable().wait(end).await.is_err() => return,
                    Some(_) => self.acknowledged = self.next,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        // Elapsed is what is meant to be.
        let _ = timeout(until, work).await;
    }
}

fn simulate(seeds: u64, test: impl AsyncFn(Rig)) {
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("runtime").block_on(test(Rig::new(seed)));
    }
}

#[test]
fn what_was_acknowledged_survives_kills_and_power_cuts() {
    simulate(SEEDS, async |mut rig| {
        for _ in 0..4 {
            let opened = rig.open().await;
            let wal = Arc::clone(&opened.wal);
            rig.check(&opened.recovered.records, async |lsn| {
                wal.read_block(lsn).await.expect("readable").bytes().expect("read")
            })
            .await;
            let until = Duration::from_millis(rig.random.below(60));
            rig.work(&opened, until).await;
            rig.own.kill();
            drop((opened, wal));
            if rig.random.below(2) == 0 {
                rig.disks.cut_power(NODE);
            }
            rig.disks.check().expect("nothing was sealed");
        }
        assert!(rig.next > 0);
    });
}

#[test]
fn whoever_seals_finds_all_that_was_acknowledged() {
    simulate(SEEDS, async |mut rig| {
        let logs = rig.disks.logs(rig.other.begin_life());
        let opened = rig.open().await;
        let (place, uuid) = (Rig::config().location, opened.uuid);
        let early = logs.seal(place.clone(), uuid, BY, SealProof::OwnerGone).await.expect_err("it lives");
        assert!(matches!(early, SealError::Alive { .. }), "{early}");
        let until = Duration::from_millis(rig.random.below(40));
        rig.work(&opened, until).await;
        let gone = rig.random.below(2) == 0;
        let proof = if gone {
            rig.own.kill();
            SealProof::OwnerGone
        } else {
            SealProof::LeaseExpired
        };
        let sealing = logs.seal(place.clone(), uuid, BY, proof);
        let (sealed, ()) = tokio::join!(sealing, rig.work(&opened, Duration::from_secs(1)));
        let sealed = sealed.expect("sealed");
        assert_eq!(opened.wal.durable().sealed_by(), (!gone).then_some(BY));
        drop(opened);
        if rig.random.below(2) == 0 {
            rig.disks.cut_power(NODE);
        }
        rig.disks.check().expect("nothing was acknowledged behind the end");
        let again = logs.seal(place.clone(), uuid, BY, SealProof::LeaseExpired).await.expect("again");
        assert_eq!(again, sealed);
        let log = logs.open_sealed(place.clone(), uuid, sealed.end).await.expect("opens");
        let records = log.records().expect("reads");
        rig.check(&records, async |lsn| log.read_block(lsn).await.expect("readable")).await;
        let found = logs.logs(place.clone()).await.expect("lists");
        assert!(found.iter().all(|found| found.uuid == uuid && found.sealed == Some(BY)));
        let fresh = logs.fresh(place.clone()).await.expect("a place");
        let own = rig.disks.logs(rig.own.begin_life());
        let refused = own.open(Rig::config()).await.err().expect("sealed");
        assert!(matches!(refused, OpenError::Sealed { .. }), "{refused}");
        let opened = own.open(WalConfig { location: fresh, ..Rig::config() }).await.expect("opens");
        assert_eq!(opened.recovered.records.len(), 0);
        own.remove(place.clone(), uuid).await.expect("removes");
        assert_eq!(own.logs(place).await.expect("lists").len(), 1);
    });
}

#[test]
fn a_frozen_disk_acknowledges_nothing_and_a_failing_one_never_again() {
    simulate(10, async |mut rig| {
        let opened = rig.open().await;
        rig.work(&opened, Duration::from_millis(20)).await;
        rig.own.set_frozen(true);
        let before = opened.wal.durable().get();
        rig.work(&opened, Duration::from_secs(5)).await;
        assert_eq!(opened.wal.durable().get(), before);
        rig.own.set_frozen(false);
        rig.work(&opened, Duration::from_secs(1)).await;
        assert!(opened.wal.durable().get() > before);
        rig.own.fail_syncs(1);
        opened.wal.trim(opened.wal.durable().get());
        rig.work(&opened, Duration::from_secs(5)).await;
        assert!(opened.wal.durable().is_failed());
        drop(opened);
        let opened = rig.open().await;
        assert!(opened.recovered.end >= before, "what was acknowledged is there");
    });
}

#[test]
fn a_full_disk_refuses_until_there_is_room_again() {
    simulate(10, async |mut rig| {
        rig.own.set_full(true);
        let opened = rig.open().await;
        rig.work(&opened, Duration::from_secs(5)).await;
        let refused = opened.wal.append(&meta(1, rig.next), &[0; 9_000], &mut |_| ());
        assert_eq!(refused.expect_err("full"), AppendError::Full);
        let before = rig.acknowledged;
        rig.own.set_full(false);
        rig.work(&opened, Duration::from_secs(5)).await;
        assert!(rig.acknowledged > before);
        opened.wal.close().await.expect("closes");
    });
}

/// The log of a process that was killed does nothing more, even if somebody still holds it.
#[test]
fn a_life_that_is_over_has_no_effect() {
    simulate(10, async |mut rig| {
        let old = rig.open().await;
        rig.work(&old, Duration::from_millis(20)).await;
        let new = rig.open().await;
        let (next, before) = (rig.next, old.wal.durable().get());
        rig.work(&old, Duration::from_secs(1)).await;
        assert_eq!(old.wal.durable().get(), before);
        rig.next = next.min(new.recovered.records.len() as i64);
        rig.work(&new, Duration::from_secs(1)).await;
        assert!(new.wal.durable().get() > before);
    });
}
