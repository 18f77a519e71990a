//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;

/// Findings kept with their details; further ones are only counted.
const EXAMPLES: usize = 20;

/// The ways in which a log can break its promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged value is not in the log.
    Lost,
    /// A value is in the log more than once.
    Duplicated,
    /// A producer's values stand in another order than it wrote them.
    Reordered,
    /// A record's payload is not what was written.
    Altered,
    /// Two values were acknowledged or read at one offset.
    TwoValuesAtOneOffset,
    /// A value is in the log at another offset than was acknowledged.
    Moved,
    /// A value is in the log though its producer was told that it certainly is not.
    FailedButPresent,
    /// A value is in the log that nobody wrote.
    Invented,
    /// No record covers an offset between log start and log end.
    Gap,
    /// The final read returned offsets that do not grow.
    ReadWentBack,
    /// An end offset (high watermark) fell below what was known before it was asked for.
    EndWentBack,
    /// A log start offset fell.
    StartWentBack,
    /// Two brokers were said to lead a partition in one leader epoch.
    TwoLeadersInOneEpoch,
    /// A broker told of an older leader epoch than before.
    LeaderEpochWentBack,
    /// The group has read to the end, and some records were handed to none of its members.
    NeverPolled,
    /// A group member got an offset twice within one assignment.
    PollWentBack,
    /// A group member never got an offset within one assignment.
    PollSkipped,
    /// A committed group offset fell, or was forgotten.
    GroupOffsetWentBack,
    /// No final read of a partition to which something was written: nothing is proved.
    NotRead,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// What kind it is.
    pub kind: Kind,
    /// The offset where it shows, or the sequence number for a lost value.
    pub at: u64,
    /// For people.
    pub detail: String,
}

impl Defect {
    pub(super) fn new(kind: Kind, at: u64, detail: String) -> Self {
        Self { kind, at, detail }
    }
}

/// All findings of one history, and how much it saw: a clean verdict over nothing proves nothing.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Values acknowledged.
    pub acked: u64,
    /// Values whose outcome nobody knows.
    pub unknown: u64,
    /// Records returned by the final read.
    pub records_read: u64,
    /// Records that group members were handed.
    pub records_polled: u64,
    /// Commits acknowledged.
    pub commits: u64,
    counts: BTreeMap<Kind, u64>,
    examples: Vec<(u32, Defect)>,
}

impl Verdict {
    pub(super) fn note(&mut self, partition: u32, defect: Option<Defect>) {
        let Some(defect) = defect else { return };
        *self.counts.entry(defect.kind).or_default() += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((partition, defect));
        }
    }

    /// How often a kind of defect was found.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// The kinds that were found, each with how often.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.counts.iter().map(|(&kind, &count)| (kind, count))
    }

    /// The first findings, each with its partition.
    #[must_use]
    pub fn examples(&self) -> &[(u32, Defect)] {
        &self.examples
    }

    /// Whether no promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acked, {} unknown, {} read, {} polled, {} commits: ",
            self.acked, self.unknown, self.records_read, self.records_polled, self.commits
        )?;
        if self.is_clean() {
            return write!(f, "no defect");
        }
        for (kind, count) in &self.counts {
            write!(f, "{kind:?} {count} ")?;
        }
        for (partition, defect) in &self.examples {
            write!(f, "\n  partition {partition}, {:?} at {}: {}", defect.kind, defect.at, defect.detail)?;
        }
        Ok(())
    }
}
