//! What a drill does, and when.

use std::fmt;
use std::time::Duration;

/// What happens to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// One broker dies as by kill -9.
    Kill,
    /// One broker gives away all it leads, and stays.
    Drain,
    /// One broker more.
    Add,
    /// One broker is stopped in its tracks (SIGSTOP), for longer than its lease, and goes on (SIGCONT).
    Pause,
    /// One broker is stopped gracefully (SIGTERM) and started again.
    Restart,
    /// One broker dies and a new one takes its place.
    Replace,
    /// The object store cannot be reached for a while.
    StoreOutage,
    /// Each broker in turn is stopped gracefully and started again.
    Rolling,
}

impl Scenario {
    /// The word for it on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Drain => "drain",
            Self::Add => "add",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Replace => "replace",
            Self::StoreOutage => "store-outage",
            Self::Rolling => "rolling",
        }
    }
}

/// One thing done to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each is what its word says, to the node of that number
pub enum Action {
    Kill(u32),
    Stop(u32),
    Start(u32),
    Pause(u32),
    Resume(u32),
    Drain(u32),
    Undrain(u32),
    Add(u32),
    StoreDown,
    StoreUp,
}

impl Action {
    /// The verb, as operators give a command for it.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::Start(_) => "start",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Drain(_) => "drain",
            Self::Undrain(_) => "undrain",
            Self::Add(_) => "add",
            Self::StoreDown => "store-down",
            Self::StoreUp => "store-up",
        }
    }

    /// The node it is done to.
    #[must_use]
    pub fn node(self) -> Option<u32> {
        match self {
            Self::Kill(node)
            | Self::Stop(node)
            | Self::Start(node)
            | Self::Pause(node)
            | Self::Resume(node)
            | Self::Drain(node)
            | Self::Undrain(node)
            | Self::Add(node) => Some(node),
            Self::StoreDown | Self::StoreUp => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node() {
            Some(node) => write!(f, "{} {node}", self.verb()),
            None => f.write_str(self.verb()),
        }
    }
}

/// An action with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How long after the end of the step before (the first: after the steady time).
    pub after: Duration,
    /// What is done.
    pub action: Action,
}

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// Bytes of payload a second.
    Bytes(f64),
    /// A share of what the cluster takes, measured before the first run.
    Percent(f64),
}

/// Everything about a drill but the cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What happens.
    pub scenario: Scenario,
    /// Brokers that must be there before a run begins: one that was restarted may still be joining.
    pub brokers: usize,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Its replication factor.
    pub replication: i16,
    /// How much is written.
    pub rate: Rate,
    /// Payload of one record.
    pub record_bytes: usize,
    /// How long records are written in each run.
    pub seconds: Duration,
    /// How long a pause or an outage of the store lasts.
    pub outage: Duration,
    /// When a killed broker is started again; `None`: when the load has ended.
    pub restart_after: Option<Duration>,
    /// How often it is done.
    pub runs: u32,
    /// Producers, which share the partitions.
    pub producers: u32,
    /// Members of the consumer group; 0: no group.
    pub members: u32,
    /// Bytes that may wait for their acknowledgement, over all partitions.
    pub in_flight_bytes: u64,
    /// The least time of load before the first action, after the last, and between two brokers of a rolling restart.
    pub quiet: Duration,
    /// How long anything may take to come back once all is healed.
    pub patience: Duration,
}

impl Plan {
    /// How long the load runs before anything happens: a third of the run.
    #[must_use]
    pub fn steady(&self) -> Duration {
        (self.seconds / 3).max(self.quiet)
    }

    /// The nodes that the scenario is aimed at, of `nodes`; `victim` is the one chosen for this run.
    #[must_use]
    pub fn targets(&self, nodes: &[u32], victim: u32) -> Vec<u32> {
        match self.scenario {
            Scenario::Rolling => nodes.to_vec(),
            Scenario::Add | Scenario::StoreOutage => Vec::new(),
            _ => vec![victim],
        }
    }

    /// What is done under load, in order.
    #[must_use]
    pub fn steps(&self, nodes: &[u32], victim: u32) -> Vec<Step> {
        let newcomer = nodes.iter().max().map_or(1, |highest| highest + 1);
        let now = |action| Step { after: Duration::ZERO, action };
        let later = |after, action| Step { after, action };
        match self.scenario {
            Scenario::Kill => {
                let mut steps = vec![now(Action::Kill(victim))];
                // With nobody left to take over there is nothing to see until it is back.
                let alone = (nodes.len() == 1).then_some(Duration::ZERO);
                steps.extend(self.restart_after.or(alone).map(|after| later(after, Action::Start(victim))));
                steps
            }
            Scenario::Drain => vec![now(Action::Drain(victim))],
            Scenario::Add => vec![now(Action::Add(newcomer))],
            Scenario::Pause => vec![now(Action::Pause(victim)), later(self.outage, Action::Resume(victim))],
            Scenario::Restart => vec![now(Action::Stop(victim)), now(Action::Start(victim))],
            Scenario::Replace => vec![now(Action::Kill(victim)), now(Action::Add(newcomer))],
            Scenario::StoreOutage => vec![now(Action::StoreDown), later(self.outage, Action::StoreUp)],
            Scenario::Rolling => nodes
                .iter()
                .enumerate()
                .flat_map(|(index, &node)| {
                    let rest = if index == 0 { Duration::ZERO } else { self.quiet };
                    [later(rest, Action::Stop(node)), now(Action::Start(node))]
                })
                .collect(),
        }
    }

    /// What undoes `done` once the load has ended, so that everything can be read back and the next run begins whole.
    #[must_use]
    pub fn heal(&self, done: &[Action]) -> Vec<Action> {
        let undone = |undo: Action| !done.contains(&undo);
        done.iter()
            .filter_map(|action| match *action {
                // A replaced broker stays dead.
                Action::Kill(node) if self.scenario != Scenario::Replace => Some(Action::Start(node)),
                Action::Stop(node) => Some(Action::Start(node)),
                Action::Pause(node) => Some(Action::Resume(node)),
                Action::Drain(node) => Some(Action::Undrain(node)),
                Action::StoreDown => Some(Action::StoreUp),
                _ => None,
            })
            .filter(|undo| undone(*undo))
            .collect()
    }

    /// Whether a run leaves the cluster other than it found it, so that the next needs a new one.
    #[must_use]
    pub fn wears_the_cluster(&self) -> bool {
        matches!(self.scenario, Scenario::Add | Scenario::Replace)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan(scenario: Scenario) -> Plan {
        Plan {
            scenario,
            brokers: 3,
            partitions: 8,
            replication: 1,
            rate: Rate::Bytes(1e5),
            record_bytes: 100,
            seconds: Duration::from_secs(30),
            outage: Duration::from_secs(12),
            restart_after: None,
            runs: 1,
            producers: 2,
            members: 2,
            in_flight_bytes: 1 << 20,
            quiet: Duration::from_secs(5),
            patience: Duration::from_secs(60),
        }
    }

    fn actions(scenario: Scenario, nodes: &[u32]) -> Vec<Action> {
        plan(scenario).steps(nodes, nodes[0]).iter().map(|step| step.action).collect()
    }

    #[test]
    fn every_scenario_ends_with_a_whole_cluster() {
        let all = [
            Scenario::Kill,
            Scenario::Drain,
            Scenario::Pause,
            Scenario::Restart,
            Scenario::StoreOutage,
            Scenario::Rolling,
        ];
        for scenario in all {
            let mut done = actions(scenario, &[1, 2, 3]);
            done.extend(plan(scenario).heal(&done));
            let count = |wanted: &dyn Fn(&Action) -> bool| done.iter().filter(|action| wanted(action)).count();
            let down = count(&|a| matches!(a, Action::Kill(_) | Action::Stop(_)));
            assert_eq!(down, count(&|a| matches!(a, Action::Start(_))), "{scenario:?}: {done:?}");
            assert_eq!(count(&|a| matches!(a, Action::Pause(_))), count(&|a| matches!(a, Action::Resume(_))));
            assert_eq!(count(&|a| matches!(a, Action::Drain(_))), count(&|a| matches!(a, Action::Undrain(_))));
            assert_eq!(count(&|a| *a == Action::StoreDown), count(&|a| *a == Action::StoreUp));
        }
    }

    #[test]
    fn a_lonely_broker_is_started_again_at_once() {
        assert_eq!(actions(Scenario::Kill, &[1]), [Action::Kill(1), Action::Start(1)]);
        assert_eq!(actions(Scenario::Kill, &[1, 2]), [Action::Kill(1)]);
        assert_eq!(plan(Scenario::Kill).heal(&[Action::Kill(1)]), [Action::Start(1)]);
    }

    #[test]
    fn newcomers_have_numbers_of_their_own() {
        assert_eq!(actions(Scenario::Add, &[1, 2, 7]), [Action::Add(8)]);
        assert_eq!(actions(Scenario::Replace, &[1, 2]), [Action::Kill(1), Action::Add(3)]);
        assert!(plan(Scenario::Replace).heal(&[Action::Kill(1), Action::Add(3)]).is_empty());
    }

    #[test]
    fn rolling_takes_each_broker_once() {
        let steps = plan(Scenario::Rolling).steps(&[1, 2, 3], 1);
        let stopped: Vec<_> = steps.iter().filter(|s| s.action.verb() == "stop").map(|s| s.action.node()).collect();
        assert_eq!(stopped, [Some(1), Some(2), Some(3)]);
        assert_eq!(plan(Scenario::Rolling).targets(&[1, 2, 3], 1), [1, 2, 3]);
    }
}
