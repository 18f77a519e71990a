//! Cables between brokers, and between brokers and clients, that can be cut, each direction by itself.
//!
//! Everybody is told the address of a cable instead of a broker's. A cut holds bytes back, ends of connections too, and
//! new connections; when it heals, all arrive: what TCP makes of a network that loses packets for a while. Between brokers a
//! cable knows who has connected by what peers say first.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::cluster::{Options, free_ports};

/// What peers say first: `OTTLAPEER`, a version of two bytes, the number of the node in four.
const PEER_HELLO: usize = 15;

/// One end of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// All clients.
    Clients,
    /// A broker, by its number.
    Broker(u32),
}

type Cuts = BTreeSet<(End, End)>;

/// The cables of a cluster of brokers 1, 2, …
#[derive(Debug)]
pub struct Wires {
    brokers: u32,
    first_port: u16,
    clients: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
    cuts: watch::Sender<Cuts>,
    _runtime: tokio::runtime::Runtime,
}

impl Wires {
    /// Lays cables for so many brokers, which are yet to be started, with [`Self::options`].
    ///
    /// # Errors
    /// There are no ports.
    pub fn lay(brokers: u32) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let first_port = free_ports(u16::try_from(brokers)?)?;
        let cuts = watch::Sender::new(Cuts::new());
        let (mut clients, mut peers) = (Vec::new(), Vec::new());
        for id in 1..=brokers {
            let port = first_port + u16::try_from(id - 1)?;
            clients.push(runtime.block_on(lay(id, port, Some(End::Clients), cuts.subscribe()))?);
            peers.push(runtime.block_on(lay(id, port + 101, None, cuts.subscribe()))?);
        }
        Ok(Self { brokers, first_port, clients, peers, cuts, _runtime: runtime })
    }

    /// How brokers are started so that everybody uses the cables.
    #[must_use]
    pub fn options(&self) -> Options {
        let ids = || (1..=self.brokers).zip(self.clients.iter().zip(&self.peers));
        let voters: Vec<String> = ids().map(|(id, (_, peer))| format!("{id}@{peer}")).collect();
        let told = |(id, (client, peer))| format!("{id}:advertised.listeners=PLAINTEXT://{client},CONTROLLER://{peer}");
        let mut properties = vec![format!("controller.quorum.voters={}", voters.join(","))];
        properties.extend(ids().map(told));
        Options { brokers: self.brokers, properties, first_port: Some(self.first_port), ..Options::default() }
    }

    /// The bootstrap servers, for clients.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.clients.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Cuts the way from one end to another.
    pub fn cut(&self, from: End, to: End) {
        self.cuts.send_modify(|cuts| {
            cuts.insert((from, to));
        });
    }

    /// Cuts all that comes from a broker to the others.
    pub fn mute(&self, broker: u32) {
        self.others(broker).for_each(|other| self.cut(End::Broker(broker), other));
    }

    /// Cuts all that comes to a broker from the others.
    pub fn deafen(&self, broker: u32) {
        self.others(broker).for_each(|other| self.cut(other, End::Broker(broker)));
    }

    /// Cuts all that comes from a broker and to it, clients included.
    pub fn unplug(&self, broker: u32) {
        for other in self.others(broker).chain([End::Clients]) {
            self.cut(End::Broker(broker), other);
            self.cut(other, End::Broker(broker));
        }
    }

    /// Nothing is cut any more.
    pub fn heal(&self) {
        self.cuts.send_modify(Cuts::clear);
    }

    fn others(&self, broker: u32) -> impl Iterator<Item = End> + use<> {
        (1..=self.brokers).filter(move |id| *id != broker).map(End::Broker)
    }
}

/// A cable to a broker that listens at `port`; `from` is who uses it, where that is known beforehand.
#[allow(clippy::disallowed_methods, reason = "cables are no tasks of a broker: they end with their runtime")]
async fn lay(broker: u32, port: u16, from: Option<End>, cuts: watch::Receiver<Cuts>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for a cable")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A connection that fails ends as any does: at both its ends.
            tokio::spawn(connect(socket, broker, port, from, cuts.clone()));
        }
    });
    Ok(address)
}

async fn connect(
    mut near: TcpStream,
    broker: u32,
    port: u16,
    from: Option<End>,
    mut cuts: watch::Receiver<Cuts>,
) -> io::Result<()> {
    near.set_nodelay(true)?;
    let mut hello = Vec::new();
    let from = match from {
        Some(from) => from,
        None => {
            hello.resize(PEER_HELLO, 0);
            near.read_exact(&mut hello).await?;
            End::Broker(u32::from_be_bytes([hello[11], hello[12], hello[13], hello[14]]))
        }
    };
    let to = End::Broker(broker);
    whole(&mut cuts, from, to).await;
    let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    far.set_nodelay(true)?;
    far.write_all(&hello).await?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let there = pump(near_in, far_out, (from, to), cuts.clone());
    let back = pump(far_in, near_out, (to, from), cuts);
    // Whatever ends one way by an error ends both.
    tokio::try_join!(there, back).map(drop)
}

async fn pump(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    (from, to): (End, End),
    mut cuts: watch::Receiver<Cuts>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = reader.read(&mut buffer).await;
        whole(&mut cuts, from, to).await;
        match read? {
            0 => return writer.shutdown().await,
            read => writer.write_all(&buffer[..read]).await?,
        }
    }
}

/// Returns while nothing is cut between the two.
async fn whole(cuts: &mut watch::Receiver<Cuts>, from: End, to: End) {
    // An error is the end of the cables.
    let _ = cuts.wait_for(|cuts| !cuts.contains(&(from, to))).await;
}
