//! One `ottla start`, with everything about it in the test's hands: its directories, its limits, its end.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Process, free_port, tools, wait_until};
use crate::http;

/// Longer than any start may take on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How to start a broker.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// `key=value` properties, beside the listeners.
    pub properties: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Shell words before the broker, which must `exec` what follows them: for limits and mounts.
    pub wrapper: Option<String>,
}

/// A running broker; killed when dropped. Its data stays with the directory it was given.
#[derive(Debug)]
pub struct Broker {
    /// The process.
    pub process: Process,
    /// Where it speaks Kafka, `host:port`.
    pub bootstrap: String,
    /// Where it speaks HTTP, `host:port`.
    pub admin: String,
    port: u16,
    dir: PathBuf,
    start: Start,
}

/// The command that starts a broker in `dir/data` on a port.
///
/// # Errors
/// The broker does not build.
pub fn command(dir: &Path, port: u16, admin_port: u16, start: &Start) -> Result<Command> {
    let mut words = vec![tools::ottla()?.display().to_string(), "start".to_owned()];
    words.extend(["--data-dir".to_owned(), dir.join("data").display().to_string()]);
    let listeners =
        [format!("listeners=PLAINTEXT://127.0.0.1:{port}"), format!("ottla.admin.listener=127.0.0.1:{admin_port}")];
    for property in listeners.iter().chain(&start.properties) {
        words.extend(["-x".to_owned(), property.clone()]);
    }
    let mut command = match &start.wrapper {
        None => Command::new(&words[0]),
        Some(wrapper) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{wrapper} \"$@\""), "sh", &words[0]]);
            shell
        }
    };
    command.args(&words[1..]).envs(start.env.iter().cloned());
    Ok(command)
}

impl Broker {
    /// Starts a broker whose files go to `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// It ends or is not ready within a minute: with what it said.
    pub fn start(dir: &Path, start: &Start) -> Result<Self> {
        Self::start_on(dir, free_port()?, start)
    }

    fn start_on(dir: &Path, port: u16, start: &Start) -> Result<Self> {
        let admin_port = free_port()?;
        let process = Process::spawn(&mut command(dir, port, admin_port, start)?, &dir.join("log"))?;
        let bootstrap = format!("127.0.0.1:{port}");
        let admin = format!("127.0.0.1:{admin_port}");
        let mut broker = Self { process, bootstrap, admin, port, dir: dir.to_owned(), start: start.clone() };
        let mut ended = None;
        wait_until(START_PATIENCE, "the broker is ready", || {
            ended = broker.process.ended().ok().flatten();
            ended.is_some() || http::get(&broker.admin, "/ready").is_ok_and(|answer| answer.status == 200)
        })
        .with_context(|| broker.process.output())?;
        match ended {
            Some(status) => bail!("the broker ended with {status}: {}", broker.process.output()),
            None => Ok(broker),
        }
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// It does not end within `patience`.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.process.terminate()?;
        self.process.wait(patience)
    }

    /// Starts the ended broker again, on the same ports and directories.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn again(self) -> Result<Self> {
        let (dir, port, start) = (self.dir.clone(), self.port, self.start.clone());
        drop(self);
        Self::start_on(&dir, port, &start)
    }

    /// Peak resident memory in bytes.
    ///
    /// # Errors
    /// The process has ended.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.split_whitespace().next().context("a number")?.parse::<u64>()? * 1024)
    }
}
