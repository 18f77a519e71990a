//! `ottla local`: a throw-away cluster on this machine, for client suites and for trying things out. A node's
//! directory `DIR/ID` holds `pid`, `log`, `server.properties` and `data`; `DIR/store` is the object store.

mod node;
mod properties;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use self::node::Node;
use self::properties::{Override, server_properties};
use crate::tell;

/// What can be done to a local cluster.
#[derive(Subcommand)]
pub(crate) enum LocalCommand {
    /// Starts a cluster and prints its bootstrap servers when every node is ready
    Start(StartArgs),
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
    /// Keeps metadata on a controller of its own; without meaning while a cluster has one node
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
        LocalCommand::Stop { cluster, id } => stop(cluster, id),
        LocalCommand::Kill { cluster, id } => Node::of(&cluster.dir, id)?.kill(),
        LocalCommand::Restart { cluster, id } => {
            let node = Node::of(&cluster.dir, id)?;
            node.launch()?.wait_ready()
        }
    }
}

fn start(arguments: &StartArgs) -> Result<()> {
    if arguments.nodes != 1 {
        bail!("-n {}: this version runs exactly one node; clusters come in a later one", arguments.nodes);
    }
    let overrides =
        arguments.properties.iter().map(|text| Override::parse(text)).collect::<Result<Vec<Override<'_>>>>()?;
    let node = Node::of(&arguments.cluster.dir, arguments.first)?;
    let text = server_properties(node.cluster_directory(), arguments.first, arguments.port, &overrides)?;
    node.configure(&text)?;
    node.launch()?.wait_ready()?;
    tell(&format!("127.0.0.1:{}", arguments.port));
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
