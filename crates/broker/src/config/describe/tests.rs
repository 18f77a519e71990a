use super::super::Properties;
use super::*;

fn config(text: &str) -> BrokerConfig {
    BrokerConfig::load(Properties::parse(text).expect("properties"), false).expect("valid").0
}

fn describe_all(image: &MetadataImage, config: &BrokerConfig, resource: &ConfigResource) -> Vec<Described> {
    describe(image, config, resource, &|_| true)
}

fn find<'a>(described: &'a [Described], name: &str) -> &'a Described {
    described.iter().find(|one| one.name == name).expect(name)
}

/// What Apache Kafka 4.3.1 answers for a topic without entries on a broker without dynamic ones.
#[test]
fn a_plain_topic_reads_as_in_kafka() {
    let (image, config) = (MetadataImage::default(), config("log.retention.minutes=90\nmessage.max.bytes=2000000"));
    let told = describe_all(&image, &config, &ConfigResource::Topic(Arc::from("t")));
    assert_eq!(told.len(), 33);
    let retention = find(&told, "retention.ms");
    assert_eq!((retention.value.as_deref(), retention.source), (Some("5400000"), Source::Default));
    assert!(retention.synonyms.is_empty());
    let size = find(&told, "max.message.bytes");
    assert_eq!((size.value.as_deref(), size.source), (Some("2000000"), Source::Static));
    assert_eq!(size.synonyms.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["message.max.bytes"; 2]);
    assert_eq!(find(&told, "cleanup.policy").type_code, 7);
    assert!(told.iter().all(|one| !one.documentation.is_empty() && !one.is_read_only));
}

#[test]
fn a_broker_tells_everything_but_secrets() {
    let text = "node.id=4\nfoo.bar=hush\nssl.key.password=hush\nottla.wal.upload.bytes=33554432";
    let (image, config) = (MetadataImage::default(), config(text));
    let told = describe_all(&image, &config, &ConfigResource::Broker(Some(config.node_id)));
    let (node, secret, unknown) = (find(&told, "node.id"), find(&told, "ssl.key.password"), find(&told, "foo.bar"));
    assert_eq!((node.value.as_deref(), node.source, node.is_read_only), (Some("4"), Source::Static, true));
    assert_eq!((secret.value.as_deref(), secret.is_sensitive), (None, true));
    assert_eq!((unknown.value.as_deref(), unknown.is_sensitive, unknown.type_code), (None, true, 0));
    assert!(told.iter().flat_map(|one| &one.synonyms).all(|synonym| !synonym.value.contains("hush")));
    assert_eq!(find(&told, "ottla.wal.upload.bytes").value.as_deref(), Some("33554432"));
    assert!(!find(&told, "log.cleaner.threads").is_read_only);
}

#[test]
fn the_cluster_default_tells_only_what_is_set() {
    let (mut image, config) = (MetadataImage::default(), config(""));
    assert!(describe_all(&image, &config, &ConfigResource::Broker(None)).is_empty());
    let entries = [(Arc::from("log.retention.ms"), Arc::from("777"))].into_iter().collect();
    image.configs.insert(ConfigResource::Broker(None), entries);
    let told = describe_all(&image, &config, &ConfigResource::Broker(None));
    assert_eq!((told[0].value.as_deref(), told[0].source), (Some("777"), Source::ClusterDefault));
    assert!(describe(&image, &config, &ConfigResource::Broker(None), &|name| name == "x").is_empty());
}
