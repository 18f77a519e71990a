//! Counts operations, bytes, errors and time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::Result;

use super::layer::{Attempt, Layer, Operation};
use crate::Clock;

/// Counters of one store. Read them at any time; they only grow, but for `in_flight`.
pub struct StoreCounters {
    clock: Arc<dyn Clock>,
    operations: [OperationCounters; Operation::ALL.len()],
}

/// Counters of one kind of operation.
#[derive(Debug, Default)]
pub struct OperationCounters {
    /// Started.
    pub started: AtomicU64,
    /// Ended with an error.
    pub errors: AtomicU64,
    /// Bytes of operations that ended well, where the size is known beforehand.
    pub bytes: AtomicU64,
    /// Time spent, ns.
    pub nanos: AtomicU64,
    /// Going on now.
    pub in_flight: AtomicU64,
}

impl StoreCounters {
    /// All zero.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, operations: Default::default() }
    }

    /// Counters of `operation`.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &OperationCounters {
        &self.operations[operation as usize]
    }
}

impl fmt::Debug for StoreCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counters")
    }
}

impl Layer for StoreCounters {
    async fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        bytes: u64,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let counters = self.of(operation);
        counters.started.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight::enter(&counters.in_flight);
        let start = self.clock.boot();
        let result = attempt().await;
        let nanos = self.clock.boot().saturating_sub(start).as_nanos();
        counters.nanos.fetch_add(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Relaxed);
        match &result {
            Ok(_) => counters.bytes.fetch_add(bytes, Ordering::Relaxed),
            Err(_) => counters.errors.fetch_add(1, Ordering::Relaxed),
        };
        result
    }
}

/// Counts down again when the operation ends or is dropped.
struct InFlight<'a>(&'a AtomicU64);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
