//! Raft's network on the transport port.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{NodeId, blocking_pieces};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::machine::{SnapshotData, head_of};
use super::transport::{RaftTransport, TransportError};
use super::types::{self, PeerAddress, RaftVote, TypeConfig};
use crate::log::LogRecord;
use crate::wire::{AppendOutcome, Request, Response, encode_snapshot};

/// How long an answer is waited for at least. Raft would give up after one heartbeat, which a busy machine or a slow disk
/// takes easily: each message would be sent again, and make matters worse.
const PATIENCE_MIN: Duration = Duration::from_millis(500);

/// Makes a connection to each peer.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn RaftTransport>,
}

/// The way to one peer.
pub(crate) struct Peer {
    transport: Arc<dyn RaftTransport>,
    target: NodeId,
    address: Arc<str>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &PeerAddress) -> Peer {
        Peer { transport: Arc::clone(&self.transport), target: node_id(target), address: Arc::clone(&node.0) }
    }
}

/// Raft's ids are Kafka's node ids, which are never negative.
pub(crate) fn node_id(id: u64) -> NodeId {
    NodeId(i32::try_from(id).unwrap_or(i32::MAX))
}

impl Peer {
    async fn call(&self, request: &Request, option: &RPCOption) -> Result<Response, RPCError<TypeConfig>> {
        let answer = tokio::time::timeout(
            option.hard_ttl().max(PATIENCE_MIN),
            self.transport.call(self.target, &self.address, request.encode()),
        );
        let answer = answer.await.map_err(|_| lost("no answer in time"))?;
        let answer = answer.map_err(|error| match error {
            TransportError::Unreachable(reason) => RPCError::Unreachable(Unreachable::from_string(reason)),
            TransportError::Lost(reason) => lost(reason),
        })?;
        Response::decode(answer).map_err(lost)
    }
}

fn lost(reason: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(reason))
}

fn unexpected(response: &Response) -> RPCError<TypeConfig> {
    match response {
        Response::Failed(reason) | Response::Unavailable(reason) => lost(reason),
        other => lost(format!("the answer does not fit the request: {other:?}")),
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let record = |entry: &types::RaftEntry| LogRecord {
            id: types::entry_id(&entry.log_id),
            payload: types::encode_payload(entry),
        };
        let request = Request::Append {
            vote: types::vote(&rpc.vote),
            previous: rpc.prev_log_id.as_ref().map(types::entry_id),
            committed: rpc.leader_commit.as_ref().map(types::entry_id),
            entries: rpc.entries.iter().map(record).collect(),
        };
        match self.call(&request, &option).await? {
            Response::Appended(outcome) => Ok(match outcome {
                AppendOutcome::Success => AppendEntriesResponse::Success,
                AppendOutcome::Partial(id) => AppendEntriesResponse::PartialSuccess(id.map(types::log_id)),
                AppendOutcome::Conflict => AppendEntriesResponse::Conflict,
                AppendOutcome::HigherVote(vote) => AppendEntriesResponse::HigherVote(types::raft_vote(vote)),
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, &option) => sent.map_err(StreamingError::from),
        }
    }
}

impl Peer {
    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = Request::Vote {
            vote: types::vote(&rpc.vote),
            last: rpc.last_log_id.as_ref().map(types::entry_id),
            pre,
            transfer: rpc.leadership_transfer,
        };
        match self.call(&request, option).await? {
            Response::Voted { vote, granted, last } => {
                Ok(VoteResponse::new(types::raft_vote(vote), last.map(types::log_id), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Sends chunk by chunk; the encoder is never more than two chunks ahead.
    async fn send_snapshot(
        &self,
        vote: RaftVote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        option: &RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> {
        let head = head_of(&snapshot.meta);
        let transfer = head.last.map_or(0, |last| last.index);
        let (mut chunks, encoding) = blocking_pieces(2, move |put| {
            encode_snapshot(&head, &snapshot.snapshot, &mut |chunk: &[u8]| put(Bytes::copy_from_slice(chunk)))
        });
        let vote = types::vote(&vote);
        let sending = async move {
            let mut sequence = 0;
            while let Some(chunk) = chunks.recv().await {
                let request = Request::Snapshot { vote, transfer, sequence, chunk: Some(chunk) };
                match self.call(&request, option).await? {
                    Response::Snapshot { .. } => sequence += 1,
                    other => return Err(unexpected(&other)),
                }
            }
            Ok(sequence)
        };
        let (encoded, sent) = tokio::join!(encoding, sending);
        let sequence = sent?;
        encoded.map_err(lost)?;
        match self.call(&Request::Snapshot { vote, transfer, sequence, chunk: None }, option).await? {
            Response::Snapshot { installed: Some(vote) } => Ok(SnapshotResponse::new(types::raft_vote(vote))),
            other => Err(unexpected(&other)),
        }
    }
}
