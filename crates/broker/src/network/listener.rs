//! Listening sockets: bound before anything else starts, so that a port in use is the first thing an operator
//! hears; accepting only once the broker is ready.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::budget::ByteBudget;
use common::supervisor::StopSignal;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::ConnectionInfo;
use super::connection::{Closed, Connection};
use super::reader::ReadError;
use super::socket::{TcpListener, TcpStream};
use crate::Broker;
use crate::api::RefusedBatch;
use crate::config::{Layers, Listener};

/// A bound listening socket.
pub struct BoundListener {
    /// Its configuration, with the port that was really bound.
    pub config: Listener,
    socket: TcpListener,
}

/// Connections this broker has open, and their bounds; shared by all listeners.
pub struct Limits {
    next_id: AtomicU64,
    open: Mutex<OpenConnections>,
    answers: ByteBudget,
}

#[derive(Default)]
struct OpenConnections {
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// One open connection's place within [`Limits`].
struct Place {
    limits: Arc<Limits>,
    ip: IpAddr,
}

impl Limits {
    /// No connections, whose large responses, other than fetched records, may take `answer_bytes` until they are written.
    #[must_use]
    pub fn new(answer_bytes: u64) -> Self {
        Self { next_id: AtomicU64::default(), open: Mutex::default(), answers: ByteBudget::new(answer_bytes) }
    }

    /// Bytes of large responses, other than fetched records, that are not yet written.
    pub(super) fn answers(&self) -> &ByteBudget {
        &self.answers
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.lock().total
    }

    fn enter(self: &Arc<Self>, ip: IpAddr, max: usize, max_per_ip: usize) -> Option<Place> {
        let mut open = self.open.lock();
        let from_ip = open.by_ip.get(&ip).copied().unwrap_or(0);
        if open.total >= max || from_ip >= max_per_ip {
            return None;
        }
        open.total += 1;
        open.by_ip.insert(ip, from_ip + 1);
        Some(Place { limits: Arc::clone(self), ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.limits.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.by_ip.remove(&self.ip);
            }
        }
    }
}

impl BoundListener {
    /// Binds the socket. A port of 0 takes any free one.
    pub async fn bind(mut config: Listener) -> io::Result<Self> {
        let socket = TcpListener::bind((config.host.as_str(), config.port)).await?;
        config.port = socket.local_addr()?.port();
        if config.advertised_port == 0 {
            config.advertised_port = config.port;
        }
        Ok(Self { config, socket })
    }

    /// Accepts connections until told to stop; returns when those that are open have ended, which are told as well.
    pub async fn serve(self, broker: Arc<Broker>, mut stop: StopSignal) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.stopped() => break,
                accepted = self.socket.accept() => match accepted {
                    Ok((socket, peer)) => self.admit(&broker, socket, peer, &stop, &mut connections),
                    Err(error) => {
                        // Out of file descriptors, mostly: existing connections go on and free some.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        // Nobody waits for an acceptance any more.
        drop(self.socket);
        while connections.join_next().await.is_some() {}
        Ok(())
    }

    fn admit(
        &self,
        broker: &Arc<Broker>,
        socket: TcpStream,
        peer: SocketAddr,
        stop: &StopSignal,
        connections: &mut JoinSet<()>,
    ) {
        let limits = &broker.connections;
        let image = broker.metadata.image();
        let layers = Layers::new(&image, &broker.config);
        let count = |name| usize::try_from(layers.number(name)).unwrap_or(0);
        let Some(place) = limits.enter(peer.ip(), count("max.connections"), count("max.connections.per.ip")) else {
            tracing::warn!(%peer, "connection refused: max.connections or max.connections.per.ip is reached");
            return;
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection ended before it began");
            return;
        }
        let info = Arc::new(ConnectionInfo {
            id: limits.next_id.fetch_add(1, Ordering::Relaxed),
            listener: self.config.name.clone(),
            peer,
            refused_batch: RefusedBatch::default(),
        });
        let (broker, stop) = (Arc::clone(broker), stop.clone());
        connections.spawn(async move {
            let _place = place;
            match Connection::new(broker, info, socket).run(stop).await {
                Closed::Read(ReadError::Closed) => {}
                reason => tracing::debug!(%peer, %reason, "connection closed"),
            }
        });
    }
}
