//! Decoding any request with the stock codec.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, VersionRange};

/// One request type of the stock codec.
#[derive(Clone, Copy)]
pub(crate) struct Codec {
    pub(crate) key: i16,
    pub(crate) versions: VersionRange,
    /// Decodes a body and drops the result: bytes left over, or why not.
    pub(crate) decode: fn(Bytes, i16) -> Result<usize, String>,
    /// Decodes a body and encodes it again.
    pub(crate) again: fn(Bytes, i16) -> Result<Vec<u8>, String>,
}

fn decode<R: Request>(mut body: Bytes, version: i16) -> Result<usize, String> {
    R::decode(&mut body, version).map(|_| body.len()).map_err(|error| error.to_string())
}

fn again<R: Request>(mut body: Bytes, version: i16) -> Result<Vec<u8>, String> {
    let request = R::decode(&mut body, version).map_err(|error| error.to_string())?;
    let mut out = BytesMut::new();
    request.encode(&mut out, version).map_err(|error| error.to_string())?;
    Ok(out.to_vec())
}

macro_rules! codecs {
    ($($request:ident)*) => {
        /// All request types of the stock codec.
        pub(crate) const CODECS: &[Codec] = &[$(Codec {
            key: <$request as Request>::KEY,
            versions: <$request as kafka_protocol::protocol::Message>::VERSIONS,
            decode: decode::<$request>,
            again: again::<$request>,
        },)*];
    };
}

codecs! {
    ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest OffsetFetchRequest
    FindCoordinatorRequest JoinGroupRequest HeartbeatRequest LeaveGroupRequest SyncGroupRequest
    DescribeGroupsRequest ListGroupsRequest SaslHandshakeRequest ApiVersionsRequest CreateTopicsRequest
    DeleteTopicsRequest DeleteRecordsRequest InitProducerIdRequest OffsetForLeaderEpochRequest
    AddPartitionsToTxnRequest AddOffsetsToTxnRequest EndTxnRequest WriteTxnMarkersRequest
    TxnOffsetCommitRequest DescribeAclsRequest CreateAclsRequest DeleteAclsRequest DescribeConfigsRequest
    AlterConfigsRequest AlterReplicaLogDirsRequest DescribeLogDirsRequest SaslAuthenticateRequest
    CreatePartitionsRequest CreateDelegationTokenRequest RenewDelegationTokenRequest
    ExpireDelegationTokenRequest DescribeDelegationTokenRequest DeleteGroupsRequest ElectLeadersRequest
    IncrementalAlterConfigsRequest AlterPartitionReassignmentsRequest ListPartitionReassignmentsRequest
    OffsetDeleteRequest DescribeClientQuotasRequest AlterClientQuotasRequest
    DescribeUserScramCredentialsRequest AlterUserScramCredentialsRequest VoteRequest BeginQuorumEpochRequest
    EndQuorumEpochRequest DescribeQuorumRequest AlterPartitionRequest UpdateFeaturesRequest EnvelopeRequest
    FetchSnapshotRequest DescribeClusterRequest DescribeProducersRequest BrokerRegistrationRequest
    BrokerHeartbeatRequest UnregisterBrokerRequest DescribeTransactionsRequest ListTransactionsRequest
    AllocateProducerIdsRequest ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest
    ControllerRegistrationRequest GetTelemetrySubscriptionsRequest PushTelemetryRequest
    AssignReplicasToDirsRequest ListConfigResourcesRequest DescribeTopicPartitionsRequest
    ShareGroupHeartbeatRequest ShareGroupDescribeRequest ShareFetchRequest ShareAcknowledgeRequest
    AddRaftVoterRequest RemoveRaftVoterRequest UpdateRaftVoterRequest InitializeShareGroupStateRequest
    ReadShareGroupStateRequest WriteShareGroupStateRequest DeleteShareGroupStateRequest
    ReadShareGroupStateSummaryRequest DescribeShareGroupOffsetsRequest AlterShareGroupOffsetsRequest
    DeleteShareGroupOffsetsRequest
}
