//! Waiting between attempts: exponential, jittered, bounded.

use std::time::Duration;

use common::Random;

/// First wait, before jitter.
const FIRST_MS: u64 = 100;
/// Longest wait.
const MAX_MS: u64 = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between half and all of the current step.
    pub(crate) fn next(&mut self, random: &dyn Random) -> Duration {
        let step = FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(MAX_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(step / 2 + random.below(step / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use common::SeededRandom;

    use super::*;

    #[test]
    fn grows_to_a_bound() {
        let (random, mut backoff) = (SeededRandom::new(1), Backoff::default());
        let waits: Vec<u64> = (0..20).map(|_| backoff.next(&random).as_millis() as u64).collect();
        assert!((50..=100).contains(&waits[0]));
        assert!((100..=200).contains(&waits[1]));
        assert!(waits.iter().all(|wait| *wait <= MAX_MS) && waits[19] >= MAX_MS / 2);
    }
}
