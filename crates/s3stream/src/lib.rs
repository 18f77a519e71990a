//! Streams over a write-ahead log and an object store: append, fetch, trim, upload, caches, object formats,
//! object compaction, recovery. A record is opaque bytes with offsets, a maximum timestamp and an opaque tag.

pub mod ports;
pub mod store;
pub mod stream;

pub use ports::{
    CheckpointRef, CommitError, CommittedRange, ObjectCommit, ObjectDescriptor, ObjectManager, PortError,
    SliceCommit, SliceOutcome, StreamManager, StreamMetadata,
};
pub use store::{Parts, Settings, StartError, StreamStore};
pub use stream::{AppendRequest, Checkpoint, FetchError, Fetched, ReadClass, RecordHead, RecordSlice, Stream};
