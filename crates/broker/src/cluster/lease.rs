//! The lease: until when this broker may answer reads and acknowledge.
//!
//! Invariant (docs/architecture.md §8): without a lease a broker serves no read, offset or high watermark, and acknowledges
//! nothing. It guards reads; what guards writes is the seal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::Clock;
use common::planted::{self, Bug};
use parking_lot::{Condvar, Mutex};
use wal::PublicationGate;

/// Ends at a boot time.
pub struct Lease {
    clock: Arc<dyn Clock>,
    /// Boot time in ms; 0 before the first grant, `u64::MAX` where nobody else could ever lead.
    until_ms: AtomicU64,
    granted: (Mutex<()>, Condvar),
}

impl Lease {
    /// None yet.
    #[must_use]
    pub fn none(clock: Arc<dyn Clock>) -> Self {
        Self { clock, until_ms: AtomicU64::new(0), granted: (Mutex::new(()), Condvar::new()) }
    }

    /// One without end: nobody else could ever lead.
    #[must_use]
    pub fn for_good(clock: Arc<dyn Clock>) -> Self {
        let lease = Self::none(clock);
        lease.grant_for_good();
        lease
    }

    /// Whether this broker may serve now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let until = self.until_ms.load(Ordering::Acquire);
        until == u64::MAX || millis(self.clock.boot()) < until || planted::is(Bug::ServeWithoutLease)
    }

    /// Time left of it.
    #[must_use]
    pub fn left(&self) -> Duration {
        let until = self.until_ms.load(Ordering::Acquire);
        Duration::from_millis(until).saturating_sub(self.clock.boot())
    }

    /// A lease for `length` from the moment the heartbeat was *sent*; never shortens one.
    pub(crate) fn grant(&self, sent: Duration, length: Duration) {
        self.until_ms.fetch_max(millis(sent.saturating_add(length)), Ordering::AcqRel);
        self.tell();
    }

    /// For good: this node alone votes, so nobody could ever depose it.
    pub(crate) fn grant_for_good(&self) {
        self.until_ms.store(u64::MAX, Ordering::Release);
        self.tell();
    }

    fn tell(&self) {
        // Taken, so that nobody is between the look and the wait.
        drop(self.granted.0.lock());
        self.granted.1.notify_all();
    }

    /// Others joined, so that it needs their consent from `until` (boot time) on.
    pub(crate) fn limit(&self, until: Duration) {
        let for_good = self.until_ms.load(Ordering::Acquire) == u64::MAX;
        if for_good {
            self.until_ms.store(millis(until), Ordering::Release);
        }
    }

    /// Ends it now: this life of the node is over.
    pub(crate) fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({:?} left)", self.left())
    }
}

impl PublicationGate for Lease {
    fn is_open(&self) -> bool {
        self.is_valid()
    }

    fn wait(&self, at_most: Duration) {
        let mut granted = self.granted.0.lock();
        if !self.is_valid() {
            self.granted.1.wait_for(&mut granted, at_most);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use common::ManualClock;

    use super::*;

    #[test]
    fn it_counts_from_the_send_and_never_shrinks() {
        let clock = Arc::new(ManualClock::at(0));
        let lease = Lease::none(Arc::clone(&clock) as Arc<dyn Clock>);
        assert!(!lease.is_valid());
        clock.advance(Duration::from_secs(10));
        lease.grant(Duration::from_secs(9), Duration::from_secs(3));
        lease.grant(Duration::from_secs(8), Duration::from_secs(3));
        assert_eq!(lease.left(), Duration::from_secs(2));
        clock.advance(Duration::from_millis(1_999));
        assert!(lease.is_valid());
        clock.advance(Duration::from_millis(1));
        assert!(!lease.is_valid());
        lease.grant_for_good();
        assert!(lease.is_valid());
        lease.limit(clock.boot() + Duration::from_secs(1));
        assert_eq!(lease.left(), Duration::from_secs(1));
        lease.end();
        assert!(!lease.is_valid());
    }
}
