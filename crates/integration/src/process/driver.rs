//! The franz-go chaos program as a child: producers, group members and an observer that write one history.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{tools, wait_until};
use crate::history::{History, Limits, Verdict, replay};

/// How much the driver has seen so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Records acknowledged.
    pub acked: u64,
    /// Records handed to group members.
    pub polled: u64,
    /// Commits acknowledged, by partition.
    pub commits: u64,
    /// Records whose producer gave up.
    pub unknown: u64,
}

/// A running driver; killed when dropped.
pub struct Driver {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    dir: PathBuf,
    patience: Duration,
}

impl Driver {
    /// Starts a driver whose files go to `dir`, and waits until records are acked, consumed and committed.
    ///
    /// # Errors
    /// It does not build, or does not get so far within a minute.
    pub fn start(bootstrap: &str, dir: &Path, arguments: &[&str], patience: Duration) -> Result<Self> {
        let mut command = Command::new(tools::kgo_driver()?);
        command.args(["chaos", "-bootstrap", bootstrap, "-history"]).arg(dir.join("history.jsonl"));
        command.args(["-patience", &format!("{}s", patience.as_secs())]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(dir.join("driver.log"))?);
        let mut child = command.spawn().context("the driver runs")?;
        let input = child.stdin.take().context("piped")?;
        let output = child.stdout.take().context("piped")?;
        let (sender, lines) = sync_channel(64);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut driver = Self { child, input, lines, dir: dir.to_owned(), patience };
        driver.expect("ready", Duration::from_secs(60))?;
        Ok(driver)
    }

    fn expect(&mut self, word: &str, patience: Duration) -> Result<String> {
        loop {
            match self.lines.recv_timeout(patience) {
                Ok(line) if line.split(' ').next() == Some(word) => return Ok(line),
                Ok(_) => {}
                Err(_) => bail!("the driver did not say {word:?} within {patience:?}: {}", self.log()),
            }
        }
    }

    /// What the driver complained about.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("driver.log")).unwrap_or_default()
    }

    /// Asks how much was seen.
    ///
    /// # Errors
    /// The driver has ended or does not answer.
    pub fn counts(&mut self) -> Result<Counts> {
        writeln!(self.input, "status").with_context(|| self.log())?;
        let line = self.expect("status", Duration::from_secs(10))?;
        counts(&line)
    }

    /// Lets the load run until `records` more are acked and consumed.
    ///
    /// # Errors
    /// They are not within the driver's patience, or it has ended.
    pub fn let_run(&mut self, records: u64) -> Result<()> {
        let from = self.counts()?;
        let mut failed = None;
        let waited = wait_until(self.patience, "more records are acked and consumed", || match self.counts() {
            Ok(now) => now.acked >= from.acked + records && now.polled >= from.polled + records,
            Err(error) => failed.replace(error).is_none(),
        });
        failed.map_or(waited, Err).with_context(|| self.log())
    }

    /// [`Self::finish`] where no client may have seen anything wrong.
    ///
    /// # Errors
    /// As there; the history shows a defect, or a producer gave up.
    pub fn finish_clean(self) -> Result<Verdict> {
        let (counts, verdict) = self.finish()?;
        ensure!(verdict.is_clean(), "{verdict}");
        ensure!(counts.unknown == 0, "producers gave up on {} records: {verdict}", counts.unknown);
        Ok(verdict)
    }

    /// Ends the load, lets the driver drain the group and read everything back, and judges its history.
    ///
    /// # Errors
    /// The driver fails, or its history cannot be judged.
    pub fn finish(mut self) -> Result<(Counts, Verdict)> {
        writeln!(self.input, "stop").with_context(|| self.log())?;
        let line = self.expect("done", self.patience * 4)?;
        ensure!(self.child.wait()?.success(), "the driver failed: {}", self.log());
        let mut history = History::new(Limits::default());
        replay(&mut history, BufReader::new(File::open(self.dir.join("history.jsonl"))?))?;
        Ok((counts(&line)?, history.finish()))
    }
}

fn counts(line: &str) -> Result<Counts> {
    let numbers: Vec<u64> = line.split(' ').skip(1).map(str::parse).collect::<std::result::Result<_, _>>()?;
    let [acked, polled, commits, unknown] = numbers[..] else { bail!("not four counts: {line}") };
    Ok(Counts { acked, polled, commits, unknown })
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
