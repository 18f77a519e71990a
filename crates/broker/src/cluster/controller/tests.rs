use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use common::{SystemClock, SystemRandom};
use metadata::NodeConfig;
use metadata::log::MemoryLogStore;
use metadata::raft::{RaftTransport, TransportError};

use super::super::peer::{Identity, Kind, PeerService};
use super::*;
use crate::config::Properties;

/// Three voters in one process.
#[derive(Default)]
struct Voters {
    nodes: Mutex<BTreeMap<NodeId, Arc<Node>>>,
    silent: AtomicBool,
}

struct Line(Arc<Voters>);

#[async_trait::async_trait]
impl RaftTransport for Line {
    async fn call(&self, target: NodeId, _address: &str, request: Bytes) -> Result<Bytes, TransportError> {
        let node = self.0.nodes.lock().get(&target).cloned().filter(|_| !self.0.silent.load(Ordering::SeqCst));
        match node {
            Some(node) => Ok(node.handle(request).await),
            None => Err(TransportError::Unreachable(format!("{target} is away"))),
        }
    }
}

impl Voters {
    async fn start(self: &Arc<Self>, id: i32, election_timeout: Duration) -> MetadataClient {
        let config = NodeConfig {
            // Only the first one makes a cluster, of all three, and elects itself.
            voters: (0..3 - 2 * id.min(1)).map(|voter| (NodeId(voter), format!("n{voter}:1").into())).collect(),
            election_timeout,
            heartbeat: Duration::from_millis(50),
            ..NodeConfig::single(NodeId(id))
        };
        let voters = Arc::clone(self);
        let announce = move |node: Arc<Node>| drop(voters.nodes.lock().insert(NodeId(id), node));
        let (store, transport) = (Arc::new(MemoryLogStore::default()), Arc::new(Line(Arc::clone(self))));
        let started = Node::start_announced(config, store, transport, Arc::new(SystemClock), announce).await;
        started.expect("starts").1
    }
}

struct Nobody;

#[async_trait::async_trait]
impl PeerService for Nobody {
    async fn answer(&self, _from: NodeId, _kind: Kind, _body: Bytes) -> Result<Bytes, String> {
        Err("nobody is here".to_owned())
    }

    fn lost(&self, _node: NodeId) {}
}

fn controller(raft: &Arc<Node>, metadata: &MetadataClient) -> Arc<Controller> {
    let text = "node.id=0\nottla.object.store.url=memory:///\nlog.dirs=/nowhere\nlisteners=PLAINTEXT://127.0.0.1:0\n";
    let (config, _) = BrokerConfig::load(Properties::parse(text).expect("properties"), true).expect("sound");
    let cluster_id = Arc::new(arc_swap::ArcSwap::from_pointee("c".to_owned()));
    let (clock, nobody): (Arc<dyn Clock>, Arc<dyn PeerService>) = (Arc::new(SystemClock), Arc::new(Nobody));
    let identity = Identity { node: NodeId(0), cluster_id };
    let peers = Peers::new(identity, &nobody, Arc::clone(&clock), Arc::new(SystemRandom));
    Controller::new(&config, raft, metadata, &peers, &clock)
}

/// With nobody active no lease is granted, and while this node leads nobody else will be.
#[tokio::test]
async fn a_leader_whose_quorum_is_silent_at_first_becomes_active_when_it_answers() {
    let voters = Arc::new(Voters::default());
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(3600));
    let (metadata, ..) = tokio::join!(voters.start(0, short), voters.start(1, long), voters.start(2, long));
    let raft = Arc::clone(&voters.nodes.lock()[&NodeId(0)]);
    assert!(raft.is_leader(), "the others do not stand for election");
    let controller = controller(&raft, &metadata);
    voters.silent.store(true, Ordering::SeqCst);
    assert_eq!(controller.confirmations.confirm(&raft).await, None);
    let begun = controller.confirmations.begun.load(Ordering::SeqCst);
    let answers = async {
        // Asked at least once before the quorum answers.
        while controller.confirmations.begun.load(Ordering::SeqCst) < begun + 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        voters.silent.store(false, Ordering::SeqCst);
        while !controller.is_active() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        never = Arc::clone(&controller).run() => match never {},
        active = tokio::time::timeout(Duration::from_secs(20), answers) => active.expect("active"),
    }
    assert!(raft.is_leader(), "nobody else ever led");
}
