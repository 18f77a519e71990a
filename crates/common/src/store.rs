//! The object store: opening one by URL, claiming a prefix for one cluster, and decorators around the
//! `object_store` crate's trait.
//!
//! Outside to inside: counters, retries by outcome, limiter, the store itself. Faults, where a test wants them, go
//! right around the store, so that everything above has to cope with them.

mod claim;
mod count;
mod direct_read;
mod fault;
mod layer;
mod limit;
mod local;
mod location;
mod retry;
#[cfg(test)]
mod tests;

pub use claim::{ClaimError, Claimed, claim, claim_prefix};
pub use count::{OperationCounters, StoreCounters};
pub use fault::{FaultPlan, Faults};
pub use layer::{Attempt, Layer, Layered, Operation};
pub use limit::Limit;
pub use local::PacedLocalStore;
pub use location::{StoreError, StoreOptions, faulty, open, open_with};
pub use retry::Retry;
