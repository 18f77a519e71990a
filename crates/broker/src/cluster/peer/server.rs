//! The peer listener.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use common::NodeId;
use common::supervisor::StopSignal;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::wire::{self, DONE, ERROR, FRAME_BYTES_MAX, Frame, Head, Hello, Lane};
use super::{Identity, PeerService};
use crate::network::socket::{OwnedReadHalf, TcpListener, TcpStream};

/// How long a new connection may take to say who it is.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// Connections at once.
const CONNECTIONS_MAX: usize = 1024;
/// Requests of one connection that are being answered at once.
const REQUESTS_MAX: usize = 256;
/// KiB of requests being read or answered at once, of all connections.
const REQUEST_KIB_MAX: usize = 4 * (FRAME_BYTES_MAX as usize >> 10);

/// A bound peer listener.
pub struct PeerListener {
    socket: TcpListener,
    address: String,
}

impl PeerListener {
    /// Binds `host:port`; a port of 0 takes any free one. `advertised` is the host that peers are told, the bound one
    /// if absent.
    pub async fn bind(host: &str, port: u16, advertised: Option<&str>) -> io::Result<Self> {
        let socket = TcpListener::bind((host, port)).await?;
        let port = socket.local_addr()?.port();
        let host = advertised.unwrap_or(host);
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Self { socket, address })
    }

    /// `host:port` that peers connect to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

/// Accepts peers until told to stop, then ends their connections.
pub async fn serve(
    listener: PeerListener,
    identity: Identity,
    service: Arc<dyn PeerService>,
    mut stop: StopSignal,
) -> io::Result<()> {
    let memory = Arc::new(Semaphore::new(REQUEST_KIB_MAX));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.stopped() => break,
            accepted = listener.socket.accept() => match accepted {
                Ok((_, peer)) if connections.len() >= CONNECTIONS_MAX => {
                    tracing::warn!(%peer, "too many connections of peers");
                }
                Ok((socket, peer)) => {
                    let (identity, service, memory) = (identity.clone(), Arc::clone(&service), Arc::clone(&memory));
                    connections.spawn(async move {
                        let ended = talk(socket, &identity, service, memory).await;
                        tracing::debug!(%peer, ?ended, "a peer's connection ended");
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    connections.shutdown().await;
    Ok(())
}

async fn talk(
    mut socket: TcpStream,
    identity: &Identity,
    service: Arc<dyn PeerService>,
    memory: Arc<Semaphore>,
) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let hello = tokio::time::timeout(HELLO_DEADLINE, Hello::read(&mut socket)).await??;
    if let Some(reason) = identity.refuses(&hello) {
        let refusal = Hello { version: 0, cluster_id: reason.clone(), ..identity.hello(hello.lane) };
        socket.write_all(&refusal.encode()).await?;
        return Err(wire::invalid(reason));
    }
    socket.write_all(&identity.hello(hello.lane).encode()).await?;
    let (reader, writer) = socket.into_split();
    let (answers, queue) = mpsc::channel(REQUESTS_MAX);
    let ended = tokio::select! {
        ended = read_requests(reader, hello.node, &service, answers, memory) => ended,
        ended = wire::write_frames(writer, queue) => ended,
    };
    if hello.lane == Lane::Control {
        service.lost(hello.node);
    }
    ended
}

/// An answer, and the memory its request took.
type Answer = (Frame, OwnedSemaphorePermit);

async fn read_requests(
    reader: OwnedReadHalf,
    from: NodeId,
    service: &Arc<dyn PeerService>,
    answers: mpsc::Sender<Answer>,
    memory: Arc<Semaphore>,
) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut answering = JoinSet::new();
    loop {
        let head = wire::read_head(&mut reader).await?;
        let taken = take(&memory, &head).await?;
        let frame = wire::read_body(&mut reader, &head).await?;
        let kind = wire::kind_of(frame.kind);
        while answering.len() >= REQUESTS_MAX || answering.try_join_next().is_some() {
            if answering.len() >= REQUESTS_MAX {
                answering.join_next().await;
            }
        }
        let (service, answers) = (Arc::clone(service), answers.clone());
        answering.spawn(async move {
            let answer = match kind {
                Ok(kind) => service.answer(from, kind, frame.body).await,
                Err(error) => Err(error.to_string()),
            };
            let frame = match answer {
                Ok(body) => Frame { id: frame.id, kind: DONE, body },
                Err(reason) => Frame { id: frame.id, kind: ERROR, body: reason.into() },
            };
            // The connection may have ended meanwhile.
            let _ = answers.send((frame, taken)).await;
        });
    }
}

async fn take(memory: &Arc<Semaphore>, head: &Head) -> io::Result<OwnedSemaphorePermit> {
    let taken = Arc::clone(memory).acquire_many_owned((head.body_bytes >> 10) + 1).await;
    taken.map_err(|_| io::ErrorKind::BrokenPipe.into())
}
