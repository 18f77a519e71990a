//! Which requests fail, and how. Chosen from a seed, so that one seed and one order of requests give the
//! same failures.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Clock, Random, SeededRandom, SystemClock};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What a request asks for, as far as faults and counters tell requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// PUT of an object.
    Put,
    /// GET of an object or a range of it.
    Get,
    /// HEAD of an object.
    Head,
    /// A listing.
    List,
    /// DELETE of one object or many.
    Delete,
    /// Any step of a multipart upload.
    Multipart,
    /// The rest: bucket creation and the like.
    Other,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete, Self::Multipart, Self::Other];

    /// Tells from a request's method, path (`/bucket/key`) and query what it asks for.
    #[must_use]
    pub fn of(method: &str, path: &str, query: &str) -> Self {
        let key = path.trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
        let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
        match (method, key) {
            ("PUT" | "POST" | "DELETE", true) if has("uploadId") || has("uploads") => Self::Multipart,
            ("PUT", true) => Self::Put,
            ("GET", true) => Self::Get,
            ("HEAD", true) => Self::Head,
            ("DELETE", true) => Self::Delete,
            ("POST", false) if has("delete") => Self::Delete,
            ("GET", false) => Self::List,
            _ => Self::Other,
        }
    }
}

/// The faults in force. Probabilities are in percent of the requests of the named operations (all, when
/// `ops` is empty); they are drawn one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Which operations fail.
    pub ops: Vec<Op>,
    /// Answered 500 or 503 (in turns) without being carried out.
    pub fail_percent: u8,
    /// Carried out, then answered 500: the client cannot know.
    pub fail_after_percent: u8,
    /// Carried out, then the connection is cut without an answer.
    pub cut_after_percent: u8,
    /// Waits so long before anything else, in milliseconds.
    pub latency_ms: u64,
    /// Every connection is cut at once for so long from now on, in milliseconds.
    pub unreachable_ms: u64,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Served,
    /// Refused with this status, not carried out.
    Refused(u16),
    /// Carried out, answered with this status.
    AnsweredWith(u16),
    /// Carried out, not answered.
    Cut,
}

/// Draws fates.
pub(super) struct Injector {
    state: Mutex<(Faults, Duration)>,
    random: SeededRandom,
    requests: HashMap<Op, AtomicU64>,
    injected: AtomicU64,
}

impl Injector {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: Mutex::default(),
            random: SeededRandom::new(seed),
            requests: Op::ALL.map(|op| (op, AtomicU64::new(0))).into(),
            injected: AtomicU64::new(0),
        }
    }

    /// Replaces the faults in force.
    pub(super) fn set(&self, faults: Faults) {
        let until = SystemClock.boot() + Duration::from_millis(faults.unreachable_ms);
        *self.state.lock() = (faults, until);
    }

    pub(super) fn faults(&self) -> Faults {
        self.state.lock().0.clone()
    }

    pub(super) fn unreachable(&self) -> bool {
        let state = self.state.lock();
        state.0.unreachable_ms > 0 && SystemClock.boot() < state.1
    }

    /// Requests so far of one operation.
    pub(super) fn requests(&self, op: Op) -> u64 {
        self.requests[&op].load(Ordering::Relaxed)
    }

    /// Requests so far that did not simply succeed.
    pub(super) fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// Counts a request and draws its fate and delay.
    pub(super) fn draw(&self, op: Op) -> (Fate, Duration) {
        self.requests[&op].fetch_add(1, Ordering::Relaxed);
        let faults = self.faults();
        if !faults.ops.is_empty() && !faults.ops.contains(&op) {
            return (Fate::Served, Duration::ZERO);
        }
        let hit = |percent: u8| self.random.below(100) < u64::from(percent);
        let fate = if hit(faults.fail_percent) {
            Fate::Refused(if self.random.below(2) == 0 { 500 } else { 503 })
        } else if hit(faults.fail_after_percent) {
            Fate::AnsweredWith(500)
        } else if hit(faults.cut_after_percent) {
            Fate::Cut
        } else {
            Fate::Served
        };
        if fate != Fate::Served {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        (fate, Duration::from_millis(faults.latency_ms))
    }
}
