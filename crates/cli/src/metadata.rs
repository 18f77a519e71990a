//! `ottla metadata`: what is left to do when the quorum is lost.

use anyhow::{Context, Result};
use broker::config::BrokerConfig;
use broker::restore::RestoreRequest;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::admin::AdminArgs;
use crate::{ConfigArgs, start, tell};

/// What can be done to metadata.
#[derive(Subcommand)]
pub(crate) enum MetadataCommand {
    /// Makes this node the only voter of a new quorum, from a copy of metadata in the object store
    Restore(RestoreArgs),
    /// Lists objects in the store that only belong to the time before a restore, and deletes them if told to
    Orphans(OrphansArgs),
}

/// What a restore could not prove to be part of a stream is never deleted by itself, for it may be all that is left of something
/// (`ottla object inspect` tells what is in an object). Nothing that is listed here can become part of a stream any more.
#[derive(Args)]
pub(crate) struct OrphansArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Deletes them, for good
    #[arg(long)]
    delete: bool,
    /// Only those that were put so long ago
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    older_than: u32,
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
    match command {
        MetadataCommand::Restore(arguments) => restore(arguments),
        MetadataCommand::Orphans(arguments) => orphans(&arguments),
    }
}

fn orphans(arguments: &OrphansArgs) -> Result<()> {
    let answer = arguments.admin.ask("GET", "/orphans")?;
    if answer["restored"] == false {
        tell("metadata was never restored: brokers delete orphans by themselves");
        return Ok(());
    }
    let (mut count, mut bytes) = (0, 0);
    for epoch in answer["epochs"].as_array().into_iter().flatten() {
        let (objects, of_bytes) = orphans_of(epoch, arguments)?;
        (count, bytes) = (count + objects, bytes + of_bytes);
    }
    let OrphansArgs { delete, older_than, .. } = arguments;
    let done = if *delete { "were deleted" } else { "are part of no stream; --delete deletes them" };
    tell(&format!("{count} objects of {bytes} bytes, put at least {older_than} hours ago, {done}"));
    Ok(())
}

/// Lists the orphans of one node epoch, or deletes them, page by page; returns how many they are and of how many bytes.
fn orphans_of(epoch: &Value, OrphansArgs { admin, delete, older_than }: &OrphansArgs) -> Result<(u64, u64)> {
    let path = format!("/orphans/{epoch}/{older_than}");
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (mut count, mut bytes) = (0, 0);
    loop {
        let found = admin.ask(if *delete { "DELETE" } else { "GET" }, &path)?;
        let named: &[Value] = found["named"].as_array().map_or(&[], Vec::as_slice);
        for one in named {
            let key = one["key"].as_str().unwrap_or_default();
            tell(&format!("{key}  {} bytes, {} hours old", one["bytes"], one["age_hours"]));
        }
        let more = number(&found["count"]).saturating_sub(named.len() as u64);
        if !delete {
            if more > 0 {
                tell(&format!("and {more} others of node epoch {epoch}"));
            }
            return Ok((number(&found["count"]), number(&found["bytes"])));
        }
        count += named.len() as u64;
        bytes += named.iter().map(|one| number(&one["bytes"])).sum::<u64>();
        if more == 0 {
            return Ok((count, bytes));
        }
    }
}

fn restore(arguments: RestoreArgs) -> Result<()> {
    let RestoreArgs { node, from, cluster_id, wal, accept_data_loss } = arguments;
    // Nothing listens here, so nothing is exposed.
    let (config, _) = BrokerConfig::load(start::properties(&node)?, true)?;
    let request = RestoreRequest { from: Some(from), cluster_id, wals: wal, accept_data_loss };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(broker::restore::restore(&config, &request, &tell))?;
    Ok(())
}
