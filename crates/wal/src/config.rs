//! Where a log lies and how large it may become.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use common::NodeId;

use crate::PublicationGate;

/// Where a log lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalLocation {
    /// A directory of segment files, made if absent.
    Directory(PathBuf),
    /// A block device, or one preallocated file. A zeroed first page means that it is unused.
    Block(PathBuf),
}

impl WalLocation {
    /// The directory, device or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        let (Self::Directory(path) | Self::Block(path)) = self;
        path
    }
}

impl fmt::Display for WalLocation {
    /// The URL that [`FromStr`] reads, if the path is UTF-8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::Block(path) => write!(f, "block://{}", path.display()),
        }
    }
}

impl FromStr for WalLocation {
    type Err = String;

    /// Reads `file:///directory` or `block:///dev/device`.
    fn from_str(url: &str) -> Result<Self, String> {
        let wrong = || format!("{url:?} is no place for a write-ahead log: file:///directory or block:///dev/device");
        let (scheme, path) = url.split_once("://").ok_or_else(wrong)?;
        if !path.starts_with('/') || path.contains(['?', '#', '%']) {
            return Err(wrong());
        }
        match scheme {
            "file" => Ok(Self::Directory(path.into())),
            "block" => Ok(Self::Block(path.into())),
            _ => Err(wrong()),
        }
    }
}

/// What survives the loss of the node, as the operator states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalClass {
    /// The disk dies with its node: nobody else can seal or adopt this log.
    Private,
    /// A volume that other nodes can open: the owner reads the seal sector after each flush.
    Shared,
}

/// Configuration of one log.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// Where it lies.
    pub location: WalLocation,
    /// Whether other nodes can reach it. Fixed when the log is made.
    pub class: WalClass,
    /// Bytes of the whole ring. For a block location 0 means: all there is. Rounded down to whole segments.
    pub capacity_bytes: u64,
    /// Bytes of one segment; fixed when the log is made. Bounds the largest record.
    pub segment_bytes: u64,
    /// A block is ended when it reaches this size, bytes; only a single larger record makes a larger block.
    pub block_bytes_max: u32,
    /// Largest payload of a record, bytes; further bounded by what a segment and the memory hold.
    pub record_bytes_max: u32,
    /// Block memory that may be mapped at once, bytes.
    pub memory_bytes: u64,
    /// The node that owns the log.
    pub node: NodeId,
    /// The cluster it belongs to, at most 255 bytes.
    pub cluster_id: String,
    /// Holds back the publication of what is durable while the owner has no lease; none: nothing does.
    pub gate: Option<Arc<dyn PublicationGate>>,
}

impl WalConfig {
    /// A private log at `location` with default sizes: 1 GiB ring, 64 MiB segments, 256 MiB of memory.
    #[must_use]
    pub fn new(location: WalLocation, node: NodeId, cluster_id: impl Into<String>) -> Self {
        Self {
            location,
            class: WalClass::Private,
            capacity_bytes: 1 << 30,
            segment_bytes: 64 << 20,
            block_bytes_max: 1 << 20,
            record_bytes_max: 48 << 20,
            memory_bytes: 256 << 20,
            node,
            cluster_id: cluster_id.into(),
            gate: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_directory_or_a_device() {
        assert_eq!("file:///var/wal".parse(), Ok(WalLocation::Directory("/var/wal".into())));
        assert_eq!("block:///dev/nvme1n1".parse(), Ok(WalLocation::Block("/dev/nvme1n1".into())));
        for url in ["file:///var/wal/log-1", "block:///dev/nvme1n1"] {
            assert_eq!(url.parse::<WalLocation>().expect("a place").to_string(), url);
        }
        for wrong in ["", "/var/wal", "file://host/wal", "s3://bucket/wal", "file:///wal?x=1"] {
            let error = wrong.parse::<WalLocation>().expect_err("refused");
            assert!(error.contains("file:///directory"), "{error}");
        }
    }
}
