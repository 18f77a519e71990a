//! Hosts that are unplugged, and hosts that are gone: the network takes what is sent to them and nobody is told. Where network
//! namespaces cannot be made, cables stand in for them.

use anyhow::Result;
use drill::client::Operator as _;
use drill::commands::Commands;
use drill::engine::Victim;
use drill::plan::{Action, Scenario};
use drill::report::Report;
use ottla_integration::process::cluster::Cluster;
use ottla_integration::process::hosts::Hosts;
use ottla_integration::process::wires::Wires;

use super::faults::{BROKERS, Saboteur, times, was_replaced};
use super::{commands, judge, run, turn};

/// Brokers whose plugs can be pulled and put back.
struct Network<'a> {
    cluster: &'a Cluster,
    bootstrap: &'a str,
    commands: Commands,
    set_plug: &'a (dyn Fn(u32, bool) -> Result<()> + Sync),
}

impl Network<'_> {
    /// Pauses a broker by pulling its plug, and kills it with the plug out.
    fn drilled(self, scenario: Scenario, victim: Victim) -> Report {
        let act = |commands: &Commands, action: Action| match action {
            Action::Pause(node) => (self.set_plug)(node, false),
            Action::Resume(node) => (self.set_plug)(node, true),
            Action::Kill(node) => {
                (self.set_plug)(node, false)?;
                commands.act(action)
            }
            Action::Start(node) => {
                (self.set_plug)(node, true)?;
                commands.act(action)
            }
            other => commands.act(other),
        };
        let operator = Saboteur { commands: self.commands, act: &act };
        let report = run(self.cluster, self.bootstrap, BROKERS, scenario, victim, &operator);
        judge(&report);
        report
    }
}

fn on_hosts(hosts: &Hosts, scenario: Scenario, victim: Victim) -> Report {
    let cluster = hosts.start().expect("the brokers start");
    let mut commands = commands(&cluster, BROKERS);
    commands.set("start", &hosts.start_command(&cluster).expect("a broker")).expect("a verb");
    let set_plug = |node, whole| if whole { hosts.plug(node) } else { hosts.unplug(node) };
    Network { cluster: &cluster, bootstrap: &cluster.bootstrap, commands, set_plug: &set_plug }
        .drilled(scenario, victim)
}

fn on_cables(scenario: Scenario, victim: Victim) -> Report {
    let wires = Wires::lay(BROKERS).expect("cables");
    let cluster = Cluster::start(&wires.options()).expect("the brokers start");
    let set_plug = |node, whole| {
        if whole {
            wires.heal()
        } else {
            wires.unplug(node)
        };
        Ok(())
    };
    let commands = commands(&cluster, BROKERS);
    Network { cluster: &cluster, bootstrap: &wires.bootstrap(), commands, set_plug: &set_plug }
        .drilled(scenario, victim)
}

fn drilled(scenario: Scenario, victim: Victim, check: impl Fn(&Report)) {
    let _turn = turn();
    for _ in 0..times() {
        let report = match Hosts::make(BROKERS) {
            Ok(hosts) => on_hosts(&hosts, scenario, victim),
            Err(error) => {
                println!("network namespaces cannot be made here, cables stand in for them: {error:#}");
                on_cables(scenario, victim)
            }
        };
        check(&report);
    }
}

#[test]
fn an_unplugged_broker_is_replaced() {
    drilled(Scenario::Pause, Victim::Node(2), was_replaced);
}

#[test]
fn an_unplugged_controller_is_replaced() {
    drilled(Scenario::Pause, Victim::Controller, was_replaced);
}

#[test]
fn a_broker_whose_host_is_gone_is_replaced_and_comes_back() {
    drilled(Scenario::Kill, Victim::Rotate, |report| {
        let replaced = report.runs[0].replaced_ms.expect("somebody else leads");
        // No connection ends, so that nobody suspects it before its heartbeats are missed.
        assert!(replaced > 500.0 && replaced < 15_000.0, "{replaced}");
    });
}
