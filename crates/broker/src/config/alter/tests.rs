//! Codes and sentences were taken from Apache Kafka 4.3.1.

use metadata::TopicImage;
use uuid::Uuid;

use super::super::Properties;
use super::*;

fn config() -> BrokerConfig {
    BrokerConfig::load(Properties::default(), false).expect("defaults").0
}

fn image(set: &[(&str, &str)]) -> MetadataImage {
    let mut image = MetadataImage::default();
    let topic = TopicImage { id: Uuid::from_u128(1), name: Arc::from("t"), partitions: Vec::new() };
    image.topic_ids.insert(Arc::from("t"), topic.id);
    image.topics.insert(topic.id, Arc::new(topic));
    let entries = set.iter().map(|&(name, value)| (Arc::from(name), Arc::from(value))).collect();
    image.configs.insert(ConfigResource::Topic(Arc::from("t")), entries);
    image
}

type Changes = Vec<(String, Option<String>)>;

fn alter(set: &[(&str, &str)], kind: i8, resource: &str, alteration: Alteration<'_>) -> Result<Changes, (i16, String)> {
    let (image, config) = (image(set), config());
    let plan = resolve(&image, &config, kind, resource)
        .and_then(|resource| plan(&image, &config, resource, &[alteration]))
        .map_err(|error| (error.code.code(), error.message))?;
    let owned = |(name, value): (Arc<str>, Option<Arc<str>>)| (name.to_string(), value.map(|value| value.to_string()));
    Ok(plan.changes.into_iter().map(owned).collect())
}

fn topic(set: &[(&str, &str)], operation: Operation, name: &str, value: &str) -> Result<Changes, (i16, String)> {
    alter(set, TOPIC_RESOURCE, "t", Alteration { name, operation, value: Some(value) })
}

fn to(name: &str, value: &str) -> Result<Changes, (i16, String)> {
    Ok(vec![(name.to_owned(), Some(value.to_owned()))])
}

#[test]
fn topic_keys_are_set_and_removed() {
    assert_eq!(topic(&[], Operation::Set, "retention.ms", "1000"), to("retention.ms", "1000"));
    assert_eq!(topic(&[], Operation::Delete, "nope", ""), Ok(vec![("nope".to_owned(), None)]));
    let refused = topic(&[], Operation::Set, "retention.ms", "abc").expect_err("not a number");
    assert_eq!(refused, (40, "Invalid value abc for configuration retention.ms: Not a number of type LONG".to_owned()));
    assert_eq!(topic(&[], Operation::Set, "nope", "1").expect_err("unknown").1, "Unknown topic config name: nope");
    // What is set already counts in the joint check.
    let refused = topic(&[("min.compaction.lag.ms", "5")], Operation::Set, "max.compaction.lag.ms", "1");
    assert_eq!(refused.expect_err("conflict").0, 40);
}

#[test]
fn lists_grow_and_shrink_from_the_value_in_force() {
    let key = "cleanup.policy";
    assert_eq!(topic(&[], Operation::Append, key, "compact"), to(key, "delete,compact"));
    assert_eq!(topic(&[(key, "delete,compact")], Operation::Append, key, "compact"), to(key, "delete,compact"));
    assert_eq!(topic(&[(key, "delete,compact")], Operation::Subtract, key, "delete"), to(key, "compact"));
    assert_eq!(topic(&[(key, "compact")], Operation::Subtract, key, "compact"), to(key, ""));
    for name in ["retention.ms", "nope"] {
        let message = format!("Can't APPEND to key {name} because its type is not LIST.");
        assert_eq!(topic(&[], Operation::Append, name, "1"), Err((40, message)));
    }
    assert_eq!(topic(&[], Operation::Append, key, "foo").expect_err("no policy").0, 40);
}

#[test]
fn resources_are_judged() {
    let set = |kind, name| {
        alter(&[], kind, name, Alteration { name: "log.retention.ms", operation: Operation::Set, value: Some("5") })
    };
    assert_eq!(set(TOPIC_RESOURCE, "zz").expect_err("unknown"), (3, "The topic 'zz' does not exist.".to_owned()));
    assert_eq!(set(TOPIC_RESOURCE, "").expect_err("default").0, 42);
    assert_eq!(set(TOPIC_RESOURCE, "a b").expect_err("illegal").0, 17);
    assert_eq!(set(BROKER_RESOURCE, ""), to("log.retention.ms", "5"));
    assert_eq!(set(BROKER_RESOURCE, "1"), to("log.retention.ms", "5"));
    let other = set(BROKER_RESOURCE, "9").expect_err("another broker");
    assert_eq!(other, (42, "Unexpected broker id, expected 1, but received 9".to_owned()));
    assert_eq!(set(BROKER_RESOURCE, "abc").expect_err("no number").0, 42);
    assert_eq!(set(32, "g").expect_err("group"), (42, "Unknown resource type 32".to_owned()));
}

#[test]
fn broker_keys_know_their_scope() {
    let set = |resource, name, value| {
        alter(&[], BROKER_RESOURCE, resource, Alteration { name, operation: Operation::Set, value: Some(value) })
    };
    let fixed = set("1", "num.partitions", "3").expect_err("read-only");
    assert_eq!(fixed, (42, "Cannot update these configs dynamically: [num.partitions]".to_owned()));
    let plugin = set("", "metric.reporters", "x").expect_err("needs a Java plugin");
    assert_eq!(plugin, (42, "Cannot update these configs dynamically: [metric.reporters]".to_owned()));
    let message = "Cannot update these configs at default cluster level, broker id must be specified: [listeners]";
    assert_eq!(set("", "listeners", "PLAINTEXT://:1"), Err((42, message.to_owned())));
    let message = "Invalid value x for configuration log.retention.ms: Not a number of type LONG";
    assert_eq!(set("1", "log.retention.ms", "x"), Err((42, message.to_owned())));
    assert_eq!(set("1", "nope", "x"), to("nope", "x"));
}

#[test]
fn doubles_and_nulls_are_refused() {
    let (image, config) = (image(&[]), config());
    let resource = ConfigResource::Topic(Arc::from("t"));
    let one = Alteration { name: "retention.ms", operation: Operation::Set, value: Some("1") };
    let null = Alteration { value: None, ..one.clone() };
    let twice = plan(&image, &config, resource.clone(), &[one.clone(), one]).expect_err("twice");
    assert_eq!((twice.code.code(), twice.message.as_str()), (42, "Error due to duplicate config keys"));
    let null = plan(&image, &config, resource, &[null]).expect_err("null");
    assert_eq!((null.code.code(), null.message.as_str()), (42, "Null value not supported for : retention.ms"));
}

#[test]
fn replacement_removes_what_is_not_named() {
    let (image, config) = (image(&[("retention.ms", "1"), ("segment.ms", "2")]), config());
    let resource = ConfigResource::Topic(Arc::from("t"));
    let plan =
        plan_replacement(&image, &config, resource, &[("segment.ms", Some("3")), ("retention.bytes", Some("4"))]);
    let mut changes = plan.expect("valid").changes;
    changes.sort();
    let expected: [(&str, Option<&str>); 3] =
        [("retention.bytes", Some("4")), ("retention.ms", None), ("segment.ms", Some("3"))];
    assert_eq!(changes.len(), 3);
    for ((name, value), (expected_name, expected_value)) in changes.iter().zip(expected) {
        assert_eq!((name.as_ref(), value.as_deref()), (expected_name, expected_value));
    }
}
