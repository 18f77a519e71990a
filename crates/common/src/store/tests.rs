//! The decorators, the local store and the claim, on real stores.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::*;
use crate::{SeededRandom, SystemClock};

fn create() -> PutOptions {
    PutOptions { mode: PutMode::Create, ..PutOptions::default() }
}

async fn conforms(store: &dyn ObjectStore) {
    let key = Path::from("a/b/c");
    let parts = [Bytes::from(vec![1; 3 << 20]), Bytes::new(), Bytes::from_static(b"xyz")];
    let payload: PutPayload = parts.iter().cloned().collect();
    store.put_opts(&key, payload.clone(), create()).await.expect("puts");
    let again = store.put_opts(&key, PutPayload::from_static(b"other"), create()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    let size = (3 << 20) + 3;
    assert_eq!(store.head(&key).await.expect("head").size, size);
    let all = store.get(&key).await.expect("gets").bytes().await.expect("reads");
    assert_eq!((all.len() as u64, &all[all.len() - 4..]), (size, &b"\x01xyz"[..]));
    let options = object_store::GetOptions { range: Some(GetRange::Suffix(2)), ..Default::default() };
    assert_eq!(store.get_opts(&key, options).await.expect("gets").bytes().await.expect("reads"), "yz");
    let ranges = store.get_ranges(&key, &[size - 3..size - 2, size - 2..size, 0..2]).await.expect("gets");
    assert_eq!(ranges, [&b"x"[..], b"yz", b"\x01\x01"]);
    let past_end = store.get_ranges(&key, &[size - 1..size + 1, 0..1]).await;
    assert!(past_end.is_err() || past_end.is_ok_and(|read| read[0].len() == 1), "no bytes are made up");
    let listed: Vec<_> = store.list(None).map_ok(|meta| meta.location).try_collect().await.expect("lists");
    assert_eq!(listed, std::slice::from_ref(&key));
    store.put(&key, PutPayload::from_static(b"new")).await.expect("overwrites");
    assert_eq!(store.head(&key).await.expect("head").size, 3);
    store.delete(&key).await.expect("deletes");
    assert!(matches!(store.get(&key).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn stores_conform_through_all_layers() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = format!("file://{}/deep/store", folder.path().display());
    for url in [file.as_str(), "memory://"] {
        let store = open(url).expect("opens");
        let counters = Arc::new(StoreCounters::new(Arc::new(SystemClock)));
        let counted = Layered::new(store, Arc::clone(&counters));
        conforms(&counted).await;
        assert_eq!(counters.of(Operation::Put).started.load(Ordering::Relaxed), 3);
        assert_eq!(counters.of(Operation::Put).errors.load(Ordering::Relaxed), 1);
        assert_eq!(counters.of(Operation::Get).in_flight.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn the_local_store_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().expect("a directory");
    let store = PacedLocalStore::open(folder.path()).expect("opens");
    store.put(&Path::from("x"), PutPayload::from_static(b"1")).await.expect("puts");
    assert!(store.put_opts(&Path::from("x"), PutPayload::from_static(b"2"), create()).await.is_err());
    let staging = folder.path().join(".staging#");
    assert_eq!(std::fs::read_dir(&staging).expect("is there").count(), 0);
    // What another process is just writing is no object.
    let own = staging.join(format!("{}-7", std::process::id()));
    std::fs::write(&own, b"half").expect("writes");
    let listed: Vec<_> = store.list(None).try_collect().await.expect("listed");
    assert_eq!(listed.iter().map(|found| found.location.as_ref()).collect::<Vec<_>>(), ["x"]);
    std::fs::remove_file(own).expect("removed");
    // No process has this id: the largest one Linux gives out is 2^22.
    std::fs::write(staging.join("99999999-0"), b"half").expect("writes");
    drop(PacedLocalStore::open(folder.path()).expect("opens again"));
    assert_eq!(std::fs::read_dir(&staging).expect("is there").count(), 0);
}

#[tokio::test]
async fn reads_are_retried_and_writes_are_not() {
    let random = Arc::new(SeededRandom::new(1));
    let plan = FaultPlan { fail: vec![(Operation::Get, 500), (Operation::Put, 1000)], ..FaultPlan::default() };
    let faults = Arc::new(Faults::new(FaultPlan::default(), random.clone()));
    let faulty = Arc::new(Layered::new(Arc::new(InMemory::new()), Arc::clone(&faults)));
    let counters = Arc::new(StoreCounters::new(Arc::new(SystemClock)));
    let counted = Arc::new(Layered::new(faulty, Arc::clone(&counters)));
    let store = Layered::new(counted, Arc::new(Retry::new(20, random)));
    store.put(&Path::from("x"), PutPayload::from_static(b"1")).await.expect("puts");
    faults.set(plan);
    tokio::time::pause();
    for _ in 0..20 {
        store.get_range(&Path::from("x"), 0..1).await.expect("is retried until it succeeds");
    }
    assert!(counters.of(Operation::Get).errors.load(Ordering::Relaxed) > 0);
    let before = counters.of(Operation::Put).started.load(Ordering::Relaxed);
    assert!(store.put(&Path::from("y"), PutPayload::from_static(b"1")).await.is_err());
    assert_eq!(counters.of(Operation::Put).started.load(Ordering::Relaxed), before + 1);
    assert!(matches!(store.get(&Path::from("z")).await, Err(Error::NotFound { .. } | Error::Generic { .. })));
}

#[tokio::test]
async fn a_fault_after_the_fact_has_taken_effect() {
    let faults = Arc::new(Faults::new(FaultPlan::default(), Arc::new(SeededRandom::new(1))));
    let store = Layered::new(Arc::new(InMemory::new()), Arc::clone(&faults));
    faults.set(FaultPlan { fail_after: vec![(Operation::Put, 1000)], ..FaultPlan::default() });
    assert!(store.put(&Path::from("x"), PutPayload::from_static(b"1")).await.is_err());
    assert_eq!(store.head(&Path::from("x")).await.expect("is there").size, 1);
    faults.set_unreachable(true);
    assert!(store.head(&Path::from("x")).await.is_err());
    assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());
}

#[tokio::test]
async fn the_limit_holds() {
    let faults = Faults::new(
        FaultPlan { latency: Duration::from_millis(5), ..FaultPlan::default() },
        Arc::new(SeededRandom::new(1)),
    );
    let slow = Arc::new(Layered::new(Arc::new(InMemory::new()), Arc::new(faults)));
    let counters = Arc::new(StoreCounters::new(Arc::new(SystemClock)));
    let counted = Arc::new(Layered::new(slow, Arc::clone(&counters)));
    let store = Arc::new(Layered::new(counted, Arc::new(Limit::new(2))));
    let heads = (0..10).map(|_| {
        let (store, counters) = (Arc::clone(&store), Arc::clone(&counters));
        async move {
            let _ = store.head(&Path::from("x")).await;
            counters.of(Operation::Head).in_flight.load(Ordering::Relaxed)
        }
    });
    let in_flight = futures::future::join_all(heads).await;
    assert!(in_flight.iter().all(|in_flight| *in_flight <= 2), "{in_flight:?}");
}

#[tokio::test]
async fn a_prefix_belongs_to_one_cluster() {
    let store = InMemory::new();
    assert_eq!(claim_prefix(&store, "p", "mine").await.expect("claims"), Claimed::Fresh);
    assert_eq!(claim_prefix(&store, "p", "mine").await.expect("claims"), Claimed::Known);
    let foreign = claim_prefix(&store, "p", "yours").await.expect_err("is refused");
    assert!(matches!(&foreign, ClaimError::Foreign { owner, .. } if owner == "mine"), "{foreign}");
    store.put(&Path::from("q/objects/1/1-0"), PutPayload::from_static(b"1")).await.expect("puts");
    assert!(matches!(claim_prefix(&store, "q", "mine").await, Err(ClaimError::Used { .. })));
    assert_eq!(claim_prefix(&store, "r", "yours").await.expect("claims"), Claimed::Fresh);

    let faults = Arc::new(Faults::new(FaultPlan::default(), Arc::new(SeededRandom::new(1))));
    let store = Layered::new(Arc::new(InMemory::new()), Arc::clone(&faults));
    faults.set(FaultPlan { fail_after: vec![(Operation::Put, 1000)], ..FaultPlan::default() });
    assert_eq!(claim_prefix(&store, "", "mine").await.expect("the marker tells"), Claimed::Known);
    faults.set_unreachable(true);
    assert!(matches!(claim_prefix(&store, "", "mine").await, Err(ClaimError::Store { .. })));
}

/// One seed, one run, whatever the store is asked: outages, failures before and after the effect, hangs.
#[tokio::test(start_paused = true)]
async fn faults_in_simulated_time_follow_from_the_seed() {
    async fn run(seed: u64) -> (Vec<bool>, Vec<String>, Duration) {
        let started = crate::clock::deadline(Duration::ZERO);
        let random: Arc<dyn crate::Random> = Arc::new(SeededRandom::new(seed));
        let plan = FaultPlan {
            fail: vec![(Operation::Put, 100), (Operation::Get, 300)],
            fail_after: vec![(Operation::Put, 200)],
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(40),
            hanging: 20,
            hang: Duration::from_secs(30),
            unreachable: false,
        };
        let faults = Arc::new(Faults::new(plan, Arc::clone(&random)));
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let options = StoreOptions { random, ..StoreOptions::default() };
        let store = faulty(Arc::clone(&bucket), &faults, &options);
        let mut outcomes = Vec::new();
        for number in 0..100 {
            let key = Path::from(format!("{number:03}"));
            outcomes.push(store.put(&key, PutPayload::from_static(b"x")).await.is_ok());
            outcomes.push(store.get(&key).await.is_ok());
        }
        let listed = bucket.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.expect("lists");
        (outcomes, listed, crate::clock::deadline(Duration::ZERO) - started)
    }
    let (outcomes, listed, took) = run(7).await;
    assert_eq!((outcomes.clone(), listed.clone(), took), run(7).await);
    assert_ne!(outcomes, run(8).await.0);
    let puts = outcomes.iter().step_by(2).filter(|ok| **ok).count();
    assert!(listed.len() > puts && listed.len() < 100, "{} stored, {puts} told so", listed.len());
    assert!(listed.is_sorted() && took > Duration::from_secs(33), "{took:?}");
}
