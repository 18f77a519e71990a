//! The object compaction task.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::{Offset, Random, StreamId};

use super::CompactionError;
use super::plan::{Job, Run, SETS_PER_SPLIT, merge, replaced, split};
use crate::backoff::Backoff;
use crate::core::Core;
use crate::format::object_index::BlockEntry;
use crate::object::builder::{BuiltObject, ObjectBuilder};
use crate::object::put::put;
use crate::object::reader;
use crate::ports::{CommitError, CommittedRange, ObjectCommit, ObjectDescriptor, SliceCommit, SliceOutcome};
use crate::read::overlapping;
use crate::registry::Registry;
use crate::stream::{ReadClass, Stream};

/// How often to look for something to do.
const INTERVAL: Duration = Duration::from_secs(10);
/// Bytes rewritten per second at most: well below live traffic.
const BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;
/// Stream-set objects looked at in one pass.
const SETS_PER_PASS: usize = 64;
/// Data blocks read together.
const BLOCKS_PER_READ: usize = 8;

/// See the module.
pub(crate) struct Compactor {
    core: Arc<Core>,
    registry: Arc<Registry>,
    random: Arc<dyn Random>,
}

impl Compactor {
    pub(crate) fn new(core: Arc<Core>, registry: Arc<Registry>, random: Arc<dyn Random>) -> Self {
        Self { core, registry, random }
    }

    /// Works until dropped. An object that is half way then is never committed.
    pub(crate) async fn run(self) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Uploads come first: compaction would take their bandwidth.
            if self.core.under_pressure() {
                continue;
            }
            match self.pass(BYTES_PER_SECOND).await {
                Ok(_) => backoff = Backoff::default(),
                Err(error) => {
                    tracing::warn!(%error, "object compaction failed, objects stay as they are");
                    tokio::time::sleep(backoff.next(self.random.as_ref())).await;
                }
            }
        }
    }

    /// One look over everything, at `rate` bytes per second. Returns how many objects were written.
    pub(crate) async fn pass(&self, rate: u64) -> Result<usize, CompactionError> {
        let mut jobs = self.split_jobs();
        if jobs.is_empty() {
            jobs = self.registry.streams().iter().filter_map(|stream| self.merge_job(stream)).collect();
        }
        let mut written = 0;
        for job in jobs {
            let bytes: u64 = job.iter().map(Run::bytes).sum();
            written += usize::from(self.rewrite(&job).await?);
            let pause = bytes.saturating_mul(1000).checked_div(rate).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        Ok(written)
    }

    fn split_jobs(&self) -> Vec<Job> {
        let manager = &self.core.object_manager;
        let sets = manager.stream_set_objects();
        if sets.len() < SETS_PER_SPLIT {
            return Vec::new();
        }
        let open = self.registry.streams();
        let is_open = |stream: StreamId| open.binary_search_by_key(&stream, |open| open.id()).is_ok();
        let slices = |set: &ObjectDescriptor| -> Vec<(StreamId, CommittedRange)> {
            manager.slices(set.id).into_iter().filter(|(stream, _)| is_open(*stream)).collect()
        };
        // The newest are looked at: older ones were split before, or will be merged stream by stream.
        let newest = &sets[sets.len().saturating_sub(SETS_PER_PASS)..];
        // Of some, others hold all that is left.
        split(&newest.iter().map(slices).filter(|slices| !slices.is_empty()).collect::<Vec<_>>())
    }

    fn merge_job(&self, stream: &Stream) -> Option<Job> {
        let (start, end) = (stream.start_offset(), stream.committed_offset());
        merge(stream.id(), &self.core.object_manager.ranges(stream.id(), start, end, usize::MAX))
    }

    /// Writes one new object and swaps it in. `false` when metadata took none of it.
    async fn rewrite(&self, job: &Job) -> Result<bool, CompactionError> {
        let leased = self.core.object_manager.lease_object_ids(1).await;
        let id = leased.map_err(|error| CompactionError::Metadata(error.to_string()))?;
        let descriptor = ObjectDescriptor { id, node_epoch: self.core.settings.node_epoch, attempt: 0, size: 0 };
        let Some((built, slices)) = self.build(job, descriptor).await? else { return Ok(false) };
        let descriptor = built.descriptor;
        put(&self.core, built).await?;
        let commit = ObjectCommit {
            node: self.core.settings.node,
            node_epoch: self.core.settings.node_epoch,
            objects: vec![(descriptor, slices)],
            replaces: replaced(job),
        };
        let mut backoff = Backoff::default();
        let outcomes = loop {
            match self.core.object_manager.commit(commit.clone()).await {
                Ok(outcomes) => break outcomes,
                Err(CommitError::Refused(error)) => return Err(CompactionError::Metadata(error.to_string())),
                // Asked again in the same words: a commit is idempotent by its objects.
                Err(CommitError::Indeterminate(_)) => tokio::time::sleep(backoff.next(self.random.as_ref())).await,
            }
        };
        Ok(outcomes.contains(&SliceOutcome::Committed))
    }

    async fn build(
        &self,
        job: &Job,
        descriptor: ObjectDescriptor,
    ) -> Result<Option<(BuiltObject, Vec<SliceCommit>)>, CompactionError> {
        let open = self.registry.streams();
        let mut builder = ObjectBuilder::default();
        let mut slices = Vec::new();
        let replaced = replaced(job);
        for run in job {
            let Ok(at) = open.binary_search_by_key(&run.stream, |open| open.id()) else { continue };
            let stream = &open[at];
            let (start, end) = (run.ranges[0].start, run.ranges[run.ranges.len() - 1].end);
            builder.begin_slice(run.stream, stream.epoch(), start, end);
            for range in &run.ranges {
                self.copy_range(stream, range, &mut builder).await?;
            }
            let checkpoint = self.carry_checkpoint(run.stream, end, &replaced, &mut builder).await?;
            slices.push(SliceCommit {
                stream: run.stream,
                epoch: stream.epoch(),
                start,
                end,
                bytes: run.bytes(),
                max_timestamp_ms: run.ranges.iter().map(|range| range.max_timestamp_ms).max().unwrap_or(-1),
                checkpoint,
            });
        }
        if slices.is_empty() {
            return Ok(None);
        }
        Ok(Some((builder.finish(self.core.settings.node, descriptor), slices)))
    }

    /// Copies every record of a committed range, past the cache, and counts that none is missing.
    async fn copy_range(
        &self,
        stream: &Stream,
        range: &CommittedRange,
        builder: &mut ObjectBuilder,
    ) -> Result<(), CompactionError> {
        let class = ReadClass::CatchUp;
        let index = reader::load_index(&self.core, &range.object, class).await?;
        let entries: &[BlockEntry] = overlapping(&index, stream, range, range.start);
        let mut copied = 0;
        for entries in entries.chunks(BLOCKS_PER_READ) {
            for block in reader::load_blocks(&self.core, &range.object, entries, class).await? {
                let inside = |head: &crate::RecordHead| head.next_offset > range.start && head.next_offset <= range.end;
                for record in block.records().iter().filter(|record| inside(&record.head)) {
                    copied += u64::from(record.head.len);
                    builder.record(record.head, block.payload(record));
                }
            }
        }
        if copied != range.bytes {
            return Err(CompactionError::Coverage { stream: stream.id(), copied, expected: range.bytes });
        }
        Ok(())
    }

    /// The newest checkpoint moves along when its object is replaced, so that it does not keep that alive.
    async fn carry_checkpoint(
        &self,
        stream: StreamId,
        end: Offset,
        replaced: &[common::ObjectId],
        builder: &mut ObjectBuilder,
    ) -> Result<Option<Offset>, CompactionError> {
        let known = self.core.stream_manager.stream(stream).and_then(|metadata| metadata.checkpoint);
        let Some(known) = known.filter(|known| replaced.contains(&known.object.id) && known.offset <= end) else {
            return Ok(None);
        };
        let payload = reader::checkpoint(&self.core, &known.object, stream, known.offset).await?;
        builder.checkpoint(stream, known.offset, payload);
        Ok(Some(known.offset))
    }
}
