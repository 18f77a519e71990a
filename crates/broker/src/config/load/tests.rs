use super::*;

fn load(text: &str) -> Result<(BrokerConfig, Notices), ConfigError> {
    BrokerConfig::load(Properties::parse(text).expect("properties"), false)
}

#[test]
fn nothing_at_all_is_a_laptop_broker() {
    let (config, notices) = load("").expect("defaults");
    assert_eq!(notices, Notices::default());
    assert_eq!(config.node_id, NodeId(1));
    assert_eq!(config.listeners[0].port, 9092);
    assert!(config.object_store_url.starts_with("file:///") && config.object_store_url.ends_with("/ottla-data/store"));
    assert!(config.wal_url.ends_with("/ottla-data/wal"));
    assert_eq!(config.log_cache_bytes, 384 << 20);
    assert_eq!(config.request_bytes_in_flight, 128 << 20);
    assert_eq!(config.property("broker.id"), Some("1"));
    assert_eq!(config.num_partitions, 1);
}

#[test]
fn a_local_clusters_properties_are_accepted() {
    let text = "process.roles=broker,controller\nnode.id=3\ncontroller.quorum.voters=3@127.0.0.1:19193\n\
        listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19193\ncontroller.listener.names=CONTROLLER\n\
        listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs=/tmp/x/data\n\
        offsets.topic.num.partitions=4\ngroup.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\n\
        transaction.max.timeout.ms=900000\nlog.flush.interval.ms=1\nnum.replica.fetchers=2\nfoo.bar=1\n\
        authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:admin\n\
        listener.name.plaintext.ssl.client.auth=none";
    let (config, notices) = load(text).expect("valid");
    assert_eq!(config.node_id, NodeId(3));
    assert_eq!(config.data_dir, PathBuf::from("/tmp/x/data"));
    assert_eq!(config.offsets_topic_partitions, 4);
    assert_eq!(notices.unknown, ["foo.bar"]);
    assert!(notices.without_effect.contains(&"log.flush.interval.ms".to_owned()));
    assert!(notices.without_effect.contains(&"num.replica.fetchers".to_owned()));
    assert!(!notices.without_effect.contains(&"node.id".to_owned()));
    assert_eq!(notices.warnings.len(), 1);
    assert_eq!(config.property("broker.id"), Some("3"));
}

#[test]
fn mistakes_name_the_key() {
    for (text, part) in [
        ("num.partitions=many", "num.partitions: Not a number of type INT"),
        ("num.partitions=0", "num.partitions: Value must be at least 1"),
        ("log.roll.ms=0", "log.roll.ms: not a valid segment.ms"),
        ("node.id=-1", "node.id"),
        ("node.id=1\nbroker.id=2", "broker.id: is 2, but node.id is 1"),
        ("ottla.wal.class=both", "neither shared nor private"),
        ("log.dirs=", "log.dirs: names no directory"),
        ("ottla.object.store.url=ftp://x", "none of the schemes file://, s3://, memory://"),
        ("ottla.object.store.url=/x", "none of the schemes"),
        ("ottla.wal.url=s3://x", "ottla.wal.url"),
        ("ottla.admin.listener=9644", "ottla.admin.listener"),
        ("group.min.session.timeout.ms=10\ngroup.max.session.timeout.ms=5", "group.max.session.timeout.ms=5"),
        ("ottla.wal.capacity.bytes=67108864", "ottla.wal.capacity.bytes"),
        ("ottla.wal.capacity.bytes=134217728\nottla.wal.upload.bytes=100000000", "ottla.wal.upload.bytes"),
        ("ottla.memory.bytes=100000000\nottla.log.cache.bytes=90000000", "ottla.memory.bytes"),
        ("ottla.memory.bytes=1", "ottla.memory.bytes"),
        ("auto.create.topics.enable=yes", "auto.create.topics.enable"),
        ("default.replication.factor=0", "default.replication.factor"),
        ("listeners=PLAINTEXT://0.0.0.0:9092\nadvertised.listeners=PLAINTEXT://a:1", "--insecure"),
    ] {
        let error = load(text).expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn budgets_follow_the_one_bound_unless_set() {
    let (config, _) = load("ottla.memory.bytes=134217728\nqueued.max.request.bytes=1000").expect("valid");
    assert_eq!(config.log_cache_bytes, 48 << 20);
    assert_eq!(config.request_bytes_in_flight, 1000);
    assert_eq!(config.response_bytes_in_flight, 16 << 20);
}

#[test]
fn urls_and_switches() {
    let (config, _) = load(
        "ottla.object.store.url=s3://bucket/p?endpoint=http://x\nottla.admin.listener=off\n\
        ottla.insecure=true\nlisteners=PLAINTEXT://:0\nconnections.max.idle.ms=-1",
    )
    .expect("valid");
    assert_eq!(config.object_store_url, "s3://bucket/p?endpoint=http://x");
    assert_eq!(config.admin_address, None);
    assert_eq!(config.listeners[0].host, "0.0.0.0");
    assert_eq!(config.connections_max_idle_ms, u64::MAX);
}
