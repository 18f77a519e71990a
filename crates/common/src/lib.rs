//! What every crate of Ottla shares and none of them owns: identities, offsets, time, randomness,
//! byte budgets, task supervision and the decorators around the object store. No domain logic.

mod blocking;
pub mod budget;
pub mod clock;
pub mod ids;
pub mod planted;
pub mod random;
pub mod simulated_disk;
pub mod store;
pub mod supervisor;

pub use blocking::{PieceSink, blocking, blocking_pieces};
pub use clock::{Clock, ManualClock, SystemClock};
pub use ids::{LogIndex, Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
pub use random::{Random, SeededRandom, SystemRandom};
