//! What the records of one log, or of several, mean for a stream that is being opened. Pure.
//!
//! Records of epochs that were not granted are void. The rest is taken in the order of the epochs, for each epoch was
//! granted to one log; a later epoch's record cuts what an earlier epoch wrote at or above its base: the earlier writer
//! lost the stream before that was acknowledged, or handed it over, so that the later epoch begins with the same bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use common::planted::{self, Bug};
use common::{Offset, StreamEpoch, StreamId};
use uuid::Uuid;
use wal::{RecordKind, RecordRef, SealedLog};

use crate::ports::{StreamManager, StreamMetadata};
use crate::store::OpenError;
use crate::tail::{CheckpointEntry, TailEntry};

/// The tail of one stream, as the log holds it.
#[derive(Debug, Default)]
pub(crate) struct RecoveredTail {
    pub(crate) entries: VecDeque<TailEntry>,
    pub(crate) checkpoints: Vec<CheckpointEntry>,
}

/// The records of `records` that were granted, in the order of their epochs. Those of one log come in log order; where
/// an epoch follows a later one there, its writer had lost the stream already.
pub(crate) fn granted(records: Vec<RecordRef>, metadata: &StreamMetadata) -> Vec<RecordRef> {
    let mut newest: Vec<(Option<Uuid>, StreamEpoch)> = Vec::new();
    let mut kept = records;
    kept.retain(|record| {
        let (log, epoch) = (record.block.origin().map(|log| log.uuid()), record.meta.stream_epoch);
        if !metadata.is_granted(epoch) && !planted::is(Bug::CountVoidEpochs) {
            return false;
        }
        match newest.iter_mut().find(|(known, _)| *known == log) {
            Some((_, newest)) if epoch < *newest => return false,
            Some((_, newest)) => *newest = epoch,
            None => newest.push((log, epoch)),
        }
        true
    });
    kept.sort_by_key(|record| record.meta.stream_epoch);
    kept
}

/// Resolves `records` of one stream, those of each log in log order. Below the stream's start nothing has to be there,
/// committed or not: the log that held it may be gone. Records below the committed end are kept where they spare the opening the store: when they follow a checkpoint that a log holds, or begin at offset 0.
///
/// Errors: [`OpenError::Gap`] when records are missing between the committed end and a record, between records, or below
/// where a checkpoint, or metadata, says that there are some.
pub(crate) fn resolve(
    stream: StreamId,
    records: Vec<RecordRef>,
    metadata: &StreamMetadata,
) -> Result<RecoveredTail, OpenError> {
    let committed = metadata.needed_from();
    let (uncut, checkpoints) = cut(granted(records, metadata));
    let mut kept: VecDeque<TailEntry> = VecDeque::with_capacity(uncut.len());
    for entry in uncut {
        let (base, mut expected) = (entry.base, kept.back().map(|entry| entry.next));
        if base <= committed && expected.is_some_and(|expected| expected <= committed && expected != base) {
            // What lies between was written and uploaded elsewhere.
            kept.clear();
            expected = None;
        }
        let fits = expected.map_or(base <= committed, |expected| base == expected);
        if !fits || entry.next <= base {
            let expected = expected.map_or(committed, |expected| expected.max(committed));
            return Err(OpenError::Gap { stream, expected, found: base });
        }
        kept.push_back(entry);
    }
    let mut entries = kept;
    if entries.back().is_some_and(|entry| entry.next < committed) {
        entries.clear();
    }
    let end = entries.back().map_or(committed, |entry| entry.next);
    let described = checkpoints.iter().map(|checkpoint| checkpoint.offset).max().unwrap_or_default();
    let acknowledged = described.max(metadata.sealed_end);
    if acknowledged > end {
        return Err(OpenError::Gap { stream, expected: end, found: acknowledged });
    }
    let covered_from = entries.front().map_or(end, |entry| entry.base);
    let newest = checkpoints
        .into_iter()
        .filter(|checkpoint| (covered_from.min(committed)..=end).contains(&checkpoint.offset))
        .last();
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

/// What is left when each epoch has cut those before it. Only then gaps count: a log that a later epoch makes superfluous
/// may begin anywhere.
fn cut(granted: Vec<RecordRef>) -> (Vec<TailEntry>, Vec<CheckpointEntry>) {
    let mut kept: Vec<TailEntry> = Vec::new();
    let mut checkpoints: Vec<CheckpointEntry> = Vec::new();
    let mut newest = StreamEpoch(0);
    for record in granted {
        let base = record.meta.base_offset;
        if record.meta.stream_epoch > newest {
            newest = record.meta.stream_epoch;
            while kept.last().is_some_and(|entry| entry.next > base) {
                kept.pop();
            }
            checkpoints.retain(|checkpoint| checkpoint.offset <= base);
        }
        match record.meta.kind {
            RecordKind::Checkpoint => checkpoints.push(checkpoint_entry(&record)),
            RecordKind::Data => kept.push(tail_entry(&record)),
        }
    }
    (kept, checkpoints)
}

/// Where the records of one stream in one sealed log end, those that were granted and those that may yet be; `None` where
/// there are none.
fn sealed_end(records: Vec<RecordRef>, metadata: &StreamMetadata) -> Option<Offset> {
    let may_be_granted = |record: &&RecordRef| {
        let epoch = record.meta.stream_epoch;
        record.meta.kind == RecordKind::Data && epoch > metadata.epoch && !metadata.void.contains(&epoch)
    };
    // A hand-over, whose move may be completed while this is looked at. Its bytes are the stream's own in any case.
    let handed_over = records.iter().filter(may_be_granted).map(|record| record.meta.next_offset).max();
    let (mut end, mut newest) = (None, StreamEpoch(0));
    for record in granted(records, metadata) {
        if record.meta.stream_epoch > newest {
            newest = record.meta.stream_epoch;
            end = end.map(|end: Offset| end.min(record.meta.base_offset));
        }
        if record.meta.kind == RecordKind::Data {
            end = Some(record.meta.next_offset);
        }
    }
    end.max(handed_over)
}

/// The streams of which a sealed log holds records that no object does, and where these end: what metadata must know
/// before it gives the streams to others, so that nothing is opened without them, and the log is retired when all of it
/// is committed.
///
/// `streams` must not be older than the log's seal: a grant that it does not know makes records look void. Only the
/// completion of a move to the log's node may come later.
pub fn sealed_tails(
    log: &Arc<SealedLog>,
    streams: &dyn StreamManager,
) -> Result<Vec<(StreamId, Offset)>, wal::OpenError> {
    let mut by_stream: BTreeMap<StreamId, Vec<RecordRef>> = BTreeMap::new();
    for record in log.records()? {
        by_stream.entry(record.meta.stream).or_default().push(record);
    }
    let tail = |(id, records): (StreamId, Vec<RecordRef>)| {
        let metadata = streams.stream(id)?;
        let end = sealed_end(records, &metadata)?;
        (end > metadata.needed_from()).then_some((id, end))
    };
    Ok(by_stream.into_iter().filter_map(tail).collect())
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

    fn metadata(committed: i64, granted: u64, void: &[u64]) -> StreamMetadata {
        StreamMetadata {
            epoch: StreamEpoch(granted),
            owner: None,
            start: Offset(0),
            end: Offset(committed),
            checkpoint: None,
            void: void.iter().map(|epoch| StreamEpoch(*epoch)).collect(),
            sealed_end: Offset(0),
        }
    }

    fn offsets(records: Vec<RecordRef>, committed: i64, granted: u64) -> Result<Vec<(i64, i64)>, OpenError> {
        let tail = resolve(StreamId(1), records, &metadata(committed, granted, &[]))?;
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
        let tail = |committed| resolve(StreamId(1), records.clone(), &metadata(committed, 1, &[])).expect("tail");
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
    fn a_void_epoch_cuts_nothing() {
        let records =
            vec![record(1, 0, 10), record(1, 10, 20), record(2, 10, 20), record(2, 20, 30), record(3, 20, 25)];
        let tail = |void: &[u64]| {
            let tail = resolve(StreamId(1), records.clone(), &metadata(0, 3, void)).expect("tail");
            tail.entries.iter().map(|entry| (entry.base.0, entry.next.0)).collect::<Vec<_>>()
        };
        assert_eq!(tail(&[2]), [(0, 10), (10, 20), (20, 25)]);
        assert_eq!(tail(&[]), [(0, 10), (10, 20), (20, 25)]);
        assert_eq!(tail(&[2, 3]), [(0, 10), (10, 20)]);
        let only_void = vec![record(1, 0, 10), record(2, 0, 10)];
        assert_eq!(resolve(StreamId(1), only_void, &metadata(0, 1, &[])).expect("tail").entries.len(), 1);
    }

    /// The handed-over tail has the same bytes at the same offsets, and begins below the end of what it was made from.
    #[test]
    fn a_handed_over_tail_takes_the_place_of_its_source() {
        let source = [record(1, 0, 10), record(1, 10, 20), record(1, 20, 30)];
        let handed_over = [record(2, 10, 20), record(2, 20, 30), record(2, 30, 30), record(2, 30, 40)];
        let records = [&source[..], &handed_over[..]].concat();
        assert_eq!(offsets(records, 10, 2).expect("tail"), [(10, 20), (20, 30), (30, 40)]);
        assert_eq!(offsets(handed_over.to_vec(), 10, 2).expect("tail"), [(10, 20), (20, 30), (30, 40)]);
        assert_eq!(offsets(handed_over.to_vec(), 25, 2).expect("tail"), [(20, 30), (30, 40)], "what is not committed");
        assert!(offsets(handed_over.to_vec(), 9, 2).is_err(), "what lies below is missing");
        let superfluous = [&[record(1, 15, 20)], &handed_over[..]].concat();
        assert_eq!(offsets(superfluous, 10, 2).expect("tail"), [(10, 20), (20, 30), (30, 40)]);
    }

    /// Whoever wrote the checkpoint had the records below it: where they are not found, a log is missing.
    #[test]
    fn nothing_is_opened_without_what_others_say_is_there() {
        let gap = |result: Result<RecoveredTail, OpenError>| match result {
            Err(OpenError::Gap { expected, found, .. }) => (expected.0, found.0),
            other => panic!("{other:?}"),
        };
        assert_eq!(gap(resolve(StreamId(1), vec![record(2, 20, 20)], &metadata(10, 2, &[]))), (10, 20));
        let sealed = |end: i64| StreamMetadata { sealed_end: Offset(end), ..metadata(10, 2, &[]) };
        assert_eq!(gap(resolve(StreamId(1), Vec::new(), &sealed(20))), (10, 20));
        assert_eq!(gap(resolve(StreamId(1), vec![record(1, 0, 15)], &sealed(20))), (15, 20));
        resolve(StreamId(1), vec![record(1, 0, 20)], &sealed(20)).expect("all of it");
        let trimmed = StreamMetadata { start: Offset(20), ..sealed(20) };
        resolve(StreamId(1), Vec::new(), &trimmed).expect("nobody needs it");
        let tail =
            resolve(StreamId(1), vec![record(1, 16, 22), record(2, 22, 30)], &trimmed).expect("nor what lies below");
        assert_eq!(tail.entries.iter().map(|entry| entry.base.0).collect::<Vec<_>>(), [16, 22]);
        assert_eq!(gap(resolve(StreamId(1), vec![record(1, 21, 22)], &trimmed)), (20, 21));
    }

    #[test]
    fn a_sealed_logs_tail_ends_where_its_last_grant_does() {
        let end =
            |records: &[RecordRef], void: &[u64]| sealed_end(records.to_vec(), &metadata(0, 3, void)).map(|end| end.0);
        let records = [record(1, 0, 10), record(2, 10, 30), record(3, 10, 20), record(4, 20, 50)];
        assert_eq!(end(&records[..3], &[]), Some(20));
        assert_eq!(end(&records[..3], &[3]), Some(30));
        assert_eq!(end(&records, &[]), Some(50), "epoch 4 may be granted any time");
        assert_eq!(end(&records, &[4]), Some(20));
        assert_eq!(end(&records[..1], &[]), Some(10));
        assert_eq!(end(&[record(3, 10, 10)], &[]), None);
        assert_eq!(end(&[record(1, 0, 20), record(3, 10, 10)], &[]), Some(10));
    }

    #[test]
    fn a_later_epoch_cuts_an_earlier_one() {
        let records =
            vec![record(1, 0, 10), record(1, 10, 20), record(1, 20, 20), record(2, 10, 30), record(1, 20, 25)];
        let tail = resolve(StreamId(1), records, &metadata(0, 2, &[])).expect("tail");
        let kept: Vec<_> = tail.entries.iter().map(|entry| (entry.base.0, entry.next.0)).collect();
        assert_eq!(kept, [(0, 10), (10, 30)]);
        assert!(tail.checkpoints.is_empty());
    }

    #[test]
    fn keeps_the_newest_checkpoint() {
        let records = vec![record(1, 0, 10), record(1, 10, 10), record(1, 10, 20), record(1, 20, 20)];
        let tail = resolve(StreamId(1), records, &metadata(0, 1, &[])).expect("tail");
        assert_eq!(tail.checkpoints.iter().map(|c| c.offset.0).collect::<Vec<_>>(), [20]);
    }
}
