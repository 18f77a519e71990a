//! Joins the ports of the crates below: the Raft log of `metadata` on files of our own, and what `s3stream` needs
//! from metadata.

pub mod ports;

pub use ports::MetadataPorts;
