//! One partition's history.

use std::collections::HashMap;

use super::bits::Bits;
use super::{Defect, Kind, Outcome, Value, Verdict};

/// One producer's values in one partition.
#[derive(Debug, Default)]
struct Producer {
    acked: Bits,
    /// Acked or unknown: what may rightly be in the log.
    possible: Bits,
    /// Acked without being told where, as an answer to a repeated batch may be.
    unplaced: Bits,
    failed: Bits,
    seen: Bits,
    last_seen: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    producers: HashMap<u32, Producer>,
    /// By offset: which value was acknowledged there.
    acked_at: Vec<Slot>,
    next_read: Option<u64>,
    pub(super) range: Option<(u64, u64)>,
    pub(super) end_seen: u64,
    pub(super) start_seen: u64,
    /// Offsets that some group member was handed.
    pub(super) polled: Bits,
    pub(super) drained: Option<(u64, u64)>,
}

/// A value in eight bytes: the producer above, the sequence (below 2^40) beneath, all plus one; 0 is empty.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    fn of(value: Value) -> Self {
        Self((u64::from(value.producer) << 40 | value.sequence) + 1)
    }

    fn value(self) -> Option<Value> {
        let packed = self.0.checked_sub(1)?;
        Some(Value { producer: (packed >> 40) as u32, sequence: packed & ((1 << 40) - 1) })
    }
}

impl Partition {
    pub(super) fn produced(&mut self, value: Value, outcome: Outcome) -> Option<Defect> {
        let producer = self.producers.entry(value.producer).or_default();
        match outcome {
            Outcome::Acked { offset } => {
                producer.acked.insert(value.sequence);
                producer.possible.insert(value.sequence);
                match offset {
                    Some(offset) => self.place(offset, value),
                    None => {
                        producer.unplaced.insert(value.sequence);
                        None
                    }
                }
            }
            Outcome::Unknown => {
                producer.possible.insert(value.sequence);
                None
            }
            Outcome::Failed => {
                producer.failed.insert(value.sequence);
                None
            }
        }
    }

    /// The offset above the highest that was acknowledged.
    pub(super) fn acked_end(&self) -> u64 {
        self.acked_at.len() as u64
    }

    /// Notes that `value` was acknowledged at `offset`.
    fn place(&mut self, offset: u64, value: Value) -> Option<Defect> {
        let index = offset as usize;
        if self.acked_at.len() <= index {
            self.acked_at.resize(index + 1, Slot::default());
        }
        let before = self.acked_at[index].value();
        self.acked_at[index] = Slot::of(value);
        before
            .filter(|b| *b != value)
            .map(|b| Defect::new(Kind::TwoValuesAtOneOffset, offset, format!("acked both {b:?} and {value:?}")))
    }

    pub(super) fn read(&mut self, offset: u64, value: Option<Value>, defects: &mut Vec<Defect>) {
        self.read_offset(offset, defects);
        let Some(value) = value else {
            defects.push(Defect::new(Kind::Altered, offset, "the payload fails its checksum".into()));
            return;
        };
        if let Some(acked) = self.acked_at.get(offset as usize).and_then(|slot| slot.value())
            && acked != value
        {
            let detail = format!("acked {acked:?}, read {value:?}");
            defects.push(Defect::new(Kind::TwoValuesAtOneOffset, offset, detail));
        }
        let Some(producer) = self.producers.get_mut(&value.producer) else {
            defects.push(Defect::new(Kind::Invented, offset, format!("{value:?} was never written")));
            return;
        };
        let sequence = value.sequence;
        if !producer.seen.insert(sequence) {
            defects.push(Defect::new(Kind::Duplicated, offset, format!("{value:?} was read before")));
        } else if producer.last_seen.is_some_and(|last| sequence < last) {
            let detail = format!("{value:?} stands after sequence {:?}", producer.last_seen);
            defects.push(Defect::new(Kind::Reordered, offset, detail));
        } else if producer.failed.contains(sequence) {
            defects.push(Defect::new(Kind::FailedButPresent, offset, format!("{value:?} had failed")));
        } else if !producer.possible.contains(sequence) {
            defects.push(Defect::new(Kind::Invented, offset, format!("{value:?} was never written")));
        } else if producer.acked.contains(sequence)
            && !producer.unplaced.contains(sequence)
            && self.acked_at.get(offset as usize) != Some(&Slot::of(value))
        {
            defects.push(Defect::new(Kind::Moved, offset, format!("{value:?} was acked at another offset")));
        }
        producer.last_seen = producer.last_seen.max(Some(sequence));
    }

    fn read_offset(&mut self, offset: u64, defects: &mut Vec<Defect>) {
        let expected = self.next_read.or(self.range.map(|(start, _)| start));
        match expected {
            Some(expected) if offset < expected => {
                defects.push(Defect::new(Kind::ReadWentBack, offset, format!("expected {expected}")));
            }
            Some(expected) if offset > expected => {
                let detail = format!("offsets {expected}..{offset} hold nothing");
                defects.push(Defect::new(Kind::Gap, expected, detail));
            }
            _ => {}
        }
        self.next_read = self.next_read.max(Some(offset + 1));
    }

    pub(super) fn finish(&self, verdict: &mut Verdict, defects: &mut Vec<Defect>) {
        match self.range {
            Some((start, end)) => {
                let next = self.next_read.unwrap_or(start);
                if next < end {
                    let detail = format!("offsets {next}..{end} hold nothing");
                    defects.push(Defect::new(Kind::Gap, next, detail));
                }
            }
            None => defects.push(Defect::new(Kind::NotRead, 0, "the partition was never read back".into())),
        }
        if let Some((start, end)) = self.drained
            && let Some(first) = (start..end).find(|offset| !self.polled.contains(*offset))
        {
            let missing = (first..end).filter(|offset| !self.polled.contains(*offset)).count();
            let detail = format!("{missing} of the offsets {start}..{end} were handed to no group member");
            defects.push(Defect::new(Kind::NeverPolled, first, detail));
        }
        let mut numbers: Vec<u32> = self.producers.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let producer = &self.producers[&number];
            verdict.acked += producer.acked.len();
            let unknown = producer.possible.difference(&producer.acked);
            verdict.unknown += unknown.filter(|sequence| !producer.failed.contains(*sequence)).count() as u64;
            for sequence in producer.acked.difference(&producer.seen) {
                let detail = format!("producer {number}'s sequence {sequence} was acked and is not in the log");
                defects.push(Defect::new(Kind::Lost, sequence, detail));
            }
        }
    }
}
