//! The only module that reads clocks. Everything else is handed a [`Clock`], so that the whole broker can
//! run on simulated time.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Source of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time, milliseconds since the Unix epoch. May jump in either direction: only for record
    /// timestamps and retention, never for leases or timeouts.
    fn wall_ms(&self) -> i64;

    /// Time since an arbitrary fixed point, never going back, counting through suspend (boot-time clock).
    fn boot(&self) -> Duration;
}

/// The moment `after` from now on the async runtime's timer, which a simulation controls: only to give waiting
/// an end, never to measure or to stamp.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn deadline(after: Duration) -> tokio::time::Instant {
    tokio::time::Instant::now() + after
}

/// The operating system's clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn wall_ms(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
    }

    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_ms: AtomicI64,
    boot_ns: AtomicU64,
}

impl ManualClock {
    /// A clock whose wall time starts at `wall_ms` and whose boot time starts at zero.
    #[must_use]
    pub fn at(wall_ms: i64) -> Self {
        Self { wall_ms: AtomicI64::new(wall_ms), boot_ns: AtomicU64::new(0) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.wall_ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        self.boot_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Moves the wall clock alone, to any time: what an operator or NTP may do.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn boot(&self) -> Duration {
        Duration::from_nanos(self.boot_ns.load(Ordering::SeqCst))
    }
}
