//! All partitions of all topics evenly over the members that subscribe to them, moving as few as evenness allows.
//!
//! First everybody keeps what it should have had before, up to its share; then what nobody has goes to whoever has
//! least; then partitions move from members to others that subscribe to the topic and have at least two fewer, until none can.
//! Where all members subscribe to the same topics the last step finds nothing to do.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Subscriber, subscribers};
use crate::consumer::assignment::Assignment;

pub(super) fn assign(members: &[Subscriber<'_>], topics: &BTreeMap<Uuid, i32>) -> Vec<Assignment> {
    let subscribers = subscribers(members);
    let mut spread = Spread { counts: vec![0; members.len()], owners: BTreeMap::new() };
    spread.keep(members, topics, &quotas(members, &subscribers, topics));
    spread.give_out(&subscribers, topics);
    if !is_homogeneous(members) {
        spread.balance(&subscribers);
    }
    let mut targets = vec![Assignment::default(); members.len()];
    for ((topic, partition), owner) in spread.owners {
        targets[owner].insert(topic, partition);
    }
    targets
}

fn is_homogeneous(members: &[Subscriber<'_>]) -> bool {
    members.windows(2).all(|pair| pair[0].topics == pair[1].topics)
}

/// How many partitions each member may keep. Where subscriptions differ there is no such number: balancing comes after.
fn quotas(
    members: &[Subscriber<'_>],
    subscribers: &BTreeMap<Uuid, Vec<usize>>,
    topics: &BTreeMap<Uuid, i32>,
) -> Vec<usize> {
    if !is_homogeneous(members) {
        return vec![usize::MAX; members.len()];
    }
    let count = |topic| topics.get(topic).map_or(0, |count| usize::try_from(*count).unwrap_or(0));
    let total: usize = subscribers.keys().map(count).sum();
    let (each, mut one_more) = (total / members.len().max(1), total % members.len().max(1));
    // Who has more than its share already keeps one more, so that it need not move.
    let mut quotas = vec![each; members.len()];
    let mut by_size: Vec<usize> = (0..members.len()).collect();
    by_size.sort_by_key(|index| std::cmp::Reverse(members[*index].target.len()));
    for index in by_size {
        if one_more == 0 {
            break;
        }
        quotas[index] += 1;
        one_more -= 1;
    }
    quotas
}

struct Spread {
    /// Partitions of each member.
    counts: Vec<usize>,
    owners: BTreeMap<(Uuid, i32), usize>,
}

impl Spread {
    fn keep(&mut self, members: &[Subscriber<'_>], topics: &BTreeMap<Uuid, i32>, quotas: &[usize]) {
        for (index, member) in members.iter().enumerate() {
            for (topic, partition) in member.target.iter() {
                let exists = topics.get(&topic).is_some_and(|count| (0..*count).contains(&partition));
                let free = !self.owners.contains_key(&(topic, partition));
                if exists && free && member.subscribes_to(topic) && self.counts[index] < quotas[index] {
                    self.give((topic, partition), index);
                }
            }
        }
    }

    fn give(&mut self, partition: (Uuid, i32), to: usize) {
        self.counts[to] += 1;
        if let Some(from) = self.owners.insert(partition, to) {
            self.counts[from] -= 1;
        }
    }

    fn give_out(&mut self, subscribers: &BTreeMap<Uuid, Vec<usize>>, topics: &BTreeMap<Uuid, i32>) {
        for (topic, subscribers) in subscribers {
            let mut least: BTreeSet<(usize, usize)> =
                subscribers.iter().map(|index| (self.counts[*index], *index)).collect();
            for partition in 0..topics.get(topic).copied().unwrap_or(0) {
                if self.owners.contains_key(&(*topic, partition)) {
                    continue;
                }
                let Some((count, index)) = least.pop_first() else { break };
                self.give((*topic, partition), index);
                least.insert((count + 1, index));
            }
        }
    }

    /// Ends: each move takes the sum of the squared counts down.
    fn balance(&mut self, subscribers: &BTreeMap<Uuid, Vec<usize>>) {
        loop {
            let mut moved = false;
            for (topic, subscribers) in subscribers {
                moved |= self.balance_topic(*topic, subscribers);
            }
            if !moved {
                return;
            }
        }
    }

    fn balance_topic(&mut self, topic: Uuid, subscribers: &[usize]) -> bool {
        let of_topic: Vec<(i32, usize)> = self
            .owners
            .range((topic, i32::MIN)..=(topic, i32::MAX))
            .map(|((_, index), owner)| (*index, *owner))
            .collect();
        let mut least: BTreeSet<(usize, usize)> =
            subscribers.iter().map(|index| (self.counts[*index], *index)).collect();
        let mut moved = false;
        for (partition, owner) in of_topic {
            let Some((count, to)) = least.first().copied() else { return moved };
            if self.counts[owner] < count + 2 {
                continue;
            }
            for index in [owner, to] {
                least.remove(&(self.counts[index], index));
            }
            self.give((topic, partition), to);
            least.extend([owner, to].map(|index| (self.counts[index], index)));
            moved = true;
        }
        moved
    }
}
