//! All partitions this broker leads. Follows the metadata image: opens what this node leads, closes what it does
//! not, and hands configuration changes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::supervisor::Supervisor;
use common::{Clock, NodeEpoch, NodeId, StreamEpoch, StreamId};
use metadata::{MetadataClient, MetadataImage, TopicImage};
use parking_lot::{Mutex, RwLock};
use protocol::ErrorCode;
use s3stream::{ObjectManager, StreamStore};
use tokio::sync::{Notify, watch};
use uuid::Uuid;
use wal::DurableLsn;

use super::opener::Opening;
use super::producer_ids::ProducerIds;
use super::topic_configs::TopicConfigs;
use super::verification::GuardNumbers;
use super::{Environment, Partition, Topic, opener, retention};
use crate::cluster::Lease;
use crate::cluster::adopter::Adopter;
use crate::config::{BrokerConfig, Layers, TopicConfig};
use crate::metrics::Latency;

/// How long an answer to CreateTopics waits for the new partitions to be open.
const OPEN_WAIT: Duration = Duration::from_secs(1);

/// What the partitions are built on.
pub struct PartitionsParts {
    /// This node.
    pub node: NodeId,
    /// Its current life.
    pub node_epoch: NodeEpoch,
    /// Static configuration.
    pub config: Arc<BrokerConfig>,
    /// Builds a topic's effective configuration.
    pub topic_config: fn(&MetadataImage, &str, &BrokerConfig) -> TopicConfig,
    /// Image and commands.
    pub metadata: MetadataClient,
    /// Streams.
    pub streams: Arc<StreamStore>,
    /// Takes over what lost brokers left.
    pub(crate) adopter: Adopter,
    /// Ranges, for retention.
    pub objects: Arc<dyn ObjectManager>,
    /// The log's durable position.
    pub durable: Arc<DurableLsn>,
    /// Until when this node may serve.
    pub lease: Arc<Lease>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Runs the background tasks.
    pub supervisor: Supervisor,
}

/// Why there is no partition to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// No topic has this id.
    UnknownTopicId,
    /// No such topic, or no such partition in it.
    UnknownTopicOrPartition,
    /// Another broker leads it, under this leader epoch.
    NotLeader {
        /// Who.
        leader: NodeId,
        /// Kafka's leader epoch.
        leader_epoch: i32,
    },
    /// This broker is to lead it, and is not ready yet.
    Opening,
}

impl LookupError {
    /// Kafka's code. A partition that is being opened answers as Kafka's does between the metadata record and its first
    /// leader epoch: clients refresh and retry.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::UnknownTopicId => ErrorCode::UnknownTopicId,
            Self::UnknownTopicOrPartition => ErrorCode::UnknownTopicOrPartition,
            Self::NotLeader { .. } | Self::Opening => ErrorCode::NotLeaderOrFollower,
        }
    }
}

/// A partition that this node is to lead.
enum Slot {
    /// Another node leads it.
    Elsewhere,
    /// Is being opened, since that boot time.
    Opening(Duration),
    /// Open.
    Open(Arc<Partition>),
}

struct TopicSlots {
    topic: Arc<Topic>,
    slots: Vec<Slot>,
}

/// All partitions this broker leads. Cheap to clone.
#[derive(Clone)]
pub struct Partitions {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) parts: PartitionsParts,
    pub(crate) environment: Arc<Environment>,
    topics: RwLock<HashMap<Uuid, TopicSlots>>,
    configs: Mutex<TopicConfigs>,
    producer_ids: Arc<ProducerIds>,
    /// What is to be opened; at most one entry a partition.
    pub(crate) openings: Mutex<Vec<Opening>>,
    pub(crate) openings_added: Notify,
    /// Counts partitions opened and closed.
    changes: watch::Sender<u64>,
    /// Whether everything that this node led at its start was tried to be opened.
    started: watch::Sender<bool>,
    /// From the leadership to the service.
    opening_times: Latency,
}

impl Partitions {
    /// Starts to follow metadata.
    #[must_use]
    pub fn start(parts: PartitionsParts) -> Self {
        let environment = Arc::new(Environment {
            clock: Arc::clone(&parts.clock),
            durable: Arc::clone(&parts.durable),
            lease: Arc::clone(&parts.lease),
            guards: GuardNumbers::default(),
        });
        let supervisor = parts.supervisor.clone();
        let interval = Duration::from_millis(parts.config.retention_check_interval_ms);
        let (config, metadata) = (Arc::clone(&parts.config), parts.metadata.clone());
        let expiration_ms = move || Layers::new(&metadata.image(), &config).number("producer.id.expiration.ms");
        let objects = Arc::clone(&parts.objects);
        let producer_ids = Arc::new(ProducerIds::new(parts.node, parts.node_epoch, parts.metadata.clone()));
        let inner = Arc::new(Inner {
            environment,
            producer_ids,
            topics: RwLock::default(),
            configs: Mutex::new(TopicConfigs::new(Arc::clone(&parts.config), parts.topic_config)),
            openings: Mutex::default(),
            openings_added: Notify::new(),
            changes: watch::Sender::new(0),
            started: watch::Sender::new(false),
            opening_times: Latency::default(),
            parts,
        });
        let partitions = Self { inner };
        supervisor.spawn_until_stopped("partitions", partitions.clone().follow());
        supervisor.spawn_until_stopped("partition-opener", opener::run(Arc::clone(&partitions.inner)));
        let retention = retention::run(partitions.clone(), objects, interval, expiration_ms);
        supervisor.spawn_until_stopped("retention", retention);
        partitions
    }

    /// The open partition, if this broker leads it.
    #[must_use]
    pub fn get(&self, topic: Uuid, index: i32) -> Option<Arc<Partition>> {
        let topics = self.inner.topics.read();
        match topics.get(&topic)?.slots.get(usize::try_from(index).ok()?)? {
            Slot::Open(partition) => Some(Arc::clone(partition)),
            Slot::Elsewhere | Slot::Opening(_) => None,
        }
    }

    /// The open partition of a topic that the image holds, or what to tell the client.
    pub fn lookup(&self, topic: &TopicImage, index: i32) -> Result<Arc<Partition>, LookupError> {
        if let Some(partition) = self.get(topic.id, index) {
            return Ok(partition);
        }
        let image = topic.partition(index).ok_or(LookupError::UnknownTopicOrPartition)?;
        if image.leader == self.inner.parts.node {
            return Err(LookupError::Opening);
        }
        Err(LookupError::NotLeader { leader: image.leader, leader_epoch: image.leader_epoch })
    }

    /// [`Self::lookup`] by topic name, in the newest image.
    pub fn lookup_name(&self, topic: &str, index: i32) -> Result<Arc<Partition>, LookupError> {
        let image = self.inner.parts.metadata.image();
        self.lookup(image.topic(topic).ok_or(LookupError::UnknownTopicOrPartition)?, index)
    }

    /// Gives out producer ids.
    #[must_use]
    pub fn producer_ids(&self) -> &Arc<ProducerIds> {
        &self.inner.producer_ids
    }

    /// All open partitions at this moment.
    #[must_use]
    pub fn open(&self) -> Vec<Arc<Partition>> {
        let topics = self.inner.topics.read();
        let slots = topics.values().flat_map(|topic| &topic.slots);
        let open = slots.filter_map(|slot| if let Slot::Open(partition) = slot { Some(partition) } else { None });
        open.cloned().collect()
    }

    /// What this broker is to lead and does not serve: topic, partition, and for how long that has been so.
    #[must_use]
    pub fn unserved(&self) -> Vec<(Arc<str>, usize, Duration)> {
        let now = self.inner.parts.clock.boot();
        let topics = self.inner.topics.read();
        let slots = topics.values().flat_map(|topic| topic.slots.iter().enumerate().map(move |slot| (topic, slot)));
        let unserved = slots.filter_map(|(topic, (index, slot))| match slot {
            Slot::Opening(since) => Some((Arc::clone(&topic.topic.name), index, now.saturating_sub(*since))),
            _ => None,
        });
        unserved.collect()
    }

    /// How long partitions were not served that came to this broker.
    #[must_use]
    pub fn opening_times(&self) -> &Latency {
        &self.inner.opening_times
    }

    /// The open partitions by their streams.
    #[must_use]
    pub fn open_by_stream(&self) -> HashMap<StreamId, Arc<Partition>> {
        self.open().into_iter().map(|partition| (partition.stream().id(), partition)).collect()
    }

    /// Counts up whenever partitions were opened or closed; for those who host something on partitions.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Completes once this node has tried to open everything it led at its start. What failed then (the object
    /// store is down) is tried again, and looked up as [`LookupError::Opening`] until it succeeds.
    pub async fn wait_started(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.started.subscribe().wait_for(|started| *started).await;
    }

    /// Waits, at most a second, until a topic is served: a topic is to be usable as soon as its creation is answered. What
    /// others lead counts when metadata says that they have opened it.
    pub async fn wait_open(&self, topic: Uuid) {
        self.wait_until(|image, topic| self.is_open_here(topic) && is_opened(image, topic), topic).await;
    }

    /// Waits, at most a second, until this broker serves all partitions of a topic that it leads. Who is told of a new
    /// leader may ask it before it is ready, and not every client asks again.
    pub async fn wait_open_here(&self, topic: Uuid) {
        self.wait_until(|_, topic| self.is_open_here(topic), topic).await;
    }

    async fn wait_until(&self, is_open: impl Fn(&MetadataImage, &TopicImage) -> bool, topic: Uuid) {
        let metadata = &self.inner.parts.metadata;
        let (mut changes, mut applied) = (self.watch(), metadata.watch());
        let open = async {
            loop {
                let image = metadata.image();
                if image.topics.get(&topic).is_none_or(|topic| is_open(&image, topic)) {
                    return;
                }
                let changed = tokio::select! {
                    changed = changes.changed() => changed,
                    changed = applied.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(OPEN_WAIT, open).await;
    }

    /// Whether this broker is to serve none of the topic's partitions that it does not serve yet.
    fn is_open_here(&self, topic: &TopicImage) -> bool {
        (0_i32..)
            .take(topic.partitions.len())
            .all(|index| !matches!(self.lookup(topic, index), Err(LookupError::Opening)))
    }

    /// Appends a checkpoint to every partition whose newest one is not current. For a graceful stop, before the
    /// last upload.
    pub fn append_final_checkpoints(&self) {
        for partition in self.open() {
            partition.append_final_checkpoint();
        }
    }

    async fn follow(self) {
        let mut applied = self.inner.parts.metadata.watch();
        let mut seen = Arc::new(MetadataImage::default());
        loop {
            applied.borrow_and_update();
            let image = self.inner.parts.metadata.image();
            self.inner.apply(&seen, &image);
            seen = image;
            // Also when there is nothing to open: that, too, ends the start.
            self.inner.openings_added.notify_one();
            if applied.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Whether each of the topic's partitions was opened at least once.
fn is_opened(image: &MetadataImage, topic: &TopicImage) -> bool {
    let opened = |stream| image.streams.get(stream).is_some_and(|stream| stream.epoch > StreamEpoch(0));
    topic.partitions.iter().all(|partition| opened(&partition.stream))
}

impl Inner {
    /// Takes over what changed between two images.
    fn apply(&self, old: &MetadataImage, new: &MetadataImage) {
        if !old.configs.ptr_eq(&new.configs) {
            self.apply_configs(new);
        }
        if old.topics.ptr_eq(&new.topics) {
            return;
        }
        for change in old.topics.diff(&new.topics) {
            match change {
                imbl::ordmap::DiffItem::Add(_, topic) | imbl::ordmap::DiffItem::Update { new: (_, topic), .. } => {
                    self.apply_topic(new, topic);
                }
                imbl::ordmap::DiffItem::Remove(id, _) => self.remove_topic(*id),
            }
        }
    }

    fn apply_configs(&self, image: &MetadataImage) {
        let mut configs = self.configs.lock();
        configs.changed(image);
        for slots in self.topics.read().values() {
            let config = configs.get(image, &slots.topic.name);
            if !Arc::ptr_eq(&config, &slots.topic.config.load()) {
                slots.topic.config.store(config);
            }
        }
    }

    fn apply_topic(&self, image: &MetadataImage, topic: &Arc<TopicImage>) {
        let config = self.configs.lock().get(image, &topic.name);
        let mut topics = self.topics.write();
        let TopicSlots { topic: shared, slots } = topics.entry(topic.id).or_insert_with(|| {
            let shared = Topic { id: topic.id, name: Arc::clone(&topic.name), config: config.into() };
            TopicSlots { topic: Arc::new(shared), slots: Vec::new() }
        });
        slots.reserve_exact(topic.partitions.len().saturating_sub(slots.len()));
        let mut lost = false;
        for (index, partition) in topic.partitions.iter().enumerate() {
            if slots.len() <= index {
                slots.push(Slot::Elsewhere);
            }
            let ours = partition.leader == self.parts.node;
            match &slots[index] {
                Slot::Elsewhere if ours => {}
                Slot::Open(open) if !ours || open.leader_epoch() < partition.leader_epoch => {
                    if ours {
                        open.close()
                    } else {
                        self.close(open)
                    }
                    lost = true;
                }
                Slot::Opening(_) if !ours => {}
                _ => continue,
            }
            slots[index] = if ours { Slot::Opening(self.parts.clock.boot()) } else { Slot::Elsewhere };
            if ours {
                let index = i32::try_from(index).expect("a topic has far fewer partitions");
                let opening = Opening { topic: Arc::clone(shared), index, stream: partition.stream, failures: 0 };
                self.openings.lock().push(opening);
            }
        }
        drop(topics);
        if lost {
            self.changed();
        }
    }

    fn remove_topic(&self, id: Uuid) {
        let removed = self.topics.write().remove(&id);
        for slot in removed.into_iter().flat_map(|topic| topic.slots) {
            if let Slot::Open(partition) = slot {
                self.close(&partition);
            }
        }
        self.changed();
    }

    /// Ends this node's use of a partition and of its stream.
    fn close(&self, partition: &Partition) {
        partition.close();
        self.parts.streams.close(partition.stream().id());
    }

    /// Puts an opened partition in its place, unless it lost that place meanwhile.
    pub(crate) fn opened(&self, partition: Arc<Partition>) {
        let index = usize::try_from(partition.index()).expect("an index from the image");
        {
            let mut topics = self.topics.write();
            let slots = topics.get_mut(&partition.topic_id()).map(|topic| &mut topic.slots);
            match slots.and_then(|slots| slots.get_mut(index)) {
                Some(slot @ Slot::Opening(_)) => {
                    if let Slot::Opening(since) = *slot {
                        self.opening_times.record(self.parts.clock.boot().saturating_sub(since));
                    }
                    *slot = Slot::Open(partition);
                }
                _ => self.close(&partition),
            }
        }
        self.changed();
    }

    /// Whether a partition is still to be opened.
    pub(crate) fn wants(&self, opening: &Opening) -> bool {
        let topics = self.topics.read();
        let slots = topics.get(&opening.topic.id).map(|topic| &topic.slots);
        let slot = slots.and_then(|slots| slots.get(usize::try_from(opening.index).ok()?));
        matches!(slot, Some(Slot::Opening(_)))
    }

    pub(crate) fn tried_all(&self) {
        self.started.send_replace(true);
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}
