//! `ottla drill` with its real client: librdkafka, a real broker, kill -9. Needs `--features drill`, because the client
//! is a C library that takes minutes to compile.

mod faults;
mod hosts;
mod stores;
mod upgrade;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::SystemClock;
use drill::client::Operator;
use drill::commands::Commands;
use drill::engine::{Drill, Victim};
use drill::figures::figures;
use drill::librdkafka::Librdkafka;
use drill::plan::{Action, Plan, Rate, Scenario};
use drill::report::{Asked, Report};
use drill::view::TcpView;
use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::tools;

fn plan(scenario: Scenario) -> Plan {
    let seconds = Duration::from_secs;
    Plan {
        scenario,
        brokers: 1,
        partitions: 12,
        replication: 1,
        rate: Rate::Bytes(3e5),
        record_bytes: 200,
        seconds: seconds(9),
        outage: seconds(5),
        restart_after: None,
        runs: 1,
        producers: 2,
        members: 2,
        in_flight_bytes: 1 << 20,
        quiet: seconds(3),
        patience: seconds(60),
    }
}

fn drilled(scenario: Scenario) -> Report {
    drilled_among(1, scenario, Victim::Rotate)
}

fn drilled_among(brokers: u32, scenario: Scenario, victim: Victim) -> Report {
    let cluster = Cluster::start(&Options { brokers, ..Options::default() }).expect("the brokers start");
    run(&cluster, &cluster.bootstrap, brokers, scenario, victim, &commands(&cluster, brokers))
}

/// What `ottla local` and `ottla broker` can do to a cluster.
fn commands(cluster: &Cluster, brokers: u32) -> Commands {
    let text = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let commands = Commands::of_ottla(&text(&tools::ottla().expect("it builds")), &text(cluster.dir()));
    commands.watch(&(1..=brokers).collect::<Vec<_>>());
    commands
}

/// Names the topic of each run.
static RUNS: AtomicU64 = AtomicU64::new(1);

fn run(
    cluster: &Cluster,
    bootstrap: &str,
    brokers: u32,
    scenario: Scenario,
    victim: Victim,
    operator: &dyn Operator,
) -> Report {
    let plan = Plan { brokers: brokers as usize, replication: brokers.min(3) as i16, ..plan(scenario) };
    let clients = Librdkafka::new(bootstrap, &[], plan.in_flight_bytes).expect("settings");
    let view = TcpView::new(bootstrap);
    let interrupted = AtomicBool::new(false);
    let drill = Drill {
        clients: &clients,
        view: &view,
        operator,
        clock: Arc::new(SystemClock),
        tell: &|line: &str| println!("{line}"),
        interrupted: &interrupted,
    };
    let record = drill
        .run(&plan, victim, 0, RUNS.fetch_add(1, Ordering::Relaxed), 3e5)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", cluster.log()));
    let asked = Asked::new(&plan, "ottla drill".into(), "1970-01-01".into(), "a </script> b".into(), "c".into());
    Report::new(asked, vec![figures(&plan, &record)])
}

#[test]
fn a_killed_broker_is_missed_and_loses_nothing() {
    let report = drilled(Scenario::Kill);
    println!("{}", report.table());
    let run = &report.runs[0];
    assert!(report.is_clean(), "{}", run.verdict);
    assert!(run.acked > 5_000 && run.acked == run.sent, "{}", run.verdict);
    assert!(run.polled >= run.acked && run.commits > 0, "the group proves something: {}", run.verdict);
    assert_eq!((run.victim, run.affected_partitions), (1, 12));
    assert!(run.unavailable.max_ms > 20.0 && run.first_ack.max_ms < 30_000.0, "{:?}", run.unavailable);
    assert!(!run.errors.is_empty(), "clients noticed");
    let page = report.page().expect("a page");
    assert_eq!(page.matches("</script>").count(), 1, "nothing in the figures ends the script");
    // The name of a namespace is no address that anybody fetches.
    let addresses = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!page.contains("@DATA@") && !addresses.contains("http://") && !addresses.contains("https://"), "one file");
}

/// Three brokers at a time are enough for a machine of two cores.
static TURN: Mutex<()> = Mutex::new(());

/// What holds of every drill among three: nothing is lost, nobody waits for ever, and clients are told nothing but to ask
/// elsewhere.
fn drilled_among_three(scenario: Scenario, victim: Victim) -> Report {
    let _turn = turn();
    let report = drilled_among(3, scenario, victim);
    judge(&report);
    report
}

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn judge(report: &Report) {
    println!("{}", report.table());
    let run = &report.runs[0];
    assert!(report.is_clean(), "{}", run.verdict);
    assert!(run.acked > 5_000 && run.acked == run.sent, "{}", run.verdict);
    assert!(run.first_ack.max_ms < 20_000.0, "{:?}", run.first_ack);
}

#[test]
fn one_of_three_is_killed_and_the_others_take_over() {
    let report = drilled_among_three(Scenario::Kill, Victim::Rotate);
    assert_eq!(report.runs[0].affected_partitions, 4);
}

#[test]
fn the_controller_among_three_is_killed() {
    let report = drilled_among_three(Scenario::Kill, Victim::Controller);
    assert_eq!(report.runs[0].affected_partitions, 4);
}

#[test]
fn a_broker_that_is_frozen_for_longer_than_its_lease_is_replaced_and_comes_back() {
    let report = drilled_among_three(Scenario::Pause, Victim::Node(2));
    assert_eq!(report.runs[0].affected_partitions, 4);
}

#[test]
fn a_drained_broker_gives_away_all_it_leads() {
    let report = drilled_among_three(Scenario::Drain, Victim::Node(3));
    assert_eq!(report.runs[0].affected_partitions, 4);
}

#[test]
fn brokers_are_restarted_one_after_the_other() {
    drilled_among_three(Scenario::Rolling, Victim::Rotate);
}

#[test]
fn an_outage_of_the_store_is_not_noticed() {
    let report = drilled(Scenario::StoreOutage);
    println!("{}", report.table());
    let run = &report.runs[0];
    assert!(report.is_clean(), "{}", run.verdict);
    assert_eq!(run.acked, run.sent, "{}", run.verdict);
    assert_eq!(run.affected_partitions, 0, "nobody's leader changed");
    assert!(run.unavailable_all.max_ms < 4_900.0, "shorter than the outage: {:?}", run.unavailable_all);
}

#[test]
fn what_cannot_be_done_is_said() {
    let commands = Commands::new();
    let error = commands.act(Action::StoreDown).expect_err("nobody said how").to_string();
    assert!(error.contains("--command store-down=COMMAND"), "{error}");
}
