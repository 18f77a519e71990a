//! AlterPartitionReassignments (key 45), versions 0–1: 1 brings `allow_replication_factor_change`. Replicas are virtual, so
//! the new list applies at once. Where it does not name the leader, the cluster moves that to the first replica, which
//! the request waits for; so nothing is ever under way that could be cancelled.

use std::sync::Arc;

use common::{NodeId, StreamId};
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::placement::preferred_leader;
use metadata::{Command, MetadataImage, Outcome};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::topics::{ChangeError, Deadline, check_assignment, submit, wait_for};

/// See the module.
pub(super) struct AlterPartitionReassignments;

type Change = (StreamId, Arc<[NodeId]>);

/// A partition, and what is to become of it.
struct Judged {
    topic: TopicName,
    index: i32,
    change: Result<Change, ChangeError>,
}

impl Handle for AlterPartitionReassignments {
    type Request = AlterPartitionReassignmentsRequest;
    const VERSIONS: (i16, i16) = (0, 1);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: AlterPartitionReassignmentsRequest,
    ) -> Reply<AlterPartitionReassignmentsResponse> {
        let broker = Arc::clone(broker);
        let deadline = Deadline::after_ms(&broker, request.timeout_ms);
        Reply::Later(Box::pin(async move {
            let mut judged = judge(&broker.metadata.image(), &request);
            let changes: Vec<Change> = judged.iter().filter_map(|judged| judged.change.clone().ok()).collect();
            if !changes.is_empty() {
                let streams: Vec<StreamId> = changes.iter().map(|(stream, _)| *stream).collect();
                let outcome = submit(&broker, deadline, Command::AlterReplicas { changes }).await;
                take(&mut judged, &outcome);
                wait_for(&broker, deadline, |image| streams.iter().all(|stream| is_settled(image, *stream))).await;
            }
            answer(&request, judged)
        }))
    }
}

fn judge(image: &MetadataImage, request: &AlterPartitionReassignmentsRequest) -> Vec<Judged> {
    let allows_factor = request.allow_replication_factor_change;
    let partitions =
        request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |partition| (&topic.name, partition)));
    let judge_one = |(topic, partition): (&TopicName, &ReassignablePartition)| Judged {
        topic: topic.clone(),
        index: partition.partition_index,
        change: judge_partition(image, topic, partition, allows_factor),
    };
    partitions.map(judge_one).collect()
}

fn judge_partition(
    image: &MetadataImage,
    name: &str,
    request: &ReassignablePartition,
    allows_factor: bool,
) -> Result<Change, ChangeError> {
    let unknown = |message: String| ChangeError::new(ErrorCode::UnknownTopicOrPartition, message);
    let topic = image.topic(name).ok_or_else(|| unknown(format!("Unable to find a topic named {name}.")))?;
    let index = request.partition_index;
    let partition =
        topic.partition(index).ok_or_else(|| unknown(format!("Unable to find partition {name}:{index}.")))?;
    let Some(replicas) = &request.replicas else {
        return Err(ChangeError::plain(ErrorCode::NoReassignmentInProgress));
    };
    let replicas: Arc<[NodeId]> = replicas.iter().map(|id| NodeId(id.0)).collect();
    check_assignment(image, &replicas, None)
        .map_err(|message| ChangeError::new(ErrorCode::InvalidReplicaAssignment, message))?;
    let (old, new) = (partition.replicas.len(), replicas.len());
    if !allows_factor && old != new {
        let message = format!("The replication factor is changed from {old} to {new}");
        return Err(ChangeError::new(ErrorCode::InvalidReplicationFactor, message));
    }
    Ok((partition.stream, replicas))
}

/// What became of the command, partition by partition.
fn take(judged: &mut [Judged], outcome: &Result<Outcome, ChangeError>) {
    let mut outcomes = match outcome {
        Ok(Outcome::Moved { committed }) => committed.iter(),
        _ => [].iter(),
    };
    for judged in judged.iter_mut().filter(|judged| judged.change.is_ok()) {
        judged.change = match (outcome, outcomes.next(), &judged.change) {
            (Err(error), ..) => Err(error.clone()),
            (Ok(_), Some(true), Ok(change)) => Ok(change.clone()),
            // Deleted since it was judged, or a broker was unregistered.
            _ => Err(ChangeError::plain(ErrorCode::UnknownTopicOrPartition)),
        };
    }
}

/// Whether a partition's leader is one of its replicas, or none of them could lead instead.
fn is_settled(image: &MetadataImage, stream: StreamId) -> bool {
    image.partition_of(stream).is_none_or(|partition| {
        partition.replicas.contains(&partition.leader) || preferred_leader(image, partition).is_none()
    })
}

fn answer(request: &AlterPartitionReassignmentsRequest, judged: Vec<Judged>) -> AlterPartitionReassignmentsResponse {
    let mut topics: Vec<ReassignableTopicResponse> = Vec::new();
    for Judged { topic, index, change } in judged {
        let response = ReassignablePartitionResponse::default().with_partition_index(index);
        let response = match change {
            Ok(_) => response,
            Err(error) => {
                let message = Some(StrBytes::from_string(error.message));
                response.with_error_code(error.code.code()).with_error_message(message)
            }
        };
        match topics.last_mut().filter(|last| last.name == topic) {
            Some(last) => last.partitions.push(response),
            None => topics.push(ReassignableTopicResponse::default().with_name(topic).with_partitions(vec![response])),
        }
    }
    AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_responses(topics)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;

    use super::*;
    use crate::api::cluster_image::image;

    fn request(replicas: &[(i32, Option<&[i32]>)]) -> AlterPartitionReassignmentsRequest {
        let partition = |(index, replicas): &(i32, Option<&[i32]>)| {
            let replicas = replicas.map(|ids| ids.iter().copied().map(BrokerId).collect());
            ReassignablePartition::default().with_partition_index(*index).with_replicas(replicas)
        };
        let topic = ReassignableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(replicas.iter().map(partition).collect());
        AlterPartitionReassignmentsRequest::default().with_topics(vec![topic])
    }

    fn codes(response: &AlterPartitionReassignmentsResponse) -> Vec<i16> {
        response.responses.iter().flat_map(|topic| topic.partitions.iter().map(|result| result.error_code)).collect()
    }

    #[test]
    fn every_partition_is_judged_alone() {
        let image = image(&[&[1, 2], &[2, 3]]);
        let mut request = request(&[
            (0, Some(&[3])),
            (1, None),
            (0, Some(&[])),
            (1, Some(&[3, 3])),
            (1, Some(&[9])),
            (7, Some(&[1])),
        ]);
        let told = |request: &AlterPartitionReassignmentsRequest| codes(&answer(request, judge(&image, request)));
        assert_eq!(told(&request), [0, 85, 39, 39, 39, 3]);
        request.allow_replication_factor_change = false;
        assert_eq!(told(&request), [38, 85, 39, 39, 39, 3]);
        request.topics[0].name = TopicName(StrBytes::from_static_str("u"));
        assert_eq!(told(&request), [3; 6]);
    }

    #[test]
    fn the_outcome_is_told_in_the_order_of_what_was_sound() {
        let image = image(&[&[1, 2], &[2, 3]]);
        let request = request(&[(0, Some(&[3])), (1, None), (1, Some(&[1, 2]))]);
        let told = |outcome: Result<Outcome, ChangeError>| {
            let mut judged = judge(&image, &request);
            take(&mut judged, &outcome);
            codes(&answer(&request, judged))
        };
        assert_eq!(told(Ok(Outcome::Moved { committed: vec![true, true] })), [0, 85, 0]);
        assert_eq!(told(Ok(Outcome::Moved { committed: vec![true, false] })), [0, 85, 3]);
        assert_eq!(told(Err(ChangeError::plain(ErrorCode::NotController))), [41, 85, 41]);
    }

    #[test]
    fn a_leader_outside_its_replicas_is_waited_for() {
        let mut image = image(&[&[1, 2]]);
        let stream = StreamId(1);
        assert!(is_settled(&image, stream) && is_settled(&image, StreamId(99)));
        let index = common::LogIndex(image.applied.0 + 1);
        let changes = vec![(stream, Arc::from([NodeId(3)].as_slice()))];
        metadata::state::apply(&mut image, index, 0, &Command::AlterReplicas { changes });
        assert!(!is_settled(&image, stream));
        crate::api::cluster_image::fence(&mut image, 3);
        assert!(is_settled(&image, stream), "nobody to wait for");
    }
}
