//! Timeouts: transactions that are open for too long are aborted, and transactional ids that nobody used for long are
//! removed. Both by scans, in portions, so that one call's records fit one append.

use std::ops::Bound;
use std::sync::Arc;

use crate::shard::Now;
use crate::transaction::metadata::TransactionMetadata;
use crate::transaction::shard::{TransactionOutput, TransactionShard};

/// Records that one call of a scan gives, at most.
pub(crate) const SCAN_RECORDS_MAX: usize = 1_000;
/// Pause before a scan goes on that gave as much as it may. Not none, for the host may be unable to append now.
const SCAN_PAUSE_MS: i64 = 100;
/// Bytes of a transaction in a record beside its id and partitions, at most.
const RECORD_OVERHEAD_BYTES: usize = 128;

/// A scan over all transactional ids, in portions.
#[derive(Debug)]
pub(crate) struct Scan {
    deadline_ms: i64,
    /// Where the portion before ended.
    after: Option<Arc<str>>,
}

impl Scan {
    pub(crate) fn after(delay_ms: i64, now: Now) -> Self {
        Self { deadline_ms: now.boot_ms.saturating_add(delay_ms), after: None }
    }

    pub(crate) fn deadline_ms(&self) -> i64 {
        self.deadline_ms
    }

    fn start(&self) -> Bound<Arc<str>> {
        self.after.clone().map_or(Bound::Unbounded, Bound::Excluded)
    }

    /// After a portion: `stopped_at` some id, or all seen.
    fn next(stopped_at: Option<Arc<str>>, interval_ms: i64, now: Now) -> Self {
        let delay_ms = if stopped_at.is_some() { SCAN_PAUSE_MS } else { interval_ms };
        Self { after: stopped_at, ..Self::after(delay_ms, now) }
    }
}

impl TransactionShard {
    /// Aborts open transactions that timed out, and completes decided ones that no marker is missing of: their completion
    /// could not be appended, or they never had partitions.
    pub(crate) fn abort_timed_out(&mut self, now: Now, out: &mut TransactionOutput) {
        let mut stopped_at = None;
        let mut bytes = 0;
        for (id, transaction) in self.persisted.transactions.range((self.abort_scan.start(), Bound::Unbounded)) {
            let before = out.records.len();
            if self.unmarked.get(id).is_some_and(|unmarked| unmarked.partitions.is_empty()) {
                out.record(id, Some(transaction.completed(now)));
            } else if transaction.is_timed_out(now) {
                match self.fence(transaction, self.offered_producer_id, now) {
                    Some(fenced) => {
                        if fenced.next_producer_id >= 0 {
                            self.offered_producer_id = None;
                        }
                        self.decide(id, fenced, now, out);
                    }
                    None => out.wants_producer_id = true,
                }
            }
            bytes += out.records[before..].iter().map(|record| record_bytes(id, record.value.as_ref())).sum::<usize>();
            if out.records.len() >= SCAN_RECORDS_MAX || bytes >= self.config.max_record_bytes {
                stopped_at = Some(Arc::clone(id));
                break;
            }
        }
        self.abort_scan = Scan::next(stopped_at, self.config.abort_timed_out_interval_ms, now);
    }

    /// Writes tombstones for idle transactional ids whose last change is long ago.
    pub(crate) fn remove_expired(&mut self, now: Now, out: &mut TransactionOutput) {
        let mut stopped_at = None;
        let expired_ms = now.wall_ms.saturating_sub(self.config.transactional_id_expiration_ms);
        let mut removed = 0;
        for (id, transaction) in self.persisted.transactions.range((self.removal_scan.start(), Bound::Unbounded)) {
            if transaction.state.is_idle() && transaction.last_update_timestamp_ms <= expired_ms {
                out.record(id, None);
                removed += 1;
            }
            if removed >= SCAN_RECORDS_MAX {
                stopped_at = Some(Arc::clone(id));
                break;
            }
        }
        self.removal_scan = Scan::next(stopped_at, self.config.remove_expired_interval_ms, now);
    }
}

fn record_bytes(id: &str, transaction: Option<&TransactionMetadata>) -> usize {
    let partitions = transaction.map_or(0, |transaction| transaction.partitions.record_bytes_max());
    id.len() + RECORD_OVERHEAD_BYTES + partitions
}
