//! `ottla metadata`: what is left to do when the quorum is lost.

use anyhow::{Context, Result};
use broker::config::BrokerConfig;
use broker::restore::RestoreRequest;
use clap::{Args, Subcommand};

use crate::{ConfigArgs, start, tell};

/// What can be done to metadata.
#[derive(Subcommand)]
pub(crate) enum MetadataCommand {
    /// Makes this node the only voter of a new quorum, from a copy of metadata in the object store
    Restore(RestoreArgs),
}

/// For when the metadata logs of all voters are lost, or of so many that no majority is left. Stop every node that votes first. What was
/// done after the copy was taken is found again in the object store and in write-ahead logs as far as they prove it; the
/// command tells, partition by partition, what it found. Nothing is changed where records may be missing that were
/// acknowledged, unless --accept-data-loss says so.
#[derive(Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    node: ConfigArgs,
    /// Key of the copy, or the newest one that is sound
    #[arg(long, value_name = "KEY|latest", default_value = "latest")]
    from: String,
    /// The cluster, where neither meta.properties nor the store tells
    #[arg(long, value_name = "ID")]
    cluster_id: Option<String>,
    /// Where a write-ahead log of another node, or a copy of it, can be read; may be repeated
    #[arg(long, value_name = "URL")]
    wal: Vec<String>,
    /// Go on although acknowledged records may be missing
    #[arg(long)]
    accept_data_loss: bool,
}

/// Does it.
pub(crate) fn run(command: MetadataCommand) -> Result<()> {
    let MetadataCommand::Restore(arguments) = command;
    let RestoreArgs { node, from, cluster_id, wal, accept_data_loss } = arguments;
    // Nothing listens here, so nothing is exposed.
    let (config, _) = BrokerConfig::load(start::properties(&node)?, true)?;
    let request = RestoreRequest { from: Some(from), cluster_id, wals: wal, accept_data_loss };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(broker::restore::restore(&config, &request, &tell))?;
    Ok(())
}
