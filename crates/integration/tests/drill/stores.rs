//! A broker dies while the object store is slow and fails, or is away: the others take over from its log, and what cannot be
//! uploaded stays in logs until it can.

use std::sync::Mutex;

use anyhow::Context as _;
use drill::client::Operator as _;
use drill::commands::Commands;
use drill::engine::Victim;
use drill::plan::{Action, Scenario};
use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::s3::S3;
use ottla_integration::s3sim::{Faults, Stats};

use super::faults::{BROKERS, Saboteur, times};
use super::{commands, judge, run, turn};

/// A broker is killed with the store like this, and started again with the store whole. `check` sees what was asked of the
/// store when it began to fail, and when it ended.
fn killed_with(faults: &Faults, check: impl Fn(&Stats, &Stats) + Sync) {
    let _turn = turn();
    for round in 0..times() {
        let s3 = S3::start(round as u64).expect("loopback ports");
        // Many small uploads: each may fail.
        let properties = vec![s3.property("drill"), "ottla.wal.upload.interval.ms=200".to_owned()];
        let options = Options { brokers: BROKERS, properties, env: s3.env(), ..Options::default() };
        let cluster = Cluster::start(&options).expect("the brokers start");
        let began = Mutex::new(None);
        let act = |commands: &Commands, action: Action| {
            match action {
                Action::Kill(_) => {
                    s3.set(faults)?;
                    *began.lock().expect("whole") = Some(s3.stats()?);
                }
                Action::Start(_) => {
                    let began = began.lock().expect("whole").take();
                    check(&began.context("it was killed")?, &s3.stats()?);
                    s3.set(&Faults::default())?;
                }
                _ => {}
            }
            commands.act(action)
        };
        let operator = Saboteur { commands: commands(&cluster, BROKERS), act: &act };
        let report = run(&cluster, &cluster.bootstrap, BROKERS, Scenario::Kill, Victim::Node(2), &operator);
        judge(&report);
        assert_eq!(report.runs[0].affected_partitions, 4);
    }
}

#[test]
fn a_broker_dies_while_the_store_is_slow_and_fails() {
    let faults =
        Faults { fail_percent: 10, fail_after_percent: 7, cut_after_percent: 3, latency_ms: 500, ..Faults::default() };
    killed_with(&faults, |before, after| {
        println!("{before:?}\n{after:?}");
        assert!(after.objects > before.objects, "it was used");
    });
}

#[test]
fn a_broker_dies_while_the_store_is_away() {
    killed_with(&Faults { unreachable_ms: 600_000, ..Faults::default() }, |before, after| {
        println!("{before:?}\n{after:?}");
        // What was under way when it began may have come through, one for each broker.
        assert!(after.objects <= before.objects + u64::from(BROKERS), "it was away");
    });
}
