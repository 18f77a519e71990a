use std::sync::Arc;
use std::time::Duration;

use common::{ManualClock, NodeEpoch, NodeId};
use futures::FutureExt as _;
use uuid::Uuid;

use super::{NoPeers, Node, NodeConfig};
use crate::client::MetadataClient;
use crate::command::{Command, Outcome, Registration};
use crate::log::{MemoryLogStore, RaftLogStore};

async fn start(store: &Arc<MemoryLogStore>) -> (Arc<Node>, MetadataClient) {
    let store: Arc<dyn RaftLogStore> = Arc::clone(store) as _;
    let clock = Arc::new(ManualClock::at(1_000));
    Node::start(NodeConfig::single(NodeId(1)), store, Arc::new(NoPeers), clock).await.expect("starts")
}

fn register(incarnation: u128) -> Command {
    Command::RegisterNode(Registration::new(NodeId(1), Uuid::from_u128(incarnation)))
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

/// What it sent in that term and lost with its process would share ids with what it writes now.
#[tokio::test]
async fn who_led_before_a_restart_leads_again_only_in_another_term() {
    let store = Arc::new(MemoryLogStore::default());
    let mut terms = Vec::new();
    for incarnation in 1..=3 {
        let (node, client) = start(&store).await;
        client.submit(register(incarnation)).await.expect("registered");
        terms.push(client.quorum().term);
        node.stop().await;
    }
    assert!(terms.is_sorted_by(|before, after| before < after), "{terms:?}");
}

#[tokio::test]
async fn nobody_hears_of_leaders_after_the_end() {
    let (node, _client) = start(&Arc::new(MemoryLogStore::default())).await;
    let leader = node.leader();
    assert!(leader.is_some());
    node.stop().await;
    let last = node.leader();
    assert!(node.leader_changed(last.as_ref()).now_or_never().is_none(), "the news is that there is none");
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

/// Carries requests between nodes of one process; a node that is cut off neither sends nor answers.
#[derive(Default)]
struct Switchboard {
    nodes: parking_lot::Mutex<std::collections::BTreeMap<NodeId, Arc<Node>>>,
    cut_off: parking_lot::Mutex<std::collections::BTreeSet<NodeId>>,
    /// Where nodes listen.
    port: std::sync::atomic::AtomicU16,
}

impl Switchboard {
    fn address_of(&self, node: NodeId) -> String {
        format!("n{node}:{}", self.port.load(std::sync::atomic::Ordering::Relaxed))
    }
}

struct Line {
    of: NodeId,
    board: Arc<Switchboard>,
}

#[async_trait::async_trait]
impl super::RaftTransport for Line {
    async fn call(
        &self,
        target: NodeId,
        address: &str,
        request: bytes::Bytes,
    ) -> Result<bytes::Bytes, super::TransportError> {
        if address != self.board.address_of(target) {
            return Err(super::TransportError::Unreachable(format!("nobody listens at {address}")));
        }
        let cut = {
            let cut_off = self.board.cut_off.lock();
            cut_off.contains(&self.of) || cut_off.contains(&target)
        };
        let node = self.board.nodes.lock().get(&target).cloned().filter(|_| !cut);
        match node {
            Some(node) => Ok(node.handle(request).await),
            None => Err(super::TransportError::Unreachable(format!("{target} is away"))),
        }
    }
}

struct Cluster {
    board: Arc<Switchboard>,
    stores: Vec<Arc<MemoryLogStore>>,
    clients: Vec<MetadataClient>,
}

impl Cluster {
    fn config(board: &Switchboard, node: NodeId) -> NodeConfig {
        NodeConfig {
            voters: (0..3).map(NodeId).map(|id| (id, board.address_of(id).into())).collect(),
            election_timeout: Duration::from_millis(300),
            heartbeat: Duration::from_millis(60),
            ..NodeConfig::single(node)
        }
    }

    async fn start() -> Self {
        Self::start_at(1, (0..3).map(|_| Arc::default()).collect()).await
    }

    async fn start_at(port: u16, stores: Vec<Arc<MemoryLogStore>>) -> Self {
        let board = Arc::new(Switchboard { port: port.into(), ..Switchboard::default() });
        let starts = (0..3).map(|id| Self::start_node(&board, &stores, NodeId(id)));
        let clients = futures::future::join_all(starts).await;
        Self { board, stores, clients }
    }

    async fn start_node(board: &Arc<Switchboard>, stores: &[Arc<MemoryLogStore>], id: NodeId) -> MetadataClient {
        let store = Arc::clone(&stores[usize::try_from(id.0).expect("small")]);
        let line = Arc::new(Line { of: id, board: Arc::clone(board) });
        let clock = Arc::new(ManualClock::at(1_000));
        let on_board = {
            let board = Arc::clone(board);
            move |node: Arc<Node>| drop(board.nodes.lock().insert(id, node))
        };
        let (_, client) =
            Node::start_announced(Self::config(board, id), store, line, clock, on_board).await.expect("starts");
        client
    }

    async fn leader(&self) -> NodeId {
        let found = async {
            loop {
                let cut_off = self.board.cut_off.lock().clone();
                let nodes = self.board.nodes.lock().clone();
                let mut leaders = nodes.iter().filter(|(id, node)| node.is_leader() && !cut_off.contains(id));
                if let Some((id, _)) = leaders.next() {
                    return *id;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("a leader in time")
    }

    fn client(&self, of: NodeId) -> &MetadataClient {
        &self.clients[usize::try_from(of.0).expect("small")]
    }

    /// Submits until it is certain; commands of the test may be repeated.
    async fn submit(&self, through: NodeId, command: &Command) -> Outcome {
        let certain = async {
            loop {
                match self.client(through).submit(command.clone()).await {
                    Ok(outcome) => return outcome,
                    Err(error) => tracing::debug!(%error, "again"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), certain).await.expect("an outcome in time")
    }

    async fn stop(&self) {
        let nodes: Vec<Arc<Node>> = self.board.nodes.lock().values().cloned().collect();
        for node in nodes {
            node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_forward_commands_and_survive_their_leader() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for through in 0..3_i32 {
        let incarnation = Uuid::from_u128(u128::from(through.unsigned_abs()) + 1);
        let register = Command::RegisterNode(Registration::new(NodeId(through), incarnation));
        assert!(matches!(cluster.submit(NodeId(through), &register).await, Outcome::Registered { .. }));
        assert!(cluster.client(NodeId(through)).image().nodes.contains_key(&NodeId(through)), "in the own image");
    }
    cluster.board.cut_off.lock().insert(leader);
    let other = NodeId((leader.0 + 1) % 3);
    assert_eq!(cluster.submit(other, &topic(1, "orders")).await, Outcome::Done);
    assert_ne!(cluster.leader().await, leader);

    // While it was away the log went on, and was let go: it gets a snapshot.
    for id in 2..30 {
        assert_eq!(cluster.submit(other, &topic(id, &format!("t{id}"))).await, Outcome::Done);
    }
    let nodes = cluster.board.nodes.lock().clone();
    for (id, node) in nodes.iter().filter(|(id, _)| **id != leader) {
        node.snapshot().await.expect("asked for");
        wait_for_empty_log(&cluster.stores[usize::try_from(id.0).expect("small")]).await;
    }
    cluster.board.cut_off.lock().clear();
    let mut watch = cluster.client(leader).watch();
    let target = cluster.client(other).image().applied;
    let caught_up = watch.wait_for(|applied| *applied >= target);
    tokio::time::timeout(Duration::from_secs(30), caught_up).await.expect("in time").expect("alive");
    assert_eq!(cluster.client(leader).image().topics, cluster.client(other).image().topics);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_about_to_stop_has_another_one_lead() {
    let cluster = Cluster::start().await;
    assert!(matches!(cluster.submit(NodeId(0), &register(7)).await, Outcome::Registered { .. }));
    let nodes = cluster.board.nodes.lock().clone();
    // Often enough that news of a leader would be missed if it could be.
    for round in 1..=10 {
        let leader = cluster.leader().await;
        let next = nodes[&leader].step_down(Duration::from_secs(10)).await.expect("somebody takes over");
        assert_ne!(next, leader);
        assert!(!nodes[&leader].is_leader());
        assert_eq!(nodes[&leader].step_down(Duration::from_secs(1)).await, Some(next), "there is nothing to do");
        assert_eq!(cluster.submit(leader, &topic(round, &format!("t{round}"))).await, Outcome::Done);
    }

    // Whoever is followed by nobody goes on: better this leader than none.
    let leader = cluster.leader().await;
    cluster.board.cut_off.lock().insert(leader);
    assert_eq!(nodes[&leader].step_down(Duration::from_millis(20)).await, None);
    cluster.board.cut_off.lock().clear();
    cluster.leader().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_that_have_all_moved_find_each_other_where_they_are_configured() {
    let cluster = Cluster::start().await;
    assert!(matches!(cluster.submit(NodeId(0), &register(7)).await, Outcome::Registered { .. }));
    cluster.stop().await;

    let moved = Cluster::start_at(2, cluster.stores).await;
    let leader = moved.leader().await;
    assert!(matches!(moved.submit(NodeId((leader.0 + 1) % 3), &register(8)).await, Outcome::Registered { .. }));
    let node = Arc::clone(&moved.board.nodes.lock()[&leader]);
    assert_eq!(node.logged_address(0).as_deref(), Some("n0:1"));
    node.correct_addresses().await.expect("written down");
    for id in 0..3 {
        assert_eq!(node.logged_address(id), Some(format!("n{id}:2").into()), "now the log says so by itself");
    }
    moved.stop().await;
}
