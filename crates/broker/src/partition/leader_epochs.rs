//! The leader epochs under which a partition's records were written, and where each began.

use smallvec::SmallVec;

/// An epoch that nobody ever had.
pub(crate) const NO_EPOCH: i32 = -1;

/// An epoch and the offset of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochStart {
    pub(crate) epoch: i32,
    pub(crate) start: i64,
}

/// Epochs in ascending order, starts strictly ascending as well: an epoch without a record leaves no entry
/// once a later one begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaderEpochs {
    entries: SmallVec<[EpochStart; 1]>,
}

impl LeaderEpochs {
    pub(crate) fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// Epoch `epoch` begins at `start`, which is the log's end. An epoch that is not above the newest changes
    /// nothing.
    pub(crate) fn assign(&mut self, epoch: i32, start: i64) {
        if self.entries.last().is_some_and(|last| last.epoch >= epoch) {
            return;
        }
        while self.entries.last().is_some_and(|last| last.start >= start) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start });
    }

    /// Forgets epochs that ended below `log_start`; the one that contains it starts there now.
    pub(crate) fn truncate_front(&mut self, log_start: i64) {
        let below = self.entries.partition_point(|entry| entry.start <= log_start);
        if below == 0 {
            return;
        }
        self.entries.drain(..below - 1);
        self.entries[0].start = self.entries[0].start.max(log_start);
    }

    /// The epoch of the record at `offset`, [`NO_EPOCH`] below the first.
    pub(crate) fn epoch_at(&self, offset: i64) -> i32 {
        let until = self.entries.partition_point(|entry| entry.start <= offset);
        until.checked_sub(1).map_or(NO_EPOCH, |index| self.entries[index].epoch)
    }

    /// The newest epoch not above `requested` and its end (exclusive), as OffsetForLeaderEpoch answers; `None`
    /// for an epoch above all that is known.
    pub(crate) fn end_of(&self, requested: i32, log_end: i64) -> Option<(i32, i64)> {
        if requested == NO_EPOCH {
            return None;
        }
        if self.entries.last().is_some_and(|last| last.epoch == requested) {
            return Some((requested, log_end));
        }
        let above = self.entries.partition_point(|entry| entry.epoch <= requested);
        let next = self.entries.get(above)?;
        let floor = above.checked_sub(1).map_or(requested, |index| self.entries[index].epoch);
        Some((floor, next.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        entries.iter().for_each(|(epoch, start)| epochs.assign(*epoch, *start));
        epochs
    }

    #[test]
    fn an_epoch_without_records_leaves_no_entry() {
        let starts = epochs(&[(0, 0), (1, 10), (2, 10), (5, 20)]);
        assert_eq!(starts.entries(), epochs(&[(0, 0), (2, 10), (5, 20)]).entries());
        let mut replayed = starts.clone();
        replayed.assign(5, 25);
        replayed.assign(3, 30);
        assert_eq!(replayed, starts, "an old epoch never comes back");
    }

    #[test]
    fn ends_follow_kafka() {
        let starts = epochs(&[(2, 10), (4, 20), (7, 30)]);
        assert_eq!(starts.end_of(7, 44), Some((7, 44)));
        assert_eq!(starts.end_of(8, 44), None, "above all known");
        assert_eq!(starts.end_of(5, 44), Some((4, 30)), "a gap has its floor's epoch");
        assert_eq!(starts.end_of(4, 44), Some((4, 30)));
        assert_eq!(starts.end_of(1, 44), Some((1, 10)), "below the first");
        assert_eq!(starts.end_of(NO_EPOCH, 44), None);
        assert_eq!(LeaderEpochs::default().end_of(0, 0), None);
    }

    #[test]
    fn offsets_find_their_epoch_also_after_trimming() {
        let mut starts = epochs(&[(2, 10), (4, 20), (7, 30)]);
        assert_eq!([9, 10, 19, 20, 99].map(|offset| starts.epoch_at(offset)), [NO_EPOCH, 2, 2, 4, 7]);
        starts.truncate_front(25);
        assert_eq!(starts.entries(), epochs(&[(4, 25), (7, 30)]).entries());
        starts.truncate_front(5);
        assert_eq!(starts.entries().len(), 2);
        starts.truncate_front(30);
        assert_eq!(starts.entries(), epochs(&[(7, 30)]).entries());
    }
}
