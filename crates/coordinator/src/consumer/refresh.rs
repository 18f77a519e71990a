//! Following metadata: what regular expressions stand for, and whether the topics that a group subscribes to are still
//! what its epoch was made for. Looked at in heartbeats, and only where something can have changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::group::ResolvedRegex;
use super::record_codec::ConsumerGroupRecord;
use super::topics::{Topics, metadata_hash};
use crate::pattern::compile;
use crate::record::CoordinatorRecord;
use crate::shard::{GroupShard, Now};

/// Expressions of a group are resolved again at most so often, however often topics change.
const REGEX_INTERVAL_MS: i64 = 10_000;

/// What a group was last compared with. Soft: after a crash everything is looked at once more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refresh {
    /// Of [`Topics::version`].
    topics_version: u64,
    /// When expressions were resolved, boot clock.
    regexes_at_ms: i64,
}

impl GroupShard {
    /// Replays a record of a consumer group at once, so that what follows sees it, and has it appended. If that fails the
    /// shard is dropped; see the crate's contract.
    pub(super) fn emit(&mut self, record: ConsumerGroupRecord, records: &mut Vec<CoordinatorRecord>) {
        let record = CoordinatorRecord::Consumer(record);
        self.persisted.replay(&record);
        records.push(record);
    }

    /// Resolves expressions and looks at topics, if they or the subscriptions have changed; bumps the group's epoch if
    /// `must_bump`, or if that brought anything new.
    pub(super) fn refresh(
        &mut self,
        id: &Arc<str>,
        topics: &dyn Topics,
        now: Now,
        must_bump: bool,
        records: &mut Vec<CoordinatorRecord>,
    ) {
        let seen = self.refreshes.get(id).copied();
        let topics_changed = seen.is_none_or(|seen| seen.topics_version != topics.version());
        if !must_bump && !topics_changed {
            return;
        }
        let due = seen.is_none_or(|seen| now.boot_ms >= seen.regexes_at_ms.saturating_add(REGEX_INTERVAL_MS));
        let resolved = self.resolve_regexes(id, topics, now, topics_changed && due, records);
        let postponed = topics_changed && !due && self.has_regexes(id);
        let refresh = Refresh {
            topics_version: match seen {
                Some(seen) if postponed => seen.topics_version,
                _ => topics.version(),
            },
            regexes_at_ms: if due { now.boot_ms } else { seen.map_or(now.boot_ms, |seen| seen.regexes_at_ms) },
        };
        self.refreshes.insert(Arc::clone(id), refresh);
        let Some(group) = self.persisted.consumer_groups.get(id) else { return };
        let hash = metadata_hash(&group.subscribed_topics(), topics);
        if must_bump || resolved || hash != group.metadata_hash {
            let value = Some((group.epoch.saturating_add(1), hash));
            self.emit(ConsumerGroupRecord::Group { group: Arc::clone(id), value }, records);
        }
    }

    fn has_regexes(&self, id: &str) -> bool {
        self.persisted.consumer_groups.get(id).is_some_and(|group| !group.subscribed_regexes().is_empty())
    }

    /// Resolves expressions that are not, or `all`; whether any stands for something else than before.
    fn resolve_regexes(
        &mut self,
        id: &Arc<str>,
        topics: &dyn Topics,
        now: Now,
        all: bool,
        records: &mut Vec<CoordinatorRecord>,
    ) -> bool {
        let Some(group) = self.persisted.consumer_groups.get(id) else { return false };
        let open = group.subscribed_regexes().keys().filter(|regex| all || !group.regexes.contains_key(*regex));
        // Expressions were compiled when they came; one that is not any more stands for nothing.
        let programs = open.filter_map(|regex| Some((Arc::clone(regex), compile(regex).ok()?, BTreeSet::new())));
        let mut programs: Vec<(Arc<str>, regex::Regex, BTreeSet<Arc<str>>)> = programs.collect();
        if programs.is_empty() {
            return false;
        }
        topics.for_each(&mut |name| {
            for (_, program, matched) in &mut programs {
                if program.is_match(name) {
                    matched.insert(Arc::clone(name));
                }
            }
        });
        let version = topics.version().cast_signed();
        let mut any_changed = false;
        for (regex, _, matched) in programs {
            let known = self.persisted.consumer_groups.get(id).and_then(|group| group.regexes.get(&regex));
            if known.is_some_and(|known| known.topics == matched) {
                continue;
            }
            any_changed = true;
            let value = Some(ResolvedRegex { topics: matched, version, timestamp_ms: now.wall_ms });
            self.emit(ConsumerGroupRecord::Regex { group: Arc::clone(id), regex, value }, records);
        }
        any_changed
    }

    /// Removes what is stored of expressions that nobody subscribes to any more.
    pub(super) fn forget_regexes(&mut self, id: &Arc<str>, records: &mut Vec<CoordinatorRecord>) {
        let Some(group) = self.persisted.consumer_groups.get(id) else { return };
        let unused = group.regexes.keys().filter(|regex| !group.subscribed_regexes().contains_key(*regex));
        for regex in unused.cloned().collect::<Vec<_>>() {
            self.emit(ConsumerGroupRecord::Regex { group: Arc::clone(id), regex, value: None }, records);
        }
    }
}
