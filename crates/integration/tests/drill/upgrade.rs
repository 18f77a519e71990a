//! A cluster of an earlier build is upgraded under load, one broker after the other, loses brokers while it is mixed,
//! and goes back. `OTTLA_PREVIOUS` names the binary of that build.

use std::path::Path;

use drill::client::Operator;
use drill::commands::{Commands, quote};
use drill::engine::Victim;
use drill::plan::{Action, Scenario};
use ottla_integration::process::cluster::{Cluster, Options};
use ottla_integration::process::tools;

use super::faults::BROKERS;
use super::{commands, judge, run, turn};

/// Commands that start brokers with this program.
fn started_with(cluster: &Cluster, ottla: &Path) -> Commands {
    let mut commands = commands(cluster, BROKERS);
    let text = |path: &Path| quote(path.to_str().expect("text"));
    let start = format!("{} local restart -d {} {{node}}", text(ottla), text(cluster.dir()));
    commands.set("start", &start).expect("a verb");
    commands
}

#[test]
#[ignore = "needs OTTLA_PREVIOUS, the binary of an earlier commit"]
fn brokers_are_upgraded_one_after_the_other_and_go_back() {
    let _turn = turn();
    let previous = std::env::var_os("OTTLA_PREVIOUS").expect("OTTLA_PREVIOUS is the binary of an earlier commit");
    let (previous, current) = (Path::new(&previous), tools::ottla().expect("it builds"));
    let options = Options { brokers: BROKERS, ottla: Some(previous.to_owned()), ..Options::default() };
    let cluster = Cluster::start(&options).expect("the brokers start");
    let drilled = |scenario, victim, operator: &dyn Operator| {
        judge(&run(&cluster, &cluster.bootstrap, BROKERS, scenario, victim, operator));
    };
    // Mixed: one broker is upgraded; one of either kind dies and comes back as what it was.
    let upgrade = started_with(&cluster, &current);
    upgrade.act(Action::Stop(1)).and_then(|()| upgrade.act(Action::Start(1))).expect("upgraded");
    drilled(Scenario::Kill, Victim::Node(2), &started_with(&cluster, previous));
    drilled(Scenario::Kill, Victim::Node(1), &started_with(&cluster, &current));
    drilled(Scenario::Rolling, Victim::Rotate, &started_with(&cluster, &current));
    drilled(Scenario::Rolling, Victim::Rotate, &started_with(&cluster, previous));
}
