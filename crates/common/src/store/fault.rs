//! Fault injection, for tests: a store that fails, hangs, lags, or does what it was asked and says it did not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::{Error, Result};
use parking_lot::Mutex;

use super::layer::{Attempt, Layer, Operation};
use crate::Random;

/// What goes wrong. Probabilities are in per mille.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// Fails before the store is asked, by operation; operations that are not listed never do.
    pub fail: Vec<(Operation, u32)>,
    /// Asks the store, then fails all the same, by operation.
    pub fail_after: Vec<(Operation, u32)>,
    /// Delay before each operation.
    pub latency: Duration,
    /// Up to so much more delay, at random: half of it before the operation, half after.
    pub jitter: Duration,
    /// Operations, in per mille, that hang for [`Self::hang`] and then fail, done or not.
    pub hanging: u32,
    /// How long those hang.
    pub hang: Duration,
    /// Everything fails, as when the network is gone.
    pub unreachable: bool,
}

/// Injects faults by a plan that may change at any time.
pub struct Faults {
    plan: Mutex<FaultPlan>,
    random: Arc<dyn Random>,
}

impl Faults {
    /// Faults by `plan`.
    #[must_use]
    pub fn new(plan: FaultPlan, random: Arc<dyn Random>) -> Self {
        Self { plan: Mutex::new(plan), random }
    }

    /// Changes the plan.
    pub fn set(&self, plan: FaultPlan) {
        *self.plan.lock() = plan;
    }

    /// Cuts the store off, or lets it be reached again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.plan.lock().unreachable = unreachable;
    }

    fn hits(&self, faults: &[(Operation, u32)], operation: Operation) -> bool {
        let permille = faults.iter().find(|(of, _)| *of == operation).map_or(0, |(_, permille)| *permille);
        self.strikes(permille)
    }

    fn strikes(&self, permille: u32) -> bool {
        permille > 0 && self.random.below(1000) < u64::from(permille)
    }

    /// Half of what `jitter` may amount to.
    fn jitter(&self, jitter: Duration) -> Duration {
        let half = u64::try_from(jitter.as_millis() / 2).unwrap_or(u64::MAX);
        Duration::from_millis(if half == 0 { 0 } else { self.random.below(half + 1) })
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faults")
    }
}

async fn wait(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn injected(what: &'static str) -> Error {
    Error::Generic { store: "faults", source: what.into() }
}

impl Layer for Faults {
    async fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        _bytes: u64,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let plan = self.plan.lock().clone();
        wait(plan.latency + self.jitter(plan.jitter)).await;
        if plan.unreachable {
            return Err(injected("the store is unreachable"));
        }
        if self.hits(&plan.fail, operation) {
            return Err(injected("failed before it was done"));
        }
        if self.strikes(plan.hanging) {
            let done = self.random.below(2) == 0;
            if done {
                // What it answers is never heard.
                let _ = attempt().await;
            }
            wait(plan.hang).await;
            return Err(injected("no answer in time"));
        }
        let result = attempt().await;
        wait(self.jitter(plan.jitter)).await;
        if self.hits(&plan.fail_after, operation) {
            return Err(injected("failed after it was done"));
        }
        result
    }
}
