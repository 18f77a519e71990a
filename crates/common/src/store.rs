//! The object store: opening one by URL, and the claim of a cluster on its prefix.

mod claim;
mod open;

pub use claim::{ClaimError, claim};
pub use open::{StoreError, open};
