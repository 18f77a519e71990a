//! A shard with a clock, a log of all its records, and the answers by token.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use protocol::ErrorCode;
use uuid::Uuid;

use crate::{
    Context, CoordinatorRecord, GroupConfig, GroupShard, GroupState, KnownTopic, Now, Output, Persisted, Request,
    Response, Token, Topics,
};

pub(crate) const GROUP: &str = "group";
pub(crate) const SESSION_MS: i32 = 10_000;
pub(crate) const REBALANCE_MS: i32 = 60_000;
pub(crate) const DELAY_MS: i64 = 3_000;

pub(crate) struct Harness {
    pub(crate) shard: GroupShard,
    pub(crate) now: Now,
    pub(crate) log: Vec<CoordinatorRecord>,
    pub(crate) answers: HashMap<Token, Response>,
    pub(crate) topics: TestTopics,
    config: Arc<GroupConfig>,
    last_token: u64,
}

pub(crate) fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn group_id(id: &str) -> GroupId {
    GroupId(string(id))
}

/// A JoinGroup of a consumer that supports one protocol, `range`.
pub(crate) fn join_request(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(group_id(GROUP))
        .with_member_id(string(member_id))
        .with_session_timeout_ms(SESSION_MS)
        .with_rebalance_timeout_ms(REBALANCE_MS)
        .with_protocol_type(string("consumer"))
        .with_protocols(protocols(&["range"]))
}

pub(crate) fn protocols(names: &[&str]) -> Vec<JoinGroupRequestProtocol> {
    let one = |name: &&str| {
        JoinGroupRequestProtocol::default().with_name(string(name)).with_metadata(subscription(&["topic"]))
    };
    names.iter().map(one).collect()
}

/// A consumer's subscription, version 0.
pub(crate) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(&(topics.len() as i32).to_be_bytes());
    for topic in topics {
        bytes.extend_from_slice(&(topic.len() as i16).to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
    }
    bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    bytes.into()
}

/// Runs random histories; `OTTLA_GROUP_HISTORIES` sets how many.
pub(crate) fn histories<A: Debug>(action: impl Strategy<Value = A>, run: impl Fn(Vec<A>)) {
    let cases = std::env::var("OTTLA_GROUP_HISTORIES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&proptest::collection::vec(action, 1..150), |actions| {
        run(actions);
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

/// Topics by name; ids follow from names.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestTopics {
    partitions: BTreeMap<Arc<str>, i32>,
    version: u64,
}

impl TestTopics {
    pub(crate) fn set(&mut self, name: &str, partitions: i32) {
        self.partitions.insert(name.into(), partitions);
        self.version += 1;
    }

    pub(crate) fn id(name: &str) -> Uuid {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        Uuid::from_bytes(bytes)
    }
}

impl Topics for TestTopics {
    fn by_name(&self, name: &str) -> Option<KnownTopic> {
        self.partitions.get(name).map(|partitions| KnownTopic { id: Self::id(name), partitions: *partitions })
    }

    fn name_of(&self, id: Uuid) -> Option<Arc<str>> {
        self.partitions.keys().find(|name| Self::id(name) == id).cloned()
    }

    fn for_each(&self, visit: &mut dyn FnMut(&Arc<str>)) {
        self.partitions.keys().for_each(visit);
    }

    fn version(&self) -> u64 {
        self.version
    }
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(GroupConfig::default())
    }

    pub(crate) fn with(config: GroupConfig) -> Self {
        let config = Arc::new(config);
        let now = Now { wall_ms: 1_700_000_000_000, boot_ms: 5_000 };
        let shard = GroupShard::load(Arc::clone(&config), Persisted::default(), now);
        Self {
            shard,
            now,
            log: Vec::new(),
            answers: HashMap::new(),
            topics: TestTopics::default(),
            config,
            last_token: 0,
        }
    }

    /// A new shard from the log alone, as after a crash.
    pub(crate) fn restart(&mut self) {
        let mut persisted = Persisted::default();
        self.log.iter().for_each(|record| persisted.replay(record));
        assert_eq!(&persisted, self.shard.persisted(), "replaying the records gives the persisted state");
        self.shard = GroupShard::load(Arc::clone(&self.config), persisted, self.now);
        self.answers.clear();
    }

    pub(crate) fn send(&mut self, version: i16, request: Request) -> Token {
        self.last_token += 1;
        let token = Token(self.last_token);
        let context = Context {
            version,
            client_id: "client",
            client_host: "/127.0.0.1",
            member_id_suffix: Uuid::from_u128(u128::from(self.last_token)),
            topics: &self.topics,
        };
        let output = self.shard.handle(token, &context, &request, self.now);
        self.take(output);
        token
    }

    /// Moves the clock, firing timers at their times.
    pub(crate) fn advance(&mut self, by_ms: i64) {
        let end = self.now.boot_ms + by_ms;
        while let Some(deadline) = self.shard.next_deadline().filter(|deadline| *deadline <= end) {
            let at = deadline.max(self.now.boot_ms);
            self.move_to(at);
            let output = self.shard.on_timer(self.now, &self.topics);
            self.take(output);
        }
        self.move_to(end);
    }

    fn move_to(&mut self, boot_ms: i64) {
        self.now.wall_ms += boot_ms - self.now.boot_ms;
        self.now.boot_ms = boot_ms;
    }

    pub(crate) fn take(&mut self, output: Output) {
        self.shard.apply(&output.records);
        for record in &output.records {
            let (key, value) = record.encode().expect("encodes");
            let stored = match record.clone() {
                // In the log it is the batch that says whose transaction it is of.
                CoordinatorRecord::StagedOffset { group, topic, partition, value, .. } => {
                    CoordinatorRecord::Offset { group, topic, partition, value: Some(value) }
                }
                other => other,
            };
            assert_eq!(CoordinatorRecord::decode(&key, value.as_deref()), Ok(Some(stored)));
        }
        self.log.extend(output.records);
        for (token, response) in output.responses {
            assert!(token.0 <= self.last_token, "a token that was handed in");
            assert!(self.answers.insert(token, response).is_none(), "one answer a token");
        }
    }

    pub(crate) fn state(&self) -> Option<GroupState> {
        self.shard.group_state(GROUP)
    }

    pub(crate) fn join(&mut self, request: JoinGroupRequest) -> Token {
        self.join_version(9, request)
    }

    pub(crate) fn join_version(&mut self, version: i16, request: JoinGroupRequest) -> Token {
        self.send(version, Request::Join(request))
    }

    /// The answer to a JoinGroup; it must have come.
    pub(crate) fn joined(&self, token: Token) -> &JoinGroupResponse {
        match self.answers.get(&token) {
            Some(Response::Join(response)) => response,
            other => panic!("no JoinGroup response but {other:?}"),
        }
    }

    pub(crate) fn is_waiting(&self, token: Token) -> bool {
        !self.answers.contains_key(&token)
    }

    pub(crate) fn synced(&self, token: Token) -> &SyncGroupResponse {
        match self.answers.get(&token) {
            Some(Response::Sync(response)) => response,
            other => panic!("no SyncGroup response but {other:?}"),
        }
    }

    /// A new member id, as MEMBER_ID_REQUIRED gives it.
    pub(crate) fn member_id(&mut self) -> String {
        let token = self.join(join_request(""));
        let response = self.joined(token);
        assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
        response.member_id.to_string()
    }

    pub(crate) fn sync_with(&mut self, member: &str, generation: i32, assignments: &[(&str, &'static [u8])]) -> Token {
        let one = |(member, bytes): &(&str, &'static [u8])| {
            SyncGroupRequestAssignment::default()
                .with_member_id(string(member))
                .with_assignment(Bytes::from_static(bytes))
        };
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(string(member))
            .with_generation_id(generation)
            .with_assignments(assignments.iter().map(one).collect());
        self.send(5, Request::Sync(request))
    }

    pub(crate) fn heartbeat(&mut self, member: &str, generation: i32) -> i16 {
        self.heartbeat_as(member, None, generation)
    }

    pub(crate) fn heartbeat_as(&mut self, member: &str, instance: Option<&str>, generation: i32) -> i16 {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(string(member))
            .with_group_instance_id(instance.map(string))
            .with_generation_id(generation);
        let token = self.send(4, Request::Heartbeat(request));
        match self.answers.get(&token) {
            Some(Response::Heartbeat(response)) => response.error_code,
            other => panic!("no Heartbeat response but {other:?}"),
        }
    }

    /// Codes per member of a LeaveGroup by (member id, instance id).
    pub(crate) fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<i16> {
        let one = |(member, instance): &(&str, Option<&str>)| {
            MemberIdentity::default().with_member_id(string(member)).with_group_instance_id(instance.map(string))
        };
        let members = members.iter().map(one).collect();
        let request = LeaveGroupRequest::default().with_group_id(group_id(GROUP)).with_members(members);
        let token = self.send(5, Request::Leave(request));
        match self.answers.get(&token) {
            Some(Response::Leave(response)) => {
                assert_eq!(response.error_code, 0);
                response.members.iter().map(|member| member.error_code).collect()
            }
            other => panic!("no LeaveGroup response but {other:?}"),
        }
    }

    /// A stable group of `size` dynamic members; the leader first. Returns ids and the generation.
    pub(crate) fn stable(&mut self, size: usize) -> (Vec<String>, i32) {
        let mut ids: Vec<String> = (0..size).map(|_| self.member_id()).collect();
        let joins: Vec<Token> = ids.iter().map(|id| self.join(join_request(id))).collect();
        self.advance(2 * DELAY_MS);
        let generation = self.joined(joins[0]).generation_id;
        let leader = self.joined(joins[0]).leader.to_string();
        ids.sort_by_key(|id| *id != leader);
        self.sync_all(&ids, generation);
        assert_eq!(self.state(), Some(GroupState::Stable));
        (ids, generation)
    }

    /// Every member sends SyncGroup, the leader first; everybody is assigned `a`.
    pub(crate) fn sync_all(&mut self, ids: &[String], generation: i32) {
        let assignments: Vec<(&str, &'static [u8])> = ids.iter().map(|id| (id.as_str(), &b"a"[..])).collect();
        for (index, id) in ids.iter().enumerate() {
            let token = self.sync_with(id, generation, if index == 0 { &assignments } else { &[] });
            assert_eq!(self.synced(token).error_code, 0);
        }
    }

    pub(crate) fn commit_request(
        member: &str,
        generation: i32,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> OffsetCommitRequest {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(3)
            .with_committed_metadata(Some(string("note")));
        let topic =
            OffsetCommitRequestTopic::default().with_name(TopicName(string(topic))).with_partitions(vec![partition]);
        OffsetCommitRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(string(member))
            .with_generation_id_or_member_epoch(generation)
            .with_topics(vec![topic])
    }

    /// Code of the only partition in a commit.
    pub(crate) fn commit_version(&mut self, version: i16, request: OffsetCommitRequest) -> i16 {
        let token = self.send(version, Request::OffsetCommit(request));
        match self.answers.get(&token) {
            Some(Response::OffsetCommit(response)) => response.topics[0].partitions[0].error_code,
            other => panic!("no OffsetCommit response but {other:?}"),
        }
    }

    pub(crate) fn commit(&mut self, member: &str, generation: i32, topic: &str, offset: i64) -> i16 {
        self.commit_version(9, Self::commit_request(member, generation, topic, 0, offset))
    }

    /// All committed offsets of the group: topic, partition, offset.
    pub(crate) fn fetch_all(&mut self) -> Vec<(String, i32, i64)> {
        let request = OffsetFetchRequestGroup::default().with_group_id(group_id(GROUP)).with_topics(None);
        let token = self.send(9, Request::OffsetFetch(request, crate::RequireStable::No));
        let Some(Response::OffsetFetch(response)) = self.answers.get(&token) else { panic!("no OffsetFetch response") };
        assert_eq!(response.error_code, 0);
        let mut offsets = Vec::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                offsets.push((topic.name.to_string(), partition.partition_index, partition.committed_offset));
            }
        }
        offsets
    }
}
