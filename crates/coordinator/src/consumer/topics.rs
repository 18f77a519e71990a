//! What consumer groups must know of topics, which metadata tells.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

/// A topic that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownTopic {
    /// Its id.
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: i32,
}

/// All topics at one moment.
pub trait Topics: std::fmt::Debug + Sync {
    /// The topic of that name.
    fn by_name(&self, name: &str) -> Option<KnownTopic>;

    /// The name of the topic with that id.
    fn name_of(&self, id: Uuid) -> Option<Arc<str>>;

    /// Calls `visit` for every topic's name, in ascending order.
    fn for_each(&self, visit: &mut dyn FnMut(&Arc<str>));

    /// Grows whenever a topic comes, goes or gets partitions; it may grow without that.
    fn version(&self) -> u64;
}

/// A cluster without topics.
#[derive(Clone, Copy, Debug)]
pub struct NoTopics;

impl Topics for NoTopics {
    fn by_name(&self, _: &str) -> Option<KnownTopic> {
        None
    }

    fn name_of(&self, _: Uuid) -> Option<Arc<str>> {
        None
    }

    fn for_each(&self, _: &mut dyn FnMut(&Arc<str>)) {}

    fn version(&self) -> u64 {
        0
    }
}

/// A number that changes when one of these topics comes, goes, is created anew or gets partitions. Not Kafka's, which
/// nobody but the coordinator that wrote it reads; 64-bit FNV-1a. Never 0, which means that it is not known.
pub(super) fn metadata_hash(names: &BTreeSet<Arc<str>>, topics: &dyn Topics) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        bytes.iter().for_each(|byte| hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    };
    for name in names {
        let Some(topic) = topics.by_name(name) else { continue };
        add(topic.id.as_bytes());
        add(&topic.partitions.to_be_bytes());
        add(&(name.len() as u64).to_be_bytes());
        add(name.as_bytes());
    }
    (hash | 1).cast_signed()
}
