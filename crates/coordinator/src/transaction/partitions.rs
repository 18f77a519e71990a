//! The partitions of a transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes that a topic takes in a record beside its name: lengths and tags.
const TOPIC_OVERHEAD_BYTES: usize = 9;
/// Bytes of a partition index in a record.
const PARTITION_BYTES: usize = 4;

/// A set of partitions, by topic. Iterates in ascending order; no topic is without partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionSet {
    topics: BTreeMap<Arc<str>, BTreeSet<i32>>,
}

impl PartitionSet {
    /// Adds a partition; one that is there already changes nothing.
    pub fn insert(&mut self, topic: &Arc<str>, partition: i32) {
        match self.topics.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition);
            }
            None => {
                self.topics.insert(Arc::clone(topic), BTreeSet::from([partition]));
            }
        }
    }

    /// Removes a partition, if it is there.
    pub fn remove(&mut self, topic: &str, partition: i32) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        partitions.remove(&partition);
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Whether a partition is in the set.
    #[must_use]
    pub fn contains(&self, topic: &str, partition: i32) -> bool {
        self.topics.get(topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    /// Whether every partition of `others` is in the set.
    #[must_use]
    pub fn contains_all(&self, others: &Self) -> bool {
        others.iter().all(|(topic, partition)| self.contains(topic, partition))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Number of partitions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.values().map(BTreeSet::len).sum()
    }

    /// The partitions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32)> {
        self.topics().flat_map(|(topic, partitions)| partitions.iter().map(move |partition| (topic, *partition)))
    }

    /// The partitions of each topic, ascending.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &BTreeSet<i32>)> {
        self.topics.iter()
    }

    /// The partitions as a list.
    #[must_use]
    pub fn to_list(&self) -> Vec<(Arc<str>, i32)> {
        self.iter().map(|(topic, partition)| (Arc::clone(topic), partition)).collect()
    }

    /// Bytes they take in a record, at most.
    pub(crate) fn record_bytes_max(&self) -> usize {
        let bytes = |(topic, partitions): (&Arc<str>, &BTreeSet<i32>)| {
            topic.len() + TOPIC_OVERHEAD_BYTES + partitions.len() * PARTITION_BYTES
        };
        self.topics().map(bytes).sum()
    }
}

impl FromIterator<(Arc<str>, i32)> for PartitionSet {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, i32)>>(partitions: T) -> Self {
        let mut set = Self::default();
        partitions.into_iter().for_each(|(topic, partition)| set.insert(&topic, partition));
        set
    }
}
