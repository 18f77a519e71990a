//! Metadata (key 3), versions 0–13: brokers, and topics by name or id, with auto-creation. Version 0 asks for
//! all topics with an empty list, later ones with null; 12 brings topic ids. A topic that is created on the way
//! is answered as existing: Kafka answers UNKNOWN_TOPIC_OR_PARTITION first, and clients retry.

use std::collections::HashSet;
use std::sync::Arc;

use common::NodeId;
use futures::StreamExt;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use metadata::{MetadataImage, PartitionImage, TopicImage};
use protocol::ErrorCode;
use uuid::Uuid;

use super::{Handle, Reply, RequestContext};
use crate::Broker;
use crate::cluster::doubt::Doubtful;
use crate::config::is_internal_topic;
use crate::topics::{self, Deadline, check_name};

/// See the module.
pub(crate) struct Metadata;

/// Operations on a topic as bits, where nothing is forbidden: READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE,
/// DESCRIBE_CONFIGS, ALTER_CONFIGS.
pub(crate) const ALL_TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// Operations on the cluster as bits, where nothing is forbidden: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION,
/// DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE.
pub(crate) const ALL_CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// What stands for operations when a client did not ask.
pub(crate) const OPERATIONS_NOT_ASKED: i32 = i32::MIN;

/// Auto-creations that one request may have under way at once.
const CREATIONS_AT_ONCE: usize = 16;
/// How long a request waits for auto-creation.
const CREATION_WAIT_MS: i32 = 5_000;

/// What a request asks for.
enum Wanted {
    All,
    Names(Vec<TopicName>),
    Ids(Vec<Uuid>),
}

impl Handle for Metadata {
    type Request = MetadataRequest;
    const VERSIONS: (i16, i16) = (0, 13);

    fn handle(broker: &Arc<Broker>, context: RequestContext, request: MetadataRequest) -> Reply<MetadataResponse> {
        let image = broker.metadata.image();
        if !image.nodes.contains_key(&broker.config.node_id) {
            // An empty answer would make clients believe that their topics are gone.
            return Reply::Close("metadata is not loaded yet".to_owned());
        }
        let wanted = match Wanted::of(&request, context.version) {
            Ok(wanted) => wanted,
            Err(topics) => return Reply::Now(MetadataResponse::default().with_topics(topics)),
        };
        let missing = match &wanted {
            Wanted::Names(names) if request.allow_auto_topic_creation && broker.config.auto_create_topics => {
                let is_missing = |name: &&TopicName| image.topic(name).is_none() && check_name(name).is_ok();
                names.iter().filter(is_missing).cloned().collect()
            }
            _ => Vec::new(),
        };
        if missing.is_empty() {
            return Reply::Now(View::new(broker, &image, &context, &request).response(&wanted, &[]));
        }
        let broker = Arc::clone(broker);
        Reply::Later(Box::pin(async move {
            let failed = auto_create(&broker, missing).await;
            let image = broker.metadata.image();
            View::new(&broker, &image, &context, &request).response(&wanted, &failed)
        }))
    }
}

impl Wanted {
    /// An error is the answer to a request that says too much for its version.
    fn of(request: &MetadataRequest, version: i16) -> Result<Self, Vec<MetadataResponseTopic>> {
        let Some(topics) = &request.topics else { return Ok(Self::All) };
        if topics.is_empty() && version == 0 {
            return Ok(Self::All);
        }
        if version < 12 && topics.iter().any(|topic| topic.name.is_none() || !topic.topic_id.is_nil()) {
            let refuse = |topic: &kafka_protocol::messages::metadata_request::MetadataRequestTopic| {
                let name = topic.name.clone().unwrap_or_default();
                error_topic(ErrorCode::InvalidRequest, Some(name), Uuid::nil())
            };
            return Err(topics.iter().map(refuse).collect());
        }
        let ids: Vec<Uuid> = distinct(topics.iter().map(|topic| topic.topic_id).filter(|id| !id.is_nil()));
        if ids.is_empty() {
            return Ok(Self::Names(distinct(topics.iter().filter_map(|topic| topic.name.clone()))));
        }
        Ok(Self::Ids(ids))
    }
}

fn distinct<T: Clone + Eq + std::hash::Hash>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = HashSet::new();
    all.filter(|one| seen.insert(one.clone())).collect()
}

/// Creates topics; answers those that failed, each with its code.
async fn auto_create(broker: &Arc<Broker>, names: Vec<TopicName>) -> Vec<(TopicName, ErrorCode)> {
    let deadline = Deadline::after_ms(broker, CREATION_WAIT_MS);
    let create = async |name: TopicName| match topics::ensure_exists(broker, deadline, &name).await {
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(topic = &*name.0, code = %error.code, message = error.message, "topic cannot be created");
            // Clients retry these two, whatever else went wrong; the others tell them to give up.
            let code = match error.code {
                ErrorCode::InvalidTopicException | ErrorCode::InvalidReplicationFactor => error.code,
                ErrorCode::RequestTimedOut => ErrorCode::LeaderNotAvailable,
                _ => ErrorCode::UnknownTopicOrPartition,
            };
            Some((name, code))
        }
    };
    futures::stream::iter(names)
        .map(create)
        .buffer_unordered(CREATIONS_AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// The answer to a client that asks `node` at `listener` for all topics.
#[must_use]
pub fn all_topics(image: &MetadataImage, listener: &str, node: NodeId) -> MetadataResponse {
    let request = MetadataRequest::default().with_topics(None);
    View::of(node, image, listener, &request, Doubtful::default()).response(&Wanted::All, &[])
}

/// What an answer is made from.
struct View<'a> {
    node: NodeId,
    image: &'a MetadataImage,
    listener: &'a str,
    request: &'a MetadataRequest,
    doubtful: Doubtful,
    /// The brokers that clients can turn to now, looked up for every partition.
    reached: HashSet<NodeId>,
}

impl<'a> View<'a> {
    fn new(
        broker: &Broker,
        image: &'a MetadataImage,
        context: &'a RequestContext,
        request: &'a MetadataRequest,
    ) -> Self {
        let doubtful = broker.member.doubts.about(image);
        Self::of(broker.config.node_id, image, &context.connection.listener, request, doubtful)
    }

    fn of(
        node: NodeId,
        image: &'a MetadataImage,
        listener: &'a str,
        request: &'a MetadataRequest,
        doubtful: Doubtful,
    ) -> Self {
        let listens = |node: &metadata::NodeImage| node.endpoints.iter().any(|end| end.listener == listener);
        let nodes = image.nodes.values().filter(|node| !node.fenced && listens(node)).map(|node| node.id);
        let reached = nodes.filter(|node| !doubtful.contains(*node)).collect();
        Self { node, image, listener, request, doubtful, reached }
    }

    fn response(&self, wanted: &Wanted, failed: &[(TopicName, ErrorCode)]) -> MetadataResponse {
        let topics = match wanted {
            Wanted::All => self.image.topics.values().map(|topic| self.topic(topic)).collect(),
            Wanted::Names(names) => names.iter().map(|name| self.topic_by_name(name, failed)).collect(),
            Wanted::Ids(ids) => ids.iter().map(|id| self.topic_by_id(*id)).collect(),
        };
        let operations = match self.request.include_cluster_authorized_operations {
            true => ALL_CLUSTER_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        };
        MetadataResponse::default()
            .with_brokers(self.brokers())
            .with_cluster_id(Some(StrBytes::from_string(self.image.cluster_id.to_string())))
            // Any broker forwards what only the active controller may do.
            .with_controller_id(BrokerId(self.node.0))
            .with_topics(topics)
            .with_cluster_authorized_operations(operations)
    }

    fn brokers(&self) -> Vec<MetadataResponseBroker> {
        let live = self.image.nodes.values().filter(|node| !node.fenced);
        let broker = |node: &Arc<metadata::NodeImage>| {
            let endpoint = node.endpoints.iter().find(|endpoint| endpoint.listener == self.listener)?;
            Some(
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(node.id.0))
                    .with_host(StrBytes::from_string(endpoint.host.clone()))
                    .with_port(endpoint.port.into())
                    .with_rack(node.rack.as_ref().map(|rack| StrBytes::from_string(rack.to_string()))),
            )
        };
        live.filter_map(broker).collect()
    }

    fn topic_by_name(&self, name: &TopicName, failed: &[(TopicName, ErrorCode)]) -> MetadataResponseTopic {
        if let Some(topic) = self.image.topic(name) {
            return self.topic(topic);
        }
        let code = match failed.iter().find(|(failed, _)| failed == name) {
            Some((_, code)) => *code,
            None if check_name(name).is_err() => ErrorCode::InvalidTopicException,
            None => ErrorCode::UnknownTopicOrPartition,
        };
        error_topic(code, Some(name.clone()), Uuid::nil()).with_is_internal(is_internal_topic(name))
    }

    fn topic_by_id(&self, id: Uuid) -> MetadataResponseTopic {
        match self.image.topics.get(&id) {
            Some(topic) => self.topic(topic),
            None => error_topic(ErrorCode::UnknownTopicId, None, id),
        }
    }

    fn topic(&self, topic: &TopicImage) -> MetadataResponseTopic {
        let partitions = (0..).zip(&topic.partitions).map(|(index, partition)| self.partition(index, partition));
        let operations = match self.request.include_topic_authorized_operations {
            true => ALL_TOPIC_OPERATIONS,
            false => OPERATIONS_NOT_ASKED,
        };
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_string(topic.name.to_string()))))
            .with_topic_id(topic.id)
            .with_is_internal(is_internal_topic(&topic.name))
            .with_partitions(partitions.collect())
            .with_topic_authorized_operations(operations)
    }

    fn partition(&self, index: i32, partition: &PartitionImage) -> MetadataResponsePartition {
        let replicas = Replicas::of(self.image, partition);
        let response = MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_epoch(partition.leader_epoch)
            .with_replica_nodes(replicas.all)
            .with_isr_nodes(replicas.in_sync)
            .with_offline_replicas(replicas.offline);
        if self.reached.contains(&partition.leader) {
            return response.with_leader_id(BrokerId(partition.leader.0));
        }
        let leader = self.image.leader_or_none(partition).filter(|leader| !self.doubtful.contains(*leader));
        let code = if leader.is_some() { ErrorCode::ListenerNotFound } else { ErrorCode::LeaderNotAvailable };
        response.with_error_code(code.code()).with_leader_id(BrokerId(-1))
    }
}

/// A partition's replicas as clients are told them.
pub(super) struct Replicas {
    /// All, preferred leader first.
    pub(super) all: Vec<BrokerId>,
    /// Those that live.
    pub(super) in_sync: Vec<BrokerId>,
    /// The others.
    pub(super) offline: Vec<BrokerId>,
}

impl Replicas {
    pub(super) fn of(image: &MetadataImage, partition: &PartitionImage) -> Self {
        let count = partition.replicas.len() + 1;
        let mut replicas =
            Self { all: Vec::with_capacity(count), in_sync: Vec::with_capacity(count), offline: Vec::new() };
        for node in image.replicas_of(partition) {
            let alike = if image.is_live(node) { &mut replicas.in_sync } else { &mut replicas.offline };
            alike.push(BrokerId(node.0));
            replicas.all.push(BrokerId(node.0));
        }
        replicas
    }
}

fn error_topic(code: ErrorCode, name: Option<TopicName>, id: Uuid) -> MetadataResponseTopic {
    MetadataResponseTopic::default().with_error_code(code.code()).with_name(name).with_topic_id(id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::ManualClock;

    use super::*;
    use crate::api::cluster_image::{fence, image};
    use crate::cluster::doubt::Doubts;

    #[test]
    fn what_a_lost_broker_led_has_no_leader_and_stays_listed() {
        let mut image = image(&[&[1, 2], &[2, 1]]);
        fence(&mut image, 1);
        let request = MetadataRequest::default();
        let view = View::of(NodeId(1), &image, "PLAINTEXT", &request, Doubtful::default());
        let topic = view.topic(image.topic("t").expect("there"));
        let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let lost = &topic.partitions[0];
        assert_eq!((lost.error_code, lost.leader_id.0), (ErrorCode::LeaderNotAvailable.code(), -1));
        assert_eq!(
            (ids(&lost.replica_nodes), ids(&lost.isr_nodes), ids(&lost.offline_replicas)),
            (vec![1, 2], vec![2], vec![1])
        );
        let other = &topic.partitions[1];
        assert_eq!(
            (ids(&other.replica_nodes), ids(&other.isr_nodes), ids(&other.offline_replicas)),
            (vec![2, 1], vec![2], vec![1])
        );
        // The brokers of this image have no listeners.
        assert_eq!((other.error_code, other.leader_id.0), (ErrorCode::ListenerNotFound.code(), -1));
        assert!(view.brokers().is_empty());
    }

    #[test]
    fn what_a_broker_in_doubt_leads_has_no_leader_and_is_in_sync() {
        let image = image(&[&[1, 2], &[2, 1]]);
        let request = MetadataRequest::default();
        let doubts = Doubts::new(Arc::new(ManualClock::at(0)), Duration::from_secs(1));
        doubts.raise(NodeId(1), &image);
        let view = View::of(NodeId(1), &image, "PLAINTEXT", &request, doubts.about(&image));
        let topic = view.topic(image.topic("t").expect("there"));
        let [lost, other] = &*topic.partitions else { panic!("two partitions") };
        assert_eq!((lost.error_code, lost.leader_id.0), (ErrorCode::LeaderNotAvailable.code(), -1));
        assert_eq!(lost.isr_nodes.len(), 2, "nobody has decided anything yet");
        // The brokers of this image have no listeners.
        assert_eq!(other.error_code, ErrorCode::ListenerNotFound.code());
    }
}
