//! DescribeLogDirs (key 35), versions 1–4. Partitions have no directories here: one pseudo-directory, the data
//! directory, holds every partition this broker leads, with the bytes it keeps wherever they lie.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Handle, Reply, RequestContext};
use crate::Broker;

/// See the module.
pub(crate) struct DescribeLogDirs;

/// What stands for a size that cannot be told.
const UNKNOWN_BYTES: i64 = -1;

impl Handle for DescribeLogDirs {
    type Request = DescribeLogDirsRequest;
    const VERSIONS: (i16, i16) = (1, 4);

    fn handle(
        broker: &Arc<Broker>,
        _context: RequestContext,
        request: DescribeLogDirsRequest,
    ) -> Reply<DescribeLogDirsResponse> {
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let topics = topics(&broker, request.topics.as_deref());
            let directory = broker.config.data_dir.clone();
            // Asking a file system may block for as long as it likes.
            let (total, usable) = common::blocking(move || volume(&directory)).await;
            let directory = broker.config.data_dir.display().to_string();
            let result = DescribeLogDirsResult::default()
                .with_log_dir(StrBytes::from_string(directory))
                .with_topics(topics)
                .with_total_bytes(total)
                .with_usable_bytes(usable);
            DescribeLogDirsResponse::default().with_results(vec![result])
        }))
    }
}

fn topics(broker: &Broker, asked: Option<&[DescribableLogDirTopic]>) -> Vec<DescribeLogDirsTopic> {
    let image = broker.metadata.image();
    let asked: Option<HashMap<Uuid, &[i32]>> = asked.map(|topics| {
        let find = |topic: &DescribableLogDirTopic| image.topic(&topic.topic).map(|found| found.id);
        topics.iter().filter_map(|topic| Some((find(topic)?, topic.partitions.as_slice()))).collect()
    });
    let mut found: BTreeMap<Arc<str>, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in broker.partitions.open() {
        let Some(topic) = image.topics.get(&partition.topic_id()) else { continue };
        let is_asked = asked
            .as_ref()
            .is_none_or(|asked| asked.get(&topic.id).is_some_and(|partitions| partitions.contains(&partition.index())));
        if is_asked {
            let size = i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX);
            let described = DescribeLogDirsPartition::default();
            let described = described.with_partition_index(partition.index()).with_partition_size(size);
            found.entry(Arc::clone(&topic.name)).or_default().push(described);
        }
    }
    let topic = |(name, partitions): (Arc<str>, _)| {
        DescribeLogDirsTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_string())))
            .with_partitions(partitions)
    };
    found.into_iter().map(topic).collect()
}

/// Total and usable bytes of the volume below a directory.
fn volume(directory: &Path) -> (i64, i64) {
    let Ok(volume) = rustix::fs::statvfs(directory) else { return (UNKNOWN_BYTES, UNKNOWN_BYTES) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(volume.f_frsize)).unwrap_or(i64::MAX);
    (bytes(volume.f_blocks), bytes(volume.f_bavail))
}
