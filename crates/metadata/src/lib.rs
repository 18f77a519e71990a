//! Cluster metadata: Raft, a pure state machine, immutable images, and the client that commands go through.

pub mod client;
pub mod command;
pub mod delta;
pub mod image;
pub mod log;
pub mod raft;
pub mod state;
mod wire;

pub use client::{MetadataClient, SubmitError};
pub use command::{Command, Outcome};
pub use delta::{Delta, Subscription};
pub use image::{ConfigResource, MetadataImage, NodeImage, ObjectImage, PartitionImage, StreamImage, TopicImage};
pub use raft::{Node, NodeConfig, QuorumReplica, QuorumState, StartError};
