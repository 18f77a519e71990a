//! `ottla local`: a throw-away cluster on this machine, for client suites and for trying things out. A node's
//! directory `DIR/ID` holds `pid`, `log`, `server.properties` and `data`; `DIR/store` is the object store.

mod node;
mod properties;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use self::node::Node;
use self::properties::{Layout, Override, server_properties};
use crate::tell;

/// Most nodes of a local cluster.
const NODES_MAX: u32 = 5;

/// What can be done to a local cluster.
#[derive(Subcommand)]
pub(crate) enum LocalCommand {
    /// Starts a cluster and prints its bootstrap servers when every node is ready
    Start(StartArgs),
    /// Starts one broker more, which joins the cluster, and waits until it is ready
    Add {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Its number, above those that there are
        id: u32,
    },
    /// Stops all nodes or one gracefully, and waits
    Stop {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The node; all of them if absent
        id: Option<u32>,
    },
    /// Kills one node as a crash would
    Kill {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The node
        id: u32,
    },
    /// Starts a stopped or killed node again and waits until it is ready
    Restart {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The node
        id: u32,
    },
}

/// Where a cluster lives.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    /// The cluster's directory
    #[arg(short = 'd', value_name = "DIR", default_value = "/tmp/ottla-local")]
    dir: PathBuf,
}

/// Nodes are numbered from FIRST; the k-th listens on 127.0.0.1:PORT+k-1. `ID:` before a property sets it on one
/// node; `{node}` in a value stands for the node's number.
#[derive(Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How many nodes
    #[arg(short = 'n', value_name = "NODES", default_value_t = 1)]
    nodes: u32,
    /// Port of the first node
    #[arg(short = 'p', value_name = "PORT", default_value_t = 19092)]
    port: u16,
    /// Number of the first node
    #[arg(short = 'i', value_name = "FIRST", default_value_t = 1)]
    first: u32,
    /// Keeps metadata on a controller of its own (node 3000, on PORT+100), which lives whatever broker stops
    #[arg(short = 'c')]
    controller_apart: bool,
    /// Accepted and ignored: there is no heap to size
    #[arg(short = 'm', value_name = "HEAP")]
    heap: Option<String>,
    /// Sets a property; may be repeated
    #[arg(short = 'x', value_name = "[ID:]KEY=VALUE")]
    properties: Vec<String>,
}

/// Does it.
pub(crate) fn run(command: LocalCommand) -> Result<()> {
    match command {
        LocalCommand::Start(arguments) => start(&arguments),
        LocalCommand::Add { cluster, id } => add(&cluster, id),
        LocalCommand::Stop { cluster, id } => stop(cluster, id),
        LocalCommand::Kill { cluster, id } => Node::of(&cluster.dir, id)?.kill(),
        LocalCommand::Restart { cluster, id } => {
            let node = Node::of(&cluster.dir, id)?;
            node.launch()?.wait_ready()
        }
    }
}

fn start(arguments: &StartArgs) -> Result<()> {
    if !(1..=NODES_MAX).contains(&arguments.nodes) {
        bail!("-n {}: from 1 to {NODES_MAX} nodes", arguments.nodes);
    }
    let overrides =
        arguments.properties.iter().map(|text| Override::parse(text)).collect::<Result<Vec<Override<'_>>>>()?;
    let directory = std::path::absolute(&arguments.cluster.dir)?;
    let layout = Layout {
        directory: &directory,
        nodes: arguments.nodes,
        first: arguments.first,
        port: arguments.port,
        apart: arguments.controller_apart,
    };
    layout.write(&arguments.properties)?;
    let nodes: Vec<Node> = layout.ids().into_iter().map(|id| Node::of(&directory, id)).collect::<Result<_>>()?;
    for (node, id) in nodes.iter().zip(layout.ids()) {
        node.configure(&server_properties(&layout, id, &overrides)?)?;
    }
    // All run before any is waited for: together they are a quorum.
    let launched = nodes.iter().map(Node::launch).collect::<Result<Vec<_>>>()?;
    launched.into_iter().try_for_each(node::Launched::wait_ready)?;
    let ports = layout.brokers().map(|id| Ok(format!("127.0.0.1:{}", layout.client_port(id)?)));
    tell(&ports.collect::<Result<Vec<_>>>()?.join(","));
    Ok(())
}

fn add(cluster: &ClusterArgs, id: u32) -> Result<()> {
    let directory = std::path::absolute(&cluster.dir)?;
    let (layout, properties) = Layout::read(&directory)?;
    if id < layout.brokers().end {
        bail!("node {id} is one of those that the cluster was started with: restart it");
    }
    let overrides = properties.lines().map(Override::parse).collect::<Result<Vec<_>>>()?;
    let node = Node::of(&directory, id)?;
    node.configure(&server_properties(&layout, id, &overrides)?)?;
    node.launch()?.wait_ready()?;
    tell(&format!("127.0.0.1:{}", layout.client_port(id)?));
    Ok(())
}

fn stop(cluster: ClusterArgs, id: Option<u32>) -> Result<()> {
    let nodes = match id {
        Some(id) => vec![Node::of(&cluster.dir, id)?],
        None => Node::all(&cluster.dir)?,
    };
    // All are told before any is waited for.
    let stopping: Vec<_> = nodes.iter().map(Node::terminate).collect::<Result<_>>()?;
    stopping.into_iter().flatten().try_for_each(node::Stopping::wait)
}
