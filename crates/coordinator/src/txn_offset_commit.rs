//! TxnOffsetCommit: offsets that count only when the transaction they belong to is committed. They are staged as records of
//! the transaction; its marker in the same partition decides.
//!
//! A commit outside of transactions that comes later than a staged one stays, whatever the marker says: what is staged
//! under its key is forgotten.

use std::sync::Arc;

use kafka_protocol::messages::OffsetCommitRequest;
use kafka_protocol::messages::TxnOffsetCommitRequest;
use kafka_protocol::messages::TxnOffsetCommitResponse;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_commit_response::OffsetCommitResponseTopic;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use protocol::ErrorCode;

use crate::record::CoordinatorRecord;
use crate::shard::{Context, GroupShard, Now, Output, Response, Token};

/// The version of OffsetCommit whose rules hold for members here.
const AS_OFFSET_COMMIT: i16 = 9;

impl GroupShard {
    pub(crate) fn txn_offset_commit(
        &mut self,
        token: Token,
        request: &TxnOffsetCommitRequest,
        now: Now,
        out: &mut Output,
    ) {
        let commit = as_commit(request);
        let response = match self.may_commit(&Context::version(AS_OFFSET_COMMIT), &commit, now) {
            // Whoever has no group any more is to stop, not to look for it.
            Err(ErrorCode::GroupIdNotFound) => refuse(request, ErrorCode::IllegalGeneration),
            Err(error) => refuse(request, error),
            Ok(()) => {
                let mut records = Vec::new();
                let stored = self.store(&commit, now, &mut records);
                let producer = (request.producer_id.0, request.producer_epoch);
                out.records.extend(records.into_iter().map(|record| staged(record, producer)));
                answer(stored.topics)
            }
        };
        out.responses.push((token, Response::TxnOffsetCommit(response)));
    }

    /// A marker ended the producer's transaction in this partition. Nothing is to be appended for it: the marker is the
    /// record.
    pub fn end_transaction(&mut self, producer_id: i64, commit: bool) {
        self.persisted.end_transaction(producer_id, commit);
    }
}

fn as_commit(request: &TxnOffsetCommitRequest) -> OffsetCommitRequest {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_committed_metadata(partition.committed_metadata.clone())
        });
        OffsetCommitRequestTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    OffsetCommitRequest::default()
        .with_group_id(request.group_id.clone())
        .with_generation_id_or_member_epoch(request.generation_id)
        .with_member_id(request.member_id.clone())
        .with_group_instance_id(request.group_instance_id.clone())
        .with_topics(topics.collect())
}

fn staged(record: CoordinatorRecord, producer: (i64, i16)) -> CoordinatorRecord {
    match record {
        CoordinatorRecord::Offset { group, topic, partition, value: Some(value) } => {
            CoordinatorRecord::StagedOffset { producer, group, topic, partition, value }
        }
        other => other,
    }
}

fn answer(topics: Vec<OffsetCommitResponseTopic>) -> TxnOffsetCommitResponse {
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let answer = TxnOffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
            answer.with_error_code(partition.error_code)
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

fn refuse(request: &TxnOffsetCommitRequest, error: ErrorCode) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let answer = TxnOffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
            answer.with_error_code(error.code())
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// Where an offset is staged: group, topic, partition.
pub(crate) type StagedKey = (Arc<str>, Arc<str>, i32);
