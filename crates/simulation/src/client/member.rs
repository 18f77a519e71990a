//! A member of a consumer group: joins, is given partitions, reads them from what is committed, commits, joins again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use protocol::errors::ErrorCode;

use super::follower::fetch;
use super::router::{PATIENCE, Router};
use super::text;
use crate::world::{Phase, World};

const GROUP: &str = "g";
const FIND_COORDINATOR: i16 = 4;
const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const OFFSET_FETCH: i16 = 8;
const OFFSET_COMMIT: i16 = 8;
const SESSION_MS: i32 = 3000;
const REBALANCE_MS: i32 = 3000;
/// A member tells that it lives, and commits, this often.
const BEAT: Duration = Duration::from_millis(400);
/// A fetch waits so long for records.
const WAIT: Duration = Duration::from_millis(100);

/// See the module.
pub struct Member {
    router: Router,
    number: u32,
    id: StrBytes,
    generation: i32,
    coordinator: Option<String>,
    /// Where it reads on, of what it was given; and what it committed.
    positions: BTreeMap<u32, u64>,
    committed: BTreeMap<u32, u64>,
    beat: Duration,
}

fn group() -> GroupId {
    GroupId(text(GROUP))
}

fn assignment(partitions: &[u32]) -> Bytes {
    let mut bytes = BytesMut::new();
    partitions.iter().for_each(|partition| bytes.put_u32(*partition));
    bytes.freeze()
}

fn partitions_of(mut assignment: Bytes) -> Vec<u32> {
    let mut partitions = Vec::new();
    while assignment.remaining() >= 4 {
        partitions.push(assignment.get_u32());
    }
    partitions
}

impl Member {
    /// Is in no group yet.
    #[must_use]
    pub fn new(world: &Arc<World>, number: u32) -> Self {
        Self {
            router: Router::new(world, format!("m{number}")),
            number,
            id: StrBytes::default(),
            generation: -1,
            coordinator: None,
            positions: BTreeMap::new(),
            committed: BTreeMap::new(),
            beat: Duration::ZERO,
        }
    }

    /// Works until readers are told to stop.
    pub async fn run(mut self) -> turmoil::Result {
        let world = Arc::clone(&self.router.world);
        while world.phase() == Phase::Start {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while world.phase() < Phase::ReadBack {
            if let Err(reason) = self.one_generation().await {
                self.router.trace(&reason.to_string());
            }
            self.router.pause().await;
        }
        Ok(())
    }

    /// Asks the coordinator. What it says of itself decides whether another one is looked for.
    fn check(&mut self, what: &str, code: i16) -> Result<()> {
        let error = ErrorCode::from_code(code);
        match error {
            Some(ErrorCode::None) => return Ok(()),
            Some(ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) => self.coordinator = None,
            Some(ErrorCode::UnknownMemberId) => self.id = StrBytes::default(),
            Some(ErrorCode::UnknownServerError) | None => {
                let complaint = format!("member {}: {what} was answered {error:?}", self.number);
                self.router.world.judge.complain(complaint);
            }
            _ => {}
        }
        bail!("{what}: {error:?}");
    }

    async fn ask<R: kafka_protocol::protocol::Request>(
        &mut self,
        request: &R,
        version: i16,
        patience: Duration,
    ) -> Result<R::Response> {
        let address = match &self.coordinator {
            Some(address) => address.clone(),
            None => self.find_coordinator().await?,
        };
        let asked = self.router.ask(&address, request, version, patience).await;
        if asked.is_err() {
            self.coordinator = None;
        }
        asked
    }

    async fn find_coordinator(&mut self) -> Result<String> {
        let request = FindCoordinatorRequest::default().with_key_type(0).with_coordinator_keys(vec![text(GROUP)]);
        let address = self.router.anyone();
        let answer = self.router.ask(&address, &request, FIND_COORDINATOR, PATIENCE).await?;
        let found = answer.coordinators.first().context("an answer")?;
        ensure!(found.error_code == 0, "no coordinator: {:?}", ErrorCode::from_code(found.error_code));
        let address = format!("{}:{}", found.host, found.port);
        self.coordinator = Some(address.clone());
        Ok(address)
    }

    /// Joins, and reads until the group wants to be joined again.
    async fn one_generation(&mut self) -> Result<()> {
        self.positions.clear();
        let joined = self.join().await?;
        let mine = self.sync(&joined).await?;
        self.begin(&mine).await?;
        self.router.trace(&format!("has {mine:?} in generation {}", self.generation));
        let world = Arc::clone(&self.router.world);
        while world.phase() < Phase::ReadBack {
            let now = world.trace.now();
            if now.saturating_sub(self.beat) >= BEAT {
                self.beat = now;
                self.commit().await?;
                self.heartbeat().await?;
            }
            for partition in mine.iter().copied() {
                self.read(partition).await;
            }
            if mine.is_empty() {
                tokio::time::sleep(WAIT).await;
            }
        }
        self.commit().await
    }

    async fn join(&mut self) -> Result<JoinGroupResponse> {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("all")).with_metadata(Bytes::new());
        let request = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(REBALANCE_MS)
            .with_protocol_type(text("simulation"))
            .with_protocols(vec![protocol]);
        let patience = PATIENCE + Duration::from_millis(REBALANCE_MS.unsigned_abs().into());
        let answer = self.ask(&request.clone().with_member_id(self.id.clone()), JOIN, patience).await?;
        let answer = if ErrorCode::from_code(answer.error_code) == Some(ErrorCode::MemberIdRequired) {
            self.id = answer.member_id;
            self.ask(&request.with_member_id(self.id.clone()), JOIN, patience).await?
        } else {
            answer
        };
        self.check("join", answer.error_code)?;
        (self.id, self.generation) = (answer.member_id.clone(), answer.generation_id);
        Ok(answer)
    }

    async fn sync(&mut self, joined: &JoinGroupResponse) -> Result<Vec<u32>> {
        let mut assignments = Vec::new();
        if joined.leader == self.id {
            let members: Vec<StrBytes> = joined.members.iter().map(|member| member.member_id.clone()).collect();
            for (index, member) in members.iter().enumerate() {
                let of = |partition: &u32| *partition as usize % members.len() == index;
                let partitions: Vec<u32> = (0..self.router.world.shape.partitions).filter(of).collect();
                let assigned = SyncGroupRequestAssignment::default().with_member_id(member.clone());
                assignments.push(assigned.with_assignment(assignment(&partitions)));
            }
        }
        let request = SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
            .with_protocol_type(Some(text("simulation")))
            .with_protocol_name(Some(text("all")))
            .with_assignments(assignments);
        let patience = PATIENCE + Duration::from_millis(REBALANCE_MS.unsigned_abs().into());
        let answer = self.ask(&request, SYNC, patience).await?;
        self.check("sync", answer.error_code)?;
        Ok(partitions_of(answer.assignment))
    }

    /// Asks what is committed, and begins there.
    async fn begin(&mut self, partitions: &[u32]) -> Result<()> {
        let world = Arc::clone(&self.router.world);
        let floors = world.judge.floors();
        let indexes = partitions.iter().map(|partition| partition.cast_signed()).collect();
        let topic = OffsetFetchRequestTopics::default().with_name(super::topic()).with_partition_indexes(indexes);
        let asked = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![asked]);
        let answer = self.ask(&request, OFFSET_FETCH, PATIENCE).await?;
        let found = answer.groups.first().context("a group")?;
        self.check("offsets", found.error_code)?;
        for one in found.topics.iter().flat_map(|topic| &topic.partitions) {
            self.check("an offset", one.error_code)?;
            let partition = one.partition_index.unsigned_abs();
            let offset = u64::try_from(one.committed_offset).ok();
            world.judge.group_offset(partition, offset, &floors);
            let position = offset.unwrap_or(0);
            world.judge.assigned(self.number, partition, position);
            self.positions.insert(partition, position);
        }
        self.committed = self.positions.clone();
        ensure!(self.positions.len() == partitions.len(), "not all offsets were told");
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<()> {
        let request = HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone());
        let answer = self.ask(&request, HEARTBEAT, PATIENCE).await?;
        self.check("heartbeat", answer.error_code)
    }

    async fn commit(&mut self) -> Result<()> {
        let news: Vec<(u32, u64)> = self.positions.iter().map(|(partition, offset)| (*partition, *offset)).collect();
        let news: Vec<_> = news.into_iter().filter(|(one, at)| self.committed.get(one) != Some(at)).collect();
        if news.is_empty() {
            return Ok(());
        }
        let one = |(partition, offset): &(u32, u64)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition.cast_signed())
                .with_committed_offset(offset.cast_signed())
        };
        let partitions = news.iter().map(one).collect();
        let topic = OffsetCommitRequestTopic::default().with_name(super::topic()).with_partitions(partitions);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_topics(vec![topic]);
        let answer = self.ask(&request, OFFSET_COMMIT, PATIENCE).await?;
        for one in answer.topics.iter().flat_map(|topic| &topic.partitions) {
            self.check("commit", one.error_code)?;
        }
        for (partition, offset) in news {
            self.router.world.judge.committed(self.number, partition, offset);
            self.committed.insert(partition, offset);
        }
        let committed = format!("committed {:?}", self.committed);
        self.router.trace(&committed);
        Ok(())
    }

    /// Reads what is next in `partition`; what goes wrong is tried again after a pause, for a broker that is down refuses at once.
    async fn read(&mut self, partition: u32) {
        let Some(position) = self.positions.get(&partition).copied() else { return };
        if let Err(reason) = self.try_read(partition, position).await {
            self.router.trace(&format!("partition {partition}: {reason}"));
            self.router.pause().await;
        }
    }

    async fn try_read(&mut self, partition: u32, position: u64) -> Result<()> {
        let fetched = fetch(&mut self.router, partition, position, WAIT).await?;
        let error = fetched.error;
        if error == Some(ErrorCode::OffsetOutOfRange) && !self.router.world.judge.may_be_stale() {
            let complaint = format!("partition {partition}: the group's {position} is out of range");
            self.router.world.judge.complain(complaint);
        }
        ensure!(error == Some(ErrorCode::None), "{error:?}");
        for (offset, value) in super::records(&fetched.records, position) {
            self.router.world.judge.polled(self.number, partition, offset, value);
            self.positions.insert(partition, offset + 1);
        }
        Ok(())
    }
}
