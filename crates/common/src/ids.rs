//! Identities, epochs and offsets. Each is a type of its own, so that a Kafka offset, a WAL sequence
//! number and a Raft log index can never be mistaken for each other.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number!(
    /// A broker or controller, Kafka's `node.id`. Never negative once registered.
    NodeId(i32)
);
number!(
    /// Counter given by Raft at each registration of a node, never a clock. Fences old incarnations.
    NodeEpoch(u64)
);
number!(
    /// One stream of the stream layer: the data of one partition.
    StreamId(u64)
);
number!(
    /// Counter given by Raft at each opening of a stream. Fences old writers of that stream.
    StreamEpoch(u64)
);
number!(
    /// One object in the object store. Never reused; ranges of ids are leased from Raft.
    ObjectId(u64)
);
number!(
    /// Kafka offset of a record, which is also the offset within its stream.
    Offset(i64)
);
number!(
    /// WAL sequence number: a byte position in the endless virtual log that one WAL (one uuid) writes.
    /// "Durable up to `Lsn(n)`" means every byte below `n` survives a power cut.
    Lsn(u64)
);
number!(
    /// Index of an entry in the Raft log.
    LogIndex(u64)
);

impl Offset {
    /// The offset `count` records further on.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}
