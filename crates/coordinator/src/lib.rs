//! Group coordination as a pure state machine; transaction coordination, likewise, is in [`transaction`].
//!
//! A [`GroupShard`] is the state of one partition of `__consumer_offsets`: its classic groups, its consumer groups
//! and their committed offsets. It is given requests and the time, and gives back records to append and responses to
//! send. It does no I/O, reads no clock, makes no randomness, and knows no runtime.
//!
//! Two kinds of state live in it. [`Persisted`] is exactly what the records say, and only [`Persisted::replay`]
//! changes it. The classic groups themselves (who is waiting, which rebalance is under way) and all timers
//! are soft: after a crash they are built anew from what is persisted. Records of consumer groups are replayed while
//! their request is handled, for what follows in it depends on them; to replay them again changes nothing.
//!
//! Contract with the host: append the records of one [`Output`] in order, before those of any later one, and hand
//! them to [`GroupShard::apply`] before the next call; release a response only when every record appended up to
//! then is durable. If an append fails and the records were all of offsets, nothing has happened yet: answer
//! with an error and go on. If groups were among them, drop the shard and load it again from durable state.

mod checkpoint;
mod config;
mod consumer;
mod describe;
mod expiration;
mod group;
mod heartbeat;
mod join;
mod leave;
mod member;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod pattern;
mod persisted;
mod rebalance;
mod record;
mod record_codec;
mod shard;
mod static_member;
mod subscription;
mod sync;
mod timers;
pub mod transaction;
mod txn_offset_commit;

pub use checkpoint::CheckpointError;
pub use config::GroupConfig;
pub use consumer::{
    Assignment, Assignor, ConsumerGroupRecord, ConsumerMemberMetadata, CurrentAssignment, KnownTopic, MemberState,
    NoTopics, ResolvedRegex, Topics,
};
pub use group::GroupState;
pub use persisted::Persisted;
pub use record::{CommittedOffset, CoordinatorRecord, GroupMetadata, MemberMetadata};
pub use shard::{Context, GroupShard, Now, Output, Request, RequireStable, Response, Token, shard_of};

#[cfg(test)]
mod tests;
