//! A group's life over the wire: coordinator found, members joined, offsets committed; and all of it there again
//! after a restart.

use std::path::Path;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseTopics;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ApiKey, DeleteGroupsRequest, DeleteTopicsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetFetchRequest, RequestHeader, ResponseHeader, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use ottla_broker::config::{BrokerConfig, Properties};
use ottla_broker::{RunningBroker, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GROUP: &str = "group";

struct Client {
    stream: TcpStream,
}

impl Client {
    async fn connect(broker: &RunningBroker) -> Self {
        let port = broker.listeners()[0].port;
        Self { stream: TcpStream::connect(("127.0.0.1", port)).await.expect("connects") }
    }

    async fn call<R: Request>(&mut self, version: i16, request: R) -> R::Response {
        let key = ApiKey::try_from(R::KEY).expect("known");
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(string("client")));
        let mut body = BytesMut::new();
        header.encode(&mut body, key.request_header_version(version)).expect("encodes");
        request.encode(&mut body, version).expect("encodes");
        let mut frame = BytesMut::new();
        frame.put_u32(u32::try_from(body.len()).expect("small"));
        frame.put(body);
        self.stream.write_all(&frame).await.expect("sent");
        let length = self.stream.read_u32().await.expect("answered");
        let mut answer = vec![0; length as usize];
        self.stream.read_exact(&mut answer).await.expect("answered whole");
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, key.response_header_version(version)).expect("decodes");
        assert_eq!(header.correlation_id, 7);
        let response = R::Response::decode(&mut answer, version).expect("decodes");
        assert!(!answer.has_remaining());
        response
    }
}

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(string(GROUP))
}

async fn started(directory: &Path) -> RunningBroker {
    let mut properties = Properties::default();
    properties.set("listeners", "PLAINTEXT://127.0.0.1:0");
    properties.set("log.dirs", directory.to_str().expect("a path"));
    properties.set("group.initial.rebalance.delay.ms", "0");
    let (config, _) = BrokerConfig::load(properties, false).expect("sound");
    start(config).await.expect("starts")
}

/// Finds the coordinator and creates the topic `t`.
async fn prepared(client: &mut Client) {
    let found = client.call(4, FindCoordinatorRequest::default().with_coordinator_keys(vec![string(GROUP)])).await;
    assert_eq!((found.coordinators[0].error_code, found.coordinators[0].node_id.0), (0, 1), "{found:?}");
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(string("t"))));
    client
        .call(9, MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(true))
        .await;
}

fn join(member_id: &StrBytes) -> JoinGroupRequest {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(string("range")).with_metadata(Bytes::from_static(b"m"));
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_member_id(member_id.clone())
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(string("test"))
        .with_protocols(vec![protocol])
}

/// The only member of a stable group: its id and generation.
async fn member(client: &mut Client) -> (StrBytes, i32) {
    let id = client.call(9, join(&StrBytes::default())).await;
    assert_eq!(id.error_code, 79);
    let joined = client.call(9, join(&id.member_id)).await;
    assert_eq!((joined.error_code, &joined.leader), (0, &id.member_id));
    let assignment = SyncGroupRequestAssignment::default()
        .with_member_id(joined.member_id.clone())
        .with_assignment(Bytes::from_static(b"all"));
    let sync = SyncGroupRequest::default()
        .with_group_id(group())
        .with_member_id(joined.member_id.clone())
        .with_generation_id(joined.generation_id)
        .with_protocol_type(Some(string("test")))
        .with_protocol_name(Some(string("range")))
        .with_assignments(vec![assignment]);
    let synced = client.call(5, sync).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    (joined.member_id, joined.generation_id)
}

async fn commit(client: &mut Client, member: &StrBytes, generation: i32, topic: &str, offset: i64) -> i16 {
    let partition =
        OffsetCommitRequestPartition::default().with_committed_offset(offset).with_committed_leader_epoch(2);
    let topic =
        OffsetCommitRequestTopic::default().with_name(TopicName(string(topic))).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group())
        .with_member_id(member.clone())
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![topic]);
    client.call(8, request).await.topics[0].partitions[0].error_code
}

async fn committed(client: &mut Client) -> Vec<(String, i64)> {
    let request = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(None);
    let response = client.call(8, OffsetFetchRequest::default().with_groups(vec![request])).await;
    let group = &response.groups[0];
    assert_eq!(group.error_code, 0);
    let offset = |topic: &OffsetFetchResponseTopics| (topic.name.to_string(), topic.partitions[0].committed_offset);
    group.topics.iter().map(offset).collect()
}

async fn heartbeat(client: &mut Client, member: &StrBytes, generation: i32) -> i16 {
    let request = HeartbeatRequest::default()
        .with_group_id(group())
        .with_member_id(member.clone())
        .with_generation_id(generation);
    client.call(4, request).await.error_code
}

/// Number of groups, once all shards are loaded.
async fn listed(client: &mut Client) -> usize {
    let loaded = async {
        loop {
            let listed = client.call(4, ListGroupsRequest::default()).await;
            match listed.error_code {
                0 => return listed.groups.len(),
                14 => tokio::task::yield_now().await,
                other => panic!("error {other}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), loaded).await.expect("all shards load")
}

/// Waits, with a bound, until nothing is committed any more.
async fn until_nothing_is_committed(client: &mut Client) {
    let gone = async {
        while !committed(client).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("offsets of a deleted topic go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_and_its_offsets_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let broker = started(directory.path()).await;
    let mut client = Client::connect(&broker).await;
    prepared(&mut client).await;
    let (id, generation) = member(&mut client).await;
    assert_eq!(heartbeat(&mut client, &id, generation).await, 0);
    assert_eq!(commit(&mut client, &id, generation, "t", 41).await, 0);
    assert_eq!(commit(&mut client, &id, generation, "t", 42).await, 0);
    assert_eq!(commit(&mut client, &id, generation, "nowhere", 1).await, 3);
    assert_eq!(committed(&mut client).await, [("t".to_owned(), 42)]);
    drop(client);
    assert_eq!(broker.stop().await.left_in_wal, 0);

    let broker = started(directory.path()).await;
    let mut client = Client::connect(&broker).await;
    prepared(&mut client).await;
    broker.broker().wait_group_ready(GROUP, Duration::from_secs(10)).await;
    assert_eq!(committed(&mut client).await, [("t".to_owned(), 42)]);
    assert_eq!(heartbeat(&mut client, &id, generation).await, 0, "the member is still one");
    let described = client.call(5, DescribeGroupsRequest::default().with_groups(vec![group()])).await;
    assert_eq!((described.groups[0].group_state.as_str(), described.groups[0].members.len()), ("Stable", 1));
    assert_eq!(listed(&mut client).await, 1);

    // A deleted topic takes its offsets along, so that one of the same name starts without.
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![TopicName(string("t"))]).with_timeout_ms(5_000);
    assert_eq!(client.call(5, delete).await.responses[0].error_code, 0);
    until_nothing_is_committed(&mut client).await;
    let leave = LeaveGroupRequest::default().with_group_id(group()).with_member_id(id);
    assert_eq!(client.call(2, leave).await.error_code, 0);
    let deleted = client.call(2, DeleteGroupsRequest::default().with_groups_names(vec![group()])).await;
    assert_eq!(deleted.results[0].error_code, 0);
    drop(client);
    assert_eq!(broker.stop().await.left_in_wal, 0);
}
