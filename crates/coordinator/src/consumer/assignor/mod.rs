//! Server-side assignors: who should have which partitions. Pure, and deterministic: the same input gives the same
//! output on every coordinator.

mod range;
mod uniform;

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::assignment::Assignment;

/// The assignors that a group can choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Even over all topics, and moves as little as it can.
    Uniform,
    /// Topic by topic in ranges, so that partitions of one index of several topics go to one member.
    Range,
}

impl Assignor {
    /// All, in the order of `group.consumer.assignors`' default: the first is the default.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Range];

    /// The name by which members ask for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The assignor of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }

    /// The targets of all members, in the order of `members`.
    pub(super) fn assign(self, members: &[Subscriber<'_>], topics: &BTreeMap<Uuid, i32>) -> Vec<Assignment> {
        match self {
            Self::Uniform => uniform::assign(members, topics),
            Self::Range => range::assign(members, topics),
        }
    }
}

/// A member, as an assignor sees it.
pub(super) struct Subscriber<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) instance_id: Option<&'a Arc<str>>,
    /// Ids of the topics that it subscribes to and that exist, ascending, each once.
    pub(super) topics: Vec<Uuid>,
    /// What it should have had so far.
    pub(super) target: &'a Assignment,
}

impl Subscriber<'_> {
    fn subscribes_to(&self, topic: Uuid) -> bool {
        self.topics.binary_search(&topic).is_ok()
    }
}

/// Members by topic, as indexes.
fn subscribers(members: &[Subscriber<'_>]) -> BTreeMap<Uuid, Vec<usize>> {
    let mut by_topic: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        member.topics.iter().for_each(|topic| by_topic.entry(*topic).or_default().push(index));
    }
    by_topic
}

#[cfg(test)]
mod tests;
