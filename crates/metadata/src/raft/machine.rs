//! The state machine as Raft drives it: applies committed entries in batches and publishes one image a batch,
//! before any submitter hears of its outcome.

use std::io;
use std::sync::Arc;

use common::{LogIndex, blocking};
use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::types::{self, Applied, LogId, StoredMembership, TypeConfig};
use crate::client::Images;
use crate::image::MetadataImage;
use crate::log::{RaftLogStore, SnapshotChunks};
use crate::state;
use crate::wire::{SnapshotDecoder, SnapshotHead, encode_snapshot};

/// A snapshot is an image: immutable, and as cheap to hold as what has changed since.
pub(crate) type SnapshotData = Arc<MetadataImage>;

type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

/// See the module.
pub(crate) struct Machine {
    state: MetadataImage,
    last: Option<LogId>,
    membership: StoredMembership,
    images: Arc<Images>,
    store: Arc<dyn RaftLogStore>,
    /// What the store's snapshot covers, to not write at start what was just read.
    stored: Option<Option<LogId>>,
}

impl Machine {
    pub(crate) fn new(store: Arc<dyn RaftLogStore>, images: Arc<Images>) -> Self {
        Self {
            state: MetadataImage::default(),
            last: None,
            membership: StoredMembership::default(),
            images,
            store,
            stored: None,
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let index = LogIndex(entry.log_id.index);
            let outcome = match entry.payload {
                EntryPayload::Normal(proposal) => {
                    Some(state::apply(&mut self.state, index, proposal.now_ms, &proposal.command))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
                EntryPayload::Blank => None,
            };
            self.state.applied = index;
            self.last = Some(entry.log_id);
            if let Some(responder) = responder {
                answers.push((responder, Applied(outcome)));
            }
        }
        self.images.publish(Arc::new(self.state.clone()));
        for (responder, applied) in answers {
            responder.send(applied);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // What the builder writes becomes the store's snapshot; a failure to write ends Raft.
        self.stored = Some(self.last);
        Builder {
            image: Arc::new(self.state.clone()),
            meta: SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() },
            store: Arc::clone(&self.store),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        if self.stored != Some(meta.last_log_id) {
            save(&self.store, meta, Arc::clone(&snapshot)).await?;
            self.stored = Some(meta.last_log_id);
        }
        self.state = (*snapshot).clone();
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.images.publish(snapshot);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let Some(chunks) = self.store.load_snapshot().await? else { return Ok(None) };
        let snapshot = blocking(move || load(chunks)).await?;
        self.stored = Some(snapshot.meta.last_log_id);
        Ok(Some(snapshot))
    }
}

/// Writes one image as a snapshot.
pub(crate) struct Builder {
    image: SnapshotData,
    meta: SnapshotMeta,
    store: Arc<dyn RaftLogStore>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        save(&self.store, &self.meta, Arc::clone(&self.image)).await?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Arc::clone(&self.image) })
    }
}

/// What a snapshot's chunks begin with.
pub(crate) fn head_of(meta: &SnapshotMeta) -> SnapshotHead {
    SnapshotHead {
        last: meta.last_log_id.as_ref().map(types::entry_id),
        membership_at: meta.last_membership.log_id().as_ref().map(types::entry_id),
        membership: meta.last_membership.membership().into(),
    }
}

pub(crate) fn snapshot_of(head: SnapshotHead, image: MetadataImage) -> Snapshot {
    let membership = StoredMembership::new(head.membership_at.map(types::log_id), head.membership.into());
    Snapshot {
        meta: SnapshotMeta { last_log_id: head.last.map(types::log_id), last_membership: membership },
        snapshot: Arc::new(image),
    }
}

async fn save(store: &Arc<dyn RaftLogStore>, meta: &SnapshotMeta, image: SnapshotData) -> io::Result<()> {
    let head = head_of(meta);
    store.save_snapshot(head.last, Box::new(move |sink| encode_snapshot(&head, &image, sink))).await
}

fn load(chunks: SnapshotChunks) -> io::Result<Snapshot> {
    let mut decoder = SnapshotDecoder::default();
    for chunk in chunks {
        decoder.push(chunk?)?;
    }
    let (head, image) = decoder.finish()?;
    Ok(snapshot_of(head, image))
}
