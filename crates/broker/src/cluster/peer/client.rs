//! The way to peers: one connection for each address and lane, made when it is needed, shared by all calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use common::{Clock, NodeId, Random};
use metadata::raft::{RaftTransport, TransportError};
use parking_lot::Mutex;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::wire::{self, DONE, Frame, Hello, Kind, Lane};
use super::{Identity, PeerService};
use crate::network::socket::{OwnedReadHalf, TcpStream};

/// How long a connection may take to be made, hello included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Pause after a failed connection, random between the least and twice it, doubled with each failure up to the most.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// Calls that had no answer for so long, on a connection that was silent since, end the connection: its other end may be
/// unplugged, which TCP takes minutes to find out, and as long again to find out that it is back. Each of them may have been
/// given up earlier.
const SILENCE_MAX: Duration = Duration::from_millis(900);
/// Requests that wait to be written, of one connection.
const QUEUE: usize = 1024;

type Waiting = HashMap<u64, oneshot::Sender<Result<Bytes, String>>>;

/// All connections from this node to others. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    /// Not held: it holds the controller, which holds this.
    service: Weak<dyn PeerService>,
    lines: Mutex<Lines>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Of the connections; they end with this.
    tasks: Mutex<JoinSet<()>>,
    /// Bytes of bodies written and read, for metrics and drills: on each lane.
    moved: [AtomicU64; 2],
}

type Lines = HashMap<(Arc<str>, Lane), Arc<Line>>;

/// The way to one address.
#[derive(Default)]
struct Line {
    open: tokio::sync::Mutex<Way>,
}

#[derive(Default)]
struct Way {
    connection: Option<Arc<Connection>>,
    /// Boot time before which no new attempt is made, and the pause after the next failure.
    not_before: Duration,
    pause: Duration,
}

struct Connection {
    requests: mpsc::Sender<(Frame, ())>,
    next_id: AtomicU64,
    /// `None` once the connection has ended.
    waiting: Mutex<Option<Waiting>>,
    /// Boot time, in ms, of the first call since something came last; 0 if there was none.
    asked_ms: AtomicU64,
    given_up: Notify,
}

impl Connection {
    fn is_open(&self) -> bool {
        self.waiting.lock().is_some()
    }
}

impl Peers {
    /// No connections yet. `service` hears of those that end.
    #[must_use]
    pub fn new(
        identity: Identity,
        service: &Arc<dyn PeerService>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let (lines, tasks) = (Mutex::default(), Mutex::default());
        let (service, moved) = (Arc::downgrade(service), <[AtomicU64; 2]>::default());
        Self { inner: Arc::new(Inner { identity, service, lines, clock, random, tasks, moved }) }
    }

    /// Payload bytes sent and received by this node's calls on `lane`.
    #[must_use]
    pub fn bytes_moved(&self, lane: Lane) -> u64 {
        self.inner.moved[lane as usize].load(Ordering::Relaxed)
    }

    /// Asks the node at `address`; waits at most `deadline` for the answer. An `Err` inside is the peer's own word.
    pub async fn call(
        &self,
        address: &str,
        lane: Lane,
        kind: Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Result<Bytes, String>, TransportError> {
        let asked = tokio::time::timeout(deadline, self.ask(address, lane, kind, body)).await;
        asked.unwrap_or_else(|_| Err(TransportError::Lost("no answer in time".into())))
    }

    async fn ask(
        &self,
        address: &str,
        lane: Lane,
        kind: Kind,
        body: Bytes,
    ) -> Result<Result<Bytes, String>, TransportError> {
        let connection = self.connection(address, lane).await?;
        let id = connection.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        match &mut *connection.waiting.lock() {
            Some(waiting) => drop(waiting.insert(id, sender)),
            None => return Err(TransportError::Unreachable(format!("the connection to {address} has ended"))),
        }
        // Who was asked before and has not answered since, has been silent since then.
        let now = millis(self.inner.clock.boot()).max(1);
        let _ = connection.asked_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        let _forgets = Forgets { connection: &connection, id, clock: &*self.inner.clock };
        let bytes = body.len() as u64;
        if connection.requests.send((Frame { id, kind: kind as u8, body }, ())).await.is_err() {
            return Err(TransportError::Lost(format!("the connection to {address} ended")));
        }
        let answer = answer.await.map_err(|_| TransportError::Lost(format!("the connection to {address} ended")))?;
        let answered = answer.as_ref().map_or(0, Bytes::len) as u64;
        self.inner.moved[lane as usize].fetch_add(bytes + answered, Ordering::Relaxed);
        Ok(answer)
    }

    async fn connection(&self, address: &str, lane: Lane) -> Result<Arc<Connection>, TransportError> {
        let line = Arc::clone(self.inner.lines.lock().entry((address.into(), lane)).or_default());
        let mut way = line.open.lock().await;
        if let Some(connection) = way.connection.as_ref().filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(connection));
        }
        way.connection = None;
        let unreachable = |reason: String| TransportError::Unreachable(format!("{address}: {reason}"));
        if self.inner.clock.boot() < way.not_before {
            return Err(unreachable("not reachable a moment ago".to_owned()));
        }
        let made = tokio::time::timeout(CONNECT_DEADLINE, self.connect(address, lane)).await;
        let made = made.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match made {
            Ok(connection) => {
                way.pause = Duration::ZERO;
                way.connection = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                way.pause = (way.pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                let jitter = Duration::from_millis(self.inner.random.below(millis(way.pause)));
                way.not_before = self.inner.clock.boot() + way.pause / 2 + jitter / 2;
                Err(unreachable(error.to_string()))
            }
        }
    }

    async fn connect(&self, address: &str, lane: Lane) -> std::io::Result<Arc<Connection>> {
        let mut socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        socket.write_all(&self.inner.identity.hello(lane).encode()).await?;
        let theirs = Hello::read(&mut socket).await?;
        if theirs.version == 0 {
            return Err(wire::invalid(theirs.cluster_id));
        }
        if let Some(reason) = self.inner.identity.refuses(&theirs) {
            return Err(wire::invalid(reason));
        }
        let (requests, queue) = mpsc::channel(QUEUE);
        let waiting = Mutex::new(Some(HashMap::new()));
        let (next_id, asked_ms, given_up) = (AtomicU64::new(1), AtomicU64::new(0), Notify::new());
        let connection = Arc::new(Connection { requests, next_id, waiting, asked_ms, given_up });
        self.run(socket, queue, Arc::clone(&connection), theirs.node);
        Ok(connection)
    }

    fn run(&self, socket: TcpStream, queue: mpsc::Receiver<(Frame, ())>, connection: Arc<Connection>, node: NodeId) {
        let (reader, writer) = socket.into_split();
        let service = Weak::clone(&self.inner.service);
        let mut tasks = self.inner.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let ended = tokio::select! {
                ended = read_answers(reader, &connection) => ended,
                ended = wire::write_frames(writer, queue) => ended,
                () = connection.given_up.notified() => Err(std::io::ErrorKind::TimedOut.into()),
            };
            // Whoever waits hears that there will be no answer.
            drop(connection.waiting.lock().take());
            tracing::debug!(%node, ?ended, "the connection to a peer ended");
            if let Some(service) = service.upgrade() {
                service.lost(node);
            }
        });
    }
}

/// Takes a request out of those that wait, when its caller gives up.
struct Forgets<'a> {
    connection: &'a Connection,
    id: u64,
    clock: &'a dyn Clock,
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        let unanswered = self.connection.waiting.lock().as_mut().is_some_and(|all| all.remove(&self.id).is_some());
        let asked = self.connection.asked_ms.load(Ordering::Relaxed);
        let silent = millis(self.clock.boot()).saturating_sub(asked);
        if unanswered && asked > 0 && silent >= millis(SILENCE_MAX) {
            self.connection.given_up.notify_one();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn read_answers(reader: OwnedReadHalf, connection: &Connection) -> std::io::Result<()> {
    let mut reader = BufReader::new(reader);
    loop {
        let head = wire::read_head(&mut reader).await?;
        let frame = wire::read_body(&mut reader, &head).await?;
        connection.asked_ms.store(0, Ordering::Relaxed);
        let waiter = connection.waiting.lock().as_mut().and_then(|waiting| waiting.remove(&frame.id));
        let answer = match frame.kind {
            DONE => Ok(frame.body),
            _ => Err(String::from_utf8_lossy(&frame.body).into_owned()),
        };
        if let Some(waiter) = waiter {
            // Whoever gave up meanwhile does not listen.
            let _ = waiter.send(answer);
        }
    }
}

#[async_trait::async_trait]
impl RaftTransport for Peers {
    async fn call(&self, _target: NodeId, address: &str, request: Bytes) -> Result<Bytes, TransportError> {
        // A snapshot's parts are large; everything else of Raft is small and urgent.
        let lane = if request.len() > 256 << 10 { Lane::Bulk } else { Lane::Control };
        self.ask(address, lane, Kind::Raft, request).await?.map_err(TransportError::Lost)
    }
}
