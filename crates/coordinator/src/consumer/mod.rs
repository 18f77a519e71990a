//! Consumer groups (KIP-848): the broker assigns, members only send heartbeats.
//!
//! A group moves in three steps, each with an epoch that only grows:
//!
//! ```text
//! subscriptions or topics change ─► group epoch
//! an assignor spreads partitions ─► assignment epoch, a target for each member     (assignment ≤ group epoch)
//! members give up, then take     ─► member epoch, what each member owns            (member ≤ assignment epoch)
//! ```
//!
//! A partition is given to a member only when no other owns it (rule one-owner): whoever has to give it up says so in
//! a heartbeat, is fenced when that takes longer than its rebalance timeout, or is gone.
//!
//! Everything is persisted and follows from records ([`group`]); only timers are soft. Difference to Kafka: regular
//! expressions are resolved within the heartbeat that needs them, not by a task of their own.

mod assignment;
mod assignor;
mod describe;
mod group;
mod heartbeat;
mod leave;
mod member;
mod offsets;
mod reconcile;
mod record_codec;
mod refresh;
mod topics;

pub use assignment::Assignment;
pub use assignor::Assignor;
pub(crate) use describe::CONSUMER;
pub(crate) use group::ConsumerGroup;
pub use group::ResolvedRegex;
pub use member::{ConsumerMemberMetadata, CurrentAssignment, MemberState};
pub use record_codec::ConsumerGroupRecord;
pub(crate) use refresh::Refresh;
pub use topics::{KnownTopic, NoTopics, Topics};
