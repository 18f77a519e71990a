//! Real processes for tests: started on loopback, ended with the value that stands for them, by their own
//! process id and no other way.

pub mod broker;
pub mod cluster;
pub mod driver;
pub mod hosts;
pub mod moto;
pub mod s3;
pub mod stop_at;
pub mod tools;
pub mod wires;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::{Clock, SystemClock};

/// A process whose output goes to a file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs `command` with its output appended to `log`.
    ///
    /// # Errors
    /// The program or the log file cannot be opened.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).context("log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The status, if the process has ended.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// There is no such process.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// Sends a signal by name, as `kill` takes it.
    ///
    /// # Errors
    /// There is no such process.
    pub fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { bail!("kill -{name} {}: {status}", self.id()) }
    }

    /// Sends SIGKILL and waits.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        // A process that has just ended by itself is as dead.
        let _ = self.child.kill();
        self.child.wait()
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// It does not within `patience`; it is left running.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(patience, "the process ends", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })
        .with_context(|| format!("output: {}", self.output()))?;
        status.context("ended")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Asks `condition` every few milliseconds until it holds.
///
/// # Errors
/// It does not within `patience`; `what` names it.
pub fn wait_until(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let end = SystemClock.boot() + patience;
    while !condition() {
        if SystemClock.boot() > end {
            bail!("waited {patience:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It cannot be run, or fails: with the end of what it wrote to standard error.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        bail!("{name} ended with {}\n{}\n{}", output.status, tail(&out), tail(&err));
    }
    Ok(text(&output.stdout))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// None is.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
