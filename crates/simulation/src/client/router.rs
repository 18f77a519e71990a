//! What a client knows of the cluster, and its connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::Random as _;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Request;

use super::wire::Wire;
use crate::node::{CLIENT_PORT, host};
use crate::world::World;

/// How long an answer is waited for that needs no waiting.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// Version of Metadata that is asked for.
const METADATA: i16 = 12;

/// A partition's leader, as this client knows it.
#[derive(Clone, Debug)]
pub struct Leader {
    /// `host:port`.
    pub address: String,
    /// Its leader epoch.
    pub epoch: i32,
}

/// See the module.
pub struct Router {
    /// The world.
    pub world: Arc<World>,
    /// Who this client is, in the trace.
    pub name: String,
    wires: BTreeMap<String, Wire>,
    leaders: BTreeMap<u32, Leader>,
}

/// A request for what is known of the topic.
#[must_use]
pub fn metadata_request() -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(Some(super::topic()));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

/// Each partition's leader and leader epoch by a broker's answer; without those that have none.
#[must_use]
pub fn leaders_of(answer: &MetadataResponse) -> Vec<(u32, i32, i32)> {
    let partitions = answer.topics.iter().filter(|topic| topic.error_code == 0).flat_map(|topic| &topic.partitions);
    partitions
        .filter(|one| one.leader_id.0 >= 0)
        .map(|one| (one.partition_index.unsigned_abs(), one.leader_id.0, one.leader_epoch))
        .collect()
}

impl Router {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(world: &Arc<World>, name: String) -> Self {
        Self { world: Arc::clone(world), name, wires: BTreeMap::new(), leaders: BTreeMap::new() }
    }

    /// Adds a line to the trace.
    pub fn trace(&self, what: &str) {
        self.world.trace.line(&self.name, what);
    }

    /// Any broker's address.
    #[must_use]
    pub fn anyone(&self) -> String {
        let brokers = u64::from(self.world.shape.nodes.unsigned_abs());
        let chosen = i32::try_from(self.world.random.below(brokers)).unwrap_or(0) + 1;
        format!("{}:{CLIENT_PORT}", host(common::NodeId(chosen)))
    }

    /// Asks the broker at `address`, over a connection that stays. One that fails is given up.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn ask<R: Request>(
        &mut self,
        address: &str,
        request: &R,
        version: i16,
        patience: Duration,
    ) -> Result<R::Response> {
        let mut wire = self.take(address).await?;
        let answer = wire.ask(request, version, patience).await?;
        self.wires.insert(address.to_owned(), wire);
        Ok(answer)
    }

    /// Takes the connection to `address` out, or makes one.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn take(&mut self, address: &str) -> Result<Wire> {
        match self.wires.remove(address) {
            Some(wire) => Ok(wire),
            None => Wire::open(address).await,
        }
    }

    /// Asks some broker who leads.
    ///
    /// # Errors
    /// It did not answer, or knows nothing.
    pub async fn refresh(&mut self) -> Result<()> {
        let address = self.anyone();
        let answer = self.ask(&address, &metadata_request(), METADATA, PATIENCE).await?;
        let leaders = leaders_of(&answer);
        ensure!(!leaders.is_empty(), "no leader is known");
        for (partition, leader, epoch) in leaders {
            let Some(broker) = answer.brokers.iter().find(|broker| broker.node_id.0 == leader) else { continue };
            let address = format!("{}:{}", broker.host, broker.port);
            // What is older than what is known comes from a broker that has not heard yet.
            if self.leaders.get(&partition).is_none_or(|known| known.epoch <= epoch) {
                self.leaders.insert(partition, Leader { address, epoch });
            }
        }
        Ok(())
    }

    /// The leader of `partition`, from whoever knows.
    ///
    /// # Errors
    /// Nobody says.
    pub async fn leader(&mut self, partition: u32) -> Result<Leader> {
        if !self.leaders.contains_key(&partition) {
            self.refresh().await?;
        }
        self.leaders.get(&partition).cloned().context("it has no leader")
    }

    /// What is known of `partition` is wrong.
    pub fn forget(&mut self, partition: u32) {
        if let Some(known) = self.leaders.remove(&partition) {
            self.wires.remove(&known.address);
        }
    }

    /// A short pause before another attempt.
    pub async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(50 + self.world.random.below(100))).await;
    }
}
