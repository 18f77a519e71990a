//! AddRaftVoter (key 80) and RemoveRaftVoter (key 81), version 0: who votes on metadata. Any broker passes them on to the active
//! controller.
//!
//! A node joins by itself, and says by itself where its peer listener is: the endpoints of a request are not needed. A vote
//! belongs to a node, whatever directory it keeps its log in: the directory's id is not looked at.

use std::sync::Arc;
use std::time::Duration;

use common::NodeId;
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
};
use kafka_protocol::protocol::StrBytes;
use metadata::QuorumState;
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::cluster::member::QuorumChangeError;
use crate::cluster::peer::messages::QuorumChange;
use crate::topics::ChangeError;

/// See the module.
pub(super) struct AddRaftVoter;

/// See the module.
pub(super) struct RemoveRaftVoter;

/// How long the active controller may take where the request does not say, and at most.
const WAIT_MS: i32 = 30_000;

impl Handle for AddRaftVoter {
    type Request = AddRaftVoterRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(broker: &Arc<Broker>, _: RequestContext, request: AddRaftVoterRequest) -> Reply<AddRaftVoterResponse> {
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let wait = wait(request.timeout_ms);
            let asked = (QuorumChange::AddVoter, request.voter_id);
            let (code, message) = told(change(&broker, request.cluster_id, asked, wait).await);
            AddRaftVoterResponse::default().with_error_code(code).with_error_message(message)
        }))
    }
}

impl Handle for RemoveRaftVoter {
    type Request = RemoveRaftVoterRequest;
    const VERSIONS: (i16, i16) = (0, 0);

    fn handle(
        broker: &Arc<Broker>,
        _: RequestContext,
        request: RemoveRaftVoterRequest,
    ) -> Reply<RemoveRaftVoterResponse> {
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let asked = (QuorumChange::RemoveVoter, request.voter_id);
            let (code, message) = told(change(&broker, request.cluster_id, asked, wait(WAIT_MS)).await);
            RemoveRaftVoterResponse::default().with_error_code(code).with_error_message(message)
        }))
    }
}

fn wait(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::from(timeout_ms.clamp(1_000, WAIT_MS).unsigned_abs()))
}

async fn change(
    broker: &Broker,
    cluster_id: Option<StrBytes>,
    (change, voter): (QuorumChange, i32),
    wait: Duration,
) -> Result<(), ChangeError> {
    let own = &broker.metadata.image().cluster_id;
    if let Some(other) = cluster_id.filter(|cluster_id| **cluster_id != **own) {
        let message = format!("the cluster id is {own}, not {}", &*other);
        return Err(ChangeError::new(ErrorCode::InconsistentClusterId, message));
    }
    judge(change, voter, &broker.member.quorum(wait).await)?;
    let changed = broker.member.change_quorum(change, NodeId(voter), wait).await;
    changed.map_err(|error| match error {
        QuorumChangeError::Refused(reason) => ChangeError::new(ErrorCode::InvalidRequest, reason),
        QuorumChangeError::Unanswered(reason) => ChangeError::new(ErrorCode::RequestTimedOut, reason),
    })
}

/// As Kafka judges it, by the quorum as its leader sees it.
fn judge(change: QuorumChange, voter: i32, quorum: &QuorumState) -> Result<(), ChangeError> {
    let votes = quorum.voters.iter().any(|replica| replica.node.0 == voter);
    let known = votes || quorum.observers.iter().any(|replica| replica.node.0 == voter);
    let refused = |code, message: String| Err(ChangeError::new(code, message));
    match change {
        _ if voter < 0 => refused(ErrorCode::InvalidRequest, format!("{voter} is no node's id")),
        QuorumChange::AddVoter if votes => refused(ErrorCode::DuplicateVoter, format!("node {voter} votes already")),
        QuorumChange::AddVoter if !known => {
            refused(ErrorCode::InvalidRequest, format!("node {voter} has not joined this cluster: start it first"))
        }
        QuorumChange::RemoveVoter if !votes => refused(ErrorCode::VoterNotFound, format!("node {voter} does not vote")),
        QuorumChange::RemoveVoter if quorum.voters.len() == 1 => {
            refused(ErrorCode::InvalidRequest, format!("node {voter} is the only voter"))
        }
        _ => Ok(()),
    }
}

fn told(outcome: Result<(), ChangeError>) -> (i16, Option<StrBytes>) {
    match outcome {
        Ok(()) => (0, None),
        Err(error) => (error.code.code(), Some(StrBytes::from_string(error.message))),
    }
}

#[cfg(test)]
mod tests {
    use common::LogIndex;
    use metadata::QuorumReplica;

    use super::*;

    fn quorum(voters: &[i32], observers: &[i32]) -> QuorumState {
        let replicas = |ids: &[i32]| {
            ids.iter().map(|id| QuorumReplica { node: NodeId(*id), log_end: LogIndex(1) }).collect::<Vec<_>>()
        };
        QuorumState {
            leader: Some(NodeId(1)),
            is_leader: true,
            term: 1,
            committed_end: LogIndex(1),
            voters: replicas(voters),
            observers: replicas(observers),
        }
    }

    #[test]
    fn only_nodes_that_joined_get_votes_and_only_votes_are_taken() {
        let quorum = quorum(&[1, 2], &[4]);
        let code = |change, voter| judge(change, voter, &quorum).map_err(|error| error.code.code());
        assert_eq!(code(QuorumChange::AddVoter, 4), Ok(()));
        assert_eq!(code(QuorumChange::AddVoter, 2), Err(126));
        assert_eq!(code(QuorumChange::AddVoter, 5), Err(42));
        assert_eq!(code(QuorumChange::AddVoter, -1), Err(42));
        assert_eq!(code(QuorumChange::RemoveVoter, 2), Ok(()));
        assert_eq!(code(QuorumChange::RemoveVoter, 4), Err(127));
    }

    #[test]
    fn the_last_vote_stays() {
        let refused = judge(QuorumChange::RemoveVoter, 1, &quorum(&[1], &[2])).expect_err("the last one");
        assert_eq!(refused.code, ErrorCode::InvalidRequest);
    }

    #[test]
    fn waits_are_bounded() {
        assert_eq!((wait(-1), wait(i32::MAX)), (Duration::from_secs(1), Duration::from_secs(30)));
    }
}
