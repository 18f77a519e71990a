//! Effective topic configurations, shared between topics that have the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use metadata::{ConfigResource, MetadataImage};

use crate::config::{BrokerConfig, TopicConfig};

type Build = fn(&MetadataImage, &str, &BrokerConfig) -> TopicConfig;

/// Builds configurations, and remembers them until the next change of any.
pub(crate) struct TopicConfigs {
    broker: Arc<BrokerConfig>,
    build: Build,
    /// Of all topics without a setting of their own.
    default: Option<Arc<TopicConfig>>,
    /// Of topics with settings, as in the newest image.
    own: BTreeMap<Arc<str>, Arc<TopicConfig>>,
}

impl TopicConfigs {
    pub(crate) fn new(broker: Arc<BrokerConfig>, build: Build) -> Self {
        Self { broker, build, default: None, own: BTreeMap::new() }
    }

    /// Something was set or removed: values are built anew, but keep their place in memory where they are equal.
    pub(crate) fn changed(&mut self, image: &MetadataImage) {
        let (broker, build) = (Arc::clone(&self.broker), self.build);
        if let Some(default) = &mut self.default {
            renew(default, build(image, "", &broker));
        }
        self.own.retain(|name, config| {
            let has_settings = image.configs.contains_key(&ConfigResource::Topic(Arc::clone(name)));
            if has_settings {
                renew(config, build(image, name, &broker));
            }
            has_settings
        });
    }

    /// The configuration of a topic.
    pub(crate) fn get(&mut self, image: &MetadataImage, name: &Arc<str>) -> Arc<TopicConfig> {
        let has_settings = image.configs.contains_key(&ConfigResource::Topic(Arc::clone(name)));
        if !has_settings {
            let build = || Arc::new((self.build)(image, "", &self.broker));
            return Arc::clone(self.default.get_or_insert_with(build));
        }
        let build = || Arc::new((self.build)(image, name, &self.broker));
        Arc::clone(self.own.entry(Arc::clone(name)).or_insert_with(build))
    }
}

fn renew(config: &mut Arc<TopicConfig>, new: TopicConfig) {
    if **config != new {
        *config = Arc::new(new);
    }
}
