//! When what was acknowledged: throughput, latency, and the gaps between a partition's acknowledgements. It reads no
//! clock; times are microseconds since the run began.

use serde::Serialize;

/// Acknowledgements closer together than this are one: a batch's records are acknowledged together.
const MOMENT_US: u64 = 5_000;
/// Shorter gaps are not kept one by one.
pub const GAP_MIN_US: u64 = 20_000;
/// Width of the columns of the throughput line.
pub const BUCKET_US: u64 = 250_000;
/// Gaps kept of one partition; a gap beyond them replaces the shortest.
const GAPS_MAX: usize = 4096;

/// A time in which a partition acknowledged nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The acknowledgement before it.
    pub from_us: u64,
    /// The acknowledgement that ended it.
    pub to_us: u64,
}

impl Gap {
    /// How long it was.
    #[must_use]
    pub fn length_us(&self) -> u64 {
        self.to_us - self.from_us
    }
}

/// How long one partition took no records, as its producer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The longest gap that overlaps the window, less the interval usual before it; 0 if there was none worth keeping.
    pub unavailable_us: u64,
    /// That gap, if there was one.
    pub gap: Option<Gap>,
    /// It has not ended: records were waiting and none was ever acknowledged again.
    pub open: bool,
}

#[derive(Debug, Default)]
struct Partition {
    first_us: Option<u64>,
    last_us: Option<u64>,
    gaps: Vec<Gap>,
    /// Distinct moments with acknowledgements, by bucket.
    moments: Vec<u32>,
    waiting: u64,
}

/// The acknowledgements of one run.
#[derive(Debug)]
pub struct Timeline {
    partitions: Vec<Partition>,
    acked_bytes: Vec<u64>,
    latencies: Vec<Histogram>,
}

fn slot<T: Default>(list: &mut Vec<T>, index: usize) -> &mut T {
    if list.len() <= index {
        list.resize_with(index + 1, T::default);
    }
    &mut list[index]
}

impl Timeline {
    /// An empty one.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Self { partitions, acked_bytes: Vec::new(), latencies: Vec::new() }
    }

    /// A record was handed to the client.
    pub fn sent(&mut self, partition: u32) {
        self.partitions[partition as usize].waiting += 1;
    }

    /// The client was told something about a record that is no acknowledgement.
    pub fn settled(&mut self, partition: u32) {
        self.partitions[partition as usize].waiting -= 1;
    }

    /// Records of `partition` that wait for their outcome.
    #[must_use]
    pub fn waiting(&self, partition: u32) -> u64 {
        self.partitions[partition as usize].waiting
    }

    /// A record that was sent at `sent_us` was acknowledged.
    pub fn acked(&mut self, partition: u32, sent_us: u64, now_us: u64, bytes: u64) {
        *slot(&mut self.acked_bytes, (now_us / BUCKET_US) as usize) += bytes;
        slot(&mut self.latencies, (now_us / 1_000_000) as usize).add(now_us.saturating_sub(sent_us));
        let partition = &mut self.partitions[partition as usize];
        partition.waiting -= 1;
        partition.first_us.get_or_insert(now_us);
        let since = partition.last_us.map_or(u64::MAX, |last| now_us.saturating_sub(last));
        if since >= MOMENT_US {
            *slot(&mut partition.moments, (now_us / BUCKET_US) as usize) += 1;
        }
        if let Some(from_us) = partition.last_us
            && since >= GAP_MIN_US
        {
            partition.keep(Gap { from_us, to_us: now_us });
        }
        partition.last_us = Some(now_us);
    }

    /// The mean time between two moments of acknowledgement of `partition` before `until_us`.
    #[must_use]
    pub fn usual_us(&self, partition: u32, until_us: u64) -> u64 {
        let partition = &self.partitions[partition as usize];
        let Some(first) = partition.first_us else { return 0 };
        let buckets = (until_us / BUCKET_US) as usize;
        let moments: u64 = partition.moments.iter().take(buckets).map(|&count| u64::from(count)).sum();
        (buckets as u64 * BUCKET_US).saturating_sub(first) / moments.max(1)
    }

    /// How long `partition` was out between `from_us` and `to_us`, when all was over at `end_us`. `usual_us` is
    /// taken off.
    #[must_use]
    pub fn outage(&self, partition: u32, from_us: u64, to_us: u64, end_us: u64, usual_us: u64) -> Outage {
        let known = &self.partitions[partition as usize];
        let open = (known.waiting > 0)
            .then(|| Gap { from_us: known.last_us.unwrap_or(0), to_us: end_us.max(known.last_us.unwrap_or(0)) });
        let overlapping = |gap: &&Gap| gap.to_us > from_us && gap.from_us < to_us;
        let longest = known.gaps.iter().chain(&open).filter(overlapping).max_by_key(|gap| gap.length_us());
        match longest {
            None => Outage { unavailable_us: 0, gap: None, open: false },
            Some(gap) => Outage {
                unavailable_us: gap.length_us().saturating_sub(usual_us),
                gap: Some(*gap),
                open: open.as_ref() == Some(gap),
            },
        }
    }

    /// The gaps of `partition` of at least `min_us`, oldest first.
    pub fn gaps(&self, partition: u32, min_us: u64) -> impl Iterator<Item = Gap> + '_ {
        self.partitions[partition as usize].gaps.iter().copied().filter(move |gap| gap.length_us() >= min_us)
    }

    /// Bytes acknowledged in each [`BUCKET_US`].
    #[must_use]
    pub fn acked_bytes(&self) -> &[u64] {
        &self.acked_bytes
    }

    /// From sending to acknowledgement, of what was acknowledged in the seconds that overlap the window.
    #[must_use]
    pub fn latency(&self, from_us: u64, to_us: u64) -> Histogram {
        let (first, last) = ((from_us / 1_000_000) as usize, to_us.div_ceil(1_000_000) as usize);
        let mut sum = Histogram::default();
        for second in self.latencies.iter().take(last).skip(first) {
            sum.merge(second);
        }
        sum
    }
}

impl Partition {
    fn keep(&mut self, gap: Gap) {
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(gap);
            return;
        }
        let shortest = (0..self.gaps.len()).min_by_key(|&index| self.gaps[index].length_us());
        if let Some(shortest) = shortest.filter(|&index| self.gaps[index].length_us() < gap.length_us()) {
            // What is left stays in the order of time.
            self.gaps.remove(shortest);
            self.gaps.push(gap);
        }
    }
}

/// Counts of durations, exact to about 6 %.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    max: u64,
}

/// Values below this have a count of their own; above, each power of two is split into as many.
const STEPS: u64 = 16;

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, value: u64) {
        let index = match value {
            0..STEPS => value,
            _ => {
                let power = u64::from(value.ilog2() - STEPS.ilog2());
                (power + 1) * STEPS + ((value >> power) - STEPS)
            }
        };
        *slot(&mut self.counts, index as usize) += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    fn merge(&mut self, other: &Self) {
        for (index, count) in other.counts.iter().enumerate() {
            *slot(&mut self.counts, index) += count;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The value that `share` (0 to 1) of all do not exceed, as the upper edge of its step; 0 of nothing.
    #[must_use]
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted.max(1) {
                return Self::upper(index as u64).min(self.max);
            }
        }
        self.max
    }

    fn upper(index: u64) -> u64 {
        match index {
            0..STEPS => index,
            _ => {
                let power = index / STEPS - 1;
                ((index % STEPS + STEPS + 1) << power) - 1
            }
        }
    }
}

/// The value of `sorted` that `share` (0 to 1) of all do not exceed (nearest rank); 0 of nothing.
#[must_use]
pub fn quantile(sorted: &[u64], share: f64) -> u64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    /// Partition 0 is acknowledged every 50 ms until 10 s, but for a hole from 5 s to 6.3 s.
    fn with_a_hole() -> Timeline {
        let mut timeline = Timeline::new(2);
        for ms in (0..=10_000).step_by(50).filter(|ms| !(5_001..6_300).contains(ms)) {
            timeline.sent(0);
            timeline.acked(0, ms * MS, ms * MS + 700, 100);
        }
        timeline
    }

    #[test]
    fn the_longest_gap_less_the_usual_interval() {
        let timeline = with_a_hole();
        let usual = timeline.usual_us(0, 5_000 * MS);
        assert!((49 * MS..=51 * MS).contains(&usual), "{usual}");
        let outage = timeline.outage(0, 5_020 * MS, 10_000 * MS, 11_000 * MS, usual);
        assert_eq!(outage.gap.map(|gap| gap.to_us), Some(6_300 * MS + 700));
        assert_eq!(outage.unavailable_us, 1_300 * MS - usual);
        assert!(!outage.open);
        let before = timeline.outage(0, 1_000 * MS, 4_000 * MS, 11_000 * MS, usual);
        assert!(before.unavailable_us < 2 * MS, "{before:?}");
        assert_eq!(timeline.gaps(0, 100 * MS).count(), 1);
    }

    #[test]
    fn a_partition_that_never_comes_back_is_out_until_the_end() {
        let mut timeline = with_a_hole();
        assert!(!timeline.outage(0, 9_000 * MS, 10_000 * MS, 60_000 * MS, 0).open, "nothing waits");
        timeline.sent(0);
        let outage = timeline.outage(0, 9_000 * MS, 10_001 * MS, 60_000 * MS, 0);
        assert!(outage.open);
        assert_eq!(outage.unavailable_us, 50_000 * MS - 700);
        timeline.sent(1);
        let never = timeline.outage(1, 9_000 * MS, 10_000 * MS, 60_000 * MS, 0);
        assert_eq!((never.unavailable_us, never.open), (60_000 * MS, true), "not one record was taken");
    }

    #[test]
    fn a_partition_without_records_is_not_out() {
        let timeline = with_a_hole();
        let outage = timeline.outage(1, 0, 10_000 * MS, 60_000 * MS, 0);
        assert_eq!((outage.unavailable_us, outage.open), (0, false));
    }

    #[test]
    fn throughput_and_latency_by_time() {
        let timeline = with_a_hole();
        assert_eq!(timeline.acked_bytes()[0], 500, "five in a quarter of a second");
        assert_eq!(timeline.acked_bytes()[22], 0, "in the hole");
        let latency = timeline.latency(0, 5_000 * MS);
        assert!((700..=740).contains(&latency.quantile(0.99)), "{}", latency.quantile(0.99));
        assert_eq!(timeline.latency(20_000 * MS, 30_000 * MS).quantile(0.99), 0);
    }

    #[test]
    fn kept_gaps_are_bounded_and_the_long_ones_stay() {
        let mut timeline = Timeline::new(1);
        let mut now = 0;
        for index in 0..GAPS_MAX as u64 + 500 {
            now += if index % 1000 == 7 { 900 * MS } else { 21 * MS };
            timeline.sent(0);
            timeline.acked(0, now, now, 1);
        }
        assert_eq!(timeline.partitions[0].gaps.len(), GAPS_MAX);
        assert_eq!(timeline.gaps(0, 900 * MS).count(), 5);
        assert!(timeline.partitions[0].gaps.is_sorted_by_key(|gap| gap.from_us));
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|value| histogram.add(value * 1000));
        for (share, exact) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let found = histogram.quantile(share);
            assert!(found >= exact && found <= exact + exact / 15, "{share}: {found}");
        }
        assert_eq!(quantile(&[1, 2, 3, 4], 0.5), 2);
        assert_eq!(quantile(&[1, 2, 3, 4], 0.99), 4);
        assert_eq!(quantile(&[7], 0.0), 7);
        assert_eq!(quantile(&[], 0.5), 0);
    }
}
