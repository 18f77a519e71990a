//! Brokers on hosts of their own, whose plugs can be pulled: network namespaces, each joined by a virtual cable to a
//! bridge in one more, as is the test's own. It needs root, and `ip`.
//!
//! What is sent while a plug is out is gone, as no proxy can make it: no reset tells anybody, connections hang and
//! are taken up again by TCP, and after three seconds the neighbours on the bridge say that there is no such host.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use drill::commands::quote;

use super::cluster::{Cluster, Options};
use super::{Process, output_of, tools};

/// Addresses that are set aside for tests of networks (RFC 2544), shared out by process id, 16 to each.
const NETWORK: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const PREFIX: u32 = 28;
/// The test's own number; brokers have 1, 2, …, and namespace 0 holds the bridge.
const TEST: u32 = 14;
/// How long brokers that start together may take until all are ready.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// The hosts of brokers 1, 2, … All are gone when this is dropped. A process has one such network at a time.
#[derive(Debug)]
pub struct Hosts {
    process: u32,
    brokers: u32,
}

impl Hosts {
    /// Makes hosts for so many brokers, and removes what tests left behind that were killed.
    ///
    /// # Errors
    /// They cannot be made here: what is missing, mostly the right to.
    pub fn make(brokers: u32) -> Result<Self> {
        let left = names().into_iter().filter_map(|name| process_of(&name));
        left.filter(|process| !Path::new(&format!("/proc/{process}")).exists()).for_each(remove);
        // What was made until something fails goes with this value.
        let hosts = Self { process: std::process::id(), brokers };
        let (hub, device) = (hosts.name(0), hosts.device());
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        ip(&format!("link add {device} type veth peer name plug{TEST} netns {hub}"))?;
        ip(&format!("address add {}/{PREFIX} dev {device}", hosts.address(TEST)))?;
        ip(&format!("link set {device} up"))?;
        hosts.join(TEST)?;
        for broker in 1..=brokers {
            let host = hosts.name(broker);
            ip(&format!("netns add {host}"))?;
            ip(&format!("-n {hub} link add plug{broker} type veth peer name eth0 netns {host}"))?;
            ip(&format!("-n {host} address add {}/{PREFIX} dev eth0", hosts.address(broker)))?;
            ip(&format!("-n {host} link set lo up"))?;
            ip(&format!("-n {host} link set eth0 up"))?;
            hosts.join(broker)?;
        }
        Ok(hosts)
    }

    fn join(&self, host: u32) -> Result<()> {
        ip(&format!("-n {} link set plug{host} master bridge", self.name(0)))?;
        self.plug(host)
    }

    /// Starts the brokers, which know each other by their hosts' addresses, and waits until they are ready.
    ///
    /// # Errors
    /// One does not start: with what was said.
    pub fn start(&self) -> Result<Cluster> {
        let mut cluster = Cluster::unstarted(&Options::default())?;
        for broker in 1..=self.brokers {
            let directory = cluster.dir().join(broker.to_string());
            std::fs::create_dir(&directory)?;
            std::fs::write(directory.join("server.properties"), self.properties(broker, cluster.dir()))?;
        }
        // Together they are a quorum: none is ready before the others run.
        let starts = (1..=self.brokers).map(|broker| {
            let mut shell = Command::new("sh");
            shell
                .arg("-c")
                .arg(format!("exec {}", self.start_command(&cluster)?.replace("{node}", &broker.to_string())));
            Process::spawn(&mut shell, &cluster.dir().join(format!("start-{broker}")))
        });
        for mut start in starts.collect::<Result<Vec<_>>>()? {
            let status = start.wait(START_PATIENCE)?;
            anyhow::ensure!(status.success(), "{}", start.output());
        }
        let address = |broker| format!("{}:9092", self.address(broker));
        cluster.bootstrap = (1..=self.brokers).map(address).collect::<Vec<_>>().join(",");
        Ok(cluster)
    }

    /// The shell command that starts broker `{node}` on its host.
    ///
    /// # Errors
    /// There is no broker to start.
    pub fn start_command(&self, cluster: &Cluster) -> Result<String> {
        let text = |path: &Path| path.to_str().map(quote).context("a path that is text");
        let (ottla, directory) = (text(&tools::ottla()?)?, text(cluster.dir())?);
        Ok(format!("ip netns exec ottla-{}-{{node}} {ottla} local restart -d {directory} {{node}}", self.process))
    }

    fn properties(&self, broker: u32, directory: &Path) -> String {
        let (address, directory) = (self.address(broker), directory.display());
        let voters: Vec<String> = (1..=self.brokers).map(|id| format!("{id}@{}:9093", self.address(id))).collect();
        format!(
            "process.roles=broker,controller\n\
             node.id={broker}\n\
             controller.quorum.voters={voters}\n\
             listeners=PLAINTEXT://{address}:9092,CONTROLLER://{address}:9093\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             ottla.insecure=true\n\
             ottla.admin.listener={address}:9644\n\
             log.dirs={directory}/{broker}/data\n\
             ottla.object.store.url=file://{directory}/store\n\
             ottla.wal.class=shared\n\
             offsets.topic.num.partitions=4\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\n",
            voters = voters.join(","),
        )
    }

    /// Pulls the plug of a broker's host.
    ///
    /// # Errors
    /// The system refuses.
    pub fn unplug(&self, broker: u32) -> Result<()> {
        ip(&format!("-n {} link set plug{broker} down", self.name(0)))
    }

    /// Puts it back.
    ///
    /// # Errors
    /// The system refuses.
    pub fn plug(&self, broker: u32) -> Result<()> {
        ip(&format!("-n {} link set plug{broker} up", self.name(0)))
    }

    fn address(&self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from(NETWORK + ((self.process & 0x1fff) << (32 - PREFIX)) + host)
    }

    fn name(&self, host: u32) -> String {
        format!("ottla-{}-{host}", self.process)
    }

    /// The test's end of its cable; 15 characters at most.
    fn device(&self) -> String {
        device(self.process)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        remove(self.process);
    }
}

fn device(process: u32) -> String {
    format!("ottla{process}")
}

/// The namespaces of all such networks.
fn names() -> Vec<String> {
    let listed = output_of(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| process_of(name).is_some()).map(str::to_owned).collect()
}

/// The test whose namespace has this name.
fn process_of(name: &str) -> Option<u32> {
    name.strip_prefix("ottla-")?.split_once('-')?.0.parse().ok()
}

/// Removes the network of a process, with the brokers that still run there.
fn remove(process: u32) {
    // What cannot be removed is not there.
    let _ = ip(&format!("link delete {}", device(process)));
    for name in names().iter().filter(|name| process_of(name) == Some(process)) {
        let pids = output_of(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
        for pid in pids.split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
        let _ = ip(&format!("netns delete {name}"));
    }
}

fn ip(words: &str) -> Result<()> {
    output_of(Command::new("ip").args(words.split(' '))).with_context(|| format!("ip {words}")).map(drop)
}
