//! Bounds how many operations are in flight.

use object_store::{Error, Result};
use tokio::sync::Semaphore;

use super::layer::{Attempt, Layer, Operation};

/// At most so many operations at once; the others wait in order.
#[derive(Debug)]
pub struct Limit {
    permits: Semaphore,
}

impl Limit {
    /// At most `operations` at once, at least one.
    #[must_use]
    pub fn new(operations: usize) -> Self {
        Self { permits: Semaphore::new(operations.clamp(1, Semaphore::MAX_PERMITS)) }
    }
}

impl Layer for Limit {
    async fn call<'a, T: Send + 'a>(
        &'a self,
        _operation: Operation,
        _bytes: u64,
        attempt: impl Fn() -> Attempt<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let closed = |error| Error::Generic { store: "limit", source: Box::new(error) };
        let _permit = self.permits.acquire().await.map_err(closed)?;
        attempt().await
    }
}
