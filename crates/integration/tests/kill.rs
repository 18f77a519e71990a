//! kill -9 under load: 8 idempotent producers and 3 group members, and the history checker over all they saw.
//! `OTTLA_KILLS` sets how often the broker is killed (default 3 a test), `OTTLA_OUTAGE_SECONDS` for how long the object
//! store is unreachable (default 10), `OTTLA_SEED` when the kills come.

use std::time::Duration;

use common::{Clock, Random, SeededRandom, SystemClock};
use ottla_integration::process::cluster::{Cluster, Options, peer_is_kafka};
use ottla_integration::process::driver::Driver;
use ottla_integration::process::s3::S3;
use ottla_integration::process::wait_until;
use ottla_integration::s3sim::Faults;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Kills and restarts the broker while the driver runs; each time records must be acked and consumed again.
fn survive(options: &Options, arguments: &[&str], during: impl FnOnce()) {
    let cluster = Cluster::start(options).expect("the broker starts");
    let dir = tempfile::tempdir().expect("a directory");
    let patience = Duration::from_secs(120);
    let mut driver = Driver::start(&cluster.bootstrap, dir.path(), arguments, patience).expect("the driver gets going");
    during();
    let random = SeededRandom::new(setting("OTTLA_SEED", 1));
    let mut recoveries = Vec::new();
    for kill in 0..setting("OTTLA_KILLS", 3) {
        std::thread::sleep(Duration::from_millis(300 + random.below(1500)));
        cluster.kill().expect("the broker runs");
        let before = driver.counts().expect("the driver lives");
        let killed = SystemClock.boot();
        cluster.restart().unwrap_or_else(|error| panic!("after kill {kill}: {error:#}"));
        let mut acked = None;
        wait_until(patience, "records are acked and consumed again", || {
            let now = driver.counts().expect("the driver lives");
            if now.acked > before.acked && acked.is_none() {
                acked = Some(SystemClock.boot() - killed);
            }
            now.acked > before.acked && now.polled > before.polled
        })
        .unwrap_or_else(|error| panic!("after kill {kill}: {error:#}\n{}\n{}", driver.log(), cluster.log()));
        recoveries.extend(acked);
    }
    let verdict = driver.finish_clean().unwrap_or_else(|error| {
        panic!("{error:#}\nkept in {}\nlog of the node:\n{}", dir.keep().display(), cluster.log())
    });
    recoveries.sort_unstable();
    let middle = recoveries.get(recoveries.len() / 2);
    eprintln!("{} kills, kill to ack p50 {middle:?}, max {:?}; {verdict}", recoveries.len(), recoveries.last());
    assert!(verdict.acked > 100 && verdict.records_polled >= verdict.acked, "the run proves something: {verdict}");
}

#[test]
fn kill9_local_store() {
    survive(&Options::default(), &[], || ());
}

#[test]
fn kill9_with_the_consumer_protocol() {
    survive(&Options::default(), &["-protocol", "consumer"], || ());
}

fn s3() -> (S3, Options) {
    let s3 = S3::start(setting("OTTLA_SEED", 1)).expect("loopback ports");
    let options = Options { properties: vec![s3.property("chaos")], env: s3.env(), ..Options::default() };
    (s3, options)
}

#[test]
fn kill9_store_failing_30_percent() {
    let (s3, options) = s3();
    let faults = Faults { fail_percent: 20, fail_after_percent: 7, cut_after_percent: 3, ..Faults::default() };
    survive(&options, &[], || s3.set(&faults).expect("it answers"));
    let stats = s3.stats().expect("it answers");
    eprintln!("{stats:?}");
    assert!(peer_is_kafka() || stats.injected > 0, "the store was used and failed: {stats:?}");
}

#[test]
fn kill9_store_unreachable() {
    let (s3, options) = s3();
    let outage = Faults { unreachable_ms: setting("OTTLA_OUTAGE_SECONDS", 10) * 1000, ..Faults::default() };
    survive(&options, &[], || s3.set(&outage).expect("it answers"));
    let stats = s3.stats().expect("it answers");
    eprintln!("{stats:?}");
    assert!(peer_is_kafka() || stats.requests["put"] > 0, "the store was used in the end: {stats:?}");
}
