//! Expectations were taken from Apache Kafka 4.3.1, started with the same static properties.

use super::super::Properties;
use super::super::registry::topic_key;
use super::*;

const STATIC: &str = "log.retention.hours=5\nlog.retention.minutes=90\nlog.roll.hours=3\nmessage.max.bytes=2000000";

fn config() -> BrokerConfig {
    BrokerConfig::load(Properties::parse(STATIC).expect("properties"), false).expect("valid").0
}

fn set(image: &mut MetadataImage, resource: ConfigResource, name: &str, value: &str) {
    let mut entries = image.configs.get(&resource).cloned().unwrap_or_default();
    entries.insert(Arc::from(name), Arc::from(value));
    image.configs.insert(resource, entries);
}

fn told(layers: &Layers<'_>, name: &str) -> Vec<String> {
    layers.synonyms(name).iter().map(|one| format!("{:?}:{}={}", one.source, one.name, one.value)).collect()
}

fn topic(layers: &Layers<'_>, topic: &str, key: &str) -> (String, Source) {
    layers.topic_value(layers.topic_entries(topic), topic_key(key).expect("known"))
}

#[test]
fn static_families_show_what_kafka_shows() {
    let (image, config) = (MetadataImage::default(), config());
    let layers = Layers::new(&image, &config);
    assert!(told(&layers, "log.retention.ms").is_empty());
    assert_eq!(
        told(&layers, "log.retention.minutes"),
        ["Static:log.retention.minutes=90", "Static:log.retention.hours=5", "Default:log.retention.hours=168"]
    );
    assert_eq!(told(&layers, "log.roll.hours"), ["Static:log.roll.hours=3", "Default:log.roll.hours=168"]);
    assert_eq!(topic(&layers, "t", "retention.ms"), ("5400000".to_owned(), Source::Static));
    assert_eq!(topic(&layers, "t", "segment.ms"), ("10800000".to_owned(), Source::Static));
    assert_eq!(topic(&layers, "t", "flush.ms").0, i64::MAX.to_string());
}

#[test]
fn dynamic_entries_win_layer_by_layer() {
    let (mut image, config) = (MetadataImage::default(), config());
    set(&mut image, ConfigResource::Broker(None), "log.retention.ms", "777");
    set(&mut image, ConfigResource::Broker(None), "message.max.bytes", "4000000");
    set(&mut image, ConfigResource::Broker(Some(config.node_id)), "log.retention.ms", "888");
    set(&mut image, ConfigResource::Topic(Arc::from("own")), "retention.ms", " 1000 ");
    let layers = Layers::new(&image, &config);
    assert_eq!(
        told(&layers, "log.retention.ms"),
        [
            "Broker:log.retention.ms=888",
            "ClusterDefault:log.retention.ms=777",
            "Static:log.retention.minutes=90",
            "Static:log.retention.hours=5",
            "Default:log.retention.hours=168"
        ]
    );
    assert_eq!(
        told(&layers, "message.max.bytes"),
        [
            "ClusterDefault:message.max.bytes=4000000",
            "Static:message.max.bytes=2000000",
            "Default:message.max.bytes=1048588"
        ]
    );
    assert_eq!(topic(&layers, "other", "retention.ms"), ("888".to_owned(), Source::Broker));
    assert_eq!(topic(&layers, "own", "retention.ms"), ("1000".to_owned(), Source::Topic));
    assert_eq!(topic(&layers, "own", "max.message.bytes"), ("4000000".to_owned(), Source::ClusterDefault));
}

#[test]
fn an_invalid_dynamic_value_does_not_count() {
    let (mut image, config) = (MetadataImage::default(), config());
    set(&mut image, ConfigResource::Topic(Arc::from("t")), "retention.ms", "soon");
    set(&mut image, ConfigResource::Broker(None), "message.max.bytes", "-5");
    let layers = Layers::new(&image, &config);
    assert_eq!(topic(&layers, "t", "retention.ms").1, Source::Static);
    assert_eq!(topic(&layers, "t", "max.message.bytes"), ("2000000".to_owned(), Source::Static));
}

#[test]
fn units_are_scaled_and_without_bound_stays_so() {
    assert_eq!(scaled("-5", 60_000), "-1");
    assert_eq!(scaled("2", 3_600_000), "7200000");
    assert_eq!(scaled("9223372036854775807", 60_000), i64::MAX.to_string());
    assert_eq!(scaled("CreateTime", 1), "CreateTime");
}
