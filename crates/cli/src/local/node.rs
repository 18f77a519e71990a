//! One node of a local cluster: its files, and its process, which outlives the command that started it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use common::{Clock, SystemClock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::start::READY_FILE;

/// How long a node may take until it is ready.
const START_WAIT: Duration = Duration::from_secs(180);
/// How long a node may take to stop before it is killed; a graceful stop ends within half of it.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// How often a starting node is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// How much of its log is shown when a node does not start.
const LOG_TAIL_BYTES: u64 = 4096;

/// A node's place on disk.
pub(crate) struct Node {
    id: u32,
    cluster: PathBuf,
}

/// A node that has been launched.
pub(crate) struct Launched<'a> {
    node: &'a Node,
    child: Child,
    log_start: u64,
}

/// A node that was told to stop.
pub(crate) struct Stopping {
    id: u32,
    process: Process,
}

/// A running process, held so that its number cannot become another's in the meantime.
struct Process {
    handle: OwnedFd,
}

impl Node {
    /// The node with that number in a cluster's directory.
    pub(crate) fn of(cluster: &Path, id: u32) -> Result<Self> {
        let cluster = std::path::absolute(cluster).with_context(|| format!("-d {}", cluster.display()))?;
        Ok(Self { id, cluster })
    }

    /// All nodes that ever ran in a cluster's directory; none if there is no such directory.
    pub(crate) fn all(cluster: &Path) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(cluster) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("-d {}", cluster.display())),
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
                nodes.push(Self::of(cluster, id)?);
            }
        }
        nodes.sort_by_key(|node| node.id);
        Ok(nodes)
    }

    fn directory(&self) -> PathBuf {
        self.cluster.join(self.id.to_string())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Writes the node's properties.
    pub(crate) fn configure(&self, properties: &str) -> Result<()> {
        if self.process()?.is_some() {
            bail!("node {} already runs in {}", self.id, self.directory().display());
        }
        let directory = self.directory();
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let path = self.file("server.properties");
        fs::write(&path, properties).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts the node's process, in a process group of its own so that what ends this command leaves it alone.
    pub(crate) fn launch(&self) -> Result<Launched<'_>> {
        if self.process()?.is_some() {
            bail!("node {} already runs in {}", self.id, self.directory().display());
        }
        let properties = self.file("server.properties");
        if !properties.exists() {
            bail!("there is no node {} in {}", self.id, self.cluster.display());
        }
        match fs::remove_file(self.file(READY_FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", self.file(READY_FILE).display()));
            }
            _ => {}
        }
        let path = self.file("log");
        let log = OpenOptions::new().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let log_start = log.metadata()?.len();
        let program = std::env::current_exe().context("cannot find my own program")?;
        let child = Command::new(&program)
            .arg("start")
            .arg("--config")
            .arg(&properties)
            .arg("--state-dir")
            .arg(self.directory())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let path = self.file("pid");
        fs::write(&path, format!("{}\n", child.id())).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Launched { node: self, child, log_start })
    }

    /// The node's process if it runs: its number may long be another's, so that the command line is looked at.
    fn process(&self) -> Result<Option<Process>> {
        let path = self.file("pid");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let number = text.trim().parse().ok().filter(|number| *number > 0);
        let Some(pid) = number.and_then(Pid::from_raw) else { return Ok(None) };
        // Held first, looked at second: what was looked at is what is held.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let properties = self.file("server.properties");
        let is_ours =
            command.split(|byte| *byte == 0).any(|argument| argument == properties.as_os_str().as_encoded_bytes());
        Ok(is_ours.then_some(Process { handle }))
    }

    /// Tells the node to stop gracefully, if it runs.
    pub(crate) fn terminate(&self) -> Result<Option<Stopping>> {
        let Some(process) = self.process()? else { return Ok(None) };
        process.signal(Signal::TERM)?;
        Ok(Some(Stopping { id: self.id, process }))
    }

    /// Kills the node and waits until nothing of it is left.
    pub(crate) fn kill(&self) -> Result<()> {
        let process = self.process()?;
        let process =
            process.ok_or_else(|| anyhow!("node {} does not run in {}", self.id, self.directory().display()))?;
        process.signal(Signal::KILL)?;
        match process.wait(STOP_WAIT)? {
            true => Ok(()),
            false => bail!("node {} was killed and is still there", self.id),
        }
    }
}

impl Launched<'_> {
    /// Waits until the node says that it is ready. If it ends instead, tells what its log says.
    pub(crate) fn wait_ready(mut self) -> Result<()> {
        let ready = self.node.file(READY_FILE);
        let deadline = SystemClock.boot() + START_WAIT;
        while !ready.exists() {
            if let Some(status) = self.child.try_wait().context("cannot wait for the node")? {
                bail!("node {} did not start ({status}):\n{}", self.node.id, self.log_tail()?);
            }
            if SystemClock.boot() > deadline {
                bail!("node {} was not ready in time:\n{}", self.node.id, self.log_tail()?);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// What the node has logged since its launch, or the end of that.
    fn log_tail(&self) -> Result<String> {
        let mut log = File::open(self.node.file("log"))?;
        let from = log.metadata()?.len().saturating_sub(LOG_TAIL_BYTES).max(self.log_start);
        log.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        log.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }
}

impl Stopping {
    /// Waits for the end; a node that does not find it is killed, as a crash would.
    pub(crate) fn wait(self) -> Result<()> {
        if self.process.wait(STOP_WAIT)? {
            return Ok(());
        }
        self.process.signal(Signal::KILL)?;
        self.process.wait(STOP_WAIT)?;
        bail!("node {} did not stop within {} s and was killed", self.id, STOP_WAIT.as_secs())
    }
}

impl Process {
    fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            // It is gone already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context("cannot signal the node"),
        }
    }

    /// Whether the process has ended by the time.
    fn wait(&self, at_most: Duration) -> Result<bool> {
        let deadline = SystemClock.boot() + at_most;
        loop {
            let left = deadline.saturating_sub(SystemClock.boot());
            let timeout = Timespec::try_from(left).context("cannot wait that long")?;
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for the node"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(directory: &tempfile::TempDir) -> Node {
        let node = Node::of(directory.path(), 7).expect("path");
        fs::create_dir_all(node.directory()).expect("directory");
        node
    }

    #[test]
    fn another_process_is_never_taken_for_the_node() {
        let directory = tempfile::tempdir().expect("directory");
        let node = node(&directory);
        for text in [std::process::id().to_string(), "0".to_owned(), "-1".to_owned(), "x".to_owned(), String::new()] {
            fs::write(node.file("pid"), &text).expect("pid");
            assert!(node.process().expect("readable").is_none(), "{text}");
        }
        assert!(node.kill().is_err());
        assert!(node.terminate().expect("readable").is_none());
    }

    #[test]
    fn the_nodes_own_process_is_found_stopped_and_killed() {
        let directory = tempfile::tempdir().expect("directory");
        let node = node(&directory);
        for signal in ["term", "kill"] {
            // `sh` keeps the extra argument in its command line, where the node's properties would stand.
            let mut child = Command::new("sh")
                .args(["-c", "read line"])
                .arg(node.file("server.properties"))
                .stdin(Stdio::piped())
                .spawn()
                .expect("sh");
            fs::write(node.file("pid"), child.id().to_string()).expect("pid");
            // Until `exec` the command line is the test's own.
            while node.process().expect("readable").is_none() {
                std::thread::yield_now();
            }
            match signal {
                "term" => node.terminate().expect("readable").expect("runs").wait().expect("ends"),
                _ => node.kill().expect("killed"),
            }
            assert!(!child.wait().expect("reaped").success());
            assert!(node.process().expect("readable").is_none());
        }
    }

    #[test]
    fn nodes_are_found_by_their_directories() {
        let directory = tempfile::tempdir().expect("directory");
        for name in ["10", "2", "store"] {
            fs::create_dir(directory.path().join(name)).expect("directory");
        }
        let ids: Vec<u32> = Node::all(directory.path()).expect("readable").iter().map(|node| node.id).collect();
        assert_eq!(ids, [2, 10]);
        assert!(Node::all(&directory.path().join("absent")).expect("no directory").is_empty());
    }
}
