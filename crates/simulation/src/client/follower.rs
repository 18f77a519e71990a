//! A reader without a group: follows one partition from its beginning, and sees that what it is told never falls back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use common::Random as _;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use protocol::errors::ErrorCode;

use super::router::{PATIENCE, Router};
use crate::world::{Phase, World};

/// Version of Fetch: the last one that names topics.
pub const FETCH: i16 = 12;

/// One in so many fetches of a follower is its last before it begins anew.
const AGAIN: u64 = 40;

/// What a partition answered.
pub struct Fetched {
    /// Its error.
    pub error: Option<ErrorCode>,
    /// Its high watermark.
    pub end: u64,
    /// Batches.
    pub records: Bytes,
}

/// A request for one partition.
#[must_use]
pub fn fetch_request(partition: u32, epoch: i32, offset: u64, wait: Duration) -> FetchRequest {
    let one = FetchPartition::default()
        .with_partition(partition.cast_signed())
        .with_current_leader_epoch(epoch)
        .with_fetch_offset(offset.cast_signed())
        .with_partition_max_bytes(256 << 10);
    let topic = FetchTopic::default().with_topic(super::topic()).with_partitions(vec![one]);
    FetchRequest::default()
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(0))
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// Fetches one partition from its leader; forgets a leader that is none.
///
/// # Errors
/// There was no answer.
pub async fn fetch(router: &mut Router, partition: u32, offset: u64, wait: Duration) -> Result<Fetched> {
    let fetched = try_fetch(router, partition, offset, wait).await;
    if !matches!(&fetched, Ok(Fetched { error: Some(ErrorCode::None), .. })) {
        router.forget(partition);
    }
    fetched
}

async fn try_fetch(router: &mut Router, partition: u32, offset: u64, wait: Duration) -> Result<Fetched> {
    let leader = router.leader(partition).await?;
    let request = fetch_request(partition, leader.epoch, offset, wait);
    let answer = router.ask(&leader.address, &request, FETCH, PATIENCE + wait).await?;
    let code = answer.error_code;
    anyhow::ensure!(code == 0, "fetch refused: error {code}");
    let topic = answer.responses.first().context("a topic")?;
    let one = topic.partitions.first().context("a partition")?;
    Ok(Fetched {
        error: ErrorCode::from_code(one.error_code),
        end: u64::try_from(one.high_watermark).unwrap_or(0),
        records: one.records.clone().unwrap_or_default(),
    })
}

/// Follows `partition` until readers are told to stop.
pub async fn run(world: Arc<World>, number: u32, partition: u32) -> turmoil::Result {
    let mut router = Router::new(&world, format!("f{number}-{partition}"));
    let mut position = 0;
    while world.phase() < Phase::ReadBack {
        if world.phase() == Phase::Start {
            tokio::time::sleep(Duration::from_millis(50)).await;
        } else if let Err(reason) = follow(&mut router, partition, &mut position).await {
            router.trace(&format!("partition {partition}: {reason}"));
            router.pause().await;
        } else if number > 0 && world.phase() == Phase::Faults && world.random.below(AGAIN) == 0 {
            // What is far back lies in objects, and nobody else reads it while the store is in trouble.
            router.trace(&format!("partition {partition}: from the beginning"));
            position = 0;
        }
    }
    Ok(())
}

async fn follow(router: &mut Router, partition: u32, position: &mut u64) -> Result<()> {
    let asked = router.world.judge.asking(partition);
    let fetched = fetch(router, partition, *position, Duration::from_millis(400)).await?;
    let world = Arc::clone(&router.world);
    match fetched.error {
        Some(ErrorCode::None) => {}
        Some(ErrorCode::OffsetOutOfRange) => {
            let what = format!("partition {partition}: {position} is out of range after it was read up to there");
            if !world.judge.may_be_stale() {
                world.judge.complain(what.clone());
            }
            bail!("{what}");
        }
        error => {
            if !error.is_some_and(ErrorCode::retriable) {
                world.judge.complain(format!("partition {partition}: a fetch was answered {error:?}"));
            }
            bail!("{error:?}");
        }
    }
    world.judge.end(partition, fetched.end, &asked);
    let records = super::records(&fetched.records, *position);
    for (offset, value) in &records {
        if offset != position {
            world.judge.complain(format!("partition {partition}: asked for {position}, got {offset}"));
        }
        if *offset >= fetched.end {
            let what = format!("partition {partition}: {offset} was handed out above the end {}", fetched.end);
            world.judge.complain(what);
        }
        world.judge.followed(partition, *offset, *value);
        *position = offset + 1;
    }
    if !records.is_empty() {
        router.trace(&format!("partition {partition} read to {position} of {}", fetched.end));
    }
    Ok(())
}
