//! What a run's record says, in figures. Every figure is what clients saw, or what the kernel or the brokers counted;
//! how each is made is told where it stands.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::{Record, Sample, Sighting};
use crate::history::Kind;
use crate::plan::{Action, Plan};
use crate::timeline::{BUCKET_US, GAP_MIN_US, Gap, quantile};

/// A share of leaders this far from the mean is still a fair one.
const FAIR: f64 = 0.15;
/// Shorter gaps are not drawn.
const DRAWN_GAP_MIN_US: u64 = 60_000;
/// A gap that begins later after an action is not that action's.
const LATER_US: u64 = 1_000_000;
/// Gaps drawn of one partition.
const DRAWN_GAPS_MAX: usize = 64;

/// Median, 99th percentile (nearest rank) and largest, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Spread {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Spread {
    /// Of microseconds in any order.
    #[must_use]
    pub fn of(mut values_us: Vec<u64>) -> Self {
        values_us.sort_unstable();
        let ms = |share| quantile(&values_us, share) as f64 / 1e3;
        Self { p50_ms: ms(0.5), p99_ms: ms(0.99), max_ms: ms(1.0) }
    }
}

/// Latency of acknowledged records, from the producer's call to the acknowledgement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// One partition in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionFigures {
    /// Its leader before the first action.
    pub leader: Option<u32>,
    /// The broker aimed at led it, or its leader changed.
    pub affected: bool,
    /// The longest gap between two acknowledgements that overlaps the time from the first action to the end of the
    /// load, less the mean interval between acknowledgements before.
    pub unavailable_us: u64,
    /// The same over the last half of the steady time: what is noise.
    pub before_us: u64,
    /// From the action that the gap belongs to until the gap's end; 0 if it belongs to none, or is not clearly longer
    /// (twice, and 20 ms) than any of those before.
    pub first_ack_us: u64,
    /// No record of it was acknowledged again.
    pub never: bool,
    /// Its longer gaps, for drawing.
    pub gaps: Vec<Gap>,
}

/// What went between brokers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Moved {
    /// Bytes a second between brokers in the steady time, by the kernel's counters of their sockets.
    pub before_bytes_per_second: Option<f64>,
    /// Bytes between brokers from the first action to the end of the load, by the same counters.
    pub during_bytes: Option<u64>,
    /// What was acknowledged in that time: a broker that replicates sends at least that.
    pub during_acked_bytes: u64,
    /// Bytes of tails handed over in that time, by the brokers' own count.
    pub tail_bytes: Option<u64>,
    /// Bytes the topic held when the first action was taken: what would move if ownership meant data.
    pub retained_bytes: u64,
}

/// An action and its time, for drawing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct EventFigures {
    pub what: String,
    pub from_us: u64,
    pub to_us: u64,
    pub healing: bool,
}

/// All of one run.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // those without a comment are what their name says
pub struct Figures {
    pub victim: u32,
    pub affected_partitions: usize,
    pub sent: u64,
    pub acked: u64,
    /// Sent, and no answer said what became of it.
    pub unknown: u64,
    pub polled: u64,
    /// Offsets whose commit by the group was acknowledged.
    pub commits: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub altered: u64,
    /// Every kind of defect that the checker found, the four above among them.
    pub defects: BTreeMap<String, u64>,
    /// The first of them, for people.
    pub verdict: String,
    /// The group was handed every record in time.
    pub group_drained: bool,
    /// Affected partitions.
    pub unavailable: Spread,
    pub unavailable_all: Spread,
    pub unavailable_before: Spread,
    /// Affected partitions: from the action to the first acknowledgement after the gap.
    pub first_ack: Spread,
    pub first_ack_all: Spread,
    /// Affected partitions that took no record again.
    pub never: usize,
    /// From the first action until metadata named somebody else for all that the first broker it was done to had led;
    /// `None` if that never was, or it had led nothing.
    pub replaced_ms: Option<f64>,
    /// From the first action until each live broker led its fair share (within 15 %) and that stayed so.
    pub balanced_ms: Option<f64>,
    pub latency_before: Latency,
    pub latency_during: Latency,
    pub rate_asked: f64,
    pub rate_before: f64,
    pub rate_during: f64,
    pub moved: Moved,
    pub errors: BTreeMap<String, u64>,
    pub events: Vec<EventFigures>,
    pub load_end_us: u64,
    pub bucket_us: u64,
    pub acked_bytes: Vec<u64>,
    /// (when, bytes between brokers so far).
    pub between: Vec<(u64, u64)>,
    /// (when, leaders by broker).
    pub leaders: Vec<(u64, BTreeMap<u32, usize>)>,
    pub partitions: Vec<PartitionFigures>,
}

impl Figures {
    /// Whether no promise was broken and everything came back.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.defects.is_empty() && self.group_drained && self.never == 0
    }
}

/// The window of one run.
struct Window<'a> {
    record: &'a Record,
    fault_us: u64,
    calm_us: u64,
}

/// Makes the figures of a run.
#[must_use]
pub fn figures(plan: &Plan, record: &Record) -> Figures {
    let fault_us = record.done.first().map_or(record.load_end_us, |first| first.from_us);
    let window = Window { record, fault_us, calm_us: fault_us - (fault_us - record.steady_us.min(fault_us)) / 2 };
    let partitions = window.partitions(plan);
    let affected = |value: fn(&PartitionFigures) -> u64| {
        Spread::of(partitions.iter().filter(|one| one.affected).map(value).collect())
    };
    let all = |value: fn(&PartitionFigures) -> u64| Spread::of(partitions.iter().map(value).collect());
    let verdict = &record.closed.verdict;
    let (from, to) = (fault_us, record.load_end_us);
    Figures {
        victim: record.victim,
        affected_partitions: partitions.iter().filter(|one| one.affected).count(),
        sent: record.closed.sent,
        acked: verdict.acked,
        unknown: verdict.unknown,
        polled: verdict.records_polled,
        commits: verdict.commits,
        lost: verdict.count(Kind::Lost),
        duplicated: verdict.count(Kind::Duplicated),
        reordered: verdict.count(Kind::Reordered),
        altered: verdict.count(Kind::Altered),
        defects: verdict.counts().map(|(kind, count)| (format!("{kind:?}"), count)).collect(),
        verdict: verdict.to_string(),
        group_drained: record.group_drained,
        unavailable: affected(|one| one.unavailable_us),
        unavailable_all: all(|one| one.unavailable_us),
        unavailable_before: all(|one| one.before_us),
        first_ack: affected(|one| one.first_ack_us),
        first_ack_all: all(|one| one.first_ack_us),
        never: partitions.iter().filter(|one| one.never).count(),
        replaced_ms: window.replaced(),
        balanced_ms: window.balanced(),
        latency_before: window.latency(window.calm_us, from),
        latency_during: window.latency(from, to),
        rate_asked: record.rate,
        rate_before: window.rate(record.steady_us, from),
        rate_during: window.rate(from, to),
        moved: window.moved(),
        errors: record.closed.errors.clone(),
        events: window.events(),
        load_end_us: to,
        bucket_us: BUCKET_US,
        acked_bytes: record.closed.timeline.acked_bytes().to_vec(),
        between: record.samples.iter().filter_map(|s| Some((s.at_us, s.traffic.kernel_bytes?))).collect(),
        leaders: record.sightings.iter().map(|seen| (seen.at_us, shares(seen))).collect(),
        partitions,
    }
}

/// Leaders by broker; a live one that leads nothing has 0.
fn shares(seen: &Sighting) -> BTreeMap<u32, usize> {
    let mut shares: BTreeMap<u32, usize> = seen.brokers.iter().map(|&broker| (broker, 0)).collect();
    for leader in seen.leaders.iter().flatten() {
        *shares.entry(*leader).or_default() += 1;
    }
    shares
}

/// Whether every partition has a leader, and each live broker but those in `without` its fair share.
fn is_balanced(seen: &Sighting, without: &[u32]) -> bool {
    if seen.leaders.iter().any(Option::is_none) {
        return false;
    }
    let shares = shares(seen);
    let (out, within): (Vec<_>, Vec<_>) = shares.iter().partition(|(broker, _)| without.contains(broker));
    let mean = seen.leaders.len() as f64 / within.len().max(1) as f64;
    // Where there are few partitions, one more or less is fair.
    let fair = |share: usize| (share as f64 - mean).abs() <= (mean * FAIR).max(1.0);
    out.iter().all(|(_, share)| **share == 0)
        && within.iter().all(|(broker, share)| seen.brokers.contains(broker) && fair(**share))
}

impl Window<'_> {
    fn leaders_before(&self) -> Option<&Sighting> {
        let sightings = &self.record.sightings;
        sightings.iter().rev().find(|seen| seen.at_us <= self.fault_us).or(sightings.first())
    }

    fn partitions(&self, plan: &Plan) -> Vec<PartitionFigures> {
        let targets = plan.targets(&self.record.nodes, self.record.victim);
        (0..plan.partitions).map(|partition| self.partition(partition, &targets)).collect()
    }

    fn partition(&self, partition: u32, targets: &[u32]) -> PartitionFigures {
        let (record, timeline) = (self.record, &self.record.closed.timeline);
        let leader_in = |seen: &Sighting| seen.leaders.get(partition as usize).copied().flatten();
        let leader = self.leaders_before().and_then(leader_in);
        let later =
            record.sightings.iter().filter(|seen| seen.at_us > self.fault_us && seen.at_us <= record.load_end_us);
        let changed = later.map(leader_in).any(|now| now != leader);
        let usual = timeline.usual_us(partition, self.fault_us);
        let during = timeline.outage(partition, self.fault_us, record.load_end_us, record.settled_us, usual);
        let before = timeline.outage(partition, self.calm_us, self.fault_us, self.fault_us, usual);
        // A gap that the fault began is the fault's; before, it ends there.
        let until_fault = before.gap.is_none_or(|gap| gap.to_us <= self.fault_us);
        let before_us = if until_fault { before.unavailable_us } else { 0 };
        PartitionFigures {
            leader,
            affected: changed || leader.is_some_and(|leader| targets.contains(&leader)),
            unavailable_us: during.unavailable_us,
            before_us,
            first_ack_us: during
                .gap
                .filter(|_| during.unavailable_us > 2 * before_us + GAP_MIN_US)
                .map_or(0, |gap| self.first_ack(gap)),
            never: during.open,
            gaps: timeline.gaps(partition, DRAWN_GAP_MIN_US.max(usual * 3)).take(DRAWN_GAPS_MAX).collect(),
        }
    }

    /// From the action that a gap belongs to until its end: the first that was begun in it, or else one that ended
    /// less than a second before it. 0: it belongs to none.
    fn first_ack(&self, gap: Gap) -> u64 {
        let actions = || self.record.done.iter().filter(|done| !done.healing);
        let within = actions().find(|done| (gap.from_us..gap.to_us).contains(&done.from_us));
        let just_before = || actions().rfind(|done| done.from_us < gap.from_us && gap.from_us < done.to_us + LATER_US);
        within.or_else(just_before).map_or(0, |done| gap.to_us - done.from_us)
    }

    fn replaced(&self) -> Option<f64> {
        let victim = self.record.done.first()?.action.node()?;
        let before = self.leaders_before()?;
        let led: Vec<usize> =
            (0..before.leaders.len()).filter(|&index| before.leaders[index] == Some(victim)).collect();
        let is_led = |seen: &Sighting, index: usize| {
            seen.leaders.get(index).copied().flatten().is_some_and(|leader| leader != victim)
        };
        let mut later = self.record.sightings.iter().filter(|seen| seen.at_us > self.fault_us);
        let replaced = later.find(|seen| !led.is_empty() && led.iter().all(|&index| is_led(seen, index)))?;
        Some((replaced.at_us - self.fault_us) as f64 / 1e3)
    }

    /// Counted from the first action. Whoever is down or drained at the time is to lead nothing.
    fn balanced(&self) -> Option<f64> {
        let (sightings, end_us) = (&self.record.sightings, self.record.load_end_us);
        let until = |index: usize| sightings.get(index + 1).map_or(end_us, |next| next.at_us.min(end_us));
        let seen = sightings.iter().take_while(|seen| seen.at_us <= end_us).count();
        let since = (0..seen).filter(|&index| until(index) > self.fault_us);
        let last_unfair = since.clone().rfind(|&index| !is_balanced(&sightings[index], &self.without(until(index))));
        let fair = last_unfair.map_or(since.min(), |index| Some(index + 1).filter(|&next| next < seen))?;
        Some(sightings[fair].at_us.saturating_sub(self.fault_us) as f64 / 1e3)
    }

    /// The brokers that are down or drained at a time.
    fn without(&self, at_us: u64) -> Vec<u32> {
        let mut without = Vec::new();
        for done in self.record.done.iter().filter(|done| done.from_us <= at_us) {
            match done.action {
                Action::Kill(node) | Action::Stop(node) | Action::Pause(node) | Action::Drain(node) => {
                    without.push(node)
                }
                Action::Start(node) | Action::Resume(node) | Action::Undrain(node) if done.to_us <= at_us => {
                    without.retain(|&down| down != node);
                }
                _ => {}
            }
        }
        without
    }

    fn latency(&self, from_us: u64, to_us: u64) -> Latency {
        let histogram = self.record.closed.timeline.latency(from_us, to_us);
        Latency { p50_ms: histogram.quantile(0.5) as f64 / 1e3, p99_ms: histogram.quantile(0.99) as f64 / 1e3 }
    }

    fn acked_bytes(&self, from_us: u64, to_us: u64) -> u64 {
        let (first, last) = (from_us.div_ceil(BUCKET_US) as usize, (to_us / BUCKET_US) as usize);
        self.record.closed.timeline.acked_bytes().iter().take(last).skip(first).sum()
    }

    fn rate(&self, from_us: u64, to_us: u64) -> f64 {
        let whole_us = (to_us / BUCKET_US).saturating_sub(from_us.div_ceil(BUCKET_US)) * BUCKET_US;
        self.acked_bytes(from_us, to_us) as f64 / (whole_us as f64 / 1e6).max(f64::EPSILON)
    }

    fn moved(&self) -> Moved {
        let at = |us: u64| self.record.samples.iter().rev().find(|sample| sample.at_us <= us);
        let (calm, fault) = (at(self.calm_us), at(self.fault_us));
        let end = self.record.samples.iter().find(|sample| sample.at_us >= self.record.load_end_us);
        let end = end.or(self.record.samples.last());
        let grown = |from: Option<&Sample>, to: Option<&Sample>, of: fn(&Sample) -> Option<u64>| {
            Some(of(to?)?.saturating_sub(of(from?)?))
        };
        let kernel: fn(&Sample) -> Option<u64> = |sample| sample.traffic.kernel_bytes;
        let seconds = calm.zip(fault).map_or(0.0, |(from, to)| (to.at_us - from.at_us) as f64 / 1e6);
        Moved {
            before_bytes_per_second: grown(calm, fault, kernel)
                .filter(|_| seconds > 0.0)
                .map(|bytes| bytes as f64 / seconds),
            during_bytes: grown(fault, end, kernel),
            during_acked_bytes: self.acked_bytes(self.fault_us, self.record.load_end_us),
            tail_bytes: grown(fault, end, |sample| sample.traffic.tail_bytes),
            retained_bytes: self.record.retained_bytes,
        }
    }

    fn events(&self) -> Vec<EventFigures> {
        let event = |done: &crate::engine::Done| EventFigures {
            what: done.action.to_string(),
            from_us: done.from_us,
            to_us: done.to_us,
            healing: done.healing,
        };
        self.record.done.iter().map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::ManualClock;

    use super::*;
    use crate::engine::Done;
    use crate::ledger::Ledger;

    fn seen(at_us: u64, brokers: &[u32], leaders: &[u32]) -> Sighting {
        let leaders = leaders.iter().map(|&leader| (leader > 0).then_some(leader)).collect();
        Sighting { at_us, brokers: brokers.to_vec(), leaders }
    }

    #[test]
    fn fair_shares() {
        assert!(is_balanced(&seen(0, &[1, 2, 3], &[1, 2, 3, 1, 2, 3]), &[]));
        assert!(is_balanced(&seen(0, &[1, 2, 3], &[1, 2, 3, 1, 2, 2]), &[]), "one more is fair");
        assert!(!is_balanced(&seen(0, &[1, 2, 3], &[1, 2, 1, 1, 2, 2]), &[]), "3 leads nothing");
        assert!(is_balanced(&seen(0, &[1, 2, 3], &[1, 2, 1, 1, 2, 2]), &[3]), "as it should");
        assert!(!is_balanced(&seen(0, &[1, 2, 3], &[1, 2, 1, 1, 2, 3]), &[3]), "3 still leads");
        assert!(!is_balanced(&seen(0, &[1, 2], &[1, 2, 0, 1, 2, 1]), &[]), "one has no leader");
        assert!(!is_balanced(&seen(0, &[1, 2], &[1, 2, 3, 1, 2, 3]), &[]), "3 is not there");
    }

    /// A record in which only `done` and `sightings` matter; times are seconds, the load ends at 60.
    fn record(done: &[(Action, u64, u64)], sightings: Vec<Sighting>) -> Record {
        let done = done.iter().map(|&(action, from, to)| Done {
            action,
            from_us: from * 1_000_000,
            to_us: to * 1_000_000,
            healing: false,
        });
        Record {
            victim: 1,
            nodes: vec![1, 2, 3],
            done: done.collect(),
            steady_us: 0,
            load_end_us: 60_000_000,
            settled_us: 60_000_000,
            sightings,
            samples: Vec::new(),
            retained_bytes: 0,
            group_drained: true,
            closed: Ledger::new(Arc::new(ManualClock::default()), 1, 6).close().expect("nothing in it"),
            rate: 1.0,
        }
    }

    fn balanced(done: &[(Action, u64, u64)], sightings: &[(u64, &[u32], &[u32])]) -> Option<f64> {
        let sightings = sightings.iter().map(|(at, brokers, leaders)| seen(at * 1_000_000, brokers, leaders)).collect();
        let record = record(done, sightings);
        Window { record: &record, fault_us: record.done[0].from_us, calm_us: 0 }.balanced()
    }

    #[test]
    fn the_first_ack_counts_from_the_action_that_the_gap_belongs_to() {
        let record =
            record(&[(Action::Stop(1), 20, 22), (Action::Start(1), 22, 23), (Action::Stop(2), 30, 31)], vec![]);
        let window = Window { record: &record, fault_us: 20_000_000, calm_us: 0 };
        let first_ack =
            |from_ms: u64, to_ms: u64| window.first_ack(Gap { from_us: from_ms * 1000, to_us: to_ms * 1000 });
        assert_eq!(first_ack(19_990, 24_000), 4_000_000, "from the stop, not from the start in the same gap");
        assert_eq!(first_ack(20_100, 20_500), 500_000, "some were acknowledged after the stop had begun");
        assert_eq!(first_ack(29_000, 32_000), 2_000_000, "the second one's");
        assert_eq!(first_ack(25_000, 26_000), 0, "nobody's");
    }

    #[test]
    fn balanced_after_a_death() {
        let kill = [(Action::Kill(1), 20, 21)];
        let (all, two): (&[u32], &[u32]) = (&[1, 2, 3], &[2, 3]);
        let before: (u64, &[u32], &[u32]) = (1, all, &[1, 2, 3, 1, 2, 3]);
        assert_eq!(balanced(&kill, &[before]), None, "it is dead and said to lead");
        assert_eq!(balanced(&kill, &[before, (29, two, &[2, 2, 3, 3, 2, 3])]), Some(9_000.0));
        let uneven: (u64, &[u32], &[u32]) = (29, two, &[2, 2, 2, 2, 2, 3]);
        assert_eq!(balanced(&kill, &[before, uneven]), None);
        assert_eq!(balanced(&kill, &[before, uneven, (33, two, &[2, 2, 2, 3, 3, 3])]), Some(13_000.0));
        let again = (61, all, &[1, 2, 2, 3, 3, 3][..]);
        assert_eq!(balanced(&kill, &[before, (29, two, &[2, 2, 3, 3, 2, 3]), again]), Some(9_000.0), "after the load");
    }

    #[test]
    fn balanced_with_somebody_who_comes_back() {
        let restart = [(Action::Stop(1), 20, 22), (Action::Start(1), 22, 30)];
        let (all, two): (&[u32], &[u32]) = (&[1, 2, 3], &[2, 3]);
        let before: (u64, &[u32], &[u32]) = (1, all, &[1, 2, 3, 1, 2, 3]);
        let without: (u64, &[u32], &[u32]) = (21, two, &[2, 2, 3, 3, 2, 3]);
        let back: (u64, &[u32], &[u32]) = (31, all, &[2, 2, 3, 3, 2, 3]);
        assert_eq!(balanced(&restart, &[before, without, back]), None, "it is back and leads nothing");
        assert_eq!(balanced(&restart, &[before, without, back, (40, all, &[1, 2, 3, 1, 2, 3])]), Some(20_000.0));
        let drain = [(Action::Drain(1), 20, 22)];
        assert_eq!(balanced(&drain, &[before, (23, all, &[2, 2, 3, 3, 2, 3])]), Some(3_000.0));
    }

    #[test]
    fn replaced_once_others_lead_all_of_it() {
        let all: &[u32] = &[1, 2, 3];
        let replaced = |sightings: &[(u64, &[u32], &[u32])]| {
            let seen = |(at, brokers, leaders): &(u64, &[u32], &[u32])| seen(at * 1_000_000, brokers, leaders);
            let record = record(&[(Action::Pause(1), 20, 21)], sightings.iter().map(seen).collect());
            Window { record: &record, fault_us: 20_000_000, calm_us: 0 }.replaced()
        };
        let before: (u64, &[u32], &[u32]) = (1, all, &[1, 2, 3, 1, 2, 3]);
        assert_eq!(replaced(&[before]), None);
        assert_eq!(replaced(&[before, (24, all, &[2, 2, 3, 1, 2, 3])]), None, "it still leads one");
        assert_eq!(replaced(&[before, (24, all, &[2, 2, 3, 0, 2, 3])]), None, "nobody leads one");
        let (given, back): (&[u32], &[u32]) = (&[2, 2, 3, 3, 2, 3], &[1, 2, 3, 1, 2, 3]);
        assert_eq!(replaced(&[before, (24, all, given), (30, all, back)]), Some(4_000.0));
        assert_eq!(replaced(&[(1, all, &[2, 3, 2, 3, 2, 3]), (24, all, given)]), None, "it led nothing");
    }

    #[test]
    fn spreads_are_nearest_rank() {
        let spread = Spread::of((1..=200).rev().map(|ms| ms * 1000).collect());
        assert_eq!((spread.p50_ms, spread.p99_ms, spread.max_ms), (100.0, 198.0, 200.0));
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
