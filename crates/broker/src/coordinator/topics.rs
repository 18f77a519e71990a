//! Topics, as metadata tells of them to consumer groups.

use std::fmt;
use std::sync::Arc;

use coordinator::{KnownTopic, Topics};
use imbl::OrdMap;
use metadata::{MetadataImage, TopicImage};
use parking_lot::Mutex;
use uuid::Uuid;

/// All topics of one image.
pub(crate) struct ImageTopics {
    image: Arc<MetadataImage>,
    version: u64,
}

/// Counts how often topics have changed, so that groups look at them only then.
#[derive(Default)]
pub(super) struct TopicVersions {
    last: Mutex<(OrdMap<Uuid, Arc<TopicImage>>, u64)>,
}

impl TopicVersions {
    /// The topics of `image`, which is at least as new as any before.
    pub(super) fn of(&self, image: Arc<MetadataImage>) -> ImageTopics {
        let mut last = self.last.lock();
        if !last.0.ptr_eq(&image.topics) {
            *last = (image.topics.clone(), last.1 + 1);
        }
        ImageTopics { image, version: last.1 }
    }
}

impl Topics for ImageTopics {
    fn by_name(&self, name: &str) -> Option<KnownTopic> {
        let topic = self.image.topic(name)?;
        Some(KnownTopic { id: topic.id, partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX) })
    }

    fn name_of(&self, id: Uuid) -> Option<Arc<str>> {
        self.image.topics.get(&id).map(|topic| Arc::clone(&topic.name))
    }

    fn for_each(&self, visit: &mut dyn FnMut(&Arc<str>)) {
        self.image.topic_ids.keys().for_each(visit);
    }

    fn version(&self) -> u64 {
        self.version
    }
}

impl fmt::Debug for ImageTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} topics of version {}", self.image.topics.len(), self.version)
    }
}
