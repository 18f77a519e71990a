//! Where the clients of one run write down what they see, as they see it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::Clock;
use parking_lot::Mutex;

use crate::history::{Floors, History, Limits, Outcome, OverLimit, Value, Verdict};
use crate::payload::{self, Stamp};
use crate::timeline::Timeline;

/// Kinds of error kept by name; what comes beyond them is counted as one.
const ERRORS_MAX: usize = 64;

/// Records that may wait in a partition that has not acknowledged any.
const UNPROVEN_MAX: u64 = 4;

/// The book of one run.
pub struct Ledger {
    clock: Arc<dyn Clock>,
    origin: Duration,
    run: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    history: History,
    timeline: Timeline,
    errors: BTreeMap<String, u64>,
    /// Next offset the group wants, by partition.
    polled_end: Vec<u64>,
    sent: u64,
    acked: Vec<u64>,
    foreign: u64,
    over_limit: Option<OverLimit>,
}

/// A ledger that is closed.
pub struct Closed {
    /// What the checker found.
    pub verdict: Verdict,
    /// When what was acknowledged.
    pub timeline: Timeline,
    /// What clients complained about, by code.
    pub errors: BTreeMap<String, u64>,
    /// Records handed to the clients.
    pub sent: u64,
    /// Records in the topic that are not of this run.
    pub foreign: u64,
}

impl Inner {
    fn note(&mut self, result: Result<(), OverLimit>) {
        if let Err(error) = result {
            self.over_limit.get_or_insert(error);
        }
    }
}

impl Ledger {
    /// An empty ledger whose time begins now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, run: u64, partitions: u32) -> Self {
        let inner = Inner {
            history: History::new(Limits::default()),
            timeline: Timeline::new(partitions),
            errors: BTreeMap::new(),
            polled_end: vec![0; partitions as usize],
            sent: 0,
            acked: vec![0; partitions as usize],
            foreign: 0,
            over_limit: None,
        };
        Self { origin: clock.boot(), clock, run, inner: Mutex::new(inner) }
    }

    /// Microseconds since the run began.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        (self.clock.boot() - self.origin).as_micros() as u64
    }

    /// The run's number, as records carry it.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    /// A record is about to be handed to a client: from now on it may be in the log. Refused where `limit` records
    /// wait already, or a few until the partition has taken its first: a load does not begin with a burst.
    #[must_use]
    pub fn sending(&self, partition: u32, value: Value, limit: u64) -> bool {
        let mut inner = self.inner.lock();
        let limit = if inner.acked[partition as usize] == 0 { limit.min(UNPROVEN_MAX) } else { limit };
        if inner.timeline.waiting(partition) >= limit {
            return false;
        }
        inner.timeline.sent(partition);
        inner.sent += 1;
        let noted = inner.history.produced(partition, value, Outcome::Unknown);
        inner.note(noted);
        true
    }

    /// The client did not take it: it will be tried again.
    pub fn not_sent(&self, partition: u32) {
        let mut inner = self.inner.lock();
        inner.timeline.settled(partition);
        inner.sent -= 1;
    }

    /// Whether each partition has had an acknowledgement, and the group a record.
    #[must_use]
    pub fn under_way(&self, with_group: bool) -> bool {
        let inner = self.inner.lock();
        inner.acked.iter().all(|&acked| acked > 0) && (!with_group || inner.polled_end.iter().any(|&end| end > 0))
    }

    /// Payload bytes acknowledged so far.
    #[must_use]
    pub fn acked_bytes(&self) -> u64 {
        self.inner.lock().timeline.acked_bytes().iter().sum()
    }

    /// The client told the outcome of a record that it was given.
    pub fn outcome(&self, payload: &[u8], outcome: Outcome) {
        let now_us = self.now_us();
        let stamp = payload::read(payload);
        let mut inner = self.inner.lock();
        let Some(Stamp { producer, partition, sequence, sent_us, .. }) = stamp.filter(|stamp| stamp.run == self.run)
        else {
            // The client hands back what it was given; that it was harmed in its own memory is worth telling.
            return inner.error("harmed in the client".to_owned());
        };
        if matches!(outcome, Outcome::Acked { .. }) {
            inner.timeline.acked(partition, sent_us, now_us, payload.len() as u64);
            inner.acked[partition as usize] += 1;
        } else {
            inner.timeline.settled(partition);
        }
        let noted = inner.history.produced(partition, Value { producer, sequence }, outcome);
        inner.note(noted);
    }

    /// A client complained.
    pub fn error(&self, code: impl Into<String>) {
        self.inner.lock().error(code.into());
    }

    /// A group member was given a partition.
    pub fn assigned(&self, member: u32, partition: u32) {
        self.inner.lock().history.assigned(member, partition);
    }

    /// A group member was handed a record.
    pub fn polled(&self, member: u32, partition: u32, offset: u64) {
        let mut inner = self.inner.lock();
        if let Some(end) = inner.polled_end.get_mut(partition as usize) {
            *end = (offset + 1).max(*end);
        }
        let noted = inner.history.polled(member, partition, offset);
        inner.note(noted);
    }

    /// Whether the group was handed something at or beyond each of `ends`.
    #[must_use]
    pub fn polled_up_to(&self, ends: &[u64]) -> bool {
        self.inner.lock().polled_end.iter().zip(ends).all(|(polled, end)| polled >= end)
    }

    /// A group member's commit was acknowledged.
    pub fn committed(&self, member: u32, partition: u32, offset: u64) {
        self.inner.lock().history.committed(member, partition, offset);
    }

    /// What is committed now; see [`History::floors`].
    #[must_use]
    pub fn floors(&self) -> Floors {
        self.inner.lock().history.floors()
    }

    /// A broker was asked for a committed offset.
    pub fn group_offset(&self, partition: u32, offset: Option<u64>, floors: &Floors) {
        self.inner.lock().history.group_offset(partition, offset, floors);
    }

    /// What ends and starts must not fall below: (start, end) of each partition. Take it before asking.
    #[must_use]
    pub fn offset_floors(&self, partitions: &[u32]) -> Vec<(u64, u64)> {
        let history = &self.inner.lock().history;
        partitions.iter().map(|&partition| (history.start_floor(partition), history.end_floor(partition))).collect()
    }

    /// A broker told of an end offset.
    pub fn end_offset(&self, partition: u32, end: u64, floor: u64) {
        let mut inner = self.inner.lock();
        let noted = inner.history.end_offset(partition, end, floor);
        inner.note(noted);
    }

    /// A broker told of a log start offset.
    pub fn start_offset(&self, partition: u32, start: u64, floor: u64) {
        let mut inner = self.inner.lock();
        let noted = inner.history.start_offset(partition, start, floor);
        inner.note(noted);
    }

    /// A broker told who leads.
    pub fn leader(&self, source: u32, partition: u32, epoch: i32, leader: u32) {
        self.inner.lock().history.leader(source, partition, epoch, leader);
    }

    /// A broker was lost sight of.
    pub fn source_lost(&self, source: u32) {
        self.inner.lock().history.source_lost(source);
    }

    /// The group was given the time to read all of `[start, end)`.
    pub fn drained(&self, partition: u32, start: u64, end: u64) {
        let mut inner = self.inner.lock();
        let noted = inner.history.drained(partition, start, end);
        inner.note(noted);
    }

    /// The final read of a partition goes from `start` to `end`.
    pub fn read_range(&self, partition: u32, start: u64, end: u64) {
        let mut inner = self.inner.lock();
        let noted = inner.history.read_range(partition, start, end);
        inner.note(noted);
    }

    /// The final read returned a record.
    pub fn read_back(&self, partition: u32, offset: u64, payload: &[u8]) {
        let stamp = payload::read(payload);
        let mut inner = self.inner.lock();
        let value = match stamp {
            Some(stamp) if stamp.run == self.run && stamp.partition == partition => {
                Some(Value { producer: stamp.producer, sequence: stamp.sequence })
            }
            Some(_) => {
                inner.foreign += 1;
                None
            }
            None => None,
        };
        let noted = inner.history.read(partition, offset, value);
        inner.note(noted);
    }

    /// Ends the book and judges it.
    ///
    /// # Errors
    /// Something was beyond the checker's limits, so that the verdict would be about less than all.
    pub fn close(&self) -> Result<Closed, OverLimit> {
        let fresh = Inner {
            history: History::new(Limits::default()),
            timeline: Timeline::new(0),
            errors: BTreeMap::new(),
            polled_end: Vec::new(),
            sent: 0,
            acked: Vec::new(),
            foreign: 0,
            over_limit: None,
        };
        let inner = std::mem::replace(&mut *self.inner.lock(), fresh);
        match inner.over_limit {
            Some(error) => Err(error),
            None => Ok(Closed {
                verdict: inner.history.finish(),
                timeline: inner.timeline,
                errors: inner.errors,
                sent: inner.sent,
                foreign: inner.foreign,
            }),
        }
    }
}

impl Inner {
    fn error(&mut self, code: String) {
        let code =
            if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&code) { code } else { "others".into() };
        *self.errors.entry(code).or_default() += 1;
    }
}
