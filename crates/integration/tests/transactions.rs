//! Transactions of an unmodified client (librdkafka) among three brokers that die by kill -9 meanwhile: leaders of partitions,
//! of groups, and whoever coordinates the transactions. `OTTLA_TRANSACTIONS` sets how many there are (default 60); the brokers die
//! one after the other until all of them are through.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::{output_of, tools};

const BROKERS: u32 = 3;
/// How long a broker lives after another one came back.
const LIFE: Duration = Duration::from_millis(1500);
/// How long it stays away.
const AWAY: Duration = Duration::from_millis(500);

/// Kills one broker after the other until told to stop; all live in the end. Returns how many died.
fn kill_in_turn(cluster: &Cluster, stop: &AtomicBool) -> usize {
    let mut kills = 0;
    for node in (1..=BROKERS).cycle() {
        std::thread::sleep(LIFE);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        cluster.kill_node(node).expect("the broker runs");
        std::thread::sleep(AWAY);
        cluster.restart_node(node).expect("the broker starts again");
        kills += 1;
    }
    kills
}

#[test]
fn transactions_survive_kill9_of_any_broker() {
    let transactions = std::env::var("OTTLA_TRANSACTIONS").unwrap_or_else(|_| "60".to_owned());
    let cluster = Cluster::start(&Options { brokers: BROKERS, ..Options::default() }).expect("the brokers start");
    let program = tools::clients().join("confluent_transactions.py");
    let python = tools::python().expect("Python");
    let stop = AtomicBool::new(false);
    let (said, kills) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_in_turn(&cluster, &stop));
        let arguments = [cluster.bootstrap.as_str(), "kills", "1", transactions.as_str()];
        let said = output_of(Command::new(&python).arg(&program).args(arguments));
        stop.store(true, Ordering::Relaxed);
        (said, killer.join().expect("the killer ends"))
    });
    let said = said.unwrap_or_else(|error| panic!("after {kills} kills: {error:#}\nlog of a node:\n{}", cluster.log()));
    eprintln!("{transactions} transactions, {kills} kills");
    assert_eq!(said.lines().last(), Some("ok"), "{said}");
    assert!(kills > 0, "the run proves something");
}
