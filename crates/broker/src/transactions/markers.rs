//! Writing markers: on partitions that this broker leads, and through its peers on those that they lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::NodeId;
use coordinator::transaction::MarkerTask;
use metadata::{MetadataClient, MetadataImage};
use prost::Message;
use protocol::ErrorCode;
use wal::DurableLsn;

use crate::cluster::peer::messages::{MarkersAnswer, MarkersRequest, TopicPartition, decode, encode};
use crate::cluster::peer::{Kind, Lane, Peers};
use crate::coordinator::{GROUP_METADATA_TOPIC, GroupCoordinator};
use crate::partition::{LookupError, Partitions, TransactionMarker};

/// How long a peer may take to have markers durable.
const DEADLINE: Duration = Duration::from_secs(10);

/// A partition: topic and index.
pub(crate) type Key = (Arc<str>, i32);

/// A later coordinator, or a later epoch of the producer, has been at work: this one has nothing to say any more.
#[derive(Debug)]
pub(crate) struct Superseded;

/// See the module.
pub(crate) struct MarkerWriter {
    /// This node.
    pub(crate) node: NodeId,
    /// Who leads what.
    pub(crate) metadata: MetadataClient,
    /// Partitions that this broker leads.
    pub(crate) partitions: Partitions,
    /// Markers on their partitions count for offsets.
    pub(crate) groups: GroupCoordinator,
    /// The way to other nodes.
    pub(crate) peers: Peers,
    /// The log's durable position.
    pub(crate) durable: Arc<DurableLsn>,
}

impl MarkerWriter {
    /// Writes the markers of `task` on those partitions; returns which are done with: have it durably, or exist no more.
    pub(crate) async fn write(
        &self,
        task: &MarkerTask,
        coordinator_epoch: i32,
        partitions: &[Key],
    ) -> Result<Vec<Key>, Superseded> {
        let marker = TransactionMarker {
            producer_id: task.producer_id,
            producer_epoch: task.producer_epoch,
            commit: task.commit,
            coordinator_epoch,
            transaction_version: task.transaction_version,
        };
        let image = self.metadata.image();
        let mut done = Vec::new();
        let mut by_leader: BTreeMap<NodeId, Vec<Key>> = BTreeMap::new();
        for key in partitions {
            match leader(&image, key) {
                Some(leader) => by_leader.entry(leader).or_default().push(key.clone()),
                None => done.push(key.clone()),
            }
        }
        let writes = by_leader.into_iter().map(|(leader, keys)| {
            let image = &image;
            async move {
                let codes = if leader == self.node {
                    self.write_here(&marker, &keys).await
                } else {
                    self.write_there(image, leader, &marker, &keys).await
                };
                (keys, codes)
            }
        });
        for (keys, codes) in futures::future::join_all(writes).await {
            for (key, code) in keys.into_iter().zip(codes) {
                match code {
                    ErrorCode::None => done.push(key),
                    ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced => {
                        return Err(Superseded);
                    }
                    _ => {}
                }
            }
        }
        Ok(done)
    }

    /// Writes markers on partitions of this broker; answers when they are durable.
    pub(crate) async fn write_here(&self, marker: &TransactionMarker, keys: &[Key]) -> Vec<ErrorCode> {
        let appended: Vec<_> = keys.iter().map(|(topic, index)| self.append(marker, topic, *index)).collect();
        let last = appended.iter().filter_map(|appended| appended.as_ref().ok()).max().copied();
        let is_durable = match last {
            Some(lsn) => self.durable.wait(lsn).await.is_ok(),
            None => true,
        };
        let code = |appended| match appended {
            Ok(_) if is_durable => ErrorCode::None,
            Ok(_) => ErrorCode::KafkaStorageError,
            Err(code) => code,
        };
        appended.into_iter().map(code).collect()
    }

    fn append(&self, marker: &TransactionMarker, topic: &str, index: i32) -> Result<common::Lsn, ErrorCode> {
        if topic == GROUP_METADATA_TOPIC {
            return self.groups.append_marker(index, marker);
        }
        let partition = self.partitions.lookup_name(topic, index).map_err(LookupError::code)?;
        let appended = partition.append_marker(marker);
        appended
            .map(|appended| appended.lsn)
            .map_err(|refused| ErrorCode::from_code(refused.code).unwrap_or(ErrorCode::UnknownServerError))
    }

    async fn write_there(
        &self,
        image: &MetadataImage,
        leader: NodeId,
        marker: &TransactionMarker,
        keys: &[Key],
    ) -> Vec<ErrorCode> {
        let request = MarkersRequest {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch.into(),
            commit: marker.commit,
            coordinator_epoch: marker.coordinator_epoch,
            transaction_version: marker.transaction_version.into(),
            partitions: keys.iter().map(TopicPartition::from).collect(),
        };
        match self.ask::<MarkersAnswer>(image, leader, Kind::Markers, encode(&request), DEADLINE).await {
            Some(answer) if answer.codes.len() == keys.len() => answer.codes.into_iter().map(super::code_of).collect(),
            _ => vec![ErrorCode::NotLeaderOrFollower; keys.len()],
        }
    }

    /// A peer's answer; none if it was not reached, or had none.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        image: &MetadataImage,
        node: NodeId,
        kind: Kind,
        body: Bytes,
        deadline: Duration,
    ) -> Option<A> {
        let node = image.nodes.get(&node).filter(|node| !node.peer.is_empty())?;
        let asked = self.peers.call(&node.peer, Lane::Control, kind, body, deadline).await;
        decode(asked.ok()?.ok()?).ok()
    }

    /// Another broker, which coordinates the transaction, asks for markers here.
    pub(crate) async fn answer(&self, request: MarkersRequest) -> Result<MarkersAnswer, String> {
        let out_of_range = |_| "a number is out of range".to_owned();
        let marker = TransactionMarker {
            producer_id: request.producer_id,
            producer_epoch: i16::try_from(request.producer_epoch).map_err(out_of_range)?,
            commit: request.commit,
            coordinator_epoch: request.coordinator_epoch,
            transaction_version: i8::try_from(request.transaction_version).map_err(out_of_range)?,
        };
        let keys: Vec<Key> = request.partitions.into_iter().map(Key::from).collect();
        let codes = self.write_here(&marker, &keys).await;
        Ok(MarkersAnswer { codes: codes.into_iter().map(|code| code.code().into()).collect() })
    }
}

/// Who leads a partition; nobody if it does not exist.
fn leader(image: &MetadataImage, (topic, index): &Key) -> Option<NodeId> {
    Some(image.topic(topic)?.partition(*index)?.leader)
}
