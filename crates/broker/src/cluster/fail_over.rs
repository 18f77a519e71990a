//! Ends a lost broker's life: has its log sealed by a broker that lives, and gives its streams new owners in one record of
//! metadata. Every step may be taken again by anybody, at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Clock, Lsn, NodeEpoch, NodeId, Offset, StreamId};
use metadata::command::{FailOver, Seal};
use metadata::image::{NodeImage, WalClass, WalState};
use metadata::placement::plan_fail_over;
use metadata::{Command, MetadataClient, MetadataImage, Outcome};

use super::peer::messages::{SealAnswer, SealOutcome, SealRequest, decode, encode};
use super::peer::{Kind, Lane, Peers};
use super::sessions::Suspicion;

/// How long a broker may take to seal a log and to read its indexes.
const SEAL_DEADLINE: Duration = Duration::from_secs(30);

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Metadata holds the node for fenced.
    Yes,
    /// It lives, or nobody could tell: ask again.
    NotNow,
}

/// See the module.
pub(super) struct FailOvers {
    metadata: MetadataClient,
    peers: Peers,
    clock: Arc<dyn Clock>,
    under_way: AtomicUsize,
    done: AtomicU64,
}

/// What is known of a lost node's log.
enum Log {
    /// It has none, or none that is not retired.
    Absent,
    Sealed(Seal),
    /// Its owner lives.
    Alive,
    /// Only its node can read it.
    OutOfReach(String),
    /// Whoever was asked could not tell, this time.
    Unknown(String),
}

impl FailOvers {
    pub(super) fn new(metadata: MetadataClient, peers: Peers, clock: Arc<dyn Clock>) -> Self {
        Self { metadata, peers, clock, under_way: AtomicUsize::new(0), done: AtomicU64::new(0) }
    }

    pub(super) fn counts(&self) -> (usize, u64) {
        (self.under_way.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed))
    }

    /// Ends the life `epoch` of `node`, if it can be.
    pub(super) async fn end(&self, node: NodeId, epoch: NodeEpoch, suspicion: Suspicion) -> Ended {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let since = self.clock.boot();
        let ended = self.try_end(node, epoch, suspicion).await;
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if ended == Ended::Yes {
            let took = self.clock.boot().saturating_sub(since);
            tracing::warn!(%node, %epoch, ?took, "the node is lost: its life was ended, its partitions have new leaders");
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        ended
    }

    async fn try_end(&self, node: NodeId, epoch: NodeEpoch, suspicion: Suspicion) -> Ended {
        let image = self.metadata.image();
        let Some(lost) = image.nodes.get(&node).filter(|lost| lost.epoch == epoch) else { return Ended::NotNow };
        let (seal, leaders) = match self.log_of(&image, lost, suspicion).await {
            Log::Alive => return Ended::NotNow,
            Log::OutOfReach(_) if suspicion == Suspicion::Probe || lost.fenced => return Ended::NotNow,
            // It may be sealed by now: fenced without that, the node would wait for metadata to hear of the seal.
            Log::Unknown(reason) => {
                tracing::warn!(%node, reason, "nobody could seal the node's write-ahead log; asking again");
                return Ended::NotNow;
            }
            // Without its log nobody may lead what it led: clients wait until it is back, or an operator gives the log up.
            Log::OutOfReach(reason) => {
                tracing::error!(%node, reason, "the node is lost, and its write-ahead log is out of reach: its partitions are offline");
                (None, Vec::new())
            }
            Log::Absent => (None, plan_fail_over(&image, node)),
            Log::Sealed(seal) => (Some(seal), plan_fail_over(&self.metadata.image(), node)),
        };
        let moved = leaders.len();
        match self.metadata.submit(Command::FailOver(FailOver { node, node_epoch: epoch, seal, leaders })).await {
            Ok(Outcome::Moved { .. }) => {
                tracing::info!(%node, %epoch, partitions = moved, "the node is fenced");
                Ended::Yes
            }
            Ok(other) => {
                tracing::info!(%node, %epoch, ?other, "the node was not fenced");
                Ended::NotNow
            }
            Err(error) => {
                tracing::warn!(%node, %epoch, %error, "the node was not fenced yet");
                Ended::NotNow
            }
        }
    }

    async fn log_of(&self, image: &MetadataImage, lost: &NodeImage, suspicion: Suspicion) -> Log {
        let Some((uuid, wal)) = lost.wal.and_then(|uuid| Some((uuid, image.wals.get(&uuid)?))) else {
            return Log::Absent;
        };
        match wal.state {
            WalState::Retired | WalState::Abandoned => return Log::Absent,
            WalState::Open | WalState::Sealed { .. } => {}
        }
        if wal.class == WalClass::Private {
            return Log::OutOfReach("it is private".to_owned());
        }
        let request = SealRequest {
            wal: uuid.as_bytes().to_vec().into(),
            location: wal.location.to_string(),
            lease_expired: suspicion == Suspicion::Expired,
            applied: image.applied.0,
        };
        let (mut reasons, mut is_certain) = (Vec::new(), true);
        for sealer in image.nodes.values().filter(|node| node.id != lost.id && !node.fenced) {
            match self.ask(sealer, &request).await {
                Ok(answer) if answer.outcome() == SealOutcome::Sealed => return Log::Sealed(seal(uuid, &answer)),
                Ok(answer) if answer.outcome() == SealOutcome::Alive => return Log::Alive,
                Ok(answer) => {
                    is_certain &= answer.outcome() == SealOutcome::NotReachable;
                    reasons.push(format!("node {}: {}", sealer.id, answer.reason));
                }
                Err(reason) => {
                    is_certain = false;
                    reasons.push(format!("node {}: {reason}", sealer.id));
                }
            }
        }
        if !is_certain {
            return Log::Unknown(reasons.join("; "));
        }
        if reasons.is_empty() {
            reasons.push("no other broker lives".to_owned());
        }
        Log::OutOfReach(reasons.join("; "))
    }

    async fn ask(&self, sealer: &Arc<NodeImage>, request: &SealRequest) -> Result<SealAnswer, String> {
        let asked = self.peers.call(&sealer.peer, Lane::Control, Kind::Seal, encode(request), SEAL_DEADLINE).await;
        decode(asked.map_err(|error| error.to_string())??)
    }
}

fn seal(wal: uuid::Uuid, answer: &SealAnswer) -> Seal {
    let tails = answer.tails.iter().map(|tail| (StreamId(tail.stream), Offset(tail.end))).collect();
    Seal { wal, end: Lsn(answer.end), tails }
}
