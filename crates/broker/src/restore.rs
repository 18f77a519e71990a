//! `ottla metadata restore`: makes a voter of a new quorum from the newest copy of metadata in the object store, when all
//! voters of the old one are lost. What came after the copy is found again in the store's objects and in the write-ahead logs;
//! what is not is told, and wants to be accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{NodeId, Offset, StreamEpoch, StreamId};
use metadata::log::RaftLogStore as _;
use metadata::restore::{Evidence, FoundLog, FoundObject, FoundRun, FoundSlice, Restored, rebuild};
use metadata::{MetadataImage, WalClass, WalState};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};
use s3stream::format::object_index::{ObjectIndex, SliceEntry};
use s3stream::scan::{ScannedObject, scan};
use uuid::Uuid;
use wal::{RecordKind, RecordRef, SealProof, SealedBy, SealedLog, WalLocation};

use crate::cluster::backup;
use crate::config::BrokerConfig;
use crate::machine::SystemMachine;
use crate::meta_properties::{self, MetaProperties};
use crate::start::{open_store, redacted};
use crate::storage::RaftLog;
use crate::storage::metadata_copy::{self, CopyHead};

/// The new quorum's terms are above all of the old one's.
const TERMS: u64 = 1_000_000;
/// The directory of the metadata log, and its name while it is being made.
pub(crate) const RAFT: &str = "raft";
const RAFT_DRAFT: &str = "raft.restoring";

/// What to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreRequest {
    /// Key of the copy; the newest that is sound if `None`.
    pub from: Option<String>,
    /// Which cluster's; what `meta.properties` says, or the only one that there is, if `None`.
    pub cluster_id: Option<String>,
    /// Where write-ahead logs lie, or copies of them, beside the places that metadata names.
    pub wals: Vec<String>,
    /// Go on although records may be missing that were acknowledged.
    pub accept_data_loss: bool,
}

/// Why nothing was restored. What was there is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RestoreError(String);

fn failed(error: impl Display) -> RestoreError {
    RestoreError(error.to_string())
}

/// Restores metadata into `log.dirs`, telling what was found and what was not.
///
/// # Errors
/// There is a metadata log already; no copy is sound; the store fails; something may be lost and that was not accepted.
pub async fn restore(
    config: &BrokerConfig,
    request: &RestoreRequest,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(), RestoreError> {
    require_no_log(config)?;
    let meta = meta_properties::load(&config.data_dir, config.node_id).map_err(failed)?;
    let known = meta.as_ref().map(|meta| meta.cluster_id.clone());
    let store = open_store(config, &SystemMachine).map_err(failed)?;
    let (head, copy) = find_copy(&*store, request, known.as_deref(), tell).await?;
    let url = redacted(&config.object_store_url);
    if *copy.store != *url {
        let place = &copy.store;
        return Err(failed(format!(
            "the cluster keeps its data in {place}: set ottla.object.store.url to it, not {url}"
        )));
    }
    let (evidence, damaged) = gather(config, request, &store, &copy).await?;
    tell(&format!(
        "the store holds {} objects that the copy knows and {} that it does not; {} write-ahead logs were read",
        evidence.present.len(),
        evidence.objects.len(),
        evidence.logs.len()
    ));
    let mut restored = rebuild(&copy, &evidence).map_err(failed)?;
    restored.losses.extend(damaged);
    describe(&restored, tell);
    if !restored.losses.is_empty() && !request.accept_data_loss {
        return Err(failed(
            "nothing was changed, because records may be missing that were acknowledged (see above). Name the places of \
             write-ahead logs, or of copies of them, with --wal; or say --accept-data-loss",
        ));
    }
    give_up_own_log(&mut restored, config.node_id, tell)?;
    let cluster_id = restored.image.cluster_id.to_string();
    write(config, restored.image, head.term + TERMS).await?;
    if meta.is_none() {
        let meta = MetaProperties { cluster_id, node_id: config.node_id };
        meta_properties::create(&config.data_dir, &meta).map_err(failed)?;
    }
    tell(&format!(
        "node {} is the only voter of a new quorum. Remove the directory `{RAFT}` of every other node that voted before it \
         starts; then start this node, then the others, and give them votes with `ottla quorum add`",
        config.node_id
    ));
    Ok(())
}

/// Refuses a log that holds anything. One that holds nothing was made by a node that waits for its quorum.
fn require_no_log(config: &BrokerConfig) -> Result<(), RestoreError> {
    if !config.quorum.is_controller {
        return Err(failed("process.roles of this node lacks controller: metadata is restored on a node that votes"));
    }
    let path = config.data_dir.join(RAFT);
    if !path.try_exists().map_err(|error| failed(format!("{}: {error}", path.display())))? {
        return Ok(());
    }
    let bounds = RaftLog::open(&path).map_err(failed)?.bounds();
    if bounds.vote.is_some() || bounds.last.is_some() || bounds.purged.is_some() {
        return Err(failed(format!(
            "{}: there is a metadata log already. Where it is sound, start the node; else move it away first",
            path.display()
        )));
    }
    std::fs::remove_dir_all(&path).map_err(|error| failed(format!("{}: {error}", path.display())))
}

/// The copy that was asked for, or the newest one that is sound.
async fn find_copy(
    store: &dyn ObjectStore,
    request: &RestoreRequest,
    known: Option<&str>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(CopyHead, MetadataImage), RestoreError> {
    if let Some(key) = request.from.as_deref().filter(|key| *key != "latest") {
        return read_copy(store, &Key::from(key), known, tell).await;
    }
    let asked = request.cluster_id.as_deref().or(known);
    let cluster_id = match asked {
        Some(cluster_id) => cluster_id.to_owned(),
        None => only_cluster(store).await?,
    };
    let copies = backup::list(store, &cluster_id).await.map_err(failed)?;
    for (_, key) in copies.iter().rev() {
        match read_copy(store, key, Some(&cluster_id), tell).await {
            Ok(found) => return Ok(found),
            Err(error) => tell(&format!("{error}; trying an older copy")),
        }
    }
    Err(failed(format!("the object store holds no sound copy of the metadata of cluster {cluster_id}")))
}

async fn only_cluster(store: &dyn ObjectStore) -> Result<String, RestoreError> {
    let listed = store.list_with_delimiter(Some(&Key::from("metadata"))).await.map_err(failed)?;
    let names = listed.common_prefixes.iter().filter_map(|prefix| prefix.parts().next_back());
    let names: Vec<String> = names.map(|name| name.as_ref().to_owned()).collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(failed("the object store holds no copy of metadata")),
        several => Err(failed(format!("which cluster? --cluster-id is one of {}", several.join(", ")))),
    }
}

async fn read_copy(
    store: &dyn ObjectStore,
    key: &Key,
    cluster_id: Option<&str>,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<(CopyHead, MetadataImage), RestoreError> {
    let bytes = async { store.get(key).await?.bytes().await };
    let bytes = bytes.await.map_err(|error| failed(format!("{key}: {error}")))?;
    let (head, image) = metadata_copy::decode(&bytes, key.as_ref()).map_err(failed)?;
    if let Some(cluster_id) = cluster_id.filter(|cluster_id| **cluster_id != *image.cluster_id) {
        return Err(failed(format!("{key} is of cluster {}, not of {cluster_id}", image.cluster_id)));
    }
    let CopyHead { term, index, taken_ms } = head;
    tell(&format!("copy {key}: cluster {}, entry {index} of term {term}, taken at {taken_ms} ms", image.cluster_id));
    Ok((head, image))
}

/// What the store and the logs prove; and what cannot be read.
async fn gather(
    config: &BrokerConfig,
    request: &RestoreRequest,
    store: &Arc<dyn ObjectStore>,
    copy: &MetadataImage,
) -> Result<(Evidence, Vec<String>), RestoreError> {
    let scanned = scan(store, "", |node_epoch, id, attempt| {
        copy.objects.get(&id).is_some_and(|known| known.node_epoch == node_epoch && known.attempt == attempt)
    });
    let scanned = scanned.await.map_err(|error| failed(format!("looking through the object store: {error}")))?;
    let mut unreadable = scanned.damaged;
    let (places, cluster_id, node) = (places(config, request, copy)?, copy.cluster_id.to_string(), config.node_id);
    let (logs, damaged_logs) = common::blocking(move || read_logs(&places, &cluster_id, node)).await;
    unreadable.extend(damaged_logs);
    let objects = scanned.others.iter().map(found_object).collect();
    Ok((Evidence { present: scanned.known.into_iter().collect(), objects, logs }, unreadable))
}

fn found_object(from: &ScannedObject) -> FoundObject {
    let ScannedObject { descriptor, node, index } = from;
    FoundObject {
        id: descriptor.id,
        node: *node,
        node_epoch: descriptor.node_epoch,
        attempt: descriptor.attempt,
        size: descriptor.size,
        slices: index.slices.iter().map(|slice| found_slice(index, slice)).collect(),
        checkpoints: index.checkpoints.iter().map(|one| (one.stream, one.offset)).collect(),
    }
}

fn found_slice(index: &ObjectIndex, slice: &SliceEntry) -> FoundSlice {
    let blocks = index.blocks_of(slice.stream).iter();
    let within = blocks.filter(|block| block.base < slice.end && block.end > slice.start);
    let (bytes, max_timestamp_ms) = within
        .fold((0, -1), |(bytes, newest), block| (bytes + block.payload_bytes(), block.max_timestamp_ms.max(newest)));
    let SliceEntry { stream, epoch, start, end } = *slice;
    FoundSlice { stream, epoch, start, end, bytes, max_timestamp_ms }
}

/// Where logs may lie: this node's, those that metadata names, and those that were given.
fn places(
    config: &BrokerConfig,
    request: &RestoreRequest,
    copy: &MetadataImage,
) -> Result<BTreeSet<PathBuf>, RestoreError> {
    let own = std::iter::once(config.wal_url.as_str());
    let given = own.chain(request.wals.iter().map(String::as_str));
    let given = given.map(|url| url.parse::<WalLocation>().map_err(|problem| failed(format!("{url}: {problem}"))));
    let mut places = given.collect::<Result<Vec<_>, _>>()?;
    // A place of another host means nothing here, unless both share it.
    places.extend(copy.wals.values().filter(|wal| !wal.state.is_over()).filter_map(|wal| wal.location.parse().ok()));
    Ok(places.into_iter().map(home_of).collect())
}

/// A log beside others lies in a directory of its own.
fn home_of(place: WalLocation) -> PathBuf {
    match place {
        WalLocation::Directory(path) => {
            let is_one_of_several = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log-"));
            path.parent().filter(|_| is_one_of_several).map(Path::to_path_buf).unwrap_or(path)
        }
        WalLocation::Block(path) => path,
    }
}

/// Every log of the cluster at these places, and why one could not be read.
fn read_logs(places: &BTreeSet<PathBuf>, cluster_id: &str, node: NodeId) -> (Vec<FoundLog>, Vec<String>) {
    let (mut logs, mut damaged) = (BTreeMap::<Uuid, FoundLog>::new(), Vec::new());
    for path in places {
        let place = match path.is_dir() {
            true => WalLocation::Directory(path.clone()),
            false => WalLocation::Block(path.clone()),
        };
        let found = match wal::logs(&place) {
            Ok(found) => found,
            // Where nothing is, nothing can be damaged: the log that metadata knows is told of as not read.
            Err(wal::OpenError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                damaged.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        for log in found.into_iter().filter(|log| log.cluster_id == cluster_id) {
            match read_log(&log, node) {
                Ok(read) => drop(logs.insert(log.uuid, read)),
                Err(reason) => damaged.push(format!("the write-ahead log {} at {}: {reason}", log.uuid, log.location)),
            }
        }
    }
    (logs.into_values().collect(), damaged)
}

fn read_log(log: &wal::FoundLog, node: NodeId) -> Result<FoundLog, String> {
    let (records, sealed) = match log.sealed {
        None => (wal::inspect::inspect(&log.location).map_err(|error| error.to_string())?.recovered?.records, None),
        Some(_) => {
            // It is sealed already: this says where it ends.
            let by = SealedBy { node, epoch: common::NodeEpoch(0) };
            let sealed = wal::seal(&log.location, log.uuid, by, SealProof::OwnerGone);
            let end = sealed.map_err(|error| error.to_string())?.end;
            let opened = SealedLog::open(&log.location, log.uuid, end).map_err(|error| error.to_string())?;
            (opened.records().map_err(|error| error.to_string())?, Some(end))
        }
    };
    let class = match log.class {
        wal::WalClass::Private => WalClass::Private,
        wal::WalClass::Shared => WalClass::Shared,
    };
    let location = log.location.to_string().into();
    Ok(FoundLog { uuid: log.uuid, node: log.node, class, location, sealed, runs: runs(&records) })
}

/// Records by stream and epoch; the newest checkpoint is a run without records.
fn runs(records: &[RecordRef]) -> Vec<FoundRun> {
    let mut runs: BTreeMap<(StreamId, StreamEpoch, bool), (Offset, Offset)> = BTreeMap::new();
    for record in records {
        let meta = &record.meta;
        let is_data = meta.kind == RecordKind::Data;
        let run = runs.entry((meta.stream, meta.stream_epoch, is_data)).or_insert((meta.base_offset, meta.next_offset));
        *run = match is_data {
            true => (run.0.min(meta.base_offset), run.1.max(meta.next_offset)),
            false => (*run).max((meta.base_offset, meta.next_offset)),
        };
    }
    runs.into_iter().map(|((stream, epoch, _), (base, end))| FoundRun { stream, epoch, base, end }).collect()
}

fn describe(restored: &Restored, tell: &(dyn Fn(&str) + Sync)) {
    restored.partitions.iter().for_each(|partition| tell(&partition.to_string()));
    restored.notes.iter().for_each(|note| tell(&format!("note: {note}")));
    restored.losses.iter().for_each(|loss| tell(&format!("MAY BE LOST: {loss}")));
}

/// This node does not start without the log that metadata knows of, and nobody else could give it up before it does.
fn give_up_own_log(restored: &mut Restored, node: NodeId, tell: &(dyn Fn(&str) + Sync)) -> Result<(), RestoreError> {
    for uuid in std::mem::take(&mut restored.unread) {
        if let Some(wal) = restored.image.wals.get_mut(&uuid).filter(|wal| wal.node == node) {
            wal.state = WalState::Abandoned;
            restored.image.sealed_wals.remove(&uuid);
            tell(&format!("the write-ahead log {uuid} of this node is given up"));
        }
    }
    restored.image.validate().map_err(failed)
}

/// Makes the log aside, so that a crash leaves all of it or nothing.
async fn write(config: &BrokerConfig, image: MetadataImage, term: u64) -> Result<(), RestoreError> {
    let (draft, path) = (config.data_dir.join(RAFT_DRAFT), config.data_dir.join(RAFT));
    match std::fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(format!("{}: {error}", draft.display())));
        }
        _ => {}
    }
    let address = Arc::from(config.quorum.peer.as_ref().map_or("", |peer| peer.told.as_str()));
    let log = RaftLog::open(&draft).map_err(failed)?;
    let founded = metadata::copy::found(&log, Arc::new(image), config.node_id, &address, term).await;
    log.close().await;
    founded.map_err(failed)?;
    drop(log);
    let renamed = std::fs::rename(&draft, &path).and_then(|()| wal::direct::fsync_dir(&config.data_dir));
    renamed.map_err(|error| failed(format!("{}: {error}", path.display())))
}
