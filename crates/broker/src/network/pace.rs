//! How fast a transfer must go on while others wait for the memory it holds.
//!
//! Rule **take-or-leave**: whoever holds memory that others wait for gives it back within [`TRANSFER_MAX`]: by
//! finishing, or by being cut off. A client that takes or sends a few bytes now and then is no better than one that does
//! nothing, so what counts is how much of the whole is done. Its own patience ends at about the same time
//! (`request.timeout.ms` is 30 s); it may connect and ask again. While nobody waits it may take its time.

use std::time::Duration;

/// Grace at the beginning of a transfer.
const STALL_MAX: Duration = Duration::from_secs(5);
/// Time for a whole transfer, however large.
const TRANSFER_MAX: Duration = Duration::from_secs(30);

/// The schedule of one transfer, in positions of a stream of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    since: Duration,
    from: u64,
    end: u64,
}

impl Pace {
    /// A transfer that has come to `from` at the time `since` and is to reach `end`.
    pub(super) fn new(since: Duration, from: u64, end: u64) -> Self {
        Self { since, from, end }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn elapsed(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// Whether less is done than a transfer that takes its whole time would have done.
    pub(super) fn is_behind(&self, now: Duration, at: u64) -> bool {
        let whole = self.end.saturating_sub(self.from).max(1);
        let done = at.saturating_sub(self.from).min(whole);
        let allowed = STALL_MAX + (TRANSFER_MAX - STALL_MAX).mul_f64(done as f64 / whole as f64);
        self.elapsed(now) > allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_behind_and_a_steady_transfer_is_not() {
        let pace = Pace::new(Duration::from_secs(100), 1000, 61_000);
        let at = |seconds| Duration::from_secs(100 + seconds);
        assert!(!pace.is_behind(at(5), 1000));
        assert!(pace.is_behind(at(6), 1000));
        for second in 0..=30 {
            assert!(!pace.is_behind(at(second), 1000 + 2000 * second), "in time after {second} s");
        }
        for second in 6..=30 {
            assert!(pace.is_behind(at(second), 1000 + second), "a byte a second, after {second} s");
        }
        assert!(pace.is_behind(at(31), 60_999));
    }
}
