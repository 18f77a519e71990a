//! ElectLeaders (key 43), versions 0–2: 1 brings the type of election. A preferred election moves a partition to its first
//! replica. That is what the cluster does by itself with every partition that is led by another: the request waits for it.
//! There is nothing to elect uncleanly, for a lost leader is replaced as soon as what it acknowledged can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::placement::preferred_leader;
use metadata::{MetadataImage, PartitionImage};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::topics::{ChangeError, Deadline, wait_for};

/// See the module.
pub(super) struct ElectLeaders;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Election {
    Preferred,
    Unclean,
}

/// How an election stands.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The preferred replica can lead and does not yet.
    UnderWay,
    Over(ChangeError),
}

/// A partition with the state of its election when it was asked for.
struct Asked {
    topic: TopicName,
    partition: i32,
    state: State,
}

impl Asked {
    fn is_needless(&self) -> bool {
        matches!(&self.state, State::Over(error) if error.code == ErrorCode::ElectionNotNeeded)
    }
}

impl Handle for ElectLeaders {
    type Request = ElectLeadersRequest;
    const VERSIONS: (i16, i16) = (0, 2);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: ElectLeadersRequest,
    ) -> Reply<ElectLeadersResponse> {
        let election = match request.election_type {
            0 => Election::Preferred,
            1 => Election::Unclean,
            _ => return Reply::Now(ElectLeadersResponse::default().with_error_code(ErrorCode::InvalidRequest.code())),
        };
        let asked = ask(&broker.metadata.image(), election, &request);
        if asked.iter().all(|asked| asked.state != State::UnderWay) {
            return Reply::Now(answer(&broker.metadata.image(), election, asked));
        }
        let broker = Arc::clone(broker);
        let deadline = Deadline::after_ms(&broker, request.timeout_ms);
        Reply::Later(Box::pin(async move {
            let is_over = |image: &MetadataImage| {
                let mut waiting = asked.iter().filter(|asked| asked.state == State::UnderWay);
                waiting.all(|asked| state(image, election, &asked.topic, asked.partition) != State::UnderWay)
            };
            wait_for(&broker, deadline, is_over).await;
            answer(&broker.metadata.image(), election, asked)
        }))
    }
}

/// Who asks for all partitions is told only of those where there is something to do.
fn ask(image: &MetadataImage, election: Election, request: &ElectLeadersRequest) -> Vec<Asked> {
    let mut asked = Vec::new();
    let mut ask_one = |topic: &TopicName, partition: i32| {
        asked.push(Asked { topic: topic.clone(), partition, state: state(image, election, topic, partition) });
    };
    let Some(topics) = &request.topic_partitions else {
        for (name, topic) in image.topic_ids.iter().filter_map(|(name, id)| Some((name, image.topics.get(id)?))) {
            let name = TopicName(StrBytes::from_string(name.to_string()));
            (0..).zip(&topic.partitions).for_each(|(index, _)| ask_one(&name, index));
        }
        asked.retain(|asked| !asked.is_needless());
        return asked;
    };
    for topic in topics {
        topic.partitions.iter().for_each(|index| ask_one(&topic.topic, *index));
    }
    asked
}

fn state(image: &MetadataImage, election: Election, name: &str, index: i32) -> State {
    let unknown = |what: String| State::Over(ChangeError::new(ErrorCode::UnknownTopicOrPartition, what));
    let Some(topic) = image.topic(name) else { return unknown(format!("No such topic as {name}")) };
    match (topic.partition(index), election) {
        (None, _) => unknown(format!("No such partition as {name}-{index}")),
        (Some(partition), Election::Preferred) => preferred(image, partition),
        (Some(partition), Election::Unclean) => {
            State::Over(ChangeError::plain(match image.is_live(partition.leader) {
                true => ErrorCode::ElectionNotNeeded,
                false => ErrorCode::EligibleLeadersNotAvailable,
            }))
        }
    }
}

fn preferred(image: &MetadataImage, partition: &PartitionImage) -> State {
    let first = partition.replicas.first();
    if first == Some(&partition.leader) && image.is_live(partition.leader) {
        return State::Over(ChangeError::plain(ErrorCode::ElectionNotNeeded));
    }
    match preferred_leader(image, partition) {
        Some(preferred) if first == Some(&preferred) => State::UnderWay,
        _ => State::Over(ChangeError::plain(ErrorCode::PreferredLeaderNotAvailable)),
    }
}

fn answer(image: &MetadataImage, election: Election, asked: Vec<Asked>) -> ElectLeadersResponse {
    let mut results: BTreeMap<TopicName, Vec<PartitionResult>> = BTreeMap::new();
    for Asked { topic, partition, state: before } in asked {
        let result = PartitionResult::default().with_partition_id(partition);
        let error = match before {
            State::Over(error) => Some(error),
            State::UnderWay => match state(image, election, &topic, partition) {
                State::UnderWay => Some(ChangeError::plain(ErrorCode::RequestTimedOut)),
                State::Over(error) if error.code == ErrorCode::ElectionNotNeeded => None,
                State::Over(error) => Some(error),
            },
        };
        let result = match error {
            None => result,
            Some(error) => {
                result.with_error_code(error.code.code()).with_error_message(Some(StrBytes::from_string(error.message)))
            }
        };
        results.entry(topic).or_default().push(result);
    }
    let result =
        |(topic, partitions)| ReplicaElectionResult::default().with_topic(topic).with_partition_result(partitions);
    ElectLeadersResponse::default().with_replica_election_results(results.into_iter().map(result).collect())
}

#[cfg(test)]
mod tests {
    use common::NodeId;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    use super::*;
    use crate::api::cluster_image::{fence, image};

    fn codes(response: &ElectLeadersResponse) -> Vec<(String, i32, i16)> {
        let results = response.replica_election_results.iter();
        let partitions = results.flat_map(|topic| topic.partition_result.iter().map(move |result| (topic, result)));
        partitions.map(|(topic, result)| (topic.topic.to_string(), result.partition_id, result.error_code)).collect()
    }

    fn elect(
        image: &MetadataImage,
        election: Election,
        partitions: Option<&[(&'static str, i32)]>,
    ) -> Vec<(String, i32, i16)> {
        let topics = partitions.map(|partitions| {
            let topic = |&(name, partition): &(&'static str, i32)| {
                let name = TopicName(StrBytes::from_static_str(name));
                TopicPartitions::default().with_topic(name).with_partitions(vec![partition])
            };
            partitions.iter().map(topic).collect()
        });
        let request = ElectLeadersRequest::default().with_topic_partitions(topics);
        codes(&answer(image, election, ask(image, election, &request)))
    }

    #[test]
    fn each_partition_is_told_how_its_election_ended() {
        // Replicas [1, 2], [2, 3], [3, 1].
        let mut image = image(&[&[1, 2], &[2, 3], &[3, 1]]);
        let all = [("t", 0), ("t", 1), ("t", 7), ("u", 0)];
        let told = |codes: [i16; 4]| -> Vec<(String, i32, i16)> {
            all.iter().zip(codes).map(|((name, partition), code)| ((*name).to_owned(), *partition, code)).collect()
        };
        assert_eq!(elect(&image, Election::Preferred, Some(&all)), told([84, 84, 3, 3]));
        assert_eq!(elect(&image, Election::Unclean, Some(&all)), told([84, 84, 3, 3]));
        assert_eq!(elect(&image, Election::Preferred, None), []);
        fence(&mut image, 1);
        assert_eq!(elect(&image, Election::Preferred, Some(&all)), told([80, 84, 3, 3]));
        assert_eq!(elect(&image, Election::Unclean, Some(&all)), told([83, 84, 3, 3]));
        assert_eq!(elect(&image, Election::Preferred, None), [("t".to_owned(), 0, 80)]);
    }

    #[test]
    fn an_election_under_way_ends_as_it_then_stands() {
        let mut image = image(&[&[1, 2]]);
        lead(&mut image, 2);
        let request = ElectLeadersRequest::default().with_topic_partitions(None);
        let asked = || ask(&image, Election::Preferred, &request);
        assert_eq!(asked().iter().map(|asked| &asked.state).collect::<Vec<_>>(), [&State::UnderWay]);
        assert_eq!(codes(&answer(&image, Election::Preferred, asked())), [("t".to_owned(), 0, 7)], "not in time");
        let mut moved = image.clone();
        lead(&mut moved, 1);
        assert_eq!(codes(&answer(&moved, Election::Preferred, asked())), [("t".to_owned(), 0, 0)]);
        let mut lost = image.clone();
        fence(&mut lost, 1);
        assert_eq!(codes(&answer(&lost, Election::Preferred, asked())), [("t".to_owned(), 0, 80)]);
    }

    fn lead(image: &mut MetadataImage, node: i32) {
        let topic = image.topics.iter().next().map(|(id, topic)| (*id, Arc::clone(topic)));
        let (id, mut topic) = topic.expect("a topic");
        Arc::make_mut(&mut topic).partitions[0].leader = NodeId(node);
        image.topics.insert(id, topic);
    }
}
