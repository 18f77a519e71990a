//! `meta.properties` in the data directory: which cluster and node the directory belongs to, in Kafka's format.
//! Written once, atomically, before anything else is stored beside it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use common::{NodeId, Random, SystemRandom};

/// Identity of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// `cluster.id`: 22 characters of URL-safe base64.
    pub cluster_id: String,
    /// `node.id`.
    pub node_id: NodeId,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// It cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// What was accessed.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not ours.
    #[error("{path}: {reason}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// Reads the directory's identity; `None` where it has none yet.
pub(crate) fn load(dir: &Path, node_id: NodeId) -> Result<Option<MetaProperties>, MetaError> {
    let path = dir.join("meta.properties");
    let io_error = |source| MetaError::Io { path: path.clone(), source };
    fs::create_dir_all(dir).map_err(|source| MetaError::Io { path: dir.to_owned(), source })?;
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found = parse(&text).map_err(|reason| MetaError::Unusable { path: path.clone(), reason })?;
            if found.node_id != node_id {
                let reason = format!(
                    "the directory belongs to node {}, but node.id is {node_id}: set node.id={} or use another directory",
                    found.node_id, found.node_id
                );
                return Err(MetaError::Unusable { path, reason });
            }
            Ok(Some(found))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(error)),
    }
}

/// Gives the directory its identity, once.
pub(crate) fn create(dir: &Path, meta: &MetaProperties) -> Result<(), MetaError> {
    let path = dir.join("meta.properties");
    write_atomically(dir, &path, meta).map_err(|source| MetaError::Io { path: path.clone(), source })
}

pub(crate) fn new_cluster_id(random: &dyn Random) -> String {
    base64_uuid(random)
}

/// 22 characters, as Kafka writes a UUID.
fn base64_uuid(random: &dyn Random) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random.uuid().as_bytes())
}

fn parse(text: &str) -> Result<MetaProperties, String> {
    let value = |key: &str| {
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        lines.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned()).next()
    };
    let version = value("version").unwrap_or_default();
    if version != "1" {
        return Err(format!("version is {version:?}, this release reads version 1"));
    }
    let cluster_id = value("cluster.id").filter(|id| !id.is_empty()).ok_or("cluster.id is missing")?;
    let node_id = value("node.id").and_then(|id| id.parse().ok()).ok_or("node.id is missing or not a number")?;
    Ok(MetaProperties { cluster_id, node_id: NodeId(node_id) })
}

fn write_atomically(dir: &Path, path: &Path, meta: &MetaProperties) -> io::Result<()> {
    let temporary = path.with_extension("properties.tmp");
    let mut file = fs::File::create(&temporary)?;
    // Kafka's tools want it, for what they tell of this node; nothing here asks for it.
    let directory_id = base64_uuid(&SystemRandom);
    let MetaProperties { cluster_id, node_id } = meta;
    write!(file, "version=1\ncluster.id={cluster_id}\nnode.id={node_id}\ndirectory.id={directory_id}\n")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    wal::direct::fsync_dir(dir)
}

#[cfg(test)]
mod tests {
    use common::SeededRandom;

    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(load(dir.path(), NodeId(3)).expect("readable"), None);
        let cluster_id = new_cluster_id(&SeededRandom::new(1));
        assert_eq!(cluster_id.len(), 22);
        let first = MetaProperties { cluster_id, node_id: NodeId(3) };
        create(dir.path(), &first).expect("created");
        assert_eq!(load(dir.path(), NodeId(3)).expect("read"), Some(first));
        let text = fs::read_to_string(dir.path().join("meta.properties")).expect("written");
        let directory = text.lines().find_map(|line| line.strip_prefix("directory.id="));
        assert_eq!(directory.map(str::len), Some(22), "{text}");
    }

    #[test]
    fn another_nodes_directory_is_refused_with_advice() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let meta = MetaProperties { cluster_id: "c".into(), node_id: NodeId(3) };
        create(dir.path(), &meta).expect("created");
        let refused = load(dir.path(), NodeId(4)).expect_err("foreign").to_string();
        assert!(refused.contains("node.id=3"), "{refused}");
    }

    #[test]
    fn damage_is_refused() {
        for text in ["", "version=2\n", "version=1\nnode.id=1\n", "version=1\ncluster.id=x\nnode.id=y\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
