//! The shard: requests and timers in, records and responses out.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, SyncGroupRequest, SyncGroupResponse,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use uuid::Uuid;

use crate::checkpoint::CheckpointError;
use crate::config::GroupConfig;
use crate::consumer::{NoTopics, Refresh, Topics};
use crate::group::{ClassicGroup, GroupState};
use crate::persisted::Persisted;
use crate::rebalance::Step;
use crate::record::CoordinatorRecord;
use crate::timers::{Timer, Timers};

/// The host's name for a request. Every token handed in comes back with exactly one response, in the same
/// [`Output`] or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The time, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, milliseconds since the Unix epoch: for what is written into records and for retention.
    pub wall_ms: i64,
    /// Monotonic clock, milliseconds: for timers.
    pub boot_ms: i64,
}

/// What a request brings besides its body.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// API version: some answers depend on it.
    pub version: i16,
    /// `client.id`. Like the next two, used where members come: JoinGroup and ConsumerGroupHeartbeat.
    pub client_id: &'a str,
    /// The client's address as Java prints it: `/127.0.0.1`.
    pub client_host: &'a str,
    /// Makes a new member's id unique, should one be needed.
    pub member_id_suffix: Uuid,
    /// Topics as this broker knows them; used by consumer groups alone.
    pub topics: &'a dyn Topics,
}

impl Context<'_> {
    /// For requests in which no member comes.
    #[must_use]
    pub fn version(version: i16) -> Self {
        Self { version, client_id: "", client_host: "", member_id_suffix: Uuid::nil(), topics: &NoTopics }
    }
}

/// Whether an OffsetFetch wants UNSTABLE_OFFSET_COMMIT for offsets that an open transaction may change (KIP-447).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequireStable {
    /// It does.
    Yes,
    /// What is committed is told.
    No,
}

/// A request to one shard. Those that name several groups are split by the host.
#[derive(Clone, Debug)]
pub enum Request {
    /// JoinGroup.
    Join(JoinGroupRequest),
    /// SyncGroup.
    Sync(SyncGroupRequest),
    /// Heartbeat.
    Heartbeat(HeartbeatRequest),
    /// LeaveGroup, version 3 shape: the single member of older versions is the only one of `members`.
    Leave(LeaveGroupRequest),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(ConsumerGroupHeartbeatRequest),
    /// ConsumerGroupDescribe: a group of this shard.
    ConsumerDescribe(Arc<str>),
    /// DescribeGroups: the groups of this shard.
    Describe(Vec<Arc<str>>),
    /// ListGroups.
    List(ListGroupsRequest),
    /// DeleteGroups: the groups of this shard.
    DeleteGroups(Vec<Arc<str>>),
    /// OffsetCommit, of topics that exist.
    OffsetCommit(OffsetCommitRequest),
    /// TxnOffsetCommit, of topics that exist, from a producer whose transaction has this partition.
    TxnOffsetCommit(TxnOffsetCommitRequest),
    /// OffsetFetch, version 8 shape, one group; whether to tell of offsets that an open transaction may change.
    OffsetFetch(OffsetFetchRequestGroup, RequireStable),
    /// OffsetDelete, of topics that exist.
    OffsetDelete(OffsetDeleteRequest),
}

/// The response to a [`Request`] of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// JoinGroup.
    Join(JoinGroupResponse),
    /// SyncGroup.
    Sync(SyncGroupResponse),
    /// Heartbeat.
    Heartbeat(HeartbeatResponse),
    /// LeaveGroup, version 3 shape.
    Leave(LeaveGroupResponse),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    /// ConsumerGroupDescribe.
    ConsumerDescribe(DescribedConsumerGroup),
    /// DescribeGroups.
    Describe(Vec<DescribedGroup>),
    /// ListGroups.
    List(Vec<ListedGroup>),
    /// DeleteGroups.
    DeleteGroups(Vec<DeletableGroupResult>),
    /// OffsetCommit.
    OffsetCommit(OffsetCommitResponse),
    /// TxnOffsetCommit.
    TxnOffsetCommit(TxnOffsetCommitResponse),
    /// OffsetFetch, version 8 shape.
    OffsetFetch(OffsetFetchResponseGroup),
    /// OffsetDelete.
    OffsetDelete(OffsetDeleteResponse),
}

/// What a request or a timer brought about.
#[derive(Debug, Default)]
pub struct Output {
    /// To be appended in this order.
    pub records: Vec<CoordinatorRecord>,
    /// To be sent once the records, and all before them, are durable.
    pub responses: Vec<(Token, Response)>,
}

/// State of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct GroupShard {
    pub(crate) config: Arc<GroupConfig>,
    pub(crate) persisted: Persisted,
    pub(crate) groups: HashMap<Arc<str>, ClassicGroup>,
    /// What consumer groups were last compared with.
    pub(crate) refreshes: HashMap<Arc<str>, Refresh>,
    pub(crate) timers: Timers,
}

impl GroupShard {
    /// Starts serving from what is persisted: sessions of all members start anew. A group above
    /// `group.max.size`, which may have been lowered, rebalances.
    #[must_use]
    pub fn load(config: Arc<GroupConfig>, persisted: Persisted, now: Now) -> Self {
        let (groups, refreshes) = (HashMap::new(), HashMap::new());
        let mut shard = Self { config, persisted, groups, refreshes, timers: Timers::default() };
        shard.start_consumer_timers(now);
        for id in shard.persisted.classic_group_ids() {
            let group = match shard.persisted.groups.get(id) {
                Some(metadata) => ClassicGroup::loaded(Arc::clone(id), metadata),
                None => ClassicGroup::empty(Arc::clone(id), -1),
            };
            shard.groups.insert(Arc::clone(id), group);
        }
        let mut out = Output::default();
        let max_size = shard.config.max_size;
        let (groups, mut step) = shard.step(now, &mut out);
        for group in groups.values_mut() {
            for id in group.member_ids() {
                step.reset_session(group, &id);
            }
            if group.len() > max_size {
                step.prepare_rebalance(group);
            }
        }
        debug_assert!(out.records.is_empty() && out.responses.is_empty(), "loading changes nothing that is persisted");
        let first_check = now.boot_ms.saturating_add(shard.config.offsets_retention_check_interval_ms);
        shard.timers.schedule(Timer::Expiration, first_check);
        shard
    }

    /// Handles a request.
    pub fn handle(&mut self, token: Token, context: &Context<'_>, request: &Request, now: Now) -> Output {
        let mut out = Output::default();
        match request {
            Request::Join(request) => self.join(token, context, request, now, &mut out),
            Request::Sync(request) => self.sync(token, request, now, &mut out),
            Request::Heartbeat(request) => self.heartbeat(token, request, now, &mut out),
            Request::Leave(request) => self.leave(token, context, request, now, &mut out),
            Request::ConsumerHeartbeat(request) => self.consumer_heartbeat(token, context, request, now, &mut out),
            Request::ConsumerDescribe(group) => {
                let described = self.describe_consumer_group(group, context);
                out.responses.push((token, Response::ConsumerDescribe(described)));
            }
            Request::Describe(groups) => {
                let described = groups.iter().map(|group| self.describe(group, context.version)).collect();
                out.responses.push((token, Response::Describe(described)));
            }
            Request::List(request) => out.responses.push((token, Response::List(self.list(request)))),
            Request::DeleteGroups(groups) => {
                let results = groups.iter().map(|group| self.delete_group(group, &mut out.records)).collect();
                out.responses.push((token, Response::DeleteGroups(results)));
            }
            Request::OffsetCommit(request) => self.offset_commit(token, context, request, now, &mut out),
            Request::TxnOffsetCommit(request) => self.txn_offset_commit(token, request, now, &mut out),
            Request::OffsetFetch(request, require_stable) => {
                let response = self.offset_fetch(request, *require_stable);
                out.responses.push((token, Response::OffsetFetch(response)));
            }
            Request::OffsetDelete(request) => {
                let response = self.offset_delete(request, &mut out.records);
                out.responses.push((token, Response::OffsetDelete(response)));
            }
        }
        self.check();
        out
    }

    /// Takes over records that were appended, as a later replay will.
    pub fn apply(&mut self, records: &[CoordinatorRecord]) {
        for record in records {
            self.persisted.replay(record);
        }
    }

    /// When [`Self::on_timer`] wants to be called next, on the monotonic clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.timers.next_deadline()
    }

    /// Runs every timer that is due.
    pub fn on_timer(&mut self, now: Now, topics: &dyn Topics) -> Output {
        let mut out = Output::default();
        // One at a time, for a timer may move or cancel others; at most as many as there are, so that none that
        // is due at once again keeps the shard for itself.
        for _ in 0..self.timers.len() {
            let Some(timer) = self.timers.pop_due(now.boot_ms) else { break };
            self.fire(timer, now, topics, &mut out);
        }
        self.check();
        out
    }

    /// Removes the offsets of topics that are gone, so that topics of the same name start without.
    pub fn on_topics_deleted(&mut self, topics: &[Arc<str>]) -> Output {
        let mut out = Output::default();
        self.remove_offsets_of_topics(topics, &mut out.records);
        self.check();
        out
    }

    /// What the records say.
    #[must_use]
    pub fn persisted(&self) -> &Persisted {
        &self.persisted
    }

    /// The persisted state as bytes, for [`Persisted::restore`].
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        self.persisted.checkpoint()
    }

    /// State of a classic group, if there is one.
    #[must_use]
    pub fn group_state(&self, group: &str) -> Option<GroupState> {
        self.groups.get(group).map(ClassicGroup::state)
    }

    /// Number of groups.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len() + self.persisted.consumer_groups.len()
    }

    pub(crate) fn step<'a>(
        &'a mut self,
        now: Now,
        out: &'a mut Output,
    ) -> (&'a mut HashMap<Arc<str>, ClassicGroup>, Step<'a>) {
        (&mut self.groups, Step { config: &self.config, timers: &mut self.timers, out, now })
    }

    pub(crate) fn create_group(&mut self, id: &str, now: Now) {
        let id: Arc<str> = id.into();
        self.groups.insert(Arc::clone(&id), ClassicGroup::empty(id, now.wall_ms));
    }

    fn fire(&mut self, timer: Timer, now: Now, topics: &dyn Topics, out: &mut Output) {
        match &timer {
            Timer::Expiration => {
                self.expire_offsets(now, &mut out.records);
                let next = now.boot_ms.saturating_add(self.config.offsets_retention_check_interval_ms);
                self.timers.schedule(Timer::Expiration, next);
            }
            Timer::ConsumerSession { .. } | Timer::ConsumerRevocation { .. } => {
                self.on_consumer_timer(&timer, topics, &mut out.records);
            }
            Timer::Heartbeat { group: id, .. } | Timer::Join { group: id } | Timer::Sync { group: id } => {
                let (groups, mut step) = self.step(now, out);
                let Some(group) = groups.get_mut(id) else { return };
                match &timer {
                    Timer::Heartbeat { member, .. } => step.on_heartbeat_timer(group, member),
                    Timer::Join { .. } => step.on_join_timer(group),
                    _ => step.on_sync_timer(group),
                }
            }
        }
    }

    /// What must hold after every call.
    fn check(&self) {
        #[cfg(debug_assertions)]
        {
            self.groups.values().filter(|_| self.groups.len() < 64).for_each(ClassicGroup::check);
            let consumer_groups = self.persisted.consumer_groups.values();
            consumer_groups
                .filter(|group| group.members.len() < 64)
                .take(64)
                .for_each(crate::consumer::ConsumerGroup::check);
        }
    }
}

impl Persisted {
    /// Reads what [`GroupShard::checkpoint`] wrote.
    pub fn restore(bytes: &[u8]) -> Result<Self, CheckpointError> {
        crate::checkpoint::decode(bytes)
    }
}

/// The shard that coordinates a group: Java's `String.hashCode` modulo the number of partitions.
#[must_use]
pub fn shard_of(group: &str, partitions: i32) -> i32 {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Java's absolute value of the smallest number is negative; Kafka takes 0 instead.
    hash.checked_abs().unwrap_or(0).checked_rem(partitions).unwrap_or(0)
}
