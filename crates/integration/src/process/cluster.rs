//! A throw-away local cluster, run through the launcher interface that `ottla local` and `tools/kafka/kafka` share:
//! what is shown on Ottla can be tried on Apache Kafka, by setting `OTTLA_PEER=kafka`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{free_port, output_of, tools, wait_until};

/// Whether tests run against Apache Kafka instead of Ottla.
#[must_use]
pub fn peer_is_kafka() -> bool {
    std::env::var("OTTLA_PEER").is_ok_and(|peer| peer == "kafka")
}

/// A running cluster, of one node unless more were asked for, killed when dropped. Its files are in a directory of their own.
#[derive(Debug)]
pub struct Cluster {
    launcher: Vec<PathBuf>,
    dir: tempfile::TempDir,
    /// `host:port`.
    pub bootstrap: String,
    env: Vec<(String, String)>,
}

/// What [`Cluster::start`] may be given beside nothing.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// How many brokers; 0 means one.
    pub brokers: u32,
    /// Broker properties, `key=value`.
    pub properties: Vec<String>,
    /// Environment of the broker.
    pub env: Vec<(String, String)>,
    /// Where to put its files; the system's place for temporary files if `None`.
    pub parent: Option<PathBuf>,
    /// Port of the first broker, the others' follow; any that are free if `None`.
    pub first_port: Option<u16>,
    /// The program they are started with; the broker that is tested if `None`.
    pub ottla: Option<PathBuf>,
}

impl Cluster {
    /// Starts the nodes and waits until they are ready.
    ///
    /// # Errors
    /// It does not build or start: with what it said.
    pub fn start(options: &Options) -> Result<Self> {
        let mut cluster = Self::unstarted(options)?;
        let brokers = options.brokers.max(1);
        let ports = || free_ports(brokers.try_into().context("more brokers than ports")?);
        let port = options.first_port.map_or_else(ports, Ok)?.to_string();
        let brokers = brokers.to_string();
        let mut arguments = vec!["-n", &brokers, "-p", &port];
        for property in &options.properties {
            arguments.extend(["-x", property]);
        }
        let answer = cluster.run("start", &arguments)?;
        cluster.bootstrap = answer.lines().last().context("start prints the bootstrap servers")?.to_owned();
        Ok(cluster)
    }

    /// A cluster with a directory, and without nodes.
    pub(super) fn unstarted(options: &Options) -> Result<Self> {
        let local = |ottla| vec![ottla, PathBuf::from("local")];
        let launcher = match &options.ottla {
            Some(ottla) => local(ottla.clone()),
            None if peer_is_kafka() => vec![tools::kafka()],
            None => local(tools::ottla()?),
        };
        let dir = match &options.parent {
            Some(parent) => tempfile::tempdir_in(parent)?,
            None => tempfile::tempdir()?,
        };
        Ok(Self { launcher, dir, bootstrap: String::new(), env: options.env.clone() })
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.launcher[0]);
        command.args(&self.launcher[1..]).arg(verb).arg("-d").arg(self.dir.path()).args(arguments);
        command.envs(self.env.iter().cloned());
        output_of(&mut command).with_context(|| format!("{verb}: log of the node:\n{}", self.log()))
    }

    /// Sends SIGKILL to the node.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let pid = self.pid()?;
        self.run("kill", &["1"])?;
        // A dying process holds its port for a while: whoever connects then takes it for the next one.
        let silent = || std::net::TcpStream::connect(&self.bootstrap).is_err();
        wait_until(Duration::from_secs(30), "the killed node is gone", || gone(pid) && silent())
    }

    /// Sends SIGTERM to the node and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&self) -> Result<()> {
        self.run("stop", &["1"]).map(drop)
    }

    /// Sends SIGTERM to all nodes at once and waits for their ends.
    ///
    /// # Errors
    /// One does not end by itself.
    pub fn stop_all(&self) -> Result<()> {
        self.run("stop", &[]).map(drop)
    }

    /// Starts the killed or stopped node again and waits until it is ready.
    ///
    /// # Errors
    /// It does not start: with what it said.
    pub fn restart(&self) -> Result<()> {
        self.run("restart", &["1"]).map(drop)
    }

    /// Sends SIGKILL to one of the nodes.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_node(&self, node: u32) -> Result<()> {
        self.run("kill", &[&node.to_string()]).map(drop)
    }

    /// Starts one of the nodes again and waits until it is ready.
    ///
    /// # Errors
    /// It does not start: with what it said.
    pub fn restart_node(&self, node: u32) -> Result<()> {
        self.run("restart", &[&node.to_string()]).map(drop)
    }

    /// The node's process id.
    ///
    /// # Errors
    /// It never ran.
    pub fn pid(&self) -> Result<u32> {
        Ok(std::fs::read_to_string(self.node().join("pid"))?.trim().parse()?)
    }

    /// The node's directory: `pid`, `log`, `server.properties` and `data` are in it.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.dir.path().join("1")
    }

    /// The cluster's directory; the object store that nodes share is `store` in it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the node has logged, the end of it.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.node().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// The first of `brokers` ports in a row that nobody has, as nobody has the controllers' ports that go with them.
pub(super) fn free_ports(brokers: u16) -> Result<u16> {
    let is_free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let first = free_port()?;
        if first < u16::MAX - 200 && (0..brokers).all(|k| is_free(first + k) && is_free(first + 101 + k)) {
            return Ok(first);
        }
    }
}

/// Whether a process has ended, be it that nobody has asked for its status yet.
fn gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(id) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) {
                // A node that a test killed is dead already.
                let _ = self.run("kill", &[id]);
            }
        }
    }
}
