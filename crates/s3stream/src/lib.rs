//! Streams over a write-ahead log and an object store: append, fetch, trim, upload, caches, object formats,
//! object compaction, recovery. A record is opaque bytes with offsets, a maximum timestamp and an opaque tag.

mod anchors;
mod backoff;
mod block_cache;
mod collector;
mod compaction;
mod core;
pub mod format;
mod hand_over;
pub mod inspect;
mod log_cache;
mod object;
pub mod orphans;
pub mod ports;
mod read;
mod readahead;
mod recovery;
mod registry;
pub mod scan;
mod search;
pub mod store;
pub mod stream;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upload;

pub use anchors::CheckpointSource;
pub use format::hand_over::{HandOver, HandOverRecord};
pub use hand_over::{ExportError, ImportError};
pub use ports::{
    CheckpointRef, CommitError, CommittedRange, ObjectCommit, ObjectDescriptor, ObjectManager, PortError, SliceCommit,
    SliceOutcome, StreamManager, StreamMetadata,
};
pub use recovery::sealed_tails;
pub use store::{AdoptError, OpenError, Parts, Settings, StartError, StreamStore};
pub use stream::{AppendRequest, Checkpoint, FetchError, Fetched, ReadClass, RecordHead, RecordSlice, Stream};
