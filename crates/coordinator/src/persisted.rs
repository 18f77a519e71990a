//! What the records of one partition say. Changed by [`Persisted::replay`] alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::consumer::{ConsumerGroup, ConsumerGroupRecord};
use crate::record::{CommittedOffset, CoordinatorRecord, GroupMetadata};
use crate::txn_offset_commit::StagedKey;

/// Offsets of one group: by topic, by partition.
pub(crate) type GroupOffsets = BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>;

/// The state that follows from records, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persisted {
    /// Classic groups.
    pub(crate) groups: BTreeMap<Arc<str>, GroupMetadata>,
    pub(crate) consumer_groups: BTreeMap<Arc<str>, ConsumerGroup>,
    pub(crate) offsets: BTreeMap<Arc<str>, GroupOffsets>,
    /// Offsets of open transactions, by producer id.
    pub(crate) staged: BTreeMap<i64, BTreeMap<StagedKey, CommittedOffset>>,
}

impl Persisted {
    /// Applies one record. Tombstones of what does not exist change nothing.
    pub fn replay(&mut self, record: &CoordinatorRecord) {
        match record {
            CoordinatorRecord::Group { group, value: Some(value) } => {
                self.groups.insert(Arc::clone(group), value.clone());
            }
            CoordinatorRecord::Group { group, value: None } => {
                self.groups.remove(group);
            }
            CoordinatorRecord::Consumer(ConsumerGroupRecord::Group { group, value: None }) => {
                self.consumer_groups.remove(group);
            }
            CoordinatorRecord::Consumer(record) => entry(&mut self.consumer_groups, record.group()).replay(record),
            CoordinatorRecord::Offset { group, topic, partition, value: Some(value) } => {
                self.forget_staged(group, topic, *partition);
                let topics = entry(&mut self.offsets, group);
                entry(topics, topic).insert(*partition, value.clone());
            }
            CoordinatorRecord::StagedOffset { producer, group, topic, partition, value } => {
                let key = (Arc::clone(group), Arc::clone(topic), *partition);
                self.staged.entry(producer.0).or_default().insert(key, value.clone());
            }
            CoordinatorRecord::Offset { group, topic, partition, value: None } => {
                self.forget_staged(group, topic, *partition);
                self.remove_offset(group, topic, *partition);
            }
        }
    }

    /// The transaction of a producer has ended: its offsets count from now on, or never.
    pub fn end_transaction(&mut self, producer_id: i64, commit: bool) {
        let staged = self.staged.remove(&producer_id).unwrap_or_default();
        for ((group, topic, partition), value) in staged.into_iter().filter(|_| commit) {
            entry(entry(&mut self.offsets, &group), &topic).insert(partition, value);
        }
    }

    /// A later commit, or the end of a topic, has the last word.
    fn forget_staged(&mut self, group: &Arc<str>, topic: &Arc<str>, partition: i32) {
        if self.staged.is_empty() {
            return;
        }
        let key = (Arc::clone(group), Arc::clone(topic), partition);
        self.staged.retain(|_, staged| {
            staged.remove(&key);
            !staged.is_empty()
        });
    }

    /// Whether an open transaction may change the offset.
    pub(crate) fn is_staged(&self, group: &str, topic: &str, partition: i32) -> bool {
        let of = |(key, _): (&StagedKey, &CommittedOffset)| (&*key.0, &*key.1, key.2) == (group, topic, partition);
        self.staged.values().any(|staged| staged.iter().any(of))
    }

    /// Whether an open transaction may change offsets of the group.
    pub(crate) fn has_staged(&self, group: &str) -> bool {
        self.staged.values().any(|staged| staged.keys().any(|key| *key.0 == *group))
    }

    /// A committed offset.
    #[must_use]
    pub fn offset(&self, group: &str, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.offsets.get(group)?.get(topic)?.get(&partition)
    }

    /// What is persisted of a group.
    #[must_use]
    pub fn group(&self, group: &str) -> Option<&GroupMetadata> {
        self.groups.get(group)
    }

    /// Number of groups that have records of their own and number of committed offsets.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let offsets = self.offsets.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
        (self.groups.len() + self.consumer_groups.len(), offsets)
    }

    /// Names of all topics with committed offsets, once for each group that has some.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.offsets.values().flat_map(BTreeMap::keys)
    }

    /// Ids of every group that is no consumer group, with members or only with offsets.
    pub(crate) fn classic_group_ids(&self) -> impl Iterator<Item = &Arc<str>> {
        let has_record =
            |group: &&Arc<str>| self.groups.contains_key(*group) || self.consumer_groups.contains_key(*group);
        let only_offsets = self.offsets.keys().filter(move |group| !has_record(group));
        self.groups.keys().chain(only_offsets)
    }

    fn remove_offset(&mut self, group: &str, topic: &str, partition: i32) {
        let Some(topics) = self.offsets.get_mut(group) else { return };
        let Some(partitions) = topics.get_mut(topic) else { return };
        partitions.remove(&partition);
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.offsets.remove(group);
        }
    }
}

/// The value under `key`, without cloning the key where it exists.
fn entry<'a, V: Default>(map: &'a mut BTreeMap<Arc<str>, V>, key: &Arc<str>) -> &'a mut V {
    if !map.contains_key(key) {
        map.insert(Arc::clone(key), V::default());
    }
    map.get_mut(key).expect("inserted above")
}
