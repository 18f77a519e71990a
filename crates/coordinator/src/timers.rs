//! Deadlines of one shard. Times are milliseconds of the monotonic clock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// What a deadline is for; scheduling the same again moves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Timer {
    /// A member's session, or a pending member's chance to join.
    Heartbeat { group: Arc<str>, member: Arc<str> },
    /// The join phase of a rebalance.
    Join { group: Arc<str> },
    /// The sync phase of a rebalance.
    Sync { group: Arc<str> },
    /// The session of a consumer group's member.
    ConsumerSession { group: Arc<str>, member: Arc<str> },
    /// The time that a consumer group's member has to give partitions up.
    ConsumerRevocation { group: Arc<str>, member: Arc<str> },
    /// The next look for expired offsets.
    Expiration,
}

impl Timer {
    pub(crate) fn session(group: &Arc<str>, member: &Arc<str>) -> Self {
        Self::ConsumerSession { group: Arc::clone(group), member: Arc::clone(member) }
    }

    pub(crate) fn revocation(group: &Arc<str>, member: &Arc<str>) -> Self {
        Self::ConsumerRevocation { group: Arc::clone(group), member: Arc::clone(member) }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_deadline: BTreeSet<(i64, Timer)>,
    deadlines: HashMap<Timer, i64>,
}

impl Timers {
    pub(crate) fn schedule(&mut self, timer: Timer, deadline_ms: i64) {
        match self.deadlines.insert(timer.clone(), deadline_ms) {
            Some(before) if before == deadline_ms => {}
            Some(before) => {
                let key = (before, timer);
                self.by_deadline.remove(&key);
                self.by_deadline.insert((deadline_ms, key.1));
            }
            None => {
                self.by_deadline.insert((deadline_ms, timer));
            }
        }
    }

    pub(crate) fn cancel(&mut self, timer: Timer) {
        if let Some(deadline) = self.deadlines.remove(&timer) {
            self.by_deadline.remove(&(deadline, timer));
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<i64> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Takes the earliest timer that is due.
    pub(crate) fn pop_due(&mut self, now_ms: i64) -> Option<Timer> {
        if self.next_deadline()? > now_ms {
            return None;
        }
        let (_, timer) = self.by_deadline.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }

    #[cfg(test)]
    pub(crate) fn is_scheduled(&self, timer: &Timer) -> bool {
        self.deadlines.contains_key(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(group: &str) -> Timer {
        Timer::Join { group: group.into() }
    }

    #[test]
    fn fires_in_order_of_deadlines_and_only_when_due() {
        let mut timers = Timers::default();
        timers.schedule(join("b"), 20);
        timers.schedule(join("a"), 10);
        assert_eq!(timers.next_deadline(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(20), Some(join("a")));
        assert_eq!(timers.pop_due(20), Some(join("b")));
        assert_eq!(timers.pop_due(i64::MAX), None);
    }

    #[test]
    fn scheduling_again_moves_and_cancelling_removes() {
        let mut timers = Timers::default();
        timers.schedule(join("a"), 10);
        timers.schedule(join("a"), 30);
        assert_eq!(timers.pop_due(20), None);
        assert_eq!(timers.next_deadline(), Some(30));
        timers.cancel(join("a"));
        assert_eq!(timers.next_deadline(), None);
        assert!(!timers.is_scheduled(&join("a")));
    }
}
