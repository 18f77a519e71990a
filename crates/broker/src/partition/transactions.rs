//! The transactions of one partition: which are open, which ended without that being durable yet, and which were
//! aborted. Kafka's `ProducerStateManager` and `TransactionIndex`.
//!
//! Pure: no I/O, no clock. What one producer does stands in its [`ProducerEntry`](super::producer_state::ProducerEntry);
//! here is what depends on all of them together.
//!
//! Rule **stable-below-open**: the last stable offset is the high watermark, or the first offset of the earliest
//! transaction below it that is open, or whose marker is not below the high watermark; so no record is stable before
//! its fate is known for good. It never falls: a new transaction begins at the log's end.
//!
//! Rule **aborted-overlap**: whoever reads stable records from an offset up to an end is told of every transaction that
//! was aborted with a marker at or above that offset, and that began below that end.
//!
//! Bounds: [`Transactions::OPEN_MAX`] open ones, [`Transactions::ABORTED_MAX`] aborted ones; where one is reached, no
//! other transaction begins. An aborted one cannot be forgotten before its records are: readers would take them for
//! committed. Those whose markers are not durable are bounded by what the log takes before it refuses.

use std::collections::{BTreeMap, VecDeque};

/// An aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AbortedTransaction {
    pub(crate) producer_id: i64,
    /// Offset of its first record.
    pub(crate) first_offset: i64,
    /// Offset of its marker.
    pub(crate) marker_offset: i64,
    /// Last stable offset when it ended: transactions that end later begin there or above.
    pub(crate) last_stable_offset: i64,
}

impl AbortedTransaction {
    /// Whether a transaction with these offsets may end after this one.
    pub(crate) fn precedes(&self, first_offset: i64, marker_offset: i64) -> bool {
        self.marker_offset < marker_offset && self.last_stable_offset <= first_offset
    }
}

/// A transaction that ended, whose marker is not known to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Undurable {
    first_offset: i64,
    marker_offset: i64,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transactions {
    /// Producers with an open transaction, by its first offset.
    open: BTreeMap<i64, i64>,
    /// By ascending marker, and by ascending first offset too: one that began above a later one's beginning is left
    /// out, for that later one holds the last stable offset lower, and longer.
    undurable: VecDeque<Undurable>,
    /// By ascending marker.
    aborted: VecDeque<AbortedTransaction>,
}

impl Transactions {
    /// Open transactions at most: half of the producers that are remembered, so that the other half can be forgotten.
    pub(crate) const OPEN_MAX: usize = super::producer_state::ProducerStates::LIMIT / 2;
    /// Aborted transactions at most, together with the open ones, which may be aborted: some 8 MiB.
    pub(crate) const ABORTED_MAX: usize = 1 << 18;

    /// Whether no other transaction may begin.
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() >= Self::OPEN_MAX || self.aborted.len() + self.open.len() >= Self::ABORTED_MAX
    }

    /// A transaction begins with a record at `first_offset`, the log's end.
    pub(crate) fn begin(&mut self, producer_id: i64, first_offset: i64) {
        debug_assert!(
            self.open.last_key_value().is_none_or(|(last, _)| *last < first_offset),
            "stable-below-open: transactions begin at the log's end"
        );
        self.open.insert(first_offset, producer_id);
    }

    /// The transaction that began at `first_offset` ends with the marker at `marker_offset`, the log's end.
    pub(crate) fn end(&mut self, producer_id: i64, first_offset: i64, marker_offset: i64, commit: bool) {
        let ended = self.open.remove(&first_offset);
        debug_assert_eq!(ended, Some(producer_id), "it was open");
        debug_assert!(
            self.aborted.back().is_none_or(|last| last.precedes(first_offset, marker_offset)),
            "aborted-overlap: a search by markers may end where it does"
        );
        while self.undurable.back().is_some_and(|last| last.first_offset >= first_offset) {
            self.undurable.pop_back();
        }
        self.undurable.push_back(Undurable { first_offset, marker_offset });
        if !commit {
            let last_stable_offset = self.first_open().unwrap_or(marker_offset + 1);
            self.aborted.push_back(AbortedTransaction { producer_id, first_offset, marker_offset, last_stable_offset });
        }
    }

    /// Everything below `high_watermark` is durable.
    pub(crate) fn durable(&mut self, high_watermark: i64) {
        while self.undurable.front().is_some_and(|first| first.marker_offset < high_watermark) {
            self.undurable.pop_front();
        }
    }

    /// First offset of the earliest open transaction.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.open.first_key_value().map(|(first_offset, _)| *first_offset)
    }

    /// The producer of the earliest open transaction.
    pub(crate) fn first_open_producer(&self) -> Option<i64> {
        self.open.first_key_value().map(|(_, producer_id)| *producer_id)
    }

    /// First offset of the earliest transaction that is open, or whose marker is not durable.
    pub(crate) fn first_unstable(&self) -> Option<i64> {
        let undurable = self.undurable.front().map(|ended| ended.first_offset);
        match (self.first_open(), undurable) {
            (Some(open), Some(undurable)) => Some(open.min(undurable)),
            (open, undurable) => open.or(undurable),
        }
    }

    /// Offset of the last marker that must be durable before a record at `offset` is stable, as far as transactions
    /// go that have ended.
    pub(crate) fn marker_holding(&self, offset: i64) -> Option<i64> {
        let until = self.undurable.partition_point(|ended| ended.first_offset <= offset);
        until.checked_sub(1).map(|last| self.undurable[last].marker_offset)
    }

    /// Producer id and first offset of the aborted transactions that a reader of `from..end` must know, by ascending
    /// first offset: rule aborted-overlap. `end` is not above the last stable offset.
    pub(crate) fn aborted_within(&self, from: i64, end: i64) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        let start = self.aborted.partition_point(|aborted| aborted.marker_offset < from);
        for aborted in self.aborted.range(start..) {
            if aborted.first_offset < end {
                found.push((aborted.first_offset, aborted.producer_id));
            }
            if aborted.last_stable_offset >= end {
                break;
            }
        }
        found.sort_unstable();
        found.into_iter().map(|(first_offset, producer_id)| (producer_id, first_offset)).collect()
    }

    /// By ascending marker.
    pub(crate) fn aborted(&self) -> &VecDeque<AbortedTransaction> {
        &self.aborted
    }

    /// Puts in an open transaction that a checkpoint held; false if one begins there already.
    pub(crate) fn restore_open(&mut self, producer_id: i64, first_offset: i64) -> bool {
        self.open.insert(first_offset, producer_id).is_none()
    }

    /// Puts in an aborted transaction that a checkpoint held; they come by ascending marker.
    pub(crate) fn restore_aborted(&mut self, aborted: AbortedTransaction) {
        self.aborted.push_back(aborted);
    }

    /// Forgets aborted transactions of which no record is left.
    pub(crate) fn truncate_front(&mut self, log_start: i64) {
        let below = self.aborted.partition_point(|aborted| aborted.marker_offset < log_start);
        self.aborted.drain(..below);
    }
}

#[cfg(test)]
mod tests;
