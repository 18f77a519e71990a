//! Repeats what failed, if repeating can help and cannot hurt: reads, listings and deletes after errors that may
//! pass. Writes are never repeated here: their callers know what an unknown outcome means for them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::{Error, Result};

use super::layer::{Attempt, Layer, Operation};
use crate::Random;

/// First wait, before jitter; doubles with each further one.
const FIRST_WAIT_MS: u64 = 50;
/// Longest wait.
const WAIT_MS_MAX: u64 = 2_000;

/// See the module.
pub struct Retry {
    attempts: u32,
    random: Arc<dyn Random>,
}

impl Retry {
    /// At most `attempts` in all.
    #[must_use]
    pub fn new(attempts: u32, random: Arc<dyn Random>) -> Self {
        Self { attempts, random }
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} attempts", self.attempts)
    }
}

/// Whether an error may pass.
fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

impl Layer for Retry {
    async fn call<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        _bytes: u64,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let mut made = 1;
        loop {
            let error = match attempt().await {
                Err(error) if operation.is_idempotent() && may_pass(&error) && made < self.attempts => error,
                other => return other,
            };
            let step = (FIRST_WAIT_MS << made.min(16)).min(WAIT_MS_MAX);
            let wait = Duration::from_millis(step / 2 + self.random.below(step / 2 + 1));
            tracing::debug!(operation = operation.name(), %error, ?wait, "the object store failed, trying again");
            tokio::time::sleep(wait).await;
            made += 1;
        }
    }
}
