//! Asks every broker, also those that no client would ask any more, who leads and where partitions end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use common::NodeId;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, MetadataResponse};

use super::router::{PATIENCE, Router, leaders_of, metadata_request};
use crate::node::{CLIENT_PORT, host};
use crate::world::{Phase, World};

const METADATA: i16 = 12;
const LIST_OFFSETS: i16 = 7;
/// Pause between two rounds of questions.
const ROUND: Duration = Duration::from_millis(250);
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Watches one broker until the run is over.
pub async fn run(world: Arc<World>, node: NodeId) -> turmoil::Result {
    let mut router = Router::new(&world, format!("o{node}"));
    let mut seen = Vec::new();
    while world.phase() < Phase::ReadBack {
        // A broker that is gone, or slow, is asked again.
        if world.phase() > Phase::Start && observe(&mut router, node, &mut seen).await.is_err() {
            router.pause().await;
        }
        tokio::time::sleep(ROUND).await;
    }
    Ok(())
}

async fn observe(router: &mut Router, node: NodeId, seen: &mut Vec<(u32, i32, i32)>) -> Result<()> {
    let address = format!("{}:{CLIENT_PORT}", host(node));
    let answer: MetadataResponse = router.ask(&address, &metadata_request(), METADATA, PATIENCE).await?;
    let world = Arc::clone(&router.world);
    let leaders = leaders_of(&answer);
    for (partition, leader, epoch) in &leaders {
        world.judge.leader(node.0.unsigned_abs(), *partition, *epoch, leader.unsigned_abs());
    }
    if *seen != leaders {
        let each: Vec<String> = leaders.iter().map(|(one, leader, epoch)| format!("{one}:{leader}@{epoch}")).collect();
        router.trace(&format!("says {}", each.join(" ")));
        *seen = leaders;
    }
    for at in [EARLIEST, LATEST] {
        ends(router, &address, at).await?;
    }
    Ok(())
}

/// Asks where every partition begins or ends; only who leads one answers.
async fn ends(router: &mut Router, address: &str, at: i64) -> Result<()> {
    let world = Arc::clone(&router.world);
    let asked: Vec<_> = (0..world.shape.partitions).map(|partition| world.judge.asking(partition)).collect();
    let one = |partition: u32| {
        ListOffsetsPartition::default().with_partition_index(partition.cast_signed()).with_timestamp(at)
    };
    let partitions = (0..world.shape.partitions).map(one).collect();
    let topic = ListOffsetsTopic::default().with_name(super::topic()).with_partitions(partitions);
    let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
    let answer = router.ask(address, &request, LIST_OFFSETS, PATIENCE).await?;
    for one in answer.topics.iter().flat_map(|topic| &topic.partitions).filter(|one| one.error_code == 0) {
        let partition = one.partition_index.unsigned_abs();
        let Some(asked) = asked.get(partition as usize) else { continue };
        let offset = u64::try_from(one.offset).unwrap_or(0);
        match at {
            LATEST => world.judge.end(partition, offset, asked),
            _ => world.judge.start(partition, offset, asked),
        }
    }
    Ok(())
}
