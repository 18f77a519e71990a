//! Expiration: offsets nobody needs any more, and groups that nothing is left of.

use std::sync::Arc;

use crate::group::{ClassicGroup, GroupState};
use crate::record::{CommittedOffset, CoordinatorRecord};
use crate::shard::{GroupShard, Now};

/// From when an offset's retention counts.
#[derive(Clone, Copy)]
enum Since {
    /// Since its commit.
    Commit,
    /// Since the group became empty, at this wall time.
    Empty(i64),
    /// It does not: members need it.
    Never,
}

impl GroupShard {
    /// Writes tombstones for expired offsets, and for empty groups without offsets.
    pub(crate) fn expire_offsets(&mut self, now: Now, records: &mut Vec<CoordinatorRecord>) {
        let ids: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.groups.get(&id) else { continue };
            let is_needed = |topic: &str| group.is_subscribed_to(topic);
            let all_expired = self.expire_offsets_of(&id, since(group), &is_needed, now, records);
            if all_expired && group.is(GroupState::Empty) {
                self.drop_group(&id, records);
            }
        }
        let ids: Vec<Arc<str>> = self.persisted.consumer_groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.persisted.consumer_groups.get(&id) else { continue };
            let is_needed = |topic: &str| group.is_subscribed_to(topic);
            let all_expired = self.expire_offsets_of(&id, Since::Commit, &is_needed, now, records);
            if all_expired && group.members.is_empty() {
                self.drop_consumer_group(&id, records);
            }
        }
    }

    /// Whether no offset of the group is left.
    fn expire_offsets_of(
        &self,
        id: &Arc<str>,
        since: Since,
        is_needed: &dyn Fn(&str) -> bool,
        now: Now,
        records: &mut Vec<CoordinatorRecord>,
    ) -> bool {
        if self.persisted.has_staged(id) {
            // What a transaction is about to commit belongs to the group.
            return false;
        }
        let Some(topics) = self.persisted.offsets.get(id) else { return true };
        let mut all_expired = true;
        for (topic, partitions) in topics {
            let needed = is_needed(topic);
            for (partition, committed) in partitions {
                if !needed && is_expired(committed, since, now.wall_ms, self.config.offsets_retention_ms) {
                    records.push(CoordinatorRecord::offset_tombstone(id, topic, *partition));
                } else {
                    all_expired = false;
                }
            }
        }
        all_expired
    }
}

fn since(group: &ClassicGroup) -> Since {
    match (&group.protocol_type, group.state()) {
        (None, _) => Since::Commit,
        (Some(_), GroupState::Empty) if group.state_timestamp_ms >= 0 => Since::Empty(group.state_timestamp_ms),
        (Some(_), GroupState::Empty) => Since::Commit,
        (Some(_), GroupState::Stable) if group.uses_consumer_protocol() && group.knows_subscription() => Since::Commit,
        (Some(_), _) => Since::Never,
    }
}

fn is_expired(committed: &CommittedOffset, since: Since, now_ms: i64, retention_ms: i64) -> bool {
    let base_ms = match since {
        Since::Never => return false,
        _ if committed.expire_timestamp_ms >= 0 => return now_ms >= committed.expire_timestamp_ms,
        Since::Commit => committed.commit_timestamp_ms,
        Since::Empty(since_ms) => since_ms,
    };
    now_ms.saturating_sub(base_ms) >= retention_ms
}
