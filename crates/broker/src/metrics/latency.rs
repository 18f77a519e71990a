//! A distribution of durations that costs two additions to record and a fixed 2 KiB to keep: buckets whose width
//! grows with the value, eight to each doubling, so that a quantile is at most 12.5 % too high.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Count;

/// Buckets to each doubling.
const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;
/// Values of and above this many microseconds (19 hours) share the last bucket.
const TOP_BITS: u32 = 36;
const BUCKETS: usize = ((TOP_BITS - SUB_BITS) as usize + 1) * SUB as usize;

/// Durations in microseconds.
#[derive(Debug)]
pub struct Latency {
    buckets: Box<[AtomicU64]>,
    sum_us: Count,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum_us: Count::default() }
    }
}

impl Latency {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.add(us);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Upper bounds, in milliseconds, of the durations below which these shares of all lie; zeros before the
    /// first.
    #[must_use]
    pub fn quantiles_ms<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        shares.map(|share| {
            let rank = (share * total as f64).ceil() as u64;
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                total > 0 && seen >= rank.max(1)
            });
            found.map_or(0.0, |index| upper_us(index) as f64 / 1000.0)
        })
    }
}

fn bucket(us: u64) -> usize {
    if us < SUB {
        return us as usize;
    }
    let top = 63 - us.leading_zeros();
    let sub = (us >> (top - SUB_BITS)) & (SUB - 1);
    (((top - SUB_BITS + 1) as u64 * SUB + sub) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_us(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let (doubling, sub) = (index / SUB - 1, index % SUB);
    ((SUB + sub + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for us in (0..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789, (1 << 36) - 1]) {
            let upper = upper_us(bucket(us));
            assert!(upper >= us && upper - us <= us / 8, "{us}: {upper}");
            assert_eq!(bucket(upper), bucket(us));
            assert_eq!(bucket(upper + 1), (bucket(us) + 1).min(BUCKETS - 1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_bound_from_above() {
        let latency = Latency::default();
        assert_eq!(latency.quantiles_ms([0.5, 0.99]), [0.0, 0.0]);
        for ms in 1..=1000 {
            latency.record(Duration::from_millis(ms));
        }
        let [median, high, top] = latency.quantiles_ms([0.5, 0.99, 1.0]);
        assert!((500.0..=565.0).contains(&median), "{median}");
        assert!((990.0..=1120.0).contains(&high), "{high}");
        assert!(top >= 1000.0);
        assert_eq!(latency.count(), 1000);
    }
}
