//! One file per API key. Each names its version range and its handler in one [`Handle`] implementation;
//! [`REGISTRY`] lists them, and ApiVersions answers from the same list, so it cannot lie.

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter;
mod alter_configs;
mod alter_partition_reassignments;
mod alter_replica_log_dirs;
pub(crate) mod api_versions;
#[cfg(test)]
pub(crate) mod cluster_image;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_quorum;
mod describe_topic_partitions;
mod describe_transactions;
mod elect_leaders;
mod end_txn;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod list_transactions;
pub mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod raft_voters;
mod sync_group;
mod txn_offset_commit;
mod unregister_broker;
mod write_txn_markers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::Lsn;
use futures::future::BoxFuture;
use kafka_protocol::protocol::{Decodable, Request, StrBytes};

pub use produce::gaps::RefusedBatch;

use crate::Broker;
use crate::network::{ConnectionInfo, Frame};

/// A handler of one API key.
pub trait Handle {
    /// The request it takes; its response type follows.
    type Request: Request<Response: Send>;
    /// Lowest and highest version that is advertised *and* honoured. Versions below
    /// [`Self::LOWEST_DECODED`] are advertised for old clients' sake and close the connection, as in Kafka.
    const VERSIONS: (i16, i16);
    /// Lowest version that is really accepted; differs from `VERSIONS.0` for Produce alone.
    const LOWEST_DECODED: i16 = Self::VERSIONS.0;

    /// Handles a request. Runs on the connection's task, in arrival order, and must not block: work that
    /// waits goes into [`Reply::Later`].
    fn handle(
        broker: &Arc<Broker>,
        context: RequestContext,
        request: Self::Request,
    ) -> Reply<<Self::Request as Request>::Response>;
}

/// What a request brings besides its body.
#[derive(Clone)]
pub struct RequestContext {
    /// API version of request and response.
    pub version: i16,
    /// Correlation id of request and response.
    pub correlation_id: i32,
    /// `client.id`, empty when null.
    pub client_id: StrBytes,
    /// The connection it came on.
    pub connection: Arc<ConnectionInfo>,
}

/// How a request is answered. Responses leave a connection in the order its requests came.
pub enum Reply<T> {
    /// At once.
    Now(T),
    /// When the WAL is durable up to the LSN; if the log fails before, never.
    Durable(Lsn, T),
    /// The same, but another answer when that takes too long.
    DurableWithin(Lsn, T, Late),
    /// When the future completes; it starts to run at once. Later requests of the connection are taken in when it is
    /// done, as in Kafka: who sends DeleteRecords and ListOffsets in one go counts on that.
    Later(BoxFuture<'static, T>),
    /// When the future completes, which starts to run when all earlier requests of the connection are answered:
    /// for responses whose memory is leased. The handler has encoded the frame itself.
    InTurn(BoxFuture<'static, Frame>),
    /// Not at all (Produce with acks=0).
    Silent,
    /// By closing the connection; the text is for the log.
    Close(String),
}

/// What becomes of a response that waits too long for the WAL. It is made of the response itself, so that those in
/// time, which are all but a few, cost nothing.
pub struct Late {
    /// How long the response may wait.
    pub within: Duration,
    /// API version of the response.
    pub version: i16,
    /// Makes the other answer.
    pub rewrite: fn(Frame, i16) -> Frame,
}

impl Late {
    /// The answer instead of `frame`.
    #[must_use]
    pub fn answer(self, frame: Frame) -> Frame {
        (self.rewrite)(frame, self.version)
    }
}

/// A [`Reply`] with its response encoded, as a connection takes it.
pub enum Served {
    /// Send at once.
    Now(Frame),
    /// Send when the WAL is durable up to the LSN, or what is said instead when that takes too long.
    Durable(Lsn, Frame, Option<Late>),
    /// Send when the future completes.
    Later(BoxFuture<'static, Frame>),
    /// Run when it is the oldest of its connection, and send when it completes.
    InTurn(BoxFuture<'static, Frame>),
    /// Send nothing.
    Silent,
    /// Close the connection.
    Close(String),
}

/// An API as the dispatcher sees it.
pub struct Api {
    /// Its key on the wire.
    pub key: i16,
    /// Advertised versions.
    pub versions: (i16, i16),
    /// Lowest version that is really accepted.
    pub lowest_decoded: i16,
    /// Decodes the body, handles it and encodes the response.
    pub serve: fn(&Arc<Broker>, RequestContext, Bytes) -> Served,
}

const fn api<H>() -> Api
where
    H: Handle,
    <H::Request as Request>::Response: 'static,
{
    Api { key: H::Request::KEY, versions: H::VERSIONS, lowest_decoded: H::LOWEST_DECODED, serve: serve::<H> }
}

/// Every API this broker honours, by ascending key.
pub static REGISTRY: &[Api] = &[
    api::<produce::Produce>(),
    api::<fetch::Fetch>(),
    api::<list_offsets::ListOffsets>(),
    api::<metadata::Metadata>(),
    api::<offset_commit::OffsetCommit>(),
    api::<offset_fetch::OffsetFetch>(),
    api::<find_coordinator::FindCoordinator>(),
    api::<join_group::JoinGroup>(),
    api::<heartbeat::Heartbeat>(),
    api::<leave_group::LeaveGroup>(),
    api::<sync_group::SyncGroup>(),
    api::<describe_groups::DescribeGroups>(),
    api::<list_groups::ListGroups>(),
    api::<api_versions::ApiVersions>(),
    api::<create_topics::CreateTopics>(),
    api::<delete_topics::DeleteTopics>(),
    api::<delete_records::DeleteRecords>(),
    api::<init_producer_id::InitProducerId>(),
    api::<offset_for_leader_epoch::OffsetForLeaderEpoch>(),
    api::<add_partitions_to_txn::AddPartitionsToTxn>(),
    api::<add_offsets_to_txn::AddOffsetsToTxn>(),
    api::<end_txn::EndTxn>(),
    api::<write_txn_markers::WriteTxnMarkers>(),
    api::<txn_offset_commit::TxnOffsetCommit>(),
    api::<describe_configs::DescribeConfigs>(),
    api::<alter_configs::AlterConfigs>(),
    api::<alter_replica_log_dirs::AlterReplicaLogDirs>(),
    api::<describe_log_dirs::DescribeLogDirs>(),
    api::<create_partitions::CreatePartitions>(),
    api::<delete_groups::DeleteGroups>(),
    api::<elect_leaders::ElectLeaders>(),
    api::<incremental_alter_configs::IncrementalAlterConfigs>(),
    api::<alter_partition_reassignments::AlterPartitionReassignments>(),
    api::<list_partition_reassignments::ListPartitionReassignments>(),
    api::<offset_delete::OffsetDelete>(),
    api::<describe_quorum::DescribeQuorum>(),
    api::<describe_cluster::DescribeCluster>(),
    api::<describe_producers::DescribeProducers>(),
    api::<unregister_broker::UnregisterBroker>(),
    api::<describe_transactions::DescribeTransactions>(),
    api::<list_transactions::ListTransactions>(),
    api::<consumer_group_heartbeat::ConsumerGroupHeartbeat>(),
    api::<consumer_group_describe::ConsumerGroupDescribe>(),
    api::<list_config_resources::ListConfigResources>(),
    api::<describe_topic_partitions::DescribeTopicPartitions>(),
    api::<raft_voters::AddRaftVoter>(),
    api::<raft_voters::RemoveRaftVoter>(),
];

/// The API with that key on the wire.
#[must_use]
pub fn find(key: i16) -> Option<&'static Api> {
    REGISTRY.binary_search_by_key(&key, |api| api.key).ok().map(|index| &REGISTRY[index])
}

fn serve<H>(broker: &Arc<Broker>, context: RequestContext, mut body: Bytes) -> Served
where
    H: Handle,
    <H::Request as Request>::Response: 'static,
{
    let (version, correlation_id) = (context.version, context.correlation_id);
    let request = match H::Request::decode(&mut body, version) {
        Ok(request) => request,
        Err(error) => return Served::Close(format!("request cannot be decoded: {error}")),
    };
    let encode = move |response: <H::Request as Request>::Response| {
        Frame::response(H::Request::KEY, version, correlation_id, &response)
    };
    match H::handle(broker, context, request) {
        Reply::Now(response) => Served::Now(encode(response)),
        Reply::Durable(lsn, response) => Served::Durable(lsn, encode(response), None),
        Reply::DurableWithin(lsn, response, late) => Served::Durable(lsn, encode(response), Some(late)),
        Reply::Later(future) => Served::Later(Box::pin(async move { encode(future.await) })),
        Reply::InTurn(future) => Served::InTurn(future),
        Reply::Silent => Served::Silent,
        Reply::Close(reason) => Served::Close(reason),
    }
}
