use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::supervisor::Supervisor;
use common::{NodeId, SystemClock, SystemRandom};
use metadata::raft::TransportError;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::{Hello, Identity, Kind, Lane, PROTOCOL_VERSION, PeerListener, PeerService, Peers, messages, serve, wire};

/// Answers with what it was asked; keeps whom it lost.
#[derive(Default)]
struct Echo {
    lost: Mutex<Vec<NodeId>>,
    told: Notify,
}

#[async_trait::async_trait]
impl PeerService for Echo {
    async fn answer(&self, from: NodeId, kind: Kind, body: Bytes) -> Result<Bytes, String> {
        match kind {
            Kind::Join => Err(format!("not you, node {from}")),
            Kind::Heartbeat => std::future::pending().await,
            _ => Ok(body),
        }
    }

    fn lost(&self, node: NodeId) {
        self.lost.lock().push(node);
        self.told.notify_one();
    }
}

impl Echo {
    async fn heard_of(&self, node: NodeId) {
        let heard = async {
            while !self.lost.lock().contains(&node) {
                self.told.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the loss is noticed");
    }
}

fn identity(node: i32, cluster: &str) -> Identity {
    Identity { node: NodeId(node), cluster_id: Arc::new(arc_swap::ArcSwap::from_pointee(cluster.to_owned())) }
}

struct Rig {
    supervisor: Supervisor,
    service: Arc<Echo>,
    address: String,
}

async fn listen(cluster: &str) -> Rig {
    let (supervisor, service) = (Supervisor::default(), Arc::new(Echo::default()));
    let listener = PeerListener::bind("127.0.0.1", 0, None).await.expect("bound");
    let address = listener.address().to_owned();
    let served: Arc<dyn PeerService> = Arc::clone(&service) as _;
    supervisor.spawn("peers", serve(listener, identity(1, cluster), served, supervisor.stop_signal()));
    Rig { supervisor, service, address }
}

fn caller(node: i32, cluster: &str) -> (Peers, Arc<Echo>) {
    let service = Arc::new(Echo::default());
    let lost: Arc<dyn PeerService> = Arc::clone(&service) as _;
    (Peers::new(identity(node, cluster), &lost, Arc::new(SystemClock), Arc::new(SystemRandom)), service)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn calls_share_a_connection_and_each_gets_its_own_answer() {
    let rig = listen("c").await;
    let (peers, _watcher) = caller(2, "c");
    let calls = (0..200_u32).map(|number| {
        let (peers, address) = (peers.clone(), rig.address.clone());
        async move {
            let body = Bytes::from(vec![u8::try_from(number % 251).expect("small"); 1 + number as usize * 700]);
            let answer = peers.call(&address, Lane::Bulk, Kind::Raft, body.clone(), 10 * SECOND).await;
            assert_eq!(answer.expect("reached"), Ok(body));
        }
    });
    futures::future::join_all(calls).await;
    let refused = peers.call(&rig.address, Lane::Bulk, Kind::Join, Bytes::new(), SECOND).await.expect("reached");
    assert_eq!(refused, Err("not you, node 2".to_owned()));
    rig.supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_to_both_sides_and_the_next_call_connects_anew() {
    let rig = listen("c").await;
    let (peers, watcher) = caller(2, "c");
    let ask = |peers: Peers, address: String| async move {
        peers.call(&address, Lane::Control, Kind::Applied, Bytes::from_static(b"x"), SECOND).await
    };
    ask(peers.clone(), rig.address.clone()).await.expect("reached").expect("answered");
    drop(peers);
    rig.service.heard_of(NodeId(2)).await;
    let (peers, _) = (caller(2, "c").0, ());
    ask(peers.clone(), rig.address.clone()).await.expect("reached").expect("answered");
    assert!(watcher.lost.lock().is_empty(), "the listener still lives");
    rig.supervisor.stop(SECOND).await;
    let gone = ask(peers.clone(), rig.address.clone()).await.expect_err("nobody listens");
    assert!(matches!(gone, TransportError::Unreachable(_) | TransportError::Lost(_)), "{gone}");
}

#[tokio::test]
async fn a_silent_peer_costs_a_deadline_and_then_the_connection() {
    let rig = listen("c").await;
    let (peers, watcher) = caller(2, "c");
    let silent = peers.call(&rig.address, Lane::Control, Kind::Heartbeat, Bytes::new(), SECOND).await;
    assert!(matches!(silent, Err(TransportError::Lost(_))), "{silent:?}");
    watcher.heard_of(NodeId(1)).await;
    let answer = peers.call(&rig.address, Lane::Control, Kind::Applied, Bytes::new(), SECOND).await;
    assert_eq!(answer.expect("a new connection"), Ok(Bytes::new()));
    rig.supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn short_calls_to_a_silent_peer_end_the_connection_together() {
    let rig = listen("c").await;
    let (peers, watcher) = caller(2, "c");
    for _ in 0..5 {
        // Each is given up sooner than silence is believed, as Raft's are.
        let silent = peers.call(&rig.address, Lane::Control, Kind::Heartbeat, Bytes::new(), SECOND / 4).await;
        assert!(matches!(silent, Err(TransportError::Lost(_))), "{silent:?}");
    }
    watcher.heard_of(NodeId(1)).await;
    rig.supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn a_node_of_another_cluster_is_turned_away_by_either_side() {
    let rig = listen("mine").await;
    let (peers, _watcher) = caller(2, "yours");
    let refused = peers.call(&rig.address, Lane::Control, Kind::Applied, Bytes::new(), SECOND).await;
    let Err(TransportError::Unreachable(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("node 2 belongs to cluster yours, not to mine"), "{reason}");
    let (newcomer, _) = caller(3, "");
    newcomer
        .call(&rig.address, Lane::Control, Kind::Applied, Bytes::new(), SECOND)
        .await
        .expect("reached")
        .expect("ok");
    rig.supervisor.stop(SECOND).await;
}

#[tokio::test]
async fn hostile_bytes_end_a_connection_and_nothing_else() {
    let rig = listen("c").await;
    let hello = Hello { version: 1, node: NodeId(9), lane: Lane::Control, cluster_id: "c".into() }.encode();
    let after_hello = |rest: &[u8]| [hello.as_slice(), rest].concat();
    let hostile = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        after_hello(&[0xff; 64]),
        after_hello(&[0, 0, 0, 0]),
        after_hello(&[0, 0, 0, 8, 1]),
        [&hello[..15], &[7]].concat(),
    ];
    for bytes in hostile {
        let mut socket = tokio::net::TcpStream::connect(&rig.address).await.expect("connected");
        socket.write_all(&bytes).await.expect("sent");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(10 * SECOND, socket.read_to_end(&mut rest)).await;
        ended.expect("the listener ends it").ok();
    }
    let (peers, _watcher) = caller(2, "c");
    let answer = peers.call(&rig.address, Lane::Control, Kind::Applied, Bytes::new(), SECOND).await;
    assert_eq!(answer.expect("still there"), Ok(Bytes::new()));
    rig.supervisor.stop(SECOND).await;
}

/// What nodes of a later version say during a rolling upgrade: a greater version, kinds of requests and fields of messages
/// that nobody here knows. A connection that ended of it would be taken for a death.
#[tokio::test]
async fn a_node_of_a_later_version_is_a_peer() {
    let rig = listen("c").await;
    let hello = Hello { version: u16::MAX, node: NodeId(9), lane: Lane::Control, cluster_id: "c".into() };
    let mut socket = tokio::net::TcpStream::connect(&rig.address).await.expect("connected");
    socket.write_all(&hello.encode()).await.expect("sent");
    assert_eq!(Hello::read(&mut socket).await.expect("welcome").version, PROTOCOL_VERSION);
    for (id, kind, done) in [(1, 200, false), (2, Kind::Applied as u8, true)] {
        let frame = [0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, id, kind];
        socket.write_all(&frame).await.expect("sent");
        let head = wire::read_head(&mut socket).await.expect("the connection is whole");
        assert_eq!((head.id, head.kind == wire::DONE), (u64::from(id), done));
        wire::read_body(&mut socket, &head).await.expect("a reason, or nothing");
    }
    assert!(rig.service.lost.lock().is_empty(), "nobody is taken for dead");
    rig.supervisor.stop(SECOND).await;

    let known = messages::AppliedRequest { index: 9 };
    let longer = [messages::encode(&known).as_ref(), &[0x9a, 0x06, 0x01, 0x07]].concat();
    assert_eq!(messages::decode(longer.into()), Ok(known), "field 99");
}

#[test]
fn bytes_between_nodes_never_change() {
    use super::messages::{
        HandOverAnswer, HandOverEntry, HandOverRequest, HeartbeatRequest, JoinRequest, Load, Move, MoveRequest, Peer,
        QuorumAnswer, QuorumView, ReplicaView, SealAnswer, SealRequest, Tail, encode,
    };
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let hello = Hello { version: 1, node: NodeId(2), lane: Lane::Bulk, cluster_id: "c".into() };
    assert_eq!(hex(&hello.encode()), "4f54544c41504545520001000000020101".to_owned() + "63");
    let peer = Peer { node: 2, address: "h:1".into() };
    assert_eq!(hex(&encode(&JoinRequest { peer: Some(peer) })), "0a0708021203683a31");
    let heartbeat = HeartbeatRequest { node: 2, node_epoch: 7, applied: 9, loads: Vec::new() };
    assert_eq!(hex(&encode(&heartbeat)), "080210071809");
    let loads = vec![Load { stream: 5, bytes_in: 1, bytes_out: 2, requests: 3 }];
    assert_eq!(
        hex(&encode(&HeartbeatRequest { loads, ..heartbeat })),
        "0802100718092208080510011802".to_owned() + "2003"
    );
    let view = QuorumView {
        leader: 1,
        term: 2,
        committed_end: 3,
        voters: vec![ReplicaView { node: 1, log_end: 3 }],
        observers: vec![ReplicaView { node: 4, log_end: 2 }],
    };
    let answer = QuorumAnswer { done: true, state: Some(view), ..QuorumAnswer::default() };
    assert_eq!(hex(&encode(&answer)), "08012212080110021803220408011003".to_owned() + "2a0408041002");
    let seal = SealRequest { wal: vec![1].into(), location: "l".into(), lease_expired: true, applied: 9 };
    assert_eq!(hex(&encode(&seal)), "0a010112016c18012009");
    let tails = vec![Tail { stream: 5, end: 6 }];
    let sealed = SealAnswer { outcome: 1, end: 4, tails, reason: String::new() };
    assert_eq!(hex(&encode(&sealed)), "080110041a0408051006");
    let entries = vec![HandOverEntry { epoch: 3, tail: vec![9].into() }];
    let hand_over = HandOverRequest { node_epoch: 7, entries, reads_refusals: false };
    assert_eq!(hex(&encode(&hand_over)), "0807120508031201".to_owned() + "09");
    let hand_over = HandOverRequest { reads_refusals: true, ..hand_over };
    assert_eq!(hex(&encode(&hand_over)), "0807120508031201".to_owned() + "091801");
    assert_eq!(hex(&encode(&HandOverAnswer { refused: vec![5] })), "0a0105");
    assert_eq!(hex(&encode(&HandOverAnswer::default())), "", "as the first version answers");
    let moves = vec![Move { stream: 5, target: 2 }];
    assert_eq!(hex(&encode(&MoveRequest { node_epoch: 7, moves })), "0807120408051002");
}
