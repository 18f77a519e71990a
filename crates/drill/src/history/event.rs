//! The form in which client programs write their histories down: one JSON object a line.

use std::collections::HashMap;
use std::io::BufRead;

use serde::{Deserialize, Serialize};

use super::{Floors, History, OverLimit, Value};

/// What a producer was told about one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log at this offset.
    Acked {
        /// The Kafka offset, if the producer was told.
        offset: Option<u64>,
    },
    /// It is certainly not in the log.
    Failed,
    /// It may be in the log.
    Unknown,
}

/// One line of a history. `partition`, `member` and `producer` are numbers, offsets are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
#[allow(missing_docs)] // each variant is the method of `History` that it calls, with its arguments
pub enum Event {
    Acked {
        partition: u32,
        producer: u32,
        sequence: u64,
        #[serde(default)]
        offset: Option<u64>,
    },
    Failed {
        partition: u32,
        producer: u32,
        sequence: u64,
    },
    Unknown {
        partition: u32,
        producer: u32,
        sequence: u64,
    },
    Range {
        partition: u32,
        start: u64,
        end: u64,
    },
    Read {
        partition: u32,
        offset: u64,
        producer: u32,
        sequence: u64,
    },
    Altered {
        partition: u32,
        offset: u64,
    },
    /// One observer's observation: it asks when it has the answer before.
    End {
        partition: u32,
        end: u64,
    },
    /// One observer's observation.
    Start {
        partition: u32,
        start: u64,
    },
    Assigned {
        member: u32,
        partition: u32,
    },
    Polled {
        member: u32,
        partition: u32,
        offset: u64,
    },
    Committed {
        /// Absent: the program tells of its members' commits in the order in which they were made.
        #[serde(default)]
        member: u32,
        partition: u32,
        offset: u64,
    },
    Drained {
        partition: u32,
        start: u64,
        end: u64,
    },
    Leader {
        source: u32,
        partition: u32,
        epoch: i32,
        leader: u32,
    },
    SourceLost {
        source: u32,
    },
    /// The program is about to ask for committed offsets; answers name the same `query`.
    Asking {
        query: u64,
    },
    GroupOffset {
        query: u64,
        partition: u32,
        offset: Option<u64>,
    },
}

/// Why a history file could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("line {line}: {source}")]
    Io {
        /// Counts from 1.
        line: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The line is no event.
    #[error("line {line}: {source}")]
    Malformed {
        /// Counts from 1.
        line: u64,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The event goes beyond the limits.
    #[error("line {line}: {source}")]
    OverLimit {
        /// Counts from 1.
        line: u64,
        /// Which limit.
        source: OverLimit,
    },
}

/// Feeds every line of `lines` to `history`.
///
/// # Errors
/// [`ReadError`] at the first line that is unreadable, malformed or beyond the limits.
pub fn replay(history: &mut History, lines: impl BufRead) -> Result<(), ReadError> {
    let mut queries: HashMap<u64, Floors> = HashMap::new();
    for (index, line) in lines.lines().enumerate() {
        let number = index as u64 + 1;
        let line = line.map_err(|source| ReadError::Io { line: number, source })?;
        let event = serde_json::from_str(&line).map_err(|source| ReadError::Malformed { line: number, source })?;
        apply(history, &mut queries, event).map_err(|source| ReadError::OverLimit { line: number, source })?;
    }
    Ok(())
}

fn apply(history: &mut History, queries: &mut HashMap<u64, Floors>, event: Event) -> Result<(), OverLimit> {
    match event {
        Event::Acked { partition, producer, sequence, offset } => {
            history.produced(partition, Value { producer, sequence }, Outcome::Acked { offset })
        }
        Event::Failed { partition, producer, sequence } => {
            history.produced(partition, Value { producer, sequence }, Outcome::Failed)
        }
        Event::Unknown { partition, producer, sequence } => {
            history.produced(partition, Value { producer, sequence }, Outcome::Unknown)
        }
        Event::Range { partition, start, end } => history.read_range(partition, start, end),
        Event::Read { partition, offset, producer, sequence } => {
            history.read(partition, offset, Some(Value { producer, sequence }))
        }
        Event::Altered { partition, offset } => history.read(partition, offset, None),
        Event::End { partition, end } => {
            // What was acknowledged meanwhile may be told of before this, so that only its own answers count.
            let floor = history.end_told(partition);
            history.end_offset(partition, end, floor)
        }
        Event::Start { partition, start } => {
            let floor = history.start_floor(partition);
            history.start_offset(partition, start, floor)
        }
        Event::Assigned { member, partition } => {
            history.assigned(member, partition);
            Ok(())
        }
        Event::Polled { member, partition, offset } => history.polled(member, partition, offset),
        Event::Committed { member, partition, offset } => {
            history.committed(member, partition, offset);
            Ok(())
        }
        Event::Drained { partition, start, end } => history.drained(partition, start, end),
        Event::Leader { source, partition, epoch, leader } => {
            history.leader(source, partition, epoch, leader);
            Ok(())
        }
        Event::SourceLost { source } => {
            history.source_lost(source);
            Ok(())
        }
        Event::Asking { query } => {
            // One question is open at a time, so older floors can go: memory stays bounded.
            queries.clear();
            queries.insert(query, history.floors());
            Ok(())
        }
        Event::GroupOffset { query, partition, offset } => {
            let none = Floors::default();
            history.group_offset(partition, offset, queries.get(&query).unwrap_or(&none));
            Ok(())
        }
    }
}
