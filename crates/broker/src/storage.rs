//! Joins the ports of the crates below: the Raft log of `metadata` on files of our own, and what `s3stream` needs
//! from metadata.

pub mod metadata_copy;
pub mod ports;
pub mod raft_log;

pub use ports::MetadataPorts;
pub use raft_log::RaftLog;
