//! A set of partitions, by topic.

use std::collections::{BTreeMap, BTreeSet};

use protocol::group_records::consumer::TopicPartitionsValue;
use uuid::Uuid;

/// Partitions by topic id; no topic without partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment(BTreeMap<Uuid, BTreeSet<i32>>);

impl Assignment {
    pub(crate) fn insert(&mut self, topic: Uuid, partition: i32) {
        self.0.entry(topic).or_default().insert(partition);
    }

    pub(crate) fn insert_all(&mut self, topic: Uuid, partitions: impl IntoIterator<Item = i32>) {
        let mut partitions = partitions.into_iter().peekable();
        if partitions.peek().is_some() {
            self.0.entry(topic).or_default().extend(partitions);
        }
    }

    pub(crate) fn contains(&self, topic: Uuid, partition: i32) -> bool {
        self.0.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of partitions.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// All partitions, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Uuid, i32)> {
        self.topics().flat_map(|(topic, partitions)| partitions.iter().map(move |partition| (topic, *partition)))
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (Uuid, &BTreeSet<i32>)> {
        self.0.iter().map(|(topic, partitions)| (*topic, partitions))
    }

    /// What is in neither of the others, which may not be both.
    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        self.iter().all(|(topic, partition)| !other.contains(topic, partition))
    }

    pub(crate) fn to_value(&self) -> Vec<TopicPartitionsValue> {
        let topic = |(topic_id, partitions): (Uuid, &BTreeSet<i32>)| TopicPartitionsValue {
            topic_id,
            partitions: partitions.iter().copied().collect(),
        };
        self.topics().map(topic).collect()
    }

    pub(crate) fn from_value(value: &[TopicPartitionsValue]) -> Self {
        let mut assignment = Self::default();
        for topic in value {
            assignment.insert_all(topic.topic_id, topic.partitions.iter().copied());
        }
        assignment
    }
}

impl FromIterator<(Uuid, i32)> for Assignment {
    fn from_iter<I: IntoIterator<Item = (Uuid, i32)>>(partitions: I) -> Self {
        let mut assignment = Self::default();
        partitions.into_iter().for_each(|(topic, partition)| assignment.insert(topic, partition));
        assignment
    }
}
