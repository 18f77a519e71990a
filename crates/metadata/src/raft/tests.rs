use std::sync::Arc;
use std::time::Duration;

use common::{ManualClock, NodeEpoch, NodeId};
use uuid::Uuid;

use super::{NoPeers, Node, NodeConfig};
use crate::client::MetadataClient;
use crate::command::{Command, Outcome};
use crate::log::{MemoryLogStore, RaftLogStore};

async fn start(store: &Arc<MemoryLogStore>) -> (Node, MetadataClient) {
    let store: Arc<dyn RaftLogStore> = Arc::clone(store) as _;
    let clock = Arc::new(ManualClock::at(1_000));
    Node::start(NodeConfig::single(NodeId(1)), store, Arc::new(NoPeers), clock).await.expect("starts")
}

fn register(incarnation: u128) -> Command {
    Command::RegisterNode {
        id: NodeId(1),
        incarnation: Uuid::from_u128(incarnation),
        endpoints: Vec::new(),
        rack: None,
        wal: None,
    }
}

fn topic(id: u128, name: &str) -> Command {
    let partitions = vec![Arc::from([NodeId(1)].as_slice()); 3];
    Command::CreateTopic { id: Uuid::from_u128(id), name: name.into(), partitions, configs: Vec::new() }
}

#[tokio::test]
async fn a_cluster_of_one_applies_and_publishes_before_it_answers() {
    let store = Arc::new(MemoryLogStore::default());
    let (node, client) = start(&store).await;
    assert!(node.is_leader());
    let outcome = client.submit(register(7)).await.expect("registered");
    assert_eq!(outcome, Outcome::Registered { epoch: NodeEpoch(1) });
    assert_eq!(client.submit(topic(9, "orders")).await.expect("created"), Outcome::Done);
    assert_eq!(client.image().topic("orders").expect("in the image").partitions.len(), 3);
    node.stop().await;
}

#[tokio::test]
async fn a_restart_finds_what_was_committed_with_and_without_a_snapshot() {
    let store = Arc::new(MemoryLogStore::default());
    let (node, client) = start(&store).await;
    client.submit(register(7)).await.expect("registered");
    for id in 1..=50 {
        client.submit(topic(id, &format!("t{id}"))).await.expect("created");
    }
    let before = client.image();
    node.stop().await;

    let (node, client) = start(&store).await;
    assert_eq!(client.image().topics, before.topics);
    node.snapshot().await.expect("asked for");
    wait_for_empty_log(&store).await;
    client.submit(topic(51, "t51")).await.expect("created");
    let before = client.image();
    node.stop().await;

    let (node, client) = start(&store).await;
    assert_eq!(client.image().topics, before.topics);
    assert_eq!(client.image().streams, before.streams);
    node.stop().await;
}

async fn wait_for_empty_log(store: &MemoryLogStore) {
    let emptied = async {
        while store.log_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), emptied).await.expect("the log was purged");
}

#[tokio::test]
async fn many_commands_at_once_are_all_answered() {
    let store = Arc::new(MemoryLogStore::default());
    let (node, client) = start(&store).await;
    client.submit(register(7)).await.expect("registered");
    let submits = (1..=500).map(|id| {
        let client = client.clone();
        async move { client.submit(topic(id, &format!("t{id}"))).await }
    });
    for outcome in futures::future::join_all(submits).await {
        assert_eq!(outcome.expect("answered"), Outcome::Done);
    }
    assert_eq!(client.image().topics.len(), 500);
    node.stop().await;
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    crate::log::conformance::check_all(|| {
        let store = Arc::new(MemoryLogStore::default());
        move || Arc::clone(&store) as Arc<dyn RaftLogStore>
    })
    .await;
}
