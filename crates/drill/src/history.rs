//! The history checker: given what clients were told and what the log holds in the end, says whether any
//! promise was broken. It knows nothing of Ottla, so the same code judges a simulation, a real cluster
//! and Apache Kafka.
//!
//! A *value* is (producer, sequence), written once by its producer to one partition, sequences growing
//! by one in each (producer, partition). The outcome of writing it is *acked*, *failed* (it is certainly not
//! in the log) or *unknown* (it may be). Feed the events in the order in which the clients saw them, then
//! read each partition from its start to its end into [`History::read`], and ask for the [`Verdict`].
//!
//! Several clients may be asking at once. What a broker may answer is judged by what was known *before it was asked*
//! ([`History::end_floor`], [`History::floors`]): an answer that was long under way is not wrong for being late.
//!
//! Time is linear in the events. Memory is four bits for each value and eight bytes for each offset, and
//! both are bounded by [`Limits`]: beyond them an event is refused, never dropped in silence.

mod bits;
mod event;
mod leaders;
mod partition;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use event::{Event, Outcome, ReadError, replay};
use leaders::Leaders;
use partition::Partition;
pub use verdict::{Defect, Kind, Verdict};

/// How much a [`History`] may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Partitions at most.
    pub partitions: usize,
    /// Producers at most, over all partitions; their numbers are below it.
    pub producers: u32,
    /// Sequences and offsets of one partition are below this.
    pub records_per_partition: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { partitions: 4096, producers: 1 << 16, records_per_partition: 1 << 26 }
    }
}

/// One value: who wrote it, and the how-manieth it was in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value {
    /// The producer's number.
    pub producer: u32,
    /// Counts from 0 in each (producer, partition).
    pub sequence: u64,
}

/// An event was refused because it goes beyond [`Limits`]; the history is unchanged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} {number} is beyond the checker's limit of {limit}")]
pub struct OverLimit {
    what: &'static str,
    number: u64,
    limit: u64,
}

/// The committed group offsets known at one moment; see [`History::floors`].
#[derive(Debug, Clone, Default)]
pub struct Floors(HashMap<u32, u64>);

/// Everything the clients of one topic and one consumer group saw.
#[derive(Debug, Default)]
pub struct History {
    limits: Limits,
    partitions: HashMap<u32, Partition>,
    /// Highest acknowledged commit of each partition.
    floors: HashMap<u32, u64>,
    /// Next offset each (member, partition) must get, within its present assignment.
    positions: HashMap<(u32, u32), Option<u64>>,
    /// Highest acknowledged commit of each (member, partition), within its present assignment.
    commits: HashMap<(u32, u32), u64>,
    leaders: Leaders,
    verdict: Verdict,
}

impl History {
    /// An empty history.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    fn check(what: &'static str, number: u64, limit: u64) -> Result<(), OverLimit> {
        if number < limit { Ok(()) } else { Err(OverLimit { what, number, limit }) }
    }

    fn partition(&mut self, number: u32) -> Result<&mut Partition, OverLimit> {
        if !self.partitions.contains_key(&number) {
            Self::check("partition count", self.partitions.len() as u64, self.limits.partitions as u64)?;
        }
        Ok(self.partitions.entry(number).or_default())
    }

    fn check_value(&self, value: Value) -> Result<(), OverLimit> {
        Self::check("producer", u64::from(value.producer), u64::from(self.limits.producers))?;
        Self::check("sequence", value.sequence, self.limits.records_per_partition)
    }

    /// A producer was told the outcome of writing `value`.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn produced(&mut self, partition: u32, value: Value, outcome: Outcome) -> Result<(), OverLimit> {
        self.check_value(value)?;
        if let Outcome::Acked { offset: Some(offset) } = outcome {
            Self::check("offset", offset, self.limits.records_per_partition)?;
        }
        let defect = self.partition(partition)?.produced(value, outcome);
        self.verdict.note(partition, defect);
        Ok(())
    }

    /// The final read of `partition` returned a record. Records of a partition come in the order of the log;
    /// `value` is `None` when the payload failed its checksum.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn read(&mut self, partition: u32, offset: u64, value: Option<Value>) -> Result<(), OverLimit> {
        Self::check("offset", offset, self.limits.records_per_partition)?;
        if let Some(value) = value {
            self.check_value(value)?;
        }
        let mut defects = Vec::new();
        self.partition(partition)?.read(offset, value, &mut defects);
        self.verdict.records_read += 1;
        for defect in defects {
            self.verdict.note(partition, Some(defect));
        }
        Ok(())
    }

    /// The final read of `partition` began at `start` (its log start offset) and ended before `end` (its
    /// high watermark): all offsets between are covered by records, or the gap is a defect.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn read_range(&mut self, partition: u32, start: u64, end: u64) -> Result<(), OverLimit> {
        Self::check("offset", end, self.limits.records_per_partition + 1)?;
        self.partition(partition)?.range = Some((start, end));
        Ok(())
    }

    /// The end of `partition` (high watermark, exclusive) that whoever is asked from now on must not fall below: every
    /// acknowledged record lies below it, and so does every end that was ever answered.
    #[must_use]
    pub fn end_floor(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |known| known.acked_end().max(known.end_seen))
    }

    /// The highest end of `partition` that was ever answered.
    fn end_told(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |known| known.end_seen)
    }

    /// A broker, asked when [`History::end_floor`] was `floor`, said that the end of `partition` is `end`. A lower
    /// one comes from a leader that was deposed and does not know it, or from a log that lost its end.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn end_offset(&mut self, partition: u32, end: u64, floor: u64) -> Result<(), OverLimit> {
        Self::check("offset", end, self.limits.records_per_partition + 1)?;
        let known = self.partition(partition)?;
        known.end_seen = known.end_seen.max(end);
        let defect = (end < floor).then(|| {
            Defect::new(Kind::EndWentBack, end, format!("{floor} was acknowledged or answered before it was asked for"))
        });
        self.verdict.note(partition, defect);
        Ok(())
    }

    /// The log start offset of `partition` that whoever is asked from now on must not fall below.
    #[must_use]
    pub fn start_floor(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |known| known.start_seen)
    }

    /// A broker, asked when [`History::start_floor`] was `floor`, said that `partition` starts at `start`.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn start_offset(&mut self, partition: u32, start: u64, floor: u64) -> Result<(), OverLimit> {
        Self::check("offset", start, self.limits.records_per_partition + 1)?;
        let known = self.partition(partition)?;
        known.start_seen = known.start_seen.max(start);
        let defect = (start < floor)
            .then(|| Defect::new(Kind::StartWentBack, start, format!("the log start offset was {floor} before")));
        self.verdict.note(partition, defect);
        Ok(())
    }

    /// Broker `source` said that `leader` leads `partition` in `epoch`.
    pub fn leader(&mut self, source: u32, partition: u32, epoch: i32, leader: u32) {
        let defect = self.leaders.said(source, partition, epoch, leader);
        self.verdict.note(partition, defect);
    }

    /// Broker `source` ended or was restarted: what it says next may be older than what it said.
    pub fn source_lost(&mut self, source: u32) {
        self.leaders.lost(source);
    }

    /// Group member `member` was given `partition` and starts from the committed offset.
    pub fn assigned(&mut self, member: u32, partition: u32) {
        self.positions.insert((member, partition), None);
        self.commits.remove(&(member, partition));
    }

    /// Group member `member` was given `partition` and was told that it starts from `position`: what it gets first is
    /// judged by that, and not by what others commit meanwhile who have taken the partition from it.
    pub fn resumed(&mut self, member: u32, partition: u32, position: u64) {
        self.positions.insert((member, partition), Some(position));
        self.commits.remove(&(member, partition));
    }

    /// Group member `member` was handed the record at `offset`. Within one assignment offsets grow by one
    /// ([`History::read`] tells whether the log itself has gaps), and the first is not below what the group
    /// had committed.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn polled(&mut self, member: u32, partition: u32, offset: u64) -> Result<(), OverLimit> {
        Self::check("offset", offset, self.limits.records_per_partition)?;
        self.partition(partition)?.polled.insert(offset);
        let floor = self.floors.get(&partition).copied().unwrap_or(0);
        let position = self.positions.entry((member, partition)).or_default();
        let defect = match *position {
            None if offset < floor => Some(Defect::new(
                Kind::GroupOffsetWentBack,
                offset,
                format!("member {member} starts below the committed offset {floor}"),
            )),
            Some(expected) if offset < expected => {
                Some(Defect::new(Kind::PollWentBack, offset, format!("member {member} had read up to {expected}")))
            }
            Some(expected) if offset > expected => Some(Defect::new(
                Kind::PollSkipped,
                offset,
                format!("member {member} never got {expected} and what follows"),
            )),
            _ => None,
        };
        *position = Some(offset + 1);
        self.verdict.records_polled += 1;
        self.verdict.note(partition, defect);
        Ok(())
    }

    /// The group has read `partition` up to `end`, beginning at `start`: each of the records between must have been
    /// handed to some member.
    ///
    /// # Errors
    /// [`OverLimit`]; nothing was noted.
    pub fn drained(&mut self, partition: u32, start: u64, end: u64) -> Result<(), OverLimit> {
        Self::check("offset", end, self.limits.records_per_partition + 1)?;
        self.partition(partition)?.drained = Some((start, end));
        Ok(())
    }

    /// The commit of `offset` by `member` was acknowledged. A member's own commits never fall within one assignment;
    /// those of two members may be told of in another order than they were made.
    pub fn committed(&mut self, member: u32, partition: u32, offset: u64) {
        let floor = self.floors.entry(partition).or_default();
        *floor = offset.max(*floor);
        let last = self.commits.entry((member, partition)).or_default();
        let before = *last;
        *last = offset.max(before);
        self.verdict.commits += 1;
        let defect = (offset < before)
            .then(|| Defect::new(Kind::GroupOffsetWentBack, offset, format!("{before} was committed before")));
        self.verdict.note(partition, defect);
    }

    /// What is committed now. Take it before asking the broker for committed offsets, and hand it to
    /// [`History::group_offset`] with the answer.
    #[must_use]
    pub fn floors(&self) -> Floors {
        Floors(self.floors.clone())
    }

    /// The broker, asked when `floors` was taken or later, says that `offset` is committed (`None`: nothing).
    pub fn group_offset(&mut self, partition: u32, offset: Option<u64>, floors: &Floors) {
        let floor = floors.0.get(&partition).copied();
        let defect = (offset < floor).then(|| {
            let wanted = floor.unwrap_or(0);
            Defect::new(
                Kind::GroupOffsetWentBack,
                offset.unwrap_or(0),
                format!("the broker answers {offset:?}, but {wanted} was acknowledged"),
            )
        });
        self.verdict.note(partition, defect);
    }

    /// Ends the history: looks for what only the whole shows (lost records, gaps) and returns all findings.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        let mut numbers: Vec<u32> = self.partitions.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let mut defects = Vec::new();
            self.partitions[&number].finish(&mut self.verdict, &mut defects);
            for defect in defects {
                self.verdict.note(number, Some(defect));
            }
        }
        self.verdict
    }
}
