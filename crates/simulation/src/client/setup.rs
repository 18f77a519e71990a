//! Makes the topic.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kafka_protocol::messages::CreateTopicsRequest;
use kafka_protocol::messages::create_topics_request::CreatableTopic;

use super::router::Router;
use crate::world::World;

/// Of CreateTopics.
const VERSION: i16 = 7;
const EXISTS: i16 = 36;

/// Returns when the topic is there.
pub async fn run(world: Arc<World>) -> turmoil::Result {
    let mut router = Router::new(&world, "setup".to_owned());
    loop {
        match create(&mut router).await {
            Ok(()) => break,
            Err(reason) => router.trace(&format!("no topic yet: {reason}")),
        }
        router.pause().await;
    }
    router.trace("the topic is there");
    world.done("setup");
    Ok(())
}

async fn create(router: &mut Router) -> Result<()> {
    let topic = CreatableTopic::default()
        .with_name(super::topic())
        .with_num_partitions(i32::try_from(router.world.shape.partitions)?)
        .with_replication_factor(i16::try_from(router.world.shape.nodes)?);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
    let address = router.anyone();
    let answer = router.ask(&address, &request, VERSION, Duration::from_secs(5)).await?;
    let code = answer.topics.first().context("an answer")?.error_code;
    anyhow::ensure!(code == 0 || code == EXISTS, "error {code}");
    Ok(())
}
