//! Members of a group, and reading to the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Quiet, code};
use crate::client::{Member, Range};
use crate::ledger::Ledger;

/// Records taken before the caller gets its turn again.
const POLL_RECORDS_MAX: usize = 5_000;

pub(super) struct GroupMember {
    consumer: Arc<BaseConsumer<Told>>,
    topic: String,
    /// Commits wait for their answer in a thread of their own: a coordinator that is away must not keep the member from
    /// polling. (Commits that do not wait have no outcome here: the binding does not ask the library for it.)
    committer: Option<(SyncSender<TopicPartitionList>, JoinHandle<()>)>,
}

impl GroupMember {
    pub(super) fn new(config: &ClientConfig, topic: &str, number: u32, ledger: Arc<Ledger>) -> Result<Self> {
        let told = Told { ledger, number, positions: Mutex::default() };
        let consumer: BaseConsumer<Told> = config.create_with_context(told)?;
        consumer.subscribe(&[topic])?;
        let consumer = Arc::new(consumer);
        let (sender, lists) = sync_channel::<TopicPartitionList>(0);
        let committing = Arc::clone(&consumer);
        let thread = std::thread::spawn(move || lists.iter().for_each(|list| commit(&committing, &list)));
        Ok(Self { consumer, topic: topic.to_owned(), committer: Some((sender, thread)) })
    }

    /// The offsets above those that were committed last.
    fn uncommitted(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (&partition, position) in self.consumer.context().positions.lock().iter() {
            if position.next > position.committed {
                // It fails for an offset that is none, which a polled record's is not.
                let _ = list.add_partition_offset(&self.topic, partition, Offset::Offset(position.next));
            }
        }
        list
    }
}

/// Commits, waits for the outcome, and writes it down.
fn commit(consumer: &BaseConsumer<Told>, list: &TopicPartitionList) {
    let told = consumer.context();
    if let Err(error) = consumer.commit(list, CommitMode::Sync) {
        return told.ledger.error(format!("commit: {}", code(&error)));
    }
    for one in list.elements() {
        let Some(offset) = one.offset().to_raw() else { continue };
        told.ledger.committed(told.number, one.partition() as u32, offset as u64);
        if let Some(position) = told.positions.lock().get_mut(&one.partition()) {
            position.committed = position.committed.max(offset);
        }
    }
}

impl Member for GroupMember {
    fn poll(&mut self, patience: Duration) {
        let mut patience = patience;
        let told = self.consumer.context();
        for _ in 0..POLL_RECORDS_MAX {
            match self.consumer.poll(patience) {
                None => return,
                Some(Err(error)) => told.ledger.error(code(&error)),
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    if told.advance(partition, offset) {
                        told.ledger.polled(told.number, partition as u32, offset as u64);
                    } else {
                        told.ledger.error(LAST_ONCE_MORE.to_owned());
                    }
                }
            }
            patience = Duration::ZERO;
        }
    }

    fn commit(&mut self) {
        let list = self.uncommitted();
        if let Some((sender, _)) = &self.committer
            && list.count() > 0
        {
            // Refused while the last commit waits: the next one has it all.
            let _ = sender.try_send(list);
        }
    }

    fn leave(mut self: Box<Self>) {
        if let Some((sender, thread)) = self.committer.take() {
            drop(sender);
            // What it did is in the ledger; how it ended is of no use here.
            let _ = thread.join();
        }
        let list = self.uncommitted();
        if list.count() > 0 {
            commit(&self.consumer, &list);
        }
    }
}

/// How that is told among the errors of clients.
const LAST_ONCE_MORE: &str = "poll: the last record once more";

#[derive(Debug, Default, Clone, Copy)]
struct Position {
    next: i64,
    committed: i64,
}

/// Writes down what the member is told.
struct Told {
    ledger: Arc<Ledger>,
    number: u32,
    positions: Mutex<BTreeMap<i32, Position>>,
}

impl Told {
    /// Notes a record; `false` if it is the one that was noted last. When a rebalance begins librdkafka pauses where it has noted
    /// that the application is (`rd_kafka_toppar_pause_resume`), and a record that another thread hands out at that moment
    /// comes again: its own doing, and no broker's, for what lies below a fetch's offset it drops.
    fn advance(&self, partition: i32, offset: i64) -> bool {
        let mut positions = self.positions.lock();
        let position = positions.entry(partition).or_default();
        let is_new = position.next != offset + 1;
        position.next = offset + 1;
        is_new
    }
}

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, _: &str) {
        self.ledger.error(code(&error));
    }
}

impl ConsumerContext for Told {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                for one in list.elements() {
                    self.positions.lock().remove(&one.partition());
                    self.ledger.assigned(self.number, one.partition() as u32);
                }
            }
            Rebalance::Revoke(list) => {
                for one in list.elements() {
                    self.positions.lock().remove(&one.partition());
                }
            }
            Rebalance::Error(error) => self.ledger.error(code(error)),
        }
    }
}

/// Hands the records of `ranges` to `take` until every end is reached.
pub(super) fn read_to_ends(
    consumer: &BaseConsumer<Quiet>,
    ranges: &[Range],
    patience: Duration,
    take: &mut dyn FnMut(u32, u64, &[u8]),
) -> Result<()> {
    let unread = ranges.iter().filter(|range| range.end > range.start);
    let mut unread: BTreeMap<u32, u64> = unread.map(|range| (range.partition, range.end)).collect();
    while !unread.is_empty() {
        let polled = consumer.poll(patience);
        match polled.with_context(|| format!("{} partitions were not read to their end", unread.len()))? {
            Ok(message) => {
                let (partition, offset) = (message.partition() as u32, message.offset() as u64);
                let Some(&end) = unread.get(&partition) else { continue };
                if offset < end {
                    take(partition, offset, message.payload().unwrap_or_default());
                }
                if offset + 1 >= end {
                    unread.remove(&partition);
                }
            }
            // Nothing more where something was promised: the checker will say what is missing.
            Err(KafkaError::PartitionEOF(partition)) => drop(unread.remove(&(partition as u32))),
            Err(KafkaError::MessageConsumption(code)) if retried(code) => {}
            Err(error) => bail!("reading back: {error}"),
        }
    }
    Ok(())
}

/// Errors after which the client tries again by itself.
fn retried(code: rdkafka::error::RDKafkaErrorCode) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, LeaderNotAvailable, NotLeaderForPartition, OperationTimedOut,
        RequestTimedOut, Resolve,
    };
    matches!(
        code,
        AllBrokersDown
            | BrokerTransportFailure
            | LeaderNotAvailable
            | NotLeaderForPartition
            | OperationTimedOut
            | RequestTimedOut
            | Resolve
    )
}
