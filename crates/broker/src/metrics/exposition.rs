//! The page a Prometheus server reads.

use std::fmt::{Debug, Formatter, Result as FmtResult};
use std::sync::{Arc, Weak};

use kafka_protocol::messages::ApiKey;
use metadata::MetadataImage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::lives;
use super::{Count, RequestMetrics, TopicMetrics};
use crate::Broker;
use crate::api::REGISTRY;
use crate::config::Layers;

const QUANTILES: [f64; 4] = [0.5, 0.95, 0.99, 0.999];
const QUANTILE_LABELS: [&str; 4] = ["0.5", "0.95", "0.99", "0.999"];

/// Partitions whose size and offsets are told one by one; the page stays readable and cheap.
const PARTITIONS_MAX: usize = 5_000;

/// Longest time that a client may ask for its transactions.
const TRANSACTION_TIMEOUT_MAX: &str = "transaction.max.timeout.ms";
/// How much later than that a transaction is late, as in Kafka.
const LATE_AFTER_MS: i64 = 5 * 60 * 1000;

/// Everything, in the OpenMetrics text format.
///
/// # Errors
/// Never for a string; passed on because the encoder says so.
pub fn render(broker: &Arc<Broker>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { broker: Arc::downgrade(broker) }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Page {
    broker: Weak<Broker>,
}

impl Debug for Page {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> FmtResult {
        formatter.write_str("Page")
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> FmtResult {
        let Some(broker) = self.broker.upgrade() else { return Ok(()) };
        let image = broker.metadata.image();
        broker.metrics.retain(|id| image.topics.contains_key(id));
        topics(&mut encoder, &broker, &image)?;
        requests(&mut encoder, &broker)?;
        partitions(&mut encoder, &broker, &image)?;
        unavailability(&mut encoder, &broker)?;
        cluster(&mut encoder, &broker, &image)?;
        budgets(&mut encoder, &broker)?;
        lives::encode(&mut encoder, &broker)
    }
}

/// A counter of topics: its name, what it tells, and where it stands.
type TopicCounter = (&'static str, &'static str, fn(&TopicMetrics) -> &Count);

const TOPIC_COUNTERS: &[TopicCounter] = &[
    ("messagesin", "Records appended", |topic| &topic.messages_in),
    ("bytesin", "Bytes of record batches appended", |topic| &topic.bytes_in),
    ("bytesout", "Bytes of record batches sent to consumers", |topic| &topic.bytes_out),
    ("bytesrejected", "Bytes of record batches refused", |topic| &topic.bytes_rejected),
    ("totalproducerequests", "Partitions written to by produce requests", |topic| &topic.produce_requests),
    ("totalfetchrequests", "Partitions read from by fetch requests", |topic| &topic.fetch_requests),
    ("failedproducerequests", "Appends refused", |topic| &topic.failed_produce_requests),
    ("failedfetchrequests", "Reads refused", |topic| &topic.failed_fetch_requests),
];

fn topics(encoder: &mut DescriptorEncoder<'_>, broker: &Broker, image: &MetadataImage) -> FmtResult {
    let each: Vec<_> = broker.metrics.topics.read().iter().map(|(id, topic)| (*id, Arc::clone(topic))).collect();
    for (name, help, counter) in TOPIC_COUNTERS {
        let name = format!("kafka_server_brokertopicmetrics_{name}");
        let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&counter(&broker.metrics.all_topics).get(), None)?;
        for (id, topic) in &each {
            let Some(found) = image.topics.get(id) else { continue };
            let labels = [("topic", found.name.as_ref())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(&counter(topic).get(), None)?;
        }
    }
    Ok(())
}

/// Kafka's name of an API key in its metrics.
fn request_name(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|_| key.to_string(), |key| format!("{key:?}"))
}

fn requests(encoder: &mut DescriptorEncoder<'_>, broker: &Broker) -> FmtResult {
    let each: Vec<(String, &RequestMetrics)> =
        REGISTRY.iter().map(|api| (request_name(api.key), broker.metrics.request(api.key))).collect();
    let mut counter = |name: &str, help: &str, value: &dyn Fn(&RequestMetrics) -> u64| {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        each.iter().try_for_each(|(request, metrics)| {
            let labels = [("request", request.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value(metrics), None)
        })
    };
    counter("kafka_network_requestmetrics_requests", "Requests received", &|metrics| metrics.requests.get())?;
    counter("kafka_network_requestmetrics_errors", "Requests closed without an answer", &|metrics| {
        metrics.errors.get()
    })?;
    let name = "kafka_network_requestmetrics_totaltimems";
    let help = "Milliseconds from request to response, since the start";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (request, metrics) in &each {
        let values = metrics.total_time.quantiles_ms(QUANTILES);
        for (quantile, value) in QUANTILE_LABELS.into_iter().zip(values) {
            let labels = [("request", request.as_str()), ("quantile", quantile)];
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    let name = "kafka_network_requestmetrics_totaltimems_count";
    let mut family = encoder.encode_descriptor(name, "Requests answered", None, MetricType::Gauge)?;
    each.iter().try_for_each(|(request, metrics)| {
        let count = i64::try_from(metrics.total_time.count()).unwrap_or(i64::MAX);
        let labels = [("request", request.as_str())];
        family.encode_family(&labels)?.encode_gauge(&count)
    })
}

pub(super) fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> FmtResult {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn partitions(encoder: &mut DescriptorEncoder<'_>, broker: &Broker, image: &MetadataImage) -> FmtResult {
    let open = broker.partitions.open();
    let manager = "kafka_server_replicamanager_";
    let own = broker.config.node_id;
    let all = || image.topics.values().flat_map(|topic| &topic.partitions);
    let replicated = all().filter(|partition| partition.replicas.contains(&own)).count();
    gauge(encoder, &format!("{manager}partitioncount"), "Partitions with a replica here", replicated)?;
    gauge(encoder, &format!("{manager}leadercount"), "Partitions led by this broker", open.len())?;
    let led = all().filter(|partition| partition.leader == own).count();
    let help = "Partitions that this broker is to lead and does not serve: being opened, or damaged (see the log)";
    gauge(encoder, "ottla_offline_partitions", help, led.saturating_sub(open.len()))?;
    let is_live = |id: &common::NodeId| image.is_live(*id);
    let short = all().filter(|partition| partition.leader == own && !partition.replicas.iter().all(is_live)).count();
    let help = "Partitions led here with a replica on a broker that is not there";
    gauge(encoder, &format!("{manager}underreplicatedpartitions"), help, short)?;
    let help = "Never above 0: durability does not depend on replicas";
    gauge(encoder, &format!("{manager}underminisrpartitioncount"), help, 0)?;
    gauge(encoder, &format!("{manager}offlinereplicacount"), help, 0)?;
    let late_ms = Layers::new(image, &broker.config).number(TRANSACTION_TIMEOUT_MAX).saturating_add(LATE_AFTER_MS);
    let late = open.iter().filter(|partition| partition.has_late_transaction(late_ms)).count();
    let help = "Partitions whose earliest open transaction should have ended long ago: it hangs";
    gauge(encoder, &format!("{manager}partitionswithlatetransactionscount"), help, late)?;
    type Reading = (&'static str, &'static str, fn(&crate::partition::Partition) -> i64);
    let readings: [Reading; 3] = [
        ("kafka_log_log_size", "Bytes kept", |one| i64::try_from(one.size_bytes()).unwrap_or(i64::MAX)),
        ("kafka_log_log_logstartoffset", "First offset", |one| one.log_start().0),
        ("kafka_log_log_logendoffset", "Next offset", |one| one.log_end().0),
    ];
    for (name, help, reading) in readings {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for partition in open.iter().take(PARTITIONS_MAX) {
            let Some(topic) = image.topics.get(&partition.topic_id()) else { continue };
            let index = partition.index().to_string();
            let labels = [("topic", topic.name.as_ref()), ("partition", index.as_str())];
            family.encode_family(&labels)?.encode_gauge(&reading(partition))?;
        }
    }
    Ok(())
}

/// What clients wait for here.
fn unavailability(encoder: &mut DescriptorEncoder<'_>, broker: &Broker) -> FmtResult {
    let name = "ottla_partition_unavailable_seconds";
    let help = "For how long a partition has not been served that this broker is to lead; absent while it is served";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (topic, index, time) in broker.partitions.unserved().into_iter().take(PARTITIONS_MAX) {
        let index = index.to_string();
        let labels = [("topic", topic.as_ref()), ("partition", index.as_str())];
        family.encode_family(&labels)?.encode_gauge(&time.as_secs_f64())?;
    }
    let times = broker.partitions.opening_times();
    let name = "ottla_partition_opening_milliseconds";
    let help = "From the leadership of a partition to its service, since the start";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (quantile, value) in QUANTILE_LABELS.into_iter().zip(times.quantiles_ms(QUANTILES)) {
        family.encode_family(&[("quantile", quantile)])?.encode_gauge(&value)?;
    }
    let count = usize::try_from(times.count()).unwrap_or(usize::MAX);
    gauge(encoder, "ottla_partition_openings", "Partitions that this broker came to serve", count)
}

fn cluster(encoder: &mut DescriptorEncoder<'_>, broker: &Broker, image: &MetadataImage) -> FmtResult {
    let controller = "kafka_controller_kafkacontroller_";
    let fenced = image.nodes.values().filter(|node| node.fenced).count();
    let is_live = |id: &common::NodeId| image.nodes.get(id).is_some_and(|node| !node.fenced);
    let all = || image.topics.values().flat_map(|topic| &topic.partitions);
    let offline = all().filter(|partition| !is_live(&partition.leader)).count();
    let active = usize::from(broker.member.controller.is_active());
    for (name, help, value) in [
        ("activecontrollercount", "1 on the active controller", active),
        ("offlinepartitionscount", "Partitions without a live leader", offline),
        ("globaltopiccount", "Topics", image.topics.len()),
        ("globalpartitioncount", "Partitions", all().count()),
        ("activebrokercount", "Brokers that are not fenced", image.nodes.len() - fenced),
        ("fencedbrokercount", "Fenced brokers", fenced),
    ] {
        gauge(encoder, &format!("{controller}{name}"), help, value)?;
    }
    Ok(())
}

fn budgets(encoder: &mut DescriptorEncoder<'_>, broker: &Broker) -> FmtResult {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    for (name, help, value) in [
        ("kafka_server_socketservermetrics_connection_count", "Open connections", broker.connections.open()),
        ("ottla_request_bytes", "Bytes of requests being handled", bytes(broker.request_memory.used())),
        ("ottla_response_bytes", "Bytes of responses not yet sent", bytes(broker.response_budget.used())),
        ("ottla_upload_backlog_bytes", "Bytes that only the log holds", bytes(broker.streams.backlog_bytes())),
    ] {
        gauge(encoder, name, help, value)?;
    }
    Ok(())
}
