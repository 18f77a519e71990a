//! AlterReplicaLogDirs (key 34), versions 1–2. There is one directory, the one DescribeLogDirs tells: a partition that
//! is to move there is there already, and there is no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, TopicName};
use protocol::ErrorCode;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::partition::LookupError;

/// See the module.
pub(super) struct AlterReplicaLogDirs;

impl Handle for AlterReplicaLogDirs {
    type Request = AlterReplicaLogDirsRequest;
    const VERSIONS: (i16, i16) = (1, 2);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: AlterReplicaLogDirsRequest,
    ) -> Reply<AlterReplicaLogDirsResponse> {
        let image = broker.metadata.image();
        let own = broker.config.data_dir.display().to_string();
        Reply::Now(answer(request, &own, |topic, partition| {
            let topic = image.topic(topic).ok_or(LookupError::UnknownTopicOrPartition);
            topic.and_then(|topic| broker.partitions.lookup(topic, partition)).map_err(|error| error.code()).err()
        }))
    }
}

/// `missing` tells why a partition is not here.
fn answer(
    request: AlterReplicaLogDirsRequest,
    own: &str,
    missing: impl Fn(&str, i32) -> Option<ErrorCode>,
) -> AlterReplicaLogDirsResponse {
    // Of directories named for the same partition the last one counts, as in Kafka.
    let mut wishes: BTreeMap<TopicName, BTreeMap<i32, bool>> = BTreeMap::new();
    for directory in request.dirs {
        let is_own = &*directory.path == own;
        for topic in directory.topics {
            let partitions = topic.partitions.into_iter().map(|partition| (partition, is_own));
            wishes.entry(topic.name).or_default().extend(partitions);
        }
    }
    let results = wishes.into_iter().map(|(topic, partitions)| {
        let result = |(partition, is_own): (i32, bool)| {
            let refused = if is_own { missing(&topic, partition) } else { Some(ErrorCode::LogDirNotFound) };
            AlterReplicaLogDirPartitionResult::default()
                .with_partition_index(partition)
                .with_error_code(refused.map_or(0, ErrorCode::code))
        };
        let partitions = partitions.into_iter().map(result).collect();
        AlterReplicaLogDirTopicResult::default().with_topic_name(topic.clone()).with_partitions(partitions)
    });
    AlterReplicaLogDirsResponse::default().with_results(results.collect())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;

    fn alter(dirs: &[(&'static str, &'static str, &[i32])]) -> Vec<(String, Vec<(i32, i16)>)> {
        let directory = |&(path, topic, partitions): &(&'static str, &'static str, &[i32])| {
            let topic = AlterReplicaLogDirTopic::default()
                .with_name(TopicName(StrBytes::from_static_str(topic)))
                .with_partitions(partitions.to_vec());
            AlterReplicaLogDir::default().with_path(StrBytes::from_static_str(path)).with_topics(vec![topic])
        };
        let request = AlterReplicaLogDirsRequest::default().with_dirs(dirs.iter().map(directory).collect());
        let known = |topic: &str, partition| (topic, partition) == ("t", 0);
        let missing = |topic: &str, partition| (!known(topic, partition)).then_some(ErrorCode::UnknownTopicOrPartition);
        let response = answer(request, "/data", missing);
        for version in AlterReplicaLogDirs::VERSIONS.0..=AlterReplicaLogDirs::VERSIONS.1 {
            let encoded = response.encode(&mut BytesMut::new(), version);
            assert!(encoded.is_ok(), "version {version}: {encoded:?}");
        }
        let partitions = |topic: &AlterReplicaLogDirTopicResult| {
            topic.partitions.iter().map(|result| (result.partition_index, result.error_code)).collect()
        };
        response.results.iter().map(|topic| (topic.topic_name.to_string(), partitions(topic))).collect()
    }

    /// As Kafka 4.3.1 answered.
    #[test]
    fn partitions_stay_where_they_are_and_go_nowhere_else() {
        let told = |partitions: &[(i32, i16)]| vec![("t".to_owned(), partitions.to_vec())];
        assert_eq!(alter(&[("/data", "t", &[0, 7])]), told(&[(0, 0), (7, 3)]));
        for other in ["/other", "data", "/data/"] {
            assert_eq!(alter(&[(other, "t", &[0, 7])]), told(&[(0, 57), (7, 57)]));
        }
        assert_eq!(alter(&[("/data", "t", &[0]), ("/other", "t", &[0])]), told(&[(0, 57)]));
        assert_eq!(alter(&[("/other", "t", &[0]), ("/data", "t", &[0])]), told(&[(0, 0)]));
        assert_eq!(alter(&[("/data", "u", &[0])]), [("u".to_owned(), vec![(0, 3)])]);
    }
}
