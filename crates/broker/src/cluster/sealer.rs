//! Seals the logs of others: ends them for good, and tells what they hold that no object does.

use std::sync::{Arc, Weak};
use std::time::Duration;

use common::planted::{self, Bug};
use common::{Clock, LogIndex, blocking};
use s3stream::{StreamManager, sealed_tails};
use uuid::Uuid;
use wal::{Logs, SealError, SealProof, SealedBy, SealedLog, WalLocation};

use super::member::Member;
use super::peer::messages::{SealAnswer, SealOutcome, SealRequest, Tail};
use crate::storage::ports::MetadataPorts;

/// How long the sealer waits until it knows what was granted to the log's owner before the seal.
const METADATA_WAIT: Duration = Duration::from_secs(5);

/// See the module.
pub struct Sealer {
    member: Weak<Member>,
    logs: Arc<dyn Logs>,
    clock: Arc<dyn Clock>,
}

impl Sealer {
    /// Seals in the name of the node's life that metadata knows then, which may be one that has ended: brokers that all wait for
    /// their logs to be sealed would otherwise wait for each other for ever.
    pub(crate) fn new(member: &Arc<Member>, logs: Arc<dyn Logs>, clock: Arc<dyn Clock>) -> Self {
        Self { member: Arc::downgrade(member), logs, clock }
    }

    /// Seals the log, reads its indexes, and answers what Raft must know. Idempotent.
    pub(super) async fn seal(&self, request: SealRequest) -> SealAnswer {
        match self.try_seal(&request).await {
            Ok(answer) => answer,
            Err((outcome, reason)) => SealAnswer { outcome: outcome as i32, end: 0, tails: Vec::new(), reason },
        }
    }

    async fn try_seal(&self, request: &SealRequest) -> Result<SealAnswer, (SealOutcome, String)> {
        let failed = |reason: String| (SealOutcome::Failed, reason);
        let uuid = Uuid::from_slice(&request.wal).map_err(|error| failed(error.to_string()))?;
        let location: WalLocation = request.location.parse().map_err(failed)?;
        let proof = if request.lease_expired { SealProof::LeaseExpired } else { SealProof::OwnerGone };
        let member = self.member.upgrade().ok_or_else(|| failed("this node is stopping".to_owned()))?;
        let by = name(&member).map_err(failed)?;
        let sealed = self.logs.seal(location.clone(), uuid, by, proof).await.map_err(outcome_of)?;
        // What the owner was granted before the seal decides which records count: a grant that this node has not heard of
        // would make acknowledged records look void.
        catch_up(&member).await.map_err(failed)?;
        let log = self.logs.open_sealed(location, uuid, sealed.end).await.map_err(|error| failed(error.to_string()))?;
        let streams = MetadataPorts::new(member.metadata.clone(), by.node, by.epoch, Arc::clone(&self.clock));
        blocking(move || answer(&log, &streams)).await.map_err(failed)
    }
}

/// Whoever is asked is registered, though perhaps so newly that this node has not heard of it.
fn name(member: &Member) -> Result<SealedBy, String> {
    let image = member.metadata.image();
    let own = image.nodes.get(&member.node).ok_or("this node is not registered yet")?;
    Ok(SealedBy { node: own.id, epoch: own.epoch })
}

/// Returns when this node's image holds everything that was committed before this call.
async fn catch_up(member: &Member) -> Result<(), String> {
    if planted::is(Bug::SealWithoutCatchingUp) {
        return Ok(());
    }
    let index: LogIndex = member.read_index(METADATA_WAIT).await?;
    match tokio::time::timeout(METADATA_WAIT, member.metadata.wait_applied(index)).await {
        Ok(true) => Ok(()),
        _ => Err("metadata is not up to date here".to_owned()),
    }
}

fn outcome_of(error: SealError) -> (SealOutcome, String) {
    let outcome = match error {
        SealError::Alive { .. } => SealOutcome::Alive,
        SealError::NotReachable { .. } => SealOutcome::NotReachable,
        _ => SealOutcome::Failed,
    };
    (outcome, error.to_string())
}

fn answer(log: &Arc<SealedLog>, streams: &dyn StreamManager) -> Result<SealAnswer, String> {
    let tails = sealed_tails(log, streams).map_err(|error| error.to_string())?;
    let tails = tails.into_iter().map(|(stream, end)| Tail { stream: stream.0, end: end.0 }).collect();
    Ok(SealAnswer { outcome: SealOutcome::Sealed as i32, end: log.end().0, tails, reason: String::new() })
}
