mod append;
mod reopen;
pub(crate) mod rig;
mod search;
mod transactions;
mod wait;

use metadata::MetadataImage;

use crate::config::{BrokerConfig, Properties, TopicConfig};

/// Kafka's defaults.
pub(crate) fn config() -> TopicConfig {
    let (config, _) = BrokerConfig::load(Properties::default(), false).expect("valid");
    TopicConfig::effective(&MetadataImage::default(), "t", &config)
}
