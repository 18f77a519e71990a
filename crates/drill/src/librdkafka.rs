//! librdkafka, the client behind most of Kafka's languages, with its defaults: what a drill measures is what a program
//! sees that sets nothing but acks=all and idempotence.

mod consumer;
mod producer;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::client::{Clients, Member, Producer, Range};
use crate::ledger::Ledger;

/// How long the cluster may take to create or delete a topic, or to tell of a group.
const ADMIN_PATIENCE: Duration = Duration::from_secs(60);
/// What one consumer may hold before it is polled.
const QUEUED_KIB_MAX: &str = "32768";

/// The library's version.
#[must_use]
pub fn version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// Clients of one cluster.
#[derive(Debug)]
pub struct Librdkafka {
    bootstrap: String,
    settings: Vec<(String, String)>,
    in_flight_bytes: u64,
}

impl Librdkafka {
    /// Clients of the cluster at `bootstrap`; `settings` (`key=value`) override what is set here.
    ///
    /// # Errors
    /// A setting is not `key=value`.
    pub fn new(bootstrap: &str, settings: &[String], in_flight_bytes: u64) -> Result<Self> {
        let split = |text: &String| {
            let (key, value) = text.split_once('=').ok_or_else(|| anyhow!("{text} is not KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let settings = settings.iter().map(split).collect::<Result<_>>()?;
        Ok(Self { bootstrap: bootstrap.to_owned(), settings, in_flight_bytes })
    }

    fn config(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        for (key, value) in own {
            config.set(*key, *value);
        }
        for (key, value) in &self.settings {
            config.set(key, value);
        }
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config(&[]).create()?)
    }

    fn admin_options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(ADMIN_PATIENCE)).operation_timeout(Some(ADMIN_PATIENCE))
    }

    fn assignment(topic: &str, ranges: &[Range]) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for range in ranges.iter().filter(|range| range.end > range.start) {
            list.add_partition_offset(topic, range.partition as i32, Offset::Offset(range.start as i64))?;
        }
        Ok(list)
    }
}

impl Clients for Librdkafka {
    fn create_topic(&self, topic: &str, partitions: u32, replication: i16) -> Result<()> {
        let wanted = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(i32::from(replication)));
        let admin = self.admin()?;
        let outcome = futures_executor::block_on(admin.create_topics([&wanted], &Self::admin_options()))?;
        match outcome.into_iter().next().context("an answer for the topic")? {
            // Asked again after an answer that got lost.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => Ok(()),
            Err((name, code)) => bail!("cannot create topic {name}: {code}"),
        }
    }

    fn delete_topic(&self, topic: &str) -> Result<()> {
        let admin = self.admin()?;
        let outcome = futures_executor::block_on(admin.delete_topics(&[topic], &Self::admin_options()))?;
        match outcome.into_iter().next().context("an answer for the topic")? {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => Ok(()),
            Err((name, code)) => bail!("cannot delete topic {name}: {code}"),
        }
    }

    fn producer(&self, topic: &str, ledger: Arc<Ledger>) -> Result<Box<dyn Producer>> {
        let kib = (self.in_flight_bytes / 1024 * 2).max(1 << 16).to_string();
        let own = [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", kib.as_str()),
        ];
        Ok(Box::new(producer::IdempotentProducer::new(&self.config(&own), topic, ledger)?))
    }

    fn member(&self, topic: &str, group: &str, number: u32, ledger: Arc<Ledger>) -> Result<Box<dyn Member>> {
        let own = [
            ("group.id", group),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "earliest"),
            ("queued.max.messages.kbytes", QUEUED_KIB_MAX),
        ];
        Ok(Box::new(consumer::GroupMember::new(&self.config(&own), topic, number, ledger)?))
    }

    fn read_back(
        &self,
        topic: &str,
        ranges: &[Range],
        patience: Duration,
        take: &mut dyn FnMut(u32, u64, &[u8]),
    ) -> Result<()> {
        let own = [
            ("group.id", topic),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("queued.max.messages.kbytes", QUEUED_KIB_MAX),
        ];
        let consumer: BaseConsumer<Quiet> = self.config(&own).create_with_context(Quiet)?;
        let assignment = Self::assignment(topic, ranges)?;
        consumer.assign(&assignment)?;
        consumer::read_to_ends(&consumer, ranges, patience, take)
    }

    fn committed(&self, topic: &str, group: &str, partitions: u32) -> Result<Vec<Option<u64>>> {
        let own = [("group.id", group), ("enable.auto.commit", "false")];
        let consumer: BaseConsumer<Quiet> = self.config(&own).create_with_context(Quiet)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, i32::try_from(partitions)? - 1);
        let answer = consumer.committed_offsets(list, ADMIN_PATIENCE)?;
        let mut offsets = vec![None; partitions as usize];
        for one in answer.elements() {
            one.error()?;
            if let Some(slot) = usize::try_from(one.partition()).ok().and_then(|index| offsets.get_mut(index)) {
                *slot = one.offset().to_raw().and_then(|offset| u64::try_from(offset).ok());
            }
        }
        Ok(offsets)
    }
}

/// A client whose complaints nobody needs: what it is asked for either comes or does not.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

impl rdkafka::consumer::ConsumerContext for Quiet {}

/// The name by which an error is counted.
fn code(error: &KafkaError) -> String {
    error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| format!("{code:?}"))
}
