//! Cluster metadata: Raft, a pure state machine, immutable images, and the client that commands go through.

pub mod balance;
pub mod client;
pub mod command;
pub mod copy;
pub mod delta;
pub mod image;
pub mod log;
pub mod placement;
pub mod raft;
pub mod restore;
pub mod state;
mod wire;

pub use client::{MetadataClient, SubmitError};
/// Version of formats and commands that this build reads and writes. A cluster writes what its oldest node reads:
/// [`MetadataImage::least_version`]. 2 brought clusters; 3 what `__consumer_offsets` holds of consumer groups (KIP-848).
pub const VERSION: u32 = 3;

pub use command::{Command, Outcome, Registration};
pub use delta::{Delta, Subscription};
pub use image::{
    ConfigResource, MetadataImage, NodeDraining, NodeImage, ObjectImage, PartitionImage, StreamImage, TopicImage,
    WalClass, WalDescriptor, WalImage, WalState,
};
pub use raft::{Node, NodeConfig, QuorumReplica, QuorumState, StartError};
