//! Reads everything back when nothing happens any more.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use protocol::errors::ErrorCode;

use super::follower::fetch;
use super::router::Router;
use crate::world::{Phase, World};

/// Who reads `partition` back.
#[must_use]
pub fn name(partition: u32) -> String {
    format!("read{partition}")
}

/// Reads the whole of `partition` once the run is that far.
pub async fn run(world: Arc<World>, partition: u32) -> turmoil::Result {
    let name = name(partition);
    while world.phase() < Phase::ReadBack {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut router = Router::new(&world, name.clone());
    loop {
        match read_back(&mut router, partition).await {
            Ok(()) => break,
            Err(reason) => router.trace(&reason.to_string()),
        }
        router.pause().await;
    }
    world.done(&name);
    Ok(())
}

async fn read_back(router: &mut Router, partition: u32) -> Result<()> {
    let (mut position, mut found) = (0, Vec::new());
    loop {
        let fetched = fetch(router, partition, position, Duration::ZERO).await?;
        ensure!(fetched.error == Some(ErrorCode::None), "partition {partition}: {:?}", fetched.error);
        let records = super::records(&fetched.records, position);
        position = records.last().map_or(position, |(offset, _)| offset + 1);
        let is_end = records.is_empty() && position >= fetched.end;
        found.extend(records);
        if is_end {
            router.world.judge.read_back(partition, 0, fetched.end, &found);
            router.trace(&format!("partition {partition} holds {} records, ends at {}", found.len(), fetched.end));
            return Ok(());
        }
    }
}
