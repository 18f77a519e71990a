//! What a log's records mean for a stream that is being opened. Pure.
//!
//! Records above the granted epoch are void. Among the rest a later epoch's record cuts what an earlier epoch wrote
//! at or above its base: the earlier writer lost the stream before that was acknowledged.

use std::collections::VecDeque;

use common::{Offset, StreamEpoch, StreamId};
use wal::{RecordKind, RecordRef};

use crate::store::OpenError;
use crate::tail::{CheckpointEntry, TailEntry};

/// The tail of one stream, as the log holds it.
#[derive(Debug, Default)]
pub(crate) struct RecoveredTail {
    pub(crate) entries: VecDeque<TailEntry>,
    pub(crate) checkpoints: Vec<CheckpointEntry>,
}

/// Resolves `records` of one stream, in log order, against the committed end. Records below that are kept where they
/// spare the opening the store: when they follow a checkpoint that the log holds, or begin at offset 0.
///
/// Errors: [`OpenError::Gap`] when records are missing between the committed end and a record, or between records.
pub(crate) fn resolve(
    stream: StreamId,
    records: Vec<RecordRef>,
    committed: Offset,
    granted: StreamEpoch,
) -> Result<RecoveredTail, OpenError> {
    let mut kept: VecDeque<(StreamEpoch, TailEntry)> = VecDeque::new();
    let mut checkpoints: Vec<(StreamEpoch, CheckpointEntry)> = Vec::new();
    let mut newest = StreamEpoch(0);
    for record in records {
        let epoch = record.meta.stream_epoch;
        if epoch > granted || epoch < newest {
            continue;
        }
        let base = record.meta.base_offset;
        if epoch > newest {
            newest = epoch;
            let void = |offset: Offset| offset > base;
            while kept.back().is_some_and(|(_, entry)| void(entry.next)) {
                kept.pop_back();
            }
            checkpoints.retain(|(_, checkpoint)| !void(checkpoint.offset));
        }
        match record.meta.kind {
            RecordKind::Checkpoint => checkpoints.push((epoch, checkpoint_entry(&record))),
            RecordKind::Data => {
                let mut expected = kept.back().map(|(_, entry)| entry.next);
                if base <= committed && expected.is_some_and(|expected| expected <= committed && expected != base) {
                    // What lies between was written and uploaded elsewhere.
                    kept.clear();
                    expected = None;
                }
                let next = record.meta.next_offset;
                let fits = expected.map_or(base <= committed, |expected| base == expected);
                if !fits || next <= base {
                    let expected = expected.map_or(committed, |expected| expected.max(committed));
                    return Err(OpenError::Gap { stream, expected, found: base });
                }
                kept.push_back((epoch, tail_entry(&record)));
            }
        }
    }
    let mut entries: VecDeque<TailEntry> = kept.into_iter().map(|(_, entry)| entry).collect();
    if entries.back().is_some_and(|entry| entry.next < committed) {
        entries.clear();
    }
    let end = entries.back().map_or(committed, |entry| entry.next);
    let covered_from = entries.front().map_or(end, |entry| entry.base);
    let checkpoints = checkpoints.into_iter().map(|(_, checkpoint)| checkpoint);
    let newest =
        checkpoints.filter(|checkpoint| (covered_from.min(committed)..=end).contains(&checkpoint.offset)).last();
    let needed_from = match &newest {
        Some(checkpoint) => checkpoint.offset.min(committed),
        None if covered_from == Offset(0) => Offset(0),
        None => committed,
    };
    while entries.front().is_some_and(|entry| entry.next <= needed_from) {
        entries.pop_front();
    }
    Ok(RecoveredTail { entries, checkpoints: newest.into_iter().collect() })
}

fn tail_entry(record: &RecordRef) -> TailEntry {
    TailEntry {
        base: record.meta.base_offset,
        next: record.meta.next_offset,
        max_timestamp_ms: record.meta.max_timestamp_ms,
        tag: record.meta.tag,
        block: record.block.clone(),
        position: record.position,
        len: record.len,
    }
}

fn checkpoint_entry(record: &RecordRef) -> CheckpointEntry {
    CheckpointEntry {
        offset: record.meta.base_offset,
        block: record.block.clone(),
        position: record.position,
        len: record.len,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::Lsn;
    use wal::{Block, RecordMeta, TAG_BYTES};

    use super::*;

    fn record(epoch: u64, base: i64, next: i64) -> RecordRef {
        let kind = if base == next { RecordKind::Checkpoint } else { RecordKind::Data };
        RecordRef {
            meta: RecordMeta {
                stream: StreamId(1),
                stream_epoch: StreamEpoch(epoch),
                kind,
                base_offset: Offset(base),
                next_offset: Offset(next),
                max_timestamp_ms: -1,
                tag: [0; TAG_BYTES],
            },
            block: Arc::new(Block::new(Lsn(0))),
            position: 0,
            len: 1,
        }
    }

    fn offsets(records: Vec<RecordRef>, committed: i64, granted: u64) -> Result<Vec<(i64, i64)>, OpenError> {
        let tail = resolve(StreamId(1), records, Offset(committed), StreamEpoch(granted))?;
        Ok(tail.entries.iter().map(|entry| (entry.base.0, entry.next.0)).collect())
    }

    #[test]
    fn drops_what_is_committed_and_keeps_a_straddling_record() {
        let records = || vec![record(1, 5, 10), record(1, 10, 20), record(1, 20, 30)];
        assert_eq!(offsets(records(), 10, 1).expect("tail"), [(10, 20), (20, 30)]);
        assert_eq!(offsets(records(), 15, 1).expect("tail"), [(10, 20), (20, 30)]);
        assert_eq!(offsets(records(), 30, 1).expect("tail"), []);
        assert_eq!(offsets(records(), 40, 1).expect("tail"), []);
    }

    #[test]
    fn keeps_what_is_committed_if_it_is_all_there_is() {
        let records = || vec![record(1, 0, 10), record(1, 10, 20), record(1, 20, 30)];
        assert_eq!(offsets(records(), 20, 1).expect("tail"), [(0, 10), (10, 20), (20, 30)]);
        assert_eq!(offsets(records(), 30, 1).expect("tail"), [(0, 10), (10, 20), (20, 30)]);
        assert_eq!(offsets(records(), 40, 1).expect("tail"), [], "the end was written elsewhere");
        let elsewhere = vec![record(1, 0, 10), record(3, 20, 30), record(3, 30, 40)];
        assert_eq!(offsets(elsewhere, 30, 3).expect("tail"), [(30, 40)], "so was the middle");
    }

    #[test]
    fn keeps_what_is_committed_above_a_checkpoint() {
        let records = vec![record(1, 5, 10), record(1, 10, 10), record(1, 10, 20), record(1, 20, 30)];
        let tail = |committed| resolve(StreamId(1), records.clone(), Offset(committed), StreamEpoch(1)).expect("tail");
        for committed in [10, 20, 30] {
            let tail = tail(committed);
            assert_eq!(tail.entries.iter().map(|entry| entry.base.0).collect::<Vec<_>>(), [10, 20], "{committed}");
            assert_eq!(tail.checkpoints.iter().map(|c| c.offset.0).collect::<Vec<_>>(), [10], "{committed}");
        }
        let beyond = tail(40);
        assert!(beyond.entries.is_empty() && beyond.checkpoints.is_empty());
    }

    #[test]
    fn refuses_gaps() {
        assert!(matches!(offsets(vec![record(1, 5, 10)], 4, 1), Err(OpenError::Gap { .. })));
        let torn = vec![record(1, 0, 10), record(1, 11, 20)];
        assert!(matches!(offsets(torn, 0, 1), Err(OpenError::Gap { .. })));
        let twice = vec![record(1, 0, 10), record(1, 5, 20)];
        assert!(matches!(offsets(twice, 0, 1), Err(OpenError::Gap { .. })));
    }

    #[test]
    fn ignores_epochs_that_were_never_granted() {
        let records = vec![record(1, 0, 10), record(3, 10, 20), record(2, 10, 15)];
        assert_eq!(offsets(records, 0, 2).expect("tail"), [(0, 10), (10, 15)]);
    }

    #[test]
    fn a_later_epoch_cuts_an_earlier_one() {
        let records =
            vec![record(1, 0, 10), record(1, 10, 20), record(1, 20, 20), record(2, 10, 30), record(1, 20, 25)];
        let tail = resolve(StreamId(1), records, Offset(0), StreamEpoch(2)).expect("tail");
        let kept: Vec<_> = tail.entries.iter().map(|entry| (entry.base.0, entry.next.0)).collect();
        assert_eq!(kept, [(0, 10), (10, 30)]);
        assert!(tail.checkpoints.is_empty());
    }

    #[test]
    fn keeps_the_newest_checkpoint() {
        let records = vec![record(1, 0, 10), record(1, 10, 10), record(1, 10, 20), record(1, 20, 20)];
        let tail = resolve(StreamId(1), records, Offset(0), StreamEpoch(1)).expect("tail");
        assert_eq!(tail.checkpoints.iter().map(|c| c.offset.0).collect::<Vec<_>>(), [20]);
    }
}
