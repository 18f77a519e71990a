//! Which objects are worth rewriting. Pure.

use std::collections::{BTreeMap, BTreeSet};

use common::{ObjectId, StreamId};

use crate::ports::CommittedRange;

/// Bytes of one new object, about; also the memory that a job takes.
pub(crate) const JOB_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Stream-set objects split together.
pub(crate) const SETS_PER_SPLIT: usize = 8;
/// A stream with this many ranges is merged.
pub(crate) const RANGES_PER_MERGE: usize = 16;
/// Bytes from which a stream's slice in a split becomes an object of its own.
const OWN_OBJECT_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Consecutive ranges of one stream that become one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) stream: StreamId,
    /// Contiguous, in offset order, not empty.
    pub(crate) ranges: Vec<CommittedRange>,
}

impl Run {
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }
}

/// One new object.
pub(crate) type Job = Vec<Run>;

/// The objects that a job replaces, as far as its streams are concerned.
pub(crate) fn replaced(job: &Job) -> Vec<ObjectId> {
    let ids: BTreeSet<ObjectId> = job.iter().flat_map(|run| &run.ranges).map(|range| range.object.id).collect();
    ids.into_iter().collect()
}

/// Jobs that split stream-set objects, given oldest first with their slices. Looks for neighbours whose streams
/// are the same: rewriting others would gain nothing.
pub(crate) fn split(sets: &[Vec<(StreamId, CommittedRange)>]) -> Vec<Job> {
    let worth = |sets: &&[Vec<(StreamId, CommittedRange)>]| {
        let slices: usize = sets.iter().map(Vec::len).sum();
        let streams: BTreeSet<StreamId> = sets.iter().flatten().map(|(stream, _)| *stream).collect();
        slices >= 2 * streams.len().max(1)
    };
    let Some(sets) = sets.windows(SETS_PER_SPLIT).find(worth) else { return Vec::new() };
    let mut by_stream: BTreeMap<StreamId, Vec<CommittedRange>> = BTreeMap::new();
    for (stream, range) in sets.iter().flatten() {
        by_stream.entry(*stream).or_default().push(*range);
    }
    pack(by_stream.into_iter().flat_map(|(stream, ranges)| runs(stream, ranges)).collect())
}

/// Contiguous runs of ranges, each at most a job's bytes.
fn runs(stream: StreamId, mut ranges: Vec<CommittedRange>) -> Vec<Run> {
    ranges.sort_by_key(|range| range.start);
    let mut runs: Vec<Run> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(run)
                if run.ranges.last().is_some_and(|last| last.end == range.start)
                    && run.bytes() + range.bytes <= JOB_BYTES_MAX =>
            {
                run.ranges.push(range);
            }
            _ => runs.push(Run { stream, ranges: vec![range] }),
        }
    }
    runs
}

/// Large runs alone, small ones together.
fn pack(runs: Vec<Run>) -> Vec<Job> {
    let (large, small): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| run.bytes() >= OWN_OBJECT_BYTES_MIN);
    let mut jobs: Vec<Job> = large.into_iter().map(|run| vec![run]).collect();
    let (mut job, mut bytes) = (Job::new(), 0);
    for run in small {
        if bytes + run.bytes() > JOB_BYTES_MAX && !job.is_empty() {
            jobs.push(std::mem::take(&mut job));
            bytes = 0;
        }
        bytes += run.bytes();
        job.push(run);
    }
    if !job.is_empty() {
        jobs.push(job);
    }
    jobs
}

/// The job that merges small neighbours among all ranges of one stream, if it has too many.
pub(crate) fn merge(stream: StreamId, ranges: &[CommittedRange]) -> Option<Job> {
    if ranges.len() < RANGES_PER_MERGE {
        return None;
    }
    let small = |range: &&CommittedRange| range.bytes < JOB_BYTES_MAX / 2;
    let runs = runs(stream, ranges.iter().filter(small).copied().collect());
    let longest = runs.into_iter().max_by_key(|run| (run.ranges.len(), std::cmp::Reverse(run.ranges[0].start)))?;
    (longest.ranges.len() >= 2).then(|| vec![longest])
}

#[cfg(test)]
mod tests {
    use common::{NodeEpoch, Offset};

    use super::*;
    use crate::ports::ObjectDescriptor;

    fn range(object: u64, start: i64, end: i64, bytes: u64) -> CommittedRange {
        let object = ObjectDescriptor { id: ObjectId(object), node_epoch: NodeEpoch(1), attempt: 0, size: bytes };
        CommittedRange { object, start: Offset(start), end: Offset(end), bytes, max_timestamp_ms: 0 }
    }

    #[test]
    fn splits_sets_that_share_streams() {
        let set = |n: i64| {
            vec![
                (StreamId(1), range(n as u64, n, n + 1, 2 << 20)),
                (StreamId(2), range(n as u64, n, n + 1, 10)),
                (StreamId(3), range(n as u64, n, n + 1, 10)),
            ]
        };
        let sets: Vec<_> = (0..8).map(set).collect();
        let jobs = split(&sets);
        assert_eq!(jobs.len(), 2);
        assert_eq!((jobs[0].len(), jobs[0][0].stream, jobs[0][0].ranges.len()), (1, StreamId(1), 8));
        assert_eq!(jobs[1].iter().map(|run| run.stream.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(replaced(&jobs[1]).len(), 8);
        assert!(split(&sets[..7]).is_empty());
    }

    #[test]
    fn leaves_sets_of_different_streams_alone() {
        let sets: Vec<_> = (0..20_u64).map(|n| vec![(StreamId(n), range(n, 0, 1, 10))]).collect();
        assert!(split(&sets).is_empty());
    }

    #[test]
    fn a_run_never_spans_a_gap() {
        let ranges = vec![range(1, 0, 1, 1), range(2, 1, 2, 1), range(3, 5, 6, 1)];
        let runs = runs(StreamId(1), ranges);
        assert_eq!(runs.iter().map(|run| run.ranges.len()).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn merging_ends_with_few_ranges() {
        let mut ranges: Vec<_> = (0..1000).map(|n| range(n as u64, n, n + 1, 1 << 20)).collect();
        let mut next = 1000;
        while let Some(job) = merge(StreamId(1), &ranges) {
            let run = &job[0];
            assert!(run.bytes() <= JOB_BYTES_MAX);
            let first = ranges.iter().position(|range| *range == run.ranges[0]).expect("is there");
            let (start, end) = (run.ranges[0].start.0, run.ranges[run.ranges.len() - 1].end.0);
            ranges.splice(first..first + run.ranges.len(), [range(next, start, end, run.bytes())]);
            next += 1;
        }
        assert!(ranges.len() <= RANGES_PER_MERGE + 1000 * (1 << 20) / (JOB_BYTES_MAX / 2) as usize);
    }
}
