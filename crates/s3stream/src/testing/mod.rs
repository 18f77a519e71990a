//! In-memory implementations of what the stream layer is built on, for tests and benches of every crate.

mod memory_log;
mod memory_metadata;

pub use memory_log::MemoryLog;
pub use memory_metadata::MemoryMetadata;
