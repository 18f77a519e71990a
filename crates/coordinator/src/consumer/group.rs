//! A consumer group as its records say. [`ConsumerGroup::replay`] alone changes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::member::{ConsumerMember, ConsumerMemberMetadata, CurrentAssignment};
use super::record_codec::ConsumerGroupRecord;

/// What a regular expression stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedRegex {
    /// Names that match.
    pub topics: BTreeSet<Arc<str>>,
    /// Version of metadata that was looked at.
    pub version: i64,
    /// When, wall clock.
    pub timestamp_ms: i64,
}

/// A group with its members. The last two fields follow from the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerGroup {
    /// Bumped by every change of subscriptions, members or topics.
    pub(crate) epoch: i32,
    /// Of the topics subscribed to, as of the epoch; 0 if not known.
    pub(crate) metadata_hash: i64,
    /// Group epoch that the members' targets are of.
    pub(crate) assignment_epoch: i32,
    /// By ascending id.
    pub(crate) members: BTreeMap<Arc<str>, ConsumerMember>,
    pub(crate) regexes: BTreeMap<Arc<str>, ResolvedRegex>,
    /// Member id of each static member.
    static_members: HashMap<Arc<str>, Arc<str>>,
    /// Epoch of the member that owns a partition or has yet to give it up.
    owners: HashMap<(Uuid, i32), i32>,
    /// Members by the name that they subscribe to.
    name_counts: BTreeMap<Arc<str>, usize>,
    /// Members by the regular expression that they subscribe to.
    regex_counts: BTreeMap<Arc<str>, usize>,
}

/// Kafka's names of what a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConsumerGroupState {
    /// No members.
    Empty,
    /// The targets are of an older epoch than the group.
    Assigning,
    /// Members have not all got what they should have.
    Reconciling,
    /// Everybody has what it should have.
    Stable,
}

impl ConsumerGroupState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

impl ConsumerGroup {
    /// Takes over one record of this group, other than the one that ends it.
    pub(crate) fn replay(&mut self, record: &ConsumerGroupRecord) {
        match record {
            ConsumerGroupRecord::Group { value: Some((epoch, hash)), .. } => {
                (self.epoch, self.metadata_hash) = (*epoch, *hash);
            }
            // The whole group goes; whoever keeps groups knows.
            ConsumerGroupRecord::Group { value: None, .. } => {}
            ConsumerGroupRecord::Member { member, value: Some(value), .. } => self.set_metadata(member, value),
            ConsumerGroupRecord::Member { member, value: None, .. } => self.remove(member),
            ConsumerGroupRecord::TargetEpoch { value, .. } => self.assignment_epoch = value.unwrap_or(0),
            ConsumerGroupRecord::Target { member, value, .. } => {
                if value.is_some() || self.members.contains_key(member) {
                    self.entry(member).target = value.clone().unwrap_or_default();
                }
            }
            ConsumerGroupRecord::Current { member, value, .. } => {
                if value.is_some() || self.members.contains_key(member) {
                    self.set_current(member, value.clone().unwrap_or_default());
                }
            }
            ConsumerGroupRecord::Regex { regex, value: Some(value), .. } => {
                self.regexes.insert(Arc::clone(regex), value.clone());
            }
            ConsumerGroupRecord::Regex { regex, value: None, .. } => {
                self.regexes.remove(regex);
            }
        }
    }

    /// Records from which the group follows, of group `id`.
    pub(crate) fn records(&self, id: &Arc<str>) -> impl Iterator<Item = ConsumerGroupRecord> {
        let members = self.members.iter().flat_map(move |(member_id, member)| {
            let ids = || (Arc::clone(id), Arc::clone(member_id));
            let ((group, member_id), value) = (ids(), Some(member.metadata.clone()));
            let metadata = ConsumerGroupRecord::Member { group, member: member_id, value };
            let ((group, member_id), value) = (ids(), Some(member.target.clone()));
            let target = ConsumerGroupRecord::Target { group, member: member_id, value };
            let ((group, member_id), value) = (ids(), Some(member.current.clone()));
            let current = ConsumerGroupRecord::Current { group, member: member_id, value };
            [metadata, target, current]
        });
        let regexes = self.regexes.iter().map(|(regex, resolved)| ConsumerGroupRecord::Regex {
            group: Arc::clone(id),
            regex: Arc::clone(regex),
            value: Some(resolved.clone()),
        });
        let epochs = [
            ConsumerGroupRecord::Group { group: Arc::clone(id), value: Some((self.epoch, self.metadata_hash)) },
            ConsumerGroupRecord::TargetEpoch { group: Arc::clone(id), value: Some(self.assignment_epoch) },
        ];
        members.chain(regexes).chain(epochs)
    }

    fn entry(&mut self, id: &Arc<str>) -> &mut ConsumerMember {
        self.members.entry(Arc::clone(id)).or_default()
    }

    fn set_metadata(&mut self, id: &Arc<str>, metadata: &ConsumerMemberMetadata) {
        let before = std::mem::replace(&mut self.entry(id).metadata, metadata.clone());
        self.forget_metadata(id, &before);
        for name in &metadata.topic_names {
            *self.name_counts.entry(Arc::clone(name)).or_default() += 1;
        }
        if !metadata.topic_regex.is_empty() {
            *self.regex_counts.entry(Arc::clone(&metadata.topic_regex)).or_default() += 1;
        }
        if let Some(instance) = &metadata.instance_id {
            self.static_members.insert(Arc::clone(instance), Arc::clone(id));
        }
    }

    fn forget_metadata(&mut self, id: &str, metadata: &ConsumerMemberMetadata) {
        metadata.topic_names.iter().for_each(|name| decrement(&mut self.name_counts, name));
        if !metadata.topic_regex.is_empty() {
            decrement(&mut self.regex_counts, &metadata.topic_regex);
        }
        if let Some(instance) = &metadata.instance_id
            && self.static_members.get(instance).is_some_and(|owner| **owner == *id)
        {
            self.static_members.remove(instance);
        }
    }

    fn set_current(&mut self, id: &Arc<str>, current: CurrentAssignment) {
        let owned = |current: &CurrentAssignment| {
            let all = current.assigned.iter().chain(current.pending_revocation.iter());
            all.collect::<Vec<_>>()
        };
        let (epoch, after) = (current.epoch, owned(&current));
        let before = owned(&std::mem::replace(&mut self.entry(id).current, current));
        for partition in &before {
            self.owners.remove(partition);
        }
        self.owners.extend(after.into_iter().map(|partition| (partition, epoch)));
    }

    fn remove(&mut self, id: &Arc<str>) {
        if !self.members.contains_key(id) {
            return;
        }
        self.set_current(id, CurrentAssignment::default());
        if let Some(member) = self.members.remove(id) {
            self.forget_metadata(id, &member.metadata);
        }
    }

    /// Epoch of the member that owns the partition, if one does.
    pub(crate) fn owner_epoch(&self, topic: Uuid, partition: i32) -> Option<i32> {
        self.owners.get(&(topic, partition)).copied()
    }

    /// The static member of that instance id, and its member id.
    pub(crate) fn static_member(&self, instance: &str) -> Option<(&Arc<str>, &ConsumerMember)> {
        self.members.get_key_value(self.static_members.get(instance)?)
    }

    /// Regular expressions that members subscribe to.
    pub(crate) fn subscribed_regexes(&self) -> &BTreeMap<Arc<str>, usize> {
        &self.regex_counts
    }

    /// Every topic that a member subscribes to, by name or by regular expression.
    pub(crate) fn subscribed_topics(&self) -> BTreeSet<Arc<str>> {
        let by_regex = self.regexes.iter().filter(|(regex, _)| self.regex_counts.contains_key(*regex));
        let matched = by_regex.flat_map(|(_, resolved)| &resolved.topics);
        self.name_counts.keys().chain(matched).cloned().collect()
    }

    /// Whether a member subscribes to the topic.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        let matches = |(regex, resolved): (&Arc<str>, &ResolvedRegex)| {
            self.regex_counts.contains_key(regex) && resolved.topics.contains(topic)
        };
        self.name_counts.contains_key(topic) || self.regexes.iter().any(matches)
    }

    /// Topics that one member subscribes to.
    pub(crate) fn topics_of<'a>(
        &'a self,
        metadata: &'a ConsumerMemberMetadata,
    ) -> impl Iterator<Item = &'a Arc<str>> + 'a {
        let resolved = self.regexes.get(&metadata.topic_regex);
        let matched = resolved.into_iter().flat_map(|resolved| &resolved.topics);
        metadata.topic_names.iter().chain(matched.filter(|topic| !metadata.topic_names.contains(*topic)))
    }

    pub(crate) fn state(&self) -> ConsumerGroupState {
        if self.members.is_empty() {
            ConsumerGroupState::Empty
        } else if self.epoch > self.assignment_epoch {
            ConsumerGroupState::Assigning
        } else if self.members.values().all(|member| member.is_reconciled_to(self.assignment_epoch)) {
            ConsumerGroupState::Stable
        } else {
            ConsumerGroupState::Reconciling
        }
    }

    /// The assignor that most members ask for; `None` if nobody does.
    pub(crate) fn preferred_assignor(&self) -> Option<&Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.metadata.server_assignor.as_ref()) {
            *votes.entry(assignor).or_default() += 1;
        }
        votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(assignor, _)| assignor)
    }

    /// What must hold after every change.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check(&self) {
        assert!(self.assignment_epoch <= self.epoch, "targets are of no later epoch than the group");
        let mut owned = 0;
        for (id, member) in &self.members {
            let current = &member.current;
            assert!(current.epoch <= self.assignment_epoch, "member {id} is ahead of the assignment");
            assert!(current.assigned.is_disjoint(&current.pending_revocation), "one-owner: {id} keeps or gives up");
            assert_eq!(
                current.state == super::MemberState::UnrevokedPartitions,
                !current.pending_revocation.is_empty(),
                "member {id} waits for itself if it has something to give up"
            );
            for (topic, partition) in current.assigned.iter().chain(current.pending_revocation.iter()) {
                owned += 1;
                assert_eq!(self.owner_epoch(topic, partition), Some(current.epoch), "one-owner: {topic}-{partition}");
            }
        }
        assert_eq!(owned, self.owners.len(), "one-owner: each partition has one");
    }
}

fn decrement(counts: &mut BTreeMap<Arc<str>, usize>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
