//! Seals the logs of others: ends them for good, and tells what they hold that no object does.

use std::sync::Arc;

use common::{NodeEpoch, NodeId};
use s3stream::{StreamManager, sealed_tails};
use uuid::Uuid;
use wal::{SealError, SealProof, SealedBy, SealedLog, WalLocation};

use super::peer::messages::{SealAnswer, SealOutcome, SealRequest, Tail};

/// See the module.
pub struct Sealer {
    by: SealedBy,
    streams: Arc<dyn StreamManager>,
}

impl Sealer {
    /// Seals in the name of a broker's life.
    pub(crate) fn new(node: NodeId, epoch: NodeEpoch, streams: Arc<dyn StreamManager>) -> Self {
        Self { by: SealedBy { node, epoch }, streams }
    }

    /// Seals the log, reads its indexes, and answers what Raft must know. Idempotent.
    pub(super) async fn seal(&self, request: SealRequest) -> SealAnswer {
        let (by, streams) = (self.by, Arc::clone(&self.streams));
        let sealed = tokio::task::spawn_blocking(move || seal(&request, by, &*streams)).await;
        sealed.unwrap_or_else(|error| failed(SealOutcome::Failed, error.to_string()))
    }
}

fn failed(outcome: SealOutcome, reason: String) -> SealAnswer {
    SealAnswer { outcome: outcome as i32, end: 0, tails: Vec::new(), reason }
}

fn seal(request: &SealRequest, by: SealedBy, streams: &dyn StreamManager) -> SealAnswer {
    let (Ok(uuid), Ok(location)) = (Uuid::from_slice(&request.wal), request.location.parse::<WalLocation>()) else {
        return failed(SealOutcome::Failed, "the request makes no sense".to_owned());
    };
    let proof = if request.lease_expired { SealProof::LeaseExpired } else { SealProof::OwnerGone };
    let sealed = match wal::seal(&location, uuid, by, proof) {
        Ok(sealed) => sealed,
        Err(error @ SealError::Alive { .. }) => return failed(SealOutcome::Alive, error.to_string()),
        Err(error @ SealError::NotReachable { .. }) => return failed(SealOutcome::NotReachable, error.to_string()),
        Err(error) => return failed(SealOutcome::Failed, error.to_string()),
    };
    match SealedLog::open(&location, uuid, sealed.end) {
        Ok(log) => {
            let tails = sealed_tails(&log, streams);
            let tails = tails.into_iter().map(|(stream, end)| Tail { stream: stream.0, end: end.0 }).collect();
            SealAnswer { outcome: SealOutcome::Sealed as i32, end: sealed.end.0, tails, reason: String::new() }
        }
        Err(error) => failed(SealOutcome::Failed, error.to_string()),
    }
}
