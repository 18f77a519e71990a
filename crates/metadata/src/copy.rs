//! Metadata outside of its quorum: an image as chunks that somebody else keeps, and the log that a new quorum begins with
//! when all voters of the old one are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use common::NodeId;

use crate::image::MetadataImage;
use crate::log::{ChunkSink, EntryId, RaftLogStore, Vote};
use crate::raft::{Membership, StartError, raft_id};
use crate::wire::{SnapshotDecoder, SnapshotHead, encode_snapshot};

/// Puts `image` into `sink`, chunk by chunk: the chunks of a Raft snapshot, without a membership.
pub fn encode(image: &MetadataImage, sink: &mut ChunkSink<'_>) -> io::Result<()> {
    encode_snapshot(&SnapshotHead { last: None, membership_at: None, membership: Membership::default() }, image, sink)
}

/// The image that [`encode`] was given.
///
/// # Errors
/// A chunk that cannot be read, that makes no sense, or is of a newer version; an image that breaks an invariant.
pub fn decode(chunks: impl IntoIterator<Item = io::Result<Bytes>>) -> io::Result<MetadataImage> {
    let mut decoder = SnapshotDecoder::default();
    for chunk in chunks {
        decoder.push(chunk?)?;
    }
    Ok(decoder.finish()?.1)
}

/// Writes the beginning of a new quorum to an empty log: `image`, with `voter` (at `address`) as its only member. `term`
/// must be above every term of the old quorum.
///
/// # Errors
/// The log holds something, or fails.
pub async fn found(
    store: &dyn RaftLogStore,
    image: Arc<MetadataImage>,
    voter: NodeId,
    address: &Arc<str>,
    term: u64,
) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::Storage(error.to_string());
    let bounds = store.bounds();
    if bounds.vote.is_some() || bounds.last.is_some() || bounds.purged.is_some() {
        return Err(StartError::Storage("the metadata log holds something already".into()));
    }
    let id = raft_id(voter)?;
    let last = EntryId { term, node: id, index: image.applied.0 };
    let membership =
        Membership { voters: vec![BTreeSet::from([id])], nodes: BTreeMap::from([(id, Arc::clone(address))]) };
    let head = SnapshotHead { last: Some(last), membership_at: Some(last), membership };
    store.save_vote(Vote { term, node: id, committed: false }).await.map_err(failed)?;
    let source = Box::new(move |sink: &mut ChunkSink<'_>| encode_snapshot(&head, &image, sink));
    store.save_snapshot(Some(last), source).await.map_err(failed)?;
    store.purge(last).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use common::{LogIndex, ManualClock};
    use uuid::Uuid;

    use super::*;
    use crate::command::{Command, Outcome, Registration};
    use crate::log::MemoryLogStore;
    use crate::raft::{NoPeers, Node, NodeConfig};

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let commands = [
            Command::Bootstrap { cluster_id: "c".into() },
            Command::RegisterNode(Registration::new(NodeId(1), Uuid::from_u128(1))),
        ];
        for (index, command) in (1..).zip(&commands) {
            crate::state::apply(&mut image, LogIndex(index), 0, command);
        }
        image
    }

    fn chunks(image: &MetadataImage) -> Vec<io::Result<Bytes>> {
        let mut chunks = Vec::new();
        let taken = encode(image, &mut |chunk| {
            chunks.push(Ok(Bytes::copy_from_slice(chunk)));
            Ok(())
        });
        taken.expect("the sink takes everything");
        chunks
    }

    #[test]
    fn what_was_copied_is_read_back_and_what_is_missing_is_noticed() {
        let image = image();
        assert_eq!(decode(chunks(&image)).expect("whole"), image);
        let whole = chunks(&image).len();
        for kept in 0..whole {
            assert!(decode(chunks(&image).into_iter().take(kept)).is_err(), "{kept} of {whole} chunks");
        }
    }

    #[tokio::test]
    async fn a_quorum_of_one_goes_on_from_the_image() {
        let store = Arc::new(MemoryLogStore::default());
        let mut begun = image();
        begun.applied = LogIndex(1 << 32);
        found(&*store, Arc::new(begun.clone()), NodeId(3), &Arc::from("h:1"), 77).await.expect("written");
        let again = found(&*store, Arc::new(begun), NodeId(3), &Arc::from("h:1"), 78).await;
        assert!(matches!(again, Err(StartError::Storage(_))), "nothing is overwritten");
        let clock = Arc::new(ManualClock::at(1_000));
        // Whoever the settings say votes first: the log says otherwise.
        let config = NodeConfig { voters: Vec::new(), ..NodeConfig::single(NodeId(3)) };
        let (node, client) = Node::start(config, store, Arc::new(NoPeers), clock).await.expect("starts");
        assert_eq!(&*client.image().cluster_id, "c");
        assert!(client.quorum().term > 77 && client.quorum().is_leader);
        assert_eq!(node.members().into_iter().collect::<Vec<_>>(), [(NodeId(3), (Arc::from("h:1"), true))]);
        let drained = client.submit(Command::SetDraining { node: NodeId(1), draining: true }).await;
        assert!(matches!(drained, Ok(Outcome::Done)));
        assert!(client.image().applied.0 > 1 << 32);
        node.stop().await;
    }
}
