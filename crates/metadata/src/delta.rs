//! What changed between two images. Images share structure, so the cost follows the change, not the size.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::sync::Arc;

use common::{LogIndex, NodeId, StreamId};
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use uuid::Uuid;

use crate::client::MetadataClient;
use crate::image::{ConfigResource, MetadataImage};

/// Everything between two images, coalesced. What is named here was added, changed or removed: the image tells
/// which. Committed ranges and objects are left out: whoever needs them looks them up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Nodes.
    pub nodes: BTreeSet<NodeId>,
    /// Topics, their partitions included.
    pub topics: BTreeSet<Uuid>,
    /// Configuration.
    pub configs: BTreeSet<ConfigResource>,
    /// Streams whose epoch, owner or start changed, or that were added or removed.
    pub streams: BTreeSet<StreamId>,
    /// Write-ahead logs that came, were opened, sealed or retired, or went. What is pending for a sealed one is left out.
    pub wals: BTreeSet<Uuid>,
    /// Whether a feature level changed.
    pub features: bool,
}

impl Delta {
    /// What leads from `old` to `new`.
    #[must_use]
    pub fn between(old: &MetadataImage, new: &MetadataImage) -> Self {
        let mut delta = Self {
            nodes: old.nodes.diff(&new.nodes).map(|item| *key(&item)).collect(),
            topics: old.topics.diff(&new.topics).map(|item| *key(&item)).collect(),
            configs: old.configs.diff(&new.configs).map(|item| key(&item).clone()).collect(),
            streams: BTreeSet::new(),
            wals: BTreeSet::new(),
            features: old.features != new.features,
        };
        for item in old.streams.diff(&new.streams) {
            // Every upload moves committed ends: that alone is no news.
            if let DiffItem::Update { old: (_, old), new: (_, new) } = &item
                && (old.epoch, old.owner, old.start) == (new.epoch, new.owner, new.start)
            {
                continue;
            }
            delta.streams.insert(*key(&item));
        }
        for item in old.wals.diff(&new.wals) {
            if let DiffItem::Update { old: (_, old), new: (_, new) } = &item
                && discriminant(&old.state) == discriminant(&new.state)
                && (old.node, old.class, &old.location) == (new.node, new.class, &new.location)
            {
                continue;
            }
            delta.wals.insert(*key(&item));
        }
        delta
    }

    /// Whether nothing that is told here changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn key<'a, K, V>(item: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}

/// Follows the image. A slow follower gets fewer, larger deltas; nothing is queued for it.
pub struct Subscription {
    client: MetadataClient,
    applied: watch::Receiver<LogIndex>,
    seen: Arc<MetadataImage>,
}

impl Subscription {
    pub(crate) fn new(client: MetadataClient) -> Self {
        let applied = client.watch();
        let seen = client.image();
        Self { client, applied, seen }
    }

    /// The image that the last delta led to; at first the one of the subscription.
    #[must_use]
    pub fn image(&self) -> &Arc<MetadataImage> {
        &self.seen
    }

    /// Waits for a change that a [`Delta`] tells of, and returns it with the image it leads to. `None` when
    /// metadata has stopped.
    pub async fn next(&mut self) -> Option<(Delta, Arc<MetadataImage>)> {
        loop {
            let seen = self.seen.applied;
            self.applied.wait_for(|applied| *applied > seen).await.ok()?;
            let image = self.client.image();
            let delta = Delta::between(&self.seen, &image);
            self.seen = Arc::clone(&image);
            if !delta.is_empty() {
                return Some((delta, image));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{NodeEpoch, NodeId};

    use super::*;
    use crate::command::{Command, Registration};
    use crate::state;

    fn apply(image: &mut MetadataImage, command: Command) {
        let index = LogIndex(image.applied.0 + 1);
        let outcome = state::apply(image, index, 0, &command);
        assert!(!matches!(outcome, crate::Outcome::Refused(_)), "{outcome:?}");
    }

    #[test]
    fn names_what_changed_and_nothing_else() {
        let mut image = MetadataImage::default();
        let node = NodeId(1);
        let register = Command::RegisterNode(Registration::new(node, Uuid::from_u128(1)));
        apply(&mut image, register);
        let create = |id: u128| Command::CreateTopic {
            id: Uuid::from_u128(id),
            name: format!("t{id}").into(),
            partitions: vec![Arc::from([node].as_slice()); 2],
            configs: Vec::new(),
        };
        (1..=100).for_each(|id| apply(&mut image, create(id)));

        let before = image.clone();
        apply(&mut image, Command::DeleteTopic { id: Uuid::from_u128(5) });
        let stream = before.topics[&Uuid::from_u128(7)].partitions[1].stream;
        apply(&mut image, Command::OpenStreams { node, node_epoch: NodeEpoch(1), streams: vec![stream] });
        let delta = Delta::between(&before, &image);
        assert_eq!(delta.topics, BTreeSet::from([Uuid::from_u128(5)]));
        let deleted = before.topics[&Uuid::from_u128(5)].partitions.iter().map(|partition| partition.stream);
        assert_eq!(delta.streams, deleted.chain([stream]).collect());
        assert!(delta.nodes.is_empty() && delta.configs.is_empty() && !delta.features);
        assert!(Delta::between(&image, &image).is_empty());
    }
}
