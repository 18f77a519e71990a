//! Each topic's partitions in ranges of neighbours, over the topic's subscribers in the order of their instance ids, where
//! they have some, and member ids. Members that subscribe to the same topics get the same indexes of each, which
//! co-partitioned joins need.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Subscriber, subscribers};
use crate::consumer::assignment::Assignment;

pub(super) fn assign(members: &[Subscriber<'_>], topics: &BTreeMap<Uuid, i32>) -> Vec<Assignment> {
    let mut targets = vec![Assignment::default(); members.len()];
    for (topic, mut subscribers) in subscribers(members) {
        let partitions = topics.get(&topic).copied().unwrap_or(0);
        let Ok(count) = i32::try_from(subscribers.len()) else { continue };
        // Static members first, by a name that outlives their member ids.
        subscribers.sort_by_key(|index| {
            let member = &members[*index];
            (member.instance_id.is_none(), member.instance_id, member.id)
        });
        let (each, one_more) = (partitions / count, partitions % count);
        let mut first = 0;
        for (rank, index) in (0_i32..).zip(subscribers) {
            let end = first + each + i32::from(rank < one_more);
            targets[index].insert_all(topic, first..end);
            first = end;
        }
    }
    targets
}
