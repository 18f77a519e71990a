//! Messages of the commands that change who leads, and of what the snapshot keeps of them.

use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, NodeEpoch, NodeId, Offset, StreamEpoch, StreamId};

use super::WireError;
use super::convert::{Replicas, optional_uuid, uuid, uuid_bytes};
use crate::command::{Command, FailOver, Life, Seal};
use crate::image::{Reservation, StreamImage, VoidEpoch};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FailOverMessage {
    #[prost(message, optional, tag = "1")]
    node: Option<LifeMessage>,
    #[prost(message, optional, tag = "2")]
    seal: Option<SealMessage>,
    #[prost(message, repeated, tag = "3")]
    leaders: Vec<LeaderMessage>,
}

/// A node in one of its lives.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LifeMessage {
    #[prost(int32, tag = "1")]
    node: i32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SealMessage {
    #[prost(bytes = "bytes", tag = "1")]
    wal: Bytes,
    #[prost(uint64, tag = "2")]
    end: u64,
    #[prost(message, repeated, tag = "3")]
    tails: Vec<TailMessage>,
}

/// A stream, and where its records in a log end.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct TailMessage {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(int64, tag = "2")]
    end: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaderMessage {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(int32, tag = "2")]
    node: i32,
}

/// A reservation, its commit or its end: streams without or with their epochs.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MoveMessage {
    #[prost(message, optional, tag = "1")]
    source: Option<LifeMessage>,
    #[prost(message, optional, tag = "2")]
    target: Option<LifeMessage>,
    #[prost(uint64, repeated, tag = "3")]
    streams: Vec<u64>,
    #[prost(uint64, repeated, tag = "4")]
    epochs: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct DrainingMessage {
    #[prost(int32, tag = "1")]
    pub(super) node: i32,
    #[prost(bool, tag = "2")]
    pub(super) draining: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AbandonMessage {
    #[prost(bytes = "bytes", tag = "1")]
    wal: Bytes,
    #[prost(message, repeated, tag = "2")]
    leaders: Vec<LeaderMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AlterReplicasMessage {
    #[prost(message, repeated, tag = "1")]
    changes: Vec<ReplicasOf>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplicasOf {
    #[prost(uint64, tag = "1")]
    stream: u64,
    #[prost(message, optional, tag = "2")]
    replicas: Option<Replicas>,
}

/// An epoch that was reserved; what a stream's void epochs are stored as, too.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReservedMessage {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(message, optional, tag = "2")]
    target: Option<LifeMessage>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    wal: Option<Bytes>,
}

impl From<Life> for LifeMessage {
    fn from((node, epoch): Life) -> Self {
        Self { node: node.0, epoch: epoch.0 }
    }
}

pub(super) fn life(from: Option<LifeMessage>) -> Result<Life, WireError> {
    let from = from.ok_or(WireError::Field("a node is named with its epoch"))?;
    Ok((NodeId(from.node), NodeEpoch(from.epoch)))
}

impl From<(&StreamId, &Offset)> for TailMessage {
    fn from((stream, end): (&StreamId, &Offset)) -> Self {
        Self { stream: stream.0, end: end.0 }
    }
}

impl From<TailMessage> for (StreamId, Offset) {
    fn from(from: TailMessage) -> Self {
        (StreamId(from.stream), Offset(from.end))
    }
}

fn leader_messages(leaders: &[(StreamId, NodeId)]) -> Vec<LeaderMessage> {
    leaders.iter().map(|(stream, node)| LeaderMessage { stream: stream.0, node: node.0 }).collect()
}

fn leaders(from: Vec<LeaderMessage>) -> Vec<(StreamId, NodeId)> {
    from.into_iter().map(|from| (StreamId(from.stream), NodeId(from.node))).collect()
}

impl From<&FailOver> for FailOverMessage {
    fn from(from: &FailOver) -> Self {
        let seal = |seal: &Seal| SealMessage {
            wal: uuid_bytes(seal.wal),
            end: seal.end.0,
            tails: seal.tails.iter().map(|(stream, end)| (stream, end).into()).collect(),
        };
        Self {
            node: Some((from.node, from.node_epoch).into()),
            seal: from.seal.as_ref().map(seal),
            leaders: leader_messages(&from.leaders),
        }
    }
}

impl TryFrom<FailOverMessage> for FailOver {
    type Error = WireError;

    fn try_from(from: FailOverMessage) -> Result<Self, WireError> {
        let (node, node_epoch) = life(from.node)?;
        let seal = |from: SealMessage| {
            let tails = from.tails.into_iter().map(Into::into).collect();
            Ok::<_, WireError>(Seal { wal: uuid(&from.wal)?, end: Lsn(from.end), tails })
        };
        Ok(Self { node, node_epoch, seal: from.seal.map(seal).transpose()?, leaders: leaders(from.leaders) })
    }
}

impl MoveMessage {
    pub(super) fn reserve(source: Life, target: Life, streams: &[StreamId]) -> Self {
        let streams = streams.iter().map(|stream| stream.0).collect();
        Self { source: Some(source.into()), target: Some(target.into()), streams, epochs: Vec::new() }
    }

    pub(super) fn granted(source: Life, target: Option<Life>, streams: &[(StreamId, StreamEpoch)]) -> Self {
        let (streams, epochs) = streams.iter().map(|(stream, epoch)| (stream.0, epoch.0)).unzip();
        Self { source: Some(source.into()), target: target.map(Into::into), streams, epochs }
    }

    pub(super) fn into_reserve(self) -> Result<Command, WireError> {
        let streams = self.streams.into_iter().map(StreamId).collect();
        Ok(Command::ReserveMove { source: life(self.source)?, target: life(self.target)?, streams })
    }

    pub(super) fn into_commit(self) -> Result<Command, WireError> {
        let (source, target) = (life(self.source)?, life(self.target)?);
        Ok(Command::CommitMove { source, target, streams: self.into_streams()? })
    }

    pub(super) fn into_cancel(self) -> Result<Command, WireError> {
        Ok(Command::CancelMove { source: life(self.source)?, streams: self.into_streams()? })
    }

    fn into_streams(self) -> Result<Vec<(StreamId, StreamEpoch)>, WireError> {
        if self.streams.len() != self.epochs.len() {
            return Err(WireError::Field("every stream of a move has an epoch"));
        }
        let pairs = self.streams.into_iter().zip(self.epochs);
        Ok(pairs.map(|(stream, epoch)| (StreamId(stream), StreamEpoch(epoch))).collect())
    }
}

impl AbandonMessage {
    pub(super) fn new(wal: uuid::Uuid, leaders: &[(StreamId, NodeId)]) -> Self {
        Self { wal: uuid_bytes(wal), leaders: leader_messages(leaders) }
    }

    pub(super) fn into_command(self) -> Result<Command, WireError> {
        Ok(Command::AbandonWal { wal: uuid(&self.wal)?, leaders: leaders(self.leaders) })
    }
}

impl From<&[(StreamId, Arc<[NodeId]>)]> for AlterReplicasMessage {
    fn from(from: &[(StreamId, Arc<[NodeId]>)]) -> Self {
        let change = |(stream, replicas): &(StreamId, Arc<[NodeId]>)| ReplicasOf {
            stream: stream.0,
            replicas: Some(replicas.into()),
        };
        Self { changes: from.iter().map(change).collect() }
    }
}

impl From<AlterReplicasMessage> for Command {
    fn from(from: AlterReplicasMessage) -> Self {
        let change = |from: ReplicasOf| (StreamId(from.stream), from.replicas.unwrap_or_default().into());
        Self::AlterReplicas { changes: from.changes.into_iter().map(change).collect() }
    }
}

/// What a stream has reserved, and its void epochs.
pub(super) fn reserved_messages(stream: &StreamImage) -> (Option<ReservedMessage>, Vec<ReservedMessage>) {
    let reserved = stream.reserved.map(|from| ReservedMessage {
        epoch: from.epoch.0,
        target: Some((from.node, from.node_epoch).into()),
        wal: from.wal.map(uuid_bytes),
    });
    let void =
        |from: &VoidEpoch| ReservedMessage { epoch: from.epoch.0, target: None, wal: Some(uuid_bytes(from.wal)) };
    (reserved, stream.void.iter().map(void).collect())
}

pub(super) fn reservation(from: Option<ReservedMessage>) -> Result<Option<Reservation>, WireError> {
    let decode = |from: ReservedMessage| {
        let (node, node_epoch) = life(from.target)?;
        Ok(Reservation { epoch: StreamEpoch(from.epoch), node, node_epoch, wal: optional_uuid(from.wal.as_ref())? })
    };
    from.map(decode).transpose()
}

pub(super) fn void_epochs(from: Vec<ReservedMessage>) -> Result<Arc<[VoidEpoch]>, WireError> {
    let decode = |from: ReservedMessage| {
        let wal = optional_uuid(from.wal.as_ref())?.ok_or(WireError::Field("a void epoch names its log"))?;
        Ok(VoidEpoch { epoch: StreamEpoch(from.epoch), wal })
    };
    from.into_iter().map(decode).collect()
}
