//! OffsetCommit: who may commit, and what is stored.

use std::sync::Arc;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use protocol::ErrorCode;

use crate::group::{ClassicGroup, GroupState};
use crate::join::NAME_BYTES_MAX;
use crate::record::{CommittedOffset, CoordinatorRecord};
use crate::shard::{Context, GroupShard, Now, Output, Response, Token};

/// First version that may answer GROUP_ID_NOT_FOUND; before, clients know only ILLEGAL_GENERATION.
const NOT_FOUND_SINCE: i16 = 9;

impl GroupShard {
    pub(crate) fn offset_commit(
        &mut self,
        token: Token,
        context: &Context<'_>,
        request: &OffsetCommitRequest,
        now: Now,
        out: &mut Output,
    ) {
        let response = match self.may_commit(context, request, now) {
            Err(error) => refuse_all(request, error),
            Ok(()) => {
                let (groups, mut step) = self.step(now, out);
                if let Some(group) = groups.get(request.group_id.as_str())
                    && matches!(group.state(), GroupState::Stable | GroupState::PreparingRebalance)
                {
                    step.reset_session(group, &request.member_id);
                }
                self.store(request, now, &mut out.records)
            }
        };
        out.responses.push((token, Response::OffsetCommit(response)));
    }

    /// A consumer without group management commits with a negative generation; its group comes into being by that.
    pub(crate) fn may_commit(
        &mut self,
        context: &Context<'_>,
        request: &OffsetCommitRequest,
        now: Now,
    ) -> Result<(), ErrorCode> {
        let id = request.group_id.as_str();
        if id.is_empty() || id.len() > NAME_BYTES_MAX {
            return Err(ErrorCode::InvalidGroupId);
        }
        if let Some(group) = self.persisted.consumer_groups.get(id) {
            return group.may_commit(&request.member_id, request.generation_id_or_member_epoch, context.version);
        }
        if let Some(group) = self.groups.get(id) {
            return validate(group, request);
        }
        if request.generation_id_or_member_epoch >= 0 {
            let newer = context.version >= NOT_FOUND_SINCE;
            return Err(if newer { ErrorCode::GroupIdNotFound } else { ErrorCode::IllegalGeneration });
        }
        if self.group_count() >= self.config.max_groups {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        self.create_group(id, now);
        Ok(())
    }

    /// Kafka counts what Java calls characters: UTF-16 units.
    fn is_too_long(&self, metadata: &str) -> bool {
        let max = self.config.offset_metadata_max_bytes.min(NAME_BYTES_MAX);
        metadata.len() > max && metadata.encode_utf16().count() > max
    }

    pub(crate) fn store(
        &self,
        request: &OffsetCommitRequest,
        now: Now,
        records: &mut Vec<CoordinatorRecord>,
    ) -> OffsetCommitResponse {
        let group = self.groups.get_key_value(request.group_id.as_str()).map(|(id, _)| Arc::clone(id));
        let group = group.unwrap_or_else(|| request.group_id.as_str().into());
        let known = self.persisted.offsets.get(&group);
        let expire_timestamp_ms = match request.retention_time_ms {
            -1 => -1,
            retention_ms => now.wall_ms.saturating_add(retention_ms),
        };
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let name =
                known.and_then(|topics| topics.get_key_value(topic.name.as_str())).map(|(name, _)| Arc::clone(name));
            let name: Arc<str> = name.unwrap_or_else(|| topic.name.as_str().into());
            let mut answers = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let metadata = partition.committed_metadata.as_ref().map_or("", |metadata| metadata.as_str());
                let error = if self.is_too_long(metadata) {
                    ErrorCode::OffsetMetadataTooLarge.code()
                } else {
                    let value = Some(committed(partition, metadata, now, expire_timestamp_ms));
                    let (group, topic) = (Arc::clone(&group), Arc::clone(&name));
                    records.push(CoordinatorRecord::Offset {
                        group,
                        topic,
                        partition: partition.partition_index,
                        value,
                    });
                    0
                };
                answers.push(answer(partition, error));
            }
            topics.push(OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(answers));
        }
        OffsetCommitResponse::default().with_topics(topics)
    }
}

fn validate(group: &ClassicGroup, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
    let generation = request.generation_id_or_member_epoch;
    let instance_id = request.group_instance_id.as_ref().map(|instance| instance.as_str());
    if generation < 0 && group.is(GroupState::Empty) {
        return Ok(());
    }
    if generation < 0 && request.member_id.is_empty() && instance_id.is_none() {
        // Whoever has no generation must not overwrite what the group's members commit.
        return Err(ErrorCode::UnknownMemberId);
    }
    group.validate_member(&request.member_id, instance_id)?;
    if generation != group.generation {
        return Err(ErrorCode::IllegalGeneration);
    }
    // Members of a generation that is just being formed have consumed nothing in it yet.
    if group.is(GroupState::CompletingRebalance) { Err(ErrorCode::RebalanceInProgress) } else { Ok(()) }
}

fn committed(
    partition: &OffsetCommitRequestPartition,
    metadata: &str,
    now: Now,
    expire_timestamp_ms: i64,
) -> CommittedOffset {
    CommittedOffset {
        offset: partition.committed_offset,
        // Requests with a retention of their own are older than leader epochs, and so is their record.
        leader_epoch: if expire_timestamp_ms < 0 { partition.committed_leader_epoch } else { -1 },
        metadata: metadata.into(),
        commit_timestamp_ms: now.wall_ms,
        expire_timestamp_ms,
    }
}

fn refuse_all(request: &OffsetCommitRequest, error: ErrorCode) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| answer(partition, error.code())).collect();
        OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn answer(partition: &OffsetCommitRequestPartition, error: i16) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index).with_error_code(error)
}
