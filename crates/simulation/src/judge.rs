//! What clients saw, and what is wrong with it. The history checker judges most of it; here is what it does not know:
//! every record that anybody was handed must be in the log in the end, where it was seen.

use std::collections::BTreeMap;

use drill::history::{Floors, History, Limits, Outcome, OverLimit, Value, Verdict};
use parking_lot::Mutex;

/// Complaints that are kept.
const COMPLAINTS: usize = 20;

/// See the module.
pub struct Judge {
    inner: Mutex<Inner>,
}

struct Inner {
    history: History,
    /// What was seen at each (partition, offset).
    seen: BTreeMap<(u32, u64), Value>,
    complaints: Vec<String>,
    /// Answers may be old: clocks run at another pace than leases allow for.
    may_be_stale: bool,
    /// How far the group has read each partition.
    group: BTreeMap<u32, u64>,
    /// How far those have read each partition who belong to no group.
    followed: BTreeMap<u32, u64>,
}

/// What is known before a broker is asked.
pub struct Asked {
    end: u64,
    start: u64,
}

fn within(outcome: Result<(), OverLimit>) {
    outcome.expect("the run is far smaller than the checker's limits");
}

impl Default for Judge {
    fn default() -> Self {
        let history = History::new(Limits::default());
        let (seen, complaints) = (BTreeMap::new(), Vec::new());
        let (group, followed) = (BTreeMap::new(), BTreeMap::new());
        Self { inner: Mutex::new(Inner { history, seen, complaints, may_be_stale: false, group, followed }) }
    }
}

impl Judge {
    /// Something that must never happen has.
    pub fn complain(&self, what: String) {
        let mut inner = self.inner.lock();
        if inner.complaints.len() < COMPLAINTS {
            inner.complaints.push(what);
        }
    }

    /// From now on a broker may answer what was true once: its lease may outlast its right to it. What guards records needs no
    /// clock, and is judged as ever.
    pub fn allow_stale(&self) {
        self.inner.lock().may_be_stale = true;
    }

    /// Whether answers may be old.
    #[must_use]
    pub fn may_be_stale(&self) -> bool {
        self.inner.lock().may_be_stale
    }

    /// A producer was told the outcome of `values`, of which an acknowledged first one has an offset.
    pub fn produced(&self, partition: u32, producer: u32, values: std::ops::Range<u64>, outcome: Outcome) {
        let mut inner = self.inner.lock();
        for (index, sequence) in (0..).zip(values) {
            let outcome = match outcome {
                Outcome::Acked { offset } => Outcome::Acked { offset: offset.map(|first| first + index) },
                other => other,
            };
            within(inner.history.produced(partition, Value { producer, sequence }, outcome));
        }
    }

    /// Takes down what whoever is asked about `partition` from now on must know.
    #[must_use]
    pub fn asking(&self, partition: u32) -> Asked {
        let inner = self.inner.lock();
        Asked { end: inner.history.end_floor(partition), start: inner.history.start_floor(partition) }
    }

    /// A broker answered where `partition` ends (its high watermark).
    pub fn end(&self, partition: u32, end: u64, asked: &Asked) {
        let mut inner = self.inner.lock();
        if !inner.may_be_stale {
            within(inner.history.end_offset(partition, end, asked.end));
        }
    }

    /// A broker answered where `partition` begins.
    pub fn start(&self, partition: u32, start: u64, asked: &Asked) {
        let mut inner = self.inner.lock();
        if !inner.may_be_stale {
            within(inner.history.start_offset(partition, start, asked.start));
        }
    }

    /// Somebody was handed a record: it stays where it is.
    fn see(inner: &mut Inner, partition: u32, offset: u64, value: Option<Value>) {
        let complaint = match value {
            None => Some(format!("partition {partition}: the record at {offset} is damaged")),
            Some(value) => match inner.seen.insert((partition, offset), value) {
                Some(before) if before != value => {
                    Some(format!("partition {partition}: {before:?} was read at {offset}, and later {value:?}"))
                }
                _ => None,
            },
        };
        if let Some(complaint) = complaint
            && inner.complaints.len() < COMPLAINTS
        {
            inner.complaints.push(complaint);
        }
    }

    /// A reader without a group, who had got everything before, was handed the record at `offset`.
    pub fn followed(&self, partition: u32, offset: u64, value: Option<Value>) {
        let mut inner = self.inner.lock();
        Self::see(&mut inner, partition, offset, value);
        let position = inner.followed.entry(partition).or_default();
        *position = (*position).max(offset + 1);
    }

    /// A group member got `partition`, and the committed offset at which it begins.
    pub fn assigned(&self, member: u32, partition: u32, position: u64) {
        self.inner.lock().history.resumed(member, partition, position);
    }

    /// A group member was handed a record.
    pub fn polled(&self, member: u32, partition: u32, offset: u64, value: Option<Value>) {
        let mut inner = self.inner.lock();
        Self::see(&mut inner, partition, offset, value);
        within(inner.history.polled(member, partition, offset));
        let position = inner.group.entry(partition).or_default();
        *position = (*position).max(offset + 1);
    }

    /// A member's commit was acknowledged.
    pub fn committed(&self, member: u32, partition: u32, offset: u64) {
        self.inner.lock().history.committed(member, partition, offset);
    }

    /// What the group has committed so far: taken before a broker is asked for it.
    #[must_use]
    pub fn floors(&self) -> Floors {
        self.inner.lock().history.floors()
    }

    /// A broker answered what the group has committed.
    pub fn group_offset(&self, partition: u32, offset: Option<u64>, floors: &Floors) {
        let mut inner = self.inner.lock();
        if !inner.may_be_stale {
            inner.history.group_offset(partition, offset, floors);
        }
    }

    /// A broker said who leads.
    pub fn leader(&self, source: u32, partition: u32, epoch: i32, leader: u32) {
        self.inner.lock().history.leader(source, partition, epoch, leader);
    }

    /// A broker ended: it may know less when it is back.
    pub fn source_lost(&self, source: u32) {
        self.inner.lock().history.source_lost(source);
    }

    /// Partitions that the group, or those without one, have not read up to what was acknowledged.
    #[must_use]
    pub fn unread(&self, partitions: u32) -> Vec<String> {
        let inner = self.inner.lock();
        let mut unread = Vec::new();
        for partition in 0..partitions {
            let end = inner.history.end_floor(partition);
            for (who, read) in [("group", &inner.group), ("followers", &inner.followed)] {
                let at = read.get(&partition).copied().unwrap_or(0);
                if at < end {
                    unread.push(format!("{who} at {at} of {end} in partition {partition}"));
                }
            }
        }
        unread
    }

    /// The last read of a partition, from `start` to `end`.
    pub fn read_back(&self, partition: u32, start: u64, end: u64, records: &[(u64, Option<Value>)]) {
        let mut inner = self.inner.lock();
        for (offset, value) in records {
            within(inner.history.read(partition, *offset, *value));
            Self::see(&mut inner, partition, *offset, *value);
        }
        within(inner.history.read_range(partition, start, end));
        within(inner.history.drained(partition, start, end));
        let above = inner.seen.range((partition, end)..=(partition, u64::MAX)).next().map(|(at, value)| (*at, *value));
        if let Some(((_, offset), value)) = above {
            let complaint = format!("partition {partition}: {value:?} was read at {offset}, but the log ends at {end}");
            inner.complaints.push(complaint);
        }
    }

    /// The verdict of the checker, and the complaints.
    #[must_use]
    pub fn finish(&self) -> (Verdict, Vec<String>) {
        let mut inner = self.inner.lock();
        (std::mem::take(&mut inner.history).finish(), std::mem::take(&mut inner.complaints))
    }

    /// The complaints so far.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.inner.lock().complaints.clone()
    }
}
