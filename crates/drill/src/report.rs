//! A drill's figures as a table, as JSON, and as a page.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use crate::figures::{Figures, Spread};
use crate::plan::{Plan, Rate};

/// The page, but for the figures.
const PAGE: &str = include_str!("page.html");
/// Where they go.
const PAGE_DATA: &str = "\"@DATA@\"";

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Asked {
    pub scenario: &'static str,
    pub command: String,
    pub date: String,
    pub brokers: String,
    pub client: String,
    pub partitions: u32,
    pub replication: i16,
    pub record_bytes: usize,
    pub producers: u32,
    pub members: u32,
    /// Payload bytes a second that the cluster was measured to take, if it was measured.
    pub measured_rate: Option<f64>,
    pub percent: Option<f64>,
}

impl Asked {
    /// From the plan; `command`, `date`, `brokers` and `client` are for people.
    #[must_use]
    pub fn new(plan: &Plan, command: String, date: String, brokers: String, client: String) -> Self {
        Self {
            scenario: plan.scenario.name(),
            command,
            date,
            brokers,
            client,
            partitions: plan.partitions,
            replication: plan.replication,
            record_bytes: plan.record_bytes,
            producers: plan.producers,
            members: plan.members,
            measured_rate: None,
            percent: match plan.rate {
                Rate::Percent(percent) => Some(percent),
                Rate::Bytes(_) => None,
            },
        }
    }
}

/// All runs together: percentiles are over the partitions of all runs, counts are sums.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Total {
    pub runs: usize,
    pub acked: u64,
    pub unknown: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub altered: u64,
    pub defects: BTreeMap<String, u64>,
    pub never: usize,
    pub groups_not_drained: usize,
    pub unavailable: Spread,
    pub unavailable_all: Spread,
    pub unavailable_before: Spread,
    pub first_ack: Spread,
    pub first_ack_all: Spread,
    pub errors: BTreeMap<String, u64>,
}

/// A whole drill.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    pub asked: Asked,
    pub total: Total,
    pub runs: Vec<Figures>,
}

fn sum(maps: impl Iterator<Item = BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (key, count) in maps.flatten() {
        *sum.entry(key).or_default() += count;
    }
    sum
}

impl Report {
    /// Of some runs.
    #[must_use]
    pub fn new(asked: Asked, runs: Vec<Figures>) -> Self {
        let count = |of: fn(&Figures) -> u64| runs.iter().map(of).sum();
        let partitions = || runs.iter().flat_map(|run| &run.partitions);
        let affected = || partitions().filter(|one| one.affected);
        let total = Total {
            runs: runs.len(),
            acked: count(|run| run.acked),
            unknown: count(|run| run.unknown),
            lost: count(|run| run.lost),
            duplicated: count(|run| run.duplicated),
            reordered: count(|run| run.reordered),
            altered: count(|run| run.altered),
            defects: sum(runs.iter().map(|run| run.defects.clone())),
            never: runs.iter().map(|run| run.never).sum(),
            groups_not_drained: runs.iter().filter(|run| !run.group_drained).count(),
            unavailable: Spread::of(affected().map(|one| one.unavailable_us).collect()),
            unavailable_all: Spread::of(partitions().map(|one| one.unavailable_us).collect()),
            unavailable_before: Spread::of(partitions().map(|one| one.before_us).collect()),
            first_ack: Spread::of(affected().map(|one| one.first_ack_us).collect()),
            first_ack_all: Spread::of(partitions().map(|one| one.first_ack_us).collect()),
            errors: sum(runs.iter().map(|run| run.errors.clone())),
        };
        Self { asked, total, runs }
    }

    /// Whether no promise was broken in any run and everything came back.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.runs.iter().all(Figures::is_clean)
    }

    /// For machines. The partitions' gaps and the lines over time are in it.
    ///
    /// # Errors
    /// None that a report has.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// For people: one file that needs no other.
    ///
    /// # Errors
    /// None that a report has.
    pub fn page(&self) -> Result<String> {
        // Inside a script element only `</script` and `<!--` have a meaning of their own.
        Ok(PAGE.replacen(PAGE_DATA, &self.json()?.replace('<', "\\u003c"), 1))
    }

    /// For a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned)];
        rows.extend(self.runs.iter().enumerate().map(|(index, run)| row(index + 1, run)));
        if self.runs.len() > 1 {
            rows.push(self.total_row());
        }
        let mut text = format!("{}: {}\n{}", self.asked.scenario, self.load(), columns(&rows));
        let total = &self.total;
        text += &self.moved();
        let mut line = |what: &str, counts: &BTreeMap<String, u64>| {
            let list: Vec<String> = counts.iter().map(|(key, count)| format!("{key} {count}")).collect();
            // A String takes whatever is written to it.
            let _ = writeln!(text, "{what}: {}", if list.is_empty() { "none".to_owned() } else { list.join(", ") });
        };
        line("client errors", &total.errors);
        line("defects", &total.defects);
        for (index, run) in self.runs.iter().enumerate().filter(|(_, run)| !run.is_clean()) {
            let drained = if run.group_drained { "" } else { "; the group did not read to the end" };
            let _ =
                writeln!(text, "run {}: {}{drained}; {} partitions never came back", index + 1, run.verdict, run.never);
        }
        text
    }

    fn load(&self) -> String {
        let asked = &self.asked;
        let rate = self.runs.first().map_or(0.0, |run| run.rate_asked) / 1e6;
        let share = match (asked.percent, asked.measured_rate) {
            (Some(percent), Some(measured)) => format!(" ({percent:.0} % of {:.1} MB/s)", measured / 1e6),
            _ => String::new(),
        };
        format!(
            "{} partitions, RF {}, {rate:.1} MB/s{share} in records of {} bytes, {} producers, {} members; {}",
            asked.partitions, asked.replication, asked.record_bytes, asked.producers, asked.members, asked.client
        )
    }

    fn total_row(&self) -> [String; COLUMNS] {
        let total = &self.total;
        [
            "all".to_owned(),
            String::new(),
            self.runs.iter().map(|run| run.affected_partitions).sum::<usize>().to_string(),
            total.acked.to_string(),
            total.unknown.to_string(),
            format!("{}/{}/{}", total.lost, total.duplicated, total.reordered),
            spread(&total.unavailable_before),
            spread(&total.unavailable),
            spread(&total.first_ack),
            spread(&total.first_ack_all),
            String::new(),
            String::new(),
            String::new(),
        ]
    }

    fn moved(&self) -> String {
        let mut text = String::new();
        for (index, run) in self.runs.iter().enumerate() {
            let moved = &run.moved;
            let mb =
                |bytes: Option<u64>| bytes.map_or("not counted".to_owned(), |b| format!("{:.2} MB", b as f64 / 1e6));
            let before =
                moved.before_bytes_per_second.map_or(String::new(), |b| format!(" ({:.2} MB/s before)", b / 1e6));
            let _ = writeln!(
                text,
                "run {}: between brokers {}{before}, tails {}; acked meanwhile {:.2} MB, retained {:.2} MB",
                index + 1,
                mb(moved.during_bytes),
                mb(moved.tail_bytes),
                moved.during_acked_bytes as f64 / 1e6,
                moved.retained_bytes as f64 / 1e6,
            );
        }
        text
    }
}

const COLUMNS: usize = 13;
const HEAD: [&str; COLUMNS] = [
    "run",
    "node",
    "hit",
    "acked",
    "unknown",
    "lost/dup/reord",
    "noise ms",
    "unavailable ms",
    "first ack ms",
    "of all ms",
    "replaced ms",
    "balanced ms",
    "p99 ms before, during",
];

fn spread(spread: &Spread) -> String {
    format!("{:.0} {:.0} {:.0}", spread.p50_ms, spread.p99_ms, spread.max_ms)
}

fn row(number: usize, run: &Figures) -> [String; COLUMNS] {
    [
        number.to_string(),
        run.victim.to_string(),
        run.affected_partitions.to_string(),
        run.acked.to_string(),
        run.unknown.to_string(),
        format!("{}/{}/{}", run.lost, run.duplicated, run.reordered),
        spread(&run.unavailable_before),
        spread(&run.unavailable),
        spread(&run.first_ack),
        spread(&run.first_ack_all),
        run.replaced_ms.map_or("-".to_owned(), |ms| format!("{ms:.0}")),
        run.balanced_ms.map_or("no".to_owned(), |ms| format!("{ms:.0}")),
        format!("{:.0}, {:.0}", run.latency_before.p99_ms, run.latency_during.p99_ms),
    ]
}

fn columns(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}
