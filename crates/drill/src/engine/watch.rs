//! Observers beside the load: one asks each broker for leaders, ends and starts, one counts what goes between
//! brokers. Whoever is asked is asked alone, so that a broker that hangs keeps nobody from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Scope;
use std::time::Duration;

use parking_lot::Mutex;

use super::Stage;
use crate::client::{Broker, Leader, Observer, Overview, Range, Traffic, View};

const OBSERVE_INTERVAL: Duration = Duration::from_millis(200);
const TRAFFIC_INTERVAL: Duration = Duration::from_millis(500);
/// Changes kept of who leads what; a cluster that changes more often than this has other problems.
const SIGHTINGS_MAX: usize = 20_000;

/// Who led what from a moment on, as far as any broker has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When it was told.
    pub at_us: u64,
    /// The live brokers.
    pub brokers: Vec<u32>,
    /// By partition.
    pub leaders: Vec<Option<u32>>,
}

/// What had gone between brokers at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at_us: u64,
    /// How much.
    pub traffic: Traffic,
}

/// All that the observers saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) sightings: Vec<Sighting>,
    pub(super) samples: Vec<Sample>,
}

#[derive(Default)]
struct Known {
    seen: Seen,
    /// The newest leader of each partition.
    leaders: Vec<Leader>,
    observed: BTreeSet<u32>,
    found: BTreeMap<u32, String>,
}

pub(super) struct Watch {
    known: Arc<Mutex<Known>>,
}

impl Watch {
    /// Starts the observers; they end when the stage says so.
    pub(super) fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, stage: &'env Stage<'env>) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let counting = Arc::clone(&known);
        scope.spawn(move || {
            while !stage.watch_over.load(Relaxed) {
                let traffic = stage.drill.operator.traffic();
                counting.lock().seen.samples.push(Sample { at_us: stage.ledger.now_us(), traffic });
                std::thread::sleep(TRAFFIC_INTERVAL);
            }
        });
        let looking = Arc::clone(&known);
        scope.spawn(move || {
            for address in stage.drill.view.bootstrap() {
                let overview = stage.drill.view.observe(&address).and_then(|mut one| one.overview(&stage.topic));
                looking.lock().found.extend(overview.into_iter().flat_map(|o| o.brokers).map(|b| (b.id, b.address)));
            }
            while !stage.watch_over.load(Relaxed) {
                for broker in looking.lock().unobserved() {
                    let known = Arc::clone(&looking);
                    scope.spawn(move || observe(stage, &known, &broker));
                }
                std::thread::sleep(OBSERVE_INTERVAL);
            }
        });
        Self { known }
    }

    /// Takes what was seen so far.
    pub(super) fn seen(&self) -> Seen {
        std::mem::take(&mut self.known.lock().seen)
    }
}

impl Known {
    fn unobserved(&mut self) -> Vec<Broker> {
        let fresh = self.found.iter().filter(|(id, _)| !self.observed.contains(id));
        let fresh: Vec<Broker> = fresh.map(|(&id, address)| Broker { id, address: address.clone() }).collect();
        self.observed.extend(fresh.iter().map(|broker| broker.id));
        fresh
    }

    /// Notes what one broker said; the newest epoch counts. That it knows of no leader in an epoch that had one is no news
    /// of the cluster: it has lost sight of that leader, as one that was frozen has of all.
    fn note(&mut self, now_us: u64, overview: &Overview) {
        self.found.extend(overview.brokers.iter().map(|broker| (broker.id, broker.address.clone())));
        let rank = |leader: &Leader| (leader.epoch, leader.node.is_some());
        for (partition, leader) in overview.leaders.iter().enumerate() {
            match self.leaders.get_mut(partition) {
                None => self.leaders.push(*leader),
                Some(known) if rank(leader) >= rank(known) => *known = *leader,
                Some(_) => {}
            }
        }
        let brokers: Vec<u32> = overview.brokers.iter().map(|broker| broker.id).collect();
        let leaders: Vec<Option<u32>> = self.leaders.iter().map(|leader| leader.node).collect();
        let changed = self.seen.sightings.last().is_none_or(|last| last.brokers != brokers || last.leaders != leaders);
        if changed && !leaders.is_empty() && self.seen.sightings.len() < SIGHTINGS_MAX {
            self.seen.sightings.push(Sighting { at_us: now_us, brokers, leaders });
        }
    }
}

fn observe(stage: &Stage<'_>, known: &Mutex<Known>, broker: &Broker) {
    let mut observer: Option<Box<dyn Observer>> = None;
    // What it led once it is asked about for good: a deposed leader is the one to watch.
    let mut led = BTreeSet::new();
    while !stage.watch_over.load(Relaxed) {
        if observer.is_none() {
            observer = stage.drill.view.observe(&broker.address).ok();
        }
        if let Some(open) = &mut observer
            && look(stage, known, broker.id, open.as_mut(), &mut led).is_err()
        {
            observer = None;
            stage.ledger.source_lost(broker.id);
        }
        std::thread::sleep(OBSERVE_INTERVAL);
    }
}

fn look(
    stage: &Stage<'_>,
    known: &Mutex<Known>,
    id: u32,
    observer: &mut dyn Observer,
    led: &mut BTreeSet<u32>,
) -> anyhow::Result<()> {
    let overview = observer.overview(&stage.topic)?;
    for (partition, leader) in overview.leaders.iter().enumerate() {
        let partition = partition as u32;
        if let Some(node) = leader.node {
            stage.ledger.leader(id, partition, leader.epoch, node);
            if node == id {
                led.insert(partition);
            }
        }
    }
    known.lock().note(stage.ledger.now_us(), &overview);
    let asked: Vec<u32> = led.iter().copied().collect();
    let floors = stage.ledger.offset_floors(&asked);
    for range in observer.offsets(&stage.topic, &asked)? {
        if let Ok(index) = asked.binary_search(&range.partition) {
            let (start, end) = floors[index];
            stage.ledger.start_offset(range.partition, range.start, start);
            stage.ledger.end_offset(range.partition, range.end, end);
        }
    }
    Ok(())
}

/// Start and end of those partitions whose leaders tell.
pub(super) fn ask_everybody(view: &dyn View, topic: &str, partitions: &[u32]) -> Vec<Range> {
    let overview = |address: &String| view.observe(address).ok()?.overview(topic).ok();
    let Some(overview) = view.bootstrap().iter().find_map(overview) else { return Vec::new() };
    let leads = |partition: u32, id| overview.leaders.get(partition as usize).is_some_and(|one| one.node == Some(id));
    let mut found = Vec::new();
    for broker in &overview.brokers {
        let own: Vec<u32> = partitions.iter().copied().filter(|&partition| leads(partition, broker.id)).collect();
        let told = view.observe(&broker.address).and_then(|mut observer| observer.offsets(topic, &own));
        found.extend(told.unwrap_or_default());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(epoch: i32, node: Option<u32>) -> Overview {
        Overview { brokers: Vec::new(), leaders: vec![Leader { node, epoch }] }
    }

    #[test]
    fn whoever_has_lost_sight_of_a_leader_deposes_nobody() {
        let mut known = Known::default();
        for (epoch, node) in [(4, Some(2)), (4, None), (3, Some(1)), (5, None), (5, Some(3))] {
            known.note(0, &told(epoch, node));
        }
        let leaders: Vec<Option<u32>> = known.seen.sightings.iter().map(|seen| seen.leaders[0]).collect();
        assert_eq!(leaders, [Some(2), None, Some(3)]);
    }
}
