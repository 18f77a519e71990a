//! What handlers that create, grow and delete topics share: names, virtual replicas, and the errors of metadata
//! commands as Kafka tells them.

mod change;
mod name;
mod placement;

pub use change::{ChangeError, Deadline, create, ensure_exists, submit, wait_for};
pub use name::{check_name, colliding};
pub use placement::{check_assignment, place, placer};

/// Partitions that one request may create, over all its topics: Kafka's bound.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;
