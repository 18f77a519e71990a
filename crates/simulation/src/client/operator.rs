//! An operator: drains brokers, lets them lead again, moves partitions.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kafka_protocol::messages::AlterPartitionReassignmentsRequest;
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};

use super::router::Router;
use crate::world::{Order, Phase, World};

/// Of AlterPartitionReassignments.
const VERSION: i16 = 0;
const DEADLINE: Duration = Duration::from_secs(5);

/// Does what is ordered. What fails in the midst of faults is let be.
pub async fn run(world: Arc<World>) -> turmoil::Result {
    let mut router = Router::new(&world, "operator".to_owned());
    while world.phase() < Phase::ReadBack {
        let order = world.orders.lock().pop_front();
        match order {
            None => tokio::time::sleep(Duration::from_millis(50)).await,
            Some(order) => {
                let done = obey(&mut router, order).await;
                let done = done.map_or_else(|error| error.to_string(), |()| "done".to_owned());
                router.trace(&format!("{order:?}: {done}"));
            }
        }
    }
    Ok(())
}

async fn obey(router: &mut Router, order: Order) -> Result<()> {
    match order {
        Order::Move(partition, target) => {
            // Whoever stands first is to lead.
            let nodes = router.world.node_ids();
            let replicas = [target].into_iter().chain(nodes.filter(|node| *node != target));
            let moved = ReassignablePartition::default()
                .with_partition_index(partition.cast_signed())
                .with_replicas(Some(replicas.map(|node| node.0.into()).collect()));
            let topic = ReassignableTopic::default().with_name(super::topic()).with_partitions(vec![moved]);
            let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]).with_timeout_ms(3000);
            let address = router.anyone();
            let answer = router.ask(&address, &request, VERSION, DEADLINE).await?;
            let code =
                answer.responses.first().and_then(|topic| topic.partitions.first()).context("an answer")?.error_code;
            anyhow::ensure!(answer.error_code == 0 && code == 0, "errors {} {code}", answer.error_code);
            Ok(())
        }
        Order::Drain(node) | Order::Resume(node) => {
            let draining = matches!(order, Order::Drain(_));
            let (answer, answered) = tokio::sync::oneshot::channel();
            router.world.node(node).drains.lock().push((draining, answer));
            tokio::time::timeout(DEADLINE, answered).await?.context("the broker ended")?.map_err(anyhow::Error::msg)
        }
    }
}
